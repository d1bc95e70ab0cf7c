"""What an optimiser's update is of the gradient and of the parameter: of plain SGD with l2, a multiple of each."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.extend.core import Literal


class Affine(NamedTuple):
    """``gradient * g + parameter * p``, of the gradient ``g`` and the parameter ``p`` of one leaf.

    The two shares are Python numbers where they are known while tracing, else arrays of shape ().
    """

    leaf: int
    gradient: Any
    parameter: Any


def shares(
    update: Callable[[Any, Any, Any, Any], tuple[Any, Any]], penalty: Callable[[Any], Any] | None, params: Any
) -> list[Affine | None]:
    """Of each leaf what its update is, with the penalty's gradient added to its own; None where it isn't affine.

    The functions are traced, and their operations followed one by one. What is no multiple of a leaf's own gradient
    and parameter (momentum, Adam, clipping by a norm, an l1 penalty) gives None; so does a leaf whose gradient the
    optimiser's state or another leaf's update depends on.

    Args:
      update: ``(gradient, params, value, value_fn) -> (updates, state)``, where ``value`` is the loss, and ``value_fn``
        makes it of parameters.
      penalty: ``params -> scalar``, or None.
      params: a tree of floating arrays.

    >>> import optax
    >>> sgd = optax.sgd(0.5)
    >>> params = {"w": jnp.ones((2, 2))}
    >>> shares(lambda g, p, value, value_fn: sgd.update(g, sgd.init(p), p), None, params)
    [Affine(leaf=0, gradient=-0.5, parameter=0.0)]
    """
    leaves = jax.tree.leaves(params)
    gradients: list[Any] = [Affine(i, 1.0, 0.0) for i in range(len(leaves))]
    own: list[Any] = [Affine(i, 0.0, 1.0) for i in range(len(leaves))]
    if penalty is not None:
        traced = jax.make_jaxpr(jax.grad(penalty))(params)
        gradients = [_sum(*both) for both in zip(gradients, _follow(traced, own), strict=True)]

    def told(gradient: Any, params: Any, value: jax.Array) -> Any:
        # The loss depends on all parameters that it is asked for; how doesn't matter.
        return update(gradient, params, value, lambda at: value + sum(map(jnp.sum, jax.tree.leaves(at))))

    traced = jax.make_jaxpr(told)(params, params, jnp.zeros(()))
    made = _follow(traced, [*gradients, *own, _Unknown(frozenset())])
    needed = [leaf for i, value in enumerate(made) for leaf in _gradients(value) - {i}]  # by others, or by the state
    found = (Affine(i, 0.0, 0.0) if known_zero(value) else value for i, value in enumerate(made[: len(leaves)]))
    return [
        value if isinstance(value, Affine) and value.leaf == i and i not in needed else None
        for i, value in enumerate(found)
    ]


def known_zero(value: Any) -> bool:
    """Whether it is known, while tracing, to be zero everywhere."""
    number = _number(value)
    return _is_scalar(number) and not isinstance(number, Tracer) and float(number) == 0


class _Unknown(NamedTuple):
    """What depends on the gradients of these leaves, on parameters or on the loss in another way."""

    leaves: frozenset[int]


class _Uniform(NamedTuple):
    """An array all of whose entries are one number."""

    value: Any
    shape: tuple[int, ...]


def _follow(closed: Any, arguments: Sequence[Any]) -> list[Any]:
    """The outputs of a jaxpr of arguments that are arrays, ``Affine``, or unknown."""
    jaxpr = closed.jaxpr
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *arguments], strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else known[atom]

    for equation in jaxpr.eqns:
        known |= zip(equation.outvars, _equation(equation, list(map(read, equation.invars))), strict=True)
    return list(map(read, jaxpr.outvars))


def _equation(equation: Any, inputs: list[Any]) -> Sequence[Any]:
    name = equation.primitive.name
    unknown = [_Unknown(frozenset().union(*map(_gradients, inputs)))] * len(equation.outvars)
    if (inner := _CALLS.get(name)) is not None:
        return _follow(equation.params[inner], inputs)
    if any(isinstance(value, _Unknown) for value in inputs):
        return unknown
    if not any(isinstance(value, Affine) for value in inputs):
        shape = equation.outvars[0].aval.shape
        if name == "broadcast_in_dim" and _is_scalar(inputs[0]):
            return [_Uniform(inputs[0], shape)]
        if name in _NUMBERS and any(isinstance(v, _Uniform) for v in inputs) and all(map(_is_number, inputs)):
            return [_Uniform(_NUMBERS[name](*map(_number, inputs)), shape)]
        arrays = (jnp.broadcast_to(*value) if isinstance(value, _Uniform) else value for value in inputs)
        made = equation.primitive.bind(*arrays, **equation.params)
        return made if equation.primitive.multiple_results else [made]
    if name in ("add", "add_any", "sub"):
        first, second = inputs
        return [_sum(first, _scaled(second, -1.0) if name == "sub" else second)]
    if name == "neg":
        return [_scaled(inputs[0], -1.0)]
    if name in ("mul", "div") and isinstance(inputs[0], Affine) and _is_number(inputs[1]):
        number = _number(inputs[1])
        return [_scaled(inputs[0], 1.0 / jnp.asarray(number) if name == "div" else number)]
    if name == "mul" and _is_number(inputs[0]):
        return [_scaled(inputs[1], _number(inputs[0]))]
    same = equation.outvars[0].aval.dtype == equation.invars[0].aval.dtype
    itself = name in ("copy", "copy_p") or (name == "convert_element_type" and same)
    itself = itself or (name == "integer_pow" and equation.params["y"] == 1)  # of x ** 2 in JAX 0.8
    return inputs[:1] if itself else unknown


_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}
_NUMBERS = {"mul": operator.mul, "add": operator.add, "add_any": operator.add, "sub": operator.sub, "neg": operator.neg}


def _gradients(value: Any) -> frozenset[int]:
    """The leaves whose gradients something depends on."""
    if isinstance(value, Affine):
        return frozenset() if known_zero(value.gradient) else frozenset([value.leaf])
    return value.leaves if isinstance(value, _Unknown) else frozenset()


def _is_scalar(value: Any) -> bool:
    return not isinstance(value, (Affine, _Uniform, _Unknown)) and jnp.shape(value) == ()


def _is_number(value: Any) -> bool:
    return isinstance(value, _Uniform) or _is_scalar(value)


def _number(value: Any) -> Any:
    return value.value if isinstance(value, _Uniform) else value


def _scaled(value: Any, number: Any) -> Any:
    if isinstance(value, Affine):
        return Affine(value.leaf, _times(value.gradient, number), _times(value.parameter, number))
    if isinstance(value, _Uniform):
        return _Uniform(_times(value.value, number), value.shape)
    return _Unknown(_gradients(value))


def _sum(first: Any, second: Any) -> Any:
    if known_zero(first) or known_zero(second):
        return second if known_zero(first) else first
    if not (isinstance(first, Affine) and isinstance(second, Affine) and first.leaf == second.leaf):
        return _Unknown(_gradients(first) | _gradients(second))
    return Affine(first.leaf, *(_plus(*both) for both in zip(first[1:], second[1:], strict=True)))


def _times(first: Any, second: Any) -> Any:
    """The product, a Python number where both or a zero are known."""
    if known_zero(first) or known_zero(second):
        return 0.0
    first, second = _plain(first), _plain(second)
    return second if isinstance(first, float) and first == 1 else first * second


def _plus(first: Any, second: Any) -> Any:
    if known_zero(first) or known_zero(second):
        return second if known_zero(first) else first
    return _plain(first) + _plain(second)


def _plain(number: Any) -> Any:
    return number if isinstance(number, Tracer) else float(number)
