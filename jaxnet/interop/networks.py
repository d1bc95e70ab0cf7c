"""Other libraries' networks as layers: what all of them share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.layer import Layer, Spec, as_spec
from jaxnet.ops.reductions import short_rows, valid_rows
from jaxnet.sequence import Sequence

Flags = Callable[[bool], Mapping[str, Any]]
"""The keyword arguments of a call in training (True) or evaluation (False)."""

# What modules call the switch between training and evaluation, and whether it says so the other way round.
SWITCHES = {
    "train": False,
    "training": False,
    "is_training": False,
    "deterministic": True,
    "use_running_average": True,
    "inference": True,
}


def foreign(
    name: str,
    begin: Callable[[jax.Array, tuple[jax.ShapeDtypeStruct, ...]], tuple[Any, Any]],
    call: Callable[[Any, Any, tuple[jax.Array, ...], jax.Array | None, bool], tuple[Any, Any]],
) -> Layer:
    """A layer of two functions that speak of another library's network.

    Args:
      name: as errors show it.
      begin: ``(key, inputs) -> (params, state)``, of the shapes of a batch of one example.
      call: ``(params, state, inputs, key, train) -> (y, state)``. ``inputs`` has one array, or for a ``Sequence`` its
        values and its lengths.
    """

    def init(key, spec):
        inputs = _shapes(name, spec)
        params, state = begin(key, inputs)
        made, _ = jax.eval_shape(lambda params, state, *x: call(params, state, x, None, False), params, state, *inputs)
        for leaf in jax.tree.leaves(made):
            if leaf.shape[:1] != (1,):
                raise ValueError(
                    f"{name}: expected outputs [batch, ...], but a batch of one example of {spec} gave the shape "
                    f"{leaf.shape}. If the network takes one example, try jax.vmap over the batch axis inside of it."
                )
        return params, state, jax.tree.map(lambda leaf: Spec(leaf.shape[1:], leaf.dtype), made)

    def apply(params, state, x, *, key=None, train=False):
        inputs = (x.values, x.lengths) if isinstance(x, Sequence) else (jnp.asarray(x),)
        if not train or valid_rows() is None or not jax.tree.leaves(state):
            return call(params, state, inputs, key, train)
        return _of_examples(name, call, params, state, inputs, key)

    init.__qualname__ = name
    return Layer(init, apply)


def _of_examples(name: str, call: Any, params: Any, state: Any, inputs: tuple[jax.Array, ...], key: Any) -> Any:
    """A call in training where rows that only fill up the batch must not count in batch statistics: without them.

    There is a program for batches that are full and one for those that aren't; outputs of rows that are left out are
    copies of the last one's.
    """
    valid, short = valid_rows(), short_rows()
    assert valid is not None
    if short is None:
        raise ValueError(
            f"{name}: its state, such as batch statistics, would count rows of the batch that are no examples: the "
            f"batch size differs from lane to lane, or these are steps of sequences of different lengths. Another "
            f"library's network can't leave rows out: declare the batch size with static=True, or give sequences of "
            f"the same length."
        )

    def of_first(rows):
        y, new = call(params, state, tuple(x[:rows] for x in inputs), key, True)
        return jax.tree.map(lambda leaf: leaf[jnp.minimum(jnp.arange(len(valid)), rows - 1)], y), new

    return jax.lax.cond(valid[-1], lambda: call(params, state, inputs, key, True), lambda: of_first(short))


def _shapes(name: str, spec: Any) -> tuple[jax.ShapeDtypeStruct, ...]:
    specs = (as_spec(spec.values), spec.lengths) if isinstance(spec, Sequence) else (as_spec(spec),)
    if any(part.active is not None for part in specs):
        raise ValueError(
            f"{name}: the input's features differ from lane to lane, which another library's network can't know of. "
            f"Declare the size before it with static=True, which compiles a program for each value."
        )
    return tuple(jax.ShapeDtypeStruct((1, *part.shape), part.dtype) for part in specs)


def flags_of(function: Callable[..., Any], given: Flags | None) -> Flags:
    """``given``, or the one of the known switches that is among the function's parameters; none is fine."""
    if given is not None:
        return given
    parameters = inspect.signature(function).parameters
    for switch, inverted in SWITCHES.items():
        if switch in parameters:
            return lambda train: {switch: train != inverted}
    return lambda train: {}
