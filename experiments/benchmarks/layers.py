"""How fast is each layer, forward and forward with gradients, against the same layer of flax, equinox and PyTorch?

    python -m experiments.benchmarks.layers             all layers; --only conv lists what to run

The same shapes everywhere, small and large, batch in front, float32. Measure: microseconds of wall clock for a call
that is finished (``block_until_ready``), the median of many, the contenders in turn; jitted where there is a jit,
compiling apart. The gradient is that of the outputs' sum of squares with respect to parameters and inputs. PyTorch runs
eagerly, with channels first, on a CPU only. Then whole training steps (momentum) of a LeNet, an LSTM and a network with
batch norm, twenty at a time: inside one ``scan`` here, in a loop there.

Where PyTorch is faster, and why it stays so. Its layers are single calls of a library of kernels, oneDNN, on all
cores: XLA splits a large matmul or elementwise operation over them, and runs small ones on one. The LSTM's training
step has 1.3 GFLOP of matmuls, 3.5 of its 6 ms on two cores; the rest are gates and copies of 128 x 128 numbers, some
25 small operations a step of time, one after the other (a profile by ``jax.profiler`` with
``--xla_cpu_enable_xprof_traceme``). What was tried and was no faster: half the batch in each of two loops, 2 to 20
steps unrolled, gates in one array, a matmul for each gate, everything transposed, XLA's flags for concurrency. By
processor time it is even with PyTorch's.

Peers come with ``pip install "jaxnet[bench]"``; one that isn't installed is left out.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnet as jn
from experiments.benchmarks.report import machine, where, write

BATCH, STEPS = 128, 20
Call = Callable[[], Any]


class Case(NamedTuple):
    """A layer by its makers in each library.

    Args:
      shape: of an example; channels last.
      jaxnet: the layer. flax, equinox, torch: the module, of the imported library (and, for equinox, a key).
      batch: examples. integers: inputs are integers below it.
      channels_first: whether PyTorch wants the last axis first.
    """

    shape: tuple[int, ...]
    jaxnet: jn.Layer
    flax: Callable[[Any], Any] | None = None
    equinox: Callable[[Any, Any], Any] | None = None
    torch: Callable[[Any], Any] | None = None
    batch: int = BATCH
    integers: int | None = None
    channels_first: bool = True


CASES = {
    "dense 16-16, batch 16": Case(
        (16,), jn.dense(16), lambda n: n.Dense(16), lambda e, k: e.nn.Linear(16, 16, key=k),
        lambda t: t.nn.Linear(16, 16), batch=16,
    ),
    "dense 784-512": Case(
        (784,), jn.dense(512), lambda n: n.Dense(512), lambda e, k: e.nn.Linear(784, 512, key=k),
        lambda t: t.nn.Linear(784, 512),
    ),
    "conv 5x5, 28x28x1 to 6": Case(
        (28, 28, 1), jn.conv(6, (5, 5)), lambda n: n.Conv(6, (5, 5), padding="VALID"),
        lambda e, k: e.nn.Conv2d(1, 6, 5, key=k), lambda t: t.nn.Conv2d(1, 6, 5),
    ),
    "conv 5x5, 14x14x6 to 16": Case(
        (14, 14, 6), jn.conv(16, (5, 5)), lambda n: n.Conv(16, (5, 5), padding="VALID"),
        lambda e, k: e.nn.Conv2d(6, 16, 5, key=k), lambda t: t.nn.Conv2d(6, 16, 5),
    ),
    "conv 3x3 SAME, 14x14x64 to 64": Case(
        (14, 14, 64), jn.conv(64, (3, 3), padding="SAME"), lambda n: n.Conv(64, (3, 3)),
        lambda e, k: e.nn.Conv2d(64, 64, 3, padding=1, key=k), lambda t: t.nn.Conv2d(64, 64, 3, padding=1), batch=32,
    ),
    "depthwise conv 3x3 SAME, 14x14x64": Case(
        (14, 14, 64), jn.depthwise_conv(1, (3, 3), padding="SAME"),
        lambda n: n.Conv(64, (3, 3), feature_group_count=64),
        lambda e, k: e.nn.Conv2d(64, 64, 3, padding=1, groups=64, key=k),
        lambda t: t.nn.Conv2d(64, 64, 3, padding=1, groups=64), batch=32,
    ),
    "max pool 2x2, 28x28x32": Case(
        (28, 28, 32), jn.max_pool((2, 2)), None, lambda e, k: e.nn.MaxPool2d(2, 2), lambda t: t.nn.MaxPool2d(2),
        batch=32,
    ),
    "average pool 3x3 stride 2, 28x28x32": Case(
        (28, 28, 32), jn.avg_pool((3, 3), strides=(2, 2)), None, lambda e, k: e.nn.AvgPool2d(3, 2),
        lambda t: t.nn.AvgPool2d(3, 2), batch=32,
    ),
    "layer norm 512": Case(
        (512,), jn.layer_norm(), lambda n: n.LayerNorm(), lambda e, k: e.nn.LayerNorm(512),
        lambda t: t.nn.LayerNorm(512),
    ),
    "rnn 58-128, 20 steps": Case(
        (20, 58), jn.rnn(128), lambda n: n.RNN(n.SimpleCell(128)), None, lambda t: t.nn.RNN(58, 128, batch_first=True),
        channels_first=False,
    ),
    "gru 58-128, 20 steps": Case(
        (20, 58), jn.gru(128), lambda n: n.RNN(n.GRUCell(128)), None, lambda t: t.nn.GRU(58, 128, batch_first=True),
        channels_first=False,
    ),
    "lstm 58-128, 20 steps": Case(
        (20, 58), jn.lstm(128), lambda n: n.RNN(n.OptimizedLSTMCell(128)), None,
        lambda t: t.nn.LSTM(58, 128, batch_first=True), channels_first=False,
    ),
    "embedding 1000-64, 20 steps": Case(
        (20,), jn.embedding(1000, 64), lambda n: n.Embed(1000, 64), None, lambda t: t.nn.Embedding(1000, 64),
        integers=1000, channels_first=False,
    ),
}  # fmt: skip


def calls(case: Case) -> Iterator[tuple[str, Call, Call]]:
    """For each library at hand ``(name, forward, forward and gradients)``, compiled and run once."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(case.batch, *case.shape)).astype(np.float32)
    if case.integers is not None:
        x = generator.integers(case.integers, size=(case.batch, *case.shape)).astype(np.int32)
    params, state, _ = case.jaxnet.init(jax.random.key(0), jn.Spec(case.shape, x.dtype))
    yield "jaxnet", *_jitted(lambda params, x: case.jaxnet.apply(params, state, x)[0], params, x)
    if case.flax is not None:
        from flax import linen

        module = case.flax(linen)
        variables = module.init(jax.random.key(0), x)
        yield "flax", *_jitted(module.apply, variables, x)
    if case.equinox is not None and (equinox := _imported("equinox")):
        module = case.equinox(equinox, jax.random.key(0))
        arrays, rest = equinox.partition(module, equinox.is_array)
        moved = np.moveaxis(x, -1, 1)
        yield "equinox", *_jitted(lambda arrays, x: jax.vmap(equinox.combine(arrays, rest))(x), arrays, moved)
    if case.torch is not None and jax.default_backend() == "cpu" and (torch := _imported("torch")):
        yield "PyTorch", *_eager(torch, case.torch(torch), np.moveaxis(x, -1, 1) if case.channels_first else x)


