"""The search: its lanes are trials trained alone, whatever the chunks, the order and the neighbours."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.search import lanes as lanes_module
from jaxnet.search.devices import Devices

EPOCHS = 3


def problem(examples=90, seed=0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(3, size=examples)
    centres = np.random.default_rng(9).normal(size=(3, 5)) * 1.5
    return (centres[labels] + generator.normal(size=(examples, 5))).astype(np.float32), labels.astype(np.int32)


TRAIN, VALIDATION = problem(), problem(40, seed=1)

SPACE = jn.Space(
    rate=jn.log_uniform(1e-2, 1e-1),
    momentum=jn.uniform(0.0, 0.9),
    l2=jn.log_uniform(1e-6, 1e-1),
    drop=jn.uniform(0.0, 0.5),
    hidden=jn.log_integers(2, 24),
    batch=jn.integers(7, 30),
    activation=jn.choice(jax.nn.relu, jax.nn.sigmoid),
)


def trial(hp):
    return jn.Trial(
        net=jn.serial(jn.dense(hp.hidden), hp.activation, jn.dropout(hp.drop), jn.dense(3)),
        loss=jn.losses.softmax_cross_entropy,
        penalty=jn.losses.l2(hp.l2),
        optimizer=optax.sgd(hp.rate, momentum=hp.momentum),
        metric=jn.metrics.error,
        batch_size=hp.batch,
    )


def search(trials=12, **options):
    options = {"epochs": EPOCHS, "key": jax.random.key(3)} | options
    with jax.default_matmul_precision("highest"):
        return jn.random_search(trial, SPACE, TRAIN, VALIDATION, trials=trials, **options)


@pytest.fixture(scope="module")
def result():
    return search(keep=3)


def same(a, b, rtol=1e-4):
    for name in a.history:
        np.testing.assert_allclose(a.history[name], b.history[name], rtol=rtol, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("shuffle", ["shared", "own"])
def test_a_lane_equals_fit_of_the_same_trial(shuffle, result):
    searched = result if shuffle == "shared" else search(4, shuffle=shuffle)
    for i in range(4):
        alone = trial(searched.hyperparameters(i))
        assert isinstance(searched.hyperparameters(i).hidden, int)
        fitted = jn.fit(alone, TRAIN, VALIDATION, epochs=EPOCHS, key=jax.random.key(3), trial_id=i, shuffle=shuffle)
        for name, curve in fitted.curve.items():
            np.testing.assert_allclose(searched.history[name][i], curve, rtol=1e-4, atol=1e-5, err_msg=name)


def test_keys_that_draw_with_their_neighbours_give_lanes_that_do_not_depend_on_them():
    """``rbg`` under ``vmap`` draws for a lane what depends on all keys beside it."""
    key, space = jax.random.key(0, impl="rbg"), jn.Space(rate=jn.log_uniform(1e-2, 1e-1))

    def dropping(hp):
        net = jn.serial(jn.dense(4), jn.dropout(0.5), jn.dense(3))
        return jn.Trial(net, jn.losses.softmax_cross_entropy, optax.sgd(hp.rate), batch_size=30)

    few, more = (
        jn.random_search(dropping, space, TRAIN, VALIDATION, trials=n, epochs=2, key=key, lanes=n) for n in (2, 3)
    )
    np.testing.assert_allclose(few.curves, more.curves[:2], rtol=1e-5)
    assert more.reproduce(1).difference < 1e-5


def test_a_float_that_is_static_is_a_number_of_python_in_the_trial(key):
    """flax's Dropout, say, looks whether its rate is 0."""

    def made(hp):
        drop = jn.dropout(0.5) if hp.drop > 0.25 else jn.flatten
        return jn.Trial(jn.serial(drop, jn.dense(hp.hidden), jn.dense(3)), jn.losses.softmax_cross_entropy,
                        optax.sgd(hp.rate), batch_size=30)  # fmt: skip

    drops = jn.choice(0.0, 0.5, static=True)
    space = jn.Space(drop=drops, rate=jn.log_uniform(1e-2, 1e-1), hidden=jn.integers(2, 4))
    result = jn.search.run(made, space, TRAIN, VALIDATION, trials=4, epochs=1, key=key, progress=False)
    assert sorted(result.groups["compiled_in"]) == ["drop=0.0", "drop=0.5"]
    for row in range(4):
        assert result.network(row).params[1]["w"].shape == (5, result.table["hidden"][row])


