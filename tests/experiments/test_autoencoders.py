"""Autoencoders: what the experiment computes by itself, against closed forms."""

import jax
import numpy as np
import pytest

from experiments import autoencoders as experiment


def test_principal_components_are_those_of_an_svd():
    data = np.random.default_rng(0).normal(size=(50, 4)) * [1, 5, 2, 3]
    data -= data.mean(axis=0)
    variances, directions = experiment.principal_components(data)
    _, singular, rows = np.linalg.svd(data, full_matrices=False)
    np.testing.assert_allclose(variances, singular**2 / 50)
    np.testing.assert_allclose(np.abs(np.sum(directions * rows, axis=1)), 1)
    # Not the basis counts, but its span.
    assert experiment.largest_angle(rows[:2], rows[:2][::-1] * 3 + rows[0]) < 1e-5
    assert experiment.largest_angle(rows[:2], rows[1:3]) == pytest.approx(90)


def test_noise_has_its_share_of_white_and_its_deviation():
    images = np.zeros((100, 784), np.float32)
    salted = np.asarray(experiment.noise(jax.random.key(0), images, 0.25, 0.0))
    # 78,400 pixels: the standard error is 0.0015.
    assert set(np.unique(salted).tolist()) == {0.0, 1.0} and abs(salted.mean() - 0.25) < 0.005
    normal = np.asarray(experiment.noise(jax.random.key(0), images, 0.0, 0.5))
    assert abs(normal.std() - 0.5) < 0.005 and abs(normal.mean()) < 0.01


def test_the_filter_is_chosen_by_what_comes_closest():
    clean = np.zeros((2, 784), np.float32)
    specks = clean.copy()
    specks[:, 100] = 1  # a median filter takes a lone white pixel away, a Gaussian only spreads it
    apply = experiment.filtered(specks, clean)
    np.testing.assert_array_equal(apply(specks), clean)


def test_few_labels_are_as_many_of_each_digit():
    features = np.eye(10, dtype=np.float32).repeat(4, axis=0)
    labels = np.arange(10).repeat(4)
    assert experiment.accuracy(features, labels, features, labels, 20, seed=0) == 100
    with pytest.raises(ValueError, match="larger sample than population"):
        experiment.accuracy(features, labels, features, labels, 50, seed=0)
