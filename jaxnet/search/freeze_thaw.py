"""A schedule that pauses trials and takes them up again, by a model of all curves over the hyperparameters."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np

from jaxnet.data import check_count
from jaxnet.search.schedules import Rung, Schedule

FITTED_TO = 64  # curves, at most, that the model's own parameters are fitted to


def freeze_thaw(budget: float = 0.25, batch: int | None = None, every: int | None = None) -> Schedule:
    """Gives the next units to those trials, new or paused, that a model of all curves expects most improvement of.

    Every turn some trials train a little further and are paused again. They are those whose predicted last score is
    expected to improve most, by what the turn will show, on the best one predicted so far, given all curves and where
    their configurations lie (``CurveModel``). After each choice the model takes it as trained, with the score that it
    expects, so that the trials of a turn are diverse. What is left in the end trains the best trial to its last unit.
    A turn costs the host as much as a Gaussian process of all trials: a quarter of a second with 1,000.

    Args:
      budget: the share of the units of all trials that is spent, in (0, 1]; at least one trial trains to its last unit.
      batch: trials that train side by side in a turn; the default is a sixteenth of all.
      every: units that they train in a turn; the default is a twentieth of all.

    Raises:
      TypeError, ValueError: for a budget outside (0, 1], and for counts that aren't positive integers.

    Source: Swersky, Snoek, Adams, "Freeze-thaw Bayesian optimization" (2014). There one trial trains at a time, and
    entropy search chooses it out of a basket that expected improvement has filled; here the expected improvement of the
    prediction chooses, which counts what a turn shows, too, and lets many train side by side. There new configurations
    are any in the space, here those that the sampler proposes. The model's own parameters are drawn there, and here at
    their most probable values.

    >>> x = np.arange(1, 11)
    >>> curves = np.array([0.5 + 0.1 / x, 0.1 + 0.5 / x, 0.6 + 0.1 / x, 0.5 - 0.1 / x])
    >>> steps = freeze_thaw(0.5, batch=4, every=2).rungs(4, 10, np.array([[0.4], [0.1], [0.7], [0.5]]))
    >>> rung = next(steps)[0]
    >>> rung.ids.tolist(), rung.units, rung.promoted  # all four may come back
    ([0, 1, 2, 3], 2, 4)
    """
    if not 0 < budget <= 1:
        raise ValueError(f"freeze_thaw: budget is a share of the units of all trials, in (0, 1], got {budget!r}")
    for name, count in (("batch", batch), ("every", every)):
        if count is not None:
            check_count(f"freeze_thaw: {name}", count)

    def total(trials: int, units: int) -> int:
        return max(int(budget * trials * units), units)

    def rungs(trials: int, units: int, points: np.ndarray):
        model = _Fitted(units)
        wide, far = batch or max(1, trials // 16), min(every or max(1, units // 20), units)
        left, done = total(trials, units), np.zeros(trials, int)
        ids = np.arange(min(wide, trials))
        scores = np.full((trials, units), np.nan)
        while len(ids):
            ends = np.minimum(done[ids] + far, units)
            ends = ends[np.cumsum(ends - done[ids]) <= max(left - (units - far), 0)]  # keeps units for the last trial
            ids = ids[: len(ends)]
            if not len(ids):
                break
            left -= int((ends - done[ids]).sum())
            done[ids] = ends
            scores = yield [
                Rung(np.sort(ids[ends == end]), int(end), int((ends == end).sum())) for end in np.unique(ends)
            ]
            ids = np.fromiter(model(points, scores, done).most_promising(wide, far, _alive(scores, done)), int)
        while True:  # once, but for trials that diverge on their last way
            alive = _alive(scores, done)
            if (alive & (done > 0)).any():  # else all that were tried have diverged, and one more begins
                alive &= done > 0
            hopes = np.where(alive, model(points, scores, done).last()[0], np.inf)
            best = int(np.argmin(hopes))
            if done[best] == units or np.isinf(hopes[best]):
                return
            done[best] = units
            scores = yield [Rung(np.array([best]), units)]
            if np.isfinite(scores[best, -1]):
                return

    label = f"freeze_thaw({budget}, {batch}, {every})"
    return Schedule(lambda units: None, rungs, label, lambda trials, units: total(trials, units) / trials, points=True)


def _alive(scores: np.ndarray, done: np.ndarray) -> np.ndarray:
    """Who hasn't diverged."""
    return (done == 0) | np.isfinite(scores[np.arange(len(done)), np.maximum(done, 1) - 1])


