"""Hand-made features: HoG is what it should be of an edge."""

import numpy as np

from experiments import handmade_features as experiment


def test_the_gradient_of_a_horizontal_edge_is_vertical():
    image = np.zeros((1, 28, 28, 1), np.uint8)
    image[0, 14:] = 255
    features = experiment.histograms(image)
    assert features.shape == (1, 1296) and features.dtype == np.float32
    blocks = features.reshape(6, 6, 2, 2, 9)
    orientations = blocks.sum(axis=(0, 1, 2, 3))
    assert np.argmax(orientations) == 4 and orientations[4] == orientations.sum()  # 80 to 100 degrees of 180
    lines, strengths = experiment.edges(image[0])
    seen = lines[strengths > 0.5]
    assert np.allclose(seen[:, 0, 1], seen[:, 1, 1]) and np.allclose(seen[:, :, 1], 13.5)  # lines along it, in its row
    assert not blocks[[0, 1, 4, 5]].any()  # rows of cells 0 to 2 and 4 to 6 see nothing: the edge is in row 3


def test_the_classifier_on_features_is_linear(key):
    net = experiment.classifier("pixels")
    params, state, out = net.init(key, (28, 28, 1))
    ones = np.ones((1, 28, 28, 1), np.float32)
    once, twice = (np.asarray(net.apply(params, state, k * ones)[0]) for k in (1, 2))
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-5)  # biases start at 0
    assert out.shape == (10,) and params[1]["w"].shape == (784, 10)
