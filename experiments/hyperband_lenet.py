"""Which bracket of Hyperband finds the best LeNet, and what does hedging between them cost?

    python -m experiments.hyperband_lenet           5 minutes on two CPU cores; --full: all of MNIST, 1,000 networks
    python -m experiments.hyperband_lenet --quick   20 seconds, of 27 networks for 9 epochs

Li et al., "Hyperband: a novel bandit-based approach to hyperparameter optimization" (JMLR 2018), sec. 3.3: the
tutorial's LeNet by learning rate, batch size and the filters of both convolutions, at most R = 81 epochs, eta = 3. They
found, over 70 searches, that neither the bracket that halves most (s = 4) nor the one that doesn't (s = 0, random
search) is the best but s = 3, and that Hyperband is nearly as good as that and better than s = 0.

So many searches need many networks. As in a tabular benchmark, each configuration of a pool, drawn from the space at
random, is trained once, all as lanes of one search; each of the 70 searches then draws from the pool, with replacement,
and the library's own schedules and samplers decide, from the pool's learning curves, who trains on. What the Bayesian
sampler proposes stands for the nearest configuration of the pool that it hasn't had.

Data: 500 digits of MNIST to train on, 1,000 to choose by (validation), 1,000 to report (test), at half resolution;
three batch sizes, up to 500. --full has 50,000, 10,000 and 10,000, full resolution and batches of 10 to 1,000, as they
had.
Measure: the lowest validation error that was found, a percentage, and the test error of the same network at that time,
by the epochs spent, in multiples of R; lower is better. A promoted network trains on, where theirs start again, so a
bracket costs less than their 5 R. Each is run again and again, with other draws, until 25 R are spent. The spread over
searches is that of the draws; the pool and the digits are the same in all. What is best of many by 1,000 digits is
partly luck: validation errors tell how well a way searches, test errors also how much is left of that. Median stopping
and curve extrapolation look at a network every epoch or few epochs, so they have more chances of such luck.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import jaxnet as jn
from experiments import mnist, plots
from experiments.record import Record

ETA, MOST, SEARCHES = 3, 81, 70
BUDGET = 25  # in multiples of R; what Hyperband's five brackets cost where networks start again
POOL = 108  # the largest bracket has 81 networks
BATCHES = (10, 70, 500)  # compiled in, since lanes of one program take as many steps as the smallest batch needs
HIDDEN = 500  # units, as in the tutorial
TRAIN, VALIDATION, TEST = range(3)
SOURCE = "Li et al. (2018), figure 3"


def space(batch: Any) -> jn.Space:
    """The paper's, by the distribution of the batch size."""
    return jn.Space(
        rate=jn.log_uniform(1e-3, 1e-1), batch=batch, k2=jn.integers(10, 60), k1=lambda hp: jn.integers(5, hp.k2)
    )


def counted(outputs: Any, targets: Any) -> jax.Array:
    """The loss on digits to train on, the error on test digits, 0 on others: targets are ``(labels, part)``."""
    labels, part = targets
    trained = jn.losses.softmax_cross_entropy(outputs, labels)
    return jnp.where(part == TRAIN, trained, jnp.where(part == TEST, jn.metrics.error(outputs, labels), 0.0))


def chosen_by(outputs: Any, targets: Any) -> jax.Array:
    """The error on digits to train on and on validation digits, 0 on test digits."""
    labels, part = targets
    return jnp.where(part == TEST, 0.0, jn.metrics.error(outputs, labels))


def trial(hp) -> jn.Trial:
    """The tutorial's LeNet by plain gradient descent. One look at the held-out digits gives both errors."""
    return jn.Trial(
        net=jn.models.lenet5(filters=(hp.k1, hp.k2), units=(HIDDEN,), activation=jnp.tanh, padding="VALID"),
        loss=counted,
        optimizer=optax.sgd(hp.rate),
        metric=chosen_by,
        batch_size=hp.batch,
    )


def halved(images: np.ndarray) -> np.ndarray:
    """Images ``[n, 28, 28, 1]`` as means of 2 x 2 pixels with a margin of 1, ``[n, 16, 16, 1]``, in [0, 1]."""
    return np.pad(mnist.halved(images) / 255, ((0, 0), (1, 1), (1, 1), (0, 0)))


def replay(schedule: jn.search.Schedule, curves: np.ndarray) -> list[tuple[int, int, int, int]]:
    """What a schedule does with trials of known curves ``[trials, units]``.

    Returns ``(bracket, trial, units before, units after)`` for each stretch of training, in order.
    """
    trials, units = curves.shape
    seen, done, log = np.full(curves.shape, np.nan), np.zeros(trials, int), []
    steps = schedule.rungs(trials, units)
    rungs = next(steps)
    while True:
        for bracket, rung in enumerate(rungs):
            for i in rung.ids:
                log.append((bracket, int(i), int(done[i]), rung.units))
                done[i] = rung.units
                seen[i, : rung.units] = curves[i, : rung.units]
        try:
            rungs = steps.send(seen)
        except StopIteration:
            return log