def test_a_trial_that_is_trained_again_alone_has_its_curves(result):
    for row in (result.best, 7):
        made = result.reproduce(row)
        assert made.difference < 1e-4 and set(made.curves) == set(result.history) - {"score"}
        i = row if row == 7 else row["id"]
        np.testing.assert_array_equal(made.recorded["validation_loss"], result.history["validation_loss"][i])
        np.testing.assert_allclose(made.curves["validation_loss"], made.recorded["validation_loss"], rtol=1e-4)


def test_the_first_trials_of_a_long_search_are_those_of_a_short_one(result):
    short = search(5)
    for name in short.names:
        assert short.table[name].tolist() == result.table[name][:5].tolist()
    np.testing.assert_allclose(short.curves, result.curves[:5], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lanes", [1, 4, 5])
def test_chunks_change_nothing_and_lose_no_trial(lanes, result):
    """With 4 or 5 lanes the last chunk isn't full."""
    chunked = search(lanes=lanes)
    assert {group.lanes for group in chunked.plan.groups} <= set(range(1, lanes + 1))
    assert sorted(np.concatenate([group.ids for group in chunked.plan.groups])) == list(range(12))
    same(chunked, result)


@pytest.mark.parametrize("cores", [1, 3])
def test_chunks_that_run_at_once_change_nothing(cores, result, monkeypatch):
    monkeypatch.setattr("jaxnet.search.planning.cores", lambda: cores)
    same(search(lanes=3), result)


def test_a_failure_while_chunks_run_is_raised_and_leaves_no_thread(monkeypatch):
    unit = lanes_module._unit

    def failing(chunk, number, *rest):
        if number == 1:
            raise RuntimeError("the data went away")
        return unit(chunk, number, *rest)

    monkeypatch.setattr(lanes_module, "_unit", failing)
    with pytest.raises(RuntimeError, match="the data went away"):
        search(lanes=3)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("jaxnet")]


TOO_MUCH = "RESOURCE_EXHAUSTED: Out of memory allocating 17179869184 bytes."


@pytest.mark.parametrize(
    "how",
    ["it raises when it runs", "its compiled program is too large", "it raises when it compiles", "it raises at first"],
)
def test_lanes_that_do_not_fit_in_memory_are_halved_and_lose_nothing(how, result, monkeypatch):
    refused = []
    unit, needed, lower, put = lanes_module._unit, lanes_module._needed, lanes_module._lower, Devices.put

    def check(lanes):
        if lanes > 2:
            refused.append(lanes)
            raise jax.errors.JaxRuntimeError(TOO_MUCH)

    def exhausted(chunk, number, *rest):
        if number == 1:
            check(chunk.batch.lanes)
        return unit(chunk, number, *rest)

    def too_large(compiled):
        lanes = jax.tree.leaves(compiled[1][0].in_avals)[0].shape[0]
        refused.append(lanes)
        return needed(compiled) if lanes <= 2 else 2**60

    def lowered(program, group, lanes, *rest):
        compiled = lower(program, group, lanes, *rest)
        return lambda: check(lanes) or compiled()

    def on_device(self, tree):
        check(len(jax.tree.leaves(tree)[-1]))
        return put(self, tree)

    name, function = {
        "it raises when it runs": ("_unit", exhausted), "its compiled program is too large": ("_needed", too_large),
        "it raises when it compiles": ("_lower", lowered), "it raises at first": ("put", on_device),
    }[how]  # fmt: skip
    monkeypatch.setattr(Devices if name == "put" else lanes_module, name, function)
    halved = search(lanes=6)
    assert max(refused) > 2
    same(halved, result)


def test_what_does_not_fit_in_one_lane_is_raised(monkeypatch):
    def exhausted(*_):
        raise jax.errors.JaxRuntimeError(TOO_MUCH)

    monkeypatch.setattr(Devices, "put", exhausted)
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        search(2, lanes=2)


def test_permuting_trials_permutes_results(result):
    """A sampler that proposes the same configurations backwards, with streams that don't depend on the trial's id."""
    configurations = [dict(result.hyperparameters(i)) for i in range(6)]
    for configuration in configurations:
        configuration["drop"] = 0.0

    def run(order):
        return jn.search.run(
            fixed_start, SPACE, TRAIN, VALIDATION, epochs=2, key=jax.random.key(0),
            sampler=lambda space, key, trials: [configurations[i] for i in order],
        )  # fmt: skip

    def fixed_start(hp):
        made = trial(hp)
        start = jax.random.key(5)  # all trials draw the same initial weights, so that only the configuration matters
        net = jn.Layer(lambda key, spec: made.net.init(start, spec), made.net.apply)
        return jn.Trial(net, made.loss, made.optimizer, made.metric, made.penalty, made.batch_size)

    forwards, order = run(range(6)), [4, 0, 5, 2, 1, 3]
    np.testing.assert_allclose(run(order).curves, forwards.curves[order], rtol=1e-4, atol=1e-5)


