"""The random search on MNIST: its flags, and the files that it leaves."""

import csv

import numpy as np
import pytest

import jaxnet as jn
from experiments import mnist
from experiments import mnist_random_search as experiment


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "new" / "folder"
    experiment.main(["--quick", "--trials", "4", "--seed", "3", "--output", str(folder)])
    return folder


def test_results_have_a_row_a_trial_within_the_space(output):
    with open(output / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["id"]) for row in rows] == [0, 1, 2, 3]
    assert all(1e-3 <= float(row["learning_rate"]) <= 1e-1 and 1e-6 <= float(row["l2"]) <= 1e-1 for row in rows)
    assert all(10 <= int(row["hidden"]) <= 1000 and 0 < float(row["score"]) < 1 for row in rows)


def test_the_search_can_be_loaded_with_its_networks(output):
    trial = experiment.make_trial(experiment.OPTIMIZER, experiment.BATCH_SIZE)
    result = jn.search.SearchResult.load(output / "search.msgpack", trial, (28, 28, 1))
    network = result.network()
    _, validation, _ = experiment.load(experiment.QUICK.examples)
    made = trial(result.hyperparameters(result.best))
    error = jn.evaluate(made, network.params, network.state, validation)["error"]
    assert error == pytest.approx(result.best["score"], abs=2 / 500)  # a digit or two may sit on the edge


def test_the_best_network_needs_numpy_alone(output):
    images, labels = mnist.load().test
    with np.load(output / "best.npz") as w:
        hidden = np.maximum(images.reshape(-1, 784) / 255 @ w["hidden_w"] + w["hidden_b"], 0)
        predicted = np.argmax(hidden @ w["output_w"] + w["output_b"], axis=1)
    assert np.mean(predicted != labels) < 0.3  # chance is 0.9; 2,500 digits and four epochs get below 0.2


def test_the_picture_and_the_report_are_there(output):
    picture = (output / "search.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 20_000
    assert b"<title>Random search over MNIST networks</title>" in (output / "search.html").read_bytes()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--trials", "0"], "--trials: expected a whole number of at least 1, got '0'"),
        (["--epochs", "two"], "--epochs: expected a whole number of at least 1, got 'two'"),
        (["--seed", "-1"], "--seed: expected a whole number from 0"),
        (["--optimizer", "rprop"], "--optimizer: invalid choice: 'rprop'"),
        (["--quick", "--batch-size", "5000"], "--batch-size: there are only 2500 training examples, got 5000"),
        (["--output", __file__], "is a file; give a folder"),
    ],
)
def test_flags_that_make_no_sense_are_told(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        experiment.main(arguments)
    assert exit_.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize("optimizer", list(experiment.OPTIMIZERS))
def test_each_optimizer_goes_downhill(optimizer):
    made = experiment.make_trial(optimizer, 128)(jn.hp(learning_rate=0.01, l2=0.0, hidden=10)).optimizer
    params = gradient = np.ones(2, np.float32)
    updates, _ = made.update(gradient, made.init(params), params)
    np.testing.assert_allclose(updates, -0.01, rtol=1e-4)  # by hand: the first step of all three is the rate
