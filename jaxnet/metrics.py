"""Metrics, ``(outputs, targets) -> [batch]``: what is reported and what a search minimises; no gradient is taken.

Of outputs that are a ``Sequence`` a metric is the mean over the steps inside, as a loss is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.hints import propose_attributes
from jaxnet.losses import _are_labels, _mean_per_example, of_steps
from jaxnet.sequence import Sequence


@of_steps
def error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Misclassification: 1 where the largest output isn't the label's, else 0; its mean is a share, lower is better.

    Args:
      outputs: ``[batch, ..., classes]``, or ``[batch, ..., 1]`` for two classes, where a positive output says class 1.
        Ties go to the lower class, and an example with an output that is NaN counts as an error.
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
    wrong = (predicted != wanted) | jnp.isnan(outputs).any(axis=-1)
    return _mean_per_example(wrong.astype(jnp.float32))


def top_k_error(k: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """1 where the label's output isn't among the ``k`` largest, else 0; lower is better. A factory of a metric.

    Args:
      k: at least 1, an integer; with 1 it is ``error``.

    Outputs are ``[batch, ..., classes]``, targets integer labels ``[batch, ...]`` or 1-of-K. Ties go to the lower
    class, and outputs that are NaN count as errors.

    Raises:
      TypeError, ValueError: here, for another ``k``; from the metric, for fewer than ``k`` classes, and as ``error``.

    >>> top_k_error(2)(jnp.array([[0.1, 0.9, 0.5], [0.8, 0.2, 0.3]]), jnp.array([2, 1])).tolist()
    [0.0, 1.0]
    """
    if isinstance(k, bool) or not hasattr(k, "__index__"):
        raise TypeError(f"top_k_error: k must be an integer, got {k!r}")
    k = int(k)
    if k < 1:
        raise ValueError(f"top_k_error: k must be at least 1, got {k}")

    @of_steps
    def top_k_error(outputs, targets):
        if not _are_labels("top_k_error", outputs, targets):
            targets = jnp.argmax(targets, axis=-1)
        classes = jnp.arange(outputs.shape[-1]).reshape((1,) * (outputs.ndim - 1) + (-1,))
        if k > outputs.shape[-1]:
            raise ValueError(f"top_k_error: k is {k}, but the outputs {outputs.shape} have {outputs.shape[-1]} classes")
        label = targets[..., None]
        own = jnp.sum(jnp.where(classes == label, outputs, 0), axis=-1, keepdims=True)
        before = ~(outputs <= own) | ((outputs == own) & (classes < label))  # so written, NaN is before everything
        missed = (jnp.sum(before, axis=-1) >= k) | (targets < 0) | (targets >= outputs.shape[-1])
        return _mean_per_example(missed.astype(jnp.float32))

    return top_k_error


def confusion_matrix(outputs: Any, targets: Any, classes: int) -> jax.Array:
    """How many examples of each class were taken for which: ``[classes, classes]``, int32, true class first.

    Not a metric of a ``Trial``, which has one number an example; it is for ``predict``'s outputs.

    Args:
      outputs: ``[batch, ..., classes]``, floating, of which the largest is the prediction (a single output for two
        classes says 1 where it's positive); or predicted labels, integers of the shape of ``targets``.
        Of a ``Sequence`` the steps inside count.
      targets: integer labels ``[batch, ...]``, or 1-of-K of the outputs' shape. What is out of range isn't counted, nor
        outputs that are NaN.
      classes: how many there are, an integer.

    Raises:
      TypeError, ValueError: for another number of outputs, and as ``error``.

    >>> confusion_matrix(jnp.array([0, 1, 1, 1]), jnp.array([0, 0, 1, 1]), 2).tolist()
    [[1, 1], [0, 2]]
    """
    if isinstance(classes, bool) or not hasattr(classes, "__index__") or int(classes) < 2:
        raise ValueError(f"confusion_matrix: classes must be an integer of at least 2, got {classes!r}")
    inside: Any = True
    if isinstance(outputs, Sequence):
        targets = targets.values if isinstance(targets, Sequence) else targets
        outputs, inside = outputs.values, outputs.mask
    if jnp.issubdtype(outputs.dtype, jnp.integer):
        if outputs.shape != targets.shape or not jnp.issubdtype(targets.dtype, jnp.integer):
            raise ValueError(
                f"confusion_matrix: predicted labels {outputs.shape} want integer labels of the same shape, got "
                f"{targets.dtype} {targets.shape}"
            )
        predicted = outputs
    else:
        labels = _are_labels("confusion_matrix", outputs, targets)
        single = outputs.shape[-1] == 1 and classes == 2
        if not single and outputs.shape[-1] != classes:
            raise ValueError(f"confusion_matrix: expected outputs [..., {classes}], got {outputs.shape}")
        predicted = (outputs[..., 0] > 0).astype(jnp.int32) if single else jnp.argmax(outputs, axis=-1)
        predicted = jnp.where(jnp.isnan(outputs).any(axis=-1), -1, predicted)
        if not labels:
            targets = (targets[..., 0] > 0.5).astype(jnp.int32) if single else jnp.argmax(targets, axis=-1)
    targets, predicted = (jnp.asarray(labels).astype(jnp.int32) for labels in (targets, predicted))
    known = (targets >= 0) & (targets < classes) & (predicted >= 0) & (predicted < classes)
    cells = jnp.where(known & inside, targets * classes + predicted, classes**2)
    return jnp.bincount(cells.ravel(), length=classes**2 + 1)[:-1].reshape(classes, classes).astype(jnp.int32)


propose_attributes(__name__)
