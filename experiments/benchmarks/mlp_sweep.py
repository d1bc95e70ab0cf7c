"""How fast is a fused random search over MNIST networks, against one network at a time and against Optuna?

    python -m experiments.benchmarks.mlp_sweep                 64 trials, 5 epochs
    python -m experiments.benchmarks.mlp_sweep --trials 1024 --epochs 10      for a GPU; files of their own
    python -m experiments.benchmarks.mlp_sweep --only "Flax"      some of the contenders; other rows are kept

The same configurations everywhere: 784-N-10 with relu, plain SGD, batch 128, N log-uniform in 10 ... 1000, on 50,000
images, each epoch followed by (for the peers: the last one only) the 10,000 validation images. Measure: milliseconds of
wall clock for each configuration and epoch, compiling included and apart; ratios to the fused search of the same run
(with ``--only``, of the one whose rows are kept); and the share that the training arithmetic is of what the machine's
matmuls reach. Every contender has a process of its own, with nothing else running, and is warmed up on one small
configuration first, so that imports and thread pools are not counted. The fused search and the call once more train all
trials, the others some of them, evenly by width: ratios are of the time for each operation.

The fused search starts with no program known; ``compiled before`` is the same call once more, which finds its compiled
programs in a folder where the first one kept them (``JAX_COMPILATION_CACHE_DIR``).

Peers come with ``pip install -e ".[bench]"``; one that isn't installed is left out, and the table says so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import tempfile
import time
from typing import Any

import jax
import numpy as np
import optax

import jaxnet as jn
from experiments import mnist
from experiments.benchmarks import peers
from experiments.benchmarks.measure import apart, matmul_peak, programs_kept
from experiments.benchmarks.report import machine, parsed, parser, where, write

BATCH_SIZE = 128
SIZE = 64, 5  # trials and epochs
FUSED = "jaxnet, fused search"
SPACE = jn.Space(
    learning_rate=jn.log_uniform(1e-3, 1e-1), l2=jn.log_uniform(1e-6, 1e-1), hidden=jn.log_integers(10, 1000)
)


def trial(hp):
    """The network of the course, as every contender trains it."""
    return jn.Trial(
        net=jn.serial(jn.flatten, jn.dense(hp.hidden), jax.nn.relu, jn.dense(10)),
        loss=jn.losses.softmax_cross_entropy,
        penalty=jn.losses.l2(hp.l2),
        optimizer=optax.sgd(hp.learning_rate),
        metric=jn.metrics.error,
        batch_size=BATCH_SIZE,
    )


def fused(configurations, train, validation, epochs, seed):
    """``search.run`` of all configurations: validation errors, and the seconds spent waiting for compilation."""
    result = jn.search.run(
        trial, SPACE, train, validation, epochs=epochs, key=jax.random.key(seed), progress=False,
        sampler=lambda space, key, trials: [dict(c) for c in configurations],
    )  # fmt: skip
    return result.table["validation_error"].tolist(), result.compile_seconds


def one_at_a_time(configurations, train, validation, epochs, seed):
    """``fit`` of each configuration, which compiles a program for each width; the data stay on the device."""
    train, validation = jax.device_put(train), jax.device_put(validation)
    errors = []
    for i, configuration in enumerate(configurations):
        fitted = jn.fit(
            trial(jn.hp(**configuration)), train, validation, epochs=epochs, key=jax.random.key(seed), trial_id=i
        )
        errors.append(float(fitted.curve["validation_error"][-1]))
    return errors, None


def peer(function):
    """A peer in the same form."""
    return lambda configurations, train, validation, epochs, seed: (
        function(configurations, train, validation, epochs, BATCH_SIZE, seed), None
    )  # fmt: skip


CONTENDERS = {
    FUSED: fused,
    "jaxnet, fused search, compiled before": fused,
    "jaxnet, one at a time": one_at_a_time,
    "Optuna + PyTorch": peer(peers.optuna_torch),
    "Optuna + PyTorch, tuned": peer(peers.optuna_torch_tuned),
    "Optuna + Flax": peer(peers.optuna_flax),
    "Optuna + Flax, tuned": peer(peers.optuna_flax_tuned),
}


def spread(configurations: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """So many of the configurations, evenly spaced by their width: what they take stands for what all would."""
    by_width = sorted(configurations, key=lambda configuration: configuration["hidden"])
    places = (np.arange(count) + 0.5) * len(by_width) / count
    return [by_width[int(place)] for place in places]


def training_operations(configurations, examples: int, validation: int, epochs: int) -> float:
    """Multiplications and additions of the matmuls, without any padding.

    A step takes two products with the first weights (forward, their gradient) and three with the second; an evaluation
    one with each.
    """
    hidden = np.array([c["hidden"] for c in configurations], float)
    step = 2 * (2 * 784 + 3 * 10) * hidden * examples
    return float(np.sum(step + 2 * (784 + 10) * hidden * validation) * epochs)


def process(name: str, configurations: list[dict[str, Any]], options: dict[str, Any], folder: str) -> dict[str, Any]:
    """One contender's validation errors and seconds, in a process of its own."""
    train, validation = data(options["quick"])
    contender, epochs, seed = CONTENDERS[name], options["epochs"], options["seed"]
    few = (tuple(a[:256] for a in part) for part in (train, validation))
    contender([{"learning_rate": 0.1, "l2": 1e-6, "hidden": 10}], *few, 1, 0)
    with programs_kept(folder) if name.startswith(FUSED) else contextlib.nullcontext():
        started = time.perf_counter()
        errors, compiling = contender(configurations, train, validation, epochs, seed)
        return {"seconds": time.perf_counter() - started, "errors": errors, "compile_seconds": compiling}


