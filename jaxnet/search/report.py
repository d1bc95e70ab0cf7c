"""A search as one HTML page: its data, plotly's script, and ``report.js``, which draws them in the browser."""

from __future__ import annotations

import base64
import hashlib
import html
import importlib.resources
import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnet.checkpoint import replacing
from jaxnet.hints import needs
from jaxnet.search.analysis import (
    are_integers,
    best_of,
    best_so_far,
    category_places,
    common_units,
    importances,
    log_axis,
    numbers,
    score_name,
    value_names,
)
from jaxnet.search.export import json_value

if TYPE_CHECKING:
    from jaxnet.search.result import SearchResult

MOST_VALUES = 1_200_000  # of curves in the file, 6 MB of it
MOST_PLACES = 200_000  # of trials in rungs
QUANTILES = (0.05, 0.5, 0.95)

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data: blob:; \
style-src 'unsafe-inline'; script-src 'unsafe-eval' {hashes}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="jaxnet {version}">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header><h1>{title}</h1></header>
<main><noscript><p>This page draws its figures with JavaScript, which is switched off here.</p></noscript></main>
<script type="application/json" id="data">{data}</script>
<script>{plotly}</script>
<script>{script}</script>
</body>
</html>
"""


def write_report(result: SearchResult, path: str | os.PathLike[str], title: str) -> None:
    """As ``SearchResult.report``."""
    with needs("report"):
        from plotly.offline import get_plotlyjs

    from jaxnet import __version__  # when it is used: that module imports this one

    files = importlib.resources.files("jaxnet.search")
    plotly, script = get_plotlyjs(), (files / "report.js").read_text("utf-8")
    data = json.dumps(json_value(contents(result) | {"version": __version__}), allow_nan=False, separators=(",", ":"))
    for sign in "<>&":  # so that no value can end the element that it stands in
        data = data.replace(sign, f"\\u{ord(sign):04x}")
    page = PAGE.format(
        # Only these two scripts run, and nothing is fetched. plotly's WebGL drawing compiles functions ('unsafe-eval').
        hashes=" ".join(f"'sha256-{_base64(hashlib.sha256(text.encode()).digest())}'" for text in (plotly, script)),
        version=__version__, title=html.escape(title), style=(files / "report.css").read_text("utf-8"),
        data=data, plotly=plotly, script=script,
    )  # fmt: skip
    with replacing(path) as file:
        file.write(page.encode())


def contents(result: SearchResult) -> dict[str, Any]:
    """What the page draws, as JSON knows it; arrays of numbers in base64, with their dtype."""
    curves, messages = _curves(result), [result.messages.get(i, "") for i in range(len(result))]
    return {
        "maximize": result.maximize, "trials": len(result), "counts": result.counts, "units": result.curves.shape[1],
        "score": score_name(result), "log": log_axis(result.curves) and not result.maximize, "names": result.names,
        "compile_seconds": result.compile_seconds, "run_seconds": result.run_seconds,
        "ranked": _array(np.array([row["id"] for row in result.ranked()], int)),
        "columns": [{"name": name, **_column(result, name)} for name in result.table if not _twice(result, name)]
        + [{"name": "message", "role": "message", "data": messages}] * any(messages),
        "scales": {name: _scale(result, name) for name in result.names},
        "curves": {"ids": _array(curves), **{
            name: _array(values[curves].astype(np.float32)) for name, values in _histories(result, curves).items()
        }},
        "importances": _importances(result), "best": _best(result),
        "groups": [
            {name: _plain(name, column[i]) for name, column in result.groups.items()}
            for i in range(len(result.groups.get("lanes", ())))
        ],
        "rungs": _rungs(result),
    }  # fmt: skip


def _twice(result: SearchResult, name: str) -> bool:
    """Whether a column is the score under its own name."""
    table = result.table
    return name in result.history and name != "score" and np.array_equal(table[name], table["score"], equal_nan=True)


def _plain(name: str, value: Any) -> Any:
    return len(value) if name == "ids" else value


def _column(result: SearchResult, name: str) -> dict[str, Any]:
    column = result.table[name]
    role = (
        "hyperparameter" if name in result.names else "measure" if name in result.history and name != "score" else name
    )
    scale = result.scales.get(name)
    if scale is not None and scale.bounds is not None:
        return {"role": role, "integer": are_integers(column), "data": _array(numbers(column))}
    if scale is not None and column.dtype.kind not in "iuf":
        column = np.array(value_names(scale.values), object)[category_places(column, scale)]
    if column.dtype.kind in "iuf":
        return {"role": role, "integer": column.dtype.kind != "f", "data": _array(column.astype(float))}
    return {"role": role, "data": ["" if value is None else str(value) for value in column]}


def _scale(result: SearchResult, name: str) -> dict[str, Any]:
    scale = result.scales[name]
    values = value_names(scale.values)
    if scale.bounds is None and result.table[name].dtype.kind in "iuf":  # numbers of a choice, in order
        values = sorted(scale.values)
    return {"kind": scale.kind, "bounds": scale.bounds, "values": values}


def _curves(result: SearchResult) -> np.ndarray:
    """The trials whose curves are in the file: all, or the best hundred and an even sample of the others."""
    trials, units = result.curves.shape
    most = max(MOST_VALUES // units, 1)
    if trials <= most:
        return np.arange(trials)
    best = [row["id"] for row in result.ranked(min(100, most))]
    return np.union1d(best, np.linspace(0, trials - 1, most - len(best)).astype(int)).astype(int)


def _histories(result: SearchResult, curves: np.ndarray) -> dict[str, np.ndarray]:
    """The score's history, and the others' while there is room; what equals the score once."""
    chosen = {"score": result.history["score"]}
    for name, values in result.history.items():
        room = (len(chosen) + 1) * len(curves) * values.shape[1] <= MOST_VALUES
        if room and not np.array_equal(values, chosen["score"], equal_nan=True):
            chosen[name] = values
    return chosen


def _importances(result: SearchResult) -> dict[str, Any]:
    try:
        return {"shares": importances(result), "units": common_units(result)}
    except ImportError as error:
        return {"reason": f"They need the extra “report”: {error}."}
    except ValueError as error:
        return {"reason": f"{str(error)[:1].upper()}{str(error)[1:]}."}


def _best(result: SearchResult) -> dict[str, Any]:
    scores = result.table["score"]
    trials = len(scores)
    if not np.isfinite(scores).any():
        return {"n": []}
    numbers = np.unique(np.geomspace(1, trials, 400).astype(int))
    low, median, high = best_of(scores, QUANTILES, result.maximize)[:, numbers - 1]
    so_far = best_so_far(scores, result.maximize)
    changes = np.flatnonzero(np.r_[True, so_far[1:] != so_far[:-1]] & np.isfinite(so_far))
    changes = np.union1d(changes, [trials - 1])
    return {
        "n": numbers, "low": low, "median": median, "high": high,
        "trials": changes + 1, "so_far": so_far[changes], "ids": changes,
        "worst": np.nanmin(scores) if result.maximize else np.nanmax(scores),
    }  # fmt: skip


def _rungs(result: SearchResult) -> list[dict[str, Any]]:
    rungs, scores = result.rungs, result.curves
    rows = []
    every = -(-sum(len(ids) for ids in rungs.get("ids", ())) // MOST_PLACES) or 1
    for i, ids in enumerate(rungs.get("ids", ())):
        units, promoted = int(rungs["units"][i]), rungs["promoted"][i]
        ends, going = scores[ids, units - 1], np.isin(ids, promoted)
        best = (np.nanmax if result.maximize else np.nanmin)(ends) if np.isfinite(ends).any() else None
        worst = (np.nanmin if result.maximize else np.nanmax)(ends[going]) if len(promoted) else None
        rows.append(
            {
                "step": rungs["step"][i], "bracket": rungs["bracket"][i], "units": units, "trials": len(ids),
                "promoted": len(promoted), "without": int((~np.isfinite(ends)).sum()), "best": best, "cut": worst,
                "ids": _array(ids[::every]), "scores": _array(ends[::every].astype(np.float32)),
                "going": _array(going[::every].astype(int)),
            }
        )  # fmt: skip
    return rows


def _array(values: np.ndarray) -> dict[str, str]:
    kind = {"f": "<f4" if values.dtype == np.float32 else "<f8"}.get(values.dtype.kind, "<i4")
    return {kind[1:]: _base64(np.ascontiguousarray(values, kind).tobytes())}


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
