"""A network as a program in a file, which runs where jaxnet isn't."""

from __future__ import annotations

import os
from collections.abc import Sequence as Many
from typing import Any

import jax

from jaxnet.checkpoint import replacing
from jaxnet.data import as_floats, check_count
from jaxnet.hints import needs
from jaxnet.layer import Layer, Spec, as_spec
from jaxnet.ops.lowering import lowered_as
from jaxnet.sequence import Sequence

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
MOST_BYTES = 2**31 - 2**20  # what a file of jax.export holds: offsets in it have 32 bits


def export(
    path: str | os.PathLike[str],
    net: Layer,
    params: Any,
    state: Any,
    spec: Any,
    *,
    batch_size: int | None = None,
    platforms: Many[str] = PLATFORMS,
) -> None:
    """Writes a trained network, its weights inside, as a program that needs JAX alone.

    It is what ``predict`` runs on a batch: evaluation mode, uint8 inputs as pixels. Whoever has the file reads it with
    ``jax.export.deserialize``, as below (``pip install jax flatbuffers``), on any of the platforms, for any number of
    examples; ``in_avals`` tells the shapes. Of inputs and outputs that are trees, a ``Sequence`` is a pair ``(values,
    lengths)`` there and a named tuple a dict. JAX promises to read such a file for six months; for longer, ``save`` the
    weights as well.

    Convolutions in it are XLA's own, whatever machine writes it, for each platform's compiler to do in its way; outputs
    are the network's to rounding. The older file of that name is replaced once the new one is whole.

    Args:
      path: the file; ``.jaxexport`` is a good ending.
      net, params, state: the network and its trees, such as those of ``result.network(result.best)``.
      spec: of one example as the program takes it: a ``Spec``, a shape, or a tree of ``Spec``. Where the network was
        trained on pixels, ``Spec(shape, jnp.uint8)``.
      batch_size: None for any, or the one that it will take, for a network whose own functions need to know it.
      platforms: that it will run on.

    Raises:
      ValueError: for weights above 2 GiB; for a network that can't be traced without a batch size, saying where.
        TypeError: for a spec that is none. ImportError: without flatbuffers, which the extra ``export`` installs.
        OSError: when it can't be written.

    >>> import jax, jax.export, tempfile, jaxnet as jn, numpy as np
    >>> params, state, _ = jn.dense(3).init(jax.random.key(0), (5,))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export(f"{folder}/net.jaxexport", jn.dense(3), params, state, (5,))
    ...     with open(f"{folder}/net.jaxexport", "rb") as file:
    ...         program = jax.export.deserialize(bytearray(file.read()))
    >>> program.call(np.ones((7, 5), np.float32)).shape
    (7, 3)
    """
    from jax import export as jax_export

    size = sum(leaf.nbytes for leaf in jax.tree.leaves((params, state)))
    if size > MOST_BYTES:
        raise ValueError(
            f"export: weights of {size} bytes don't fit in a file of jax.export, which holds {MOST_BYTES}; save them"
        )
    if batch_size is None:
        (batch,) = jax_export.symbolic_shape("batch")
    else:
        check_count("batch_size", batch_size)
        batch = batch_size
    if isinstance(spec, (tuple, list)) and all(hasattr(axis, "__index__") for axis in spec):
        spec = as_spec(tuple(spec))
    leaves, tree = jax.tree.flatten(spec, is_leaf=lambda leaf: isinstance(leaf, Spec))
    leaves = list(map(as_spec, leaves))
    places = _plain(jax.tree.unflatten(tree, range(len(leaves))))  # of each leaf in the tree that the program takes
    inputs = jax.tree.map(lambda i: jax.ShapeDtypeStruct((batch, *leaves[i].shape), leaves[i].dtype), places)

    def program(inputs):
        own = dict(zip(jax.tree.leaves(places), jax.tree.leaves(inputs), strict=True))
        with lowered_as("native"):
            inputs = jax.tree.unflatten(tree, [own[i] for i in range(len(leaves))])
            outputs, _ = net.apply(params, state, as_floats(inputs))
        return _plain(outputs)

    try:
        exported = jax_export.export(jax.jit(program), platforms=tuple(platforms))(inputs)
    except Exception as error:
        if batch_size is None:
            error.add_note("export: any number of examples was to be traced (x.shape[0] is a symbol); try batch_size=")
        raise
    with needs("export"):
        content = exported.serialize()
    with replacing(path) as file:
        file.write(content)


def _plain(tree: Any) -> Any:
    """A tree of dicts, lists and tuples alone, which is all that a file knows.

    >>> _plain({"a": [Sequence(1, 2)]})
    {'a': [(1, 2)]}
    """
    if isinstance(tree, Sequence):
        return tree.values, tree.lengths
    if isinstance(tree, dict):
        return {name: _plain(entry) for name, entry in tree.items()}
    if isinstance(tree, (list, tuple)):
        fields = getattr(tree, "_fields", None)
        made = [_plain(entry) for entry in tree]
        return dict(zip(fields, made, strict=True)) if fields else type(tree)(made)
    return tree
