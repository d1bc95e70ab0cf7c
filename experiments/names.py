"""Which language is a surname from, as a recurrent network reads it character by character?

    python -m experiments.names           about a minute on two CPU cores; --full: ten seeds, not three
    python -m experiments.names --quick   20 seconds, on few names and epochs

Data: surnames of twelve languages from Faker's lists (``surnames.py``): in lower case, ASCII, each once, none of two
languages, at most 1,000 of a language; 70 % to train on, 15 % each to choose the epoch (validation) and to report
(test), split by the seed of the run.
Measure: test accuracy, the percentage of names whose language is named, after the last epoch; higher is better, and its
standard error at 80 % and 1,300 names is 1.1. What is called the best was chosen on validation data. The lists hold
names of immigrants and of neighbours, so 100 % can't be reached. Baselines: the largest class, and logistic regression
on counts of character bigrams, with marks for start and end.
In training, three names of ten are cut off somewhere, so that it makes sense to ask before the end. On so few names no
network comes up to the bigrams; uncut names, half the learning rate, dropout of characters, or 96 units gained a point
of validation accuracy at most.

Then a network that is told the language, as its first symbol, learns to write names: at each step the next character.
Measures: nats a character on test names, and what share of the names that it writes, and that aren't in the training
data, the best classifier takes for the language that was asked for; beside that, the share of real test names.
No source has numbers for these lists.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import jaxnet as jn
from experiments import plots, surnames
from experiments.record import Record
from experiments.surnames import ALPHABET, LANGUAGES, LONGEST

CELLS = {"RNN": jn.rnn, "GRU": jn.gru, "LSTM": jn.lstm}
MODELS = (*CELLS, "bidirectional GRU")
SPACE = jn.Space(model=jn.choice(*MODELS))
STRENGTH = jn.Space(l2=jn.log_uniform(1e-4, 1e-2))  # of the baseline, the only one that the number of weights asks for
UNITS, RATE, BATCH = 64, 4e-3, 64  # of Adam; twice the units gain nothing on so few names
EPOCHS = 15
CUT = 0.3  # of the names; without any, the first characters of a name tell the network nothing that it knows
END = len(ALPHABET)  # of a name; the symbols after it are starts, one for each language
SYMBOLS = END + 1 + len(LANGUAGES)
WRITTEN = 200  # names of each language


def reader(model: str, returns: Any = "last") -> jn.Layer:
    """Characters to languages: after the last one, or, with "sequence", after each, with the same parameters."""
    both = model not in CELLS
    return jn.models.sequence_classifier(
        len(ALPHABET), len(LANGUAGES), cell=CELLS.get(model, jn.gru), bidirectional=both,
        units=UNITS // 2 if both else UNITS, dropout=0.3, returns=returns,  # as many units in all
    )  # fmt: skip


def shorten(key: jax.Array, names: jn.Sequence) -> jn.Sequence:
    """Some of the names cut off after any of their characters, so that a network has an opinion while it reads."""
    whether, where = jax.random.uniform(key, (2, *names.lengths.shape))
    short = 1 + jnp.floor(where * names.lengths).astype(names.lengths.dtype)
    return jn.Sequence(names.values, jnp.where(whether < CUT, short, names.lengths))


def classifier(hp) -> jn.Trial:
    """Which language it is."""
    return jn.Trial(
        net=reader(hp.model),
        loss=jn.losses.softmax_cross_entropy,
        optimizer=optax.adam(RATE),
        metric=jn.metrics.error,
        batch_size=BATCH,
        augment=shorten,
    )


def regression(hp) -> jn.Trial:
    """The baseline, on counts of bigrams."""
    return jn.Trial(
        net=jn.dense(len(LANGUAGES)),
        loss=jn.losses.softmax_cross_entropy,
        penalty=jn.losses.l2(hp.l2),
        optimizer=optax.adam(RATE),
        metric=jn.metrics.error,
        batch_size=BATCH,
    )


def predictions(net: jn.Layer, result: jn.search.SearchResult, row: Any, inputs: Any) -> np.ndarray:
    """Logits of a row's networks, ``[seeds, n, languages]``."""
    networks = [result.network(row, seed) for seed in range(result.repeats)]
    size = len(jax.tree.leaves(inputs)[0])  # all at once: one program
    return np.stack([jn.predict(net, params, state, inputs, batch_size=size) for _, params, state in networks])


