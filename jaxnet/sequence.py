"""Sequences of different lengths: values with the length of each, and layers that treat all time steps alike."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.layer import Layer, Spec, as_spec


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sequence:
    """A batch of sequences, padded to one length, with the length of each.

    Layers that work on features (dense, dropout, activations) take it in place of an array and put zeros past each end;
    recurrent layers make of it a ``Sequence``, or one array for all of it. Padding never changes an output, a state or
    a gradient. To ``init`` it is a ``Sequence`` of specs, ``Sequence(Spec((time, features)), Spec((), jnp.int32))``, as
    ``fit`` makes it of such inputs.

    Args:
      values: ``[batch, time, ...]``. What lies past an end is never read, so for a layer it may be anything, NaN too;
        ``fit`` and the searches, which refuse data that aren't finite, want numbers there as everywhere.
      lengths: ``[batch]``, integers in [0, time], as a rule int32. Not uint8, which ``fit`` takes for pixels.

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

    @property
    def steps(self) -> jax.Array:
        """The lengths as int32, to calculate with: in int8 a product of two goes past the end."""
        return jnp.asarray(self.lengths).astype(jnp.int32)

    def replace(self, values: jax.Array, fill: float = 0.0) -> Sequence:
        """The same lengths with other values ``[batch, time, ...]``, zero (or ``fill``) past each end."""
        mask = self.mask.reshape(self.mask.shape + (1,) * (values.ndim - 2))
        return Sequence(jnp.where(mask, values, jnp.asarray(fill, values.dtype)), self.lengths)


def sequence_spec(spec: Any, rank: int = 1) -> tuple[Any, Spec | None]:
    """The two specs ``(values, lengths)`` of a ``Sequence`` of them; of any other spec, itself and None.

    Args:
      spec: what ``init`` was given.
      rank: the least number of axes of the values that the caller can work with, the time axis among them.

    Raises:
      TypeError: when lengths aren't integers. ValueError: when they aren't one number for each example, or values have
        fewer axes than ``rank``.

    >>> sequence_spec(Sequence(Spec((7, 3)), Spec((), jnp.int32)))[0].shape
    (7, 3)
    """
    if not isinstance(spec, Sequence):
        return spec, None
    values, lengths = as_spec(spec.values), as_spec(spec.lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(
            f"the lengths of a Sequence must be integers, got {lengths.dtype} (which uint8 becomes, too, since it "
            f"stands for pixels). Try lengths.astype(jnp.int32); in a spec, jn.Sequence(values, jn.Spec((), jnp.int32))"
        )
    if lengths.shape != () or len(values.shape) < rank:
        raise ValueError(
            f"expected a Sequence with values [batch, time, {'features' if rank > 1 else '...'}] and lengths [batch], "
            f"but got examples of shapes {values.shape} and {lengths.shape}"
            + (". If a step is one number, try jnp.expand_dims(values, -1)." if len(values.shape) == 1 else "")
        )
    return values, lengths


def on_features(init: Callable[..., Any], apply: Callable[..., Any], *, fill: float = 0.0, rank: int = 1) -> Layer:
    """A layer of functions that know arrays only and treat all axes but the last alike; it takes a ``Sequence`` too.

    Args:
      init, apply: as for ``Layer``; ``apply`` must keep the axes ``[batch, time]``.
      fill: what ``apply`` finds past each end, a number at which it and its slope are finite.
      rank: the least number of axes of a ``Sequence``'s examples: 1 ``(time,)`` where a step may be one number, 2 where
        it must have features.

    >>> double = on_features(lambda key, spec: ((), (), spec), lambda p, s, x, key=None, train=False: (2 * x + 1, s))
    >>> double.apply((), (), Sequence(jnp.ones((1, 2, 1)), jnp.array([1])))[0].values.tolist()
    [[[3.0], [0.0]]]
    """

    @functools.wraps(init)
    def sequence_init(key, spec):
        values, lengths = sequence_spec(spec, rank)
        params, state, out = init(key, values)
        return params, state, out if lengths is None else Sequence(out, lengths)

    @functools.wraps(apply)
    def sequence_apply(params, state, x, *, key=None, train=False):
        if not isinstance(x, Sequence):
            return apply(params, state, x, key=key, train=train)
        y, state = apply(params, state, x.replace(x.values, fill).values, key=key, train=train)
        return x.replace(y), state

    return Layer(sequence_init, sequence_apply)
