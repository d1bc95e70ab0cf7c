"""Samplers: which configurations are proposed."""

import jax
import numpy as np
import pytest

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
    from scipy import stats

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


def test_a_grid_over_few_integers_and_dependent_entries_takes_each_once():
    space = jn.Space(depth=jn.integers(1, 3, static=True), width=lambda hp: jn.integers(1, hp.depth))
    rows = jn.search.grid(9)(space, None, None)
    assert [(row["depth"], row["width"]) for row in rows] == [(1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3)]


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
