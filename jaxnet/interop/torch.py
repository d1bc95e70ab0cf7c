"""PyTorch's weights in: a ``state_dict`` and, for each layer, what stood there.

PyTorch itself isn't needed: tensors are taken as they come, and so are NumPy arrays by the same names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxnet.interop.weights import Converted, Converter, place
from jaxnet.layer import Layer, Spec


def weights(
    net: Layer,
    spec: Spec | tuple[int, ...],
    state_dict: Mapping[str, Any],
    mapping: Mapping[str, Converter],
    *,
    key: jax.Array | None = None,
    leftovers: bool = False,
) -> tuple[Any, Any]:
    """``(params, state)`` of ``net`` with the weights of a PyTorch module, which then compute the same.

    Args:
      net, spec: the network, and the spec of one example (features last, where PyTorch has channels first).
      state_dict: ``module.state_dict()``, or NumPy arrays by the same names.
      mapping: by the path of a layer in ``net`` (``"2"``, ``"features.0"``; ``""`` for a network of one layer), the
        function below for what stood there in PyTorch, with its name in the ``state_dict``.
      key: draws the weights of layers that the mapping leaves out (a new head); without it there must be none.
      leftovers: whether weights may remain unused (an old head).

    Raises:
      ValueError: for layers, weights or shapes that don't fit, for layers without weights, and for leftovers, by name.

    >>> import jaxnet as jn
    >>> state_dict = {"fc.weight": np.array([[1.0, 2.0]]), "fc.bias": np.array([3.0])}
    >>> params, state = weights(jn.serial(jn.dense(1)), (2,), state_dict, {"0": linear("fc")})
    >>> params[0]["w"].tolist(), params[0]["b"].tolist()
    ([[1.0], [2.0]], [3.0])
    """
    counted = {name: value for name, value in state_dict.items() if not name.endswith("num_batches_tracked")}
    return place(net, spec, counted, mapping, key=key, leftovers=leftovers)


def linear(name: str, *, bias: bool = True, flattened: tuple[int, ...] | None = None) -> Converter:
    """``torch.nn.Linear`` for ``dense``.

    Args:
      name: of the module in the ``state_dict``. bias: whether it has one.
      flattened: where its input was flattened, the shape before that in PyTorch's order ``(channels, *space)``; ours
        has channels last, so the weights' rows are put in another order.
    """

    def convert(take):
        w = take(f"{name}.weight")  # [out, in]
        if flattened is not None:
            if math.prod(flattened) != w.shape[1]:
                raise ValueError(f"linear({name!r}): flattened={flattened} isn't its {w.shape[1]} inputs")
            w = np.moveaxis(w.reshape(len(w), *flattened), 1, -1).reshape(w.shape)
        return Converted(_with_bias(take, name, bias, {"w": w.T}))

    return convert


def conv(name: str, *, bias: bool = True) -> Converter:
    """``torch.nn.Conv1d``, ``Conv2d`` or ``Conv3d``, with groups or without, for ``conv``."""

    def convert(take):
        w = np.moveaxis(take(f"{name}.weight"), (0, 1), (-1, -2))  # [out, in / groups, *kernel] -> [*kernel, ..., out]
        return Converted(_with_bias(take, name, bias, {"w": w}))

    return convert


def conv_transpose(name: str, *, bias: bool = True) -> Converter:
    """``torch.nn.ConvTranspose1d``, ``2d`` or ``3d``, without groups, for ``conv_transpose``."""

    def convert(take):
        w = np.moveaxis(take(f"{name}.weight"), (0, 1), (-2, -1))  # [in, out, *kernel] -> [*kernel, in, out]
        return Converted(_with_bias(take, name, bias, {"w": w}))

    return convert


def embedding(name: str) -> Converter:
    """``torch.nn.Embedding`` for ``embedding``."""
    return lambda take: Converted({"w": take(f"{name}.weight")})


def multi_head_attention(name: str, *, bias: bool = True) -> Converter:
    """``torch.nn.MultiheadAttention`` for ``multi_head_attention``, with one packed projection or three."""

    def convert(take):
        parts, params = ("query", "key", "value"), {}
        try:
            packed = dict(zip(parts, np.split(take(f"{name}.in_proj_weight"), 3), strict=True))
        except ValueError:  # keys and values of other widths than the queries
            packed = {part: take(f"{name}.{part[0]}_proj_weight") for part in parts}
        params |= {f"{part}.w": w.T for part, w in packed.items()} | {"output.w": take(f"{name}.out_proj.weight").T}
        if bias:
            biases = dict(zip(parts, np.split(take(f"{name}.in_proj_bias"), 3), strict=True))
            params |= {f"{part}.b": b for part, b in biases.items()} | {"output.b": take(f"{name}.out_proj.bias")}
        return Converted(params)

    return convert


def batch_norm(name: str, *, affine: bool = True) -> Converter:
    """``torch.nn.BatchNorm`` for ``batch_norm``.

    In evaluation both compute the same. In training PyTorch's running variance takes up unbiased variances, ours the
    biased ones that normalise the batch; and its momentum is the share of the new, ours that of the old.
    """
    scaled = _scale_and_offset(name, affine)

    def convert(take):
        return Converted(
            scaled(take).params, {"mean": take(f"{name}.running_mean"), "variance": take(f"{name}.running_var")}
        )

    return convert


def layer_norm(name: str) -> Converter:
    """``torch.nn.LayerNorm`` over the features for ``layer_norm``; ``GroupNorm`` and ``InstanceNorm`` for theirs."""
    return _scale_and_offset(name, True)


def rms_norm(name: str) -> Converter:
    """``torch.nn.RMSNorm`` over the features for ``rms_norm``."""
    return lambda take: Converted({"scale": take(f"{name}.weight")})


def rnn(name: str, *, layer: int = 0, bidirectional: bool = False) -> Converter:
    """One layer of ``torch.nn.RNN`` for ``rnn``, or for ``bidirectional`` of it.

    PyTorch stacks layers in one module; here each is a layer of a ``serial``, taken by its number. It has two biases
    where we have one, their sum.

    Args:
      name: of the module. layer: which of its layers. bidirectional: whether it runs both ways.
    """
    return _recurrent(name, layer, bidirectional, lambda w, u, b, c: {"w": w, "u": u, "b": b + c})


def gru(name: str, *, layer: int = 0, bidirectional: bool = False) -> Converter:
    """One layer of ``torch.nn.GRU`` for ``gru``, as ``rnn``; of the candidate's two biases both are kept."""

    def convert(w, u, b, c):
        units = len(u)
        return {"w": w, "u": u, "b": b + np.where(np.arange(len(b)) < 2 * units, c, 0), "b_u": c[2 * units :]}

    return _recurrent(name, layer, bidirectional, convert)


