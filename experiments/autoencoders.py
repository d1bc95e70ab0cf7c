"""What does a network learn that only says its input again: PCA when it's linear, and what more when it isn't?

    python -m experiments.autoencoders           2 to 3 minutes on two CPU cores
    python -m experiments.autoencoders --quick   20 to 30 seconds, on little data
    python -m experiments.autoencoders --full    all digits, networks as published, 10 seeds; for an accelerator

Data: MNIST, pixels in [0, 1]. 50,000 digits to train on (the linear network sees the first 10,000, denoisers and sparse
codes the first 20,000), test digits to report, all 10,000 of them. Nothing is chosen by a score but the width of the
classical filters (on validation digits) and the strength of the classifier's penalty (by leaving one of its labels out
at a time).
Measure: squared error of an image, summed over its 784 pixels, averaged over images; lower is better.

1. A linear network with k numbers in the middle has its least error where these span the first k principal components
(Baldi and Hornik, "Neural networks and principal component analysis", 1989). The optimum is computed from the
covariance of the same centred digits; spans are compared by their largest principal angle, 0 degrees when they are the
same and 90 when some direction is missing. The closer two eigenvalues, the slower the angle closes; the error hardly
notices.
2. Deep codes of 30 and of 2 numbers. Published for 30 (Hinton and Salakhutdinov, "Reducing the dimensionality of data
with neural networks", Science 2006, figure 2): 3.00 by a network of 784-1000-500-250-30 that was pretrained layer by
layer, 13.87 by PCA. The default network is 784-256-128-30 and trained for few epochs, from random weights; one of
convolutions has the same code.
3. Sparse codes: 256 rectified numbers, whose sum is weighed into the loss (l1). 4. Denoising: salt (a quarter of the
pixels turn white) and Gaussian noise (standard deviation 0.5), against the better of a median and a Gaussian filter.
5. Codes as features: test accuracy of a linear classifier (ridge regression on 1-of-K labels) that has few labels,
against the same on pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from scipy import linalg, ndimage
from sklearn.linear_model import RidgeClassifierCV
from sklearn.neighbors import KNeighborsClassifier

import jaxnet as jn
from experiments import mnist, plots
from experiments.record import Record

PIXELS = 784
STRENGTHS = (0.0, 0.1, 0.3, 1.0)  # of l1, in nats for a unit of code
WIDTH = 256  # of sparse codes, and of the denoisers' hidden layer
DECAY = 1e-2  # of the sparse decoder's weights, or else they grow and the code shrinks at no cost
SALT, DEVIATION = 0.25, 0.5
RATE, BATCH = 5e-3, 128  # of Adam; the rate falls to nothing along a cosine
HE = jax.nn.initializers.he_normal()  # before rectifiers
FOURFOLD = jax.nn.initializers.variance_scaling(8, "fan_in", "truncated_normal")  # He's, where strides leave a quarter
LABELS = (20, 100, 500)  # as many of each digit
PUBLISHED = "Hinton and Salakhutdinov (2006)"


class Amount(NamedTuple):
    """How much is done: digits and epochs of each part, widths of the deep network, seeds."""

    linear: tuple[int, int] = (10_000, 60)
    deep: tuple[int, int] = (50_000, 12)
    convolutional: tuple[int, int] = (20_000, 6)
    shallow: tuple[int, int] = (20_000, 8)
    widths: tuple[int, ...] = (256, 128)
    codes: tuple[int, ...] = (2, 10, 30)  # of the linear network; 30 is Hinton and Salakhutdinov's
    test: int = 10_000
    seeds: int = 3


QUICK = Amount((1000, 150), (1000, 2), (640, 1), (1000, 2), (64, 32), (2,), 1000, 2)
FULL = Amount((10_000, 200), (50_000, 200), (50_000, 100), (50_000, 50), (1000, 500, 250), seeds=10)


def squared(outputs: Any, targets: Any) -> jax.Array:
    """Squared error, summed over the pixels: ``[batch]``."""
    return jnp.sum((outputs - targets) ** 2, axis=1)


def cross_entropy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Nats, summed over the pixels: ``[batch]``."""
    return PIXELS * jn.losses.sigmoid_cross_entropy(outputs, targets)


