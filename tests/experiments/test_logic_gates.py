"""Logic gates: the course's weights, and what the quick run says of what is learned."""

import json

import numpy as np

from experiments import logic_gates as experiment


def test_the_course_s_weights_make_the_gates():
    for name, outputs in experiment.by_hand().items():
        assert np.round(outputs).tolist() == experiment.TRUTH[name]
    # By hand: AND is g(-10), g(-10) and g(10); XNOR of 0 and 0 is g(-10 + 20 g(10)).
    np.testing.assert_allclose(experiment.by_hand()["AND"][1:], [4.54e-5, 4.54e-5, 0.9999546], rtol=1e-3)
    np.testing.assert_allclose(experiment.by_hand()["XNOR"][0], 1 / (1 + np.exp(-9.99909)), rtol=1e-5)


def test_the_quick_run_learns(tmp_path):
    experiment.main(["--quick", "--output", str(tmp_path)])  # ends in an error where a claim doesn't hold
    record = json.loads((tmp_path / "logic_gates" / "record.json").read_text())
    shares = {row["what"]: row["measured"] for row in record["numbers"] if row["unit"] == "%"}
    assert len(shares) == 7 and len(record["claims"]) == 6
    # Wilson's interval for 32 of 32 begins at 32 / (32 + 1.96^2).
    assert shares["AND learned by one unit, share of 32 seeds (95 % interval)"] == "100.0 (89.3 to 100.0)"
