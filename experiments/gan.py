"""Which two learning rates let a generator and a discriminator teach each other to draw digits?

    python -m experiments.gan           5 minutes on two CPU cores
    python -m experiments.gan --quick   20 seconds, on few steps
    python -m experiments.gan --full    64 filters, batches of 128, 64 trials of 30 epochs, 10 seeds; for an accelerator

Data: MNIST, 50,000 digits to train on, 10,000 to report (test), pixels in [-1, 1]. Labels are for the judge alone, a
LeNet that is trained here on the same digits and never seen by the two players in training.
Measure: nats that are missing: log 10 less the mutual information between a sample and what the judge says of it, so 0
when it is sure of every sample and finds all ten digits equally often, log 10 = 2.30 when it says the same of all. (Its
negative, up to a constant, is the logarithm of the inception score: Salimans et al., "Improved techniques for training
GANs", 2016.) Beside it: the share of 1,000 samples that the judge gives a probability above 0.9, and how many digits
there are among them, as the exponential of the entropy of their counts: 10 when all are equally frequent. Real test
digits are measured the same way. What isn't a digit at all the judge can't tell, so look at the pictures.

The two are the DCGAN's (Radford, Metz and Chintala, 2016) with two convolutions each, Adam with beta1 = 0.5, the
generator's loss -log D(G(z)). They are no supervised learning, so they are a ``jn.search.Program``; the pairs of rates
are lanes of one search, chosen by the measure above. The best pair is then trained for longer, from several seeds. The
paper's pair is one of the trials; no source has numbers for this measure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import jaxnet as jn
from experiments import mnist, plots
from experiments.record import Record

SPACE = jn.Space(generator=jn.log_uniform(1e-4, 1e-2), discriminator=jn.log_uniform(1e-4, 1e-2))
PAPER = {"generator": 2e-4, "discriminator": 2e-4}  # the first trial
LATENT = 32  # numbers that the generator starts from; the paper has 100, for photographs
BETA1 = 0.5  # the paper's; 0.9 made training oscillate there
SURE = 0.9  # probability above which the judge is confident
SAMPLES, SHOWN = 1000, 10  # that are judged after each unit, and that are kept to be looked at


class Amount(NamedTuple):
    """How much is done: a unit of budget is so many steps on so many digits."""

    filters: int = 16
    batch: int = 32
    steps: int = 300
    trials: int = 12
    units: int = 3
    longer: int = 20  # units of the best pair
    seeds: int = 3
    judge_epochs: int = 4
    judge_digits: int = 50_000


QUICK = Amount(8, 32, 60, 2, 1, 2, 2, 1, 3000)
FULL = Amount(64, 128, 391, 64, 30, 100, 10, 20)


def lenet(steps: int) -> jn.Trial:
    """The judge."""
    return jn.Trial(
        net=jn.models.lenet5(),
        loss=jn.losses.softmax_cross_entropy,
        optimizer=optax.adam(optax.cosine_decay_schedule(3e-3, steps)),
        metric=jn.metrics.error,
    )


def judged(logits: Any) -> dict[str, jax.Array]:
    """Of the judge's logits ``[n, 10]`` for n images: ``score`` in nats, the ``confident`` share, how many ``digits``.

    >>> sure_and_even = judged(100.0 * jnp.eye(10))
    >>> {name: round(float(value), 3) for name, value in sure_and_even.items()}
    {'score': 0.0, 'confident': 1.0, 'digits': 10.0}
    """
    logs = jax.nn.log_softmax(logits)
    p = jnp.exp(logs)
    conditional = -jnp.mean(jnp.sum(p * logs, axis=1))
    counts = jnp.mean(jax.nn.one_hot(jnp.argmax(logits, axis=1), 10), axis=0)
    return {
        "score": math.log(10) - entropy(jnp.mean(p, axis=0)) + conditional,
        "confident": jnp.mean(jnp.max(p, axis=1) > SURE),
        "digits": jnp.exp(entropy(counts)),
    }


def entropy(p: jax.Array) -> jax.Array:
    """Nats of a distribution ``[n]``."""
    return -jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1.0)), 0.0))


def against(logits: jax.Array, real: bool) -> jax.Array:
    """The mean cross entropy of a discriminator's logits, where all are real, or none is."""
    return jnp.mean(jn.losses.sigmoid_cross_entropy(logits, jnp.full(logits.shape, float(real))))


class Judge(NamedTuple):
    """A trained network."""

    net: jn.Layer
    params: Any
    state: Any


