"""Autoencoders: what is put out, the loss by hand, and lanes of different codes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.models.autoencoder import Reconstructed


def test_the_two_halves_are_the_whole(key):
    encoder, decoder = jn.serial(jn.dense(3), jnp.tanh), jn.dense(5)
    net = jn.models.autoencoder(encoder, decoder)
    params, state, out = net.init(key, (5,))
    assert set(params) == {"encoder", "decoder"} and (out.outputs.shape, out.code.shape) == ((5,), (3,))
    x = np.linspace(-1, 1, 10, dtype=np.float32).reshape(2, 5)
    output, _ = net.apply(params, state, x)
    code, _ = encoder.apply(params["encoder"], state["encoder"], x)
    outputs, _ = decoder.apply(params["decoder"], state["decoder"], code)
    np.testing.assert_array_equal(output.code, code)
    np.testing.assert_array_equal(output.outputs, outputs)


def test_the_loss_by_hand_and_its_slope_at_zero():
    output = Reconstructed(jnp.zeros((2, 2)), jnp.array([[[1.0], [-2.0]], [[0.0], [0.0]]]))
    targets = jnp.array([[1.0, 1.0], [2.0, 0.0]])
    loss = jn.models.reconstruction_loss(jn.losses.squared_error, l1=0.5)
    np.testing.assert_allclose(loss(output, targets), [1 + 1.5, 2])
    slope = jax.grad(lambda code: loss(output._replace(code=code), targets).sum())(output.code)
    np.testing.assert_allclose(slope[:, :, 0], [[0.5, -0.5], [0, 0]])
    with pytest.raises(ValueError, match="l1 must not be negative"):
        jn.models.reconstruction_loss(l1=-1.0)


def test_errors_have_the_path(key):
    with pytest.raises(ValueError, match=r"autoencoder\[decoder\] dense: expected"):
        jn.models.autoencoder(jn.lift(lambda x: x.sum(axis=1)), jn.dense(3)).init(key, (5,))
