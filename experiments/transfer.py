"""How much do features learned on the digits 0 to 4 help with 5 to 9, when few examples of these are labelled?

    python -m experiments.transfer           2 minutes on two CPU cores; --full: ten seeds and more steps
    python -m experiments.transfer --quick   20 seconds, on few examples and steps

Data: MNIST. LeNet-5 is trained on the training digits 0 to 4; its head is replaced by a new one, and it is trained on k
examples each of 5, 6, 7, 8 and 9. Measure: test error on the test digits 5 to 9, a percentage, of the last step, with
the settings fixed before; lower is better, and its standard error at 2 % is 0.2.

Four ways: from scratch (all is new), fine-tuned (all is trained on, from the old features), the convolutions kept
(dense layers and head are trained), all features kept (the head alone is trained). All are lanes of one search; each
seed has its own pretrained network and its own draw of examples.

Known: Keras' example mnist_transfer_cnn names 99.8 % of the first five digits, and 99.2 % of the last five with
convolutions kept and dense layers trained on all 29,404 examples; a larger network than LeNet-5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import jaxnet as jn
from experiments import few_examples, mnist, plots
from experiments.record import Record

SHOTS = (1, 3, 10, 30, 100, 4000)
WAYS = ("from scratch", "fine-tuned", "convolutions kept", "all features kept")
CONVOLUTIONS = 6  # layers of LeNet-5's features up to the second pooling's relu
RATE, BATCH = 2e-3, 32
net = jn.models.lenet5(5)


def digits(data: tuple[np.ndarray, np.ndarray], first: int) -> tuple[np.ndarray, np.ndarray]:
    """The images of five digits from the first on, with labels from 0 to 4."""
    images, labels = data
    kept = (labels >= first) & (labels < first + 5)
    return images[kept], labels[kept] - first


def pretraining(hp) -> jn.Trial:
    """LeNet-5 on the first five digits."""
    return jn.Trial(net, jn.losses.softmax_cross_entropy, optax.adam(hp.rate), jn.metrics.error)


def followed(hp) -> dict[str, Any]:
    """The share of the gradient that each layer follows: 0 where it is kept."""
    convolutions, dense = (hp.way < 2).astype(jnp.float32), (hp.way < 3).astype(jnp.float32)
    layers = net.init(jax.random.key(0), (28, 28, 1))[0]["features"]
    features = tuple(convolutions if i < CONVOLUTIONS else dense for i in range(len(layers)))
    return {"features": features, "head": jnp.float32(1)}


def starting(pretrained: Sequence[Any]):
    """``(hp, key) -> params``: a new network; but from scratch, with the features of the draw's pretrained one."""
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[params["features"] for params in pretrained])

    def init(hp, key):
        fresh, _, _ = net.init(key, (28, 28, 1))
        old = jax.tree.map(lambda leaves: leaves[hp.draw.astype(jnp.int32)], stacked)
        return fresh | {"features": jax.tree.map(lambda a, b: jnp.where(hp.way == 0, a, b), fresh["features"], old)}

    return init


