"""Embeddings: vectors for integers, and for places in a sequence."""

from __future__ import annotations

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.layer import Layer, Size, Spec, as_spec, check_features, units_of
from jaxnet.ops.meshes import rows
from jaxnet.ops.parameters import Initializer, narrow_positions, parameter, parameter_dtype
from jaxnet.sequence import on_features

_NORMAL, _SMALL = jax.nn.initializers.normal(1.0), jax.nn.initializers.normal(0.02)


def embedding(vocabulary: int, features: int | Size, *, w_init: Initializer = _NORMAL) -> Layer:
    """A learned vector for each integer below ``vocabulary``: ``[batch, ...]`` to ``[batch, ..., features]``.

    An integer outside [0, vocabulary) gets a vector of NaN, so that a wrong vocabulary shows at once and ``fit`` says
    that training diverged; it is neither clamped nor counted from the end.

    Args:
      vocabulary: how many integers there are.
      features: units of the output; a ``Size`` lets it differ from lane to lane.
      w_init: draws ``w``; the default, a standard normal, is PyTorch's.

    Parameters: ``w`` ``[vocabulary, features]``, in the spec's dtype where that is floating, else float32. No state.

    Raises:
      TypeError, ValueError: here, when vocabulary isn't a positive integer, or features isn't one or a ``Size``.
      TypeError: from ``apply``, for an input that isn't of integers. ``init`` takes any dtype, since a shape tuple says
        nothing of it. ``fit`` takes uint8 for pixels, so tokens must be of another integer dtype.

    >>> layer = embedding(10, 3)
    >>> params, state, out = layer.init(jax.random.key(0), (7,))
    >>> y, _ = layer.apply(params, state, jnp.array([[0, 10]]))
    >>> out.shape, bool((y[0, 0] == params["w"][0]).all()), y[0, 1].tolist()
    ((7, 3), True, [nan, nan, nan])
    """
    vocabulary = _integer("embedding", vocabulary, "vocabulary")
    check_features("embedding", features)

    def init(key, spec):
        spec, dtype = _integers("embedding", spec)
        params = {"w": parameter(key, w_init, (vocabulary, features), dtype=dtype)}
        units, active = units_of(features)
        return params, (), Spec((*spec.shape, units), dtype, active)

    def apply(params, state, x, *, key=None, train=False):
        _check_integers("embedding", x)
        known = (x >= 0) & (x < vocabulary)
        y = rows(params["w"], jnp.where(known, x, 0))  # [batch, ..., features]
        return jnp.where(known[..., None], y, np.asarray(np.nan, y.dtype)), state

    return on_features(init, apply)


