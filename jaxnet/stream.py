"""Data that don't fit in memory: windows of an epoch, read on a thread while the one before is trained on."""

from __future__ import annotations

import concurrent.futures
import contextlib
import copy
import dataclasses
import functools
import math
import threading
import zlib
from collections.abc import Callable, Generator, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.data import Data, as_data, check_count, check_unmasked, count, feeder, orders
from jaxnet.losses import check_labels

Put = Callable[[Any], Any]
_BLOCK = 256  # examples that are copied from arrays at a time, so that a window isn't there twice


class Stream:
    """Examples that are read as training comes to them, given to ``fit`` or a search in place of ``(inputs, targets)``.

    A stream can also be the validation data, and be given to ``evaluate`` and ``predict``, which ignores the targets.
    An epoch is trained window by window: while one is trained on, the next goes to the device, and the one after that
    is read on a thread. Batches, their order and all results are those of the same data in memory (bit for bit where
    the compiler does the same arithmetic for both, else to rounding); all lanes that run at once share the windows.

    Args:
      source: what is read, of one of three kinds. All examples have one shape and dtype.

        - A tuple ``(inputs, targets)`` of arrays or trees of them (``numpy.memmap``), examples on the first axis.
        - Anything whose ``len`` is the number of examples and whose ``source[i]`` is the pair ``(input, target)`` of
          one, such as a PyTorch map-style ``Dataset`` or a ``grain`` data source. It is asked for them in random order,
          on a thread, for one at a time.
        - Anything that yields batches ``(inputs, targets)``, examples on the first axis, any number in each, such as a
          PyTorch ``DataLoader`` or a ``grain.IterDataset`` behind ``batch``; or a function of the epoch (0, 1, ...)
          that returns such a thing, as a generator function does. They are cut into the trial's batches in the order in
          which they come, so shuffling is up to them; validation is read as epoch 0 each time. A search reads an epoch
          once for each chunk of its trials, and again where it goes on after a kill, so there an epoch must always be
          the same: what shuffles by itself must be a function of the epoch, which seeds it.
      window: examples in a window, at most; at least one batch. At no time are more than two windows on the device (the
        one that is trained on and the next) and two on the host (the one on its way to the device and the one that is
        being read), with a batch of the source's. On a CPU, where a search runs a chunk of lanes on each core, each of
        these has its own.
      examples: in an epoch, of a source of batches: the first so many, so that it may be endless. None takes all, and
        counts them in a pass over the first epoch.

    Streams need ``shuffle="shared"`` and, in a search, one batch size for all trials. Examples that aren't finite, or
    labels out of range, are found when they are read, not before training. A journal knows a stream by its length, its
    shapes and 64 of its examples, and of a source of batches by a checksum of each epoch.

    Raises:
      TypeError: for a source of another kind. ValueError: for an empty one, inputs and targets of different lengths, a
        window below 1; while training, for an example of another shape, dtype or structure than the first, an epoch
        that ends early, and, in a search, an epoch that isn't what it was before. What the source itself raises goes
        through. All of them name the example.

    >>> import jaxnet as jn, optax
    >>> x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
    >>> trial = jn.Trial(net=jn.dense(1), loss=jn.losses.squared_error, optimizer=optax.sgd(0.5), batch_size=16)
    >>> fitted = jn.fit(trial, jn.Stream((x, 3 * x + 1), window=32), epochs=20, key=jax.random.key(0))
    >>> fitted.params["w"].item(), fitted.params["b"].item()
    (3.0, 1.0)
    >>> def batches(epoch):
    ...     order = np.random.default_rng(epoch).permutation(64)
    ...     for rows in order.reshape(-1, 8):
    ...         yield x[rows], 3 * x[rows] + 1
    >>> fitted = jn.fit(trial, jn.Stream(batches, examples=64), epochs=20, key=jax.random.key(0))
    >>> fitted.params["w"].item(), fitted.params["b"].item()
    (3.0, 1.0)
    """

    def __init__(self, source: Any, window: int = 4096, examples: int | None = None):
        check_count("window", window)
        self.source: Any = source
        self.window: int = int(window)
        self.name: str = "stream"
        self._paired = isinstance(source, tuple)
        self._labels: dict[tuple[int, int | None], int] = {}
        self._lock = threading.Lock()  # sources needn't bear several readers, such as the chunks of a search on a CPU
        self._counted = examples is None
        self.marks: dict[int, int] | None = None  # checksums of epochs, by which they must be the same each time
        indexed = hasattr(source, "__len__") and hasattr(source, "__getitem__")
        # PyTorch's IterableDataset inherits a __getitem__ that raises.
        indexed &= all(base.__name__ != "IterableDataset" for base in type(source).__mro__)
        self.batched: bool = not indexed and not self._paired and (hasattr(source, "__iter__") or callable(source))
        if examples is not None:
            check_count("examples", examples)
            if not self.batched:
                raise ValueError("Stream: examples= goes with a source of batches; others have a length")
        if self._paired:
            self._check_pair()
        elif isinstance(source, Iterator):
            raise TypeError(
                f"Stream: a {type(source).__name__} can be iterated over only once, and each epoch needs a pass; give "
                f"a function that makes it, such as jn.Stream(lambda epoch: batches())"
            )
        elif hasattr(source, "keys") or not (indexed or self.batched) or isinstance(source, (str, bytes, type)):
            raise TypeError(
                f"Stream: expected a pair (inputs, targets) of arrays, a source with len(source) and source[i], or "
                f"what yields batches (inputs, targets), got {type(source).__name__}"
            )
        elif self.batched:
            self._first, self._tree = [], None
            with contextlib.closing(_Pass(self, 0)) as first:
                found = first.examine(to_the_end=examples is None)
                self._examples = found if examples is None else int(examples)
        elif not len(self):
            raise ValueError("Stream: expected at least one example, got an empty source")
        else:
            self._first = [np.asarray(leaf) for leaf in self._example(0)[0]]
            self._tree = self._example(0)[1]
            for leaf in self._first:
                _check_numbers(leaf.dtype)

    def __len__(self) -> int:
        """The number of examples."""
        if self.batched:
            return self._examples
        return len(jax.tree.leaves(self.source)[0]) if self._paired else len(self.source)

    def __repr__(self) -> str:
        return f"Stream({len(self)} examples of {type(self.source).__name__}, window={self.window})"

    @property
    def shapes(self) -> Data:
        """``(inputs, targets)`` as shapes, with the dtypes that they have on the device."""
        leaves, tree = jax.tree.flatten(self.source) if self._paired else (self._first, self._tree)
        shapes = [leaf.shape[1:] if self._paired else leaf.shape for leaf in leaves]
        return jax.tree.unflatten(
            tree,
            [
                jax.ShapeDtypeStruct((len(self), *shape), jax.dtypes.canonicalize_dtype(leaf.dtype))
                for shape, leaf in zip(shapes, leaves, strict=True)
            ],
        )

    def named(self, name: str) -> Stream:
        """The same stream for one training, under the name that errors call it by."""
        own = copy.copy(self)
        own.name, own._labels = name, {}
        return own

    def expect_labels(self, leaf: int, classes: int, lengths: int | None = None) -> None:
        """From now on, integers of the targets' leaf of this number must lie in [0, classes).

        Args:
          lengths: None, or the number of the inputs' leaf that tells how many steps of each example count.
        """
        self._labels[leaf, lengths] = min(classes, self._labels.get((leaf, lengths), classes))

    def read(self, rows: np.ndarray, shapes: Data, epoch: Any = None) -> Data:
        """Some examples as NumPy arrays, filled up with zeros to the length of ``shapes``; with their dtypes.

        Of a source of batches ``rows`` are those that come next in a pass over it.
        """
        made = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), shapes)
        into = jax.tree.leaves(made)
        with self._lock:
            if epoch is not None:
                epoch.read(len(rows), into)
            else:
                (self._read_slices if self._paired else self._read_each)(rows, into)
        for leaf in into:
            if jnp.issubdtype(leaf.dtype, jnp.inexact):
                bad = ~np.isfinite(leaf[: len(rows)].astype(np.float32) if leaf.dtype == jnp.bfloat16 else leaf)
                if bad.any():
                    row = int(np.argwhere(bad)[0][0])
                    raise ValueError(
                        f"{self.name}: example {rows[row]} has entries that are NaN or infinite. Leave it out, or fill "
                        f"them in (numpy.nan_to_num)"
                    )
        for (i, lengths), classes in self._labels.items():
            labels = labels_inside(made, i, lengths)[: len(rows)]
            try:
                check_labels(labels, classes)
            except ValueError as error:
                outside = ((labels < 0) | (labels >= classes)).reshape(len(rows), -1).any(axis=1)
                raise ValueError(f"{self.name}: example {rows[np.argmax(outside)]}: {error}") from None
        return made

    def sample(self) -> Data:
        """Up to 64 examples, evenly spread, or the first of a source of batches, by which a journal knows the data."""
        if self.batched:
            few = min(64, len(self))
            with contextlib.closing(_Pass(self, 0)) as first:
                return self.read(np.arange(few), _resized(self.shapes, few), first)
        rows = np.unique(np.linspace(0, len(self) - 1, 64).round().astype(int))
        return self.read(rows, _resized(self.shapes, len(rows)))

    def _check_pair(self) -> None:
        if len(self.source) != 2:
            raise TypeError(f"Stream: expected a pair (inputs, targets), got a tuple of {len(self.source)}")
        for leaf in jax.tree.leaves(self.source):
            if not all(hasattr(leaf, name) for name in ("shape", "dtype", "__getitem__")):
                raise TypeError(f"Stream: expected inputs and targets to be arrays, got {type(leaf).__name__}")
            _check_numbers(leaf.dtype)
            check_unmasked(leaf, "Stream")
        lengths = [leaf.shape[0] if leaf.shape else 0 for leaf in jax.tree.leaves(self.source)]
        if len(set(lengths)) != 1:
            raise ValueError(f"Stream: the first axis of all arrays counts examples, got lengths {lengths}")
        if not lengths[0]:
            raise ValueError("Stream: expected at least one example, got empty arrays")

    def _example(self, i: int) -> tuple[list[Any], Any]:
        try:
            example = self.source[i]
        except Exception as error:
            error.add_note(f"{self.name}: while example {i} was read from its source")
            raise
        if not isinstance(example, (tuple, list)) or len(example) != 2:
            raise TypeError(
                f"{self.name}: expected example {i} to be a pair (input, target), got {type(example).__name__}"
            )
        leaves, tree = jax.tree.flatten(tuple(np.asarray(part) if isinstance(part, list) else part for part in example))
        for leaf in leaves:
            check_unmasked(leaf, f"{self.name}: example {i}")
        return leaves, tree

    def _read_each(self, rows: np.ndarray, into: list[np.ndarray]) -> None:
        for place, i in enumerate(rows.tolist()):
            leaves, tree = self._example(i)
            if tree != self._tree:
                raise ValueError(f"{self.name}: example {i} has the structure {tree}, example 0 has {self._tree}")
            for out, leaf, first in zip(into, map(np.asarray, leaves), self._first, strict=True):
                if leaf.shape != first.shape or leaf.dtype != first.dtype:
                    raise ValueError(
                        f"{self.name}: example {i} has shape {leaf.shape} and dtype {leaf.dtype}, example 0 has "
                        f"{first.shape} and {first.dtype}; bring all to one shape and dtype in the source"
                    )
                _check_range(leaf, out.dtype, lambda _, i=i: f"{self.name}: example {i}")
                out[place] = leaf

    def _read_slices(self, rows: np.ndarray, into: list[np.ndarray]) -> None:
        order = np.argsort(rows)  # that of the file, as a disk likes it
        for out, leaf in zip(into, jax.tree.leaves(self.source), strict=True):
            for start in range(0, len(rows), _BLOCK):
                places = order[start : start + _BLOCK]
                own = rows[places]
                try:
                    part = np.asarray(leaf[own])
                except Exception as error:
                    error.add_note(f"{self.name}: while examples {own.tolist()} were read from their source")
                    raise
                _check_range(part, out.dtype, lambda row, own=own: f"{self.name}: example {own[row]}")
                out[places] = part


