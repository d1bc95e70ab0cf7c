"""Logistic regression: its data, and what a quick run writes."""

import numpy as np

from experiments import logistic_regression as experiment


def test_a_pair_holds_two_digits_and_says_yes_to_the_second():
    images = np.arange(5, dtype=np.uint8)[:, None, None, None]
    kept, targets = experiment.pair((images, np.array([4, 1, 9, 4, 0])), 4, 9)
    assert kept.ravel().tolist() == [0, 2, 3] and targets.tolist() == [[0.0], [1.0], [0.0]]
