import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.ops import recipes


@pytest.fixture
def tried():
    return []


@pytest.fixture
def find(tried):
    """Finds what a function is at 2, and notes that it was asked."""

    @recipes.by_recipe
    def find(function):
        tried.append(function)
        return function(2)

    return find


def scaled(by):
    return lambda x, offset=0: by * x + offset


def difference(x, a=0, b=0):
    return a - b


MADE_ANEW = {
    "lambda": lambda: lambda x: x + 1,
    "closure": lambda: scaled(3),
    "closure of closures": lambda: (lambda f: lambda x: f(x))(scaled(3)),
    "partial": lambda: functools.partial(scaled(3), offset=4),
    "initialiser": lambda: (lambda init: lambda x: init.__name__)(jax.nn.initializers.he_normal()),
}


@pytest.mark.parametrize("make", MADE_ANEW.values(), ids=MADE_ANEW.keys())
def test_what_is_made_anew_is_known(make, find, tried):
    assert find(make()) == find(make()) == make()(2)
    assert len(tried) == 1


def recursive():
    def power(x, n=2):
        return x if n == 0 else x * power(x, n - 1)

    return power


DIFFERENT = {
    "what is closed over": (scaled(3), scaled(4)),
    "its type": (scaled(1), scaled(1.0), scaled(True)),
    "defaults": tuple((lambda n: lambda x, by=n: by * x)(n) for n in (2, 3)),
    "keywords": tuple(functools.partial(scaled(3), offset=n) for n in (2, 3)),
    "names of keywords": tuple(functools.partial(difference, **{name: 1}) for name in "ab"),
    "code": (lambda x: x, lambda x: -x),
    "globals": tuple(types.FunctionType((lambda x: factor * x).__code__, {"factor": n}) for n in (2, 3)),  # noqa: F821
}


@pytest.mark.parametrize("functions", DIFFERENT.values(), ids=DIFFERENT.keys())
def test_what_does_something_else_is_another(functions, find, tried):
    for function in functions * 2:
        assert find(function) == function(2) and type(find(function)) is type(function(2))
    assert len(tried) == len(functions)


def test_an_array_is_not_looked_into(find, tried):
    """It may be a tracer, or large, so such a function is tried each time."""
    for by in (np.float32([1, 2]), jnp.float32(2)):
        for _ in range(2):
            np.testing.assert_array_equal(find(scaled(by)), 2 * by)
    assert len(tried) == 4


def test_a_function_that_calls_itself_and_one_with_an_empty_cell(find, tried):
    assert find(recursive()) == find(recursive()) == 8

    def made_early():
        def early():
            return lambda x: x if x else later

        function = early()
        found = find(function)
        later = 1
        return found, function(0), later

    assert made_early() == (2, 1, 1)


def test_only_the_last_are_kept(find, tried):
    for n in range(recipes.MOST + 1):
        find(scaled(n))
    find(scaled(1))
    assert len(tried) == recipes.MOST + 1
    find(scaled(0))
    assert len(tried) == recipes.MOST + 2


def test_a_lambda_and_an_initialiser_written_inside_a_trial_are_tried_once(monkeypatch):
    """They were compiled for each trace of each group: planning took sixteen times as long."""
    compiled = []
    jit = jax.jit
    monkeypatch.setattr(jax, "jit", lambda function, **options: compiled.append(function) or jit(function, **options))
    slope, spec = 0.0123, jn.Spec((3,), active=jnp.array([True, True, False]))
    for _ in range(3):
        net = jn.serial(
            jn.dense(4, w_init=jax.nn.initializers.variance_scaling(1.23, "fan_in", "normal")),
            lambda x: jnp.maximum(slope * x, x),
        )
        net.init(jax.random.key(0), spec)
    assert len([function for function in compiled if function.__name__ in ("draws", "probe")]) == 2
