"""The contract: what a layer is, what it is told about its input, and what a size is.

Everything that keeps to ``Layer`` composes with everything else; no other docstring repeats what stands here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp


class Layer(NamedTuple):
    """A named pair of pure functions.

    ``init(key, spec) -> (params, state, out_spec)`` draws the parameters. ``spec`` is a ``Spec`` or a shape tuple,
    without the batch axis (``serial`` and the other combinators hand on a ``Spec``). No forward pass is run: shapes are
    inferred, so ``vmap(init)`` over keys is cheap. A shape that can't work is a ``ValueError`` here.

    ``apply(params, state, x, *, key=None, train=False) -> (y, new_state)`` computes. ``x`` is
    ``[batch, *spec.shape]``, features last; ``train`` is a Python bool; ``key`` is needed in training by layers that
    draw. ``params`` is what an optimiser changes, ``state`` what ``apply`` returns changed (running statistics). It can
    be jitted, mapped over lanes and devices (``jax.vmap``, ``jax.shard_map``), and differentiated as often as wanted,
    backward and forward (``jax.grad``, ``jax.jvp``, ``jax.hessian``).

    Both are trees of arrays. A layer's name, as errors show it, is the name of the function that made it.

    >>> import jax, jaxnet as jn
    >>> init, apply = jn.dense(3)
    >>> params, state, out = init(jax.random.key(0), (5,))
    >>> y, state = apply(params, state, jax.numpy.ones((2, 5)))
    >>> out.shape, y.shape
    ((3,), (2, 3))
    """

    init: Callable[..., tuple[Any, Any, Any]]
    apply: Callable[..., tuple[Any, Any]]

    @property
    def name(self) -> str:
        """The name of the factory: ``dense`` for the ``init`` that was defined inside ``def dense``."""
        return getattr(self.init, "__qualname__", "layer").split(".")[0].strip("_")

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(
            f"the layer {self.name} isn't called: leave out the brackets, or, to compute with it, "
            f"params, state, out = layer.init(key, spec) and y, state = layer.apply(params, state, x)"
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Size:
    """An integer hyperparameter that differs from lane to lane: a static bound and a traced value.

    Inside a search, ``hp.hidden`` is a ``Size``; ``dense(hp.hidden)`` then allocates ``bound`` units of which the first
    ``value`` are active. Arrays have the bound's shape, and what lies past ``value`` stays exactly zero. A Python
    integer can be added, subtracted and multiplied by, and can floor-divide (``jn.dense(2 * hp.hidden)``).

    Args:
      bound: the largest value of the lanes that share the program; fixes shapes.
      value: this lane's value, an integer scalar in [least, bound]; may be traced.
      name: the hyperparameter's name, for errors.
      least: the smallest value of the lanes that share the program. The smallest batch needs the most steps, so of a
        batch size it sets the length of the loop.

    Raises:
      TypeError: wherever Python needs an integer (a shape, ``range``, ``if``): the value isn't known while a program
        for many lanes is traced.

    >>> size = Size(bound=4, value=2, name="hidden")
    >>> size.active.tolist(), (2 * size).bound
    ([True, True, False, False], 8)
    """

    bound: int = dataclasses.field(metadata={"static": True})
    value: Any
    name: str = dataclasses.field(default="", metadata={"static": True})
    least: int = dataclasses.field(default=1, metadata={"static": True})

    @property
    def active(self) -> jax.Array:
        """Which of the ``bound`` units are active: ``[bound]``, bool."""
        return jnp.arange(self.bound) < self.value

    def __repr__(self) -> str:  # JAX shows this, and hides what __index__ raises, when a size stands in a shape
        return f"Size({self.name!r}: at most {self.bound}, differs from lane to lane; static=True makes it an integer)"

    def _map(self, operation: Callable[[Any], Any], other: Any) -> Size:
        if isinstance(other, bool) or not isinstance(other, int):
            raise TypeError(
                f"{self!r} can be combined with Python integers only, got {other!r}. Its number, for arithmetic inside "
                f"a program, is `.value`."
            )
        least = operation(self.least)
        if least < 1:
            raise ValueError(f"{self!r} would become {least}; a size is at least 1")
        return Size(operation(self.bound), operation(self.value), self.name, least)

    def __add__(self, other: int) -> Size:
        return self._map(lambda n: n + other, other)

    def __sub__(self, other: int) -> Size:
        return self._map(lambda n: n - other, other)

    def __mul__(self, other: int) -> Size:
        return self._map(lambda n: n * other, other)

    def __floordiv__(self, other: int) -> Size:
        return self._map(lambda n: n // other, other)

    __radd__ = __add__
    __rmul__ = __mul__

    def _no_integer(self, *_: Any) -> NoReturn:
        name = self.name or "size"
        raise TypeError(
            f"the hyperparameter {name!r} was used where Python needs an integer, but it differs from lane to lane "
            f"(a Size, at most {self.bound}). Pass it whole to a layer or as batch_size, use `hp.{name}.value` in "
            f"arithmetic, or declare it with static=True, which compiles a program for each value."
        )

    __index__ = __int__ = __float__ = __bool__ = __hash__ = _no_integer  # pyright: ignore[reportAssignmentType]
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _no_integer  # pyright: ignore[reportAssignmentType]
    __neg__ = __abs__ = __round__ = __rsub__ = __mod__ = __rmod__ = __divmod__ = __pow__ = __rpow__ = _no_integer
    __truediv__ = __rtruediv__ = __rfloordiv__ = _no_integer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Spec:
    """Shape and dtype of one example, without the batch axis, and which of its features are active.

    Args:
      shape: a tuple of positive integers, features last; ``()`` for one number an example.
      dtype: float32 unless said otherwise.
      active: ``[shape[-1]]``, bool: the features that are in use, or None when all are. What is not active is zero.

    >>> Spec((28, 28, 1)).shape
    (28, 28, 1)
    """

    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    dtype: Any = dataclasses.field(default=jnp.float32, metadata={"static": True})
    active: Any = None

    def __post_init__(self):
        object.__setattr__(self, "dtype", jnp.dtype(self.dtype))


def _holds_specs(spec: Any) -> bool:
    parts = spec.values() if isinstance(spec, dict) else spec if isinstance(spec, (tuple, list)) else ()
    return any(isinstance(part, Spec) for part in parts)


def as_spec(spec: Spec | tuple[int, ...], rank: int | None = None) -> Spec:
    """``spec`` as a ``Spec``: a tuple or list of positive integers is a float32 shape.

    Args:
      spec: a ``Spec``, or a shape without the batch axis.
      rank: the least number of axes that the caller can work with.

    Raises:
      TypeError: when it is neither. ValueError: when an axis isn't positive, or there are fewer axes than ``rank``.

    >>> as_spec((5,)).dtype
    dtype('float32')
    """
    shape = spec.shape if isinstance(spec, Spec) else spec
    if hasattr(spec, "lengths"):
        raise TypeError(
            f"this layer takes arrays, not a Sequence of different lengths, got {spec!r}. Put a layer before it that "
            f'makes an array of a sequence, such as jn.gru(units, returns="last").'
        )
    if not isinstance(shape, (tuple, list)) or not all(hasattr(n, "__index__") for n in shape):
        raise TypeError(
            f"expected a Spec or a shape tuple without the batch axis, such as (28, 28, 1), got {spec!r}"
            + (f"; for a vector of {spec} features, try ({spec},)" if isinstance(spec, int) else "")
            + ("; values with their lengths are a jn.Sequence(values, lengths)" if _holds_specs(spec) else "")
        )
    if not isinstance(spec, Spec):
        spec = Spec(tuple(int(n) for n in shape))
    if any(n < 1 for n in spec.shape):
        raise ValueError(f"every axis of an example must have at least one entry, got the shape {spec.shape}")
    if spec.active is not None and spec.active.shape != spec.shape[-1:]:
        raise ValueError(
            f"active must be a mask over the {spec.shape[-1:]} features of {spec.shape}, got shape {spec.active.shape}"
        )
    if rank is not None and len(spec.shape) < rank:
        raise ValueError(
            f"expected examples with at least {rank} axis (features last), but got the shape {spec.shape}. "
            f"If an example is one number, try jnp.expand_dims(x, -1)."
        )
    return spec


def check_features(name: str, features: Any, what: str = "features") -> None:
    """Raises unless ``features`` is a positive Python integer or a ``Size``, naming the layer and the argument."""
    if isinstance(features, Size):
        return
    if isinstance(features, bool) or not hasattr(features, "__index__"):
        raise TypeError(f"{name}: {what} must be an integer or a Size, got {features!r}")
    if int(features) < 1:
        raise ValueError(f"{name}: {what} must be at least 1, got {features!r}")


def units_of(features: int | Size) -> tuple[int, jax.Array | None]:
    """How many units a width allocates, and which of them are active, None for all.

    >>> units_of(3), units_of(Size(bound=4, value=2))[0]
    ((3, None), 4)
    """
    return (features.bound, features.active) if isinstance(features, Size) else (int(features), None)


def function_name(function: Callable[..., Any], *, factory: bool = False) -> str:
    """What errors and curves call a function; with ``factory``, the name of what made it comes first.

    >>> function_name(jax.nn.relu), function_name(jax.nn.initializers.orthogonal(), factory=True)
    ('relu', 'orthogonal.<locals>.init')
    """
    return getattr(function, "__qualname__" if factory else "__name__", type(function).__name__)


def along_features(vector: jax.Array, x: jax.Array) -> jax.Array:
    """``vector`` ``[features]`` with leading axes of length 1, so that it broadcasts over ``x`` ``[..., features]``."""
    return vector.reshape((1,) * (x.ndim - 1) + (-1,))
