"""Results of searches that never ran: curves from a formula, for what shows results."""

import jax
import numpy as np

import jaxnet as jn
from jaxnet.search.lanes import Measured
from jaxnet.search.planning import Group, Plan
from jaxnet.search.result import executed_rungs, measured_groups

SPACE = jn.Space(
    learning_rate=jn.log_uniform(1e-4, 1.0),
    hidden=jn.log_integers(10, 1000),
    dropout=jn.uniform(0.0, 0.6),
    activation=jn.choice("relu", "tanh", "gelu"),
    kernel=lambda hp: jn.integers(1, 7) if hp.activation == "relu" else jn.integers(3, 5),
    batch=jn.choice(32, 64, 128, static=False),
)

# Entries that exist in a branch only, under names with a dot.
BRANCHES = jn.Space(
    optimizer=jn.Space(
        name=jn.choice("sgd", "adam"), momentum=lambda hp: jn.uniform(0.5, 1.0) if hp.name == "sgd" else None
    ),
    learning_rate=jn.log_uniform(1e-4, 1.0),
    layers=jn.integers(1, 3, static=True),
    width=lambda hp: jn.log_integers(8, 64) if hp.layers > 1 else None,
)


def result(trials=40, units=9, schedule=None, space=SPACE, diverging=True, maximize=False):
    """Errors that fall with units, best near a learning rate of 0.03; above 0.3, trials may diverge."""
    rng = np.random.default_rng(0)
    configurations = jn.search.random()(space, jax.random.key(1), trials)
    rate = np.array([float(c.get("learning_rate", 0.03)) for c in configurations])
    hidden = np.array([float(c.get("hidden", 100)) for c in configurations])
    floor = 0.015 + 0.02 * np.log10(rate / 0.03) ** 2 + 0.08 / hidden**0.5
    speed = np.clip(rate / 0.03, 0.1, 2)[:, None] * np.arange(1, units + 1)
    scores = floor[:, None] + 0.9 * np.exp(-(speed**0.7)) + 0.002 * rng.normal(size=(trials, units))
    diverged = np.full(trials, -1)
    if diverging:
        gone = rate > 0.3 + 0.6 * rng.random(trials)
        diverged[gone] = rng.integers(1, units * 100, gone.sum())
        for i in np.flatnonzero(gone):
            scores[i, diverged[i] // 100 :] = np.nan
    scores = 1 - scores if maximize else scores
    schedule, steps, trained = schedule or jn.search.full(), [], np.full_like(scores, np.nan)
    going = schedule.rungs(trials, units)
    step = next(going)
    while step is not None:
        steps.append(step)
        for rung in step:
            trained[rung.ids, : rung.units] = scores[rung.ids, : rung.units]
        try:
            step = going.send(-trained if maximize else trained.copy())
        except StopIteration:
            step = None
    done = np.isfinite(trained).sum(axis=1)
    score = np.where(diverged < 0, trained[np.arange(trials), np.maximum(done, 1) - 1], np.nan)
    status = np.where(diverged >= 0, "diverged", np.where(done < units, "stopped", "completed"))
    table = {"id": np.arange(trials), "status": status, "units": done, "score": score}
    table |= {"validation_error": score, "train_loss": 2 * score, "diverged": diverged}
    for name in space.entries:
        values = [c[name] for c in configurations]
        column = np.empty(trials, object)
        column[:] = values
        table[name] = np.array(values) if all(isinstance(v, (int, float)) for v in values) else column
    parts = np.array_split(np.argsort(hidden), min(4, trials))
    groups = [
        Group(
            ids, {"activation": "relu"}, [], {"hidden": (int(hidden[ids[0]]), int(hidden[ids[-1]]))}, 8, 2**20, w, 1.0
        )
        for ids, w in zip(parts, (0.3, 0.18, 0.05, 0.0), strict=False)
    ]
    measured = {group: Measured(None, 3 * 2**20 * (i + 1), 0.8 + i, 2.5 * (i + 1)) for i, group in enumerate(groups)}
    history = {"score": trained, "validation_error": trained, "train_loss": 2 * trained}
    return jn.search.SearchResult(
        table, history, list(space.entries), scales=space.scales(configurations), maximize=maximize,
        groups=measured_groups(Plan(groups, units, units, 1.0), measured), rungs=executed_rungs(steps, trials),
        compile_seconds=4.0, run_seconds=20.0,
    )  # fmt: skip
