"""flax.linen in: a module as a layer, or the weights that one has learned in a network of jaxnet's layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax.errors import LazyInitError

from jaxnet.interop.networks import Flags, flags_of, foreign
from jaxnet.interop.weights import Converted, Converter, place
from jaxnet.layer import Layer, Spec


def layer(module: Any, *, flags: Flags | None = None, streams: Sequence[str] = ("dropout",)) -> Layer:
    """A flax.linen module as a layer, which trains with ``fit``, searches as lanes and stands among other layers.

    ``params`` is the module's collection of that name; ``state`` a dict of its others, such as ``batch_stats``, which
    training may change. A ``Sequence`` is handed over as two arguments, its values and its lengths. Widths are the
    module's own, so hyperparameters that fix shapes must be ``static=True``; others may be traced where the module
    takes an array for them. A last batch that isn't full has no more rows than examples, as in flax's own loops: where
    there is state it has a program of its own, and a batch size that differs from lane to lane is refused.

    Args:
      module: takes ``[batch, ...]``; unbound, as ``nn.Dense(3)`` is.
      flags: keyword arguments of a call in training and evaluation. By default, what the module calls its switch is
        found among the parameters of ``__call__``: ``train``, ``training``, ``is_training``, or the other way round
        ``deterministic``, ``use_running_average``, ``inference``.
      streams: names of the random streams that a call in training draws from; one key is folded into each.

    Raises:
      ValueError: from ``init``, for outputs without a batch axis, and where the input's width differs between lanes;
        in training, with state, where the batch size does.

    >>> import flax.linen as nn, jaxnet as jn
    >>> net = jn.serial(jn.flatten, layer(nn.Dense(3)))
    >>> params, state, out = net.init(jax.random.key(0), (2, 2))
    >>> out.shape, params[1]["kernel"].shape
    ((3,), (4, 3))
    """
    switched = flags_of(type(module).__call__, flags)

    def keys(key, names):
        return {name: jax.random.fold_in(key, i) for i, name in enumerate(names)}

    def begin(key, inputs):
        try:
            made = module.lazy_init(keys(key, ("params", *streams)), *inputs, **switched(False))
        except LazyInitError as error:
            error.add_note(
                f"{type(module).__name__}: what it makes when it is initialised depends on its inputs' values. Where "
                f"it sows, try `if not self.is_initializing():` before self.sow, or the collection 'intermediates'"
            )
            raise
        state = {name: collection for name, collection in made.items() if name != "params"}
        return made.get("params", {}), state

    def call(params, state, inputs, key, train):
        rngs = None if key is None else keys(key, streams)
        changed = list(state) if train else False
        made = module.apply({"params": params, **state}, *inputs, rngs=rngs, mutable=changed, **switched(train))
        if not train:
            return made, state
        y, new = made
        return y, {**state, **new}

    return foreign(type(module).__name__, begin, call)


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
