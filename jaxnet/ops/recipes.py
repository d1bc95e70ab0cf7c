"""What was found out about a function, known again of one that was made anew: ``he_normal()`` is another each time."""

from __future__ import annotations

import functools
import types
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")
MOST = 256  # results that a function keeps, those used last


def by_recipe(find: Callable[..., Result]) -> Callable[..., Result]:
    """``find(function, *args)`` that runs once for all functions that were made by the same code around equal values.

    A trial function makes its lambdas and initialisers anew whenever it is traced; to try each of them out compiles a
    program. One that closes over what can't be hashed, an array or a tracer, is tried each time.

    >>> def times(n):
    ...     return lambda x: n * x
    >>> tried = []
    >>> find = by_recipe(lambda function: tried.append(function) or function(2))
    >>> [find(times(3)), find(times(3)), find(times(5))], len(tried)
    ([6, 6, 10], 2)
    """
    found: OrderedDict[Any, tuple[Any, Result]] = OrderedDict()

    @functools.wraps(find)
    def found_or_find(function: Any, *args: Any) -> Result:
        try:
            key = _recipe(function), args
            known = found.pop(key, None)
        except TypeError:  # unhashable
            return find(function, *args)
        # The function is kept, so that its globals are, and no others come to have their id.
        found[key] = known = (function, find(function, *args)) if known is None else known
        if len(found) > MOST:
            found.popitem(last=False)
        return known[1]

    return found_or_find


def _recipe(value: Any, inside: tuple[Any, ...] = ()) -> Any:
    """A function's code and what it holds, so deep as functions hold functions; anything else as it is."""
    if isinstance(value, functools.partial):
        held = [value.func, *value.args, *value.keywords.items()]
        return functools.partial, *(_recipe(one, inside) for one in held)
    if isinstance(value, tuple):
        return tuple(_recipe(one, inside) for one in value)
    if not isinstance(value, types.FunctionType) or value in inside:
        return type(value), value
    try:
        held = [cell.cell_contents for cell in value.__closure__ or ()]
    except ValueError:  # of a name that has no value yet
        return type(value), value
    held += [value.__defaults__, *(value.__kwdefaults__ or {}).items()]
    return value.__code__, id(value.__globals__), *(_recipe(one, (*inside, value)) for one in held)
