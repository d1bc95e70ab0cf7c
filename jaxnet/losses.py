"""Losses, ``(outputs, targets) -> [batch]``: one number for each example, so that a partial batch can be masked.

Where an example has several outputs (pixels, time steps) its loss is their mean; of outputs that are a ``Sequence`` the
mean over the steps inside, and 0 where there are none. Targets are then a ``Sequence`` too, or an array
``[batch, time, ...]`` in which what lies past an end isn't read. Penalties, ``params -> scalar``, stand at the end.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnet.hints import propose_attributes
from jaxnet.sequence import Sequence

Loss = Callable[[Any, Any], jax.Array]
Where = Callable[[str], bool]  # of a parameter's path, such as "head/w"

BIASES = ("b", "b_u", "bias", "scale", "offset", "slope")  # what a penalty on weights leaves out


_label_uses: contextvars.ContextVar[list[tuple[Any, int]] | None] = contextvars.ContextVar("label_uses", default=None)


def of_steps(function: Loss) -> Loss:
    """A loss or metric of arrays that takes a ``Sequence`` of outputs, too: its mean over the steps inside.

    >>> outputs = Sequence(jnp.array([[[1.0], [3.0], [9.0]]]), jnp.array([2]))
    >>> of_steps(lambda outputs, targets: jnp.sum((outputs - targets) ** 2, axis=-1))(outputs, jnp.zeros((1, 3, 1)))
    Array([5.], dtype=float32)
    """

    @functools.wraps(function)
    def taking_sequences(outputs, targets):
        if not isinstance(outputs, Sequence):
            if isinstance(targets, Sequence):
                raise TypeError(
                    f"{function.__name__}: targets are a Sequence, but the outputs an array of shape {outputs.shape}; "
                    f'for a target at each step, let the network return sequences, as jn.gru(units) does and "last" not'
                )
            return function(outputs, targets)
        wanted = targets.values if isinstance(targets, Sequence) else targets
        if wanted.shape[:2] != outputs.values.shape[:2]:
            raise ValueError(
                f"{function.__name__}: outputs are a Sequence of shape {outputs.values.shape}, so targets must be "
                f"[batch, time, ...] {outputs.values.shape[:2]}, got {wanted.shape}"
            )
        steps = [outputs.replace(a).values.reshape(-1, *a.shape[2:]) for a in (outputs.values, wanted)]
        with label_uses() as uses:
            losses = outputs.replace(function(*steps).reshape(wanted.shape[:2])).values  # [batch, time]
        if (known := _label_uses.get()) is not None:  # past an end labels may be anything, so lengths go with them
            known.extend((Sequence(wanted, outputs.lengths), classes) for labels, classes in uses if labels is steps[1])
        return losses.sum(axis=1) / jnp.maximum(outputs.lengths, 1).astype(losses.dtype)

    return taking_sequences


@of_steps
def softmax_cross_entropy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Cross entropy in nats between the softmax of the outputs and the targets, ``-log p[target]``; lower is better.

    Args:
      outputs: logits ``[batch, ..., classes]``, floating.
      targets: labels ``[batch, ...]``, integers in [0, classes), or distributions ``[batch, ..., classes]``, floating
        (1-of-K labels).

    Raises:
      ValueError, TypeError: when targets have neither shape, or are labels of a floating dtype. Labels out of range
        give NaN here; ``fit`` and the searches refuse them before they start.

    >>> softmax_cross_entropy(jnp.zeros((1, 10)), jnp.array([3])).tolist()  # log 10
    [2.3026]
    """
    if _are_labels("softmax_cross_entropy", outputs, targets):
        classes = outputs.shape[-1]
        losses = optax.softmax_cross_entropy_with_integer_labels(outputs, targets)
        losses = jnp.where((targets >= 0) & (targets < classes), losses, jnp.nan)
    else:
        losses = _cross_entropy(outputs, targets)
    return _mean_per_example(losses)


