"""Reductions that count some entries only: the rows that training says are examples, steps inside, active features."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jax.custom_derivatives import SymbolicZero

from jaxnet.ops.compiling import multiplied_by_eigen
from jaxnet.ops.lowering import lowering
from jaxnet.ops.meshes import split

# How many deviations from zero a mean may be for the variance to be a difference. It has a digit less there: the mean
# square is 17 variances.
MOST_DEVIATIONS = 4

# On a CPU, in programs that don't train (see ops.compiling), up to how many numbers a second pass takes no longer than
# the choice that may save it, and a sum no longer than to start it.
MOST_SMALL = 2**17

_Rows = tuple[jax.Array | None, int | None]
_rows: contextvars.ContextVar[_Rows] = contextvars.ContextVar("rows", default=(None, None))


def valid_rows() -> jax.Array | None:
    """Which rows of the batch are examples: ``[batch]``, bool, or None when all are.

    A batch that isn't full (the last of an epoch, or one whose size differs from lane to lane) is filled up with copies
    of an example. Losses leave the copies out by themselves; a layer that computes something of the batch as a whole,
    in training, asks here. Training answers; where nobody does, every row counts.
    """
    return _rows.get()[0]


def short_rows() -> int | None:
    """How many rows, the first ones, are examples in any batch that isn't full, where that is known; else None."""
    return _rows.get()[1]


@contextlib.contextmanager
def counting_rows(valid: jax.Array | None, short: int | None = None) -> Iterator[None]:
    """Inside, ``valid_rows()`` is ``valid``; what folds another axis into the batch repeats the mask accordingly.

    ``short_rows()`` is ``short``.

    >>> with counting_rows(jnp.array([True, False])):
    ...     valid_rows().tolist()
    [True, False]
    """
    token = _rows.set((valid, short))
    try:
        yield
    finally:
        _rows.reset(token)


