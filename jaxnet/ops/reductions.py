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


def moments(x: jax.Array, axes: Sequence[int], counted: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance over axes, which stay with length 1; in two passes, so that nothing cancels.

    Args:
      x: floating, of any shape.
      axes: what is averaged over.
      counted: bool, of ``x``'s rank, broadcasting against it: the entries that count. Where none does, both are 0.

    >>> mean, variance = moments(jnp.array([[1.0, 3.0, 100.0]]), (1,), jnp.array([[True, True, False]]))
    >>> mean.tolist(), variance.tolist()
    ([[2.0]], [[1.0]])
    """
    mean = average(x, axes, counted)
    return mean, average(jnp.square(x - mean), axes, counted)


def average(x: jax.Array, axes: Sequence[int], counted: jax.Array | None = None) -> jax.Array:
    """The mean alone, over axes that stay with length 1, in ``x``'s dtype; 0 where nothing counts.

    Args:
      x, axes, counted: as for ``moments``.

    >>> average(jnp.array([[1.0, 3.0, 100.0]]), (1,), jnp.array([[True, True, False]])).tolist()
    [[2.0]]
    """
    return _total(x, axes, counted) / _count(x, axes, counted)


def _total(x: jax.Array, axes: Sequence[int], counted: jax.Array | None = None) -> jax.Array:
    return jnp.sum(x if counted is None else jnp.where(counted, x, jnp.zeros((), x.dtype)), tuple(axes), keepdims=True)


def _count(x: jax.Array, axes: Sequence[int], counted: jax.Array | None) -> Any:
    """How many entries count, at least 1: a number, or an array that broadcasts against the mean."""
    if counted is None:
        return math.prod(x.shape[axis] for axis in axes)
    repeated = math.prod(x.shape[axis] for axis in axes if counted.shape[axis] == 1)
    count = repeated * jnp.sum(counted, axis=tuple(axes), keepdims=True, dtype=x.dtype)
    return jnp.maximum(count, jnp.ones((), x.dtype))


def standardize(
    x: jax.Array, axes: Sequence[int], epsilon: Any, counted: jax.Array | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """``(x - mean) / sqrt(variance + epsilon)``, of all entries, and the moments of those that count.

    The gradient is written out: with n entries that count, ``xhat`` the result, ``r = 1 / sqrt(variance + epsilon)``,

        dx = r (dy - (sum(dy) + xhat sum(dy xhat)) / n)

    which is two sums where JAX, going back through mean and variance, takes four. It has no forward mode (``jax.jvp``);
    derivatives of the gradient (``jax.hessian``) are there.

    Args:
      x, axes, counted: as for ``moments``.
      epsilon: added to the variance; may be traced.

    >>> y, mean, variance = standardize(jnp.array([[1.0, 3.0, 4.0]]), (1,), 0.0, jnp.array([[True, True, False]]))
    >>> y.tolist(), mean.tolist(), variance.tolist()
    ([[-1.0, 1.0, 2.0]], [[2.0]], [[1.0]])
    """
    return _standardize(tuple(axes), x, jnp.asarray(epsilon, x.dtype), counted)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _standardize(axes, x, epsilon, counted):
    mean, variance = moments(x, axes, counted)
    return (x - mean) * jax.lax.rsqrt(variance + epsilon), mean, variance


def _standardize_forward(axes, x, epsilon, counted):
    x, epsilon, counted = x.value, epsilon.value, None if counted is None else counted.value
    mean, variance = moments(x, axes, counted)
    scale = jax.lax.rsqrt(variance + epsilon)
    return ((x - mean) * scale, mean, variance), (x, mean, scale, counted)


def _standardize_backward(axes, saved, gradients):
    x, mean, scale, counted = saved
    dy, dmean, dvariance = (0 if isinstance(of, SymbolicZero) else of for of in gradients)
    centred = x - mean
    along = jnp.sum(dy * centred, axes, keepdims=True)
    of_square = -0.5 * scale**3 * along  # with respect to variance + epsilon
    count = _count(x, axes, counted)
    dmean = (dmean - scale * jnp.sum(dy, axes, keepdims=True)) / count
    dx = dmean + centred * (2 * (dvariance + of_square) / count)
    if counted is not None:
        dx = jnp.where(counted, dx, jnp.zeros((), x.dtype))
    return dy * scale + dx, jnp.sum(of_square), None


_standardize.defvjp(_standardize_forward, _standardize_backward, symbolic_zeros=True)


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
