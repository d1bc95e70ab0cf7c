"""Writes the README's section on speed from the committed results; a test holds it to them.

python -m experiments.benchmarks.speed
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from experiments.benchmarks import lanes, mlp_sweep, networks, programs
from experiments.benchmarks.report import RESULTS

README = Path(__file__).parents[2] / "README.md"
BEGIN = "<!-- What follows is written by python -m experiments.benchmarks.speed. -->\n"
END = "<!-- That was it. -->\n"

# Microseconds for each lane and step on an H100.
AIMS = {
    "MLP 784-128-10": 0.75, "LeNet 6-16-120": 20, f"{programs.LSTM}, unrolled": 40,
    f"{programs.LSTM}, unrolled, bfloat16": 26,
}  # fmt: skip


def section() -> str:
    """What stands between the two marks: results of a CPU, and what is counted of programs for a GPU."""
    sweep, whole, many, one = map(_results, ("mlp_sweep", "mlp_sweep_1024x10", "lanes", "networks"))
    compiled = _results("programs", "gpu")
    mlp = _least(compiled, "MLP 784-128-10", "jaxnet")
    weights, moved = mlp["floor"] / 1e6, mlp["bytes"] / 1e6
    lines = [
        "",
        "The search of the course's space (`mlp_sweep`), against one network at a time and against Optuna with PyTorch",
        'and with Flax, each both as its users write it and tuned for speed. Times include compiling. "Share of it" is',
        "the share of the machine's matmul peak. Rows with fewer trials are compared by time per operation.",
        "",
        mlp_sweep.markdown(sweep),
        "",
        "Of 1,024 trials (`mlp_sweep --trials 1024 --epochs 10`):",
        "",
        mlp_sweep.markdown(whole),
        "",
        "Many networks at once (`lanes`), without compiling, in a search as it is planned and one at a time. On a",
        "CPU a network that isn't small keeps a core busy by itself, so fusing saves where networks are small.",
        "",
        lanes.markdown(many).split("\n\n| fused")[0],
        "",
        "One network (`networks`), its training step in an epoch, without compiling.",
        "",
        networks.markdown(one),
        "",
        "What was aimed at on two CPU cores, and what the tables say; a tie is a difference within quartiles.",
        "",
        *targets(sweep, many, one),
        "",
        "Where fusing isn't faster, one network keeps both cores busy, and two side by side share their caches.",
        "What limits the LSTM and the ResNet, and what was tried, stands in `experiments/benchmarks/networks.py`.",
        "",
        "**On a GPU nothing has been timed yet.** The table comes from programs that XLA compiled for an H100 and that",
        "were not run (`programs`). What bytes take is the time that its memory needs for a step's, a lower bound",
        "unless data stay in its cache; what must be reached is what was aimed at. All are for each lane and step; the",
        "columns named alone are for one network at a time.",
        "",
        *targets_of_gpu(compiled),
        "",
        "Weights of plain SGD are moved three times a step: read forward, then read and written where their gradient",
        f"is multiplied (`jaxnet/ops/folding.py`); that is {weights:.1f} of the MLP's {moved:.1f} MB.",
        "Momentum and Adam take passes of their own.",
        "Fused, a lane's step moves about as many bytes as one network's does alone, and starts few of the kernels.",
        "",
    ]
    return "\n".join(lines)


def targets(sweep: dict[str, Any], many: dict[str, Any], one: dict[str, Any]) -> list[str]:
    """The table of targets of a CPU: measured, and whether it is met."""
    speed = {row["name"]: row.get("operations_per_second") for row in sweep["rows"]}
    steps = {row["network"]: row["seconds"] for row in one["rows"]}
    search = speed[mlp_sweep.FUSED] / speed["Optuna + PyTorch"]
    rows = [("the search, against Optuna + PyTorch", "1.7", search, False)]
    for name in ("LeNet 6-16-120", "LSTM 58-128, 20 steps", "MLP 784-512-512-10, batch norm"):
        torch, own = (steps[name][contender] for contender in ("PyTorch", "jaxnet"))
        tie = own["quartiles"][0] <= torch["quartiles"][1]
        rows.append((f"a training step of {name}, against PyTorch's", "1", torch["median"] / own["median"], tie))
    found = {(row["network"], row["contender"]): row for row in many["rows"] if "us" in row}
    for name in dict.fromkeys(row["network"] for row in many["rows"]):
        alone = min((found[name, contender] for contender in lanes.ONE_AT_A_TIME[:2]), key=lambda row: row["us"])
        fused = found[name, lanes.PLANNED]
        scale = [row["us"] / row["median"] for row in (alone, fused)]
        tie = fused["quartiles"][0] * scale[1] <= alone["quartiles"][1] * scale[0]
        rows.append((f"{name}, fused against one at a time", "1", alone["us"] / fused["us"], tie))
    lines = ["| | must reach, times | measured | |", "| --- | ---: | ---: | --- |"]
    for what, least, times, tie in rows:
        verdict = "met" if times >= float(least) else "a tie" if tie else "not met"
        lines.append(f"| {what} | {least} | {times:.2f} | {verdict} |")
    return lines


def targets_of_gpu(compiled: dict[str, Any]) -> list[str]:
    """Tables of an H100: what must be reached, and what the programs allow."""
    columns = (
        "lanes", "must reach, us", "bytes take, us", "kernels", "alone: bytes take, us", "alone: kernels",
    )  # fmt: skip
    lines = [f"| | {' | '.join(columns)} |", "| --- |" + " ---: |" * len(columns)]
    for name, count in programs.LANES.items():
        cells = [str(count), str(AIMS.get(name, ""))]
        for row in (_least(compiled, name, "jaxnet"), _least(compiled, name, programs.ALONE)):
            kernels = row["kernels"] / row["lanes"]
            took = 1e6 * row["bytes"] / programs.BANDWIDTH
            cells += [f"{took:.3g}", f"{kernels:.2g}" if kernels < 10 else f"{kernels:.0f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    groups = [row for row in compiled["rows"] if row["network"] == programs.SEARCH]
    each = sorted(map(programs.seconds_of_compiling, groups))
    took = min(moved for moved, _ in programs.seconds_of_search(compiled).values())
    trials, epochs = programs.SEARCH_SIZE
    search = f"a search of {trials:,} trials, {epochs} epochs of full MNIST"
    compiling = f"{each[0]:.1f} to {each[-1]:.1f} s on two cores, without autotuning"
    return [
        *lines,
        "",
        "| | must reach | |",
        "| --- | ---: | --- |",
        f"| {search}, compiled before | 8 s | bytes take {took:.1f} s |",
        f"| the same, nothing compiled before | 15 s | bytes take {took:.1f} s, once its first group is compiled |",
        f"| compiling one of its {len(groups) // len(programs.MULTIPLIERS)} groups | 2 s | {compiling} |",
    ]


def _least(compiled: dict[str, Any], name: str, contender: str) -> dict[str, Any]:
    """Of a network's programs that with the fewest bytes."""
    rows = [row for row in compiled["rows"] if (row["network"], row["contender"]) == (name, contender)]
    return min(rows, key=lambda row: row["bytes"])


def _results(name: str, device: str = "cpu") -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}_{device}.json").read_text())


def main() -> None:
    """Writes the section."""
    before, rest = README.read_text().split(BEGIN)
    README.write_text(before + BEGIN + section() + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
