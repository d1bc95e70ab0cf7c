"""What does the search itself cost?

    python -m experiments.benchmarks.search             both parts; --only large names one

``overhead``: a program that computes nothing, so that what is left is the search's own work on the host, with and
without a journal; ``large``: a grid of 100,000 trials planned, and 100,000 trials of 10 units searched, with the memory
that the process came to hold (from Linux's account of it). Measure: seconds of wall clock, compiling apart, the median
of repetitions; data are random, since only time is measured. What lanes save is measured by ``lanes``.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import SUPPRESS
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnet as jn
from experiments.benchmarks.report import machine, parsed, parser, where, write

RATE = jn.log_uniform(1e-4, 1e-2)


def images(examples: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images of MNIST's shape, and labels."""
    random = np.random.default_rng(0)
    return random.integers(0, 256, (examples, 28, 28, 1), np.uint8), random.integers(0, 10, examples, np.int32)


def mlp(hp) -> jn.Trial:
    """784-N-10, trained with momentum, batch 128."""
    net = jn.serial(jn.flatten, jn.dense(hp.hidden), jax.nn.relu, jn.dense(10))
    loss, metric = jn.losses.softmax_cross_entropy, jn.metrics.error
    return jn.Trial(net, loss, optax.sgd(hp.rate, momentum=0.9), metric, batch_size=128)


# A unit that computes nothing, on a carry like that of a small network.
NOTHING = jn.search.Program(
    lambda hp, key: {"w": jnp.zeros((32, 32)), "units": jnp.zeros(())},
    lambda hp, carry, key: carry | {"units": carry["units"] + 1},
    lambda hp, carry: {"score": hp.rate / carry["units"], "loss": hp.rate},
)


def overhead(quick: bool) -> list[dict[str, Any]]:
    """The search's own work: milliseconds a trial of 10 units, without compiling, and what a journal adds."""
    trials, repetitions = (64, 1) if quick else (1024, 3)
    space, rows = jn.Space(rate=RATE), []
    for name, schedule in (("full", jn.search.full()), ("successive halving", jn.search.successive_halving())):
        for journal in (False, True):
            seconds = []
            for _ in range(repetitions):
                with tempfile.TemporaryDirectory() as folder:
                    started = time.perf_counter()
                    result = jn.search.run(
                        NOTHING, space, trials=trials, epochs=10, schedule=schedule, key=jax.random.key(0), lanes=256,
                        directory=folder if journal else None, progress=False,
                    )  # fmt: skip
                    seconds.append(time.perf_counter() - started - result.compile_seconds)
            rows.append(
                {
                    "part": "overhead", "schedule": name, "journal": journal, "trials": trials,
                    "seconds": statistics.median(seconds), "ms_per_trial": 1e3 * statistics.median(seconds) / trials,
                }
            )  # fmt: skip
            print(f"{name}, journal {journal}: {rows[-1]['ms_per_trial']:.3f} ms a trial", flush=True)
    return rows


def large(quick: bool) -> list[dict[str, Any]]:
    """A large grid planned, and as many trials searched in a process of their own, whose memory is measured."""
    points = (10, 5, 4) if quick else (50, 40, 50)
    space = jn.Space(rate=RATE, l2=jn.log_uniform(1e-6, 1e-1), hidden=jn.log_integers(10, 1000))
    data, sampler = images(256), jn.search.grid(dict(zip(space.entries, points, strict=True)))
    started = time.perf_counter()
    planned = jn.search.plan(mlp, space, data, data, epochs=10, key=jax.random.key(0), sampler=sampler)
    seconds = time.perf_counter() - started
    rows = [{"part": "large", "name": "plan of a grid", "trials": planned.trials, "seconds": seconds}]
    trials = 200 if quick else 100_000
    command = [sys.executable, "-m", "experiments.benchmarks.search", "--process", str(trials)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return [*rows, {"part": "large", "name": "search", "trials": trials} | json.loads(run.stdout.splitlines()[-1])]


def process(trials: int) -> None:
    """Searches so many trials of 10 units, and prints seconds and the memory that came beside the imports."""
    before = _most_memory()
    started = time.perf_counter()
    jn.search.run(
        NOTHING,
        jn.Space(rate=RATE),
        trials=trials,
        epochs=10,
        key=jax.random.key(0),
        lanes=min(trials, 4096),
        progress=False,
    )
    print(json.dumps({"seconds": time.perf_counter() - started, "mib": _most_memory() - before}))


def _most_memory() -> float:
    """The most memory that this process has held, in MiB."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


PARTS = {"overhead": overhead, "large": large}


def main(arguments: list[str] | None = None) -> None:
    """Runs the parts, prints the tables and writes them as JSON and markdown."""
    flags = parser(__doc__)
    flags.add_argument("--only", choices=PARTS, action="append", help="a part to run; may be repeated (all of them)")
    flags.add_argument("--process", type=int, help=SUPPRESS)
    options = parsed(flags, arguments)
    if options.process:
        process(options.process)
        return
    rows = [row for part in options.only or PARTS for row in PARTS[part](options.quick)]
    report = {"machine": machine(), "settings": {"quick": options.quick}, "rows": rows}
    write(options.output, "search", report, markdown(report))


def markdown(report: dict) -> str:
    """The report as tables, one for each part."""
    lines = [where(report["machine"]) + "."]
    heads = {
        "overhead": ("schedule", "journal", "trials", "ms a trial"),
        "large": ("", "trials", "s", "MiB beside the imports"),
    }
    for part, head in heads.items():
        rows = [row for row in report["rows"] if row["part"] == part]
        if not rows:
            continue
        lines += ["", f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
        for row in rows:
            if part == "overhead":
                cells = [
                    row["schedule"],
                    "yes" if row["journal"] else "no",
                    row["trials"],
                    f"{row['ms_per_trial']:.3f}",
                ]
            else:
                cells = [
                    row["name"],
                    row["trials"],
                    f"{row['seconds']:.2f}",
                    f"{row['mib']:.0f}" if "mib" in row else "",
                ]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
