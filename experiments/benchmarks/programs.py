"""What does a training step of many lanes ask of a GPU that isn't at hand?

    python -m experiments.benchmarks.programs          --only LSTM lists what to compile

XLA compiles for an H100 where none is, given its description, after ``pip install jax-cuda12-plugin jax-cuda12-pjrt
nvidia-cuda-nvcc-cu12`` (of jaxlib's version). Nothing runs: what is told is the kernels that a training step starts,
and the bytes that they read and write if nothing stays in a cache between them; and how long the H100's memory takes
for as many bytes, each lane's share of which no step can be faster than. Without the plugin the programs are those of
this machine, and the time is left out.

The programs are those of a search: that which makes the lanes, and that which trains them for an epoch. Networks are
those of ``lanes``: plain SGD with an l2 penalty, both different in each lane, batch 128 that all lanes share, float32;
beside them one network at a time, and flax's, trained by a ``scan`` written by hand and vmapped as a whole. Then all
groups of a whole search, that of ``mlp_sweep``: the bytes of all its epochs, with the validation behind each. XLA would
choose for each product who multiplies, by trying: Triton, whose kernels take in what is computed before and after, or
cuBLAS. It can't try here, so there is one program with either, and times of compiling are without the trying.

The floor is the weights alone, read twice and written once. Bytes that can't be saved are above it: the activations of
a lane are many times its weights in all of these networks but the MLP.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies

import jaxnet as jn
from experiments.benchmarks import architectures, mlp_sweep
from experiments.benchmarks.architectures import BATCH, NETWORKS, Network
from experiments.benchmarks.hlo import Module
from experiments.benchmarks.report import kept, machine, parsed, parser, where, write
from jaxnet.ops.scan import SEGMENT
from jaxnet.search.devices import Devices
from jaxnet.search.lanes import _lower
from jaxnet.search.planning import Group, make_plan
from jaxnet.training import Keys, supervised

H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 device_memory_size: 84929347584
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 }
runtime_version { major: 12 minor: 9 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
BANDWIDTH = 3.352e12  # bytes a second, of its memory, as its description has it
MULTIPLIERS = {  # XLA's options for each
    "Triton": {"xla_gpu_enable_triton_gemm": True, "xla_gpu_autotune_level": 0},
    "cuBLAS": {"xla_gpu_enable_triton_gemm": False, "xla_gpu_autotune_level": 0},
}
COMPILING = ("trace", "making", "training")
STEPS = 7  # of an epoch, and of no other loop
FLAX = "flax, vmapped"
ALONE = "jaxnet, one at a time"
SEARCH = "search of 784-N-10"
SEARCH_SIZE = 1024, 10  # trials and epochs
MEMORY = 0.75 * 84929347584  # bytes for lanes, as a search takes them of what is free

LSTM = "LSTM 58-128, 20 steps"
UNROLLED = jn.serial(jn.lstm(128, returns="last", unroll=True), jn.dense(10))
OWN = {  # that only jaxnet has
    f"{LSTM}, unrolled": lambda: NETWORKS[LSTM]()._replace(jaxnet=UNROLLED),
    f"{LSTM}, unrolled, bfloat16": lambda: NETWORKS[LSTM]()._replace(jaxnet=jn.with_dtype(UNROLLED, jnp.bfloat16)),
}
LANES = {
    "MLP 784-128-10": 1024, "LeNet 6-16-120": 256, "LeNet 32-64-256": 256, LSTM: 256, **dict.fromkeys(OWN, 256),
    "ResNet 8, 16 filters": 64,
}  # fmt: skip


class Timed(NamedTuple):
    """A program up to the compiler, which gives the seconds that it takes besides."""

    lowered: Any

    def compile(self, options: dict[str, bool | int] | None) -> tuple[Any, float]:
        started = time.perf_counter()
        compiled = self.lowered.compile(compiler_options=options)
        return compiled, time.perf_counter() - started


class Elsewhere(Devices):
    """A device that isn't at hand: programs are compiled for shapes that lie there, and timed.

    Args:
      sharding: that names it, or None for this machine.
    """

    def __init__(self, sharding: Any):
        super().__init__()
        self.sharding = sharding

    def over_lanes(self, function: Callable[..., Any], in_axes: Any, **options: Any) -> Any:
        made = super().over_lanes(function, in_axes, **options)
        lower = made.lower
        made.lower = lambda *arguments: Timed(lower(*placed(arguments, self.sharding)))
        return made


def lowered(network: Network, lanes: int, sharding: Any) -> Callable[..., Any]:
    """The programs of a group of so many lanes, up to the compiler, as ``_lower`` returns them."""
    key, (x, y) = jax.random.key(0), network.data(STEPS * BATCH)
    program = supervised(
        lambda hp: architectures.trial(network, hp), (x, y), (x[:1], y[:1]), order_key=key, shuffle="shared"
    )
    group = Group(np.arange(lanes), {}, ["rate", "l2"], {}, lanes, bytes=0, waste=0.0, seconds=0.0)
    return _lower(program, group, lanes, Keys.of(key), Elsewhere(sharding))


def lowered_by_hand(peer: architectures.Peer, network: Network, lanes: int, sharding: Any) -> Callable[..., Any]:
    """An epoch as a ``scan`` in a peer, vmapped, and what makes its lanes, in the same form."""
    x, y = network.data(STEPS * BATCH)
    key, order = jax.random.key(0), jnp.arange(len(x))
    keys, each = jax.random.split(key, lanes), jnp.zeros(lanes)
    init = jax.jit(jax.vmap(lambda key: peer.init(key, x[:BATCH])))
    epoch = jax.vmap(architectures.epoch(peer, STEPS), in_axes=(0, 0, 0, 0, None, None, None, None))
    arguments = placed((*jax.eval_shape(init, keys), each, each, key, order, x, y), sharding)
    started = Timed(init.lower(placed(keys, sharding)))
    advanced = Timed(jax.jit(epoch, donate_argnums=(0, 1)).lower(*arguments))
    return lambda options: (started.compile(options), [advanced.compile(options)])


def counted(programs: Callable[..., Any], lanes: int, steps: int, options: dict[str, bool | int]) -> dict[str, Any]:
    """What the compiled programs do: in a step for each lane, and in an epoch in all; and seconds of compiling."""
    (_, making), ((advance, training),) = programs(options or None)
    module = Module(advance.as_text())
    work, rounds = module.work(module.step(steps)), math.ceil(steps / SEGMENT)
    return {
        "kernels": int(work.kernels),
        "bytes": work.bytes / lanes,
        "epoch_bytes": module.work(module.entry, (rounds, steps / rounds)).bytes,
        "making_seconds": making,
        "training_seconds": training,
        "memory": advance.memory_analysis().temp_size_in_bytes / lanes,
    }


def measure(name: str, lanes: int, sharding: Any) -> list[dict[str, Any]]:
    """A row for each program of a network."""
    network = (NETWORKS | OWN)[name]()
    contenders: dict[str, tuple[int, Callable[..., Any]]] = {"jaxnet": (lanes, lowered), ALONE: (1, lowered)}
    if name not in OWN and (flax := architectures.jax_peers(network).get("flax")):
        contenders[FLAX] = lanes, lambda *arguments: lowered_by_hand(flax, *arguments)
    rows = []
    for contender, (count, make) in contenders.items():
        told = {"network": name, "lanes": count, "contender": contender, "floor": 3 * network.bytes}
        rows += _rows(told, functools.partial(make, network, count, sharding), count, STEPS, sharding)
    return rows


def measure_search(sharding: Any, quick: bool) -> list[dict[str, Any]]:
    """A row for each group of a whole search."""
    (trials, epochs), (train, validation) = (3, 1) if quick else SEARCH_SIZE, mlp_sweep.data(quick)
    key, devices = jax.random.key(0), Elsewhere(sharding)
    configurations = jn.search.random()(mlp_sweep.SPACE, key, trials)
    program = supervised(mlp_sweep.trial, train, validation, order_key=key, shuffle="shared")
    plan = make_plan(program, mlp_sweep.SPACE, configurations, epochs, memory=int(MEMORY), devices=devices)
    rows = []
    for group in plan.groups:
        told = {
            "network": SEARCH, "lanes": group.lanes, "contender": group.sizes_text, "trials": len(group.ids),
            "epochs": epochs * group.chunks, "floor": 3 * architectures.mlp(group.sizes["hidden"][1]).bytes,
        }  # fmt: skip
        steps = math.ceil(len(train[1]) / BATCH)
        make = functools.partial(_lower, program, group, group.lanes, Keys.of(key), devices)
        rows += _rows(told, make, group.lanes, steps, sharding)
    return rows


def _rows(told: dict[str, Any], make: Callable[[], Any], lanes: int, steps: int, sharding: Any) -> list[dict[str, Any]]:
    """A row for each who multiplies, of the same programs."""
    started, rows = time.perf_counter(), []
    programs = make()
    told["trace_seconds"] = time.perf_counter() - started
    for multiplier, options in (MULTIPLIERS if sharding is not None else {"": {}}).items():
        row = {**told, "multiplier": multiplier}
        try:
            row |= counted(programs, lanes, steps, options)
        except jax.errors.JaxRuntimeError as error:
            row["left_out"] = str(error).splitlines()[0][:200]
        rows.append(row)
        print(row, flush=True)
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Compiles, prints the table and writes it as JSON and markdown."""
    flags = parser(__doc__)
    flags.add_argument("--only", default="", help="part of the names of what to compile; other rows are kept")
    options = parsed(flags, arguments)
    jax.config.update("jax_platforms", "cpu")  # nothing runs elsewhere
    try:
        topology = topologies.get_topology_desc(platform="cuda", target_config=H100, topology="1x1x1")
    except Exception as error:  # whatever JAX raises where it finds no plugin
        print(f"No plugin for CUDA, so this machine's programs: {str(error).splitlines()[0]}", flush=True)
        device, sharding = None, None
    else:
        device = topology.devices[0]
        sharding = jax.sharding.SingleDeviceSharding(device)
    names = [name for name in [*LANES, SEARCH] if options.only in name]
    rows = [] if options.quick else kept(options.output, "programs", names, on="gpu" if device else None)
    for name in [names[0], SEARCH] if options.quick else names:
        with mock.patch.object(jax, "default_backend", return_value="gpu" if device else "cpu"):
            if name == SEARCH:
                rows += measure_search(sharding, options.quick)
            else:
                rows += measure(name, 2 if options.quick else LANES[name], sharding)
        rows.sort(key=lambda row: [*LANES, SEARCH].index(row["network"]))
        here = machine()
        if device is not None:
            here["device"] = f"{device.device_kind}, compiled for it on {here['device']}"
        report = {"machine": here, "settings": {"quick": options.quick}, "rows": rows}
        write(options.output, "programs", report, markdown(report), on="gpu" if device else None)


