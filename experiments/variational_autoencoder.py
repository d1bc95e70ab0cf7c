"""How many nats does a variational autoencoder need for a digit, and what does it draw by itself?

    python -m experiments.variational_autoencoder           3 minutes on two CPU cores
    python -m experiments.variational_autoencoder --quick   15 seconds, on few digits
    python -m experiments.variational_autoencoder --full    3,280 epochs as published, 10 seeds; for an accelerator

Data: MNIST, 50,000 digits to train on and 10,000 to report (test). Pixels are black or white: drawn anew each time that
a digit is trained on, with their grey as the probability, and once for the test digits. Nothing is chosen by a score.
Measure: nats of a test digit, lower is better. Their negative is the log likelihood, which is estimated from below: by
the evidence lower bound, or closer, by the log of the mean of k importance weights (k = 1 is that bound again). The
standard error of a mean over all test digits is 0.3, over every tenth of them 0.9.

Published is 86.76 nats with k = 5,000 and 19 units of z that are active (Burda, Grosse and Salakhutdinov, "Importance
weighted autoencoders", 2015, table 1, VAE with k = 1 and one stochastic layer): 784-200-200-50 and back, tanh, trained
for 3,280 epochs on batches of 20. That network is trained here, for as many epochs as the table says, on batches of 100
with a rate that falls to nothing along a cosine. A unit is active where the variance of its mean over digits is above
0.01, as there. A second network has a z of two numbers, to look at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy import stats

import jaxnet as jn
from experiments import mnist, plots
from experiments.record import Record

PIXELS, HIDDEN, LATENT = 784, 200, 50  # Burda et al.'s
RATE, BATCH, EPSILON = 2e-3, 100, 1e-4  # of Adam; epsilon is theirs
EPOCHS = 50
PLANE = 20  # epochs of the network of two numbers
GRID = 16  # rows and columns of the picture of a plane
SOURCE = "Burda et al. (2015), table 1"


def binarized(key: jax.Array, images: Any) -> jax.Array:
    """Black and white pixels, 0.0 and 1.0, each white with its grey as the probability."""
    return (jax.random.uniform(key, images.shape) < images).astype(jnp.float32)


def hidden() -> list[Any]:
    """Two layers of tanh units."""
    return [jn.dense(HIDDEN), jnp.tanh, jn.dense(HIDDEN), jnp.tanh]


DECODER = jn.serial(*hidden(), jn.dense(PIXELS))


def trial_of(steps: int):
    """A trial function: the schedule needs to know how many steps there are."""
    schedule = optax.cosine_decay_schedule(RATE, steps)

    def trial(hp) -> jn.Trial:
        return jn.Trial(
            net=jn.models.variational_autoencoder(jn.serial(*hidden()), DECODER, hp.latent),
            loss=jn.models.negative_elbo(),
            optimizer=optax.adam(schedule, eps=EPSILON),
            batch_size=BATCH,
            augment=binarized,
        )

    return trial


def nats(net: jn.Layer, params: Any, state: Any, digits: np.ndarray, samples: int, key: jax.Array) -> np.ndarray:
    """Minus the importance-weighted estimate for each digit, a hundred digits at a time."""
    parts = np.split(digits, len(digits) // 100)
    keys = jax.random.split(key, len(parts))
    estimates = [
        jn.models.importance_weighted(net, params, state, part, samples=samples, key=own)
        for part, own in zip(parts, keys, strict=True)
    ]
    return -np.concatenate(estimates)


def by_pixels(images: np.ndarray, digits: np.ndarray) -> float:
    """Nats of a digit when each pixel is white as often as in the images (0 to 255; half a count is added to both).

    >>> by_pixels(np.full((1, 2), 255), np.ones((1, 2)))  # twice log (1.5 / 2)
    0.5754
    """
    p = (images.mean(axis=0) / 255 * len(images) + 0.5) / (len(images) + 1)
    return float(-np.mean(np.sum(digits * np.log(p) + (1 - digits) * np.log1p(-p), axis=1)))


def of_the_prior(n: int) -> np.ndarray:
    """A grid over the plane, ``[n * n, 2]``, at the quantiles of the normal; row by row from the top, left to right.

    >>> of_the_prior(3).round(2)[:3].tolist()  # the sixths of the normal
    [[-0.97, 0.97], [0.0, 0.97], [0.97, 0.97]]
    """
    quantiles = stats.norm.ppf((np.arange(n) + 0.5) / n)
    x, y = np.meshgrid(quantiles, quantiles[::-1])
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)


def decoded(params: Any, state: Any, z: Any) -> np.ndarray:
    """Probabilities of white pixels ``[n, 784]`` for given z ``[n, latent]``."""
    return np.asarray(jax.nn.sigmoid(DECODER.apply(params["decoder"], state["decoder"], z)[0]))


def tiles(axis: Any, images: np.ndarray, columns: int, title: str) -> None:
    """Images ``[n, 784]`` row by row, ink black."""
    rows = images.reshape(-1, columns, 28, 28).swapaxes(1, 2)
    axis.imshow(rows.reshape(28 * len(rows), 28 * columns), cmap="gray_r", vmin=0, vmax=1)
    axis.set(xticks=[], yticks=[], title=title)


def picture_of_digits(digits: np.ndarray, again: np.ndarray, samples: np.ndarray) -> Figure:
    """Digits over their reconstructions, and samples of the prior."""
    figure = Figure(figsize=(11, 3.7), layout="constrained")
    left, right = figure.subplots(1, 2)
    pairs = np.stack([digits.reshape(-1, 10, PIXELS), again.reshape(-1, 10, PIXELS)], axis=1)
    tiles(left, pairs.reshape(-1, PIXELS), 10, "test digits, each over its reconstruction")
    tiles(right, samples, 15, "decoded samples of the prior")
    return figure


def picture_of_plane(grid: np.ndarray, means: np.ndarray, labels: np.ndarray) -> Figure:
    """What is decoded over the plane, and where test digits lie in it."""
    figure = Figure(figsize=(11, 5.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    tiles(left, grid, GRID, "decoded at the quantiles of the prior")
    for digit in range(10):
        right.scatter(*means[labels == digit].T, s=3, linewidth=0, alpha=0.6, color=f"C{digit}")
        where = np.median(means[labels == digit], axis=0)
        right.text(*where, str(digit), ha="center", va="center", fontsize="x-large", fontweight="bold")
    right.set(title="means of test digits", xlabel="first number of z", ylabel="second", aspect="equal")
    plots.tidy(right)
    return figure


def picture_of_bounds(curves: np.ndarray, bounds: dict[int, list[float]]) -> Figure:
    """Training by epoch, a line a seed, and the estimate by the number of samples."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(np.arange(1, curves.shape[1] + 1), curves.T, color=plots.BLUE, linewidth=1)
    left.set(xlabel="epoch", ylabel="nats a training digit", ylim=(85, 130), title="bound while training")
    each = np.array(list(bounds.values()))
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.plot(list(bounds), each, color=plots.BLUE, linewidth=1, marker="o", markersize=4)
    right.axhline(86.76, color="black", linestyle=":", linewidth=1, label="published, 3,280 epochs")
    right.set(xscale="log", xlabel="importance samples k", ylabel="nats a test digit", title="closer with more samples")
    right.legend(frameon=False)
    for axis in (left, right):
        plots.tidy(axis)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment: the one place that prints, draws and writes."""
    record = Record(__spec__.name, __doc__ or "", arguments)
    examples, epochs = (5000, 6) if record.quick else (50_000, 3280) if record.full else (50_000, EPOCHS)
    seeds = 2 if record.quick else 10 if record.full else 3
    tenth = slice(None, None, 100 if record.quick else 1 if record.full else 10)  # of the test digits
    counts = (1, 10, 50) if record.quick else (1, 10, 100, 1000, 5000) if record.full else (1, 10, 100, 1000)
    train, _, test = mnist.load()
    keys = jax.random.split(jax.random.key(record.seed), 5)
    images = train[0][:examples].reshape(-1, PIXELS), np.zeros(examples, np.int32)  # no target is looked at
    digits = np.asarray(binarized(keys[0], test[0].reshape(-1, PIXELS) / np.float32(255)))

    space = jn.Space(latent=jn.choice(LATENT))
    few: Any = jax.tree.map(lambda array: array[:100], images)  # to look at while it trains; decides nothing
    trial = trial_of(epochs * examples // BATCH)
    result = jn.search.run(
        trial, space, images, few, trials=1, epochs=epochs, repeats=seeds, shuffle="own", key=keys[1]
    )  # fmt: skip
    networks = [result.network(seed=seed) for seed in range(seeds)]
    net = networks[0].net
    bounds, active, divergences = {count: [] for count in counts}, [], []
    for (_, params, state), key in zip(networks, jax.random.split(keys[2], seeds), strict=True):
        output: Any = jn.predict(net, params, state, digits)
        active.append(int(np.sum(np.var(output.mean, axis=0) > 0.01)))
        divergences.append(float(np.mean(output.divergence)))
        for count in counts:
            bounds[count].append(float(nats(net, params, state, digits[tenth], count, key).mean()))
    alone = by_pixels(images[0], digits)
    record.number("each pixel by itself, all test digits", alone, "nats")
    whole = [float(nats(net, n.params, n.state, digits, 1, keys[3]).mean()) for n in networks]
    short = "" if record.full else f"{epochs} epochs in place of 3,280"
    record.number(
        "minus the evidence lower bound, all test digits", whole, "nats", note="no published value: see k below"
    )
    for count in counts:
        last = count == counts[-1]
        record.number(
            f"importance-weighted, k = {count:,}, {len(digits[tenth]):,} test digits", bounds[count], "nats",
            known=86.76 if last else None, source=f"{SOURCE}, k = 5,000" if last else "", note=short if last else "",
        )  # fmt: skip
    record.number(f"active units of {LATENT}", active, known=19, source=SOURCE, note=short)
    record.number("divergence of q from the prior, of a test digit", divergences, "nats")
    shown = np.concatenate([np.flatnonzero(test[1] == digit)[:3] for digit in range(10)])
    shown = shown.reshape(10, 3).T.ravel()
    shown_again: Any = jn.predict(net, networks[0].params, networks[0].state, digits[shown])
    samples = decoded(networks[0].params, networks[0].state, jax.random.normal(keys[4], (135, LATENT)))
    record.figure(
        picture_of_digits(digits[shown], np.asarray(jax.nn.sigmoid(shown_again.outputs)), samples),
        f"Black and white test digits and what {LATENT} numbers keep of them; and digits that nobody wrote: the "
        "probability of ink at each pixel for z drawn from the prior.", "digits",
    )  # fmt: skip
    few_epochs = min(PLANE, epochs)
    plane = trial_of(few_epochs * examples // BATCH)(jn.hp(latent=2))
    fitted = jn.fit(plane, images, epochs=few_epochs, key=keys[3])
    in_the_plane: Any = jn.predict(plane.net, fitted.params, fitted.state, digits)
    in_plane = float(nats(plane.net, fitted.params, fitted.state, digits[tenth], counts[1], keys[3]).mean())
    record.number(f"a z of two numbers, k = {counts[1]}", in_plane, "nats", note=f"{few_epochs} epochs, one seed")
    record.figure(
        picture_of_plane(decoded(fitted.params, fitted.state, of_the_prior(GRID)), in_the_plane.mean, test[1]),
        "A z of two numbers: what is decoded over the plane, each picture for the same share of the prior, and the "
        "means of the test digits.", "plane",
    )  # fmt: skip
    record.figure(
        picture_of_bounds(result.repeated["train_loss"][0], bounds),
        "The bound on training digits by epoch, and the estimate of a test digit's nats by the number of importance "
        "samples; a line a seed.", "bounds",
    )  # fmt: skip
    means = [float(np.mean(bounds[count])) for count in counts]
    record.claim("more importance samples, fewer nats", bool(np.all(np.diff(means) < 0)))
    record.claim("every seed is better than pixels by themselves", max(whole) < alone)
    if not record.quick:
        record.claim("50 numbers say more of a digit than two", means[1] < in_plane)
        record.claim("the last tenfold of importance samples gains less than a nat", means[2] - means[3] < 1)
    record.finish()


if __name__ == "__main__":
    main()
