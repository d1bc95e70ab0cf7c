"""How long does an epoch of one network take, against flax.linen, Haiku, Equinox and PyTorch?

    python -m experiments.benchmarks.networks             --only LeNet lists what to run

The networks of ``architectures``, plain SGD with an l2 penalty, batch 128, float32, on random data that are on the
device. ``jaxnet`` is the epoch of ``jn.fit``, with all that it watches over (measures, divergence, a last batch that
isn't full). The other libraries for JAX run in one jitted ``scan`` over batches, the fastest way that they can be used;
PyTorch runs eagerly, on one GPU or all cores, in a process of its own. Measure: microseconds of wall clock for each
step, the median of many epochs, contenders in turn; and the share that the matmuls' arithmetic is of what the machine's
matmuls reach.

Where PyTorch is as fast or faster, and why. Its layers are single calls of a library of kernels, oneDNN, on all cores:
XLA splits a large matmul or elementwise operation over them, and runs small ones on one. The LSTM's training step has
1.3 GFLOP of matmuls, two thirds of its time on two cores; the rest are gates of 128 x 128 numbers, some 20 small
operations a step of time, one after the other on one core, after which the other has to be woken (a profile by
``jax.profiler`` with ``--xla_cpu_enable_xprof_traceme``). What was tried and was no faster: half the batch in each of
two loops, or twice in one (XLA runs no two loops at a time), 2 to 20 steps unrolled, gates in one array, a matmul for
each gate, inputs and outputs in one matmul inside of the loop, or outside for the gradient of their weights, barriers
around what several gates share, everything transposed, gates' gradients written side by side in place of a copy (256 kB
that both cores have read take 30 us to write over, whoever writes), XLA's flags for concurrency. On another machine
(Intel Xeon with AVX-512, two cores) the LSTM's step takes 1.14 times PyTorch's, and LeNet's 0.94: of the LSTM's forty
products of 128 x 512 by 512 x 128 and the like, oneDNN takes 62 us for each, Eigen 94.

The ResNet's training step has 7 GFLOP, two thirds of its time in convolutions (some 28 of 42 ms by the same profile).
Of 16 features on 28 x 28 they take 2.4 ms forward, which is what Eigen's matmul reaches for as few columns (190 of 450
GFLOP/s), and oneDNN 1.2; of 32 and 64 features both take as long. What was tried and was no faster: neighbouring
outputs as columns (2 or 4 on a row, 2 x 2), kernels' gradients from patches, strides as features.

The MLP with batch norm is the one network that flax, compiled as XLA does by itself, trains faster: YNNPACK's products
with 512 x 512 weights take less than Eigen's, and what a program is compiled with holds for all of it. Gradients
whose products read every matrix in order were tried, and were no faster in a training step.

Peers come with ``pip install -e ".[bench]"``; one that isn't installed is left out.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxnet as jn
from experiments.benchmarks import architectures
from experiments.benchmarks.architectures import BATCH, NETWORKS, Network
from experiments.benchmarks.measure import ROUNDS, Call, apart, in_turn, matmul_peak, over_rounds
from experiments.benchmarks.report import kept, machine, parsed, parser, where, write
from jaxnet.ops import compiling
from jaxnet.ops.lowering import lowered_as
from jaxnet.search.cost import traced_cost
from jaxnet.training import supervised

RATE, L2 = 1e-3, 1e-4
LEFT_OUT = ("MLP 784-16-10", "MLP 784-1024-10", "LeNet 32-64-256")  # of the table: lanes has them


def flops(network: Network) -> float:
    """Multiplications and additions of one training step's products, without those that a lowering adds."""

    def step(params, state, x, y, key):
        return jax.grad(architectures.plain(network).loss, has_aux=True)(params, state, x, y, key)

    def arguments(key):
        x = jnp.zeros((BATCH, *network.shape))
        return *network.jaxnet.init(key, network.shape)[:2], x, jnp.zeros(BATCH, jnp.int32), key

    with lowered_as("patches"):
        return traced_cost(step, *jax.eval_shape(arguments, jax.eval_shape(lambda: jax.random.key(0))))[0]


def calls(network: Network, steps: int) -> dict[str, Call]:
    """For each library for JAX at hand an epoch of so many steps."""
    x, y = network.data(steps * BATCH)
    made = {"jaxnet": jaxnet_call(network, x, y)}
    for name, peer in architectures.jax_peers(network).items():
        made[name] = jax_call(peer, x, y)
    return made


def process(name: str, steps: int, seconds: float, least: int) -> dict[str, Any]:
    """PyTorch's times, in a process without JAX's threads."""
    network = NETWORKS[name]()
    torch = architectures.imported("torch")
    return in_turn({"PyTorch": torch_call(torch, network, *network.data(steps * BATCH))}, seconds, least)