def markdown(report: dict[str, Any]) -> str:
    """The table of programs."""
    head = (
        f"{where(report['machine'])}. For each lane and training step of 128 examples: megabytes that kernels read and "
        "write, microseconds that the GPU's memory takes for them, and for the weights alone, read twice and written "
        "once. Memory: that lanes take beside what is carried."
    )
    columns = (
        "lanes", "products by", "kernels", "MB", "us", "weights alone, us", "MB of memory", "tracing, s",
        "compiling what makes lanes, s", "what trains them, s",
    )  # fmt: skip
    lines = [head, "", f"| | | {' | '.join(columns)} |", "| --- | --- |" + " ---: |" * len(columns)]
    for row in report["rows"]:
        cells = [row["network"], row["contender"], str(row["lanes"]), row["multiplier"]]
        if "left_out" in row:
            cells += ["can't"] + [""] * 7
        else:
            on_gpu = bool(row["multiplier"])
            times = [f"{1e6 * row[what] / BANDWIDTH:.2f}" if on_gpu else "" for what in ("bytes", "floor")]
            cells += [str(row["kernels"]), f"{row['bytes'] / 1e6:.2f}", *times, f"{row['memory'] / 1e6:.1f}"]
            cells += [f"{row[f'{what}_seconds']:.1f}" for what in COMPILING]
        lines.append(f"| {' | '.join(cells)} |")
    out = [row for row in report["rows"] if "left_out" in row]
    lines += [""] * bool(out) + [f"{row['network']}, {row['contender']}: {row['left_out']}." for row in out]
    for multiplier, (moved, compiling) in seconds_of_search(report).items():
        if multiplier:
            text = f"memory takes {moved:.1f} s for all epochs with their validation; compiling all in turn, "
            lines += ["", f"The whole search, products by {multiplier}: the GPU's {text}{compiling:.0f} s."]
    return "\n".join(lines)


def placed(tree: Any, sharding: Any) -> Any:
    """Arrays as shapes, on the device that is compiled for."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), leaf.dtype, sharding=sharding), tree)


def seconds_of_compiling(row: dict[str, Any]) -> float:
    """From a trial's functions to both programs."""
    return sum(row[f"{what}_seconds"] for what in COMPILING)


def seconds_of_search(report: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """By who multiplies, how long the GPU's memory takes for a whole search, and how long all compiling takes."""
    found: dict[str, tuple[float, float]] = {}
    for row in report["rows"]:
        if row["network"] == SEARCH and "left_out" not in row:
            moved, compiling = found.get(row["multiplier"], (0.0, 0.0))
            moved += row["epochs"] * row["epoch_bytes"] / BANDWIDTH
            found[row["multiplier"]] = moved, compiling + seconds_of_compiling(row)
    return found


if __name__ == "__main__":
    main()
