"""Depth: gradients at each layer, the theory beside them, a schedule, and what is said without a folder."""

import json
import types

import jax
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from experiments import depth as experiment
from experiments.record import Record


def test_the_last_layers_gradient_is_that_of_the_loss_through_the_head(key, monkeypatch):
    monkeypatch.setattr(experiment, "LOOKED_AT", 3)
    kind = experiment.KINDS["relu, He"]
    images = np.random.default_rng(0).uniform(size=(5, 2, 2, 1)).astype(np.float32)
    labels = np.arange(5)
    net = experiment.network(kind, 2, 3, experiment.tap(5))
    params = jax.device_get(jax.jit(lambda key: net.init(key, (2, 2, 1))[0])(key))
    # The network in NumPy: a dense layer, twice relu of a matrix, the head.
    first, head = params["first"][1], params["head"][0]
    w = params["layers"][0][0]["w"]  # [layers, 3, 3]
    a = [images.reshape(5, 4) @ first["w"] + first["b"]]
    for matrix in w:
        a.append(np.maximum(a[-1] @ matrix, 0))
    logits = a[-1] @ head["w"] + head["b"]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    last = (p - np.eye(10)[labels]) @ head["w"].T
    before = (last * (a[2] > 0)) @ w[1].T
    wanted = [np.sqrt(np.mean(np.sum(d**2, axis=1))) for d in (before, last)]
    made = experiment.gradients(kind, 2, images, labels, key[None])
    np.testing.assert_allclose(made, [wanted], rtol=1e-4)


def test_the_factors_of_theory_are_integrals_over_a_normal_variable():
    sigmoid = experiment.mean_field(experiment.KINDS["sigmoid, LeCun"], 30)

    def mean(f, q):
        return scipy.integrate.quad(lambda z: f(np.sqrt(q) * z) * scipy.stats.norm.pdf(z), -10, 10)[0]

    def s(h):
        return 1 / (1 + np.exp(-h))

    q = 1.0
    for factor in sigmoid:
        assert factor == pytest.approx(np.sqrt(mean(lambda h: (s(h) * (1 - s(h))) ** 2, q)), rel=1e-4)
        q = mean(lambda h: s(h) ** 2, q)


@pytest.mark.parametrize(
    "name, factor",
    [
        ("relu, LeCun", np.sqrt(0.5)), ("relu, He", 1), ("residual", np.sqrt(2)),
        ("batch norm", 1.2112),  # Yang et al. (2019): pi / (pi - 1) is 1.467
    ],
)  # fmt: skip
def test_the_factors_of_relu_are_known(name, factor):
    np.testing.assert_allclose(experiment.mean_field(experiment.KINDS[name], 6), [factor] * 5, rtol=1e-4)


def test_past_a_norm_the_gradient_grows_ever_slower():
    # The variance after l blocks is start + l (1 - 1 / pi), and the next one adds its inverse to the gradient's square.
    made = experiment.mean_field(experiment.KINDS["residual, batch norm"], 3, 0.1)
    np.testing.assert_allclose(made**2 - 1, [1 / (0.1 + 0.681690), 1 / (0.1 + 2 * 0.681690)], rtol=1e-4)


def test_images_are_halved_to_means():
    image = np.array([[0, 255, 0, 0], [255, 255, 0, 51]], np.uint8).reshape(1, 2, 4, 1)
    np.testing.assert_allclose(experiment.halved(image).ravel(), [0.75, 0.05], rtol=1e-6)


def test_rates_of_the_published_64000_steps():
    rate = experiment.cifar_rates(64_000)
    at = [0, 399, 400, 31_999, 32_000, 47_999, 48_000, 63_999]
    np.testing.assert_allclose([rate(step) for step in at], [0.01, 0.01, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_what_diverged_has_no_final_error():
    table = {"status": np.array(["completed", "diverged"])}
    curves = {"train_error": np.array([[[0.5, 0.25], [0.5, 0.75]], [[0.5, np.nan], [0.5, 0.1]]])}
    made = experiment.final(types.SimpleNamespace(table=table, repeated=curves), "train_error")
    np.testing.assert_array_equal(made, [[25, 75], [np.nan, np.nan]])


def test_without_a_folder_the_table_says_what_is_wanted(tmp_path):
    record = Record("depth", "?", ["--quick", "--output", str(tmp_path)], folders={"cifar": "CIFAR-10"})
    experiment.on_cifar(record, 1)
    record.finish()
    rows = json.loads((tmp_path / "depth" / "record.json").read_text())["numbers"]
    assert len(rows) == 5 and all(row["measured"] == "not run" and "--cifar FOLDER" in row["note"] for row in rows)
    record = Record("depth", "?", ["--output", str(tmp_path), "--cifar", str(tmp_path / "x")], folders={"cifar": "it"})
    with pytest.raises(FileNotFoundError, match="is not there"):
        experiment.on_cifar(record, 1)