def picture(shots: Sequence[int], errors: np.ndarray) -> Figure:
    """Test errors ``[ways, shots, seeds]`` against the number of examples, mean and range of the seeds."""
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.subplots()
    for per_way, name, color in zip(errors, WAYS, plots.COLORS, strict=False):
        axes.plot(shots, per_way.mean(axis=1), ".-", color=color, label=name)
        axes.fill_between(shots, per_way.min(axis=1), per_way.max(axis=1), color=color, alpha=0.2, linewidth=0)
    axes.set(xscale="log", yscale="log", xlabel="examples of each of the digits 5 to 9", ylabel="test error (%)")
    axes.set_xticks(shots)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.set_yticks([1, 2, 5, 10, 20, 50])
    axes.minorticks_off()
    axes.legend(frameon=False)
    plots.tidy(axes)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment: the one place that prints, plots and writes."""
    record = Record(__spec__.name, __doc__ or "", arguments)
    seeds, epochs, steps = (2, 1, 30) if record.quick else (10, 5, 2000) if record.full else (3, 3, 200)
    shots, units = ((1, 10), 1) if record.quick else (SHOTS, 3)
    old, _, new_test = mnist.load()
    taken = slice(2000 if record.quick else None)
    first, last, first_test, last_test = digits(old, 0), digits(old, 5), digits(new_test, 0), digits(new_test, 5)
    first, last_test = ((images[taken], labels[taken]) for images, labels in (first, last_test))
    keys = jax.random.split(jax.random.key(record.seed))

    before = jn.search.run(
        pretraining, jn.Space(rate=jn.choice(RATE)), first, first_test, sampler=jn.search.grid(1), epochs=epochs,
        repeats=seeds, shuffle="own", key=keys[0], keep=seeds,
    )  # fmt: skip
    pretrained = [before.network(0, seed).params for seed in range(seeds)]
    source = "Keras' mnist_transfer_cnn, a larger network"
    record.number(
        "test error on the digits 0 to 4", 100 * before.repeated["validation_error"][0, :, -1], "%", known=0.2,
        source=source, note=f"{epochs} epochs, theirs 5",
    )  # fmt: skip

    order = few_examples.orders(last[1], seeds, record.seed)
    transfer = few_examples.program(
        net, last, {"test": last_test}, order, units=units, steps=steps, batch=BATCH, rate=RATE,
        init=starting(pretrained), trained=followed,
    )  # fmt: skip
    space = jn.Space(
        way=jn.choice(*map(float, range(len(WAYS)))), examples=jn.choice(*(5.0 * k for k in shots)),
        draw=jn.choice(*map(float, range(seeds))),
    )  # fmt: skip
    lanes = len(WAYS) * len(shots) * seeds
    result = jn.search.run(transfer, space, sampler=jn.search.grid(10), epochs=units, key=keys[1], keep=lanes)
    order_of = np.lexsort([result.table[name] for name in ("draw", "examples", "way")])
    errors = 100 * result.curves[order_of, -1].reshape(len(WAYS), len(shots), seeds)
    for k, of_all in zip(shots, errors.transpose(1, 0, 2), strict=True):
        for way, values in zip(WAYS, of_all, strict=True):
            what = f"test error on 5 to 9, {k:,} examples of each, {way}"
            if k == SHOTS[-1] and way == "convolutions kept":
                note = f"{units * steps} steps of {BATCH}; theirs 5 epochs of some 5,900 of each"
                record.number(what, values, "%", known=0.8, source=source, note=note)
            else:
                record.number(what, values, "%")

    kept = int(np.flatnonzero((result.table["way"] == 3) & (result.table["draw"] == 0))[0])
    leaves = zip(*(jax.tree.leaves(p["features"]) for p in (result.network(kept).params, pretrained[0])), strict=True)
    record.claim("features that are kept are the old ones, to the bit", all(np.array_equal(*pair) for pair in leaves))
    mean = dict(zip(WAYS, errors.mean(axis=2), strict=True))  # [shots] of each way
    if not record.quick:
        ten, better = shots.index(10), mean["fine-tuned"] < mean["from scratch"]
        record.claim(
            "fine-tuned is better than from scratch at most numbers of examples",
            bool(np.count_nonzero(better) > len(shots) / 2),
        )
        record.claim(
            "with most examples, keeping all features is the worst",
            all(mean["all features kept"][-1] > mean[way][-1] for way in WAYS[:3]),
        )
        record.number(
            "error that fine-tuning takes away from that of scratch, 10 examples of each",
            100 * (1 - errors[1, ten] / errors[0, ten]), "%",
        )  # fmt: skip
    record.figure(
        picture(shots, errors),
        "Test error on the digits 5 to 9 by the number of examples of each, mean and range of the seeds.",
    )
    record.finish()


if __name__ == "__main__":
    main()
