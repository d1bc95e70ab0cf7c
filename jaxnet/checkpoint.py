"""Networks in files: whole or refused, never unpickled. The search's results are written in the same way."""

from __future__ import annotations

import contextlib
import os
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from typing import IO, Any

import jax
import numpy as np

from jaxnet.layer import Layer, Spec

_MAGIC = b"jaxnet\n\x01"  # the line end shows a transfer that took the file for text
_HEAD = len(_MAGIC) + 12  # and the payload's length, 8 bytes, and its CRC-32, 4 bytes, little endian
_NETWORK = "network"


def save(path: str | os.PathLike, params: Any, state: Any = ()) -> None:
    """Writes a network's params and state into one file, in place of an older one only once it is whole.

    The file is msgpack, as flax writes it, behind a check sum: arrays by the path of their leaf, with their dtype
    (bfloat16 too). Nothing is pickled. The trees are plain dicts and tuples of arrays, so orbax takes them as well, for
    those who want its checkpoints.

    Args:
      path: the file; ``.msgpack`` is a good ending.
      params, state: trees of arrays.

    Raises:
      OSError: when it can't be written; an older file of that name is then as it was.

    >>> import tempfile, jaxnet as jn
    >>> params, state, _ = jn.dense(3).init(jax.random.key(0), (5,))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(f"{folder}/net.msgpack", params, state)
    ...     loaded, _ = load(f"{folder}/net.msgpack", jn.dense(3), (5,))
    >>> bool((loaded["w"] == params["w"]).all())
    True
    """
    write_arrays(path, _NETWORK, {}, by_path((params, state)))


def load(path: str | os.PathLike, net: Layer, spec: Spec | tuple[int, ...]) -> tuple[Any, Any]:
    """``(params, state)`` as ``save`` wrote them, NumPy arrays in the trees that ``net`` makes.

    Args:
      path: the file.
      net: the network that was saved, or one whose trees have the same paths, shapes and dtypes.
      spec: of one example, as for ``net.init``.

    Raises:
      FileNotFoundError: when there is no such file. ValueError: for one that is truncated, damaged or not of this kind;
        for leaves that are missing, too many, or of other shapes or dtypes than the network's, naming all of them.
    """
    _, arrays = read_arrays(path, _NETWORK)
    return as_trees(net, spec, arrays, os.fspath(path))


def by_path(tree: Any) -> dict[str, np.ndarray]:
    """The leaves of a tree on the host, by the string of their path."""
    return {jax.tree_util.keystr(p): np.asarray(leaf) for p, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def as_trees(net: Layer, spec: Any, arrays: Mapping[str, np.ndarray], source: str) -> tuple[Any, Any]:
    """``(params, state)`` of a network out of arrays by path; raises ``ValueError`` where they don't fit.

    Args:
      net, spec: what the trees are for.
      arrays: as ``by_path`` makes them.
      source: what errors call the place where the arrays are from.
    """
    wanted = jax.eval_shape(lambda: net.init(jax.random.key(0), spec)[:2])
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(wanted)}
    wrong = [f"{name} is missing" for name in leaves if name not in arrays]
    wrong += [f"{name} isn't in the network" for name in arrays if name not in leaves]
    wrong += [
        f"{name} is {arrays[name].dtype}{list(arrays[name].shape)}, the network's {leaf.dtype}{list(leaf.shape)}"
        for name, leaf in leaves.items()
        if name in arrays and (arrays[name].shape, arrays[name].dtype) != (leaf.shape, leaf.dtype)
    ]
    if wrong:
        raise ValueError(f"{source!r} doesn't hold this network: {'; '.join(wrong)}")
    return jax.tree_util.tree_map_with_path(lambda path, _: arrays[jax.tree_util.keystr(path)], wanted)


def write_arrays(
    path: str | os.PathLike, kind: str, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> None:
    """Writes arrays and a header of plain values, atomically.

    Args:
      path: the file. kind: what is in it, for ``read_arrays`` to ask for.
      header: lists, dicts with string keys, numbers, strings, booleans and None. arrays: by name.
    """
    from flax import serialization  # imported when used: it is slow

    payload = serialization.msgpack_serialize({"kind": kind, "header": dict(header), "arrays": dict(arrays)})
    with replacing(path) as file:
        file.write(_MAGIC + len(payload).to_bytes(8, "little") + zlib.crc32(payload).to_bytes(4, "little"))
        file.write(payload)


def read_arrays(path: str | os.PathLike, kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """``(header, arrays)`` as ``write_arrays`` wrote them; raises ``ValueError`` for any other file."""
    from flax import serialization

    with open(path, "rb") as file:
        content = file.read()
    payload = content[_HEAD:]
    length = int.from_bytes(content[len(_MAGIC) : _HEAD - 4], "little")
    if not content.startswith(_MAGIC):
        problem = "it doesn't begin like one"
    elif len(content) < _HEAD or len(payload) < length:
        problem = "it ends too early"
    elif len(payload) > length or zlib.crc32(payload) != int.from_bytes(content[_HEAD - 4 : _HEAD], "little"):
        problem = "its check sum is wrong"
    else:
        restored: Any = serialization.msgpack_restore(payload)
        if restored["kind"] == kind:
            return restored["header"], restored["arrays"]
        problem = f"it is a {restored['kind']}"
    raise ValueError(f"{os.fspath(path)!r} is not a whole {kind} saved by jaxnet: {problem}")


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[IO[bytes]]:
    """A binary file that takes the place of ``path`` only once it is whole and on the disk."""
    path = os.fspath(path)
    with tempfile.NamedTemporaryFile(dir=os.path.dirname(os.path.abspath(path)), suffix=".part", delete=False) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            os.unlink(file.name)
            raise
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)
