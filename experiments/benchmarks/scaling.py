"""How does the cost of training grow with lanes, trials, data, width, depth, length and devices?

    python -m experiments.benchmarks.scaling             --only width names one part

Each part trains with plain SGD, batch 128, on random data, and changes one number: ``lanes`` of one program and
``trials`` of a search (784-16-10), ``data`` and ``width`` (784-N-10) of one network, ``depth`` of dense layers in a
``jn.repeat``, ``length`` of the sequences of an LSTM of 64 units; and ``predicted``, how many of 4,000 examples LeNet
6-16-120 predicts at a time. Measure: processor time of an epoch over all cores, which what else runs on a machine blurs
least, the median of several, without compiling; and the exponent p of the line through the logarithms, cost ~ number **
p. ``devices`` is the same search in processes that are forced to see one CPU as 1, 2, 4 or 8: they share its cores, so
that the best that can be is no change.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import time
from argparse import SUPPRESS
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxnet as jn
from experiments.benchmarks import architectures
from experiments.benchmarks.architectures import BATCH, Network
from experiments.benchmarks.lanes import fused_call
from experiments.benchmarks.measure import Call, in_turn, summary
from experiments.benchmarks.networks import jaxnet_call
from experiments.benchmarks.report import machine, parsed, parser, where, write


def deep(layers: int) -> Network:
    """784-128 and so many dense layers of 128 units in a ``repeat``."""
    block = jn.serial(jn.dense(128), jnp.tanh)
    net = jn.serial(jn.flatten, jn.dense(128), jn.repeat(block, layers), jn.dense(10))
    return architectures.mlp(128)._replace(jaxnet=net)


def of(network: Callable[[int], Network], steps: int = 4) -> Callable[[int], Call]:
    """An epoch of so many steps of the network of a number."""
    return lambda number: jaxnet_call(network(number), *network(number).data(steps * BATCH))


def lanes(number: int) -> Call:
    """Four steps of so many lanes."""
    network = architectures.mlp(16)
    return fused_call(network, number, *network.data(4 * BATCH))


def data(number: int) -> Call:
    """An epoch over so many examples."""
    network = architectures.mlp(128)
    return jaxnet_call(network, *network.data(number))


def predicted(number: int) -> Call:
    """The outputs for 4,000 examples, so many at a time."""
    network = architectures.NETWORKS["LeNet 6-16-120"]()
    params, state, _ = network.jaxnet.init(jax.random.key(0), network.shape)
    inputs = np.asarray(network.data(4000)[0])
    return lambda: jn.predict(network.jaxnet, params, state, inputs, batch_size=number)


CALLS: dict[str, tuple[Callable[[int], Call], tuple[int, ...]]] = {
    "lanes": (lanes, (1, 4, 16, 64, 256)),
    "data": (data, (1024, 4096, 16384)),
    "width": (of(architectures.mlp), (64, 128, 256, 512, 1024)),
    "depth": (of(deep), (2, 4, 8, 16, 32)),
    "length": (of(lambda steps: architectures.lstm(64, steps)), (10, 20, 40, 80)),
    "predicted": (predicted, (100, 200, 500, 1000, 2000)),
}


def search(trials: int, repetitions: int) -> dict[str, Any]:
    """Seconds of an epoch of a search of so many trials."""
    network = architectures.mlp(16)
    x, y = network.data(8 * BATCH)
    space = jn.Space(rate=jn.log_uniform(1e-4, 1e-2), l2=jn.log_uniform(1e-6, 1e-3))
    seconds = []
    for epochs in (1, 9) * repetitions:  # what eight epochs more take, without what comes once
        started = time.process_time()
        jn.random_search(
            functools.partial(architectures.trial, network), space, (x, y), (x[:BATCH], y[:BATCH]), trials=trials,
            epochs=epochs, key=jax.random.key(0), keep=0, progress=False,
        )  # fmt: skip
        seconds.append(time.process_time() - started)
    return summary([(many - one) / 8 for one, many in zip(seconds[::2], seconds[1::2], strict=True)])


def exponent(numbers: list[int], seconds: list[float]) -> float:
    """The slope of the line through the logarithms.

    >>> round(exponent([1, 2, 4], [3.0, 12.0, 48.0]), 6)
    2.0
    """
    return float(np.polyfit(np.log(numbers), np.log(seconds), 1)[0])


def main(arguments: list[str] | None = None) -> None:
    """Runs the parts, prints the tables and writes them as JSON and markdown."""
    flags = parser(__doc__)
    names = [*CALLS, "trials", "devices"]
    flags.add_argument("--only", choices=names, action="append", help="a part to run; may be repeated (all of them)")
    flags.add_argument("--process", action="store_true", help=SUPPRESS)
    options = parsed(flags, arguments)
    trials, repetitions = (8, 1) if options.quick else (256, 3)
    if options.process:
        print(json.dumps(search(trials, repetitions)))
        return
    rows = []

    def add(part: str, number: int, measured: dict[str, Any]) -> None:
        rows.append({"changed": part, "number": number} | measured)
        print(f"{part} {number}: {1e3 * _seconds(rows[-1]):.3g} ms", flush=True)

    for part in options.only or names:
        if part in CALLS:
            make, numbers = CALLS[part]
            calls = {str(number): make(number) for number in (numbers[:2] if options.quick else numbers)}
            measured = in_turn(calls, 0.0, 1) if options.quick else in_turn(calls, 0.5)
            for number, taken in measured.items():
                add(part, int(number), taken)
        elif part == "trials":
            for number in (4, 8) if options.quick else (16, 64, 256):
                add(part, number, search(number, repetitions))
        elif jax.default_backend() == "cpu":
            for number in (1, 2) if options.quick else (1, 2, 4, 8):
                add(part, number, forced(number, options.quick))
    report = {"machine": machine(), "settings": {"quick": options.quick}, "rows": rows}
    write(options.output, "scaling", report, markdown(report))


def forced(devices: int, quick: bool) -> dict[str, Any]:
    """The search in a process that sees so many devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "-m", "experiments.benchmarks.scaling", "--process", "--device", "cpu"]
    environment = os.environ | {"XLA_FLAGS": flags}
    run = subprocess.run(command + ["--quick"] * quick, capture_output=True, text=True, check=True, env=environment)
    return json.loads(run.stdout.splitlines()[-1])


def markdown(report: dict[str, Any]) -> str:
    """A line for each part: what was changed, milliseconds at each number, the exponent."""
    lines = [
        f"{where(report['machine'])}. Milliseconds of processor time for an epoch.",
        "",
        "| | number: ms | exponent |",
        "| --- | --- | ---: |",
    ]
    for part in dict.fromkeys(row["changed"] for row in report["rows"]):
        rows = [row for row in report["rows"] if row["changed"] == part]
        numbers, seconds = [row["number"] for row in rows], [_seconds(row) for row in rows]
        points = ", ".join(f"{n:,}: {1e3 * s:.3g}" for n, s in zip(numbers, seconds, strict=True))
        lines.append(f"| {part} | {points} | {exponent(numbers, seconds):.2f} |")
    return "\n".join(lines)


def _seconds(row: dict[str, Any]) -> float:
    return row.get("processor", row["median"])


if __name__ == "__main__":
    main()
