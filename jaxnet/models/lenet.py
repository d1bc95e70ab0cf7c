"""LeNet-5: two convolutions, each with pooling behind, and fully connected layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax

from jaxnet.combinators import serial
from jaxnet.layer import Layer, Size
from jaxnet.layers.convolution import conv
from jaxnet.layers.dense import dense
from jaxnet.layers.pooling import max_pool
from jaxnet.layers.shape import flatten


def lenet5(
    classes: int = 10,
    *,
    filters: Sequence[int | Size] = (6, 16),
    units: Sequence[int | Size] = (120, 84),
    activation: Callable[[jax.Array], jax.Array] = jax.nn.relu,
    padding: str = "SAME",
    pool: Layer | None = None,
) -> Layer:
    """LeNet-5 as it is commonly built, ``[batch, height, width, channels]`` to logits ``[batch, classes]``.

    A 5 x 5 convolution, pooling and the activation for each number of ``filters``; then a dense layer and the
    activation for each number of ``units``; then the dense head. Params and state are dicts ``{"features": ...,
    "head": ...}``, so that a new head on old features is dict work.

    Args:
      classes: outputs of the head.
      filters: features of each convolution, any of them a ``Size``.
      units: of each hidden dense layer, any of them a ``Size``.
      activation: a function of one number. It stands behind the pooling: for one that doesn't fall, as tanh and relu,
        max pooling before or after it gives the same, and before it is a quarter of the work.
      padding: of the first convolution; "SAME" makes of 28 x 28 pixels the 28 x 28 outputs that LeNet-5 has of 32 x 32,
        "VALID" 24 x 24. The others have none.
      pool: a layer, the same behind each convolution; ``max_pool((2, 2))`` when None.

    Raises:
      ValueError, TypeError: from ``init``, for images too small, with the path of the layer.

    Source: LeCun et al., "Gradient-based learning applied to document recognition" (1998), sec. II-B. There pooling is
    a trained multiple of the mean, each filter of the second convolution sees some of the maps only, and the outputs
    are distances to drawn characters: 60,000 parameters, where this has 61,706. The network of the LISA lab's deep
    learning tutorial is ``lenet5(filters=(20, 50), units=(500,), activation=jnp.tanh, padding="VALID")``.

    >>> params, state, out = lenet5().init(jax.random.key(0), (28, 28, 1))
    >>> out.shape, sum(leaf.size for leaf in jax.tree.leaves(params))
    ((10,), 61706)
    """
    layers = []
    for i, number in enumerate(filters):
        layers += [conv(number, (5, 5), padding="VALID" if i else padding), pool or max_pool((2, 2)), activation]
    layers.append(flatten)
    for number in units:
        layers += [dense(number), activation]
    return serial(features=serial(*layers), head=dense(classes))
