"""The variational autoencoder against closed forms: probabilistic PCA, whose likelihood is a normal's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxnet as jn

VARIANCE = 0.5  # of the noise around what the decoder says


def normal(outputs, x):
    squares = jnp.sum((x - outputs) ** 2, axis=1)
    return -0.5 * (squares / VARIANCE + x.shape[1] * jnp.log(2 * jnp.pi * VARIANCE))


@pytest.fixture(scope="module")
def probabilistic_pca():
    """x = W z + noise: marginal and posterior in closed form (Tipping and Bishop 1999, equations 3 and 6)."""
    generator = np.random.default_rng(0)
    w = generator.normal(size=(2, 5)).astype(np.float32)  # z @ w
    x = generator.normal(size=(4, 5)).astype(np.float32)
    covariance = np.linalg.inv(np.eye(2) + w @ w.T / VARIANCE)
    net = jn.models.variational_autoencoder(jn.serial(), jn.dense(5), 2, log_likelihood=normal)
    params, state, _ = net.init(jax.random.key(0), (5,))
    params["decoder"] = {"w": w, "b": np.zeros(5, np.float32)}
    params["mean"] = {"w": (w.T @ covariance / VARIANCE).astype(np.float32), "b": np.zeros(2, np.float32)}
    # q has a diagonal only: the best one has the inverse of the precision's diagonal.
    diagonal = np.log(1 / np.diag(np.linalg.inv(covariance))).astype(np.float32)
    params["log_variance"] = {"w": np.zeros((5, 2), np.float32), "b": diagonal}
    marginal = stats.multivariate_normal(np.zeros(5), w.T @ w + VARIANCE * np.eye(5))
    return net, params, state, x, marginal.logpdf(x), covariance, diagonal


def test_many_importance_samples_come_to_the_likelihood(probabilistic_pca, key):
    net, params, state, x, likelihood, _, _ = probabilistic_pca
    found = jn.models.importance_weighted(net, params, state, x, samples=4000, key=key)
    np.testing.assert_allclose(found, likelihood, atol=0.05)


def test_the_bound_is_the_likelihood_less_the_divergence_from_the_posterior(probabilistic_pca, key):
    net, params, state, x, likelihood, covariance, diagonal = probabilistic_pca
    inverse = np.linalg.inv(covariance)
    q = np.diag(np.exp(diagonal))
    gap = 0.5 * (np.trace(inverse @ q) - 2 + np.log(np.linalg.det(covariance)) - diagonal.sum())  # equal means
    tiled = np.tile(x, (4000, 1))
    output, _ = jax.jit(lambda x: net.apply(params, state, x, key=key))(tiled)
    elbo = -np.asarray(jn.models.negative_elbo()(output, None)).reshape(4000, 4).mean(axis=0)
    np.testing.assert_allclose(elbo, likelihood - gap, atol=0.15)
    weights = np.asarray(output.log_weight).reshape(4000, 4)
    np.testing.assert_allclose(weights.mean(axis=0), likelihood - gap, atol=0.15)


def test_the_divergence_is_that_of_two_normals_by_hand(probabilistic_pca):
    net, params, state, x, *_ = probabilistic_pca
    output, _ = net.apply(params, state, x)
    mean, variance = np.asarray(output.mean), np.exp(np.asarray(output.log_variance))
    # KL(N(m, v) || N(0, 1)) = (v + m^2 - 1 - log v) / 2, summed
    np.testing.assert_allclose(output.divergence, 0.5 * (variance + mean**2 - 1 - np.log(variance)).sum(1), rtol=1e-5)
    np.testing.assert_allclose(output.outputs, mean @ params["decoder"]["w"], rtol=1e-4)  # without a key, z is the mean


def test_a_padded_latent_is_the_narrow_one(key):
    def make(latent):
        return jn.models.variational_autoencoder(jnp.tanh, jn.serial(jn.dense(4), jnp.tanh, jn.dense(3)), latent)

    x = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3)

    @jax.jit
    def bound(value, key):
        net = make(jn.Size(5, value, "latent"))
        params, state, _ = net.init(key, (3,))

        def loss(params):
            output, _ = net.apply(params, state, x, key=key, train=True)
            return jnp.sum(jn.models.negative_elbo()(output, None)), output

        (_, output), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        return output, gradient["decoder"][0]["w"]

    narrow = make(2)
    params, state, _ = narrow.init(key, (3,))
    output, _ = narrow.apply(params, state, x, key=key, train=True)
    padded, gradient = bound(2, key)
    for name in ("outputs", "log_likelihood", "divergence", "log_weight"):
        np.testing.assert_allclose(getattr(padded, name), getattr(output, name), rtol=1e-5, err_msg=name)
    assert not np.any(padded.mean[:, 2:]) and not np.any(gradient[2:]) and np.all(gradient[:2] != 0)


def test_a_key_is_asked_for_in_training(probabilistic_pca):
    net, params, state, x, *_ = probabilistic_pca
    with pytest.raises(ValueError, match="variational_autoencoder: needs a key in training"):
        net.apply(params, state, x, train=True)
    with pytest.raises(ValueError, match="samples must be at least 1"):
        jn.models.importance_weighted(net, params, state, x, samples=0, key=jax.random.key(0))
    with pytest.raises(ValueError, match="beta must not be negative"):
        jn.models.negative_elbo(-1.0)
