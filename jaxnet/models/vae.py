"""The variational autoencoder: a network of a distribution, its loss, and an estimate of the likelihood."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnet.combinators import Children
from jaxnet.data import check_count
from jaxnet.layer import Layer, Size
from jaxnet.layers.dense import dense
from jaxnet.layers.dropout import gaussian_noise
from jaxnet.losses import sigmoid_cross_entropy


class Variational(NamedTuple):
    """What a variational autoencoder puts out, of a batch of x and a z drawn for each.

    ``outputs``: the decoder's, ``[batch, ...]``. ``mean``, ``log_variance``: of q(z | x), ``[batch, latent]``. In nats,
    ``[batch]``: ``log_likelihood``, log p(x | z); ``divergence``, of q(z | x) from the prior; ``log_weight``,
    log p(x, z) - log q(z | x), of which the mean is the evidence lower bound.
    """

    outputs: Any
    mean: Any
    log_variance: Any
    log_likelihood: Any
    divergence: Any
    log_weight: Any


def bernoulli(outputs: jax.Array, x: jax.Array) -> jax.Array:
    """Log likelihood of pixels x in [0, 1], each by itself, under logits of the same shape: nats ``[batch]``.

    >>> bernoulli(jnp.zeros((1, 2)), jnp.array([[0.0, 1.0]])).tolist()  # twice log 1/2
    [-1.3863]
    """
    return -math.prod(x.shape[1:]) * sigmoid_cross_entropy(outputs, x)


def variational_autoencoder(
    encoder: Any,
    decoder: Any,
    latent: int | Size,
    *,
    log_likelihood: Callable[[jax.Array, jax.Array], jax.Array] = bernoulli,
) -> Layer:
    """A decoder p(x | z) of z from a standard normal, and q(z | x), normal with the diagonal that the encoder says.

    The output is a ``Variational``. Its log likelihood is that of the input itself, so its loss, ``negative_elbo``,
    looks at no target, and ``Trial(augment=)`` may draw x anew each time (binarised pixels). With a key z is drawn, in
    evaluation too; without one z is the mean, which is right for codes and reconstructions, but makes no bound.

    Args:
      encoder: a layer or a function to features ``[batch, features]``; two dense layers make mean and log variance.
      decoder: a layer or a function of z to the parameters of p(x | z), of the input's shape for the default.
      latent: numbers in z; may be a ``Size``.
      log_likelihood: ``(outputs, x) -> [batch]``, nats.

    Params and state are dicts ``{"encoder", "mean", "log_variance", "decoder"}``: ``decoder.apply(params["decoder"],
    state["decoder"], z)`` makes samples.

    Raises:
      TypeError, ValueError: as ``serial``; and from ``apply``, when it gets no key in training.

    Source: Kingma and Welling, "Auto-encoding variational Bayes" (2014), appendix B for the divergence.

    >>> import jaxnet as jn
    >>> net = variational_autoencoder(jn.serial(jn.dense(200), jnp.tanh), jn.dense(784), latent=50)
    >>> params, state, out = net.init(jax.random.key(0), (784,))
    >>> out.outputs.shape, out.mean.shape, out.log_weight.shape
    ((784,), (50,), ())
    """
    parts = {"encoder": encoder, "mean": dense(latent), "log_variance": dense(latent), "decoder": decoder}
    children = Children("variational_autoencoder", (), parts)
    noise = gaussian_noise(1.0)  # knows how to leave out what a size leaves out

    def init(key, spec):
        encoder_params, encoder_state, features = children.init(0, key, spec)
        mean_params, mean_state, z = children.init(1, key, features)
        variance_params, variance_state, _ = children.init(2, key, features)
        decoder_params, decoder_state, outputs = children.init(3, key, z)
        params = children.pack([encoder_params, mean_params, variance_params, decoder_params])
        state = children.pack([encoder_state, mean_state, variance_state, decoder_state])
        _, noise_state, _ = noise.init(None, z)
        number = type(z)((), z.dtype)
        return params, state | {"noise": noise_state}, Variational(outputs, z, z, number, number, number)

    def apply(params, state, x, *, key: Any = None, train=False):
        if train and key is None:
            raise ValueError("variational_autoencoder: needs a key in training; try apply(..., key=jax.random.key(0))")
        noise_state, state = state["noise"], {name: state[name] for name in parts}
        trees = children.unpack(params, state)
        features, encoder_state = children.apply(0, *trees[0], x, key, train)
        mean, _ = children.apply(1, *trees[1], features, key, train)
        log_variance, _ = children.apply(2, *trees[2], features, key, train)
        drawn = jnp.zeros_like(mean)
        if key is not None:
            drawn, _ = noise.apply((), noise_state, drawn, key=jax.random.fold_in(key, len(parts)), train=True)
        z = mean + jnp.exp(0.5 * log_variance) * drawn
        outputs, decoder_state = children.apply(3, *trees[3], z, key, train)
        likelihood = log_likelihood(outputs, x)
        divergence = 0.5 * jnp.sum(jnp.exp(log_variance) - 1 - log_variance + mean**2, axis=1)
        log_weight = likelihood + 0.5 * jnp.sum(drawn**2 + log_variance - z**2, axis=1)
        state = state | {"encoder": encoder_state, "decoder": decoder_state, "noise": noise_state}
        return Variational(outputs, mean, log_variance, likelihood, divergence, log_weight), state

    return Layer(init, apply)


def negative_elbo(beta: Any = 1.0) -> Callable[[Variational, Any], jax.Array]:
    """The loss of a variational autoencoder, ``beta * divergence - log_likelihood``: a factory of a loss, in nats.

    Args:
      beta: weighs the divergence, not negative; may be traced. At 1 it is minus the evidence lower bound, with the
        divergence in closed form.

    Raises:
      ValueError: here, for a negative ``beta``.

    Source: Kingma and Welling (2014), equation 10; beta: Higgins et al., "beta-VAE" (2017).

    >>> output = Variational(None, None, None, jnp.array([-80.0]), jnp.array([20.0]), None)
    >>> negative_elbo()(output, None).tolist(), negative_elbo(0.5)(output, None).tolist()
    ([100.0], [90.0])
    """
    if isinstance(beta, (int, float)) and not beta >= 0:
        raise ValueError(f"negative_elbo: beta must not be negative, got {beta!r}")

    def negative_elbo(output, targets):
        return beta * output.divergence - output.log_likelihood

    return negative_elbo


def importance_weighted(net: Layer, params: Any, state: Any, x: Any, *, samples: int, key: jax.Array) -> jax.Array:
    """Estimates log p(x) from below: the log of the mean of ``samples`` importance weights, in nats ``[batch]``.

    With one sample it is the evidence lower bound; with more its expectation only rises, towards log p(x). The samples
    are a loop inside one program, so there may be thousands.

    Args:
      net: whose outputs have a ``log_weight`` that it draws with the key, such as a ``variational_autoencoder``.
      params, state: its trees. x: ``[batch, ...]``, floats as the network takes them. samples: at least 1.
      key: a PRNG key.

    Raises:
      TypeError, ValueError: for ``samples`` that aren't a positive integer.

    Source: Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders" (2015), equation 8.

    >>> import jaxnet as jn
    >>> net = variational_autoencoder(jnp.tanh, jn.dense(3), latent=2)
    >>> params, state, _ = net.init(jax.random.key(0), (3,))
    >>> importance_weighted(net, params, state, jnp.ones((5, 3)), samples=100, key=jax.random.key(1)).shape
    (5,)
    """
    check_count("samples", samples)
    return _importance_weighted(net, samples)(params, state, x, key)


@functools.lru_cache(maxsize=16)
def _importance_weighted(net: Layer, samples: int) -> Callable[..., jax.Array]:
    @jax.jit
    def estimate(params, state, x, key):
        def step(total, i):
            output, _ = net.apply(params, state, x, key=jax.random.fold_in(key, i))
            return jnp.logaddexp(total, output.log_weight), None

        start = jnp.full(len(x), -jnp.inf)
        total, _ = jax.lax.scan(step, start, jnp.arange(samples, dtype=jnp.uint32))
        return total - math.log(samples)

    return estimate
