"""The documentation is built without a warning, has every public name, and fits into a browser, wide and narrow."""

import importlib
import inspect
import os
import pathlib
import re
import subprocess
import sys
import zlib
from urllib.parse import unquote, urlparse

import pytest
from filelock import FileLock

import jaxnet as jn
from docs.api_pages import found

ROOT = pathlib.Path(__file__).parents[1]
INTEROP = ("equinox", "flax", "haiku", "nnx", "optuna", "torch")
WIDE, NARROW = {"width": 1440, "height": 900}, {"width": 390, "height": 800}
LOOK = """() => ({
  links: [...new Set([...document.querySelectorAll("a[href]")].map(a => a.href).filter(h => h.startsWith("file:")))],
  ids: [...document.querySelectorAll("[id]")].map(e => e.id),
  broken: [...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src),
  wider: [document.documentElement, document.querySelector("article")].some(e => e?.scrollWidth > innerWidth),
})"""
USED_BY_MODULES = {"chosen", "check_labels", "label_uses"}  # of losses, by training, metrics and constraints


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of the built pages; of several processes that run tests one builds them."""
    shared = tmp_path_factory.getbasetemp()
    folder = (shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared) / "documentation"
    with FileLock(f"{folder}.lock"):
        if not (folder / "objects.inv").exists():
            command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "--quiet", ROOT / "docs", folder]
            run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
            assert run.returncode == 0, run.stderr
    return folder


@pytest.fixture(scope="module")
def documented(built):
    """What has an entry in the built pages, by its name."""
    entries = zlib.decompress((built / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode()
    return {name: found(name) for name in re.findall(r"^(\S+) py:", entries, re.M)}


def public(module):
    """By name what a user may take from a module: of a table of contents all of it, else what is defined there."""
    for name in sorted(set(dir(module)) - USED_BY_MODULES):
        value = getattr(module, name)
        home = getattr(value, "__module__", "")
        own = home.startswith("jaxnet") if module in (jn, jn.search, jn.models) else home == module.__name__
        if own and not name.startswith("_") and not inspect.ismodule(value):
            yield f"{module.__name__}.{name}", value


def test_every_public_name_is_in_the_api(documented):
    interop = [importlib.import_module(f"jaxnet.interop.{name}") for name in INTEROP]
    names = dict(
        entry for module in (jn, jn.search, jn.losses, jn.metrics, jn.models, *interop) for entry in public(module)
    )
    assert len(names) > 100 and "jaxnet.interop.torch.lstm" in names and "jaxnet.search.hyperband" in names
    known = {id(value) for value in documented.values()}
    assert not [name for name, value in names.items() if id(value) not in known]


def test_every_method_is_in_the_api(documented):
    classes = {value: [] for value in documented.values() if inspect.isclass(value)}
    for name, value in documented.items():
        if inspect.isclass(value):
            classes[value].append(name)
    assert {"jaxnet.search.SearchResult", "jaxnet.Space"} <= {name for names in classes.values() for name in names}
    for value, names in classes.items():
        for member, what in vars(value).items():
            if inspect.isfunction(what) or isinstance(what, (property, classmethod, staticmethod)):
                known = any(f"{name}.{member}" in documented for name in names)
                assert known or member.startswith(("_", "tree_")), (names, member)


def test_pages_in_a_browser(built, browser):
    """No errors, nothing from the network, all links and images there, and nothing wider than the screen."""
    page = browser.new_page(viewport=WIDE)
    errors, links, ids = [], {}, {}
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("requestfailed", lambda request: errors.append(f"not loaded: {request.url}"))
    page.on("request", lambda request: request.url.startswith("file:") or errors.append(f"from the net: {request.url}"))
    for path in sorted(built.rglob("*.html")):
        at = str(path.relative_to(built))
        page.goto(path.as_uri())
        seen = page.evaluate(LOOK)
        links[at], ids[path.as_uri()] = seen["links"], set(seen["ids"])
        assert not seen["wider"] and not seen["broken"], (at, "wide", seen["wider"], seen["broken"])
        page.set_viewport_size(NARROW)
        assert not (wider := page.evaluate(LOOK)["wider"]), (at, "narrow", wider)
        page.set_viewport_size(WIDE)
        assert not errors, (at, errors)
    page.close()
    for at, targets in links.items():
        for target in targets:
            place, _, anchor = target.partition("#")
            assert pathlib.Path(unquote(urlparse(place).path)).exists(), (at, target)
            assert not anchor or place not in ids or unquote(anchor) in ids[place], (at, target)
