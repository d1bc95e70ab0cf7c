"""A recurrent network that reads symbols and says of which class they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxnet import combinators
from jaxnet.layer import Layer, Size
from jaxnet.layers.dense import dense
from jaxnet.layers.dropout import dropout as dropout_layer
from jaxnet.layers.embedding import embedding, one_hot
from jaxnet.layers.recurrent import Returns, gru


def sequence_classifier(
    vocabulary: int,
    classes: int,
    *,
    cell: Callable[..., Layer] = gru,
    units: int | Size = 64,
    features: int | Size | None = None,
    bidirectional: bool = False,
    dropout: Any = None,
    returns: Returns = "last",
) -> Layer:
    """Symbols to vectors, a recurrent layer over them, and a dense head on its last valid output.

    Input: integers below ``vocabulary``, a ``Sequence`` of ``[batch, time]``, or such an array where all are of one
    length. Output: logits ``[batch, classes]``. Padding changes none of them. Params and state are dicts ``{"symbols":
    ..., "recurrent": ..., "dropout": ..., "head": ...}``, without "dropout" where there is none.

    Args:
      vocabulary: how many symbols there are; classes: outputs of the head.
      cell: makes the recurrent layer, as ``cell(units, returns=...)``: ``jn.rnn``, ``jn.gru``, ``jn.lstm``, or
        ``functools.partial`` of one with other options.
      units: of the recurrent layer, in each direction.
      features: of the vectors, which are learned (``jn.embedding``). None, good for few symbols such as letters, makes
        them one-hot: the recurrent layer's ``w`` then has a row for each symbol.
      bidirectional: whether a second layer reads from the end to the start; the head sees the last output of both.
      dropout: the share of what the head sees that is dropped in training, a number in [0, 1), may be traced; None for
        no dropout, and so no key in training.
      returns: "sequence" classifies after each symbol, with the same parameters: a ``Sequence`` of logits
        ``[batch, time, classes]``, of which a network that reads forward only knows what came so far.

    Raises:
      TypeError, ValueError: here and from ``init``, as the layers that it is made of.

    Source: Graves, "Supervised sequence labelling with recurrent neural networks" (2012), where a label for a whole
    sequence is called sequence classification.

    >>> import jax, jaxnet as jn
    >>> net = sequence_classifier(27, 12, units=64)
    >>> params, state, out = net.init(jax.random.key(0), (16,))
    >>> out.shape, {name: sum(leaf.size for leaf in jax.tree.leaves(tree)) for name, tree in params.items()}
    ((12,), {'symbols': 0, 'recurrent': 17728, 'head': 780})
    """
    recurrent = cell(units, returns=returns)
    layers: dict[str, Any] = {
        "symbols": one_hot(vocabulary) if features is None else embedding(vocabulary, features),
        "recurrent": combinators.bidirectional(recurrent) if bidirectional else recurrent,
    }
    if dropout is not None:
        layers["dropout"] = dropout_layer(dropout)
    return combinators.serial(**layers, head=dense(classes))