@of_steps
def sigmoid_cross_entropy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Cross entropy in nats of independent yes/no outputs (one-vs-rest, or one output), averaged over them.

    Args:
      outputs: logits ``[batch, ...]``, floating.
      targets: 0, 1 or probabilities between them, of the same shape, any dtype.

    Raises:
      ValueError: when the shapes differ.

    >>> sigmoid_cross_entropy(jnp.zeros((1, 2)), jnp.array([[0.0, 1.0]])).tolist()  # log 2
    [0.6931]
    """
    _same_shape("sigmoid_cross_entropy", outputs, targets)
    return _mean_per_example(optax.sigmoid_binary_cross_entropy(outputs, targets.astype(outputs.dtype)))


@of_steps
def squared_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """``(output - target) ** 2``, averaged over an example's outputs; no factor of one half.

    Args:
      outputs, targets: ``[batch, ...]``, of the same shape.

    Raises:
      ValueError: when the shapes differ.

    >>> squared_error(jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 4.0]])).tolist()
    [2.0]
    """
    _same_shape("squared_error", outputs, targets)
    return _mean_per_example(optax.squared_error(outputs, targets.astype(outputs.dtype)))


@of_steps
def absolute_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """``|output - target|``, averaged over an example's outputs; its slope where they are equal is 0.

    Args:
      outputs, targets: ``[batch, ...]``, of the same shape.

    Raises:
      ValueError: when the shapes differ.

    >>> absolute_error(jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 4.0]])).tolist()
    [1.0]
    """
    _same_shape("absolute_error", outputs, targets)
    difference = outputs - targets.astype(outputs.dtype)
    return _mean_per_example(difference * jnp.sign(difference))  # abs has the slope 1 at 0 in JAX


def huber(delta: Any = 1.0) -> Loss:
    """Squared error halved up to ``delta``, linear beyond it: a factory of a loss on ``[batch, ...]``.

    Args:
      delta: where the two meet, positive, in units of the target; may be traced.

    Raises:
      ValueError: here, for a delta that isn't positive; from the loss, when the shapes differ.

    Source: Huber, "Robust estimation of a location parameter" (1964), equation 1.

    >>> huber(1.0)(jnp.array([0.5, 3.0]), jnp.zeros(2)).tolist()
    [0.125, 2.5]
    """
    if isinstance(delta, (int, float)) and not delta > 0:
        raise ValueError(f"huber: delta must be positive, got {delta!r}")

    @of_steps
    def huber(outputs, targets):
        _same_shape("huber", outputs, targets)
        return _mean_per_example(optax.huber_loss(outputs, targets.astype(outputs.dtype), delta=delta))

    return huber


def label_smoothing(amount: Any) -> Loss:
    """Softmax cross entropy in which every class gets a share of the target: a factory of a loss.

    The target is ``(1 - amount) * target + amount / classes``; outputs and targets are those of
    ``softmax_cross_entropy``, and so are the errors.

    Args:
      amount: what is spread over all classes, the target's own among them, in [0, 1]; may be traced. 0.1 is usual.

    Raises:
      ValueError: here, for an amount outside [0, 1].

    Source: Szegedy et al., "Rethinking the Inception architecture" (2016), section 7; as PyTorch's
    ``cross_entropy(label_smoothing=amount)``.

    >>> label_smoothing(0.5)(jnp.log(jnp.array([[0.25, 0.75]])), jnp.array([1])).tolist()  # -3/4 ln 3/4 - 1/4 ln 1/4
    [0.5623]
    """
    if isinstance(amount, (int, float)) and not 0 <= amount <= 1:
        raise ValueError(f"label_smoothing: amount must be in [0, 1], got {amount!r}")

    @of_steps
    def label_smoothing(outputs, targets):
        classes = outputs.shape[-1] if outputs.ndim else 0
        if _are_labels("label_smoothing", outputs, targets):
            known = (targets >= 0) & (targets < classes)
            targets = jnp.where(known[..., None], jax.nn.one_hot(targets, classes, dtype=outputs.dtype), jnp.nan)
        targets = optax.smooth_labels(targets.astype(outputs.dtype), jnp.asarray(amount, outputs.dtype))
        return _mean_per_example(_cross_entropy(outputs, targets))

    return label_smoothing


@of_steps
def hinge(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Zero where an output has the right sign and a size of 1 or more, else ``max(0, 1 - output * sign)``; the mean.

    Args:
      outputs: scores ``[batch, ...]``, floating; a positive one says yes. Of several classes ``[batch, ..., classes]``.
      targets: of the outputs' shape, positive for yes and anything else for no, so 0 and 1 are taken as well as -1 and
        1. Or, of several classes, integer labels ``[batch, ...]``: then the loss is ``max(0, 1 + s - own)``, with ``s``
        the largest score of the other classes.

    Raises:
      ValueError: when targets have neither shape. Labels out of range give NaN.

    Source: of several classes, Crammer and Singer, "On the algorithmic implementation of multiclass kernel-based vector
    machines" (2001), as optax has it; PyTorch's ``MultiMarginLoss`` is a sum over all other classes.

    >>> hinge(jnp.array([2.0, 0.5, 0.5]), jnp.array([1, 1, 0])).tolist()
    [0.0, 0.5, 1.5]
    >>> hinge(jnp.array([[3.0, 2.5, 0.0]]), jnp.array([0])).tolist()
    [0.5]
    """
    if outputs.ndim > 1 and outputs.shape[-1] > 1 and targets.shape == outputs.shape[:-1]:
        _are_labels("hinge", outputs, targets)
        own = jax.nn.one_hot(targets, outputs.shape[-1], dtype=bool)
        best, other = (jnp.max(outputs, axis=-1, where=of, initial=-jnp.inf) for of in (own, ~own))
        losses = jnp.maximum(1 + other - best, 0)
        return _mean_per_example(jnp.where((targets >= 0) & (targets < outputs.shape[-1]), losses, jnp.nan))
    _same_shape("hinge", outputs, targets)
    signs = jnp.where(targets > 0, jnp.ones((), outputs.dtype), -jnp.ones((), outputs.dtype))
    return _mean_per_example(optax.hinge_loss(outputs, signs))


