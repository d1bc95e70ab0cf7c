"""Weights that a step moves where it multiplies their gradient, and not in a pass of its own.

Plain SGD with an l2 penalty or weight decay makes ``decay * w + rate * gradient`` of a weight ``w``. As XLA compiles
that for many lanes on a GPU, the gradient is written to memory and read again, and so are the weights: with the product
that reads them, five times the bytes of all weights. A step of a small network takes as long as that does. cuBLAS and
XLA's own products can add a product to what is in memory, but can't multiply that before. So a weight is kept as
``scale * v``, the scale being one number: the product adds to ``v`` the gradient times ``rate / scale``, and the decay
goes into the scale. That moves three times the bytes of the weights. After a segment of steps (``jaxnet.ops.scan``)
``v`` is multiplied by its scale, which is 1 again.

Source: the scale is that of Bottou, "Stochastic Gradient Descent Tricks" (2012), sec. 5.1.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnet.ops.affine import Affine, known_zero
from jaxnet.ops.compiling import multiplied_by_accelerator
from jaxnet.ops.lowering import lowering
from jaxnet.ops.meshes import varying_alike

LEAST = 1e-9  # a decay below it is taken for it: float32 has 7 digits. And as far as a scale may come away from 1
Met = list[tuple[int, tuple[int, ...]]]  # numbers of leaves, with the shapes of the rows that they multiply
Scales = dict[int, Any]  # by the number of a leaf; None for a leaf that doesn't decay


class Fold(NamedTuple):
    """How a weight ``scale * v`` is moved where its gradient is multiplied: ``v + rate * gradient``, if it moves."""

    scale: Any
    rate: Any
    moves: Any


class _Inside(NamedTuple):
    leaves: Sequence[Any]
    folds: Mapping[int, Fold]
    met: Met | None


_inside: contextvars.ContextVar[_Inside | None] = contextvars.ContextVar("inside", default=None)


@contextlib.contextmanager
def folding(params: Any, folds: Mapping[int, Fold], met: Met | None = None) -> Iterator[None]:
    """Inside, the gradients of these leaves of ``params`` are what the leaves become.

    Args:
      params: the tree itself that the network is given. folds: by the number of the leaf, those that are ``foldable``.
      met: where leaves are looked for: gets those that are weights of products, with the shape of the rows.
    """
    token = _inside.set(_Inside(jax.tree.leaves(params), folds, met))
    try:
        yield
    finally:
        _inside.reset(token)


def folds_here() -> bool:
    """Whether what is being traced trains on an accelerator, and takes the ways that are fast there."""
    return multiplied_by_accelerator() and lowering() is None


def foldable(function: Callable[..., Any], params: Any, *arguments: Any) -> list[int]:
    """The leaves of ``params`` that ``function(params, *arguments)`` uses once, as float32 weights of a ``product``.

    It is traced to find out, so that arguments may be shapes. A leaf that is used inside of a loop or under ``vmap``
    is used more than once. Weights with fewer inputs than there are rows are left out: to fold them takes another
    array of the outputs' gradients, which then is larger than they are.
    """
    met: Met = []

    def traced(params: Any, *arguments: Any) -> Any:
        with folding(params, {}, met):
            return function(params, *arguments)

    jaxpr = jax.make_jaxpr(traced)(params, *arguments).jaxpr
    found = []
    for i, rows in met:
        weights = jaxpr.invars[i]
        users = [equation for equation in jaxpr.eqns for atom in equation.invars if atom is weights]
        once = len(users) == 1 and all(out is not weights for out in jaxpr.outvars)
        itself = once and users[0].params.get("name") == "_met" and users[0].invars[0].aval.shape == rows
        if itself and rows[0] <= rows[1]:
            found.append(i)
    return found


def folded_product(x: jax.Array, w: jax.Array) -> jax.Array | None:
    """``x @ w`` of rows ``[n, in]`` and weights that are folded; None where they aren't."""
    if (inside := _inside.get()) is None:
        return None
    leaves, folds, met = inside
    for i, leaf in enumerate(leaves):
        if leaf is w and met is not None:
            met.append((i, x.shape))
            return _met(x, w)
        if leaf is w and i in folds:
            return _product(*varying_alike(x, w), folds[i])
    return None


