"""Pooling: one number for each window and feature. ``[batch, *space, features]``, with 1, 2 or 3 space axes.

All kinds are one implementation and differ in the ``_Kind`` that makes one number of many. Windows lie over each
feature by itself and make zero of zeros, so under sizes the mask of the active features goes through.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnet.layer import Layer, Spec, as_spec
from jaxnet.ops import windows
from jaxnet.ops.parameters import parameter_dtype
from jaxnet.ops.pooling import LARGEST, SMALLEST, SUM, Reduction, slide
from jaxnet.ops.windows import Pairs
from jaxnet.sequence import Sequence, sequence_spec

Padding = str | int | tuple[int | tuple[int, int], ...]


def max_pool(
    window: tuple[int, ...],
    *,
    strides: int | tuple[int, ...] | None = None,
    padding: Padding = "VALID",
    ceil: bool = False,
) -> Layer:
    """The largest number in each window: ``[batch, *space, features]`` to ``[batch, *windows, features]``.

    Args:
      window: 1, 2 or 3 integers, one for each space axis.
      strides: steps between windows, an integer or one for each axis; the window's own size when None, so that windows
        lie side by side.
      padding: "VALID"; "SAME", which makes ``ceil(space / strides)`` windows and puts the odd cell behind; "CAUSAL",
        all of it before the first step; an integer, or for each axis an integer or a pair ``(low, high)``, below the
        window's size. Padding is never the maximum, and never counts.
      ceil: whether windows that reach past the end count too, where "VALID" leaves the last cells out.

    Where several cells of a window are equally large, the gradient goes to the first in row-major order, whatever the
    window and strides. No parameters, no state; the dtype stays. Windows of one axis take a ``Sequence`` and give one
    of as many steps as windows fit in each, except where they would depend on where the padded array ends.

    Raises:
      TypeError, ValueError: here, for a window, strides or padding of the wrong kind; from ``init`` and ``apply``, when
        the space axes are not as many as the window's or too short for it.

    Source: as PyTorch's ``MaxPool1d`` to ``3d`` and its ``ceil_mode``, which takes padding up to half a window only.

    >>> layer = max_pool((2,))
    >>> params, state, out = layer.init(None, (5, 1))
    >>> layer.apply(params, state, jnp.array([[[3.0], [1.0], [4.0], [1.0], [5.0]]]))[0].ravel().tolist(), out.shape
    ([3.0, 4.0], (2, 1))
    """
    return _pool("max_pool", _LARGEST, window, strides, padding, ceil)


def min_pool(
    window: tuple[int, ...],
    *,
    strides: int | tuple[int, ...] | None = None,
    padding: Padding = "VALID",
    ceil: bool = False,
) -> Layer:
    """The smallest number in each window; all else as in ``max_pool``.

    >>> layer = min_pool((3,), strides=1, padding="SAME")
    >>> layer.apply((), (), jnp.array([[[3.0], [1.0], [4.0], [1.0], [5.0]]]))[0].ravel().tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    return _pool("min_pool", _SMALLEST, window, strides, padding, ceil)


def avg_pool(
    window: tuple[int, ...],
    *,
    strides: int | tuple[int, ...] | None = None,
    padding: Padding = "VALID",
    ceil: bool = False,
) -> Layer:
    """The mean of each window over its cells inside the input; arguments and errors as in ``max_pool``.

    Half precision is summed in float32. Inputs that are not floating make float32.

    Source: PyTorch's ``AvgPool1d`` to ``3d`` with ``count_include_pad=False``; its default divides by the whole window
    and so darkens borders. In ceil mode, too, what lies outside doesn't count.

    >>> layer = avg_pool((3,), strides=1, padding="SAME")
    >>> layer.apply((), (), jnp.array([[[2.0], [4.0], [9.0]]]))[0].ravel().tolist()
    [3.0, 5.0, 6.5]
    """
    return _pool("avg_pool", _MEAN, window, strides, padding, ceil)


def sum_pool(
    window: tuple[int, ...],
    *,
    strides: int | tuple[int, ...] | None = None,
    padding: Padding = "VALID",
    ceil: bool = False,
) -> Layer:
    """The sum of each window; arguments and errors as in ``max_pool``, dtypes as in ``avg_pool``.

    >>> layer = sum_pool((2, 2))
    >>> layer.apply((), (), jnp.ones((1, 4, 2, 1)))[0].ravel().tolist()
    [4.0, 4.0]
    """
    return _pool("sum_pool", _SUM, window, strides, padding, ceil)