def error(output: Any, targets: Any) -> jax.Array:
    """The measure, of a network whose outputs are logits."""
    return squared(jax.nn.sigmoid(output.outputs), targets)


def linear(steps: int) -> Callable[[Any], jn.Trial]:
    """Two matrices, for centred digits."""
    small = jax.nn.initializers.normal(PIXELS**-0.5)  # directions of length 1, on both sides of the code

    def trial(hp):
        return jn.Trial(
            net=jn.models.autoencoder(jn.dense(hp.code, w_init=small), jn.dense(PIXELS, w_init=small)),
            loss=jn.models.reconstruction_loss(squared),
            # Plain descent, whose steps shrink with the gradient, so that it comes close to the optimum.
            optimizer=optax.sgd(optax.cosine_decay_schedule(1e-2, steps), momentum=0.9),
            batch_size=200,
        )

    return trial


def nonlinear(
    make: Callable[[Any], jn.Layer], digits: int, epochs: int, batch: int = BATCH
) -> Callable[[Any], jn.Trial]:
    """Trials of an autoencoder whose outputs are logits; it may have a sparse code, and noisy inputs."""
    schedule = optax.cosine_decay_schedule(RATE, epochs * -(-digits // batch))

    def trial(hp):
        return jn.Trial(
            net=make(hp),
            loss=jn.models.reconstruction_loss(cross_entropy, l1=hp.get("l1", 0.0)),
            optimizer=optax.adam(schedule),
            metric=error,
            penalty=jn.losses.l2(hp.decay, where=lambda path: path == "decoder/w") if "decay" in hp else None,
            batch_size=batch,
            augment=(lambda key, images: noise(key, images, hp.salt, hp.deviation)) if "salt" in hp else None,
        )

    return trial


def deep(widths: Sequence[int]) -> Callable[[Any], jn.Layer]:
    """The same widths down to the code and up again, all rectified but the code and the outputs."""

    def layers(widths):
        return [layer for width in widths for layer in (jn.dense(width, w_init=HE), jax.nn.relu)]

    return lambda hp: jn.models.autoencoder(
        jn.serial(*layers(widths), jn.dense(hp.code)), jn.serial(*layers(widths[::-1]), jn.dense(PIXELS))
    )


def convolutional(hp) -> jn.Layer:
    """28 x 28 to 14 x 14 to 7 x 7 to the code, and back by transposed convolutions."""
    halve: Any = {"strides": 2, "padding": 1}
    return jn.models.autoencoder(
        jn.serial(
            jn.reshape((28, 28, 1)), jn.conv(8, (4, 4), w_init=HE, **halve), jax.nn.relu,
            jn.conv(16, (4, 4), w_init=HE, **halve), jax.nn.relu, jn.flatten, jn.dense(hp.code),
        ),
        jn.serial(
            jn.dense(7 * 7 * 16, w_init=HE), jax.nn.relu, jn.reshape((7, 7, 16)),
            jn.conv_transpose(8, (4, 4), w_init=FOURFOLD, **halve), jax.nn.relu,
            jn.conv_transpose(1, (4, 4), w_init=FOURFOLD, **halve), jn.flatten,
        ),
    )  # fmt: skip


def shallow(hp) -> jn.Layer:
    """One hidden layer: the code is what comes out of its rectifiers."""
    return jn.models.autoencoder(jn.serial(jn.dense(WIDTH, w_init=HE), jax.nn.relu), jn.dense(PIXELS))


def noise(key: jax.Array, images: Any, salt: Any, deviation: Any) -> jax.Array:
    """Images with a share of their pixels white, and normal numbers added to all; not cut off at 0 and 1."""
    salt_key, normal_key = jax.random.split(key)
    noisy = images + deviation * jax.random.normal(normal_key, images.shape)
    return jnp.where(jax.random.uniform(salt_key, images.shape) < salt, 1.0, noisy)


def principal_components(data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of centred data ``[n, features]``: variances, the largest first, and directions, a row each."""
    variances, directions = np.linalg.eigh(data.T.astype(np.float64) @ data / len(data))
    return variances[::-1], directions[:, ::-1].T


def largest_angle(rows: np.ndarray, others: np.ndarray) -> float:
    """Degrees between the spans of the rows of two matrices.

    >>> round(largest_angle(np.array([[1.0, 0.0, 0.0]]), np.array([[2.0, 2.0, 0.0]])), 4)
    45.0
    """
    return float(np.degrees(linalg.subspace_angles(rows.T, others.T).max()))


def filtered(noisy: np.ndarray, clean: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The classical filter that brings noisy images ``[n, 784]`` closest to the clean ones."""

    def over_images(function):
        return lambda images: function(images.reshape(-1, 28, 28)).reshape(images.shape)

    filters = [over_images(lambda x, s=size: ndimage.median_filter(x, (1, s, s))) for size in (3, 5)]
    filters += [
        over_images(lambda x, s=width: ndimage.gaussian_filter(x, (0, s, s))) for width in np.arange(0.5, 1.6, 0.1)
    ]
    return min(filters, key=lambda apply: float(np.mean(squared(apply(noisy), clean))))


def accuracy(features: Any, labels: np.ndarray, test: Any, answers: np.ndarray, count: int, seed: int) -> float:
    """Percent of test digits that a linear classifier names right, given ``count`` labels, as many of each digit."""
    generator = np.random.default_rng([seed, count])
    rows = np.concatenate([generator.choice(np.flatnonzero(labels == i), count // 10, False) for i in range(10)])
    scale = np.sqrt(np.mean(features[rows] ** 2))  # so that one range of penalties suits features of every size
    classifier = RidgeClassifierCV(np.logspace(-2, 4, 13))
    return 100 * float(classifier.fit(features[rows] / scale, labels[rows]).score(test / scale, answers))


def trained(
    trial, configurations: Sequence[dict[str, Any]], data: np.ndarray, epochs: int, seeds: int, key: jax.Array
) -> Callable[[int, int, np.ndarray], tuple[Any, Any]]:
    """Trains all configurations and seeds at once.

    Returns ``outputs(configuration, seed, images)``: a ``Reconstructed`` on the host, and the network's parameters.
    """
    space = jn.Space(**{name: _distribution(name, configurations) for name in configurations[0]})
    result = jn.search.run(
        trial, space, (data, data), (data[:500], data[:500]), include=configurations, trials=len(configurations),
        epochs=epochs, repeats=seeds, shuffle="own", key=key,
    )  # fmt: skip
    nets: dict[Any, jn.Layer] = {}  # the same one for all that differ in their numbers only: one program

    def outputs(configuration, seed, images):
        network = result.network(configuration, seed)
        net = nets.setdefault(configurations[configuration].get("code"), network.net)
        return jn.predict(net, network.params, network.state, images), network.params

    return outputs


def _distribution(name: str, configurations: Sequence[dict[str, Any]]) -> Any:
    values = dict.fromkeys(configuration[name] for configuration in configurations)
    return jn.choice(*values, static=False)


def tiles(axis: Any, images: np.ndarray, columns: int, **options: Any) -> None:
    """Images ``[n, 784]`` in rows of so many, on one grey scale."""
    rows = images.reshape(-1, columns, 28, 28)
    rows = np.pad(rows, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    axis.imshow(rows.swapaxes(1, 2).reshape(29 * len(rows), 29 * columns), **{"cmap": "gray_r", **options})
    axis.set(xticks=[], yticks=[])
    axis.set_frame_on(False)


def picture_of_codes(codes: Sequence[np.ndarray], titles: Sequence[str], labels: np.ndarray) -> Figure:
    """Test digits where their two numbers put them, in the colours of their digits; axes are ranks, to spread them."""
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    for axis, code, title in zip(figure.subplots(1, 2), codes, titles, strict=True):
        places = 100 * np.argsort(np.argsort(code, axis=0), axis=0) / len(code)
        for digit in range(10):
            axis.scatter(*places[labels == digit].T, s=3, linewidth=0, alpha=0.7, color=f"C{digit}")
            where = np.median(places[labels == digit], axis=0)
            axis.text(*where, str(digit), ha="center", va="center", fontsize="x-large", fontweight="bold")
        axis.set(title=title, xlabel="first number (percentile)", ylabel="second number (percentile)", aspect="equal")
        plots.tidy(axis)
    return figure


def picture_of_rows(rows: dict[str, Any]) -> Figure:
    """A row of digits under each name."""
    columns = len(next(iter(rows.values())))
    width = 0.8 * columns + 2.2
    figure = Figure(figsize=(width, 0.85 * len(rows)))
    figure.subplots_adjust(left=2.1 / width, right=0.99, bottom=0.01, top=0.99)
    for axis, (name, images) in zip(figure.subplots(len(rows), 1), rows.items(), strict=True):
        tiles(axis, images, columns, vmin=0, vmax=1)
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
    return figure


def picture_of_filters(filters: dict[str, np.ndarray]) -> Figure:
    """Weights out of units of the code as images, each on its own scale; red is positive."""
    # Images of a fixed aspect push their titles out at the top.
    layout = ConstrainedLayoutEngine(rect=(0, 0, 1, 0.96))
    figure = Figure(figsize=(5.2 * len(filters), 5.5), layout=layout)
    for axis, (name, weights) in zip(np.atleast_1d(figure.subplots(1, len(filters))), filters.items(), strict=True):
        weights = weights / np.abs(weights).max(axis=1, keepdims=True)
        tiles(axis, weights, 8, cmap="RdBu_r", vmin=-1, vmax=1)
        axis.set_title(name)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment: the one place that prints, draws and writes."""
    record = Record(__spec__.name, __doc__ or "", arguments)
    amount = QUICK if record.quick else FULL if record.full else Amount()
    seeds, keys = range(amount.seeds), jax.random.split(jax.random.key(record.seed), 5)
    train, validation, test = mnist.load()
    labels, answers = train[1], test[1][: amount.test]
    images, held_out, digits = (
        part[0].reshape(-1, PIXELS).astype(np.float32) / 255 for part in (train, validation, test)
    )
    images, digits = images[: max(amount.deep[0], amount.shallow[0])], digits[: amount.test]

    # Linear.
    count, epochs = amount.linear
    centred = images[:count] - images[:count].mean(axis=0)
    variances, directions = principal_components(centred)
    configurations: list[dict[str, Any]] = [{"code": code} for code in amount.codes]
    outputs = trained(linear(epochs * count // 200), configurations, centred, epochs, amount.seeds, keys[0])
    excess, angles = {}, {}
    for i, code in enumerate(amount.codes):
        optimum = float(variances[code:].sum())
        made = [outputs(i, seed, centred) for seed in seeds]
        losses = [float(np.mean(squared(output.outputs, centred))) for output, _ in made]
        angles[code] = [largest_angle(params["decoder"]["w"], directions[:code]) for _, params in made]
        excess[code] = [100 * (loss / optimum - 1) for loss in losses]
        record.number(f"linear, {code} numbers: error on its digits", losses, known=optimum, source="PCA")
        record.number(
            f"linear, {code} numbers: largest angle to the principal components", angles[code], "degrees", known=0,
            source="Baldi and Hornik (1989)",
            note=f"eigenvalues {code} and {code + 1} are {variances[code - 1]:.3f} and {variances[code]:.3f}",
        )  # fmt: skip

    # Deep, with codes of 2 and of 30 numbers, and convolutional.
    count, epochs = amount.deep
    mean = images.mean(axis=0)
    _, directions = principal_components(images - mean)

    def project(data, code):
        return (data - mean) @ directions[:code].T.astype(np.float32)

    by_pca = float(np.mean(squared(project(digits, 30) @ directions[:30].astype(np.float32) + mean, digits)))
    record.number("PCA, 30 numbers: error on test digits", by_pca, known=13.87, source=PUBLISHED)
    configurations = [{"code": 2}, {"code": 30}]
    trial = nonlinear(deep(amount.widths), count, epochs)
    outputs = trained(trial, configurations, images[:count], epochs, amount.seeds, keys[1])
    codes = {code: [outputs(i, seed, digits)[0] for seed in seeds] for i, code in enumerate((2, 30))}
    errors = {code: [float(np.mean(error(output, digits))) for output in codes[code]] for code in codes}
    sizes = "-".join(map(str, (PIXELS, *amount.widths)))
    short = "" if record.full else f"{epochs} epochs, not pretrained, a smaller network than 784-1000-500-250-30"
    record.number(f"deep, {sizes}-30: error on test digits", errors[30], known=3.0, source=PUBLISHED, note=short)
    record.number(f"deep, {sizes}-2: error on test digits", errors[2])
    count, epochs = amount.convolutional
    trial = nonlinear(convolutional, count, epochs, batch=64)
    convolved = trained(trial, [{"code": 30}], images[:count], epochs, amount.seeds, keys[2])
    by_convolutions = [convolved(0, seed, digits)[0] for seed in seeds]
    errors_convolved = [float(np.mean(error(output, digits))) for output in by_convolutions]
    record.number(
        "convolutional, 30 numbers: error on test digits", errors_convolved,
        note=f"{count:,} digits, {epochs} epochs, 8 and 16 filters",
    )  # fmt: skip
    half = len(digits) // 2
    planes = [project(digits, 2), np.asarray(codes[2][0].code)]
    neighbours = KNeighborsClassifier(15)
    named = [100 * neighbours.fit(c[:half], answers[:half]).score(c[half:], answers[half:]) for c in planes]
    record.number("neighbours in the plane name a digit, PCA", named[0], "%", note="15 of the other half's test digits")
    record.number("neighbours in the plane name a digit, deep", named[1], "%", note="one seed")
    record.figure(
        picture_of_codes(planes, ["the first two principal components", f"deep, {sizes}-2"], answers),
        "Test digits as two numbers, by PCA and by a deep autoencoder that was told no label; each axis in ranks.",
        "plane",
    )  # fmt: skip
    first = [int(np.flatnonzero(answers == digit)[0]) for digit in range(10)]
    record.figure(
        picture_of_rows({
            "test digit": digits[first],
            "PCA, 30": project(digits[first], 30) @ directions[:30].astype(np.float32) + mean,
            "deep, 30": jax.nn.sigmoid(codes[30][0].outputs[np.array(first)]),
            "convolutional, 30": jax.nn.sigmoid(by_convolutions[0].outputs[np.array(first)]),
            "deep, 2": jax.nn.sigmoid(codes[2][0].outputs[np.array(first)]),
        }),
        "The first test digit of each class, and what is left of it after codes of 30 and of 2 numbers.",
        "reconstructions",
    )  # fmt: skip

    # Sparse, and denoising: lanes of one search.
    count, epochs = amount.shallow
    kinds = {"salt": (SALT, 0.0), "Gaussian noise": (0.0, DEVIATION)}
    configurations = [{"l1": l1, "decay": DECAY, "salt": 0.0, "deviation": 0.0} for l1 in STRENGTHS]
    configurations += [{"l1": 0.0, "decay": 0.0, "salt": salt, "deviation": sd} for salt, sd in kinds.values()]
    one_layer = trained(
        nonlinear(shallow, count, epochs), configurations, images[:count], epochs, amount.seeds, keys[3]
    )
    zeros, filters = {}, {}
    for i, strength in enumerate(STRENGTHS):
        made = [one_layer(i, seed, digits) for seed in seeds]
        zeros[strength] = [100 * float(np.mean(output.code == 0)) for output, _ in made]
        errors_sparse = [float(np.mean(error(output, digits))) for output, _ in made]
        dead = np.mean([(output.code == 0).all(axis=0).sum() for output, _ in made])
        record.number(
            f"sparse, l1 {strength:g}: zeros in the code", zeros[strength], "%",
            note=f"error {np.mean(errors_sparse):.1f}; {dead:.0f} of {WIDTH} units are always zero",
        )  # fmt: skip
        active = np.argsort(-np.mean(made[0][0].code > 0, axis=0))[:64]
        filters[f"l1 {strength:g}: the 64 units that are active most often"] = made[0][1]["decoder"]["w"][active]
    shown = [list(filters)[i] for i in (0, 2)]
    record.figure(
        picture_of_filters({name: filters[name] for name in shown}),
        "What a unit of the code adds to the image, red ink and blue the lack of it, without and with l1.", "filters",
    )  # fmt: skip

    rows, before, after, classical = {"test digit": digits[first]}, {}, {}, {}
    for place, (kind, (salt, deviation)) in enumerate(kinds.items(), len(STRENGTHS)):
        noisy, other = (
            np.asarray(noise(jax.random.fold_in(keys[4], i), data, salt, deviation))
            for i, data in enumerate((digits, held_out[:1000]))
        )
        cleaned = [jax.nn.sigmoid(one_layer(place, seed, noisy)[0].outputs) for seed in seeds]
        by_filter = filtered(other, held_out[:1000])(noisy)
        before[kind], classical[kind] = (float(np.mean(squared(a, digits))) for a in (noisy, by_filter))
        after[kind] = [float(np.mean(squared(each, digits))) for each in cleaned]
        record.number(
            f"{kind}: error of denoised test digits", after[kind], known=classical[kind],
            source="the best of median and Gaussian filters", note=f"{before[kind]:.0f} before",
        )  # fmt: skip
        rows |= {kind: noisy[first], f"{kind}, filtered": by_filter[first]}
        rows[f"{kind}, denoised"] = np.asarray(cleaned[0])[np.array(first)]
    record.figure(
        picture_of_rows(rows),
        "Before and after: the best classical filter, and the denoising autoencoder.",
        "denoising",
    )

    # Codes as features.
    seen = slice(None, amount.shallow[0])
    codes_of = {
        "pixels": (images[seen], digits), "30 principal components": (project(images[seen], 30), project(digits, 30)),
        "deep code of 30": (outputs(1, 0, images[seen])[0].code, codes[30][0].code),
        "sparse code, l1 0.3": (one_layer(2, 0, images[seen])[0].code, one_layer(2, 0, digits)[0].code),
    }  # fmt: skip
    few: dict[str, list[np.ndarray]] = {name: [] for name in codes_of}
    for name, (features, of_test) in codes_of.items():
        for number in LABELS[:1] if record.quick else LABELS:
            scores = [accuracy(features, labels[seen], of_test, answers, number, record.seed + seed) for seed in seeds]
            few[name].append(np.array(scores))
            record.number(f"{number} labels, linear classifier on {name}", scores, "%")
    record.claim("no linear network is better than PCA on its digits", min(map(min, excess.values())) > -1e-3)
    record.claim(
        f"of {amount.codes[0]} numbers the linear network's span is within {5 if record.quick else 1} degrees of PCA's",
        max(angles[amount.codes[0]]) < (5 if record.quick else 1),
    )
    record.claim("more l1, more zeros", bool(np.all(np.diff([np.mean(zeros[s]) for s in STRENGTHS]) > 0)))
    record.claim("denoised digits are closer to the clean ones", all(max(after[kind]) < before[kind] for kind in kinds))
    if not record.quick:
        record.claim("within 0.1 % of PCA's error with codes of 2, 10 and 30", max(map(max, excess.values())) < 0.1)
        record.claim("a deep code of 30 loses less than half of what PCA does", max(errors[30]) < by_pca / 2)
        record.claim("in the plane, the deep code's neighbours name more digits than PCA's", named[1] > named[0])
        record.claim("both denoisers beat the best classical filter", all(max(after[k]) < classical[k] for k in kinds))
    record.finish()


if __name__ == "__main__":
    main()