Stretch = tuple[int, int, int]  # a configuration of the pool, its units before and after


def scheduled(schedule: jn.search.Schedule, trials: int, curves: np.ndarray, random: Any) -> Iterator[Stretch]:
    """Search after search with one schedule, each of new configurations of the pool; bracket after bracket."""
    while True:
        drawn = random.integers(len(curves), size=trials)
        for _, i, before, after in sorted(replay(schedule, curves[drawn]), key=lambda stretch: stretch[0]):
            yield int(drawn[i]), before, after


def bayesian(pool: jn.Space, points: np.ndarray, curves: np.ndarray, trials: int, key: jax.Array) -> Iterator[Stretch]:
    """Configurations that the sampler proposes, each trained for all units; ``points`` are where the pool lies."""
    proposer: Any = jn.search.bayesian(batch=1)(pool, key, trials)
    free = np.ones(len(points), bool)
    for i in range(trials):
        (proposed,) = proposer.ask(1)
        gaps = np.sum((points - pool.point(proposed)) ** 2, axis=1)
        nearest = int(np.argmin(np.where(free, gaps, np.inf)))
        free[nearest] = False
        yield nearest, 0, curves.shape[1]
        proposer.tell(np.array([i]), curves[nearest][None], np.array([True]))


def best_so_far(stretches: Iterator[Stretch], validation: np.ndarray, test: np.ndarray, budget: np.ndarray) -> Any:
    """Lowest validation error so far and the test error then, ``[budgets, 2]``, at each budget in units.

    They are NaN before there is a network.

    >>> log, both = iter([(0, 0, 1), (1, 0, 1), (0, 1, 2)]), np.array([[0.3, 0.1], [0.2, 0.4]])
    >>> best_so_far(log, both, 10 * both, np.array([1, 2, 3])).tolist()
    [[0.3, 3.0], [0.2, 2.0], [0.1, 1.0]]
    """
    spent, now, errors = 0, (np.inf, np.nan), np.full((len(budget), 2), np.nan)
    for i, before, after in stretches:
        spent += after - before
        if spent > budget[-1]:
            break
        if validation[i, after - 1] < now[0]:
            now = validation[i, after - 1], test[i, after - 1]
        errors[budget >= spent] = now
    return errors


def as_the_search_does(schedule: jn.search.Schedule, curves: np.ndarray, key: jax.Array) -> bool:
    """Whether ``search.run``, of a program that reads the curves, trains each trial as far as ``replay`` says."""
    table = jn.search.Program(
        init=lambda hp, key: jnp.int32(0),
        advance=lambda hp, units, key, feed: units + 1,
        evaluate=lambda hp, units, feed: {"score": feed[jnp.int32(hp.row), units - 1]},
        feed=lambda unit: jnp.asarray(curves, jnp.float32),
    )
    rows = jn.Space(row=jn.uniform(0, len(curves)))
    result = jn.search.run(table, rows, schedule=schedule, epochs=curves.shape[1], key=key, lanes=len(curves))
    drawn = result.table["row"].astype(int)
    done = np.zeros(len(drawn), int)
    for _, i, _, after in replay(schedule, curves.astype(np.float32)[drawn]):
        done[i] = after
    return np.array_equal(done, result.table["units"])


