"""Networks trained on few examples, as a ``Program``: how many, which, and what is trained differ from lane to lane."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnet as jn

Data = tuple[Any, Any]


class Training(NamedTuple):
    """What a lane carries."""

    params: Any
    optimizer: Any


def orders(labels: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Rows of the examples in random orders, class after class in turn, so that the first k of each are balanced.

    Returns int32 ``[draws, classes * (examples of the rarest class)]``.

    >>> labels = np.array([7, 7, 7, 8, 8])
    >>> labels[orders(labels, 2, seed=0)].tolist()
    [[7, 8, 7, 8], [7, 8, 7, 8]]
    """
    random = np.random.default_rng(seed)
    rows = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    least = min(map(len, rows))
    drawn = [np.stack([random.permutation(each)[:least] for each in rows], axis=1).ravel() for _ in range(draws)]
    return np.array(drawn, np.int32)


def program(
    net: jn.Layer,
    train: Data,
    held_out: dict[str, Data],
    order: np.ndarray,
    *,
    units: int,
    steps: int,
    batch: int,
    rate: float,
    init: Callable[[Any, jax.Array], Any],
    trained: Callable[[Any], Any] = lambda hp: 1.0,
    penalty: Callable[[Any, Any], Any] = lambda hp, params: 0.0,
) -> jn.search.Program:
    """Training by Adam, a unit of so many steps; the rate falls to 0 along a cosine over all units.

    A batch is drawn, with replacement, of the first ``hp.examples`` rows of ``order[hp.draw]``. Both are floats, so
    that all lanes are one compiled program. The measures are the errors on ``held_out``, by name; the first is the
    score.

    Args:
      net: without state; images of uint8 become float32 in [0, 1].
      init: ``(hp, key) -> params``. trained: ``hp`` -> a tree over the params, or the top of one, of the share of the
        gradient that is followed: 0 keeps what there is. penalty: ``(hp, params) -> scalar``.
    """
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, units * steps))
    _, state, _ = net.init(jax.random.key(0), train[0].shape[1:])
    data = jax.tree.map(jnp.asarray, {"train": train, "order": order, "held_out": held_out})

    def floats(images):
        return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images

    def start(hp, key):
        params = init(hp, key)
        return Training(params, optimizer.init(params))

    def advance(hp, carry, key, data):
        rows = data["order"][hp.draw.astype(jnp.int32)]

        def step(carry, key):
            drawn = jnp.floor(jax.random.uniform(key, (batch,)) * hp.examples).astype(jnp.int32)
            inputs, labels = jax.tree.map(lambda each: each[rows[drawn]], data["train"])

            def objective(params):
                logits, _ = net.apply(params, state, floats(inputs), train=True)
                return jnp.mean(jn.losses.softmax_cross_entropy(logits, labels)) + penalty(hp, params)

            gradient = jax.grad(objective)(carry.params)
            shares = jax.tree.map(lambda share, own: jax.tree.map(lambda g: share * g, own), trained(hp), gradient)
            updates, moments = optimizer.update(shares, carry.optimizer)
            return Training(optax.apply_updates(carry.params, updates), moments), None

        return jax.lax.scan(step, carry, jax.random.split(key, steps))[0]

    def evaluate(hp, carry, data):
        errors = {}
        for name, (inputs, labels) in data["held_out"].items():
            logits, _ = net.apply(carry.params, state, floats(inputs))
            errors[name] = jnp.mean(jn.metrics.error(logits, labels))
        return {"score": next(iter(errors.values())), **errors}

    return jn.search.Program(start, advance, evaluate, feed=lambda unit: data)