def lp_pool(
    p: Any,
    window: tuple[int, ...],
    *,
    strides: int | tuple[int, ...] | None = None,
    padding: Padding = "VALID",
    ceil: bool = False,
) -> Layer:
    """The p-norm of each window, ``sum(|x| ** p) ** (1 / p)``: a sum of sizes for p = 1, near the largest for large p.

    Args:
      p: at least 1, a number; may be traced. Powers overflow in the same way as ``x ** p`` does.
      window, strides, padding, ceil: as in ``max_pool``; dtypes as in ``avg_pool``.

    The slope of a window of zeros is 0, where the norm has none.

    Raises:
      ValueError: here, for p below 1; and as ``max_pool``.

    Source: PyTorch's ``LPPool1d`` to ``3d``, which take ``x ** p`` without the absolute value and so differ for
    negative inputs and odd p.

    >>> layer = lp_pool(2, (2,))
    >>> layer.apply((), (), jnp.array([[[3.0], [-4.0]]]))[0].ravel().tolist()
    [5.0]
    """
    if isinstance(p, (int, float)) and not 1 <= p < math.inf:
        raise ValueError(f"lp_pool: p must be a finite number of at least 1, got {p!r}; for the largest, try max_pool")

    def power(x):
        x = _floating(x)
        return _power(x * jnp.sign(x), p)  # not abs, whose slope at 0 is 1 in JAX

    def root(y, counts):
        return _power(y, 1 / jnp.asarray(p, y.dtype))

    return _pool("lp_pool", _SUM._replace(before=power, after=root), window, strides, padding, ceil)


def adaptive_avg_pool(shape: tuple[int, ...]) -> Layer:
    """Means over bins that share the space axes evenly: ``[batch, *space, features]`` to ``[batch, *shape, features]``.

    Bin ``i`` of ``n`` over ``cells`` goes from ``floor(i * cells / n)`` to ``ceil((i + 1) * cells / n)``; neighbours
    overlap by a cell where ``n`` doesn't divide ``cells``. So a network takes images of any size.

    Args:
      shape: 1, 2 or 3 integers, one for each space axis; more bins than cells repeat cells.

    Raises:
      TypeError, ValueError: here, for a shape of the wrong kind; from ``init`` and ``apply``, when the space axes are
        not as many.

    Source: PyTorch's ``AdaptiveAvgPool1d`` to ``3d``.

    >>> layer = adaptive_avg_pool((2,))
    >>> layer.apply((), (), jnp.array([[[1.0], [2.0], [6.0]]]))[0].ravel().tolist()
    [1.5, 4.0]
    """
    return _adaptive("adaptive_avg_pool", _MEAN, shape)


def adaptive_max_pool(shape: tuple[int, ...]) -> Layer:
    """The largest number in each of ``shape`` bins.

    Bins and errors as in ``adaptive_avg_pool``, ties as in ``max_pool``.

    >>> layer = adaptive_max_pool((2,))
    >>> layer.apply((), (), jnp.array([[[1.0], [2.0], [6.0]]]))[0].ravel().tolist()
    [2.0, 6.0]
    """
    return _adaptive("adaptive_max_pool", _LARGEST, shape)


class _Kind(NamedTuple):
    """What a pool makes of a window's cells.

    Args:
      reduction: one number of many.
      before: of the input; after: of the reduced, and of how many cells each number was made.
      floats: whether inputs that are not floating become float32.
    """

    reduction: Reduction
    before: Callable[[jax.Array], jax.Array] = lambda x: x
    after: Callable[[jax.Array, Any], jax.Array] = lambda y, counts: y
    floats: bool = False


def _floating(x: jax.Array) -> jax.Array:
    """In at least float32: sums of half precision lose what they add."""
    return x.astype(jnp.promote_types(parameter_dtype(x), jnp.float32))


def _power(x: jax.Array, exponent: Any) -> jax.Array:
    """``x ** exponent`` of numbers that aren't negative, with slope 0 at 0."""
    positive = x > 0
    return jnp.where(positive, jnp.where(positive, x, 1) ** jnp.asarray(exponent, x.dtype), 0)


_LARGEST, _SMALLEST = _Kind(LARGEST), _Kind(SMALLEST)
_SUM = _Kind(SUM, before=_floating, floats=True)
_MEAN = _SUM._replace(after=lambda y, counts: y / jnp.asarray(counts, y.dtype))


