"""Layers that only change the shape of an example."""

from __future__ import annotations

import math

import jax.numpy as jnp

from jaxnet.layer import Layer, Spec, as_spec


def _flatten() -> Layer:
    def init(key, spec):
        spec = as_spec(spec)
        active = spec.active
        if active is not None:
            active = jnp.tile(active, math.prod(spec.shape[:-1]))
        return (), (), Spec((math.prod(spec.shape),), spec.dtype, active)

    def apply(params, state, x, *, key=None, train=False):
        return x.reshape(len(x), math.prod(x.shape[1:])), state

    return Layer(init, apply)


flatten: Layer = _flatten()
"""All axes of an example as one, in row-major order: ``[batch, ...]`` to ``[batch, features]``. A layer, not a factory.

>>> params, state, out = flatten.init(None, (28, 28, 1))
>>> out.shape
(784,)
"""
