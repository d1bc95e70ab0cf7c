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
from jax.custom_derivatives import SymbolicZero

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
    x: jax.Array, axes: Sequence[int], counted: jax.Array | None = None, groups: int | None = None
) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance over axes, which stay with length 1; in two passes, so that nothing cancels.

    Args:
      x: floating, of any shape.
      axes: what is averaged over.
      counted: bool, of ``x``'s rank, broadcasting against it: the entries that count. Where none does, both are 0.
      groups: averages over the last axis, too, which isn't one of ``axes``, in as many groups of neighbours; it stays
        with that length.

    >>> mean, variance = moments(jnp.array([[1.0, 3.0, 100.0]]), (1,), jnp.array([[True, True, False]]))
    >>> mean.tolist(), variance.tolist()
    ([[2.0]], [[1.0]])
    """
    mean = average(x, axes, counted, groups)
    # XLA takes a difference into the sum that alone uses it. One that it shares is written to memory first.
    alone = jax.lax.optimization_barrier(_spread(mean, x, groups))
    return mean, average(jnp.square(x - alone), axes, counted, groups)


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


def _count(x: jax.Array, axes: Sequence[int], counted: jax.Array | None, groups: int | None) -> Any:
    """How many entries count, at least 1: a number, or an array that broadcasts against the mean."""
    width = 1 if groups is None else x.shape[-1] // groups
    if counted is None:
        return width * math.prod(x.shape[axis] for axis in axes)
    repeated = math.prod(x.shape[axis] for axis in axes if counted.shape[axis] == 1)
    count = repeated * jnp.sum(counted, axis=tuple(axes), keepdims=True, dtype=x.dtype)
    count = width * count if counted.shape[-1] == 1 else _gathered(count, groups)
    return jnp.maximum(count, jnp.ones((), x.dtype))


def _gathered(x: jax.Array, groups: int | None) -> jax.Array:
    """Sums over groups of neighbours on the last axis: ``[..., features]`` -> ``[..., groups]``."""
    return x if groups is None else jnp.sum(x.reshape(*x.shape[:-1], groups, -1), -1)


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
    return _standardize(tuple(axes), groups, x, jnp.asarray(epsilon, x.dtype), counted, scale, offset)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _standardize(axes, groups, x, epsilon, counted, scale, offset):
    mean, variance = moments(x, axes, counted, groups)
    root = jax.lax.rsqrt(variance + epsilon)
    y = (x - _spread(mean, x, groups)) * scale_and_offset(_spread(root, x, groups), scale)
    return scale_and_offset(y, None, offset), mean, variance


@functools.partial(_standardize.defjvp, symbolic_zeros=True)
def _standardize_jvp(axes, groups, primals, tangents):
    x, epsilon, counted, scale, _ = primals
    y, mean, variance = _standardize(axes, groups, *primals)
    root = jax.lax.rsqrt(variance + epsilon)
    tangents = [None if isinstance(of, SymbolicZero) else of for of in tangents]
    forward = functools.partial(_tangents, axes, groups)
    dy, dmean, dvariance = jax.checkpoint(forward, prevent_cse=False)(x, mean, root, counted, scale, *tangents)
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
