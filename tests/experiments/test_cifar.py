"""The loader of CIFAR-10, on a folder of tiny files that are written as the originals are."""

import hashlib
import pickle
import struct

import numpy as np
import pytest

from experiments import cifar


def text(value):
    """A Python 2 string, as the files have it."""
    return b"T" + struct.pack("<i", len(value)) + value


def written(images, labels, module=b"numpy.core.multiarray\n_reconstruct\n"):
    """The pickle that Python 2's cPickle made of ``{"data": images, "labels": labels}``, protocol 2."""
    rows, columns = (b"J" + struct.pack("<i", n) for n in images.shape)
    empty = b"c" + module + b"cnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    kind = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = empty + b"(K\x01" + rows + columns + b"\x86" + kind + b"\x89" + text(images.tobytes()) + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([n]) for n in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + numbers + b"u."


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two examples a file, whose images are the file's number and, in one pixel, told apart."""
    monkeypatch.setattr(cifar, "EXAMPLES", 2)
    rng = np.random.default_rng(0)

    def write(name, content):
        (tmp_path / name).write_bytes(content)
        table = cifar.TRAIN if name in cifar.TRAIN else cifar.TEST
        monkeypatch.setitem(table, name, hashlib.md5(content).hexdigest())

    for i, name in enumerate((*cifar.TRAIN, *cifar.TEST)):
        images = rng.integers(0, 256, (2, 3072), np.uint8)
        images[0, :] = i
        images[0, 1024 + 32 * 3 + 5] = 200  # green, row 3, column 5
        write(name, written(images, [i, 9]))
    return tmp_path, write


def test_images_come_with_their_colours_last_in_the_files_order(folder):
    for where in (folder[0], str(folder[0])):
        train, test = cifar.load(where)
        assert train[0].shape == (10, 32, 32, 3) and train[0].dtype == np.uint8
        assert train[1].tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9] and test[1].tolist() == [5, 9]
        assert train[0][4, 3, 5].tolist() == [2, 200, 2] and train[0][4, 5, 3].tolist() == [2, 2, 2]
        assert np.all(test[0][0, :3] == 5)


def test_the_folder_may_be_the_one_around_it(folder, tmp_path_factory):
    around = tmp_path_factory.mktemp("around")
    (around / "cifar-10-batches-py").symlink_to(folder[0])
    assert cifar.load(around).test[1].tolist() == [5, 9]


def test_what_is_missing_is_named(folder, tmp_path_factory):
    (folder[0] / "data_batch_3").unlink()
    (folder[0] / "test_batch").unlink()
    with pytest.raises(FileNotFoundError, match="has no data_batch_3, test_batch$"):
        cifar.load(folder[0])
    with pytest.raises(FileNotFoundError, match=r"has no data_batch_1.*unpack cifar-10-python.tar.gz"):
        cifar.load(tmp_path_factory.mktemp("empty"))
    with pytest.raises(FileNotFoundError, match="is not there"):
        cifar.load(folder[0] / "nowhere")


def test_a_changed_file_is_refused_before_it_is_read(folder):
    path = folder[0] / "data_batch_2"
    path.write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(ValueError, match="MD5"):
        cifar.load(folder[0])


@pytest.mark.parametrize(
    "content, message",
    [
        (b"cos\nsystem\n(S'exit 1'\ntR.", "asks for os.system"),
        (pickle.dumps(print), "asks for builtins.print"),
        (written(np.zeros((2, 3072), np.uint8), [0, 1], b"numpy\nsave\n"), "asks for numpy.save"),
        (written(np.zeros((3, 3072), np.uint8), [0, 1]), r"uint8 array \(2, 3072\), got uint8 \(3, 3072\)"),
        (written(np.zeros((2, 3072), np.uint8), [0, 10]), "integers from 0 to 9"),
        (written(np.zeros((2, 3072), np.uint8), [0, 1, 2]), "2 integers from 0 to 9, got a list of 3"),
        (pickle.dumps([1, 2]), "got NoneType"),
        (written(np.zeros((2, 3072), np.uint8), [0, 1])[:3000], "can't be read"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(folder, content, message):
    folder[1]("data_batch_4", content)
    with pytest.raises(ValueError, match=message):
        cifar.load(folder[0])
