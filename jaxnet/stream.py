"""Data that don't fit in memory: windows of an epoch, read on a thread while the one before is trained on."""

from __future__ import annotations

import concurrent.futures
import contextlib
import copy
import dataclasses
import functools
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.data import Data, as_data, check_count, count, feeder, orders
from jaxnet.losses import check_labels

Put = Callable[[Any], Any]
_BLOCK = 256  # examples that are copied from arrays at a time, so that a window isn't there twice


class Stream:
    """Examples that are read as training comes to them, given to ``fit`` or a search in place of ``(inputs, targets)``.

    An epoch is trained window by window: while one is trained on, the next goes to the device, and the one after that
    is read on a thread. Batches, their order and all results are those of the same data in memory (bit for bit where
    the compiler does the same arithmetic for both, else to rounding); all lanes that run at once share the windows.

    Args:
      source: a tuple ``(inputs, targets)`` of arrays or trees of them (``numpy.memmap``), examples on the first axis;
        or anything whose ``len`` is the number of examples and whose ``source[i]`` is the pair ``(input, target)`` of
        one, such as a PyTorch map-style ``Dataset`` or a ``grain`` data source. All have one shape and dtype. It is
        asked for them in random order, on a thread, for one at a time.
      window: examples in a window, at most; at least one batch. At no time are more than two windows on the device (the
        one that is trained on and the next) and two on the host (the one on its way to the device and the one that is
        being read). On a CPU, where a search runs a chunk of lanes on each core, each of these has its own.

    Streams need ``shuffle="shared"`` and, in a search, one batch size for all trials. Examples that aren't finite, or
    labels out of range, are found when they are read, not before training. A journal knows a stream by its length, its
    shapes and 64 of its examples.

    Raises:
      TypeError: for a source of another kind. ValueError: for an empty one, inputs and targets of different lengths, a
        window below 1; while training, for an example of another shape, dtype or structure than the first. What the
        source itself raises goes through. All of them name the example.

    >>> import jaxnet as jn, optax
    >>> x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
    >>> trial = jn.Trial(net=jn.dense(1), loss=jn.losses.squared_error, optimizer=optax.sgd(0.5), batch_size=16)
    >>> fitted = jn.fit(trial, Stream((x, 3 * x + 1), window=32), epochs=20, key=jax.random.key(0))
    >>> fitted.params["w"].item(), fitted.params["b"].item()
    (3.0, 1.0)
    """

    def __init__(self, source: Any, window: int = 4096):
        check_count("window", window)
        self.source: Any = source
        self.window: int = int(window)
        self.name: str = "stream"
        self._paired = isinstance(source, tuple)
        self._labels: dict[int, int] = {}
        self._lock = threading.Lock()  # sources needn't bear several readers, such as the chunks of a search on a CPU
        if self._paired:
            self._check_pair()
        elif not hasattr(source, "__len__") or not hasattr(source, "__getitem__") or hasattr(source, "keys"):
            raise TypeError(
                f"Stream: expected a pair (inputs, targets) of arrays, or a source with len(source) and source[i], got "
                f"{type(source).__name__}. What can only be iterated over can't be shuffled: write it to arrays once "
                f"(numpy.lib.format.open_memmap)"
            )
        elif not len(source):
            raise ValueError("Stream: expected at least one example, got an empty source")
        else:
            self._first = [np.asarray(leaf) for leaf in self._example(0)[0]]
            self._tree = self._example(0)[1]
            for leaf in self._first:
                _check_numbers(leaf.dtype)

    def __len__(self) -> int:
        """The number of examples."""
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

    def expect_labels(self, leaf: int, classes: int) -> None:
        """From now on, integers of the targets' leaf of this number must lie in [0, classes)."""
        self._labels[leaf] = min(classes, self._labels.get(leaf, classes))

    def read(self, rows: np.ndarray, shapes: Data) -> Data:
        """Some examples as NumPy arrays, filled up with zeros to the length of ``shapes``; with their dtypes."""
        made = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), shapes)
        into = jax.tree.leaves(made)
        with self._lock:
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
        targets = jax.tree.leaves(made[1])
        for i, classes in self._labels.items():
            labels = targets[i][: len(rows)]
            try:
                check_labels(labels, classes)
            except ValueError as error:
                outside = ((labels < 0) | (labels >= classes)).reshape(len(rows), -1).any(axis=1)
                raise ValueError(f"{self.name}: example {rows[np.argmax(outside)]}: {error}") from None
        return made

    def sample(self) -> Data:
        """Up to 64 examples, evenly spread, by which a journal knows the data."""
        rows = np.unique(np.linspace(0, len(self) - 1, 64).round().astype(int))
        return self.read(rows, _resized(self.shapes, len(rows)))

    def _check_pair(self) -> None:
        if len(self.source) != 2:
            raise TypeError(f"Stream: expected a pair (inputs, targets), got a tuple of {len(self.source)}")
        for leaf in jax.tree.leaves(self.source):
            if not all(hasattr(leaf, name) for name in ("shape", "dtype", "__getitem__")):
                raise TypeError(f"Stream: expected inputs and targets to be arrays, got {type(leaf).__name__}")
            _check_numbers(leaf.dtype)
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
        return jax.tree.flatten(tuple(np.asarray(part) if isinstance(part, list) else part for part in example))

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

        def reads() -> Iterator[Callable[[], Any]]:
            for name in names:
                if name in wide:
                    windows = wide[name]
                    rows = np.arange(len(windows.source)) if name == "validation" else order(epoch, len(windows.source))
                    for i in range(windows.count):
                        yield functools.partial(windows.read, name, rows, i)

        def stream(static: Any, put: Put) -> Iterator[tuple[int, Any]]:
            waiting, reader = reads(), concurrent.futures.ThreadPoolExecutor(1, "jaxnet-read")
            coming = [reader.submit(next(waiting))]
            try:
                for kind, name in enumerate(names):
                    if name not in wide:
                        yield kind, static[name]
                        continue
                    for _ in range(wide[name].count):
                        ready = [coming.pop().result()]
                        coming += [reader.submit(read) for read in [next(waiting, None)] if read is not None]
                        with jax.enable_x64(x64):  # this thread's own may be another
                            ready.append(put(ready.pop()))
                        yield kind, ready.pop()  # nothing here holds on to it
            finally:
                reader.shutdown(cancel_futures=True)

        return Parts(tuple(kinds), static, stream)

    return feed


class _Windows:
    """A stream cut into windows of equally many batches."""

    def __init__(self, source: Stream, batch: int):
        self.source, self.batch = source, batch
        steps = math.ceil(len(source) / batch)
        most = max(1, source.window // batch)
        self.steps = math.ceil(steps / math.ceil(steps / most))  # as few as will do, so that the last isn't half empty
        self.count = math.ceil(steps / self.steps)
        self.shapes = _resized(source.shapes, self.steps * batch)

    def read(self, name: str, rows: np.ndarray, i: int) -> dict[str, Any]:
        size = self.steps * self.batch
        return {
            name: self.source.read(rows[i * size : (i + 1) * size], self.shapes),
            "first": np.int32(i * self.steps),
        }


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
