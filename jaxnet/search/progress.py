"""Live progress on a terminal; silent elsewhere."""

from __future__ import annotations

import math
import sys
from typing import Any


class Progress:
    """Configurations done, best score so far and time left, as a bar of rich; nothing where output isn't a terminal.

    Args:
      trials, units: of the whole search.
      show: None shows it on a terminal only.
    """

    def __init__(self, trials: int, units: int, show: bool | None = None):
        self._bar: Any = None
        self._best = math.nan
        if not (sys.stderr.isatty() if show is None else show):
            return
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn("{task.fields[doing]}"), BarColumn(), TextColumn("configurations"),
            TextColumn("{task.fields[done]}/{task.fields[trials]}"), TextColumn("best {task.fields[best]}"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
            console=Console(stderr=True), transient=True,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=1.0, doing="compiling", done=0, trials=trials, best="-")

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.stop()

    def unit(self, share: float, best: float) -> None:
        """A unit of a chunk is over: ``share`` of the search's work is done, ``best`` is its lowest score."""
        if not self._best <= best:
            self._best = best
        if self._bar is not None:
            best_text = f"{self._best:.4g}" if math.isfinite(self._best) else "-"
            self._bar.update(self._task, completed=share, best=best_text, doing="training")

    def chunk(self, finished: int, share: float) -> None:
        """So many configurations have finished, and ``share`` of the search's work is done."""
        if self._bar is not None:
            self._bar.update(self._task, completed=share, done=finished)
