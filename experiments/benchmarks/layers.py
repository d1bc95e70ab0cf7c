"""How fast is each layer, forward and forward with gradients, against the same layer of flax, equinox and PyTorch?

    python -m experiments.benchmarks.layers             all layers; --only conv lists what to run

The same shapes everywhere, small and large, batch in front, float32. Measure: microseconds of wall clock for a call
that is finished (``block_until_ready``), the median of many, the contenders in turn; jitted where there is a jit,
compiling apart. The gradient is that of the outputs' sum of squares with respect to parameters and inputs. PyTorch runs
eagerly, with channels first, on a CPU only, in a process of its own. Whole training steps are those of ``networks``.

Layers for JAX are jitted as their users would, so jaxnet's are without what ``fit`` compiles with. The normalisations
of flax take the variance as a difference of two means, which loses its digits where the mean is large; jaxnet's do so
where it isn't (``ops/reductions.py``). Group norm has features last; Equinox has them first, so that groups lie
together. None is slower than a peer for JAX by more than runs differ.

Peers come with ``pip install -e ".[bench]"``; one that isn't installed is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxnet as jn
from experiments.benchmarks.architectures import BATCH, imported
from experiments.benchmarks.measure import ROUNDS, Call, apart, in_turn, over_rounds
from experiments.benchmarks.report import kept, machine, parsed, parser, where, write

QUICK = ("dense 16-16, batch 16", "conv 5x5, 28x28x1 to 6", "batch norm 512, training", "lstm 58-128, 20 steps")


class Case(NamedTuple):
    """A layer by its makers in each library.

    Args:
      shape: of an example; channels last.
      jaxnet: the layer. flax, equinox, torch: the module, of the imported library (and, for equinox, a key).
      batch: examples. integers: inputs are integers below it.
      channels_first: whether PyTorch wants the last axis first.
      attends: whether peers are called with queries, keys and values.
    Layers with a state are in training, and put out the new one, too.
    """

    shape: tuple[int, ...]
    jaxnet: jn.Layer
    flax: Callable[[Any], Any] | None = None
    equinox: Callable[[Any, Any], Any] | None = None
    torch: Callable[[Any], Any] | None = None
    batch: int = BATCH
    integers: int | None = None
    channels_first: bool = True
    attends: bool = False


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
    "conv 5, 128 steps of 16 to 32": Case(
        (128, 16), jn.conv(32, (5,)), lambda n: n.Conv(32, (5,), padding="VALID"),
        lambda e, k: e.nn.Conv1d(16, 32, 5, key=k), lambda t: t.nn.Conv1d(16, 32, 5),
    ),
    "conv 3x3x3, 12x12x12x4 to 8": Case(
        (12, 12, 12, 4), jn.conv(8, (3, 3, 3)), lambda n: n.Conv(8, (3, 3, 3), padding="VALID"),
        lambda e, k: e.nn.Conv3d(4, 8, 3, key=k), lambda t: t.nn.Conv3d(4, 8, 3), batch=32,
    ),
    "conv 3x3 SAME, 14x14x64 to 64": Case(
        (14, 14, 64), jn.conv(64, (3, 3), padding="SAME"), lambda n: n.Conv(64, (3, 3)),
        lambda e, k: e.nn.Conv2d(64, 64, 3, padding=1, key=k), lambda t: t.nn.Conv2d(64, 64, 3, padding=1), batch=32,
    ),
    "conv 3x3 stride 2, 28x28x16 to 32": Case(
        (28, 28, 16), jn.conv(32, (3, 3), strides=(2, 2), padding=1),
        lambda n: n.Conv(32, (3, 3), strides=2, padding=1),
        lambda e, k: e.nn.Conv2d(16, 32, 3, 2, padding=1, key=k), lambda t: t.nn.Conv2d(16, 32, 3, 2, padding=1),
    ),
    "transposed conv 3x3 stride 2, 7x7x32 to 16": Case(
        (7, 7, 32), jn.conv_transpose(16, (3, 3), strides=2),
        lambda n: n.ConvTranspose(16, (3, 3), strides=(2, 2), padding="VALID"),
        lambda e, k: e.nn.ConvTranspose2d(32, 16, 3, 2, key=k), lambda t: t.nn.ConvTranspose2d(32, 16, 3, 2),
    ),
    "depthwise conv 3x3 SAME, 14x14x64": Case(
        (14, 14, 64), jn.depthwise_conv(1, (3, 3), padding="SAME"),
        lambda n: n.Conv(64, (3, 3), feature_group_count=64),
        lambda e, k: e.nn.Conv2d(64, 64, 3, padding=1, groups=64, key=k),
        lambda t: t.nn.Conv2d(64, 64, 3, padding=1, groups=64), batch=32,
    ),
    "locally connected 3x3, 14x14x8 to 8": Case(
        (14, 14, 8), jn.locally_connected(8, (3, 3)), lambda n: n.ConvLocal(8, (3, 3), padding="VALID"), batch=32,
    ),
    "max pool 2x2, 28x28x32": Case(
        (28, 28, 32), jn.max_pool((2, 2)), None, lambda e, k: e.nn.MaxPool2d(2, 2), lambda t: t.nn.MaxPool2d(2),
        batch=32,
    ),
    "max pool 3x3 stride 2, 28x28x32": Case(
        (28, 28, 32), jn.max_pool((3, 3), strides=(2, 2)), None, lambda e, k: e.nn.MaxPool2d(3, 2),
        lambda t: t.nn.MaxPool2d(3, 2), batch=32,
    ),
    "average pool 3x3 stride 2, 28x28x32": Case(
        (28, 28, 32), jn.avg_pool((3, 3), strides=(2, 2)), None, lambda e, k: e.nn.AvgPool2d(3, 2),
        lambda t: t.nn.AvgPool2d(3, 2), batch=32,
    ),
    "layer norm 512": Case(
        (512,), jn.layer_norm(), lambda n: n.LayerNorm(), lambda e, k: e.nn.LayerNorm(512),
        lambda t: t.nn.LayerNorm(512),
    ),
    "rms norm 512": Case(
        (512,), jn.rms_norm(), lambda n: n.RMSNorm(), lambda e, k: e.nn.RMSNorm(512, use_bias=False),
        lambda t: t.nn.RMSNorm(512),
    ),
    "instance norm, 14x14x32": Case(
        (14, 14, 32), jn.instance_norm(), lambda n: n.InstanceNorm(), lambda e, k: e.nn.GroupNorm(32, 32),
        lambda t: t.nn.InstanceNorm2d(32, affine=True),
    ),
    "group norm, 14x14x32 in 4": Case(
        (14, 14, 32), jn.group_norm(4), lambda n: n.GroupNorm(4), lambda e, k: e.nn.GroupNorm(4, 32),
        lambda t: t.nn.GroupNorm(4, 32),
    ),
    "batch norm 512, training": Case(
        (512,), jn.batch_norm(), lambda n: n.BatchNorm(use_running_average=False, momentum=0.9),
        lambda e, k: e.nn.BatchNorm(512, "batch", mode="batch", momentum=0.9), lambda t: t.nn.BatchNorm1d(512),
    ),
    "batch norm 28x28x16, training": Case(
        (28, 28, 16), jn.batch_norm(), lambda n: n.BatchNorm(use_running_average=False, momentum=0.9),
        lambda e, k: e.nn.BatchNorm(16, "batch", mode="batch", momentum=0.9), lambda t: t.nn.BatchNorm2d(16),
    ),
    "attention, 4 heads of 16, 32 steps": Case(
        (32, 64), jn.multi_head_attention(4), lambda n: n.MultiHeadDotProductAttention(4),
        lambda e, k: e.nn.MultiheadAttention(
            4, 64, use_query_bias=True, use_key_bias=True, use_value_bias=True, use_output_bias=True, key=k
        ),
        lambda t: t.nn.MultiheadAttention(64, 4, batch_first=True), channels_first=False, attends=True,
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
    "lstm 16-16, 10 steps, batch 16": Case(
        (10, 16), jn.lstm(16), lambda n: n.RNN(n.OptimizedLSTMCell(16)), None,
        lambda t: t.nn.LSTM(16, 16, batch_first=True), batch=16, channels_first=False,
    ),
    "bidirectional lstm 58-64, 20 steps": Case(
        (20, 58), jn.bidirectional(jn.lstm(64)),
        lambda n: n.Bidirectional(*[n.RNN(n.OptimizedLSTMCell(64)) for _ in range(2)]), None,
        lambda t: t.nn.LSTM(58, 64, batch_first=True, bidirectional=True), channels_first=False,
    ),
    "embedding 1000-64, 20 steps": Case(
        (20,), jn.embedding(1000, 64), lambda n: n.Embed(1000, 64), None, lambda t: t.nn.Embedding(1000, 64),
        integers=1000, channels_first=False,
    ),
}  # fmt: skip


def inputs(case: Case) -> np.ndarray:
    """A random batch."""
    generator = np.random.default_rng(0)
    if case.integers is not None:
        return generator.integers(case.integers, size=(case.batch, *case.shape)).astype(np.int32)
    return generator.normal(size=(case.batch, *case.shape)).astype(np.float32)


def calls(case: Case) -> Iterator[tuple[str, Call, Call]]:
    """For each library for JAX at hand ``(name, forward, forward and gradients)``."""
    x = inputs(case)
    params, state, _ = case.jaxnet.init(jax.random.key(0), jn.Spec(case.shape, x.dtype))
    yield "jaxnet", *_jitted(lambda params, x: case.jaxnet.apply(params, state, x, train=bool(state)), params, x)
    if case.flax is not None:
        from flax import linen

        module = case.flax(linen)
        params = module.init(jax.random.key(0), x)
        rest = {name: params.pop(name) for name in list(params) if name != "params"}
        yield "flax", *_jitted(lambda params, x: module.apply({**params, **rest}, x, mutable=list(rest)), params, x)
    if case.equinox is not None and (equinox := imported("equinox")):
        yield "equinox", *_jitted(*_of_equinox(equinox, case), np.moveaxis(x, -1, 1) if case.channels_first else x)


def _of_equinox(equinox: Any, case: Case) -> tuple[Callable[[Any, Any], Any], Any]:
    """What ``_jitted`` wants: a function of the module's arrays and a batch, and the arrays."""
    assert case.equinox is not None
    module, state = equinox.nn.make_with_state(case.equinox)(equinox, jax.random.key(0))
    arrays, rest = equinox.partition(module, equinox.is_inexact_array)

    def apply(arrays, x):
        whole = equinox.combine(arrays, rest)
        if isinstance(whole, equinox.nn.BatchNorm):
            return jax.vmap(whole, in_axes=(0, None), out_axes=(0, None), axis_name="batch")(x, state)
        return jax.vmap(lambda x: whole(*[x] * (3 if case.attends else 1)))(x)

    return apply, arrays


