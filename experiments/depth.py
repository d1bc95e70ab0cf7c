"""Why are deep networks hard to train, and what do batch norm and residual connections do about it?

    python -m experiments.depth                  3 minutes on two CPU cores; --full: all of MNIST, hours
    python -m experiments.depth --quick          15 seconds, shallow networks on few digits
    python -m experiments.depth --cifar FOLDER   and He et al.'s networks on CIFAR-10 (the folder cifar-10-batches-py);
                                                 with --full as they were published, which asks for an accelerator

Digits are those of MNIST, averaged to 14 x 14 to take minutes (not in part 3 with --full).

1. Gradients at the start. Networks of equal layers, 256 wide, see 256 digits; the gradient of each example's loss with
respect to what each layer puts out, as a root mean square over the examples. Held against theory for wide networks
("mean field"): by which factor it changes from a layer to the one before. Schoenholz et al., "Deep information
propagation" (2017), for plain layers, of which He et al., "Delving deep into rectifiers" (2015), is the case of relu;
Yang et al., "A mean field theory of batch normalization" (2019), for batch norm, sqrt(pi / (pi - 1)). By the same
reasoning a residual block x + W relu(x) has sqrt(1 + gain / 2); with a norm before its relu the second term is divided
by the variance of x, which grows with each block, so that the gradient grows as a power of the depth only.

2. Training. Such networks, 64 wide, of 10, 30 and 100 layers, on 2,000 digits for 5 epochs, SGD with momentum 0.9 at
each of three rates, of which the best by training error counts. Measure: training error, a percentage.

3. A residual network of 14 layers of convolutions, with 8 filters in its first stage (He et al., "Deep residual
learning", 2015), on 5,000 digits for 10 epochs, with and without augmentation (up to 10 degrees, 1 cell of 14 and a
tenth in size). Measure: test error on all 10,000 test digits after the last epoch, a percentage; nothing was chosen by
it. With --full it has 20 layers, 16 filters, all digits and 20 epochs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import jaxnet as jn
from experiments import augmentation, cifar, mnist, plots
from experiments.record import Record


class Kind(NamedTuple):
    """Of a layer: its function, the variance of weights times fan-in, and what else there is."""

    function: Callable[[Any], Any]
    gain: float
    norm: bool = False
    residual: bool = False


KINDS = {
    "sigmoid, LeCun": Kind(jax.nn.sigmoid, 1),
    "relu, LeCun": Kind(jax.nn.relu, 1),
    "relu, He": Kind(jax.nn.relu, 2),
    "batch norm": Kind(jax.nn.relu, 2, norm=True),
    "residual": Kind(jax.nn.relu, 2, residual=True),
    "residual, batch norm": Kind(jax.nn.relu, 2, norm=True, residual=True),
}
QUICK_KINDS = ("relu, LeCun", "residual, batch norm")
LAYERS = (10, 25, 50)  # at 50 a sigmoid's gradient is still a number in float32
LOOKED_AT = 256  # digits and units
DEPTHS, WIDTH, RATES, EPOCHS = (10, 30, 100), 64, (0.003, 0.01, 0.03), 5
DIGITS, FEW_DIGITS, DIGITS_EPOCHS = 5000, 2000, 10
PUBLISHED = {20: 8.75, 32: 7.51, 44: 7.17, 56: 6.97, 110: 6.43}
TABLE_6 = "He et al. (2015), table 6"


def block(kind: Kind, width: int) -> jn.Layer:
    """One layer. A residual one has its function first, so that what goes past it goes past everything."""
    dense = jn.dense(width, w_init=jax.nn.initializers.variance_scaling(kind.gain, "fan_in", "normal"), bias=False)
    norm = [jn.batch_norm()] if kind.norm else []
    return (
        jn.residual(jn.serial(*norm, kind.function, dense)) if kind.residual else jn.serial(dense, *norm, kind.function)
    )


def network(kind: Kind, layers: int, width: int, between: Any = None) -> jn.Layer:
    """Digits to logits through equal layers; ``between`` comes after each of them."""
    return jn.serial(
        first=jn.serial(jn.flatten, jn.dense(width)),
        layers=jn.repeat(jn.serial(block(kind, width), *([] if between is None else [between])), layers),
        head=jn.serial(*([jn.batch_norm(), jax.nn.relu] if kind.norm and kind.residual else []), jn.dense(10)),
    )


def tap(batch: int) -> jn.Layer:
    """Adds a parameter that is 0 to each example of a batch: its gradient is that of what the layer before puts out."""
    return jn.Layer(
        lambda key, spec: (jnp.zeros((batch, *spec.shape)), (), spec),
        lambda params, state, x, *, key=None, train=False: (x + params, state),
    )


def gradients(kind: Kind, layers: int, images: np.ndarray, labels: np.ndarray, keys: jax.Array) -> np.ndarray:
    """Size of each example's gradient at each layer's output, root mean square over examples: ``[seeds, layers]``."""
    net = network(kind, layers, LOOKED_AT, tap(len(images)))

    def at_taps(key):
        params, state, _ = net.init(key, images.shape[1:])

        def loss(params):
            outputs, _ = net.apply(params, state, images, train=True)
            return jnp.sum(jn.losses.softmax_cross_entropy(outputs, labels))

        return jax.grad(loss)(params)["layers"][1]  # [layers, batch, width]

    made = np.asarray(jax.jit(jax.vmap(at_taps))(keys), np.float64)  # squares of what's small don't vanish in float64
    return np.sqrt(np.mean(np.sum(made**2, axis=-1), axis=-1))


def mean_field(kind: Kind, layers: int, start: float = 1.0) -> np.ndarray:
    """Factors of the gradient from each layer's output to that of the layer before it, in infinitely wide networks.

    Args:
      start: variance over the examples of what goes into the first layer; no factor depends on it for long.

    >>> mean_field(KINDS["relu, LeCun"], 3).round(4).tolist()  # half of the variance each time
    [0.7071, 0.7071]
    """
    if kind.norm and not kind.residual:
        return np.full(layers - 1, math.sqrt(math.pi / (math.pi - 1)))
    if kind.norm:  # the variance grows by that of gain * relu with every block, which divides what comes back
        variance = start + kind.gain / 2 * (1 - 1 / math.pi) * np.arange(1, layers)
        return np.sqrt(1 + kind.gain / 2 / variance)
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)
    factors, q = [], start
    for _ in range(layers - 1):
        z = math.sqrt(q) * nodes
        value, slope = (
            np.asarray(f(jnp.asarray(z)), float) for f in (kind.function, jax.vmap(jax.grad(kind.function)))
        )
        grown, back = (kind.gain * weights @ a**2 / weights.sum() for a in (value, slope))
        factors.append(math.sqrt(back + kind.residual))
        q = grown + q * kind.residual
    return np.array(factors)


def dense_trial(hp) -> jn.Trial:
    """A network of equal layers."""
    return jn.Trial(
        net=network(KINDS[hp.kind], hp.layers, WIDTH),
        loss=jn.losses.softmax_cross_entropy,
        optimizer=optax.sgd(hp.rate, momentum=0.9),
        metric=jn.metrics.error,
        batch_size=100,
    )


def digits_trial(depth: int, filters: int, cells: float, steps: int) -> Callable[[Any], jn.Trial]:
    """A residual network for digits; ``hp.distortion``, 0 or 1, says by how much they are changed."""

    def trial(hp) -> jn.Trial:
        amount = hp.distortion
        return jn.Trial(
            net=jn.models.resnet(depth, filters=filters),
            loss=jn.losses.softmax_cross_entropy,
            penalty=jn.losses.l2(1e-4),
            optimizer=optax.sgd(optax.cosine_decay_schedule(0.1, steps), momentum=0.9),
            metric=jn.metrics.error,
            batch_size=100,
            augment=augmentation.affine(degrees=10 * amount, cells=cells * amount, scale=0.1 * amount),
        )

    return trial


def cifar_rates(steps: int) -> Callable[[Any], jax.Array]:
    """He et al.'s learning rate: 0.1, a tenth of it after half of the steps, a hundredth after three quarters, and 0.01
    for the first 400 (which the paper has for 110 layers only)."""

    def rate(step):
        later = jnp.where(step < steps // 2, 0.1, jnp.where(step < 3 * steps // 4, 0.01, 0.001))
        return jnp.where(step < min(400, steps // 10), 0.01, later)

    return rate


def cifar_trial(steps: int) -> Callable[[Any], jn.Trial]:
    """He et al.'s setting: shifts by up to 4 cells, and flips."""

    def trial(hp) -> jn.Trial:
        return jn.Trial(
            net=jn.models.resnet(hp.depth),
            loss=jn.losses.softmax_cross_entropy,
            penalty=jn.losses.l2(1e-4),
            optimizer=optax.sgd(cifar_rates(steps), momentum=0.9),
            metric=jn.metrics.error,
            batch_size=128,
            augment=augmentation.together(augmentation.shift(4), augmentation.flip),
        )

    return trial