def _jitted(apply: Callable[[Any, Any], Any], params: Any, x: np.ndarray) -> tuple[Call, Call]:
    over = (0, 1) if np.issubdtype(x.dtype, np.floating) else 0
    x_device = jnp.asarray(x)

    def total(params, x):
        return jnp.sum(jax.tree.leaves(apply(params, x))[0] ** 2)

    forward, both = jax.jit(apply), jax.jit(jax.value_and_grad(total, argnums=over))
    return lambda: jax.block_until_ready(forward(params, x_device)), lambda: jax.block_until_ready(
        both(params, x_device)
    )


def _eager(torch: Any, module: Any, x: np.ndarray) -> tuple[Call, Call]:
    floating = np.issubdtype(x.dtype, np.floating)
    x_tensor = torch.tensor(x, requires_grad=floating) if floating else torch.tensor(x).long()

    def forward():
        with torch.no_grad():
            module(x_tensor)

    def both():
        module.zero_grad()
        x_tensor.grad = None
        y = module(x_tensor)
        ((y[0] if isinstance(y, tuple) else y) ** 2).sum().backward()

    return forward, both


def lenet() -> tuple[jn.Layer, Any]:
    """6-16-120-84-10, and PyTorch's, both on ``[28, 28, 1]``."""
    net = jn.serial(
        jn.conv(6, (5, 5), padding="SAME"), jax.nn.relu, jn.max_pool((2, 2)), jn.conv(16, (5, 5)), jax.nn.relu,
        jn.max_pool((2, 2)), jn.flatten, jn.dense(120), jax.nn.relu, jn.dense(84), jax.nn.relu, jn.dense(10),
    )  # fmt: skip

    def torch_net(t):
        return t.nn.Sequential(
            t.nn.Conv2d(1, 6, 5, padding=2), t.nn.ReLU(), t.nn.MaxPool2d(2), t.nn.Conv2d(6, 16, 5), t.nn.ReLU(),
            t.nn.MaxPool2d(2), t.nn.Flatten(), t.nn.Linear(400, 120), t.nn.ReLU(), t.nn.Linear(120, 84), t.nn.ReLU(),
            t.nn.Linear(84, 10),
        )  # fmt: skip

    return net, torch_net


