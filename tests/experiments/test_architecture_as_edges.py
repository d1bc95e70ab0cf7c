"""Architecture as edges: the counts of the course."""

import json

import jax

import jaxnet as jn
from experiments import architecture_as_edges as experiment


def test_the_matrix_of_a_convolution_has_three_weights_on_its_diagonals():
    layer = experiment.layers(5)["convolution"]
    params, _, _ = layer.init(jax.random.key(0), (5, 1))
    before, own, after = params["w"].ravel().tolist()
    assert jn.linear_map(layer, params, (5, 1))[2].tolist() == [0.0, before, own, after, 0.0]


def test_the_quick_run_counts(tmp_path):
    experiment.main(["--quick", "--output", str(tmp_path)])
    record = json.loads((tmp_path / "architecture_as_edges" / "record.json").read_text())
    counts = [row["measured"] for row in record["numbers"][:7]]
    # 16^2; 3 * 16 - 2; 3; 40,000 * 400,000; 400,000 * 100; ten times the pairs of 200 places and 10, less 25, squared.
    assert counts == [[256], [46], [3], [16e9], [40e6], [10 * 1975**2], [1000]]
