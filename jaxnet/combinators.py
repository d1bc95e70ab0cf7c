"""Layers made of layers. Child ``i`` gets ``fold_in(key, i)``, so appending a layer changes no other's numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from jaxnet.layer import Layer, as_spec
from jaxnet.layers.elementwise import as_layer
from jaxnet.ops.random import fold_in


def serial(*layers: Any, **named: Any) -> Layer:
    """Layers one after the other; plain functions among them become elementwise layers.

    Args:
      layers: ``serial(a, b)``: the params and the state are tuples of the children's trees.
      named: ``serial(features=a, head=b)``: they are dicts under those names, in the order given, so that freezing or
        replacing a part is dict work (``params | {"head": fresh}``).

    Raises:
      TypeError: when positional and named children are mixed, or a child is neither a layer nor a function.
      ValueError, TypeError: from a child's ``init`` or ``apply``, with the path of the child in front.

    >>> import jax, jaxnet as jn
    >>> net = serial(jn.flatten, jn.dense(30), jax.nn.relu, jn.dense(10))
    >>> params, state, out = net.init(jax.random.key(0), (28, 28, 1))
    >>> out.shape, [w.shape for w in jax.tree.leaves(params)]
    ((10,), [(30,), (784, 30), (10,), (30, 10)])
    >>> serial(jax.nn.relu, jn.dense(3)).init(jax.random.key(0), ())
    Traceback (most recent call last):
    ValueError: serial[1] relu > dense: expected examples with at least 1 axis...
    """
    if layers and named:
        raise TypeError(
            "serial: give either positional children, serial(a, b), or named ones, serial(first=a, second=b)"
        )
    names = tuple(named) or tuple(range(len(layers)))
    given = tuple(named.values()) or layers
    for child, value in zip(names, given, strict=True):
        if not isinstance(value, Layer) and not callable(value):
            hint = "; try serial(*layers)" if isinstance(value, (list, tuple)) else ""
            raise TypeError(f"serial[{child}]: expected a layer or a function, got {value!r}{hint}")
    children = tuple(as_layer(value) for value in given)

    def pack(trees):
        return dict(zip(names, trees, strict=True)) if named else tuple(trees)

    def unpack(kind, trees):
        if len(trees) != len(names) or (named and set(trees) != set(names)):
            raise ValueError(f"serial: expected {kind} for the children {list(names)}, got {_outline(trees)}")
        return [trees[child] for child in names]

    @contextlib.contextmanager
    def path(i: int) -> Iterator[None]:
        before = f"{children[i - 1].name} > " if i else ""
        try:
            yield
        except (ValueError, TypeError) as error:
            raise _at(f"serial[{names[i]}] {before}{children[i].name}", error) from error

    def init(key, spec):
        params, state = [], []
        if not children:
            spec = as_spec(spec)
        for i, child in enumerate(children):
            with path(i):
                child_params, child_state, spec = child.init(None if key is None else fold_in(key, i), spec)
            params.append(child_params)
            state.append(child_state)
        return pack(params), pack(state), spec

    def apply(params, state, x, *, key=None, train=False):
        new_state = []
        for i, (p, s) in enumerate(zip(unpack("params", params), unpack("state", state), strict=True)):
            with path(i):
                child_key = None if key is None else fold_in(key, i)
                x, s = children[i].apply(p, s, x, key=child_key, train=train)
            new_state.append(s)
        return x, pack(new_state)

    return Layer(init, apply)


def _at(path: str, error: Exception) -> Exception:
    """The same kind of error with the path in front; what JAX raises with other arguments becomes a ``ValueError``."""
    kind = type(error) if type(error) in (ValueError, TypeError) else ValueError
    return kind(f"{path}: {error}")


def _outline(trees: Any) -> str:
    return f"{list(trees)}" if isinstance(trees, dict) else f"a {type(trees).__name__} of {len(trees)}"
