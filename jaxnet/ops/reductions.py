"""Reductions that count some entries only: the rows that training says are examples, steps inside, active features."""

from __future__ import annotations

import contextlib
import contextvars
import math
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp

_valid_rows: contextvars.ContextVar[jax.Array | None] = contextvars.ContextVar("valid_rows", default=None)


def valid_rows() -> jax.Array | None:
    """Which rows of the batch are examples: ``[batch]``, bool, or None when all are.

    A batch that isn't full (the last of an epoch, or one whose size differs from lane to lane) is filled up with copies
    of an example. Losses leave the copies out by themselves; a layer that computes something of the batch as a whole,
    in training, asks here. Training answers; where nobody does, every row counts.
    """
    return _valid_rows.get()


@contextlib.contextmanager
def counting_rows(valid: jax.Array | None) -> Iterator[None]:
    """Inside, ``valid_rows()`` is ``valid``; what folds another axis into the batch repeats the mask accordingly.

    >>> with counting_rows(jnp.array([True, False])):
    ...     valid_rows().tolist()
    [True, False]
    """
    token = _valid_rows.set(valid)
    try:
        yield
    finally:
        _valid_rows.reset(token)


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
    if counted is None:
        return jnp.mean(x, axis=tuple(axes), keepdims=True)
    repeated = math.prod(x.shape[axis] for axis in axes if counted.shape[axis] == 1)
    count = repeated * jnp.sum(counted, axis=tuple(axes), keepdims=True, dtype=x.dtype)
    total = jnp.sum(jnp.where(counted, x, jnp.zeros((), x.dtype)), axis=tuple(axes), keepdims=True)
    return total / jnp.maximum(count, jnp.ones((), x.dtype))


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
