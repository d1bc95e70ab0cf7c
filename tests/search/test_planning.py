"""The plan: every trial is in one group, the cuts are the best ones, and its counts are those of the programs."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet import training
from jaxnet.search import planning
from jaxnet.search.cost import lane_cost, structure
from jaxnet.training import Keys, supervised

X, Y = np.zeros((64, 6), np.float32), np.zeros(64, np.int32)
KEY = jax.random.key(0)


def trial(hp):
    net = jn.serial(jn.dense(hp.hidden), jax.nn.relu, jn.dense(3))
    return jn.Trial(net, jn.losses.softmax_cross_entropy, optax.sgd(hp.rate), jn.metrics.error, batch_size=16)


SPACE = jn.Space(rate=jn.log_uniform(1e-3, 1e-1), hidden=jn.log_integers(10, 1000), seed=jn.choice("a", "b"))


def test_every_trial_is_in_one_group_that_can_hold_it():
    plan = jn.search.plan(trial, SPACE, (X, Y), (X, Y), trials=100, epochs=3, key=KEY)
    rows = jn.search.random()(SPACE, Keys.of(KEY).sampler, 100)
    assert sorted(itertools.chain.from_iterable(group.ids for group in plan.groups)) == list(range(100))
    assert plan.trials == 100
    for group in plan.groups:
        hidden = [rows[i]["hidden"] for i in group.ids]
        assert group.sizes == {"hidden": (min(hidden), max(hidden))}
        assert {rows[i]["seed"] for i in group.ids} == {group.static["seed"]}
        assert group.lanes * group.chunks >= len(group.ids) and 0 <= group.waste < 1
    text = str(plan)
    assert "100 trials of 3 units" in text and "padding" in text and "seed=a" in text and "MiB" in text


def test_a_value_that_only_the_program_knows_is_asked_for():
    def impatient(hp):
        return trial(jn.hp(rate=0.1 if hp.rate > 0.01 else hp.rate, hidden=4))

    space = jn.Space(rate=jn.log_uniform(1e-3, 1e-1), seed=jn.choice("a"))
    with pytest.raises(jax.errors.TracerBoolConversionError, match="hp") as error:
        jn.search.plan(impatient, space, (X, Y), (X, Y), trials=4, epochs=3, key=KEY)
    assert "Of rate the values aren" in error.value.__notes__[-1]
    message = planning.message(error.value)
    assert "jn.choice(..., static=True)" in message and "simplicity" not in message


def test_a_value_that_is_asked_for_inside_a_combinator_gets_the_same_advice():
    def impatient(hp):
        def init(key, spec):
            if hp.rate > 0.01:
                raise AssertionError
            return (), (), spec

        def noted(key, spec):
            try:
                return init(key, spec)
            except Exception as error:
                error.add_note("while the first layer was made")
                raise

        layer = jn.Layer(noted, lambda params, state, x, **_: (x, state))
        net = jn.serial(jn.serial(layer), jn.dense(3))
        return jn.Trial(net, jn.losses.softmax_cross_entropy, optax.sgd(0.1), batch_size=8)

    space = jn.Space(rate=jn.log_uniform(1e-4, 1e-3), seed=jn.choice("a"))
    with pytest.raises(ValueError, match=r"serial\[0\] serial: serial\[0\]") as error:
        jn.search.plan(impatient, space, (X, Y), (X, Y), trials=4, epochs=3, key=KEY)
    message = planning.message(error.value)
    assert message.count("Of rate the values aren") == message.count("while the first layer was made") == 1


def refused(made, space, rows, repeats=1):
    """The trials that can't be trained, by the plan, with why."""
    return jn.search.plan(
        made, space, (X, Y), (X, Y), epochs=1, key=KEY, repeats=repeats, sampler=lambda *_: rows
    ).failed  # fmt: skip


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2), (2, 3, 1, 0)])
def test_whether_a_trial_fails_depends_on_its_own_configuration(order):
    """A batch size is seen by the bound that lanes share, a rate by nobody once it is traced."""

    def made(hp):
        net = jn.serial(jn.dropout(hp.drop), jn.dense(3))
        return jn.Trial(net, jn.losses.softmax_cross_entropy, optax.sgd(0.1), batch_size=hp.batch)

    space = jn.Space(drop=jn.uniform(0, 1.5), batch=jn.log_integers(8, 128))
    rows = [
        {"drop": 0.3, "batch": 16},
        {"drop": 1.2, "batch": 16},
        {"drop": 0.2, "batch": 100},
        {"drop": 0.9, "batch": 64},
    ]
    failed = refused(made, space, [rows[i] for i in order])
    assert sorted(order[place] for place in failed) == [1, 2]
    assert failed[order.index(1)] == (
        "ValueError: dropout: rate is the share that is dropped and must be in [0, 1), got 1.2"
    )
    assert failed[order.index(2)].startswith("ValueError: batch_size is 100, but there are only 64 training examples")