@of_steps
def kl_divergence(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Kullback-Leibler divergence in nats of the outputs' softmax from the targets, ``sum(t * log(t / p))``.

    It is the cross entropy less the targets' own entropy, so its gradient is the same and its least value is 0.

    Args:
      outputs: logits or log probabilities ``[batch, ..., classes]``, floating.
      targets: distributions of the same shape; a probability of 0 adds nothing.

    Raises:
      ValueError: for other shapes.

    Source: PyTorch's ``kl_div`` wants log probabilities as outputs; here they're logits, as in every loss.

    >>> kl_divergence(jnp.zeros((1, 2)), jnp.array([[0.0, 1.0]])).tolist()  # log 2
    [0.6931]
    """
    _same_shape("kl_divergence", outputs, targets)
    if outputs.ndim < 2:
        raise ValueError(f"kl_divergence: expected outputs [batch, ..., classes], got {outputs.shape}")
    targets = targets.astype(outputs.dtype)
    return _mean_per_example(optax.kl_divergence(jax.nn.log_softmax(outputs), targets))


def l2(strength: Any, *, where: Where | None = None) -> Callable[[Any], jax.Array]:
    """The penalty ``0.5 * strength * sum(w ** 2)`` over all weights; biases, scales and offsets are left out.

    Args:
      strength: non-negative; may be traced. With plain gradient descent it equals a weight decay of ``strength``.
      where: which parameters instead: a function of a parameter's path, such as "head/w" or "3/w", to a bool.

    Raises:
      ValueError: for a negative strength. TypeError: for a ``where`` that isn't a function.

    >>> float(l2(0.1)({"w": jnp.full((2, 2), 2.0), "b": jnp.ones(2)}))
    0.8
    >>> float(l2(0.1, where=lambda path: path == "b")({"w": jnp.full((2, 2), 2.0), "b": jnp.ones(2)}))
    0.1
    """
    return _penalty("l2", strength, lambda w: 0.5 * jnp.sum(w**2), where)


def l1(strength: Any, *, where: Where | None = None) -> Callable[[Any], jax.Array]:
    """The penalty ``strength * sum(|w|)`` over all weights; biases, scales and offsets are left out.

    Args:
      strength: non-negative; may be traced.
      where: which parameters instead, as for ``l2``; so are the errors.

    >>> float(l1(0.1)({"w": jnp.full((2, 2), -2.0), "b": jnp.ones(2)}))
    0.8
    """
    # Not abs, whose slope JAX sets to 1 at 0: it would move the weights of inactive units.
    return _penalty("l1", strength, lambda w: jnp.sum(w * jnp.sign(w)), where)


def chosen(name: str, where: Where | None) -> Callable[[Any], bool]:
    """Whether a parameter is meant, given its path in JAX's form: what ``where`` says, or that it is no bias.

    Args:
      name: of the function that was given ``where``, for the error. where: of a path as text, or None.
    """
    if where is None:
        return lambda path: not path or getattr(path[-1], "key", None) not in BIASES
    if not callable(where):
        raise TypeError(f"{name}: where must be a function of a parameter's path such as 'head/w', got {where!r}")
    return lambda path: bool(where(jax.tree_util.keystr(path, simple=True, separator="/")))


def _penalty(
    name: str, strength: Any, size: Callable[[jax.Array], jax.Array], where: Where | None
) -> Callable[[Any], jax.Array]:
    if isinstance(strength, (int, float)) and not strength >= 0:
        raise ValueError(f"{name}: strength must not be negative, got {strength!r}")
    meant = chosen(name, where)

    def penalty(params):
        weights = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params) if meant(path)]
        return strength * sum(map(size, weights), start=jnp.zeros(()))

    return penalty


@contextlib.contextmanager
def label_uses() -> Iterator[list[tuple[Any, int]]]:
    """Inside, ``(targets, classes)`` of every loss or metric that takes its targets for labels is added to a list."""
    uses: list[tuple[Any, int]] = []
    token = _label_uses.set(uses)
    try:
        yield uses
    finally:
        _label_uses.reset(token)


def check_labels(targets: Any, classes: int) -> None:
    """Raises ``ValueError`` unless integer targets, on the host, lie in [0, classes); other targets pass."""
    if not hasattr(targets, "dtype") or not np.issubdtype(targets.dtype, np.integer):
        return
    low, high = int(np.min(targets)), int(np.max(targets))
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        where = np.argwhere(np.asarray(targets) == wrong)[0].tolist()
        raise ValueError(
            f"labels must be integers in [0, {classes}), one for each of the network's {classes} outputs, but "
            f"targets{where} is {wrong}. If labels start at 1, try targets - 1; "
            f"else give the network {high + 1} outputs."
        )


def _are_labels(name: str, outputs: Any, targets: Any) -> bool:
    """Whether targets are integer labels; raises when they are neither labels nor distributions for the outputs."""
    if outputs.ndim < 2:
        raise ValueError(f"{name}: expected outputs [batch, ..., classes], got {outputs.shape}")
    if targets.shape == outputs.shape[:-1]:
        if not jnp.issubdtype(targets.dtype, jnp.integer):
            raise TypeError(
                f"{name}: labels of shape {targets.shape} must be integers, got {targets.dtype}. "
                f"Try targets.astype(int), or one-hot targets of shape {outputs.shape}."
            )
        uses = _label_uses.get()
        if uses is not None:
            uses.append((targets, outputs.shape[-1]))
        return True
    if targets.shape != outputs.shape:
        raise ValueError(
            f"{name}: outputs {outputs.shape} want integer labels {outputs.shape[:-1]} or distributions "
            f"{outputs.shape}, got targets {targets.shape}" + _squeeze_hint(outputs, targets)
        )
    return False


def _cross_entropy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Between distributions; a class that is ruled out by both, its logit -inf and its target 0, adds nothing."""
    logs = jax.nn.log_softmax(outputs)
    ruled_out = (targets == 0) & jnp.isneginf(logs)
    return -jnp.sum(targets * jnp.where(ruled_out, jnp.zeros((), logs.dtype), logs), axis=-1)


def _squeeze_hint(outputs: Any, targets: Any) -> str:
    if targets.shape == (*outputs.shape[:-1], 1):
        return ". Try targets[..., 0]."
    return ""


def _same_shape(name: str, outputs: Any, targets: Any) -> None:
    if outputs.shape != targets.shape:
        raise ValueError(
            f"{name}: outputs and targets must have the same shape, got {outputs.shape} and {targets.shape}; "
            f"broadcasting them would compare every example with every other"
        )


def _mean_per_example(losses: jax.Array) -> jax.Array:
    return losses.mean(axis=tuple(range(1, losses.ndim)))


propose_attributes(__name__)
