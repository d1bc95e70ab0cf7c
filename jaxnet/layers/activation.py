"""Activations with parameters, and the softmax. Any other is a plain function, such as ``jax.nn.relu``."""

from __future__ import annotations

import operator
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.layer import Layer, Size, Spec, along_features, as_spec, check_features, units_of
from jaxnet.ops.parameters import Initializer, parameter, parameter_dtype
from jaxnet.ops.reductions import softmax as softmax_of_counted
from jaxnet.sequence import on_features


def prelu(*, initial: Any = 0.25) -> Layer:
    """``x`` where it is positive, ``slope * x`` elsewhere, with a learned slope for each feature.

    Args:
      initial: every slope at first, 0.25 as in the paper; may be traced.

    Input and output: ``[batch, ..., features]``. Parameters: ``slope`` ``[features]``, which the penalties of
    ``losses`` leave out, as the paper does. No state.

    Raises:
      ValueError: from ``init``, for a spec without axes; from ``apply``, when ``x`` has not the ``features`` that
        ``init`` saw.

    Source: He et al., "Delving deep into rectifiers" (2015), sec. 2.1, whose slopes are per channel. PyTorch's
    ``PReLU`` has one slope for all unless told the number of features.

    >>> layer = prelu()
    >>> params, state, out = layer.init(jax.random.key(0), (2,))
    >>> layer.apply(params, state, jnp.array([[-4.0, 4.0]]))[0].tolist()
    [[-1.0, 4.0]]
    """

    def init(key, spec):
        spec = as_spec(spec, rank=1)
        dtype = parameter_dtype(spec)
        slope = parameter(key, jax.nn.initializers.ones, spec.shape[-1:], active=(spec.active,), dtype=dtype)
        if slope.dtype != bool:  # else only which entries are active is asked for
            slope = slope * jnp.asarray(initial, dtype)
        return {"slope": slope}, (), Spec(spec.shape, dtype, spec.active)

    def apply(params, state, x, *, key=None, train=False):
        slope = params["slope"]
        _check_width("prelu", x, slope.shape[0])
        return jnp.where(x > 0, x, along_features(slope, x) * x), state

    return on_features(init, apply, rank=2)


def maxout(features: int | Size, pieces: int, *, w_init: Initializer = jax.nn.initializers.lecun_normal()) -> Layer:
    """The largest of ``pieces`` affine functions for each unit: ``[batch, ..., in]`` to ``[batch, ..., features]``.

    Args:
      features: units of the output; a ``Size`` lets it differ from lane to lane.
      pieces: affine functions of a unit.
      w_init: draws ``w``, with the variance that ``dense`` has.

    Parameters: ``w`` ``[in_features, pieces * features]`` and ``b`` ``[pieces * features]``, the first pieces of all
    units first. No state.

    Raises:
      TypeError, ValueError: here, for features or pieces of the wrong kind or below 1. ValueError: from ``init``, for a
        spec without axes; from ``apply``, when ``x`` has not the ``in_features`` that ``init`` saw.

    Source: Goodfellow et al., "Maxout networks" (2013), sec. 3.

    >>> params = {"w": jnp.array([[1.0, -1.0]]), "b": jnp.zeros(2)}  # the absolute value
    >>> maxout(1, pieces=2).apply(params, (), jnp.array([[-3.0], [2.0]]))[0].tolist()
    [[3.0], [2.0]]
    """
    check_features("maxout", features)
    check_features("maxout", pieces, "pieces")
    pieces = operator.index(pieces)

    def init(key, spec):
        spec = as_spec(spec, rank=1)
        dtype = parameter_dtype(spec)
        units, active = units_of(features)
        every = None if active is None else jnp.tile(active, pieces)
        shape = (spec.shape[-1], pieces * units)
        params = {
            "w": parameter(key, w_init, shape, active=(spec.active, every), dtype=dtype),
            "b": parameter(key, jax.nn.initializers.zeros, shape[1:], active=(every,), dtype=dtype),
        }
        return params, (), Spec((*spec.shape[:-1], units), dtype, active)

    def apply(params, state, x, *, key=None, train=False):
        _check_width("maxout", x, params["w"].shape[0])
        y = x @ params["w"]  # [batch, ..., pieces * features]
        y = y + along_features(params["b"], y)
        return jnp.max(y.reshape(*y.shape[:-1], pieces, y.shape[-1] // pieces), axis=-2), state

    return on_features(init, apply, rank=2)


def _softmax() -> Layer:
    def init(key, spec):
        spec = as_spec(spec, rank=1)
        state = () if spec.active is None else {"active": spec.active}
        return (), state, Spec(spec.shape, parameter_dtype(spec), spec.active)

    def apply(params, state, x, *, key=None, train=False):
        if x.ndim < 2:
            raise ValueError(f"softmax: expected x of shape [batch, ..., features], but got {x.shape}; try x[None]")
        x = x.astype(parameter_dtype(x))
        return softmax_of_counted(x, along_features(state["active"], x) if state else None), state

    init.__qualname__ = "softmax"
    return on_features(init, apply, rank=2)


softmax: Layer = _softmax()
"""The softmax over the features, ``[batch, ..., features]``, which then sum to 1. A layer, not a factory.

Under sizes it is over the active features, whose mask the state holds; the others stay zero. Losses with "softmax" in
their name take what comes before it.

>>> params, state, out = softmax.init(None, Spec((3,), active=jnp.array([True, True, False])))
>>> softmax.apply(params, state, jnp.zeros((1, 3)))[0].tolist()
[[0.5, 0.5, 0.0]]
"""


def _check_width(name: str, x: Any, features: int) -> None:
    if x.ndim < 2 or x.shape[-1] != features:
        raise ValueError(
            f"{name}: expected x of shape [batch, ..., {features}], the features that init saw, but got {x.shape}. "
            f"If the batch axis is missing, try x[None]; if the features are on axis 1, try jnp.moveaxis(x, 1, -1)."
        )
