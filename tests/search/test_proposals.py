"""Searches that learn, repeat, include, maximise and fail: over programs whose scores are known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.search.journal import Journal

KEY = jax.random.key(5)
SPACE = jn.Space(x=jn.uniform(-1, 1), kind=jn.choice("near", "far"))


def away(hp):
    return (hp.x - 0.3) ** 2 + (1.0 if hp.kind == "far" else 0.0)


def advance(hp, carry, key):
    return carry + 1


# After u units a trial's score is its distance from the valley plus 1 / u: it falls, and keeps its rank.
PROGRAM = jn.search.Program(
    lambda hp, key: jnp.zeros(()), advance, lambda hp, carry: {"score": away(hp) + 1 / carry, "units_seen": carry}
)


class Halving:
    """Proposes around the best trial it was told of, from ever nearer; keeps a log of what it was told."""

    batch = 4

    def __init__(self, space, key, trials):
        self.space, self.log, self.points = space, [], []
        self.random = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        self.best, self.centre, self.reach = np.inf, 0.5, 0.5

    def ask(self, count):
        points = np.clip(self.centre + self.reach * self.random.uniform(-1, 1, count), 0, 0.999)
        self.points += points.tolist()
        self.reach /= 2
        self.log.append(("ask", count))
        return [self.space.configuration([point, 0.0]) for point in points]

    def tell(self, ids, curves, finished):
        self.log.append(("tell", ids.tolist(), curves.shape[1], finished.tolist()))
        for i, score in zip(ids, curves[:, -1], strict=True):
            if score < self.best:
                self.best, self.centre = score, self.points[i]


def search(program=PROGRAM, space=SPACE, **options):
    return jn.search.run(program, space, **{"key": KEY, "epochs": 4} | options)


def same(a, b):
    for name in a.table:
        np.testing.assert_array_equal(a.table[name], b.table[name], err_msg=name)


def test_a_sampler_that_learns_is_asked_and_told_in_turns():
    made = []
    result = search(sampler=lambda *given: made.append(Halving(*given)) or made[0], trials=10)
    assert made[0].log[:3] == [("ask", 4), ("tell", [0, 1, 2, 3], 4, [True] * 4), ("ask", 4)]
    assert made[0].log[-2:] == [("ask", 2), ("tell", [8, 9], 4, [True] * 2)]
    np.testing.assert_allclose(result.table["x"], [-1 + 2 * point for point in made[0].points], rtol=1e-6)
    np.testing.assert_allclose(result.table["score"], (result.table["x"] - 0.3) ** 2 + 1 / 4, rtol=1e-5)
    first, last = np.abs(result.table["x"] - 0.3)[:4], np.abs(result.table["x"] - 0.3)[6:]
    assert last.max() < first.max()
    assert sorted(np.concatenate([group.ids for group in result.plan.groups])) == list(range(10))


def test_with_a_schedule_it_is_told_after_each_rung():
    made = []
    result = search(
        sampler=lambda *given: made.append(Halving(*given)) or made[0], trials=8,
        schedule=jn.search.successive_halving(eta=2),
    )  # fmt: skip
    log = made[0].log
    assert log[:4] == [
        ("ask", 4), ("tell", [0, 1, 2, 3], 1, [False] * 4), ("ask", 4), ("tell", [4, 5, 6, 7], 1, [False] * 4)
    ]  # fmt: skip
    ranks = np.argsort((result.table["x"] - 0.3) ** 2)
    assert log[4] == ("tell", sorted(ranks[:4].tolist()), 2, [False] * 4)
    assert log[5] == ("tell", sorted(ranks[:2].tolist()), 4, [True] * 2)
    assert result.table["units"][ranks].tolist() == [4, 4, 2, 2, 1, 1, 1, 1]


def test_a_search_that_learns_goes_on_after_a_kill_at_any_record(tmp_path, monkeypatch):
    options = {"sampler": Halving, "trials": 10, "schedule": jn.search.successive_halving(eta=2)}
    whole, append = search(**options), Journal.append
    for stop in range(14):
        folder, written = tmp_path / str(stop), 0

        def killed(self, record, stop=stop):
            nonlocal written
            if written == stop:
                raise SystemExit
            written += 1
            append(self, record)

        with monkeypatch.context() as patch:
            patch.setattr(Journal, "append", killed)
            try:
                search(directory=folder, **options)
            except SystemExit:
                pass
            else:
                break
        same(search(directory=folder, **options), whole)
    assert stop > 5


def test_a_sampler_that_does_not_draw_from_its_key_is_refused_on_resuming(tmp_path):
    search(sampler=Halving, trials=6, directory=tmp_path)

    class Other(Halving):
        def ask(self, count):
            return super().ask(count)[::-1]

    Other.__name__ = "Halving"
    with pytest.raises(ValueError, match="other configurations than when the search began.*draw from its key"):
        search(sampler=Other, trials=6, directory=tmp_path)


def test_a_sampler_must_propose_as_many_as_it_is_asked_for_and_of_the_space():
    class Few(Halving):
        def ask(self, count):
            return super().ask(count)[1:]

    with pytest.raises(ValueError, match="asked for 4 configurations, and proposed 3"):
        search(sampler=Few, trials=8)

    class Strange(Halving):
        def ask(self, count):
            return [{"x": 7.0, "kind": "near"}] * count

    with pytest.raises(ValueError, match="x"):
        search(sampler=Strange, trials=8)
    with pytest.raises(ValueError, match="needs trials="):
        search(sampler=Halving)


def test_widths_that_were_not_planned_for_find_a_program():
    """The sampler goes where random search, which the groups were planned for, did not."""
    space = jn.Space(width=jn.log_integers(1, 4000))

    class Wide:
        batch = 2

        def __init__(self, *_):
            self.widths = [3000, 3999, 4000, 1, 3500, 2]

        def ask(self, count):
            taken, self.widths = self.widths[:count], self.widths[count:]
            return [{"width": width} for width in taken]

        def tell(self, *_):
            pass

    program = jn.search.Program(
        lambda hp, key: jnp.ones(hp.width.bound) * (jnp.arange(hp.width.bound) < hp.width.value),
        lambda hp, carry, key: carry,
        lambda hp, carry: {"score": carry.sum()},
    )
    result = search(program, space, sampler=Wide, trials=6, epochs=1)
    assert result.table["score"].tolist() == result.table["width"].tolist() == [3000, 3999, 4000, 1, 3500, 2]


def test_a_schedule_that_models_scores_sees_where_configurations_lie():
    seen = []

    def rungs(trials, units, points):
        for _ in range(2):
            seen.append(points.copy())
            yield [jn.search.Rung(np.arange(trials), len(seen), trials)]
        seen.append(points.copy())

    schedule = jn.search.Schedule(lambda units: None, rungs, "seeing", lambda trials, units: 2.0, True)
    result = search(sampler=Halving, trials=6, schedule=schedule)
    assert np.isnan(seen[0]).all() and seen[1].shape == (6, 2)
    np.testing.assert_allclose(seen[1], [SPACE.point(result.hyperparameters(i)) for i in range(6)], rtol=1e-6)
    np.testing.assert_allclose(seen[1][:, 0], (result.table["x"] + 1) / 2, rtol=1e-6)
    assert (result.table["units"] == 2).all() and result.plan.expected == 2.0


def test_included_configurations_are_the_first_trials():
    mine = [{"x": 0.25, "kind": "far"}, {"x": 0.3, "kind": "near"}]
    result, without = search(include=mine, trials=6), search(trials=4)
    assert result.table["x"][:2].tolist() == [0.25, 0.3] and result.table["kind"][:2].tolist() == ["far", "near"]
    assert result.table["x"][2:].tolist() == without.table["x"].tolist()
    assert result.best["id"] == 1
    learning = search(include=mine, trials=6, sampler=Halving)
    assert learning.table["x"][:2].tolist() == [0.25, 0.3] and len(learning) == 6
    assert len(search(include=mine, trials=2)) == 2
    modelled = search(include=mine, trials=12, sampler=jn.search.bayesian(batch=4), epochs=1)
    assert modelled.table["x"][:2].tolist() == [0.25, 0.3] and modelled.table["kind"][:2].tolist() == ["far", "near"]
    assert len(set(modelled.table["x"].tolist())) == 12
    with pytest.raises(ValueError, match="include has 2 configurations, more than trials=1"):
        search(include=mine, trials=1)
    with pytest.raises(ValueError, match="the space has no"):
        search(include=[{"y": 1.0}], trials=3)


def test_maximising_is_minimising_the_negative():
    negative = PROGRAM._replace(evaluate=lambda hp, carry: {"score": -PROGRAM.evaluate(hp, carry)["score"]})
    options = {"trials": 9, "schedule": jn.search.successive_halving(), "epochs": 9, "keep": 2}
    low, high = search(**options), search(negative, maximize=True, **options)
    np.testing.assert_array_equal(low.table["score"], -high.table["score"])
    for name in ("units", "status", "x"):
        np.testing.assert_array_equal(low.table[name], high.table[name])
    assert low.best["id"] == high.best["id"] and high.maximize
    assert [row["id"] for row in low.ranked()] == [row["id"] for row in high.ranked()]


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize("maximize", [False, True])
def test_what_diverges_is_neither_promoted_nor_best_whichever_way_is_up(bad, maximize):
    program = PROGRAM._replace(evaluate=lambda hp, carry: {"score": jnp.where(hp.x > 0, bad, hp.x)})
    options = {"trials": 9, "epochs": 9, "schedule": jn.search.successive_halving(), "maximize": maximize}
    result = search(program, **options)
    x, lost = result.table["x"], result.table["x"] > 0
    assert 0 < lost.sum() < 9 and (result.table["status"][lost] == "diverged").all()
    assert (result.table["diverged"][lost] == 0).all() and (result.table["units"][lost] == 0).all()
    best = x[~lost].max() if maximize else x.min()
    assert result.best["x"] == best and result.best["units"] == 9


# Seeds make the score: the configuration's x plus noise of the lane's key; a negative x diverges with one seed in two.
NOISY = jn.search.Program(
    lambda hp, key: jax.random.uniform(key),
    lambda hp, carry, key: carry,
    lambda hp, carry: {"score": jnp.where((hp.x < -0.5) & (carry > 0.5), jnp.nan, hp.x + carry)},
)


# With 4 lanes, the first seed of trial 1 trains beside all three of trial 0: more to keep than one trial has.
@pytest.mark.parametrize("lanes, keep", [(None, 2), (2, 2), (4, 1)])
def test_repeats_are_lanes_whose_mean_counts(lanes, keep):
    result = search(NOISY, trials=12, repeats=3, epochs=2, lanes=lanes, keep=keep)
    assert result.curves.shape == (12, 2) and result.repeated["score"].shape == (12, 3, 2) and result.repeats == 3
    alone = search(NOISY, trials=12, epochs=2)
    np.testing.assert_array_equal(result.table["x"], alone.table["x"])
    each = result.repeated["score"][:, :, -1]
    assert len(np.unique(each[np.isfinite(each)])) == np.isfinite(each).sum()  # every seed its own
    lost = ~np.isfinite(each).all(axis=1)
    assert 0 < lost.sum() < 12 and (result.table["status"][lost] == "diverged").all()
    np.testing.assert_allclose(result.table["score"][~lost], each[~lost].mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(result.table["score_error"][~lost], each[~lost].std(axis=1, ddof=1) / 3**0.5, rtol=1e-6)
    best = np.nanargmin(np.where(lost, np.nan, each.mean(axis=1)))
    assert result.best["id"] == best
    for seed in range(3):
        np.testing.assert_allclose(result.network(seed=seed) + result.best["x"], each[best, seed], rtol=1e-5)
    with pytest.raises(ValueError, match="there is no seed 3"):
        result.network(seed=3)


def test_schedules_promote_by_the_mean_over_seeds(tmp_path):
    options = {"trials": 9, "repeats": 2, "epochs": 9, "schedule": jn.search.successive_halving(), "lanes": 3}
    result = search(NOISY, **options, directory=tmp_path)
    mean = result.repeated["score"][:, :, 0].mean(axis=1)
    ranks = np.argsort(mean)
    assert result.table["units"][ranks[:3]].tolist() == [9, 3, 3] or np.isnan(mean[ranks[:3]]).any()
    assert (result.table["units"] == 9).sum() == 1 and np.isfinite(result.table["score"][ranks[0]])
    same(search(NOISY, **options, directory=tmp_path), result)


def fails(hp):
    if hp.kind == "far":
        raise ValueError("a kernel of 9 doesn't fit in 5")
    return jnp.zeros(())


def test_a_trial_that_can_not_be_built_fails_alone(tmp_path):
    program = PROGRAM._replace(init=lambda hp, key: fails(hp))
    for options in ({}, {"schedule": jn.search.successive_halving(eta=2)}, {"directory": tmp_path}):
        result = search(program, trials=12, **options)
        failed = result.table["kind"] == "far"
        assert 0 < failed.sum() < 12
        assert (result.table["status"][failed] == "failed").all() and np.isnan(result.table["score"][failed]).all()
        assert set(result.messages.values()) == {"ValueError: a kernel of 9 doesn't fit in 5"}
        assert sorted(result.messages) == np.flatnonzero(failed).tolist()
        assert result.best["kind"] == "near" and result.table["units"][failed].max() == 0
    same(search(program, trials=12, directory=tmp_path), result)
    assert "12 trials" in repr(result) and f"{failed.sum()} failed" in repr(result)
    assert jn.search.SearchResult.load(saved(result, tmp_path)).messages == result.messages
    with pytest.raises(ValueError, match="failed: ValueError: a kernel of 9"):
        result.network(int(np.flatnonzero(failed)[0]))

    class Both(Halving):
        def ask(self, count):
            return [{**c, "kind": "far"} if i % 2 else c for i, c in enumerate(super().ask(count))]

    learning = search(program, sampler=Both, trials=8, directory=tmp_path / "learning")
    assert learning.table["status"].tolist() == ["completed", "failed"] * 4
    same(search(program, sampler=Both, trials=8, directory=tmp_path / "learning"), learning)


def test_a_trial_that_a_sampler_proposes_fails_by_its_own_numbers(tmp_path):
    """Its group's program would take any rate."""

    def made(hp):
        net = jn.serial(jn.dropout(hp.x), jn.dense(1))
        return jn.Trial(net, jn.losses.squared_error, optax.sgd(0.1), batch_size=4)

    class Dropping(Halving):
        def ask(self, count):
            return [{**c, "x": 0.25 * i} for i, c in enumerate(super().ask(count), 1)]

    data, space = (
        (np.ones((8, 1), np.float32), np.ones((8, 1), np.float32)),
        jn.Space(x=jn.uniform(0, 1), kind=lambda hp: 0),
    )

    def run():
        return jn.search.run(made, space, data, data, sampler=Dropping, trials=8, epochs=1, key=KEY, directory=tmp_path)

    result = run()
    assert result.table["status"].tolist() == ["completed", "completed", "completed", "failed"] * 2
    assert "must be in [0, 1), got 1.0" in result.messages[3]
    same(run(), result)


def saved(result, folder):
    result.save(folder / "result.msgpack")
    return folder / "result.msgpack"


def test_trials_that_all_fail_raise_at_once():
    with pytest.raises(ValueError, match="^a kernel of 9 doesn't fit in 5"):
        search(PROGRAM._replace(init=lambda hp, key: fails(jn.hp(kind="far"))), trials=3)
