"""Haiku in: a function of modules as a layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxnet.hints import needs
from jaxnet.interop.networks import Flags, flags_of, foreign
from jaxnet.layer import Layer, function_name

with needs("haiku"):
    import haiku as hk


def layer(function: Callable[..., Any], *, flags: Flags | None = None) -> Layer:
    """A function that calls Haiku modules as a layer, which trains with ``fit`` and searches as lanes.

    ``params`` and ``state`` are Haiku's, dicts by module and name. A ``Sequence`` is handed over as two arguments, its
    values and its lengths. Hyperparameters that fix shapes must be ``static=True``; others may be traced where Haiku
    takes an array for them. A last batch that isn't full has no more rows than examples: where there is state it has a
    program of its own, and a batch size that differs from lane to lane is refused.

    Args:
      function: what ``hk.transform_with_state`` takes; not transformed. It takes ``[batch, ...]``.
      flags: keyword arguments of a call in training and evaluation. By default, what the function calls its switch is
        found among its parameters: ``is_training``, ``train``, ``training``, or the other way round ``deterministic``,
        ``use_running_average``, ``inference``.

    Raises:
      TypeError: when the function is transformed already.
      ValueError: from ``init``, for outputs without a batch axis, and where the input's width differs between lanes;
        in training, with state, where the batch size does.

    >>> import jaxnet as jn
    >>> net = jn.serial(layer(lambda x: hk.Linear(3)(x)), jax.nn.relu)
    >>> params, state, out = net.init(jax.random.key(0), (4,))
    >>> out.shape, params[0]["linear"]["w"].shape
    ((3,), (4, 3))
    """
    if isinstance(function, (hk.Transformed, hk.TransformedWithState)):
        raise TypeError("haiku.layer: expected the function itself, but it is transformed already; leave out transform")
    switched = flags_of(function, flags)
    transformed = hk.transform_with_state(function)

    def begin(key, inputs):
        return transformed.init(key, *(jnp.zeros(x.shape, x.dtype) for x in inputs), **switched(True))

    # Haiku's init runs the function; compiled, nothing is left of that but what draws the parameters.
    compiled = jax.jit(begin, static_argnums=1)

    def call(params, state, inputs, key, train):
        y, new = transformed.apply(params, state, key, *inputs, **switched(train))
        return y, new if train else state

    def init(key, inputs):
        return (begin if isinstance(key, Tracer) else compiled)(key, inputs)

    return foreign(function_name(function).replace("<lambda>", "haiku"), init, call)
