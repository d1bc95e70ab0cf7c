"""What holds of every space, of every sampler and of every schedule: hypothesis looks for where it doesn't."""

import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxnet as jn
from jaxnet.search.schedules import rehearsed, units_on_average
from tests.search.simulation import simulate

short = settings(max_examples=40, deadline=None, derandomize=True)

UNIT = st.floats(0, 1, exclude_max=True)


# Spaces.


def floats(low, high):
    return st.floats(low, high).map(lambda value: value if abs(value) > 1e-37 else 0.0)  # what float32 has


@st.composite
def distributions(draw):
    kind = draw(st.sampled_from(["uniform", "log_uniform", "integers", "log_integers", "choice"]))
    if kind == "choice":
        values = st.one_of(st.integers(1, 99), floats(-9, 9), st.text(max_size=3), st.booleans(), st.none())
        return jn.choice(*draw(st.lists(values, min_size=1, max_size=5)))
    if kind in ("integers", "log_integers"):
        low, high = sorted(draw(st.tuples(st.integers(1, 2000), st.integers(1, 2000))))
        return getattr(jn, kind)(low, high, static=draw(st.booleans()))
    least = 1e-9 if kind == "log_uniform" else -1e6
    low, high = sorted(draw(st.tuples(floats(least, 1e6), floats(least, 1e6))))
    return getattr(jn, kind)(low, high)


@short
@given(distributions(), UNIT)
def test_values_lie_within_bounds_and_have_a_place(distribution, u):
    value = distribution.value(u)
    if distribution.bounds is not None:
        low, high = distribution.bounds
        assert low <= value <= high
    place = distribution.place(value)
    assert 0 <= place <= 1
    if distribution.count is not None:
        again = distribution.value(place)
        assert again == value and type(again) is type(value)
        return
    low, high = distribution.bounds
    assert math.isclose(distribution.value(place), value, rel_tol=1e-9, abs_tol=1e-9 * (high - low))


@short
@given(distributions(), UNIT, UNIT)
def test_numbers_grow_with_their_place(distribution, u, v):
    if distribution.bounds is not None and u < v:
        assert distribution.value(u) <= distribution.value(v)
        assert distribution.place(distribution.value(u)) <= distribution.place(distribution.value(v))


@st.composite
def spaces(draw):
    """Independent, dependent, conditional and nested entries, under names that don't clash."""
    plain = draw(st.lists(distributions(), min_size=1, max_size=3))
    entries = {f"a{i}": distribution for i, distribution in enumerate(plain)}
    if draw(st.booleans()):
        entries |= {"n": jn.integers(1, 50), "k": lambda hp: jn.integers(1, hp.n)}
    if draw(st.booleans()):
        entries |= {"on": jn.choice(True, False), "rate": lambda hp: jn.uniform(0, 1) if hp.on else None}
    if draw(st.booleans()):
        entries["inner"] = jn.Space(x=jn.log_integers(1, 9), y=lambda hp: jn.integers(hp.x, 9))
    return jn.Space(**entries)


@short
@given(spaces(), st.randoms(use_true_random=False))
def test_a_configuration_has_every_name_and_a_point_that_leads_back(space, random):
    configuration = space.configuration([random.random() for _ in space.entries])
    assert list(configuration) == list(space.entries) == list(space.kinds(configuration))
    checked = space.check(configuration)
    assert checked == configuration
    again = space.configuration([min(u, math.nextafter(1, 0)) for u in space.point(configuration)])
    for name, value in configuration.items():
        distribution = space.distribution(name, configuration)
        if distribution.count is None:
            low, high = distribution.bounds
            assert math.isclose(again[name], value, rel_tol=1e-9, abs_tol=1e-9 * (high - low))
        else:
            assert again[name] == value


@pytest.mark.parametrize("sampler", [jn.search.random(), jn.search.sobol()], ids=["random", "sobol"])
@short
@given(space=spaces(), seed=st.integers(0, 2**31), fewer=st.integers(1, 20), more=st.integers(0, 20))
def test_the_first_trials_of_many_are_the_trials_of_few(sampler, space, seed, fewer, more):
    key = jax.random.key(seed)
    assert sampler(space, key, fewer + more)[:fewer] == sampler(space, key, fewer)


# Schedules.

SCHEDULES = {
    "full": st.builds(jn.search.full),
    "successive_halving": st.builds(jn.search.successive_halving, st.integers(2, 4), st.integers(1, 5)),
    "hyperband": st.builds(jn.search.hyperband, st.integers(2, 4), st.sampled_from(["algorithm", "table"])),
    "median_stopping": st.builds(jn.search.median_stopping, st.integers(1, 5), st.integers(1, 5)),
    "curve_extrapolation": st.builds(
        jn.search.curve_extrapolation, st.floats(0.01, 0.5), st.integers(1, 6), st.integers(1, 6)
    ),
    "freeze_thaw": st.builds(
        jn.search.freeze_thaw, st.floats(0.05, 1), st.integers(1, 9), st.integers(1, 9) | st.none()
    ),
}


