"""How long until the first step is done, and what makes compiling longer?

    python -m experiments.benchmarks.startup             --only depth names one part

``start``: a fresh process for each library and network imports the library, makes the network, and takes two training
steps of 128 examples: seconds of each, the second step without compiling; the same jitted step around jaxnet's layers
and those of flax, Haiku and Equinox, and PyTorch's eager one. ``depth``: seconds to trace and to compile a training
step of so many dense layers, as ``jn.repeat`` and as ``jn.serial``, and the operations of the program. ``trials``:
seconds that a search spends compiling, and the programs it compiles, by the number of trials. Seconds are of processor
time, over all cores, which what else runs on a machine blurs least; those of a search are of wall clock.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnet as jn
from experiments.benchmarks.measure import summary
from experiments.benchmarks.report import machine, parsed, parser, where, write

NETWORKS = ("MLP 784-128-10", "LeNet 6-16-120", "LSTM 58-128, 20 steps", "ResNet 8, 16 filters")
# What a process imports before it can do anything.
IMPORTS = {
    "jaxnet": "import jaxnet; jaxnet.search", "flax": "import flax.linen, optax", "haiku": "import haiku, optax",
    "equinox": "import equinox, optax", "PyTorch": "import torch",
}  # fmt: skip
CHILD = """
import json, time
started = time.process_time()
{imports}
seconds = {{"import": time.process_time() - started}}
import warnings; warnings.simplefilter("ignore")
from experiments.benchmarks.startup import first_steps
print(json.dumps(seconds | first_steps({library!r}, {network!r})))
"""


def first_steps(library: str, name: str) -> dict[str, float]:
    """Seconds to make a network, and of its first two training steps."""
    from experiments.benchmarks import architectures

    network = architectures.NETWORKS[name]()
    x, y = network.data(architectures.BATCH)
    if library == "PyTorch":
        torch = architectures.imported("torch")
        started = time.process_time()
        xs, ys = architectures.for_torch(torch, x, y)
        module = network.torch(torch).to(xs.device)
        sgd = torch.optim.SGD(module.parameters(), lr=1e-3)

        def step():
            sgd.zero_grad()
            architectures.torch_loss(torch, network, module(xs), xs, ys).backward()
            sgd.step()
    else:
        peer = architectures.plain(network) if library == "jaxnet" else architectures.jax_peers(network)[library]
        x = np.moveaxis(x, -1, 1) if peer.channels_first else x
        run = jax.jit(architectures.epoch(peer, 1))
        key, order = jax.random.key(0), jnp.arange(len(x))
        started = time.process_time()
        params, state = jax.block_until_ready(peer.init(key, jnp.asarray(x)))

        def step():
            jax.block_until_ready(run(params, state, 1e-3, 1e-4, key, order, x, y))

    times = [time.process_time() - started]
    for _ in range(2):
        started = time.process_time()
        step()
        times.append(time.process_time() - started)
    return dict(zip(("init", "first step", "second step"), times, strict=True))


def start(quick: bool) -> list[dict[str, Any]]:
    """A process for each library and network."""
    from experiments.benchmarks.architectures import imported

    modules = {"flax": "flax", "haiku": "haiku", "equinox": "equinox", "PyTorch": "torch", "jaxnet": "jaxnet"}
    rows = []
    for name in NETWORKS[:1] if quick else NETWORKS:
        for library in ("jaxnet", "flax") if quick else IMPORTS:
            if imported(modules[library]) is None:
                continue
            code = CHILD.format(imports=IMPORTS[library], library=library, network=name)
            runs = []
            for _ in range(1 if quick else 2):
                run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
                runs.append(json.loads(run.stdout.splitlines()[-1]))
            seconds = {phase: summary([run[phase] for run in runs]) for phase in runs[0]}
            rows.append({"part": "start", "network": name, "library": library, "seconds": seconds})
            print(name, library, {phase: f"{s['median']:.2f}" for phase, s in seconds.items()}, flush=True)
    return rows


def depth(quick: bool) -> list[dict[str, Any]]:
    """Programs of deeper and deeper networks."""
    rows = []
    for layers in (2, 4) if quick else (2, 8, 32):
        block = jn.serial(jn.dense(64), jnp.tanh)
        for kind, net in (("repeat", jn.repeat(block, layers)), ("serial", jn.serial(*[block] * layers))):
            params, state, _ = net.init(jax.random.key(0), (64,))

            def step(params, x, net=net, state=state):
                return jax.grad(lambda params: jnp.sum(net.apply(params, state, x, train=True)[0] ** 2))(params)

            started = time.process_time()
            lowered = jax.jit(step).lower(params, jnp.ones((128, 64)))
            traced = time.process_time()
            lowered.compile()
            seconds = {"trace": traced - started, "compile": time.process_time() - traced}
            operations = lowered.as_text().count(" = ")
            rows.append({"part": "depth", "kind": kind, "layers": layers, "operations": operations} | seconds)
            print(rows[-1], flush=True)
    return rows


def trials(quick: bool) -> list[dict[str, Any]]:
    """Searches of more and more trials, of one width each and of widths that are grouped."""
    generator = np.random.default_rng(0)
    data = generator.random((128, 784), np.float32), generator.integers(10, size=128)

    def trial(hp):
        net = jn.serial(jn.dense(hp.hidden), jax.nn.relu, jn.dense(10))
        return jn.Trial(net, jn.losses.softmax_cross_entropy, optax.sgd(hp.rate), batch_size=128)

    rate, rows = jn.log_uniform(1e-4, 1e-2), []
    spaces = {"16 units": jn.choice(16, static=True), "10 to 64 units": jn.log_integers(10, 64)}
    for name, hidden in spaces.items():
        for count in (4,) if quick else (4, 32, 256):
            space = jn.Space(rate=rate, hidden=hidden)
            result = jn.random_search(trial, space, data, data, trials=count, epochs=1, key=jax.random.key(0))
            assert result.plan is not None
            rows.append(
                {
                    "part": "trials", "space": name, "trials": count, "programs": len(result.plan.groups),
                    "compile": result.compile_seconds,
                }
            )  # fmt: skip
            print(rows[-1], flush=True)
    return rows


PARTS = {"start": start, "depth": depth, "trials": trials}


def main(arguments: list[str] | None = None) -> None:
    """Runs the parts, prints the tables and writes them as JSON and markdown."""
    flags = parser(__doc__)
    flags.add_argument("--only", choices=PARTS, action="append", help="a part to run; may be repeated (all of them)")
    options = parsed(flags, arguments)
    rows = [row for part in options.only or PARTS for row in PARTS[part](options.quick)]
    report = {"machine": machine(), "settings": {"quick": options.quick}, "rows": rows}
    write(options.output, "startup", report, markdown(report))


def markdown(report: dict[str, Any]) -> str:
    """The report as tables, one for each part."""
    lines = [where(report["machine"]) + ". Seconds of processor time; by trials, of wall clock."]
    phases = ("import", "init", "first step", "second step")
    heads = {
        "start": ("", "", *phases, "in all"),
        "depth": ("dense layers", "as", "trace", "compile", "operations"),
        "trials": ("widths", "trials", "compile", "programs"),
    }
    for part, head in heads.items():
        rows = [row for row in report["rows"] if row["part"] == part]
        if rows:
            lines += ["", f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
        for row in rows:
            if part == "start":
                medians = [row["seconds"][phase]["median"] for phase in phases]
                times = [f"{value:.3g}" for value in (*medians, sum(medians[:3]))]
                cells = [row["network"], row["library"], *times]
            elif part == "depth":
                cells = [row["layers"], row["kind"], f"{row['trace']:.2f}", f"{row['compile']:.2f}", row["operations"]]
            else:
                cells = [row["space"], row["trials"], f"{row['compile']:.1f}", row["programs"]]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