def with_batch_norm() -> tuple[jn.Layer, Any]:
    """Two convolutions, each with batch norm, on ``[28, 28, 1]``."""
    net = jn.serial(
        jn.conv(16, (3, 3), strides=(2, 2)), jn.batch_norm(), jax.nn.relu, jn.conv(32, (3, 3), strides=(2, 2)),
        jn.batch_norm(), jax.nn.relu, jn.flatten, jn.dense(10),
    )  # fmt: skip

    def torch_net(t):
        return t.nn.Sequential(
            t.nn.Conv2d(1, 16, 3, stride=2), t.nn.BatchNorm2d(16), t.nn.ReLU(), t.nn.Conv2d(16, 32, 3, stride=2),
            t.nn.BatchNorm2d(32), t.nn.ReLU(), t.nn.Flatten(), t.nn.Linear(32 * 6 * 6, 10),
        )  # fmt: skip

    return net, torch_net


def lstm() -> tuple[jn.Layer, Any]:
    """LSTM 58-128 over 20 steps, its last state classified."""

    def torch_net(t):
        class Classifier(t.nn.Module):
            def __init__(self):
                super().__init__()
                self.lstm, self.head = t.nn.LSTM(58, 128, batch_first=True), t.nn.Linear(128, 10)

            def forward(self, x):
                return self.head(self.lstm(x)[0][:, -1])

        return Classifier()

    return jn.serial(jn.lstm(128, returns="last"), jn.dense(10)), torch_net


TRAINED = {
    "LeNet 6-16-120": (lenet, (28, 28, 1)),
    "LSTM 58-128, 20 steps": (lstm, (20, 58)),
    "two convolutions with batch norm": (with_batch_norm, (28, 28, 1)),
}


