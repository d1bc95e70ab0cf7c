"""Arrays on a mesh of devices, where JAX wants to be told how what layers make lies there.

Under ``jax.shard_map`` it keeps account of the axes along which each array varies, and on a mesh with explicit axes
(``jax.make_mesh``, ``jax.set_mesh``) of the axes over which each is split. Elsewhere nothing of this does anything.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec


def varying_alike(*arrays: jax.Array) -> list[jax.Array]:
    """The arrays, each varying along all axes of a mesh along which any of them does.

    JAX's own operations see to that themselves, so that the gradient of weights which all devices share is the sum over
    the devices. What has a gradient of its own must ask for it.
    """
    axes = [_axes(jax.typeof(array)) for array in arrays]
    every = frozenset[Any]().union(*axes)
    return [_cast(array, tuple(every - own)) if every - own else array for array, own in zip(arrays, axes, strict=True)]


def batch_zeros(x: jax.Array, shape: tuple[int, ...], dtype: Any, axis: int = 0) -> jax.Array:
    """Zeros, of which an axis is the batch, on the devices as the first axis of ``x`` is, varying as ``x`` does."""
    if split(x)[0] is None:
        zeros = jnp.zeros(shape, dtype)
    else:
        corner = lax.slice(x, (0,) * x.ndim, (x.shape[0], *(min(n, 1) for n in x.shape[1:])))
        zeros = lax.broadcast_in_dim(jnp.zeros_like(corner, dtype).sum(range(1, x.ndim)), shape, (axis,))
    return varying_alike(zeros, x)[0]


def rows(w: jax.Array, indices: jax.Array) -> jax.Array:
    """``w[indices]``, rows of a matrix that all devices have; indices that are too large are of the last row."""
    axes = split(indices)
    return jnp.asarray(w).at[indices].get(mode="clip", out_sharding=PartitionSpec(*axes, None) if any(axes) else None)


def split(array: jax.Array) -> tuple[Any, ...]:
    """For each axis, the axes of a mesh with explicit axes over which it is split, or None."""
    spec = tuple(jax.typeof(array).sharding.spec)
    return spec + (None,) * (array.ndim - len(spec))


def _cast(array: jax.Array, axes: tuple[Any, ...]) -> jax.Array:
    if hasattr(lax, "pcast"):
        return lax.pcast(array, axes, to="varying")
    return lax.pvary(array, axes)  # pyright: ignore[reportAttributeAccessIssue] -- before JAX 0.9


def _axes(aval: Any) -> frozenset[Any]:
    return aval.mat.varying if hasattr(aval, "mat") else aval.vma  # JAX has called it so since 0.10
