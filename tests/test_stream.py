"""Streams: the same numbers as in memory, no more examples held than promised, and what a source can get wrong."""

import gc
import threading
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.stream import Stream

KEY = jax.random.key(0)
EXAMPLES = 90
SPACE = jn.Space(rate=jn.log_uniform(1e-3, 1e-1), hidden=jn.integers(4, 6))


def problem(examples=EXAMPLES, seed=0):
    """Three classes: pixels uint8 [examples, 2, 2], labels int64."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(3, size=examples)
    return (40 * labels[:, None, None] + generator.integers(0, 120, (examples, 2, 2))).astype(np.uint8), labels


def trial(hp):
    """Everything that could notice where an example stands: batch statistics, a draw for each step, a partial batch.

    Not Adam, which makes steps of the rounding in the gradient of a bias before batch norm, where it is zero.
    """
    net = jn.serial(jn.flatten, jn.dense(hp.hidden), jn.batch_norm(), jax.nn.relu, jn.dropout(0.2), jn.dense(3))
    loss, metric = jn.losses.softmax_cross_entropy, jn.metrics.error
    return jn.Trial(net=net, loss=loss, optimizer=optax.sgd(hp.rate, momentum=0.9), metric=metric, batch_size=16)


ONE = trial(jn.hp(rate=0.02, hidden=5))
TRAIN, VALIDATION = problem(), problem(70, seed=1)


class Examples:
    """A map-style source that counts: its examples one by one, as PyTorch and grain ask for them."""

    def __init__(self, data=TRAIN, change=lambda i, example: example):
        self.data, self.change, self.read = data, change, []

    def __len__(self):
        return len(self.data[0])

    def __getitem__(self, i):
        self.read.append(i)
        return self.change(i, (self.data[0][i], self.data[1][i]))


def memory_mapped(folder):
    """The training data in files, mapped."""
    parts = []
    for i, array in enumerate(TRAIN):
        file = np.lib.format.open_memmap(folder / f"{i}.npy", "w+", array.dtype, array.shape)
        file[:] = array
        file.flush()
        parts.append(np.load(folder / f"{i}.npy", mmap_mode="r"))
    return tuple(parts)


def of_torch(folder):
    torch = pytest.importorskip("torch")
    return torch.utils.data.TensorDataset(*map(torch.from_numpy, TRAIN))


def of_grain(folder):
    grain = pytest.importorskip("grain")
    return grain.MapDataset.source(list(zip(*TRAIN, strict=True)))


def in_order(epoch, data=TRAIN):
    """The data as training in memory comes to them."""
    rows = jn.data.orders(jn.training.Keys.of(KEY).order)(epoch, len(data[0]))
    return tuple(array[rows] for array in data)


def batches(epoch, data=TRAIN, size=7):
    """Batches in that order, of another size than the trial's."""
    inputs, targets = in_order(epoch, data)
    for start in range(0, len(inputs), size):
        yield inputs[start : start + size], targets[start : start + size]


def of_loader(folder):
    torch = pytest.importorskip("torch")

    class Endless(torch.utils.data.IterableDataset):
        def __init__(self, epoch):
            super().__init__()
            self.data = in_order(epoch)

        def __iter__(self):
            yield from zip(*self.data, strict=True)
            yield from self

    return lambda epoch: torch.utils.data.DataLoader(Endless(epoch), batch_size=7)


def of_grain_batches(folder):
    grain = pytest.importorskip("grain")
    return lambda epoch: grain.MapDataset.source(list(zip(*in_order(epoch), strict=True))).to_iter_dataset().batch(7)


SOURCES = {
    "mapped": memory_mapped,
    "torch": of_torch,
    "grain": of_grain,
    "examples": lambda folder: Examples(),
    "batches": lambda folder: batches,
    "torch's loader": of_loader,
    "grain's batches": of_grain_batches,
}


