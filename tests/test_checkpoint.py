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
        "a bit flipped": (lambda content: content[:99] + bytes([content[99] ^ 1]) + content[100:], "checksum"),
        "longer": (lambda content: content + b"\0", "checksum"),
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


@pytest.mark.parametrize("ending", [".safetensors", ".orbax"])
def test_other_formats_keep_trees_numbers_and_dtypes_and_replace_what_was_there(ending, tmp_path):
    path = tmp_path / f"net{ending}"
    net = jn.serial(NET, jn.batch_norm())
    params, state, _ = net.init(jax.random.key(0), (3,))
    params[0]["head"]["w"] = params[0]["head"]["w"].astype(jnp.bfloat16)
    mixed = net._replace(init=lambda key, spec: (params, state, (2,)))
    jn.save(path, jax.tree.map(jnp.zeros_like, params), state)
    jn.save(path, params, state)
    same(jn.load(path, mixed, (3,)), (params, state))
    assert os.listdir(tmp_path) == [path.name]
    with pytest.raises(ValueError, match=r"state/1/mean isn.t .*params/0/head/w is bfloat16\[4, 2\], the"):
        jn.load(path, net._replace(init=lambda key, spec: (net.init(key, spec)[0], (), (2,))), (3,))
    with pytest.raises(FileNotFoundError):
        jn.load(tmp_path / f"none{ending}", NET, (3,))


def test_a_failed_write_leaves_the_old_folder(tmp_path, monkeypatch):
    import orbax.checkpoint as ocp

    path = tmp_path / "net.orbax"
    jn.save(path, PARAMS, STATE)

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(ocp.StandardCheckpointer, "save", full)
    with pytest.raises(OSError, match="No space left"):
        jn.save(path, jax.tree.map(jnp.zeros_like, PARAMS), STATE)
    same(jn.load(path, NET, (3,)), (PARAMS, STATE))
    assert os.listdir(tmp_path) == ["net.orbax"]


@pytest.mark.parametrize("lost", [0, 1], ids=["the new one is refused", "the old one can't go back either"])
def test_a_folder_that_can_not_be_put_in_its_place_leaves_the_old_one(lost, tmp_path, monkeypatch):
    path, rename, failed = tmp_path / "net.orbax", os.rename, []
    jn.save(path, PARAMS, STATE)

    def busy(old, new):
        if new == str(path) and len(failed) <= lost:
            failed.append(old)
            raise OSError("Device or resource busy")
        rename(old, new)

    monkeypatch.setattr(os, "rename", busy)
    with pytest.raises(OSError, match="resource busy"):
        jn.save(path, jax.tree.map(jnp.zeros_like, PARAMS), STATE)
    (left,) = tmp_path.iterdir()
    assert (left == path) == (not lost)
    same(jn.load(left, NET, (3,)), (PARAMS, STATE))


@pytest.mark.parametrize("ending", [".msgpack", ".safetensors", ".orbax"])
def test_a_missing_folder_is_reported_as_it_was_given(ending, tmp_path):
    path = str(tmp_path / "missing" / f"net{ending}")
    with pytest.raises(FileNotFoundError) as caught:
        jn.save(path, PARAMS, STATE)
    assert caught.value.filename == path


@pytest.mark.parametrize("mask, mode", [(0o077, 0o600), (0o022, 0o644), (0o007, 0o660)])
def test_who_may_read_a_file_is_up_to_the_umask(mask, mode, tmp_path):
    before = os.umask(mask)
    try:
        jn.save(tmp_path / "net.msgpack", PARAMS, STATE)
    finally:
        os.umask(before)
    assert (tmp_path / "net.msgpack").stat().st_mode & 0o777 == mode


def test_other_programs_read_a_file_of_safetensors_and_write_one(tmp_path):
    from safetensors.numpy import load_file, save_file

    path = tmp_path / "net.safetensors"
    jn.save(path, PARAMS, STATE)
    arrays = load_file(path)
    assert sorted(arrays) == [f"params/{name}" for name in ("features/0/b", "features/0/w", "head/b", "head/w")]
    np.testing.assert_array_equal(arrays["params/features/0/w"], PARAMS["features"][0]["w"])
    save_file(arrays, path)  # without a checksum
    same(jn.load(path, NET, (3,)), (PARAMS, STATE))
    with pytest.raises(ValueError, match="two leaves would both be called 'params/a/b'"):
        jn.save(path, {"a/b": np.ones(1), "a": {"b": np.ones(1)}})


def test_pytorch_reads_bfloat16_from_a_file_of_safetensors(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    jn.save(tmp_path / "net.safetensors", {"w": jnp.full(3, 1.5, jnp.bfloat16)})
    read = load_file(tmp_path / "net.safetensors")
    assert list(read) == ["params/w"] and torch.equal(read["params/w"], torch.full((3,), 1.5, dtype=torch.bfloat16))


@pytest.mark.parametrize(
    "spoil, message",
    {
        "truncated": (lambda content: content[:-1], "not fully covered"),
        "a bit flipped": (lambda content: content[:-3] + bytes([content[-3] ^ 1]) + content[-2:], "checksum"),
        "foreign": (lambda content: b"\x89PNG" + content, "header too large"),
        "empty": (lambda content: b"", "header too small"),
    }.values(),
)
def test_a_file_of_safetensors_that_is_not_whole_is_refused(spoil, message, tmp_path):
    path = tmp_path / "net.safetensors"
    jn.save(path, PARAMS, STATE)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match=f"is not a whole network saved by jaxnet: .*{message}"):
        jn.load(path, NET, (3,))


def test_orbax_reads_the_folder_and_a_folder_of_orbax_loads(tmp_path):
    import orbax.checkpoint as ocp

    tree = {"params": PARAMS, "state": STATE}
    jn.save(tmp_path / "net.orbax", PARAMS, STATE)
    with ocp.StandardCheckpointer() as checkpointer:
        same(checkpointer.restore(tmp_path / "net.orbax", tree), tree)
        checkpointer.save(tmp_path / "step_7", tree)
    same(jn.load(tmp_path / "step_7", NET, (3,)), (PARAMS, STATE))
    (tmp_path / "net.orbax" / "manifest.ocdbt").unlink()
    with pytest.raises(ValueError, match="is not a whole network .* isn't a folder as orbax writes it"):
        jn.load(tmp_path / "net.orbax", NET, (3,))


@pytest.mark.parametrize("ending", ["msgpack", "safetensors", "orbax"])
def test_scalars_and_numbers_of_python_come_back_as_what_they_are_in_jax(ending, tmp_path):
    layer = jn.Layer(
        lambda key, spec: ({"scale": 1.5}, {"count": jnp.int32(7)}, jn.Spec(spec)),
        lambda params, state, x, *, key=None, train=False: (x, state),
    )
    jn.save(tmp_path / f"net.{ending}", {"scale": 1.5}, {"count": np.array(7, ">i4")})
    same(jn.load(tmp_path / f"net.{ending}", layer, (3,)), ({"scale": jnp.float32(1.5)}, {"count": jnp.int32(7)}))


@pytest.mark.parametrize("ending", ["msgpack", "safetensors", "orbax"])
def test_a_key_is_refused_by_name(ending, tmp_path):
    with pytest.raises(TypeError, match=r"noise.* is a PRNG key.*key_data"):
        jn.save(tmp_path / f"net.{ending}", {"w": jnp.ones(2)}, {"noise": jax.random.key(0)})
    assert not os.listdir(tmp_path)
