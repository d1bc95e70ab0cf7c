"""Runs benchmarks, each in a process of its own, so that one's memory, threads and caches don't colour another's.

    python -m experiments.benchmarks                      all of them
    python -m experiments.benchmarks lanes networks       some; after pip install -e ".[bench]" with their peers
    python -m experiments.benchmarks.lanes --help         one, with the flags that it has of its own

Each writes NAME_cpu.json and NAME_cpu.md (or _gpu, _tpu) into the folder: medians, spread, ratios within its run, and
the device and versions that they are from. Run them with nothing else running.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from experiments.benchmarks.report import parser

BENCHMARKS = {
    "layers": "each layer by itself, forward and with gradients, against flax, equinox and PyTorch",
    "networks": "an epoch of one network, against flax, Haiku, Equinox and PyTorch",
    "lanes": "many networks at once: by the number of lanes, against one at a time and PyTorch's fused paths",
    "startup": "until the first step, and what makes compiling longer",
    "scaling": "how cost grows with lanes, trials, data, width, depth, length and devices",
    "programs": "what a training step of many lanes asks of a GPU that isn't at hand: kernels and bytes",
    "search": "what the search itself costs: its work on the host, its memory",
    "mlp_sweep": "the whole search of the course's space, against Optuna with PyTorch and with Flax",
}


def main(arguments: list[str] | None = None) -> None:
    """Runs those that are named, or all; ends with an error where one did."""
    made = parser(__doc__)
    listed = "; ".join(f"{name}, {what}" for name, what in BENCHMARKS.items())
    made.add_argument("names", nargs="*", metavar="name", help=listed)
    options = made.parse_args(arguments)
    if unknown := set(options.names) - set(BENCHMARKS):
        made.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    flags = ["--output", os.fspath(options.output)]
    flags += ["--quick"] * options.quick + (["--device", options.device] if options.device else [])
    failed = []
    for name in options.names or BENCHMARKS:
        started = time.perf_counter()
        print(f"{name}: {BENCHMARKS[name]}", flush=True)
        run = subprocess.run([sys.executable, "-m", f"experiments.benchmarks.{name}", *flags], check=False)
        failed += [name] * (run.returncode != 0)
        print(f"{name}: {time.perf_counter() - started:.0f} s\n", flush=True)
    if failed:
        raise SystemExit(f"ended with an error: {', '.join(failed)}")


if __name__ == "__main__":
    main()
