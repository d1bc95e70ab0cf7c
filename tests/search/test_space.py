"""Spaces: what values occur, how often, and what is refused."""

import math

import jax
import numpy as np
import pytest

import jaxnet as jn

BELOW_ONE = np.nextafter(1.0, 0.0)


@pytest.mark.parametrize(
    "distribution, low, high",
    [
        (jn.uniform(-2, 3), -2, 3),
        (jn.log_uniform(1e-6, 1e-1), 1e-6, 1e-1),
        (jn.integers(3, 7), 3, 7),
        (jn.log_integers(10, 1000), 10, 1000),
        (jn.integers(-3, 3, static=True), -3, 3),
    ],
)
def test_both_ends_occur_and_nothing_lies_beyond(distribution, low, high):
    assert distribution.value(0.0) == low
    assert math.isclose(distribution.value(BELOW_ONE), high, rel_tol=1e-9)
    values = [distribution.value(u) for u in np.linspace(0, BELOW_ONE, 5001)]
    assert min(values) >= low and max(values) <= high
    assert values == sorted(values)
    if distribution.count is not None and distribution.count < 100:
        assert set(values) == set(range(low, high + 1))


def test_log_integers_have_their_stated_probabilities():
    # P(n) = log((n + 1) / n) / log((high + 1) / low), so P(n <= k) = log((k + 1) / low) / log((high + 1) / low).
    points = (np.arange(200_000) + 0.5) / 200_000
    values = np.array([jn.log_integers(10, 1000).value(u) for u in points])
    for k in (10, 11, 99, 500, 999, 1000):
        expected = math.log((k + 1) / 10) / math.log(1001 / 10)
        assert abs((values <= k).mean() - expected) < 1e-4


def test_log_uniform_is_uniform_in_the_logarithm():
    values = np.array([jn.log_uniform(1e-3, 1e-1).value(u) for u in np.linspace(0, 1, 11)])
    np.testing.assert_allclose(np.diff(np.log10(values)), 0.2, rtol=1e-9)


@pytest.mark.parametrize(
    "distribution, value, place",
    [
        (jn.uniform(-2, 3), -1.0, 0.2),
        (jn.uniform(3, 3), 3, 0.5),
        (jn.log_uniform(1e-3, 1e-1), 1e-2, 0.5),
        (jn.log_uniform(2, 2), 2.0, 0.5),
        (jn.integers(3, 7), 4, 0.3),  # the middle of [0.2, 0.4)
        (jn.integers(3, 7), np.int64(7), 0.9),
        (jn.log_integers(1, 7), 1, 1 / 6),  # [1, 2) is a third of [1, 8) in the logarithm
        (jn.choice("relu", "tanh"), "tanh", 0.75),
        (jn.choice(0, 0.5), 0, 0.25),
        (jn.choice(1, True, 1.0, static=True), True, 0.5),  # equal, but not the same
        (jn.choice(None, (1, 2)), (1, 2), 0.75),
        (jn.choice(np.float32(0.5), 1.0), np.float32(1.0), 0.75),
    ],
)
def test_place_is_where_a_value_lies(distribution, value, place):
    assert math.isclose(distribution.place(value), place, rel_tol=1e-12)
    found = distribution.value(distribution.place(value))
    assert math.isclose(found, value, rel_tol=1e-12) if distribution.kind == "float" else found == value


@pytest.mark.parametrize(
    "distribution, value, message",
    [
        (jn.uniform(0, 1), 1.5, r"uniform\(0, 1\): 1.5 is not a number in \[0, 1\]"),
        (jn.uniform(0, 1), math.nan, "nan is not a number"),
        (jn.log_uniform(1, 2), True, "True is not a number"),
        (jn.integers(3, 7), 4.0, r"4.0 is not an integer in \[3, 7\]"),
        (jn.log_integers(3, 7), 8, "8 is not an integer"),
        (jn.choice("relu", "tanh"), "gelu", "'gelu' is not one of the values"),
        (jn.choice(1, 2), [1], r"\[1\] is not one of the values"),
    ],
)
def test_what_is_not_among_the_values_has_no_place(distribution, value, message):
    with pytest.raises(ValueError, match=message):
        distribution.place(value)


