"""Normalisation: of activations by their own statistics, and of weights by their largest singular value.

The statistics are taken in float32 at least, whatever the input's dtype. Where they are the input's own, their
derivatives are written out (``ops/reductions.standardize``).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.layer import Layer, Spec, along_features, as_spec, check_features
from jaxnet.ops.parameters import making_masks, parameter, parameter_dtype
from jaxnet.ops.reductions import average, scale_and_offset, standardize, valid_rows
from jaxnet.sequence import Sequence, sequence_spec

_ones, _zeros = jax.nn.initializers.ones, jax.nn.initializers.zeros


def batch_norm(*, momentum: Any = 0.9, epsilon: Any = 1e-5, scale: bool = True, offset: bool = True) -> Layer:
    """Each feature minus its mean, over its deviation, times ``scale`` plus ``offset``: ``[batch, ..., features]``.

    In training, mean and variance are the batch's, over all axes but the last; in evaluation, running averages of
    those. Rows that only fill up a partial batch don't count, nor do steps past the end of a ``Sequence``.

    Args:
      momentum: of the running averages, in [0, 1]: ``running = momentum * running + (1 - momentum) * batch``; may be
        traced.
      epsilon: added to the variance, so that a constant feature becomes 0; positive; may be traced.
      scale, offset: whether there are such parameters. A layer before this one needs no bias: ``dense(n, bias=False)``.

    Parameters: ``scale`` ``[features]``, 1 at first, and ``offset`` ``[features]``, 0 at first. State: ``mean`` and
    ``variance`` ``[features]``, 0 and 1 at first, in float32 at least.

    Raises:
      ValueError: here, for a momentum or an epsilon out of range; from ``init``, for a spec without axes; from
        ``apply``, when ``x`` has not the ``features`` that ``init`` saw, or not as many rows as training counts.

    Source: Ioffe and Szegedy, "Batch normalization" (2015), algorithm 1. The variance is biased in the running average
    too, where the paper and PyTorch take the unbiased one; PyTorch's momentum is 1 minus this one.

    >>> params, state, out = batch_norm().init(jax.random.key(0), (1,))
    >>> y, state = batch_norm().apply(params, state, jnp.array([[1.0], [3.0]]), train=True)
    >>> y.tolist(), state["mean"].tolist(), state["variance"].tolist()
    ([[-1.0], [1.0]], [0.2], [1.0])
    """
    if isinstance(momentum, (int, float)) and not 0 <= momentum <= 1:
        raise ValueError(f"batch_norm: momentum must be in [0, 1], got {momentum!r}")

    def memory(key, spec, dtype):
        def make(initializer):
            return parameter(key, initializer, spec.shape[-1:], active=(spec.active,), dtype=_at_least_float32(dtype))

        return {"mean": make(_zeros), "variance": make(_ones)}

    def normalize(x, state, inside, train, *affine):
        running = state["mean"], state["variance"]
        if not train:
            mean, variance = (along_features(kept.astype(x.dtype), x) for kept in running)
            return scale_and_offset((x - mean) * _over_root(variance, epsilon), *affine), state
        counted, rows = inside, valid_rows()
        if rows is not None:
            if len(rows) != len(x):
                raise ValueError(
                    f"batch_norm: training counts {len(rows)} rows, but the batch came with {len(x)}. A layer that "
                    f"folds another axis into the batch must repeat the mask: jaxnet.ops.reductions.counting_rows."
                )
            rows = rows.reshape(-1, *(1,) * (x.ndim - 1))
            counted = rows if inside is None else rows & inside
        y, *batch = standardize(x, range(x.ndim - 1), epsilon, counted, *affine)
        kept = [momentum * old + (1 - momentum) * new.ravel() for old, new in zip(running, batch, strict=True)]
        mean, variance = (new.astype(old.dtype) for new, old in zip(kept, running, strict=True))
        return y, {"mean": mean, "variance": variance}

    return _normalization("batch_norm", normalize, epsilon, scale=scale, offset=offset, memory=memory)


def layer_norm(*, epsilon: Any = 1e-5, scale: bool = True, offset: bool = True) -> Layer:
    """Each example's (and position's) features minus their mean, over their deviation: ``[batch, ..., features]``.

    Under sizes the statistics count active features only.

    Args:
      epsilon: added to the variance; positive; may be traced.
      scale, offset: whether there are such parameters, ``[features]``, 1 and 0 at first.

    No state, except under sizes the mask of the active features. ``group_norm(1)`` takes all positions together.

    Raises:
      ValueError: here, for an epsilon that isn't positive; from ``init``, for a spec without axes; from ``apply``, when
        ``x`` has not the ``features`` that ``init`` saw.

    Source: Ba, Kiros and Hinton, "Layer normalization" (2016); the variance is biased, as in PyTorch.

    >>> params, state, out = layer_norm().init(jax.random.key(0), (2,))
    >>> layer_norm().apply(params, state, jnp.array([[1.0, 3.0]]))[0].tolist()
    [[-1.0, 1.0]]
    """

    def normalize(x, state, inside, train, *affine):
        active = along_features(state["active"], x) if state else None
        return _standardized(x, (x.ndim - 1,), epsilon, active, active, *affine), state

    return _normalization("layer_norm", normalize, epsilon, scale=scale, offset=offset, memory=_active_only)


def rms_norm(*, epsilon: Any = 1e-6, scale: bool = True) -> Layer:
    """Each example's (and position's) features over the root of their mean square: ``[batch, ..., features]``.

    Layer norm without the centring; under sizes the mean counts active features only.

    Args:
      epsilon: added to the mean square; positive; may be traced. 1e-6 is what models with it use.
      scale: whether there is such a parameter, ``[features]``, 1 at first.

    No state, except under sizes the mask of the active features.

    Raises:
      ValueError: as ``layer_norm``.

    Source: Zhang and Sennrich, "Root mean square layer normalization" (2019). PyTorch's default epsilon is that of the
    dtype.

    >>> params, state, out = rms_norm().init(jax.random.key(0), (2,))
    >>> rms_norm().apply(params, state, jnp.array([[1.0, 7.0]]))[0].tolist()  # over 5
    [[0.2, 1.4]]
    """

    def normalize(x, state, inside, train, *affine):
        active = along_features(state["active"], x) if state else None
        square = average(jnp.square(x), (x.ndim - 1,), active)
        return scale_and_offset(x * _over_root(square, epsilon), *affine), state

    return _normalization("rms_norm", normalize, epsilon, scale=scale, offset=False, memory=_active_only)


def group_norm(groups: int, *, epsilon: Any = 1e-5, scale: bool = True, offset: bool = True) -> Layer:
    """Each example's groups of neighbouring features, over all positions, minus their mean, over their deviation.

    Args:
      groups: how many; divides the features. ``group_norm(1)`` normalises an example as a whole.
      epsilon: added to the variance; positive; may be traced.
      scale, offset: whether there are such parameters, ``[features]``, 1 and 0 at first.

    Input and output: ``[batch, ..., features]``; steps past the end of a ``Sequence`` don't count. No state, except
    under sizes the mask of the active features.

    Raises:
      TypeError, ValueError: here, for groups that aren't a positive integer or an epsilon that isn't positive.
      ValueError: from ``init``, when the groups don't divide the features, or the features differ from lane to lane and
        there is more than one group; from ``apply``, when ``x`` has not the ``features`` that ``init`` saw.

    Source: Wu and He, "Group normalization" (2018).

    >>> params, state, out = group_norm(2).init(jax.random.key(0), (4,))
    >>> group_norm(2).apply(params, state, jnp.array([[1.0, 3.0, 10.0, 30.0]]))[0].tolist()
    [[-1.0, 1.0, -1.0, 1.0]]
    """
    check_features("group_norm", groups, "groups")
    groups = operator.index(groups)

    def memory(key, spec, dtype):
        if spec.shape[-1] % groups:
            raise ValueError(f"group_norm: {groups} groups don't divide the {spec.shape[-1]} features of {spec.shape}")
        if spec.active is not None and groups > 1:
            raise ValueError(
                f"group_norm: the input's features differ from lane to lane, so their {groups} groups would begin at "
                f"different places. Try group_norm(1) or instance_norm(), or declare the width with static=True."
            )
        return _active_only(key, spec, dtype)

    def normalize(x, state, inside, train, *affine):
        active = along_features(state["active"], x) if state else None
        counted = inside if active is None else active if inside is None else active & inside
        return _standardized(x, range(1, x.ndim - 1), epsilon, counted, active, *affine, groups=groups), state

    return _normalization("group_norm", normalize, epsilon, scale=scale, offset=offset, memory=memory)


def instance_norm(*, epsilon: Any = 1e-5, scale: bool = True, offset: bool = True) -> Layer:
    """Each feature of each example, over all its positions, minus its mean, over its deviation.

    Args:
      epsilon: added to the variance; positive; may be traced.
      scale, offset: whether there are such parameters, ``[features]``, 1 and 0 at first. PyTorch's layer has none
        unless ``affine=True``.

    Input and output: ``[batch, ..., features]`` with at least one axis of positions; steps past the end of a
    ``Sequence`` don't count. No state: evaluation does the same as training.

    Raises:
      ValueError: as ``layer_norm``; from ``init`` also when there are no positions.

    Source: Ulyanov, Vedaldi and Lempitsky, "Instance normalization" (2016).

    >>> params, state, out = instance_norm().init(jax.random.key(0), (2, 1))
    >>> instance_norm().apply(params, state, jnp.array([[[1.0], [3.0]]]))[0].tolist()
    [[[-1.0], [1.0]]]
    """

    def normalize(x, state, inside, train, *affine):
        return standardize(x, range(1, x.ndim - 1), epsilon, inside, *affine)[0], state

    return _normalization("instance_norm", normalize, epsilon, scale=scale, offset=offset, least_rank=2)


def _normalization(
    name: str,
    normalize: Callable[..., tuple[jax.Array, Any]],
    epsilon: Any,
    *,
    scale: bool,
    offset: bool,
    memory: Callable[..., Any] = lambda key, spec, dtype: (),
    least_rank: int = 1,
) -> Layer:
    """What all of them share: ``normalize(x, state, inside, train, scale, offset) -> (y, state)``.

    ``x`` is float32 at least; ``inside`` is None, or ``[batch, time, 1, ...]`` for a ``Sequence``; scale and offset are
    None or broadcast against ``x``.
    """
    if isinstance(epsilon, (int, float)) and not epsilon > 0:
        raise ValueError(f"{name}: epsilon must be positive, got {epsilon!r}")

    def array_init(key, spec):
        spec = as_spec(spec, rank=1)
        if len(spec.shape) < least_rank:
            raise ValueError(
                f"{name}: expected examples with positions beside features, such as (time, features), but got the "
                f"shape {spec.shape}; over one entry there are no statistics. Try layer_norm()."
            )
        dtype = parameter_dtype(spec)
        made = {"scale": _ones} if scale else {}
        made |= {"offset": _zeros} if offset else {}
        params = {
            part: parameter(key, initializer, spec.shape[-1:], active=(spec.active,), dtype=dtype)
            for part, initializer in made.items()
        }
        return params, memory(key, spec, dtype), Spec(spec.shape, dtype, spec.active)

    def init(key, spec):
        values, lengths = sequence_spec(spec, rank=2)
        params, state, out = array_init(key, values)
        return params, state, out if lengths is None else Sequence(out, lengths)

    def apply(params, state, x, *, key=None, train=False):
        sequence = x if isinstance(x, Sequence) else None
        x = x.replace(x.values).values if isinstance(x, Sequence) else x
        widths = {leaf.shape[0] for leaf in jax.tree.leaves((params, state))}
        if x.ndim < least_rank + 1 or widths - {x.shape[-1]}:
            wanted = f"{min(widths)}]" if widths else "features]"
            raise ValueError(
                f"{name}: expected x of shape [batch, ..., {wanted}, the features that init saw, but got {x.shape}. "
                f"If the batch axis is missing, try x[None]; if the features are on axis 1, try jnp.moveaxis(x, 1, -1)."
            )
        dtype = parameter_dtype(x)
        inside = None if sequence is None else sequence.mask.reshape(*x.shape[:2], *(1,) * (x.ndim - 2))
        x = x.astype(_at_least_float32(dtype))
        parts = (params[part] if there else None for part, there in (("scale", scale), ("offset", offset)))
        affine = (None if part is None else along_features(part.astype(x.dtype), x) for part in parts)
        y, state = normalize(x, state, inside, train, *affine)
        y = y.astype(dtype)
        return (y if sequence is None else sequence.replace(y)), state

    init.__qualname__ = name
    return Layer(init, apply)


def _standardized(x, axes, epsilon, counted, active, scale, offset, groups: int | None = None) -> jax.Array:
    """``standardize``, with zeros, and gradients of zero, where a feature isn't active."""
    if active is None:
        return standardize(x, axes, epsilon, counted, scale, offset, groups)[0]
    y = standardize(x, axes, epsilon, counted, groups=groups)[0]
    return scale_and_offset(jnp.where(active, y, jnp.zeros((), y.dtype)), scale, offset)