def test_a_diverging_lane_changes_no_other_and_is_never_best():
    space = jn.Space(rate=jn.choice(0.05, 0.1, 1e30), hidden=jn.integers(2, 6))

    def poisoned(hp):
        return jn.Trial(
            net=jn.serial(jn.dense(hp.hidden), jnp.tanh, jn.dense(3)), loss=jn.losses.softmax_cross_entropy,
            optimizer=optax.sgd(hp.rate), metric=jn.metrics.error, penalty=jn.losses.l2(0.1), batch_size=30,
        )  # fmt: skip

    def run(rates, ids):
        rows = [{"rate": rate, "hidden": 4} for rate in rates]
        return jn.search.run(
            poisoned, space, TRAIN, VALIDATION, epochs=4, key=jax.random.key(0), sampler=lambda *_: rows, lanes=ids
        )

    calm, mixed = run([0.05, 0.1, 0.1, 0.05], 4), run([0.05, 1e30, 0.1, 0.05], 4)
    assert mixed.table["status"].tolist() == ["completed", "diverged", "completed", "completed"]
    np.testing.assert_array_equal(mixed.curves[[0, 2, 3]], calm.curves[[0, 2, 3]])  # to the last bit: same lane width
    step = mixed.table["diverged"][1]
    assert 0 <= step < 12 and mixed.table["units"][1] == step // 3
    assert np.isnan(mixed.curves[1, step // 3 :]).all() and np.isnan(mixed.table["score"][1])
    assert mixed.best["id"] != 1 and [row["id"] for row in mixed.ranked()].count(1) == 0
    alone = jn.fit(poisoned(jn.hp(rate=1e30, hidden=4)), TRAIN, VALIDATION, epochs=4, key=jax.random.key(0), trial_id=1)
    assert alone.diverged == step
    again = mixed.reproduce(1)
    assert again.diverged == step and again.difference < 1e-5 and mixed.reproduce(0).diverged is None
    finite = [np.isfinite(leaf).all() for leaf in jax.tree.leaves(mixed.network(1).params)]
    assert all(finite) and np.array_equal(np.isnan(again.curves["train_loss"]), np.isnan(mixed.curves[1]))
    with pytest.raises(ValueError, match="all 2 trials diverged; try lower learning rates"):
        _ = run([1e30, 1e30], 2).best


def test_sizes_of_a_batch_count_every_example_once():
    """Lanes of different batch sizes share a program; with a rate of zero each one's mean loss is that of all data."""
    space = jn.Space(batch=jn.integers(1, 90))
    rows = [{"batch": n} for n in (1, 2, 7, 29, 30, 45, 64, 89, 90)]

    def still(hp):
        key_free = jn.Layer(lambda key, spec: jn.dense(3).init(jax.random.key(1), spec), jn.dense(3).apply)
        return jn.Trial(
            key_free, jn.losses.softmax_cross_entropy, optax.sgd(0.0), jn.metrics.error, batch_size=hp.batch
        )

    result = jn.search.run(
        still, space, TRAIN, VALIDATION, epochs=1, key=jax.random.key(0), sampler=lambda *_: rows, lanes=9
    )
    np.testing.assert_allclose(result.table["train_loss"], result.table["train_loss"][0], rtol=1e-5)


def test_any_optax_transformation_with_traced_settings():
    space = jn.Space(
        rate=jn.log_uniform(1e-3, 1e-2), b1=jn.uniform(0.5, 0.95), decay=jn.log_uniform(1e-5, 1e-2),
        clip=jn.uniform(0.1, 1.0), eps=jn.log_uniform(1e-8, 1e-3),
    )  # fmt: skip

    def adamw(hp):
        schedule = optax.cosine_decay_schedule(hp.rate, 20)
        optimizer = optax.chain(
            optax.clip_by_global_norm(hp.clip), optax.adamw(schedule, b1=hp.b1, eps=hp.eps, weight_decay=hp.decay)
        )
        return jn.Trial(jn.dense(3), jn.losses.softmax_cross_entropy, optimizer, jn.metrics.error, batch_size=30)

    result = jn.random_search(adamw, space, TRAIN, VALIDATION, trials=3, epochs=2, key=jax.random.key(0))
    fitted = jn.fit(adamw(result.hyperparameters(1)), TRAIN, VALIDATION, epochs=2, key=jax.random.key(0), trial_id=1)
    np.testing.assert_allclose(result.curves[1], fitted.curve["validation_error"], rtol=1e-5)
    np.testing.assert_allclose(result.history["train_loss"][1], fitted.curve["train_loss"], rtol=1e-5)


def test_grid_search_over_static_values():
    space = jn.Space(depth=jn.choice(0, 1, 2), rate=jn.log_uniform(1e-3, 1e-1))

    def deep(hp):
        layers = [layer for _ in range(hp.depth) for layer in (jn.dense(4), jnp.tanh)]
        net = jn.serial(*layers, jn.dense(3))
        return jn.Trial(net, jn.losses.softmax_cross_entropy, optax.sgd(hp.rate), jn.metrics.error, batch_size=30)

    result = jn.search.run(
        deep, space, TRAIN, VALIDATION, epochs=1, key=jax.random.key(0), sampler=jn.search.grid({"rate": 3})
    )
    assert len(result) == 9 and len(result.plan.groups) == 3
    assert {len(result.network(i).params) for i in range(9)} == {1, 3, 5}


def test_a_program_of_ones_own():
    """Gradient descent on (x - 3)^2: the minimum, the freezing of what diverges, and streams of each trial's own."""
    draws = jn.search.Program(
        init=lambda hp, key: {"x": jnp.zeros(()), "noise": jnp.zeros(())},
        advance=lambda hp, carry, key: {
            "x": carry["x"] - hp.rate * 2 * (carry["x"] - 3),
            "noise": jax.random.normal(key),
        },
        evaluate=lambda hp, carry: {"score": (carry["x"] - 3) ** 2, "noise": carry["noise"], "x": carry["x"]},
    )
    space = jn.Space(rate=jn.choice(0.25, 0.5, 1e20))
    rows = [{"rate": rate} for rate in (0.25, 0.5, 1e20, 0.25)]
    result = jn.search.run(draws, space, epochs=6, key=jax.random.key(0), sampler=lambda *_: rows)
    np.testing.assert_allclose(result.curves[0], 9 * 0.25 ** np.arange(1, 7), rtol=1e-5)  # (1 - 2 rate)^2 = 1/4 a unit
    assert result.best["id"] == 1 and result.best["score"] == 0
    assert result.table["status"].tolist() == ["completed", "completed", "diverged", "completed"]
    assert len(np.unique(result.history["noise"][[0, 1, 3]])) == 18  # every trial and unit has a draw of its own
    assert result.network()["x"] == 3
    with pytest.raises(ValueError, match='must return a dict with a "score"'):
        jn.search.run(
            draws._replace(evaluate=lambda hp, carry: {"loss": carry["x"]}), space, epochs=1, key=jax.random.key(0),
            trials=1,
        )  # fmt: skip


def run_program(lanes=None, directory=None, **parts):
    """Two trials of ``x - hp.rate``, but for what is given."""
    parts = {
        "init": lambda hp, key: jnp.zeros(()), "advance": lambda hp, x, key, *fed: x - hp.rate,
        "evaluate": lambda hp, x, *fed: {"score": x}, "feed": None,
    } | parts  # fmt: skip
    return jn.search.run(
        jn.search.Program(**parts), jn.Space(rate=jn.choice(1.0, 2.0)), trials=2, epochs=2, key=jax.random.key(0),
        lanes=lanes, directory=directory,
    )  # fmt: skip


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_program_may_have_numbers_of_python_everywhere(lanes):
    found = run_program(
        lanes, init=lambda hp, key: (0.0, 7), advance=lambda hp, x, key, fed: (x[0] - hp.rate * fed, 7),
        evaluate=lambda hp, x, fed: {"score": x[0], "constant": 3}, feed=lambda unit: 2.0 + unit,
    )  # fmt: skip
    assert (found.table["score"] == -5 * found.table["rate"]).all() and (found.table["constant"] == 3).all()


@pytest.mark.parametrize(
    "parts, message",
    [
        (
            {"init": lambda hp, key: jnp.zeros((), int)},
            r"carry was int32\[\] and became float32\[\]; .*astype\(jnp.int32\)",
        ),
        (
            {
                "init": lambda hp, key: {"a": jnp.zeros(3)},
                "advance": lambda hp, x, key: {"a": x["a"][:2]},
            },
            r"carry\['a'\] was float32\[3\] and became float32\[2\]; .*jnp.zeros\(\(2,\), jnp.float32\)\n",
        ),
        ({"advance": lambda hp, x, key: (x,)}, "of the structure that init made, .*, got "),
        ({"feed": lambda unit: np.zeros(unit + 1)}, r"for unit 0 it was float32\[1\], and for unit 1 float32\[2\]"),
        (
            {"feed": lambda unit: {"a" * unit: np.zeros(1)}},
            r"unit 0 it was {'': 'float32\[1\]'}, and for unit 1 {'a': 'float32\[1\]'}; pad",
        ),
    ],
)
def test_a_carry_or_a_feed_that_changes_its_kind_is_named(parts, message):
    with pytest.raises(ValueError, match=message):
        run_program(**parts)


def test_keys_that_no_journal_holds_are_refused_before_anything_is_compiled(tmp_path, monkeypatch):
    monkeypatch.setattr(lanes_module, "_lower", None)
    with pytest.raises(TypeError, match=r"can't be written to a journal .* jax.random.key_data\(key\)"):
        run_program(
            directory=tmp_path, init=lambda hp, key: (key, 0.0), advance=lambda hp, x, key: x,
            evaluate=lambda hp, x: {"score": x[1]},
        )  # fmt: skip


def test_two_trials_draw_different_weights_and_the_same_trial_the_same(result):
    again = search()
    np.testing.assert_array_equal(again.curves, result.curves)
    space = jn.Space(hidden=jn.choice(8.0, 8.0))
    twins = jn.random_search(
        lambda hp: jn.Trial(jn.dense(3), jn.losses.softmax_cross_entropy, optax.sgd(0.1), batch_size=30),
        space, TRAIN, VALIDATION, trials=2, epochs=1, key=jax.random.key(0),
    )  # fmt: skip
    assert twins.curves[0] != twins.curves[1]


def test_what_makes_no_sense_is_refused_before_anything_is_compiled(key):
    arguments = {"trials": 2, "epochs": 1, "key": key}
    with pytest.raises(ValueError, match="trials must be at least 1, got 0"):
        jn.random_search(trial, SPACE, TRAIN, VALIDATION, **arguments | {"trials": 0})
    with pytest.raises(ValueError, match="epochs must be at least 1, got 0"):
        jn.random_search(trial, SPACE, TRAIN, VALIDATION, **arguments | {"epochs": 0})
    with pytest.raises(ValueError, match="needs train and validation"):
        jn.random_search(trial, SPACE, TRAIN, **arguments)
    space = jn.Space(hidden=jn.integers(1, 9))
    with pytest.raises(AttributeError, match="no hyperparameter 'units'; the space has hidden"):
        jn.random_search(lambda hp: trial(jn.hp(hidden=hp.units)), space, TRAIN, VALIDATION, **arguments)
    with pytest.raises(ValueError, match=r"targets\[.*\] is 3"):
        jn.random_search(trial, SPACE, TRAIN, (VALIDATION[0], VALIDATION[1] + 1), **arguments)
    with pytest.raises(ValueError, match="batch_size is .*only 5 training examples"):
        jn.random_search(trial, SPACE, (TRAIN[0][:5], TRAIN[1][:5]), VALIDATION, **arguments)
    with pytest.raises(TypeError, match="expected a jn.Space as the second argument"):
        jn.random_search(trial, {"hidden": jn.integers(1, 9)}, TRAIN, VALIDATION, **arguments)
    with pytest.raises(TypeError, match="expected a function from hyperparameters"):
        jn.random_search("trial", SPACE, TRAIN, VALIDATION, **arguments)
    with pytest.raises(TypeError, match="hyperparameter 'depth' was used where Python needs an integer.*static=True"):
        jn.random_search(
            lambda hp: jn.Trial(jn.serial(*[jn.dense(3)] * (1 if isinstance(hp.depth, int) else len(range(hp.depth)))),
                                jn.losses.softmax_cross_entropy, optax.sgd(0.1), batch_size=8),
            jn.Space(depth=jn.integers(1, 3)), TRAIN, VALIDATION, **arguments,
        )  # fmt: skip
    for count in (0, -2):
        with pytest.raises(ValueError, match=f"lanes must be at least 1, got {count}"):
            jn.random_search(trial, SPACE, TRAIN, VALIDATION, lanes=count, **arguments)
    with pytest.raises(TypeError, match=r"lanes must be an integer, got 2.5"):
        jn.search.plan(trial, SPACE, TRAIN, VALIDATION, lanes=2.5, **arguments)
    with pytest.raises(ValueError, match="keep must be at least 0, got -1"):
        jn.random_search(trial, SPACE, TRAIN, VALIDATION, keep=-1, **arguments)
    for options, message in [
        ({"keep": 2.5}, "keep must be an integer, got 2.5"),
        ({"include": {"hidden": 3}}, r"include must be a list of configurations, .* try include=\[{'hidden': 3}\]"),
        ({"include": [3]}, "expected a configuration, a dict of values by the names .*, got 3"),
        ({"callbacks": None}, "callbacks: expected a list of jn.Callback, got None; for none leave it out"),
        ({"maximize": "yes"}, "maximize must be True or False, got 'yes'"),
    ]:
        with pytest.raises(TypeError, match=message):
            jn.random_search(trial, SPACE, TRAIN, VALIDATION, **options, **arguments)
    for proposed, message in [({"rate": 55.0}, "55.0 is not a number in"), ({}, "rate is missing; it may be uniform")]:
        with pytest.raises(ValueError, match=message):
            jn.search.plan(
                trial, jn.Space(rate=jn.uniform(0, 1)), TRAIN, VALIDATION,
                sampler=lambda space, key, trials, proposed=proposed: [proposed] * trials, **arguments,
            )  # fmt: skip


def test_measures_that_no_table_can_hold_are_refused_before_anything_is_compiled(key, monkeypatch):
    monkeypatch.setattr(lanes_module, "_lower", None)
    with pytest.raises(ValueError, match="same names.*train_loss"):
        jn.random_search(
            lambda hp: jn.Trial(jn.dense(3), jn.losses.softmax_cross_entropy, optax.sgd(hp.train_loss), batch_size=8),
            jn.Space(train_loss=jn.uniform(0, 1)), TRAIN, VALIDATION, trials=2, epochs=1, key=key,
        )  # fmt: skip

    def run(**measures):
        program = jn.search.Program(
            lambda hp, key: jnp.zeros((1,)), lambda hp, carry, key: carry + hp.rate,
            lambda hp, carry: {"score": carry[0]} | {name: made(carry) for name, made in measures.items()},
        )  # fmt: skip
        return jn.random_search(program, jn.Space(rate=jn.uniform(0, 1)), trials=2, epochs=1, key=key)

    with pytest.raises(ValueError, match=r"same names: \['rate'\]"):
        run(rate=jnp.sum)
    for name in ("id", "status", "units", "score_error"):
        with pytest.raises(ValueError, match=rf"called like columns of the results: \['{name}'\]; give them other"):
            run(**{name: jnp.sum})
    with pytest.raises(ValueError, match=r"must return scalars, of shape \(\), got {'score': \(1,\), 'more': \(1,\)}"):
        run(score=jnp.abs, more=jnp.abs)


def test_the_number_of_outputs_is_the_same_for_all_lanes():
    """Padded outputs would be counted by the loss."""

    def sized(hp):
        return jn.Trial(jn.dense(hp.classes), jn.losses.softmax_cross_entropy, optax.sgd(0.1), batch_size=8)

    def run(classes):
        space = jn.Space(classes=classes)
        return jn.random_search(sized, space, TRAIN, VALIDATION, trials=2, epochs=1, key=jax.random.key(0))

    with pytest.raises(ValueError, match="last layer has a Size; .* the same for all trials or declared with static"):
        run(jn.integers(3, 9))
    assert run(jn.integers(3, 4, static=True)).counts == {"completed": 2}


def test_one_of_several_outputs_may_be_padded():
    """The code of an autoencoder, beside what is made of it."""

    def coded(hp):
        net = jn.models.autoencoder(jn.dense(hp.code), jn.dense(5))
        return jn.Trial(net, jn.models.reconstruction_loss(jn.losses.squared_error), optax.sgd(0.01), batch_size=8)

    data, space = (TRAIN[0], TRAIN[0]), jn.Space(code=jn.integers(1, 4))
    result = jn.random_search(coded, space, data, data, trials=4, epochs=2, key=jax.random.key(0))
    assert len(result.groups["lanes"]) == 1 and result.counts == {"completed": 4}
    assert max(result.reproduce(row).difference for row in range(4)) < 1e-4


def test_a_search_is_no_part_of_a_jitted_function():
    with pytest.raises(TypeError, match="a search: call it outside of jax.jit"):
        jax.jit(lambda key: search(2, key=key).best["score"])(jax.random.key(0))
