"""The journal: what a search has finished, durable before it goes on, so that after a kill it is taken up again."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import hashlib
import inspect
import os
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.checkpoint import by_path, read_arrays, sync, write_arrays
from jaxnet.search.space import Distribution
from jaxnet.stream import Stream

_LANES = "lanes of a search"
_LEFT_OVER = re.compile(r"(parked|kept)-\d+-\d+\.[0-9a-f]{8}\.part")  # of ``Journal.save``, which was killed


class Journal:
    """Records in a folder: an append-only file of them, and files of lanes.

    Each record stands in ``journal`` behind its length and checksum, and is on the disk when ``append`` returns. A
    record that was cut short by a kill is cut off when the journal is opened again. One process at a time has it open:
    the lock on the folder's file ``lock`` goes when its process does. ``records`` are those that were there when it was
    opened.

    Args:
      folder: made if there is none.
      about: what the search is, by name, as text; a folder of another search is refused with what differs.

    Raises:
      ValueError: for a journal of another search, and a file ``journal`` that is none, which stays as it is.
      RuntimeError: when another process has it open.
      OSError: when the folder can't be written, or not locked, as on some file systems of a network.
    """

    def __init__(self, folder: str | os.PathLike[str], about: Mapping[str, str]):
        self.folder: Path = Path(folder)
        try:
            new = [path for path in (self.folder, *self.folder.absolute().parents) if not path.exists()]
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in new:
                sync(path.parent)
            self._lock = open(self.folder / "lock", "a")  # noqa: SIM115
        except OSError as error:
            why = f"{error.strerror}: the journal's folder can't be written; give another directory="
            raise type(error)(error.errno, why, str(self.folder)) from None
        try:
            _lock(self._lock, self.folder)
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
        frame = memoryview(_framed(record))
        start = os.fstat(self._file.fileno()).st_size
        try:
            while frame:  # without a buffer, so that nothing of it is written later
                frame = frame[self._file.write(frame) :]
            os.fsync(self._file.fileno())
        except OSError:  # a full disk: what was written of the record goes, all before it stays
            with contextlib.suppress(OSError):
                self._file.truncate(start)
            raise

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
        for path in self.folder.glob("*.part"):  # of files that a kill cut short
            if _LEFT_OVER.fullmatch(path.name):
                path.unlink()
        with contextlib.ExitStack() as on_failure:
            self._file = file = on_failure.enter_context(open(self.folder / "journal", "a+b", buffering=0))
            sync(self.folder)
            file.seek(0)
            content = file.read()
            self.records, end = read_records(content)
            # A kill leaves a part of the first record, a power cut zeros; all else is somebody's.
            if not self.records and not _framed(about).startswith(content.rstrip(b"\0")):
                raise ValueError(
                    f"{str(self.folder / 'journal')!r} isn't the journal of a search, or its beginning is damaged: not "
                    f"one record can be read. It was left as it is; give another directory=, or remove the file"
                )
            if end < len(content):
                file.truncate(end)
            if not self.records:
                self.append(about)
                self.records.append(about)
            kept = self.records[0]
            if differing := [name for name in {**kept, **about} if kept.get(name) != about.get(name)]:
                parts = [f"{name} was {_short(kept.get(name))}, is {_short(about.get(name))}" for name in differing]
                raise ValueError(
                    f"{str(self.folder)!r} is the journal of another search: {'; '.join(parts)}. Give the same "
                    f"arguments to go on with it, or another folder to begin anew"
                )
            on_failure.pop_all()


def _framed(record: Mapping[str, Any]) -> bytes:
    """A record as it stands in the file, behind its length and checksum."""
    from flax import serialization  # imported when used: it is slow

    payload = serialization.msgpack_serialize(dict(record))
    return len(payload).to_bytes(4, "little") + zlib.crc32(payload).to_bytes(4, "little") + payload


def read_records(content: bytes) -> tuple[list[dict[str, Any]], int]:
    """The whole records that a journal's file begins with, and the byte at which they end."""
    from flax import serialization

    records, end = [], 0
    while len(content) - end >= 8:
        length = int.from_bytes(content[end : end + 4], "little")
        payload = content[end + 8 : end + 8 + length]
        # A power cut leaves zeros, which are a checksum of no bytes, too.
        check_sum = int.from_bytes(content[end + 4 : end + 8], "little")
        if not length or len(payload) < length or zlib.crc32(payload) != check_sum:
            break
        records.append(serialization.msgpack_restore(payload))
        end += 8 + length
    return records, end


