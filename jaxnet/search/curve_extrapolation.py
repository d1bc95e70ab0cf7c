"""A schedule that predicts each trial's last score from its curve so far."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from jaxnet.data import check_count
from jaxnet.search.schedules import Rung, Schedule

NOISE = np.geomspace(2e-3, 1, 12)  # standard deviations of a single score about its curve, over the curve's scale
ADDED = 0.1  # standard deviation of the additions to a shape, over the curve's scale


def curve_extrapolation(threshold: float = 0.05, start: int = 5, every: int = 5) -> Schedule:
    """Stops a trial whose last score will, with probability above ``1 - threshold``, not reach the best score so far.

    The probability is a prediction from the trial's own curve (``extrapolate``). The best score so far is that of any
    trial after any number of units. The trial with the lowest predicted last score is never stopped. Scores that fall
    by a schedule of the learning rate can't be foreseen: a curve is taken to flatten as it has begun to.

    Args:
      threshold: the probability below which a trial is stopped.
      start: units before any trial is stopped; from fewer than 4 hardly anything can be said.
      every: units from look to look.

    Raises:
      TypeError, ValueError: for a threshold outside (0, 1), and for units that aren't positive integers.

    Source: Domhan, Springenberg, Hutter, "Speeding up automatic hyperparameter optimization of deep neural networks by
    extrapolation of learning curves" (IJCAI 2015). There trials run one after the other, the best is that of finished
    ones, and looks are 30 epochs apart; here they run side by side. ``extrapolate`` says how the model differs.

    >>> x = np.arange(1, 21)
    >>> curves = np.array([0.1 + 0.9 / x, 0.5 + 0.5 / x, np.exp(-x / 20)])  # to 0.145, 0.525, 0.368
    >>> steps = curve_extrapolation().rungs(3, 20)
    >>> next(steps)[0].units, steps.send(np.where(x <= 5, curves, np.nan))[0].ids.tolist()
    (5, [0, 2])
    """
    if not 0 < threshold < 1:
        raise ValueError(f"curve_extrapolation: threshold is a probability between 0 and 1, got {threshold!r}")
    check_count("curve_extrapolation: start", start)
    check_count("curve_extrapolation: every", every)

    def rungs(trials: int, units: int):
        ids, done = np.arange(trials), min(start, units)
        scores = yield [Rung(ids, done, len(ids))]
        while done < units:
            ids = ids[np.isfinite(scores[ids, done - 1])]
            if not len(ids):
                return
            last = extrapolate(scores[ids, :done], units)
            likely = last.reaches(np.nanmin(scores)) >= threshold
            likely[np.argmin(last.mean)] = True
            ids, done = ids[likely], min(done + every, units)
            scores = yield [Rung(ids, done, len(ids))]

    label = f"curve_extrapolation({threshold}, {start}, {every})"
    return Schedule(lambda units: None, rungs, label, lambda trials, units: float(units), pauses=False)


class Prediction(NamedTuple):
    """Of the last score of each trial, a mixture of normal distributions: ``weights``, ``means`` and ``deviations`` are
    ``[trials, components]``."""

    weights: np.ndarray
    means: np.ndarray
    deviations: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """The mean of each trial's last score."""
        return (self.weights * self.means).sum(axis=1)

    def reaches(self, score: float) -> np.ndarray:
        """The probability that each trial's last score is at most ``score``."""
        from scipy import special  # imported when used: it is slow

        return (self.weights * special.ndtr((score - self.means) / self.deviations)).sum(axis=1)


