"""Layers that only change the shape of an example: no parameters, no state, features last before and after.

Under sizes, what keeps whole features keeps their mask. What would tear active and inactive features apart in a way
that isn't a mask over the last axis is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxnet.hints import did_you_mean
from jaxnet.layer import Layer, Spec, as_spec
from jaxnet.ops.windows import PAD_MODES, Pairs, check_mode, integers


def _layer(name: str, out_spec: Callable[[Spec], Spec], change: Callable[[jax.Array, tuple[int, ...]], jax.Array]):
    """A layer of ``out_spec``, which raises for a shape that can't work, and of ``change(x, out_shape)``."""

    def named(spec, came=""):
        try:
            return out_spec(spec)
        except ValueError as error:
            raise ValueError(f"{name}: {error}{came}") from error

    def init(key, spec):
        return (), (), named(as_spec(spec))

    def apply(params, state, x, *, key=None, train=False):
        came = f" (x has the shape {x.shape}, batch axis first)"
        return change(x, named(Spec(x.shape[1:], x.dtype), came).shape), state

    init.__qualname__ = name
    return Layer(init, apply)


def reshape(shape: tuple[int, ...]) -> Layer:
    """Another shape of the same entries, in row-major order: ``[batch, ...]`` to ``[batch, *shape]``.

    Args:
      shape: of an example, without the batch axis; one axis may be -1 and has what is left.

    Under sizes, an output's last axis must hold whole rows of features, once or several times, as when images become
    sequences or vectors.

    Raises:
      TypeError, ValueError: here, for a shape of the wrong kind; from ``init`` and ``apply``, when an example's entries
        don't fill it, or inactive features would get into other axes.

    >>> params, state, out = reshape((-1, 3)).init(None, (28, 28, 3))
    >>> out.shape
    (784, 3)
    """
    if not isinstance(shape, (tuple, list)):
        raise TypeError(f"reshape: shape must be a tuple without the batch axis, got {shape!r}")
    sizes = tuple(integers("reshape", "shape", n, 1, least=-1)[0] for n in shape)
    if 0 in sizes or sizes.count(-1) > 1:
        raise ValueError(f"reshape: shape must hold positive integers and at most one -1, got {tuple(shape)!r}")
    return _reshape("reshape", sizes)


