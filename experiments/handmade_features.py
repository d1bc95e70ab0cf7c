"""From how many examples on are learned features better than hand-made ones, with a linear classifier on each?

    python -m experiments.handmade_features           2 minutes on two CPU cores; --full: ten draws and more steps
    python -m experiments.handmade_features --quick   20 seconds, on few examples and steps

Data: MNIST; n of the training digits, balanced over the ten classes, in three random draws; 1,000 digits to choose by
(validation), 10,000 to report (test). Measure: test error, a percentage, after the last step; lower is better, and its
standard error at 5 % is 0.2.

Three features, each with a linear classifier (softmax) on it that is trained on the n digits: the pixels; histograms
of oriented gradients (HoG, scikit-image's: 9 orientations in cells of 4 x 4 pixels, normalised over blocks of 2 x 2
cells); and the 84 of LeNet-5, which are learned on the same n digits together with the classifier. The weight decay of
each is chosen for each n by the mean validation error of the draws. All n, draws and decays are lanes of one search.

Known: 12 % by a linear classifier on pixels (LeCun et al., "Gradient-based learning applied to document recognition",
1998) and 0.95 % by LeNet-5, both from 60,000 digits. HoG: Dalal and Triggs, "Histograms of oriented gradients for human
detection" (2005), made for such classifiers on photographs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from skimage.feature import hog

import jaxnet as jn
from experiments import few_examples, mnist, plots
from experiments.record import Record

EXAMPLES = (30, 100, 300, 1000, 3000, 10_000)
DECAYS = (1e-4, 1e-2)
BATCH, RATE = 50, 2e-3
STEPS = {"pixels": 3000, "HoG": 3000, "learned (LeNet-5)": 1000}  # of the most digits 5 epochs, else 15
FEATURES = tuple(STEPS)
CELL, BLOCK, ORIENTATIONS = 4, 2, 9
SOURCE = "LeCun et al. (1998)"


def histograms(images: np.ndarray) -> np.ndarray:
    """HoG of images ``[n, 28, 28, 1]``: ``[n, 1296]``, of 6 x 6 blocks."""
    made = [hog(image[..., 0], ORIENTATIONS, (CELL, CELL), (BLOCK, BLOCK)) for image in images]
    return np.asarray(made, np.float32)


def edges(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """HoG as lines along the edges that it sees: ``[lines, 2 ends, (x, y)]`` in pixels, and how strong each is."""
    blocks = histograms(image[None]).reshape(6, 6, BLOCK, BLOCK, ORIENTATIONS)
    cells = np.zeros((7, 7, ORIENTATIONS))
    for row, column in np.ndindex(BLOCK, BLOCK):  # a cell is in up to four blocks, each of which scales it
        cells[row : row + 6, column : column + 6] += blocks[:, :, row, column]
    angles = np.pi * (np.arange(ORIENTATIONS) + 0.5) / ORIENTATIONS  # of the gradient, which is across the edge
    along = 0.5 * (CELL - 1) * np.stack([-np.sin(angles), np.cos(angles)], axis=-1)
    centres = np.stack(np.meshgrid(np.arange(7), np.arange(7)), axis=-1)[:, :, None] * CELL + 0.5 * (CELL - 1)
    lines = np.stack([centres - along, centres + along], axis=3)
    return lines.reshape(-1, 2, 2), (cells / cells.max()).ravel()


def classifier(features: str) -> jn.Layer:
    """A linear classifier, or LeNet-5, which is one on what it learns."""
    if features == FEATURES[2]:
        return jn.models.lenet5()
    return jn.serial(jn.flatten, jn.dense(10))


def picture(examples: Sequence[int], errors: dict[str, np.ndarray], images: np.ndarray) -> Figure:
    """Errors ``[examples, draws]`` by features; digits and their histograms."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    halves: Any = figure.subfigures(1, 2, width_ratios=[1.3, 1])
    left, right = halves
    axes: Any = left.subplots()
    for (name, values), color in zip(errors.items(), plots.COLORS, strict=False):
        axes.plot(examples, values.mean(axis=1), ".-", color=color, label=f"{name} + linear")
        axes.fill_between(examples, values.min(axis=1), values.max(axis=1), color=color, alpha=0.2, linewidth=0)
    axes.set(xscale="log", yscale="log", xlabel="training digits", ylabel="test error (%)")
    axes.set_xticks(examples)
    axes.set_yticks([2, 5, 10, 20, 50])
    axes.minorticks_off()
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend(frameon=False)
    plots.tidy(axes)
    cells: Any = right.subplots(2, len(images))
    for (above, below), image in zip(cells.T, images, strict=True):
        above.imshow(image[..., 0], cmap="gray_r")
        lines, strengths = edges(image)
        below.add_collection(LineCollection(list(lines), colors="black", alpha=strengths, linewidths=1.2))
        below.set(xlim=(-0.5, 27.5), ylim=(27.5, -0.5), aspect="equal")
        for axis in (above, below):
            axis.set(xticks=[], yticks=[])
    cells[0, 0].set_ylabel("pixels")
    cells[1, 0].set_ylabel("HoG")
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment: the one place that prints, plots and writes."""
    record = Record(__spec__.name, __doc__ or "", arguments)
    examples, draws, longer, tested = EXAMPLES, 10 if record.full else 3, 5 if record.full else 1, 10_000
    if record.quick:
        examples, draws, longer, tested = (30, 300), 2, 0.04, 500
    splits = mnist.load()
    labels = splits.train[1]
    order = few_examples.orders(labels, draws, record.seed)[:, : examples[-1]]
    used, places = np.unique(order, return_inverse=True)
    order = places.reshape(order.shape).astype(np.int32)  # rows of what is used, so that no more HoG are computed
    parts = {"train": (splits.train[0][used], labels[used])}
    for name, (images, own), size in (
        ("validation", splits.validation, min(1000, tested)), ("test", splits.test, tested)
    ):  # fmt: skip
        parts[name] = images[:size], own[:size]

    errors: dict[str, np.ndarray] = {}
    decays = {}
    for name, key in zip(FEATURES, jax.random.split(jax.random.key(record.seed), len(FEATURES)), strict=True):
        made = {part: (histograms(x) if name == "HoG" else x, y) for part, (x, y) in parts.items()}
        net, shape = classifier(name), made["train"][0].shape[1:]
        program = few_examples.program(
            net, made.pop("train"), made, order, units=1, steps=round(longer * STEPS[name]), batch=BATCH, rate=RATE,
            init=lambda hp, key, net=net, shape=shape: net.init(key, shape)[0],
            penalty=lambda hp, params: jn.losses.l2(hp.decay)(params),
        )  # fmt: skip
        space = jn.Space(
            decay=jn.choice(*DECAYS), examples=jn.choice(*map(float, examples)),
            draw=jn.choice(*map(float, range(draws))),
        )  # fmt: skip
        result = jn.search.run(program, space, sampler=jn.search.grid(10), epochs=1, key=key, keep=1)
        place = np.lexsort([result.table[entry] for entry in ("draw", "examples", "decay")])
        validation, test = (
            result.table[part][place].reshape(len(DECAYS), len(examples), draws) for part in ("validation", "test")
        )
        best = np.argmin(validation.mean(axis=2), axis=0)  # [examples]
        errors[name], decays[name] = 100 * test[best, np.arange(len(examples))], [DECAYS[i] for i in best]

    for i, n in enumerate(examples):
        for name in FEATURES:
            known = {"pixels": 12.0, FEATURES[2]: 0.95}.get(name) if n == EXAMPLES[-1] else None
            note = f"weight decay {decays[name][i]:g}" + ("; theirs from 60,000 digits" if known else "")
            record.number(
                f"test error, {n:,} digits, {name}", errors[name][i], "%", known=known, source=SOURCE if known else "",
                note=note,
            )  # fmt: skip
    means = {name: values.mean(axis=1) for name, values in errors.items()}
    record.claim(f"HoG is better than pixels, at {examples[-1]:,} digits", means["HoG"][-1] < means["pixels"][-1])
    if not record.quick:
        record.claim("and at every other number", bool(np.all(means["HoG"] < means["pixels"])))
        ahead = [
            f"{n:,}"
            for n, hand, learned in zip(examples, means["HoG"], means[FEATURES[2]], strict=True)
            if hand < learned
        ]
        record.number("digits at which HoG is ahead of the learned features", ", ".join(ahead) or "none")
        record.claim("the fewest digits are better served by HoG than by learned features", f"{examples[0]:,}" in ahead)
    shown = [int(np.flatnonzero(parts["test"][1] == digit)[0]) for digit in (2, 4, 7)]
    record.figure(
        picture(examples, errors, parts["test"][0][shown]),
        "Left: test error by the number of training digits, mean and range of the draws. Right: digits and their "
        "histograms of oriented gradients, drawn as lines along the edges in each cell.",
    )
    record.finish()


if __name__ == "__main__":
    main()