class _Fitted:
    """Makes a ``CurveModel`` of scores, with parameters that are fitted anew whenever there are twice as many."""

    def __init__(self, units: int):
        self.units, self.parameters, self.fitted_to = units, None, 0

    def __call__(self, points: np.ndarray, scores: np.ndarray, done: np.ndarray) -> CurveModel:
        trained = np.arange(scores.shape[1]) < done[:, None]
        known = np.isfinite(scores) & trained
        if not known.any():
            return CurveModel(Parameters.usual(points.shape[1]), points, np.zeros_like(scores), np.zeros_like(done))
        # What diverged goes on with the worst score of all.
        filled = np.where(known, scores, np.max(scores, where=known, initial=-np.inf))
        latest = filled[np.arange(len(done)), np.maximum(done, 1) - 1][done > 0]
        centre = np.median(latest)
        spread = np.median(np.abs(latest - centre)) or np.ptp(latest) or np.ptp(filled[trained]) or 1.0
        curves = (filled - centre) / spread
        # Far above the middle only the order matters: a loss of 1e6 would leave no room for the rest.
        curves = np.where(curves > 3, 3 + np.log1p(np.maximum(curves - 3, 0)), curves)
        if self.parameters is None or done.sum() >= 2 * self.fitted_to:
            started = np.flatnonzero(done)
            some = started[np.unique(np.linspace(0, len(started) - 1, FITTED_TO).round().astype(int))]
            start = self.parameters or Parameters.usual(points.shape[1])
            self.parameters = start.fitted(points[some], curves[some], done[some])
            self.fitted_to = int(done.sum())
        return CurveModel(self.parameters, points, curves, done)


@dataclasses.dataclass(frozen=True)
class Parameters:
    """Of a ``CurveModel``, all positive.

    ``lengths`` ``[dimensions]`` over which asymptotes change, in parts of the unit cube, ``height`` their standard
    deviation, ``decay`` that of what curves lose on the way, ``alpha`` and ``beta`` the shape and scale of its rates,
    in tenths of all units, ``noise`` the standard deviation of one score.
    """

    lengths: np.ndarray
    height: float
    decay: float
    alpha: float
    beta: float
    noise: float

    @classmethod
    def usual(cls, dimensions: int) -> Parameters:
        """The most probable ones before any curve is seen, of standardised scores."""
        return cls(np.full(dimensions, 0.5), 1.0, 1.0, 1.0, 1.0, 0.1)

    def fitted(self, points: np.ndarray, curves: np.ndarray, done: np.ndarray) -> Parameters:
        """The most probable ones given curves: log-normal a priori, about the usual ones."""
        from scipy import optimize  # imported when used: it is slow

        usual = Parameters.usual(len(self.lengths))._vector()
        widths = np.array([1.0] * len(self.lengths) + [0.5, 1.0, 0.7, 0.7, 1.5])

        def cost(vector):
            model = CurveModel(Parameters._of(vector), points, curves, done)
            return 0.5 * (((vector - usual) / widths) ** 2).sum() - model.log_likelihood()

        ranges = [(u - 4 * w, u + 4 * w) for u, w in zip(usual, widths, strict=True)]
        found = optimize.minimize(cost, self._vector(), method="L-BFGS-B", bounds=ranges, options={"maxiter": 8})
        return Parameters._of(found.x)

    def _vector(self) -> np.ndarray:
        return np.log([*self.lengths, self.height, self.decay, self.alpha, self.beta, self.noise])

    @classmethod
    def _of(cls, vector: np.ndarray) -> Parameters:
        values = np.exp(vector)
        return cls(values[:-5], *map(float, values[-5:]))