def test_kinds_say_what_is_fused_and_what_is_compiled():
    kinds = {
        jn.uniform(0, 1): "float",
        jn.log_integers(1, 9): "size",
        jn.log_integers(1, 9, static=True): "static",
        jn.choice(0.0, 1.0): "float",
        jn.choice(0, 0.5): "float",
        jn.choice(16, 32): "static",
        jn.choice(16, 32, static=False): "size",
        jn.choice("relu", "tanh"): "static",
        jn.choice(True, False): "static",
        jn.choice(0.0, 1.0, static=True): "static",
    }
    assert [distribution.kind for distribution in kinds] == list(kinds.values())


def test_an_entry_may_depend_on_earlier_ones():
    space = jn.Space(k2=jn.integers(10, 60), k1=lambda hp: jn.integers(5, hp.k2))
    for u in np.random.default_rng(0).random((200, 2)):
        configuration = space.configuration(u)
        assert 5 <= configuration["k1"] <= configuration["k2"] <= 60
    assert space.configuration([0.0, BELOW_ONE]) == {"k2": 10, "k1": 10}


NESTED = jn.Space(
    depth=jn.integers(1, 3, static=True),
    optimizer=jn.Space(
        name=jn.choice("sgd", "adam"),
        rate=jn.log_uniform(1e-3, 1e-1),
        momentum=lambda hp: jn.uniform(0.5, 0.9) if hp.name == "sgd" else None,
        schedule=jn.Space(warm=jn.integers(1, 9), decay=lambda hp: jn.integers(hp.warm, 10 * hp.depth)),
    ),
    net=jn.Space(
        first=jn.integers(1, 64),
        second=lambda hp: jn.integers(1, hp.first) if hp.depth > 1 else None,
        where=lambda hp: hp.second is None or hp.first < 60,
    ),
    where=lambda hp: hp.net.first > 4 * hp.depth,
)


def test_a_nested_space_has_names_with_dots_and_functions_that_see_its_own_and_earlier_ones():
    names = ["depth", "optimizer.name", "optimizer.rate", "optimizer.momentum", "optimizer.schedule.warm"]
    assert list(NESTED.entries)[:5] == names and len(NESTED) == 8
    configuration = NESTED.configuration([0.5, 0, 0.5, 0.5, BELOW_ONE, 0, 0.25, BELOW_ONE])
    assert list(configuration) == list(NESTED.entries)
    assert [type(v) for v in configuration.values()] == [int, str, float, float, int, int, int, int]
    assert configuration["optimizer.momentum"] == 0.7
    assert (configuration["optimizer.schedule.warm"], configuration["optimizer.schedule.decay"]) == (9, 9)
    assert configuration["net.second"] == configuration["net.first"] == 17
    hp = jn.hp(**configuration)
    assert hp.optimizer.schedule.decay == hp["optimizer.schedule.decay"] == hp.optimizer["schedule.decay"] == 9
    assert hp.optimizer == {name: configuration[f"optimizer.{name}"] for name in hp.optimizer}
    with pytest.raises(
        AttributeError, match=r"no hyperparameter 'rat'; the space has name, rate, momentum, schedule\."
    ):
        _ = hp.optimizer.rat
    leaves, structure = jax.tree.flatten(hp)  # numbers that are traced are leaves, what is static is not
    assert leaves == [configuration["optimizer.rate"], 0.7]
    assert jax.tree.unflatten(structure, leaves).optimizer.schedule.warm == 9


def test_hyperparameters_are_nested_by_hand():
    hp = jn.hp(optimizer=jn.hp(rate=0.1, momentum=None), hidden=3)
    assert dict(hp) == {"optimizer.rate": 0.1, "optimizer.momentum": None, "hidden": 3}
    assert jax.tree.leaves(hp.optimizer) == [0.1]


def test_what_is_compiled_in_may_be_any_number():
    assert jn.integers(0, 2**40, static=True).value(0.5) == 2**39
    assert jn.choice(1e-60, 1e60, static=True).value(0.0) == 1e-60
    assert jn.choice(0.0, math.inf, 2.0**-126).kind == "float"  # float32 has all of these


