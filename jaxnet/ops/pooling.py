"""One number for each window that slides over space: the one place that decides how a pool is computed."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnet.ops.compiling import multiplied_by_eigen
from jaxnet.ops.linear import Linear, transposable
from jaxnet.ops.lowering import lowering
from jaxnet.ops.windows import Pairs, Window

MOST_PARTS = 16  # that are reduced one after the other, in one pass over them. More compile slowly.


class Reduction(NamedTuple):
    """One number of many.

    Args:
      empty: of a dtype, the number that changes nothing.
      pair: ``(so far, next) -> one``, of arrays.
      along: ``(x, axis) -> y``, all of an axis as one.
      together: ``(x, axes) -> y``, all of several axes as one, in one pass over them, and one more for the gradient.
      sliding: the operation as ``lax.reduce_window`` knows it.
    """

    empty: Callable[[Any], Any]
    pair: Callable[[jax.Array, jax.Array], jax.Array]
    along: Callable[[jax.Array, int], jax.Array]
    together: Callable[[jax.Array, tuple[int, ...]], jax.Array]
    sliding: Callable[[Any, Any], Any]


def slide(reduction: Reduction, x: jax.Array, window: Window, pads: Pairs, output: tuple[int, ...]) -> jax.Array:
    """One number for each window and feature, ``[batch, *space, features]`` to ``[batch, *output, features]``.

    Windows that lie side by side read each cell once, so a reshape takes their place. Others go to
    ``lax.reduce_window``; but on a CPU, of up to ``MOST_PARTS`` cells along any axis, they are reduced axis by axis,
    not least for the sake of the gradient, for which XLA searches window after window: of a largest number, 3 x 3 with
    strides of 2 on 28 x 28 x 32 took 0.12 of the time, with strides of 1 0.09, three of 128 steps 0.3; of a mean 0.2,
    0.5 and 1.0. On an accelerator, windows side by side are reduced whole: that reads ``x`` once, and once more for the
    gradient, in place of once for each axis (LeNet's lanes: 0.86 of the bytes of a training step, as
    ``python -m experiments.benchmarks.programs`` counts them).

    Args:
      pads: cells of ``reduction.empty`` before and behind each axis, as far as windows reach; negative, where the last
        cells of ``x`` are in none.
      output: how many windows there are along each axis.
    """
    empty = np.array(reduction.empty(x.dtype), x.dtype)
    aside = window.kernel == window.strides
    on_cpu, ours = jax.default_backend() == "cpu", lowering() is None
    by_axes = on_cpu and ours and max(window.kernel) <= MOST_PARTS
    whole = aside and not on_cpu and ours and math.prod(window.kernel) <= MOST_PARTS
    if not aside and not by_axes:
        reached = [(0, 0), *((low, max(high, 0)) for low, high in pads), (0, 0)]
        return lax.reduce_window(x, empty, reduction.sliding, (1, *window.kernel, 1), (1, *window.strides, 1), reached)
    # In blocks as long as a stride, as many as windows reach.
    blocks = [n + (k - 1) // s for n, k, s in zip(output, window.kernel, window.strides, strict=True)]
    sizes = zip(pads, blocks, window.strides, x.shape[1:-1], strict=True)
    edges = [(low, n * s - low - cells, 0) for (low, _), n, s, cells in sizes]
    x = lax.pad(x, empty, [(0, 0, 0), *edges, (0, 0, 0)])
    for i in reversed(range(len(output))):  # the last axis first: then the first of equals is so in row-major order
        stride, width, axis = window.strides[i], window.kernel[i], i + 1
        # One axis at a time: JAX splits no two of a batch on a mesh at once.
        x = x.reshape(*x.shape[:axis], blocks[i], stride, *x.shape[axis + 1 :])
        if whole:
            continue
        if aside:
            x = reduction.along(x, axis + 1)
            continue
        phases = [lax.index_in_dim(x, phase, axis + 1, keepdims=False) for phase in range(stride)]
        starts = [divmod(place, stride) for place in range(width)]
        parts = [lax.slice_in_dim(phases[at], start, start + output[i], axis=axis) for start, at in starts]
        x = functools.reduce(reduction.pair, parts)
        if multiplied_by_eigen():
            x = lax.optimization_barrier(x)  # and its gradient is whole before it spreads
    return reduction.together(x, tuple(range(2, x.ndim, 2))) if whole else x


def _extreme(
    wins: Callable[[Any, Any], Any], argument: Callable[..., jax.Array]
) -> tuple[Callable[..., jax.Array], Callable[..., jax.Array], Callable[..., jax.Array]]:
    """The extreme of two arrays, along an axis, and of several axes, with a gradient to the first of those that are
    equal, in row-major order.

    So ``reduce_window`` has it. ``jnp.max`` would share the gradient among them, and a pool's slope would then depend
    on its strides.
    """

    def pair(best, other):
        return jnp.where(wins(other, best) | (other != other), other, best)  # NaN wins, as everywhere

    def along(x, axis):
        if x.shape[axis] > MOST_PARTS:
            best = jnp.expand_dims(argument(x, axis), axis)
            chosen = lax.broadcasted_iota(best.dtype, x.shape, axis) == best
            return jnp.where(chosen, x, jnp.zeros((), x.dtype)).sum(axis, dtype=x.dtype)
        return functools.reduce(pair, _cells(x, (axis,)))

    def together(x, axes):
        @jax.custom_jvp
        def whole(x):
            return functools.reduce(pair, _cells(x, axes))

        @whole.defjvp
        def _(primals, tangents):
            best = whole(*primals)
            return best, transposable(_OF_FIRST, axes, (*primals, best), tangents[0], like=best)

        return whole(x)

    return pair, along, together


def _cells(x: jax.Array, axes: tuple[int, ...]) -> list[jax.Array]:
    """The arrays that axes hold side by side, in row-major order."""
    cells = [x]
    for gone, axis in enumerate(axes):
        places = range(x.shape[axis])
        cells = [lax.index_in_dim(cell, i, axis - gone, keepdims=False) for cell in cells for i in places]
    return cells


def _first(x: jax.Array, best: jax.Array, axes: tuple[int, ...]) -> Iterator[jax.Array]:
    """Where each of the cells is the first that is the best."""
    found = jnp.zeros(best.shape, bool)
    for cell in _cells(x, axes):
        equal = (cell == best) | (cell != cell)
        yield equal & ~found
        found |= equal


def _of_first(axes, fixed, tangents):
    (x, best), zero = fixed, jnp.zeros((), tangents.dtype)
    chosen = zip(_first(x, best, axes), _cells(tangents, axes), strict=True)
    return functools.reduce(operator.add, (jnp.where(first, cell, zero) for first, cell in chosen))


def _to_first(axes, fixed, gradient):
    (x, best), zero = fixed, jnp.zeros((), gradient.dtype)
    cells = [jnp.where(first, gradient, zero) for first in _first(x, best, axes)]
    for gone, axis in reversed([*enumerate(axes)]):
        size = x.shape[axis]
        cells = [jnp.stack(cells[i : i + size], axis - gone) for i in range(0, len(cells), size)]
    return cells[0]


_OF_FIRST = Linear(_of_first, _to_first)


def _lowest(dtype):
    if dtype == jnp.bool_:
        return False
    return -np.inf if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).min


def _highest(dtype):
    if dtype == jnp.bool_:
        return True
    return np.inf if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).max


LARGEST = Reduction(_lowest, *_extreme(lax.gt, jnp.argmax), lax.max)
SMALLEST = Reduction(_highest, *_extreme(lax.lt, jnp.argmin), lax.min)
SUM = Reduction(lambda dtype: 0, lax.add, lambda x, axis: x.sum(axis), lambda x, axes: x.sum(axes), lax.add)