class Player(NamedTuple):
    """A network that is learning."""

    params: Any
    state: Any
    optimizer: Any

    def moved(self, gradient: Any, rate: Any, state: Any) -> Player:
        updates, optimizer = optax.adam(rate, b1=BETA1).update(gradient, self.optimizer, self.params)
        return Player(optax.apply_updates(self.params, updates), state, optimizer)


def game(amount: Amount, images: np.ndarray, judge: Judge, key: jax.Array) -> jn.search.Program:
    """The two players as a program: a unit is ``amount.steps`` steps of each in turn.

    Args:
      images: uint8 ``[n, 28, 28, 1]``. judge: of [0, 1] images. key: draws the noise that is judged.
    """
    generator, discriminator = jn.models.dcgan_generator(amount.filters), jn.models.dcgan_discriminator(amount.filters)

    def init(hp, key):
        def player(net, key, spec):
            params, state, _ = net.init(key, spec)
            return Player(params, state, optax.adam(1.0, b1=BETA1).init(params))

        keys = jax.random.split(key)
        album = jnp.zeros((amount.longer, SHOWN, 28, 28), jnp.uint8)
        return (
            player(generator, keys[0], (LATENT,)), player(discriminator, keys[1], (28, 28, 1)), album, jnp.int32(0),
        )  # fmt: skip

    def step(hp, players, key, images):
        drawing, telling = players
        rows_key, noise_key = jax.random.split(key)
        rows = jax.random.randint(rows_key, (amount.batch,), 0, len(images))
        real = images[rows].astype(jnp.float32) / 127.5 - 1
        noise = jax.random.normal(noise_key, (amount.batch, LATENT))
        fake, _ = generator.apply(drawing.params, drawing.state, noise, train=True)

        def mistaken(params):  # each kind in a batch of its own, as the paper's batch norm needs it
            of_real, state = discriminator.apply(params, telling.state, real, train=True)
            of_fake, state = discriminator.apply(params, state, fake, train=True)
            return against(of_real, True) + against(of_fake, False), state

        gradient, state = jax.grad(mistaken, has_aux=True)(telling.params)
        telling = telling.moved(gradient, hp.discriminator, state)

        def found_out(params):
            fake, state = generator.apply(params, drawing.state, noise, train=True)
            told, _ = discriminator.apply(telling.params, telling.state, fake, train=True)
            return against(told, True), state

        gradient, state = jax.grad(found_out, has_aux=True)(drawing.params)
        return drawing.moved(gradient, hp.generator, state), telling

    def drawn(player, noise):  # in evaluation
        return generator.apply(player.params, player.state, noise)[0]

    def advance(hp, carry, key, feed):
        *players, album, unit = carry

        def body(players, key):
            return step(hp, players, key, feed["images"]), None

        (drawing, telling), _ = jax.lax.scan(body, tuple(players), jax.random.split(key, amount.steps))
        shown = drawn(drawing, feed["noise"][:SHOWN])[..., 0]
        page = jnp.round((shown + 1) * 127.5).astype(jnp.uint8)
        return drawing, telling, album.at[unit].set(page), unit + 1

    def evaluate(hp, carry, feed):
        made = (drawn(carry[0], feed["noise"]) + 1) / 2
        return judged(judge.net.apply(feed["judge"], judge.state, made)[0])

    given = {"images": jnp.asarray(images), "judge": judge.params, "noise": jax.random.normal(key, (SAMPLES, LATENT))}
    return jn.search.Program(init, advance, evaluate, lambda unit: given)


def picture_of_training(album: np.ndarray, steps: int) -> Figure:
    """The same noise after more and more steps, a column each."""
    pages = np.unique(np.linspace(0, len(album) - 1, 10).round().astype(int))
    album, units = album[pages], len(pages)
    figure = Figure(figsize=(0.75 * units + 1, 6.4), layout="constrained")
    axes = figure.subplots()
    axes.imshow(album.transpose(1, 2, 0, 3).reshape(28 * SHOWN, 28 * units), cmap="gray_r", vmin=0, vmax=255)
    axes.set(xticks=28 * np.arange(units) + 14, xticklabels=[f"{steps * (i + 1):,}" for i in pages], yticks=[])
    axes.tick_params(axis="x", rotation=45)
    axes.set(xlabel="steps of each player", ylabel="the same noise in each row")
    return figure


