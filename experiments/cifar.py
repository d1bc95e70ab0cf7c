"""The CIFAR-10 images out of a folder of the user's, checked: the python version, as Krizhevsky publishes it.

It isn't in the repository. The folder is ``cifar-10-batches-py``, the content of
``cifar-10-python.tar.gz``. Its files are pickles, which can run any code where they are read carelessly; so each must
have the MD5 of the original, and is then read by an unpickler that makes arrays, dicts, lists, bytes and integers only.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

TRAIN = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
}
TEST = {"test_batch": "40351d587109b95175f43aff81a1287e"}  # MD5s as torchvision (datasets/cifar.py) has them
EXAMPLES = 10_000  # in each file
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Splits(NamedTuple):
    """Each is ``(images, labels)``: uint8 ``[n, 32, 32, 3]``, red first, and int32 ``[n]`` from 0 to 9."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


def load(folder: str | Path) -> Splits:
    """Reads and checks the six files.

    Args:
      folder: ``cifar-10-batches-py``, or what it lies in.

    Returns:
      ``Splits`` of 50,000 and 10,000 examples, in the files' order.

    Raises:
      FileNotFoundError: when the folder or files in it aren't there; it names all that are missing.
      ValueError: when a file isn't the original, or doesn't hold what it should.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"cifar: expected a folder, but {folder} {'is a file' if folder.exists() else 'is not there'}"
        )
    if (folder / "cifar-10-batches-py").is_dir():
        folder = folder / "cifar-10-batches-py"
    if missing := [name for name in (*TRAIN, *TEST) if not (folder / name).is_file()]:
        hint = "; for the python version, unpack cifar-10-python.tar.gz" if len(missing) == len(TRAIN) + 1 else ""
        raise FileNotFoundError(f"cifar: {folder} has no {', '.join(missing)}{hint}")
    parts = [_read(folder / name, md5) for name, md5 in TRAIN.items()]
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Splits((images, labels), *(_read(folder / name, md5) for name, md5 in TEST.items()))


def _read(path: Path, md5: str) -> tuple[np.ndarray, np.ndarray]:
    content = path.read_bytes()
    if (found := hashlib.md5(content, usedforsecurity=False).hexdigest()) != md5:
        raise ValueError(
            f"cifar: expected {path} to have the MD5 {md5}, but it has {found} ({len(content):,} bytes): "
            f"it is damaged, or another file. Unpack cifar-10-python.tar.gz anew."
        )
    try:
        made = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # an unpickler raises whatever its bytes lead it to
        raise ValueError(f"cifar: {path} can't be read: {error}") from error
    images, labels = (made.get(name) for name in (b"data", b"labels")) if isinstance(made, dict) else (None, None)
    shape = (EXAMPLES, 3 * 32 * 32)
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape != shape:
        raise ValueError(f"cifar: expected b'data' of {path} to be a uint8 array {shape}, got {_outline(images)}")
    labels = labels if isinstance(labels, list) else []
    if len(labels) != EXAMPLES or not all(type(label) is int and 0 <= label < len(CLASSES) for label in labels):
        wanted = f"a list of {EXAMPLES} integers from 0 to 9"
        raise ValueError(f"cifar: expected b'labels' of {path} to be {wanted}, got {_outline(labels)}")
    planes = images.reshape(-1, 3, 32, 32)  # red, green, blue, each row by row
    return np.ascontiguousarray(np.moveaxis(planes, 1, -1)), np.array(labels, np.int32)


class _Unpickler(pickle.Unpickler):
    """Makes what needs no import, and NumPy's arrays; refuses everything else that a pickle may name."""

    _reconstruct: Any = np.empty(0).__reduce__()[0]  # NumPy's own, whose module has moved since 2009

    def find_class(self, module: str, name: str) -> Any:
        arrays = {"_reconstruct": self._reconstruct, "ndarray": np.ndarray, "dtype": np.dtype}
        if module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray") and name in arrays:
            return arrays[name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which has no place in it")


def _outline(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return f"a list of {len(value)}" if isinstance(value, list) else type(value).__name__
