"""Networks in files: whole or refused, never unpickled. The search's results are written in the same way."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.hints import needs
from jaxnet.layer import Layer, Spec

_MAGIC = b"jaxnet\n\x01"  # the line end shows a transfer that took the file for text
_HEAD = len(_MAGIC) + 12  # and the payload's length, 8 bytes, and its CRC-32, 4 bytes, little endian
_NETWORK = "network"
_CHECK_SUM = "jaxnet crc32"  # in the metadata of a file of safetensors


def save(path: str | os.PathLike[str], params: Any, state: Any = ()) -> None:
    """Writes a network's params and state, in place of an older one only once they are whole.

    The ending of the path says how; nothing is pickled, and every dtype is kept, bfloat16 too.

    - ``.safetensors`` is a file that other programs read as well (PyTorch, say), arrays under names such as
      ``params/0/w`` and ``state/features/2/mean``, with a checksum among its metadata (the extra ``safetensors``).
    - ``.orbax`` is a folder, a checkpoint of orbax with the tree ``{"params": ..., "state": ...}``, for what is
      written in JAX: ``orbax.checkpoint.StandardCheckpointer().restore`` reads it.
    - Any other, such as ``.msgpack``, is one file in msgpack, as flax writes it, behind a checksum; it needs nothing
      more and is what the search's results are.

    Args:
      path: the file or folder.
      params, state: trees of arrays.

    Raises:
      OSError: when it can't be written; an older one of that name is then as it was. ValueError: for
        ``.safetensors``, when two leaves would have one name.

    >>> import tempfile, jaxnet as jn
    >>> params, state, _ = jn.dense(3).init(jax.random.key(0), (5,))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(f"{folder}/net.msgpack", params, state)
    ...     loaded, _ = load(f"{folder}/net.msgpack", jn.dense(3), (5,))
    >>> bool((loaded["w"] == params["w"]).all())
    True
    """
    path = os.fspath(path)
    if path.endswith(".safetensors"):
        _write_safetensors(path, {"params": params, "state": state})
    elif path.endswith(".orbax"):
        _write_orbax(path, {"params": params, "state": state})
    else:
        write_arrays(path, _NETWORK, {}, by_path((params, state)))


def load(path: str | os.PathLike[str], net: Layer, spec: Spec | tuple[int, ...]) -> tuple[Any, Any]:
    """``(params, state)`` as ``save`` wrote them, NumPy arrays in the trees that ``net`` makes.

    Checkpoints that others wrote load too, where their arrays have those names: a file that ends in ``.safetensors``,
    any folder of orbax.

    Args:
      path: the file or folder.
      net: the network that was saved, or one whose trees have the same paths, shapes and dtypes.
      spec: of one example, as for ``net.init``.

    Raises:
      FileNotFoundError: when there is no such file. ValueError: for one that is truncated, damaged or not of this kind;
        for leaves that are missing, too many, or of other shapes or dtypes than the network's, naming all of them.

    >>> import jax, tempfile, jaxnet as jn
    >>> net = jn.dense(3)
    >>> params, state, _ = net.init(jax.random.key(0), (5,))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(f"{folder}/net.msgpack", params, state)
    ...     loaded, _ = load(f"{folder}/net.msgpack", net, (5,))
    >>> bool((loaded["w"] == params["w"]).all())
    True
    """
    path = os.fspath(path)
    named = os.path.isdir(path) or path.endswith((".safetensors", ".orbax"))
    if not named:
        return as_trees(net, spec, read_arrays(path, _NETWORK)[1], path)
    arrays = _read_safetensors(path) if path.endswith(".safetensors") else _read_orbax(path)
    trees = as_trees(net, spec, arrays, path, named=True)
    return trees["params"], trees["state"]


def by_path(tree: Any, name: Callable[[Any], str] = jax.tree_util.keystr) -> dict[str, np.ndarray]:
    """The leaves of a tree on the host, by the string of their path, of the dtypes that they have in JAX.

    Raises:
      TypeError: for a PRNG key, naming it.
    """
    return {name(path): _on_host(name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _on_host(name: str, leaf: Any) -> np.ndarray:
    if jnp.issubdtype(getattr(leaf, "dtype", None) or np.float32, jax.dtypes.prng_key):
        raise TypeError(f"{name} is a PRNG key, which no file holds; keep its numbers, jax.random.key_data(key)")
    array = np.asarray(leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf))
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def as_trees(net: Layer, spec: Any, arrays: Mapping[str, np.ndarray], source: str, named: bool = False) -> Any:
    """``(params, state)`` of a network out of arrays by path; raises ``ValueError`` where they don't fit.

    Args:
      net, spec: what the trees are for.
      arrays: as ``by_path`` makes them.
      source: what errors call the place where the arrays are from.
      named: whether the tree is ``{"params": ..., "state": ...}``, and arrays are by ``slashed`` paths.
    """
    params, state = jax.eval_shape(lambda: net.init(jax.random.key(0), spec)[:2])
    name: Callable[[Any], str] = slashed if named else jax.tree_util.keystr
    wanted = {"params": params, "state": state} if named else (params, state)
    leaves = {name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(wanted)}
    wrong = [f"{name} is missing" for name in leaves if name not in arrays]
    wrong += [f"{name} isn't in the network" for name in arrays if name not in leaves]
    wrong += [
        f"{name} is {arrays[name].dtype}{list(arrays[name].shape)}, the network's {leaf.dtype}{list(leaf.shape)}"
        for name, leaf in leaves.items()
        if name in arrays and (arrays[name].shape, arrays[name].dtype) != (leaf.shape, leaf.dtype)
    ]
    if wrong:
        raise ValueError(f"{source!r} doesn't hold this network: {'; '.join(wrong)}")
    return jax.tree_util.tree_map_with_path(lambda path, _: arrays[name(path)], wanted)


def slashed(path: Any) -> str:
    """A leaf's path as other programs write it: ``params/0/w``."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def write_arrays(
    path: str | os.PathLike[str], kind: str, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
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


