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


def run_blocks(page, at_least, smaller):
    """Runs a page's blocks and returns the names that they made."""
    generator = np.random.default_rng(0)
    images = generator.integers(256, size=(200, 28, 28, 1)).astype(np.uint8)
    data = images, generator.integers(10, size=200).astype(np.int32)
    names = {"jax": jax, "jnp": jnp, "optax": optax, "jn": jn, "train": data, "validation": data}
    names["images"] = images[:4].astype(np.float32) / 255
    text = page.read_text()
    for large, small in smaller.items():
        assert large in text
        text = text.replace(large, small)
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    assert len(blocks) >= at_least
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)
    return names


def test_the_blocks_of_the_page_on_searching_run_and_its_names_exist(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = README.parent / "jaxnet" / "search" / "README.md"
    names = run_blocks(page, 2, {"trials=27,\n    epochs=9": "trials=9,\n    epochs=3"})
    assert names["result"].best["units"] == 3
    for name in re.findall(r"`jn\.([\w.]+)", page.read_text()):
        value = jn
        for part in name.split("."):
            value = getattr(value, part)
    for name in re.findall(r"`result\.(\w+)", page.read_text()):
        assert hasattr(names["result"], name)


def test_the_blocks_of_the_readme_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run_blocks(README, 5, SMALLER)

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
