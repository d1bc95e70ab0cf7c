"""The ten configurations: agreement of orders, and what a quick run writes."""

import numpy as np
import pytest

from experiments import ten_configurations as experiment


def test_agreement_is_the_mean_rank_correlation_of_pairs():
    # By hand, 1 - 6 sum(d ** 2) / (n (n ** 2 - 1)) with n = 4: 0.8 for one swap of neighbours, -1 for the reverse,
    # and -0.8 between the two.
    errors = np.array([[1, 1, 4], [2, 3, 3], [3, 2, 2], [4, 4, 1]]) / 100
    mean, low, high = experiment.agreement(errors, np.random.default_rng(0))
    assert mean == pytest.approx((0.8 - 1 - 0.8) / 3)
    assert low == pytest.approx(-1) and high == pytest.approx(0.8)  # resamples of two seeds have one pair


def test_the_first_epoch_below_the_known_error_is_that_of_the_mean():
    curves = np.array([[0.2, 0.05, 0.04], [0.2, 0.07, 0.05]])
    assert experiment.first_below(curves) == "3" and experiment.first_below(curves[:, :2]) == "not within 2"