class CurveModel:
    """A Gaussian process over hyperparameters and units.

    A curve is its asymptote plus a Gaussian process in time with covariance ``decay ** 2 * (beta / (t + t' + beta)) **
    alpha``, a mixture of exponential decays, plus noise. Asymptotes are a Gaussian process over the unit cube (Matern
    5/2) about a mean that is normal with deviation 1. Given its asymptote a curve knows nothing of the others, so what
    it says of it is one number with a precision, and the cost grows with the cube of the trials, not of all scores.

    Args:
      parameters: of the covariances.
      points: ``[trials, dimensions]``; a trial with NaN is one that may lie anywhere, apart from all others.
      curves: ``[trials, units]``, of which the first ``done``, ``[trials]``, count.

    Source: Swersky et al. (2014), sec. 3.
    """

    parameters: Parameters
    points: np.ndarray
    done: np.ndarray
    units: int
    started: np.ndarray
    covariance: np.ndarray
    diagonal: np.ndarray
    whiten: np.ndarray
    white: np.ndarray
    ones: np.ndarray
    precisions: np.ndarray
    about: np.ndarray
    says: np.ndarray

    def __init__(self, parameters: Parameters, points: np.ndarray, curves: np.ndarray, done: np.ndarray):
        self.parameters, self.points, self.done = parameters, points, done
        self.units, self.started = curves.shape[1], done > 0
        time = 10 * np.arange(1, self.units + 1) / self.units
        p = parameters
        self.covariance = p.decay**2 * (p.beta / (time[:, None] + time + p.beta)) ** p.alpha
        # A triangular root of the covariance of all units holds those of the first one, two, ...: sums end at done.
        root = np.linalg.cholesky(self.covariance + p.noise**2 * np.eye(self.units))
        self.diagonal, self.whiten = np.diag(root), np.linalg.inv(root)
        trained = (np.arange(self.units) < done[:, None]).T
        ones = self.whiten.sum(axis=1)
        self.white = self.whiten @ np.where(trained, curves.T, 0) * trained
        self.ones = ones[:, None] * trained
        self.precisions = np.append(0, np.cumsum(ones**2))  # about the asymptote, after 0, 1, ... units
        self.about = self.precisions[done][self.started]
        self.says = (self.ones * self.white).sum(axis=0)[self.started] / self.about

    def log_likelihood(self) -> float:
        """The logarithm of the probability density of all curves."""
        quadratic = (self.white**2).sum() - (self.about * self.says**2).sum()
        volume = (np.append(0, np.cumsum(np.log(self.diagonal)))[self.done]).sum() + 0.5 * np.log(self.about).sum()
        root = self._root
        white = _solve(root, self.says)
        count = self.done.sum() * np.log(2 * np.pi) / 2
        return float(-0.5 * quadratic - volume - 0.5 * white @ white - np.log(np.diag(root)).sum() - count)

    def asymptotes(self) -> tuple[np.ndarray, np.ndarray]:
        """Means ``[trials]`` and covariance ``[trials, trials]`` of the asymptotes, given the curves."""
        prior = self._between(self.points, self.points)
        np.fill_diagonal(prior, 1 + self.parameters.height**2)
        half = _solve(self._root, prior[self.started])
        white = _solve(self._root, self.says)
        return half.T @ white, prior - half.T @ half

    def last(self) -> tuple[np.ndarray, np.ndarray]:
        """Means and standard deviations ``[trials]`` of the last scores, without their noise."""
        means, covariance = self.asymptotes()
        share, rest = self._last_given_asymptote(self.done)
        return self._known + share * means, np.sqrt(share**2 * np.diag(covariance) + rest)

    def most_promising(self, count: int, every: int, alive: np.ndarray) -> Iterator[int]:
        """Trials to train ``every`` units further, ``count`` at most of those ``alive``: by the expected improvement of
        the predicted last score, once they have, on the best predicted now."""
        from scipy import special

        means, covariance = self.asymptotes()
        later = np.minimum(self.done + every, self.units)
        (share, rest), (share_later, rest_later) = (
            self._last_given_asymptote(self.done),
            self._last_given_asymptote(later),
        )
        means = self._known + share * means
        possible = alive & (self.done < self.units)
        best = means[self.started & alive].min(initial=np.inf)
        gains = self.precisions[later] - self.precisions[self.done]
        learned = np.zeros((0, len(means)))  # what each choice takes from the covariance, as a root
        variances = np.diag(covariance).copy()
        for _ in range(min(count, possible.sum())):
            left = variances / (1 + gains * variances)  # of the asymptote, when the trial has trained further
            news = np.sqrt(np.maximum(share**2 * variances + rest - share_later**2 * left - rest_later, 1e-12))
            if np.isfinite(best):
                above = (best - means) / news
                improvement = news * (above * special.ndtr(above) + np.exp(-(above**2) / 2) / np.sqrt(2 * np.pi))
            else:
                improvement = news
            chosen = int(np.argmax(np.where(possible, improvement, -1)))
            yield chosen
            possible[chosen] = False
            column = covariance[:, chosen] - learned[:, chosen] @ learned
            root = column * np.sqrt(gains[chosen] / (1 + gains[chosen] * column[chosen]))
            learned, variances = np.vstack([learned, root]), variances - root**2

    def _last_given_asymptote(self, done: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The last score of a trial after so many units has mean ``share * asymptote`` + what is known, and variance
        ``rest`` about it: ``share, rest``."""
        to_last = self.whiten @ self.covariance[:, -1]
        ones = self.whiten.sum(axis=1)
        share = 1 - np.append(0, np.cumsum(to_last * ones))[done]
        rest = np.maximum(self.covariance[-1, -1] - np.append(0, np.cumsum(to_last**2))[done], 0)
        return share, rest

    @functools.cached_property
    def _known(self) -> np.ndarray:
        """What curves say of their last scores beside their asymptotes."""
        return (self.whiten @ self.covariance[:, -1]) @ self.white

    @functools.cached_property
    def _root(self) -> np.ndarray:
        """Of the covariance of what the curves say of their asymptotes."""
        points = self.points[self.started]
        prior = self._between(points, points)
        np.fill_diagonal(prior, 1 + self.parameters.height**2)
        return np.linalg.cholesky(prior + np.diag(1 / self.about))

    def _between(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """The prior covariance of asymptotes, their common mean's included."""
        a, b = a / self.parameters.lengths, b / self.parameters.lengths
        squared = sum(np.subtract.outer(x, y) ** 2 for x, y in zip(a.T, b.T, strict=True))
        squared = np.nan_to_num(squared, nan=np.inf)
        distance = np.sqrt(5 * np.minimum(squared, 1e4))
        return 1 + self.parameters.height**2 * (1 + distance + distance**2 / 3) * np.exp(-distance)


def _solve(root: np.ndarray, right: np.ndarray) -> np.ndarray:
    """``x`` of ``root @ x = right``, for a lower triangle."""
    from scipy import linalg

    return linalg.solve_triangular(root, right, lower=True)
