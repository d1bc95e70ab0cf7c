"""flax.linen's weights in: a tree of variables and, for each layer, the module that made them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxnet.interop.weights import Converted, Converter, place
from jaxnet.layer import Layer, Spec


def weights(
    net: Layer,
    spec: Spec | tuple[int, ...],
    variables: Mapping[str, Any],
    mapping: Mapping[str, Converter],
    *,
    key: jax.Array | None = None,
    leftovers: bool = False,
) -> tuple[Any, Any]:
    """``(params, state)`` of ``net`` with the weights of a flax.linen module, which then compute the same.

    Args:
      net, spec: the network, and the spec of one example.
      variables: what ``module.init`` returned and training changed: ``{"params": ..., "batch_stats": ...}``.
      mapping: by the path of a layer in ``net`` (``"2"``, ``"features.0"``; ``""`` for a network of one layer), the
        function below for what stood there in flax, with the dotted path of its module (``"Encoder_0.Dense_1"``).
      key: draws the weights of layers that the mapping leaves out (a new head); without it there must be none.
      leftovers: whether weights may remain unused (an old head).

    Raises:
      ValueError: for layers, weights or shapes that don't fit, for layers without weights, and for leftovers, by name.

    >>> import flax.linen, jaxnet as jn
    >>> x = np.ones((1, 2), np.float32)
    >>> module = flax.linen.Sequential([flax.linen.Dense(3)])
    >>> variables = module.init(jax.random.key(0), x)
    >>> params, state = weights(jn.serial(jn.dense(3)), (2,), variables, {"0": dense("layers_0")})
    >>> bool((jn.serial(jn.dense(3)).apply(params, state, x)[0] == module.apply(variables, x)).all())
    True
    """
    leaves = jax.tree_util.tree_leaves_with_path(dict(variables))
    source = {".".join(str(getattr(entry, "key", entry)) for entry in path): leaf for path, leaf in leaves}
    return place(net, spec, source, mapping, key=key, leftovers=leftovers)


def dense(name: str, *, bias: bool = True) -> Converter:
    """``flax.linen.Dense`` for ``dense``.

    Args:
      name: the dotted path of the module. bias: whether it has one.
    """
    return _renamed(name, {"w": "kernel"} | ({"b": "bias"} if bias else {}))


def conv(name: str, *, bias: bool = True) -> Converter:
    """``flax.linen.Conv``, with groups or without, for ``conv``; pads with "SAME" where ours has "VALID" by default."""
    return dense(name, bias=bias)


def embed(name: str) -> Converter:
    """``flax.linen.Embed`` for ``embedding``."""
    return _renamed(name, {"w": "embedding"})


def batch_norm(name: str) -> Converter:
    """``flax.linen.BatchNorm`` with scale and bias for ``batch_norm``; its momentum is 0.99 by default, ours 0.9."""
    scaled = layer_norm(name)

    def convert(take):
        state = {
            ours: take(f"batch_stats.{name}.{theirs}") for ours, theirs in {"mean": "mean", "variance": "var"}.items()
        }
        return Converted(scaled(take).params, state)

    return convert


def layer_norm(name: str) -> Converter:
    """``flax.linen.LayerNorm`` or ``GroupNorm`` for ours of those names; epsilon is 1e-6 there, 1e-5 here."""
    return _renamed(name, {"scale": "scale", "offset": "bias"})


def rms_norm(name: str) -> Converter:
    """``flax.linen.RMSNorm`` for ``rms_norm``."""
    return _renamed(name, {"scale": "scale"})


def rnn(name: str) -> Converter:
    """``flax.linen.SimpleCell`` for ``rnn``; ``name`` is the path of the cell."""

    def convert(take):
        w, u = (take(f"params.{name}.{part}.kernel") for part in "ih")
        return Converted({"w": w, "u": u, "b": take(f"params.{name}.i.bias")})

    return convert


def gru(name: str) -> Converter:
    """``flax.linen.GRUCell`` for ``gru``; ``name`` is the path of the cell."""

    def convert(take):
        def gates(side: str, leaf: str, which: str = "rzn") -> np.ndarray:
            return np.concatenate([take(f"params.{name}.{side}{gate}.{leaf}") for gate in which], axis=-1)

        b = gates("i", "bias")
        return Converted({"w": gates("i", "kernel"), "u": gates("h", "kernel"), "b": b, "b_u": gates("h", "bias", "n")})

    return convert


def lstm(name: str, *, forget_bias: float = 1.0) -> Converter:
    """``flax.linen.LSTMCell`` or ``OptimizedLSTMCell`` for ``lstm``; what ours adds to the forget gate is taken off.

    Args:
      name: the path of the cell. forget_bias: that of the ``lstm`` which takes the weights.
    """

    def convert(take):
        w, u = (
            np.concatenate([take(f"params.{name}.{side}{gate}.kernel") for gate in "ifgo"], axis=-1) for side in "ih"
        )
        b = [take(f"params.{name}.h{gate}.bias") - forget_bias * (gate == "f") for gate in "ifgo"]
        return Converted({"w": w, "u": u, "b": np.concatenate(b)})

    return convert


def _renamed(name: str, leaves: Mapping[str, str]) -> Converter:
    return lambda take: Converted({ours: take(f"params.{name}.{theirs}") for ours, theirs in leaves.items()})
