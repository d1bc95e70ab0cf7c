"""Classical filters: kernels on small images by hand, and the quick run."""

import numpy as np
import pytest

from experiments import classical_filters as experiment


def test_kernels_by_hand():
    image = np.zeros((5, 5))
    image[2, 2] = 16
    results = dict(zip(experiment.KERNELS, experiment.filtered(image, list(experiment.KERNELS.values())), strict=True))
    assert results["Gaussian blur"][1:4, 1:4].tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]
    assert results["edges, Laplacian"][2].tolist() == [0, 16, -64, 16, 0]
    even = experiment.filtered(np.ones((5, 5)), list(experiment.KERNELS.values()))
    np.testing.assert_allclose(even.mean(axis=(1, 2)), [1, 0, 0, 0, 1, 1, 1], atol=1e-6)


def test_likeness_of_neighbours():
    ramp = np.broadcast_to(np.arange(6.0), (2, 6, 6))
    assert experiment.likeness(np.indices((6, 6)).sum(axis=0)[None] % 2) == pytest.approx(-1)  # a chess board
    assert experiment.likeness(ramp) > 0.9
