"""What does training many networks at once save, for each of them, and how far is it from what the machine can do?

    python -m experiments.benchmarks.lanes             --only LSTM lists what to run

The networks of ``architectures``: MLPs of four widths, two LeNets, an LSTM, a residual network with batch norm. Plain
SGD with an l2 penalty, both different in each lane, batch 128 that all lanes share, float32, random data that are on
the device. Measure: microseconds of wall clock for each lane and step, the median of many calls, without compiling.

One at a time: jaxnet's epoch of one trial; the same layers in a jitted ``scan`` written by hand; PyTorch, eagerly.
Fused: jaxnet's epoch by the number of lanes, four-fold from 1 to 4,096, as long as they fit in memory and a call takes
less than ``--limit`` seconds; the search as it is planned (on a CPU as many lanes as a core's cache holds, a chunk on
each core); and, at one number of lanes, PyTorch's ``torch.func`` (``vmap`` of ``grad``), the same through
``torch.compile``, and one module of grouped convolutions (the way of HFTA). What a library can't do says why.

The floor of a lane's step is the longer of two times: its products' operations at the speed that the machine's matmuls
reach, and its weights, read twice and written once, at the speed of a copy as large as those of all lanes. Activations
aren't counted, so convolutions can't come near it.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxnet as jn
from experiments.benchmarks import architectures
from experiments.benchmarks.architectures import BATCH, NETWORKS, Network
from experiments.benchmarks.measure import (
    ROUNDS,
    Call,
    apart,
    copy_peak,
    in_turn,
    matmul_peak,
    over_rounds,
    programs_kept,
    summary,
)
from experiments.benchmarks.networks import flops, jax_call, torch_call
from experiments.benchmarks.report import kept, machine, parsed, parser, where, write
from jaxnet.ops import compiling
from jaxnet.training import supervised

EPOCHS = 2  # of a search
NAMES = [name for name in NETWORKS if not name.startswith("VAE") and "batch norm" not in name]
TORCH_LANES = {"cpu": 16, "gpu": 256, "tpu": 256}  # at which PyTorch's fused paths run, and jaxnet's beside them
COMPILED = ("MLP 784-128-10",)  # on a CPU: torch.compile takes half a minute and more for each
FUSED = ("torch.func", "torch.func, compiled", "PyTorch, grouped")
ONE_AT_A_TIME = ("jaxnet, one at a time", "JAX by hand, one at a time", "PyTorch, one at a time")
PLANNED = "jaxnet, search as planned"


def fused_call(network: Network, lanes: int, x: np.ndarray, y: np.ndarray) -> Call:
    """An epoch of so many lanes, as a search runs it; one lane isn't vmapped."""
    key = jax.random.key(0)
    data = jax.device_put((x, y))
    program = supervised(lambda hp: architectures.trial(network, hp), data, None, order_key=key, shuffle="shared")
    start, advance = program.init, program.advance
    hp, keys = jn.hp(rate=jnp.float32(1e-3), l2=jnp.float32(1e-4)), key
    if lanes > 1:
        start, advance = jax.vmap(start), jax.vmap(advance, in_axes=(0, 0, 0, None))
        hp = jn.hp(rate=jnp.geomspace(1e-4, 1e-2, lanes), l2=jnp.geomspace(1e-6, 1e-3, lanes))
        keys = jax.random.split(key, lanes)
    carry, feed = jax.jit(start)(hp, keys), jax.device_put(program.feed(0))  # pyright: ignore[reportOptionalCall]
    advance = compiling.jit(advance, donate_argnums=1)

    def call():
        nonlocal carry
        carry = jax.block_until_ready(advance(hp, carry, keys, feed))

    return call


def torch_func_call(torch: Any, network: Network, lanes: int, x: np.ndarray, y: np.ndarray, compiled: bool) -> Call:
    """An epoch of so many lanes through ``torch.func``, each step through ``torch.compile`` or eagerly."""
    xs, ys = architectures.for_torch(torch, x, y)
    module = network.torch(torch).to(xs.device)
    torch.func.replace_all_batch_norm_modules_(module)  # no running averages, which can't be changed under vmap
    params = {name: p.detach().repeat(lanes, *[1] * p.ndim) for name, p in module.named_parameters()}
    rates, l2s = (torch.logspace(low, high, lanes, device=xs.device) for low, high in ((-4, -2), (-6, -3)))

    def objective(params, l2, inputs, labels):
        outputs = torch.func.functional_call(module, params, (inputs,))
        squares = sum((p**2).sum() for p in params.values() if p.ndim > 1)
        return architectures.torch_loss(torch, network, outputs, inputs, labels) + 0.5 * l2 * squares

    def step(params, inputs, labels):
        gradient = torch.func.vmap(torch.func.grad(objective), in_dims=(0, 0, None, None))(params, l2s, inputs, labels)
        return {name: p - rates.view(-1, *[1] * (p.ndim - 1)) * gradient[name] for name, p in params.items()}

    run = torch.compile(step) if compiled else step

    def call():
        nonlocal params
        with torch.no_grad():
            for first in range(0, len(xs), BATCH):
                params = run(params, xs[first : first + BATCH], ys[first : first + BATCH])
        if xs.device.type == "cuda":
            torch.cuda.synchronize()

    return call


