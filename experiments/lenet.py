"""What does a convolutional network see in a digit, and how low does its error get?

    python -m experiments.lenet           5 minutes on two CPU cores; --full: 200 epochs, not five
    python -m experiments.lenet --quick   15 seconds, LeNet-5 alone on a slice of the data

Data: MNIST, 60,000 digits to train on, 10,000 to report (test). Nothing is chosen by the test error: it is that after
the last epoch, of settings that were fixed before.
Measure: test error, the percentage of digits misclassified; lower is better, and its standard error at 1 % is 0.1.

Published: LeNet-5 0.95 %, and 0.8 % where distorted digits were added (LeCun et al., "Gradient-based learning applied
to document recognition", 1998); a relative with 20 and 50 filters and 500 tanh units 0.92 % (deep learning tutorial of
the LISA lab: plain gradient descent at 0.1 on batches of 500 for 200 epochs, stopped by 10,000 digits held back; --full
trains it so, without holding any back). Five epochs are made the most of by Adam, whose rate falls to 0 along a cosine.
A fourth network has the first of four cells wherever LeNet-5 has the largest of them: what it does worse is what
pooling does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

import jaxnet as jn
from experiments import mnist, plots
from experiments.augmentation import affine
from experiments.record import Record

RATE, BATCH, EPOCHS = 2e-3, 128, 5
NAMES = ("LeNet-5", "LeNet-5, distorted digits", "20-50-500 tanh", "LeNet-5 without pooling")
KNOWN = {"LeNet-5": (0.95, "LeCun et al. (1998)"), "LeNet-5, distorted digits": (0.8, "LeCun et al. (1998)")} | {
    "20-50-500 tanh": (0.92, "LISA lab's deep learning tutorial")
}
# The kinds of LeCun et al., and a little rotation; as far as digits stay what they are.
distort = affine(degrees=7, cells=1.5, scale=0.1, squeeze=0.1, shear=0.1)
subsample = jn.lift(lambda x: x[:, ::2, ::2])
SHIFTS = range(5)  # cells; the digits have a margin of 4, so that nothing is lost
DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0))
POOLINGS: dict[str, Any] = {
    "no pooling": jn.serial(), "one cell of 2 × 2": subsample, "mean of 2 × 2": jn.avg_pool((2, 2)),
    "largest of 2 × 2": jn.max_pool((2, 2)), "largest of 4 × 4": jn.max_pool((4, 4)),
}  # fmt: skip


def network(name: str) -> jn.Layer:
    """One of ``NAMES``."""
    if name == "20-50-500 tanh":
        return jn.models.lenet5(filters=(20, 50), units=(500,), activation=jnp.tanh, padding="VALID")
    return jn.models.lenet5(pool=subsample if name == "LeNet-5 without pooling" else None)


def training(epochs: int, examples: int, published: bool) -> Callable[[Any], jn.Trial]:
    """The trial function: Adam for so many epochs, or where it is known what was published, that."""

    def trial(hp) -> jn.Trial:
        plain = published and hp.network == "20-50-500 tanh"
        rate = optax.cosine_decay_schedule(RATE, epochs * -(-examples // BATCH))
        return jn.Trial(
            net=network(hp.network),
            loss=jn.losses.softmax_cross_entropy,
            optimizer=optax.sgd(0.1) if plain else optax.adam(rate),
            metric=jn.metrics.error,
            batch_size=500 if plain else BATCH,
            augment=distort if hp.network == "LeNet-5, distorted digits" else None,
        )

    return trial


def shifted(images: np.ndarray, down: int, right: int) -> np.ndarray:
    """Images ``[n, height, width, channels]`` moved by whole cells; what comes in is 0."""
    padded = np.pad(images, ((0, 0), (abs(down),) * 2, (abs(right),) * 2, (0, 0)))
    height, width = images.shape[1:3]
    top, left = abs(down) - down, abs(right) - right
    return padded[:, top : top + height, left : left + width]


def changes(pool: jn.Layer, maps: Sequence[np.ndarray]) -> np.ndarray:
    """How far pooled maps of shifted images are from those of the first entry, as a share of its length, on average."""
    pooled = [np.asarray(pool.apply((), (), jnp.asarray(each))[0]).reshape(len(each), -1) for each in maps]
    lengths = np.linalg.norm(pooled[0], axis=1)
    return np.array([np.mean(np.linalg.norm(each - pooled[0], axis=1) / lengths) for each in pooled])


def stages(net: jn.Layer, params: Any, state: Any, image: np.ndarray) -> dict[str, np.ndarray]:
    """What LeNet-5 makes of one image, layer by layer; its layers are called one after the other, as they stand."""
    layers = [jn.conv(6, (5, 5), padding="SAME"), jn.max_pool((2, 2)), jax.nn.relu]
    layers += [jn.conv(16, (5, 5)), jn.max_pool((2, 2)), jax.nn.relu]
    layers += [jn.flatten, jn.dense(120), jax.nn.relu, jn.dense(84), jax.nn.relu]
    names = ["convolution 1", "", "pooling and relu 1", "convolution 2", "", "pooling and relu 2"]
    names += ["", "", "120 units", "", "84 units"]
    made, x = {}, jnp.asarray(image[None], jnp.float32) / 255
    for layer, name, own in zip(layers, names, params["features"], strict=True):
        x = layer.apply(own, (), x)[0] if isinstance(layer, jn.Layer) else layer(x)
        made |= {name: np.asarray(x[0])} if name else {}
    logits, _ = net.apply(params, state, jnp.asarray(image[None], jnp.float32) / 255)
    return made | {"probability": np.asarray(jax.nn.softmax(logits[0]))}


def tiled(maps: np.ndarray, rows: int) -> np.ndarray:
    """Maps ``[height, width, n]`` in so many rows, with a line of nothing (NaN) between them.

    >>> tiled(np.array([[[1.0, 2.0]]]), 1)
    array([[ 1., nan,  2.]])
    """
    padded = np.pad(maps, ((0, 1), (0, 1), (0, 0)), constant_values=np.nan)
    height, width, number = padded.shape
    grid = padded.reshape(height, width, rows, number // rows).transpose(2, 0, 3, 1)
    return grid.reshape(rows * height, -1)[:-1, :-1]


def picture_of_maps(image: np.ndarray, made: dict[str, np.ndarray]) -> Figure:
    """The digit, the maps of each layer, the units, and the probabilities of the ten classes."""
    figure = Figure(figsize=(11, 8), layout="constrained")
    axes: Any = figure.subplot_mosaic(
        "dcp\nyef\nuuu\nvvv", height_ratios=[2.3, 3.2, 0.3, 0.3], width_ratios=[1, 1.6, 1.6]
    )
    axes["d"].imshow(image[..., 0], cmap="gray_r")
    axes["d"].set_title("input")
    for letter, name, rows in (
        ("c", "convolution 1", 2), ("p", "pooling and relu 1", 2), ("e", "convolution 2", 4),
        ("f", "pooling and relu 2", 4),
    ):  # fmt: skip
        limit = np.max(np.abs(made[name]))
        axes[letter].imshow(tiled(made[name], rows), cmap="RdBu", vmin=-limit, vmax=limit)
        height, width, number = made[name].shape
        axes[letter].set_title(f"{name}: {number} maps of {height} × {width}")
    for letter, name in (("u", "120 units"), ("v", "84 units")):
        axes[letter].imshow(made[name][None], cmap="RdBu", vmin=-made[name].max(), vmax=made[name].max(), aspect="auto")
        axes[letter].set_title(f"dense and relu: {name}")
    for letter in "dcpefuv":
        axes[letter].set(xticks=[], yticks=[], frame_on=False)
    axes["y"].barh(range(10), made["probability"], color=plots.BLUE)
    axes["y"].set(yticks=range(10), xlim=(0, 1), ylim=(9.6, -0.6), ylabel="digit", xlabel="probability", title="output")
    plots.tidy(axes["y"])
    return figure


def picture_of_shifts(change: dict[str, np.ndarray], errors: dict[str, np.ndarray]) -> Figure:
    """Change of the first layer's maps, and test error ``[seeds, shifts]``, against the shift."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for (name, values), color in zip(change.items(), plots.COLORS, strict=False):
        left.plot(SHIFTS, 100 * values, ".-", color=color, label=name)
    left.set(xlabel="shift (cells)", ylabel="change of the first maps (% of their length)", ylim=(0, None))
    for (name, values), color in zip(errors.items(), plots.COLORS, strict=False):
        right.plot(SHIFTS, values.mean(axis=0), ".-", color=color, label=name)
        right.fill_between(SHIFTS, values.min(axis=0), values.max(axis=0), color=color, alpha=0.2, linewidth=0)
    right.set(xlabel="shift (cells)", ylabel="test error (%)", yscale="log")
    right.yaxis.set_major_formatter("{x:g}")
    right.yaxis.set_minor_formatter(NullFormatter())
    for axis in (left, right):
        axis.set_xticks(SHIFTS)
        axis.legend(frameon=False)
        plots.tidy(axis)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment: the one place that prints, plots and writes."""
    record = Record(__spec__.name, __doc__ or "", arguments)
    splits = mnist.load()
    images, labels = (np.concatenate(parts) for parts in zip(*splits[:2], strict=True))
    examples, tested, epochs = (1280, 500, 3) if record.quick else (len(images), None, 200 if record.full else EPOCHS)
    seeds = 1 if record.quick else 3
    train, test = (images[:examples], labels[:examples]), (splits.test[0][:tested], splits.test[1][:tested])
    names = NAMES[:1] if record.quick else NAMES
    space = jn.Space(network=jn.choice(*names))
    result = jn.search.run(
        training(epochs, examples, record.full), space, train, test, sampler=jn.search.grid(1), epochs=epochs,
        repeats=seeds, shuffle="own", key=jax.random.key(record.seed), keep=len(names) * seeds,
    )  # fmt: skip

    few = f"{epochs} epochs of Adam; theirs, 20 passes of a second-order method"
    notes = {"20-50-500 tanh": "theirs stopped by 10,000 of the digits"} if record.full else {
        "LeNet-5": few, "LeNet-5, distorted digits": f"{few}; each digit is distorted anew in each epoch",
        "20-50-500 tanh": f"{epochs} epochs of Adam, not 200 of gradient descent; they held 10,000 digits back",
    }  # fmt: skip
    last = dict(zip(names, 100 * result.repeated["validation_error"][:, :, -1], strict=True))
    for name in names:
        known, source = KNOWN.get(name, (None, ""))
        record.number(f"test error, {name}", last[name], "%", known=known, source=source, note=notes.get(name, ""))

    net, params, state = result.network(0)
    seen = test[0][:500].astype(np.float32) / 255
    first = jn.conv(6, (5, 5), padding="SAME")
    moved = [shifted(seen, 0, right) for right in SHIFTS]
    maps = [np.asarray(jax.nn.relu(first.apply(params["features"][0], (), each)[0])) for each in moved]
    change = {name: changes(pool, maps) for name, pool in POOLINGS.items()}
    for name in POOLINGS:
        record.number(f"change of the first layer's maps by a shift of one cell, {name}", 100 * change[name][1], "%")

    errors = {}
    for i, name in enumerate(names):
        networks = [result.network(i, seed) for seed in range(seeds)]
        table = np.zeros((seeds, len(SHIFTS)))
        for seed, (net, params, state) in enumerate(networks):
            for shift in SHIFTS:
                for down, right in DIRECTIONS if shift else DIRECTIONS[:1]:
                    sample = shifted(test[0][:1000], shift * down, shift * right)
                    wrong = np.argmax(jn.predict(net, params, state, sample), axis=1) != test[1][:1000]
                    table[seed, shift] += 100 * wrong.mean() / (len(DIRECTIONS) if shift else 1)
        errors[name] = table
        record.number(f"error on 1,000 test digits moved by three cells, {name}", table[:, 3], "%")

    largest, one = change["largest of 2 × 2"][1], change["one cell of 2 × 2"][1]
    record.claim("the largest of 2 × 2 cells changes less by a shift of one cell than one of the cells", largest < one)
    record.claim("and that of 4 × 4 less than that of 2 × 2", change["largest of 4 × 4"][1] < largest)
    if not record.quick:
        means = {name: values.mean() for name, values in last.items()}
        at_three = {name: table[:, 3].mean() for name, table in errors.items()}
        plain, distorted, _, without = NAMES
        record.claim("each network is below 2 %", max(means.values()) < 2)
        record.claim("LeNet-5 has a lower error with pooling than without", means[plain] < means[without])
        record.claim("of digits moved by three cells, too", at_three[plain] < at_three[without])
        record.claim(
            "what was trained on distorted digits has the lowest there", at_three[distorted] == min(at_three.values())
        )
    net, params, state = result.network(0)
    record.figure(
        picture_of_maps(test[0][0], stages(net, params, state, test[0][0])),
        "A test digit on its way through LeNet-5. Blue is positive, red negative, one colour scale a layer.", "maps",
    )  # fmt: skip
    record.figure(
        picture_of_shifts(change, errors),
        "Left: how far the first layer's maps, pooled in several ways, move when 500 digits are shifted to the right. "
        "Right: test error of digits shifted in four directions, mean and range of the seeds.", "shifts",
    )  # fmt: skip
    record.finish()


if __name__ == "__main__":
    main()
