"""Freeze-thaw: the model against a Gaussian process over all scores at once, and who is taken up again."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxnet as jn
from jaxnet.search.freeze_thaw import CurveModel, Parameters
from jaxnet.search.schedules import units_on_average
from tests.search.simulation import simulate

SLOW = Parameters(np.array([0.3, 0.3]), height=1.0, decay=2.0, alpha=1.0, beta=3.0, noise=0.1)


def curves_of_the_model(generator, trials, units, parameters=SLOW):
    """Points ``[trials, 2]`` and curves ``[trials, units]`` drawn from the model without its common mean."""
    points = generator.random((trials, 2))
    model = CurveModel(parameters, points, np.zeros((trials, units)), np.zeros(trials, int))
    asymptotes = generator.multivariate_normal(np.zeros(trials), model.asymptotes()[1] - 1)
    falls = generator.multivariate_normal(np.zeros(units), model.covariance, size=trials)
    return points, asymptotes[:, None] + falls + parameters.noise * generator.normal(size=(trials, units))


def test_the_model_is_a_gaussian_process_over_all_scores():
    """The same numbers from the covariance of every score with every other one, written out."""
    generator = np.random.default_rng(0)
    p = Parameters(np.array([0.3, 0.5]), height=1.3, decay=0.8, alpha=0.7, beta=1.5, noise=0.1)
    points, curves = curves_of_the_model(generator, 6, 8, p)
    points[5] = np.nan  # not proposed yet
    done = np.array([3, 0, 8, 1, 5, 0])
    model = CurveModel(p, points, curves, done)

    def covariance(i, t, j, u, same=False):
        distance = np.sqrt(5 * (((points[i] - points[j]) / p.lengths) ** 2).sum())
        matern = 0.0 if np.isnan(distance) else (1 + distance + distance**2 / 3) * np.exp(-distance)
        value = 1 + p.height**2 * (1.0 if i == j else matern)
        if i == j:
            value += p.decay**2 * (p.beta / (10 * (t + u) / 8 + p.beta)) ** p.alpha + (p.noise**2 if same else 0)
        return value

    seen = [(i, t) for i in range(6) for t in range(1, done[i] + 1)]
    total = np.array([[covariance(*a, *b, same=a == b) for b in seen] for a in seen])
    scores = np.array([curves[i, t - 1] for i, t in seen])
    expected = stats.multivariate_normal(np.zeros(len(scores)), total).logpdf(scores)
    np.testing.assert_allclose(model.log_likelihood(), expected, rtol=1e-9)
    means, deviations = model.last()
    for i in range(6):
        cross = np.array([covariance(i, 8, *b) for b in seen])
        gain = np.linalg.solve(total, cross)
        np.testing.assert_allclose(means[i], gain @ scores, rtol=1e-8)
        np.testing.assert_allclose(deviations[i] ** 2, covariance(i, 8, i, 8) - gain @ cross, rtol=1e-8)


def test_parameters_are_found_again():
    points, curves = curves_of_the_model(np.random.default_rng(1), 40, 20)
    done = np.full(40, 20)
    usual = Parameters.usual(2)
    fitted = usual.fitted(points, curves, done)
    better, true = (CurveModel(p, points, curves, done).log_likelihood() for p in (fitted, SLOW))
    assert better > true > CurveModel(usual, points, curves, done).log_likelihood()
    assert 0.09 < fitted.noise < 0.11 and 1 < fitted.decay < 4


def test_who_is_taken_up_by_hand():
    """Far apart, so that no curve tells of another: first what falls towards the best, or is unknown."""
    p = Parameters(np.array([1e-3]), height=0.5, decay=1.0, alpha=1.0, beta=1.0, noise=0.01)
    points = np.linspace(0, 1, 5)[:, None]
    x = np.arange(1, 11)
    curves = np.array([np.full(10, 0.0), np.full(10, 1.0), 0.1 + 0.8 / x, 0.9 + 0.8 / x, np.full(10, np.nan)])
    done = np.array([10, 5, 5, 5, 0])
    model = CurveModel(p, points, curves, done)
    alive = np.ones(5, bool)
    means, deviations = model.last()
    gains = []
    for i in range(1, 5):  # what another unit takes from the variance doesn't depend on the score
        later = CurveModel(p, points, np.nan_to_num(curves), done + (np.arange(5) == i)).last()[1][i]
        news = np.sqrt(deviations[i] ** 2 - later**2)
        above = (means[0] - means[i]) / news  # the best is trial 0, which has all its units
        gains.append(news * (above * stats.norm.cdf(above) + stats.norm.pdf(above)))
    order = list(model.most_promising(5, 1, alive))
    assert order == (1 + np.argsort(-np.array(gains))).tolist()
    assert set(order[:2]) == {2, 4}
    assert list(model.most_promising(5, 1, alive & (np.arange(5) != 2))) == [i for i in order if i != 2]


def test_the_trials_of_a_turn_are_diverse():
    """Of two configurations in one place and one elsewhere that promises a little less, both places are tried."""
    p = Parameters(np.array([0.2]), height=1.0, decay=0.5, alpha=1.0, beta=1.0, noise=0.01)
    points = np.array([[0.1], [0.3], [0.3], [0.9], [0.75]])
    curves = np.full((5, 10), np.nan)
    curves[0], curves[4] = -0.5, 0.5
    model = CurveModel(p, points, curves, np.array([10, 0, 0, 0, 10]))
    alive = np.ones(5, bool)
    assert list(model.most_promising(2, 10, alive)) == [1, 3]
    assert next(model.most_promising(1, 10, alive & (np.arange(5) != 1))) == 2  # alone, it is as good as its twin


def test_it_finds_the_best_more_often_than_halving_and_drawing_at_equal_cost():
    """With a tenth of all units, on curves of its own prior: in 20 such searches 0.9, 0.7 and 0.1 found it."""
    found = {"freeze_thaw": 0, "successive_halving": 0, "full": 0}
    for seed in range(8):
        points, curves = curves_of_the_model(np.random.default_rng(seed), 48, 81)
        best = curves[:, -1].argmin()
        _, done = simulate(jn.search.freeze_thaw(0.099), curves, points)
        _, halved = simulate(jn.search.successive_halving(), curves)
        assert done.sum() <= halved.sum() < 0.1 * 48 * 81
        found["freeze_thaw"] += done[best] == 81
        found["successive_halving"] += halved[best] == 81
        found["full"] += best < 5
    assert found["freeze_thaw"] >= 7
    assert found["freeze_thaw"] >= found["successive_halving"] + 2
    assert found["successive_halving"] > found["full"]


@pytest.mark.parametrize("budget, batch, every", [(0.2, None, None), (0.5, 5, 3), (0.001, 1, 1), (1.0, 30, 40)])
def test_a_budget_is_kept_and_the_best_trains_to_its_end(budget, batch, every):
    points, curves = curves_of_the_model(np.random.default_rng(2), 30, 12)
    schedule = jn.search.freeze_thaw(budget, batch=batch, every=every)
    log, done = simulate(schedule, curves, points)
    total = units_on_average(schedule, 30, 12) * 30
    assert total == max(int(budget * 360), 12) and done.max() == 12
    assert total - 12 - (batch or 1) * (every or 1) <= done.sum() <= total
    again, _ = simulate(schedule, 1000 * curves - 7, points)
    assert log == again  # scores have no unit


def test_what_diverged_is_not_taken_up_again():
    points, curves = curves_of_the_model(np.random.default_rng(3), 16, 10)
    curves[::2, 3:] = np.nan
    _, done = simulate(jn.search.freeze_thaw(0.6, every=2), curves, points)
    assert done[::2].max() <= 4 and done[1::2].max() == 10
    curves[:, 4:] = np.nan  # and where all of them do, it ends
    assert simulate(jn.search.freeze_thaw(0.6, every=2), curves, points)[1].max() <= 10


@pytest.mark.parametrize("budget", [0.01, 0.1, 0.5])
def test_where_all_that_were_tried_diverged_others_begin(budget):
    points, curves = curves_of_the_model(np.random.default_rng(3), 16, 10)
    curves[:-1] = np.nan
    _, done = simulate(jn.search.freeze_thaw(budget, batch=3), curves, points)
    assert done[-1] == 10


def test_where_configurations_are_not_known_yet_they_are_taken_in_order():
    _, curves = curves_of_the_model(np.random.default_rng(4), 20, 10)
    log, done = simulate(jn.search.freeze_thaw(0.3, batch=2), curves, np.full((20, 2), np.nan))
    started = [i for ids, units in log if units == 1 for i in ids]
    assert started == sorted(started) and done.max() == 10


def test_what_makes_no_sense_is_refused():
    for budget in (0, 1.5):
        with pytest.raises(ValueError, match=r"budget is a share of the units of all trials, in \(0, 1\]"):
            jn.search.freeze_thaw(budget)
    with pytest.raises(ValueError, match="freeze_thaw: batch must be at least 1"):
        jn.search.freeze_thaw(batch=0)
    with pytest.raises(ValueError, match="freeze_thaw: every must be at least 1"):
        jn.search.freeze_thaw(every=0)


@pytest.mark.parametrize("sampler", [jn.search.random(), jn.search.bayesian(4)], ids=["random", "bayesian"])
def test_paused_lanes_go_on_where_they_were(sampler, tmp_path, key):
    """Each curve is the beginning of the trial's own; interrupted or not, the table is the same."""
    program = jn.search.Program(
        lambda hp, key: jnp.ones(()),
        lambda hp, x, key: jnp.where(hp.rate > 0.9, jnp.nan, x * (1 - 0.3 * hp.rate)),
        lambda hp, x: {"score": x + (hp.floor - 0.5) ** 2},
    )
    space = jn.Space(rate=jn.uniform(0, 1), floor=jn.uniform(0, 1))
    options = {"trials": 12, "epochs": 10, "key": key, "sampler": sampler, "schedule": jn.search.freeze_thaw(0.4)}
    result = jn.search.run(program, space, directory=tmp_path, **options)
    units, rate = result.table["units"], result.table["rate"]
    assert 0.3 * 12 * 10 < units.sum() <= 0.4 * 12 * 10 and result.best["units"] == 10
    assert len(set(units.tolist())) > 3  # who was paused was not always taken up
    expected = (1 - 0.3 * rate[:, None]) ** np.arange(1, 11) + (result.table["floor"][:, None] - 0.5) ** 2
    trained = np.isfinite(result.curves)
    assert (trained.sum(axis=1) == units).all() and not trained[rate > 0.9].any()
    np.testing.assert_allclose(result.curves[trained], expected[trained], rtol=1e-5)
    again = jn.search.run(program, space, directory=tmp_path, **options)
    np.testing.assert_array_equal(again.curves, result.curves)
