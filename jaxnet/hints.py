"""What errors propose: the name that was meant, the extra to install. Imports nothing of jaxnet."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn, TypeVar

Value = TypeVar("Value")


def did_you_mean(name: object, names: Iterable[object], some: bool = False) -> str:
    """The end of a sentence that proposes the closest of some names, else nothing, or with ``some`` the first few.

    >>> did_you_mean("SAEM", ["SAME", "VALID"]), did_you_mean("x", ["trial", "space"]), did_you_mean(3, ["trial"])
    ("; did you mean 'SAME'?", '', '')
    >>> did_you_mean("x", ["trial", "space"], some=True)
    "; there are 'trial', 'space'"
    """
    import difflib  # when it is needed: importing jaxnet is to take no longer

    known = [str(other) for other in names]
    lower = {other.lower(): other for other in known}
    if isinstance(name, str) and (close := difflib.get_close_matches(name.lower(), lower, 1)):
        return f"; did you mean {lower[close[0]]!r}?"
    few = ", ".join(map(repr, known[:6])) + (", ..." if len(known) > 6 else "")
    return f"; there {'is' if len(known) == 1 else 'are'} {few}" if known and some else ""


class Named(dict[str, Value]):
    """A dict whose ``KeyError`` proposes the name that was meant."""

    def __missing__(self, name: str) -> NoReturn:
        raise KeyError(f"there is no {name!r}{did_you_mean(name, self, some=True)}")


def no_attribute(module: str, name: str, names: Iterable[str]) -> AttributeError:
    """What a module's ``__getattr__`` raises.

    Python would add a proposal of its own where it prints a traceback, and there alone, if it knew the module.
    """
    hint = "" if name.startswith("_") else did_you_mean(name, [known for known in names if not known.startswith("_")])
    return AttributeError(f"module {module!r} has no attribute {name!r}{hint}", name=name)


def propose_attributes(module: str) -> None:
    """Gives a module a ``__getattr__`` that raises ``no_attribute``; where types are checked it isn't seen."""
    names = vars(sys.modules[module])

    def __getattr__(name: str) -> Any:
        raise no_attribute(module, name, names)

    names["__getattr__"] = __getattr__


@contextlib.contextmanager
def needs(extra: str) -> Iterator[None]:
    """An ``ImportError`` in here says which of jaxnet's extras to install.

    >>> with needs("report"):
    ...     import plotly_is_missing
    Traceback (most recent call last):
    ModuleNotFoundError: No module named 'plotly_is_missing'; pip install "jaxnet[report]"
    """
    try:
        yield
    except ImportError as error:
        error.msg = f'{error.msg}; pip install "jaxnet[{extra}]"'
        raise
