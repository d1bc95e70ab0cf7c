"""The kinds of example that other libraries come with, in each of them: as a layer they train as they do there.

Both sides start from the same parameters, take three training steps in one program and are then evaluated. What a
library does by itself is written here as its users write it.
"""

from typing import Any

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training import train_state

import jaxnet as jn
from jaxnet.interop import equinox, flax, haiku
from jaxnet.interop import nnx as from_nnx
from jaxnet.ops import compiling

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(4, 6, 6, 1)).astype(np.float32)
SEQUENCES = RNG.normal(size=(4, 5, 3)).astype(np.float32)
PIXELS = RNG.random(size=(4, 6)).astype(np.float32)
LABELS = np.array([0, 1, 2, 1])


class LinenCNN(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.avg_pool(nn.relu(nn.Conv(4, (3, 3))(x)), (2, 2), strides=(2, 2))
        return nn.Dense(3)(x.reshape(len(x), -1))


class NnxCNN(nnx.Module):
    def __init__(self, rngs):
        self.conv, self.head = nnx.Conv(1, 4, (3, 3), rngs=rngs), nnx.Linear(36, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.avg_pool(nnx.relu(self.conv(x)), (2, 2), strides=(2, 2))
        return self.head(x.reshape(len(x), -1))


def haiku_cnn(x):
    x = hk.avg_pool(jax.nn.relu(hk.Conv2D(4, (3, 3))(x)), (2, 2), (2, 2), "VALID")
    return hk.Linear(3)(hk.Flatten()(x))


class EquinoxCNN(eqx.Module):
    conv: eqx.nn.Conv2d
    head: eqx.nn.Linear

    def __init__(self, key):
        first, second = jax.random.split(key)
        self.conv, self.head = eqx.nn.Conv2d(1, 4, 3, padding=1, key=first), eqx.nn.Linear(36, 3, key=second)

    def __call__(self, x):
        x = eqx.nn.AvgPool2d(2, 2)(jax.nn.relu(self.conv(jnp.moveaxis(x, -1, 0))))
        return self.head(x.ravel())


class LinenLSTM(nn.Module):
    @nn.compact
    def __call__(self, x):
        (_, h), _ = nn.RNN(nn.OptimizedLSTMCell(4), return_carry=True)(x)
        return nn.Dense(3)(h)


class NnxLSTM(nnx.Module):
    def __init__(self, rngs):
        self.rnn = nnx.RNN(nnx.OptimizedLSTMCell(3, 4, rngs=rngs))
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(self.rnn(x)[:, -1])


def haiku_lstm(x):
    lstm = hk.LSTM(4)
    outputs, _ = hk.dynamic_unroll(lstm, x, lstm.initial_state(len(x)), time_major=False)
    return hk.Linear(3)(outputs[:, -1])


class EquinoxLSTM(eqx.Module):
    cell: eqx.nn.LSTMCell
    head: eqx.nn.Linear

    def __init__(self, key):
        first, second = jax.random.split(key)
        self.cell, self.head = eqx.nn.LSTMCell(3, 4, key=first), eqx.nn.Linear(4, 3, key=second)

    def __call__(self, x):
        (h, _), _ = jax.lax.scan(lambda carry, x: (self.cell(x, carry), None), (jnp.zeros(4), jnp.zeros(4)), x)
        return self.head(h)


class LinenVAE(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic):
        mean, log_variance = jnp.split(nn.Dense(4)(x), 2, axis=-1)
        noise = 0.0 if deterministic else jax.random.normal(self.make_rng("noise"), mean.shape)
        return nn.Dense(6)(mean + jnp.exp(log_variance / 2) * noise), mean, log_variance


class NnxVAE(nnx.Module):
    def __init__(self, rngs):
        self.encoder, self.decoder = nnx.Linear(6, 4, rngs=rngs), nnx.Linear(2, 6, rngs=rngs)
        self.rngs, self.deterministic = nnx.Rngs(noise=rngs.noise()), False

    def __call__(self, x):
        mean, log_variance = jnp.split(self.encoder(x), 2, axis=-1)
        noise = 0.0 if self.deterministic else jax.random.normal(self.rngs.noise(), mean.shape)
        return self.decoder(mean + jnp.exp(log_variance / 2) * noise), mean, log_variance


def haiku_vae(x, is_training):
    mean, log_variance = jnp.split(hk.Linear(4)(x), 2, axis=-1)
    noise = jax.random.normal(hk.next_rng_key(), mean.shape) if is_training else 0.0
    return hk.Linear(6)(mean + jnp.exp(log_variance / 2) * noise), mean, log_variance


class EquinoxVAE(eqx.Module):
    encoder: eqx.nn.Linear
    decoder: eqx.nn.Linear
    inference: bool

    def __init__(self, key):
        first, second = jax.random.split(key)
        self.encoder, self.decoder = eqx.nn.Linear(6, 4, key=first), eqx.nn.Linear(2, 6, key=second)
        self.inference = False

    def __call__(self, x, *, key=None):
        mean, log_variance = jnp.split(self.encoder(x), 2)
        noise = 0.0 if self.inference else jax.random.normal(key, mean.shape)
        return self.decoder(mean + jnp.exp(log_variance / 2) * noise), mean, log_variance


def linen(module, **of_training):
    """A layer, and the library's own call, ``(params, key, x, train) -> outputs``; so for each library."""

    def call(params, key, x, train):
        flags = {name: value != train for name, value in of_training.items()}
        return module.apply({"params": params}, x, rngs={"noise": jax.random.fold_in(key, 0)}, **flags)

    return flax.layer(module, streams=["noise"]), call


def of_nnx(make):
    def call(params, key, x, train):
        module = make(nnx.Rngs(0))
        nnx.update(module, params)
        if hasattr(module, "deterministic"):
            nnx.reseed(module, noise=jax.random.fold_in(key, 0))
            (module.train if train else module.eval)()
        return module(x)

    return from_nnx.layer(make), call


def of_haiku(function, *switch):
    def call(params, key, x, train):
        return hk.transform(function).apply(params, key, x, *(train for _ in switch))

    return haiku.layer(function), call


def of_equinox(make):
    def call(params, key, x, train):
        arrays, rest = eqx.partition(make(jax.random.key(1)), eqx.is_inexact_array)
        module = eqx.combine(jax.tree.unflatten(jax.tree.structure(arrays), params), rest)
        if not hasattr(module, "inference"):
            return jax.vmap(module)(x)
        module = eqx.nn.inference_mode(module, value=not train)
        return jax.vmap(lambda x, key: module(x, key=key))(x, jax.random.split(key, len(x)))

    return equinox.layer(make), call


def is_spec(value):
    return isinstance(value, jn.Spec)


def cross_entropy(logits):
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, LABELS))