def test_a_width_in_the_middle_that_can_not_be_traced_fails_alone():
    def init(key, spec, width):
        if (width.bound if isinstance(width, jn.Size) else width) == 5:
            raise ValueError("five is too odd")
        return jn.dense(width).init(key, spec)

    def made(hp):
        odd = jn.Layer(lambda key, spec: init(key, spec, hp.width), jn.dense(hp.width).apply)
        return jn.Trial(jn.serial(odd, jn.dense(3)), jn.losses.softmax_cross_entropy, optax.sgd(0.1), batch_size=8)

    failed = refused(made, jn.Space(width=jn.integers(3, 9)), [{"width": width} for width in (4, 5, 9, 5, 3)])
    assert list(failed) == [1, 3] and all(why.endswith("five is too odd") for why in failed.values())


def test_each_configuration_is_built_once_and_few_are_looked_at_closely(monkeypatch):
    alone, closely = [], []

    def counting(hp):
        if isinstance(hp.hidden, int):
            alone.append((hp.hidden, hp.rate))
        return trial(hp)

    check_trial = training.check_trial
    monkeypatch.setattr("jaxnet.search.driver.check_trial", lambda *args: closely.append(1) or check_trial(*args))
    rows = [{"rate": 0.01 * (1 + i % 10), "hidden": 10 + i % 20, "seed": "a"} for i in range(30)]
    assert not refused(counting, SPACE, rows, repeats=3)
    assert len(closely) == 2  # the narrowest and the widest
    assert len(alone) == len(set(alone)) + 2 == 20 + 2


def test_cuts_cost_least_of_all_ways_to_cut(monkeypatch):
    """Against brute force, with a cost that is the padded width and a compilation that costs as much as 40 units."""
    monkeypatch.setattr(planning, "_rates", lambda: (1.0, float("inf"), 40.0))
    widths = np.array([3, 4, 5, 9, 10, 11, 30, 31])[:, None]

    def model(bounds, leasts):
        bounds = np.asarray(bounds, float)
        return np.stack([bounds[:, 0], *[np.ones(len(bounds))] * 3], axis=1)

    def total(cuts):
        edges = [0, *cuts, 8]
        return sum(40 + (b - a) * widths[b - 1, 0] for a, b in itertools.pairwise(edges))

    best = min((cuts for n in range(8) for cuts in itertools.combinations(range(1, 8), n)), key=total)
    shuffled = np.random.default_rng(0).permutation(8)
    groups = planning._cut(model, {}, [], ["hidden"], widths[shuffled], shuffled, 1, 10**9, None, None)
    assert [group.ids.tolist() for group in groups] == [list(range(a, b)) for a, b in itertools.pairwise([0, *best, 8])]


def test_lanes_follow_from_memory_and_chunks_are_even(monkeypatch):
    monkeypatch.setattr(planning.jax, "default_backend", lambda: "gpu")
    cost = np.array([1.0, 1.0, 100.0, 50.0])  # 2 * 100 carried in and out, and 50 that a step makes
    assert planning._lanes(cost, 10, memory=10**6) == 10
    assert planning._lanes(cost, 10, memory=250 * 9) == 5  # nine would fit, but 9 + 1 is worse than 5 + 5
    assert planning._lanes(cost, 10, memory=3) == 1


def test_on_a_cpu_every_core_gets_a_chunk_and_lanes_stay_in_its_cache(monkeypatch):
    monkeypatch.setattr(planning.jax, "default_backend", lambda: "cpu")
    monkeypatch.setattr(planning, "cores", lambda: 4)
    small, large = np.array([1.0, 1.0, 100.0, 50.0]), np.array([1.0, 1.0, planning.CPU_CACHE / 2.5, 50.0])
    assert planning._lanes(small, 12, memory=10**9) == 3  # a chunk for each core
    assert planning._lanes(large, 12, memory=10**9) == 2
    assert planning._lanes(large, 13, memory=10**9) == 1  # two lanes would leave one empty
    busy = np.array([1.0, 1.0, 100.0, planning.CPU_STEP / 1.5])
    assert planning._lanes(busy, 12, memory=10**9) == 1
    assert [planning.concurrent_chunks(chunks) for chunks in (1, 3, 9)] == [1, 3, 4]


def test_what_takes_longest_runs_first():
    plan = jn.search.plan(trial, SPACE, (X, Y), (X, Y), trials=100, epochs=3, key=KEY)
    seconds = [group.total / group.chunks for group in plan.groups]
    assert len(seconds) > 1 and seconds == sorted(seconds, reverse=True)


