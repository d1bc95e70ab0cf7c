"""Callbacks: what ``fit`` and searches tell while they run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from jaxnet.search.planning import Plan
    from jaxnet.search.result import SearchResult
    from jaxnet.training import Fitted


class Callback(Protocol):
    """What ``fit`` and searches tell as they go, on the host, where they wait for numbers anyway.

    Subclass it with the methods that are wanted; the others do nothing. They are called one at a time, on the thread
    that called ``fit`` or the search, between units of training. In a search the next unit may already be running. Of
    several processes, only the first calls them.

    A search that goes on from its journal tells its story from the beginning, with what was trained before the kill, so
    whoever listens needs no memory of its own. What a method raises ends the training and comes out of the call; with
    a journal, the same call goes on from there.

    >>> import jax, jaxnet as jn
    >>> class Print(jn.Callback):
    ...     def on_trial_end(self, trial, status):
    ...         print(f"trial {trial} {status}")
    >>> def shrink(hp, x, key):
    ...     return x * hp.factor
    >>> program = jn.search.Program(lambda hp, key: jax.numpy.ones(()), shrink, lambda hp, x: {"score": x})
    >>> result = jn.search.run(
    ...     program, jn.Space(factor=jn.choice(0.5, 0.1)), epochs=2, key=jax.random.key(0), sampler=jn.search.grid(),
    ...     schedule=jn.search.successive_halving(eta=2), callbacks=[Print()],
    ... )
    trial 0 stopped
    trial 1 completed
    """

    def on_start(self, plan: Plan | None) -> None:
        """Before anything is trained.

        Args:
          plan: of the search, which a sampler that learns adds to; None in ``fit``.
        """

    def on_trial_start(self, trial: int, hyperparameters: Mapping[str, Any]) -> None:
        """A trial begins, or, where none can be built of its hyperparameters, has failed.

        Args:
          trial: its id. hyperparameters: by name; there are none in ``fit``.
        """

    def on_unit(self, trials: np.ndarray, seeds: np.ndarray, units: int, measures: Mapping[str, np.ndarray]) -> None:
        """Trials that train side by side have finished a unit of budget, an epoch say.

        Args:
          trials: ids ``[lanes]``. seeds: which seed of the trial each is, ``[lanes]``, zeros without ``repeats=``.
          units: how many each has finished now.
          measures: float64 ``[lanes]`` by name, as in ``SearchResult.history``: ``score`` (not in ``fit`` without
            validation data), ``train_loss``, ...; NaN where a lane has diverged, which isn't told of again.
        """

    def on_trial_end(self, trial: int, status: str) -> None:
        """A trial is over.

        Args:
          trial: its id.
          status: "completed", "stopped" (by the schedule, or in ``fit`` by the stop rule), "diverged" or "failed".
        """

    def on_end(self, result: SearchResult | Fitted) -> None:
        """All is trained; not called where it was interrupted, or something was raised.

        Args:
          result: what the call returns.
        """


METHODS = ("on_start", "on_trial_start", "on_unit", "on_trial_end", "on_end")


def check_callbacks(callbacks: Iterable[Callback]) -> list[Callback]:
    """Callbacks as a list; raises ``TypeError`` for what isn't one."""
    if callable(getattr(callbacks, METHODS[0], None)):
        raise TypeError(f"callbacks: expected a list of jn.Callback, got one alone; try callbacks=[{callbacks!r}]")
    if not isinstance(callbacks, Iterable):
        raise TypeError(f"callbacks: expected a list of jn.Callback, got {callbacks!r}; for none leave it out")
    checked = list(callbacks)
    for callback in checked:
        missing = [name for name in METHODS if not callable(getattr(callback, name, None))]
        if missing or isinstance(callback, type):
            what = (
                "a class, not an object"
                if isinstance(callback, type)
                else f"{callback!r}, without {', '.join(missing)}"
            )
            hint = "; functions (study, trial) are for jaxnet.interop.optuna.optimize" if callable(callback) else ""
            raise TypeError(f"callbacks: expected objects of jn.Callback, got {what}{hint}")
    return checked
