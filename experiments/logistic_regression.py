"""How far does one layer of sigmoids or a softmax get on digits, from a single node to ten of them one-vs-rest?

    python -m experiments.logistic_regression           about a minute on two CPU cores; --full: ten seeds, not three
    python -m experiments.logistic_regression --quick   10 seconds, on a slice of the data

Data: MNIST, 50,000 digits to train on, 10,000 to stop by (validation), 10,000 to report (test); pixels in [0, 1]. The
single node sees those of its two digits only.
Measure: test error, the percentage of digits misclassified, at the epoch with the lowest validation error of each seed.
Its standard error at 7.5 % is 0.27. A node says yes where its sigmoid is above one half, which is where its logit is
above 0; of ten nodes, the one with the largest logit has it.

Published is 7.489 % by softmax (deep learning tutorial of the LISA lab, "Classifying MNIST digits using logistic
regression"): weights of 0, plain gradient descent at 0.13 on batches of 600, stopped after 74 epochs by its patience on
the validation error. That's 719 of 9,600 digits, as only full batches were counted, and so are they here; the last 400
of the test set are harder. The problem is convex and starts from 0, so what a seed decides is the order of the digits;
the tutorial keeps the file's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

import jaxnet as jn
from experiments import mnist, plots
from experiments.record import Record

RATE, BATCH, EPOCHS = 0.13, 600, 74  # the tutorial's
SINGLE = jn.Space(rate=jn.choice(RATE))
HEADS = jn.Space(head=jn.choice("softmax", "one-vs-rest"))
COUNTED = 9600  # of the validation and the test digits, for all ten: the full batches
PAIRS = ((0, 1), (4, 9))  # the easiest two digits, and two of the hardest
PAIR_EPOCHS = 20  # a fifth of the digits and of the steps in an epoch; the error is flat by then
SOURCE = "LISA lab's deep learning tutorial"
LECUN = "LeCun et al. (1998), linear classifier (1-layer NN)"
OTHER = "theirs was trained in several ways on other scales of inputs, ours as the softmax above"


def node(hp) -> jn.Trial:
    """A single node, yes or no."""
    return jn.Trial(
        net=jn.serial(jn.flatten, jn.dense(1, w_init=jax.nn.initializers.zeros)),
        loss=jn.losses.sigmoid_cross_entropy,
        optimizer=optax.sgd(hp.rate),
        metric=jn.metrics.error,
        batch_size=BATCH,
    )


def ten_nodes(hp) -> jn.Trial:
    """Ten nodes with 1-of-K labels: a softmax over them, or each by itself against the rest."""

    def one_vs_rest(outputs, targets):  # the sum, where the loss is a mean: each node then learns as it would alone
        return 10 * jn.losses.sigmoid_cross_entropy(outputs, targets)

    return jn.Trial(
        net=jn.serial(jn.flatten, jn.dense(10, w_init=jax.nn.initializers.zeros)),
        loss=jn.losses.softmax_cross_entropy if hp.head == "softmax" else one_vs_rest,
        optimizer=optax.sgd(RATE),
        metric=jn.metrics.error,
        batch_size=BATCH,
    )


def pair(data: tuple[np.ndarray, np.ndarray], no: int, yes: int) -> tuple[np.ndarray, np.ndarray]:
    """The images of two digits, and targets ``[n, 1]``: 1 for the second of them."""
    images, labels = data
    kept = (labels == no) | (labels == yes)
    return images[kept], (labels[kept, None] == yes).astype(np.float32)


def one_of_k(data: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The same images with targets ``[n, 10]``."""
    images, labels = data
    return images, np.eye(10, dtype=np.float32)[labels]


def stopped(trial, space, train, validation, test, *, epochs: int, seeds: int, key) -> tuple[Any, ...]:
    """Test errors in percent, of each configuration and seed where its validation error was lowest.

    Returns errors ``[trials, seeds]``, epochs ``[trials, seeds]`` from 1, test curves ``[trials, seeds, epochs]``, and
    the result, which has the networks as they are after the last epoch.
    """

    def search(held_out):  # the same training to a bit, whatever is held out to look at
        return jn.search.run(
            trial, space, train, held_out, sampler=jn.search.grid(1), epochs=epochs, repeats=seeds, shuffle="own",
            key=key, keep=10,
        )  # fmt: skip

    result = search(test)
    on_test, on_validation = (
        100 * result.repeated["validation_error"],
        100 * search(validation).repeated["validation_error"],
    )
    best = np.argmin(on_validation, axis=-1)
    errors = np.take_along_axis(on_test, best[..., None], axis=-1)[..., 0]
    return errors, best + 1, on_test, result


def alone_as_together(data: tuple[np.ndarray, np.ndarray], digit: int, key: jax.Array) -> float:
    """How far the weights of a node trained alone are from its column among ten one-vs-rest, at most."""
    images, targets = data
    together = jn.fit(ten_nodes(jn.hp(head="one-vs-rest")), data, epochs=2, key=key)
    alone = jn.fit(node(jn.hp(rate=RATE)), (images, targets[:, [digit]]), epochs=2, key=key)
    return float(np.max(np.abs(together.params[1]["w"][:, [digit]] - alone.params[1]["w"])))


