"""The residual networks that He et al. made for small images."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.combinators import repeat, residual, serial
from jaxnet.hints import did_you_mean
from jaxnet.layer import Layer, Size, Spec, check_features
from jaxnet.layers.convolution import conv
from jaxnet.layers.dense import dense
from jaxnet.layers.normalization import batch_norm
from jaxnet.layers.pooling import global_avg_pool

_he_normal = jax.nn.initializers.he_normal()


def resnet(depth: int, outputs: int = 10, *, filters: int | Size = 16, shortcuts: str = "zeros") -> Layer:
    """A residual network for small images, ``[batch, height, width, channels]`` to ``[batch, outputs]``.

    A 3 x 3 convolution, then three stages of ``n = (depth - 2) / 6`` blocks with ``filters``, ``2 * filters`` and
    ``4 * filters`` features, of which the second and the third begin with a stride of 2, then the mean over space and a
    dense layer. A block is two 3 x 3 convolutions, each with batch norm, with relu between them and after the sum with
    its input. The layers that have weights in a row are ``depth``.

    Args:
      depth: 6 n + 2 for some n of at least 1: 8, 14, 20, 32, 44, 56, 110.
      outputs: of the last layer, such as logits of classes.
      filters: of the first stage; a ``Size`` lets it differ from lane to lane.
      shortcuts: what goes past a block that changes the shape: "zeros", every second place and zeros for the new
        features, without parameters (option A of the paper, which its networks of this kind have); "projection", a
        1 x 1 convolution of stride 2 with batch norm (option B); "none", nothing past any block, which makes it the
        paper's plain network.

    Convolutions have no bias, since batch norm follows, and weights of variance 2 / fan-in. Params and state are dicts:
    ``first``, ``stage1`` to ``stage3``, ``head``. All blocks of a stage that keep the shape are one ``repeat``, so that
    a deep network compiles in the time that a shallow one takes.

    Raises:
      ValueError, TypeError: for another depth or kind of shortcut; as ``conv`` and ``dense``.

    Source: He et al., "Deep residual learning for image recognition" (2015), section 4.2, whose weights are drawn after
    He et al., "Delving deep into rectifiers" (2015).

    >>> import jaxnet as jn
    >>> net = resnet(20)
    >>> jn.summary(net, (32, 32, 3)).total.parameters  # 0.27 million in the paper
    269722
    """
    if isinstance(depth, bool) or not hasattr(depth, "__index__"):
        raise TypeError(f"resnet: depth must be an integer, got {depth!r}")
    n, rest = divmod(int(depth) - 2, 6)
    if rest or n < 1:
        raise ValueError(f"resnet: depth must be 6 n + 2, such as 20, 32, 44, 56 or 110, got {depth}")
    if shortcuts not in (known := ("zeros", "projection", "none")):
        hint = did_you_mean(shortcuts, known)
        raise ValueError(f'resnet: shortcuts must be "zeros", "projection" or "none", got {shortcuts!r}{hint}')
    check_features("resnet", filters, "filters")

    def stage(features: Any, strides: int) -> Layer:
        changing = [_block(features, strides, shortcuts)] if strides > 1 else []
        same = n - len(changing)
        return serial(*changing, *([repeat(_block(features, 1, shortcuts), same)] if same else []))

    return serial(
        first=serial(_conv(filters), batch_norm(), jax.nn.relu),
        stage1=stage(filters, 1),
        stage2=stage(2 * filters, 2),
        stage3=stage(4 * filters, 2),
        head=serial(global_avg_pool, dense(outputs)),
    )


def _block(features: Any, strides: int, shortcuts: str) -> Layer:
    learned = serial(_conv(features, strides), batch_norm(), jax.nn.relu, _conv(features), batch_norm())
    if shortcuts == "none":
        return serial(learned, jax.nn.relu)
    if strides == 1:
        past = None
    elif shortcuts == "zeros":
        past = _zeros_for_new_features(features, strides)
    else:
        past = serial(conv(features, (1, 1), strides=strides, bias=False, w_init=_he_normal), batch_norm())
    return serial(residual(learned, past), jax.nn.relu)


def _conv(features: Any, strides: int = 1) -> Layer:
    # One place on each side for any stride, where "SAME" would put both at the end when the stride is 2.
    return conv(features, (3, 3), strides=strides, padding=1, bias=False, w_init=_he_normal)


def _zeros_for_new_features(features: Any, strides: int) -> Layer:
    """Every ``strides``-th place of an image; features that the input doesn't have are 0, at the end."""
    sized = isinstance(features, Size)
    count = features.bound if sized else features

    def init(key, spec):
        height, width = (-(-cells // strides) for cells in spec.shape[:2])
        return (), (), Spec((height, width, count), spec.dtype, features.active if sized else None)

    def apply(params, state, x, *, key=None, train=False):
        x = x[:, ::strides, ::strides]
        return jnp.pad(x, [*[(0, 0)] * 3, (0, count - x.shape[-1])]), state

    return Layer(init, apply)