def bigrams(names: jn.Sequence) -> np.ndarray:
    """How often each pair of characters is in a name, start and end among them: float32 ``[n, 28 * 28]``.

    >>> counts = bigrams(surnames.encode(["aa"]))
    >>> np.flatnonzero(counts).tolist()  # from a mark to a, from a to a, from a to a mark; a is 1, the mark 27
    [29, 55, 757]
    """
    values, lengths = np.asarray(names.values), np.asarray(names.lengths)
    counts = np.zeros((len(values), END + 1, END + 1), np.float32)
    for count, row, length in zip(counts, values, lengths, strict=True):
        marked = [END, *row[:length], END]
        np.add.at(count, (marked[:-1], marked[1:]), 1)
    return counts.reshape(len(values), -1)


def writer(hp) -> jn.Trial:
    """The next character from a language's start and the characters so far."""

    return jn.Trial(
        net=jn.serial(
            symbols=jn.one_hot(SYMBOLS), recurrent=jn.gru(hp.width), drop=jn.dropout(0.2),
            head=jn.dense(END + 1),
        ),
        loss=jn.losses.softmax_cross_entropy,  # the mean over a name's characters and its end
        optimizer=optax.adam(RATE),
        batch_size=BATCH,
    )  # fmt: skip


def to_write(names: jn.Sequence, languages: np.ndarray) -> tuple[jn.Sequence, np.ndarray]:
    """What a writer sees, each name behind its language's start, and what it should say: the name, and its end."""
    rows, room = np.arange(len(languages)), np.zeros((len(languages), 1), np.int32)
    starts = (END + 1 + languages[:, None]).astype(np.int32)
    targets = np.concatenate([names.values, room], axis=1)
    targets[rows, names.lengths] = END
    return jn.Sequence(np.concatenate([starts, names.values], axis=1), names.lengths + 1), targets


@jax.jit
def write(params: Any, languages: jax.Array, key: jax.Array) -> jax.Array:
    """Names drawn character by character: ``[n, LONGEST + 1]``, int32, ``END`` from each end on."""
    units = params["recurrent"]["u"].shape[0]
    cell, head = jn.gru(units, returns="step"), jn.dense(END + 1)

    def step(carry, key):
        symbols, state = carry
        inputs = jax.nn.one_hot(symbols, SYMBOLS)
        (output, state), _ = cell.apply(params["recurrent"], (), (inputs, state))
        logits, _ = head.apply(params["head"], (), output)
        drawn = jnp.where(symbols == END, END, jax.random.categorical(key, logits))
        return (drawn, state), drawn

    start = END + 1 + languages, jnp.zeros((len(languages), units))
    _, drawn = jax.lax.scan(step, start, jax.random.split(key, LONGEST + 1))
    return drawn.T


def as_text(drawn: np.ndarray) -> list[str]:
    """Drawn characters as names; one that didn't come to an end, or is empty, is an empty one."""
    names = ["".join(ALPHABET[i] for i in row if i != END) for row in drawn]
    return [name.strip() if len(name) <= LONGEST else "" for name in names]


