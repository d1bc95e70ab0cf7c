"""Convolutions as matrix products: the one place that decides how a convolution is computed."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxnet.ops.compiling import multiplied_by_eigen
from jaxnet.ops.lowering import lowering
from jaxnet.ops.meshes import batch_zeros, varying_alike
from jaxnet.ops.products import product

# Compiling grows with the slices, one for each place in the kernel. 5 x 5 x 5 still pays.
MOST_SLICES = 128

# On an accelerator, the longest product that slices are made for: 3 x 3 x 64 entries, where the native convolution
# catches up; beyond, patches take several times the input's memory and win nothing.
MOST_ENTRIES = 576

# On a CPU, how many bytes patches and what is made of them may have together. Beyond, they fall out of the cache, and
# XLA's convolution is faster: training steps took 0.5 of the time of patches for 3 x 3 from 32 to 32 features on 14 x
# 14 and from 16 to 16 on 28 x 28 (batches of 128), 0.96 from 3 to 64 on 32 x 32. Below, it took 1.1 from 1 to 32 for
# batches of 32 (4 MB), 1.16 from 8 to 32 on 13 x 13 (8 MB). In three dimensions patches always win. With strides of 2,
# gradients of 3 x 3 from 16 to 32 on 28 x 28 took 0.53 of the time of patches, of 5 x 5 0.28, from 64 to 128 on 56 x 56
# 0.78; from 32 to 64 on 14 x 14 (9 MB), whose patches are made, they would take 1.7. Transposed convolutions from 128
# to 64 on 7 x 7, 4 x 4, took 0.31, from 64 to 32 on 14 x 14 0.36, and 0.19 forward.
MOST_BYTES = 14 * 10**6

# On a CPU, where Eigen multiplies (see ops.compiling) or in one dimension, from how many input features on it is XLA's
# convolution whatever the size: training steps took 0.81 of the time of patches for 3 x 3 from 16 to 16 features twice
# on 13 x 13, 0.87 from 32 to 32 on 14 x 14, 1.04 from 16 to 32 on 13 x 13 without padding. In one dimension, 128 steps
# and a kernel of 5, 0.56 forward from 16 to 32, and 0.73 of a step from 32 to 32, 1.06 from 8 to 16.
LEAST_NATIVE_FEATURES = 16

# On a CPU, how many neighbouring outputs a row of the matmul makes at once (see _in_blocks), for how many features that
# may be worth its zeros, and how many products for each feature of one it may take, as multiples of those without.
# Training steps in a scan took 0.43 of the time for LeNet (1 to 6, 6 to 16 features). Alone, gradients of 5 x 5 from 1
# to 6 took 0.41, of a kernel of 9 from 8 to 8 0.55, of 3 x 3 from 8 to 8 0.79. Half as many where zeros cost more than
# longer patches, from BLOCK features for each place that the kernel reaches on: 5 x 5 from 6 to 16 took 0.84 alone,
# training steps of 3 x 3 from 1 to 8 0.85, from 8 to 16 0.91; of a kernel of 9 from 8 to 8 they would take 1.09. In the
# programs of fit and of searches only where the kernel reaches less far than BLOCK: LeNet's would take 1.02.
#
# On an accelerator blocks are as long as they at most double the products: a step of many lanes takes as long as its
# memory moves patches, and of those of a block there is less. Counted for an H100 and not timed there (python -m
# experiments.benchmarks.programs), lanes of ResNet 8 move 0.72 of the bytes, of LeNet 6-16-120 0.76. Of 64 features
# ResNet's last blocks would save 0.03 more.
BLOCK = 4
MOST_BLOCKED_FEATURES = 32
MOST_BLOCKED_PRODUCTS = 26

# On a CPU, how long the patch of a block may be for more products than those, as a multiple of the kernel, where plain
# patches are too large: training steps took 0.86 of the time for 3 x 3 x 3 from 4 to 32 features.
MOST_ZEROS = 4 / 3

# On a CPU, from how many input features on blocks may be too large. Of fewer (an image's colours), training steps took
# 0.53 of the time of XLA's convolution for 5 x 5 from 3 to 6 features on 64 x 64 (75 MB), from 3 to 8 0.7, from 4 to 8
# on 28 x 28 1.0.
LEAST_LARGE_FEATURES = 5

# On a CPU, how many times as long the kernel may become of a strided convolution whose gradients are XLA's (_of_input).
MOST_FOLDED = 2

# XLA's convolution, with JAX's gradients or our own; or how many neighbouring outputs a row of a matmul makes.
_How = Literal["native", "canonical"] | int


def convolve(
    x: jax.Array,
    w: jax.Array,
    *,
    strides: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[tuple[int, int]],
    groups: int = 1,
) -> jax.Array:
    """Cross-correlation in 1, 2 or 3 dimensions, ``y[p] = sum over k of x[strides * p + dilation * k] @ w[k]``.

    Shifted slices of ``x`` lie side by side as features, and one matmul does the rest. Inside a ``scan`` on a CPU
    this is many times faster than the gradients of XLA's convolution, and under ``vmap`` with weights of their own
    for each lane, which makes XLA's a grouped convolution, it is twice as fast on a GPU. Where the kernel is one
    place, that is a plain matmul; where each feature is a group of its own, products of slices are added up; few
    features are made in blocks. What is too long for slices (``MOST_SLICES``, ``MOST_ENTRIES``) goes to
    ``lax.conv_general_dilated``. What is too large on a CPU (``MOST_BYTES``), or has ``LEAST_NATIVE_FEATURES`` in
    one dimension or in a program that ``fit`` or a search compiles, goes to it too, with gradients that are such
    convolutions themselves (``_canonical``).

    Args:
      x: ``[batch, *space, in_features]``.
      w: ``[*kernel, in_features // groups, out_features]``; output features lie group after group.
      strides, dilation: for each axis of space.
      padding: for each axis of space, zeros before and after.
      groups: divides ``in_features`` and ``out_features``.

    Returns:
      ``[batch, *out_space, out_features]``, of the dtype that both arguments promote to.

    >>> x, w = jnp.array([1.0, 1.0, 1.0, 0.0, 0.0]), jnp.array([1.0, 0.0, 1.0])
    >>> y = convolve(x.reshape(1, 5, 1), w.reshape(3, 1, 1), strides=(1,), dilation=(1,), padding=((0, 0),))
    >>> y.ravel().tolist()
    [2.0, 1.0, 1.0]
    """
    dtype = jnp.result_type(x, w)
    x, w = x.astype(dtype), w.astype(dtype)
    how = _how(x, w, strides, dilation, padding, groups)
    if how == "canonical":
        padding, unseen = _snug(x.shape[1:-1], w.shape[:-2], strides, dilation, padding)
        seen = [n - more for n, more in zip(x.shape[1:-1], unseen, strict=True)]
        x = lax.slice(x, (0,) * x.ndim, (x.shape[0], *seen, x.shape[-1])) if any(unseen) else x
        return _canonical(_options(strides, dilation, padding), x, w)
    if not multiplied_by_eigen():
        return _computed(how, x, w, strides, dilation, padding, groups)
    if how == 1 and max(strides) == 1:  # else what made x is computed again for each slice
        x = lax.optimization_barrier(x)
    y = _computed(how, x, w, strides, dilation, padding, groups)
    return lax.optimization_barrier(y)  # and its gradient is whole before it is copied


def _computed(how: _How, x, w, strides, dilation, padding, groups):
    if how == "native":
        return _native(x, w, strides, dilation, padding, groups)
    dtype, kernel, in_features, out_features = x.dtype, w.shape[:-2], x.shape[-1], w.shape[-1]
    if any(map(any, padding)):
        edges = [(0, 0), *padding, (0, 0)]
        x = lax.pad(x, jnp.zeros((), dtype), [(low, high, 0) for low, high in edges])
    if groups == 1:
        if isinstance(how, int) and how > 1:
            return _in_blocks(x, w, strides, dilation, how)
        return product(patches(x, kernel, strides, dilation), w.reshape(-1, out_features))

    if groups == in_features:  # a matmul of one feature would be all overhead
        x = x if out_features == groups else jnp.repeat(x, out_features // groups, axis=-1)
        weights = w.reshape(-1, *(1,) * (x.ndim - 1), out_features)  # features last: gradients took 0.4 of the time
        parts = zip(slices(x, kernel, strides, dilation), weights, strict=True)
        return functools.reduce(operator.add, (part * weight for part, weight in parts))
    w = w.reshape(-1, in_features // groups, groups, out_features // groups)  # [volume, in, groups, out]
    x = patches(x, kernel, strides, dilation)
    x = x.reshape(*x.shape[:-1], len(w), groups, in_features // groups)
    y = jnp.einsum("...vgi,vigo->...go", x, w)
    return y.reshape(*y.shape[:-2], out_features)  # from [batch, *out_space, groups, out]


def convolve_transposed(
    x: jax.Array,
    w: jax.Array,
    *,
    strides: Sequence[int],
    dilation: Sequence[int],
    crop: Sequence[tuple[int, int]],
    space: Sequence[int],
) -> jax.Array:
    """The transpose of ``convolve`` as a linear map: ``y[strides * p + dilation * k - crop] += x[p] @ w[k]``.

    Args:
      x: ``[batch, *in_space, in_features]``.
      w: ``[*kernel, in_features, out_features]``.
      strides, dilation: for each axis of space.
      crop: for each axis of space, what is cut off before and after: the padding of the convolution.
      space: the axes of the output.

    Returns:
      ``[batch, *space, out_features]``.
    """
    dtype = jnp.result_type(x, w)
    x, w = x.astype(dtype), jnp.swapaxes(w.astype(dtype), -1, -2)

    made = jax.ShapeDtypeStruct((x.shape[0], *space, w.shape[-2]), dtype)
    how = _how(made, w, strides, dilation, crop, 1)
    if how == "canonical" and x.shape[1:-1] == _counts(space, w.shape[:-2], strides, dilation, crop):
        crop, unseen = _snug(space, w.shape[:-2], strides, dilation, crop)
        y: Any = _of_input(_options(strides, dilation, crop), x, w)
        return lax.pad(y, jnp.zeros((), dtype), [(0, 0, 0), *((0, more, 0) for more in unseen), (0, 0, 0)])

    def forth(y):
        seen = _computed(how, y, w, strides, dilation, crop, 1)
        return lax.slice(seen, (0,) * x.ndim, x.shape)  # a wide output may have windows that nothing came from

    return jax.linear_transpose(forth, batch_zeros(x, made.shape, dtype))(x)[0]


def patches(x: jax.Array, kernel: Sequence[int], strides: Sequence[int], dilation: Sequence[int]) -> jax.Array:
    """What each window sees: ``[batch, *out_space, volume * features]``, the kernel's places in row-major order."""
    parts = list(slices(x, kernel, strides, dilation))
    return parts[0] if len(parts) == 1 else lax.concatenate(parts, x.ndim - 1)


def slices(x: jax.Array, kernel: Sequence[int], strides: Sequence[int], dilation: Sequence[int]) -> Iterator[jax.Array]:
    """For each place in the kernel, what all windows see there: ``[batch, *out_space, features]``."""
    counts = _counts(x.shape[1:-1], kernel, strides, dilation)
    for place in np.ndindex(*kernel):
        first = [d * at for d, at in zip(dilation, place, strict=True)]
        end = [at + s * (n - 1) + 1 for at, s, n in zip(first, strides, counts, strict=True)]
        yield lax.slice(x, (0, *first, 0), (x.shape[0], *end, x.shape[-1]), (1, *strides, 1))


def _counts(space, kernel, strides, dilation, padding=None) -> tuple[int, ...]:
    """How many windows there are along each axis of space."""
    padding = padding or [(0, 0)] * len(kernel)
    sizes = zip(space, kernel, strides, dilation, padding, strict=True)
    return tuple((n + sum(edges) - d * (k - 1) - 1) // s + 1 for n, k, s, d, edges in sizes)


def _snug(space, kernel, strides, dilation, padding) -> tuple[list[tuple[int, int]], list[int]]:
    """The padding without what no window reaches, and how many places at the end of ``space`` none reaches."""
    sizes = zip(space, kernel, strides, dilation, padding, strict=True)
    over = [(n + sum(edges) - d * (k - 1) - 1) % s for n, k, s, d, edges in sizes]
    cut = [min(more, high) for more, (_, high) in zip(over, padding, strict=True)]
    kept = [(low, high - less) for less, (low, high) in zip(cut, padding, strict=True)]
    return kept, [more - less for more, less in zip(over, cut, strict=True)]


def _how(x, w, strides, dilation, padding, groups) -> _How:
    kernel, in_features, out_features = w.shape[:-2], x.shape[-1], w.shape[-1]
    volume, on_cpu, forced = math.prod(kernel), jax.default_backend() == "cpu", lowering()
    if forced == "native":
        return "native"
    if volume == 1:
        return 1
    if volume > MOST_SLICES or not (on_cpu or volume * in_features // groups <= MOST_ENTRIES):
        return "native"
    if forced or groups > 1:
        return 1
    if not on_cpu:
        blocked = kernel[-1] > 1 and strides[-1] == 1 and out_features <= MOST_BLOCKED_FEATURES
        reach = dilation[-1] * (kernel[-1] - 1)
        return next((block for block in (BLOCK, BLOCK // 2) if blocked and block + reach <= 2 * kernel[-1]), 1)

    own_gradients = len(kernel) <= 2 and w.dtype == jnp.float32
    if max(strides) == 1:  # gradients must not need negative padding
        edges = zip(kernel, dilation, padding, strict=True)
        own_gradients &= all(max(edge) <= d * (k - 1) for k, d, edge in edges)
    else:
        folded = math.prod(map(operator.mul, _folded(kernel, strides), strides))
        own_gradients &= max(dilation) == 1 and folded <= MOST_FOLDED * volume
    if own_gradients and in_features >= LEAST_NATIVE_FEATURES and (multiplied_by_eigen() or len(kernel) == 1):
        return "canonical"

    rows = x.shape[0] * math.prod(_counts(x.shape[1:-1], kernel, strides, dilation, padding))
    reach = dilation[-1] * (kernel[-1] - 1)

    def small(block):
        """Whether patches and what is made of them are."""
        seen = kernel[-1] if block == 1 else block + reach
        entries = volume * in_features * seen // (block * kernel[-1])
        return w.dtype.itemsize * rows * (entries + out_features) <= MOST_BYTES

    if kernel[-1] > 1 and strides[-1] == 1 and out_features <= MOST_BLOCKED_FEATURES:
        fits = in_features < LEAST_LARGE_FEATURES or not own_gradients
        halved = out_features >= BLOCK * reach and not (multiplied_by_eigen() and reach >= BLOCK)
        for block in (BLOCK // 2, BLOCK) if halved else (BLOCK, BLOCK // 2):
            seen = block + reach
            cheap = out_features * seen <= MOST_BLOCKED_PRODUCTS * kernel[-1]
            worth = cheap or (seen <= MOST_ZEROS * kernel[-1] and not small(1))
            if worth and (fits or small(block)):
                return block
    return 1 if small(1) or not own_gradients else "canonical"


def _in_blocks(x: jax.Array, w: jax.Array, strides: Sequence[int], dilation: Sequence[int], block: int) -> jax.Array:
    """A convolution of a padded ``x``, stride 1 on the last axis, ``block`` neighbouring outputs there at a time.

    Neighbours share most of what they see, so the patch of a block is little longer than that of one, its numbers lie
    side by side in ``x``, and the matmul is ``block`` times as wide. Its matrix has ``w`` once for each of them, one
    place further each time, and zeros elsewhere (so what isn't finite spreads over its block).
    """
    reach, in_features, out_features = dilation[-1] * (w.shape[-3] - 1), *w.shape[-2:]
    width = x.shape[-2] - reach
    blocks, beyond = -(-width // block), -(-reach // block)
    zero, kept = jnp.zeros((), x.dtype), (0, 0, 0)
    x = lax.pad(x, zero, [*[kept] * (x.ndim - 2), (0, block * (blocks + beyond) - x.shape[-2], 0), kept])
    x = x.reshape(*x.shape[:-2], blocks + beyond, block, in_features)  # JAX splits or joins axes of a mesh, not both
    x = x.reshape(*x.shape[:-2], block * in_features)
    x = _made_once(x) if multiplied_by_eigen() else x
    seen = [
        row[..., at : at + blocks, : (reach - block * (at - 1)) * in_features]
        for row in slices(x, (*w.shape[:-3], 1), (*strides[:-1], 1), (*dilation[:-1], 1))
        for at in range(1 + beyond)
    ]
    x = lax.concatenate(seen, x.ndim - 1)  # [batch, *space, blocks, rows * (block + reach) * in_features]
    moved = [
        lax.pad(w, zero, [*[kept] * (w.ndim - 3), (at, block - 1 - at, dilation[-1] - 1), kept, kept])
        for at in range(block)
    ]
    y = product(x, jnp.stack(moved, axis=-2).reshape(-1, block * out_features))
    y = y.reshape(*y.shape[:-1], block, out_features)
    y = y.reshape(*y.shape[:-3], block * blocks, out_features)
    return lax.slice_in_dim(y, 0, width, axis=y.ndim - 2)


@jax.custom_jvp
def _made_once(x: jax.Array) -> jax.Array:
    """``x``, not computed again for each slice of it. A barrier for its gradient too would cost LeNet's step 1.1."""
    return lax.optimization_barrier(x)


_made_once.defjvp(lambda primals, tangents: (_made_once(*primals), *tangents))


class _Options(NamedTuple):
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]  # as wide as the last window reaches, no wider


def _options(strides, dilation, padding) -> _Options:
    return _Options(tuple(strides), tuple(dilation), tuple((low, high) for low, high in padding))


def _canonical(options: _Options, x: jax.Array, w: jax.Array) -> jax.Array:
    """XLA's convolution. Its gradients are two more of its layout, which XLA hands to a library.

    JAX's have their axes in another order. XLA puts them right outside of loops only; inside a ``scan`` it multiplies
    number by number. To JAX it is a primitive, linear in both arguments, with transposes of its own: so all
    derivatives are there, of any order, forward and backward.
    """
    return _convolution.bind(*varying_alike(x, w), options=options)


def _of_input(options: _Options, dy: jax.Array, w: jax.Array) -> jax.Array:
    """The gradient of ``x`` ``[batch, *space, in_features]``."""
    axes = range(w.ndim - 2)
    if max(options.strides) > 1:
        return _of_folded_input(options, dy, w)
    reach = [d * (k - 1) for d, k in zip(options.dilation, w.shape, strict=False)]
    edges = [(r - low, r - high) for r, (low, high) in zip(reach, options.padding, strict=True)]
    if min(map(min, edges)) < 0:  # what is made from padding alone
        cut = [(min(low, 0), min(high, 0), 0) for low, high in edges]
        dy = lax.pad(dy, jnp.zeros((), dy.dtype), [(0, 0, 0), *cut, (0, 0, 0)])
    padding = [(max(low, 0), max(high, 0)) for low, high in edges]
    flipped = jnp.swapaxes(jnp.flip(w, axes), -1, -2)
    return _canonical(_options((1,) * len(axes), options.dilation, padding), dy, flipped)


def _folded(kernel, strides) -> list[int]:
    """How many places a kernel has where as many neighbours as a stride is long are features of one place."""
    return [-(-k // s) for k, s in zip(kernel, strides, strict=False)]


def _of_folded_input(options: _Options, dy: jax.Array, w: jax.Array) -> jax.Array:
    """The gradient of ``x`` where there are strides, without a product for each place that a stride passes over.

    With ``strides`` neighbours of ``x`` as features of one place the convolution has strides of 1, and a kernel that is
    ``w`` with zeros behind, folded likewise. Its gradient is unfolded again.
    """
    strides, count, (in_features, out_features) = options.strides, w.ndim - 2, w.shape[-2:]
    kernel, zero = _folded(w.shape, strides), jnp.zeros((), w.dtype)
    space = [(m - 1) * s + k for m, s, k in zip(dy.shape[1:-1], strides, w.shape, strict=False)]  # and its padding
    edges = [(0, k * s - n, 0) for k, s, n in zip(kernel, strides, w.shape, strict=False)]
    pairs = [size for pair in zip(kernel, strides, strict=True) for size in pair]
    w = lax.pad(w, zero, [*edges, (0, 0, 0), (0, 0, 0)]).reshape(*pairs, in_features, out_features)
    w = w.transpose(*range(0, 2 * count, 2), *range(1, 2 * count, 2), 2 * count, 2 * count + 1)
    w = w.reshape(*kernel, -1, out_features)  # [*kernel, strides * in_features, out_features]
    dx: Any = _of_input(_options((1,) * count, options.dilation, [(0, 0)] * count), dy, w)
    places = dx.shape[1:-1]
    dx = dx.reshape(-1, *places, *strides, in_features)
    order = [axis for i in range(count) for axis in (1 + i, 1 + count + i)]
    # A copy of its own: what adds to it would read it against its order.
    dx = lax.optimization_barrier(dx.transpose(0, *order, 1 + 2 * count))
    dx = dx.reshape(-1, *map(operator.mul, places, strides), in_features)
    cut = [(-low, n - high - m, 0) for (low, high), n, m in zip(options.padding, space, dx.shape[1:-1], strict=True)]
    return lax.pad(dx, zero, [(0, 0, 0), *cut, (0, 0, 0)])


def _of_kernel(options: _Options, x: jax.Array, dy: jax.Array) -> jax.Array:
    """The gradient of ``w`` ``[*kernel, in_features, out_features]``: examples are features here, and the reverse."""
    x, dy = lax.optimization_barrier((x, dy))  # else what made them is computed again, in the order of the transpose
    over = _Options(options.dilation, options.strides, options.padding)
    return jnp.moveaxis(_canonical(over, jnp.swapaxes(x, 0, -1), jnp.moveaxis(dy, 0, -2)), 0, -2)


def _lanes(factors, axes, *, options: _Options):
    """Lanes with weights of their own take turns, others are a larger batch."""
    x, w = (
        factor if axis is None else jnp.moveaxis(factor, axis, 0) for factor, axis in zip(factors, axes, strict=True)
    )
    if axes[1] is None:
        y = _canonical(options, x.reshape(-1, *x.shape[2:]), w)
        return y.reshape(len(x), -1, *y.shape[1:]), 0
    if axes[0] is None:
        return lax.map(lambda w: _canonical(options, x, w), w), 0
    return lax.map(lambda lane: _canonical(options, *lane), (x, w)), 0


def _plain(x, w, *, options: _Options):
    return _native(x, w, *options, 1)


_convolution = Primitive("canonical_convolution")
_convolution.def_impl(jax.jit(_plain, static_argnames="options"))
_convolution.def_abstract_eval(
    lambda x, w, *, options: jax.make_jaxpr(functools.partial(_plain, options=options))(x, w).out_avals[0]
)
mlir.register_lowering(_convolution, mlir.lower_fun(_plain, multiple_results=False))
batching.primitive_batchers[_convolution] = _lanes
ad.defbilinear(
    _convolution,
    lambda dy, x, w, *, options: _of_input(options, dy, w),
    lambda dy, x, w, *, options: _of_kernel(options, x, dy),
)


def _native(x, w, strides, dilation, padding, groups):
    axes = range(w.ndim - 2)
    features_last = (0, w.ndim - 1, *(axis + 1 for axis in axes))
    return lax.conv_general_dilated(
        x,
        w,
        strides,
        padding,
        rhs_dilation=dilation,
        dimension_numbers=lax.ConvDimensionNumbers(features_last, (w.ndim - 1, w.ndim - 2, *axes), features_last),
        feature_group_count=groups,
    )
