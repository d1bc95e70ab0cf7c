"""LeNet: shifts, changes and tiles by hand, and that the layers drawn are the network's."""

import jax
import numpy as np

import jaxnet as jn
from experiments import lenet as experiment


def test_a_shift_moves_whole_cells_and_brings_in_zeros():
    image = np.array([[1, 2], [3, 4]])[None, :, :, None]
    assert experiment.shifted(image, 0, 1)[0, ..., 0].tolist() == [[0, 1], [0, 3]]
    assert experiment.shifted(image, -1, 0)[0, ..., 0].tolist() == [[3, 4], [0, 0]]
    assert experiment.shifted(image, 0, 0).tolist() == image.tolist()


def test_the_largest_of_two_cells_does_not_notice_a_shift_inside_its_window():
    one, other = np.zeros((2, 1, 4, 4, 1), np.float32)
    one[0, 0, 0, 0], other[0, 0, 1, 0] = 1, 1
    at_once = experiment.changes(jn.max_pool((2, 2)), [one, other])
    assert at_once.tolist() == [0, 0]
    np.testing.assert_allclose(experiment.changes(experiment.subsample, [one, other]), [0, 1])  # the cell is gone
    np.testing.assert_allclose(experiment.changes(jn.serial(), [one, other]), [0, 2**0.5])


def test_what_is_drawn_is_what_the_network_computes(key):
    net = jn.models.lenet5()
    params, state, _ = net.init(key, (28, 28, 1))
    image = np.random.default_rng(0).integers(0, 256, (28, 28, 1), np.uint8)
    made = experiment.stages(net, params, state, image)
    assert made["convolution 2"].shape == (10, 10, 16) and made["pooling and relu 2"].shape == (5, 5, 16)
    logits = made["84 units"] @ np.asarray(params["head"]["w"])  # biases start at 0
    np.testing.assert_allclose(made["probability"], np.asarray(jax.nn.softmax(logits)), rtol=1e-4, atol=1e-6)
