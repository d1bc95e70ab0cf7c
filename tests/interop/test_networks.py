"""Networks of other libraries, in their own kinds of example: as layers they compute and train as they do there."""

import functools

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxnet as jn
from jaxnet.interop import equinox, flax, haiku
from jaxnet.interop import nnx as from_nnx
from jaxnet.ops.reductions import counting_rows

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.normal(size=(16, 8, 8, 1)).astype(np.float32), RNG.integers(3, size=16).astype(np.int32)
OPTIMIZER = optax.sgd(0.1, momentum=0.9)


class LinenResNet(nn.Module):
    width: int = 4
    rate: float = 0.0

    @nn.compact
    def __call__(self, x, train: bool):
        residual = nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Conv(self.width, (3, 3))(x))
        x = nn.avg_pool(nn.relu(x + residual), (2, 2), strides=(2, 2)).reshape(len(x), -1)
        return nn.Dense(3)(nn.Dropout(self.rate, deterministic=not train)(x))


class NnxResNet(nnx.Module):
    def __init__(self, rngs, width=4, rate=0.0):
        self.conv = nnx.Conv(1, width, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs)
        self.head = nnx.Linear(16 * width, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.avg_pool(nnx.relu(x + self.norm(self.conv(x))), (2, 2), strides=(2, 2))
        return self.head(self.dropout(x.reshape(len(x), -1)))


def haiku_resnet(x, is_training, width=4, rate=0.0):
    x = jax.nn.relu(x + hk.BatchNorm(True, True, 0.9)(hk.Conv2D(width, (3, 3))(x), is_training))
    x = hk.Flatten()(hk.avg_pool(x, (2, 2), (2, 2), "VALID"))
    if is_training and rate:
        x = hk.dropout(hk.next_rng_key(), rate, x)
    return hk.Linear(3)(x)


class EquinoxResNet(eqx.Module):
    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    head: eqx.nn.Linear

    def __init__(self, key, width=4, rate=0.0):
        first, second = jax.random.split(key)
        self.conv = eqx.nn.Conv2d(1, width, 3, padding=1, key=first)
        self.norm = eqx.nn.BatchNorm(width, axis_name=equinox.BATCH, mode="batch")
        self.dropout = eqx.nn.Dropout(rate)
        self.head = eqx.nn.Linear(16 * width, 3, key=second)

    def __call__(self, x, state, *, key=None):
        x = jnp.moveaxis(x, -1, 0)
        residual, state = self.norm(self.conv(x), state)
        x = eqx.nn.AvgPool2d(2, 2)(jax.nn.relu(x + residual)).ravel()
        return self.head(self.dropout(x, key=key)), state


def linen_resnet(width=4, rate=0.0):
    return flax.layer(LinenResNet(width, rate))


def nnx_resnet(width=4, rate=0.0):
    return from_nnx.layer(lambda rngs: NnxResNet(rngs, width, rate))


def haiku_resnet_layer(width=4, rate=0.0):
    return haiku.layer(lambda x, is_training: haiku_resnet(x, is_training, width, rate))


def equinox_resnet(width=4, rate=0.0):
    return equinox.layer(lambda key: EquinoxResNet(key, width, rate))


RESNETS = {"linen": linen_resnet, "nnx": nnx_resnet, "haiku": haiku_resnet_layer, "equinox": equinox_resnet}


@pytest.fixture(params=RESNETS.values(), ids=RESNETS.keys())
def resnet(request):
    return request.param


def cross_entropy(logits, labels):
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


def steps_here(net, params, state, steps=3):
    """Losses of training steps, and the evaluated outputs after them."""
    moments, losses = OPTIMIZER.init(params), []

    @jax.jit
    def step(params, state, moments):
        def loss(params):
            logits, new = net.apply(params, state, IMAGES, train=True, key=jax.random.key(0))
            return cross_entropy(logits, LABELS), new

        (value, state), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        updates, moments = OPTIMIZER.update(gradient, moments, params)
        return optax.apply_updates(params, updates), state, moments, value

    for _ in range(steps):
        params, state, moments, value = step(params, state, moments)
        losses.append(float(value))
    return losses, net.apply(params, state, IMAGES)[0]


def steps_in_linen(key):
    module = LinenResNet()
    variables = module.init(key, IMAGES, train=False)
    params, stats, moments, losses = *(variables[name] for name in ("params", "batch_stats")), None, []
    moments = OPTIMIZER.init(params)
    for _ in range(3):

        def loss(params, stats=stats):
            both = {"params": params, "batch_stats": stats}
            logits, new = module.apply(both, IMAGES, train=True, mutable=["batch_stats"])
            return cross_entropy(logits, LABELS), new["batch_stats"]

        (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        updates, moments = OPTIMIZER.update(gradient, moments, params)
        params = optax.apply_updates(params, updates)
        losses.append(float(value))
    return variables["params"], losses, module.apply({"params": params, "batch_stats": stats}, IMAGES, train=False)


def steps_in_nnx(key):
    module = NnxResNet(nnx.Rngs(key))
    begun = nnx.to_pure_dict(nnx.state(module, nnx.Param))
    optimizer, losses = nnx.Optimizer(module, OPTIMIZER, wrt=nnx.Param), []
    for _ in range(3):
        module.train()
        value, gradient = nnx.value_and_grad(lambda module: cross_entropy(module(IMAGES), LABELS))(module)
        optimizer.update(module, gradient)
        losses.append(float(value))
    module.eval()
    return begun, losses, module(IMAGES)


def steps_in_haiku(key):
    transformed = hk.transform_with_state(haiku_resnet)
    begun, state = transformed.init(key, IMAGES, True)
    params, moments, losses = begun, OPTIMIZER.init(begun), []
    for _ in range(3):

        def loss(params, state=state):
            logits, new = transformed.apply(params, state, None, IMAGES, True)
            return cross_entropy(logits, LABELS), new

        (value, state), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        updates, moments = OPTIMIZER.update(gradient, moments, params)
        params = optax.apply_updates(params, updates)
        losses.append(float(value))
    return begun, losses, transformed.apply(params, state, None, IMAGES, False)[0]


def steps_in_equinox(key):
    module, state = eqx.nn.make_with_state(EquinoxResNet)(key)
    begun = tuple(jax.tree.leaves(eqx.filter(module, eqx.is_inexact_array)))
    moments, losses = OPTIMIZER.init(eqx.filter(module, eqx.is_inexact_array)), []

    def forward(module, state):
        keys = jax.random.split(jax.random.key(0), len(IMAGES))

        def one(x, state, key):
            return module(x, state, key=key)

        return jax.vmap(one, (0, None, 0), (0, None), axis_name="batch")(IMAGES, state, keys)

    for _ in range(3):

        def loss(module, state=state):
            logits, new = forward(module, state)
            return cross_entropy(logits, LABELS), new

        (value, state), gradient = eqx.filter_value_and_grad(loss, has_aux=True)(module)
        updates, moments = OPTIMIZER.update(gradient, moments, module)
        module = eqx.apply_updates(module, updates)
        losses.append(float(value))
    return begun, losses, forward(eqx.nn.inference_mode(module), state)[0]


THERE = {"linen": steps_in_linen, "nnx": steps_in_nnx, "haiku": steps_in_haiku, "equinox": steps_in_equinox}


@pytest.mark.parametrize("library", RESNETS)
def test_training_is_what_it_is_in_the_library(library, key):
    """From the library's own initial parameters: losses of three steps with batch statistics, and the evaluation."""
    net = RESNETS[library]()
    params, state, out = net.init(key, (8, 8, 1))
    assert out.shape == (3,)
    begun, *expected = THERE[library](key)
    assert jax.tree.structure(params) == jax.tree.structure(begun)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, begun)
    losses, logits = steps_here(net, begun, state)
    np.testing.assert_allclose(losses, expected[0], rtol=1e-5)
    np.testing.assert_allclose(logits, expected[1], rtol=1e-4, atol=1e-5)


def test_lanes_equal_a_loop(resnet, key):
    net = resnet(rate=0.5)
    keys = jax.random.split(key, 3)
    params, state, _ = jax.jit(jax.vmap(lambda key: net.init(key, (8, 8, 1))))(keys)

    def run(params, state, key):
        return net.apply(params, state, IMAGES, train=True, key=key)

    together, single = jax.jit(jax.vmap(run))(params, state, keys), jax.jit(run)
    for i in range(3):
        alone = single(*jax.tree.map(lambda leaf, i=i: leaf[i], (params, state)), keys[i])
        for got, expected in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(got[i], expected, rtol=1e-4, atol=1e-5)


def test_dropout_draws_from_the_key_in_training_only(resnet, key):
    net = resnet(rate=0.5)
    params, state, _ = net.init(key, (8, 8, 1))
    one, same, other = (net.apply(params, state, IMAGES, train=True, key=jax.random.key(i))[0] for i in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)
    quiet, after = net.apply(params, state, IMAGES)
    np.testing.assert_array_equal(quiet, net.apply(params, state, IMAGES, key=key)[0])
    jax.tree.map(np.testing.assert_array_equal, after, state)


def test_a_search_trains_lanes_as_fit_trains_each(resnet, key):
    """A traced learning rate, and a width that groups by value."""
    space = jn.Space(rate=jn.log_uniform(1e-2, 1e-1), width=jn.choice(2, 3))

    def trial(hp):
        return jn.Trial(
            net=resnet(width=hp.width), loss=jn.losses.softmax_cross_entropy, optimizer=optax.sgd(hp.rate),
            metric=jn.losses.softmax_cross_entropy, batch_size=8,
        )  # fmt: skip

    data = IMAGES, LABELS
    result = jn.random_search(trial, space, data, data, trials=4, epochs=2, key=key, progress=False)
    for row in range(2):
        hp = {name: result.table[name][row].item() for name in ("rate", "width")}
        fitted = jn.fit(trial(jn.hp(**hp)), data, data, epochs=2, key=key, trial_id=row)
        np.testing.assert_allclose(
            result.table["score"][row], fitted.curve["validation_softmax_cross_entropy"][-1], rtol=1e-4
        )


def test_rows_that_only_fill_up_the_batch_are_left_out(resnet, key):
    net = resnet()
    params, state, _ = net.init(key, (8, 8, 1))

    @jax.jit
    def filled_and_alone(params, state, valid):
        with counting_rows(valid, 3):
            filled = net.apply(params, state, IMAGES[:6], train=True, key=key)
        return filled, net.apply(params, state, IMAGES[:3], train=True, key=key)

    (outputs, got), (expected, wanted) = filled_and_alone(params, state, np.arange(6) < 3)
    np.testing.assert_allclose(outputs[:3], expected, rtol=1e-5, atol=1e-6)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), got, wanted)


