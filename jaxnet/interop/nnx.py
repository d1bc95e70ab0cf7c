"""flax.nnx in: a module as a layer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxnet.interop.networks import foreign
from jaxnet.layer import Layer


def layer(make: Callable[[nnx.Rngs], nnx.Module]) -> Layer:
    """A flax.nnx module as a layer, which trains with ``fit``, searches as lanes and stands among other layers.

    ``params`` are the values of the module's ``nnx.Param``, ``state`` those of its other variables, such as
    ``nnx.BatchStat``, which training may change; both are dicts by attribute. The states of its random streams are
    not: a call in training seeds them all with the key that it gets. Training and evaluation are ``module.train()``
    and ``module.eval()``. A ``Sequence`` is handed over as two arguments, its values and its lengths. A last
    batch that isn't full has no more rows than examples: where there is state it has a program of its own, and a batch
    size that differs from lane to lane is refused.

    Args:
      make: makes the module, of random streams: its class, or ``lambda rngs: Model(hp.width, rngs=rngs)``.
        Hyperparameters that fix shapes must be ``static=True``; others may be traced where the module takes an array
        for them.

    Raises:
      ValueError: from ``init``, for outputs without a batch axis, and where the input's width differs between lanes;
        in training, with state, where the batch size does.

    >>> import jaxnet as jn
    >>> net = jn.serial(layer(lambda rngs: nnx.Linear(4, 3, rngs=rngs)), jax.nn.relu)
    >>> params, state, out = net.init(jax.random.key(0), (4,))
    >>> out.shape, params[0]["kernel"].shape
    ((3,), (4, 3))
    """

    def split(module: nnx.Module):
        graph, params, streams, _, state = nnx.split(module, nnx.Param, nnx.RngState, nnx.Intermediate, ...)
        return graph, params, streams, state

    @functools.cache
    def blueprint() -> tuple[Any, Any, Any, Any]:
        """The module without its numbers. A graph is no array, so it leaves ``eval_shape`` by a door of its own."""
        kept = []

        def shapes():
            graph, *parts = split(make(nnx.Rngs(0)))
            kept.append(graph)
            return parts

        params, streams, state = jax.eval_shape(shapes)
        return kept[0], params, streams, state

    def begin(key, inputs):
        _, params, _, state = split(make(nnx.Rngs(key)))
        return nnx.to_pure_dict(params), nnx.to_pure_dict(state)

    def call(params, state, inputs, key, train):
        graph, *shapes = blueprint()
        parts = jax.tree.map(lambda leaf: leaf, shapes)  # a copy, which the next lines fill
        nnx.replace_by_pure_dict(parts[0], params)
        parts[1] = jax.tree.map(_unseeded, parts[1])
        nnx.replace_by_pure_dict(parts[2], state)
        module = nnx.merge(graph, *parts)
        if key is not None:
            nnx.reseed(module, **_streams(module, key))  # pyright: ignore[reportArgumentType]
        if train:
            module.train()
        else:
            module.eval()
        y = module(*inputs)
        return y, nnx.to_pure_dict(split(module)[3]) if train else state

    return foreign(getattr(make, "__name__", "nnx").replace("<lambda>", "nnx"), begin, call)


def _unseeded(leaf: jax.ShapeDtypeStruct) -> jax.Array:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0), leaf.shape)
    return jnp.zeros(leaf.shape, leaf.dtype)


def _streams(module: nnx.Module, key: jax.Array) -> dict[str, jax.Array]:
    tags = {leaf.tag for _, leaf in nnx.iter_graph(module) if isinstance(leaf, nnx.RngKey)}
    return {tag: jax.random.fold_in(key, i) for i, tag in enumerate(sorted(tags))}
