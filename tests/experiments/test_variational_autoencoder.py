"""The variational autoencoder's experiment: binarised pixels, and the estimate digit by digit."""

import jax
import numpy as np

import jaxnet as jn
from experiments import variational_autoencoder as experiment


def test_pixels_are_white_with_their_grey_as_the_probability():
    greys = np.tile(np.array([0.0, 0.3, 1.0], np.float32), (10_000, 1))
    drawn = np.asarray(experiment.binarized(jax.random.key(0), greys))
    assert set(np.unique(drawn).tolist()) == {0.0, 1.0}
    # The standard error of the second is 0.0046.
    np.testing.assert_allclose(drawn.mean(axis=0), [0, 0.3, 1], atol=0.02)


def test_nats_of_a_network_that_says_nothing(key):
    net = experiment.trial_of(1)(jn.hp(latent=2)).net
    params, state, _ = net.init(key, (experiment.PIXELS,))
    params = jax.tree.map(np.zeros_like, params)  # logits of 0, and q is the prior
    digits = np.zeros((200, experiment.PIXELS), np.float32)
    found = experiment.nats(net, params, state, digits, 2, key)
    np.testing.assert_allclose(found, np.full(200, 784 * np.log(2)), rtol=1e-5)
    probabilities = experiment.decoded(params, state, experiment.of_the_prior(2))
    np.testing.assert_array_equal(probabilities, np.full((4, 784), 0.5))
