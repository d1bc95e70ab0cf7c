"""Hyperband on LeNet: replays by hand, and that a search on the same table does as they say."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

import jaxnet as jn
from experiments import hyperband_lenet as experiment


def test_a_replay_of_halving_by_hand():
    curves = np.array([[0.1, 0.9, 0.9], [0.2, 0.2, 0.2], [0.3, 0.1, 0.1]])  # the first is promoted, and gets worse
    log = experiment.replay(jn.search.successive_halving(3), curves)
    assert log == [(0, 0, 0, 1), (0, 1, 0, 1), (0, 2, 0, 1), (0, 0, 1, 3)]


def test_hyperband_costs_what_its_table_says_and_as_much_as_its_search(key):
    curves = np.random.default_rng(0).random((17, 9))
    log = experiment.replay(jn.search.hyperband(3), curves)
    # Algorithm 1 for R = 9, trained on when promoted: 9 * 1 + 3 * 2 + 1 * 6, then 5 * 3 + 1 * 6, then 3 * 9.
    costs = [sum(after - before for b, _, before, after in log if b == bracket) for bracket in range(3)]
    assert costs == [21, 21, 27]
    assert experiment.as_the_search_does(jn.search.hyperband(3), curves, key)


def test_the_bayesian_sampler_takes_each_of_the_pool_once():
    space = experiment.space(jn.choice(10, 20, static=True))
    configurations = jn.search.random()(space, jax.random.key(1), 6)
    points = np.array([space.point(configuration) for configuration in configurations])
    curves = np.random.default_rng(0).random((6, 3))
    taken = list(experiment.bayesian(space, points, curves, 6, jax.random.key(0)))
    assert sorted(i for i, *_ in taken) == list(range(6)) and {stretch[1:] for stretch in taken} == {(0, 3)}


def test_searches_go_on_with_new_draws():
    curves = np.random.default_rng(0).random((20, 3))
    stretches = experiment.scheduled(jn.search.successive_halving(3), 3, curves, np.random.default_rng(0))
    taken = list(itertools.islice(stretches, 8))  # three trials and one that trains on, twice
    assert [stretch[1:] for stretch in taken] == [(0, 1)] * 3 + [(1, 3)] + [(0, 1)] * 3 + [(1, 3)]
    assert len({i for i, *_ in taken}) > 3


def test_one_look_gives_both_errors():
    outputs = jnp.array([[2.0, 1.0], [2.0, 1.0], [1.0, 2.0], [2.0, 1.0]])
    targets = jnp.array([1, 1, 0, 0]), jnp.array([experiment.TRAIN, *[experiment.VALIDATION] * 2, experiment.TEST])
    np.testing.assert_allclose(experiment.counted(outputs, targets), [np.log1p(np.e), 0, 0, 0], rtol=1e-6)
    assert experiment.chosen_by(outputs, targets).tolist() == [1, 1, 1, 0]
    image = np.zeros((1, 28, 28, 1), np.uint8)
    image[0, :2, :2] = 255
    half = experiment.halved(image)
    assert half.shape == (1, 16, 16, 1) and half[0, 1, 1, 0] == 1 and half.sum() == 1
