"""What makes training work: which optimiser, step size, momentum, batch, schedule and width, and when to stop?

    python -m experiments.what_makes_training_work           2 minutes on two CPU cores; --full: all of MNIST, hours
    python -m experiments.what_makes_training_work --quick   15 seconds, on few digits and settings

Data: 2,000 digits of MNIST to train on, 2,000 test digits; nothing that is reported was chosen by these.
Measures: training error, a percentage, the mean over an epoch's batches, each taken before the step that it leads to;
test error, a percentage, after the epoch. Lower is better. A test error of 12 % has a standard error of 0.7.

1. One search over everything, with a network of one hidden layer: each setting is the base setting but for one thing,
and all are tried at each of nine step sizes with three seeds, 10 epochs long. Of each the step size with the lowest
training error in the last epoch counts. How soon it learns is told in epochs, steps, and seconds of a network that is
trained alone, on the machine that this ran on.
2. A large network on 500 digits, far beyond the epoch that has no training error left.

No source has numbers for these subsets; held to account is what courses teach: momentum and wider layers train faster,
step sizes matter most, a larger batch takes fewer steps but more epochs, and a network that knows its data by heart can
still get worse. Methods: Duchi et al. (2011) for Adagrad, Tieleman and Hinton (2012) for RMSprop, Kingma and Ba (2015)
for Adam, as optax has them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import jaxnet as jn
from experiments import mnist, plots
from experiments.record import Record

EXAMPLES, TESTED, EPOCHS, SEEDS = 2000, 2000, 10, 3
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
BASE = {"optimizer": "SGD", "momentum": 0.9, "batch": 50, "decay": 0.0, "hidden": 64}
OPTIMIZERS = {"Adagrad": optax.adagrad, "RMSprop": optax.rmsprop, "Adam": optax.adam}  # beside SGD
MOMENTA, BATCHES, WIDTHS = (0.0, 0.5, 0.9, 0.99), (10, 50, 250, 1000), (8, 16, 32, 64, 128, 256)
LEVEL = 5.0  # percent of training error, to which times are measured
FEW, LARGE, LONG, ADAM = 500, 512, 60, 1e-3  # of the part on overfitting: digits, units, epochs, and Adam's usual rate

Setting = dict[str, Any]


def space(
    optimizers: Sequence[str], momenta: Sequence[float], batches: Sequence[int], widths: Sequence[int],
    rates: Sequence[float],
) -> jn.Space:  # fmt: skip
    """Everything at the base setting but one thing, at every rate."""
    return jn.Space(
        optimizer=jn.choice("SGD", *optimizers),
        momentum=jn.choice(*momenta),
        batch=jn.choice(*batches, static=False),
        decay=jn.choice(0.0, 1.0),
        hidden=jn.choice(*widths, static=False),
        rate=jn.choice(*rates),
        where=lambda hp: sum(hp[name] != value for name, value in BASE.items()) <= 1,
    )


def make_trial(examples: int, epochs: int) -> Callable[[Any], jn.Trial]:
    """A trial of so many examples and epochs, which the schedule must know."""

    def trial(hp) -> jn.Trial:
        steps = epochs * -(-examples // getattr(hp.batch, "value", hp.batch))

        def rate(step):  # constant, or half a cosine down to nothing, or anything between
            return hp.rate * (1 - hp.decay * (1 - jnp.cos(math.pi * step / steps)) / 2)

        sgd = hp.optimizer == "SGD"
        return jn.Trial(
            net=jn.serial(jn.flatten, jn.dense(hp.hidden), jax.nn.relu, jn.dense(10)),
            loss=jn.losses.softmax_cross_entropy,
            optimizer=optax.sgd(rate, momentum=hp.momentum) if sgd else OPTIMIZERS[hp.optimizer](rate),
            metric=jn.metrics.error,
            batch_size=hp.batch,
        )

    return trial


def settings(
    optimizers: Sequence[str], momenta: Sequence[float], batches: Sequence[int], widths: Sequence[int]
) -> dict[str, Setting]:
    """By name, what differs from the base setting; of each kind in a row, and the base setting once in each kind."""
    named: dict[str, Setting] = {f"momentum {momentum:g}": {"momentum": momentum} for momentum in momenta}
    named |= {name: {"optimizer": name} for name in optimizers}
    named |= {f"batches of {batch}": {"batch": batch} for batch in batches}
    named |= {f"{width} units": {"hidden": width} for width in widths}
    return named | {"constant rate": {}, "cosine to 0": {"decay": 1.0}}


def rows(table: dict[str, np.ndarray], setting: Setting) -> np.ndarray:
    """Which rows of a search have the base setting but for what is given: one for each rate."""
    return np.flatnonzero(np.all([table[name] == value for name, value in (BASE | setting).items()], axis=0))


def best(result: jn.search.SearchResult, setting: Setting) -> int:
    """Of those rows, the one with the lowest training error in the last epoch; what diverged is out."""
    found = rows(result.table, setting)
    fine = result.table["status"][found] == "completed"
    return int(found[np.argmin(np.where(fine, result.history["train_error"][found, -1], np.inf))])


def epochs_to(curves: np.ndarray, level: float) -> np.ndarray:
    """The first epoch, from 1, at which a curve is at the level or below; infinity where none is.

    >>> epochs_to(np.array([[9.0, 4.0, 6.0], [9.0, 8.0, 7.0]]), 5.0).tolist()
    [2.0, inf]
    """
    return np.where(np.any(curves <= level, axis=-1), np.argmax(curves <= level, axis=-1) + 1.0, np.inf)


def seconds_an_epoch(trial: jn.Trial, train: Any, key: jax.Array) -> float:
    """Of a network that is trained alone, without compiling and what comes before training: the least of three."""

    def least(epochs):
        took = []
        for _ in range(3):
            started = time.perf_counter()
            jn.fit(trial, train, epochs=epochs, key=key)
            took.append(time.perf_counter() - started)
        return min(took)

    return max(least(6) - least(1), 0.0) / 5


def overfitting(train: Any, test: Any, epochs: int, hidden: int, key: jax.Array) -> tuple[dict[str, np.ndarray], int]:
    """Curves ``[seeds, epochs]`` of a large network, and the epoch at which ``jn.target`` stops the first seed."""
    setting = jn.hp(**BASE | {"optimizer": "Adam", "hidden": hidden}, rate=ADAM)
    trial = make_trial(len(train[0]), epochs)(setting)
    curves = [jn.fit(trial, train, test, epochs=epochs, key=key, trial_id=seed).curve for seed in range(SEEDS)]
    stopped = jn.fit(trial, train, test, epochs=epochs, key=key, stop=jn.target(train_error=0))
    return {name: np.stack([curve[name] for curve in curves]) for name in curves[0]}, len(stopped.curve["train_error"])


def picture(
    result: jn.search.SearchResult, named: dict[str, Setting], seconds: dict[str, float],
    curves: dict[str, np.ndarray], known: float,
) -> Figure:  # fmt: skip
    """Step sizes, optimisers, schedule; batches in seconds, widths in epochs, and overfitting."""
    figure = Figure(figsize=(12.5, 7.4), layout="constrained")
    grid = figure.subplots(2, 3)
    epochs = np.arange(1, result.curves.shape[1] + 1)

    def lines(of):
        chosen = [name for name, setting in named.items() if of(name, setting)]
        shades = plots.COLORS if len(chosen) <= len(plots.COLORS) else (*plots.COLORS, "black", "0.6")
        return list(zip(chosen, shades, strict=False))

    def last(name, measure="train_error"):
        found = rows(result.table, named[name])
        fine = result.table["status"][found] == "completed"
        return result.table["rate"][found], np.where(fine, 100 * result.history[measure][found, -1], np.nan)

    def curve(axes, name, color, scale=1.0, label=None):
        row = best(result, named[name])
        axes.plot(scale * epochs, 100 * result.history["train_error"][row], color=color, label=label or name)
        return 100 * result.history["validation_error"][row]

    optimizers = lines(lambda name, setting: "optimizer" in setting or name in ("momentum 0", "momentum 0.9"))
    for name, color in optimizers:
        label = name.replace("momentum", "SGD, momentum")
        grid[0, 0].plot(*last(name), "o-", color=color, markersize=3, label=label)
        test = curve(grid[0, 1], name, color, label=label)
        grid[0, 1].plot(epochs, test, "--", color=color, linewidth=1)
    grid[0, 1].plot([], [], "--", color="0.4", linewidth=1, label="test error")
    for name, color in lines(lambda name, setting: name in ("constant rate", "cosine to 0")):
        grid[0, 2].plot(*last(name), "o-", color=color, markersize=3, label=name)
        grid[0, 2].plot(*last(name, "validation_error"), "o--", color=color, markersize=3, linewidth=1)
    for name, color in lines(lambda name, setting: "batch" in setting):
        curve(grid[1, 0], name, color, scale=seconds[name])
    for name, color in lines(lambda name, setting: "hidden" in setting):
        curve(grid[1, 1], name, color)
    words = [
        "step size", "epoch, at the best step size", "step size", "seconds, at the best step size",
        "epoch, at the best step size", "epoch",
    ]  # fmt: skip
    titles = ["Optimisers", "Optimisers", "Schedules (dashed: test error)", "Batches", "Widths"]
    for axes, word, title in zip(grid.flat, words, [*titles, "A large network, few digits"], strict=True):
        axes.set(xlabel=word, ylabel="training error (%)", title=title)
        axes.set_yscale("symlog", linthresh=0.1)
        axes.set_ylim(0, 100)
        axes.set_yticks([0, 0.1, 1, 10, 100], ["0", "0.1", "1", "10", "100"])
    for axes in (grid[0, 0], grid[0, 2], grid[1, 0]):
        axes.set_xscale("log")
    over = grid[1, 2]
    epochs = np.arange(1, curves["train_loss"].shape[1] + 1)
    over.set(yscale="linear", ylabel="error (%)", ylim=(0, 50))
    over.plot(epochs, 100 * curves["train_error"].mean(axis=0), color=plots.BLUE, label="training error")
    over.plot(epochs, 100 * curves["validation_error"].mean(axis=0), color=plots.RED, label="test error")
    over.axvline(known, color="0.5", linestyle=":", label="all training digits right")
    losses = over.twinx()
    losses.plot(epochs, curves["validation_loss"].mean(axis=0), "--", color=plots.ORANGE)
    over.plot([], [], "--", color=plots.ORANGE, label="test loss (right)")
    losses.set(ylabel="test loss (nats)", ylim=(0, None))
    for axes in grid.flat:
        plots.tidy(axes)
        axes.legend(frameon=False, fontsize="small")
    losses.spines["top"].set_visible(False)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment: the one place that prints, plots and writes."""
    record = Record(__spec__.name, __doc__ or "", arguments)
    examples, tested, epochs, rates = EXAMPLES, TESTED, EPOCHS, RATES
    optimizers, momenta, batches, widths = tuple(OPTIMIZERS), MOMENTA, BATCHES, WIDTHS
    few, large, long = FEW, LARGE, LONG
    if record.quick:
        examples, tested, epochs, rates = 500, 300, 3, (0.01, 0.1)
        optimizers, momenta, batches, widths = ("Adam",), (0.0, 0.9), (50,), (16, 64)
        few, large, long = 100, 64, 60
    if record.full:
        examples, tested = 50_000, 10_000
    (images, labels), _, (test_images, test_labels) = mnist.load()
    train, test = (images[:examples], labels[:examples]), (test_images[:tested], test_labels[:tested])
    key = jax.random.key(record.seed)
    trial, named = make_trial(examples, epochs), settings(optimizers, momenta, batches, widths)

    result = jn.search.run(
        trial,
        space(optimizers, momenta, batches, widths, rates),
        train,
        test,
        sampler=jn.search.grid(),
        epochs=epochs,
        repeats=SEEDS,
        key=key,
        keep=0,
    )
    lowest, when, seconds, told = {}, {}, {}, {}
    for name, setting in named.items():
        row = best(result, setting)
        hp = result.hyperparameters(row)
        errors, test_errors = (100 * result.repeated[f"{which}_error"][row] for which in ("train", "validation"))
        lowest[name], when[name] = errors[:, -1], epochs_to(errors, LEVEL)
        if row in told:  # the base setting has a name in each kind
            seconds[name] = seconds[told[row]]
            continue
        told[row], seconds[name] = name, seconds_an_epoch(trial(hp), train, key)
        mean = float(when[name].mean())
        soon = f"{mean:.1f} epochs, {mean * -(-examples // hp.batch):.0f} steps, {mean * seconds[name]:.2g} s"
        reached = f"below {LEVEL:g} % after {soon}" if np.isfinite(mean) else f"not below {LEVEL:g} % with every seed"
        record.number(
            f"training error, {name}", lowest[name], "%",
            note=f"step size {hp.rate:g}; {reached}; test error {test_errors[:, -1].mean():.1f} %",
        )  # fmt: skip

    def at(name, rate):
        rates, found = result.table["rate"], rows(result.table, named[name])
        return 100 * result.repeated["train_error"][found[rates[found] == rate][0], :, -1]

    for name in ("momentum 0", "momentum 0.9"):
        record.number(f"training error at a step size of 0.01, {name}", at(name, 0.01), "%")

    curves, stopped = overfitting((images[:few], labels[:few]), test, long, large, key)
    known = epochs_to(curves["train_error"], 0.0)
    at_stop = (np.arange(SEEDS), np.minimum(known, long).astype(int) - 1)
    what = f"{large} units, {few} digits"
    record.number(f"epochs to 100 % training accuracy, {what}", known)
    record.number("test error then", 100 * curves["validation_error"][at_stop], "%")
    record.number(f"test error after {long} epochs", 100 * curves["validation_error"][:, -1], "%")
    record.number("lowest test loss of all epochs", curves["validation_loss"].min(axis=1), "nats")
    record.number(f"test loss after {long} epochs", curves["validation_loss"][:, -1], "nats")

    slower, faster = at("momentum 0", 0.01), at("momentum 0.9", 0.01)
    record.claim("at the same small step size, momentum gets further", slower.mean() > faster.mean())
    narrow, *_, wide = (name for name, setting in named.items() if "hidden" in setting)
    record.claim(f"{wide} get further than {narrow}", lowest[wide].mean() < lowest[narrow].mean())
    record.claim("jn.target stops at the epoch that the curve shows", stopped == min(known[0], long))
    if not record.quick:
        tuned = [lowest[name].mean() for name in ("momentum 0.9", *OPTIMIZERS)]
        spread = [max(at(name, rate).mean() for rate in (0.001, 0.01, 0.1)) for name in ("momentum 0.9", *OPTIMIZERS)]
        record.claim(
            "step sizes matter more than optimisers: the worst of four at its best is better than each at the worst of "
            "0.001, 0.01 and 0.1",
            max(tuned) < min(spread),
        )
        widths = [lowest[name].mean() for name, setting in named.items() if "hidden" in setting]
        record.claim("from 8 to 64, each doubling of the units lowers it", bool(np.all(np.diff(widths[:4]) < 0)))
        ordered = [when[f"batches of {batch}"].mean() for batch in BATCHES[1:]]
        record.claim("from batches of 50 on, larger ones take more epochs", bool(np.all(np.diff(ordered) > 0)))
        least, final = curves["validation_loss"].min(axis=1), curves["validation_loss"][:, -1]
        record.claim(
            "long after the last training error the test loss is above its lowest", bool(np.all(final > least))
        )
    record.figure(
        picture(result, named, seconds, curves, float(known.mean())),
        f"Training error in the last of {epochs} epochs by step size, and by epoch and seconds at the best step size "
        f"of each setting; {examples:,} digits, means over {SEEDS} seeds. Last, {large} units on {few} digits: errors "
        f"and the loss on test digits, by epoch.",
    )
    record.finish()


if __name__ == "__main__":
    main()