def trials_with_results(folder: Path, repeats: int) -> int:
    """How many trials the journal in a folder has results of."""
    journal = folder / "journal"
    records, _ = read_records(journal.read_bytes() if journal.is_file() else b"")
    return len({int(i) // repeats for record in records[2:] for i in record.get("ids", ())})


def value_text(value: Any) -> str:
    """A value, a function among them, as text that another process writes alike.

    A function is its source and what it captures. Its source is its code where there is none. Captured are the values
    in its closure and its defaults, the arguments of a ``functools.partial``, the object of a bound method, the
    attributes of a callable object; and of functions among these the same again. They count with what they hold now,
    arrays and containers too, so that a function that adds to a list outside itself is another one afterwards. What has
    no text of its own (a lock, say) goes by its type's name, a module by its own. Global variables, and what the
    function calls there, aren't looked into.

    >>> def scaled(scale):
    ...     return lambda x: scale * x
    >>> [value_text(scaled(2.0)) == value_text(scaled(other)) for other in (2.0, 3.0)]
    [True, False]
    """
    return repr(value) if type(value) in (float, int, bool, str) else _text(value, {})


def _text(value: Any, known: dict[int, tuple[Any, str]]) -> str:
    """A value's text, in full or by its digest.

    Args:
      known: by ``id`` the values that were met and their texts, for what is met again, inside itself too.
    """
    if id(value) not in known:
        name = str(getattr(value, "__qualname__", getattr(value, "__name__", type(value).__qualname__)))
        known[id(value)] = value, name  # held on to, so that nothing else gets its id
        try:
            text = _described(value, name, lambda part: _text(part, known))
        except Exception:  # a search isn't refused for what it captures
            text = type(value).__qualname__
        known[id(value)] = value, text if len(text) <= 150 else f"{name} {digest(text.encode())}"
    return known[id(value)][1]


def _described(value: Any, name: str, text: Callable[[Any], str]) -> str:
    def listed(values: Iterable[Any], named: Mapping[str, Any] = MappingProxyType({})) -> str:
        return f"({', '.join([*map(text, values), *(f'{key}={text(part)}' for key, part in named.items())])})"

    if isinstance(value, (str, bytes)):
        return repr(value)
    if isinstance(value, FunctionType):
        code, defaults = value.__code__, value.__defaults__ or ()
        arguments = code.co_varnames[: code.co_argcount]
        captured = dict(zip(code.co_freevars, map(_inside, value.__closure__ or ()), strict=True))
        captured |= dict(zip(arguments[len(arguments) - len(defaults) :], defaults, strict=True))
        captured |= value.__kwdefaults__ or {}
        return f"{name} {_source(code)}{listed((), captured) if captured else ''}"
    if isinstance(value, MethodType):
        return f"{text(value.__func__)} of {text(value.__self__)}"
    if isinstance(value, functools.partial):
        return f"partial {text(value.func)}{listed(value.args, value.keywords)}"
    if isinstance(value, (CodeType, type)):
        return f"{name} {_source(value)}"
    if isinstance(value, (ModuleType, BuiltinFunctionType)):
        return name
    if hasattr(value, "dtype") and hasattr(value, "__array__"):
        is_key = isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
        return data_text(jax.random.key_data(value) if is_key else value)
    if isinstance(value, Mapping):
        return f"{name}({', '.join(f'{text(key)}: {text(part)}' for key, part in value.items())})"
    if isinstance(value, (list, tuple)):
        return f"{name}{listed(value)}"
    if isinstance(value, Distribution):  # whose functions are those of what it was made of
        return f"{f'choice{listed(value.values)}' if value.values else value.label} {value.kind}"
    if isinstance(value, (set, frozenset)):
        return f"{name}({', '.join(sorted(map(text, value)))})"
    if hasattr(value, "__wrapped__"):  # by jax.jit, say, whose own attributes tell where the function stands
        return f"{name}{listed([value.__wrapped__], {k: v for k, v in vars(value).items() if not k.startswith('_')})}"
    does = [type(value), type(value).__call__] if callable(value) else [type(value)]
    if dataclasses.is_dataclass(value):
        return f"{name}{listed(does, {field.name: getattr(value, field.name) for field in dataclasses.fields(value)})}"
    if callable(value) or type(value).__repr__ is object.__repr__:
        return f"{name}{listed([*does, object.__getstate__(value)])}"
    return type(value).__qualname__ if " at 0x" in repr(value) else repr(value)


def _inside(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # of a name that has no value yet
        return None


@functools.lru_cache(maxsize=1024)
def _source(of: CodeType | type) -> str:
    """A digest of the source of a function's code or a class, or where there is none, of code and constants."""
    try:
        text = inspect.getsource(of)
    except Exception:  # OSError and TypeError as a rule, but what is no Python has more
        if isinstance(of, type):
            text = _text([part for part in vars(of).values() if isinstance(part, FunctionType)], {})
        else:
            text = _text((of.co_code, of.co_names, of.co_consts), {})
    return digest(text.encode())


def data_text(data: Any) -> str:
    """Shapes, dtypes and a digest of arrays; of a stream its length, and those of a few examples."""
    if isinstance(data, Stream):
        what = "examples in batches, the first of them" if data.batched else "examples, of them"
        return f"{len(data)} {what} {data_text(data.sample())}"
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(jax.device_get(data))]
    shapes = ", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in leaves)
    return f"{shapes} {digest(*(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8) for leaf in leaves))}"


def digest(*parts: Any) -> str:
    """The first half of the SHA-256 of bytes, in hexadecimal digits."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest()[:32]


def _short(text: Any) -> str:
    return "nothing" if text is None else repr(text if len(text) < 200 else text[:200] + "...")


def _lock(file: Any, folder: Path) -> None:
    try:
        import fcntl
    except ModuleNotFoundError:
        raise RuntimeError(
            "directory= locks its journal by fcntl, which Python doesn't have on Windows; search there in WSL, or "
            "without directory="
        ) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise RuntimeError(f"another process is searching into {str(folder)!r}; wait for it, or end it") from error
        why = f"{error.strerror}: the journal's folder can't be locked; give a directory= on another file system"
        raise type(error)(error.errno, why, str(folder)) from None