def moments(
    x: jax.Array,
    axes: Sequence[int],
    counted: jax.Array | None = None,
    groups: int | None = None,
    forward: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance over axes, which stay with length 1.

    The variance is the mean square of what a number has beyond the mean, so that nothing cancels. On a CPU, where every
    entry counts, both are found faster where they can be (``_variance``, ``_moments_by_products``).

    Args:
      x: floating, of any shape.
      axes: what is averaged over.
      counted: bool, of ``x``'s rank, broadcasting against it: the entries that count. Where none does, both are 0.
      groups: averages over the last axis, too, which isn't one of ``axes``, in as many groups of neighbours; it stays
        with that length.
      forward: whether nothing is differentiated.

    >>> mean, variance = moments(jnp.array([[1.0, 3.0, 100.0]]), (1,), jnp.array([[True, True, False]]))
    >>> mean.tolist(), variance.tolist()
    ([[2.0]], [[1.0]])
    """
    axes, fast = tuple(axes), counted is None and _fast_on_cpu(x)
    large = fast and (multiplied_by_eigen() or x.size > MOST_SMALL)
    rows_or_columns = axes in ((x.ndim - 1,), tuple(range(x.ndim - 1))) and groups is None
    if forward and fast and not large and rows_or_columns and not any(split(x)):
        return _moments_by_products(axes, x)
    mean = average(x, axes, counted, groups)
    if large:
        return mean, _variance(axes, groups, x, mean)
    # XLA takes a difference into the sum that alone uses it. One that it shares is written to memory first.
    alone = jax.lax.optimization_barrier(_spread(mean, x, groups))
    return mean, average(jnp.square(x - alone), axes, counted, groups)


@functools.partial(jax.jit, static_argnums=(0, 1), inline=True)
def _variance(axes: tuple[int, ...], groups: int | None, x: jax.Array, mean: jax.Array) -> jax.Array:
    """The variance as the mean square less the squared mean, where that is as good.

    XLA for a CPU has a library take both sums, which squares on the way; to subtract a mean first takes it half as long
    again. Forward, batch norm of 28 x 28 x 16 took 0.85 of the time of two passes, instance norm 0.92, smaller ones the
    same: ``python -m experiments.benchmarks.layers --only norm``, with ``lowered_as("native")`` and without.

    The difference loses the digits that mean square and squared mean share. So where a mean is far, more than
    ``MOST_DEVIATIONS`` from zero, the second pass is taken after all: over all of ``x``, but its result only where the
    mean is far, so that what one example is changes no other, nor one lane another.
    """
    mean = jnp.squeeze(mean, axes)
    variance = jnp.squeeze(average(jnp.square(x), axes, None, groups), axes) - jnp.square(mean)

    def near(variance, mean):
        return jnp.abs(mean) <= MOST_DEVIATIONS * jnp.sqrt(variance)  # the root of a negative number is NaN, and far

    def again(variance, mean, x):
        rest = x - _spread(jnp.expand_dims(mean, axes), x, groups)
        exact = jnp.squeeze(average(jnp.square(rest), axes, None, groups), axes)
        return jnp.where(near(variance, mean), variance, exact)

    far = _anywhere(~near(variance, mean) & jnp.isfinite(mean))
    return jnp.expand_dims(jax.lax.cond(far, again, lambda variance, mean, x: variance, variance, mean, x), axes)


def _moments_by_products(axes: tuple[int, ...], x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Moments over the last axis or all others, both sums as products with a vector, which take less to start.

    Forward, layer norm and batch norm of 128 x 512 took 0.9 of the time; with gradients they would take 1.07.
    """
    shape = [1 if axis in axes else n for axis, n in enumerate(x.shape)]
    ones = jnp.ones(math.prod(x.shape[axis] for axis in axes), x.dtype)

    def mean(x):
        rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
        factors = (rows, ones) if axes == (x.ndim - 1,) else (ones, rows)
        return jnp.dot(*factors, precision="highest").reshape(shape) / _count(x, axes, None, None)

    center = mean(x)
    return center, mean(jnp.square(x - center))


@custom_vmap
def _anywhere(mask: jax.Array) -> jax.Array:
    """Whether any entry is true, of all lanes together: then a choice by it stays a choice under ``vmap``."""
    return jnp.sum(mask, dtype=np.float32) > 0  # a sum of floats goes to the library; jnp.any would be two small loops


@_anywhere.def_vmap  # pyright: ignore[reportFunctionMemberAccess]
def _(lanes, batched, mask):
    return _anywhere(mask), False


def average(
    x: jax.Array, axes: Sequence[int], counted: jax.Array | None = None, groups: int | None = None
) -> jax.Array:
    """The mean alone, over axes that stay with length 1, in ``x``'s dtype; 0 where nothing counts.

    Args:
      x, axes, counted, groups: as for ``moments``.

    >>> average(jnp.array([[1.0, 3.0, 100.0]]), (1,), jnp.array([[True, True, False]])).tolist()
    [[2.0]]
    """
    return _total(x, axes, counted, groups) / _count(x, axes, counted, groups)


def _total(x: jax.Array, axes: Sequence[int], counted: jax.Array | None, groups: int | None) -> jax.Array:
    x = x if counted is None else jnp.where(counted, x, jnp.zeros((), x.dtype))
    return _gathered(jnp.sum(x, tuple(axes), keepdims=True), groups)


def _fast_on_cpu(x: jax.Array) -> bool:
    """Whether ways that are fast on a CPU are open to ``x``."""
    of_many_digits, known = x.dtype in (np.float32, np.float64), all(isinstance(n, int) for n in x.shape)
    return jax.default_backend() == "cpu" and of_many_digits and known and lowering() is None


def _count(x: jax.Array, axes: Sequence[int], counted: jax.Array | None, groups: int | None) -> Any:
    """How many entries count, at least 1: a number, or an array that broadcasts against the mean."""
    width = 1 if groups is None else x.shape[-1] // groups
    if counted is None:
        return max(width * math.prod(x.shape[axis] for axis in axes), 1)
    repeated = math.prod(x.shape[axis] for axis in axes if counted.shape[axis] == 1)
    count = repeated * jnp.sum(counted, axis=tuple(axes), keepdims=True, dtype=x.dtype)
    count = width * count if counted.shape[-1] == 1 else _gathered(count, groups)
    return jnp.maximum(count, jnp.ones((), x.dtype))


def _gathered(x: jax.Array, groups: int | None) -> jax.Array:
    """Sums over groups of neighbours on the last axis: ``[..., features]`` -> ``[..., groups]``."""
    return x if groups is None else jnp.sum(x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups), -1)


