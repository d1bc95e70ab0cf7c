"""The journal: what a search has finished, durable before it goes on, so that after a kill it is taken up again."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxnet.checkpoint import by_path, read_arrays, write_arrays
from jaxnet.stream import Stream

_LANES = "lanes of a search"


class Journal:
    """Records in a folder: an append-only file of them, and files of lanes.

    Each record stands in ``journal`` behind its length and check sum, and is on the disk when ``append`` returns. A
    record that was cut short by a kill is cut off when the journal is opened again. One process at a time has it open:
    the lock on the folder's file ``lock`` goes when its process does.

    Args:
      folder: made if there is none.
      about: what the search is, by name, as text; a folder of another search is refused with what differs.

    Raises:
      ValueError: for a journal of another search. RuntimeError: when another process has it open.
      OSError: when the folder can't be written.
    """

    def __init__(self, folder: str | os.PathLike[str], about: Mapping[str, str]):
        self.folder: Path = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(self.folder / "lock")
        except OSError as error:
            why = f"{error.strerror}: the journal's folder can't be written; give another directory="
            raise type(error)(error.errno, why, str(self.folder)) from None
        try:
            self.records: list[dict[str, Any]] = []
            self._open(dict(about))
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()
        self._lock.close()

    def append(self, record: Mapping[str, Any]) -> None:
        """Writes a record of arrays, numbers, strings, lists and dicts; returns when it is on the disk."""
        from flax import serialization  # imported when used: it is slow

        payload = serialization.msgpack_serialize(dict(record))
        start = self._file.tell()
        try:
            self._file.write(len(payload).to_bytes(4, "little") + zlib.crc32(payload).to_bytes(4, "little") + payload)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError:  # a full disk: what was written of the record goes, all before it stays
            with contextlib.suppress(OSError):
                self._file.truncate(start)
            raise
        self.records.append(dict(record))

    def save(self, name: str, trees: Mapping[int, Any]) -> None:
        """Writes trees of arrays by trial into a file of their own, whole or not at all."""
        arrays = {f"{trial}/{name}": leaf for trial, tree in trees.items() for name, leaf in by_path(tree).items()}
        write_arrays(self.folder / name, _LANES, {}, arrays)

    def load(self, name: str, like: Mapping[int, Any]) -> dict[int, Any]:
        """The trees of such a file for the trials in ``like``, each with the structure given there."""
        try:
            _, arrays = read_arrays(self.folder / name, _LANES)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{str(self.folder / name)!r} is missing: the journal beside it says that trials {sorted(like)} go on "
                f"from it. Put the file back, or search into a new folder"
            ) from None
        return {
            trial: jax.tree_util.tree_map_with_path(
                lambda path, _, trial=trial: arrays[f"{trial}/{jax.tree_util.keystr(path)}"], tree
            )
            for trial, tree in like.items()
        }

    def remove(self, name: str) -> None:
        """Removes a file of lanes that nothing goes on from any more."""
        (self.folder / name).unlink(missing_ok=True)

    def _open(self, about: dict[str, str]) -> None:
        """Reads the records, cuts off what isn't a whole one, and compares what the search is."""
        with contextlib.ExitStack() as on_failure:
            self._file = file = on_failure.enter_context(open(self.folder / "journal", "a+b"))
            file.seek(0)
            content = file.read()
            self.records, end = read_records(content)
            if end < len(content):
                file.truncate(end)
            if not self.records:
                self.append(about)
            kept = self.records[0]
            if differing := [name for name in {**kept, **about} if kept.get(name) != about.get(name)]:
                parts = [f"{name} was {_short(kept.get(name))}, is {_short(about.get(name))}" for name in differing]
                raise ValueError(
                    f"{str(self.folder)!r} is the journal of another search: {'; '.join(parts)}. Give the same "
                    f"arguments to go on with it, or another folder to begin anew"
                )
            on_failure.pop_all()


def read_records(content: bytes) -> tuple[list[dict[str, Any]], int]:
    """The whole records that a journal's file begins with, and the byte at which they end."""
    from flax import serialization

    records, end = [], 0
    while len(content) - end >= 8:
        length = int.from_bytes(content[end : end + 4], "little")
        payload = content[end + 8 : end + 8 + length]
        if len(payload) < length or zlib.crc32(payload) != int.from_bytes(content[end + 4 : end + 8], "little"):
            break
        records.append(serialization.msgpack_restore(payload))
        end += 8 + length
    return records, end


def trials_with_results(records: Sequence[Mapping[str, Any]], repeats: int) -> int:
    """How many trials a journal's records have results of."""
    return len({int(i) // repeats for record in records[2:] for i in record.get("ids", ())})


def function_text(function: Callable[..., Any]) -> str:
    """A digest of what a function does: of its source, or of its code where there is none."""
    try:
        text = inspect.getsource(function)
    except (OSError, TypeError):
        text = repr(_code(getattr(function, "__code__", None)))
    return f"{getattr(function, '__qualname__', type(function).__name__)} {digest(text.encode())}"


def data_text(data: Any) -> str:
    """Shapes, dtypes and a digest of arrays; of a stream its length, and those of a few examples."""
    if isinstance(data, Stream):
        what = "examples in batches, the first of them" if data.batched else "examples, of them"
        return f"{len(data)} {what} {data_text(data.sample())}"
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(jax.device_get(data))]
    shapes = ", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in leaves)
    return f"{shapes} {digest(*(np.ascontiguousarray(leaf).view(np.uint8) for leaf in leaves))}"


def digest(*parts: Any) -> str:
    """The first half of the SHA-256 of bytes, in hexadecimal digits."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest()[:32]


def _code(code: Any) -> Any:
    if code is None:
        return None
    return code.co_code, code.co_names, [_code(c) if inspect.iscode(c) else c for c in code.co_consts]


def _short(text: Any) -> str:
    return "nothing" if text is None else repr(text if len(text) < 200 else text[:200] + "...")


def _locked(path: Path) -> Any:
    import fcntl

    file = open(path, "a")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise RuntimeError(f"another process is searching into {str(path.parent)!r}; wait for it, or end it") from error
    return file
