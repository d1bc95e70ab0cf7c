"""Equinox in: a module as a layer."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxnet.hints import needs
from jaxnet.interop.networks import foreign
from jaxnet.layer import Layer

with needs("equinox"):
    import equinox as eqx

BATCH = "batch"  # the name of the axis that examples are mapped over, as in Equinox's documentation of BatchNorm


def layer(make: Callable[[jax.Array], Any]) -> Layer:
    """An Equinox module as a layer, which trains with ``fit``, searches as lanes and stands among other layers.

    The module takes one example, as is usual there, and is mapped over the batch by an axis of the name ``"batch"``.
    If ``__call__`` takes a ``key``, each example has its own in training; if it takes a ``state``, the module is made
    by ``eqx.nn.make_with_state`` and returns ``(output, state)``. Evaluation is ``eqx.nn.inference_mode``.

    ``params`` are the module's floating arrays, as a tuple in the order of its tree; ``state`` has its other arrays and
    what ``eqx.nn.State`` holds. Features are where the module wants them: Equinox's convolutions take channels first,
    so put ``jn.transpose`` before them. A ``Sequence`` is handed over as two arguments, values and length. A last
    batch that isn't full has no more rows than examples: where there is state it has a program of its own, and a batch
    size that differs from lane to lane is refused.

    Args:
      make: makes the module, of a key: ``lambda key: eqx.nn.MLP(784, 10, hp.width, 1, key=key)``. Hyperparameters that
        fix shapes must be ``static=True``, and so must those that the module keeps (a dropout's ``p``), since its
        arrays are its parameters; others may be traced.

    Raises:
      ValueError: from ``init``, where the module keeps a traced hyperparameter as an array, and where the input's width
        differs between lanes; in training, with state, where the batch size does.

    >>> import jaxnet as jn
    >>> net = jn.serial(layer(lambda key: eqx.nn.Linear(4, 3, key=key)), jax.nn.relu)
    >>> params, state, out = net.init(jax.random.key(0), (4,))
    >>> out.shape, [leaf.shape for leaf in params[0]]
    ((3,), [(3, 4), (3,)])
    """

    name = getattr(make, "__name__", "equinox").replace("<lambda>", "equinox")

    def begin(key, inputs):
        module, memory = eqx.nn.make_with_state(make)(key)
        params, rest = eqx.partition(module, eqx.is_inexact_array)
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(params)):
            _check_drawn(name, params, eqx.filter(eqx.nn.make_with_state(make)(key)[0], eqx.is_inexact_array))
        return tuple(jax.tree.leaves(params)), tuple(jax.tree.leaves((eqx.filter(rest, eqx.is_array), memory)))

    @functools.cache
    def blueprint() -> tuple[Any, Any, Any, set[str]]:
        module, memory = eqx.filter_eval_shape(eqx.nn.make_with_state(make), jax.random.key(0))
        params, rest = eqx.partition(module, _is_inexact_shape)
        arrays, static = eqx.partition(rest, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
        wanted = set(inspect.signature(type(module).__call__).parameters) & {"key", "state"}
        return jax.tree.structure(params), jax.tree.structure((arrays, memory)), static, wanted

    def call(params, state, inputs, key, train):
        of_params, of_state, static, wanted = blueprint()
        arrays, memory = jax.tree.unflatten(of_state, state)
        module = eqx.combine(jax.tree.unflatten(of_params, params), arrays, static)
        module = eqx.nn.inference_mode(module, value=not train)
        keys = jax.random.split(key, len(inputs[0])) if train and key is not None and "key" in wanted else None

        def one(inputs, key, memory):
            named: dict[str, Any] = {"key": key} if "key" in wanted else {}
            if "state" in wanted:
                return module(*inputs, state=memory, **named)
            return module(*inputs, **named), memory

        over = (0, None if keys is None else 0, None)
        y, memory = jax.vmap(one, over, (0, None), axis_name=BATCH)(inputs, keys, memory)
        return y, tuple(jax.tree.leaves((arrays, memory))) if train else state

    return foreign(name, begin, call)


def _check_drawn(name: str, params: Any, again: Any) -> None:
    """What is the same tracer each time that the module is made came from outside: a hyperparameter, not a draw."""
    pairs = zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(again), strict=True)
    for (path, leaf), other in pairs:
        if leaf is other and isinstance(leaf, Tracer):
            raise ValueError(
                f"{name}: {jax.tree_util.keystr(path)} is a hyperparameter that differs from lane to lane; as an array "
                f"of an Equinox module it would be trained as a parameter. Declare it with static=True."
            )


def _is_inexact_shape(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct) and jnp.issubdtype(leaf.dtype, jnp.inexact)
