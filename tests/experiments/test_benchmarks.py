"""What benchmarks say is what they measured: the README's section, the tables, and the numbers that are worked out."""

import importlib
import json
import re

import jax
import jax.numpy as jnp
import pytest

from experiments.benchmarks import __main__ as command
from experiments.benchmarks import mlp_sweep, networks, scaling, speed
from experiments.benchmarks.architectures import BATCH, NETWORKS
from experiments.benchmarks.hlo import Module
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


PROGRAM = """
HloModule jit_epoch, is_scheduled=true

%fused_slice (param_0: f32[7,10,4], param_1: s32[], param_2: f32[4]) -> f32[10,4] {
  %param_0 = f32[7,10,4]{2,1,0} parameter(0)
  %param_1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  %row = f32[1,10,4]{2,1,0} dynamic-slice(%param_0, %param_1, %zero, %zero), dynamic_slice_sizes={1,10,4}
  %flat = f32[10,4]{1,0} bitcast(%row)
  %param_2 = f32[4]{0} parameter(2)
  %wide = f32[10,4]{1,0} broadcast(%param_2), dimensions={1}
  ROOT %sum = f32[10,4]{1,0} add(%flat, %wide)
}

%fused_note (param_0.1: f32[5,10,4], param_1.1: f32[10,4], param_2.1: s32[]) -> f32[5,10,4] {
  %param_0.1 = f32[5,10,4]{2,1,0} parameter(0)
  %param_1.1 = f32[10,4]{1,0} parameter(1)
  %one = f32[1,10,4]{2,1,0} bitcast(%param_1.1)
  %param_2.1 = s32[] parameter(2)
  %zero.1 = s32[] constant(0)
  ROOT %noted = f32[5,10,4]{2,1,0} dynamic-update-slice(%param_0.1, %one, %param_2.1, %zero.1, %zero.1)
}

%time (state: (s32[], f32[10,4], f32[5,10,4])) -> (s32[], f32[10,4], f32[5,10,4]) {
  %state = (s32[], f32[10,4]{1,0}, f32[5,10,4]{2,1,0}) parameter(0)
  %t = s32[] get-tuple-element(%state), index=0
  %x = f32[10,4]{1,0} get-tuple-element(%state), index=1
  %notes = f32[5,10,4]{2,1,0} get-tuple-element(%state), index=2
  %new = f32[5,10,4]{2,1,0} fusion(%notes, %x, %t), kind=kLoop, calls=%fused_note
  ROOT %next = (s32[], f32[10,4]{1,0}, /*index=2*/f32[5,10,4]{2,1,0}) tuple(%t, %x, %new)
}

%step (carry: (s32[], f32[7,10,4], f32[4])) -> (s32[], f32[7,10,4], f32[4]) {
  %carry = (s32[], f32[7,10,4]{2,1,0}, f32[4]{0}) parameter(0)
  %i = s32[] get-tuple-element(%carry), index=0
  %data = f32[7,10,4]{2,1,0} get-tuple-element(%carry), index=1
  %w = f32[4]{0} get-tuple-element(%carry), index=2
  %batch = f32[10,4]{1,0} fusion(%data, %i, %w), kind=kLoop, calls=%fused_slice
  %product = (f32[10,4]{1,0}, s8[1024]{0}) custom-call(%batch, %w), custom_call_target="__cublas$gemm"
  %made = f32[10,4]{1,0} get-tuple-element(%product), index=0
  %loop = (s32[], f32[10,4]{1,0}, f32[5,10,4]{2,1,0}) while(%made), condition=%c, body=%time, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %out = (s32[], f32[7,10,4]{2,1,0}, f32[4]{0}) tuple(%i, %data, %w)
}

ENTRY %main (a: f32[7,10,4], w: f32[4]) -> f32[4] {
  %a = f32[7,10,4]{2,1,0} parameter(0)
  %w.1 = f32[4]{0} parameter(1)
  %epoch = (s32[], f32[7,10,4]{2,1,0}, f32[4]{0}) while(%a), condition=%c, body=%step, backend_config={"known_trip_count":{"n":"7"}}
  ROOT %result = f32[4]{0} get-tuple-element(%epoch), index=2
}
"""  # noqa: E501


def test_what_a_program_moves_is_read_off_its_text():
    """By hand: the batch (160 bytes of the data) and w, and what is made of them; both again for the product, whose
    working memory isn't counted; and the notes, five times what is written, not what it is written into."""
    module = Module(PROGRAM)
    step = module.step(7)
    assert step == "step"
    batch, w, number = 160, 16, 4
    fused, product, note = batch + w + number + batch, batch + w + batch, batch + number + batch
    assert module.work(step) == (2 + 5, fused + product + 5 * note)
    unknown = Module(PROGRAM.replace('backend_config={"known_trip_count":{"n":"7"}}', ""))
    assert unknown.work(unknown.entry) == module.work(step)
    assert unknown.work(unknown.entry, (7,)) == module.work(module.entry) == (7 * 7, 7 * module.work(step).bytes)


def test_what_a_program_moves_is_what_the_compiler_says_of_it():
    """XLA's own count, of a program without a loop."""
    x, w = jnp.ones((128, 64)), jnp.ones((64, 32))
    compiled = jax.jit(lambda x, w: jnp.sum(jnp.tanh(x @ w), axis=0)).lower(x, w).compile()
    module = Module(compiled.as_text())
    own = compiled.cost_analysis()["bytes accessed"]
    assert module.work(module.entry).bytes == pytest.approx(own, rel=0.02)
