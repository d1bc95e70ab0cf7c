"""What a program costs, read off its jaxpr: operations, memory traffic, bytes held. Nothing is compiled."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.layer import Size
from jaxnet.ops.scan import repetitions
from jaxnet.search.space import RESERVED, Hyperparameters
from jaxnet.stream import Parts
from jaxnet.training import Program


class Cost(NamedTuple):
    """Of one lane and one unit: ``flops`` (of matmuls and convolutions), ``traffic`` (bytes that the other operations
    write), ``carry`` (bytes handed from unit to unit) and ``work`` (bytes of everything that one step makes, an upper
    bound of what it holds beside the carry)."""

    flops: float
    traffic: float
    carry: float
    work: float


def lane_cost(program: Program, hp: Hyperparameters, feed: Any) -> Cost:
    """The cost of one lane of a program whose sizes have the bounds in ``hp``; leaves of ``hp`` may be shapes only."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    carry = jax.eval_shape(program.init, hp, key)
    kinds = [((), 1)] if program.feed is None else [((shapes,), times) for shapes, times in Parts.of(feed).kinds]

    def unit(hp, carry, key, *rest):
        after = program.advance(hp, carry, key, *rest)
        _check_carry(carry, after)
        return after, evaluated(program, hp, after, *rest)

    flops = traffic = work = 0.0
    for rest, times in kinds:
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), rest)
        one = traced_cost(unit, hp, carry, key, *shapes)
        flops, traffic, work = flops + times * one[0], traffic + times * one[1], max(work, one[2])
    carried = sum(math.prod(leaf.shape) * _itemsize(leaf.dtype) for leaf in jax.tree.leaves(carry))
    return Cost(flops, traffic, carried, work)


def fed(program: Program, unit: int) -> Any:
    """What a program's ``feed`` returns, numbers as arrays."""
    assert program.feed is not None
    tree = program.feed(unit)
    if isinstance(tree, Parts):
        return tree
    return jax.tree.map(lambda a: a if hasattr(a, "shape") else np.asarray(a, jnp.result_type(a)), tree)


def _check_carry(before: Any, after: Any) -> None:
    """Raises where a unit makes of the carry something that the next can't go on from."""
    if (was := jax.tree.structure(before)) != (now := jax.tree.structure(after)):
        raise ValueError(f"advance must return a carry of the structure that init made, {was}, got {now}")
    for (path, old), new in zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True):
        old, new = jax.typeof(old), jax.typeof(new)
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            cast = f", or try .astype(jnp.{old.dtype}) in advance" * (old.dtype != new.dtype)
            raise ValueError(
                f"advance must return a carry of the shapes and dtypes that init made, but carry"
                f"{jax.tree_util.keystr(path)} was {old.dtype}{list(old.shape)} and became {new.dtype}"
                f"{list(new.shape)}; let init make what advance returns, such as "
                f"jnp.zeros({new.shape}, jnp.{new.dtype}){cast}"
            )


def evaluated(program: Program, hp: Hyperparameters, carry: Any, *rest: Any) -> dict[str, Any]:
    """What a program's ``evaluate`` returns, if a table of results can hold it.

    Raises:
      TypeError: for anything but a dict. ValueError: without a score, for a measure that isn't a scalar, and for one
        that is called like a hyperparameter or like what the table has besides.
    """
    measures = program.evaluate(hp, carry, *rest)
    if not isinstance(measures, Mapping):
        raise TypeError(f'evaluate must return a dict with a "score", the number to minimise, got {measures!r}')
    if "score" not in measures:
        raise ValueError(f'evaluate must return a dict with a "score", the number to minimise, got {list(measures)}')
    if clash := sorted(set(hp) & set(measures)):
        raise ValueError(f"hyperparameters and measures have the same names: {clash}; rename one of them")
    if clash := sorted((set(RESERVED) - {"score", "diverged"}) & set(measures)):
        raise ValueError(f"measures are called like columns of the results: {clash}; give them other names")
    if shapes := {name: jnp.shape(value) for name, value in measures.items() if jnp.shape(value)}:
        raise ValueError(f"evaluate must return scalars, of shape (), got {shapes}; try jnp.mean of them, or x[0]")
    return dict(measures)


