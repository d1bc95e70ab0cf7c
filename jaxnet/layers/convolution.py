"""Convolutions in 1, 2 and 3 dimensions, by the length of the kernel: ``[batch, *space, features]``, features last.

As everywhere in this field, a kernel isn't mirrored: ``y[p] = sum over k of x[p + k] @ w[k]``. The convolution of
mathematics is that with ``jnp.flip`` of the kernel.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.layer import Layer, Size, Spec, along_features, as_spec, check_features, units_of
from jaxnet.ops.convolution import convolve, convolve_transposed
from jaxnet.ops.parameters import Initializer, parameter, parameter_dtype
from jaxnet.ops.windows import Window, integers, window
from jaxnet.sequence import Sequence, sequence_spec

Integers = int | tuple[int, ...]
Padding = str | int | tuple[int | tuple[int, int], ...]


def conv(
    features: int | Size,
    kernel: tuple[int, ...],
    *,
    strides: Integers = 1,
    dilation: Integers = 1,
    groups: int = 1,
    padding: Padding = "VALID",
    padding_mode: str = "zeros",
    bias: bool = True,
    w_init: Initializer = jax.nn.initializers.lecun_normal(),
) -> Layer:
    """Convolution, ``[batch, *space, in_features]`` to ``[batch, *out_space, features]``.

    Args:
      features: of the output; a ``Size`` lets it differ from lane to lane.
      kernel: one to three integers, one for each axis of space: ``(3,)`` for sequences, ``(5, 5)`` for images.
      strides, dilation: steps between windows, and between the places within one; an integer or one for each axis.
      groups: features are divided into so many groups, each with its own filters; divides both numbers of features.
      padding: "VALID" (none), "SAME" (as many windows as ``ceil(n / stride)``; where an odd number of places is to be
        added, one more at the end, as in TensorFlow), "CAUSAL" (one dimension only: all before the start, so that
        no output sees a later input), an integer, or for each axis an integer or a pair ``(before, after)``.
      padding_mode: what is padded with: "zeros", "reflect" (mirrored at the last place, which isn't repeated), "edge"
        (the last place, repeated) or "circular".
      bias: whether ``b`` is added; without it there is no such parameter, as before a normalisation that centres.
      w_init: draws ``w``. The default has variance ``1 / (places in the kernel * active in_features / groups)``.

    Parameters: ``w`` ``[*kernel, in_features / groups, features]``, output features group after group, and ``b``
    ``[features]``, in the input's dtype where that is floating, else float32. No state.

    A ``Sequence`` is taken by kernels of one dimension, and each of its lengths becomes that of the output: the result
    is that of each sequence alone. (Not where an output would depend on where the padded array ends: "SAME" with
    strides, and padding modes other than zeros.)

    Raises:
      TypeError, ValueError: here, for arguments of the wrong kind, and for ``groups`` above 1 with a ``Size``; from
        ``init``, for a shape with another number of axes or too small for the kernel, for features that the groups
        don't divide; from ``apply``, when ``x`` has not the shape that ``init`` saw.

    Source: LeCun et al., "Gradient-based learning applied to document recognition" (1998). Numbers as PyTorch's
    ``Conv1d`` to ``Conv3d``, whose weights are ``[features, in_features / groups, *kernel]``.

    >>> layer = conv(1, (3,), bias=False)
    >>> w = jnp.array([1.0, 0.0, 1.0]).reshape(3, 1, 1)
    >>> y, state = layer.apply({"w": w}, (), jnp.array([1.0, 1.0, 1.0, 0.0, 0.0]).reshape(1, 5, 1))
    >>> y.ravel().tolist()
    [2.0, 1.0, 1.0]
    """
    sliding = window("conv", kernel, strides, dilation, padding, padding_mode)
    (groups,) = integers("conv", "groups", groups, 1)
    return _filters(sliding, features, groups, bias, w_init)


def depthwise_conv(
    multiplier: int | Size,
    kernel: tuple[int, ...],
    *,
    strides: Integers = 1,
    dilation: Integers = 1,
    padding: Padding = "VALID",
    padding_mode: str = "zeros",
    bias: bool = True,
    w_init: Initializer = jax.nn.initializers.lecun_normal(),
) -> Layer:
    """Convolution of each feature by itself: ``[batch, *space, in_features]`` to ``[..., in_features * multiplier]``.

    Args:
      multiplier: outputs of each feature, which lie side by side; a ``Size`` lets it differ from lane to lane.
      kernel, strides, dilation, padding, padding_mode, bias, w_init: as for ``conv``; fan-in is the kernel's places.

    Parameters: ``w`` ``[*kernel, 1, in_features * multiplier]`` and ``b`` ``[in_features * multiplier]``. No state. A
    ``Sequence`` and errors are as in ``conv``.

    Source: ``conv`` with as many groups as features; PyTorch's ``Conv2d(n, n * multiplier, kernel, groups=n)``.

    >>> layer = depthwise_conv(2, (3, 3), padding="SAME")
    >>> params, state, out = layer.init(jax.random.key(0), (8, 8, 5))
    >>> out.shape, params["w"].shape
    ((8, 8, 10), (3, 3, 1, 10))
    """
    sliding = window("depthwise_conv", kernel, strides, dilation, padding, padding_mode)
    return _depthwise(sliding, multiplier, bias, w_init)


def separable_conv(
    features: int | Size,
    kernel: tuple[int, ...],
    *,
    multiplier: int | Size = 1,
    strides: Integers = 1,
    dilation: Integers = 1,
    padding: Padding = "VALID",
    padding_mode: str = "zeros",
    bias: bool = True,
    w_init: Initializer = jax.nn.initializers.lecun_normal(),
) -> Layer:
    """Space and features apart: a depthwise convolution, then a 1 x 1 convolution, with nothing between them.

    Far fewer weights than ``conv`` with the same kernel: ``in * (k + features)`` in place of ``in * k * features``.

    Args:
      features: of the output; multiplier: outputs of each feature between the two; either may be a ``Size``.
      kernel, strides, dilation, padding, padding_mode: of the depthwise part, as for ``conv``.
      bias: whether ``b`` is added at the end; between the two it would do nothing new.
      w_init: draws both parts' ``w``.

    Parameters: ``{"depthwise": {"w"}, "pointwise": {"w", "b"}}``, of which the first is ``depthwise_conv``'s and the
    second a ``conv``'s with a kernel of ones. No state. A ``Sequence`` and errors are as in ``conv``.

    Source: Chollet, "Xception" (2017), sec. 3, without an activation in the middle; Keras' ``SeparableConv2D``.

    >>> params, state, out = separable_conv(6, (3, 3)).init(jax.random.key(0), (8, 8, 5))
    >>> out.shape, params["depthwise"]["w"].shape, params["pointwise"]["w"].shape
    ((6, 6, 6), (3, 3, 1, 5), (1, 1, 5, 6))
    """
    sliding = window("separable_conv", kernel, strides, dilation, padding, padding_mode)
    depthwise = _depthwise(sliding, multiplier, False, w_init)
    pointwise = _filters(window("separable_conv", (1,) * len(sliding.kernel)), features, 1, bias, w_init)

    def init(key, spec):
        params, state, spec = depthwise.init(jax.random.fold_in(key, 0), spec)
        pointwise_params, _, out = pointwise.init(jax.random.fold_in(key, 1), spec)
        return {"depthwise": params, "pointwise": pointwise_params}, state, out

    def apply(params, state, x, *, key=None, train=False):
        x, state = depthwise.apply(params["depthwise"], state, x)
        return pointwise.apply(params["pointwise"], state, x)

    return Layer(init, apply)


def conv_transpose(
    features: int | Size,
    kernel: tuple[int, ...],
    *,
    strides: Integers = 1,
    padding: int | tuple[int | tuple[int, int], ...] = 0,
    output_padding: Integers = 0,
    dilation: Integers = 1,
    bias: bool = True,
    w_init: Initializer = jax.nn.initializers.lecun_normal(),
) -> Layer:
    """Transposed convolution, ``[batch, *space, in_features]`` to ``[batch, *larger, features]``: it undoes a shape.

    Each input puts ``x[p] @ w[k]`` at ``strides * p + dilation * k``; what falls together is added. An axis of ``n``
    becomes ``(n - 1) * stride + dilation * (kernel - 1) + 1 + output_padding`` less the padding on both sides.

    Args:
      features: of the output; a ``Size`` lets it differ from lane to lane.
      kernel, strides, dilation: of the convolution whose shapes are undone; as for ``conv``.
      padding: the convolution's, so here it is cut off; an integer, or for each axis an integer or a pair.
      output_padding: added to the output's shape at the end, where ``strides`` above 1 let several shapes go to one
        under the convolution; below the stride or the dilation.
      bias: whether ``b`` is added.
      w_init: draws ``w``. The default counts the whole kernel as fan-in, though with strides only one place in
        ``strides`` meets an output.

    Parameters: ``w`` ``[*kernel, in_features, features]`` and ``b`` ``[features]``. No state.

    Raises:
      TypeError, ValueError: as ``conv``; and here, when ``output_padding`` isn't below the stride or the dilation; from
        ``init`` and ``apply``, when the padding leaves nothing.

    Source: Zeiler et al., "Deconvolutional networks" (2010). Numbers as PyTorch's ``ConvTranspose1d`` to ``3d``, whose
    weights are ``[in_features, features, *kernel]``: ``jnp.moveaxis(weight, (0, 1), (-2, -1))``, nothing mirrored.

    >>> layer = conv_transpose(1, (2,), strides=2, bias=False)
    >>> y, state = layer.apply({"w": jnp.array([1.0, 10.0]).reshape(2, 1, 1)}, (), jnp.array([[[1.0], [2.0], [3.0]]]))
    >>> y.ravel().tolist()
    [1.0, 10.0, 2.0, 20.0, 3.0, 30.0]
    """
    check_features("conv_transpose", features)
    if isinstance(padding, str):
        raise TypeError(
            f"conv_transpose: padding is what is cut off, an integer or one or a pair for each axis, got {padding!r}"
        )
    sliding = window("conv_transpose", kernel, strides, dilation, padding)
    added = integers("conv_transpose", "output_padding", output_padding, len(sliding.kernel), least=0)
    if any(n >= max(limits) for n, *limits in zip(added, sliding.strides, sliding.dilation, strict=True)):
        raise ValueError(
            f"conv_transpose: output_padding must be below the stride or the dilation, got {added} with strides "
            f"{sliding.strides} and dilation {sliding.dilation}"
        )

    def out_space(space: tuple[int, ...]) -> tuple[int, ...]:
        pairs = sliding.pairs(space)
        each = zip(space, sliding.strides, sliding.reach, added, pairs, strict=True)
        out = tuple((n - 1) * stride + reach + extra - sum(pair) for n, stride, reach, extra, pair in each)
        if any(n < 1 for n in out):
            raise ValueError(f"conv_transpose: of {space}, padding {pairs} leaves {out}; try less padding")
        return out

    def init(key, spec):
        spec = as_spec(spec)
        space = out_space(sliding.space(spec))
        return _weights(
            key, spec, (*sliding.kernel, spec.shape[-1], features), (spec.active, None), bias, w_init, space
        )

    def apply(params, state, x, *, key=None, train=False):
        w = params["w"]
        sliding.check(x, w.shape[-2])
        space = x.shape[1:-1]
        crop = sliding.pairs(space)
        y = convolve_transposed(
            x, w, strides=sliding.strides, dilation=sliding.dilation, crop=crop, space=out_space(space)
        )
        return (y + along_features(params["b"], y) if bias else y), state

    return Layer(init, apply)


def fixed_conv(
    kernel: Any,
    *,
    strides: Integers = 1,
    dilation: Integers = 1,
    padding: Padding = "VALID",
    padding_mode: str = "zeros",
) -> Layer:
    """A classical filter (blur, edges), given and not trained, over each feature by itself; the features stay as many.

    The kernel is part of the layer, as its strides are, and in neither of its trees: no optimiser, penalty or average
    meets it, and it isn't saved with the parameters.

    Args:
      kernel: an array of one to three axes, ``[*kernel]``; may be traced, such as a blur whose width is searched.
      strides, dilation, padding, padding_mode: as for ``conv``.

    No parameters, no state. The output has the input's dtype where that is floating, else float32. A ``Sequence`` and
    errors are as in ``conv``.

    >>> layer = fixed_conv([[1, 0, 1], [0, 1, 0], [1, 0, 1]])
    >>> rows = [[1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 1], [0, 0, 1, 1, 0], [0, 1, 1, 0, 0]]
    >>> y, state = layer.apply((), (), jnp.array(rows).reshape(1, 5, 5, 1))
    >>> y[0, :, :, 0].tolist()
    [[4.0, 3.0, 4.0], [2.0, 4.0, 3.0], [2.0, 3.0, 4.0]]
    """
    kernel = kernel if isinstance(kernel, jax.Array) else np.asarray(kernel)
    if not (jnp.issubdtype(kernel.dtype, jnp.number) or kernel.dtype == bool):
        raise TypeError(f"fixed_conv: kernel must be an array of numbers, got {kernel!r}")
    sliding = window("fixed_conv", kernel.shape, strides, dilation, padding, padding_mode)

    def init(key, spec):
        spec = as_spec(spec)
        out = sliding.out(sliding.space(spec))
        return (), (), Spec((*out, spec.shape[-1]), parameter_dtype(spec), spec.active)

    def apply(params, state, x, *, key=None, train=False):
        sliding.check(x, x.shape[-1] if x.ndim else 1)
        w = jnp.asarray(kernel).astype(parameter_dtype(x))[..., None, None]
        w = jnp.broadcast_to(w, (*w.shape[:-1], x.shape[-1]))
        x, pairs = sliding.pad(x.astype(w.dtype))
        y = convolve(x, w, strides=sliding.strides, dilation=sliding.dilation, padding=pairs, groups=x.shape[-1])
        return y, state

    return _over_time(sliding, init, apply)


def _filters(sliding: Window, features: int | Size, groups: int, bias: bool, w_init: Initializer) -> Layer:
    """``conv``, under the name of the window."""
    name = sliding.name
    check_features(name, features)
    if groups > 1 and isinstance(features, Size):
        raise ValueError(
            f"{name}: groups={groups} with features that differ from lane to lane, {features!r}: which features are a "
            f"group would differ too. Try groups=1, or static=True for that hyperparameter."
        )
    if groups > 1 and int(features) % groups:
        raise ValueError(f"{name}: groups={groups} must divide the features, got features={features}")

    def layout(spec):
        in_features = spec.shape[-1]
        if in_features % groups:
            raise ValueError(f"{name}: groups={groups} must divide the input's features, got the shape {spec.shape}")
        if groups > 1 and spec.active is not None:
            raise ValueError(
                f"{name}: groups={groups} after features that differ from lane to lane: which features are a group "
                f"would differ too. Try groups=1, depthwise_conv (a group for each feature), or static=True for the "
                f"width before it."
            )
        return (in_features // groups, features), (spec.active, None)

    return _convolution(sliding, layout, lambda w: groups, bias, w_init)


def _depthwise(sliding: Window, multiplier: int | Size, bias: bool, w_init: Initializer) -> Layer:
    """``depthwise_conv``, under the name of the window."""
    check_features(sliding.name, multiplier, "multiplier")
    most, _ = units_of(multiplier)

    def layout(spec):
        in_features = spec.shape[-1]
        active = None
        if spec.active is not None or isinstance(multiplier, Size):
            inputs = jnp.ones(in_features, bool) if spec.active is None else spec.active
            outputs = multiplier.active if isinstance(multiplier, Size) else jnp.ones(most, bool)
            active = (inputs[:, None] & outputs[None, :]).ravel()
        return (1, in_features * most), (None, active)

    return _convolution(sliding, layout, lambda w: w.shape[-1] // most, bias, w_init)


def _convolution(
    sliding: Window,
    layout: Callable[[Spec], Any],
    groups_of: Callable[[jax.Array], int],
    bias: bool,
    w_init: Initializer,
) -> Layer:
    """A layer named as its window.

    Args:
      layout: of a spec, the last two axes of ``w`` and the masks over them.
      groups_of: of ``w``, the number of groups.
    """

    def init(key, spec):
        spec = as_spec(spec)
        out = sliding.out(sliding.space(spec))
        shape, active = layout(spec)
        return _weights(key, spec, (*sliding.kernel, *shape), active, bias, w_init, out)

    def apply(params, state, x, *, key=None, train=False):
        w = params["w"]
        groups = groups_of(w)
        sliding.check(x, w.shape[-2] * groups)
        x, pairs = sliding.pad(x)
        y = convolve(x, w, strides=sliding.strides, dilation=sliding.dilation, padding=pairs, groups=groups)
        return (y + along_features(params["b"], y) if bias else y), state

    init.__qualname__ = sliding.name
    return _over_time(sliding, init, apply)


def _weights(key, spec, shape, active, bias, w_init, space):
    """What ``init`` returns for weights of a shape with masks over its last two axes, and outputs over ``space``."""
    dtype = parameter_dtype(spec)
    params = {"w": parameter(key, w_init, shape, active=(*(None,) * (len(shape) - 2), *active), dtype=dtype)}
    features, mask = shape[-1], active[-1]
    if bias:
        params["b"] = parameter(key, jax.nn.initializers.zeros, (features,), active=(mask,), dtype=dtype)
    if isinstance(features, Size):
        features, mask = features.bound, features.active
    return params, (), Spec((*space, int(features)), dtype, mask)


def _over_time(sliding: Window, init: Callable[..., Any], apply: Callable[..., Any]) -> Layer:
    """A layer of functions that know arrays only; where windows allow it, it takes a ``Sequence``, each as if alone."""

    def refuse() -> None:
        if len(sliding.kernel) > 1:
            raise TypeError(f"{sliding.name}: a Sequence has one axis of time, but the kernel is {sliding.kernel}")
        if sliding.mode != "zeros" or (sliding.padding == "SAME" and sliding.strides != (1,)):
            raise ValueError(
                f"{sliding.name}: with padding {sliding.padding!r}, padding_mode {sliding.mode!r} and strides "
                f"{sliding.strides}, a window of a Sequence would depend on where the padded array ends; try "
                f"padding='CAUSAL' or integers, with zeros"
            )

    @functools.wraps(init)
    def sequence_init(key, spec):
        values, lengths = sequence_spec(spec, rank=2)
        if lengths is None:
            return init(key, spec)
        refuse()
        params, state, out = init(key, values)
        return params, state, Sequence(out, lengths)

    @functools.wraps(apply)
    def sequence_apply(params, state, x, *, key=None, train=False):
        if not isinstance(x, Sequence):
            return apply(params, state, x, key=key, train=train)
        refuse()
        y, state = apply(params, state, x.replace(x.values).values, key=key, train=train)
        around = sum(sliding.pairs(x.values.shape[1:-1])[0])
        lengths = (x.steps + (around - sliding.reach[0])) // sliding.strides[0] + 1
        return Sequence(y, jnp.maximum(lengths, 0)).replace(y), state

    return Layer(sequence_init, sequence_apply)