def process(name: str, seconds: float, least: int) -> list[dict[str, Any]]:
    """PyTorch's times, forward and with gradients, in a process without JAX's threads."""
    case, torch = CASES[name], imported("torch")
    assert case.torch is not None
    x = inputs(case)
    x = np.moveaxis(x, -1, 1) if case.channels_first and case.integers is None else x
    module = case.torch(torch)
    whole = (lambda x: module(x, x, x)) if case.attends else module
    return [in_turn({"PyTorch": call}, seconds, least) for call in _eager(torch, module, whole, x)]


def _jitted(apply: Callable[[Any, Any], Any], params: Any, x: np.ndarray) -> tuple[Call, Call]:
    over = (0, 1) if np.issubdtype(x.dtype, np.floating) else 0
    x_device = jnp.asarray(x)

    def total(params, x):
        return jnp.sum(jax.tree.leaves(apply(params, x))[0] ** 2)

    forward, both = jax.jit(apply), jax.jit(jax.value_and_grad(total, argnums=over))
    return lambda: jax.block_until_ready(forward(params, x_device)), lambda: jax.block_until_ready(
        both(params, x_device)
    )


def _eager(torch: Any, module: Any, whole: Callable[[Any], Any], x: np.ndarray) -> tuple[Call, Call]:
    floating = np.issubdtype(x.dtype, np.floating)
    x_tensor = torch.tensor(x, requires_grad=floating) if floating else torch.tensor(x).long()

    def forward():
        with torch.no_grad():
            whole(x_tensor)

    def both():
        module.zero_grad()
        x_tensor.grad = None
        y = whole(x_tensor)
        ((y[0] if isinstance(y, tuple) else y) ** 2).sum().backward()

    return forward, both


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints the table, and writes it as JSON and markdown."""
    flags = parser(__doc__)
    flags.add_argument("--only", default="", help="part of the names of what to run")
    flags.add_argument("--seconds", type=float, default=1.0, help="for each contender of each case (1)")
    options = parsed(flags, arguments)
    wanted = [name for name in CASES if options.only in name and not (options.quick and name not in QUICK)]
    before = [] if options.quick else kept(options.output, "layers", wanted, of="case")
    rows = []
    for name in wanted:
        case = CASES[name]
        made = list(calls(case))
        forward, both = {peer: call for peer, call, _ in made}, {peer: call for peer, _, call in made}
        seconds, least = (0.0, 1) if options.quick else (options.seconds / ROUNDS, 5)
        with_torch = case.torch is not None and jax.default_backend() == "cpu" and imported("torch")
        rounds: list[list[dict[str, Any]]] = []
        for _ in range(1 if options.quick else ROUNDS):
            rounds.append([in_turn(contenders, seconds, least) for contenders in (forward, both)])
            if with_torch:
                eager = apart("experiments.benchmarks.layers", name=name, seconds=seconds, least=least)
                rounds[-1] = [ours | theirs for ours, theirs in zip(rounds[-1], eager, strict=True)]
        for what, found in zip(("forward", "forward and gradients"), zip(*rounds, strict=True), strict=True):
            measured = over_rounds(found)
            rows.append({"case": name, "what": what, "seconds": measured})
            print(name, what, {peer: f"{1e6 * m['median']:.0f} us" for peer, m in measured.items()}, flush=True)
        report = {"machine": machine(), "rows": sorted(before + rows, key=lambda row: list(CASES).index(row["case"]))}
        write(options.output, "layers", report, markdown(report))


def markdown(report: dict[str, Any]) -> str:
    """A line for each case: microseconds here, and how many times that each peer took."""
    peers = ("flax", "equinox", "PyTorch")
    head = (
        f"{where(report['machine'])}. Microseconds with their quartiles, then peers as times of the median: above 1 is "
        "slower than jaxnet. " + report.get("note", "")
    ).strip()
    columns = ("jaxnet, us", "quartiles", *peers)
    lines = [head, "", f"| | | {' | '.join(columns)} |", "| --- | --- |" + " ---: |" * len(columns)]
    for row in report["rows"]:
        own = row["seconds"]["jaxnet"]
        spread = " to ".join(f"{1e6 * quartile:.0f}" for quartile in own.get("quartiles", ()))
        ratios = [
            f"{row['seconds'][peer]['median'] / own['median']:.2f}" if peer in row["seconds"] else "" for peer in peers
        ]
        cells = (f"{1e6 * own['median']:.0f}", spread, *ratios)
        lines.append(f"| {row['case']} | {row['what']} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