def traced_cost(function: Any, *arguments: Any) -> tuple[float, float, float]:
    """``flops``, ``traffic`` and ``work`` of one call, as in ``Cost``; arguments are trees of arrays or of shapes.

    >>> traced_cost(jnp.dot, jnp.ones((2, 5)), jnp.ones((5, 3)))[0]
    60.0
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


class CostModel:
    """Costs as a function of sizes, from a few traced points.

    The work of a step is a polynomial of degree two in the widths, since a weight lies between two of them; where a
    size sets the number of steps (a batch size), everything may also grow with its bound and shrink with its smallest
    value. As many points are traced as that has coefficients, so the model is exact up to rounding of step counts.
    Where fewer trials than that are to be planned, their own sizes are traced, and the model is exact at those.
    """

    def __init__(
        self, program: Program, static: Mapping[str, Any], floats: list[str], ranges: Mapping[str, tuple[int, int]],
        feed: Any, sizes: np.ndarray | None = None,
    ):  # fmt: skip
        """Of sizes by name within ``ranges``, ``[trials, names]`` where those of the trials are known."""
        self.names: list[str] = list(ranges)

        def trace(bound: np.ndarray, least: np.ndarray) -> Cost:
            return lane_cost(program, structure(static, floats, self.names, bound, least), feed)

        self.highest: np.ndarray = np.array([ranges[name][1] for name in self.names], float)
        lowest = np.array([ranges[name][0] for name in self.names], float)
        # Each size alone, where trials differ in it: does it set the number of steps?
        places = np.arange(len(self.names))
        varied = [i for i in places if lowest[i] < self.highest[i]]
        points = [(self.highest, np.where(places == i, lowest, self.highest)) for i in (-1, *varied)]
        costs = [trace(*point) for point in points]
        self._by_steps = [i for i, cost in zip(varied, costs[1:], strict=True) if cost != costs[0]]
        terms = self._features(self.highest[None], self.highest[None]).shape[1]
        if sizes is not None and len(own := np.unique(sizes[:, varied], axis=0)) <= terms:
            more = np.tile(self.highest, (len(own), 1))
            more[:, varied] = own
            others = [(row, row) for row in more if (row < self.highest).any()]
        else:  # a fixed sequence of points in general position
            random = np.random.default_rng(0)
            bounds = np.ceil(lowest + random.random((terms + 1, len(places))) * (self.highest - lowest))
            others = [(b, np.ceil(lowest + random.random(len(b)) * (b - lowest))) for b in bounds]
        costs += [trace(*point) for point in others]
        bounds, leasts = (np.array(part) for part in zip(*points, *others, strict=True))
        self._coefficients = np.linalg.lstsq(self._features(bounds, leasts), np.array(costs), rcond=None)[0]

    def __call__(self, bounds: np.ndarray, leasts: np.ndarray) -> np.ndarray:
        """Costs ``[points, 4]`` (the fields of ``Cost``) for bounds and smallest values ``[points, sizes]``."""
        return np.maximum(
            self._features(np.asarray(bounds, float), np.asarray(leasts, float)) @ self._coefficients, 1.0
        )

    def _features(self, bounds: np.ndarray, leasts: np.ndarray) -> np.ndarray:
        scaled = bounds / self.highest
        widths = [scaled[:, i] for i in range(len(self.names)) if i not in self._by_steps]
        columns = [np.ones(len(bounds)), *widths]
        columns += [a * b for a, b in itertools.combinations_with_replacement(widths, 2)]
        for i in self._by_steps:
            steps = self.highest[i] / leasts[:, i]
            columns += [c * factor for factor in (scaled[:, i], steps, scaled[:, i] * steps) for c in columns]
        return np.stack(columns, axis=1)


def structure(
    static: Mapping[str, Any], floats: list[str], sizes: list[str], bounds: Iterable[float], leasts: Iterable[float]
) -> Hyperparameters:
    """Hyperparameters of one lane as shapes: what a program is traced with.

    Args:
      static: values that are compiled in, by name.
      floats, sizes: the names of float32 scalars and of sizes.
      bounds, leasts: of the sizes, in their order.
    """
    number, integer = jax.ShapeDtypeStruct((), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32)
    traced: dict[str, Any] = dict.fromkeys(floats, number)
    for name, bound, least in zip(sizes, bounds, leasts, strict=True):
        traced[name] = Size(int(bound), integer, name, int(least))
    return Hyperparameters({**static, **traced}, frozenset(static))


def _itemsize(dtype: Any) -> int:
    return 8 if jnp.issubdtype(dtype, jax.dtypes.prng_key) else np.dtype(dtype).itemsize


def _count(jaxpr: Any) -> tuple[float, float, float]:
    flops = traffic = work = 0.0
    for equation in jaxpr.eqns:
        inner = [_count(sub) for sub in _inner(equation)]
        if inner:
            name = equation.primitive.name
            times = equation.params["length"] if name == "scan" else repetitions(equation.params.get("name") or "")
            if name == "cond":
                inner = [max(inner)]
            flops += times * sum(i[0] for i in inner)
            traffic += times * sum(i[1] for i in inner)
            work = max(work, *(i[2] for i in inner))
            continue
        out = equation.outvars[0].aval
        size = float(math.prod(getattr(out, "shape", ())))
        written = size * _itemsize(getattr(out, "dtype", np.float32))
        traffic, work = traffic + written, work + written
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            flops += 2 * size * math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
        elif equation.primitive.name in ("conv_general_dilated", "canonical_convolution"):
            kernel, numbers = equation.invars[1].aval.shape, equation.params.get("dimension_numbers")
            flops += 2 * size * math.prod(kernel) / kernel[numbers.rhs_spec[0] if numbers else -1]
    return flops, traffic, work


def _inner(equation: Any) -> Iterator[Any]:
    for value in equation.params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            jaxpr = getattr(item, "jaxpr", item)  # closed over its constants, or not
            if hasattr(jaxpr, "eqns"):
                yield jaxpr
