"""Live progress on a terminal; silent elsewhere."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxnet.callback import Callback

MOST_LINES = 4  # of what runs at the moment


class Progress(Callback):
    """What runs, the best configuration so far, how trials ended, and time left; nothing where there is no terminal.

    Args:
      configurations: of the search by id of a lane, as far as they are known; it may grow.
      lanes: how many there will be.
      show: None shows it when standard error is a terminal.
      maximize: whether higher scores are better.
      repeats: lanes of each trial.
    """

    configurations: Sequence[Mapping[str, Any]]
    lanes: int
    maximize: bool
    repeats: int
    best: tuple[float, int] | None  # score and trial
    share: float
    running: list[str]
    compiling: int
    counts: dict[str, int]

    def __init__(
        self,
        configurations: Sequence[Mapping[str, Any]],
        lanes: int,
        show: bool | None = None,
        maximize: bool = False,
        repeats: int = 1,
    ):
        self.configurations, self.lanes, self.maximize, self.repeats = configurations, lanes, maximize, repeats
        self.best = None
        self.share, self.running, self.compiling = 0.0, [], 0
        self.counts = dict.fromkeys(("completed", "stopped", "diverged", "failed"), 0)
        self._live: Any = None
        if not (sys.stderr.isatty() if show is None else show):
            return
        from rich.console import Console
        from rich.live import Live
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._console = Console(stderr=True)
        self._bar = Bar(
            BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[done]}"), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(), console=self._console,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=1.0, done=self._done())
        self._live = Live(get_renderable=self._lines, console=self._console, transient=True, refresh_per_second=4)

    @property
    def shown(self) -> bool:
        """Whether there is anybody to tell."""
        return self._live is not None

    def __enter__(self) -> Progress:
        if self.shown:
            self._live.start()
        return self

    def __exit__(self, error: Any, *_: Any) -> None:
        if self.shown:
            self._live.stop()
            if error is None:
                elapsed = self._bar.tasks[0].elapsed or 0.0
                best = "" if self.best is None else f"; best score at any time {self.best[0]:.4g}, trial {self.best[1]}"
                self._console.print(f"{self._done()} in {elapsed:.0f} s{best}", markup=False, highlight=False)

    def on_unit(self, trials: np.ndarray, seeds: np.ndarray, units: int, measures: Mapping[str, np.ndarray]) -> None:
        scores = measures["score"]
        if not np.isfinite(scores).any():
            return
        i = int(np.nanargmax(scores) if self.maximize else np.nanargmin(scores))
        better = self.best is None or (scores[i] > self.best[0] if self.maximize else scores[i] < self.best[0])
        if better:
            self.best = float(scores[i]), int(trials[i])

    def on_trial_end(self, trial: int, status: str) -> None:
        self.counts[status] += 1

    def now(self, share: float, running: Sequence[str], compiling: int) -> None:
        """How it stands.

        Args:
          share: of the search's work that is done.
          running: a line for each chunk that runs. compiling: how many programs are being compiled.
        """
        if self.shown:
            self.share, self.running, self.compiling = share, list(running), compiling
            self._bar.update(self._task, completed=min(share, 1.0), done=self._done())

    def _done(self) -> str:
        done = sum(self.counts.values())
        bad = "".join(f", {count} {name}" for name, count in self.counts.items() if count and name != "completed")
        seeds = f", {self.repeats} seeds each" if self.repeats > 1 else ""
        return f"{done}/{self.lanes // self.repeats} configurations{seeds}{bad}"

    def _lines(self) -> Any:
        """What the terminal shows, read by the thread that draws it."""
        from rich.console import Group
        from rich.text import Text

        lines = []
        if self.best is not None and math.isfinite(self.best[0]):
            score, trial = self.best
            lines.append(f"best     {score:.4g}, trial {trial}: {_told(self.configurations[trial * self.repeats])}")
        running = self.running
        lines += [f"{'running ' if i == 0 else '        '} {line}" for i, line in enumerate(running[:MOST_LINES])]
        if len(running) > MOST_LINES:
            lines.append(f"         and {len(running) - MOST_LINES} more")
        if self.compiling:
            lines.append(f"compiles {self.compiling} program{'s' * (self.compiling > 1)}")
        return Group(self._bar, *(Text(line, no_wrap=True, overflow="ellipsis") for line in lines))


def _told(configuration: Mapping[str, Any]) -> str:
    """
    >>> _told({"rate": 0.012345, "hidden": 100, "act": max})
    'rate 0.01234, hidden 100, act max'
    """
    parts = []
    for name, value in configuration.items():
        number = isinstance(value, float)
        parts.append(f"{name} {value:.4g}" if number else f"{name} {getattr(value, '__name__', value)}")
    return ", ".join(parts)
