"""Whether what is traced takes the ways that are fast where it runs, or one that is the same everywhere."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Literal

_lowering: contextvars.ContextVar[str | None] = contextvars.ContextVar("lowering", default=None)


@contextlib.contextmanager
def lowered_as(how: Literal["native", "patches"]) -> Iterator[None]:
    """Inside, convolutions are XLA's own ("native"), or patches without blocks ("patches", no arithmetic with zeros).

    In both cases windows of pools are XLA's own, variances take two passes, and weights are moved after their gradient
    is multiplied.

    For those who want to compare, or to count. It is read while a program is traced: what was compiled before stays as
    it is.
    """
    token = _lowering.set(how)
    try:
        yield
    finally:
        _lowering.reset(token)


def lowering() -> str | None:
    """What ``lowered_as`` says here, or None."""
    return _lowering.get()