def _spread(of_group: jax.Array, x: jax.Array, groups: int | None) -> jax.Array:
    """What each group has, at each of its features: ``[..., groups]`` -> ``[..., features]``."""
    return of_group if groups is None else jnp.repeat(of_group, x.shape[-1] // groups, axis=-1)


def standardize(
    x: jax.Array,
    axes: Sequence[int],
    epsilon: Any,
    counted: jax.Array | None = None,
    scale: jax.Array | None = None,
    offset: jax.Array | None = None,
    groups: int | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """``(x - mean) / sqrt(variance + epsilon) * scale + offset``, of all entries, and the moments of those that count.

    Derivatives are written out: with n entries that count, ``xhat`` the result without scale and offset, ``r = 1 /
    sqrt(variance + epsilon)``,

        dy = scale r (dx - (sum(dx) + xhat sum(xhat dx)) / n) + xhat dscale + doffset

    of which the gradient is the transpose. What is constant along an axis is added up before it is spread along it, so
    that of the large sums in the gradient there are two, where JAX, going back through mean and variance, makes six;
    and differences from the mean are made again where they are needed, so that nothing is kept but ``x``.

    Args:
      x, axes, counted, groups: as for ``moments``.
      epsilon: added to the variance; may be traced.
      scale, offset: of ``x``'s rank, broadcasting against it, and of one shape; or None, for 1 and 0.

    >>> y, mean, variance = standardize(jnp.array([[1.0, 3.0, 4.0]]), (1,), 0.0, jnp.array([[True, True, False]]))
    >>> y.tolist(), mean.tolist(), variance.tolist()
    ([[-1.0, 1.0, 2.0]], [[2.0]], [[1.0]])
    """
    return _standardize(tuple(axes), groups, True, x, jnp.asarray(epsilon, x.dtype), counted, scale, offset)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _standardize(axes, groups, forward, x, epsilon, counted, scale, offset):
    mean, variance = moments(x, axes, counted, groups, forward)
    root = jax.lax.rsqrt(variance + epsilon)
    y = (x - _spread(mean, x, groups)) * scale_and_offset(_spread(root, x, groups), scale)
    return scale_and_offset(y, None, offset), mean, variance


@functools.partial(_standardize.defjvp, symbolic_zeros=True)
def _standardize_jvp(axes, groups, _, primals, tangents):
    x, epsilon, counted, scale, _ = primals
    y, mean, variance = _standardize(axes, groups, False, *primals)
    root = jax.lax.rsqrt(variance + epsilon)
    tangents = [None if isinstance(of, SymbolicZero) else of for of in tangents]
    linear = functools.partial(_tangents, axes, groups)
    dy, dmean, dvariance = jax.checkpoint(linear, prevent_cse=False)(x, mean, root, counted, scale, *tangents)
    return (y, mean, variance), (dy, dmean, dvariance)


def _tangents(axes, groups, x, mean, root, counted, scale, dx, depsilon, _, dscale, doffset):
    """Tangents of y, mean and variance, linear in those of the arguments, of which any may be None."""
    spread = functools.partial(_spread, x=x, groups=groups)
    alone, _ = jax.lax.optimization_barrier((spread(mean), root))  # as in moments, and no difference of theirs
    dy, dmean, dvariance = jnp.zeros((), x.dtype), jnp.zeros_like(mean), jnp.zeros_like(mean)
    level, slope = doffset, None if dscale is None else spread(root) * dscale
    if dx is not None:
        inside = dx if counted is None else jnp.where(counted, dx, jnp.zeros((), x.dtype))
        count = _count(x, axes, counted, groups)
        dmean = _total(inside, axes, None, groups) / count
        dvariance = 2 * _total((x - spread(mean)) * inside, axes, None, groups) / count
        level = scale_and_offset(spread(-root * dmean), scale, level)
        dy = dx * scale_and_offset(spread(root), scale)
    if dx is not None or depsilon is not None:
        of_square = dvariance if depsilon is None else dvariance + depsilon
        slope = scale_and_offset(spread(-0.5 * root**3 * of_square), scale, slope)
    dy = dy if slope is None else dy + (x - alone) * slope
    return jnp.broadcast_to(scale_and_offset(dy, None, level), x.shape), dmean, dvariance


def scale_and_offset(x: jax.Array, scale: jax.Array | None, offset: jax.Array | None = None) -> jax.Array:
    """``x * scale + offset``, of which either may be None, for 1 and 0."""
    x = x if scale is None else x * scale
    return x if offset is None else x + offset


def softmax(x: jax.Array, counted: jax.Array | None = None) -> jax.Array:
    """The softmax over the last axis of the entries that count; the others are exactly 0, and so are rows without any.

    Args:
      x: ``[..., entries]``, floating.
      counted: bool, of ``x``'s rank, broadcasting against it, or None when all count.

    >>> softmax(jnp.zeros((1, 3)), jnp.array([[True, True, False]])).tolist()
    [[0.5, 0.5, 0.0]]
    """
    if counted is None:
        return jax.nn.softmax(x, axis=-1)
    # A finite stand-in: minus infinity in a row without any entry would be NaN, and its gradient too.
    lowest = jnp.asarray(jnp.finfo(x.dtype).min, x.dtype)
    shares = jax.nn.softmax(jnp.where(counted, x, lowest), axis=-1)
    return jnp.where(counted, shares, jnp.zeros((), x.dtype))
