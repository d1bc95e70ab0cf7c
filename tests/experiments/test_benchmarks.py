"""What benchmarks say is what they measured: the README's section, the tables, and the numbers that are worked out."""

import importlib
import json
import re

import pytest

from experiments.benchmarks import __main__ as command
from experiments.benchmarks import mlp_sweep, networks, scaling, speed
from experiments.benchmarks.architectures import BATCH, NETWORKS
from experiments.benchmarks.measure import apart, in_turn, summary
from experiments.benchmarks.report import RESULTS


def test_the_readme_says_what_was_measured():
    text = speed.README.read_text()
    assert speed.BEGIN + speed.section() + speed.END in text, "run python -m experiments.benchmarks.speed"


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_tables_are_what_the_results_say(path):
    name = re.sub(r"(_\d+x\d+)?_[a-z]+$", "", path.stem)  # without the size of a search and the device
    module = importlib.import_module(f"experiments.benchmarks.{name}")
    report = json.loads(path.read_text())
    assert path.with_suffix(".md").read_text() == module.markdown(report) + "\n"
    assert name in command.BENCHMARKS and not report.get("settings", {}).get("quick")
    assert report["machine"]["device"] and report["machine"]["versions"]["jax"]


def test_an_unknown_name_is_refused_before_anything_runs(capsys):
    with pytest.raises(SystemExit, match="2"):
        command.main(["lanes", "lane"])
    assert "no benchmark is called lane; there are layers," in capsys.readouterr().err


def test_contenders_take_turns_and_the_median_stands_for_them():
    order = []
    measured = in_turn({name: lambda name=name: order.append(name) for name in "ab"}, 0.0, 20)
    assert order[:4] == ["a", "a", "b", "b"]  # two calls of each beforehand
    rounds = ["".join(order[i : i + 2]) for i in range(4, len(order), 2)]
    assert len(rounds) == 20 and set(rounds) == {"ab", "ba"}  # nobody is always first
    assert {name: made["runs"] for name, made in measured.items()} == {"a": 20, "b": 20}
    assert summary([4.0, 1.0, 2.0, 3.0]) == {"median": 2.5, "quartiles": [1.75, 3.25], "runs": 4}
    assert scaling.exponent([1, 2, 4], [3.0, 12.0, 48.0]) == pytest.approx(2.0)


def test_what_fails_in_a_process_of_its_own_says_why():
    with pytest.raises(RuntimeError, match="AttributeError: module 'json' has no attribute 'process'"):
        apart("json")


def test_operations_are_those_that_are_worked_out_by_hand():
    step = 2 * (2 * 784 + 3 * 10) * 16  # of an example: two products with the first weights, three with the second
    assert networks.flops(NETWORKS["MLP 784-16-10"]()) == pytest.approx(BATCH * step, rel=1e-3)
    evaluation = 2 * (784 + 10) * 16
    assert mlp_sweep.training_operations([{"hidden": 16}], 100, 10, 3) == 3 * (100 * step + 10 * evaluation)
    chosen = mlp_sweep.spread([{"hidden": n} for n in (8, 1, 7, 2, 6, 3, 5, 4)], 2)
    assert chosen == [{"hidden": 3}, {"hidden": 7}]
