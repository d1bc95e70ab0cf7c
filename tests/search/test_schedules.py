"""Schedules: promotions worked out by hand, counts as published, and lanes that go on where they were."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.search import schedules
from jaxnet.search.schedules import Rung, rehearsed
from tests.search.simulation import simulate


def constant(*scores, units=9):
    return np.repeat(np.array(scores, float)[:, None], units, axis=1)


def test_successive_halving_promotes_the_best_third():
    log, done = simulate(jn.search.successive_halving(), constant(5, 1, 4, 8, 2, 9, 3, 7, 6))
    assert log == [(list(range(9)), 1), ([1, 4, 6], 3), ([1], 9)]
    assert done.sum() == 9 + 3 * 2 + 6


def test_curves_that_cross_are_judged_at_the_rung():
    curves = np.array([[0.1, 0.9, 0.9, 0.9], [0.2, 0.1, 0.1, 0.1], [0.3, 0.0, 0.0, 0.0], [0.4, 0.4, 0.4, 0.3]])
    log, _ = simulate(jn.search.successive_halving(eta=2), curves)
    assert log == [([0, 1, 2, 3], 1), ([0, 1], 2), ([1], 4)]


def test_ties_go_to_the_earlier_trial():
    log, _ = simulate(jn.search.successive_halving(), constant(*[1] * 9))
    assert log[1:] == [([0, 1, 2], 3), ([0], 9)]


def test_what_diverged_is_not_promoted():
    curves = constant(1, 2, 3, 4, 5, 6, 7, 8, 9)
    curves[[0, 1, 2, 4, 5, 6, 7]] = np.nan
    log, _ = simulate(jn.search.successive_halving(), curves)
    assert log[1:] == [([3, 8], 3), ([3], 9)]  # three places, but only two are finite
    log, _ = simulate(jn.search.successive_halving(), np.full((9, 9), np.nan))
    assert log == [(list(range(9)), 1)]


def test_successive_halving_has_as_many_rungs_as_trials_and_units_allow():
    assert [units for _, units in simulate(jn.search.successive_halving(), constant(*range(4), units=81))[0]] == [
        27,
        81,
    ]
    assert [units for _, units in simulate(jn.search.successive_halving(), constant(*range(99), units=5))[0]] == [1, 5]
    assert [units for _, units in simulate(jn.search.successive_halving(least=4), constant(*range(99)))[0]] == [9]
    assert simulate(jn.search.successive_halving(), constant(1.0))[0] == [([0], 9)]


@pytest.mark.parametrize(
    "counts, starts, units", [("algorithm", [81, 34, 15, 8, 5], None), ("table", [81, 27, 9, 6, 5], 1404)]
)
def test_hyperband_has_the_published_counts(counts, starts, units):
    """Li et al. 2018, R = 81 and eta = 3: Algorithm 1, and Table 1 with its rungs."""
    schedule = jn.search.hyperband(counts=counts)
    assert schedule.trials(81) == sum(starts)
    log, done = simulate(schedule, np.tile(np.arange(sum(starts), dtype=float)[:, None], 81))
    assert [len(ids) for ids, _ in log[:5]] == starts
    assert [rung_units for _, rung_units in log[:5]] == [1, 3, 9, 27, 81]
    if units is not None:
        assert done.sum() == units
        brackets = {start: [] for start in starts}
        firsts = dict(zip(np.cumsum([0, *starts])[:-1].tolist(), starts, strict=True))
        for ids, rung_units in log:
            brackets[firsts[ids[0]]].append((len(ids), rung_units))
        assert brackets == {
            81: [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
            27: [(27, 3), (9, 9), (3, 27), (1, 81)],
            9: [(9, 9), (3, 27), (1, 81)],
            6: [(6, 27), (2, 81)],
            5: [(5, 81)],
        }


@pytest.mark.parametrize("units, eta, brackets", [(243, 3, 6), (1000, 10, 4), (1, 3, 1), (2, 3, 1), (80, 3, 4)])
def test_hyperband_takes_its_logarithm_in_integers(units, eta, brackets):
    rungs = next(jn.search.hyperband(eta).rungs(jn.search.hyperband(eta).trials(units), units))
    assert len(rungs) == brackets


def test_median_stopping():
    """At each look, out goes the trial whose best is above the median of the running averages."""
    curves = np.array([[4.0, 3.0, 2.0, 1.0], [3.0, 3.0, 3.0, 3.0], [2.0, 2.0, 2.0, 2.0], [5.0, 1.0, 1.0, 1.0]])
    log, done = simulate(jn.search.median_stopping(start=2), curves)
    # After 2 units the averages are 3.5, 3, 2, 3: median 3, best 3, 3, 2, 1: all stay. After 3 units they are 3, 3, 2,
    # 7/3: median 2 2/3, best 2, 3, 2, 1: trial 1 goes.
    assert log == [([0, 1, 2, 3], 2), ([0, 1, 2, 3], 3), ([0, 2, 3], 4)]
    assert done.tolist() == [4, 3, 4, 4]


def test_median_stopping_drops_what_diverged():
    curves = constant(1, 2, 3, units=3)
    curves[0, 1:] = np.nan
    log, _ = simulate(jn.search.median_stopping(), curves)
    assert log == [([0, 1, 2], 1), ([0, 1], 2), ([1], 3)]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: jn.search.successive_halving(eta=1), "eta must be at least 2"),
        (lambda: jn.search.successive_halving(least=0), "least must be at least 1"),
        (lambda: jn.search.hyperband(eta=0), "eta must be at least 1"),
        (lambda: jn.search.hyperband(counts="both"), 'counts must be "algorithm" or "table", got \'both\''),
        (lambda: jn.search.median_stopping(start=0), "start must be at least 1"),
    ],
)
def test_schedules_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "taken, kind, message",
    [
        ([], ValueError, "the schedule trains no trial"),
        ([[]], TypeError, r"must yield lists of jn.search.Rung, with one at least, got \[\]"),
        ([Rung([0], 2)], TypeError, r"must yield lists of jn.search.Rung, .* got Rung\(ids=\[0\]"),
        ([[Rung([0.5], 2)]], TypeError, "ids must be a list or an array of integers"),
        ([[Rung([0, 3], 2)]], ValueError, r"there are trials 0 to 2, got \[3\]"),
        ([[Rung([0, 0], 2)]], ValueError, r"\[0\] come twice"),
        ([[Rung([0, 1], 1), Rung([1, 2], 2)]], ValueError, r"\[1\] come twice"),
        ([[Rung([0], 5)]], ValueError, "a trial trains for 4 units at most, got .*units=5"),
        ([[Rung([0], 1.5)]], TypeError, "a rung's units must be an integer"),
        ([[Rung([0], 2, 1)], [Rung([0], 1)]], ValueError, r"trials \[0\] have already trained for more than"),
        (
            [[Rung([0, 1, 2], 1, 1)], [Rung([1], 2, 1)], [Rung([0], 2)]],
            ValueError,
            "has trial 0, too; give the earlier",
        ),
    ],
)
def test_steps_that_can_not_be_taken_are_named(taken, kind, message):
    def rungs(trials, units):
        yield from (step for step in taken)

    with pytest.raises(kind, match=message):
        rehearsed(jn.search.Schedule(lambda units: None, rungs), 3, 4)


# In a search.


def problem(examples=60, seed=0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(3, size=examples)
    centres = np.random.default_rng(9).normal(size=(3, 5)) * 1.5
    return (centres[labels] + generator.normal(size=(examples, 5))).astype(np.float32), labels.astype(np.int32)


TRAIN, VALIDATION = problem(), problem(40, seed=1)
SPACE = jn.Space(rate=jn.log_uniform(1e-2, 1e-1), drop=jn.uniform(0.0, 0.5), hidden=jn.log_integers(2, 24))


def trial(hp):
    net = jn.serial(jn.dense(hp.hidden), jax.nn.relu, jn.dropout(hp.drop), jn.dense(3))
    return jn.Trial(net, jn.losses.softmax_cross_entropy, optax.sgd(hp.rate, momentum=0.9), batch_size=16)


def search(schedule=None, trials=9, **options):
    return jn.search.run(
        trial, SPACE, TRAIN, VALIDATION, trials=trials, epochs=9, key=jax.random.key(3), schedule=schedule, **options
    )


@pytest.fixture(scope="module")
def full():
    return search()


@pytest.fixture(scope="module")
def halved():
    return search(jn.search.successive_halving())


def test_promoted_lanes_go_on_where_they_were(full, halved):
    """Each curve is the beginning of the curve without a schedule, and the survivors are the best at each rung."""
    units = halved.table["units"]
    assert sorted(units.tolist()) == [1] * 6 + [3] * 2 + [9]
    for i in range(9):
        np.testing.assert_allclose(halved.curves[i, : units[i]], full.curves[i, : units[i]], rtol=1e-5)
        assert np.isnan(halved.curves[i, units[i] :]).all()
        assert halved.table["score"][i] == halved.curves[i, units[i] - 1]
        assert halved.table["validation_loss"][i] == halved.table["score"][i]
    order = np.argsort(full.curves[:, 0])[:3]
    assert set(np.flatnonzero(units > 1)) == set(order)
    assert units[order[np.argmin(full.curves[order, 2])]] == 9


def test_the_best_is_the_one_that_trained_longest(halved):
    assert halved.best["units"] == 9 and halved.best["status"] == "completed"
    assert [row["units"] for row in halved.ranked()] == sorted(halved.table["units"], reverse=True)
    assert sorted(halved.table["status"]) == ["completed"] + ["stopped"] * 8
    params, state = halved.network()[1:]
    measured = jn.evaluate(trial(halved.hyperparameters(halved.best)), params, state, VALIDATION)
    np.testing.assert_allclose(measured["loss"], halved.best["score"], rtol=1e-5)
    stopped = halved.ranked()[-1]  # its network was let go, so it is trained again, as far
    params, state = halved.network(stopped)[1:]
    measured = jn.evaluate(trial(halved.hyperparameters(stopped)), params, state, VALIDATION)
    np.testing.assert_allclose(measured["loss"], stopped["score"], rtol=1e-4)


@pytest.mark.parametrize("lanes", [1, 2, 9])
def test_chunks_change_no_promotion(lanes, halved):
    other = search(jn.search.successive_halving(), lanes=lanes)
    assert other.table["units"].tolist() == halved.table["units"].tolist()
    np.testing.assert_allclose(other.curves, halved.curves, rtol=1e-4)


def test_survivors_move_into_a_smaller_program(monkeypatch):
    """Where a compilation costs less than the lanes that would stay empty."""
    monkeypatch.setattr("jaxnet.search.lanes.compile_seconds", lambda: 0.0)
    lowered = []
    lower = jn.search.lanes._lower

    def counted(program, group, lanes, keys, devices):
        lowered.append(lanes)
        return lower(program, group, lanes, keys, devices)

    monkeypatch.setattr("jaxnet.search.lanes._lower", counted)
    small = search(jn.search.successive_halving(), lanes=8)
    assert 8 in lowered and 1 in lowered and set(lowered) <= {8, 4, 2, 1}
    assert sorted(small.table["units"].tolist()) == [1] * 6 + [3] * 2 + [9]


def test_hyperband_in_a_search_says_how_many_trials_it_wants(full):
    result = search(jn.search.hyperband(), trials=None)
    assert len(result) == jn.search.hyperband().trials(9) == 9 + 5 + 3
    np.testing.assert_allclose(result.curves[0, 0], full.curves[0, 0], rtol=1e-5)
    assert [int(u) for u in result.table["units"][-3:]] == [9, 9, 9]
    assert result.plan.expected == schedules.units_on_average(jn.search.hyperband(), 17, 9)
    assert "17 trials of 4" in str(result.plan) and "(at most 9) units" in str(result.plan)
    with pytest.raises(TypeError, match="schedule must be a jn.search.Schedule, such as jn.search.hyperband"):
        search(jn.search.hyperband, trials=None)
    with pytest.raises(ValueError, match="the schedule asks for 17 trials at 9 epochs, got trials=5"):
        search(jn.search.hyperband(), trials=5)


def test_a_lane_that_diverges_is_never_promoted_and_a_search_of_such_lanes_ends():
    program = jn.search.Program(
        lambda hp, key: jnp.ones(()),
        lambda hp, x, key: jnp.where(hp.rate > 0.5, jnp.nan, x * hp.rate),
        lambda hp, x: {"score": x},
    )
    options = {"trials": 27, "epochs": 9, "key": jax.random.key(0), "schedule": jn.search.successive_halving()}
    result = jn.search.run(program, jn.Space(rate=jn.uniform(0, 1)), **options)
    diverged = result.table["rate"] > 0.5
    assert (result.table["status"][diverged] == "diverged").all() and 0 < diverged.sum() < 27
    assert result.best["rate"] == result.table["rate"].min() and result.best["units"] == 9
    nothing = jn.search.run(program, jn.Space(rate=jn.uniform(0.6, 1)), **options)
    assert (nothing.table["status"] == "diverged").all()


def test_a_schedule_of_ones_own():
    """Trial 1 is paused, and taken up again after the others."""

    def rungs(trials, units):
        yield [jn.search.Rung(np.arange(trials), 2, trials)]
        yield [jn.search.Rung([0, 2], units)]
        scores = yield [jn.search.Rung(np.array([1]), units)]
        assert np.isfinite(scores).all()

    result = search(jn.search.Schedule(lambda units: 3, rungs), trials=None)
    np.testing.assert_allclose(result.curves, search(trials=3).curves, rtol=1e-5)


def test_trials_that_were_not_kept_are_named():
    program = jn.search.Program(lambda hp, key: hp.x, lambda hp, x, key: x, lambda hp, x: {"score": x})

    def rungs(trials, units):
        yield [Rung(range(3), 1, 1)]
        yield [Rung([1], units)]  # which isn't the best

    with pytest.raises(
        ValueError, match=r"trains trials \[1\] on, whose lanes weren't kept: after a rung those of the"
    ):
        jn.search.run(
            program, jn.Space(x=jn.choice(0.0, 1.0, 2.0)), epochs=2, key=jax.random.key(0), sampler=jn.search.grid(),
            schedule=jn.search.Schedule(lambda units: None, rungs),
        )  # fmt: skip
