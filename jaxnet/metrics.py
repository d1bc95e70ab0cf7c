"""Metrics, ``(outputs, targets) -> [batch]``: what is reported and what a search minimises; no gradient is taken."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxnet.losses import _are_labels, _mean_per_example


def error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Misclassification: 1 where the largest output isn't the label's, else 0; its mean is a share, lower is better.

    Args:
      outputs: ``[batch, ..., classes]``, or ``[batch, ..., 1]`` for two classes, where a positive output says class 1.
        Ties go to the lower class.
      targets: integer labels ``[batch, ...]``, or one of the outputs' shape (1-of-K, or 0 and 1 for a single output).

    Raises:
      ValueError, TypeError: when targets have neither shape, or are labels of a floating dtype.

    >>> error(jnp.array([[0.1, 0.9], [0.8, 0.2]]), jnp.array([1, 1])).tolist()
    [0.0, 1.0]
    """
    labels = _are_labels("error", outputs, targets)
    if outputs.shape[-1] == 1:
        predicted, wanted = outputs[..., 0] > 0, (targets if labels else targets[..., 0]) > 0.5
    else:
        predicted, wanted = jnp.argmax(outputs, axis=-1), targets if labels else jnp.argmax(targets, axis=-1)
    return _mean_per_example((predicted != wanted).astype(jnp.float32))