class _Pass:
    """An epoch of a source of batches, which is read on from where it is."""

    stream: Stream
    epoch: int
    done: int  # examples

    def __init__(self, stream: Stream, epoch: int):
        self.stream, self.epoch, self.done = stream, epoch, 0
        self._batches: Iterator[Any] | None = None
        self._left: list[np.ndarray] = []  # of the last batch
        self._sums: list[int] = []

    def close(self) -> None:
        """Lets go of the source's iterator."""
        if hasattr(self._batches, "close"):
            self._batches.close()  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
        self._batches, self._left = None, []

    def examine(self, to_the_end: bool) -> int:
        """Looks at the first batch, or at all; the number of examples in them."""
        while self._next():
            self.done += len(self._left[0])
            if not to_the_end:
                break
        if not self.done:
            raise ValueError("Stream: expected at least one example, got an empty source")
        return self.done

    def read(self, count: int, into: list[np.ndarray]) -> None:
        """The next examples, at the beginning of arrays."""
        place = 0
        while place < count:
            if not self._left and not self._next():
                raise ValueError(
                    f"{self.stream.name}: epoch {self.epoch} ended after {self.done} examples, and {len(self.stream)} "
                    f"were expected"
                )
            place += self._take(place, count - place, into)
        if self.stream.marks is not None:
            whole = [np.ascontiguousarray(leaf[:count]).reshape(-1).view(np.uint8).data for leaf in into]
            self._sums = [zlib.crc32(part, s) for part, s in zip(whole, self._sums or [0] * len(whole), strict=True)]
        if self.done == len(self.stream):
            self._finish()

    def _take(self, place: int, most: int, into: list[np.ndarray]) -> int:
        """Moves examples of the last batch to a place in arrays; how many."""
        few = min(most, len(self._left[0]))
        for out, leaf in zip(into, self._left, strict=True):
            _check_range(leaf[:few], out.dtype, lambda row: f"{self.stream.name}: example {self.done + row}")
            out[place : place + few] = leaf[:few]
        self._left = [leaf[few:] for leaf in self._left] if few < len(self._left[0]) else []
        self.done += few
        return few

    def _finish(self) -> None:
        stream = self.stream
        if stream._counted and (self._left or self._next()):
            raise ValueError(
                f"{stream.name}: epoch {self.epoch} has more than the {len(stream)} examples of the first pass; give "
                f"examples= for the first so many of each"
            )
        if stream.marks is None:
            return
        by_epoch = not hasattr(stream.source, "__iter__")
        mark = zlib.crc32(repr(self._sums).encode())
        if stream.marks.setdefault(self.epoch if by_epoch else 0, mark) != mark:
            raise ValueError(
                f"{stream.name}: epoch {self.epoch} isn't what it was when it was read before, as a search has to: for "
                f"each chunk of trials, and again after a kill. "
                + (
                    "The function must give the same batches for the same epoch; seed its shuffling and all else that "
                    "it draws with the epoch"
                    if by_epoch
                    else "What shuffles by itself must be a function of the epoch, which seeds it: "
                    "jn.Stream(lambda epoch: ...)"
                )
            )

    def _next(self) -> bool:
        """Takes the next batch, if there is one; lets go of the last before."""
        stream, self._left = self.stream, []
        try:
            if self._batches is None:
                source = stream.source
                self._batches = iter(source if hasattr(source, "__iter__") else source(self.epoch))
            batch = next(self._batches, None)
        except Exception as error:
            error.add_note(
                f"{stream.name}: while epoch {self.epoch} was read from its source, after example {self.done}"
            )
            raise
        if batch is None:
            return False
        where = f"the batch after example {self.done} of epoch {self.epoch}"
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise TypeError(
                f"{stream.name}: expected {where} to be a pair (inputs, targets), got {type(batch).__name__}"
            )
        leaves, tree = jax.tree.flatten(tuple(batch))
        for leaf in leaves:
            check_unmasked(leaf, f"{stream.name}: {where}")
        leaves = [np.asarray(leaf) for leaf in leaves]
        lengths = sorted({leaf.shape[0] if leaf.ndim else -1 for leaf in leaves})
        if len(lengths) != 1 or lengths[0] < 0:
            raise ValueError(
                f"{stream.name}: expected {where} to have examples on the first axis of all its arrays, got shapes "
                f"{[leaf.shape for leaf in leaves]}. Single examples must be batched (torch.utils.data.DataLoader, "
                f"grain's batch)"
            )
        if not lengths[0]:
            return self._next()
        if not stream._first:
            stream._first, stream._tree = [np.array(leaf[0]) for leaf in leaves], tree  # a view would hold the batch
            for leaf in stream._first:
                _check_numbers(leaf.dtype)
        if tree != stream._tree:
            raise ValueError(f"{stream.name}: {where} has the structure {tree}, the first has {stream._tree}")
        for leaf, first in zip(leaves, stream._first, strict=True):
            if leaf.shape[1:] != first.shape or leaf.dtype != first.dtype:
                raise ValueError(
                    f"{stream.name}: {where} has examples of shape {leaf.shape[1:]} and dtype {leaf.dtype}, the first "
                    f"had {first.shape} and {first.dtype}; bring all to one shape and dtype in the source"
                )
        self._left = leaves
        return True


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a unit's program is given, in parts that come one after the other.

    ``kinds`` has, for each structure that parts have, its shapes and how many parts have it; ``static`` is what stays
    on the device from unit to unit; ``stream(static, put)`` yields pairs of kind and tree.
    """

    kinds: tuple[tuple[Any, int], ...]
    static: Any
    stream: Callable[[Any, Put], Iterator[tuple[int, Any]]]

    @classmethod
    def of(cls, fed: Any) -> Parts:
        """Of what a program's ``feed`` returned: a tree of arrays is one part."""
        return fed if isinstance(fed, Parts) else cls(((fed, 1),), fed, lambda static, put: iter([(0, static)]))


