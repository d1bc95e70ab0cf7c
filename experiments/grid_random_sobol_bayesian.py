"""Do 8 random trials find as good a network as a grid of about 100, and what do Sobol points and a model add?

    python -m experiments.grid_random_sobol_bayesian           3 minutes on two CPU cores
    python -m experiments.grid_random_sobol_bayesian --quick   15 seconds, few trials on a slice of the data
    python -m experiments.grid_random_sobol_bayesian --full    whole images, 100 epochs, more trials: for a GPU

Bergstra and Bengio ("Random search for hyper-parameter optimization", JMLR 2012) searched a space of networks of one
hidden layer on MNIST and variants of it, and found that, without preprocessing, 8 random trials match or outperform
grids of 100 trials on average, and that as many random trials find better networks. Few hyperparameters matter on a
given data set, and a grid tries the same few values of those again and again.

The space is theirs but for two things: pixels aren't preprocessed, as in their figure 5, and all trials train for as
many epochs, where theirs had 100 to 1000 with early stopping. What a grid finds hangs on whether one of its few rates
is a good one, so there are two of 96 trials: four rates and three widths, or three and four, each with two starts of
the annealing, both activations, with and without penalty, and weights by Glorot's rule. Values are evenly spaced, and
the ends of the ranges among them.

Data: MNIST split as theirs, 10,000 digits to train on, 2,000 to choose by (validation), 50,000 to report (test); pixels
in [0, 1]. By default images are halved to 14 x 14, the test set has 10,000 digits, and trials have 8 epochs.
Measure: test error, the percentage of digits misclassified, of the trial of a search with the lowest validation error.
Its standard error at 6 % and 10,000 digits is 0.24, that of the validation error 0.5.
Random trials serve as searches of any size: what the best of T has is known for all subsets of T at once. As these come
from one pool, their spread tells less and less as T grows. Sobol and Bayesian search (TPE) run three times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from scipy.special import gammaln

import jaxnet as jn
from experiments import mnist, plots
from experiments.record import Record

SPACE = jn.Space(
    learning_rate=jn.log_uniform(1e-3, 10.0),
    anneal=jn.log_uniform(300.0, 30_000.0),  # steps after which the rate falls as one over the steps
    hidden=jn.log_integers(18, 1024),
    batch=jn.choice(20, 100),
    logistic=jn.choice(0.0, 1.0),  # or tanh; a choice of floats, as those below, is no program of its own
    penalised=jn.choice(0.0, 1.0),
    l2=jn.log_uniform(3.1e-7, 3.1e-5),
    uniform=jn.choice(0.0, 1.0),  # or normal weights
    glorot=jn.choice(0.0, 1.0),  # or weights of the scale below
    scale=jn.log_uniform(0.1, 10.0),  # over the square root of the number of inputs
)
# A grid can't have all of it: of what is left out one value is taken.
GRID = jn.Space(
    learning_rate=jn.log_uniform(1e-3, 10.0),
    anneal=jn.log_uniform(300.0, 30_000.0),
    hidden=jn.log_integers(18, 1024),
    batch=jn.choice(20),
    logistic=jn.choice(0.0, 1.0),
    penalised=jn.choice(0.0, 1.0),
    l2=jn.choice(3.1e-6),
    uniform=jn.choice(1.0),
    glorot=jn.choice(1.0),
    scale=jn.choice(1.0),
)
GRIDS = {
    "4 rates, 3 widths": {"learning_rate": 4, "hidden": 3, "anneal": 2},
    "3 rates, 4 widths": {"learning_rate": 3, "hidden": 4, "anneal": 2},
}
EPOCHS, RUNS, BUDGET, RANDOM, TEST = 8, 3, 32, 192, 10_000  # trials in a run; of the pool of random trials
FULL = 100, 10, 64, 256, 50_000
QUICK = 1, 2, 8, 16, 1000
SHARE = 0.05  # of trials that count as good
SOURCE = "Bergstra and Bengio (2012), figure 5"


def trial(hp) -> jn.Trial:
    """A network of one hidden layer by plain gradient descent, as in the paper's section 2.3."""

    def weights(key, shape, dtype):
        inputs, units = shape
        scale = jnp.where(hp.glorot > 0, math.sqrt(6 / (inputs + units)), hp.scale / math.sqrt(inputs))
        even, normal = jax.random.uniform(key, shape, dtype, -1, 1), jax.random.normal(key, shape, dtype)
        return scale * jnp.where(hp.uniform > 0, even, normal)

    def activation(x):
        return jnp.where(hp.logistic > 0, jax.nn.sigmoid(x), jnp.tanh(x))

    def rate(step):
        return hp.learning_rate * hp.anneal / jnp.maximum(step, hp.anneal)

    return jn.Trial(
        net=jn.serial(
            jn.flatten, jn.dense(hp.hidden, w_init=weights), activation,
            jn.dense(10, w_init=jax.nn.initializers.zeros),
        ),
        loss=jn.losses.softmax_cross_entropy,
        penalty=jn.losses.l2(hp.penalised * hp.l2),
        optimizer=optax.sgd(rate),
        metric=jn.metrics.error,
        batch_size=hp.batch,
    )  # fmt: skip