def test_an_absent_entry_is_none_and_has_one_value():
    configuration = NESTED.configuration([0, 0.9, 0.5, 0.3, 0, 0, 0.5, 0.3])
    assert configuration["optimizer.momentum"] is None and configuration["net.second"] is None
    kinds = NESTED.kinds(configuration)
    assert kinds["optimizer.momentum"] == kinds["net.second"] == kinds["depth"] == "static"
    assert (
        NESTED.kinds(configuration | {"optimizer.name": "sgd", "optimizer.momentum": 0.6})["optimizer.momentum"]
        == "float"
    )
    assert NESTED.point(configuration)[3] == NESTED.point(configuration)[7] == 0.5
    fixed = jn.Space(a=jn.choice(0.5, 1.0), b=lambda hp: 0.0 if hp.a == 1 else jn.uniform(1, 2))
    assert fixed.kinds({"a": 1.0, "b": 0.0}) == {"a": "float", "b": "float"}  # a fixed number splits no program


def test_where_says_what_is_allowed():
    assert NESTED.allows(NESTED.configuration([0, 0, 0, 0, 0, 0, 0.9, 0]))
    assert not NESTED.allows(NESTED.configuration([0, 0, 0, 0, 0, 0, 0.01, 0]))  # first is 1, not above 4
    assert not NESTED.allows(NESTED.configuration([0.5, 0, 0, 0, 0, 0, BELOW_ONE, 0]))  # first is 64, not below 60


def test_configurations_are_those_of_each_point():
    points = np.random.default_rng(0).random((50, 8))
    assert NESTED.configurations(points) == [NESTED.configuration(point) for point in points]
    plain = jn.Space(a=jn.log_uniform(1e-3, 1), b=jn.log_integers(1, 99), c=jn.choice("a", None))
    assert plain.configurations(points[:, :3]) == [plain.configuration(point) for point in points[:, :3]]
    assert plain.configurations(points[:0, :3]) == []


def test_a_configuration_by_hand_is_completed_or_refused():
    given = {"optimizer": {"rate": 0.1, "name": "adam", "schedule.warm": 2, "schedule": {"decay": 3}}}
    complete = NESTED.check(given | {"net.first": np.int64(10), "depth": 1})
    assert complete == {
        "depth": 1, "optimizer.name": "adam", "optimizer.rate": 0.1, "optimizer.momentum": None,
        "optimizer.schedule.warm": 2, "optimizer.schedule.decay": 3, "net.first": 10, "net.second": None,
    }  # fmt: skip
    assert list(complete) == list(NESTED.entries) and type(complete["net.first"]) is int
    assert NESTED.check(complete) == complete
    for change, message in [
        ({"net.third": 1}, r"the space has no \['net.third'\]; it has \['depth', "),
        ({"optimizer.rate": 1.0}, r"optimizer.rate: log_uniform\(0.001, 0.1\): 1.0 is not a number in"),
        ({"optimizer.momentum": 0.7}, r"optimizer.momentum: choice\(None\): 0.7 is not one of the values"),
        ({"optimizer.name": "sgd"}, "optimizer.momentum: uniform"),
        ({"optimizer.schedule.decay": 1}, r"decay: integers\(2, 10\): 1 is not an integer in \[2, 10\]"),
        ({"net.first": 2}, "doesn't meet where= of the space"),
    ]:
        with pytest.raises(ValueError, match=message):
            NESTED.check(complete | change)
    del complete["optimizer.rate"]
    with pytest.raises(ValueError, match=r"optimizer.rate is missing; it may be log_uniform\(0.001, 0.1\)"):
        NESTED.check(complete)


def test_hyperparameters_name_what_is_missing_and_what_is_there():
    hp = jn.hp(learning_rate=0.1, hidden=3)
    assert (hp.learning_rate, hp["hidden"], dict(hp)) == (0.1, 3, {"learning_rate": 0.1, "hidden": 3})
    with pytest.raises(AttributeError, match="no hyperparameter 'units'; the space has learning_rate, hidden"):
        _ = hp.units
    with pytest.raises(KeyError, match="no hyperparameter 'units'"):
        hp["units"]
    with pytest.raises(AttributeError, match="can't be changed"):
        hp.hidden = 4


