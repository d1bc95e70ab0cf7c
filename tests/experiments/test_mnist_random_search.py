"""The random search on MNIST: its prediction of the best of n trials, its flags, and the files that it leaves."""

import csv
import itertools

import numpy as np
import pytest

import jaxnet as jn
from experiments import mnist, plots
from experiments import mnist_random_search as experiment

SCORES = [
    [0.3, 0.1, 0.5, 0.2, 0.4],
    [0.2, 0.1, 0.2, 0.1, 0.3, 0.3],  # ties
    [np.nan, 0.2, np.nan, 0.1, np.nan],  # three diverged
    [0.7],
]


@pytest.mark.parametrize("scores", SCORES, ids=["distinct", "ties", "diverged", "one"])
@pytest.mark.parametrize("quantile", [0.05, 0.2, 0.5, 0.6, 0.95])
def test_best_of_is_the_distribution_over_all_orders(scores, quantile):
    # By brute force: in every order, the lowest of the first n; then the least value that so many orders reach.
    worst_last = np.where(np.isnan(scores), np.inf, scores)
    lowest = np.array([np.minimum.accumulate(order) for order in itertools.permutations(worst_last)])
    expected = [next(x for x in np.sort(worst_last) if np.mean(column <= x) >= quantile - 1e-12) for column in lowest.T]
    np.testing.assert_array_equal(plots.best_of(np.array(scores), [quantile]), [expected])


def test_best_of_ends_at_the_lowest_and_stands_many_trials():
    scores = np.random.default_rng(0).permutation(1500) / 1500  # their binomials have hundreds of digits
    low, median, high = plots.best_of(scores, (0.05, 0.5, 0.95))
    assert low[-1] == median[-1] == high[-1] == 0
    assert (low <= median).all() and (median <= high).all() and (np.diff(median) <= 0).all()


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


def test_the_picture_is_one(output):
    picture = (output / "search.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 20_000


@pytest.mark.parametrize("trials", [1, 3])
@pytest.mark.parametrize("diverged", [[], [0], [0, 1, 2]], ids=["none", "one", "all"])
def test_the_picture_marks_trials_that_diverged(trials, diverged, tmp_path):
    curves = np.array([[0.4, 0.2], [0.3, 0.1], [0.2, 0.05]])[:trials]
    diverged = diverged[:trials]
    curves[diverged, 1] = np.nan
    table = {"learning_rate": np.full(3, 0.01), "l2": np.full(3, 1e-3), "hidden": np.array([10, 100, 1000])}
    table = {name: column[:trials] for name, column in table.items()}
    result = jn.search.SearchResult(table | {"score": curves[:, -1]}, {"score": curves}, list(experiment.SPACE.entries))
    best = [i for i in reversed(range(trials)) if i not in diverged]
    figure = experiment.picture(result, best)
    figure.savefig(tmp_path / "search.png")  # a warning would be an error
    crosses = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    assert sum(len(np.ravel(line.get_xdata())) for line in crosses) == len(diverged)


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