def _over_root(square: jax.Array, epsilon: Any) -> jax.Array:
    return jax.lax.rsqrt(square + jnp.asarray(epsilon, square.dtype))


def _active_only(key: Any, spec: Spec, dtype: Any) -> Any:
    return () if spec.active is None else {"active": spec.active}


def _at_least_float32(dtype: Any) -> Any:
    return jnp.promote_types(dtype, jnp.float32)


def spectral_norm(layer: Layer, *, iterations: int = 1) -> Layer:
    """A layer each of whose weights ``w`` is divided by its largest singular value, so that it stretches nothing.

    The value is estimated by power iteration from vectors kept in the state. They move in training only, before they
    are used; evaluation takes them as they are. No gradient flows through them.

    Args:
      layer: any with parameters named ``w``, however deep; each is taken as the matrix ``[-1, features]``.
      iterations: of the power iteration, in each training step. One is enough since weights change slowly.

    Parameters: the layer's. State: ``layer``, the layer's own, and ``vectors``, for each ``w`` in the order of the tree
    ``left`` ``[rows]`` and ``right`` ``[features]``, unit vectors, in float32 at least.

    Raises:
      TypeError: here, when ``layer`` isn't one. ValueError: here, for iterations below 1; from ``init``, when the layer
        has no ``w``; else what the layer raises.

    Source: Miyato et al., "Spectral normalization for generative adversarial networks" (2018), algorithm 1, with
    PyTorch's 15 iterations at the start. For a transposed convolution PyTorch takes the output's axis, as here.

    >>> import jaxnet as jn
    >>> layer = spectral_norm(jn.dense(2, bias=False, w_init=lambda *_: jnp.diag(jnp.array([4.0, 1.0]))))
    >>> params, state, out = layer.init(jax.random.key(0), (2,))
    >>> layer.apply(params, state, jnp.ones((1, 2)))[0].tolist()
    [[1.0, 0.25]]
    """
    if not isinstance(layer, Layer):
        raise TypeError(f"spectral_norm: expected a layer, got {layer!r}")
    check_features("spectral_norm", iterations, "iterations")
    iterations = operator.index(iterations)

    def init(key, spec):
        params, state, out = layer.init(key, spec)
        weights = _weights(params)
        if not weights:
            raise ValueError(f"spectral_norm: {layer.name} has no weights named 'w' to normalise")
        with making_masks():
            masks = _weights(layer.init(key, spec)[0])
        vectors = []
        own = jax.random.fold_in(key, 0x5BEC)  # the layer has the key itself, so that it draws as if it were alone
        for i, (w, mask) in enumerate(zip(weights, masks, strict=True)):
            mask = mask.reshape(-1, mask.shape[-1])  # [rows, features]
            active = mask.any(axis=1), mask.any(axis=0)
            if w.dtype == bool:  # only which entries are active is asked for
                vectors.append({"left": active[0], "right": active[1]})
                continue
            dtype = _at_least_float32(w.dtype)
            draws = [
                parameter(jax.random.fold_in(own, 2 * i + side), jax.nn.initializers.normal(1.0), m.shape, active=(m,))
                for side, m in enumerate(active)
            ]
            left, right = (_unit(draw.astype(dtype)) for draw in draws)
            vectors.append(_iterate(w, {"left": left, "right": right}, 15))
        return params, {"layer": state, "vectors": tuple(vectors)}, out

    def apply(params, state, x, *, key=None, train=False):
        vectors = state["vectors"]
        if train:
            moved = zip(_weights(params), vectors, strict=True)
            vectors = tuple(_iterate(jax.lax.stop_gradient(w), v, iterations) for w, v in moved)
        remaining = iter(vectors)

        def normalized(path, leaf):
            if not _is_weight(path):
                return leaf
            pair = next(remaining)
            value = jnp.vdot(pair["left"], _matrix(leaf, pair) @ pair["right"])
            return leaf / jnp.where(value == 0, 1, value).astype(leaf.dtype)  # weights that are all zero stay so

        y, inner = layer.apply(
            jax.tree_util.tree_map_with_path(normalized, params), state["layer"], x, key=key, train=train
        )
        return y, {"layer": inner, "vectors": vectors}

    return Layer(init, apply)


def _weights(params: Any) -> list[jax.Array]:
    return [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params) if _is_weight(path)]


def _is_weight(path: Any) -> bool:
    return bool(path) and getattr(path[-1], "key", None) == "w"


def _matrix(w: jax.Array, pair: dict[str, Any]) -> jax.Array:
    return w.reshape(math.prod(w.shape[:-1]), w.shape[-1]).astype(pair["left"].dtype)


def _unit(vector: jax.Array) -> jax.Array:
    return vector / jnp.maximum(jnp.linalg.norm(vector), 1e-12)


def _iterate(w: jax.Array, pair: dict[str, Any], iterations: int) -> dict[str, Any]:
    """Power iteration; ``right`` first, as PyTorch moves the vector of the output's axis first."""
    matrix = _matrix(w, pair)

    def step(_, pair):
        right = _unit(pair["left"] @ matrix)
        return {"left": _unit(matrix @ right), "right": right}

    return jax.lax.fori_loop(0, iterations, step, pair)
