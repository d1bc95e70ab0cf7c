"""The two players of a generative adversarial network for images, as the DCGAN has them."""

from __future__ import annotations

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.combinators import serial
from jaxnet.layer import Layer, Size
from jaxnet.layers.convolution import conv, conv_transpose
from jaxnet.layers.dense import dense
from jaxnet.layers.normalization import batch_norm
from jaxnet.layers.shape import flatten, reshape

NORMAL = jax.nn.initializers.normal(0.02)  # the paper's, for all weights


def dcgan_generator(filters: int, *, image: tuple[int, int, int] = (28, 28, 1)) -> Layer:
    """Noise ``[batch, latent]`` to images ``[batch, *image]`` in [-1, 1].

    A dense layer to a quarter of the image's height and width with ``2 * filters`` features, then two transposed
    convolutions of 4 x 4 and stride 2, to ``filters`` features and to the image's; batch norm and relu before each,
    tanh at the end.

    Args:
      filters: an integer (``static=True`` in a space), as features become places here.
      image: height and width, multiples of 4, and channels.

    Raises:
      TypeError, ValueError: here, for another image or number of filters; as ``serial``.

    Source: Radford, Metz and Chintala, "Unsupervised representation learning with deep convolutional generative
    adversarial networks" (2016), section 3: two of its four convolutions, as images of 28 x 28 take no more.

    >>> params, state, out = dcgan_generator(16).init(jax.random.key(0), (64,))
    >>> out.shape
    (28, 28, 1)
    """
    filters = operator.index(filters)  # a Size says here how to make it static
    height, width, channels = image
    if height % 4 or width % 4:
        raise ValueError(f"dcgan_generator: height and width must be multiples of 4, got {image}")
    grown = functools.partial(conv_transpose, kernel=(4, 4), strides=2, padding=1, w_init=NORMAL)
    return serial(
        dense(height // 4 * (width // 4) * 2 * filters, bias=False, w_init=NORMAL),
        reshape((height // 4, width // 4, -1)),
        batch_norm(),
        jax.nn.relu,
        grown(filters, bias=False),
        batch_norm(),
        jax.nn.relu,
        grown(channels),
        jnp.tanh,
    )


def dcgan_discriminator(filters: int | Size) -> Layer:
    """Images ``[batch, height, width, channels]`` in [-1, 1] to a logit ``[batch, 1]``, positive for real ones.

    Two convolutions of 4 x 4 and stride 2, to ``filters`` and ``2 * filters`` features, each before a leaky relu of
    slope 0.2, the second with batch norm; then a dense layer.

    Args:
      filters: a ``Size`` lets it differ from lane to lane.

    Raises:
      TypeError, ValueError: as ``serial``.

    Source: as ``dcgan_generator``.

    >>> params, state, out = dcgan_discriminator(16).init(jax.random.key(0), (28, 28, 1))
    >>> out.shape
    (1,)
    """

    def leaky(x: Any) -> Any:
        return jax.nn.leaky_relu(x, 0.2)

    halved = functools.partial(conv, kernel=(4, 4), strides=2, padding=1, w_init=NORMAL)
    return serial(
        halved(filters), leaky, halved(2 * filters, bias=False), batch_norm(), leaky, flatten, dense(1, w_init=NORMAL)
    )
