"""Curves that are predicted: against the same model written out, and against curves whose end is known."""

import numpy as np
import pytest
from scipy import stats

import jaxnet as jn
from jaxnet.search.curve_extrapolation import NOISE, _shapes, extrapolate
from tests.search.simulation import learning_curves, simulate


def test_the_prediction_is_that_of_the_model_written_out():
    """By scipy's multivariate normal: the probability of a curve, and its last score given the curve."""
    curves, units = learning_curves(np.random.default_rng(0), 3, 12)[:, :7], 12
    shapes, additions, prior = _shapes(7, units)
    prediction = extrapolate(curves, units)
    count = len(shapes) * len(NOISE)
    assert prediction.weights.shape == (3, count)
    np.testing.assert_allclose(prediction.weights.sum(axis=1), 1)
    for i, curve in enumerate(curves):
        scale = max(np.ptp(curve), curve[-1] - curves.min())
        logs, means, deviations = np.empty((3, len(shapes), len(NOISE)))
        for g, shape in enumerate(shapes):
            terms = np.stack([np.ones(7), shape, *additions], axis=1)
            signal = scale**2 * terms @ np.diag([1, 1, 0.01, 0.01, 0.01]) @ terms.T
            for s, noise in enumerate(NOISE * scale):
                total = signal + noise**2 * np.eye(7)
                logs[g, s] = prior[g] + stats.multivariate_normal(np.full(7, curve[-1]), total).logpdf(curve)
                gain = scale**2 * np.linalg.solve(total, np.ones(7))  # last has covariance scale^2 with each score
                means[g, s] = curve[-1] + gain @ (curve - curve[-1])
                deviations[g, s] = np.sqrt(scale**2 - scale**2 * gain.sum() + noise**2)
        weights = np.exp(logs - logs.max())
        np.testing.assert_allclose(prediction.weights[i], (weights / weights.sum()).ravel(), rtol=1e-4, atol=1e-9)
        np.testing.assert_allclose(prediction.means[i], means.ravel(), rtol=1e-5)
        np.testing.assert_allclose(prediction.deviations[i], deviations.ravel(), rtol=1e-5)
        mixture = weights / weights.sum()
        below = (mixture * stats.norm(means, deviations).cdf(0.4)).sum()
        np.testing.assert_allclose(prediction.reaches(0.4)[i], below, rtol=1e-4)
        np.testing.assert_allclose(prediction.mean[i], (mixture * means).sum(), rtol=1e-5)


def test_the_prediction_knows_no_unit_and_no_origin():
    curves = learning_curves(np.random.default_rng(1), 20, 30)[:, :10]
    plain, other = extrapolate(curves, 30), extrapolate(1000 * curves - 7, 30)
    np.testing.assert_allclose(other.mean, 1000 * plain.mean - 7, rtol=1e-6)
    np.testing.assert_allclose(other.reaches(300.0), plain.reaches(0.307), rtol=1e-5)


def test_curves_without_noise_are_continued():
    x = np.arange(1, 101)
    curves = np.array(
        [0.1 + 0.9 * x**-0.5, 0.3 + 0.5 * np.exp(-x / 20), 0.2 + 0.3 / (1 + (x / 30) ** 2), np.full(100, 0.7)]
    )
    np.testing.assert_allclose(extrapolate(curves[:, :60], 100).mean, curves[:, -1], atol=0.01)


@pytest.mark.parametrize("done", [5, 10, 20])
def test_a_stated_probability_is_the_share_of_curves(done):
    """Of 600 simulated curves, which the model knows only roughly: in the middle to 0.13, where trials are stopped to
    0.02, of which half is chance."""
    curves = learning_curves(np.random.default_rng(2), 600, 50)
    prediction = extrapolate(curves[:, :done], 50)
    quantile = (prediction.weights * stats.norm(prediction.means, prediction.deviations).cdf(curves[:, -1:])).sum(
        axis=1
    )
    for probability in (0.05, 0.25, 0.5, 0.75, 0.95):
        assert abs((quantile < probability).mean() - probability) < 0.13
    assert (quantile < 0.05).mean() < 0.07


def test_of_the_trials_that_are_stopped_few_would_have_reached_the_best():
    """In 40 searches of 10 trials, which are stopped with a probability below 5 %."""
    generator, stopped, reached = np.random.default_rng(3), 0, 0
    for _ in range(40):
        curves = learning_curves(generator, 10, 50)
        _, done = simulate(jn.search.curve_extrapolation(), curves)
        for i in np.flatnonzero(done < 50):  # the best at the look where it was stopped
            best = min(curves[j, : min(done[j], done[i])].min() for j in range(10))
            stopped, reached = stopped + 1, reached + (curves[i, -1] <= best)
        assert (done == 50).any()
    assert stopped > 200  # of 400
    assert stats.binom(stopped, 0.05).cdf(reached) < 0.95


def test_who_is_stopped_by_hand():
    x = np.arange(1, 31)
    flat, falling, leader = np.full(30, 0.5), 0.9 - 0.028 * x, 0.1 + 0.4 / x
    rising = np.where(x < 3, 0.05, 0.05 + 0.04 * x)  # the best score was its own, and it will never see it again
    curves = np.stack([flat, falling, leader])
    log, done = simulate(jn.search.curve_extrapolation(start=10, every=10), curves)
    assert log == [([0, 1, 2], 10), ([1, 2], 20), ([1, 2], 30)]
    log, done = simulate(jn.search.curve_extrapolation(start=10, every=10), np.stack([flat, rising]))
    assert done.tolist() == [30, 10]  # somebody always goes on
    curves[2, 12:] = np.nan
    assert simulate(jn.search.curve_extrapolation(start=10, every=10), curves)[1].tolist() == [10, 30, 20]
    curves[:] = np.nan
    assert simulate(jn.search.curve_extrapolation(start=10, every=10), curves)[1].tolist() == [10, 10, 10]
    assert simulate(jn.search.curve_extrapolation(start=50), np.stack([flat, falling]))[1].tolist() == [30, 30]
    assert simulate(jn.search.curve_extrapolation(), np.ones((4, 20)))[1].tolist() == [20] * 4


def test_what_makes_no_sense_is_refused():
    for threshold in (0, 1, -0.5):
        with pytest.raises(ValueError, match="threshold is a probability between 0 and 1"):
            jn.search.curve_extrapolation(threshold)
    with pytest.raises(ValueError, match="start must be at least 1"):
        jn.search.curve_extrapolation(start=0)
    with pytest.raises(ValueError, match="every must be at least 1"):
        jn.search.curve_extrapolation(every=0)
