"""What errors propose: the name that was meant, the extra to install. Imports nothing of jaxnet."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator


def did_you_mean(name: object, names: Iterable[object]) -> str:
    """The end of a sentence that proposes the closest name, else the first few that there are.

    >>> did_you_mean("trail", ["trial", "space"]), did_you_mean("x", ["trial", "space"]), did_you_mean("x", [])
    (": did you mean 'trial'?", "; there are 'trial', 'space'", '')
    """
    import difflib  # when it is needed: importing jaxnet is to take no longer

    known = [str(other) for other in names]
    lower = {other.lower(): other for other in known}
    if close := difflib.get_close_matches(str(name).lower(), lower, 1):
        return f": did you mean {lower[close[0]]!r}?"
    some = ", ".join(map(repr, known[:6])) + (", ..." if len(known) > 6 else "")
    return f"; there {'is' if len(known) == 1 else 'are'} {some}" if known else ""


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
