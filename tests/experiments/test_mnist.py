"""The loader gives MNIST as its authors describe it, and no other bytes pass for it."""

import gzip
import shutil

import numpy as np
import pytest

from experiments import mnist

FILES = [mnist.TRAIN_IMAGES, mnist.TRAIN_LABELS, mnist.TEST_IMAGES, mnist.TEST_LABELS]


@pytest.fixture(scope="module")
def splits():
    return mnist.load()


@pytest.fixture
def folder(tmp_path):
    """The intact files, for a test to spoil one: links, which a test replaces and never writes through."""
    for file in FILES:
        (tmp_path / file.name).symlink_to(mnist.DEFAULT / file.name)
    return tmp_path


def replace(path, content):
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize("name, count", [("train", 50_000), ("validation", 10_000), ("test", 10_000)])
def test_shapes_and_types(splits, name, count):
    images, labels = getattr(splits, name)
    assert images.shape == (count, 28, 28, 1) and images.dtype == np.uint8
    assert labels.shape == (count,) and labels.dtype == np.int32
    assert images.min() == 0 and images.max() == 255


def test_class_counts(splits):
    # The counts of the two original files, as descriptions of MNIST give them.
    training = np.concatenate([splits.train[1], splits.validation[1]])
    assert np.bincount(training).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(splits.test[1]).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_pixels_average_to_the_known_mean(splits):
    # 0.1307 over the 60,000 training images in [0, 1]: a constant of PyTorch's MNIST example.
    ink = int(splits.train[0].sum(dtype=np.int64)) + int(splits.validation[0].sum(dtype=np.int64))
    assert round(ink / 255 / (60_000 * 28 * 28), 4) == 0.1307


def test_validation_is_the_end_of_the_training_file(splits):
    content = gzip.decompress((mnist.DEFAULT / mnist.TRAIN_LABELS.name).read_bytes())
    np.testing.assert_array_equal(splits.validation[1], np.frombuffer(content[-10_000:], np.uint8))
    np.testing.assert_array_equal(splits.train[1], np.frombuffer(content[8:-10_000], np.uint8))


def test_arrays_can_be_written_to(splits):
    assert all(array.flags.writeable for split in splits for array in split)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_missing_file(folder, file):
    (folder / file.name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{file.name}, but it does not exist.*git checkout"):
        mnist.load(folder)


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.*git checkout"):
        mnist.load(tmp_path / "nowhere")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_gzip_cut_short(folder, file):
    whole = (mnist.DEFAULT / file.name).read_bytes()
    replace(folder / file.name, whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=f"{file.name} to be an intact gzip file, but.*git checkout"):
        mnist.load(folder)


@pytest.mark.parametrize(
    "content",
    [b"", b"<!DOCTYPE html>", gzip.compress(b"digits")[:-1] + b"\xff"],
    ids=["empty", "no gzip", "wrong gzip checksum"],
)
def test_file_that_is_no_gzip(folder, content):
    replace(folder / mnist.TEST_LABELS.name, content)
    with pytest.raises(ValueError, match=rf"{mnist.TEST_LABELS.name}.*git checkout"):
        mnist.load(folder)


def test_flipped_byte_in_the_gzip_stream(folder):
    damaged = bytearray((mnist.DEFAULT / mnist.TRAIN_LABELS.name).read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    replace(folder / mnist.TRAIN_LABELS.name, bytes(damaged))
    with pytest.raises(ValueError, match=f"{mnist.TRAIN_LABELS.name} to be an intact gzip file, but"):
        mnist.load(folder)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_flipped_byte_below_the_gzip(folder, file):
    content = bytearray(gzip.decompress((mnist.DEFAULT / file.name).read_bytes()))
    content[-1] ^= 1
    replace(folder / file.name, gzip.compress(bytes(content), compresslevel=0))  # level 0: fast
    with pytest.raises(ValueError, match=f"{file.name} to have the MD5 {file.md5}, but it has.*git checkout"):
        mnist.load(folder)


def test_content_cut_short_below_the_gzip(folder):
    content = gzip.decompress((mnist.DEFAULT / mnist.TEST_LABELS.name).read_bytes())
    replace(folder / mnist.TEST_LABELS.name, gzip.compress(content[:-7]))
    with pytest.raises(ValueError, match="to hold 10008 bytes once unzipped, but it holds 10001"):
        mnist.load(folder)


@pytest.mark.parametrize("content", [b"", b"\0\0\x08", b"\0\0\x08\x01\0\0"], ids=["none", "magic", "sizes"])
def test_content_cut_short_within_the_header(folder, content):
    replace(folder / mnist.TEST_LABELS.name, gzip.compress(content))
    with pytest.raises(ValueError, match="but it (begins with|gives)"):
        mnist.load(folder)


@pytest.mark.parametrize(
    "file, other, complaint",
    [
        (mnist.TEST_LABELS, mnist.TEST_IMAGES, "magic number 00000801 .* but it begins with 00000803"),
        (mnist.TEST_LABELS, mnist.TRAIN_LABELS, r"sizes \(10000,\), but it gives \(60000,\)"),
        (mnist.TEST_IMAGES, mnist.TRAIN_IMAGES, r"\(10000, 28, 28\), but it gives \(60000, 28, 28\)"),
    ],
    ids=["images for labels", "training for test labels", "training for test images"],
)
def test_swapped_files(folder, file, other, complaint):
    (folder / file.name).unlink()
    shutil.move(folder / other.name, folder / file.name)
    (folder / other.name).symlink_to(mnist.DEFAULT / file.name)
    with pytest.raises(ValueError, match=complaint):
        mnist.load(folder)
