"""A study that asks, stops and remembers, with lanes that train what it asked for."""

import collections
import os
import signal
import subprocess
import sys
import threading
import warnings
import wsgiref.simple_server

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optuna
import pytest
from optuna.trial import TrialState

import jaxnet as jn
from jaxnet.interop.optuna import optimize

X = np.linspace(-1, 1, 32, dtype=np.float32)[:, None]
DATA = X, X**2
SPACE = jn.Space(rate=jn.log_uniform(1e-2, 1e-1), hidden=jn.integers(2, 6), act=jn.choice(jnp.tanh, jax.nn.relu))


def trial(hp):
    net = jn.serial(jn.dense(hp.hidden), hp.act, jn.dense(1))
    return jn.Trial(net, jn.losses.squared_error, optax.sgd(hp.rate), batch_size=16)


# A program whose score after each unit is known: start * (1 - unit / 8), or infinity where the start is.
FALLING = jn.search.Program(
    lambda hp, key: jnp.zeros(()),
    lambda hp, unit, key: unit + 1,
    lambda hp, unit: {"score": hp.start * (1 - unit / 8)},
)


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def study(**options):
    options = {"pruner": optuna.pruners.NopPruner()} | options
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0), **options)


def states(of):
    return [t.state for t in of.trials]


def test_the_study_knows_what_the_search_found(key):
    of = study()
    result = optimize(of, trial, SPACE, DATA, DATA, n_trials=10, epochs=3, lanes=4, key=key, progress=False)
    assert states(of) == [TrialState.COMPLETE] * 10 and result.table["number"].tolist() == list(range(10))
    for i, t in enumerate(of.trials):
        assert t.value == result.table["score"][i]
        assert t.intermediate_values == dict(enumerate(result.curves[i], 1))
        assert (t.params["rate"], t.params["hidden"]) == (result.table["rate"][i], result.table["hidden"][i])
        assert t.params["act"] == result.table["act"][i].__name__
    rate = of.trials[0].distributions["rate"]
    assert isinstance(rate, optuna.distributions.FloatDistribution) and (rate.low, rate.high, rate.log) == (
        0.01,
        0.1,
        True,
    )
    fitted = jn.fit(
        trial(jn.hp(**{name: result.table[name][3] for name in SPACE.entries})),
        DATA,
        DATA,
        epochs=3,
        key=key,
        trial_id=3,
    )
    np.testing.assert_allclose(of.trials[3].value, fitted.curve["validation_loss"][-1], rtol=1e-5)


def test_the_pruner_decides_after_each_epoch(key):
    """By hand: with a limit of 5, a start of 8 (1 - 1/8) = 7, 6, 5.0 goes on for ever; above that it is stopped."""
    space = jn.Space(start=jn.choice(2.0, 6.0, 8.0, 64.0))
    of = study(pruner=optuna.pruners.ThresholdPruner(upper=5.5, n_warmup_steps=2))
    for start in (2.0, 6.0, 8.0, 64.0):
        of.enqueue_trial({"start": start})
    result = optimize(of, FALLING, space, n_trials=4, epochs=4, lanes=4, key=key, progress=False)
    assert states(of) == [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.PRUNED, TrialState.PRUNED]
    assert of.trials[2].intermediate_values == {1: 7.0, 2: 6.0}
    assert [t.value for t in of.trials] == [1.0, 3.0, 6.0, 48.0]
    assert result.table["status"].tolist() == ["completed", "completed", "stopped", "stopped"]
    assert result.table["units"].tolist() == [4, 4, 2, 2]


def test_a_study_that_maximises(key):
    of = study(direction="maximize", pruner=optuna.pruners.ThresholdPruner(lower=3.0))
    for start in (2.0, 8.0):
        of.enqueue_trial({"start": start})
    space = jn.Space(start=jn.choice(2.0, 8.0))
    result = optimize(of, FALLING, space, n_trials=2, epochs=3, lanes=2, key=key, progress=False)
    assert states(of) == [TrialState.PRUNED, TrialState.COMPLETE] and of.best_value == 5.0
    assert result.best["score"] == 5.0 and result.best["id"] == 1