def grouped_call(torch: Any, network: Network, lanes: int, x: np.ndarray, y: np.ndarray) -> Call:
    """An epoch of so many lanes as one module of grouped convolutions."""
    xs, ys = architectures.for_torch(torch, x, y)
    assert network.grouped is not None
    module = network.grouped(torch, lanes).to(xs.device)
    sgd = torch.optim.SGD(module.parameters(), lr=1e-3, weight_decay=1e-4)

    def call():
        for first in range(0, len(xs), BATCH):
            inputs, labels = xs[first : first + BATCH], ys[first : first + BATCH]
            sgd.zero_grad()
            outputs = module(inputs.expand(-1, lanes, -1, -1)).flatten(0, 1)
            (lanes * torch.nn.functional.cross_entropy(outputs, labels.repeat(lanes))).backward()
            sgd.step()
        if xs.device.type == "cuda":
            torch.cuda.synchronize()

    return call


def searched(network: Network, trials: int, x: np.ndarray, y: np.ndarray, repetitions: int) -> tuple[int, list[float]]:
    """The lanes that the search is planned with, and the seconds of an epoch of all trials, each time."""
    space = jn.Space(rate=jn.log_uniform(1e-4, 1e-2), l2=jn.log_uniform(1e-6, 1e-3))
    seconds, lanes = [], 1
    for _ in range(repetitions):
        result = jn.random_search(
            lambda hp: architectures.trial(network, hp), space, (x, y), (x[:1], y[:1]), trials=trials, epochs=EPOCHS,
            key=jax.random.key(0), progress=False, keep=0,
        )  # fmt: skip
        seconds.append(result.run_seconds / EPOCHS)
        lanes = int(result.groups["lanes"].max())
    return lanes, seconds


def measure(name: str, options: Any) -> list[dict[str, Any]]:
    """All contenders of one network; a row has ``seconds`` for so many ``lanes`` and ``steps``."""
    network, backend, quick = NETWORKS[name](), jax.default_backend(), options.quick
    steps = 2 if quick else 32 if backend != "cpu" else 8
    x, y = network.data(steps * BATCH)
    least, seconds = (1, 0.0) if quick else (3, options.seconds)
    rows: list[dict[str, Any]] = []

    def add(contender: str, lanes: int, measured: dict[str, Any]) -> None:
        us = 1e6 * measured["median"] / lanes / steps
        rows.append({"network": name, "contender": contender, "lanes": lanes, "steps": steps, "us": us} | measured)
        print(f"{name}: {contender}, {lanes} lanes: {us:.4g} us", flush=True)

    torch = architectures.imported("torch") is not None

    def in_process(contender: str, lanes: int) -> dict[str, Any]:
        arguments = {"contender": contender, "name": name, "lanes": lanes, "steps": steps}
        return apart("experiments.benchmarks.lanes", **arguments, seconds=seconds, least=least)

    def with_torch(contender: str, lanes: int) -> None:
        try:
            add(contender, lanes, in_process(contender, lanes))
        except RuntimeError as error:  # whatever PyTorch raises for what it can't batch
            why = str(error)[:200]
            rows.append({"network": name, "contender": contender, "lanes": lanes, "left_out": why})
            print(f"{name}: {contender}: {why}", flush=True)

    by_hand = jax_call(architectures.plain(network), x, y)
    alone: dict[str, Call] = {ONE_AT_A_TIME[0]: fused_call(network, 1, x, y), ONE_AT_A_TIME[1]: by_hand}
    one = in_turn(alone, 0.0, least)[ONE_AT_A_TIME[0]]["median"]
    # Epochs long enough that what a search does between them counts for as little as it does in one of users.
    long = steps if quick else int(min(max(0.5 * steps / one, steps), 64))
    trials = 2 if quick else int(min(max(4 * steps / one / long, 4), 64)) if backend == "cpu" else 1024
    many, rounds, planned = network.data(long * BATCH), [], 1
    for _ in range(1 if quick else ROUNDS):
        rounds.append(in_turn(alone, seconds, least))
        if torch:
            rounds[-1][ONE_AT_A_TIME[2]] = in_process(ONE_AT_A_TIME[2], 1)
        planned, ran = searched(network, trials, *many, 1 if quick else 2)
        rounds[-1][PLANNED] = summary([s * steps / long for s in ran])
    for contender, measured in over_rounds(rounds).items():
        add(contender, trials if contender == PLANNED else 1, measured)
    rows[-1]["planned"] = planned

    peak = matmul_peak(0.05 if quick else 0.5)  # of now: what else the machine does may change
    size = network.bytes
    torch_lanes = 2 if quick else TORCH_LANES[backend]
    counts = [2] if quick else sorted({4, 16, 64, 256, 1024, 4096} | {torch_lanes})
    for lanes in counts:
        if (lanes > counts[0] and lanes * one > options.limit) or 12 * lanes * size > _memory():
            break
        measured = in_turn({"jaxnet": fused_call(network, lanes, x, y)}, seconds, least)["jaxnet"]
        add("jaxnet", lanes, measured)
        rows[-1]["floor_us"], rows[-1]["bound"] = floor(network, lanes, size, peak)
        one = measured["median"] / lanes
    torch_lanes = max([row["lanes"] for row in rows if row["contender"] == "jaxnet" and row["lanes"] <= torch_lanes])
    if torch:
        wanted = [True, (name in COMPILED or backend != "cpu") and not quick, network.grouped is not None]
        for contender, want in zip(FUSED, wanted, strict=True):
            if want:
                with_torch(contender, torch_lanes)
    return rows


