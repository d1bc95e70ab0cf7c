"""What does searching in lanes save, against one trial at a time, and what does the search itself cost?

    python -m experiments.benchmarks.search             all parts; --only lanes names one

Four parts. ``fused``: trials of an MLP, a LeNet and an LSTM, searched as the plan cuts them and with one lane at a
time; ``lanes``: a small MLP by the number of lanes; ``overhead``: a program that computes nothing, so that what is left
is the search's own work on the host, with and without a journal; ``large``: a grid of 100,000 trials planned, and
100,000 trials of 10 units searched, with the memory that the process came to hold (from Linux's account of it).
Measure: seconds of wall clock, compiling apart, the median of repetitions that take turns; ratios within one run. Data
are random, since only time is measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnet as jn
from experiments.benchmarks.report import machine, where, write

KEY = jax.random.key(0)
RATE = jn.log_uniform(1e-4, 1e-2)


def images(examples: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images of MNIST's shape, and labels."""
    random = np.random.default_rng(0)
    return random.integers(0, 256, (examples, 28, 28, 1), np.uint8), random.integers(0, 10, examples, np.int32)


def words(examples: int) -> tuple[np.ndarray, np.ndarray]:
    """Random sequences of 20 steps with 58 features, and labels of 18 classes."""
    random = np.random.default_rng(0)
    return random.normal(size=(examples, 20, 58)).astype(np.float32), random.integers(0, 18, examples, np.int32)


def classifier(net, hp) -> jn.Trial:
    """A network trained with momentum, batch 128."""
    loss, metric = jn.losses.softmax_cross_entropy, jn.metrics.error
    return jn.Trial(net, loss, optax.sgd(hp.rate, momentum=0.9), metric, batch_size=128)


def mlp(hp):
    """784-N-10."""
    return classifier(jn.serial(jn.flatten, jn.dense(hp.hidden), jax.nn.relu, jn.dense(10)), hp)


def lenet(hp):
    """6 and up to 16 filters, 120 hidden units."""
    net = jn.serial(
        jn.conv(6, (5, 5), padding="SAME"), jax.nn.relu, jn.max_pool((2, 2)), jn.conv(hp.filters, (5, 5)), jax.nn.relu,
        jn.max_pool((2, 2)), jn.flatten, jn.dense(120), jax.nn.relu, jn.dense(10),
    )  # fmt: skip
    return classifier(net, hp)


def lstm(hp):
    """Up to 128 units over 20 steps."""
    return classifier(jn.serial(jn.lstm(hp.hidden, returns="last"), jn.dense(18)), hp)


NETWORKS = {
    "MLP 784-N-10, N 16 to 64": (mlp, jn.Space(rate=RATE, hidden=jn.log_integers(16, 64)), images),
    "MLP 784-N-10, N 64 to 512": (mlp, jn.Space(rate=RATE, hidden=jn.log_integers(64, 512)), images),
    "LeNet 6-N-120, N 8 to 16": (lenet, jn.Space(rate=RATE, filters=jn.integers(8, 16)), images),
    "LSTM 58-N, N 64 to 128": (lstm, jn.Space(rate=RATE, hidden=jn.integers(64, 128)), words),
}


def fused(quick: bool) -> list[dict[str, Any]]:
    """The search as the plan cuts it against the same with one lane at a time."""
    trials, epochs, repetitions, examples = (4, 1, 1, 256) if quick else (16, 2, 3, 5120)
    rows = []
    for name, (trial, space, data) in NETWORKS.items():
        train, validation = data(examples), data(256)

        def run(lanes, trial=trial, space=space, train=train, validation=validation):
            return jn.random_search(
                trial, space, train, validation, trials=trials, epochs=epochs, key=KEY, lanes=lanes, progress=False
            )

        results = [(run(None), run(1)) for _ in range(repetitions)]
        together, alone = zip(*results, strict=True)
        row: dict[str, Any] = {"part": "fused", "name": name, "trials": trials, "epochs": epochs}
        row["lanes"] = max(group.lanes for group in together[0].plan.groups)
        for which, made in (("fused", together), ("alone", alone)):
            row[f"{which}_seconds"] = statistics.median(result.run_seconds for result in made)
            row[f"{which}_compile_seconds"] = made[0].compile_seconds
        row["times_alone"] = statistics.median(a.run_seconds / f.run_seconds for f, a in results)
        rows.append(row)
        print(f"{name}: {row['times_alone']:.2f}", flush=True)
    return rows


def lanes(quick: bool) -> list[dict[str, Any]]:
    """Microseconds for each lane and step of a small network, by the number of lanes."""
    most, examples = (16, 128) if quick else (4096, 640)
    space = jn.Space(rate=RATE, hidden=jn.choice(16, static=False))
    train, validation, rows, count = images(examples), images(128), [], 1
    while count <= most:
        epochs = max(1, 2048 // count) if not quick else 1
        result = jn.random_search(
            mlp, space, train, validation, trials=count, epochs=epochs, key=KEY, lanes=count, progress=False
        )
        steps = count * epochs * -(-examples // 128)
        rows.append(
            {
                "part": "lanes", "lanes": count, "us_per_lane_and_step": 1e6 * result.run_seconds / steps,
                "compile_seconds": result.compile_seconds,
            }
        )  # fmt: skip
        print(f"{count} lanes: {rows[-1]['us_per_lane_and_step']:.1f} us", flush=True)
        count *= 4
    return rows


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
                        NOTHING, space, trials=trials, epochs=10, schedule=schedule, key=KEY, lanes=256,
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
    planned = jn.search.plan(mlp, space, data, data, epochs=10, key=KEY, sampler=sampler)
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
        NOTHING, jn.Space(rate=RATE), trials=trials, epochs=10, key=KEY, lanes=min(trials, 4096), progress=False
    )
    print(json.dumps({"seconds": time.perf_counter() - started, "mib": _most_memory() - before}))


def _most_memory() -> float:
    """The most memory that this process has held, in MiB."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


PARTS = {"fused": fused, "lanes": lanes, "overhead": overhead, "large": large}


def main(arguments: list[str] | None = None) -> None:
    """Runs the parts, prints the tables and writes them as JSON and markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, action="append", help="a part to run; may be repeated (all of them)")
    parser.add_argument("--quick", action="store_true", help="few trials: does it run at all?")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder for the results")
    parser.add_argument("--process", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
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
        "fused": ("", "lanes", "fused, s", "one at a time, s", "times the fused search", "compiling, s"),
        "lanes": ("lanes", "us for each lane and step", "compiling, s"),
        "overhead": ("schedule", "journal", "trials", "ms a trial"),
        "large": ("", "trials", "s", "MiB beside the imports"),
    }
    for part, head in heads.items():
        rows = [row for row in report["rows"] if row["part"] == part]
        if not rows:
            continue
        lines += ["", f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
        for row in rows:
            if part == "fused":
                cells = [
                    row["name"], row["lanes"], f"{row['fused_seconds']:.2f}", f"{row['alone_seconds']:.2f}",
                    f"{row['times_alone']:.2f}",
                    f"{row['fused_compile_seconds']:.1f} and {row['alone_compile_seconds']:.1f}",
                ]  # fmt: skip
            elif part == "lanes":
                cells = [row["lanes"], f"{row['us_per_lane_and_step']:.1f}", f"{row['compile_seconds']:.1f}"]
            elif part == "overhead":
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