def halved(images: np.ndarray) -> np.ndarray:
    """Bytes ``[n, height, width, 1]`` as floats in [0, 1], each the mean of a square of four."""
    return mnist.halved(images) / 255


def final(result: jn.search.SearchResult, measure: str) -> np.ndarray:
    """A measure after the last epoch in percent, ``[trials, seeds]``; NaN where training diverged."""
    return np.where(result.table["status"][:, None] == "completed", 100 * result.repeated[measure][..., -1], np.nan)


def on_cifar(record: Record, seeds: int) -> None:
    """The numbers of CIFAR-10, where there is a folder of it; a word where there isn't."""
    folder = record.folders["cifar"]
    if folder is None:
        for depth, published in PUBLISHED.items():
            what, note = f"test error on CIFAR-10, {depth} layers", "wants --cifar FOLDER, the images aren't included"
            record.number(what, "not run", known=f"{published} %", source=TABLE_6, note=note)
        return
    depths, examples, tested, epochs = tuple(PUBLISHED), 50_000, 10_000, 164
    if not record.full:
        depths, examples, tested, epochs = ((8,), 256, 100, 1) if record.quick else ((20,), 5000, 1000, 5)
    splits = cifar.load(folder)
    mean = splits.train[0].mean(axis=0, dtype=np.float64)
    train, test = (
        ((images[:n] - mean).astype(np.float32) / 255, labels[:n])
        for (images, labels), n in zip(splits, (examples, tested), strict=True)
    )
    examples = len(train[0])
    trial, space = cifar_trial(epochs * math.ceil(examples / 128)), jn.Space(depth=jn.choice(*depths, static=True))
    result = jn.search.run(
        trial, space, train, test, sampler=jn.search.grid(1), epochs=epochs, repeats=seeds,
        key=jax.random.key(record.seed), keep=0,
    )  # fmt: skip
    note = "" if record.full else f"ours after {epochs} epochs on {examples:,} images, of {len(test[0]):,} test images"
    for depth, errors in zip(result.table["depth"], final(result, "validation_error"), strict=True):
        known = PUBLISHED.get(int(depth))
        record.number(f"test error on CIFAR-10, {depth} layers", errors, "%", known=known, source=TABLE_6, note=note)