def process(contender: str, name: str, lanes: int, steps: int, seconds: float, least: int) -> dict[str, Any]:
    """PyTorch's times, in a process without JAX's threads."""
    network, torch = NETWORKS[name](), architectures.imported("torch")
    x, y = network.data(steps * BATCH)
    if contender == ONE_AT_A_TIME[2]:
        call = torch_call(torch, network, x, y)
    elif contender == FUSED[2]:
        call = grouped_call(torch, network, lanes, x, y)
    else:
        call = torch_func_call(torch, network, lanes, x, y, contender == FUSED[1])
    return in_turn({contender: call}, seconds, least)[contender]


def floor(network: Network, lanes: int, size: int, peak: float) -> tuple[float, str]:
    """Microseconds that a lane's step takes at least, and which of the two it is."""
    arithmetic, weights = flops(network) / peak, 3 * size / copy_peak(lanes * size)
    return 1e6 * max(arithmetic, weights), "arithmetic" if arithmetic > weights else "weights"


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints the tables, and writes them as JSON and markdown."""
    flags = parser(__doc__)
    flags.add_argument("--only", default="", help="part of the names of what to run; other rows are kept")
    flags.add_argument("--seconds", type=float, default=0.5, help="for each contender (0.5)")
    flags.add_argument("--limit", type=float, default=0.5, help="seconds for an epoch of lanes, about (0.5)")
    options = parsed(flags, arguments)
    names = [name for name in NAMES if options.only in name]
    rows = [] if options.quick else kept(options.output, "lanes", names)
    with tempfile.TemporaryDirectory() as folder, programs_kept(os.environ.get("JAX_COMPILATION_CACHE_DIR", folder)):
        for name in names[:1] if options.quick else names:
            rows = sorted([*rows, *measure(name, options)], key=lambda row: NAMES.index(row["network"]))
            report = {"machine": machine(), "settings": {"quick": options.quick}, "rows": rows}
            write(options.output, "lanes", report, markdown(report))


def markdown(report: dict[str, Any]) -> str:
    """Two tables: contenders by network, and jaxnet by the number of lanes."""
    names = [name for name in NAMES if any(row["network"] == name for row in report["rows"])]
    head = (
        f"{where(report['machine'])}. Microseconds for each lane and step of 128 examples. Times: the faster of "
        "jaxnet and JAX by hand, one at a time, divided by the search."
    )
    contenders = [*ONE_AT_A_TIME, PLANNED]
    lines = [head, "", "| | " + " | ".join([*contenders, "lanes planned", "times"]) + " |", "| --- |" + " ---: |" * 6]
    for name in names:
        found = {row["contender"]: row for row in report["rows"] if row["network"] == name}
        search = found[PLANNED]
        cells = [_digits(found[c]["us"]) if c in found else "" for c in contenders]
        times = min(found[c]["us"] for c in ONE_AT_A_TIME[:2]) / search["us"]
        lines.append(f"| {name} | {' | '.join(cells)} | {search['planned']} | {times:.2f} |")
    columns = ("lanes", "jaxnet", "floor", "bound by", "share of the floor", *FUSED)
    lines += ["", f"| fused, in one program | {' | '.join(columns)} |", "| --- |" + " ---: |" * len(columns)]
    for row in (row for row in report["rows"] if row["contender"] == "jaxnet"):
        beside = {r["contender"]: r for r in report["rows"] if r["network"] == row["network"]}
        cells = [
            str(row["lanes"]), _digits(row["us"]), _digits(row["floor_us"]), row["bound"],
            f"{row['floor_us'] / row['us']:.0%}",
        ]  # fmt: skip
        for contender in FUSED:
            other = beside.get(contender, {"lanes": 0})
            text = "can't" if "left_out" in other else _digits(other.get("us", 0.0))
            cells.append(text if other["lanes"] == row["lanes"] else "")
        lines.append(f"| {row['network']} | {' | '.join(cells)} |")
    out = {row["contender"]: row for row in report["rows"] if "left_out" in row}
    lines += [""] * bool(out) + [f"{name} can't: {row['network']}, {row['left_out']}." for name, row in out.items()]
    return "\n".join(lines)


def _memory() -> float:
    """Bytes that lanes may take: a quarter of the machine's, or of the device's."""
    statistics = jax.devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    if statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"] / 2
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 8


def _digits(us: float) -> str:
    return f"{us:.3g}" if us < 1000 else f"{us:.0f}"


if __name__ == "__main__":
    main()
