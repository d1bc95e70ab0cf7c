"""One way to make a parameter: drawn at the bound's shape, scaled by the active fan, zero where nothing is active."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.layer import Layer, Size, Spec, function_name
from jaxnet.ops.random import position_key
from jaxnet.ops.recipes import by_recipe

Initializer = Callable[..., jax.Array]

_making_masks = contextvars.ContextVar("making_masks", default=False)


def parameter(
    key: jax.Array,
    initializer: Initializer,
    shape: Sequence[int | Size],
    *,
    active: Sequence[jax.Array | None] | None = None,
    dtype: Any = jnp.float32,
) -> jax.Array:
    """Draws a parameter that keeps the law of the inactive unit; every layer makes its parameters here.

    Under sizes, the active entries are those that the narrow network of the same key draws: in the same order, with
    the variance of the active fan, whatever the bound. All other entries are zero.

    Args:
      key: a PRNG key.
      initializer: a function of ``jax.nn.initializers``, or any ``(key, shape, dtype) -> array``.
      shape: the axes, input features last but one and output features last; each an integer or a ``Size``.
      active: for each axis, None or a bool mask over it, such as ``spec.active`` for the input's axis.
      dtype: of the array that is made.

    Raises:
      ValueError: when an axis has inactive entries and the initialiser doesn't draw its entries independently
        (``orthogonal``), since a padded draw then isn't the narrow one.

    >>> size = Size(bound=4, value=2)
    >>> parameter(jax.random.key(0), jax.nn.initializers.ones, (size,)).tolist()
    [1.0, 1.0, 0.0, 0.0]
    """
    bound = tuple(n.bound if isinstance(n, Size) else int(n) for n in shape)
    given = [None] * len(bound) if active is None else list(active)
    lengths = [None if mask is None else mask.shape for mask in given]
    if len(given) != len(bound) or any(n not in (None, (m,)) for n, m in zip(lengths, bound, strict=False)):
        raise ValueError(f"active must be a mask or None for each axis of {bound}, got masks of shapes {lengths}")
    masks = [n.active if isinstance(n, Size) else mask for n, mask in zip(shape, given, strict=True)]
    if all(mask is None for mask in masks):
        everything = jnp.ones(bound, bool)
        return everything if _making_masks.get() else initializer(position_key(key), bound, dtype)

    mask = jnp.ones((), bool)
    for axis, along in enumerate(masks):
        one = jnp.ones(bound[axis], bool) if along is None else along.astype(bool)
        mask = mask[..., None] & one.reshape((1,) * axis + (-1,))
    if _making_masks.get():
        return mask

    values = initializer(position_key(key), bound, dtype) * _fan_correction(initializer, bound, masks).astype(dtype)
    for axis, (n, along) in enumerate(zip(shape, masks, strict=True)):
        if along is not None and not isinstance(n, Size):  # a Size's units come first; a given mask may have gaps
            values = jnp.take(values, narrow_positions(along), axis=axis)
    return jnp.where(mask, values, jnp.zeros((), dtype))


def parameter_dtype(input: Any) -> Any:
    """What a layer's parameters and outputs have for a dtype: the input's where that is floating, else float32.

    >>> parameter_dtype(jnp.zeros(2, jnp.bfloat16)), parameter_dtype(jnp.zeros(2, jnp.uint8))
    (dtype(bfloat16), dtype('float32'))
    """
    return input.dtype if jnp.issubdtype(input.dtype, jnp.floating) else jnp.dtype(jnp.float32)


def narrow_positions(active: jax.Array) -> jax.Array:
    """For each feature its index among the active ones, that is, in the network without padding: ``[features]``, int32.

    >>> narrow_positions(jnp.array([True, False, True, True])).tolist()
    [0, 0, 1, 2]
    """
    return jnp.maximum(jnp.cumsum(active.astype(jnp.int32)) - 1, 0)


@contextlib.contextmanager
def making_masks() -> Iterator[None]:
    """Inside, ``parameter`` returns which entries are active (bool) instead of values."""
    token = _making_masks.set(True)
    try:
        yield
    finally:
        _making_masks.reset(token)


def parameter_masks(net: Layer, spec: Any) -> tuple[Any, Any]:
    """Params and state of a network with, in place of the values of each parameter, which of them are active."""
    with making_masks():
        return net.init(jax.random.key(0), spec)[:2]


def unpad(padded: Layer, narrow: Layer, spec: Spec, params: Any, state: Any, masks: Any = None) -> tuple[Any, Any]:
    """The trees of the narrow network out of those of the padded one; NumPy in, NumPy out.

    Args:
      padded: the network with concrete sizes; narrow: the same network with integers.
      spec: of one example, for both.
      params, state: the padded network's trees.
      masks: ``parameter_masks`` of the padded network, where they are known.
    """
    if masks is None:  # jitted, so that one small program is compiled and not one for each operation
        masks = jax.jit(lambda: parameter_masks(padded, spec))()
    wanted = jax.eval_shape(lambda: narrow.init(jax.random.key(0), spec)[:2])
    masks = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(masks)}
    values = {jax.tree_util.keystr(p): leaf for p, leaf in jax.tree_util.tree_leaves_with_path((params, state))}

    def cut(path, leaf):
        # By path: what only a padded network carries (the masks of activations) has no counterpart and is dropped.
        name = jax.tree_util.keystr(path)
        value = np.asarray(values[name])
        if value.shape == leaf.shape:
            return value
        mask = np.asarray(masks[name])
        if mask.dtype != bool or mask.sum() != np.prod(leaf.shape):
            raise ValueError(
                f"can't cut {name} from {value.shape} to {leaf.shape}: a layer made it without jn.parameter, so which "
                f"entries are active isn't known; or the network was another one when it was trained"
            )
        return value[mask].reshape(leaf.shape)

    return jax.tree_util.tree_map_with_path(cut, wanted)


def _fan_correction(initializer: Initializer, bound: tuple[int, ...], masks: Sequence[jax.Array | None]) -> jax.Array:
    """What a draw at the bound's shape is multiplied by to have the variance of the active fans; a scalar."""
    full = [jnp.float32(n) for n in bound[-2:]]
    used = [n if mask is None else jnp.sum(mask) for n, mask in zip(full, masks[-2:], strict=True)]
    try:
        law = _variance_law(initializer, len(bound))
    except jax.errors.TracerArrayConversionError:  # it has a traced number in it, such as a scale
        return _traced_correction(initializer, len(bound), full, used)
    return jnp.sqrt(_FANS[law](*full) / _FANS[law](*used))