def picture(curves: np.ndarray, weights: Sequence[np.ndarray], pair_weights: Sequence[np.ndarray]) -> Figure:
    """Test errors over the epochs, and what each node looks for: weights as images, all on one scale a row."""
    # Images of a fixed aspect push their titles out at the top.
    figure = Figure(figsize=(11, 5.8), layout=ConstrainedLayoutEngine(rect=(0, 0, 1, 0.97)))
    halves: Any = figure.subfigures(2, 1, height_ratios=[1.35, 1])
    upper, lower = halves
    axes = upper.subplots(1, 3, width_ratios=[2, 1, 1])
    epochs = np.arange(1, curves.shape[-1] + 1)
    for per_seed, name, color in zip(curves, ("softmax", "one-vs-rest"), (plots.BLUE, plots.ORANGE), strict=True):
        axes[0].plot(epochs, per_seed.T, color=color, linewidth=1)
        axes[0].plot([], [], color=color, label=name)
    axes[0].axhline(7.489, color="black", linestyle=":", linewidth=1, label="published, softmax")
    axes[0].set(xlabel="epoch", ylabel="test error (%)", xscale="log")
    axes[0].legend(frameon=False)
    plots.tidy(axes[0])
    axes[0].xaxis.set_major_formatter("{x:g}")
    rows: list[Any] = [(axes[1:], pair_weights, [f"{no} against {yes}" for no, yes in PAIRS], "")]
    rows += [
        (row, ten.T, [str(digit) for digit in range(10)], name)
        for row, ten, name in zip(lower.subplots(2, 10), weights, ("softmax", "one-vs-rest"), strict=True)
    ]
    for row, images, titles, name in rows:
        limit = np.max(np.abs(np.stack(images)))
        for axis, image, title in zip(row, images, titles, strict=True):
            axis.imshow(image.reshape(28, 28), cmap="RdBu", vmin=-limit, vmax=limit)
            axis.set(xticks=[], yticks=[])
            if name != "one-vs-rest":
                axis.set_title(title, fontsize="medium")
        row[0].set_ylabel(name)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment: the one place that prints, plots and writes."""
    record = Record(__spec__.name, __doc__ or "", arguments)
    examples, epochs, pair_epochs = (4800, 5, 5) if record.quick else (None, EPOCHS, PAIR_EPOCHS)
    seeds = 2 if record.quick else 10 if record.full else 3
    splits = [(images[:examples], labels[:examples]) for images, labels in mnist.load()]
    key = jax.random.key(record.seed)

    pair_weights, pair_errors = [], []
    for no, yes in PAIRS:
        data = [pair(split, no, yes) for split in splits]
        errors, _, _, result = stopped(node, SINGLE, *data, epochs=pair_epochs, seeds=seeds, key=key)
        record.number(f"test error of a single node, {no} against {yes}", errors[0], "%")
        pair_errors.append(errors.mean())
        pair_weights.append(result.network(0).params[1]["w"][:, 0])

    train, *held_out = map(one_of_k, splits)
    counted = [(images[:COUNTED], targets[:COUNTED]) for images, targets in held_out]
    errors, at, curves, result = stopped(ten_nodes, HEADS, train, *counted, epochs=epochs, seeds=seeds, key=key)
    net = ten_nodes(jn.hp(head="softmax")).net
    images, labels = splits[2]
    networks = [result.network(0, seed) for seed in range(seeds)]
    on_all = [np.argmax(jn.predict(net, n.params, n.state, images), axis=1) != labels for n in networks]
    when = [f"stopped at epochs {', '.join(map(str, row))} of {epochs}" for row in at]
    record.number("test error of softmax", errors[0], "%", known=7.489, source=SOURCE, note=when[0])
    record.number(
        "the same after the last epoch, on all of the test set", [100 * wrong.mean() for wrong in on_all], "%",
        note=f"on the digits after the first {COUNTED:,} it's {100 * np.mean(on_all, axis=0)[COUNTED:].mean():.1f} %"
        if not record.quick else "",
    )  # fmt: skip
    record.number("test error of one-vs-rest", errors[1], "%", known=12.0, source=LECUN, note=f"{when[1]}; {OTHER}")
    gap = alone_as_together(train, 9, key)
    record.number("farthest a node's weight is from itself trained alone", gap, known=0, source="the losses add up")

    record.claim("0 against 1 is easier than 4 against 9", pair_errors[0] < pair_errors[1])
    record.claim("a node among ten one-vs-rest learns as it does alone, to 1e-5", gap < 1e-5)
    if not record.quick:
        record.claim("softmax is within 0.3 of the published 7.489 %", abs(errors[0].mean() - 7.489) < 0.3)
        record.claim("softmax has a lower error than one-vs-rest", errors[0].mean() < errors[1].mean())
    record.figure(
        picture(curves, [result.network(i).params[1]["w"] for i in range(2)], pair_weights),
        "Test error by epoch, a line a seed; the weights of each node as an image, blue where ink says yes and red "
        "where it says no, one colour scale a row.",
    )
    record.finish()


if __name__ == "__main__":
    main()
