"""Which weights make a sigmoid unit a logic gate, and how often does gradient descent find XNOR by itself?

    python -m experiments.logic_gates           about 7 seconds of processor time
    python -m experiments.logic_gates --quick   about 5: fewer seeds and steps

Data: the truth tables of AND, OR, (NOT x1) AND (NOT x2), here NOR, and XNOR: four rows each, all trained on; there is
nothing to generalise to.
Measure: the farthest that one of the four sigmoids is from its 0 or 1. A gate is found when that's below 0.1. With
weights that were drawn, the share of the seeds that find the gate, and a 95 % interval (Wilson's) of that share.

First the weights of Andrew Ng's course (machine learning, week 4), put into layers as they stand on the slides. Then
every seed starts from weights of its own (normal with variance 1 / inputs, biases 0) and takes the same steps of plain
gradient descent on the cross entropy of all four rows, all seeds and widths side by side in one program.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from scipy.stats import binomtest

import jaxnet as jn
from experiments import plots
from experiments.record import Record

ROWS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
TRUTH = {"AND": [0, 0, 0, 1], "OR": [0, 1, 1, 1], "NOR": [1, 0, 0, 0], "XNOR": [1, 0, 0, 1]}  # one a row
WEIGHTS = {"AND": (-30, 20, 20), "OR": (-10, 20, 20), "NOR": (10, -20, -20)}  # bias, x1, x2, as on the slides
HIDDEN = (2, 3, 4)
FOUND = 0.1  # how near all four sigmoids must be to the truth
RATE = 2.0  # of gradient descent; with 0.5 it takes four times the steps, with 8 a quarter fewer seeds find XNOR
STUCK = {3: "not all: its squared error has local minima, Sprinkhuizen-Kuyper and Boers (1999)"}
STEPS = 100  # in an epoch, so that the host waits once for so many


def unit(*gates: str) -> dict[str, np.ndarray]:
    """Parameters of a dense layer with one unit for each gate."""
    weights = np.array([WEIGHTS[gate] for gate in gates], np.float32).T  # [bias and two inputs, units]
    return {"w": weights[1:], "b": weights[0]}


def by_hand() -> dict[str, np.ndarray]:
    """The four outputs of each gate with the course's weights; XNOR is OR of AND and NOR."""
    gate = jn.serial(jn.dense(1), jax.nn.sigmoid)
    outputs = {name: gate.apply((unit(name), ()), ((), ()), ROWS)[0] for name in WEIGHTS}
    outputs["XNOR"] = xnor(ROWS)
    return {name: np.asarray(output)[:, 0] for name, output in outputs.items()}


def xnor(x: np.ndarray) -> jax.Array:
    """The course's network for XNOR on ``[n, 2]``: ``[n, 1]``."""
    net = jn.serial(jn.dense(2), jax.nn.sigmoid, jn.dense(1), jax.nn.sigmoid)
    return net.apply((unit("AND", "NOR"), (), unit("OR"), ()), ((),) * 4, x)[0]


