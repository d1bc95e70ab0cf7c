"""Writes the README's section on speed from the committed results; a test holds it to them.

python -m experiments.benchmarks.speed
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from experiments.benchmarks import lanes, mlp_sweep, networks
from experiments.benchmarks.report import RESULTS

README = Path(__file__).parents[2] / "README.md"
BEGIN = "<!-- What follows is written by python -m experiments.benchmarks.speed. -->\n"
END = "<!-- That was it. -->\n"


def section() -> str:
    """What stands between the two marks, from results of a CPU."""
    sweep, whole, many, one = map(_results, ("mlp_sweep", "mlp_sweep_1024x10", "lanes", "networks"))
    lines = [
        "",
        "The search of the course's space (`mlp_sweep`), against one network at a time and against Optuna with PyTorch",
        "and with Flax, each as its users write it and tuned for speed. Compiling is included; the share is that of",
        "the machine's matmul peak; what runs fewer trials is held to the fused search by its time for each operation.",
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
        "What was aimed at on two CPU cores, and what the tables say; a tie is a difference within quartiles. Targets",
        "of an accelerator are still to be measured on one.",
        "",
        *targets(sweep, many, one),
        "",
        "Where fusing isn't faster, one network keeps both cores busy, and two side by side share their caches.",
        "What limits the LSTM and the ResNet, and what was tried, stands in `experiments/benchmarks/networks.py`.",
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


def _results(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}_cpu.json").read_text())


def main() -> None:
    """Writes the section."""
    before, rest = README.read_text().split(BEGIN)
    README.write_text(before + BEGIN + section() + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
