"""One table of layers, one set of laws that hold for each. A new layer is a new line of the table."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import jaxnet as jn
from jaxnet.combinators import as_layer
from jaxnet.ops import compiling, reductions
from jaxnet.ops.lowering import lowered_as
from jaxnet.ops.parameters import making_masks, parameter_masks, unpad
from jaxnet.sequence import on_features


class Case(NamedTuple):
    """A layer and what the laws need to know of it.

    Args:
      make: of a width, an integer or a ``Size``, the layer; layers without a width of their own take no notice of it.
      shape: of an example of which ``init`` can make something, features last, at least two of them.
      least: what inputs must be above, for functions that aren't defined everywhere.
      wrong: shapes of a batch that ``apply`` refuses, with what its message must say was wanted.
      mixes: whether in training the examples of a batch see one another, since its statistics are the point.
      rounds: whether arithmetic is in another dtype than the input's, so that a finite difference sees the steps.
      rest: how far shards may round a gradient's entry that is small or zero for its terms cancel, as in attention.
    """

    make: Callable[[Any], jn.Layer]
    shape: tuple[int, ...]
    least: float | None = None
    wrong: dict[tuple[int, ...], str] = {}  # noqa: RUF012
    mixes: bool = False
    rounds: bool = False
    rest: float = 1e-6


def native(layer):
    """The layer with XLA's own convolutions in place of matrix products."""

    def apply(*args, **options):
        with lowered_as("native"):
            return layer.apply(*args, **options)

    return layer._replace(apply=apply)


def of_tokens(layer):
    """A layer of integers under laws that put in numbers: its input is how many features are above a half.

    The outputs are multiplied by a function of the numbers, so that a gradient comes through.
    """

    def init(key, spec):
        spec = jn.layer.as_spec(spec, rank=1)
        return layer.init(key, jn.Spec(spec.shape[:-1], spec.dtype))

    def apply(params, state, x, *, key=None, train=False):
        y, state = layer.apply(params, state, jnp.sum(x > 0.5, axis=-1))
        return y * jnp.cos(jnp.sum(x * x, axis=-1, keepdims=True)), state

    return on_features(init, apply, rank=2)


