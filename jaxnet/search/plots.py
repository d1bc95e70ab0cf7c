"""Figures of a search for papers, with matplotlib; each draws on axes that the caller made."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnet.hints import did_you_mean, needs
from jaxnet.search.analysis import best_of, best_so_far, category_places, log_axis, numbers, score_name, value_names

with needs("report"):
    from matplotlib.axes import Axes
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter

if TYPE_CHECKING:
    from jaxnet.search.result import SearchResult

# Of Okabe and Ito's palette, which stays apart for readers of every kind of colour vision.
BLUE, ORANGE, RED, PINK, GREY = "#0072B2", "#E69F00", "#D55E00", "#CC79A7", "#999999"
ENDS = {"diverged": RED, "failed": PINK}  # what has no score
MANY = 500  # trials above which points and lines get small and pale, and are drawn as pixels in a vector file


@dataclasses.dataclass(frozen=True)
class _Look:
    """A result with what its figures are to look like; scores are multiplied with ``factor``."""

    result: SearchResult
    names: Sequence[str]
    best: list[int]  # ids of the trials to highlight, the very best first
    factor: float
    labels: Mapping[str, str]

    def label(self, name: str) -> str:
        own = {"score": score_name(self.result), "units": "unit"}
        return self.labels.get(name, own.get(name, name.replace("_", " ")))

    @property
    def scores(self) -> np.ndarray:
        return self.factor * self.result.table["score"]

    @property
    def curves(self) -> np.ndarray:
        return self.factor * self.result.curves

    @property
    def many(self) -> bool:
        return len(self.result) > MANY

    @property
    def log(self) -> bool:
        return log_axis(self.curves) and not self.result.maximize


def draw(
    result: SearchResult,
    kind: str,
    axes: Any,
    *,
    names: Sequence[str] | None = None,
    best: int = 10,
    factor: float = 1.0,
    labels: Mapping[str, str] | None = None,
) -> Figure:
    """As ``SearchResult.plot``."""
    if kind not in KINDS:
        raise ValueError(f"plot: there is no {kind!r}; there are {', '.join(KINDS)}{did_you_mean(kind, KINDS)}")
    if unknown := set(names or ()) - set(result.names):
        raise ValueError(
            f"plot: names={sorted(unknown)} aren't hyperparameters; there are {result.names}"
            f"{did_you_mean(min(unknown), result.names)}"
        )
    ids = [row["id"] for row in result.ranked(best)]
    look = _Look(result, list(names or result.names), ids, factor, labels or {})
    if kind == "overview":
        if axes is not None:
            raise ValueError("plot: an overview makes its own axes; give a part of it, such as kind='curves'")
        return _overview(look)
    if kind == "hyperparameters":
        if axes is None:
            across = min(3, len(look.names))
            down = math.ceil(len(look.names) / across)
            figure = _figure(3.4 * across, 3.0 * down)
            axes = figure.subplots(down, across, squeeze=False, sharey=True).ravel()
            for spare in axes[len(look.names) :]:
                spare.remove()
            axes = axes[: len(look.names)]
        axes = np.ravel(np.asarray(axes, object))
        if len(axes) != len(look.names):
            raise ValueError(f"plot: {len(look.names)} hyperparameters need as many axes, got {len(axes)}")
        return _hyperparameters(look, axes)
    if axes is None:
        axes = _figure(5.2, 3.6).subplots()
    elif not isinstance(axes, Axes):
        raise TypeError(f"plot: {kind} is drawn on one matplotlib Axes, got {axes!r}")
    KINDS[kind](look, axes)
    figure = axes.get_figure(root=True)
    assert figure is not None
    return figure


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def _overview(look: _Look) -> Figure:
    """Scores against each hyperparameter, three or four in a row, over learning curves and the best so far."""
    across = min(4, len(look.names)) if len(look.names) != 5 else 3
    down = math.ceil(len(look.names) / across)
    figure = _figure(max(3.4 * across, 8.0), 3.2 * (down + 1))
    upper, lower = np.ravel(np.asarray(figure.subfigures(2, 1, height_ratios=(down, 1)), object))
    axes = upper.subplots(down, across, squeeze=False, sharey=True).ravel()
    for spare in axes[len(look.names) :]:
        spare.remove()
    _hyperparameters(look, axes[: len(look.names)])
    left, right = np.ravel(lower.subplots(1, 2))
    _curves(look, left)
    _best(look, right)
    return figure


def _hyperparameters(look: _Look, axes: Sequence[Axes]) -> Figure:
    for name, panel in zip(look.names, axes, strict=True):
        _scatter(look, panel, name)
    starts = [panel for panel in axes if (spec := panel.get_subplotspec()) is None or spec.is_first_col()]
    for panel in starts:
        panel.set_ylabel(look.label("score"))
    present = [name for name in ENDS if name in look.result.counts]
    axes[0].legend(
        handles=key(len(look.best), "stopped" in look.result.counts, present), frameon=False, fontsize="small"
    )
    figure = axes[0].get_figure(root=True)
    assert figure is not None
    return figure


def _scatter(look: _Look, axes: Axes, name: str) -> None:
    """Scores against a hyperparameter; trials without one are crosses at the edge where the worst are."""
    result, scale, scores = look.result, look.result.scales[name], look.scores
    values = result.table[name]
    axes.set_yscale("log" if look.log else "linear")
    if scale.bounds is not None:
        values = numbers(values)  # where it's absent there is no point
    if scale.kind == "category":
        # Side by side within a category, at places that are the same in every drawing.
        values = category_places(values, scale) + 0.5 * ((np.arange(len(values)) * 0.618034) % 1 - 0.5)
        axes.set_xticks(range(len(scale.values)), value_names(scale.values))
        axes.set_xlim(-0.6, len(scale.values) - 0.4)
    elif scale.bounds is not None and scale.kind == "log":
        low, high = scale.bounds
        pad = (high / low) ** 0.04 if high > low else 1.2
        axes.set_xscale("log")
        axes.set_xlim(low / pad, high * pad)
        if low >= 1 and high <= 1e5:
            axes.xaxis.set_major_formatter("{x:g}")
    done = result.table["status"] == "completed"
    style: dict[str, Any] = {"linestyle": "", "marker": "o", "markeredgewidth": 0, "rasterized": look.many}
    style |= {"markersize": 2.5, "alpha": 0.5} if look.many else {"markersize": 5, "alpha": 0.7}
    axes.plot(values[~done], scores[~done], color=GREY, **style)
    axes.plot(values[done], scores[done], color=BLUE, **style)
    best = np.array(look.best, int)
    axes.plot(values[best[1:]], scores[best[1:]], "o", color=ORANGE, markersize=6, markeredgecolor="black")
    axes.plot(values[best[:1]], scores[best[:1]], "*", color=ORANGE, markersize=15, markeredgecolor="black")
    upper = axes.get_xaxis_transform()  # along the axis in data, up in parts of the height
    for status, color, above in zip(ENDS, ENDS.values(), (0.97, 0.92), strict=True):
        worst = 1 - above if result.maximize else above
        if len(ended := values[(result.table["status"] == status) & np.isnan(scores)]):
            axes.plot(
                ended, np.full(len(ended), worst), "x", color=color, markersize=6, transform=upper,
                rasterized=look.many,
            )  # fmt: skip
    axes.set_xlabel(look.label(name))
    plain_ticks(axes)


def _curves(look: _Look, axes: Axes) -> None:
    """Every trial's scores after each unit; a cross marks the last one before a trial diverged."""
    curves, status = look.curves, look.result.table["status"]
    units = np.arange(1, curves.shape[1] + 1)
    axes.set_yscale("log" if look.log else "linear")
    lines = [np.column_stack([units, curve]) for curve in curves]
    colors = [GREY if name == "stopped" else BLUE for name in status]
    style: dict[str, Any] = (
        {"linewidths": 0.5, "alpha": 75 / len(curves)} if look.many else {"linewidths": 1, "alpha": 0.5}
    )
    axes.add_collection(LineCollection(lines, colors=colors, rasterized=look.many, **style))
    axes.plot(units, curves[look.best].T, color=ORANGE, linewidth=1.5)
    for curve in curves[look.best[:1]]:
        end = int(np.isfinite(curve).sum()) - 1
        axes.plot(
            units, curve, "*-", color=ORANGE, markersize=13, markeredgecolor="black", markevery=[end], linewidth=2.5
        )
    for curve in curves[status == "diverged"]:
        if (trained := np.isfinite(curve).sum()) > 0:
            axes.plot(
                trained, curve[trained - 1], "x", color=RED, rasterized=look.many, markersize=3 if look.many else 6,
                alpha=0.2 if look.many else 1,
            )  # fmt: skip
    axes.autoscale_view()
    axes.set(xlabel=look.label("units"), ylabel=look.label("score"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    plain_ticks(axes)


def _best(look: _Look, axes: Axes) -> None:
    """The best score after each number of trials, in the order they came, over what a random order gives of it."""
    scores, maximize = look.scores, look.result.maximize
    numbers = np.arange(1, len(scores) + 1)
    axes.set(xlabel="trials", ylabel=f"best {look.label('score')} so far")
    if not (finite := np.isfinite(scores)).any():
        return
    edge, clip = (scores[finite].min(), np.maximum) if maximize else (scores[finite].max(), np.minimum)
    low, median, high = (clip(row, edge) for row in best_of(scores, (0.05, 0.5, 0.95), maximize))
    axes.set(xscale="log", yscale="log" if look.log else "linear")
    axes.fill_between(
        numbers, low, high, step="post", color=BLUE, alpha=0.2, linewidth=0, label="random order, 5 to 95 %"
    )
    axes.step(numbers, median, where="post", color=BLUE, linewidth=1, label="random order, median")
    axes.step(numbers, best_so_far(scores, maximize), where="post", color="black", linewidth=2, label="this search")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if len(scores) < 1000 else (1,)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    plain_ticks(axes)
    axes.legend(frameon=False, fontsize="small", loc="lower right" if maximize else "upper right")


def _rungs(look: _Look, axes: Axes) -> None:
    """Scores of the trials at the end of each rung, bracket by bracket, and who trained on."""
    rungs, curves = look.result.rungs, look.curves
    if not len(rungs.get("units", ())):
        raise ValueError("plot: this result doesn't know its rungs")
    order = np.lexsort((rungs["step"], rungs["bracket"]))
    brackets = rungs["bracket"][order]
    at = np.arange(len(order)) + 0.8 * np.cumsum(np.r_[0, np.diff(brackets) != 0])
    axes.set_yscale("log" if look.log else "linear")
    parts: dict[str, list[np.ndarray]] = {"trained on": [], "stopped here": [], "trained to the end": []}
    for x, i in zip(at, order, strict=True):
        ids, units = rungs["ids"][i], rungs["units"][i]
        points = np.column_stack([x + 0.6 * ((ids * 0.618034) % 1 - 0.5), curves[ids, units - 1]])
        going = np.isin(ids, rungs["promoted"][i])
        rest = "trained to the end" if units == curves.shape[1] else "stopped here"
        parts["trained on"].append(points[going])
        parts[rest].append(points[~going])
    size = 2.5 if sum(map(len, rungs["ids"])) > MANY else 4
    for (name, points), color in zip(parts.items(), (BLUE, GREY, ORANGE), strict=True):
        if points:
            axes.plot(
                *np.concatenate(points).T, "o", color=color, markersize=size, markeredgewidth=0, label=name,
                rasterized=size < 4,
            )  # fmt: skip
    step = -(-len(order) // 24)
    axes.set_xticks(at[::step], [f"{rungs['units'][i]}" for i in order[::step]])
    if len(set(brackets.tolist())) > 1:
        for bracket in np.unique(brackets):
            middle = at[brackets == bracket].mean()
            axes.annotate(
                f"bracket {bracket + 1}", (middle, 0), xycoords=("data", "axes fraction"), xytext=(0, -18),
                textcoords="offset points", ha="center", va="top", fontsize="x-small", color="0.35",
                annotation_clip=False,
            )  # fmt: skip
        axes.xaxis.labelpad = 14
    axes.set(xlabel=f"{look.label('units')}s at the end of the rung", ylabel=look.label("score"))
    plain_ticks(axes)
    axes.legend(frameon=False, fontsize="small", loc="best")


def _importances(look: _Look, axes: Axes) -> None:
    """Bars of ``SearchResult.importances``."""
    shares = look.result.importances()
    names = list(shares)[::-1]
    bars = axes.barh([look.label(name) for name in names], [shares[name] for name in names], color=BLUE, height=0.6)
    axes.bar_label(bars, [f"{shares[name]:.0%}" for name in names], padding=3)
    axes.set(xlabel=f"share of the variation of {look.label('score')}", xlim=(0, 1.15 * max(shares.values())))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.spines[["top", "right"]].set_visible(False)


def _groups(look: _Look, axes: Axes) -> None:
    """Seconds that each group took to compile and to run, with its share of padding."""
    groups = look.result.groups
    if not len(groups.get("lanes", ())):
        raise ValueError("plot: this result doesn't know its groups")
    places = np.arange(len(groups["lanes"]))
    compiling, running = groups["compile_seconds"], groups["run_seconds"]
    axes.barh(places, compiling, color="0.75", height=0.6, label="compiling")
    bars = axes.barh(places, running, left=compiling, color=BLUE, height=0.6, label="running")
    axes.bar_label(
        bars, [f"{share:.0%} padding" for share in groups["padding"]], padding=3, fontsize="small", color="0.35"
    )
    names = [
        f"{len(ids)} trial{'s' * (len(ids) != 1)}: {', '.join(filter(None, (sizes, static))) or 'all'}"
        for ids, sizes, static in zip(groups["ids"], groups["sizes"], groups["compiled_in"], strict=True)
    ]
    axes.set_yticks(places, names, fontsize="small")
    axes.invert_yaxis()
    axes.set(xlabel="seconds", xlim=(0, 1.3 * float((compiling + running).max()) or 1.0))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small", loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0)


KINDS: dict[str, Callable[..., Any]] = {
    "overview": _overview, "hyperparameters": _hyperparameters, "curves": _curves, "best": _best, "rungs": _rungs,
    "importances": _importances, "groups": _groups,
}  # fmt: skip


def key(best: int, stopped: bool = False, without: Sequence[str] = ()) -> list[Line2D]:
    """Handles of a legend: how many trials are highlighted, and how some ended."""

    def sign(marker, color, edge, size, label):
        return Line2D(
            [], [], linestyle="", marker=marker, color=color, markeredgecolor=edge, markersize=size, label=label
        )

    signs = [sign("o", BLUE, BLUE, 5, "trial")]
    signs += [sign("o", GREY, GREY, 5, "stopped")] if stopped else []
    signs += [sign("o", ORANGE, "black", 6, f"{best} best")] if best > 1 else []
    signs += [sign("*", ORANGE, "black", 13, "the best")] if best else []
    return signs + [sign("x", ENDS[name], ENDS[name], 6, name) for name in without]


def plain_ticks(axes: Axes) -> None:
    """Marks a logarithmic vertical axis at 1, 2, 3, 5, 7, 10, ... (fewer over many decades) in plain numbers."""
    if axes.get_yscale() == "log":
        low, high = axes.get_ylim()
        decades = math.log10(high / low)
        axes.yaxis.set_major_locator(
            LogLocator(subs=(1, 2, 3, 5, 7) if decades < 1.5 else (1, 2, 5) if decades < 3 else (1,))
        )
        if decades < 5:
            axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
