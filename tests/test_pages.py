"""Every Python block of the README and of the documentation runs, and prints what the page says that it prints.

A page's ```` ```python ```` blocks run from top to bottom in one namespace, in an empty folder. The pages of ``docs/``
begin with an empty namespace, so that a reader can copy them from the top; the READMEs take imports and data as given.
A ```` ```output ```` block is what the Python block before it prints: ``...`` stands for anything, and numbers may
differ by one in the last digit that the page shows. A comment ``<!-- tested with trials=8 for trials=64 -->``, on a
line of its own, makes a page's code smaller for the test. Blocks that can't run here are ```` ```py ````; they must be
Python all the same.
"""

import contextlib
import doctest
import io
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _pytest.doctest import _get_checker

import jaxnet as jn
from jaxnet.search import planning

ROOT = pathlib.Path(__file__).parents[1]
README, SEARCHING = ROOT / "README.md", ROOT / "jaxnet" / "search" / "README.md"
PAGES = sorted((ROOT / "docs").rglob("*.md"))


def run(page, given=()):
    """Runs a page's blocks and returns the names that they made."""
    text, names = page.read_text(), {"__name__": "__page__", **dict(given)}
    smaller = re.findall(r"^<!-- tested with (.+?) for (.+?) -->$", text, re.M)
    text = re.sub(r"^<!--.*?-->$", "", text, flags=re.M)  # comments leave their lines, which errors then name
    for small, large in smaller:
        assert large in text, f"{page.name} has no {large!r} to be tested with {small!r}"
        text = text.replace(large, small)
    printed = None
    for block in re.finditer(r"^```(python|py|output)\n(.*?)^```$", text, re.M | re.S):
        kind, body = block.groups()
        if kind == "output":
            assert printed is not None, f"{page.name}: an output without a block that prints it"
            flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.REPORT_NDIFF
            flags |= doctest.OPTIONFLAGS_BY_NAME["NUMBER"]
            example = doctest.Example("", body)
            checker = _get_checker()
            assert checker.check_output(body, printed, flags), checker.output_difference(example, printed, flags)
            printed = None
            continue
        body = "\n" * text.count("\n", 0, block.start(2)) + body
        code = compile(body, str(page), "exec")
        if kind == "python":
            with contextlib.redirect_stdout(io.StringIO()) as stream:
                exec(code, names)
            printed = stream.getvalue()
    return names


@pytest.fixture
def given():
    generator = np.random.default_rng(0)
    images = generator.integers(256, size=(200, 28, 28, 1)).astype(np.uint8)
    data = images, generator.integers(10, size=200).astype(np.int32)
    names = {"jax": jax, "jnp": jnp, "optax": optax, "jn": jn, "train": data, "validation": data}
    return names | {"images": images[:4].astype(np.float32) / 255}


@pytest.mark.parametrize("page", [page for page in PAGES if "```py" in page.read_text()], ids=lambda page: page.stem)
def test_the_blocks_of_the_documentation_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(planning, "cores", lambda: 2)  # the plans that pages show are for a machine of two
    run(page)


@pytest.mark.parametrize("page", [README, SEARCHING, *PAGES], ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_the_names_that_a_page_speaks_of_exist(page):
    for name in re.findall(r"`jn\.([\w.]+\w)", page.read_text()):
        value = jn
        for part in name.split("."):
            value = getattr(value, part)


def test_the_blocks_of_the_page_on_searching_run(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    names = run(SEARCHING, given)
    assert names["result"].best["units"] == 3
    for name in re.findall(r"`result\.(\w+)", SEARCHING.read_text()):
        assert hasattr(names["result"], name)


def test_the_blocks_of_the_readme_run(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    names = run(README, given)

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


def test_a_page_that_is_wrong_fails(tmp_path):
    def page(*blocks):
        path = tmp_path / "page.md"
        path.write_text("# Title\n\n" + "\n".join(f"```{kind}\n{body}\n```\n" for kind, body in blocks))
        return path

    assert run(page(("python", "x = 1"), ("python", "print(x / 3)"), ("output", "0.33")))["x"] == 1
    with pytest.raises(AssertionError, match=r"0\.3333"):
        run(page(("python", "print(1 / 3)"), ("output", "0.36")))
    with pytest.raises(AssertionError, match="without a block"):
        run(page(("python", "print(1)"), ("output", "1"), ("output", "1")))
    with pytest.raises(SyntaxError):
        run(page(("py", "x = ")))
    with pytest.raises(ZeroDivisionError) as error:
        run(page(("python", "x = 0\n\n1 / x")))
    assert error.traceback[-1].lineno + 1 == 6  # the page's own line