def by_counting(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> float:
    """Nats a character of each language's bigram model, from counts ``[n, 28 * 28]`` and one half."""
    counts = np.stack([train[0][train[1] == i].sum(axis=0) for i in range(len(LANGUAGES))])
    counts = counts.reshape(-1, END + 1, END + 1) + 0.5
    logs = np.log(counts / counts.sum(axis=2, keepdims=True)).reshape(len(LANGUAGES), -1)
    return float(np.mean(-np.sum(test[0] * logs[test[1]], axis=1) / test[0].sum(axis=1)))


def picture_of_reading(probabilities: np.ndarray, names: list[str], labels: np.ndarray) -> Figure:
    """For one name of each of six languages, of those named in the end that with the most changes of mind."""
    minds = np.argmax(probabilities, axis=2)  # [n, time]
    lengths = np.array([len(name) for name in names])
    rows = np.arange(len(names))
    changes = np.sum((minds[:, 1:] != minds[:, :-1]) & (np.arange(1, LONGEST) < lengths[:, None]), axis=1)
    changes = np.where((minds[rows, lengths - 1] == labels) & (lengths <= 10), changes, -1)
    figure = Figure(figsize=(11, 6.6), layout="constrained")
    image: Any = None
    languages = [i for i in range(len(LANGUAGES)) if np.any((labels == i) & (changes >= 0))][::2][:6]
    for axis, language in zip(figure.subplots(2, 3).flat, languages, strict=False):
        chosen = int(np.argmax(np.where(labels == language, changes, -1)))
        name = names[chosen]
        shown = probabilities[chosen, : len(name)].T
        image = axis.imshow(shown, aspect="auto", cmap="Blues", vmin=0, vmax=1)
        axis.plot(np.arange(len(name)), minds[chosen, : len(name)], ".", color=plots.ORANGE)
        axis.set(xticks=range(len(name)), xticklabels=[letter.replace(" ", "_") for letter in name])
        axis.set(yticks=range(len(LANGUAGES)), yticklabels=LANGUAGES, title=LANGUAGES[language])
    figure.colorbar(image, ax=figure.axes, label="probability after this character", shrink=0.6)
    return figure


def picture_of_confusion(matrix: np.ndarray, model: str) -> Figure:
    """Percent of each true language that was taken for each."""
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.subplots()
    shares = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.5:
            color = "white" if share > 60 else "black"
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", color=color, fontsize="small")
    axes.set(xticks=range(len(LANGUAGES)), yticks=range(len(LANGUAGES)), yticklabels=LANGUAGES)
    axes.set_xticklabels(LANGUAGES, rotation=60, ha="right", rotation_mode="anchor")
    axes.set(xlabel="taken for", ylabel="language", title=f"{model}, % of each language's test names")
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment: the one place that prints, plots and writes."""
    record = Record(__spec__.name, __doc__ or "", arguments)
    epochs, most, width = (6, 200, 32) if record.quick else (EPOCHS, surnames.MOST, 128)
    seeds = 2 if record.quick else 10 if record.full else 3
    splits = surnames.load(record.seed, most)
    texts, labels = splits.test
    train, validation, test = ((surnames.encode(names), languages) for names, languages in splits)
    keys = jax.random.split(jax.random.key(record.seed), 4)
    options: Any = {"sampler": jn.search.grid(3), "repeats": seeds, "shuffle": "own", "keep": len(MODELS) * seeds}

    def accuracy(outputs):
        return 100 * np.mean(np.argmax(outputs, axis=-1) == labels)

    largest = 100 * float(np.mean(labels == np.bincount(train[1]).argmax()))
    record.number("test accuracy of the largest class", largest, "%")
    counted = [(bigrams(names), languages) for names, languages in (train, validation, test)]
    baseline = jn.search.run(regression, STRENGTH, *counted[:2], epochs=epochs, key=keys[0], **options)
    outputs = predictions(jn.dense(len(LANGUAGES)), baseline, baseline.best, counted[2][0])
    bigram = [accuracy(each) for each in outputs]
    record.number(
        "test accuracy of logistic regression on bigrams", bigram, "%",
        note=f"l2 {baseline.best['l2']:.0e}, of three by validation error",
    )  # fmt: skip

    result = jn.search.run(classifier, SPACE, train, validation, epochs=epochs, key=keys[1], **options)
    nets = {model: reader(model) for model in MODELS}
    outputs = {row["model"]: predictions(nets[row["model"]], result, row, test[0]) for row in result.ranked()}
    accuracies = {model: [accuracy(each) for each in outputs[model]] for model in MODELS}
    for model, per_seed in accuracies.items():
        short = np.mean(per_seed) < np.mean(bigram)
        record.number(
            f"test accuracy, {model}", per_seed, "%", known=float(np.mean(bigram)), source="the bigrams above",
            note=f"falls short: {len(splits.train[0]):,} names are few to learn from" if short else "",
        )  # fmt: skip
    best = result.best["model"]

    # The best of those that read in one direction, from the start: the same parameters, asked after each character.
    ahead = next(row for row in result.ranked() if row["model"] in CELLS)
    _, params, state = result.network(ahead)
    size = len(texts)
    whole = reader(ahead["model"], "sequence")
    sequences: Any = jn.predict(whole, params, state, test[0], batch_size=size)
    read = sequences.values  # [n, time, languages]
    prefixes = surnames.encode(name[:3] for name in texts)
    as_prefix = jn.predict(nets[ahead["model"]], params, state, prefixes, batch_size=size)
    places = np.minimum(np.asarray(test[0].lengths), 3) - 1
    gap = float(np.max(np.abs(read[np.arange(len(texts)), places] - as_prefix)))
    for characters in (1, 2, 4, 6):
        at = np.minimum(np.asarray(test[0].lengths), characters) - 1
        after = accuracy(read[np.arange(len(texts)), at])
        record.number(f"test accuracy after {characters} characters, {ahead['model']}, one seed", after, "%")

    rows = [to_write(*split) for split in (train, validation, test)]
    writing = jn.search.run(writer, jn.Space(width=jn.choice(width)), *rows[:2], epochs=epochs, key=keys[2], **options)
    writers = [writing.network(seed=seed) for seed in range(seeds)]
    trial = writer(jn.hp(width=width))
    nats = [jn.evaluate(trial, params, state, rows[2])["loss"] for _, params, state in writers]
    by_bigrams = by_counting(counted[0], counted[2])
    record.number(
        "writer, nats a character on test names", nats, known=by_bigrams,
        source="bigrams counted in each language's training names",
    )  # fmt: skip
    asked = np.repeat(np.arange(len(LANGUAGES), dtype=np.int32), WRITTEN)
    known = set(splits.train[0])
    taken, copied, written = [], [], []
    for (_, params, _), key in zip(writers, jax.random.split(keys[3], seeds), strict=True):
        written = as_text(np.asarray(write(params, asked, key)))
        copied.append(100 * np.mean([name in known for name in written]))
        fresh = np.array([bool(name) and name not in known for name in written])
        _, params, state = result.network()
        logits = jn.predict(nets[best], params, state, surnames.encode(written), batch_size=len(written))
        taken.append(100 * np.mean((np.argmax(logits, axis=1) == asked)[fresh]))
    record.number(
        f"new names that {best} takes for the language asked for", taken, "%", known=accuracies[best][0],
        source="the same network on real test names",
    )  # fmt: skip
    record.number("written names that are in the training data", copied, "%")
    for language, name in enumerate(LANGUAGES):
        new = [text for text in written[language * WRITTEN : (language + 1) * WRITTEN] if text and text not in known]
        record.number(f"written, {name}", ", ".join(text.title() for text in dict.fromkeys(new[:5])))

    record.claim("after a character, the network says what it says of a name that ends there, to 1e-4", gap < 1e-4)
    means = {model: float(np.mean(per_seed)) for model, per_seed in accuracies.items()}
    written_nats = float(np.mean(nats))
    record.claim("every network is better than the largest class", min(means.values()) > largest)
    record.claim("the writer beats chance, log 28 nats", written_nats < math.log(END + 1))
    if not record.quick:
        record.claim("GRU and LSTM are better than the plain RNN", min(means["GRU"], means["LSTM"]) > means["RNN"])
        record.claim("the writer is better than counted bigrams", written_nats < by_bigrams)
    probabilities = np.asarray(jax.nn.softmax(read, axis=-1))
    record.figure(
        picture_of_reading(probabilities, texts, labels),
        f"{ahead['model']} reads six test names that it names right in the end, of each language that with the most "
        f"changes of mind: the probability of each language after each character, and a dot at the likeliest.",
        "reading",
    )
    repeated = jnp.tile(labels, seeds), jnp.concatenate([*outputs[best]])
    confused = jn.metrics.confusion_matrix(repeated[1], repeated[0], len(LANGUAGES))
    record.figure(
        picture_of_confusion(np.asarray(confused), best),
        f"What the test names of each language were taken for, {seeds} seeds together.", "confusion",
    )  # fmt: skip
    record.finish()


if __name__ == "__main__":
    main()
