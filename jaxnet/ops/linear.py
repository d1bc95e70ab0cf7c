"""Linear functions whose transposes are written out, with forward mode, all derivatives and lanes of their own."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


class Linear(NamedTuple):
    """A function that is linear in its last argument, and its transpose.

    ``jax.custom_vjp`` takes forward mode from a function, since its gradient alone doesn't say what its tangent is. A
    ``jax.custom_jvp`` whose tangent is such a function (``transposable``) has both. Reverse mode is the transpose.

    ``forward(options, fixed, tangents) -> outputs``, any trees of arrays.

    ``transpose(options, fixed, gradients) -> gradients`` of the outputs to those of ``tangents``.
    """

    forward: Callable[[Any, Any, Any], Any]
    transpose: Callable[[Any, Any, Any], Any]


def transposable(function: Linear, options: Hashable, fixed: Any, tangents: Any, like: Any) -> Any:
    """``function.forward(options, fixed, tangents)``, of which JAX takes ``function.transpose`` for the transpose.

    Args:
      options: goes to both, hashable.
      fixed: arrays that are known before ``tangents`` are.
      tangents: floating arrays.
      like: arrays of the outputs' shapes and dtypes, in their tree.

    >>> triple = Linear(lambda _, a, x: 3 * a * x, lambda _, a, dy: 3 * a * dy)
    >>> tripled = lambda x: transposable(triple, None, jnp.float32(2.0), x, like=x)
    >>> jax.jvp(tripled, (1.0,), (10.0,))[1].item(), jax.grad(tripled)(1.0).item()
    (60.0, 6.0)
    """
    outputs, tree = jax.tree.flatten(like)
    fixed, fixed_tree = jax.tree.flatten(fixed)
    tangents, tangents_tree = jax.tree.flatten(tangents)
    whole = _Whole(function, options, tree, fixed_tree, tangents_tree)
    return tree.unflatten(_linear.bind(*outputs, *fixed, *tangents, whole=whole))


class _Whole(NamedTuple):
    """All of a ``transposable`` but its arrays, which are ``like``, ``fixed`` and ``tangents``, leaf by leaf."""

    function: Linear
    options: Hashable
    tree: Any
    fixed_tree: Any
    tangents_tree: Any
    lanes: tuple[tuple[int | None, ...], ...] = ()  # for each vmap, the first one first, where fixed leaves have lanes

    def parts(self, leaves: Any) -> tuple[list[Any], list[Any], list[Any]]:
        leaves, outputs = list(leaves), self.tree.num_leaves
        known = outputs + self.fixed_tree.num_leaves
        return leaves[:outputs], leaves[outputs:known], leaves[known:]

    def forward(self, fixed: list[Any], tangents: list[Any]) -> list[Any]:
        def run(fixed, tangents):
            fixed, tangents = self.fixed_tree.unflatten(fixed), self.tangents_tree.unflatten(tangents)
            return jax.tree.leaves(self.function.forward(self.options, fixed, tangents))

        return self._over_lanes(run)(fixed, tangents)

    def transpose(self, fixed: list[Any], gradients: list[Any]) -> list[Any]:
        def run(fixed, gradients):
            fixed, gradients = self.fixed_tree.unflatten(fixed), self.tree.unflatten(gradients)
            return jax.tree.leaves(self.function.transpose(self.options, fixed, gradients))

        return self._over_lanes(run)(fixed, gradients)

    def _over_lanes(self, run: Callable[[list[Any], list[Any]], list[Any]]) -> Callable[..., list[Any]]:
        for axes in self.lanes:
            run = jax.vmap(run, in_axes=(list(axes), 0))
        return run


def _evaluate(*leaves, whole: _Whole):
    _, fixed, tangents = whole.parts(leaves)
    return whole.forward(fixed, tangents)


def _jvp(primals, tangents, *, whole: _Whole):
    """Of the tangents' own it is the function of them; of what is fixed, JAX differentiates ``forward``."""
    like, fixed, linear = whole.parts(primals)
    _, of_fixed, of_linear = whole.parts(tangents)
    moved = [i for i, tangent in enumerate(of_fixed) if not isinstance(tangent, ad.Zero)]
    parts = []
    if not all(isinstance(tangent, ad.Zero) for tangent in of_linear):
        parts.append(_linear.bind(*like, *fixed, *map(ad.instantiate_zeros, of_linear), whole=whole))
    if moved:

        def forward(*some):
            values = list(fixed)
            for i, value in zip(moved, some, strict=True):
                values[i] = value
            return whole.forward(values, linear)

        parts.append(jax.jvp(forward, [fixed[i] for i in moved], [of_fixed[i] for i in moved])[1])
    outputs = _linear.bind(*primals, whole=whole)
    return outputs, [sum(of, jnp.zeros_like(output)) for output, *of in zip(outputs, *parts, strict=True)]


def _transpose(gradients, *leaves, whole: _Whole):
    like, fixed, tangents = whole.parts(leaves)
    found = whole.transpose(fixed, list(map(ad.instantiate_zeros, gradients)))
    unknown = (of if ad.is_undefined_primal(t) else None for of, t in zip(found, tangents, strict=True))
    return [None] * len(like + fixed) + list(unknown)


def _lanes(leaves, axes, *, whole: _Whole):
    """What is fixed may be the same for all lanes; tangents are each lane's own, so that each has its own gradient."""
    count = next(leaf.shape[axis] for leaf, axis in zip(leaves, axes, strict=True) if axis is not None)
    front = [leaf if axis is None else jnp.moveaxis(leaf, axis, 0) for leaf, axis in zip(leaves, axes, strict=True)]
    (like, fixed, tangents), (like_axes, fixed_axes, own_axes) = whole.parts(front), whole.parts(axes)

    def spread(values, axes):
        return [
            jnp.broadcast_to(value, (count, *jnp.shape(value))) if axis is None else value
            for value, axis in zip(values, axes, strict=True)
        ]

    lanes = (*whole.lanes, tuple(None if axis is None else 0 for axis in fixed_axes))
    outputs = _linear.bind(
        *spread(like, like_axes), *fixed, *spread(tangents, own_axes), whole=whole._replace(lanes=lanes)
    )
    return outputs, [0] * len(outputs)


_linear = Primitive("transposable")
_linear.multiple_results = True
_linear.def_impl(jax.jit(_evaluate, static_argnames="whole"))
_linear.def_abstract_eval(lambda *avals, whole: whole.parts(avals)[0])
mlir.register_lowering(_linear, mlir.lower_fun(_evaluate, multiple_results=True))
ad.primitive_jvps[_linear] = _jvp
ad.primitive_transposes[_linear] = _transpose
batching.primitive_batchers[_linear] = _lanes