def extrapolate(curves: np.ndarray, units: int) -> Prediction:
    """Predicts the score after ``units`` from curves ``[trials, units so far]``, finite.

    A curve is ``last + drop * shape(unit) + noise``, where the shape falls from 1 at the first unit to 0 at ``units``.
    There are four families of shapes, all that the paper's eleven have in common with that form once asymptote and
    amplitude are free: powers (pow3, pow4), stretched exponentials (exp4, Janoschek, Weibull), MMF (Hill, log power,
    MMF) and ilog2. Vapor pressure and log-log-linear, which have no asymptote, are left out. A little of three shapes
    that are always the same is added, a slow, a middling and a fast one, since no curve has exactly a shape of ours.

    Given shape and noise, last, drop and the additions are normal a priori (last about the latest score, the others
    about 0, with the curve's scale as deviation, a tenth of it for the additions; the scale is the curve's range, or
    its distance from the best if that is larger). So their posterior, and the probability of the curve, are known in
    closed form. A priori families, shapes in a family and the logarithm of the noise are uniform, on a grid, and the
    prediction is the sum over it. The paper adds all families with weights inside one curve, wants the last score to be
    better than the first, and draws from the posterior by Markov chains; here a curve may also rise, and nothing is
    drawn, so that 1,000 curves of 50 units take half a second.

    >>> prediction = extrapolate(np.array([[1.0, 0.7, 0.55, 0.46, 0.4], [0.5, 0.5, 0.5, 0.5, 0.5]]), 50)
    >>> (prediction.mean < [0.25, 0.55]).tolist(), (prediction.reaches(0.2) > 0.05).tolist()
    ([True, True], [True, False])
    """
    from scipy import special

    done = curves.shape[1]
    shapes, additions, prior = _shapes(done, units)
    noise = NOISE**-2.0
    terms = np.empty((len(shapes), done, 2 + len(additions)))  # what a curve is the sum of
    terms[:, :, 0], terms[:, :, 1], terms[:, :, 2:] = 1, shapes, additions.T
    widths = np.array([1.0, 1.0] + [ADDED] * len(additions))
    precision = np.einsum("gtk,gtl->gkl", terms, terms)[:, None] * noise[:, None, None] + np.diag(widths**-2)
    covariance, volume = np.linalg.inv(precision), np.linalg.slogdet(precision)[1]  # [shapes, noises, ...]
    deviations = np.sqrt(covariance[:, :, 0, 0] + 1 / noise)
    prior = prior[:, None] + done / 2 * np.log(noise) - volume / 2

    best, made = curves.min(), []
    for part in np.array_split(curves, -(-len(curves) // 256)):  # what is in memory at once is bounded
        centre = part[:, -1]
        scale = np.maximum(np.ptp(part, axis=1), centre - best)
        scale = np.where(scale > 0, scale, np.maximum(np.abs(centre), 1.0))
        y = (part - centre[:, None]) / scale[:, None]
        weighted = np.tensordot(y, terms, (1, 1))  # [trials, shapes, terms]
        means = np.einsum("gskl,ngl->ngsk", covariance, weighted) * noise[:, None]
        fit = (np.einsum("ngsk,ngk->ngs", means, weighted) - (y**2).sum(axis=1)[:, None, None]) * noise
        weights = special.softmax(prior + fit / 2, axis=(1, 2))
        made.append(
            (weights, centre[:, None, None] + scale[:, None, None] * means[..., 0], scale[:, None, None] * deviations)
        )
    return Prediction(*(np.concatenate(parts).reshape(len(curves), -1) for parts in zip(*made, strict=True)))


def _shapes(done: int, units: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shapes and additions at the units so far, ``[..., done]``, and the logarithms of the shapes' priors."""
    x = np.append(np.arange(1.0, done + 1), units)
    times = np.geomspace(0.5, 2 * units, 18)
    shifts, powers = (0, 0.03 * units, 0.1 * units, 0.3 * units), (0.1, 0.2, 0.35, 0.5, 0.7, 1, 1.4, 2, 4)
    slow = np.log(2) / np.log(x + 1)
    families = [
        [((x + shift) / (1 + shift)) ** -power for shift, power in itertools.product(shifts, powers)],
        [np.exp(-((x / time) ** power)) for time, power in itertools.product(times, (0.5, 0.7, 1, 1.4, 2))],
        [1 / (1 + (x / time) ** power) for time, power in itertools.product(times, (0.5, 0.7, 1, 1.4, 2, 3))],
        [slow],
    ]

    def between(shapes):
        shapes = np.array(shapes)
        return ((shapes - shapes[:, -1:]) / (shapes[:, :1] - shapes[:, -1:]))[:, :-1]

    prior = np.concatenate([np.full(len(family), -np.log(len(family))) for family in families])
    shapes = between(list(itertools.chain.from_iterable(families)))
    return shapes, between([slow, np.exp(-3 * x / units), np.exp(-10 * x / units)]), prior