def negative_elbo(outputs):
    logits, mean, log_variance = outputs
    divergence = 0.5 * jnp.sum(jnp.exp(log_variance) + mean**2 - 1 - log_variance, axis=-1)
    return jnp.mean(jnp.sum(optax.sigmoid_binary_cross_entropy(logits, PIXELS), axis=-1) + divergence)


EXAMPLES = {
    "MNIST CNN": (
        {
            "linen": lambda: linen(LinenCNN()), "nnx": lambda: of_nnx(NnxCNN), "haiku": lambda: of_haiku(haiku_cnn),
            "equinox": lambda: of_equinox(EquinoxCNN),
        },
        IMAGES, cross_entropy,
    ),
    "LSTM classifier": (
        {
            "linen": lambda: linen(LinenLSTM()), "nnx": lambda: of_nnx(NnxLSTM), "haiku": lambda: of_haiku(haiku_lstm),
            "equinox": lambda: of_equinox(EquinoxLSTM),
        },
        SEQUENCES, cross_entropy,
    ),
    "VAE": (
        {
            "linen": lambda: linen(LinenVAE(), deterministic=True), "nnx": lambda: of_nnx(NnxVAE),
            "haiku": lambda: of_haiku(haiku_vae, "is_training"), "equinox": lambda: of_equinox(EquinoxVAE),
        },
        PIXELS, negative_elbo,
    ),
}  # fmt: skip