def test_what_diverges_has_failed(key):
    space = jn.Space(start=jn.choice(1.0, float("inf")))
    of = study()
    for start in (float("inf"), 1.0):
        of.enqueue_trial({"start": start})
    optimize(of, FALLING, space, n_trials=2, epochs=2, lanes=2, key=key, progress=False)
    assert states(of) == [TrialState.FAIL, TrialState.COMPLETE]


def test_a_sampler_learns_from_batch_to_batch(key):
    """TPE's later trials are better than its first, random ones."""
    of = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=8, constant_liar=True))
    space = jn.Space(start=jn.uniform(0, 8))
    optimize(of, FALLING, space, n_trials=40, epochs=1, lanes=8, key=key, progress=False)
    values = [t.value for t in of.trials]
    assert np.mean(values[-16:]) < np.mean(values[:8]) / 2


def test_callbacks_may_stop_the_study(key):
    seen = []
    stop = optuna.study.MaxTrialsCallback(6, states=None)
    of = study()
    result = optimize(
        of, FALLING, jn.Space(start=jn.uniform(0, 8)), n_trials=20, epochs=1, lanes=4, key=key, progress=False,
        callbacks=[lambda study, frozen: seen.append((frozen.number, frozen.state)), stop],
    )  # fmt: skip
    assert seen == [(i, TrialState.COMPLETE) for i in range(8)]
    known = []  # by the end of the first trial, the others' values too: they are told as they come
    optimize(
        study(), FALLING, jn.Space(start=jn.uniform(0, 8)), n_trials=4, epochs=2, lanes=4, key=key, progress=False,
        callbacks=[lambda study, frozen: known.append([sorted(t.intermediate_values) for t in study.trials])],
    )  # fmt: skip
    assert known[0] == [[1, 2]] * 4
    assert len(of.trials) == len(result) == 8


def test_conditions_and_dependent_entries(key):
    """Names in the study are the space's; what depends on others is within its own bounds."""
    space = jn.Space(
        k2=jn.integers(4, 9), k1=lambda hp: jn.integers(2, hp.k2), one=jn.choice(7.0),
        where=lambda hp: hp.k2 % 2 == 1,
    )  # fmt: skip
    program = jn.search.Program(
        lambda hp, key: jnp.zeros(()), lambda hp, x, key: x, lambda hp, x: {"score": hp.one + 0.0 * x}
    )
    of = study()
    result = optimize(of, program, space, n_trials=6, epochs=1, lanes=6, key=key, progress=False)
    assert (result.table["k2"] % 2 == 1).all() and (result.table["k1"] <= result.table["k2"]).all()
    complete = [t for t in of.trials if t.state == TrialState.COMPLETE]
    assert [t.params for t in complete] == [
        {"k2": k2, "k1": k1} for k2, k1 in zip(result.table["k2"], result.table["k1"], strict=True)
    ]
    assert [t.number for t in complete] == result.table["number"].tolist()


def test_choices_that_depend_on_others_are_the_study_s_own(key):
    """Where a branch's choices are the same in all trials they are categorical, and may be enqueued; else places."""
    space = jn.Space(
        optimizer=jn.choice("adam", "sgd"),
        nesterov=lambda hp: jn.choice(True, False) if hp.optimizer == "sgd" else None,
        width=lambda hp: jn.choice(*((1.0, 2.0) if hp.optimizer == "sgd" else (3.0, 4.0)), static=True),
    )
    program = jn.search.Program(
        lambda hp, key: jnp.zeros(()), lambda hp, x, key: x, lambda hp, x: {"score": hp.width + 0.0 * x}
    )
    of = study()
    of.enqueue_trial({"optimizer": "sgd", "nesterov": True})
    result = optimize(of, program, space, n_trials=8, epochs=1, lanes=8, key=key, progress=False)
    assert result.row(0)["nesterov"] is True and of.trials[0].params["nesterov"] is True
    for row, told in zip((result.row(i) for i in range(8)), of.trials, strict=True):
        assert told.params.get("nesterov") == row["nesterov"]
        assert row["width"] in ((1.0, 2.0) if row["optimizer"] == "sgd" else (3.0, 4.0))
        assert ("width" in told.params) == (row["optimizer"] == "sgd")
        assert ("width (place among its choices)" in told.params) == (row["optimizer"] == "adam")