def searches(name):
    """Of a schedule: itself and curves ``[trials, units]``, some with ties and some of trials that diverge."""

    @st.composite
    def build(draw):
        schedule, units = draw(SCHEDULES[name]), draw(st.integers(1, 12))
        trials = schedule.trials(units) or draw(st.integers(1, 12))
        generator = np.random.default_rng(draw(st.integers(0, 2**31)))
        curves = generator.normal(size=(trials, units)).cumsum(axis=1)
        if draw(st.booleans()):
            curves = curves.round()
        diverging = generator.random(trials) < draw(st.sampled_from([0, 0.3, 1]))
        starts = generator.integers(0, units, trials)
        curves[diverging[:, None] & (np.arange(units) >= starts[:, None])] = np.nan
        return schedule, curves, generator.random((trials, 2))

    return build()


@pytest.mark.parametrize("name", SCHEDULES)
@settings(short, max_examples=12)
@given(data=st.data())
def test_every_schedule_keeps_the_rules(name, data):
    schedule, curves, points = data.draw(searches(name))
    trials, units = curves.shape
    done, seen = np.zeros(trials, int), np.full(curves.shape, np.nan)
    steps = schedule.rungs(trials, units, *((points,) if schedule.points else ()))
    may_go_on, rungs = np.ones(trials, bool), next(steps)
    while True:
        ids = np.concatenate([rung.ids for rung in rungs])
        assert len(ids) and len(set(ids.tolist())) == len(ids)  # side by side, so apart
        for rung in rungs:
            assert (np.diff(rung.ids) > 0).all() and 0 <= rung.promoted <= len(rung.ids)
            assert (done[rung.ids] < rung.units).all() and rung.units <= units
            assert may_go_on[rung.ids].all()
            started = rung.ids[done[rung.ids] > 0]
            assert np.isfinite(seen[started, done[started] - 1]).all()  # what diverged never goes on
            done[rung.ids] = rung.units
            may_go_on[rung.ids] = rung.promoted > 0
            for i in rung.ids:
                seen[i, : rung.units] = curves[i, : rung.units]
        last = rungs
        try:
            rungs = steps.send(seen.copy())
        except StopIteration:
            break
        again = np.concatenate([rung.ids for rung in rungs])
        for rung in last:  # no more go on than were said to
            assert np.isin(rung.ids, again).sum() <= rung.promoted
    if np.isfinite(curves).all():
        assert done.max() == units  # somebody trains to the end
    _, same = simulate(schedule, curves, points if schedule.points else None)
    assert same.tolist() == done.tolist()


@short
@given(st.integers(2, 4), st.integers(1, 40), st.integers(1, 100), st.integers(0, 2**31))
def test_successive_halving_promotes_the_best_with_ties_by_id(eta, units, trials, seed):
    curves = np.random.default_rng(seed).integers(0, 4, (trials, units)).astype(float)
    log, _ = simulate(jn.search.successive_halving(eta), curves)
    for (ids, done), (promoted, _) in zip(log, log[1:], strict=False):
        ranked = sorted(ids, key=lambda i: (curves[i, done - 1], i))
        assert promoted == sorted(ranked[: len(promoted)])
    assert [len(ids) for ids, _ in log] == [max(trials // eta**i, 1) for i in range(len(log))]
    assert log[-1][1] == units and units // eta ** (len(log) - 1) >= 1


@short
@given(st.integers(2, 5), st.integers(1, 200))
def test_hyperband_has_its_counts(eta, units):
    """Algorithm 1 and Table 1 in floating point, but for the logarithm, which is taken by counting."""
    most = max(s for s in range(9) if eta**s <= units)
    starts = {
        "algorithm": [math.ceil((most + 1) / (s + 1) * eta**s - 1e-9) for s in range(most, -1, -1)],
        "table": [(most + 1) // (s + 1) * eta**s for s in range(most, -1, -1)],
    }
    for counts, expected in starts.items():
        schedule = jn.search.hyperband(eta, counts)
        trials = schedule.trials(units)
        assert trials == sum(expected)
        first = rehearsed(schedule, trials, units)[0]
        assert [len(rung.ids) for rung in first] == expected
        assert [rung.units for rung in first] == [units // eta**s for s in range(most, -1, -1)]
        assert units_on_average(schedule, trials, units) <= units