def run_parts(step: Callable[[int, Any, Any], tuple[Any, Any]], carry: Any, parts: Iterator[tuple[int, Any]]) -> Any:
    """``carry, measured = step(kind, carry, tree)`` for each part: the last of both.

    A part isn't asked for until all before the one that runs are over, so that no more than two are on the device.
    """
    before = measured = None
    with contextlib.closing(parts) if hasattr(parts, "close") else contextlib.nullcontext():  # pyright: ignore
        for kind, tree in parts:
            carry, measured = step(kind, carry, tree)
            jax.block_until_ready(before)
            before = measured
    return carry, measured


def as_source(data: Any, name: str) -> Data | Stream:
    """A stream as it is, under its name; else ``as_data``."""
    return data.named(name) if isinstance(data, Stream) else as_data(data, name)


def labels_inside(data: Data, leaf: int, lengths: int | None) -> np.ndarray:
    """The targets' leaf of this number on the host; where lengths are given, as for ``expect_labels``, 0 past them."""
    labels = np.asarray(jax.tree.leaves(data[1])[leaf])
    if lengths is None:
        return labels
    inside = np.arange(labels.shape[1]) < np.asarray(jax.tree.leaves(data[0])[lengths])[:, None]  # [batch, time]
    return np.where(inside.reshape(*inside.shape, *[1] * (labels.ndim - 2)), labels, np.zeros((), labels.dtype))


