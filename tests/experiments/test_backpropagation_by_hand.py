"""Backpropagation by hand: one unit worked out on paper, the tape's limits, and the quick run."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import backpropagation_by_hand as experiment


def test_one_unit_on_paper():
    # theta = (0, 0): a = 1/2, so delta = 1/2 - y; the gradient is the mean of delta (1, x) = ((1, 3) - (1, 1)) / 2 / 2.
    gradient = experiment.backpropagation([np.zeros((1, 2))], np.array([[3.0], [1.0]]), np.array([[0.0], [1.0]]), 0.7)
    np.testing.assert_allclose(gradient[0], [[0.0, 0.5]])


def test_the_tape_of_a_value_used_twice():
    x, *_, y = experiment.tape(lambda x: jnp.sin(x * x) + 3.0, 2.0)
    assert (x.value, y.value) == (2.0, pytest.approx(np.sin(4) + 3)) and x.adjoint == pytest.approx(4 * np.cos(4))
    with pytest.raises(ValueError, match="no rule for 'exp'; there are rules for add, sub, mul, log, sin"):
        experiment.tape(jnp.exp, 1.0)


def test_the_quick_run_gives_the_paper_s_table(tmp_path, capsys):
    experiment.main(["--quick", "--output", str(tmp_path)])
    assert "v-1 = x1              2.000     5.500" in capsys.readouterr().out
    record = json.loads((tmp_path / "backpropagation_by_hand" / "record.json").read_text())
    assert len(record["claims"]) == 3 and max(row["measured"][0] for row in record["numbers"][:4:2]) < 1e-12