def _pool(name: str, kind: _Kind, window: Any, strides: Any, padding: Any, ceil: bool) -> Layer:
    window = _integers(name, "window", window)
    sliding = windows.window(name, window, window if strides is None else strides, padding=padding)
    if not isinstance(sliding.padding, str) and any(
        max(pair) >= n for pair, n in zip(sliding.padding, window, strict=True)
    ):
        raise ValueError(
            f"{name}: padding {padding} must be below the window {window}, since a window of padding alone has no value"
        )

    def place(space):
        pads, output = _place(sliding, space, ceil)
        if min(output) < 1:
            raise ValueError(
                f"{name}: a window of {window} with padding {padding!r} doesn't fit into space axes of {tuple(space)}. "
                f'Try a smaller window, fewer pools before it, or padding="SAME".'
            )
        return pads, output

    def pooled(x):
        space = x.shape[1:-1]
        pads, output = place(space)
        counts = _cells_inside(space, sliding, pads, output)
        return kind.after(slide(kind.reduction, kind.before(x), sliding, pads, output), counts)

    def over_time(x):
        if (sliding.padding == "SAME" and sliding.strides != (1,)) or ceil:
            raise ValueError(
                f"{name}: with padding {padding!r}, strides {sliding.strides} and ceil={ceil}, a window of a Sequence "
                f"would depend on where the padded array ends; try padding='CAUSAL' or integers, and ceil=False"
            )
        if not isinstance(x, Sequence):
            return None
        width, stride, (low, high) = window[0], sliding.strides[0], sliding.pairs(x.values.shape[1:-1])[0]
        pads, output = place(x.values.shape[1:-1])
        values = kind.before(x.replace(x.values).values)
        values = x.replace(values, kind.reduction.empty(values.dtype)).values
        start = jnp.arange(output[0])[None] * stride - low
        counts = jnp.minimum(start + width, x.steps[:, None]) - jnp.maximum(start, 0)  # [batch, windows]
        y = kind.after(slide(kind.reduction, values, sliding, pads, output), jnp.maximum(counts, 1)[..., None])
        fitting = jnp.where(x.steps > 0, (x.steps + (low + high - width)) // stride + 1, 0)
        return Sequence(y, jnp.maximum(fitting, 0)).replace(y)

    return _over_space(name, len(window), pooled, lambda space: place(space)[1], kind, over_time)


def _place(sliding: windows.Window, space: tuple[int, ...], ceil: bool) -> tuple[Pairs, tuple[int, ...]]:
    """Cells before and behind each axis that windows reach (negative: the last are in none), and how many windows."""
    pads, output = [], []
    every = zip(space, sliding.kernel, sliding.strides, sliding.pairs(space), strict=True)
    for cells, width, stride, (low, high) in every:
        moves = low + cells + high - width
        count = (-(-moves // stride) if ceil else moves // stride) + 1
        if ceil and (count - 1) * stride >= low + cells:  # it would begin past the input's end
            count -= 1
        pads.append((low, (count - 1) * stride + width - low - cells))
        output.append(count)
    return tuple(pads), tuple(output)


def _cells_inside(space: tuple[int, ...], sliding: windows.Window, pads: Pairs, output: tuple[int, ...]) -> np.ndarray:
    """How many cells of the input each window holds: ``[1, *output, 1]``."""
    counts = np.ones((), np.float32)
    for axis, cells in enumerate(space):
        start = np.arange(output[axis]) * sliding.strides[axis] - pads[axis][0]
        inside = np.minimum(start + sliding.kernel[axis], cells) - np.maximum(start, 0)
        counts = counts[..., None] * inside.astype(np.float32)
    return counts[None, ..., None]


def _integers(name: str, what: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, (tuple, list)) or not 1 <= len(value) <= 3:
        raise TypeError(
            f"{name}: {what} must be a tuple of 1, 2 or 3 integers, one for each space axis, got {value!r}"
            + (f". Try ({value},) for sequences, ({value}, {value}) for images." if hasattr(value, "__index__") else "")
        )
    return windows.integers(name, what, value, len(value))


def _adaptive(name: str, kind: _Kind, shape: Any) -> Layer:
    shape = _integers(name, "shape", shape)

    def pooled(x):
        x = kind.before(x)
        for axis in reversed(range(1, 1 + len(shape))):
            cells, bins = x.shape[axis], shape[axis - 1]
            edges = [(i * cells // bins, -(-(i + 1) * cells // bins)) for i in range(bins)]
            parts = [lax.slice_in_dim(x, start, end, axis=axis) for start, end in edges]
            # Bins are boxes, so a mean is the mean of its rows' means.
            x = jnp.stack([kind.after(kind.reduction.along(p, axis), p.shape[axis]) for p in parts], axis)
        return x

    return _over_space(name, len(shape), pooled, lambda space: shape, kind)


def _over_space(
    name: str,
    axes: int,
    pooled: Callable[..., Any],
    output: Callable[..., Any],
    kind: _Kind,
    over_time: Callable[..., Any] | None = None,
) -> Layer:
    """The layer of a function of ``[batch, *space, features]`` that knows each feature by itself.

    Args:
      pooled: that function; output: the output's space axes of the input's.
      over_time: the same of a ``Sequence``; of its spec, raises when it can't take one.
    """

    def check(shape):
        if len(shape) != axes + 2:
            space = ("time", "height, width", "depth, height, width")[axes - 1]
            raise ValueError(
                f"{name}: expected x of shape [batch, {space}, features], as its argument has {axes} space axes, but "
                f"got {shape}. If the axis of features is missing, try jnp.expand_dims(x, -1)."
            )

    def out_spec(spec: Any) -> Spec:
        spec = as_spec(spec)
        check(("batch", *spec.shape))
        shape = (*output(spec.shape[:-1]), spec.shape[-1])
        return Spec(shape, _output_dtype(kind, spec.dtype), spec.active)

    def init(key, spec):
        if isinstance(spec, Sequence) and over_time is not None and axes == 1:
            values, lengths = sequence_spec(spec, rank=2)
            over_time(values)  # raises when it can't take one
            return (), (), Sequence(out_spec(values), lengths)
        return (), (), out_spec(spec)

    def apply(params, state, x, *, key=None, train=False):
        values = x.values if isinstance(x, Sequence) else x
        check(values.shape)
        dtype = _output_dtype(kind, values.dtype)
        if isinstance(x, Sequence) and over_time is not None:
            y = over_time(x)
            return Sequence(y.values.astype(dtype), y.lengths), state
        return pooled(x).astype(dtype), state

    init.__qualname__ = name
    return Layer(init, apply)


def _output_dtype(kind: _Kind, dtype: Any) -> Any:
    floating = jnp.issubdtype(dtype, jnp.floating)
    return dtype if floating or not kind.floats else jnp.dtype(jnp.float32)


def _global(name: str, kind: _Kind) -> Layer:
    def check(shape):
        if len(shape) < 3:
            raise ValueError(
                f"{name}: expected x of shape [batch, ..., features] with at least one axis to pool over between "
                f"them, but got {shape}"
            )

    def init(key, spec):
        spec = as_spec(spec.values if isinstance(spec, Sequence) else spec)
        check(("batch", *spec.shape))
        return (), (), Spec(spec.shape[-1:], _output_dtype(kind, spec.dtype), spec.active)

    def apply(params, state, x, *, key=None, train=False):
        values, lengths = (x.values, x.steps) if isinstance(x, Sequence) else (x, None)
        check(values.shape)
        dtype, cells = _output_dtype(kind, values.dtype), math.prod(values.shape[2:-1])
        values = kind.before(values)
        if lengths is None:
            counts = cells * values.shape[1]
        else:
            counts = jnp.maximum(cells * lengths, 1)[:, None]
            values = Sequence(values, lengths).replace(values, kind.reduction.empty(values.dtype)).values
        flat = values.reshape(values.shape[0], values.shape[1] * cells, values.shape[-1])
        y = kind.reduction.along(flat, 1)  # [batch, features]
        if lengths is not None:
            y = jnp.where((lengths > 0)[:, None], y, jnp.zeros((), y.dtype))
        return kind.after(y, counts).astype(dtype), state

    init.__qualname__ = name
    return Layer(init, apply)


global_max_pool: Layer = _global("global_max_pool", _LARGEST)
"""The largest number of each feature over all other axes: ``[batch, ..., features]`` to ``[batch, features]``. A layer.

Of a ``Sequence`` only valid steps count, and one without any gives 0. Ties as in ``max_pool``.

Raises:
  ValueError: from ``init`` and ``apply``, when there is no axis between batch and features.

>>> params, state, out = global_max_pool.init(None, (7, 7, 16))
>>> out.shape
(16,)
"""

global_avg_pool: Layer = _global("global_avg_pool", _MEAN)
"""The mean of each feature over all other axes: ``[batch, ..., features]`` to ``[batch, features]``. A layer.

Of a ``Sequence`` only valid steps count, and one without any gives 0. Errors as ``global_max_pool``.

>>> x = Sequence(jnp.array([[[2.0], [4.0], [7.0]]]), jnp.array([2]))
>>> global_avg_pool.apply((), (), x)[0].tolist()
[[3.0]]
"""
