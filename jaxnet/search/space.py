"""The space: which hyperparameters there are, how each is distributed, and what a trial function is given."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnet.hints import did_you_mean

RESERVED = ("id", "status", "units", "score", "score_error", "diverged")  # columns of the table of results


@jax.tree_util.register_pytree_with_keys_class
class Hyperparameters(Mapping[str, Any]):
    """Hyperparameters by name, ``hp.learning_rate`` or ``hp["learning_rate"]``; make them with ``jn.hp``.

    Those of a nested space have names with a dot, ``hp["optimizer.rate"]``, and are there together, too:
    ``hp.optimizer`` are hyperparameters and ``hp.optimizer.rate`` one of them.

    Raises:
      AttributeError: for a name that isn't there, with the names that are (``KeyError`` for an item).

    >>> given = hp(rate=0.1, optimizer=hp(momentum=0.9))
    >>> given.rate, given["optimizer.momentum"], list(given)
    (0.1, 0.9, ['rate', 'optimizer.momentum'])
    """

    _values: dict[str, Any]
    _static: frozenset[str]

    def __init__(self, values: Mapping[str, Any], static: frozenset[str] | None = None):
        object.__setattr__(self, "_values", dict(values))
        if static is None:
            static = frozenset(name for name, value in values.items() if _is_static(value))
        object.__setattr__(self, "_static", static)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(*error.args, name=name) from None

    def __getitem__(self, name: str) -> Any:
        if name in self._values:
            return self._values[name]
        inner = _below(name, self._values)
        if not inner:
            raise KeyError(self._missing(name))
        return Hyperparameters(inner, frozenset(_below(name, dict.fromkeys(self._static))))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"hyperparameters can't be changed; make new ones: jn.hp(**{{**hp, {name!r}: ...}})")

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"hp({', '.join(f'{k}={v!r}' for k, v in self._values.items())})"

    def _missing(self, name: str) -> str:
        known = ", ".join(self._values) or "none"
        objective = name.startswith("suggest_") or name in ("report", "should_prune")  # of an Optuna user
        hint = "; a trial function reads values: hp.name" if objective else did_you_mean(name, self._values)
        return f"there is no hyperparameter {name!r}; the space has {known}{hint}"

    # What differs from lane to lane (arrays, sizes) are the leaves; what is static is part of the structure.
    def tree_flatten_with_keys(self):
        children = [(jax.tree_util.DictKey(k), v) for k, v in self._values.items() if k not in self._static]
        return children, tuple((k, self._values[k] if k in self._static else _LEAF) for k in self._values)

    @classmethod
    def tree_unflatten(cls, structure, children):
        leaves = iter(children)
        values = {name: next(leaves) if value is _LEAF else value for name, value in structure}
        return cls(values, frozenset(name for name, value in structure if value is not _LEAF))


_LEAF = object()  # marks, in a tree structure, the hyperparameters that are leaves


def hp(**values: Any) -> Hyperparameters:
    """Hyperparameters for a single trial: ``trial(jn.hp(learning_rate=0.05, hidden=300))``. Integers stay integers.

    Raises:
      ValueError: for a name that every mapping has already, such as ``values``.

    >>> hp(learning_rate=0.05, hidden=300).hidden
    300
    >>> hp(optimizer=hp(rate=0.05, momentum=None)).optimizer.rate  # as of a nested space
    0.05
    """
    for name in values:
        _check_attribute("hp", name)
    return Hyperparameters(_flat(values))


def _check_attribute(where: str, name: str) -> None:
    if hasattr(Hyperparameters({}), name):
        raise ValueError(
            f"{where}: hp.{name} is something else, as of every mapping; give the hyperparameter another name, such as "
            f"{name}_"
        )


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings in a mapping under names with dots."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= {f"{name}.{k}": v for k, v in _flat(value).items()} if isinstance(value, Mapping) else {name: value}
    return flat


def _below(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """What is called ``name.x``, as x."""
    return {other[len(name) + 1 :]: value for other, value in values.items() if other.startswith(f"{name}.")}


@dataclasses.dataclass(frozen=True)
class Distribution:
    """One entry of a space: ``value(u)`` maps u, uniform in [0, 1), to the distribution's values, ``place`` maps back.

    Args:
      kind: "float" (traced, fused), "size" (an integer that may differ from lane to lane: fused by padding), or
        "static" (part of the program: trials are grouped by it).
      value: from u to a Python value.
      place: from a value to its u in [0, 1]: of integers and choices the middle of the piece that stands for the value;
        0.5 where there is only one value. A ValueError for what isn't among the values.
      count: how many different values there are, or None where they are continuous.
      label: how it was written, for errors and plans.
      log: whether it is spread evenly over the logarithm, for axes of plots.
      bounds: (low, high) of a number, ends included; None for a choice.
      values: those of a choice.
    """

    kind: str
    value: Callable[[float], Any]
    place: Callable[[Any], float]
    count: int | None
    label: str
    log: bool = False
    bounds: tuple[float, float] | None = None
    values: tuple[Any, ...] = ()

    def __repr__(self) -> str:
        return self.label


def uniform(low: float, high: float) -> Distribution:
    """Real numbers spread evenly over [low, high].

    Raises:
      TypeError, ValueError: for ends that aren't finite numbers, or low > high. So do all entries of a space.

    >>> uniform(0, 10).value(0.25)
    2.5
    """
    label = _check_ends("uniform", low, high, float)

    def place(value):
        _check_value(label, value, low, high)
        return (value - low) / (high - low) if low < high else 0.5

    return Distribution("float", lambda u: min(low + u * (high - low), high), place, None, label, bounds=(low, high))


def log_uniform(low: float, high: float) -> Distribution:
    """Positive real numbers whose logarithm is spread evenly over [log low, log high].

    Raises:
      TypeError, ValueError: as ``uniform``; for a ``low`` that isn't positive.

    >>> round(log_uniform(1e-3, 1e-1).value(0.5), 6)
    0.01
    """
    label = _check_ends("log_uniform", low, high, float, positive=True)
    span = math.log(high) - math.log(low)

    def value(u):
        return min(max(low * math.exp(u * span), low), high)

    def place(value):
        _check_value(label, value, low, high)
        return min(math.log(value / low) / span, 1.0) if low < high else 0.5

    return Distribution("float", value, place, None, label, True, (low, high))


def integers(low: int, high: int, *, static: bool = False) -> Distribution:
    """Integers spread evenly over low ... high, both ends included.

    Args:
      static: False lets trials of different values share one program (``hp.n`` is a ``Size``, at least 1, good for
        widths and batch sizes). True compiles one for each value and makes ``hp.n`` a Python integer, good for depths,
        kernel sizes and anything that ``range`` or ``if`` needs.

    Raises:
      TypeError, ValueError: for ends that aren't integers, for low > high; without ``static=True`` for a low below 1.

    >>> [integers(1, 3).value(u) for u in (0, 0.34, 0.99)]
    [1, 2, 3]
    """
    label = _check_ends("integers", low, high, int, positive=not static, static=static)
    count = high - low + 1
    kind = "static" if static else "size"

    def place(value):
        _check_value(label, value, low, high, whole=True)
        return (value - low + 0.5) / count

    return Distribution(kind, lambda u: low + min(int(u * count), count - 1), place, count, label, bounds=(low, high))


def log_integers(low: int, high: int, *, static: bool = False) -> Distribution:
    """Positive integers n, both ends included, with probability log((n + 1) / n) / log((high + 1) / low).

    So each integer stands for the piece [n, n + 1) of the logarithmic axis, and both ends occur like their neighbours.

    Args:
      static: as in ``integers``.

    Raises:
      TypeError, ValueError: as ``integers``; for a ``low`` below 1.

    >>> log_integers(10, 1000).value(0.0), log_integers(10, 1000).value(0.99999)
    (10, 1000)
    """
    label = _check_ends("log_integers", low, high, int, positive=True, static=static)
    span = math.log(high + 1) - math.log(low)

    def value(u):
        return min(max(int(low * math.exp(u * span) + 1e-9), low), high)

    def place(value):
        _check_value(label, value, low, high, whole=True)
        return math.log(math.sqrt(value * (value + 1)) / low) / span

    return Distribution("static" if static else "size", value, place, high - low + 1, label, True, (low, high))


def choice(*values: Any, static: bool | None = None) -> Distribution:
    """One of the values, each as likely as the others.

    Args:
      values: numbers, strings, functions, or anything else that can be hashed.
      static: None makes floats traced (fused) and everything else static (a program for each value); False makes
        integers sizes, as in ``integers``; True makes floats static too.

    Raises:
      ValueError: without values, or for static=False where they aren't all numbers. TypeError: for values that can't be
        hashed.

    >>> choice("relu", "tanh").value(0.7)
    'tanh'
    """
    label = f"choice({', '.join(getattr(v, '__name__', repr(v)) for v in values)})"
    if not values:
        raise ValueError("choice: give at least one value")
    for value in values:
        if not _is_hashable(value):
            raise TypeError(
                f"{label}: {value!r} can't be hashed; "
                + ("give its values one by one: choice(*values)" if len(values) == 1 else "try a tuple")
            )
    floats = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
    ints = floats and all(isinstance(v, int) for v in values)
    if static is False and not floats:
        raise ValueError(f"{label}: only numbers can differ within one program (static=False)")
    if static is False and ints and min(values) < 1:
        raise ValueError(f"{label}: a size is at least 1; use static=True, or write the numbers as floats")
    if static is None:
        static = ints or not floats
    kind = "static" if static else "size" if ints else "float"
    for value in values if kind != "static" else ():
        _check_held(label, value, whole=ints)
    kept = tuple(map(float, values)) if kind == "float" else values
    count = len(kept)
    places = {(type(v), v): (i + 0.5) / count for i, v in reversed(list(enumerate(map(_native, kept))))}

    def place(value):
        value = _native(value)
        if kind == "float" and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        try:
            return places[type(value), value]
        except (KeyError, TypeError):
            raise ValueError(f"{label}: {value!r} is not one of the values") from None

    return Distribution(kind, lambda u: kept[min(int(u * count), count - 1)], place, count, label, values=kept)


class Scale(NamedTuple):
    """How a hyperparameter's axis is drawn.

    ``kind`` is "linear", "log" or "category"; ``bounds`` are (low, high) of numbers; ``values`` those of a category.
    """

    kind: str
    bounds: tuple[float, float] | None = None
    values: tuple[Any, ...] = ()


class Space:
    """Hyperparameters by name, each with its distribution; a later one may depend on earlier ones.

    Args:
      entries: ``name=`` one of

        - a distribution;
        - a function from the hyperparameters so far to a distribution, as in
          ``Space(k2=integers(10, 60), k1=lambda hp: integers(5, hp.k2))``. It may also return a plain value, which is
          then fixed, as if it were ``choice(value)``: ``None`` for an entry that doesn't exist in this branch. Such an
          entry is None in the trial (``if hp.momentum is None``), in the configuration and in the table; every
          configuration has all names.
        - a space, whose entries are called ``name.entry`` in configurations and tables, and ``hp.name.entry`` in the
          trial. Its functions see its own entries by their short names, and the earlier ones of the space around it.
      where: a function from all hyperparameters to a bool. Samplers propose only what it says True of.

    Raises:
      ValueError: for an empty space, or a name with a dot, that of a column of results, or one that ``hp.name`` can't
        have, such as ``keys``. TypeError: for an entry that is none of these.

    >>> space = Space(k2=integers(10, 60), k1=lambda hp: integers(5, hp.k2))
    >>> space.configuration([0.0, 0.5])
    {'k2': 10, 'k1': 8}
    >>> optimizer = Space(
    ...     name=choice("sgd", "adam"),
    ...     momentum=lambda hp: uniform(0.5, 1) if hp.name == "sgd" else None,
    ... )
    >>> space = Space(optimizer=optimizer, a=integers(1, 9), b=integers(1, 9), where=lambda hp: hp.a <= hp.b)
    >>> space.configuration([0.9, 0.1, 0.2, 0.3])
    {'optimizer.name': 'adam', 'optimizer.momentum': None, 'a': 2, 'b': 3}
    """

    def __init__(
        self,
        *,
        where: Callable[[Hyperparameters], Any] | None = None,
        **entries: Distribution | Callable[[Hyperparameters], Any] | Space,
    ):
        if not entries:
            raise ValueError(
                "Space: give at least one hyperparameter, such as learning_rate=jn.log_uniform(1e-3, 1e-1)"
            )
        if where is not None and not callable(where):
            raise TypeError(f"Space: where must be a function of the hyperparameters to a bool, got {where!r}")
        self.entries: dict[str, Distribution | Callable[[Hyperparameters], Any]] = {}
        self.constraints: dict[str, Callable[[Hyperparameters], Any]] = {}
        for name, entry in entries.items():
            if name in RESERVED:
                raise ValueError(f"Space: {name!r} is a column of the results; give the hyperparameter another name")
            _check_attribute("Space", name)
            if "." in name:
                raise ValueError(f"Space: {name!r} has a dot; nest a space instead: {name.split('.')[0]}=jn.Space(...)")
            if isinstance(entry, Space):
                self.entries |= {f"{name}.{inner}": made for inner, made in entry.entries.items()}
                self.constraints |= {f"{name}.{inner}".rstrip("."): made for inner, made in entry.constraints.items()}
            elif isinstance(entry, Distribution) or callable(entry):
                self.entries[name] = entry
            else:
                raise TypeError(
                    f"Space: {name} must be a distribution, such as jn.uniform(0, 1), or a function of the earlier "
                    f"hyperparameters that makes one, got {entry!r}; for a fixed value try jn.choice({entry!r})"
                )
        if where is not None:
            self.constraints[""] = where
        self.independent: bool = all(isinstance(entry, Distribution) for entry in self.entries.values())

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        return f"Space({', '.join(f'{k}={v!r}' for k, v in self.entries.items())})"

    def resolve(self, pick: Callable[[str, Distribution], Any]) -> dict[str, Any]:
        """A configuration: ``pick(name, distribution)`` chooses each value, in order."""
        chosen: dict[str, Any] = {}
        for name in self.entries:
            chosen[name] = pick(name, self.distribution(name, chosen))
        return chosen

    def distribution(self, name: str, earlier: Mapping[str, Any]) -> Distribution:
        """The distribution of an entry, given the values of the earlier ones."""
        entry = self.entries[name]
        if isinstance(entry, Distribution):
            return entry
        made = entry(_scope(name.rpartition(".")[0], earlier))
        if isinstance(made, Distribution):
            return made
        if isinstance(made, Space) or not _is_hashable(made):
            raise TypeError(
                f"Space: the function for {name} must return a distribution, or a fixed value, got {made!r}"
            )
        return choice(made)

    def configuration(self, point: Sequence[float]) -> dict[str, Any]:
        """The configuration at a point of the unit cube, one coordinate in [0, 1) for each entry, in order."""
        if len(point) != len(self):
            raise ValueError(f"expected a point with {len(self)} coordinates, one for each of {list(self.entries)}")
        coordinates = iter(point)
        return self.resolve(lambda name, distribution: distribution.value(float(next(coordinates))))

    def configurations(self, points: np.ndarray) -> list[dict[str, Any]]:
        """The configurations at points ``[n, entries]``: as ``configuration`` of each, in less time."""
        if not self.independent:
            return [self.configuration(point) for point in points.tolist()]
        entries: Any = zip(points.T.tolist(), self.entries.values(), strict=True)
        columns = [list(map(distribution.value, column)) for column, distribution in entries]
        return [dict(zip(self.entries, row, strict=True)) for row in zip(*columns, strict=True)]

    def allows(self, configuration: Mapping[str, Any]) -> bool:
        """Whether a configuration meets ``where=``, of this space and of those nested in it."""
        return all(where(_scope(prefix, configuration)) for prefix, where in self.constraints.items())

    def check(self, configuration: Mapping[str, Any]) -> dict[str, Any]:
        """A configuration that was written by hand, complete and in order, if it is one of the space's.

        Args:
          configuration: values by name; those of a nested space as a dict, or under names with a dot. What has only one
            possible value may be left out.

        Raises:
          ValueError: for a name that the space doesn't have, one that is missing, a value that isn't among the
            distribution's, and for what ``where=`` doesn't allow. TypeError: for what isn't a mapping.

        >>> Space(rate=uniform(0, 1), hidden=lambda hp: 10).check({"rate": 1})
        {'rate': 1.0, 'hidden': 10}
        """
        if not isinstance(configuration, Mapping):
            names = list(self.entries)
            raise TypeError(f"expected a configuration, a dict of values by the names {names}, got {configuration!r}")
        given = _flat(configuration)
        if unknown := [name for name in given if name not in self.entries]:
            raise ValueError(
                f"configuration {given}: the space has no {unknown}; it has {list(self.entries)}"
                f"{did_you_mean(unknown[0], self.entries)}"
            )

        def pick(name, distribution):
            if name not in given and distribution.count == 1:
                return distribution.value(0.5)
            if name not in given:
                raise ValueError(f"configuration {given}: {name} is missing; it may be {distribution}")
            try:
                distribution.place(given[name])
            except ValueError as error:
                raise ValueError(f"configuration {given}: {name}: {error}") from None
            value = _native(given[name])
            return float(value) if distribution.kind == "float" else value

        complete = self.resolve(pick)
        if not self.allows(complete):
            raise ValueError(f"configuration {complete} doesn't meet where= of the space")
        return complete

    def point(self, configuration: Mapping[str, Any]) -> list[float]:
        """The point of the unit cube where a configuration lies, one coordinate in [0, 1] for each entry, in order.

        Integers and choices lie in the middle of their piece, so that ``configuration`` maps the point back.

        >>> Space(rate=log_uniform(0.01, 1), act=choice("relu", "tanh")).point({"rate": 0.1, "act": "tanh"})
        [0.5, 0.75]
        """
        places = {}

        def pick(name, distribution):
            places[name] = distribution.place(configuration[name])
            return configuration[name]

        self.resolve(pick)
        return list(places.values())

    def kinds(self, configuration: Mapping[str, Any]) -> dict[str, str]:
        """The kind of each entry, at a configuration: "float", "size" or "static"; an absent one is "static"."""
        kinds = {}

        def pick(name, distribution):
            kinds[name] = distribution.kind
            return configuration[name]

        self.resolve(pick)
        return kinds

    def scales(self, configurations: Sequence[Mapping[str, Any]]) -> dict[str, Scale]:
        """The scale of each entry; one that depends on earlier entries spans what it was in the configurations.

        An entry that is a number in some configurations and None in others has the scale of the numbers.

        >>> Space(k2=integers(10, 60), k1=lambda hp: integers(5, hp.k2)).scales([{"k2": 10, "k1": 7}])["k1"]
        Scale(kind='linear', bounds=(5, 10), values=())
        """
        scales = {}
        for name, entry in self.entries.items():
            made = [entry] if isinstance(entry, Distribution) else [self.distribution(name, c) for c in configurations]
            used = [configuration[name] for configuration in configurations]
            fixed = [d.value(0.5) for d in made if d.bounds is None and d.count == 1]
            ends = [end for d in made for end in d.bounds or ()] + [value for value in fixed if value is not None]
            numbers = all(isinstance(end, (int, float)) and not isinstance(end, bool) for end in ends)
            if ends and numbers and all(d.bounds is not None or d.count == 1 for d in made):
                ends += [value for value in used if value is not None]
                log = all(d.log for d in made if d.bounds is not None) and any(d.log for d in made) and min(ends) > 0
                scales[name] = Scale("log" if log else "linear", (min(ends), max(ends)))
            else:
                pieces = (
                    (d, (i + 0.5) / d.count) for d in made if d.bounds is None and d.count for i in range(d.count)
                )
                scales[name] = Scale("category", None, tuple(dict.fromkeys([*(d.value(u) for d, u in pieces), *used])))
        return scales


def _scope(prefix: str, values: Mapping[str, Any]) -> Hyperparameters:
    """What a function in the space nested at ``prefix`` sees: all names, those of its own space also without prefix."""
    seen, parts = dict(values), prefix.split(".")
    for depth in range(len(parts)):  # from the outermost space around it to its own
        seen |= _below(".".join(parts[: depth + 1]), values)
    return Hyperparameters(seen, frozenset())


def _is_static(value: Any) -> bool:
    return value is None or isinstance(value, (str, bytes, bool, int, tuple, frozenset)) or callable(value)


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _native(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _check_value(label: str, value: Any, low: float, high: float, whole: bool = False) -> None:
    wanted = (int, np.integer) if whole else (int, float, np.integer, np.floating)
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, wanted) or not low <= value <= high:
        raise ValueError(f"{label}: {value!r} is not {'an integer' if whole else 'a number'} in [{low!r}, {high!r}]")


def _check_held(label: str, value: Any, whole: bool) -> None:
    """Raises for a number that isn't what it is in a lane: there sizes are int32, and other numbers float32."""
    if whole and value > np.iinfo(np.int32).max:
        raise ValueError(
            f"{label}: {value!r} is more than a size can be, which is an int32 (at most 2147483647); use static=True, "
            f"which compiles a program for each value, or a smaller unit"
        )
    least, most = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
    if not whole and math.isfinite(value) and value and not least <= abs(float(value)) <= most:
        raise ValueError(
            f"{label}: {value!r} is out of the range of float32, as which lanes have it (1.2e-38 to 3.4e38, and 0); "
            f"give it in another unit, or its logarithm, and compute what is wanted in the trial"
        )


def _check_ends(name: str, low: Any, high: Any, kind: type, positive: bool = False, static: bool = False) -> str:
    """Raises for ends that make no sense; returns how the distribution was written."""
    label = f"{name}({low!r}, {high!r})"
    wanted = (int, np.integer) if kind is int else (int, float, np.integer, np.floating)
    for end in (low, high):
        if isinstance(end, bool) or not isinstance(end, wanted):
            raise TypeError(f"{label}: both ends must be {'integers' if kind is int else 'numbers'}, got {end!r}")
        if not math.isfinite(end):
            raise ValueError(f"{label}: both ends must be finite, got {end!r}")
    if low > high:
        raise ValueError(f"{label}: low must not be above high; did you mean {name}({high!r}, {low!r})?")
    if positive and low <= 0:
        hint = (
            "a logarithmic scale has no zero; try a small positive number"
            if "log" in name
            else ("a size is at least 1; use static=True for zero and below")
        )
        raise ValueError(f"{label}: low must be positive, got {low!r}: {hint}")
    for end in (low, high) if not static else ():
        _check_held(label, end, whole=kind is int)
    return label