LAYERS = {
    "dense": Case(lambda n: jn.dense(n), (5,), wrong={(2, 4): "..., 5]", (2, 6): "..., 5]", (5,): "..., 5]"}),
    "dense of sequences": Case(lambda n: jn.dense(n), (3, 5), wrong={(2, 3, 4): "..., 5]"}),
    "flatten": Case(lambda n: jn.flatten, (2, 3, 5)),
    "dropout": Case(lambda n: jn.dropout(0.4), (5,)),
    "dropout of sequences": Case(lambda n: jn.dropout(0.4), (3, 5)),
    "dropout of whole channels": Case(lambda n: jn.dropout(0.4, whole_channels=True), (3, 2, 5)),
    "gaussian noise": Case(lambda n: jn.gaussian_noise(0.1), (3, 5)),
    # Normalisation.
    "batch norm": Case(lambda n: jn.batch_norm(), (5,), wrong={(2, 4): "..., 5]", (5,): "..., 5]"}, mixes=True),
    "batch norm of images": Case(lambda n: jn.batch_norm(momentum=0.5), (3, 2, 5), mixes=True),
    "batch norm without parameters": Case(lambda n: jn.batch_norm(scale=False, offset=False), (3, 5), mixes=True),
    "layer norm": Case(lambda n: jn.layer_norm(), (5,), wrong={(2, 4): "..., 5]", (5,): "..., 5]"}),
    "layer norm of sequences": Case(lambda n: jn.layer_norm(), (3, 5)),
    "layer norm without parameters": Case(lambda n: jn.layer_norm(scale=False, offset=False), (5,)),
    "rms norm": Case(lambda n: jn.rms_norm(), (3, 5), wrong={(2, 3, 4): "..., 5]"}),
    "rms norm without scale": Case(lambda n: jn.rms_norm(scale=False), (5,)),
    "group norm": Case(lambda n: jn.group_norm(1), (3, 2, 5), wrong={(2, 3, 2, 6): "..., 5]"}),
    "group norm of a dense layer": Case(lambda n: jn.serial(jn.dense(6), jn.group_norm(2), jn.dense(n)), (3, 5)),
    "instance norm": Case(lambda n: jn.instance_norm(), (3, 2, 5), wrong={(2, 4): "..., 5]", (2, 3, 2, 6): "..., 5]"}),
    # So many iterations that the vectors have converged, else a finite difference would see them move.
    "spectral norm": Case(lambda n: jn.spectral_norm(jn.dense(n), iterations=100), (5,)),
    "spectral norm, deep": Case(
        lambda n: jn.spectral_norm(jn.serial(jn.dense(n), jnp.tanh, jn.dense(n)), iterations=100), (3, 5)
    ),
    # Embeddings and positions.
    "embedding": Case(lambda n: of_tokens(jn.embedding(6, n)), (3, 5)),
    "sinusoidal positions": Case(
        lambda n: jn.sinusoidal_positions(), (3, 5), wrong={(2, 5): "[batch, time,", (3, 5): "[batch, time,"}
    ),
    "learned positions": Case(
        lambda n: jn.learned_positions(5), (3, 5), wrong={(2, 3, 4): "[batch, time, 5]", (3, 5): "[batch, time, 5]"}
    ),
    # Attention.
    "attention": Case(
        lambda n: jn.multi_head_attention(2, n, head_features=3),
        (3, 5),
        wrong={(2, 3, 4): "[batch, time, 5]", (3, 5): "[batch, time, 5]"},
    ),
    "attention, width of a head": Case(
        lambda n: jn.multi_head_attention(2, head_features=n, causal=True), (3, 5), rest=5e-6
    ),
    "attention with dropout": Case(
        lambda n: jn.multi_head_attention(3, n, head_features=2, bias=False, dropout=0.3), (3, 5)
    ),
    "transformer block": Case(
        lambda n: jn.serial(jn.transformer_block(2, n, head_features=3, dropout=0.2), jn.layer_norm()),
        (3, 5),
        rest=5e-6,
    ),
    # Activations.
    # Behind a norm, so that each slope and each piece is used by some example, and trained.
    "prelu": Case(lambda n: jn.serial(jn.layer_norm(), jn.dense(n), jn.prelu()), (3, 5)),
    "maxout": Case(lambda n: jn.serial(jn.layer_norm(), jn.maxout(n, 3)), (6, 5)),
    "softmax": Case(lambda n: jn.softmax, (3, 5), wrong={(5,): "..., features]"}),
    "relu": Case(lambda n: as_layer(jax.nn.relu), (5,)),
    "arctan": Case(lambda n: as_layer(jnp.arctan), (5,)),
    "sigmoid": Case(lambda n: as_layer(jax.nn.sigmoid), (5,)),
    "softplus": Case(lambda n: as_layer(jax.nn.softplus), (3, 5)),
    "sqrt": Case(lambda n: as_layer(jnp.sqrt), (5,), least=0.1),  # infinite slope at 0
    "reciprocal": Case(lambda n: as_layer(lambda x: 1 / x), (5,), least=0.1),  # infinite at 0
    "lift, features kept": Case(lambda n: jn.lift(lambda x: 2 * x + 1, active=lambda mask: mask), (5,)),
    "lift, mean over time": Case(lambda n: jn.lift(lambda x: x.mean(axis=1), active=lambda mask: mask), (3, 5)),
    # Pooling.
    "max_pool": Case(lambda n: jn.max_pool((2, 2)), (4, 5, 5), wrong={(2, 4, 5): "[batch, height, width, features]"}),
    "max_pool, overlapping": Case(lambda n: jn.max_pool((3, 2), strides=2, padding=1), (4, 3, 5)),
    "max_pool, long window": Case(lambda n: jn.max_pool((18,)), (20, 5)),
    "min_pool": Case(lambda n: jn.min_pool((3,), strides=2, padding="SAME"), (6, 5)),
    "avg_pool": Case(lambda n: jn.avg_pool((2, 2), ceil=True), (3, 5, 5)),
    "avg_pool, overlapping": Case(lambda n: jn.avg_pool((3, 3), strides=1, padding="SAME"), (3, 4, 5)),
    "sum_pool": Case(lambda n: jn.sum_pool((2, 1, 2)), (2, 2, 4, 5)),
    "lp_pool": Case(lambda n: jn.lp_pool(3.0, (2, 2), strides=1), (3, 3, 5)),
    "adaptive_avg_pool": Case(lambda n: jn.adaptive_avg_pool((2, 3)), (5, 4, 5)),
    "adaptive_max_pool": Case(lambda n: jn.adaptive_max_pool((2,)), (5, 5)),
    "global_avg_pool": Case(lambda n: jn.global_avg_pool, (3, 2, 5), wrong={(2, 5): "[batch, ..., features]"}),
    "global_max_pool": Case(lambda n: jn.global_max_pool, (3, 2, 5), wrong={(2, 5): "[batch, ..., features]"}),
    # Shape.
    "reshape": Case(lambda n: jn.reshape((2, -1)), (2, 3, 5), wrong={(3, 3, 3, 5): "(2, -1)"}),
    "transpose": Case(lambda n: jn.transpose((1, 0, 2)), (2, 3, 5), wrong={(2, 3, 5): "3 axes"}),
    "pad": Case(lambda n: jn.pad((1, (0, 2))), (2, 2, 5), wrong={(2, 3, 5): "2 space axes"}),
    "pad, reflect": Case(lambda n: jn.pad(1, mode="reflect"), (3, 5)),
    "crop": Case(lambda n: jn.crop((1, (0, 2))), (4, 4, 5), wrong={(2, 2, 2, 5): "nothing is left"}),
    "upsample": Case(lambda n: jn.upsample((2, 3)), (2, 1, 5), wrong={(2, 3, 5): "2 space axes"}),
    "upsample, linear": Case(lambda n: jn.upsample(3, method="linear"), (4, 5)),
    # Convolution.
    "conv over time": Case(lambda n: jn.conv(n, (3,)), (6, 5), wrong=dict.fromkeys([(2, 6, 4), (6, 5)], ", time, 5]")),
    "conv of images": Case(
        lambda n: jn.conv(n, (3, 2), strides=(2, 1), padding="SAME"),
        (4, 3, 5),
        wrong={(2, 4, 3, 6): "height, width, 5]"},
    ),
    "conv of volumes": Case(lambda n: jn.conv(n, (2, 1, 2), padding=1), (2, 1, 2, 5)),
    "conv, causal": Case(lambda n: jn.conv(n, (2,), dilation=2, padding="CAUSAL", bias=False), (4, 5)),
    "conv, circular": Case(lambda n: jn.conv(n, (3, 3), padding=((1, 2), 1), padding_mode="circular"), (2, 3, 5)),
    "conv, native": Case(lambda n: native(jn.conv(n, (3, 2), strides=(2, 1), padding="SAME")), (4, 3, 5)),
    "conv in groups": Case(
        lambda n: jn.serial(jn.dense(4), jn.conv(6, (2,), groups=2), jn.conv(n, (1,)), jn.conv(2, (2,))), (4, 5)
    ),
    "depthwise_conv": Case(lambda n: jn.depthwise_conv(2, (3,), strides=2), (5, 5), wrong={(2, 5, 4): ", time, 5]"}),
    "depthwise_conv with a size": Case(lambda n: jn.depthwise_conv(n, (2, 2), padding="SAME"), (3, 2, 5)),
    "depthwise_conv, native": Case(lambda n: native(jn.depthwise_conv(n, (2, 2))), (3, 2, 5)),
    "separable_conv": Case(
        lambda n: jn.separable_conv(n, (2, 2), multiplier=2), (3, 2, 5), wrong={(2, 3, 2, 4): "height, width, 5]"}
    ),
    "conv_transpose": Case(
        lambda n: jn.conv_transpose(n, (3, 2), strides=2, padding=1, output_padding=(1, 0)),
        (2, 3, 5),
        wrong={(2, 2, 3, 4): "height, width, 5]"},
    ),
    "conv_transpose, native": Case(lambda n: native(jn.conv_transpose(n, (3,), strides=2, dilation=2)), (3, 5)),
    "fixed_conv": Case(
        lambda n: jn.fixed_conv([[0.1, 0.2], [0.3, -0.4]]), (3, 2, 5), wrong={(2, 3, 5): "height, width"}
    ),
    "locally_connected": Case(
        lambda n: jn.locally_connected(n, (3,), padding=1),
        (4, 5),
        wrong={(2, 4, 6): ", time, 5]", (2, 3, 5): "10 taps"},
    ),
    "locally_connected of images": Case(
        lambda n: jn.locally_connected(n, (2, 3), strides=(1, 2), padding="SAME", bias=False), (3, 3, 5)
    ),
    # Combinators.
    "parallel": Case(lambda n: jn.parallel(jn.dense(n), jax.nn.sigmoid, jn.dense(2)), (3, 5)),
    "parallel, sum": Case(lambda n: jn.parallel(a=jn.dense(n), b=jn.dense(n), merge="sum"), (5,)),
    "parallel, product": Case(
        lambda n: jn.parallel(jn.dense(n), jn.serial(jn.dense(n), jnp.cos), merge="product"), (5,)
    ),
    "parallel, function": Case(
        lambda n: jn.parallel(jn.dense(3), jn.dense(3), merge=lambda a, b: jnp.tanh(a - b)), (5,)
    ),
    "residual": Case(lambda n: jn.serial(jn.dense(n), jn.residual(jn.serial(jn.dense(n), jnp.cos))), (5,)),
    "residual, shortcut": Case(lambda n: jn.residual(jn.serial(jn.dense(n), jnp.tanh), jn.dense(n)), (2, 5)),
    "repeat": Case(
        lambda n: jn.serial(jn.dense(n), jn.repeat(jn.serial(jn.dense(n), jnp.cos, jn.dropout(0.3)), 3)), (5,)
    ),
    "frozen": Case(lambda n: jn.frozen(jn.serial(jn.dense(n), jn.dropout(0.3), jnp.cos)), (5,)),
    "with_dtype": Case(lambda n: jn.with_dtype(jn.dense(n), jnp.float32, loss_scale=8), (5,), rounds=True),
    "remat": Case(lambda n: jn.remat(jn.serial(jn.dense(n), jnp.cos, jn.dropout(0.3), jn.dense(n))), (5,)),
    "time_distributed": Case(
        lambda n: jn.time_distributed(jn.serial(jn.conv(n, (2,)), jax.nn.sigmoid, jn.flatten, jn.dense(3))), (2, 3, 5)
    ),
    "serial": Case(lambda n: jn.serial(jn.dense(n), jax.nn.sigmoid, jn.dropout(0.3), jn.dense(n)), (5,)),
    "serial, nested": Case(lambda n: jn.serial(jn.serial(jn.dense(n), jnp.tanh), jn.flatten, jn.dense(n)), (3, 5)),
    "serial, named": Case(lambda n: jn.serial(first=jn.dense(n), then=jnp.tanh, last=jn.dense(3)), (5,)),
    # Recurrent.
    "rnn": Case(lambda n: jn.rnn(n), (3, 5), wrong={(2, 3, 4): "time, 5]", (2, 5): "time, 5]"}),
    "rnn, relu": Case(lambda n: jn.rnn(n, jax.nn.relu), (3, 5)),
    "rnn, sigmoid": Case(lambda n: jn.rnn(n, jax.nn.sigmoid, returns="last"), (3, 5)),
    "gru": Case(lambda n: jn.gru(n), (3, 5), wrong={(2, 3, 4): "time, 5]", (2, 5): "time, 5]"}),
    "gru, final state": Case(lambda n: jn.gru(n, returns="state", reverse=True), (3, 5)),
    "gru, recurrent dropout": Case(lambda n: jn.gru(n, recurrent_dropout=0.4), (3, 5)),
    "lstm": Case(lambda n: jn.lstm(n), (3, 5), wrong={(2, 3, 4): "time, 5]", (2, 5): "time, 5]"}),
    "lstm, reverse": Case(lambda n: jn.lstm(n, reverse=True, forget_bias=0.0), (3, 5)),
    "lstm, unrolled, dropout": Case(lambda n: jn.lstm(n, unroll=True, recurrent_dropout=0.4, returns="last"), (3, 5)),
    "bidirectional": Case(lambda n: jn.bidirectional(jn.gru(n), jn.rnn(n)), (3, 5)),
    "bidirectional, stacked": Case(
        lambda n: jn.serial(jn.bidirectional(jn.lstm(n)), jn.bidirectional(jn.gru(n, returns="last"))), (3, 5)
    ),
}


