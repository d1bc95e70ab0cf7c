"""Other libraries' networks as layers: what all of them share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.layer import Layer, Spec, as_spec
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
        return call(params, state, inputs, key, train)

    init.__qualname__ = name
    return Layer(init, apply)


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