class SideBySide:
    """Several searches that learn, each from its own trials only, as one: trial i is the next of search ``i % n``."""

    def __init__(self, proposers: Sequence[Any]):
        self.proposers = proposers
        self.batch = sum(proposer.batch for proposer in proposers)

    def ask(self, count: int) -> list[dict[str, Any]]:
        """The next configurations, of each search as many."""
        own = [proposer.ask(count // len(self.proposers)) for proposer in self.proposers]
        return [configuration for row in zip(*own, strict=True) for configuration in row]

    def tell(self, ids: np.ndarray, curves: np.ndarray, finished: np.ndarray) -> None:
        """Tells each search of its own trials."""
        n = len(self.proposers)
        for i, proposer in enumerate(self.proposers):
            mine = ids % n == i
            proposer.tell(ids[mine] // n, curves[mine], finished[mine])


def halved(images: np.ndarray) -> np.ndarray:
    """Means over squares of 2 x 2 pixels, uint8 ``[n, 14, 14, 1]``."""
    return mnist.halved(images).round().astype(np.uint8)


def chances(trials: int, drawn: int) -> np.ndarray:
    """The probability of each rank among ``trials`` to be the best of ``drawn`` of them, all subsets being as likely.

    Rank i is the best if it is drawn, and all others come from the ranks after it: ``C(n - 1 - i, T - 1) / C(n, T)``.

    >>> chances(4, 2).round(4).tolist()  # of the six pairs three have the first, two more the second
    [0.5, 0.3333, 0.1667, 0.0]
    """
    after = np.arange(trials)[::-1]
    logs = _log_choose(after, drawn - 1) - _log_choose(np.array(trials), drawn)
    return np.where(after >= drawn - 1, np.exp(logs), 0.0)


def _log_choose(n: np.ndarray, k: int) -> np.ndarray:
    return gammaln(n + 1) - gammaln(k + 1) - gammaln(np.maximum(n - k, 0) + 1)


def best_of(errors: np.ndarray, drawn: int) -> tuple[float, float, float]:
    """Mean and central 95 % of what the best of so many trials has, over all subsets.

    Args:
      errors: test errors of all trials, in the order of their validation errors. drawn: how many trials a search has.

    >>> mean, low, high = best_of(np.array([2.0, 1.0, 3.0]), 2)  # of three pairs two have the first
    >>> round(mean, 4), low, high
    (1.6667, 1.0, 2.0)
    """
    weights = chances(len(errors), drawn)
    order = np.argsort(errors)
    total = np.cumsum(weights[order])
    low, high = (float(errors[order][np.searchsorted(total, level)]) for level in (0.025, 0.975))
    return float(np.sum(weights * errors)), float(low), float(high)


def so_far(scores: np.ndarray) -> np.ndarray:
    """Which trial is the best of those up to each; of equals the first.

    >>> so_far(np.array([3.0, 4.0, 1.0, 1.0])).tolist()
    [0, 0, 2, 2]
    """
    return np.array([int(np.argmin(scores[: i + 1])) for i in range(len(scores))])


def share_with_a_good_one(good: np.ndarray, drawn: int) -> float:
    """Of all subsets of so many trials, the share that have at least one for which ``good`` is True.

    Args:
      good: ``[trials]``, or ``[pools, trials]`` for the mean over pools.

    >>> share_with_a_good_one(np.array([True, False, False, False]), 2)  # three of six pairs
    0.5
    """
    bad = np.sum(~np.atleast_2d(good), axis=1)
    logs = _log_choose(bad, drawn) - _log_choose(np.array(good.shape[-1]), drawn)
    return float(np.mean(1 - np.where(bad >= drawn, np.exp(logs), 0.0)))


def errors_of(result: jn.search.SearchResult, ids: np.ndarray, test: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """In percent; by NumPy, as JAX would compile a program for each width."""
    images, labels = test
    pixels = images.reshape(len(images), -1).astype(np.float32) / 255
    errors = []
    for i in ids:
        _, (_, first, _, last), _ = result.network(int(i))
        hidden = pixels @ first["w"] + first["b"]
        hidden = 0.5 + 0.5 * np.tanh(0.5 * hidden) if result.table["logistic"][i] else np.tanh(hidden)
        errors.append(100 * np.mean(np.argmax(hidden @ last["w"] + last["b"], axis=1) != labels))
    return np.array(errors)


def picture_of_searches(
    drawn: Sequence[int], best: np.ndarray, grids: dict[str, float], runs: dict[str, np.ndarray], good: np.ndarray
) -> Figure:
    """Test errors by the number of trials, and how likely one of the best 5 % is among them.

    Args:
      drawn: numbers of random trials; best: for each the mean, low and high test error.
      grids: by name that of all their trials.
      runs: by name the test errors of the best so far, ``[runs, trials]``.
      good: which random trials are good, ``[pools, trials]``, by a limit that other trials set.
    """
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.5, 1])
    left.fill_between(drawn, best[:, 1], best[:, 2], color=plots.BLUE, alpha=0.15, linewidth=0)
    left.plot(drawn, best[:, 0], "o-", color=plots.BLUE, label="random, mean and central 95 %")
    for (name, errors), color in zip(runs.items(), (plots.ORANGE, plots.GREEN), strict=True):
        trials = np.arange(1, errors.shape[1] + 1)
        left.plot(trials, errors.T, color=color, linewidth=0.6, alpha=0.7)
        left.plot(trials, errors.mean(axis=0), color=color, linewidth=2, label=f"{name}, mean of {len(errors)} runs")
    for (name, error), style in zip(grids.items(), (":", "--"), strict=True):
        left.axhline(error, color="black", linestyle=style, linewidth=1, label=f"all of the grid of {name}")
    left.axvline(8, color="0.7", linewidth=1)
    left.set(xlabel="trials", ylabel="test error of the best by validation (%)", xscale="log", yscale="log")
    ticks = np.arange(1, max(drawn) + 1)
    seen = [100 * share_with_a_good_one(good, int(n)) for n in ticks]
    right.plot(ticks, 100 * (1 - (1 - SHARE) ** ticks), color="black", linestyle=":", label="1 - 0.95$^T$")
    right.plot(ticks, seen, color=plots.BLUE, label="random trials")
    right.set(xlabel="trials", ylabel="searches with one of the best 5 % (%)", xscale="log", ylim=(0, 101))
    for axis in (left, right):
        axis.set_xticks(drawn, [str(n) for n in drawn])
        axis.minorticks_off()
        axis.legend(frameon=False)
        plots.tidy(axis)
    top = max(100.0, best[0, 2])
    marks = [value for value in (3, 4, 5, 7, 10, 15, 20, 30, 50, 90) if 0.9 * best[:, 1].min() <= value <= top]
    left.set_yticks(marks, [str(value) for value in marks])
    return figure


def picture_of_projections(searches: dict[str, dict[str, np.ndarray]]) -> Figure:
    """Where trials lie in two of the hyperparameters, and what they are worth seen along each alone.

    Args:
      searches: by name a table's columns of as many trials each.
    """
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    halves: Any = figure.subfigures(1, len(searches))
    errors = 100 * np.concatenate([table["score"] for table in searches.values()])
    limits = 0.9 * errors.min(), 1.1 * errors.max()
    for half, (name, table) in zip(np.atleast_1d(halves), searches.items(), strict=True):
        half.suptitle(f"{name}, {len(table['score'])} trials")
        (above, corner), (plane, side) = half.subplots(
            2, 2, width_ratios=[3, 1], height_ratios=[1, 2.4], sharex="col", sharey="row"
        )
        corner.set_visible(False)
        rate, hidden, error = table["learning_rate"], table["hidden"], 100 * table["score"]
        best = error <= np.sort(error)[len(error) // 10]
        for shown, color in ((~best, plots.BLUE), (best, plots.ORANGE)):
            plane.plot(rate[shown], hidden[shown], ".", color=color)
            above.plot(rate[shown], error[shown], ".", color=color)
            side.plot(error[shown], hidden[shown], ".", color=color)
        plane.set(xscale="log", yscale="log", xlabel="learning rate", ylabel="hidden units")
        above.set(yscale="log", ylabel="validation\nerror (%)", ylim=limits)
        side.set(xscale="log", xlabel="error (%)", xlim=limits)
        plane.set_xticks(10.0 ** np.arange(-3, 2))
        plane.yaxis.set_major_formatter("{x:g}")
        for axis in (above.yaxis, side.xaxis):
            axis.set(major_locator=LogLocator(subs=(1, 3)), major_formatter="{x:g}", minor_locator=NullLocator())
        for axis in (above, plane, side):
            plots.tidy(axis)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment: the one place that prints, plots and writes."""
    record = Record(__spec__.name, __doc__ or "", arguments)
    setting = QUICK if record.quick else FULL if record.full else (EPOCHS, RUNS, BUDGET, RANDOM, TEST)
    epochs, runs, budget, pool, tested = setting
    examples, held_out = (1000, 500) if record.quick else (10_000, 2000)
    space, grids = SPACE, GRIDS
    if record.quick:  # one batch size, and so half the programs to compile
        space, grids = GRID, {name: points | {"hidden": 1, "anneal": 1} for name, points in GRIDS.items()}
    images, labels = (np.concatenate(parts) for parts in zip(*mnist.load(), strict=True))
    images = images if record.full else halved(images)
    ends = np.cumsum([examples, held_out, tested])
    train, validation, test = ((images[a:b], labels[a:b]) for a, b in zip((0, *ends[:-1]), ends, strict=True))
    key, tpe_key, *own = jax.random.split(jax.random.key(record.seed), 3 + runs)

    # All that needs no scores is one search, whose trials are known from the start.
    listed = [
        *(jn.search.grid(points)(GRID, key, None) for points in grids.values()),
        *(jn.search.sobol()(space, own[i], budget) for i in range(runs)),
        jn.search.random()(space, own[-1], pool),
    ]
    options: Any = {"epochs": epochs, "key": key}
    together = [configuration for search in listed for configuration in search]
    result = jn.search.run(
        trial, space, train, validation, trials=len(together), include=together, keep=len(together), **options
    )
    learned = jn.search.run(
        trial, space, train, validation, trials=runs * budget, keep=runs * budget, **options,
        sampler=lambda space, _, trials: SideBySide(
            [jn.search.bayesian(batch=8)(space, each, budget) for each in jax.random.split(tpe_key, runs)]
        ),
    )  # fmt: skip
    scores, learned_scores = (
        np.where(np.isfinite(each.table["score"]), each.table["score"], 1.0) for each in (result, learned)
    )
    ids = np.split(np.arange(len(together)), np.cumsum([len(search) for search in listed])[:-1])
    gridded, sobol, random = ids[: len(grids)], ids[len(grids) : -1], ids[-1]

    def of_runs(searched, scores, ids):
        """Test errors of the best so far, ``[runs, trials]``."""
        best = np.array([run[so_far(scores[run])] for run in ids])
        chosen, where = np.unique(best, return_inverse=True)
        return errors_of(searched, chosen, test)[where].reshape(best.shape)

    on_grids = {name: float(of_runs(result, scores, [ids])[0, -1]) for name, ids in zip(grids, gridded, strict=True)}
    curves = {
        "Sobol": of_runs(result, scores, sobol),
        "Bayesian": of_runs(learned, learned_scores, [np.arange(i, runs * budget, runs) for i in range(runs)]),
    }
    errors = errors_of(result, random[np.argsort(scores[random], kind="stable")], test)
    # Each half of them sets the limit for the other.
    halves = scores[random[::2]], scores[random[1::2]]
    good = np.stack([half <= np.quantile(other, SHARE) for half, other in (halves, halves[::-1])])
    drawn = [2**i for i in range(int(np.log2(pool // 2)) + 1)]
    best = np.array([best_of(errors, n) for n in drawn])
    mean, *_ = best_of(errors, budget)

    for n in sorted({8, budget, len(gridded[0])}):
        average, low, high = best_of(errors, n)
        text = f"{average:.2f} ({low:.2f} to {high:.2f})"
        record.number(f"test error, the best of {n} random trials, and the central 95 %", text, "%")
    for (name, error), ids in zip(on_grids.items(), gridded, strict=True):
        record.number(
            f"test error, the best of the grid's {len(ids)} trials, {name}", error, "%",
            known=best_of(errors, 8)[0], source="8 random trials",
        )  # fmt: skip
        matched = 100 * np.sum(chances(pool, 8)[errors <= error])
        enough = next((n for n in range(1, pool + 1) if best_of(errors, n)[0] <= error), None)
        record.number(
            f"random trials whose best matches that on average, {name}", enough or f"more than {pool}",
            known=8, source=SOURCE, note=f"8 match it in {matched:.0f} % of searches",
        )  # fmt: skip
    for name, per_run in curves.items():
        record.number(
            f"test error, the best of {budget} trials, {name}", per_run[:, -1], "%",
            known=mean, source=f"{budget} random trials",
        )  # fmt: skip
    for n in (8, 59):
        if n <= good.shape[1]:
            record.number(
                f"searches of {n} random trials with one of the best 5 %", 100 * share_with_a_good_one(good, n), "%",
                known=100 * (1 - (1 - SHARE) ** n), source="1 - 0.95^T",
                note=f"{good.sum()} of {pool} are as good as the best 5 % of the other half of them",
            )  # fmt: skip
    limit = np.quantile(scores[random], SHARE)  # of all of them, as these are others anyway
    shares = {"Sobol": np.mean(scores[np.concatenate(sobol)] <= limit), "Bayesian": np.mean(learned_scores <= limit)}
    for name, share in shares.items():
        record.number(
            f"trials as good as the best 5 % of random ones, {name}", 100 * share, "%",
            known=100 * SHARE, source="random trials",
        )  # fmt: skip
    record.claim("the best of 8 random trials has a lower error on average than the best of 2", best[3, 0] < best[1, 0])
    if not record.quick:
        importances = result.importances()
        record.number(
            "share of the validation error's variation that a hyperparameter has alone",
            ", ".join(f"{name} {100 * share:.0f} %" for name, share in importances.items()),
            note="functional ANOVA of grid, Sobol and random trials",
        )  # fmt: skip
        record.claim(
            "no hyperparameter matters more than the learning rate", next(iter(importances)) == "learning_rate"
        )
    record.figure(
        picture_of_searches(drawn, best, on_grids, curves, good),
        "Test error of the best trial by validation error, against the number of trials: thin lines are single runs, "
        "the grey line marks 8. Right: how many searches have one of the best 5 %, a limit that other trials set.",
        "searches",
    )
    columns = {name: result.table[name] for name in ("learning_rate", "hidden")} | {"score": scores}
    shown = {f"grid, {next(iter(grids))}": gridded[0], "random": random[: len(gridded[0])]}
    record.figure(
        picture_of_projections({name: {n: c[ids] for n, c in columns.items()} for name, ids in shown.items()}),
        "As many trials of the grid and of random search, in the plane of two hyperparameters and seen along each: the "
        "grid has tried four rates, random search as many as trials. The best tenth of each is orange.",
        "projections",
    )
    record.finish()


if __name__ == "__main__":
    main()
