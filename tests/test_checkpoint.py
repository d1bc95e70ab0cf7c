"""Networks in files: the same after a round trip, and refused when anything is wrong with the file."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn

NET = jn.serial(features=jn.serial(jn.dense(4), jnp.tanh), head=jn.dense(2))
PARAMS, STATE, _ = NET.init(jax.random.key(0), (3,))


@pytest.fixture
def path(tmp_path):
    jn.save(tmp_path / "net.msgpack", PARAMS, STATE)
    return tmp_path / "net.msgpack"


def same(got, wanted):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a, np.float64), np.asarray(b, np.float64))


def test_a_round_trip_keeps_trees_numbers_and_dtypes(path):
    same(jn.load(path, NET, (3,)), (PARAMS, STATE))
    assert os.listdir(path.parent) == ["net.msgpack"]  # no temporary file is left


def test_bfloat16_and_integers_keep_their_dtype(path):
    layer = jn.Layer(
        lambda key, spec: ({"w": jnp.full(3, 1.5, jnp.bfloat16)}, {"count": jnp.int32(7)}, jn.Spec(spec)),
        lambda params, state, x, *, key=None, train=False: (x, state),
    )
    trees = layer.init(None, (3,))[:2]
    jn.save(path, *trees)
    same(jn.load(path, layer, (3,)), trees)


@pytest.mark.parametrize(
    "spoil, message",
    {
        "truncated": (lambda content: content[:-1], "ends too early"),
        "cut in the head": (lambda content: content[:12], "ends too early"),
        "a bit flipped": (lambda content: content[:99] + bytes([content[99] ^ 1]) + content[100:], "check sum"),
        "longer": (lambda content: content + b"\0", "check sum"),
        "foreign": (lambda content: b"\x89PNG" + content, "doesn't begin like one"),
        "empty": (lambda content: b"", "doesn't begin like one"),
    }.values(),
)
def test_a_file_that_is_not_whole_is_refused(spoil, message, path):
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match=f"is not a whole network saved by jaxnet: .*{message}"):
        jn.load(path, NET, (3,))


def test_every_byte_that_is_cut_is_noticed(path):
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="is not a whole network"):
            jn.load(path, NET, (3,))


@pytest.mark.parametrize(
    "net, message",
    [
        (NET._replace(init=lambda key, spec: jn.dense(4).init(key, spec)), r"\[0\]\['w'\] is missing"),
        (
            jn.serial(features=jn.serial(jn.dense(4), jnp.tanh), head=jn.dense(5)),
            r"\['head'\]\['w'\] is float32\[4, 2\]",
        ),
        (jn.serial(features=jn.serial(jn.dense(4), jnp.tanh)), r"\['head'\]\['b'\] isn't in the network"),
    ],
)
def test_another_network_is_refused_with_what_differs(net, message, path):
    with pytest.raises(ValueError, match=message):
        jn.load(path, net, (3,))


def test_a_dtype_that_differs_is_refused(path):
    with pytest.raises(ValueError, match=r"is float32\[2\], the network's bfloat16\[2\]"):
        jn.load(path, NET, jn.Spec((3,), jnp.bfloat16))


def test_a_result_of_a_search_is_no_network(path):
    from jaxnet.checkpoint import write_arrays

    write_arrays(path, "result of a search", {}, {})
    with pytest.raises(ValueError, match="it is a result of a search"):
        jn.load(path, NET, (3,))


def test_a_failed_write_leaves_the_old_file(path, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        jn.save(path, jax.tree.map(jnp.zeros_like, PARAMS), STATE)
    same(jn.load(path, NET, (3,)), (PARAMS, STATE))
    assert os.listdir(path.parent) == ["net.msgpack"]


def test_a_missing_file_is_called_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        jn.load(tmp_path / "none.msgpack", NET, (3,))


def test_orbax_takes_the_trees(tmp_path):
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "checkpoint", PARAMS)
        checkpointer.wait_until_finished()
        same(checkpointer.restore(tmp_path / "checkpoint", PARAMS), PARAMS)