def picture(curves: np.ndarray, budget: np.ndarray, found: dict[str, np.ndarray]) -> Figure:
    """The pool's curves, and what was found, ``[searches, budgets]``, by the brackets and Hyperband, and by others."""
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    axes = figure.subplots(1, 3)
    order = np.argsort(curves[:, -1])
    for rank, i in enumerate(order):
        color = plots.BLUE if rank < len(order) // 20 else "0.8"
        axes[0].plot(np.arange(1, curves.shape[1] + 1), 100 * curves[i], color=color, linewidth=0.5, zorder=-rank)
    axes[0].set(xscale="log", xlabel="epoch", ylabel="validation error (%)", title=f"the pool, {len(order)} networks")
    axes[0].xaxis.set_major_formatter("{x:g}")
    brackets = [name for name in found if name.startswith("s = ")]
    others = [name for name in found if name not in brackets and name != "Hyperband"]
    for axis, names, title in ((axes[1], brackets, "each bracket alone"), (axes[2], others, "other ways")):
        for name, color in zip(["Hyperband", *names], ("black", *plots.COLORS), strict=False):
            axis.plot(budget, np.mean(found[name], axis=0), color=color, label=name, linewidth=1.3)
        axis.set(xlabel="epochs spent (multiples of R)", ylabel="lowest validation error so far (%)", title=title)
        axis.legend(frameon=False)
    low = min(np.nanmin(np.mean(each, axis=0)) for each in found.values())
    late = max(np.nanmax(np.mean(each, axis=0)[len(budget) // 5 :]) for each in found.values())
    for axis in axes[1:]:
        axis.set_ylim(low - 0.1 * (late - low), late + 0.1 * (late - low))
    for axis in axes:
        plots.tidy(axis)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment: the one place that prints, plots and writes."""
    record = Record(__spec__.name, __doc__ or "", arguments)
    units, pool_size, searches = (9, 27, 5) if record.quick else (MOST, 1000 if record.full else POOL, SEARCHES)
    sizes = (50_000, 10_000, 10_000) if record.full else (200, 200, 200) if record.quick else (500, 1000, 1000)
    parts = []
    for part, (size, (images, labels)) in enumerate(zip(sizes, mnist.load(), strict=True)):
        seen = images[:size] if record.full else halved(images[:size])
        parts.append((seen, (labels[:size], np.full(size, part, np.int32))))
    held_out = jax.tree.map(lambda *both: np.concatenate(both), *parts[1:])
    few = BATCHES[1:2] if record.quick else BATCHES
    pool = space(jn.log_integers(10, 1000) if record.full else jn.choice(*few, static=True))
    key, proposing = jax.random.split(jax.random.key(record.seed))
    result = jn.random_search(trial, pool, parts[0], held_out, trials=pool_size, epochs=units, key=key, keep=1)
    # The means over the held-out digits of both parts become those over each.
    share = {part: sum(sizes[1:]) / sizes[part] for part in (VALIDATION, TEST)}
    worst = 0.9  # where a network diverged, which says nothing: that of guessing
    validation = np.nan_to_num(share[VALIDATION] * result.history["validation_chosen_by"], nan=worst)
    test = np.nan_to_num(share[TEST] * result.history["validation_loss"], nan=worst)
    points = np.array([pool.point(result.hyperparameters(i)) for i in range(pool_size)])

    hyperband = jn.search.hyperband(ETA)
    most = max(s for s in range(10) if ETA**s <= units)
    counts = {s: -(-(most + 1) * ETA**s // (s + 1)) for s in range(most, -1, -1)}  # Algorithm 1 of the paper
    at_once = counts[most] // ETA  # for schedules that take any number
    ways: dict[str, tuple[jn.search.Schedule, int]] = {
        f"s = {s}": (jn.search.successive_halving(ETA, units // ETA**s), count) for s, count in counts.items()
    }
    ways |= {
        "Hyperband": (hyperband, sum(counts.values())),
        "median stopping": (jn.search.median_stopping(), at_once),
        "curve extrapolation": (jn.search.curve_extrapolation(), at_once),
    }
    budget = np.linspace(0, BUDGET, 20 * BUDGET + 1)
    found: dict[str, Any] = {name: [] for name in [*ways, "Bayesian"]}
    for number, own in enumerate(jax.random.split(proposing, searches)):
        for place, (name, (schedule, trials)) in enumerate(ways.items()):
            random = np.random.default_rng([record.seed, number, place])
            stretches = scheduled(schedule, trials, validation, random)
            found[name].append(best_so_far(stretches, validation, test, budget * units))
        stretches = bayesian(pool, points, validation, min(BUDGET, pool_size), own)
        found["Bayesian"].append(best_so_far(stretches, validation, test, budget * units))
    found = {name: 100 * np.array(rows) for name, rows in found.items()}

    record.number("networks in the pool", pool_size, note=f"{int((result.table['diverged'] >= 0).sum())} diverged")
    record.number("the lowest validation error of any of them", 100 * validation.min(), "%")
    means = {name: np.mean(rows, axis=0) for name, rows in found.items()}  # [budgets, 2] of each
    for measure, what in enumerate(("validation error found", "test error of the same")):
        for name, rows in found.items():
            meaning = {f"s = {most}": ", the most halving", "s = 0": ", random search"}.get(name, "")
            record.number(f"{what} after {BUDGET} R, {name}{meaning}", rows[:, -1, measure], "%")
    agrees = as_the_search_does(hyperband, validation, key)
    record.claim("a search by Hyperband trains each network as far as its replay says", agrees)
    if not record.quick:
        brackets = [name for name in ways if name.startswith("s = ")]
        small = "" if record.full else f"theirs learn from 50,000 digits, ours from {sizes[0]}"
        for measure, what in enumerate(("validation", "test")):
            best = min(brackets, key=lambda name: means[name][-1, measure])
            record.number(f"the best bracket alone, by {what} error", best, known="s = 3", source=SOURCE, note=small)
        early = int(np.searchsorted(budget, 5))
        ahead, behind = (means[name][:, 0] for name in ("Hyperband", "s = 0"))
        record.claim("Hyperband finds a lower validation error than s = 0, random search", ahead[-1] < behind[-1])
        record.claim("after 5 R, too, in which s = 0 trains five networks", ahead[early] < behind[early])
    record.figure(
        picture(validation, budget, {name: rows[..., 0] for name, rows in found.items()}),
        "Left: learning curves of all networks, the best twentieth in blue. Middle and right: the lowest validation "
        f"error so far, by epochs spent, the mean of {searches} searches.",
    )
    record.finish()


if __name__ == "__main__":
    main()
