"""Layers that draw in training and do nothing in evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.layer import Layer, Spec, along_features, as_spec
from jaxnet.ops.parameters import narrow_positions, parameter_dtype
from jaxnet.ops.random import position_key, position_uniform
from jaxnet.sequence import on_features


def dropout(rate: Any, *, whole_channels: bool = False) -> Layer:
    """In training, sets each entry to zero with probability ``rate`` and divides the others by ``1 - rate``.

    Expected values stay the same, so nothing is done in evaluation ("inverted" dropout). Whether an entry is dropped
    depends on the key, its example's place in the batch and its feature's place among the active ones, not on shapes:
    a 50-wide layer drops the same units alone and inside wider arrays.

    Args:
      rate: the share that is dropped, a number in [0, 1); may be traced.
      whole_channels: whether a feature of an example is dropped at all its positions together, one draw for each
        example and feature. Behind a convolution neighbouring positions say much the same, so dropping some is no
        loss; PyTorch calls this ``Dropout2d``. For sequences it is one mask for all time steps.

    Input and output: ``[batch, ..., features]``, any floating dtype; others become float32. No parameters. Under
    sizes, the state holds the mask of the active features.

    Raises:
      ValueError: here, for a rate outside [0, 1); from ``apply``, when it gets no key in training.

    Source: Srivastava et al., "Dropout" (JMLR 2014), who scale in evaluation instead; the expectations agree. Whole
    channels: Tompson et al., "Efficient object localization using convolutional networks" (2015), sec. 3.2.

    >>> import jax, jax.numpy as jnp
    >>> layer = dropout(0.5)
    >>> params, state, out = layer.init(None, (4,))
    >>> y, state = layer.apply(params, state, jnp.ones((1, 4)), key=jax.random.key(0), train=True)
    >>> sorted(set(y.ravel().tolist())), layer.apply(params, state, jnp.ones((1, 4)))[0].tolist()
    ([0.0, 2.0], [[1.0, 1.0, 1.0, 1.0]])
    """
    if isinstance(rate, (int, float)) and not 0 <= rate < 1:
        raise ValueError(f"dropout: rate is the share that is dropped and must be in [0, 1), got {rate!r}")

    def apply(params, state, x, *, key: Any = None, train=False):
        x = x.astype(parameter_dtype(x))
        if not train:
            return x, state
        _check_key("dropout", key)
        *lead, features = map(jnp.arange, x.shape)
        if state:
            features = narrow_positions(state["active"])
        drawn = lead[:1] if whole_channels else lead
        keep = position_uniform(key, *drawn, features) >= rate
        if whole_channels:
            keep = keep.reshape(x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1])
        return jnp.where(keep, x / jnp.asarray(1 - rate, x.dtype), jnp.zeros((), x.dtype)), state

    return on_features(_init("dropout"), apply)


def gaussian_noise(deviation: Any) -> Layer:
    """In training, adds to each entry a normal number of mean 0; in evaluation, nothing.

    What is added depends on the key and the entry's place, as in ``dropout``.

    Args:
      deviation: the standard deviation of the noise, not negative; may be traced.

    Input and output: ``[batch, ..., features]``, any floating dtype; others become float32. No parameters. Under
    sizes, the state holds the mask of the active features; the others stay zero.

    Raises:
      ValueError: here, for a negative deviation; from ``apply``, when it gets no key in training.

    Source: Bishop, "Training with noise is equivalent to Tikhonov regularization" (1995).

    >>> layer = gaussian_noise(0.1)
    >>> params, state, out = layer.init(None, (10_000,))
    >>> y, state = layer.apply(params, state, jnp.ones((1, 10_000)), key=jax.random.key(0), train=True)
    >>> abs(y.mean() - 1) < 0.004, abs(y.std() - 0.1) < 0.003
    (Array(True, dtype=bool), Array(True, dtype=bool))
    """
    if isinstance(deviation, (int, float)) and not deviation >= 0:
        raise ValueError(f"gaussian_noise: deviation must not be negative, got {deviation!r}")

    def apply(params, state, x, *, key: Any = None, train=False):
        x = x.astype(parameter_dtype(x))
        if not train:
            return x, state
        _check_key("gaussian_noise", key)
        noise = jax.random.normal(position_key(key), x.shape) * deviation
        if state:
            noise = jnp.take(noise, narrow_positions(state["active"]), axis=-1)
            noise = jnp.where(along_features(state["active"], x), noise, jnp.zeros((), noise.dtype))
        return x + noise.astype(x.dtype), state

    return on_features(_init("gaussian_noise"), apply)


def _init(name: str) -> Callable[..., Any]:
    """No parameters; the state is the mask of the active features where there are sizes."""

    def init(key, spec):
        spec = as_spec(spec, rank=1)
        out = Spec(spec.shape, parameter_dtype(spec), spec.active)
        return (), () if spec.active is None else {"active": spec.active}, out

    init.__qualname__ = name
    return init


def _check_key(name: str, key: Any) -> None:
    if key is None:
        raise ValueError(f"{name}: needs a key in training, got none; try apply(..., key=jax.random.key(0))")
