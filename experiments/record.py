"""What experiments share: flags, a table of measured numbers beside known ones, and the files of the gallery."""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from experiments.benchmarks.report import machine

LARGE = 150_000  # bytes of a figure, from which on it is kept in 256 colours, or 48, for the repository


class Record:
    """One run of an experiment: made at its start, told of numbers, claims and figures, written at its end.

    Args:
      module: the experiment's ``__name__`` (``__spec__.name`` when it runs as a script), such as
        ``"experiments.logic_gates"``.
      question: the experiment's docstring: its first line is the question.
      arguments: flags in place of the command line's.
      folders: flags of the experiment's own that take a folder of the user's, by name, with what is said of them.

    Attributes:
      quick, full: what was asked for with ``--quick`` and ``--full``. seed: of everything that is drawn (``--seed``).
      folder: where files go (``--output``). folders: those of the user's, by name, or None where none was given.
    """

    def __init__(
        self, module: str, question: str | None, arguments: Sequence[str] | None = None, *,
        folders: Mapping[str, str] = MappingProxyType({}),
    ):  # fmt: skip
        self.name = module.rpartition(".")[2]
        parser = argparse.ArgumentParser(
            prog=f"python -m experiments.{self.name}", description=question,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        add = parser.add_argument
        size = parser.add_mutually_exclusive_group()
        size.add_argument("--quick", action="store_true", help="little data and few steps: does it run at all?")
        size.add_argument("--full", action="store_true", help="the published setting, however long it takes")
        add("--seed", type=int, default=0, help="decides everything that is drawn (default 0)")
        add("--output", type=Path, default=Path("runs"), help="a folder of this name goes into it (default runs)")
        for name, what in folders.items():
            add(f"--{name}", type=Path, metavar="FOLDER", help=what)
        options = parser.parse_args(arguments)
        self.folders: dict[str, Path | None] = {name: getattr(options, name) for name in folders}
        self.quick, self.full, self.seed = options.quick, options.full, options.seed
        self.folder: Path = options.output / self.name
        self.folder.mkdir(parents=True, exist_ok=True)
        self._question = (question or "").strip().split("\n")[0]
        self._started, self._processor = time.perf_counter(), time.process_time()
        self._rows: list[dict[str, Any]] = []
        self._claims: list[dict[str, Any]] = []
        self._figures: list[dict[str, str]] = []

    def number(
        self, what: str, measured: Any, unit: str = "", *, known: Any = None, source: str = "", note: str = ""
    ) -> None:
        """A row of the table.

        Args:
          what: was measured.
          measured: a number, text, or one number for each seed, of which mean and standard deviation are told.
          unit: such as "%".
          known: the number to hold it against, with its source; note says why ours differs, where it does.
        """
        values = np.asarray(measured, float).ravel().tolist() if not isinstance(measured, str) else measured
        self._rows.append(
            {"what": what, "measured": values, "unit": unit, "known": known, "source": source, "note": note}
        )

    def claim(self, what: str, holds: bool) -> None:
        """Something that should be true of the run; the script fails at its end where it isn't."""
        self._claims.append({"what": what, "holds": bool(holds)})

    def figure(self, figure: Figure, caption: str, name: str = "figure") -> None:
        """Writes a figure into the folder; the caption says what is seen."""
        drawn = io.BytesIO()
        figure.savefig(drawn, dpi=110)
        path = self.folder / f"{name}.png"
        path.write_bytes(drawn.getvalue())
        for colors in (256, 48):
            if path.stat().st_size > LARGE:
                picture = Image.open(drawn).convert("RGB")
                picture.quantize(colors, method=Image.Quantize.MAXCOVERAGE).save(path, optimize=True)
        self._figures.append({"file": f"{name}.png", "caption": caption})

    def finish(self) -> None:
        """Prints the table and the claims and writes them; exits with an error where a claim doesn't hold."""
        seconds, processor = time.perf_counter() - self._started, time.process_time() - self._processor
        setting = "quick" if self.quick else "full" if self.full else "default"
        record = {
            "name": self.name, "question": self._question, "setting": setting, "seed": self.seed,
            "seconds": seconds, "processor_seconds": processor, "machine": machine(),
            "numbers": self._rows, "claims": self._claims, "figures": self._figures,
        }  # fmt: skip
        print("\n".join(table(record)))
        for claim in self._claims:
            print(f"{'holds' if claim['holds'] else 'FAILS'}: {claim['what']}")
        (self.folder / "record.json").write_text(json.dumps(record, indent=1) + "\n")
        print(f"record.json and {len(self._figures)} figures are in {self.folder}")
        print(f"{seconds:.0f} s in all, {processor:.0f} s of processor time")
        if failed := [claim["what"] for claim in self._claims if not claim["holds"]]:
            raise SystemExit(f"{len(failed)} of {len(self._claims)} claims don't hold: {'; '.join(failed)}")


def table(record: dict[str, Any]) -> list[str]:
    """The numbers of a record as lines of a Markdown table."""
    lines = ["| | measured | known | source |", "| --- | ---: | ---: | --- |"]
    for row in record["numbers"]:
        source = "; ".join(filter(None, (row["source"], row["note"])))
        unit = f" {row['unit']}" if row["unit"] else ""
        known = "" if row["known"] is None else f"{_short(row['known'])}{unit}"
        lines.append(f"| {row['what']} | {_measured(row['measured'])}{unit} | {known} | {source} |")
    return lines


def _measured(values: Any) -> str:
    if isinstance(values, str):
        return values
    if len(values) == 1:
        return _short(values[0])
    spread = float(np.std(values, ddof=1))
    if not (spread > 0 and np.isfinite(spread)):
        return f"{_short(np.mean(values))} (sd {_short(spread)}, {len(values)} seeds)"
    # Two digits of the spread, and as many decimals of the mean.
    decimals = max(0, 1 - int(np.floor(np.log10(spread))))
    return f"{np.mean(values):.{decimals}f} (sd {spread:.{decimals}f}, {len(values)} seeds)"


def _short(value: Any) -> str:
    """Four digits, or all of a whole number.

    >>> _short(3.14159), _short(16e9), _short("about 1")
    ('3.142', '16,000,000,000', 'about 1')
    """
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) < 1e15 and float(value).is_integer() else f"{value:.4g}"
