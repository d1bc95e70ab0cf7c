"""Networks as programs: another process runs them without jaxnet, and gets the network's own outputs."""

import pathlib
import subprocess
import sys
import textwrap
from typing import NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn

WITHOUT_JAXNET = """
    import pathlib, sys
    for name in ("jaxnet", "flax", "optax", "haiku"):
        sys.modules[name] = None  # importing it fails
    import jax
    import jax.export
    import numpy as np

    folder = pathlib.Path(sys.argv[1])
    for file in sorted(folder.glob("*.jaxexport")):
        program = jax.export.deserialize(bytearray(file.read_bytes()))
        assert program.platforms == ("cpu", "cuda", "rocm", "tpu"), program.platforms
        inputs = dict(np.load(folder / f"{file.stem}.npz"))
        for count in (3, 1):
            few = jax.tree.map(lambda a: a[:count], inputs)
            tree = {"images": lambda: few["x"], "words": lambda: (few["x"], few["lengths"]), "two": lambda: few}
            outputs = program.call(tree[file.stem]())
            made = outputs if isinstance(outputs, dict) else {"y": outputs}
            np.savez(folder / f"{file.stem}-{count}.npz", **made)
"""


class Two(NamedTuple):
    total: jax.Array
    difference: jax.Array


def two():
    """A layer with a tree on either side, whose dict is in another order than the tuple."""

    def apply(params, state, x, *, key=None, train=False):
        return Two(params["w"] * x["b"] + x["a"], x["a"] - x["b"]), state

    return jn.Layer(lambda key, spec: ({"w": jnp.float32(2)}, (), spec), apply)


def test_a_process_without_jaxnet_gets_what_predict_gives_for_any_number_of_examples(tmp_path, key):
    images = jn.serial(jn.conv(3, (3, 3)), jn.batch_norm(), jax.nn.relu, jn.max_pool((2, 2)), jn.flatten, jn.dense(2))
    both_ways = jn.bidirectional(jn.lstm(3, returns="last"))
    words = jn.serial(jn.embedding(7, 4), both_ways, jn.dropout(0.5), jn.dense(2))
    generator = np.random.default_rng(0)
    pixels, numbers = generator.integers(256, size=(3, 8, 8, 1)).astype(np.uint8), generator.normal(size=(2, 3, 4))
    numbers = numbers.astype(np.float32)
    sentences = jn.Sequence(generator.integers(7, size=(3, 5)).astype(np.int32), np.array([5, 2, 4], np.int32))
    pair = {"a": numbers[0], "b": numbers[1]}
    cases = {
        "images": (images, jn.Spec((8, 8, 1), np.dtype(np.uint8)), pixels, {"x": pixels}),
        "words": (
            words, jn.Sequence(jn.Spec((5,), jnp.int32), jn.Spec((), jnp.int32)), sentences,
            {"x": sentences.values, "lengths": sentences.lengths},
        ),
        "two": (two(), {"a": jn.Spec((4,)), "b": jn.Spec((4,))}, pair, pair),
    }  # fmt: skip
    expected = {}
    for name, (net, spec, inputs, arrays) in cases.items():
        floats = jn.Spec((8, 8, 1)) if name == "images" else spec
        params, state = jax.jit(lambda net=net, floats=floats: net.init(key, floats)[:2])()
        if name == "images":
            state = (*state[:1], {"mean": state[1]["mean"] + 0.5, "variance": state[1]["variance"] * 2}, *state[2:])
        jn.export(tmp_path / f"{name}.jaxexport", net, params, state, spec)
        np.savez(tmp_path / f"{name}.npz", **arrays)
        expected[name] = jn.predict(net, params, state, inputs)
    expected["two"] = expected["two"]._asdict()
    script = [sys.executable, "-c", textwrap.dedent(WITHOUT_JAXNET), str(tmp_path)]
    ran = subprocess.run(script, capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    for name, wanted in expected.items():
        for count in (3, 1):
            got = dict(np.load(tmp_path / f"{name}-{count}.npz"))
            wanted_few = wanted if isinstance(wanted, dict) else {"y": wanted}
            assert sorted(got) == sorted(wanted_few)
            for part, array in wanted_few.items():
                np.testing.assert_allclose(got[part], array[:count], rtol=1e-5, atol=1e-6, err_msg=f"{name} {part}")


def test_convolutions_are_xlas_own_on_every_platform(tmp_path):
    net = jn.conv(3, (3, 3))
    params, state, _ = net.init(jax.random.key(0), (8, 8, 1))
    jn.export(tmp_path / "net", net, params, state, (8, 8, 1))
    text = jax.export.deserialize(bytearray((tmp_path / "net").read_bytes())).mlir_module()
    assert "stablehlo.convolution" in text and "dot_general" not in text


def test_a_network_that_must_know_its_batch_size_is_told_and_a_failure_leaves_the_older_file(tmp_path):
    counting = jn.lift(lambda x: x.reshape(len(x), -1))
    path = pathlib.Path(tmp_path / "net")
    jn.export(path, counting, (), (), (3,), batch_size=4, platforms=["cpu"])
    before = path.read_bytes()
    program = jax.export.deserialize(bytearray(before))
    assert program.in_avals[0].shape == (4, 3) and program.platforms == ("cpu",)
    with pytest.raises(TypeError) as raised:
        jn.export(path, counting, (), (), (3,))
    assert "try batch_size=" in raised.value.__notes__[-1]
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        jn.export(path, counting, (), (), (3,), batch_size=0)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    huge = np.broadcast_to(np.float32(0), (2**29,))
    with pytest.raises(ValueError, match=r"weights of 2147483648 bytes don't fit"):
        jn.export(tmp_path / "net", jn.dense(1), {"w": huge}, (), (3,))


def test_a_shape_may_be_a_list_and_what_is_none_is_refused(tmp_path, key):
    params, state, _ = jn.dense(3).init(key, (5,))
    for spec in ([5], (5,), [np.int64(5)]):
        jn.export(tmp_path / "net.jaxexport", jn.dense(3), params, state, spec, platforms=["cpu"])
        program = jax.export.deserialize(bytearray((tmp_path / "net.jaxexport").read_bytes()))
        assert program.in_avals[0].shape[1:] == (5,)
    with pytest.raises(TypeError, match=r"expected a Spec or a shape tuple .*got 5; for a vector of 5 features, try"):
        jn.export(tmp_path / "net.jaxexport", jn.dense(3), params, state, 5)
