"""Pictures of a search, on axes that the caller made and labels; scores in any unit, NaN where a trial diverged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator

from jaxnet.search.space import Distribution

# Of Okabe and Ito's palette, which stays apart for readers of every kind of colour vision.
BLUE, ORANGE, RED = "#0072B2", "#E69F00", "#D55E00"


def best_of(scores: np.ndarray, quantiles: Sequence[float]) -> np.ndarray:
    """How low random search gets: quantiles of the lowest of n scores drawn from T without replacement, n = 1 ... T.

    With the scores in order, ``x[1] <= ... <= x[T]``, the lowest of n is above ``x[k]`` when all n are among the T - k
    others, so ``P(lowest <= x[k]) = 1 - C(T - k, n) / C(T, n)``: exact, with no assumption on how scores spread. It's
    the distribution over all orders in which the same trials could have come, so it narrows to the lowest of all at T.

    Args:
      scores: ``[T]``, lower is better; NaN counts as worst.
      quantiles: each in (0, 1).

    Returns:
      ``[len(quantiles), T]``: the least score that reaches each quantile; infinite where that's a trial that diverged.

    >>> best_of(np.array([3.0, 1.0, 2.0, 4.0]), [0.5]).tolist()  # the lowest of two is 1 in three pairs of six
    [[2.0, 1.0, 1.0, 1.0]]
    """
    ordered = np.sort(np.where(np.isnan(scores), np.inf, scores))
    trials = len(ordered)
    drawn = np.arange(trials)[:, None]  # [n - 1, 1]: how many were drawn before the n-th
    others = trials - 1 - np.arange(trials)  # [k - 1]: how many are worse than x[k]
    # C(T - k, n) / C(T, n), one factor for each draw, as the binomials themselves would overflow.
    above = np.cumprod(np.maximum(others - drawn, 0) / (trials - drawn), axis=0)  # [n, k]
    reached = 1 - above[None] >= np.asarray(quantiles)[:, None, None] - 1e-12  # rounding must not pass over a tie
    return ordered[np.argmax(reached, axis=-1)]


def scatter(
    axes: Axes, distribution: Distribution, values: np.ndarray, scores: np.ndarray, best: Sequence[int] = ()
) -> None:
    """Scores, on a log axis, against a hyperparameter; trials that diverged are crosses at the upper edge.

    Args:
      axes: drawn on; labels are the caller's.
      distribution: the hyperparameter's entry in the space, which sets the scale and the ends of its axis.
      values, scores: ``[trials]``.
      best: places of the trials to highlight, the very best first, which gets a star.
    """
    axes.set(xscale="log" if distribution.log else "linear", yscale="log")
    if distribution.log and distribution.bounds:
        low, high = distribution.bounds
        axes.set_xlim(low / 1.2, high * 1.2)
    axes.plot(values, scores, "o", color=BLUE, markersize=5, alpha=0.7, markeredgewidth=0)
    axes.plot(values[best[1:]], scores[best[1:]], "o", color=ORANGE, markersize=6, markeredgecolor="black")
    axes.plot(values[best[:1]], scores[best[:1]], "*", color=ORANGE, markersize=15, markeredgecolor="black")
    if len(diverged := values[np.isnan(scores)]):
        upper = axes.get_xaxis_transform()  # along the axis in data, up in parts of the height
        axes.plot(diverged, np.full(len(diverged), 0.97), "x", color=RED, markersize=6, transform=upper)
    plain_ticks(axes)


def curves(axes: Axes, curves: np.ndarray, best: Sequence[int] = ()) -> None:
    """Every trial's scores after each unit; a cross marks the last one before a trial diverged.

    Args:
      axes: drawn on; labels are the caller's.
      curves: ``[trials, units]``, NaN from where a trial had diverged.
      best: places of the trials to highlight, the very best first, which gets a star.
    """
    units = np.arange(1, curves.shape[1] + 1)
    axes.set(yscale="log")
    axes.plot(units, curves.T, color=BLUE, linewidth=1, alpha=0.5)
    axes.plot(units, curves[list(best)].T, color=ORANGE, linewidth=1.5)
    for curve in curves[list(best[:1])]:
        axes.plot(
            units, curve, "*-", color=ORANGE, markersize=13, markeredgecolor="black", markevery=[-1], linewidth=2.5
        )
    for curve in curves[np.isnan(curves[:, -1])]:
        if (trained := np.isfinite(curve).sum()) > 0:
            axes.plot(trained, curve[trained - 1], "x", color=RED, markersize=6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    plain_ticks(axes)


def best_so_far(axes: Axes, scores: np.ndarray) -> None:
    """The lowest score after each number of trials, in the order they came, over what random search predicts of it.

    Args:
      axes: drawn on; labels are the caller's.
      scores: ``[trials]``, in the order of ids; with none that isn't NaN there is nothing to draw.
    """
    numbers = np.arange(1, len(scores) + 1)
    low, median, high = best_of(scores, (0.05, 0.5, 0.95))
    if not (finite := np.isfinite(scores)).any():
        return
    worst = scores[finite].max()  # where the band reaches trials that diverged
    axes.set(xscale="log", yscale="log")
    axes.fill_between(
        numbers,
        low,
        np.minimum(high, worst),
        step="post",
        color=BLUE,
        alpha=0.2,
        linewidth=0,
        label="predicted, 5 to 95 %",
    )
    axes.step(numbers, np.minimum(median, worst), where="post", color=BLUE, linewidth=1, label="predicted, median")
    axes.step(numbers, np.fmin.accumulate(scores), where="post", color="black", linewidth=2, label="this search")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.minorticks_off()
    plain_ticks(axes)
    axes.legend(frameon=False)


def key(best: int, diverged: bool) -> list[Line2D]:
    """Handles of a legend for ``scatter`` and ``curves``: how many trials are highlighted, and whether any diverged."""

    def sign(marker, color, edge, size, label):
        return Line2D(
            [], [], linestyle="", marker=marker, color=color, markeredgecolor=edge, markersize=size, label=label
        )

    signs = [sign("o", BLUE, BLUE, 5, "trial"), sign("o", ORANGE, "black", 6, f"{best} best")]
    signs += [sign("*", ORANGE, "black", 13, "the best")]
    return signs + ([sign("x", RED, RED, 6, "diverged")] if diverged else [])


def plain_ticks(axes: Axes) -> None:
    """Marks a logarithmic vertical axis at 1, 2, 3, 5, 7, 10, ... in plain numbers."""
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.minorticks_off()
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