def test_an_enqueued_value_that_is_no_choice_leaves_no_trial_running(key):
    of = study()
    of.enqueue_trial({"start": 3.0})
    with pytest.raises(ValueError, match="3.0"):
        optimize(of, FALLING, jn.Space(start=jn.choice(2.0, 8.0)), n_trials=2, epochs=1, key=key, progress=False)
    assert states(of) == [TrialState.FAIL]


def test_what_is_enqueued_must_be_in_the_space(key):
    of = study()
    of.enqueue_trial({"rate": 5.0})
    space = jn.Space(rate=jn.uniform(0.1, 0.9))
    program = jn.search.Program(lambda hp, key: hp.rate, lambda hp, x, key: x, lambda hp, x: {"score": x})
    with (
        pytest.warns(UserWarning, match="out of range"),
        pytest.raises(ValueError, match="trial 0, as it was enqueued"),
    ):
        optimize(of, program, space, n_trials=2, epochs=1, key=key, progress=False)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"timeout": 3}, r"unknown options \['timeout'\].*in place of timeout give a callback that calls study.stop"),
        ({"callbacks": print}, "expected callbacks to be a list of functions"),
        ({"callbacks": [3]}, "expected callbacks to be a list of functions"),
    ],
)
def test_what_only_optuna_s_own_optimize_takes_is_refused_with_what_there_is(options, said, key):
    with pytest.raises(TypeError, match=said):
        optimize(study(), trial, SPACE, DATA, DATA, n_trials=2, epochs=1, key=key, **options)


def test_an_interrupt_leaves_nothing_running(key):
    of = study()

    def interrupt(study, frozen):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimize(of, FALLING, jn.Space(start=jn.uniform(0, 8)), n_trials=8, epochs=1, lanes=4, key=key,
                 progress=False, callbacks=[interrupt])  # fmt: skip
    assert collections.Counter(states(of)) == {TrialState.COMPLETE: 1, TrialState.FAIL: 3}


def test_several_objectives_are_refused(key):
    of = optuna.create_study(directions=["minimize", "minimize"])
    with pytest.raises(ValueError, match="one score, but the study has 2 objectives"):
        optimize(of, FALLING, jn.Space(start=jn.uniform(0, 8)), n_trials=2, epochs=1, key=key)
    with pytest.raises(TypeError, match=r"unknown options \['schedule'\]"):
        optimize(study(), FALLING, jn.Space(start=jn.uniform(0, 8)), n_trials=2, epochs=1, key=key, schedule=None)


SCRIPT = """
import os, signal, sys, jax, optuna
sys.path.insert(0, {root!r})
from tests.interop.test_optuna import DATA, SPACE, optimize, trial
study = optuna.load_study(study_name="search", storage={storage!r}, sampler=optuna.samplers.RandomSampler(seed=1))
def kill(study, frozen):
    if frozen.number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
optimize(study, trial, SPACE, DATA, DATA, n_trials=12, epochs=2, lanes=4, key=jax.random.key(1), callbacks=[kill])
"""


def test_a_killed_search_goes_on_from_its_storage_and_the_dashboard_shows_it(tmp_path, key, browser):
    """SQLite; SIGKILL in the second batch; then the rest in this process; then optuna-dashboard in a browser."""
    dashboard = pytest.importorskip("optuna_dashboard")
    storage = f"sqlite:///{tmp_path}/study.db"
    of = study(storage=storage, study_name="search")
    script = SCRIPT.format(root=os.getcwd(), storage=storage)
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir}
    killed = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    known = states(of)
    assert known == [TrialState.COMPLETE] * 6 + [TrialState.RUNNING] * 2
    optimize(of, trial, SPACE, DATA, DATA, n_trials=4, epochs=2, lanes=4, key=key, progress=False)
    assert states(of) == known + [TrialState.COMPLETE] * 4

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        app = dashboard.wsgi(storage)

        class Quiet(wsgiref.simple_server.WSGIRequestHandler):
            def log_message(self, *_):
                pass

        server = wsgiref.simple_server.make_server("127.0.0.1", 0, app, handler_class=Quiet)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{server.server_port}/dashboard/studies/1/trials", timeout=60_000)
            page.get_by_text("Trial 11", exact=False).first.wait_for(timeout=60_000)
            text = page.inner_text("body")
            page.close()
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
    assert "Complete" in text and "Running" in text
