"""Architecture as edges: the counts of the course."""

import jax

import jaxnet as jn
from experiments import architecture_as_edges as experiment


def test_the_matrix_of_a_convolution_has_three_weights_on_its_diagonals():
    layer = experiment.layers(5)["convolution"]
    params, _, _ = layer.init(jax.random.key(0), (5, 1))
    before, own, after = params["w"].ravel().tolist()
    assert jn.linear_map(layer, params, (5, 1))[2].tolist() == [0.0, before, own, after, 0.0]