def _reshape(name: str, sizes: tuple[int, ...]) -> Layer:
    def out_spec(spec):
        entries, known = math.prod(spec.shape), math.prod(n for n in sizes if n != -1)
        if entries % known or (-1 not in sizes and entries != known):
            raise ValueError(
                f"an example of shape {spec.shape} has {entries} entries, which can't be shaped as {sizes}"
            )
        shape = tuple(entries // known if n == -1 else n for n in sizes)
        if spec.active is None:
            return Spec(shape, spec.dtype)
        rows, rest = divmod(shape[-1] if shape else 1, spec.shape[-1])
        if rest or not rows:
            raise ValueError(
                f"the last axis of {spec.shape} has features that aren't active in every lane, and in {shape} they "
                f"wouldn't be a mask over the last axis. Try a last axis that is a multiple of {spec.shape[-1]}, or "
                f"declare the width before it with static=True."
            )
        return Spec(shape, spec.dtype, jnp.tile(spec.active, rows))

    return _layer(name, out_spec, lambda x, shape: x.reshape(x.shape[0], *shape))


flatten: Layer = _reshape("flatten", (-1,))
"""All axes of an example as one, in row-major order: ``[batch, ...]`` to ``[batch, features]``. A layer, not a factory.

>>> params, state, out = flatten.init(None, (28, 28, 1))
>>> out.shape
(784,)
"""


def transpose(axes: tuple[int, ...]) -> Layer:
    """The axes of an example in another order: axis ``i`` of the output is axis ``axes[i]`` of the input.

    Args:
      axes: a permutation of 0, 1, ..., without the batch axis.

    Raises:
      ValueError: here, when ``axes`` isn't a permutation; from ``init`` and ``apply``, when an example has another
        number of axes, or has inactive features and they would not stay last.

    >>> params, state, out = transpose((1, 0, 2)).init(None, (28, 14, 3))
    >>> out.shape
    (14, 28, 3)
    """
    if not isinstance(axes, (tuple, list)) or sorted(axes) != list(range(len(axes))):
        raise ValueError(
            f"transpose: axes must be a permutation of 0, 1, ... without the batch axis, as (1, 0, 2) is, got {axes!r}"
        )

    def out_spec(spec):
        if len(spec.shape) != len(axes):
            raise ValueError(f"expected examples with {len(axes)} axes, as many as {tuple(axes)}, but got {spec.shape}")
        if spec.active is not None and axes[-1] != len(axes) - 1:
            raise ValueError(
                f"the features of {spec.shape} aren't active in every lane, so they must stay on the last axis, but "
                f"{tuple(axes)} puts axis {axes[-1]} there. Declare the width before it with static=True."
            )
        return Spec(tuple(spec.shape[axis] for axis in axes), spec.dtype, spec.active)

    return _layer("transpose", out_spec, lambda x, shape: x.transpose(0, *(axis + 1 for axis in axes)))


def pad(widths: int | tuple[int | tuple[int, int], ...], *, mode: str = "zeros") -> Layer:
    """More cells around the space axes: ``[batch, *space, features]``, features stay as they are.

    Args:
      widths: an integer for every side, or for each space axis an integer or a pair ``(low, high)``.
      mode: "zeros"; "edge", which repeats the outermost cell; "reflect", a mirror in the outermost cell, which itself
        isn't repeated; "circular", the cells of the other side.

    Raises:
      TypeError, ValueError: here, for widths or a mode of the wrong kind; from ``init`` and ``apply``, when the space
        axes are not as many, or have too few cells to reflect or go round.

    >>> layer = pad(((2, 1),), mode="reflect")
    >>> layer.apply((), (), jnp.array([[[1], [2], [3]]]))[0].ravel().tolist()
    [3, 2, 1, 2, 3, 2]
    """
    check_mode("pad", "mode", mode)
    pairs_of = _widths("pad", widths)

    def out_spec(spec):
        pairs = pairs_of(spec.shape)
        most = {"reflect": -1, "circular": 0}.get(mode)
        if most is not None and any(max(pair) > n + most for pair, n in zip(pairs, spec.shape, strict=False)):
            raise ValueError(f"mode {mode!r} can't make {pairs} cells of the space axes {spec.shape[:-1]}; try fewer")
        space = (n + low + high for n, (low, high) in zip(spec.shape, pairs, strict=False))
        return Spec((*space, spec.shape[-1]), spec.dtype, spec.active)

    def change(x, shape):
        return jnp.pad(x, ((0, 0), *pairs_of(x.shape[1:]), (0, 0)), mode=PAD_MODES[mode])

    return _layer("pad", out_spec, change)


def crop(widths: int | tuple[int | tuple[int, int], ...]) -> Layer:
    """Fewer cells around the space axes, what ``pad`` of the same widths adds: ``[batch, *space, features]``.

    Args:
      widths: an integer for every side, or for each space axis an integer or a pair ``(low, high)``.

    Raises:
      TypeError, ValueError: here, for widths of the wrong kind; from ``init`` and ``apply``, when the space axes are
        not as many, or nothing would be left.

    >>> layer = crop(((2, 1),))
    >>> layer.apply((), (), jnp.array([[[1], [2], [3], [4]]]))[0].ravel().tolist()
    [3]
    """
    pairs_of = _widths("crop", widths)

    def out_spec(spec):
        pairs = pairs_of(spec.shape)
        space = tuple(n - low - high for n, (low, high) in zip(spec.shape, pairs, strict=False))
        if min(space) < 1:
            raise ValueError(f"of the space axes {spec.shape[:-1]} nothing is left without {pairs} cells; try fewer")
        return Spec((*space, spec.shape[-1]), spec.dtype, spec.active)

    def change(x, shape):
        for axis, (low, _) in enumerate(pairs_of(x.shape[1:])):
            x = lax.slice_in_dim(x, low, low + shape[axis], axis=axis + 1)
        return x

    return _layer("crop", out_spec, change)


def upsample(scale: int | tuple[int, ...], *, method: str = "nearest") -> Layer:
    """Space axes ``scale`` times as long: ``[batch, *space, features]``.

    Args:
      scale: an integer for all space axes, or one for each.
      method: "nearest", each cell repeated; "linear", between the centres of neighbouring cells (bilinear, trilinear),
        where the outermost half cells are constant.

    Raises:
      TypeError, ValueError: here, for a scale or method of the wrong kind; from ``init`` and ``apply``, when the space
        axes are not as many, and for inputs that aren't floating with "linear".

    Source: PyTorch's ``Upsample`` with ``align_corners=False`` (half-pixel centres): output cell ``i`` has its centre
    at ``(i + 0.5) / scale - 0.5`` of the input's.

    >>> layer = upsample(2, method="linear")
    >>> layer.apply((), (), jnp.array([[[0.0], [4.0]]]))[0].ravel().tolist()
    [0.0, 1.0, 3.0, 4.0]
    """
    if method not in (known := ("nearest", "linear")):
        raise ValueError(f"upsample: method must be 'nearest' or 'linear', got {method!r}{did_you_mean(method, known)}")
    if not isinstance(scale, (tuple, list)):
        integers("upsample", "scale", scale, 1)
    scales_of = _for_each_axis(scale, lambda axes: integers("upsample", "scale", scale, axes))
    along = _repeat if method == "nearest" else _interpolate

    def out_spec(spec):
        if method == "linear" and not jnp.issubdtype(spec.dtype, jnp.floating):
            raise ValueError(f"method 'linear' is for floating inputs, but got {spec.dtype}; try method='nearest'")
        scales = scales_of(spec.shape)
        space = (n * factor for n, factor in zip(spec.shape, scales, strict=False))
        return Spec((*space, spec.shape[-1]), spec.dtype, spec.active)

    def change(x, shape):
        for axis, factor in enumerate(scales_of(x.shape[1:])):
            if factor > 1:
                x = along(x, factor, axis + 1)
        return x

    return _layer("upsample", out_spec, change)


def _repeat(x: jax.Array, factor: int, axis: int) -> jax.Array:
    return _interleave([x] * factor, axis)


def _interpolate(x: jax.Array, factor: int, axis: int) -> jax.Array:
    """Each of the ``factor`` cells that replace a cell lies at one distance from its two neighbours."""
    cells = x.shape[axis]
    first, last = (lax.slice_in_dim(x, start, start + 1, axis=axis) for start in (0, cells - 1))
    padded = lax.concatenate([first, x, last], axis)
    between = []
    for i in range(factor):
        place = (i + 0.5) / factor - 0.5  # from the cell's centre, in cells
        first, share = (0, place + 1) if place < 0 else (1, place)
        low, high = (lax.slice_in_dim(padded, start, start + cells, axis=axis) for start in (first, first + 1))
        between.append(low * jnp.asarray(1 - share, x.dtype) + high * jnp.asarray(share, x.dtype))
    return _interleave(between, axis)


def _interleave(arrays: list[jax.Array], axis: int) -> jax.Array:
    """The first entries along the axis of all arrays, then the second ones, and so on."""
    stacked = jnp.stack(arrays, axis + 1)
    return stacked.reshape(*stacked.shape[:axis], len(arrays) * arrays[0].shape[axis], *stacked.shape[axis + 2 :])


def _widths(name: str, widths: Any) -> Callable[[tuple[int, ...]], Pairs]:
    """Of an example's shape, cells before and behind each space axis."""
    each = list(widths) if isinstance(widths, (tuple, list)) else [widths]
    pairs = tuple(integers(name, "widths", width, 2, least=0) for width in each)
    return _for_each_axis(widths, lambda axes: pairs if isinstance(widths, (tuple, list)) else pairs * axes)


def _for_each_axis(value: Any, expand: Callable[[int], Any]) -> Callable[[tuple[int, ...]], Any]:
    """Of an example's shape, ``expand(space axes)``, once it has as many as ``value`` has entries."""

    def of(shape):
        axes = len(shape) - 1
        wanted = len(value) if isinstance(value, (tuple, list)) else max(axes, 1)
        if axes != wanted or not axes:
            raise ValueError(
                f"expected examples with {wanted} space axes and features, as {value!r} says, but got the shape {shape}"
            )
        return expand(axes)

    return of