def shapes_of(data: Any) -> Any:
    """``(inputs, targets)``, or any tree of arrays, as shapes."""
    if isinstance(data, Stream):
        return data.shapes
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), data)


def parts_feeder(
    train: Data | Stream,
    validation: Data | Stream | None,
    order_key: jax.Array,
    shuffle: str,
    batch_size: int | None,
    evaluation_batch: int,
) -> Callable[[int], Any]:
    """``feeder``, which returns ``Parts`` where a stream is among the data.

    Args:
      train, validation, order_key, shuffle: as for ``feeder``.
      batch_size: of training, where that is a stream. evaluation_batch: of validation.

    Raises:
      ValueError: for a stream with ``shuffle="own"``.
    """
    if not isinstance(train, Stream) and not isinstance(validation, Stream):
        return feeder(train, validation, order_key, shuffle)
    if isinstance(train, Stream) and shuffle != "shared":
        raise ValueError(
            f'a Stream is read once for all lanes, in one order: shuffle must be "shared", got {shuffle!r}. For orders '
            f"of their own, give the data as arrays"
        )
    order, x64 = orders(order_key), jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    in_memory = None if isinstance(train, Stream) else feeder(train, None, order_key, shuffle)
    wide = {}
    if isinstance(train, Stream):
        assert batch_size is not None
        wide["train"] = _Windows(train, batch_size)
    if isinstance(validation, Stream):
        wide["validation"] = _Windows(validation, min(evaluation_batch, len(validation), validation.window))

    def feed(epoch: int) -> Parts:
        static = {} if in_memory is None else {"train": in_memory(epoch)}
        if validation is not None and "validation" not in wide:
            static["validation"] = {"validation": validation}
        names = ["train"] + ["validation"] * (validation is not None)
        kinds = [
            ({name: wide[name].shapes, "first": jax.ShapeDtypeStruct((), np.int32)}, wide[name].count)
            if name in wide
            else (shapes_of(static[name]), 1)
            for name in names
        ]

        def reads() -> Generator[Callable[[], Any]]:
            for name in names:
                if name in wide:
                    yield from wide[name].reads(name, epoch if name == "train" else 0, order)

        def stream(static: Any, put: Put) -> Iterator[tuple[int, Any]]:
            with _prefetching(reads(), put, x64) as windows:
                for kind, name in enumerate(names):
                    if name not in wide:
                        yield kind, static[name]
                        continue
                    for _ in range(wide[name].count):
                        yield kind, next(windows)  # nothing here holds on to it

        return Parts(tuple(kinds), static, stream)

    return feed


