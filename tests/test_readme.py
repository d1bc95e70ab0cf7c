"""Every Python block of the README runs, one after the other, on little data."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnet as jn

README = pathlib.Path(__file__).parents[1] / "README.md"
SMALLER = {"trials=64, epochs=5": "trials=12, epochs=2", "trials=256, epochs=10": "trials=12, epochs=2"}


def test_the_blocks_of_the_readme_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    images = generator.integers(256, size=(200, 28, 28, 1)).astype(np.uint8)
    data = images, generator.integers(10, size=200).astype(np.int32)
    names = {"jax": jax, "jnp": jnp, "optax": optax, "jn": jn, "train": data, "validation": data}
    names["images"] = images[:4].astype(np.float32) / 255
    text = README.read_text()
    for large, small in SMALLER.items():
        assert large in text
        text = text.replace(large, small)
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    assert len(blocks) >= 5
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)

    # The recipes do what they say.
    updates, _ = names["head_only"].update(names["fresh"], names["head_only"].init(names["fresh"]), names["fresh"])
    moved = {name: any(np.any(leaf) for leaf in jax.tree.leaves(updates[name])) for name in updates}
    assert moved == {"features": False, "drop": False, "head": True}
    np.testing.assert_array_equal(names["partly"]["features"][1]["w"], names["saved"]["features"][1]["w"])
    assert names["partly"]["head"] is names["fresh"]["head"]
    params, state, _ = names["tied"].init(jax.random.key(0), (28,))
    np.testing.assert_allclose(
        names["tied"].apply(params, state, names["images"][..., 0])[0],
        jnp.tanh(jnp.tanh(names["images"][..., 0] @ params[0]["w"]) @ params[0]["w"]),
        atol=1e-6,
    )
