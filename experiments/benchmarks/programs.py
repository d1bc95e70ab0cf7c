"""What does a training step of many lanes ask of a GPU that isn't at hand?

    python -m experiments.benchmarks.programs          --only LSTM lists what to compile

XLA compiles for an H100 where none is, given its description, after ``pip install jax-cuda12-plugin jax-cuda12-pjrt
nvidia-cuda-nvcc-cu12`` (of jaxlib's version). Nothing runs: what is told is the kernels that a training step starts,
and the bytes that they read and write if nothing stays in a cache between them; and how long the H100's memory takes
for as many bytes, each lane's share of which no step can be faster than. Without the plugin the programs are those of
this machine, and the time is left out.

The programs are those of ``lanes``: plain SGD with an l2 penalty, both different in each lane, batch 128 that all lanes
share, float32. Beside them flax's, trained by a ``scan`` written by hand and vmapped as a whole. XLA would choose for
each product who multiplies, by trying: Triton, whose kernels take in what is computed before and after, or cuBLAS. It
can't try here, so there is one program with either, and times of compiling are without the trying.

The floor is the weights alone, read twice and written once. Bytes that can't be saved are above it: the activations of
a lane are many times its weights in all of these networks but the MLP.
"""

from __future__ import annotations

import time
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from jax.experimental import topologies

import jaxnet as jn
from experiments.benchmarks import architectures
from experiments.benchmarks.architectures import BATCH, NETWORKS, Network
from experiments.benchmarks.hlo import Module
from experiments.benchmarks.report import kept, machine, parsed, parser, where, write
from jaxnet.ops import compiling
from jaxnet.training import supervised

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
STEPS = 7  # of an epoch, and of no other loop
FLAX = "flax, vmapped"

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


def lowered(network: Network, lanes: int, sharding: Any) -> Any:
    """An epoch of so many lanes, as a search compiles it, up to the compiler."""
    key = jax.random.key(0)
    data = network.data(STEPS * BATCH)
    program = supervised(lambda hp: architectures.trial(network, hp), data, None, order_key=key, shuffle="shared")
    hp = jn.hp(rate=jnp.zeros(lanes), l2=jnp.zeros(lanes))
    keys = jax.random.split(key, lanes)
    carry = jax.eval_shape(jax.vmap(program.init), hp, keys)
    advance = compiling.jit(jax.vmap(program.advance, in_axes=(0, 0, 0, None)), donate_argnums=1)
    assert program.feed is not None
    return advance.lower(*_placed((hp, carry, keys, program.feed(0)), sharding))


def lowered_by_hand(peer: architectures.Peer, network: Network, lanes: int, sharding: Any) -> Any:
    """An epoch as a ``scan`` in a peer, vmapped."""
    x, y = network.data(STEPS * BATCH)
    key, order = jax.random.key(0), jnp.arange(len(x))
    params, state = jax.eval_shape(jax.vmap(lambda key: peer.init(key, x[:BATCH])), jax.random.split(key, lanes))
    epoch = jax.vmap(architectures.epoch(peer, STEPS), in_axes=(0, 0, 0, 0, None, None, None, None))
    each = jnp.zeros(lanes)
    arguments = _placed((params, state, each, each, key, order, x, y), sharding)
    return jax.jit(epoch, donate_argnums=(0, 1)).lower(*arguments)


def counted(lowered: Any, lanes: int, options: dict[str, bool | int]) -> dict[str, Any]:
    """What the compiled program does, and seconds of compiling."""
    started = time.perf_counter()
    compiled = lowered.compile(compiler_options=options or None)
    seconds = time.perf_counter() - started
    module = Module(compiled.as_text())
    work = module.work(module.step(STEPS))
    memory = compiled.memory_analysis().temp_size_in_bytes
    return {"kernels": work.kernels, "bytes": work.bytes / lanes, "compile_seconds": seconds, "memory": memory / lanes}


def measure(name: str, lanes: int, sharding: Any) -> list[dict[str, Any]]:
    """A row for each program of a network."""
    network, on_gpu = (NETWORKS | OWN)[name](), sharding is not None
    contenders = {"jaxnet": lambda: lowered(network, lanes, sharding)}
    if name not in OWN and (flax := architectures.jax_peers(network).get("flax")):
        contenders[FLAX] = lambda: lowered_by_hand(flax, network, lanes, sharding)
    rows = []
    with mock.patch.object(jax, "default_backend", return_value="gpu" if on_gpu else "cpu"):
        for contender, make in contenders.items():
            started = time.perf_counter()
            program = make()
            traced = time.perf_counter() - started
            for multiplier, options in (MULTIPLIERS if on_gpu else {"": {}}).items():
                row = {"network": name, "lanes": lanes, "contender": contender, "multiplier": multiplier}
                try:
                    row |= counted(program, lanes, options)
                except jax.errors.JaxRuntimeError as error:
                    row["left_out"] = str(error).splitlines()[0][:200]
                rows.append(row | {"trace_seconds": traced, "floor": 3 * network.bytes})
                print(f"{name}: {contender}, {multiplier}: {row}", flush=True)
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
    names = [name for name in LANES if options.only in name]
    rows = [] if options.quick else kept(options.output, "programs", names, on="gpu" if device else None)
    for name in names[:1] if options.quick else names:
        lanes = 2 if options.quick else LANES[name]
        rows = sorted([*rows, *measure(name, lanes, sharding)], key=lambda row: [*LANES].index(row["network"]))
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
    columns = ("lanes", "products by", "kernels", "MB", "us", "weights alone, us", "MB of memory", "compiling, s")
    lines = [head, "", f"| | | {' | '.join(columns)} |", "| --- | --- |" + " ---: |" * len(columns)]
    for row in report["rows"]:
        cells = [row["network"], row["contender"], str(row["lanes"]), row["multiplier"]]
        if "left_out" in row:
            cells += ["can't"] + [""] * 5
        else:
            on_gpu = bool(row["multiplier"])
            times = [f"{1e6 * row[what] / BANDWIDTH:.2f}" if on_gpu else "" for what in ("bytes", "floor")]
            cells += [str(row["kernels"]), f"{row['bytes'] / 1e6:.2f}", *times, f"{row['memory'] / 1e6:.1f}"]
            cells.append(f"{row['trace_seconds'] + row['compile_seconds']:.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    out = [row for row in report["rows"] if "left_out" in row]
    lines += [""] * bool(out) + [f"{row['network']}, {row['contender']}: {row['left_out']}." for row in out]
    return "\n".join(lines)


def _placed(tree: Any, sharding: Any) -> Any:
    """Arrays as shapes, on the device that is compiled for."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), leaf.dtype, sharding=sharding), tree)


if __name__ == "__main__":
    main()