@jax.jit
def _met(x, w):
    return x @ w


@jax.custom_vjp
def _product(x: jax.Array, v: jax.Array, fold: Fold) -> jax.Array:
    """``x @ (scale * v)``, with what ``v`` becomes for its gradient.

    Where nothing moves it is zero, so that no lane that has diverged adds infinity times zero to its weights.
    """
    return jnp.where(fold.moves, (x @ v) * fold.scale, 0.0)


def _forward(x, v, fold):
    return _product(x, v, fold), (x, v, fold)


def _backward(known, dy):
    x, v, fold = known
    added = lax.dot_general(x, jnp.where(fold.moves, dy * fold.rate, 0.0), (((0,), (0,)), ((), ())))
    return (dy * fold.scale) @ v.T, v + added, None


_product.defvjp(_forward, _backward)


def unscaled(params: Any, scales: Scales) -> Any:
    """The parameters as they are: leaves times their scales. These leaves are constants to ``jax.grad``."""
    leaves, tree = jax.tree.flatten(params)
    for i, scale in scales.items():
        leaves[i] = lax.stop_gradient(leaves[i] if scale is None else leaves[i] * scale)
    return tree.unflatten(leaves)


def taken_out(gradient: Any, scales: Scales) -> tuple[Any, dict[int, jax.Array]]:
    """The gradient with zeros for folded leaves, and what these leaves become.

    Args:
      gradient: made inside of ``folding``. scales: of the leaves that were folded there.
    """
    leaves, tree = jax.tree.flatten(gradient)
    moved = {i: leaves[i] for i in scales}
    return tree.unflatten(jnp.zeros_like(leaf) if i in moved else leaf for i, leaf in enumerate(leaves)), moved


def put_back(params: Any, moved: Mapping[int, jax.Array]) -> Any:
    """The parameters with what these leaves become.

    Args:
      params: after the step of all others. moved: by the number of the leaf, from ``taken_out``.
    """
    leaves, tree = jax.tree.flatten(params)
    return tree.unflatten(moved.get(i, leaf) for i, leaf in enumerate(leaves))


def first_scales(shares: Sequence[Affine | None], leaves: Sequence[int]) -> Scales:
    """Of those leaves that are folded: of ``leaves``, numbers of ``foldable`` ones, which move by their gradients.

    Args:
      shares: of the updates of all leaves. A leaf whose gradient has no share is frozen, and so isn't folded.
    """
    moved = [share for share in shares if share is not None and not known_zero(share.gradient) and share.leaf in leaves]
    return {share.leaf: None if known_zero(share.parameter) else jnp.ones(()) for share in moved}


def folds(shares: Sequence[Affine | None], scales: Scales, moves: Any) -> tuple[dict[int, Fold], Scales]:
    """How leaves are folded in a step, and their scales after it.

    Args:
      shares: of the leaves' updates. moves: whether the step is taken.
    """
    made, after = {}, {}
    for i, scale in scales.items():
        share = shares[i]
        assert share is not None
        if scale is None:
            made[i], after[i] = Fold(1.0, share.gradient, moves), None
        else:
            then = scale * _decay(share)
            made[i], after[i] = Fold(scale, share.gradient / then, moves), jnp.where(moves, then, scale)
    return made, after


def steps_held(shares: Sequence[Affine | None], scales: Scales, most: int) -> jax.Array:
    """How many steps leave all scales within float32, int32 ``()``, from 1 to ``most``.

    Args:
      shares: of the updates, taken to decay alike in all these steps. scales: of the leaves that are folded.
    """
    decays = [_decay(share) for share in shares if share is not None and scales.get(share.leaf) is not None]
    held = [-math.log(LEAST) / jnp.abs(jnp.log(jnp.abs(decay))) for decay in decays]
    least = jnp.min(jnp.stack([*held, jnp.asarray(most, jnp.float32)]))
    return jnp.where(least >= 1, least, 1).astype(jnp.int32)  # 1 of NaN


def _decay(share: Affine) -> jax.Array:
    decay = jnp.asarray(1 + share.parameter, jnp.float32)
    return jnp.where(jnp.abs(decay) < LEAST, jnp.copysign(LEAST, decay), decay)
