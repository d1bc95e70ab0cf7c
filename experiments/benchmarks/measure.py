"""How benchmarks measure: contenders in turn, medians with their spread, and what the machine reaches at best."""

from __future__ import annotations

import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache.compilation_cache import reset_cache

Call = Callable[[], Any]
ROUNDS = 3  # of contenders that can't share a process: the machine isn't the same from minute to minute


def in_turn(contenders: Mapping[str, Call], seconds: float, least: int = 5) -> dict[str, dict[str, Any]]:
    """Seconds of wall clock of each call, ``{"median", "quartiles", "runs"}`` by name, and of all cores: "processor".

    They take turns, so that what else the machine does falls on all of them, in an order drawn for each round, since
    who comes after another finds in the caches what that one left there. Two calls beforehand compile and warm up.

    Args:
      contenders: calls that return when their work is done, by name.
      seconds: about so many for each. least: runs of each, however long they take.

    >>> sorted(in_turn({"nothing": lambda: None}, 0.0)["nothing"])
    ['median', 'processor', 'quartiles', 'runs']
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    processor: dict[str, list[float]] = {name: [] for name in contenders}
    for call in contenders.values():
        call()
        call()
    order, generator = list(contenders), random.Random(0)
    stop, rounds = time.perf_counter() + seconds * len(contenders), 0
    while time.perf_counter() < stop or rounds < least:
        rounds += 1
        generator.shuffle(order)
        for name in order:
            started, used = time.perf_counter(), time.process_time()
            contenders[name]()
            times[name].append(time.perf_counter() - started)
            processor[name].append(time.process_time() - used)
    return {name: summary(times[name]) | {"processor": statistics.median(processor[name])} for name in contenders}


def over_rounds(rounds: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Of what several calls of ``in_turn`` returned the medians, and all runs.

    >>> measured = over_rounds([in_turn({"nothing": lambda: None}, 0.0, least=2)] * 3)
    >>> sorted(measured["nothing"]), measured["nothing"]["runs"]
    (['median', 'processor', 'quartiles', 'runs'], 6)
    """

    def over(name):
        found = [measured[name] for measured in rounds]
        low, high = zip(*(one["quartiles"] for one in found), strict=True)
        medians = {
            what: statistics.median(one[what] for one in found) for what in ("median", "processor") if what in found[0]
        }
        quartiles = [statistics.median(low), statistics.median(high)]
        return medians | {"quartiles": quartiles, "runs": sum(one["runs"] for one in found)}

    return {name: over(name) for name in rounds[0]}


def apart(module: str, **arguments: Any) -> Any:
    """What ``process(**arguments)`` of a module returns in a process of its own; both ways as JSON.

    For PyTorch, whose threads and JAX's would get in each other's way.

    Raises:
      RuntimeError: with the last line of what the process said, when it fails.
    """
    code = (
        "import importlib, json, sys; module, arguments = sys.argv[1:];"
        "print(json.dumps(importlib.import_module(module).process(**json.loads(arguments))))"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, module, json.dumps(arguments)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(run.stderr.strip().splitlines()[-1])
    return json.loads(run.stdout.splitlines()[-1])


def summary(values: list[float]) -> dict[str, Any]:
    """The median, both quartiles, and how many there are.

    >>> summary([3.0, 1.0, 2.0])
    {'median': 2.0, 'quartiles': [1.5, 2.5], 'runs': 3}
    """
    quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": statistics.median(values), "quartiles": [quartiles[0], quartiles[2]], "runs": len(values)}


def matmul_peak(seconds: float = 1.0) -> float:
    """The float32 flop/s that jitted matrix products reach on JAX's default device.

    The products are ``[128, 784] x [784, 4096]``, the first layers of many networks side by side, and
    ``[2048, 2048] x [2048, 2048]``, large enough for most processors. Each counts ``2 * m * k * n`` flops.
    The precision is JAX's default, which on some accelerators is below float32 inside the product.

    Args:
      seconds: for how long to measure, over all shapes, on top of compiling and warming up.
    Returns:
      flop/s of the faster shape, each judged by the median of its repeated measurements.
    Raises:
      ValueError: when ``seconds`` is not positive.

    >>> matmul_peak(0.1) > 1e8
    True
    """
    if not seconds > 0:
        raise ValueError(f"matmul_peak: expected a positive number of seconds, but got {seconds}. Try 1.0.")
    shapes = [(128, 784, 4096), (2048, 2048, 2048)]
    multiply = jax.jit(jnp.matmul)
    peak = 0.0
    for rows, inner, columns in shapes:
        left_key, right_key = jax.random.split(jax.random.key(0))
        left = jax.random.normal(left_key, (rows, inner))
        right = jax.random.normal(right_key, (inner, columns))
        taken = _seconds_of(lambda left=left, right=right: multiply(left, right), seconds / len(shapes))
        peak = max(peak, 2 * rows * inner * columns / taken)
    return peak


def copy_peak(size: float, seconds: float = 0.2) -> float:
    """The bytes a second that go through a copy of ``size`` bytes on JAX's default device, read and written.

    A small array stays in a cache, so a floor of something small is measured with a copy as small.

    >>> copy_peak(2**20, 0.01) > 1e6
    True
    """
    array = jnp.ones(max(1, int(size) // 4))
    copy = jax.jit(lambda a: a + 1)  # one addition, so that it isn't left out
    return 2 * array.nbytes / _seconds_of(lambda: copy(array), seconds)


@contextlib.contextmanager
def programs_kept(folder: str | os.PathLike) -> Iterator[None]:
    """Inside, compiled programs are kept in a folder, and found there, as with ``JAX_COMPILATION_CACHE_DIR``."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = [getattr(jax.config, name) for name in names]
    for name, value in zip(names, (os.fspath(folder), 0.0), strict=True):
        jax.config.update(name, value)
    reset_cache()  # JAX decides at its first compilation whether it keeps any
    try:
        yield
    finally:
        for name, value in zip(names, before, strict=True):
            jax.config.update(name, value)
        reset_cache()


def _seconds_of(call: Callable[[], Any], seconds: float) -> float:
    """The median time of a call that returns an array, measured for so many seconds."""

    def measure(calls):
        start = time.perf_counter()
        jax.block_until_ready([call() for _ in range(calls)])
        return (time.perf_counter() - start) / calls

    measure(1)  # compiles
    # On an accelerator one call may take less time than asking for it and waiting, so calls are queued
    # until a measurement lasts about 10 ms; on most processors that is one or two calls.
    calls = min(1000, max(1, round(0.01 / measure(2))))
    times, end = [], time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        times.append(measure(calls))
    return statistics.median(times)