@pytest.fixture(autouse=True, scope="module")
def large():
    """From 31 numbers on, of which sequences and images have more, variances are found as those of large arrays are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reductions, "MOST_SMALL", 30)
        yield


@pytest.fixture(params=LAYERS.values(), ids=LAYERS.keys(), scope="module")  # pytest then runs a layer's laws in a row
def case(request):
    return request.param


class Results(NamedTuple):
    """What ``Network.step`` returns: three pairs of outputs and state, and the parameters after the step."""

    evaluation: Any
    evaluation_with_key: Any
    training: Any
    params: Any


class Network(NamedTuple):
    """A case's layer of width 4 with its trees, and one compiled program for all the laws that call it.

    Compiling is nearly all that the laws cost. ``step(params, state, x, key)`` applies the layer in every way and
    takes a step of gradient descent; ``traces`` has the shape of ``x`` of each time that it was traced.
    """

    layer: jn.Layer
    params: Any
    state: Any
    out: jn.Spec
    step: Callable[..., Results]
    traces: list[tuple[int, ...]]


@pytest.fixture(scope="module")
def network(case):
    layer, traces, out = case.make(4), [], None

    @jax.jit
    def init(key):
        nonlocal out
        params, state, out = layer.init(key, case.shape)
        return params, state

    @jax.jit
    def step(params, state, x, key):
        traces.append(x.shape)

        def total(params):
            y, new_state = layer.apply(params, state, x, key=key, train=True)
            return jnp.sum(y), (y, new_state)

        gradient, training = jax.grad(total, has_aux=True)(params)
        moved = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)
        return Results(layer.apply(params, state, x), layer.apply(params, state, x, key=key), training, moved)

    params, state = init(jax.random.key(0))
    return Network(layer, params, state, out, step, traces)


def draw(case, shape, seed=1, dtype=jnp.float32):
    x = np.asarray(jax.random.normal(jax.random.key(seed), shape, dtype))
    return jnp.asarray(x if case.least is None else np.abs(x) + np.asarray(case.least, dtype))


def assert_close(got, wanted, rtol=1e-5, atol=1e-6):
    """``atol`` is for entries up to 1, and grows with the largest: a small one may be the rest of large ones."""
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol * max(1.0, np.max(np.abs(b), initial=0.0)))


# Shapes and dtypes.


def assert_init_foretells(case, dtype):
    layer, out = case.make(4), None

    def run(key, x):
        nonlocal out
        params, state, out = layer.init(key, jn.Spec(case.shape, dtype))
        return params, state, layer.apply(params, state, x), layer.apply(params, state, x, key=key, train=True)

    params, state, *applied = jax.eval_shape(run, jax.random.key(0), jax.ShapeDtypeStruct((2, *case.shape), dtype))
    assert isinstance(out, jn.Spec) and out.active is None
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(params) if jnp.issubdtype(leaf.dtype, jnp.floating))
    for y, new_state in applied:
        assert y.shape == (2, *out.shape)
        assert y.dtype == out.dtype == dtype
        assert new_state == state  # in shapes and dtypes


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16], ids=lambda dtype: dtype.__name__)
def test_init_foretells_shape_and_dtype(case, dtype):
    assert_init_foretells(case, dtype)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32], ids=lambda dtype: dtype.__name__)
def test_init_foretells_shape_and_dtype_where_float64_is_enabled(case, dtype, x64):
    assert_init_foretells(case, dtype)


def test_a_tuple_stands_for_a_float32_spec(case, key):
    layer = case.make(4)
    *from_tuple, out = layer.init(key, case.shape)
    *from_spec, same = layer.init(key, jn.Spec(case.shape, jnp.float32))
    assert_close(from_tuple, from_spec, 0, 0)
    assert out == same


# Transformations.


def test_jit_equals_eager(case, network, key):
    """Eager also with NumPy arrays, as networks come out of files and searches."""
    x = draw(case, (3, *case.shape))
    params, state, _ = network.layer.init(key, case.shape)
    params = jax.tree.map(np.asarray, params)
    evaluation = network.layer.apply(params, state, x)
    training = network.layer.apply(params, state, x, key=key, train=True)
    jitted = network.step(network.params, network.state, x, key)
    assert_close((network.params, jitted.evaluation, jitted.training), (params, evaluation, training))


def test_a_second_call_compiles_nothing(case, network):
    params, state = network.params, network.state
    for seed in range(3):  # what came out goes in again: the same dtypes, weak types and trees
        x = draw(case, (3, *case.shape), seed)
        results = network.step(params, state, x, jax.random.key(seed))
        params, (_, state) = results.params, results.training
    assert network.traces.count(x.shape) == 1


def test_gradients_equal_finite_differences(case, network, key, x64):
    if case.rounds:
        pytest.skip("it computes in another dtype than float64; tests/test_combinators.py compares its gradients")
    random = np.random.default_rng(5)
    weights = random.standard_normal((2, 3, *network.out.shape))

    def as_float64(leaf):
        return np.asarray(leaf, np.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    params = jax.tree.map(lambda p: as_float64(p) + 0.1, network.params)  # biases too away from zero
    state = jax.tree.map(as_float64, network.state)
    leaves, tree = jax.tree.flatten((params, draw(case, (3, *case.shape), dtype=np.float64)))

    def scalar(leaves, state, weights):
        params, x = tree.unflatten(leaves)
        evaluation, _ = network.layer.apply(params, state, x)
        training, _ = network.layer.apply(params, state, x, key=key, train=True)
        return jnp.sum(weights[0] * evaluation**2) + jnp.sum(weights[1] * training**2)

    @jax.jit  # one program: the gradient at a point, forward mode too, and the function at points around it
    def run(leaves, points, directions, *others):
        def forward(direction):
            return jax.jvp(lambda leaves: scalar(leaves, *others), (leaves,), (direction,))[1]

        slopes = jax.lax.map(forward, directions)
        return jax.grad(scalar)(leaves, *others), slopes, jax.lax.map(lambda point: scalar(point, *others), points)

    # Along two random directions, which meet every entry of the gradient.
    directions = [random.standard_normal((2, 1, *leaf.shape)) for leaf in leaves]
    steps = [np.reshape([1e-6, -1e-6], (2, *[1] * leaf.ndim)) for leaf in leaves]
    moves = [(step * d).reshape(4, *leaf.shape) for leaf, step, d in zip(leaves, steps, directions, strict=True)]
    points = [np.asarray(leaf) + move for leaf, move in zip(leaves, moves, strict=True)]
    gradient, forward, values = run(leaves, points, [d[:, 0] for d in directions], state, weights)
    differences = (values[::2] - values[1::2]) / 2e-6
    slopes = [sum(np.vdot(g, d[i]) for g, d in zip(gradient, directions, strict=True)) for i in range(2)]
    np.testing.assert_allclose(slopes, differences, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(forward, slopes, rtol=1e-9, atol=1e-9)


def test_the_shards_of_a_batch_have_the_gradients_of_all(case, network, key):
    """Under ``jax.shard_map`` and on a mesh with explicit axes, which refuse what doesn't say how it lies there.

    One device is a mesh too. Also compiled as ``fit`` does, which has gradients of its own for more layers.
    """
    x = draw(case, (3, *case.shape))
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    whole, parts = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("data")

    def total(params, x):
        outputs = [network.layer.apply(params, network.state, x, key=key, train=train)[0] for train in (False, True)]
        return sum(jnp.sum(jnp.sin(y)) for y in outputs)

    def summed(params, x):
        return jax.lax.psum(total(params, x), "data")

    expected = jax.jit(jax.grad(total))(network.params, x)

    def both(params, x):
        mapped = jax.shard_map(jax.grad(summed), in_specs=(whole, parts), out_specs=whole)
        return jax.grad(total)(params, x), mapped(params, x)

    with jax.set_mesh(mesh):
        params, x = (jax.device_put(of, jax.NamedSharding(mesh, p)) for of, p in ((network.params, whole), (x, parts)))
        for jit in (jax.jit, compiling.jit):
            for gradients in jit(both)(params, x):
                assert_close(gradients, expected, atol=case.rest)


@pytest.mark.parametrize("train", [False, True], ids=["evaluation", "training"])
def test_an_example_sees_no_other(case, network, train, key):
    if train and case.mixes:
        pytest.skip("its training outputs depend on the batch's statistics; tests/layers/test_normalization.py")
    x = np.array(draw(case, (3, *case.shape)))
    other = x.copy()
    other[1] = draw(case, case.shape, seed=2)

    @jax.jit
    def apply(x):
        return network.layer.apply(network.params, network.state, x, key=key, train=train)[0]

    together, beside_another = np.asarray(apply(x)), np.asarray(apply(other))
    np.testing.assert_array_equal(together[0], beside_another[0])
    np.testing.assert_array_equal(together[2], beside_another[2])
    np.testing.assert_allclose(together[:2], apply(x[:2]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("train", [False, True], ids=["evaluation", "training"])
def test_of_no_examples_there_are_no_outputs_and_gradients_of_zero(case, network, train, key):
    x = draw(case, (0, *case.shape))

    def total(params):
        outputs = network.layer.apply(params, network.state, x, key=key, train=train)[0]
        values = outputs.values if isinstance(outputs, jn.Sequence) else outputs
        assert values.shape == (0, *network.out.shape)
        return jnp.sum(values)

    gradient = jax.jit(jax.grad(total))(network.params)
    assert_close(gradient, jax.tree.map(jnp.zeros_like, gradient), 0, 0)


def test_evaluation_needs_no_key_and_changes_no_state(case, network, key):
    results = network.step(network.params, network.state, draw(case, (3, *case.shape)), key)
    assert_close(results.evaluation[1], network.state, 0, 0)
    np.testing.assert_array_equal(results.evaluation[0], results.evaluation_with_key[0])


def test_evaluation_can_be_traced_for_any_number_of_examples(case):
    layer, (batch,) = case.make(4), jax.export.symbolic_shape("batch")
    params, state = jax.eval_shape(lambda: layer.init(jax.random.key(0), case.shape)[:2])

    def apply(params, state, x):
        with lowered_as("native"):  # as jn.export does
            return layer.apply(params, state, x)[0]

    y = jax.eval_shape(apply, params, state, jax.ShapeDtypeStruct((batch, *case.shape), jnp.float32))
    assert y.shape[0] == batch


# Sizes: the law of the inactive unit, and what follows from it.

MASKS = {
    "first": [True, True, True, False, False],
    "gaps": [False, True, True, False, True],
    "one": [False, False, False, False, True],
}


class Run(NamedTuple):
    """What one program makes of a layer: its trees, its outputs in evaluation and in training, and gradients."""

    params: Any
    state: Any
    evaluation: Any
    training: Any
    d_params: Any
    dx: Any


def run_everything(layer, spec, x, key, on):
    """``on`` says which features of the outputs are active, of others nothing comes back to the gradients."""
    params, state, _ = layer.init(key, spec)

    def total(params, x):
        y, _ = layer.apply(params, state, x, key=key, train=True)
        return jnp.sum(jnp.where(on, jnp.sin(y), 0)), y

    (d_params, dx), training = jax.grad(total, argnums=(0, 1), has_aux=True)(params, x)
    return Run(params, state, layer.apply(params, state, x)[0], training, d_params, dx)


@pytest.fixture(scope="module")
def narrow(case):
    """Of a number of input features, the layer of width 4 without padding, its spec, an input, and the run with it."""

    @functools.cache
    def make(features):
        layer, spec = case.make(4), jn.Spec((*case.shape[:-1], features))
        x = draw(case, (3, *spec.shape))
        run = jax.jit(lambda x, key: run_everything(layer, spec, x, key, True))(x, jax.random.key(0))
        return layer, spec, x, jax.tree.map(np.asarray, run)

    return make


BOUND = 6


@pytest.fixture(scope="module")
def padded(case):
    """A function of a width, active input features, an input and a key, of a layer that has room for six units.

    It is traced with all of them unknown, so one program runs every width and mask, and another one lanes of them.
    """

    def run(value, mask, x, key):
        layer, spec = case.make(jn.Size(BOUND, value)), jn.Spec(case.shape, active=mask)
        *_, out = layer.init(key, spec)
        on = jnp.ones(out.shape[-1], bool) if out.active is None else out.active
        return run_everything(layer, spec, x, key, on), on, parameter_masks(layer, spec)

    return run, jax.jit(run)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
def test_padded_equals_narrow(case, narrow, padded, mask):
    """Wherever the gaps: the same draws, active outputs and gradients; zeros between them."""
    active = np.array(mask)
    assert case.shape[-1] == len(active)
    narrow_layer, narrow_spec, x, run = narrow(int(active.sum()))
    wide_x = np.zeros((3, *case.shape), np.float32)
    wide_x[..., active] = x
    wide, on, (masks, state) = jax.tree.map(np.asarray, padded[1](np.int32(4), active, wide_x, jax.random.key(0)))

    # unpad, for networks whose input is padded too, of the parameters and of their gradients at once
    def twice(layer, spec):
        def init(key, _):
            params, state, out = layer.init(key, spec)
            return (params, params), state, out

        return layer._replace(init=init)

    layer, spec = case.make(jn.Size(BOUND, 4)), jn.Spec(case.shape, active=jnp.asarray(active))
    trees = (wide.params, wide.d_params), wide.state, ((masks, masks), state)
    (params, d_params), _ = unpad(twice(layer, spec), twice(narrow_layer, narrow_spec), spec, *trees)
    assert_close(params, run.params, rtol=1e-6, atol=0)
    for padded_leaf, own in zip(jax.tree.leaves(wide.params), jax.tree.leaves(run.params), strict=True):
        assert np.count_nonzero(padded_leaf) == np.count_nonzero(own)

    for wide_y, y in ((wide.evaluation, run.evaluation), (wide.training, run.training)):
        assert on.sum() == y.shape[-1]
        np.testing.assert_allclose(wide_y[..., on], y, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(wide_y[..., on] == 0, y == 0)  # dropout drops the same
        np.testing.assert_array_equal(wide_y[..., ~on], 0)

    np.testing.assert_allclose(wide.dx[..., active], run.dx, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(wide.dx[..., ~active], 0)
    assert_close(d_params, run.d_params, rtol=1e-4, atol=1e-5)


def test_vmap_over_lanes_equals_a_loop(case, padded):
    """Each lane has its own size, mask, key and weights; inputs are shared; layers are made inside, as in a search."""
    run, single = padded
    values, masks, keys = np.int32([2, 5, 6]), np.array(list(MASKS.values())), jax.random.split(jax.random.key(3), 3)
    x = draw(case, (3, *case.shape))
    together = jax.tree.map(np.asarray, jax.jit(jax.vmap(run, in_axes=(0, 0, None, 0)))(values, masks, x, keys))
    for i in range(3):
        lane = jax.tree.map(lambda leaf, i=i: leaf[i], together)
        alone = jax.tree.map(np.asarray, single(values[i], masks[i], x, keys[i]))
        assert_close(lane, alone)
        np.testing.assert_array_equal(lane[0].training == 0, alone[0].training == 0)


def test_a_layer_of_fifty_is_the_same_alone_and_inside_64_and_128(key):
    """Of all that draws: a dense layer's weights and a dropout's bits, behind sizes and behind flattened gaps."""

    def run(first, second):
        net = jn.serial(jn.dense(first), jn.flatten, jn.dropout(0.5), jn.dense(second), jn.dropout(0.5))
        params, state, out = net.init(key, (2, 3))
        y, _ = net.apply(params, state, jnp.ones((2, 2, 3)), key=key, train=True)
        return params, y, out.active

    params, y, _ = run(20, 50)
    for bounds in ((20, 64), (20, 128), (32, 64), (64, 128)):
        wide, wide_y, active = run(jn.Size(bounds[0], 20), jn.Size(bounds[1], 50))
        np.testing.assert_array_equal(wide[0]["w"][:, :20], params[0]["w"])
        rows = wide[3]["w"].reshape(2, bounds[0], bounds[1])[:, :20, :50].reshape(40, 50)
        np.testing.assert_allclose(rows, params[3]["w"], rtol=1e-6)
        np.testing.assert_allclose(wide_y[:, active], y, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(wide_y[:, active] == 0, y == 0)


OPTIMIZERS = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, momentum=0.9),
    "adam": optax.adam(0.01),
    "adamw": optax.adamw(0.01, weight_decay=0.1),
    "rmsprop": optax.rmsprop(0.01),
    "adagrad": optax.adagrad(0.1),
    "lion": optax.lion(0.01),
}


def test_the_inactive_unit_stays_exactly_zero(case):
    """Behind a dense layer with a size, under both penalties, through 20 steps of each optimiser, a lane each."""
    size = jn.Size(case.shape[-1], 3)
    # softplus, so that functions that need positive inputs get them
    children = [jn.dense(size), as_layer(jax.nn.softplus), case.make(jn.Size(7, 4)), jn.flatten, jn.dense(2)]
    net, key = jn.serial(*children), jax.random.key(0)

    @jax.jit  # one program for all of it
    def run(key, x, target):
        params, state, _ = net.init(key, case.shape)
        start, as_tree = ravel_pytree(params)  # as one vector, there is less to compile
        with making_masks():
            active, _ = ravel_pytree(net.init(key, case.shape)[0])

        def loss(vector, key):
            tree = as_tree(vector)
            y, _ = net.apply(tree, state, x, key=key, train=True)
            return jnp.mean((y - target) ** 2) + jn.losses.l1(0.01)(tree) + jn.losses.l2(0.01)(tree)

        def step(carry, index):
            vectors, states = carry
            gradients = jax.vmap(jax.grad(loss), in_axes=(0, None))(vectors, jax.random.fold_in(key, index))
            optimizers = zip(OPTIMIZERS.values(), gradients, states, vectors, strict=True)
            updates, states = zip(*(o.update(g, s, v) for o, g, s, v in optimizers), strict=True)
            return (vectors + jnp.stack(updates), states), None

        states = tuple(o.init(start) for o in OPTIMIZERS.values())
        (vectors, _), _ = jax.lax.scan(step, (jnp.stack([start] * len(states)), states), length=20, xs=jnp.arange(20))
        outputs = jax.lax.map(lambda vector: _outputs(children[:3], as_tree(vector), state, x, key), vectors)
        return start, active, vectors, outputs

    x, target = draw(case, (8, *case.shape)), jax.random.normal(jax.random.key(2), (8, 2))
    start, active, vectors, outputs = jax.tree.map(np.asarray, run(key, x, target))
    assert active.dtype == bool and not active.all()
    for i, (name, vector) in enumerate(zip(OPTIMIZERS, vectors, strict=True)):
        assert np.isfinite(vector).all(), name
        np.testing.assert_array_equal(vector[~active], 0, err_msg=name)
        assert (vector != start)[active].all(), name
        for on, *both in outputs:  # of each child, some are active, and they alone
            for y in both:
                np.testing.assert_array_equal(y[i][..., ~on[i]], 0, err_msg=name)
                assert (y[i][..., on[i]] != 0).any(), name


def _outputs(children, params, state, x, key):
    """-> for each child which of its outputs are active, and the outputs in evaluation and in training."""
    spec, outputs = jn.Spec(x.shape[1:]), []
    for child, p, s in zip(children, params, state, strict=False):
        _, _, spec = child.init(key, spec)
        training, _ = child.apply(p, s, x, key=key, train=True)
        x, _ = child.apply(p, s, x)
        outputs.append((jnp.ones(spec.shape[-1], bool) if spec.active is None else spec.active, x, training))
    return outputs


# Sequences: padding changes nothing.

OVER_TIME = {name: case for name, case in LAYERS.items() if len(case.shape) > 1}


@pytest.mark.parametrize("case", OVER_TIME.values(), ids=OVER_TIME.keys())
def test_a_sequence_in_a_batch_equals_the_sequence_alone(case, key):
    """Whatever stands in the padding, and however much there is. A layer that can't, takes no ``Sequence``."""
    layer, (steps, *shape) = case.make(4), case.shape
    spec = jn.Sequence(jn.Spec(case.shape), jn.Spec((), jnp.int32))
    params, state, out, refusal = None, None, None, None
    try:
        params, state, out = layer.init(key, spec)
    except (TypeError, ValueError) as error:
        refusal = str(error)
    if refusal is not None:
        assert "Sequence" in refusal
        return
    lengths = np.array([steps, steps - 1, 1, 0], np.int32)
    x = np.asarray(draw(case, (4, *case.shape)))
    inside = (np.arange(steps)[None] < lengths[:, None]).reshape(4, steps, *[1] * len(shape))
    padded = np.where(inside, x, np.float32(np.nan))

    def run(x, lengths, train=False):
        """-> outputs, the gradients of a function of them by params and x, and the length of each output over time."""

        def total(params, x):
            x = x if lengths is None else jn.Sequence(x, lengths)
            y, _ = layer.apply(params, state, x, key=key, train=train)
            y, ends = (y.values, y.lengths) if isinstance(y, jn.Sequence) else (y, None)
            return jnp.sum(jnp.sin(y) @ jnp.cos(jnp.arange(y.shape[-1]))), (y, ends)

        gradients, (y, ends) = jax.grad(total, argnums=(0, 1), has_aux=True)(params, x)
        return y, *gradients, ends

    # Two programs: of sequences in batches, and of each alone. In training the first of a batch draws the same,
    # whoever comes after it.
    @jax.jit
    def batches(padded, x, lengths):
        train = None if case.mixes else run(padded[1:], lengths[1:], train=True)
        return run(padded, lengths), run(x[3:], lengths[3:]), train

    (y, d_params, dx, ends), (empty, total, _, _), train = jax.tree.map(np.asarray, batches(padded, x, lengths))
    np.testing.assert_array_equal(np.where(inside, 0, dx), 0)
    if ends is not None:
        assert y.shape == (4, *out.values.shape)
        np.testing.assert_array_equal(y[np.arange(y.shape[1])[None] >= ends[:, None]], 0)
    assert_close(y[3], empty[0])
    long_enough = [i for i in range(3) if ends is None or ends[i] > 0]  # not shorter than a window

    @jax.jit
    def alone(x):
        train = None if case.mixes else run(x[1:2, : steps - 1], None, train=True)
        return [run(x[i : i + 1, : lengths[i]], None) for i in long_enough], train

    each, train_alone = jax.tree.map(np.asarray, alone(x))
    for i in {0, 1, 2} - set(long_enough):
        np.testing.assert_array_equal(dx[i], 0)
    for i, (own, share, d_own, _) in zip(long_enough, each, strict=True):
        assert_close(y[i] if ends is None else y[i, : ends[i]], own[0])
        assert_close(dx[i, : lengths[i]], d_own[0])
        total = jax.tree.map(np.add, total, share)
    assert_close(d_params, total, atol=1e-5)

    if train is not None:
        y, _, dx, ends = train
        assert_close(y[0] if ends is None else y[0, : ends[0]], train_alone[0][0])
        assert_close(dx[0, : steps - 1], train_alone[2][0])


