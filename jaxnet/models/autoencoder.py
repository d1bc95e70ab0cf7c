"""Autoencoders: networks that say their input again through a code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnet.combinators import Children
from jaxnet.layer import Layer
from jaxnet.losses import sigmoid_cross_entropy


class Reconstructed(NamedTuple):
    """What an autoencoder puts out: the decoder's ``outputs``, and the ``code`` that they were made from."""

    outputs: Any
    code: Any


def autoencoder(encoder: Any, decoder: Any) -> Layer:
    """``decoder(encoder(x))``, with the code beside it: the output is ``Reconstructed(outputs, code)``.

    Its targets are its inputs, its loss is ``reconstruction_loss``. With ``Trial(augment=)`` it sees noisy inputs and
    is told the clean ones, which makes it a denoising autoencoder. Params and state are dicts of the two layers' trees,
    ``{"encoder", "decoder"}``.

    Args:
      encoder: a layer or a function; the length of its code may be a ``Size``.
      decoder: a layer or a function of codes.

    Raises:
      TypeError: when one is neither. ValueError: from ``init`` and ``apply``, a layer's own, with its path in front.

    Source: Hinton and Salakhutdinov, "Reducing the dimensionality of data with neural networks" (2006); Vincent et al.,
    "Extracting and composing robust features with denoising autoencoders" (2008).

    >>> import jaxnet as jn
    >>> net = autoencoder(jn.serial(jn.flatten, jn.dense(30)), jn.dense(784))
    >>> params, state, out = net.init(jax.random.key(0), (28, 28, 1))
    >>> out.outputs.shape, out.code.shape
    ((784,), (30,))
    """
    children = Children("autoencoder", (), {"encoder": encoder, "decoder": decoder})

    def init(key, spec):
        encoder_params, encoder_state, code = children.init(0, key, spec)
        decoder_params, decoder_state, outputs = children.init(1, key, code)
        params, state = children.pack([encoder_params, decoder_params]), children.pack([encoder_state, decoder_state])
        return params, state, Reconstructed(outputs, code)

    def apply(params, state, x, *, key=None, train=False):
        (encoder_params, encoder_state), (decoder_params, decoder_state) = children.unpack(params, state)
        code, encoder_state = children.apply(0, encoder_params, encoder_state, x, key, train)
        outputs, decoder_state = children.apply(1, decoder_params, decoder_state, code, key, train)
        return Reconstructed(outputs, code), children.pack([encoder_state, decoder_state])

    return Layer(init, apply)


def reconstruction_loss(
    loss: Callable[[Any, Any], jax.Array] = sigmoid_cross_entropy, *, l1: Any = 0.0
) -> Callable[[Reconstructed, Any], jax.Array]:
    """An autoencoder's loss, ``loss(outputs, targets) + l1 * sum(|code|)``: a factory of a loss.

    Args:
      loss: of the decoder's outputs and the targets, one number for each example. The default is for outputs that are
        logits of numbers in [0, 1], such as pixels.
      l1: weighs the sum of the code's absolute values, not negative; may be traced. Above 0 the code becomes sparse.
        What the code loses the decoder's weights can make up for, so they are to be held, by ``max_norm`` or a penalty.

    Raises:
      ValueError: here, for a negative ``l1``.

    >>> import jaxnet as jn
    >>> output = Reconstructed(jnp.array([[1.0, 2.0]]), jnp.array([[3.0, -4.0]]))
    >>> reconstruction_loss(jn.losses.squared_error, l1=0.1)(output, jnp.array([[1.0, 4.0]])).tolist()  # 2 + 0.7
    [2.7]
    """
    if isinstance(l1, (int, float)) and not l1 >= 0:
        raise ValueError(f"reconstruction_loss: l1 must not be negative, got {l1!r}")

    def reconstruction_loss(output, targets):
        code = output.code
        # Not abs, whose slope JAX sets to 1 at 0: it would move codes that a relu has cut off.
        sizes = jnp.sum((code * jnp.sign(code)).reshape(len(code), -1), axis=1)
        return loss(output.outputs, targets) + l1 * sizes

    return reconstruction_loss
