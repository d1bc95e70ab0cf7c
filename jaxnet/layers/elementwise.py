"""Functions as layers: elementwise ones, and any other through ``lift``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.layer import Layer, Spec, along_features, as_spec, function_name
from jaxnet.ops.recipes import by_recipe
from jaxnet.sequence import on_features


def elementwise(function: Callable[[Any], Any]) -> Layer:
    """A function of one number, applied to every entry: what a combinator makes of ``jax.nn.relu`` or ``jnp.tanh``.

    Inactive features stay exactly zero, in value and in gradient, also where ``function(0)`` isn't (sigmoid) or where
    its slope at 0 is infinite (square root); then the state holds the mask of the active features.

    Args:
      function: maps arrays of any shape to arrays of the same shape, each entry by itself.

    Raises:
      TypeError: when it isn't callable; from ``init``, when it makes layers (``dense`` for ``dense(10)``). ValueError:
        from ``init``, when an entry of the output depends on other entries of the input (softmax, cumsum) or the shape
        changes; such a function goes through ``lift``.

    >>> layer = elementwise(jax.nn.sigmoid)
    >>> params, state, out = layer.init(None, (2,))
    >>> layer.apply(params, state, jnp.zeros((1, 2)))[0].tolist()
    [[0.5, 0.5]]
    """
    if not callable(function):
        raise TypeError(f"expected a layer or a function of arrays, got {function!r}")
    name = function_name(function)

    def init(key, spec):
        spec = as_spec(spec)
        out = _of_two_examples(function, name, spec)
        zero_stays_zero = _check_elementwise(function, name)
        if getattr(out, "shape", None) != (2, *spec.shape):
            raise ValueError(
                f"{name}: an elementwise function keeps the shape, but it made {out} of "
                f"{(2, *spec.shape)} (a batch of 2). Wrap it: jn.lift({name})."
            )
        masked = spec.active is not None and not zero_stays_zero
        return (), {"active": spec.active} if masked else (), Spec(spec.shape, out.dtype, spec.active)

    def apply(params, state, x, *, key=None, train=False):
        if not state:
            return function(x), state
        active = jnp.broadcast_to(along_features(state["active"], x), x.shape)
        # Twice: an infinite slope at an inactive zero would make its zero gradient NaN, so the function sees a one.
        y = function(jnp.where(active, x, jnp.ones((), x.dtype)))
        return jnp.where(active, y, jnp.zeros((), y.dtype)), state

    init.__qualname__ = name
    return on_features(init, apply, fill=1.0)  # at 0 a slope may be infinite, and times zero it would be NaN


def lift(function: Callable[[Any], Any], *, active: Callable[[jax.Array], jax.Array] | None = None) -> Layer:
    """Any function of a batch as a layer: ``[batch, ...] -> [batch, ...]``, each example by itself.

    Args:
      function: what is applied; the output's shape is found by tracing it.
      active: under sizes, makes of the mask of the input's active features ``[in_features]`` that of the output's
        ``[out_features]``; what isn't active is then set to zero. Without it, an input with inactive features is
        refused, since a function of all features (a mean, a softmax) would count the padding.

    Raises:
      TypeError: when ``function`` isn't callable; from ``init``, when it makes layers. ValueError: from ``init``, when
        it can't take the shape, changes the batch axis, or the input has inactive features and ``active`` isn't given.

    >>> layer = lift(lambda images: images.mean(axis=(1, 2)))  # global average pooling
    >>> params, state, out = layer.init(None, (7, 7, 16))
    >>> out.shape
    (16,)
    """
    if not callable(function):
        raise TypeError(f"lift: expected a function of a batch, got {function!r}")
    name = f"lift({function_name(function)})"

    def init(key, spec):
        spec = as_spec(spec)
        out = _of_two_examples(function, name, spec)
        if getattr(out, "shape", (0,))[:1] != (2,):
            raise ValueError(f"{name}: expected an array with the batch axis of 2 kept in front, but it made {out}")
        if spec.active is None:
            return (), (), Spec(out.shape[1:], out.dtype)
        if active is None:
            raise ValueError(
                f"{name}: its input has features that aren't active in every lane, and what the function does with "
                f"them isn't known. Say which of its outputs are active: jn.lift(function, active=lambda mask: mask), "
                f"or declare the width before it with static=True."
            )
        mask = active(spec.active)
        if mask.shape != out.shape[-1:]:
            raise ValueError(f"{name}: active= made a mask of shape {mask.shape} for {out.shape[-1:]} output features")
        return (), {"active": mask}, Spec(out.shape[1:], out.dtype, mask)

    def apply(params, state, x, *, key=None, train=False):
        y = function(x)
        if state:
            y = jnp.where(along_features(state["active"], y), y, jnp.zeros((), y.dtype))
        return y, state

    init.__qualname__ = name
    return Layer(init, apply)


def as_layer(value: Any) -> Layer:
    """A layer as it is, a plain function as an elementwise layer; what every combinator does with its children."""
    return value if isinstance(value, Layer) else elementwise(value)


def _of_two_examples(function: Callable[[Any], Any], name: str, spec: Spec) -> Any:
    """What a function makes of a batch of two, by shape and dtype."""
    if getattr(function, "__annotations__", {}).get("return") in (Layer, "Layer", "jn.Layer", "jaxnet.Layer"):
        maker = function_name(function)
        raise TypeError(f"{maker} makes a layer but isn't one: call it, {maker}(...)")
    try:
        return jax.eval_shape(function, jax.ShapeDtypeStruct((2, *spec.shape), spec.dtype))
    except Exception as error:
        raise ValueError(f"{name}: can't take examples of shape {spec.shape}, {spec.dtype}: {error}") from error


@by_recipe
def _check_elementwise(function: Callable[[Any], Any], name: str) -> bool:
    """Raises for a function that isn't elementwise; returns whether it maps zero to zero with a finite slope."""

    def probe(x):
        apart = [function(x[i : i + 1, j : j + 1]) for i in (0, 1) for j in (0, 1)]
        return function(x), apart, jax.jvp(function, (x[:1, :1],), (x[1:, 1:],))

    try:
        with jax.ensure_compile_time_eval(), jax.default_device(jax.local_devices(backend="cpu")[0]):
            together, apart, (value, slope) = jax.tree.map(
                np.asarray, jax.jit(probe)(np.array([[0, 0.5], [0.25, 1]], np.float32))
            )
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError):
        return False  # it closes over a hyperparameter, so nothing can be computed while tracing
    except Exception as error:
        raise ValueError(
            f"{name}: it can't be applied to a single entry, so it isn't elementwise ({error}). "
            f"Wrap it: jn.lift({name})."
        ) from error
    apart = np.concatenate([a.ravel() for a in apart])
    if together.size == apart.size and not np.allclose(together.ravel(), apart, rtol=1e-5, equal_nan=True):
        raise ValueError(
            f"{name}: an entry of its output depends on other entries of its input, so it isn't elementwise. "
            f"Wrap it: jn.lift({name})."
        )
    return bool((value == 0).all()) and (slope.dtype == jax.dtypes.float0 or bool(np.isfinite(slope).all()))
