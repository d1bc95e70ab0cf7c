"""Samplers: which configurations are proposed."""

import itertools

import jax
import numpy as np
import pytest
from scipy import stats

import jaxnet as jn

SPACE = jn.Space(rate=jn.log_uniform(1e-3, 1e-1), hidden=jn.log_integers(10, 1000), act=jn.choice("relu", "tanh"))


@pytest.mark.parametrize("sampler", [jn.search.random(), jn.search.sobol()], ids=["random", "sobol"])
@pytest.mark.parametrize("fewer", [64, 50, 1])
def test_more_trials_begin_with_the_trials_of_fewer(sampler, fewer, key):
    many, few = (sampler(SPACE, key, n) for n in (256, fewer))
    assert many[:fewer] == few and len(few) == fewer
    assert sampler(SPACE, jax.random.key(1), fewer) != few


def test_a_sobol_sequence_has_one_point_in_each_part_of_each_axis(key):
    """And so has every half of it; the points are scipy's."""
    space = jn.Space(a=jn.uniform(0, 64), b=jn.uniform(0, 64), c=jn.uniform(0, 64))
    rows = jn.search.sobol()(space, key, 64)
    for name in space.entries:
        assert sorted(int(row[name]) for row in rows) == list(range(64))
        assert sorted(int(row[name]) // 2 for row in rows[:32]) == list(range(32))
    assert len({tuple(int(row[name]) // 16 for name in "ab") for row in rows[:16]}) == 16


@pytest.mark.parametrize("sampler", [jn.search.random(), jn.search.sobol()], ids=["random", "sobol"])
def test_draws_follow_their_distributions(sampler, key):
    rows = sampler(SPACE, key, 4000)
    rates = np.log([row["rate"] for row in rows])
    low, high = np.log([1e-3, 1e-1])
    assert stats.kstest(rates, stats.uniform(low, high - low).cdf).pvalue > 0.01
    hidden = np.array([row["hidden"] for row in rows])
    assert hidden.min() < 12 and hidden.max() > 900
    expected = np.log(101 / 10) / np.log(1001 / 10)
    assert abs((hidden <= 100).mean() - expected) < 0.03
    assert abs(np.mean([row["act"] == "relu" for row in rows]) - 0.5) < 0.03
    assert abs(np.corrcoef(rates, np.log(hidden))[0, 1]) < 0.05  # one coordinate says nothing of another


def test_a_grid_has_every_combination_with_its_ends():
    rows = jn.search.grid({"rate": 3, "hidden": 2})(SPACE, None, None)
    assert len(rows) == 3 * 2 * 2
    assert sorted({row["hidden"] for row in rows}) == [10, 1000]
    np.testing.assert_allclose(sorted({row["rate"] for row in rows}), [1e-3, 1e-2, 1e-1], rtol=1e-9)
    assert len({tuple(row.items()) for row in rows}) == len(rows)


def test_a_corner_of_a_grid_is_taken_with_a_warning():
    with pytest.warns(UserWarning, match=r"first of 12 points, where 'rate' .*Leave trials= out .*or sobol\(\)"):
        rows = jn.search.grid({"rate": 3, "hidden": 2})(SPACE, None, 4)
    assert rows == jn.search.grid({"rate": 3, "hidden": 2})(SPACE, None, None)[:4]
    assert len(jn.search.grid({"rate": 3, "hidden": 2})(SPACE, None, 12)) == 12


def test_a_grid_over_few_integers_and_dependent_entries_takes_each_once():
    space = jn.Space(depth=jn.integers(1, 3, static=True), width=lambda hp: jn.integers(1, hp.depth))
    rows = jn.search.grid(9)(space, None, None)
    assert [(row["depth"], row["width"]) for row in rows] == [(1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3)]


PAIRS = jn.Space(a=jn.integers(1, 8), b=jn.integers(1, 8), where=lambda hp: hp.a < hp.b)  # 28 of 64


@pytest.mark.parametrize("sampler", [jn.search.random(), jn.search.sobol()], ids=["random", "sobol"])
def test_with_where_more_trials_begin_with_the_trials_of_fewer(sampler, key):
    many = sampler(PAIRS, key, 280)
    assert len(many) == 280 and all(c["a"] < c["b"] for c in many)
    for fewer in (1, 5, 64, 100):
        assert sampler(PAIRS, key, fewer) == many[:fewer]
    counts = np.unique([8 * c["a"] + c["b"] for c in many], return_counts=True)[1]
    assert stats.chisquare(counts).pvalue > 0.01 and len(counts) == 28  # each pair as likely as the others


def test_a_grid_with_where_has_the_points_that_meet_it(key):
    rows = jn.search.grid(8)(PAIRS, key, None)
    assert [(row["a"], row["b"]) for row in rows] == list(itertools.combinations(range(1, 9), 2))
    with pytest.warns(UserWarning, match="trials=5 takes the first of more points, where 'a' hardly varies"):
        assert jn.search.grid(8)(PAIRS, key, 5) == rows[:5]
    assert jn.search.grid(8)(PAIRS, key, 28) == rows  # without a warning
    with pytest.raises(ValueError, match="29 trials asked for, but the grid has only 28"):
        jn.search.grid(8)(PAIRS, key, 29)


@pytest.mark.parametrize("sampler", [jn.search.random(), jn.search.sobol()], ids=["random", "sobol"])
def test_where_that_hardly_anything_meets_is_refused_with_the_share(sampler, key):
    nothing = jn.Space(x=jn.uniform(0, 1), where=lambda hp: hp.x > 1)
    with pytest.raises(ValueError, match=r"where= of the space allows 0 of \d+ configurations drawn"):
        sampler(nothing, key, 4)
    with pytest.raises(ValueError, match="where= of the space allows no point of the grid"):
        jn.search.grid()(nothing, key, None)


@pytest.mark.parametrize("distribution, law", [
    (jn.uniform(-2, 3), stats.uniform(-2, 5)),
    (jn.log_uniform(1e-3, 10), stats.loguniform(1e-3, 10)),
    (jn.integers(3, 7), stats.randint(3, 8)),
    (jn.log_integers(1, 7), stats.rv_discrete(values=(range(1, 8), np.log2(np.arange(2, 9) / np.arange(1, 8)) / 3))),
    (jn.choice(0.5, 2.0, 3.0), stats.rv_discrete(values=(range(3), [1 / 3] * 3))),
], ids=["uniform", "log_uniform", "integers", "log_integers", "choice"])  # fmt: skip
@pytest.mark.parametrize("sampler", [jn.search.random(), jn.search.sobol()], ids=["random", "sobol"])
def test_draws_follow_the_laws_that_scipy_has(sampler, distribution, law, key):
    """Kolmogorov and Smirnov's test for continuous ones, chi-squared for the others; Sobol's pass easily."""
    draws = [row["x"] for row in sampler(jn.Space(x=distribution), key, 2048)]
    if distribution.count is None:
        assert stats.kstest(draws, law.cdf).pvalue > 0.01
        return
    values = [distribution.value((i + 0.5) / 999) for i in range(999)]
    values = sorted(set(values))
    expected = 2048 * law.pmf(values if distribution.bounds else range(3))
    assert stats.chisquare([draws.count(value) for value in values], expected).pvalue > 0.01


def test_what_can_not_be_sampled_is_refused(key):
    with pytest.raises(ValueError, match="random search needs trials="):
        jn.search.random()(SPACE, key, None)
    with pytest.raises(ValueError, match="Sobol search needs trials="):
        jn.search.sobol()(SPACE, key, None)
    with pytest.raises(ValueError, match=r"the space has no \['widht'\]; it has \['rate', 'hidden', 'act'\]"):
        jn.search.grid({"widht": 3})(SPACE, key, None)
    with pytest.raises(ValueError, match="9999 trials asked for, but the grid has only 50; try more points"):
        jn.search.grid(5)(SPACE, key, 9999)
    with pytest.raises(ValueError, match="grid: points must be at least 1"):
        jn.search.grid(0)