# Errors: the layer, what came, what was wanted.


@pytest.mark.parametrize("train", [False, True], ids=["evaluation", "training"])
def test_a_wrong_batch_is_refused_by_name(case, network, train, key):
    layer, params, state, *_ = network
    for shape, wanted in case.wrong.items():
        for apply in (layer.apply, jax.jit(layer.apply, static_argnames="train")):
            with pytest.raises(ValueError) as caught:  # noqa: PT011
                apply(params, state, jnp.ones(shape), key=key, train=train)
            assert layer.name in str(caught.value)
            assert str(shape) in str(caught.value) and wanted in str(caught.value)


@pytest.mark.parametrize(
    "spec, kind, message",
    [
        (5, TypeError, r"expected a Spec or a shape tuple without the batch axis.*got 5.*try \(5,\)"),
        ("5", TypeError, "expected a Spec or a shape tuple.*got '5'"),
        (None, TypeError, "expected a Spec or a shape tuple.*got None"),
        ((2.5,), TypeError, r"expected a Spec or a shape tuple.*got \(2.5,\)"),
        ((3, 0), ValueError, r"at least one entry, got the shape \(3, 0\)"),
        ((-3,), ValueError, r"at least one entry, got the shape \(-3,\)"),
        (jn.Spec((3, 0)), ValueError, r"at least one entry, got the shape \(3, 0\)"),
    ],
)
def test_a_wrong_spec_is_refused_with_the_path(case, spec, kind, message, key):
    layer = case.make(4)
    with pytest.raises(kind, match=message) as caught:
        jn.serial(layer).init(key, spec)
    assert str(caught.value).startswith(f"serial[0] {layer.name}")


def test_a_layer_has_a_name(case):
    assert case.make(4).name and not case.make(4).name.startswith("_")
