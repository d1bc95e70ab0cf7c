"""Layers that draw in training and do nothing in evaluation."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxnet.layer import Layer, as_spec
from jaxnet.ops.parameters import narrow_positions
from jaxnet.ops.random import position_uniform
from jaxnet.sequence import on_features


def dropout(rate: Any) -> Layer:
    """In training, sets each entry to zero with probability ``rate`` and divides the others by ``1 - rate``.

    Expected values stay the same, so nothing is done in evaluation ("inverted" dropout). Whether an entry is dropped
    depends on the key, its example's place in the batch and its feature's place among the active ones, not on shapes:
    a 50-wide layer drops the same units alone and inside wider arrays.

    Args:
      rate: the share that is dropped, a number in [0, 1); may be traced.

    Input and output: ``[batch, ..., features]``, any floating dtype. No parameters. Under sizes, the state holds the
    mask of the active features.

    Raises:
      ValueError: here, for a rate outside [0, 1); from ``apply``, when it gets no key in training.

    Source: Srivastava et al., "Dropout" (JMLR 2014), who scale in evaluation instead; the expectations agree.

    >>> import jax, jax.numpy as jnp
    >>> layer = dropout(0.5)
    >>> params, state, out = layer.init(None, (4,))
    >>> y, state = layer.apply(params, state, jnp.ones((1, 4)), key=jax.random.key(0), train=True)
    >>> sorted(set(y.ravel().tolist())), layer.apply(params, state, jnp.ones((1, 4)))[0].tolist()
    ([0.0, 2.0], [[1.0, 1.0, 1.0, 1.0]])
    """
    if isinstance(rate, (int, float)) and not 0 <= rate < 1:
        raise ValueError(f"dropout: rate is the share that is dropped and must be in [0, 1), got {rate!r}")

    def init(key, spec):
        spec = as_spec(spec, rank=1)
        return (), () if spec.active is None else {"active": spec.active}, spec

    def apply(params, state, x, *, key=None, train=False):
        if not train:
            return x, state
        if key is None:
            raise ValueError("dropout: needs a key in training, got none; try apply(..., key=jax.random.key(0))")
        *lead, features = map(jnp.arange, x.shape)
        if state:
            features = narrow_positions(state["active"])
        keep = position_uniform(key, *lead, features) >= rate
        return jnp.where(keep, x / jnp.asarray(1 - rate, x.dtype), jnp.zeros((), x.dtype)), state

    return on_features(init, apply)
