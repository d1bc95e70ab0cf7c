"""The front page: every public name is there, and importing it brings no more than layers and training need."""

import subprocess
import sys

import pytest

import jaxnet as jn


def test_importing_brings_neither_the_search_nor_what_is_slow():
    code = "import sys, jaxnet; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert {"jax", "optax", "jaxnet.layers.dense", "jaxnet.training"} <= loaded
    assert not loaded & {"jaxnet.search", "flax", "pandas", "matplotlib", "rich", "scipy.stats", "scipy.optimize"}


def test_an_import_that_fails_leaves_garbage_collection_as_it_was():
    code = """
import gc, sys
sys.modules["jaxnet.inspection"] = None
for before in (gc.enable, gc.disable):
    before()
    was = gc.isenabled()
    try:
        import jaxnet
    except ImportError:
        assert gc.isenabled() == was
    else:
        raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_of_the_search_are_there_when_they_are_used():
    from jaxnet.search import driver, space

    assert jn.Space is space.Space and jn.random_search is driver.random_search
    assert {"search", "random_search", "Space", "choice", "hp", "dense", "Trial"} <= set(dir(jn))
    for name in dir(jn):
        assert getattr(jn, name) is not None


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'jaxnet' has no attribute 'dens'"):
        jn.dens  # noqa: B018
