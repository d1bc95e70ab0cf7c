"""Another library's weights into a jaxnet network, layer by layer, by a mapping that leaves nothing unsaid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnet.hints import did_you_mean
from jaxnet.layer import Layer, Spec

Arrays = dict[str, np.ndarray]


class Converted(NamedTuple):
    """A layer's leaves by dotted name: ``{"w": ...}``, or ``{"forward.w": ...}`` where a layer is made of others."""

    params: Arrays
    state: Arrays = {}  # noqa: RUF012


Converter = Callable[[Callable[[str], np.ndarray]], Converted]
"""Makes a layer's leaves, asking for the source's arrays by name."""


def place(
    net: Layer,
    spec: Spec | tuple[int, ...],
    source: Mapping[str, Any],
    mapping: Mapping[str, Converter],
    *,
    key: jax.Array | None = None,
    leftovers: bool = False,
) -> tuple[Any, Any]:
    """``(params, state)`` of ``net`` with the source's weights.

    Args:
      net, spec: the network, and the spec of one example, as for ``net.init``.
      source: arrays by name.
      mapping: by the path of a layer in ``net`` (``"2"``, ``"features.0"``; ``""`` for a network of one layer) what
        makes its leaves.
      key: draws the leaves of layers that the mapping leaves out; without it there must be none.
      leftovers: whether arrays of the source may remain unused.

    Raises:
      ValueError: for a path that isn't in the network, arrays that aren't in the source, leaves of other names or
        shapes than the network's, layers without weights (and no ``key``), and leftovers, in each case naming them.
    """
    init = jax.eval_shape(lambda: net.init(jax.random.key(0), spec)[:2])
    wanted = [{_dotted(p): leaf for p, leaf in jax.tree_util.tree_leaves_with_path(tree)} for tree in init]
    used: set[str] = set()
    made: list[Arrays] = [{}, {}]
    for path, converter in mapping.items():
        before = f"{path}." if path else ""
        if not any(name.startswith(before) for tree in wanted for name in tree):
            layers = _layers(name for tree in wanted for name in tree)
            raise ValueError(
                f"the network has no layer {path!r} with weights; it has {layers}{did_you_mean(path, layers)}"
            )

        def take(name: str, path: str = path) -> np.ndarray:
            if name not in source:
                near = [other for other in source if other.split(".")[0] == name.split(".")[0]] or list(source)
                raise ValueError(
                    f"layer {path!r}: there is no {name!r} among the weights; there are {near}"
                    f"{did_you_mean(name, near)}"
                )
            used.add(name)
            return _as_numpy(source[name])

        for role, arrays, leaves, all_made in zip(("params", "state"), converter(take), wanted, made, strict=True):
            own = {name.removeprefix(before): leaf for name, leaf in leaves.items() if name.startswith(before)}
            if set(own) != set(arrays):
                raise ValueError(
                    f"layer {path!r}: its {role} are {sorted(own)}, the weights would give {sorted(arrays)}"
                )
            for name, array in arrays.items():
                if array.shape != own[name].shape:
                    raise ValueError(
                        f"layer {path!r}: its {name!r} has shape {own[name].shape}, the weights give {array.shape}"
                    )
                all_made[before + name] = array.astype(own[name].dtype)
    missing = _layers(name for leaves, have in zip(wanted, made, strict=True) for name in leaves if name not in have)
    if missing and key is None:
        raise ValueError(f"the mapping gives nothing to the layers {missing}; key= would draw their weights anew")
    unused = [name for name in source if name not in used]
    if unused and not leftovers:
        raise ValueError(f"these weights are used by no layer of the mapping: {unused}; leftovers=True leaves them out")
    drawn = net.init(key, spec)[:2] if missing else init

    def leaf(role: int) -> Callable[[Any, Any], Any]:
        return lambda path, other: made[role].get(_dotted(path), other)

    params, state = (jax.tree_util.tree_map_with_path(leaf(role), tree) for role, tree in enumerate(drawn))
    return params, state


def _dotted(path: Any) -> str:
    return ".".join(str(getattr(entry, "key", getattr(entry, "idx", entry))) for entry in path)


def _layers(names: Any) -> list[str]:
    return list(dict.fromkeys(name.rpartition(".")[0] for name in names))


def _as_numpy(array: Any) -> np.ndarray:
    if hasattr(array, "detach"):  # a PyTorch tensor; bfloat16 has no counterpart in NumPy
        array = array.detach().cpu()
        array = array.float() if "bfloat16" in str(array.dtype) else array
    return np.asarray(array)