def training_calls(make: Callable[[], tuple[jn.Layer, Any]], shape: tuple[int, ...]) -> Iterator[tuple[str, Call]]:
    """For each library ``(name, twenty steps of training)``."""
    net, torch_net = make()
    generator = np.random.default_rng(0)
    x = generator.normal(size=(STEPS, BATCH, *shape)).astype(np.float32)
    y = generator.integers(10, size=(STEPS, BATCH)).astype(np.int32)
    optimizer = optax.sgd(0.01, momentum=0.9)
    params, state, _ = net.init(jax.random.key(0), shape)

    @jax.jit
    def train(carry, x, y):
        def step(carry, batch):
            params, state, moments = carry
            inputs, labels = batch

            def loss(params):
                outputs, new_state = net.apply(params, state, inputs, key=jax.random.key(0), train=True)
                return jnp.mean(jn.losses.softmax_cross_entropy(outputs, labels)), new_state

            gradient, state = jax.grad(loss, has_aux=True)(params)
            updates, moments = optimizer.update(gradient, moments, params)
            return (optax.apply_updates(params, updates), state, moments), None

        return jax.lax.scan(step, carry, (x, y))[0]

    carry, x_device, y_device = (params, state, optimizer.init(params)), jnp.asarray(x), jnp.asarray(y)
    yield "jaxnet", lambda: jax.block_until_ready(train(carry, x_device, y_device))
    if jax.default_backend() != "cpu" or not (torch := _imported("torch")):
        return
    module = torch_net(torch)
    sgd = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)
    xs = torch.tensor(np.moveaxis(x, -1, 2) if len(shape) == 3 else x)
    ys = torch.tensor(y).long()

    def loop():
        for inputs, labels in zip(xs, ys, strict=True):
            sgd.zero_grad()
            torch.nn.functional.cross_entropy(module(inputs), labels).backward()
            sgd.step()

    yield "PyTorch", loop


def microseconds(contenders: dict[str, Call], seconds: float) -> dict[str, float]:
    """The median of each, for about so many seconds each: JAX's in turn, then PyTorch's, whose threads go on spinning
    for a while after a call and would slow down what comes next."""
    with_jax = {name: call for name, call in contenders.items() if name != "PyTorch"}
    apart = {name: call for name, call in contenders.items() if name == "PyTorch"}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for together in filter(None, (with_jax, apart)):
        for call in together.values():  # compiles, and warms up
            call()
            call()
        stop, rounds = time.perf_counter() + seconds * len(together), 0
        while time.perf_counter() < stop or rounds < 5:
            rounds += 1
            for name, call in together.items():
                started = time.perf_counter()
                call()
                times[name].append(1e6 * (time.perf_counter() - started))
    time.sleep(0.3 if apart else 0.0)
    return {name: statistics.median(values) for name, values in times.items()}


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints the table, and writes it as JSON and markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="part of the names of what to run")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each contender of each case (1)")
    parser.add_argument("--quick", action="store_true", help="a moment for each: does it run at all?")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder for the results")
    options = parser.parse_args(arguments)
    seconds = 0.01 if options.quick else options.seconds
    rows = []
    for name, case in CASES.items():
        if options.only not in name:
            continue
        made = list(calls(case))
        forward, both = {peer: call for peer, call, _ in made}, {peer: call for peer, _, call in made}
        for what, contenders in (("forward", forward), ("forward and gradients", both)):
            rows.append({"case": name, "what": what, **microseconds(contenders, seconds)})
            print(rows[-1], flush=True)
    for name, (make, shape) in TRAINED.items():
        if options.only not in name:
            continue
        measured = microseconds(dict(training_calls(make, shape)), seconds)
        rows.append({"case": name, "what": "training step", **{k: v / STEPS for k, v in measured.items()}})
        print(rows[-1], flush=True)
    report = {"machine": machine(), "rows": rows}
    write(options.output, "layers", report, markdown(report))


def markdown(report: dict[str, Any]) -> str:
    """A line for each case: microseconds here, and how many times that each peer took."""
    peers = ("flax", "equinox", "PyTorch")
    lines = [
        f"{where(report['machine'])}. Microseconds, then peers as times of it: above 1 is slower than jaxnet.",
        "",
        "| | | jaxnet, us | flax | equinox | PyTorch |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in report["rows"]:
        ratios = [f"{row[peer] / row['jaxnet']:.2f}" if peer in row else "" for peer in peers]
        lines.append(f"| {row['case']} | {row['what']} | {row['jaxnet']:.0f} | {' | '.join(ratios)} |")
    return "\n".join(lines)


def _imported(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError:
        return None


if __name__ == "__main__":
    main()
