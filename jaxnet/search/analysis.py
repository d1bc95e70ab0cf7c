"""What reports and plots compute of a result."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import gammaln

from jaxnet.hints import needs
from jaxnet.search.adaptive import quiet_study
from jaxnet.search.space import Scale

if TYPE_CHECKING:
    from jaxnet.search.result import SearchResult

FEWEST, MOST = 10, 300  # trials that importances are computed from


def best_of(scores: np.ndarray, quantiles: Sequence[float], maximize: bool = False) -> np.ndarray:
    """How good random search gets: quantiles of the best of n scores drawn from T without replacement, n = 1 ... T.

    With the scores in order, ``x[1] <= ... <= x[T]``, the lowest of n is above ``x[k]`` when all n are among the T - k
    others, so ``P(lowest <= x[k]) = 1 - C(T - k, n) / C(T, n)``: exact, with no assumption on how scores spread. It's
    the distribution over all orders in which the same trials could have come, so it narrows to the best of all at T.

    Args:
      scores: ``[T]``, lower is better; NaN counts as worst.
      quantiles: each in (0, 1), of trials as good or better.
      maximize: higher is better.

    Returns:
      ``[len(quantiles), T]``: the score that reaches each quantile; infinite where that's a trial that has none.

    >>> best_of(np.array([3.0, 1.0, 2.0, 4.0]), [0.5]).tolist()  # the lowest of two is 1 in three pairs of six
    [[2.0, 1.0, 1.0, 1.0]]
    """
    if maximize:
        return -best_of(-np.asarray(scores), quantiles)
    ordered = np.sort(np.where(np.isnan(scores), np.inf, scores))
    trials = len(ordered)
    drawn = np.arange(1, trials + 1)  # n
    reached = np.empty((len(quantiles), trials))
    for row, quantile in zip(reached, quantiles, strict=True):
        low, high = np.ones(trials, int), np.full(trials, trials)  # the least k is among low ... high
        while (low < high).any():
            k = (low + high) // 2
            left = np.maximum(trials - k - drawn, 0)
            log_above = gammaln(trials - k + 1) - gammaln(left + 1) - gammaln(trials + 1) + gammaln(trials - drawn + 1)
            above = np.where(trials - k >= drawn, np.exp(log_above), 0.0)
            enough = 1 - above >= quantile - 1e-9  # rounding must not pass over a tie
            high, low = np.where(enough, k, high), np.where(enough, low, np.minimum(k + 1, high))
        row[:] = ordered[low - 1]
    return reached


def best_so_far(scores: np.ndarray, maximize: bool = False) -> np.ndarray:
    """The best score after each trial, in the order they came; NaN before the first that has one.

    >>> best_so_far(np.array([np.nan, 3.0, 4.0, 2.0])).tolist()
    [nan, 3.0, 3.0, 2.0]
    """
    return (np.fmax if maximize else np.fmin).accumulate(scores)


def common_units(result: SearchResult) -> int:
    """The most units that every trial with a score has trained for; 0 where there is none."""
    units = result.table["units"][np.isfinite(result.table["score"])]
    return int(units.min()) if len(units) else 0


def importances(result: SearchResult) -> dict[str, float]:
    """As ``SearchResult.importances``.

    >>> import jaxnet as jn
    >>> r = np.random.default_rng(0).random((60, 2))
    >>> table = {"id": np.arange(60), "status": np.full(60, "completed"), "units": np.ones(60, int)}
    >>> table |= {"score": 3 * r[:, 0] + r[:, 1], "a": r[:, 0], "b": r[:, 1]}  # variances in proportion 9 to 1
    >>> shares = importances(jn.search.SearchResult(table, {"score": table["score"][:, None]}, ["a", "b"]))
    >>> list(shares), 0.8 < shares["a"] < 0.97
    (['a', 'b'], True)
    """
    with needs("report"):
        import optuna
        from optuna.distributions import CategoricalDistribution, FloatDistribution

    units = common_units(result)
    scores = result.curves[:, units - 1] if units else np.zeros(0)
    chosen = np.flatnonzero(np.isfinite(scores) & np.isfinite(result.table["score"])) if units else np.zeros(0, int)
    if len(chosen) < FEWEST:
        raise ValueError(f"importances need at least {FEWEST} trials with a score, got {len(chosen)}")
    if len(chosen) > MOST:
        chosen = np.sort(np.random.default_rng(0).choice(chosen, MOST, replace=False))
    if np.ptp(scores[chosen]) == 0:
        raise ValueError("importances say nothing where all scores are the same")
    columns, distributions = {}, {}
    for name, scale in result.scales.items():
        if scale.bounds is None:
            places = category_places(result.table[name], scale)[chosen]
            columns[name] = places.tolist()
            distributions[name] = CategoricalDistribution(range(len(scale.values)))
        else:  # on its own scale, since the forest's marginals are averages over the axis that it is given
            axis = np.log10 if scale.kind == "log" else np.asarray
            low, high = (float(axis(float(end))) for end in scale.bounds)
            values = axis(numbers(result.table[name])[chosen])
            if np.isnan(values).any():  # where it's absent it lies below all that it can be
                low -= 0.2 * (high - low) or 1.0
            columns[name] = np.where(np.isnan(values), low, values).tolist()
            distributions[name] = FloatDistribution(low, high)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = quiet_study()
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        study.add_trials(
            [
                optuna.trial.create_trial(value=float(score), params=row, distributions=distributions)
                for row, score in zip(rows, scores[chosen], strict=True)
            ]
        )
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in shares.items()}


def value_names(values: Sequence[Any]) -> list[str]:
    """Names of different values that differ too.

    >>> value_names([1, "relu", max, lambda x: x, lambda x: 2 * x])
    ['1', 'relu', 'max', '<lambda>', '<lambda> (2)']
    """
    names: list[str] = []
    for value in values:
        name = text = value if isinstance(value, str) else str(getattr(value, "__name__", value))
        count = 1
        while name in names:
            count += 1
            name = f"{text} ({count})"
        names.append(name)
    return names


def numbers(column: np.ndarray) -> np.ndarray:
    """A hyperparameter's column as float64, NaN where it's None.

    >>> numbers(np.array([1, None], object)).tolist()
    [1.0, nan]
    """
    return np.array([math.nan if value is None else value for value in column.tolist()], float)


def are_integers(column: np.ndarray) -> bool:
    """Whether all numbers of a column are integers."""
    return all(isinstance(value, int) for value in column.tolist() if value is not None)


def category_places(column: np.ndarray, scale: Scale) -> np.ndarray:
    """Of each entry, which value of its category it is."""
    equal = {value: i for i, value in reversed(list(enumerate(scale.values)))}
    same = {(type(value), value): i for i, value in reversed(list(enumerate(scale.values)))}  # True isn't 1
    return np.array([same.get((type(value), value), equal.get(value)) for value in column.tolist()], int)


def log_axis(values: np.ndarray) -> bool:
    """Whether scores are better seen on a logarithmic axis: positive, and over more than half a decade.

    >>> log_axis(np.array([0.01, np.nan, 0.9])), log_axis(np.array([0.8, 0.9])), log_axis(np.array([0.0, 9.0]))
    (True, False, False)
    """
    finite = values[np.isfinite(values)]
    return bool(len(finite) and finite.min() > 0 and math.log10(finite.max() / finite.min()) > 0.5)


def score_name(result: SearchResult) -> str:
    """What the score is: the name of the measure that equals it, in words, or "score"."""
    others = (name for name in result.history if name != "score")
    same = (n for n in others if np.array_equal(result.history[n], result.curves, equal_nan=True))
    return next(same, "score").replace("_", " ")