def read_arrays(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
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
        problem = "its checksum is wrong"
    else:
        restored: Any = serialization.msgpack_restore(payload)
        if restored["kind"] == kind:
            return restored["header"], restored["arrays"]
        problem = f"it is a {restored['kind']}"
    raise _not_whole(path, kind, problem)


def _not_whole(path: str | os.PathLike[str], kind: str, problem: object) -> ValueError:
    return ValueError(f"{os.fspath(path)!r} is not a whole {kind} saved by jaxnet: {problem}")


def _write_safetensors(path: str, tree: Any) -> None:
    with needs("safetensors"):
        from safetensors.numpy import save

    arrays = by_path(tree, slashed)
    if len(arrays) < len(jax.tree.leaves(tree)):
        names = [slashed(leaf) for leaf, _ in jax.tree_util.tree_leaves_with_path(tree)]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"two leaves would both be called {twice[0]!r} in {path!r}; save as .msgpack, or rename one")
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    content = save(arrays, metadata={_CHECK_SUM: _check_sum(arrays)})
    with replacing(path) as file:
        file.write(content)


def _read_safetensors(path: str) -> dict[str, np.ndarray]:
    with needs("safetensors"):
        from safetensors import SafetensorError, deserialize

    with open(path, "rb") as file:
        content = file.read()
    try:
        parts = dict(deserialize(content))
    except SafetensorError as error:
        raise _not_whole(path, _NETWORK, error) from None
    arrays = {
        name: np.frombuffer(part["data"], _dtype(part["dtype"])).reshape(part["shape"]) for name, part in parts.items()
    }
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    wanted = header.get("__metadata__", {}).get(_CHECK_SUM)
    if wanted is not None and wanted != _check_sum(arrays):  # another program's file has none
        raise _not_whole(path, _NETWORK, "its checksum is wrong")
    return arrays


def _dtype(code: str) -> np.dtype:
    """
    >>> _dtype("BF16"), _dtype("I32"), _dtype("F8_E4M3"), _dtype("BOOL")
    (dtype(bfloat16), dtype('int32'), dtype(float8_e4m3fn), dtype('bool'))
    """
    known = {"BOOL": "bool", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
    kind, bits = code.rstrip("0123456789"), code.lstrip("BFIUC")
    kinds = {"BF": "bfloat", "F": "float", "I": "int", "U": "uint", "C": "complex"}
    return jnp.dtype(known.get(code) or kinds.get(kind, kind) + bits)


def _check_sum(arrays: Mapping[str, np.ndarray]) -> str:
    total = 0
    for name in sorted(arrays):
        array = arrays[name]
        total = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), total)
        total = zlib.crc32(array.reshape(-1).view(np.uint8).data, total)
    return f"{total:08x}"


def _write_orbax(path: str, tree: Any) -> None:
    import orbax.checkpoint as ocp

    above, name = os.path.split(os.path.abspath(path))
    with _naming(path):
        made = tempfile.TemporaryDirectory(dir=above, prefix=f"{name}.", suffix=".part")
    with made as folder:
        new, old = os.path.join(folder, "new"), f"{folder}.old"
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(new, jax.tree.unflatten(jax.tree.structure(tree), by_path(tree).values()))
        for inside, _, files in os.walk(new):
            for file in (*files, ""):
                sync(os.path.join(inside, file))
        if there := os.path.lexists(path):
            os.rename(path, old)  # a folder can't be renamed onto another
        try:
            os.rename(new, path)
        except OSError:
            if there:
                os.rename(old, path)
            raise
        sync(above)
        if there:
            os.rename(old, os.path.join(folder, "old"))  # it goes with the folder


def _read_orbax(path: str) -> dict[str, np.ndarray]:
    import orbax.checkpoint as ocp

    if not os.path.isdir(path):
        raise FileNotFoundError(errno.ENOENT, "there is no such folder", path)
    with ocp.PyTreeCheckpointer() as checkpointer:
        folder = os.path.abspath(path)
        try:
            described: Any = checkpointer.metadata(folder).item_metadata
            if described is None:
                raise ValueError("it isn't a folder as orbax writes it")
            host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), described.tree)
            return by_path(checkpointer.restore(folder, restore_args=host), slashed)
        except Exception as error:  # orbax and tensorstore have many
            raise _not_whole(path, _NETWORK, " ".join(str(error).split())) from error


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A binary file that takes the place of ``path`` only once it is whole and on the disk.

    Until then it is called ``path`` and eight hexadecimal digits, ``.part``.
    """
    path = os.fspath(path)
    part = f"{path}.{secrets.token_hex(4)}.part"
    with _naming(path):
        file = open(part, "xb")  # noqa: SIM115
    with file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            os.unlink(part)
            raise
    os.replace(part, path)
    sync(os.path.dirname(os.path.abspath(path)))


def sync(path: str | os.PathLike[str]) -> None:
    """Returns when a file is on the disk, or the names of what is in a folder: after a power cut they are there."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EACCES):  # there is no such thing, or it can't be read
            raise


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
    """An ``OSError`` in here is about this path, whatever name beside it was tried."""
    try:
        yield
    except OSError as error:
        raise type(error)(error.errno, error.strerror, path) from None
