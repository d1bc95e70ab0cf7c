"""A padded network trains like the narrow one, from the same weights, to rounding: widths that differ cost nothing.

Lanes with sizes of their own, vmapped and made anew inside each step as a search does it, are held against networks
with integers for sizes, one after the other.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.ops.parameters import unpad

STEPS, BATCH = 20, 16
INPUTS = np.random.default_rng(1).standard_normal((STEPS, BATCH, 4, 3), np.float32)
LABELS = np.argmax(INPUTS.reshape(STEPS, BATCH, 12)[..., :5], axis=-1)

OPTIMIZERS = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.05, momentum=0.9),
    "adam": optax.adam(0.01),
    "adamw": optax.adamw(0.01, weight_decay=0.1),
}
ACTIVATIONS = {"relu": jax.nn.relu, "sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh}
SIZES = [(3, 9), (7, 4)]
BOUNDS = (7, 12)


@pytest.fixture(autouse=True)
def highest_precision():
    with jax.default_matmul_precision("highest"):
        yield


def mlp(activation, first, second):
    return jn.serial(
        jn.flatten, jn.dense(first), activation, jn.dropout(0.25), jn.dense(second), activation, jn.dense(5)
    )


def gaps(activation, first, second):
    """Inactive features after each position of the first axis, not only at the end."""
    return jn.serial(
        jn.dense(first), activation, jn.dropout(0.25), jn.flatten, jn.dense(second), activation, jn.dense(5)
    )


def two_gaps(activation, first, second):
    """A mask that comes out of a flatten and goes through an elementwise function and a dropout."""
    return jn.serial(jn.dense(first), jn.dense(second), jn.flatten, activation, jn.dropout(0.25), jn.dense(5))


def normed(activation, first, second):
    """Statistics of the batch, whose running averages are state, and of features, of which only the active count."""
    return jn.serial(
        jn.flatten, jn.dense(first, bias=False), jn.batch_norm(), activation,
        jn.dense(second), jn.layer_norm(), activation, jn.dense(5),
    )  # fmt: skip


def attending(activation, first, second):
    """The width of a head and that of the layer inside the block differ, on top of a width that does."""
    return jn.serial(
        jn.dense(second), jn.transformer_block(2, first, head_features=first, activation=activation), jn.flatten,
        jn.layer_norm(), jn.dense(5),
    )  # fmt: skip


def train(net, optimizers, key):
    """-> the loss before each step, [STEPS, optimizers], and the trees at the end, with an axis of optimizers in front.

    All optimizers train side by side from the same weights, so that one gradient is compiled for all of them.
    """
    params, state, _ = net().init(jax.random.fold_in(key, 0), INPUTS.shape[2:])

    def step(carry, batch):
        params, state, moments = carry
        inputs, labels, index = batch

        def loss(params, state):
            step_key = jax.random.fold_in(key, index)
            outputs, new_state = net().apply(params, state, inputs, key=step_key, train=True)
            return jn.losses.softmax_cross_entropy(outputs, labels).mean(), new_state

        (values, state), gradients = jax.vmap(jax.value_and_grad(loss, has_aux=True))(params, state)
        every = []
        for i, (optimizer, own) in enumerate(zip(optimizers, moments, strict=True)):
            before, gradient = jax.tree.map(lambda leaf, i=i: leaf[i], (params, gradients))
            updates, own = optimizer.update(gradient, own, before)
            every.append((optax.apply_updates(before, updates), own))
        params, moments = zip(*every, strict=True)
        return (jax.tree.map(lambda *leaves: jnp.stack(leaves), *params), state, moments), values

    moments = tuple(optimizer.init(params) for optimizer in optimizers)
    params, state = jax.tree.map(lambda leaf: jnp.stack([leaf] * len(optimizers)), (params, state))
    carry, losses = jax.lax.scan(step, (params, state, moments), (INPUTS, LABELS, jnp.arange(STEPS)))
    return losses, *carry[:2]


def assert_padded_equals_narrow(make, activation, names):
    keys, optimizers = jax.random.split(jax.random.key(0), len(SIZES)), [OPTIMIZERS[name] for name in names]

    def lane(values, key):
        sizes = [jn.Size(bound, values[i]) for i, bound in enumerate(BOUNDS)]
        return train(lambda: make(activation, *sizes), optimizers, key)

    lanes = jax.tree.map(np.asarray, jax.jit(jax.vmap(lane))(jnp.array(SIZES), keys))
    for i, values in enumerate(SIZES):
        narrow = make(activation, *values)
        run = jax.jit(lambda key, narrow=narrow: train(lambda: narrow, optimizers, key))
        own = jax.tree.map(np.asarray, run(keys[i]))
        padded = make(activation, *(jn.Size(bound, value) for bound, value in zip(BOUNDS, values, strict=True)))
        for j, name in enumerate(names):
            losses, params, state = lanes[0][i, :, j], *jax.tree.map(lambda leaf, i=i, j=j: leaf[i, j], lanes[1:])
            wanted, narrow_trees = own[0][:, j], jax.tree.map(lambda leaf, j=j: leaf[j], own[1:])
            np.testing.assert_allclose(losses, wanted, rtol=1e-5, err_msg=name)
            cut = unpad(padded, narrow, jn.Spec(INPUTS.shape[2:]), params, state)
            assert jax.tree.structure(cut) == jax.tree.structure(narrow_trees)
            for leaf, other in zip(jax.tree.leaves(cut), jax.tree.leaves(narrow_trees), strict=True):
                np.testing.assert_allclose(leaf, other, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS.keys())
def test_two_hidden_layers(activation):
    assert_padded_equals_narrow(mlp, activation, OPTIMIZERS)


@pytest.mark.parametrize("make", [gaps, two_gaps])
def test_a_flatten_behind_a_size(make):
    assert_padded_equals_narrow(make, jax.nn.sigmoid, ["momentum", "adamw"])


def test_statistics_of_batches_and_of_features():
    assert_padded_equals_narrow(normed, jnp.tanh, ["momentum", "adamw"])


def test_attention():
    # Not under Adam: the bias of the keys has a gradient of zero, and Adam divides its rounding by its own size.
    assert_padded_equals_narrow(attending, jnp.tanh, ["momentum"])