def picture_of_search(table: Any, curves: dict[str, np.ndarray], real: dict[str, float], steps: int) -> Figure:
    """All pairs of rates with their scores, and the best pair's measures while it is trained for longer."""
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    axes = figure.subplots(1, 3)
    finite = np.isfinite(table["score"])
    dots = axes[0].scatter(
        table["generator"][finite], table["discriminator"][finite], c=table["score"][finite], cmap="viridis", s=60,
        vmin=0, vmax=math.log(10), edgecolor="0.3",
    )  # fmt: skip
    axes[0].plot(table["generator"][~finite], table["discriminator"][~finite], "x", color=plots.RED)
    axes[0].axline((1e-4, 1e-4), (1e-2, 1e-2), color="0.7", linewidth=0.8)
    axes[0].set(xscale="log", yscale="log", xlabel="generator's learning rate", ylabel="discriminator's learning rate")
    axes[0].set(title="a dot a trial")
    figure.colorbar(dots, ax=axes[0], label="nats missing")
    at = steps * np.arange(1, curves["score"].shape[-1] + 1)
    for axis, name, label in ((axes[1], "score", "nats missing"), (axes[2], "confident", "share judged confidently")):
        axis.plot(at, curves[name].T, color=plots.BLUE, linewidth=1)
        axis.axhline(real[name], color="black", linestyle=":", linewidth=1, label="real digits")
        axis.set(xlabel="steps of each player", ylabel=label, title="the best pair, a line a seed")
        axis.set_ylim(0, None)
        axis.legend(frameon=False)
    for axis in axes:
        plots.tidy(axis)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment: the one place that prints, draws and writes."""
    record = Record(__spec__.name, __doc__ or "", arguments)
    amount = QUICK if record.quick else FULL if record.full else Amount()
    keys = jax.random.split(jax.random.key(record.seed), 4)
    train, _, test = mnist.load()

    seen = train[0][: amount.judge_digits], train[1][: amount.judge_digits]
    trial = lenet(amount.judge_epochs * math.ceil(len(seen[1]) / 128))
    fitted = jn.fit(trial, seen, epochs=amount.judge_epochs, key=keys[0])
    judge = Judge(trial.net, fitted.params, fitted.state)
    logits = jn.predict(judge.net, judge.params, judge.state, test[0])
    wrong = 100 * float(np.mean(np.argmax(logits, axis=1) != test[1]))
    real = {name: float(value) for name, value in judged(logits).items()}
    record.number("test error of the judge, a LeNet", wrong, "%")

    program = game(amount, train[0], judge, keys[1])
    searched = jn.search.run(
        program, SPACE, include=[PAPER], trials=amount.trials, epochs=amount.units, key=keys[2]
    )  # fmt: skip
    best = searched.best
    pair = {name: best[name] for name in ("generator", "discriminator")}
    paper = "for 128 to 1,024 filters and batches of 128"
    for name, rate in pair.items():
        record.number(f"best learning rate of the {name}", rate, known=2e-4, source="Radford et al. (2016)", note=paper)
    scores = searched.table["score"]
    record.number(
        f"nats missing of {amount.trials} pairs after {amount.units * amount.steps:,} steps, best, median, worst",
        ", ".join(f"{value:.2f}" for value in np.nanquantile(scores, (0, 0.5, 1))), "nats",
        note=f"{scores[0]:.2f} by the paper's pair; {searched.counts.get('diverged', 0)} diverged",
    )  # fmt: skip
    longer = jn.search.run(
        program, SPACE, include=[pair], trials=1, epochs=amount.longer, repeats=amount.seeds, key=keys[3]
    )  # fmt: skip
    curves = {name: np.asarray(longer.repeated[name])[0] for name in ("score", "confident", "digits")}
    known: Any = {"source": "real test digits, same judge"}
    trained = f"the best pair, {amount.longer * amount.steps:,} steps"
    record.number(f"nats missing, {trained}", curves["score"][:, -1], "nats", known=real["score"], **known)
    record.number(
        f"samples that the judge is sure of, {trained}", 100 * curves["confident"][:, -1], "%",
        known=100 * real["confident"], **known,
    )  # fmt: skip
    record.number(
        f"effective number of digits, {trained}", curves["digits"][:, -1], "of 10", known=real["digits"], **known
    )

    fewest = min(np.nanmin(scores), curves["score"].min())
    record.claim("real digits miss fewer nats than samples of any trial", real["score"] < fewest)
    if not record.quick:
        record.claim("samples of every seed miss less than half of the nats", curves["score"][:, -1].max() < 1.15)
        record.claim("all ten digits are drawn about equally often", curves["digits"][:, -1].min() > 8)
    album = longer.network()[2]
    record.figure(
        picture_of_training(np.asarray(album), amount.steps),
        "What the best pair's generator makes of ten draws of noise while it learns.", "training",
    )  # fmt: skip
    record.figure(
        picture_of_search(searched.table, curves, real, amount.steps),
        "The pairs of learning rates that were tried, the darker the better; and the best pair while it is trained for "
        "longer, from other seeds.", "search",
    )  # fmt: skip
    record.finish()


if __name__ == "__main__":
    main()
