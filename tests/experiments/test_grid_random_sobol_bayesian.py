"""Grid, random, Sobol, Bayesian: what is known of all subsets of a pool of trials, and searches side by side."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from experiments import grid_random_sobol_bayesian as experiment

ERRORS = np.array([2.0, 1.0, 4.0, 3.0, 9.0, 5.0])  # in the order of validation errors


@pytest.mark.parametrize("drawn", [1, 2, 4, 6])
def test_the_best_of_some_is_the_mean_over_all_subsets(drawn):
    best = [ERRORS[min(subset)] for subset in itertools.combinations(range(6), drawn)]
    mean, low, high = experiment.best_of(ERRORS, drawn)
    np.testing.assert_allclose(mean, np.mean(best))
    assert (low, high) == (
        np.quantile(best, 0.025, method="inverted_cdf"),
        np.quantile(best, 0.975, method="inverted_cdf"),
    )
    np.testing.assert_allclose(experiment.chances(6, drawn).sum(), 1)


@pytest.mark.parametrize("drawn", [1, 3, 5])
def test_how_many_subsets_have_a_good_trial(drawn):
    good = np.array([True, False, False, True, False, False])
    having = [good[list(subset)].any() for subset in itertools.combinations(range(6), drawn)]
    np.testing.assert_allclose(experiment.share_with_a_good_one(good, drawn), np.mean(having))
    pools = np.stack([good, np.ones(6, bool)])
    np.testing.assert_allclose(experiment.share_with_a_good_one(pools, drawn), (np.mean(having) + 1) / 2)


def test_with_many_trials_it_comes_to_the_formula():
    good = np.arange(100_000) % 20 == 0  # 5 %
    np.testing.assert_allclose(experiment.share_with_a_good_one(good, 59), 1 - 0.95**59, atol=1e-4)


def test_images_are_halved_by_means():
    images = np.zeros((1, 28, 28, 1), np.uint8)
    images[0, :2, 2:4, 0] = [[4, 8], [12, 16]]
    small = experiment.halved(images)
    assert small.shape == (1, 14, 14, 1) and small[0, 0, 1, 0] == 10 and small.sum() == 10


@pytest.mark.parametrize("name, rates, widths", [("4 rates, 3 widths", 4, 3), ("3 rates, 4 widths", 3, 4)])
def test_a_grid_has_96_configurations_that_the_space_allows(name, rates, widths):
    grid = jn.search.grid(experiment.GRIDS[name])(experiment.GRID, jax.random.key(0), None)
    assert len(grid) == 96 and len({c["learning_rate"] for c in grid}) == rates
    assert len({c["hidden"] for c in grid} | {18, 1024}) == widths
    for configuration in grid:
        experiment.SPACE.check(configuration)


@pytest.mark.parametrize(
    "chosen, deviation",
    [
        ({"uniform": 1.0, "glorot": 1.0}, (6 / (196 + 60)) ** 0.5 / 3**0.5),  # Glorot and Bengio's (2010) equation 16
        ({"uniform": 0.0, "glorot": 1.0}, (6 / (196 + 60)) ** 0.5),
        ({"uniform": 0.0, "glorot": 0.0}, 2 / 14),
    ],
)
def test_weights_start_as_the_paper_says_at_any_bound(chosen, deviation, key):
    row = {"learning_rate": 0.5, "anneal": 300.0, "batch": 20, "l2": 0.0, "penalised": 0.0, "logistic": 0.0}
    floats = {name: jnp.float32(value) for name, value in (row | chosen | {"scale": 2.0}).items() if name != "batch"}

    @jax.jit  # as in a search, where all but the batch size is traced
    def start(floats):
        net = experiment.trial(jn.hp(hidden=jn.Size(100, 60), batch=20, **floats)).net
        return net.init(key, (14, 14, 1))[0][1]["w"]

    w = np.asarray(start(floats))
    np.testing.assert_allclose(w[:, :60].std(), deviation, rtol=0.03)
    assert not w[:, 60:].any()


class Told:
    """Proposes numbers, and remembers what it was told."""

    def __init__(self, start):
        self.next, self.batch, self.told = start, 2, []

    def ask(self, count):
        self.next += count
        return [{"x": x} for x in range(self.next - count, self.next)]

    def tell(self, ids, curves, finished):
        self.told += zip(ids.tolist(), curves[:, -1].tolist(), strict=True)


def test_searches_side_by_side_are_each_told_of_their_own_trials():
    one, other = Told(0), Told(100)
    both = experiment.SideBySide([one, other])
    assert both.batch == 4 and [c["x"] for c in both.ask(4)] == [0, 100, 1, 101]
    both.tell(np.arange(4), np.array([[0.1], [0.2], [0.3], [0.4]]), np.ones(4, bool))
    assert one.told == [(0, 0.1), (1, 0.3)] and other.told == [(0, 0.2), (1, 0.4)]


@pytest.mark.parametrize("logistic", [0.0, 1.0])
def test_errors_are_those_of_the_network(logistic, key):
    images = np.random.default_rng(0).integers(0, 256, (60, 14, 14, 1)).astype(np.uint8)
    data = images, np.arange(60, dtype=np.int32) % 10
    row = {"learning_rate": 0.5, "anneal": 300.0, "hidden": 20, "batch": 20, "l2": 1e-6, "penalised": 1.0}
    row |= {"uniform": 0.0, "glorot": 0.0, "scale": 2.0}
    result = jn.random_search(
        experiment.trial,
        experiment.SPACE,
        data,
        data,
        trials=1,
        include=[row | {"logistic": logistic}],
        epochs=2,
        key=key,
        progress=False,
    )
    measured = experiment.errors_of(result, np.array([0]), data)
    np.testing.assert_allclose(measured, 100 * result.table["score"], atol=1e-4)