@pytest.mark.parametrize("library", ["linen", "nnx", "haiku", "equinox"])
@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_trains_as_in_its_own_library(example, library, key):
    makers, x, loss = EXAMPLES[example]
    net, theirs = makers[library]()
    optimizer = optax.adam(0.1)
    begun, state, out = net.init(key, x.shape[1:])

    def ours(params, key, x, train):
        return net.apply(params, state, x, key=key, train=train)[0]

    @jax.jit
    def both(params):
        def trained(call):
            def step(carry, key):
                params, moments = carry
                value, gradient = jax.value_and_grad(lambda params: loss(call(params, key, x, True)))(params)
                updates, moments = optimizer.update(gradient, moments, params)
                return (optax.apply_updates(params, updates), moments), value

            (after, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(key, 3))
            return losses, call(after, key, x, False)

        return trained(ours), trained(theirs)

    (losses, outputs), (expected_losses, expected) = both(begun)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    assert jax.tree.map(lambda spec: (len(x), *spec.shape), out, is_leaf=is_spec) == jax.tree.map(jnp.shape, outputs)
    for got, wanted in zip(*map(jax.tree.leaves, (outputs, expected)), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


class TrainState(train_state.TrainState):
    """As flax's guide to batch norm has it."""

    batch_stats: Any


class Normalized(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x.reshape(len(x), -1)))
        return nn.Dense(3)(nn.relu(x))


MODULE, OPTIMIZER = Normalized(), optax.inject_hyperparams(optax.adam)(learning_rate=0.0)


def created(rate, key):
    variables = MODULE.init(key, IMAGES, train=False)
    params, stats = variables["params"], variables["batch_stats"]
    state = TrainState.create(apply_fn=MODULE.apply, params=params, tx=OPTIMIZER, batch_stats=stats)
    state.opt_state.hyperparams["learning_rate"] = jnp.asarray(rate)
    return state


def train_step(state, images, labels):
    def loss(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, new = state.apply_fn(variables, images, train=True, mutable=["batch_stats"])
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels)), new["batch_stats"]

    (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
    return state.apply_gradients(grads=gradient, batch_stats=stats), value


def validated(state):
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    return cross_entropy(state.apply_fn(variables, IMAGES, train=False))


def test_a_whole_training_loop_of_flax_is_searched_as_a_program(key):
    """Its ``TrainState`` is what a lane carries; the loop run alone, in flax's way, comes to the lane's score."""

    def advance(hp, state, key):
        state, _ = jax.lax.scan(lambda state, batch: train_step(state, *batch), state, batches)
        return state

    batches = IMAGES.reshape(2, 2, *IMAGES.shape[1:]), LABELS.reshape(2, 2)
    program = jn.search.Program(
        init=lambda hp, key: created(hp.rate, jax.random.key(1)),
        advance=advance,
        evaluate=lambda hp, state: {"score": validated(state)},
    )
    space = jn.Space(rate=jn.log_uniform(1e-3, 1e-1))
    result = jn.search.run(program, space, trials=3, epochs=2, key=key, progress=False)

    # By the library that multiplies in a search: batch norm takes out again what some gradients are, all but rounding,
    # which Adam makes as large as any other.
    begin, step, test = map(compiling.jit, (created, train_step, validated))
    for row in range(3):
        state = begin(result.table["rate"][row], jax.random.key(1))
        for _ in range(2):
            for batch in zip(*batches, strict=True):
                state, _ = step(state, *batch)
        np.testing.assert_allclose(result.table["score"][row], test(state), rtol=1e-5)
    assert len(set(result.table["score"])) == 3
    np.testing.assert_allclose(test(result.network(result.best)), result.best["score"], rtol=1e-5)