def test_lanes_count_no_more_rows_than_examples(key):
    """16 examples in batches of 6: after two epochs flax's statistics are ours, which leave the copies out."""

    def trial(norm):
        net = jn.serial(norm, jn.flatten, jn.dense(3))
        return jn.Trial(net, jn.losses.softmax_cross_entropy, optax.sgd(0.1), batch_size=6)

    options = {"epochs": 2, "key": key}
    theirs = flax.layer(nn.BatchNorm(momentum=0.9), flags=lambda train: {"use_running_average": not train})
    data, space = (IMAGES, LABELS), jn.Space(same=jn.choice(1.0))
    result = jn.random_search(lambda hp: trial(theirs), space, data, data, trials=2, progress=False, **options)
    ours = jn.fit(trial(jn.batch_norm()), data, data, trial_id=1, **options)
    got = result.network(1)[2][0]["batch_stats"]
    np.testing.assert_allclose(got["mean"], ours.state[0]["mean"], rtol=1e-4)
    np.testing.assert_allclose(got["var"], ours.state[0]["variance"], rtol=1e-5)


def test_with_state_a_batch_size_that_differs_between_lanes_is_refused(key):
    space = jn.Space(batch=jn.integers(4, 8))

    def trial(hp):
        return jn.Trial(linen_resnet(), jn.losses.softmax_cross_entropy, optax.sgd(0.1), batch_size=hp.batch)

    data = IMAGES, LABELS
    with pytest.raises(ValueError, match=r"LinenResNet: its state.*batch size differs from lane to lane.*static=True"):
        jn.random_search(trial, space, data, data, trials=2, epochs=1, key=key, progress=False)


