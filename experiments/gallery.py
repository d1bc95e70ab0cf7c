"""Builds experiments/README.md, the gallery, from what the experiments' runs wrote.

    python -m experiments.gallery --take runs     takes new records and figures out of the folder runs, then builds
    python -m experiments.gallery                 builds the page anew from what was taken

What was taken stands in experiments/results, a folder for each experiment. A test holds the page to it.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.benchmarks.report import where
from experiments.record import table

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results", HERE / "README.md"


def take(runs: Path) -> list[str]:
    """Copies the records of default and full runs, with their figures, into the results; returns their names."""
    taken = []
    for path in sorted(runs.glob("*/record.json")):
        record = json.loads(path.read_text())
        if record["setting"] == "quick":
            continue
        folder = RESULTS / record["name"]
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in ["record.json", *(figure["file"] for figure in record["figures"])]:
            shutil.copyfile(path.parent / name, folder / name)
        taken.append(record["name"])
    return taken


def page() -> str:
    """The page, from the records that were taken."""
    lines = [
        "# The gallery",
        "",
        "Made by `python -m experiments.gallery` from what the runs wrote. Each experiment runs as its command says;",
        "`--quick` shows in seconds that it does, `--full` is the published setting, `--help` tells the rest. The",
        "random search over MNIST networks is shown in the [README](../README.md).",
    ]
    records = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*/record.json"))]
    lines += ["", *(f"- [{record['question']}](#{_anchor(record['question'])})" for record in records)]
    for record in records:
        flag = " --full" if record["setting"] == "full" else ""
        lines += ["", f"## {record['question']}", "", f"    python -m experiments.{record['name']}{flag}", ""]
        spent = f"{_duration(record['seconds'])}, {_duration(record['processor_seconds'])} of processor time"
        lines += [f"{spent}, on {where(record['machine'])}.", "", *table(record)]
        if record["claims"]:
            lines += ["", *(_claim(claim) for claim in record["claims"])]
        for figure in record["figures"]:
            lines += ["", f"![{figure['caption']}](results/{record['name']}/{figure['file']})", "", figure["caption"]]
    return "\n".join(lines) + "\n"


def _anchor(heading: str) -> str:
    """What GitHub calls a heading in a link: small letters, hyphens for spaces, no other signs.

    >>> _anchor("Fully connected, or n^2?")
    'fully-connected-or-n2'
    """
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _claim(claim: dict[str, Any]) -> str:
    return f"- {'Confirmed' if claim['holds'] else '**Not reached**'}: {claim['what']}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def main(arguments: Sequence[str] | None = None) -> None:
    """Takes what is new, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--take", type=Path, help="a folder with runs of experiments")
    options = parser.parse_args(arguments)
    if options.take is not None:
        print(f"taken: {', '.join(take(options.take)) or 'nothing; only runs without --quick are'}")
    PAGE.write_text(page())
    print(f"wrote {PAGE.relative_to(Path.cwd()) if PAGE.is_relative_to(Path.cwd()) else PAGE}")


if __name__ == "__main__":
    main()
