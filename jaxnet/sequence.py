"""Sequences of different lengths: values with the length of each, and layers that treat all time steps alike."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.layer import Layer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sequence:
    """A batch of sequences, padded to one length, with the length of each.

    Layers that work on features (dense, dropout, activations) take it in place of an array and put zeros past each end.
    Padding never changes an output, a state or a gradient. To ``init`` it is a ``Sequence`` of specs, as ``fit`` makes
    it of such inputs.

    Args:
      values: ``[batch, time, ...]``. What lies past an end is never read.
      lengths: ``[batch]``, int32, each in [0, time].

    >>> sequence = Sequence(jnp.ones((2, 3, 1)), jnp.array([3, 1]))
    >>> sequence.mask.tolist()
    [[True, True, True], [True, False, False]]
    """

    values: Any
    lengths: Any

    @property
    def mask(self) -> jax.Array:
        """Which time steps are inside: ``[batch, time]``, bool."""
        return jnp.arange(self.values.shape[1])[None, :] < self.lengths[:, None]

    def replace(self, values: jax.Array, fill: float = 0.0) -> Sequence:
        """The same lengths with other values ``[batch, time, ...]``, zero (or ``fill``) past each end."""
        mask = self.mask.reshape(self.mask.shape + (1,) * (values.ndim - 2))
        return Sequence(jnp.where(mask, values, jnp.asarray(fill, values.dtype)), self.lengths)


def on_features(init: Callable[..., Any], apply: Callable[..., Any], *, fill: float = 0.0) -> Layer:
    """A layer of functions that know arrays only and treat all axes but the last alike; it takes a ``Sequence`` too.

    Args:
      init, apply: as for ``Layer``; ``apply`` must keep the axes ``[batch, time]``.
      fill: what ``apply`` finds past each end, a number at which it and its slope are finite.

    >>> double = on_features(lambda key, spec: ((), (), spec), lambda p, s, x, key=None, train=False: (2 * x + 1, s))
    >>> double.apply((), (), Sequence(jnp.ones((1, 2, 1)), jnp.array([1])))[0].values.tolist()
    [[[3.0], [0.0]]]
    """

    @functools.wraps(init)
    def sequence_init(key, spec):
        if not isinstance(spec, Sequence):
            return init(key, spec)
        params, state, out = init(key, spec.values)
        return params, state, Sequence(out, spec.lengths)

    @functools.wraps(apply)
    def sequence_apply(params, state, x, *, key=None, train=False):
        if not isinstance(x, Sequence):
            return apply(params, state, x, key=key, train=train)
        y, state = apply(params, state, x.replace(x.values, fill).values, key=key, train=train)
        return x.replace(y), state

    return Layer(sequence_init, sequence_apply)
