"""The MNIST digits as NumPy arrays, checked and split. Origin and licence: ``data/mnist/README.md``."""

import gzip
import hashlib
import math
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

DEFAULT = Path(__file__).parent / "data" / "mnist"
VALIDATION = 10_000  # as many as there are test images, so that both errors are known equally well


class Splits(NamedTuple):
    """Each is ``(images, labels)``: uint8 ``[n, 28, 28, 1]`` from 0 to 255, and int32 ``[n]`` from 0 to 9."""

    train: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


class _File(NamedTuple):
    name: str
    shape: tuple[int, ...]
    md5: str  # of the unzipped file


TRAIN_IMAGES = _File("train-images-idx3-ubyte.gz", (60_000, 28, 28), "6bbc9ace898e44ae57da46a324031adb")
TRAIN_LABELS = _File("train-labels-idx1-ubyte.gz", (60_000,), "a25bea736e30d166cdddb491f175f624")
TEST_IMAGES = _File("t10k-images-idx3-ubyte.gz", (10_000, 28, 28), "2646ac647ad5339dbf082846283269ea")
TEST_LABELS = _File("t10k-labels-idx1-ubyte.gz", (10_000,), "27ae3e4e09519cfbb04c329615203637")


def load(folder: str | Path = DEFAULT) -> Splits:
    """Reads, checks and splits the four files of MNIST.

    The test set is the one that the authors made. The validation set is the last 10,000 examples of their
    training file, in the file's order, so that it is the same in every run and with every seed.

    Args:
      folder: where the four gzipped IDX files are. The default is the copy that comes with the repository.
    Returns:
      ``Splits`` of 50,000 / 10,000 / 10,000 examples. Pixels are left as bytes, a quarter
        of what floats take; who trains on them scales them.
    Raises:
      FileNotFoundError: when a file is not in ``folder``.
      ValueError: when a file is not intact: no gzip, cut short, of another magic number or size, or with an
        MD5 other than that of the original.

    >>> train, validation, test = load()
    >>> images, labels = train
    >>> images.shape, labels.shape
    ((50000, 28, 28, 1), (50000,))
    >>> labels[:5].tolist()
    [5, 0, 4, 1, 9]
    """
    folder = Path(folder)
    # The small files first, so that most mistakes in a folder are told before the large ones are unzipped.
    test_labels = _read(folder, TEST_LABELS).astype(np.int32)
    labels = _read(folder, TRAIN_LABELS).astype(np.int32)
    test_images = _read(folder, TEST_IMAGES)[..., None]
    images = _read(folder, TRAIN_IMAGES)[..., None]
    return Splits(
        train=(images[:-VALIDATION], labels[:-VALIDATION]),
        validation=(images[-VALIDATION:], labels[-VALIDATION:]),
        test=(test_images, test_labels),
    )


def halved(images: np.ndarray) -> np.ndarray:
    """Means over squares of 2 x 2 pixels: ``[n, height, width, 1]`` to float32 ``[n, height / 2, width / 2, 1]``.

    >>> halved(np.array([[0, 4, 8, 8], [0, 0, 8, 8]]).reshape(1, 2, 4, 1)).ravel().tolist()
    [1.0, 8.0]
    """
    n, height, width, _ = images.shape
    return images.reshape(n, height // 2, 2, width // 2, 2, 1).mean(axis=(2, 4), dtype=np.float32)


def _read(folder: Path, file: _File) -> np.ndarray:
    """The uint8 array of ``file.shape`` in an IDX file: 0, 0, type, axes, big-endian sizes, entries."""
    path = folder / file.name
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"mnist: expected the file {path}, but it does not exist. {_remedy(file)}") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"mnist: expected {path} to be an intact gzip file, but unzipping it gave: {error}. {_remedy(file)}"
        ) from error

    # The header before the checksum, because it tells a file in another's place from a damaged one.
    axes = len(file.shape)
    magic = bytes([0, 0, 0x08, axes])  # 0x08: unsigned bytes
    if content[:4] != magic:
        raise ValueError(
            f"mnist: expected {path} to begin with the IDX magic number {magic.hex()} (bytes, {axes} axes), "
            f"but it begins with {content[:4].hex() or 'nothing'}. Is another file under its name? "
            f"{_remedy(file)}"
        )
    header = 4 + 4 * axes
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, header, 4))
    if shape != file.shape:
        raise ValueError(
            f"mnist: expected the header of {path} to give the sizes {file.shape}, but it gives {shape}. "
            f"Is another file under its name? {_remedy(file)}"
        )
    size = header + math.prod(file.shape)
    if len(content) != size:
        raise ValueError(
            f"mnist: expected {path} to hold {size} bytes once unzipped, but it holds {len(content)}. {_remedy(file)}"
        )
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if md5 != file.md5:
        raise ValueError(
            f"mnist: expected the unzipped {path} to have the MD5 {file.md5}, but it has {md5}: "
            f"its content was changed. {_remedy(file)}"
        )
    # A copy, because an array over bytes is read-only, which other libraries warn about when they take it.
    return np.frombuffer(content, np.uint8, offset=header).reshape(file.shape).copy()


def _remedy(file: _File) -> str:
    return (
        "In a clone of the repository, `git checkout -- experiments/data` brings the originals back; "
        f"elsewhere, put a fresh copy of {file.name} there."
    )