def each_window(stream: Stream, batch: int) -> Iterator[tuple[Data, int]]:
    """Windows of a stream on the device, in its own order, each with the number of examples before it.

    Args:
      stream: what is read.
      batch: a window is so many batches, or a batch of what the stream's window holds; the last is filled up.
    """
    windows = _Windows(stream, min(batch, len(stream), stream.window))
    x64 = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    with _prefetching(windows.reads("data", 0), jax.device_put, x64) as coming:
        for i in range(windows.count):
            yield next(coming)["data"], i * windows.steps * windows.batch


@contextlib.contextmanager
def _prefetching(reads: Generator[Callable[[], Any]], put: Put, x64: bool) -> Iterator[Iterator[Any]]:
    """What calls return, on the device: one is made on a thread while what the one before returned is used.

    Args:
      reads: the calls, each asked for when the one before is over.
      put: onto the device. x64: the mode to do so in; threads have their own.
    """
    reader = concurrent.futures.ThreadPoolExecutor(1, "jaxnet-read")
    coming = [reader.submit(next(reads))]

    def windows() -> Iterator[Any]:
        while coming:
            ready = [coming.pop().result()]
            coming.extend(reader.submit(read) for read in [next(reads, None)] if read is not None)
            with jax.enable_x64(x64):
                ready.append(put(ready.pop()))
            yield ready.pop()

    try:
        yield windows()
    finally:
        reader.shutdown(cancel_futures=True)
        reads.close()


