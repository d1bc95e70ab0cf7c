"""Universal approximation: Barron's constant by hand, and the quick run."""

import numpy as np
import pytest

from experiments import universal_approximation as experiment


def test_barron_s_constant_and_the_data():
    # By hand: pi * (1 * 1 + 0.5 * 3), and in two dimensions with |frequency|_1, pi * (1 + 0.5 * 2 + 0.5 * 3).
    assert experiment.ONE.constant == pytest.approx(2.5 * np.pi)
    assert experiment.TWO.constant == pytest.approx(3.5 * np.pi)
    x, y = experiment.TWO.data(finer=2)
    assert x.shape == (48**2, 2) and y.shape == (48**2, 1)
    at = np.array([[0.5, -0.25]])  # sin(pi/2) + 0.5 sin(pi/4 + 1) + 0.5 sin(-pi)
    assert experiment.TWO(at).item() == pytest.approx(1 + 0.5 * np.sin(np.pi / 4 + 1))