def lstm(name: str, *, layer: int = 0, bidirectional: bool = False, forget_bias: float = 1.0) -> Converter:
    """One layer of ``torch.nn.LSTM`` for ``lstm``, as ``rnn``; what ours adds to the forget gate is taken off its bias.

    Args:
      name, layer, bidirectional: as for ``rnn``. forget_bias: that of the ``lstm`` which takes the weights.
    """

    def convert(w, u, b, c):
        units = len(u)
        forget = (np.arange(len(b)) // units == 1) * forget_bias  # the gates are i, f, g, o in both
        return {"w": w, "u": u, "b": b + c - forget}

    return _recurrent(name, layer, bidirectional, convert)


def _with_bias(take, name: str, bias: bool, params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return params | ({"b": take(f"{name}.bias")} if bias else {})


def _scale_and_offset(name: str, affine: bool) -> Converter:
    def convert(take):
        return Converted({"scale": take(f"{name}.weight"), "offset": take(f"{name}.bias")} if affine else {})

    return convert


def _recurrent(name: str, layer: int, bidirectional: bool, convert) -> Converter:
    def direction(take, suffix):
        w, u = (take(f"{name}.weight_{kind}_l{layer}{suffix}").T for kind in ("ih", "hh"))
        b, c = (take(f"{name}.bias_{kind}_l{layer}{suffix}") for kind in ("ih", "hh"))
        return convert(w, u, b, c)

    def convert_all(take):
        if not bidirectional:
            return Converted(direction(take, ""))
        both = {"forward": direction(take, ""), "backward": direction(take, "_reverse")}
        return Converted({f"{way}.{leaf}": array for way, leaves in both.items() for leaf, array in leaves.items()})

    return convert_all