def off(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """The metric: how far the sigmoid of the worst row is from the truth. An example is a whole truth table."""
    return jnp.max(jnp.abs(jax.nn.sigmoid(outputs) - targets), axis=(1, 2))


def single_unit(hp) -> jn.Trial:
    """One unit, and which of the four gates it is to learn: ``hp.gate`` is the gate's place in ``TRUTH``."""

    def column(targets):
        return targets @ jax.nn.one_hot(jnp.asarray(hp.gate, int), len(TRUTH))[:, None]

    return jn.Trial(
        net=jn.dense(1),
        loss=lambda outputs, targets: jn.losses.sigmoid_cross_entropy(outputs, column(targets)),
        metric=lambda outputs, targets: off(outputs, column(targets)),
        optimizer=optax.sgd(RATE),
        batch_size=1,
    )


def two_layers(hp) -> jn.Trial:
    """Some hidden units, to learn XNOR."""
    return jn.Trial(
        net=jn.serial(jn.dense(hp.hidden), jax.nn.sigmoid, jn.dense(1)),
        loss=jn.losses.sigmoid_cross_entropy,
        metric=off,
        optimizer=optax.sgd(RATE),
        batch_size=1,
    )


def train(trial, space: jn.Space, targets: np.ndarray, *, epochs: int, seeds: int, key: jax.Array):
    """All points of the space, each from so many seeds. Targets are ``[rows, outputs]``.

    An example is all four rows, and the data are as many copies of it as an epoch has steps.
    """
    data = np.tile(ROWS, (STEPS, 1, 1)), np.tile(targets.astype(np.float32), (STEPS, 1, 1))
    once = data[0][:1], data[1][:1]
    return jn.search.run(
        trial, space, data, once, epochs=epochs, key=key, sampler=jn.search.grid(), repeats=seeds, keep=len(HIDDEN)
    )


def share(found: np.ndarray) -> str:
    """The share of seeds in percent, with its interval."""
    interval = binomtest(int(found.sum()), len(found)).proportion_ci(method="wilson")
    return f"{100 * found.mean():.1f} ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def picture(result: jn.search.SearchResult, found: np.ndarray) -> Figure:
    """Shares over the steps; ``found`` is ``[widths, seeds, epochs]``. Beside it, what networks make of the square."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    axes = figure.subplots(1, 4, width_ratios=[1.5, 1, 1, 1])
    steps = STEPS * np.arange(1, found.shape[2] + 1)
    for hidden, per_seed, color in zip(HIDDEN, found, plots.COLORS, strict=False):
        axes[0].plot(steps, 100 * per_seed.mean(axis=0), color=color, label=f"{hidden} hidden units")
    axes[0].set(xlabel="steps of gradient descent", ylabel="seeds that found XNOR (%)", xscale="log", ylim=(0, 102))
    axes[0].legend(frameon=False)
    plots.tidy(axes[0])

    line = np.linspace(-0.25, 1.25, 101, dtype=np.float32)
    square = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    surfaces = {"the course's weights": xnor(square)}
    for title, seeds in {"learned, 2 hidden": found[0, :, -1], "stuck, 2 hidden": ~found[0, :, -1]}.items():
        if seeds.any():
            net, params, state = result.network(0, seed=int(np.argmax(seeds)))
            surfaces[title] = jax.nn.sigmoid(net.apply(params, state, square)[0])
    image: Any = None
    for axis, (title, outputs) in zip(axes[1:], surfaces.items(), strict=False):
        image = axis.imshow(
            np.asarray(outputs).reshape(101, 101), origin="lower", extent=(-0.25, 1.25, -0.25, 1.25), cmap="cividis",
            vmin=0, vmax=1,
        )  # fmt: skip
        for (x1, x2), one in zip(ROWS, TRUTH["XNOR"], strict=True):
            axis.plot(x1, x2, "o", color="white" if one else "black", markeredgecolor="0.5", markersize=9)
        axis.set(title=title, xlabel="x1", ylabel="x2", xticks=[0, 1], yticks=[0, 1])
    for axis in axes[1 + len(surfaces) :]:
        axis.set_axis_off()
    figure.colorbar(image, ax=axes[1:], label="output", shrink=0.8)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment."""
    record = Record(__spec__.name, __doc__, arguments)
    seeds, epochs = (32, 20) if record.quick else (256, 100)
    singles_key, layers_key = jax.random.split(jax.random.key(record.seed))

    for name, outputs in by_hand().items():
        record.number(
            f"{name} by the course's weights, at 00, 01, 10, 11", ", ".join(f"{output:.1g}" for output in outputs),
            known=", ".join(map(str, TRUTH[name])), source="truth table",
        )  # fmt: skip
    farthest = max(np.max(np.abs(outputs - TRUTH[name])) for name, outputs in by_hand().items() if name in WEIGHTS)
    record.number("farthest of these from 0 or 1, XNOR apart", farthest, known=1 / (1 + np.exp(10)), source="g(-10)")
    record.claim(
        "with the course's weights every gate is within 0.0001 of its truth table",
        all(np.max(np.abs(outputs - TRUTH[name])) < 1e-4 for name, outputs in by_hand().items()),
    )

    gates = jn.Space(gate=jn.choice(*map(float, range(len(TRUTH)))))
    table = np.array(list(TRUTH.values())).T  # [rows, gates]
    singles = train(single_unit, gates, table, epochs=epochs, seeds=seeds, key=singles_key)
    for name, score in zip(TRUTH, singles.repeated["score"][..., -1], strict=True):
        separable = name != "XNOR"
        record.number(
            f"{name} learned by one unit, share of {seeds} seeds (95 % interval)", share(score < FOUND), "%",
            known="100" if separable else "0",
            source="the loss is convex, and a line separates the ones" if separable else "no line separates the ones",
        )  # fmt: skip
        record.claim(
            f"{name}: {'every seed' if separable else 'no seed'} finds it with one unit",
            (score < FOUND).all() if separable else not (score < FOUND).any(),
        )

    widths = jn.Space(hidden=jn.choice(*HIDDEN, static=False))
    result = train(two_layers, widths, table[:, 3:], epochs=epochs, seeds=seeds, key=layers_key)
    found = result.repeated["score"] < FOUND  # [widths, seeds, epochs]
    for hidden, per_seed in zip(HIDDEN, found, strict=True):
        record.number(
            f"XNOR learned with {hidden} hidden units, share of {seeds} seeds after {STEPS * epochs:,} steps",
            share(per_seed[:, -1]), "%", source=STUCK.get(hidden, ""),
        )  # fmt: skip
    record.claim("most seeds find XNOR with 4 hidden units", found[-1, :, -1].mean() > 0.5)
    record.figure(
        picture(result, found),
        "Left: share of seeds whose four outputs are all within 0.1 of XNOR. Right: the output over the square of "
        "inputs; white dots are to be 1, black ones 0.",
    )
    record.finish()


if __name__ == "__main__":
    main()