@pytest.mark.parametrize(
    "make, kind, message",
    [
        (
            lambda: jn.uniform(2, 1),
            ValueError,
            r"uniform\(2, 1\): low must not be above high; did you mean uniform\(1, 2\)",
        ),
        (lambda: jn.log_uniform(0, 1), ValueError, r"low must be positive, got 0: a logarithmic scale has no zero"),
        (lambda: jn.log_uniform(-1, 1), ValueError, r"low must be positive, got -1"),
        (lambda: jn.log_integers(0, 9), ValueError, r"low must be positive, got 0"),
        (lambda: jn.integers(0, 9), ValueError, r"a size is at least 1; use static=True"),
        (lambda: jn.integers(1.5, 9), TypeError, r"both ends must be integers, got 1.5"),
        (lambda: jn.uniform("a", 1), TypeError, r"both ends must be numbers, got 'a'"),
        (lambda: jn.uniform(True, 1), TypeError, r"both ends must be numbers, got True"),
        (lambda: jn.uniform(0, math.inf), ValueError, r"must be finite, got inf"),
        (lambda: jn.log_uniform(1e-60, 1e-50), ValueError, r"1e-60 is out of the range of float32, as which lanes"),
        (lambda: jn.uniform(1e37, 1e39), ValueError, r"1e\+39 is out of the range of float32"),
        (lambda: jn.choice(0.1, -1e-39), ValueError, r"-1e-39 is out of the range of float32"),
        (lambda: jn.integers(1, 2**31), ValueError, r"2147483648 is more than a size can be.*use static=True"),
        (lambda: jn.log_integers(1, 2**40), ValueError, r"1099511627776 is more than a size can be"),
        (lambda: jn.choice(1, 2**31, static=False), ValueError, r"2147483648 is more than a size can be"),
        (lambda: jn.choice(), ValueError, r"at least one value"),
        (lambda: jn.choice([1], [2]), TypeError, r"can't be hashed; try a tuple"),
        (lambda: jn.choice(["adam", "sgd"]), TypeError, r"give its values one by one: choice\(\*values\)"),
        (lambda: jn.choice("a", static=False), ValueError, r"only numbers can differ within one program"),
        (lambda: jn.Space(), ValueError, r"at least one hyperparameter"),
        (lambda: jn.Space(rate=0.1), TypeError, r"rate must be a distribution.*for a fixed value try jn.choice\(0.1\)"),
        (lambda: jn.Space(score=jn.uniform(0, 1)), ValueError, r"'score' is a column of the results"),
        (lambda: jn.Space(score_error=jn.uniform(0, 1)), ValueError, r"'score_error' is a column of the results"),
        (lambda: jn.Space(values=jn.uniform(0, 1)), ValueError, r"hp.values is something else.*such as values_"),
        (lambda: jn.Space(adam=jn.Space(keys=jn.uniform(0, 1))), ValueError, r"hp.keys is something else"),
        (lambda: jn.Space(get=jn.Space(rate=jn.uniform(0, 1))), ValueError, r"hp.get is something else"),
        (lambda: jn.Space(_static=jn.uniform(0, 1)), ValueError, r"hp._static is something else"),
        (lambda: jn.hp(items=3), ValueError, r"hp.items is something else"),
        (
            lambda: jn.Space(a=lambda hp: [3]).configuration([0.5]),
            TypeError,
            r"function for a must return a distribution, or a fixed value, got \[3\]",
        ),
        (
            lambda: jn.Space(**{"a.b": jn.uniform(0, 1)}),
            ValueError,
            r"'a.b' has a dot; nest a space instead: a=jn.Space",
        ),
        (
            lambda: jn.Space(a=jn.uniform(0, 1), where=True),
            TypeError,
            r"where must be a function .* to a bool, got True",
        ),
        (
            lambda: jn.Space(a=lambda hp: jn.Space(b=jn.uniform(0, 1))).configuration([0.5]),
            TypeError,
            r"function for a must return a distribution, or a fixed value, got Space",
        ),
        (lambda: jn.Space(a=jn.uniform(0, 1)).configuration([0.5, 0.5]), ValueError, r"1 coordinates"),
    ],
)
def test_spaces_that_make_no_sense_are_refused(make, kind, message):
    with pytest.raises(kind, match=message):
        make()