def picture(
    sizes: dict[str, dict[int, np.ndarray]], start: float, best: dict[str, list[np.ndarray]], depths: Sequence[int]
) -> Figure:
    """Gradients by layer for several depths, beside theory; and which training error is reached."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.5, 1])
    colors = dict(zip(KINDS, plots.COLORS, strict=True))
    for name, by_depth in sizes.items():
        for layers, per_seed in by_depth.items():
            size, deepest = np.exp(np.mean(np.log(per_seed), axis=0)), layers == max(by_depth)
            style: dict[str, Any] = {"linewidth": 2.2, "label": name} if deepest else {"linewidth": 0.9}
            left.plot(np.arange(1, layers + 1), size, color=colors[name], **style)
            if deepest:
                factors = mean_field(KINDS[name], layers, start)
                wide = size[-1] * np.append(np.cumprod(factors[::-1])[::-1], 1)
                left.plot(np.arange(1, layers + 1), wide, ":", color="black", linewidth=1)
    left.plot([], [], ":", color="black", linewidth=1, label="theory")
    left.set(yscale="log", xlabel="layer, from the input", ylabel="gradient at its output", ylim=(1e-10, 1e9))
    left.set_title("At the start; thin lines: networks of fewer layers", fontsize="medium")
    for name, errors in best.items():
        means = np.array([float(np.mean(each)) for each in errors])
        drawn, failed = np.nan_to_num(means, nan=97), np.isnan(means)
        right.plot(depths, drawn, "-o", color=colors[name], linewidth=1.5, markevery=np.flatnonzero(~failed).tolist())
        right.plot(np.array(depths)[failed], drawn[failed], "x", color=colors[name], markersize=8)
    right.axhline(90, color="0.6", linewidth=1)
    right.text(depths[0], 90.5, "chance", color="0.4", fontsize="small", va="bottom")
    right.set(xscale="log", xlabel="layers", ylabel="training error (%)", ylim=(-2, 100), xticks=depths)
    right.set_xticks([], minor=True)
    right.xaxis.set_major_formatter("{x:g}")
    right.set_title("After training; x: diverged at every rate", fontsize="medium")
    for axes in (left, right):
        plots.tidy(axes)
    left.legend(frameon=False, fontsize="small", ncols=2)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment: the one place that prints, plots and writes."""
    folders = {"cifar": "CIFAR-10, the python version: the folder cifar-10-batches-py"}
    record = Record(__spec__.name, __doc__ or "", arguments, folders=folders)
    seeds = 2 if record.quick else 3
    key = jax.random.key(record.seed)
    (images, labels), _, (test_images, test_labels) = mnist.load()

    seen = halved(images[:LOOKED_AT])
    start = float(seen.var(axis=0).mean())
    layers = LAYERS[1:2] if record.quick else LAYERS
    seed_keys = jax.random.split(key, seeds)
    kinds = QUICK_KINDS if record.quick else tuple(KINDS)
    sizes = {
        name: {n: gradients(KINDS[name], n, seen, labels[:LOOKED_AT], seed_keys) for n in layers} for name in kinds
    }
    apart = {}
    for name in kinds:
        kind, size, back = KINDS[name], sizes[name][layers[-1]], layers[-1] - 1
        ratio = size[:, 0] / size[:, -1]
        theory = float(np.exp(np.mean(np.log(mean_field(kind, layers[-1], start)))))
        apart[name] = abs(float(np.mean(ratio ** (1 / back))) / theory - 1)
        record.number(
            f"gradient at the start, factor a layer back, {name}", ratio ** (1 / back), known=theory,
            source="mean field theory", note=f"over {layers[-1]} layers {np.mean(ratio):.2g}",
        )  # fmt: skip

    depths, rates, few = (DEPTHS[1:2], RATES[-1:], 1000) if record.quick else (DEPTHS, RATES, FEW_DIGITS)
    space = jn.Space(kind=jn.choice(*kinds), layers=jn.choice(*depths, static=True), rate=jn.choice(*rates))
    result = jn.search.run(
        dense_trial, space, (halved(images[:few]), labels[:few]), (halved(test_images[:100]), test_labels[:100]),
        sampler=jn.search.grid(1), epochs=EPOCHS, repeats=seeds, key=key, keep=0,
    )  # fmt: skip
    errors, best = final(result, "train_error"), {name: [] for name in kinds}
    for name in kinds:
        for n in depths:
            rows = errors[(result.table["kind"] == name) & (result.table["layers"] == n)]
            least = rows[np.argmin(np.nan_to_num(rows, nan=np.inf).mean(axis=1))]
            best[name].append(least)
            shown = "diverged at every rate" if np.isnan(least).all() else least
            record.number(f"training error, {n} layers, {name}", shown, "" if isinstance(shown, str) else "%")

    many, epochs, depth, filters, tested = DIGITS, DIGITS_EPOCHS, 14, 8, 10_000
    if record.quick:
        many, epochs, depth, filters, tested = 200, 1, 8, 2, 200
    if record.full:
        many, epochs, depth, filters = 50_000, 20, 20, 16
    as_seen = (lambda images: images) if record.full else halved
    splits = (as_seen(images[:many]), labels[:many]), (as_seen(test_images[:tested]), test_labels[:tested])
    result = jn.search.run(
        digits_trial(depth, filters, 2 if record.full else 1, epochs * many // 100),
        jn.Space(distortion=jn.choice(0.0, 1.0)), *splits,
        sampler=jn.search.grid(1), epochs=epochs, repeats=seeds, key=key, keep=0,
    )  # fmt: skip
    plain, distorted = final(result, "validation_error")
    note = "" if record.full else f"ours learned from {many:,} digits of 60,000, of half the resolution"
    what = f"test error on MNIST, residual network of {depth} layers"
    record.number(what, plain, "%", known=0.95, source="LeCun et al. (1998), LeNet-5", note=note)
    record.number(f"{what}, distorted digits", distorted, "%", known=0.8, source="the same, distorted", note=note)
    on_cifar(record, seeds if record.full else 1)

    deepest = {name: float(np.mean(np.nan_to_num(errors[-1], nan=90.0))) for name, errors in best.items()}
    record.claim("gradients shrink or grow by theory's factor a layer, to a twentieth", max(apart.values()) < 0.05)
    record.claim(
        f"{depths[-1]} layers learn with batch norm and residual connections, and with less they don't: below 30 % of "
        f"the training digits are wrong, and above 60 %",
        deepest["residual, batch norm"] < 30 and sorted(deepest.values())[1] > 60,
    )
    record.figure(
        picture(sizes, start, best, depths),
        f"Left: size of the gradient at what each layer puts out, before training, a geometric mean over {seeds} "
        f"seeds. Right: training error of such networks after {EPOCHS} epochs on {few:,} digits, at the best of "
        f"{len(rates)} rates, mean over {seeds} seeds.",
    )
    record.finish()


if __name__ == "__main__":
    main()
