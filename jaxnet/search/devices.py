"""Devices and hosts: the lane axis over all devices of a process, and in parts over the processes of a cluster.

Lanes don't depend on one another, so nothing is communicated while they train. Each process has its part of a chunk's
lanes, sharded over its own devices; after a unit the processes tell one another, on the host, what was measured or
what failed. So all of them know the same, and decide the same.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxnet.ops import compiling
from jaxnet.search.journal import Journal

_KINDS = {k.__name__: k for k in (ValueError, TypeError, FileNotFoundError, OSError, jax.errors.JaxRuntimeError)}
_KNOWN = "_jaxnet_known_on_all_processes"  # an attribute of errors
_FRAME, _BLOCK = 2**12, 2**24  # bytes in the first part of a message, in which most end, and in any other part


class Devices:
    """The devices that lanes run on: all of this process, or the one that ``jax.default_device`` names.

    Attributes:
      local: those of this process. count: of all processes. process: which of them this is.

    Raises:
      ValueError: when processes have different numbers of devices.
    """

    def __init__(self):
        chosen = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
        local = jax.local_devices(backend=chosen if isinstance(chosen, str) else None)
        self.local: list[Any] = local if chosen is None else local[:1] if isinstance(chosen, str) else [chosen]
        self.process: int = jax.process_index()
        counts = collections.Counter(device.process_index for device in jax.devices())
        if len(set(counts.values())) > 1:
            raise ValueError(
                f"every process must have as many devices as the others, got {dict(sorted(counts.items()))}"
            )
        self.count: int = len(self.local) * jax.process_count()
        self._mesh = Mesh(np.array(self.local), ("lanes",)) if len(self.local) > 1 else None
        self._shared: dict[int, tuple[Any, Any]] = {}

    def places(self, lanes: int) -> range:
        """Of a chunk's lanes, those of this process."""
        here = lanes // self.count * len(self.local)
        return range(self.process * here, (self.process + 1) * here)

    def rounded(self, lanes: float) -> int:
        """So many lanes or a few more: as many on every device, at least one."""
        return max(1, -int(-lanes // self.count)) * self.count

    def over_lanes(self, function: Callable[..., Any], in_axes: Sequence[int | None], **options: Any) -> Any:
        """``compiling.jit`` of a function of one device's lanes, run on each device with its own.

        Args:
          function: takes and returns arrays that have lanes on their first axis, or, where ``in_axes`` is None, none.
          in_axes: 0 or None for each argument. options: for ``jit``.
        """
        if self._mesh is None:
            return compiling.jit(function, **options)
        return _over_mesh(function, self._mesh, tuple(in_axes), **options)

    def put(self, tree: Any) -> Any:
        """Arrays with this process's lanes on their first axis, onto its devices."""
        return jax.device_put(tree, None if self._mesh is None else NamedSharding(self._mesh, PartitionSpec("lanes")))

    def share(self, tree: Any) -> Any:
        """Arrays that all lanes share, onto every device; JAX's that came the last time too are there already.

        NumPy's are copied at once, since whoever made them may fill them anew before the copy is used on a thread.
        """
        leaves, structure = jax.tree.flatten(tree)
        leaves = [np.array(leaf) if isinstance(leaf, np.ndarray) else leaf for leaf in leaves]
        if self._mesh is None:
            return jax.tree.unflatten(structure, leaves)
        everywhere, known = NamedSharding(self._mesh, PartitionSpec()), self._shared
        self._shared = {
            id(leaf): known[id(leaf)] if id(leaf) in known else (leaf, jax.device_put(leaf, everywhere))
            for leaf in leaves
        }
        return jax.tree.unflatten(structure, [self._shared[id(leaf)][1] for leaf in leaves])

    def put_shared(self, tree: Any) -> Any:
        """Host arrays that all lanes share for a while, onto every device; from any thread."""
        whole = self.local[0] if self._mesh is None else NamedSharding(self._mesh, PartitionSpec())
        return jax.device_put(tree, whole)

    def take(self, tree: Any, places: Sequence[int], lanes: int, most: int) -> dict[int, Any]:
        """Copies the chosen lanes that live on this process to the host.

        Args:
          tree: arrays with this process's lanes on their first axis. lanes: of the chunk, on all processes.
          places: which. most: how many there are at most, over calls, so that one program serves them all.
        """
        each, first = lanes // self.count, self.places(lanes).start
        wanted: list[list[int]] = [[] for _ in self.local]
        for place in places:
            if place in self.places(lanes):
                wanted[(place - first) // each].append(place)
        if not any(wanted):
            return {}
        rows = np.zeros((len(self.local), min(most, each)), np.int32)
        for row, inside in zip(rows, wanted, strict=True):
            row[: len(inside)] = np.array(inside, np.int32) % each
        trees = jax.device_get(_taker(self._mesh)(tree, self.put(rows.ravel())))
        at = {place: d * rows.shape[1] + k for d, inside in enumerate(wanted) for k, place in enumerate(inside)}
        return {place: jax.tree.map(lambda leaf, row=row: leaf[row], trees) for place, row in at.items()}


def _over_mesh(function: Any, mesh: Mesh, in_axes: tuple[int | None, ...], **options: Any) -> Any:
    lanes, whole = PartitionSpec("lanes"), PartitionSpec()
    specs = tuple(whole if axis is None else lanes for axis in in_axes)
    # Each device loops until its own lanes are done: its loops vary over the mesh, which the checker doesn't follow.
    mapped = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=lanes, check_vma=False)
    shardings = tuple(NamedSharding(mesh, spec) for spec in specs)
    return compiling.jit(mapped, in_shardings=shardings, out_shardings=NamedSharding(mesh, lanes), **options)


@functools.lru_cache(maxsize=4)
def _taker(mesh: Mesh | None) -> Any:
    def take(tree, rows):
        return jax.tree.map(lambda leaf: leaf[rows], tree)

    return jax.jit(take) if mesh is None else _over_mesh(take, mesh, (0, 0))


def everywhere(function: Callable[[], Any]) -> list[Any]:
    """What a function returns on each process, on all of them; what it raises on one is raised on all.

    Args:
      function: returns what a journal's records are made of. All processes come to this call, in the same order.

    Raises:
      ProcessLost: a RuntimeError, when another process has died.

    >>> everywhere(lambda: 3)
    [3]
    """
    if jax.process_count() == 1:
        return [function()]
    own = None
    try:
        message = {"value": function()}
    except Exception as error:
        own, message = error, _described(error)
    answers = _exchanged(message)
    for process, answer in enumerate(answers):
        if "error" in answer:
            kind = _KINDS.get(answer["kind"], RuntimeError)
            ours = own if process == jax.process_index() else None
            error = ours or kind(f"{answer['error']} (on process {process})")
            setattr(error, _KNOWN, True)
            raise error from (None if ours else own)
    return [answer["value"] for answer in answers]


def from_first(function: Callable[[], Any]) -> Any:
    """What a function returns, or raises, on the first process, on all of them; the others don't call it."""
    return everywhere(lambda: function() if jax.process_index() == 0 else None)[0]


def gathered(trees: dict[int, Any], like: Any) -> dict[int, Any]:
    """Trees of host arrays by trial that are spread over processes, on all of them; ``like`` has their structure."""
    if jax.process_count() == 1:
        return trees
    size = sum(leaf.nbytes for tree in list(trees.values())[:1] for leaf in jax.tree.leaves(tree))
    waiting, told, going = [*trees], {}, True
    while going:  # a few at a time, so that messages don't take the memory that lanes do
        few = max(1, 4 * _BLOCK // max(size, 1))
        now, waiting = waiting[:few], waiting[few:]
        answers = everywhere(
            lambda now=now, waiting=waiting: {"more": len(waiting), "trees": {str(i): _packed(trees[i]) for i in now}}
        )
        told |= {int(i): _unpacked(leaves, like) for answer in answers for i, leaves in answer["trees"].items()}
        going = any(answer["more"] for answer in answers)
    return told


@contextlib.contextmanager
def failing_together() -> Iterator[None]:
    """An error inside, also one that only this process meets, is raised on the others when they wait for this one."""
    try:
        yield
    except BaseException as error:
        if jax.process_count() > 1 and not isinstance(error, ProcessLost) and not hasattr(error, _KNOWN):
            with contextlib.suppress(ProcessLost):
                _exchanged(_described(error))
        raise


class ProcessLost(RuntimeError):
    """Another process of the search has died, or can't be reached."""


def _described(error: BaseException) -> dict[str, str]:
    return {"kind": type(error).__name__, "error": str(error) or repr(error)}


def check_same(about: Mapping[str, str]) -> None:
    """Raises ``ValueError``, on all processes, unless they all run the same search.

    Args:
      about: what the search is, by name, as text.
    """
    first, *others = everywhere(lambda: dict(about))
    for process, other in enumerate(others, 1):
        if differing := [name for name in first if first[name] != other.get(name)]:
            parts = [f"{name} is {first[name]:.200} here, {other.get(name)!s:.200} there" for name in differing]
            raise ValueError(
                f"process {process} runs another search than process 0: {'; '.join(parts)}. Start the same script with "
                f"the same arguments and data on all hosts"
            )


class SharedJournal:
    """The journal of a search on several processes: the first one has it, and tells the others what is in it.

    A ``Journal`` in all that a search asks of it; each call is made on all processes. The folder is the first one's.
    """

    def __init__(self, folder: str | os.PathLike[str], about: Mapping[str, str]):
        self.folder: Path = Path(folder)
        self._own: Journal | None = None
        told = from_first(lambda: self._opened(about))
        self.records: list[dict[str, Any]] = told if self._own is None else self._own.records

    def _opened(self, about: Mapping[str, str]) -> list[dict[str, Any]]:
        self._own = Journal(self.folder, about)
        return self._own.records

    def __enter__(self) -> SharedJournal:
        return self

    def __exit__(self, *raised: Any) -> None:
        if self._own is not None:
            self._own.__exit__(*raised)

    def append(self, record: Mapping[str, Any]) -> None:
        """As ``Journal.append``; returns on every process when the record is on the disk of the first."""
        from_first(lambda: self._own and self._own.append(record))

    def save(self, name: str, trees: Mapping[int, Any]) -> None:
        """As ``Journal.save``."""
        from_first(lambda: self._own and self._own.save(name, trees))

    def load(self, name: str, like: Mapping[int, Any]) -> dict[int, Any]:
        """As ``Journal.load``."""
        own, trees = self._own, {}
        from_first(lambda: own and trees.update(own.load(name, like)))
        return {
            trial: _unpacked(from_first(lambda trial=trial: _packed(trees[trial])), tree)
            for trial, tree in like.items()
        }

    def remove(self, name: str) -> None:
        """As ``Journal.remove``."""
        from_first(lambda: self._own and self._own.remove(name))


def _packed(tree: Any) -> dict[str, np.ndarray]:
    return {str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}


def _unpacked(leaves: Mapping[str, np.ndarray], like: Any) -> Any:
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[str(i)] for i in range(len(leaves))])


def _exchanged(message: Mapping[str, Any]) -> list[Any]:
    """The message of each process, on all of them."""
    from flax import serialization  # imported when used: it is slow

    payload = serialization.msgpack_serialize(dict(message))
    payload = len(payload).to_bytes(8, "little") + payload
    parts = [_sent(payload[:_FRAME].ljust(_FRAME, b"\0"))]
    ends = [8 + int.from_bytes(row[:8].tobytes(), "little") for row in parts[0]]
    place = _FRAME
    while place < max(ends):
        size = min(_BLOCK, 1 << (max(ends) - place - 1).bit_length())  # few sizes: each is a compiled program
        parts.append(_sent(payload[place : place + size].ljust(size, b"\0")))
        place += size
    whole = np.concatenate(parts, axis=1)
    return [serialization.msgpack_restore(row[8:end].tobytes()) for row, end in zip(whole, ends, strict=True)]


def _sent(part: bytes) -> np.ndarray:
    """The part of each process, ``[processes, bytes]``."""
    from jax.experimental import multihost_utils

    try:
        return multihost_utils.process_allgather(np.frombuffer(part, np.uint8))
    except (jax.errors.JaxRuntimeError, ValueError) as error:  # the latter when it shows as the answer is copied
        raise ProcessLost(
            "another process of this search has ended, or its host can't be reached, so this one stops too. What the "
            "journal holds is not lost: the same call, on as many hosts as are left or on one, goes on from there "
            f"(without directory= it begins anew). {error}"
        ) from error
