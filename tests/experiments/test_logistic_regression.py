"""Logistic regression: its data, and what a quick run writes."""

import json

import numpy as np

from experiments import logistic_regression as experiment


def test_a_pair_holds_two_digits_and_says_yes_to_the_second():
    images = np.arange(5, dtype=np.uint8)[:, None, None, None]
    kept, targets = experiment.pair((images, np.array([4, 1, 9, 4, 0])), 4, 9)
    assert kept.ravel().tolist() == [0, 2, 3] and targets.tolist() == [[0.0], [1.0], [0.0]]


def test_a_quick_run_holds_its_claims_and_writes_them(tmp_path):
    experiment.main(["--quick", "--output", str(tmp_path)])  # exits with an error where a claim doesn't hold
    record = json.loads((tmp_path / "logistic_regression" / "record.json").read_text())
    rows = {row["what"]: row["measured"] for row in record["numbers"]}
    assert np.mean(rows["test error of a single node, 0 against 1"]) < 1
    assert 10 < np.mean(rows["test error of softmax"]) < 30  # five short epochs; chance is 90
    assert (tmp_path / "logistic_regression" / record["figures"][0]["file"]).stat().st_size > 20_000