class _Windows:
    """A stream cut into windows of equally many batches."""

    def __init__(self, source: Stream, batch: int):
        self.source, self.batch = source, batch
        steps = math.ceil(len(source) / batch)
        most = max(1, source.window // batch)
        self.steps = math.ceil(steps / math.ceil(steps / most))  # as few as will do, so that the last isn't half empty
        self.count = math.ceil(steps / self.steps)
        self.shapes = _resized(source.shapes, self.steps * batch)

    def reads(
        self, name: str, epoch: int, order: Callable[[int, int], np.ndarray] | None = None
    ) -> Generator[Callable[[], Any]]:
        """Calls that read a window each, to be made one after the other; examples in their own order, or another."""
        length, size = len(self.source), self.steps * self.batch
        passed = _Pass(self.source, epoch) if self.source.batched else None
        rows = np.arange(length)
        if order is not None and passed is None and name == "train":
            rows = order(epoch, length)
        with contextlib.nullcontext() if passed is None else contextlib.closing(passed):
            for i in range(self.count):
                yield functools.partial(self._read, name, rows[i * size : (i + 1) * size], i, passed)

    def _read(self, name: str, rows: np.ndarray, i: int, passed: _Pass | None) -> dict[str, Any]:
        return {name: self.source.read(rows, self.shapes, passed), "first": np.int32(i * self.steps)}


def _resized(shapes: Data, length: int) -> Data:
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct((length, *a.shape[1:]), a.dtype), shapes)


def _check_numbers(dtype: Any) -> None:
    if not (jnp.issubdtype(dtype, jnp.number) or np.dtype(dtype) == np.bool_):
        raise TypeError(f"Stream: expected examples of numbers, got dtype {dtype}")


def _check_range(values: np.ndarray, dtype: Any, where: Callable[[int], str]) -> None:
    """Raises for integers that are cut off by the device's dtype; rows are on the first axis."""
    if dtype == values.dtype or not np.issubdtype(dtype, np.integer):
        return
    limits = np.iinfo(dtype)
    outside = np.atleast_1d((values < limits.min) | (values > limits.max))
    if outside.any():
        raise ValueError(
            f"{where(int(np.argwhere(outside)[0][0]))} has {values.dtype} entries that don't fit {dtype}; enable them "
            f"with jax.config.update('jax_enable_x64', True)"
        )


def batch_count(data: Data | Stream) -> int:
    """The number of examples."""
    return len(data) if isinstance(data, Stream) else count(data)