def one_hot(classes: int) -> Layer:
    """A 1 at the place of each integer among zeros, float32: ``[batch, ...]`` to ``[batch, ..., classes]``.

    An integer outside [0, classes) gets NaN, as in ``embedding``. No parameters, no state.

    Args:
      classes: how many integers there are.

    Raises:
      TypeError, ValueError: here, when classes isn't a positive integer. TypeError: from ``apply``, for an input that
        isn't of integers.

    >>> one_hot(3).apply((), (), jnp.array([2, 0]))[0].tolist()
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    classes = _integer("one_hot", classes, "classes")

    def init(key, spec):
        spec, _ = _integers("one_hot", spec)
        return (), (), Spec((*spec.shape, classes))

    def apply(params, state, x, *, key=None, train=False):
        _check_integers("one_hot", x)
        known = ((x >= 0) & (x < classes))[..., None]
        return jnp.where(known, jax.nn.one_hot(x, classes, dtype=jnp.float32), jnp.nan), state

    return on_features(init, apply)


def sinusoidal_positions() -> Layer:
    """Adds to each time step sines and cosines of its place, of different periods: ``[batch, time, features]``.

    Feature ``2 i`` of step ``t`` gets ``sin(t / 10000 ** (2 i / features))``, feature ``2 i + 1`` the cosine. Under
    sizes, features are counted among the active ones, and the others stay zero.

    No parameters. Under sizes, the state holds the mask of the active features.

    Raises:
      ValueError: from ``init``, for examples that aren't ``(time, features)``.

    Source: Vaswani et al., "Attention is all you need" (2017), sec. 3.5.

    >>> layer = sinusoidal_positions()
    >>> layer.apply((), (), jnp.zeros((1, 2, 2)))[0].tolist()
    [[[0.0, 1.0], [0.8415, 0.5403]]]
    """

    def init(key, spec):
        spec = _time_and_features("sinusoidal_positions", spec)
        return (), () if spec.active is None else {"active": spec.active}, spec

    def apply(params, state, x, *, key=None, train=False):
        _check_sequence("sinusoidal_positions", x)
        work = jnp.promote_types(x.dtype, jnp.float32)
        steps, features = jnp.arange(x.shape[1], dtype=work), jnp.arange(x.shape[2])
        count = jnp.asarray(x.shape[2], work)
        if state:
            features, count = narrow_positions(state["active"]), jnp.sum(state["active"]).astype(work)
        rate = jnp.asarray(10000.0, work) ** (-(features // 2 * 2).astype(work) / count)
        angle = steps[:, None] * rate[None, :]  # [time, features]
        added = jnp.where(features[None, :] % 2 == 0, jnp.sin(angle), jnp.cos(angle))
        if state:
            added = jnp.where(state["active"][None, :], added, jnp.zeros((), work))
        return x + added.astype(x.dtype)[None], state

    return on_features(init, apply)


def learned_positions(longest: int, *, w_init: Initializer = _SMALL) -> Layer:
    """Adds to each time step a learned vector for its place: ``[batch, time, features]``.

    Args:
      longest: the most time steps that will come; shorter sequences take the first vectors.
      w_init: draws ``w``; the default, a normal of deviation 0.02, is so small that the input hardly
        changes at first.

    Parameters: ``w`` ``[longest, features]``. No state.

    Raises:
      TypeError, ValueError: here, when longest isn't a positive integer. ValueError: from ``init`` and ``apply``, for
        examples that aren't ``(time, features)`` or have more than ``longest`` steps.

    Source: Gehring et al., "Convolutional sequence to sequence learning" (2017), sec. 3.1.

    >>> layer = learned_positions(5)
    >>> params, state, out = layer.init(jax.random.key(0), (3, 2))
    >>> out.shape, params["w"].shape
    ((3, 2), (5, 2))
    """
    longest = _integer("learned_positions", longest, "longest")

    def check(steps):
        if steps > longest:
            raise ValueError(
                f"learned_positions: got {steps} time steps, but there are vectors for {longest} only; "
                f"try learned_positions({steps})"
            )

    def init(key, spec):
        spec = _time_and_features("learned_positions", spec)
        check(spec.shape[0])
        w = parameter(key, w_init, (longest, spec.shape[1]), active=(None, spec.active), dtype=spec.dtype)
        return {"w": w}, (), spec

    def apply(params, state, x, *, key=None, train=False):
        _check_sequence("learned_positions", x, params["w"].shape[1])
        check(x.shape[1])
        return x + params["w"][None, : x.shape[1]], state

    return on_features(init, apply)


def _integer(name: str, value: Any, what: str) -> int:
    """``value`` as a Python integer of at least 1; a ``Size`` raises, and says what to do."""
    check_features(name, value, what)
    return operator.index(value)


def _integers(name: str, spec: Any) -> tuple[Spec, Any]:
    """The spec of integer examples, and the dtype of what is made of them."""
    spec = as_spec(spec)
    if spec.active is not None:
        raise ValueError(f"{name}: expected integers, but got features that aren't active in every lane")
    return spec, parameter_dtype(spec)


def _check_integers(name: str, x: Any) -> None:
    if not jnp.issubdtype(x.dtype, jnp.integer):
        raise TypeError(
            f"{name}: expected x of integers, got {x.dtype} of shape {x.shape}. Try x.astype(jnp.int32); uint8 inputs "
            f"are taken for pixels in training and become float32."
        )


def _time_and_features(name: str, spec: Any) -> Spec:
    spec = as_spec(spec)
    if len(spec.shape) != 2 or not jnp.issubdtype(spec.dtype, jnp.floating):
        raise ValueError(f"{name}: expected floating examples (time, features), but got {spec.shape}, {spec.dtype}")
    return spec


def _check_sequence(name: str, x: Any, features: int | None = None) -> None:
    if x.ndim != 3 or features not in (None, x.shape[2]):
        wanted = "features" if features is None else features
        raise ValueError(f"{name}: expected x of shape [batch, time, {wanted}], but got {x.shape}")