def test_operations_are_counted_as_by_hand():
    program = supervised(trial, *[(jnp.asarray(X), jnp.asarray(Y))] * 2, order_key=KEY, shuffle="shared")
    cost = lane_cost(program, structure({}, ["rate"], ["hidden"], [40], [40]), program.feed(0))
    # Of two matmuls a step: forward, gradient of the weights, and of the second layer's inputs; each 2 m k n.
    # Four steps of 16, then one evaluation of 64.
    step = 2 * 16 * (2 * 6 * 40 + 3 * 40 * 3)
    assert cost.flops == 4 * step + 2 * 64 * (6 * 40 + 40 * 3)
    parameters = 6 * 40 + 40 + 40 * 3 + 3
    assert parameters * 4 <= cost.carry <= parameters * 4 + 100


def test_the_cost_model_is_exact_between_its_points(monkeypatch):
    # So many that evaluation holds more than any step: the greater of the two would be no polynomial.
    monkeypatch.setattr(training, "evaluation_batch", lambda: 1000)
    many = (
        jnp.zeros((6400, 6)),
        jnp.zeros(6400, jnp.int32),
    )  # many steps, so rounding their number up hardly counts

    def wide(hp):
        net = jn.serial(jn.dense(hp.a), jax.nn.relu, jn.dense(hp.b), jax.nn.relu, jn.dense(3))
        return jn.Trial(net, jn.losses.softmax_cross_entropy, optax.sgd(0.1), batch_size=hp.batch)

    program = supervised(wide, many, many, order_key=KEY, shuffle="shared")
    ranges = {"a": (3, 90), "b": (5, 40), "batch": (8, 64)}
    model = planning.CostModel(program, {}, [], ranges, program.feed(0))
    for bounds, leasts in [((50, 20, 32), (3, 5, 32)), ((90, 40, 64), (7, 7, 16)), ((10, 39, 16), (10, 39, 8))]:
        expected = lane_cost(program, structure({}, [], list(ranges), bounds, leasts), program.feed(0))
        np.testing.assert_allclose(model(np.array([bounds]), np.array([leasts]))[0], expected, rtol=0.03)


def test_the_cost_of_few_trials_is_traced_at_their_own_sizes(monkeypatch):
    """Two widths that vary and a batch size make many coefficients; of four trials no more points are traced."""
    traced = []
    monkeypatch.setattr("jaxnet.search.cost.lane_cost", lambda *args: traced.append(args) or lane_cost(*args))
    program = supervised(
        lambda hp: jn.Trial(
            jn.serial(jn.dense(hp.a), jax.nn.relu, jn.dense(hp.b), jn.dense(hp.c), jax.nn.relu, jn.dense(3)),
            jn.losses.softmax_cross_entropy, optax.sgd(0.1), batch_size=hp.batch,
        ),
        (jnp.asarray(X), jnp.asarray(Y)), (jnp.asarray(X), jnp.asarray(Y)), order_key=KEY, shuffle="shared",
    )  # fmt: skip
    sizes = np.array([[3, 8, 5, 16], [7, 8, 9, 8], [4, 8, 30, 16], [20, 8, 6, 8]])
    names = ["a", "b", "c", "batch"]
    ranges = dict(zip(names, zip(sizes.min(0), sizes.max(0), strict=True), strict=True))
    model = planning.CostModel(program, {}, [], ranges, program.feed(0), sizes)
    assert len(traced) == 1 + 3 + 4  # the largest, each size alone (b doesn't vary), and the trials
    for row in sizes:
        expected = lane_cost(program, structure({}, [], names, row, row), program.feed(0))
        np.testing.assert_allclose(model(row[None], row[None])[0], expected, rtol=1e-6)


def test_the_number_of_programs_is_that_of_the_groups():
    """A count that doesn't depend on the machine: two programs a group, however many trials and epochs."""
    compiled = []

    def count(event, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    plan = jn.search.plan(trial, SPACE, (X, Y), (X, Y), trials=20, epochs=2, key=KEY)
    jn.random_search(trial, SPACE, (X, Y), (X, Y), trials=20, epochs=2, key=KEY, keep=0)  # small helpers compile here
    jax.monitoring.register_event_duration_secs_listener(lambda event, duration, **k: count(event))
    try:
        jn.random_search(trial, SPACE, (X, Y), (X, Y), trials=20, epochs=2, key=KEY, keep=0)
    finally:
        jax.monitoring.clear_event_listeners()
    assert len(compiled) == 2 * len(plan.groups)


def test_plan_prints_the_table_and_returns_the_plan(capsys):
    made = jn.search.plan(trial, SPACE, (X, Y), (X, Y), trials=5, epochs=2, key=KEY)
    assert capsys.readouterr().out == str(made) + "\n"
    assert repr(made).startswith("Plan(5 trials, 2 units, ")


def test_a_size_wants_a_batch_that_fits():
    space = jn.Space(batch=jn.integers(65, 70))

    def big(hp):
        return jn.Trial(jn.dense(3), jn.losses.softmax_cross_entropy, optax.sgd(0.1), batch_size=hp.batch)

    with pytest.raises(ValueError, match="batch_size is .*only 64 training examples; try batch_size=64"):
        jn.search.plan(big, space, (X, Y), (X, Y), trials=30, epochs=1, key=KEY)