def jaxnet_call(network: Network, x: np.ndarray, y: np.ndarray) -> Call:
    """An epoch of ``jn.fit``."""
    trial = architectures.trial(network, jn.hp(rate=RATE, l2=L2))
    key = jax.random.key(0)
    data = jax.device_put((x, y))
    program = supervised(lambda hp: trial, data, None, order_key=key, shuffle="shared")
    advance = compiling.jit(lambda carry, key, feed: program.advance((), carry, key, feed), donate_argnums=0)
    carry = jax.jit(lambda key: program.init((), key))(key)
    feed = jax.device_put(program.feed(0))  # pyright: ignore[reportOptionalCall]

    def call():
        nonlocal carry
        carry = jax.block_until_ready(advance(carry, key, feed))

    return call


def jax_call(peer: architectures.Peer, x: np.ndarray, y: np.ndarray) -> Call:
    """An epoch as one jitted ``scan``."""
    x = np.moveaxis(x, -1, 1) if peer.channels_first else x
    key, order = jax.random.key(0), jnp.arange(len(x))
    run = jax.jit(architectures.epoch(peer, len(x) // BATCH), donate_argnums=(0, 1))
    carry = peer.init(key, jnp.asarray(x[:BATCH]))
    x_device, y_device = jax.device_put((x, y))

    def call():
        nonlocal carry
        *carry, _ = jax.block_until_ready(run(*carry, RATE, L2, key, order, x_device, y_device))

    return call


def torch_call(torch: Any, network: Network, x: np.ndarray, y: np.ndarray) -> Call:
    """An epoch of PyTorch's eager loop, batches by index from data on the device."""
    xs, ys = architectures.for_torch(torch, x, y)
    module = network.torch(torch).to(xs.device)
    weights = [p for p in module.parameters() if p.ndim > 1]
    biases = [p for p in module.parameters() if p.ndim == 1]
    groups = [{"params": weights, "weight_decay": L2}, {"params": biases, "weight_decay": 0.0}]
    sgd = torch.optim.SGD(groups, lr=RATE)
    order = torch.arange(len(xs), device=xs.device)

    def call():
        for rows in order.split(BATCH):
            inputs = xs[rows]
            sgd.zero_grad()
            architectures.torch_loss(torch, network, module(inputs), inputs, ys[rows]).backward()
            sgd.step()
        if xs.device.type == "cuda":
            torch.cuda.synchronize()

    return call


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints the table, and writes it as JSON and markdown."""
    flags = parser(__doc__)
    flags.add_argument("--only", default="", help="part of the names of what to run; other rows are kept")
    flags.add_argument("--seconds", type=float, default=1.0, help="for each contender of each network (1)")
    options = parsed(flags, arguments)
    names = [name for name in NETWORKS if options.only in name and name not in LEFT_OUT]
    rows = [] if options.quick else kept(options.output, "networks", names)
    for name in names[-1:] if options.quick and not options.only else names:
        network, steps = NETWORKS[name](), 2 if options.quick else 64
        if jax.default_backend() == "cpu" and "Net" in name:  # XLA's convolutions in a scan take long there
            steps = min(steps, 4)
        seconds, least = (0.0, 1) if options.quick else (options.seconds, 3)
        peak = matmul_peak(0.05 if options.quick else 0.5)  # of now: what else the machine does may change
        contenders, rounds = calls(network, steps), []
        for _ in range(1 if options.quick else ROUNDS):
            share = {"seconds": seconds / ROUNDS, "least": least}
            rounds.append(in_turn(contenders, **share))
            if architectures.imported("torch") is not None:
                rounds[-1] |= apart("experiments.benchmarks.networks", name=name, steps=steps, **share)
        measured = over_rounds(rounds)
        row = {"network": name, "steps": steps, "flops": flops(network), "matmul_peak": peak, "seconds": measured}
        rows = sorted([*rows, row], key=lambda row: list(NETWORKS).index(row["network"]))
        report = {"machine": machine(), "settings": {"quick": options.quick}, "rows": rows}
        write(options.output, "networks", report, markdown(report))


def markdown(report: dict[str, Any]) -> str:
    """A line for each network: microseconds here, and how many times that each peer took."""
    peers = ("flax", "haiku", "equinox", "PyTorch")
    head = (
        f"{where(report['machine'])}. Microseconds for each training step of 128 examples, with quartiles; of peers "
        "their time divided by jaxnet's, so that above 1 is slower than jaxnet."
    )
    columns = ("jaxnet, us", "quartiles", "share of peak", *peers)
    lines = [head, "", f"| | {' | '.join(columns)} |", "| --- |" + " ---: |" * len(columns)]
    for row in report["rows"]:
        own, scale = row["seconds"]["jaxnet"], 1e6 / row["steps"]
        low, high = own["quartiles"]
        share = row["flops"] * row["steps"] / own["median"] / row["matmul_peak"]
        ratios = [
            f"{row['seconds'][peer]['median'] / own['median']:.2f}" if peer in row["seconds"] else "" for peer in peers
        ]
        cells = (f"{scale * own['median']:.0f}", f"{scale * low:.0f} to {scale * high:.0f}", f"{share:.0%}", *ratios)
        lines.append(f"| {row['network']} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