_FANS = {
    "constant": lambda *fans: jnp.ones(()),
    "fan_in": lambda fan_in, fan_out: fan_in,
    "fan_out": lambda fan_in, fan_out: fan_out,
    "fan_avg": lambda fan_in, fan_out: (fan_in + fan_out) / 2,
    "fan_geo_avg": lambda fan_in, fan_out: jnp.sqrt(fan_in * fan_out),
}
_LAWS = {  # of each by what an entry is multiplied when the input, or the output, is four times as long
    "constant": (1, 1),
    "fan_in": (0.5, 1),
    "fan_out": (1, 0.5),
    "fan_avg": (0.4**0.5, 0.4**0.5),
    "fan_geo_avg": (0.5**0.5, 0.5**0.5),
}


def _law_draws(initializer: Initializer, rank: int, key: jax.Array) -> tuple[jax.Array, ...]:
    """The same positions drawn in an array and in two larger ones, four times as long in and out."""
    lead = (1,) * (rank - 2)
    if rank < 2:
        return initializer(key, (2,), jnp.float32), *[initializer(key, (8,), jnp.float32)[:2]] * 2
    small, tall, wide = (initializer(key, (*lead, *shape), jnp.float32) for shape in ((2, 2), (8, 2), (2, 8)))
    return small, tall[..., :2, :], wide[..., :2]


def _traced_correction(initializer: Initializer, rank: int, full: Sequence[Any], used: Sequence[Any]) -> jax.Array:
    """The correction of an initialiser with a traced number in it; NaN where its entries aren't independent draws."""
    small, *larger = _law_draws(initializer, rank, position_key(jax.random.key(20)))
    correction = jnp.full((), jnp.nan)
    for law, factors in _LAWS.items() if rank > 1 else [("constant", _LAWS["constant"])]:
        follows = jnp.ones((), bool)
        for draw, factor in zip(larger, factors, strict=True):
            follows &= jnp.all(jnp.abs(draw - factor * small) <= 1e-3 * jnp.abs(small))
        correction = jnp.where(
            follows & jnp.isnan(correction), jnp.sqrt(_FANS[law](*full) / _FANS[law](*used)), correction
        )
    return correction


@by_recipe
def _variance_law(initializer: Initializer, rank: int) -> str:
    """How an initialiser's scale depends on the last two axes, found by drawing: its closure can't be read.

    The same positions drawn in larger arrays must be the same numbers up to one factor; the factors, for an input and
    for an output axis made 4 times longer, tell the law.
    """
    if initializer in (jax.nn.initializers.zeros, jax.nn.initializers.ones):
        return "constant"

    def draws(words):  # an argument, so that all is compiled as one and not evaluated operation by operation
        return _law_draws(initializer, rank, position_key(jax.random.wrap_key_data(words, impl="threefry2x32")))

    with jax.ensure_compile_time_eval(), jax.default_device(jax.local_devices(backend="cpu")[0]):
        try:
            small, tall, wide = (np.asarray(draw, np.float64) for draw in jax.jit(draws)(np.array([20, 7], np.uint32)))
        except ValueError as error:  # such as a shape that only some initialisers take
            raise ValueError(_NOT_INDEPENDENT.format(function_name(initializer, factory=True), f": {error}")) from error
    if not small.any() and not tall.any() and not wide.any():
        return "constant"
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = [np.unique((larger / small).round(4)) for larger in (tall, wide)]
    for name, law in _LAWS.items():
        if all(len(seen) == 1 and abs(seen[0] - expected) < 1e-3 for seen, expected in zip(factors, law, strict=True)):
            return name
    raise ValueError(_NOT_INDEPENDENT.format(function_name(initializer, factory=True), ""))


_NOT_INDEPENDENT = (
    "the initialiser {!r} doesn't draw its entries independently (or scales them in a way other than by fan_in, "
    "fan_out or their average), so it can't serve a width that differs from lane to lane{}. "
    "Try jax.nn.initializers.variance_scaling, or declare the width with static=True."
)