def assert_close(got, wanted):
    """To rounding: where windows are cut, the compiler may do the same arithmetic in another order."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, wanted)


@pytest.fixture(scope="module")
def in_memory():
    return jn.fit(ONE, TRAIN, VALIDATION, epochs=2, key=KEY)


@pytest.mark.parametrize("made", SOURCES.values(), ids=SOURCES.keys())
def test_fit_gives_what_it_gives_in_memory(made, in_memory, tmp_path):
    stream = Stream(made(tmp_path), window=40, examples=EXAMPLES if made is of_loader else None)
    fitted = jn.fit(ONE, stream, Stream(VALIDATION, window=40), epochs=2, key=KEY)
    assert_close(fitted[:2], in_memory[:2])
    assert list(fitted.curve) == list(in_memory.curve)
    for (
        name,
        curve,
    ) in in_memory.curve.items():  # validation batches are as large as the window, so sums round otherwise
        np.testing.assert_allclose(fitted.curve[name], curve, rtol=1e-6)


@pytest.mark.parametrize("window", [1, 16, 50, 1000])
def test_an_epoch_reads_each_example_once_in_the_order_in_memory(window, in_memory):
    source = Examples()
    stream = Stream(source, window=window)
    source.read.clear()
    fitted = jn.fit(ONE, stream, VALIDATION, epochs=2, key=KEY)
    epochs = np.reshape(source.read, (2, EXAMPLES))
    order = jn.data.orders(jn.training.Keys.of(KEY).order)
    np.testing.assert_array_equal(epochs, [order(epoch, EXAMPLES) for epoch in range(2)])
    assert_close(fitted[:2], in_memory[:2])


@pytest.mark.parametrize("kind", ["arrays", "batches"])
def test_no_more_than_two_windows_are_on_the_device_and_two_on_the_host(kind, monkeypatch):
    places = ("host", "device", "batch")
    held, most, lock = {name: set() for name in places}, dict.fromkeys(places, 0), threading.Lock()

    def count(place, leaf):
        with lock:
            held[place].add(mark := object())
            weakref.finalize(leaf, held[place].discard, mark)
            for name in held:
                most[name] = max(most[name], len(held[name]))

    read, put = Stream.read, jax.device_put

    def counted_read(self, rows, *rest):
        made = read(self, rows, *rest)
        assert len(made[0]) <= 32
        count("host", made[0])
        return made

    def counted_put(tree, *rest):
        placed = put(jax.tree.map(np.copy, tree), *rest)  # a copy, as on an accelerator
        if isinstance(tree, dict) and "first" in tree:
            count("device", placed[next(iter(tree))][0])
        return placed

    monkeypatch.setattr(Stream, "read", counted_read)
    monkeypatch.setattr(jax, "device_put", counted_put)

    def counted_batches(epoch):
        for inputs, targets in batches(epoch):
            fresh = [inputs.copy(), targets]
            count("batch", fresh[0])
            yield fresh.pop(0), fresh.pop()

    gc.collect()
    train = Stream(TRAIN if kind == "arrays" else counted_batches, window=32)
    jn.fit(ONE, train, Stream(VALIDATION, window=32), epochs=3, key=KEY)
    assert most["device"] == 2
    assert 1 <= most["host"] <= 2
    assert most["batch"] == (kind == "batches")
    assert not any(held.values())


def searched(train, validation=VALIDATION, **options):
    options = {"trials": 5, "epochs": 3, "key": KEY, "lanes": 2} | options
    return jn.search.run(trial, SPACE, train, validation, **options)


def assert_same(result, expected):
    for name, column in expected.table.items():
        if column.dtype.kind == "f":
            np.testing.assert_allclose(result.table[name], column, rtol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(result.table[name], column, err_msg=name)
    np.testing.assert_array_equal(np.isnan(result.curves), np.isnan(expected.curves))


@pytest.fixture(scope="module")
def searched_in_memory():
    return searched(TRAIN)


def validation_batches(epoch):
    yield from ((VALIDATION[0][i : i + 9], VALIDATION[1][i : i + 9]) for i in range(0, 70, 9))


@pytest.mark.parametrize("which", ["train", "validation", "both", "batches"])
def test_a_search_gives_the_table_that_it_gives_in_memory(which, searched_in_memory):
    train = TRAIN if which == "validation" else Stream(batches if which == "batches" else TRAIN, window=40)
    validation = VALIDATION
    if which != "train":
        validation = Stream(validation_batches if which == "batches" else VALIDATION, window=40)
    result = searched(train, validation)
    assert_same(result, searched_in_memory)
    best = result.network(result.best)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), best.params,
        searched_in_memory.network(searched_in_memory.best).params,
    )  # fmt: skip


def test_schedules_and_a_journal_stream_too(tmp_path):
    options = {"trials": 6, "schedule": jn.search.successive_halving(eta=2)}
    expected = searched(TRAIN, **options)
    stream = Stream(Examples(), window=40)
    assert_same(searched(stream, directory=tmp_path, **options), expected)
    stream.source.read.clear()
    assert_same(searched(stream, directory=tmp_path, **options), expected)
    assert len(stream.source.read) == 64  # by which the journal knows it; nothing is trained again
    other = Stream(Examples((TRAIN[0], TRAIN[1][::-1])), window=40)
    with pytest.raises(ValueError, match="train data was"):
        searched(other, directory=tmp_path, **options)


class Killed(jn.Callback):
    """Ends a search as soon as a trial has ended."""

    def on_trial_end(self, trial, status):
        raise RuntimeError("killed")


class Each:
    """A source of batches that is iterated over as it stands, in an order of its own each time, or in one."""

    def __init__(self, shuffles):
        self.shuffles, self.passes = shuffles, 0

    def __iter__(self):
        self.passes += 1
        return batches(self.passes if self.shuffles else 0)


def test_a_search_over_batches_goes_on_after_a_kill_or_is_refused(tmp_path):
    expected = searched(TRAIN, trials=4)
    with pytest.raises(RuntimeError, match="killed"):
        searched(Stream(batches, window=40), trials=4, directory=tmp_path, callbacks=[Killed()])

    def otherwise(epoch):  # the first epoch, of which the journal knows examples, is the same
        return batches(2 * epoch)

    with pytest.raises(ValueError, match="(?s)train: epoch 1 isn't what it was .* must give the same batches"):
        searched(Stream(otherwise, window=40), trials=4, directory=tmp_path)
    assert_same(searched(Stream(batches, window=32), trials=4, directory=tmp_path), expected)
    with pytest.raises(ValueError, match="train data was '90 examples in batches"):
        searched(Stream(lambda epoch: batches(epoch + 1), window=40), trials=4, directory=tmp_path)


def test_a_source_that_shuffles_by_itself_is_for_fit_alone():
    fitted = jn.fit(ONE, Stream(Each(shuffles=True), window=40), epochs=2, key=KEY)
    assert len(fitted.curve["train_loss"]) == 2
    with pytest.raises(ValueError, match=r"train: epoch \d isn't what it was .* must be a function of the epoch"):
        searched(Stream(Each(shuffles=True), window=40))
    assert searched(Stream(Each(shuffles=False), window=40)).best["units"] == 3


@pytest.mark.parametrize("kind, window", [("arrays", 40), ("batches", 40), ("batches", 1000)])
def test_evaluate_and_predict_take_a_stream(kind, window, in_memory):
    stream = Stream(VALIDATION if kind == "arrays" else validation_batches, window=window)
    means = jn.evaluate(ONE, in_memory.params, in_memory.state, stream)
    expected = jn.evaluate(ONE, in_memory.params, in_memory.state, VALIDATION)
    assert means == pytest.approx(expected, rel=1e-6)
    outputs = jn.predict(ONE.net, in_memory.params, in_memory.state, stream, batch_size=30)
    wanted = jn.predict(ONE.net, in_memory.params, in_memory.state, VALIDATION[0])
    np.testing.assert_allclose(outputs, wanted, rtol=1e-5, atol=1e-6)


def test_a_lane_that_diverges_in_a_later_window_is_frozen_where_it_is_in_memory(key):
    x = np.ones((64, 1), np.float32)
    wild = jn.Trial(net=jn.dense(1), loss=jn.losses.squared_error, optimizer=optax.sgd(50.0), batch_size=2)
    expected = jn.fit(wild, (x, x), (x, x), epochs=3, key=key)
    fitted = jn.fit(wild, Stream((x, x), window=8), Stream((x, x), window=8), epochs=3, key=key)
    assert fitted.diverged == expected.diverged and 4 < fitted.diverged < 32
    jax.tree.map(np.testing.assert_array_equal, fitted.params, expected.params)


def test_double_precision_reaches_the_device_from_any_thread(x64, key):
    x = np.linspace(0, 1, 8)[:, None]
    program = jn.Trial(net=jn.dense(1), loss=jn.losses.squared_error, optimizer=optax.sgd(0.1), batch_size=4)
    result = jn.random_search(
        lambda hp: program,
        jn.Space(unused=jn.uniform(0, 1)),
        Stream((x, x)),
        Stream((x, x)),
        trials=1,
        epochs=1,
        key=key,
    )
    alone = jn.fit(program, (x, x), (x, x), epochs=1, key=key)
    np.testing.assert_allclose(result.best["train_loss"], alone.curve["train_loss"][-1], rtol=1e-12)


def at(place, example):
    return lambda i, own: example(own) if i == place else own


def raising(own):
    raise OSError("the disk is gone")


BROKEN = {
    "raises": (at(5, raising), OSError, "(?s)the disk is gone.*train: while example 5 was read"),
    "shape": (at(5, lambda own: (own[0][:1], own[1])), ValueError, r"train: example 5 has shape \(1, 2\).*\(2, 2\)"),
    "dtype": (
        at(5, lambda own: (own[0].astype(np.int32), own[1])),
        ValueError,
        "example 5 .* int32, example 0 .* uint8",
    ),
    "structure": (at(5, lambda own: ({"a": own[0]}, own[1])), ValueError, "train: example 5 has the structure"),
    "pair": (at(5, lambda own: own[0]), TypeError, "train: expected example 5 to be a pair"),
    "label": (at(5, lambda own: (own[0], own[1] + 7)), ValueError, r"train: example 5: labels must be .* \[0, 3\)"),
    "wide": (at(5, lambda own: (own[0], own[1] + 2**40)), ValueError, "train: example 5 has int64 entries .* int32"),
}


def broken(place, change):
    """Batches of which one, of the second epoch, is changed."""

    def source(epoch):
        for i, batch in enumerate(batches(epoch)):
            yield change(*batch) if (epoch, i) == (1, place) else batch

    return source


def failing(inputs, targets):
    raise OSError("the disk is gone")


BROKEN_BATCHES = {
    "raises": (
        failing,
        OSError,
        "(?s)the disk is gone.*train: while epoch 1 was read from its source, after example 35",
    ),
    "shape": (
        lambda x, y: (x[:, :1], y),
        ValueError,
        r"the batch after example 35 of epoch 1 has examples of shape \(1, 2\)",
    ),
    "structure": (lambda x, y: ({"a": x}, y), ValueError, "the batch after example 35 of epoch 1 has the structure"),
    "pair": (lambda x, y: x, TypeError, "expected the batch after example 35 of epoch 1 to be a pair"),
    "lengths": (
        lambda x, y: (x, y[1:]),
        ValueError,
        r"examples on the first axis of all its arrays, got shapes \[\(7, 2",
    ),
    "label": (lambda x, y: (x, y + (np.arange(7) == 2) * 7), ValueError, "train: example 37: labels must be"),
    "fewer": (lambda x, y: (x[:3], y[:3]), ValueError, "epoch 1 ended after 86 examples, and 90 were expected"),
    "more": (lambda x, y: (np.repeat(x, 2, 0), np.repeat(y, 2)), ValueError, "epoch 1 has more than the 90 examples"),
}


@pytest.mark.parametrize("change, kind, message", BROKEN_BATCHES.values(), ids=BROKEN_BATCHES.keys())
def test_a_batch_that_is_wrong_is_named(change, kind, message):
    with pytest.raises(kind, match=message):
        jn.fit(ONE, Stream(broken(5, change), window=40), epochs=2, key=KEY)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("jaxnet")]


@pytest.mark.parametrize("change, kind, message", BROKEN.values(), ids=BROKEN.keys())
def test_an_example_that_is_wrong_is_named(change, kind, message):
    with pytest.raises(kind, match=message):
        jn.fit(ONE, Stream(Examples(change=change), window=40), epochs=1, key=KEY)


def test_an_example_that_is_not_finite_is_named(key):
    x = np.ones((20, 1), np.float32)
    x[13] = np.nan
    trial = jn.Trial(net=jn.dense(1), loss=jn.losses.squared_error, optimizer=optax.sgd(0.1), batch_size=4)
    with pytest.raises(ValueError, match="validation: example 13 .* NaN or infinite"):
        jn.fit(trial, (x[:4], x[:4]), Stream((x, x), window=8), epochs=1, key=key)


def test_an_error_of_the_source_ends_a_search():
    with pytest.raises(OSError, match="the disk is gone"):
        searched(Stream(Examples(change=at(5, raising)), window=40))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("jaxnet")]


@pytest.mark.parametrize(
    "source, kind, message",
    [
        (iter([(1.0, 2.0)]), TypeError, "iterated over only once"),
        (lambda epoch: [], ValueError, "at least one example, got an empty source"),
        (lambda epoch: [(np.ones(3), 1.0)], ValueError, r"examples on the first axis .* must be batched"),
        (lambda epoch: [np.ones(3)], TypeError, "the batch after example 0 of epoch 0 to be a pair"),
        (7, TypeError, "what yields batches .* got int"),
        ({"x": 1}, TypeError, "got dict"),
        ((np.ones(3),), TypeError, "got a tuple of 1"),
        (([1.0], [1.0]), TypeError, "to be arrays, got float"),
        ((np.ones(3), np.ones(4)), ValueError, r"lengths \[3, 4\]"),
        ((np.ones(0), np.ones(0)), ValueError, "at least one example"),
        ([], ValueError, "at least one example"),
        ([np.ones(3)], TypeError, "expected example 0 to be a pair"),
        ([("a", 1)], TypeError, "expected examples of numbers"),
    ],
)
def test_what_is_no_source_is_refused(source, kind, message):
    with pytest.raises(kind, match=message):
        Stream(source)


def test_what_cannot_be_streamed_is_refused_before_anything_is_compiled():
    stream = Stream(TRAIN)
    with pytest.raises(ValueError, match="window must be at least 1"):
        Stream(TRAIN, window=0)
    with pytest.raises(ValueError, match="examples= goes with a source of batches"):
        Stream(TRAIN, examples=3)
    with pytest.raises(ValueError, match='shuffle must be "shared"'):
        jn.fit(ONE, stream, epochs=1, key=KEY, shuffle="own")
    with pytest.raises(ValueError, match='shuffle must be "shared"'):
        searched(stream, shuffle="own")
    with pytest.raises(ValueError, match="batch_size is 16, but there are only 3"):
        jn.fit(ONE, Stream((TRAIN[0][:3], TRAIN[1][:3])), epochs=1, key=KEY)

    def own_batches(hp):
        return jn.Trial(ONE.net, ONE.loss, ONE.optimizer, ONE.metric, batch_size=hp.batch)

    for batch, found in (
        (jn.choice(8, 16), r"batch sizes \[8, 16\]"),
        (jn.integers(4, 16), "differs from lane to lane"),
    ):
        with pytest.raises(ValueError, match=f"one batch_size; got .*{found}"):
            jn.search.plan(own_batches, jn.Space(batch=batch), stream, VALIDATION, trials=8, epochs=1, key=KEY)


def test_bfloat16_and_trees_of_inputs_stream(key):
    x = {"a": jnp.ones((6, 2), jnp.bfloat16), "b": np.arange(6.0)}
    made = Stream((x, np.zeros(6))).named("train")
    inputs, targets = made.read(
        np.array([4, 1]), jax.tree.map(lambda a: jax.ShapeDtypeStruct((3, *a.shape[1:]), a.dtype), made.shapes)
    )
    np.testing.assert_array_equal(inputs["b"], [4, 1, 0])
    assert inputs["a"].dtype == jnp.bfloat16 and inputs["b"].dtype == targets.dtype == np.float32


def test_masked_entries_are_refused():
    inputs, targets = TRAIN
    masked = np.ma.masked_array(inputs, mask=np.arange(len(inputs))[:, None, None] == np.ones((2, 2)))
    with pytest.raises(ValueError, match="Stream: .* entries are masked, and a mask isn't looked at"):
        Stream((masked, targets))
    for stream in (
        lambda: Stream(list(zip(masked, targets, strict=True))),
        lambda: Stream(lambda epoch: [(masked[:16], targets[:16])], examples=16),
    ):
        with pytest.raises(ValueError, match="example [01].* entries are masked"):
            jn.fit(ONE, stream(), epochs=1, key=KEY)