def data(quick: bool) -> tuple[Any, Any]:
    """What is trained on, and what is validated on."""
    train, validation, _ = mnist.load()
    return (tuple(a[:512] for a in train), tuple(a[:256] for a in validation)) if quick else (train, validation)


def main(arguments: list[str] | None = None) -> None:
    """Runs the contenders, prints the table and writes it as JSON and markdown."""
    options = _parse(arguments)
    train, validation = data(options.quick)
    configurations = jn.search.random()(SPACE, jax.random.key(options.seed), options.trials)
    few = spread(configurations, min(options.fewer_trials, options.trials))
    measuring = 0.05 if options.quick else 1.0
    peak = matmul_peak(measuring)
    settings = {name: getattr(options, name) for name in ("trials", "epochs", "fewer_trials", "seed", "quick")}
    rows = _kept(options, settings)
    with tempfile.TemporaryDirectory() as folder:
        for name in CONTENDERS:
            if not re.search(options.only, name):
                continue
            mine = configurations if name.startswith(FUSED) else few
            told = {"name": name, "configurations": mine, "options": settings, "folder": folder}
            try:
                ran = apart("experiments.benchmarks.mlp_sweep", **told)
            except RuntimeError as error:
                if "ImportError" not in str(error):
                    raise
                print(f"{name}: left out, {error}")
                rows[name] = {"name": name, "left_out": str(error)}
                continue
            seconds, errors, compiling = ran["seconds"], ran["errors"], ran["compile_seconds"]
            operations = training_operations(mine, len(train[1]), len(validation[1]), options.epochs)
            rows[name] = row = {
                "name": name,
                "trials": len(mine),
                "seconds": seconds,
                "compile_seconds": compiling,
                "ms_per_configuration_and_epoch": 1e3 * seconds / len(mine) / options.epochs,
                "operations_per_second": operations / seconds,
                "best_validation_error": float(np.nanmin(errors)),
                "median_validation_error": float(np.nanmedian(errors)),
            }
            before, peak = peak, matmul_peak(measuring)  # what else the machine does may change from row to row
            row["matmul_peak"] = max(before, peak)
            row["share_of_matmul_peak"] = row["operations_per_second"] / row["matmul_peak"]
            print(f"{name}: {seconds:.1f} s", flush=True)
            made = [rows[name] for name in CONTENDERS if name in rows]
            report = {"machine": machine(), "settings": settings, "rows": made}
            write(options.output, _stem(settings), report, markdown(report))


def _stem(settings: dict[str, Any]) -> str:
    """What the files are called: searches of another size have their own."""
    size = settings["trials"], settings["epochs"]
    return "mlp_sweep" if settings["quick"] or size == SIZE else f"mlp_sweep_{size[0]}x{size[1]}"


def _kept(options: argparse.Namespace, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Rows of an earlier run with the same settings, where this one runs some of the contenders only."""
    path = options.output / f"{_stem(settings)}_{jax.default_backend()}.json"
    earlier = json.loads(path.read_text()) if options.only and path.exists() else {"settings": settings, "rows": []}
    same = all(earlier["settings"][name] == settings[name] for name in ("trials", "epochs", "seed", "quick"))
    return {row["name"]: row for row in earlier["rows"] if same}


def markdown(report: dict) -> str:
    """The report as a table."""
    settings = report["settings"]
    head = (
        f"{settings['trials']} trials of {settings['epochs']} epochs, seed {settings['seed']}; "
        f"{where(report['machine'])}. The peak is the faster of two measurements, before and after. "
        + report.get("note", "")
    )
    columns = (
        "trials", "seconds", "ms for each and epoch", "compiling", "times the fused search", "peak, GFLOP/s",
        "share of it",
    )  # fmt: skip
    lines = [head.strip(), "", f"| | {' | '.join(columns)} |", "| --- |" + " ---: |" * len(columns)]
    fused = next((row for row in report["rows"] if row["name"] == FUSED), None)
    for row in report["rows"]:
        if "left_out" in row:
            lines.append(f"| {row['name']} | not installed | | | | | | |")
            continue
        # Per operation, so that contenders that ran fewer trials compare.
        times = "" if fused is None else f"{fused['operations_per_second'] / row['operations_per_second']:.2f}"
        compiling = "-" if row["compile_seconds"] is None else f"{row['compile_seconds'] / row['seconds']:.0%}"
        each, share = row["ms_per_configuration_and_epoch"], row["share_of_matmul_peak"]
        cells = (
            row["trials"], f"{row['seconds']:.0f}", f"{each:.0f}", compiling, times, f"{row['matmul_peak'] / 1e9:.0f}",
            f"{share:.0%}",
        )  # fmt: skip
        lines.append(f"| {row['name']} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    flags = parser(__doc__)
    flags.add_argument("--trials", type=int, default=SIZE[0], help="configurations of the fused search (64)")
    flags.add_argument("--epochs", type=int, default=SIZE[1], help="passes over the data for each (5)")
    flags.add_argument(
        "--fewer-trials", type=int, default=16, help="of these, evenly by width, for the other contenders (16)"
    )
    flags.add_argument("--seed", type=int, default=0, help="of the configurations and of training (0)")
    flags.add_argument("--only", default="", help="pattern of the names of what to run (all)")
    options = parsed(flags, arguments)
    if options.quick:
        options.trials, options.epochs, options.fewer_trials = 3, 1, 1
    for name in ("trials", "epochs", "fewer_trials"):
        if getattr(options, name) < 1:
            flags.error(f"--{name.replace('_', '-')} must be at least 1")
    return options


if __name__ == "__main__":
    main()
