"""What do the classical filters make of a photograph, and which filters does a network come to by itself?

    python -m experiments.classical_filters           about 25 seconds of processor time
    python -m experiments.classical_filters --quick   about 9: fewer digits, one epoch

Data: scikit-image's photograph "camera", 512 x 512, grey, in [0, 1]. MNIST: 10,000 of the digits to train on, for 5
epochs; 10,000 others for the error that is told. Nothing is chosen by it.
Measure: how far ``jn.fixed_conv`` is from ``scipy.ndimage.correlate`` with the same kernel, at most over the pixels. Of
the learned filters, how alike neighbouring weights are: their correlation, which is about 0 for weights that are drawn
and 1 for a filter as smooth as can be.

First the kernels of the course's table, by hand. Then a small network (12 filters of 7 x 7, pooling, one dense layer)
learns to tell digits, from three seeds as lanes of one search, and its filters are put to the same photograph.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.ndimage
from matplotlib.figure import Figure
from skimage import data

import jaxnet as jn
from experiments import mnist
from experiments.record import Record

KERNELS = {
    "identity": np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]]),
    "edges, diagonal": np.array([[1, 0, -1], [0, 0, 0], [-1, 0, 1]]),
    "edges, Laplacian": np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]]),
    "edges, all around": np.array([[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]]),
    "sharpen": np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]]),
    "box blur": np.ones((3, 3)) / 9,
    "Gaussian blur": np.outer([1, 2, 1], [1, 2, 1]) / 16,
}
FILTERS, KERNEL = 12, 7


def filtered(image: np.ndarray, kernels: Sequence[np.ndarray]) -> np.ndarray:
    """Each kernel over the image ``[height, width]``: ``[kernels, height, width]``. Beyond the edge it's mirrored."""

    def one(kernel):
        layer = jn.fixed_conv(kernel, padding="SAME", padding_mode="reflect")
        return layer.apply((), (), image.astype(np.float32)[None, :, :, None])[0][0, :, :, 0]

    with jax.default_matmul_precision("highest"):  # an accelerator would round to fewer digits than are compared
        return np.asarray(jax.vmap(one)(jnp.asarray(np.stack(kernels), jnp.float32)))


def trial(hp) -> jn.Trial:
    """A network whose first layer is to be looked at."""
    net = jn.serial(
        filters=jn.conv(FILTERS, (KERNEL, KERNEL)), relu=jax.nn.relu, pool=jn.max_pool((4, 4)), flat=jn.flatten,
        output=jn.dense(10),
    )  # fmt: skip
    return jn.Trial(
        net=net, loss=jn.losses.softmax_cross_entropy, metric=jn.metrics.error, optimizer=optax.adam(hp.rate),
        penalty=jn.losses.l2(1e-3), batch_size=100,
    )  # fmt: skip


def likeness(filters: np.ndarray) -> float:
    """The correlation of weights that lie side by side or one above the other, over ``[filters, height, width]``."""
    pairs = [(filters[:, :, :-1], filters[:, :, 1:]), (filters[:, :-1], filters[:, 1:])]
    left, right = (np.concatenate([pair[i].ravel() for pair in pairs]) for i in (0, 1))
    return float(np.corrcoef(left, right)[0, 1])


def picture(photograph: np.ndarray, learned: np.ndarray) -> Figure:
    """Kernels and what they make of a part of the photograph: the classical ones, then as many learned ones."""
    figure = Figure(figsize=(8.0, 5.2), layout="constrained")
    axes = figure.subplots(4, len(KERNELS), height_ratios=[1, 2, 1, 2])
    part = photograph[60:220, 150:310]
    learned = learned[np.argsort(-np.abs(learned).sum(axis=(1, 2)))][: len(KERNELS)]
    for row, kernels in ((0, list(KERNELS.values())), (2, list(learned))):
        for kernel, image, above, below in zip(kernels, filtered(part, kernels), *axes[row : row + 2], strict=True):
            largest = np.abs(kernel).max()
            above.imshow(kernel, cmap="PuOr", vmin=-largest, vmax=largest)
            high = 1.0 if row == 0 and kernel.sum() > 0 else np.quantile(np.abs(image), 0.99)
            low = 0.0 if row == 0 and kernel.sum() > 0 else -high  # so that what is even is grey
            below.imshow(image, cmap="gray", vmin=low, vmax=high)
    for axis, name in zip(axes[0], KERNELS, strict=True):
        axis.set_title(name, fontsize=8)
    for axis, number in zip(axes[2], range(len(learned)), strict=True):
        axis.set_title(f"learned {number + 1}", fontsize=8)
    for axis in axes.ravel():
        axis.set(xticks=[], yticks=[])
    for axis, label in zip(axes[:, 0], ("kernel", "result", "filter", "result"), strict=True):
        axis.set_ylabel(label)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment."""
    record = Record(__spec__.name, __doc__, arguments)
    photograph = data.camera() / 255.0

    farthest = []
    for (name, kernel), image in zip(KERNELS.items(), filtered(photograph, list(KERNELS.values())), strict=True):
        expected = scipy.ndimage.correlate(photograph, kernel.astype(float), mode="mirror")
        farthest.append(np.abs(image - expected).max())
        record.number(
            f"{name}: farthest from scipy.ndimage.correlate", farthest[-1], known=0.0, source="scipy",
            note="sums to 1: keeps brightness" if np.isclose(kernel.sum(), 1) else "sums to 0: what is even vanishes",
        )  # fmt: skip
    record.claim("every kernel gives what scipy.ndimage.correlate gives, to 1e-5", max(farthest) < 1e-5)

    train, validation, _ = mnist.load()
    examples, epochs = (2000, 1) if record.quick else (10_000, 5)
    train, validation = ((images[:examples], labels[:examples]) for images, labels in (train, validation))
    result = jn.search.run(
        trial, jn.Space(rate=jn.choice(0.003)), train, validation, epochs=epochs, key=jax.random.key(record.seed),
        sampler=jn.search.grid(), repeats=3,
    )  # fmt: skip
    learned, drawn = [], []
    for seed in range(result.repeats):
        network = result.network(seed=seed)
        learned.append(network.params["filters"]["w"][:, :, 0].transpose(2, 0, 1))
        params, _, _ = network.net.init(jax.random.key(seed), (28, 28, 1))
        drawn.append(np.asarray(params["filters"]["w"])[:, :, 0].transpose(2, 0, 1))
    error = 100 * result.repeated["score"][0, :, -1]
    record.number("error of the small network on digits that it hasn't seen", error, "%")
    record.claim("the filters are of networks that tell most digits", error.max() < 50)
    likenesses = [likeness(filters) for filters in learned]
    record.number("correlation of neighbouring weights, as drawn", [likeness(filters) for filters in drawn], known=0.0)
    record.number("correlation of neighbouring weights, learned", likenesses)
    if not record.quick:  # which trains too little
        record.claim("learned filters are smoother than drawn ones", min(likenesses) > max(map(likeness, drawn)))
    record.figure(
        picture(photograph, learned[0]),
        "Above: the kernels of the course's table, and what each makes of a part of the photograph. Below: the largest "
        "of 12 filters that a network learned on digits, and what they make of the same. Orange is negative, "
        "violet positive. Results of kernels that sum to 1 are from black, 0, to white, 1; of the others zero is grey.",
    )
    record.finish()


if __name__ == "__main__":
    main()
