"""Locally connected layers: convolutions that don't share their weights."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnet.layer import Layer, Size, Spec, as_spec, check_features, units_of
from jaxnet.ops.convolution import patches
from jaxnet.ops.parameters import Initializer, parameter, parameter_dtype
from jaxnet.ops.windows import Window, window


def locally_connected(
    features: int | Size,
    kernel: tuple[int, ...],
    *,
    strides: int | tuple[int, ...] = 1,
    padding: str | int | tuple[int | tuple[int, int], ...] = "VALID",
    bias: bool = True,
    w_init: Initializer = jax.nn.initializers.lecun_normal(),
) -> Layer:
    """As ``conv``, but with weights of its own at each output position: ``[batch, *space, in]`` to ``[..., features]``.

    Between a dense layer, where each output sees all inputs, and a convolution, where all outputs share their weights:
    over ``n`` inputs, with a kernel of 3 and a padding of 1, ``n ** 2`` weights become ``3 * n - 2`` and then 3.

    Args:
      features: of the output at each position; a ``Size`` lets it differ from lane to lane.
      kernel: one to three integers, one for each axis of space.
      strides: steps between windows, an integer or one for each axis.
      padding: zeros around the input, as for ``conv``.
      bias: whether ``b`` is added, one for each output, not shared either.
      w_init: draws the weights of each position, as those of a convolution: by default with variance
        ``1 / (places in the kernel * active in_features)``.

    Parameters: ``w`` ``[taps, in_features, features]`` and ``b`` ``[*out_space, features]``, in the input's dtype where
    that is floating, else float32. No state. A tap is a place in the kernel at an output position; those that meet
    padding only, and so would do nothing, don't exist (the ``- 2`` above). They are ordered by place in the kernel,
    then by output position, both row-major.

    Raises:
      TypeError, ValueError: here, for arguments of the wrong kind; from ``init``, for a shape with another number of
        axes or too small for the kernel; from ``apply``, when ``x`` has not the shape that ``init`` saw.

    Source: LeCun, "Generalization and network design strategies" (1989), whose networks go the same way from full to
    local to shared weights. Without padding, as many weights and biases as Keras' ``LocallyConnected2D``.

    >>> params, state, out = locally_connected(1, (3,), padding=1, bias=False).init(jax.random.key(0), (5, 1))
    >>> out.shape, params["w"].shape
    ((5, 1), (13, 1, 1))
    """
    check_features("locally_connected", features)
    sliding = window("locally_connected", kernel, strides, 1, padding)
    volume = math.prod(sliding.kernel)
    bound, _ = units_of(features)

    def init(key, spec):
        spec = as_spec(spec)
        space, in_features, dtype = sliding.space(spec), spec.shape[-1], parameter_dtype(spec)
        out = sliding.out(space)

        def one_position(key):
            shape, active = (*sliding.kernel, in_features, features), (*(None,) * len(out), spec.active, None)
            return parameter(key, w_init, shape, active=active, dtype=dtype).reshape(volume, in_features, bound)

        keys = jax.vmap(lambda position: jax.random.fold_in(key, position))(jnp.arange(math.prod(out)))
        w = jax.vmap(one_position, out_axes=1)(keys)  # [volume, positions, in_features, features], with all taps
        params = {"w": w[np.nonzero(_inside(sliding, space).reshape(volume, -1))]}
        if bias:
            params["b"] = parameter(key, jax.nn.initializers.zeros, (*out, features), dtype=dtype)
        active = features.active if isinstance(features, Size) else None
        return params, (), Spec((*out, bound), dtype, active)

    def apply(params, state, x, *, key=None, train=False):
        w = params["w"]
        sliding.check(x, w.shape[-2])
        space = x.shape[1:-1]
        out = sliding.out(space)
        inside = _inside(sliding, space)
        if inside.sum() != len(w):
            raise ValueError(
                f"locally_connected: expected x of the shape that init saw, for which there are {len(w)} taps, but got "
                f"{x.shape}, which has {inside.sum()}. Weights belong to positions, so the space can't change."
            )
        dtype = jnp.result_type(x, w)
        edges = [(0, 0), *sliding.pairs(space), (0, 0)]
        x = lax.pad(x.astype(dtype), jnp.zeros((), dtype), [(low, high, 0) for low, high in edges])
        x = patches(x, sliding.kernel, sliding.strides, sliding.dilation)  # [batch, *out, volume * in_features]
        x = x.reshape(*x.shape[:-1], volume, w.shape[1])
        x = x.reshape(x.shape[0], math.prod(out), *x.shape[-2:])  # [batch, positions, volume, in_features]
        full = _full(w.astype(dtype), inside).reshape(volume, -1, *w.shape[1:])
        y = jnp.einsum("bpvi,vpif->bpf", x, full).reshape(x.shape[0], *out, w.shape[-1])
        return (y + params["b"][None] if bias else y), state

    return Layer(init, apply)


def _inside(sliding: Window, space: tuple[int, ...]) -> np.ndarray:
    """Which places in the kernel meet an input, at which output positions: ``[volume, *out]``, bool."""
    out = sliding.out(space)
    each = zip(sliding.kernel, out, sliding.strides, sliding.pairs(space), space, strict=True)
    inside = np.ones((), bool)
    for places, count, stride, (low, _), n in each:
        at = np.arange(places)[:, None] + stride * np.arange(count)[None, :] - low  # [places, count]
        inside = inside[..., None, None] & ((at >= 0) & (at < n))
    axes = len(out)
    return inside.transpose(*range(0, 2 * axes, 2), *range(1, 2 * axes, 2)).reshape(-1, *out)


def _full(w: jax.Array, inside: np.ndarray) -> jax.Array:
    """The weights ``[taps, in, features]`` with zeros for the taps that don't exist: ``[volume, *out, in, features]``.

    At which positions a place meets an input is a box, so that slices and padding do what a gather would do, whose
    gradient is slow everywhere.
    """
    parts, start = [], 0
    for place in inside:
        count, features = int(place.sum()), w.shape[1:]
        if not count:
            parts.append(jnp.zeros((*place.shape, *features), w.dtype))
            continue
        box = [(int(along.min()), int(along.max()) + 1) for along in np.nonzero(place)]
        part = w[start : start + count].reshape(*(end - first for first, end in box), *features)
        edges = [(first, n - end, 0) for (first, end), n in zip(box, place.shape, strict=True)]
        parts.append(lax.pad(part, jnp.zeros((), w.dtype), [*edges, (0, 0, 0), (0, 0, 0)]))
        start += count
    return jnp.stack(parts)
