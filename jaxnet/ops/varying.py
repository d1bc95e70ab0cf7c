"""Arrays under ``jax.shard_map``, which keeps account of the axes of its mesh along which each of them varies."""

from __future__ import annotations

from typing import Any

import jax
from jax import lax


def varying_alike(*arrays: jax.Array) -> list[jax.Array]:
    """The arrays, each varying along all axes of a mesh along which any of them does.

    JAX's own operations see to that themselves, so that the gradient of weights which all devices share is the sum over
    the devices. What has a gradient of its own must ask for it. Outside of ``jax.shard_map`` nothing happens.
    """
    axes = [_axes(jax.typeof(array)) for array in arrays]
    every = frozenset[Any]().union(*axes)
    return [_cast(array, tuple(every - own)) if every - own else array for array, own in zip(arrays, axes, strict=True)]


def _cast(array: jax.Array, axes: tuple[Any, ...]) -> jax.Array:
    if hasattr(lax, "pcast"):
        return lax.pcast(array, axes, to="varying")
    return lax.pvary(array, axes)  # pyright: ignore[reportAttributeAccessIssue] -- before JAX 0.9


def _axes(aval: Any) -> frozenset[Any]:
    return aval.mat.varying if hasattr(aval, "mat") else aval.vma  # JAX has called it so since 0.10