def test_sequences_of_different_lengths_go_in_with_their_lengths(key):
    """flax's own classifier of sequences: the result equals each sequence alone, cut to its length."""

    class Classifier(nn.Module):
        @nn.compact
        def __call__(self, x, lengths):
            carry, _ = nn.RNN(nn.OptimizedLSTMCell(5), return_carry=True)(x, seq_lengths=lengths)
            return nn.Dense(2)(carry[1])

    net = flax.layer(Classifier())
    spec = jn.Sequence(jn.Spec((6, 3)), jn.Spec((), jnp.int32))
    params, state, out = net.init(key, spec)
    assert out.shape == (2,)
    values, lengths = jax.random.normal(key, (4, 6, 3)), jnp.array([6, 2, 5, 1])
    got = net.apply(params, state, jn.Sequence(values, lengths))[0]
    for i, n in enumerate(lengths):
        alone = Classifier().apply({"params": params}, values[i : i + 1, :n], jnp.array([n]))
        np.testing.assert_allclose(got[i : i + 1], alone, rtol=1e-5, atol=1e-6)


def test_arithmetic_in_half_precision_stays_the_modules_own(key):
    net = flax.layer(nn.Dense(3, dtype=jnp.bfloat16))
    params, state, out = net.init(key, (4,))
    assert (out.dtype, params["kernel"].dtype) == (jnp.bfloat16, jnp.float32)
    assert net.apply(params, state, jnp.ones((2, 4)))[0].dtype == jnp.bfloat16


def test_an_input_whose_width_differs_between_lanes_is_refused(resnet, key):
    spec = jn.Spec((8, 8, 2), active=jnp.array([True, False]))
    with pytest.raises(ValueError, match=r"differ from lane to lane.*static=True"):
        resnet().init(key, spec)


def test_a_network_of_one_example_is_refused(key):
    net = haiku.layer(lambda x: hk.Linear(3)(x.ravel()))
    with pytest.raises(ValueError, match=r"expected outputs \[batch, \.\.\.\].*\(3,\).*jax\.vmap"):
        net.init(key, (4,))


def test_a_transformed_function_is_refused():
    with pytest.raises(TypeError, match="leave out transform"):
        haiku.layer(hk.transform(lambda x: hk.Linear(3)(x)))


def test_a_traced_hyperparameter_that_equinox_would_train_is_refused(key):
    def begin(rate):
        return equinox.layer(lambda key: eqx.nn.Dropout(rate)).init(key, (4,))[2].shape

    assert begin(0.5) == (4,)
    with pytest.raises(ValueError, match=r"\.p is a hyperparameter.*static=True"):
        jax.vmap(lambda rate: jnp.zeros(begin(rate)))(jnp.array([0.1, 0.2]))
