"""Attention: each time step takes from others what resembles what it looks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.layer import Layer, Size, Spec, along_features, as_spec, check_features, units_of
from jaxnet.layers.dense import dense
from jaxnet.layers.dropout import dropout as drop
from jaxnet.layers.elementwise import as_layer
from jaxnet.layers.normalization import layer_norm
from jaxnet.ops.parameters import Initializer, parameter, parameter_dtype
from jaxnet.ops.reductions import softmax
from jaxnet.sequence import Sequence, sequence_spec


def multi_head_attention(
    heads: int,
    features: int | Size | None = None,
    *,
    head_features: int | Size | None = None,
    causal: bool = False,
    dropout: Any = 0.0,
    bias: bool = True,
    w_init: Initializer = jax.nn.initializers.lecun_normal(),
) -> Layer:
    """Averages of values, weighted by how queries resemble keys, in several heads: ``[batch, time, features]``.

    In each head, ``softmax(queries @ keys.T / sqrt(head_features)) @ values``, all three affine in the input; the heads
    side by side are mapped to the output. Self attention takes an array or a ``Sequence``. Cross attention takes a pair
    ``(queries, memory)`` of them and to ``init`` a pair of specs; keys and values are then made of the memory.

    Of a ``Sequence``, no step past the end is attended to, and outputs past the end are zero. A step that may attend to
    nothing (an empty memory) gets zeros from every head, where PyTorch has NaN.

    Args:
      heads: how many; the same in every lane.
      features: units of the output; without it, those of the input (of the queries).
      head_features: units of one head; without it, the output's over ``heads``. Given as a ``Size`` it may differ from
        lane to lane, and must be given where the output's units do.
      causal: whether a step attends to itself and earlier ones only.
      dropout: the share of weights that is dropped in training, after the softmax; may be traced.
      bias: whether there are parameters ``b``.
      w_init: draws each ``w``.

    Parameters: ``query``, ``key``, ``value``, each with ``w`` ``[in_features, heads * head_features]``, and ``output``
    with ``w`` ``[heads * head_features, features]``; each with its ``b``. Under sizes, the state holds the mask of a
    head's units.

    Raises:
      TypeError, ValueError: here, for arguments of the wrong kind or out of range. ValueError: from ``init``, for
        examples that aren't ``(time, features)``, features that the heads don't divide, or causal cross attention; from
        ``apply``, for an ``x`` of another rank or width, or a dropout without a key in training.

    Source: Vaswani et al., "Attention is all you need" (2017), sec. 3.2.

    >>> layer = multi_head_attention(2)
    >>> params, state, out = layer.init(jax.random.key(0), (7, 6))
    >>> out.shape, params["query"]["w"].shape
    ((7, 6), (6, 6))
    >>> params, state, out = layer.init(jax.random.key(0), (Spec((7, 6)), Spec((9, 4))))
    >>> out.shape, params["key"]["w"].shape
    ((7, 6), (4, 6))
    """
    name = "multi_head_attention"
    check_features(name, heads, "heads")
    heads = int(heads)
    for what, value in (("features", features), ("head_features", head_features)):
        if value is not None:
            check_features(name, value, what)
    weights_dropout = drop(dropout)  # checks the rate
    drops = not (isinstance(dropout, (int, float)) and dropout == 0)

    def init(key, spec):
        cross = _is_pair(spec)
        queries, lengths = sequence_spec(spec[0] if cross else spec, rank=2)
        memory, _ = sequence_spec(spec[1], rank=2) if cross else (queries, None)
        queries, memory = as_spec(queries), as_spec(memory)
        for one in (queries, memory):
            if len(one.shape) != 2:
                raise ValueError(f"{name}: expected examples (time, features), but got the shape {one.shape}")
        if cross and causal:
            raise ValueError(f"{name}: causal=True is for self attention; a memory's steps aren't before or after")
        units, active = (queries.shape[-1], queries.active) if features is None else units_of(features)
        if head_features is not None:
            head, head_active = units_of(head_features)
        elif active is not None:
            raise ValueError(
                f"{name}: the output's features differ from lane to lane, so what {heads} heads divide them into isn't "
                f"known. Give head_features, an integer or a Size, or declare the width with static=True."
            )
        elif units % heads:
            raise ValueError(f"{name}: {heads} heads don't divide {units} features; give head_features")
        else:
            head, head_active = units // heads, None
        dtype = parameter_dtype(queries)
        inner = heads * head, None if head_active is None else jnp.tile(head_active, heads)

        def project(i, source, target):
            return _affine(jax.random.fold_in(key, i), w_init, source, target, dtype, bias)

        from_queries, from_memory = (queries.shape[-1], queries.active), (memory.shape[-1], memory.active)
        params = {
            "query": project(0, from_queries, inner),
            "key": project(1, from_memory, inner),
            "value": project(2, from_memory, inner),
            "output": project(3, inner, (units, active)),
        }
        out = Spec((queries.shape[0], units), dtype, active)
        state = () if head_active is None else {"active": head_active}
        return params, state, out if lengths is None else Sequence(out, lengths)

    def apply(params, state, x, *, key=None, train=False):
        cross = _is_pair(x)
        queries, memory = x if cross else (x, x)
        _check(name, queries, params["query"]["w"])
        _check(name, memory, params["key"]["w"])
        batches = [(one.values if isinstance(one, Sequence) else one).shape[0] for one in (queries, memory)]
        if batches[0] != batches[1]:
            raise ValueError(
                f"{name}: queries and memory must have as many examples, got {batches[0]} and {batches[1]}"
            )

        def split(part, source):  # a product with an axis of heads: XLA is faster at its gradient than at a matrix's
            values = source.replace(source.values).values if isinstance(source, Sequence) else source
            w = params[part]["w"].reshape(values.shape[-1], heads, -1)
            y = jnp.einsum("btd,dhf->bthf", values, w)  # [batch, time, heads, head_features]
            return y + params[part]["b"].reshape(1, 1, heads, -1) if bias else y

        query, keys, values = split("query", queries), split("key", memory), split("value", memory)
        work = jnp.promote_types(query.dtype, jnp.float32)
        count = jnp.sum(state["active"]) if state else query.shape[-1]
        logits = jnp.einsum("bqhf,bkhf->bhqk", query, keys, preferred_element_type=work)
        logits = logits / jnp.sqrt(jnp.asarray(count, work))  # [batch, heads, queries, keys]
        counted = None
        if isinstance(memory, Sequence):
            counted = memory.mask[:, None, None, :]
        if causal:
            earlier = jnp.tril(jnp.ones(logits.shape[2:], bool))[None, None]
            counted = earlier if counted is None else counted & earlier
        weights = softmax(logits, counted)
        if train and drops:
            if key is None:
                raise ValueError(f"{name}: dropout needs a key in training; try apply(..., key=jax.random.key(0))")
            weights, _ = weights_dropout.apply((), (), weights, key=key, train=True)
        # Heads before queries, as they come: the other order transposes the weights, which took twice as long on a CPU.
        mixed = jnp.einsum("bhqk,bkhf->bhqf", weights.astype(values.dtype), values)
        w = params["output"]["w"].reshape(heads, mixed.shape[-1], -1)
        y = jnp.einsum("bhqf,hfo->bqo", mixed, w)
        y = y + along_features(params["output"]["b"], y) if bias else y
        return (queries.replace(y) if isinstance(queries, Sequence) else y), state

    return Layer(init, apply)


def transformer_block(
    heads: int,
    hidden: int | Size,
    *,
    head_features: int | Size | None = None,
    activation: Callable[[Any], Any] = jax.nn.gelu,
    causal: bool = False,
    dropout: Any = 0.0,
    w_init: Initializer = jax.nn.initializers.lecun_normal(),
) -> Layer:
    """``x + attention(norm(x))``, then ``x + output(activation(hidden(norm(x))))``: ``[batch, time, features]``.

    The norms stand before what they serve ("pre-norm"), so that a path without any leads through all blocks; the last
    block of a network is followed by a ``layer_norm`` of its own.

    Args:
      heads, head_features, causal, w_init: as for ``multi_head_attention``.
      hidden: units of the layer between the two dense ones, usually four times the features.
      activation: an elementwise function, or a layer such as ``prelu()``. ``jax.nn.gelu`` is the approximation by tanh;
        PyTorch's default is relu.
      dropout: the share that is dropped in training of the weights of attention and of what either part adds to ``x``;
        may be traced. PyTorch drops hidden units as well.

    Input and output: an array or a ``Sequence``. Parameters: ``attention_norm``, ``attention``, ``hidden_norm``,
    ``hidden``, ``output``, each its layer's, and ``activation`` of a layer that has any.

    Raises:
      TypeError, ValueError: as ``multi_head_attention`` and ``dense``; dropout without a key in training.

    Source: Xiong et al., "On layer normalization in the transformer architecture" (2020), figure 1b.

    >>> params, state, out = transformer_block(2, 32).init(jax.random.key(0), (7, 8))
    >>> out.shape, params["hidden"]["w"].shape
    ((7, 8), (8, 32))
    """
    check_features("transformer_block", hidden, "hidden")
    attention = multi_head_attention(heads, head_features=head_features, causal=causal, dropout=dropout, w_init=w_init)
    children = {
        "attention_norm": layer_norm(),
        "attention": attention,
        "hidden_norm": layer_norm(),
        "hidden": dense(hidden, w_init=w_init),
        "activation": as_layer(activation),
    }
    dropped = drop(dropout)
    drops = not (isinstance(dropout, (int, float)) and dropout == 0)

    def init(key, spec):
        params, state, inner = {}, {}, spec
        for i, (name, child) in enumerate(children.items()):
            params[name], state[name], inner = child.init(jax.random.fold_in(key, i), inner)
        (inner, _), (outer, lengths) = sequence_spec(inner, rank=2), sequence_spec(spec, rank=2)
        outer = as_spec(outer)
        source, target = (inner.shape[-1], inner.active), (outer.shape[-1], outer.active)
        params["output"] = _affine(jax.random.fold_in(key, len(children)), w_init, source, target, inner.dtype, True)
        _, state["dropout"], _ = dropped.init(None, outer)
        if not jax.tree.leaves(params["activation"]):
            del params["activation"]
        out = Spec(outer.shape, inner.dtype, outer.active)
        return params, state, out if lengths is None else Sequence(out, lengths)

    def apply(params, state, x, *, key=None, train=False):
        if drops and train and key is None:
            raise ValueError("transformer_block: dropout needs a key in training; try key=jax.random.key(0)")
        keys = [None if key is None else jax.random.fold_in(key, i) for i in range(4)]

        def child(name, x):
            return children[name].apply(params.get(name, ()), state[name], x, key=keys[0], train=train)[0]

        def add(x, y, key):
            if drops:
                y, _ = dropped.apply((), state["dropout"], y, key=key, train=train)
            return x.replace(x.values + y.values) if isinstance(x, Sequence) else x + y

        x = add(x, child("attention", child("attention_norm", x)), keys[1])
        inner = child("hidden", child("hidden_norm", x))
        own = params.get("activation", ()), state["activation"]
        inner, own_state = children["activation"].apply(*own, inner, key=keys[3], train=train)
        y, _ = dense(1).apply(params["output"], (), inner)
        return add(x, y, keys[2]), state | {"activation": own_state}

    return Layer(init, apply)


def _affine(key: Any, w_init: Initializer, source: Any, target: Any, dtype: Any, bias: bool) -> dict[str, jax.Array]:
    """The parameters of a dense layer between axes ``(units, active)``, whose masks may have gaps."""
    (rows, rows_active), (columns, columns_active) = source, target
    params = {"w": parameter(key, w_init, (rows, columns), active=(rows_active, columns_active), dtype=dtype)}
    if bias:
        zeros = jax.nn.initializers.zeros
        params["b"] = parameter(key, zeros, (columns,), active=(columns_active,), dtype=dtype)
    return params


def _is_pair(value: Any) -> bool:
    """Whether it is ``(queries, memory)``, and not one shape or array."""
    pair = isinstance(value, (tuple, list)) and len(value) == 2
    return pair and not all(isinstance(v, (int, np.integer)) for v in value)


def _check(name: str, x: Any, w: jax.Array) -> None:
    shape = x.values.shape if isinstance(x, Sequence) else x.shape
    if len(shape) != 3 or shape[-1] != w.shape[0]:
        raise ValueError(
            f"{name}: expected x of shape [batch, time, {w.shape[0]}], the features that init saw, but got {shape}. "
            f"If the batch axis is missing, try x[None]."
        )
