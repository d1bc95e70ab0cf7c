"""Other programs' formats, read back by those programs."""

import io
import json
import warnings

import jax.numpy as jnp
import numpy as np
import optuna
import pandas as pd
import pytest

import jaxnet as jn
from jaxnet.search.space import Scale
from tests.search import made


@pytest.fixture(scope="module")
def result():
    made_ = made.result(17, 9, jn.search.hyperband())
    made_.table["status"][16] = "failed"
    made_.table["score"][16] = np.nan
    made_.messages[16] = "a kernel of 7 doesn't fit"
    return made_


def test_json_is_strict_and_whole(result, tmp_path):
    result.to_json(tmp_path / "search.json")

    def refuse(word):
        raise AssertionError(f"{word} isn't JSON")

    read = json.loads((tmp_path / "search.json").read_text(), parse_constant=refuse)
    frame = pd.DataFrame(read["table"])
    assert list(frame.columns) == list(result.table) and frame["status"].tolist() == result.table["status"].tolist()
    np.testing.assert_array_equal(frame["score"].astype(float), result.table["score"])
    np.testing.assert_array_equal(np.array(read["history"]["score"], float), result.curves)
    assert read["scales"]["hidden"] == {"kind": "log", "bounds": [10, 1000], "values": []}
    assert read["rungs"]["promoted"] == [ids.tolist() for ids in result.rungs["promoted"]]
    assert read["groups"]["ids"] == [ids.tolist() for ids in result.groups["ids"]]


def test_optuna_has_the_same_trials(result):
    study = result.to_optuna(name="made")
    assert study.study_name == "made" and study.direction.name == "MINIMIZE" and len(study.trials) == 17
    finished = result.table["status"] == "completed"
    best = np.flatnonzero(finished)[np.nanargmin(result.table["score"][finished])]
    assert study.best_trial.number == best and study.best_value == result.table["score"][best]
    words = {"completed": "COMPLETE", "stopped": "PRUNED", "diverged": "FAIL", "failed": "FAIL"}
    for i, trial in enumerate(study.trials):
        row = result.row(i)
        assert trial.state.name == words[row["status"]]
        assert trial.params == {name: row[name] for name in result.names}
        assert trial.value == (None if trial.state.name == "FAIL" else row["score"])
        finite = np.flatnonzero(np.isfinite(result.curves[i]))
        assert trial.intermediate_values == {u + 1: result.curves[i, u] for u in finite}
        assert trial.user_attrs["diverged"] == row["diverged"] and trial.user_attrs["units"] == row["units"]
        assert trial.user_attrs.get("message") == result.messages.get(i)
    known = optuna.distributions
    assert study.trials[0].distributions == {
        "learning_rate": known.FloatDistribution(1e-4, 1.0, log=True),
        "hidden": known.IntDistribution(10, 1000, log=True),
        "dropout": known.FloatDistribution(0.0, 0.6),
        "activation": known.CategoricalDistribution(("relu", "tanh", "gelu")),
        "kernel": known.IntDistribution(1, 7),
        "batch": known.CategoricalDistribution((32, 64, 128)),
    }


def test_what_does_not_exist_in_a_branch_is_no_parameter_there(tmp_path):
    result = made.result(40, 2, space=made.BRANCHES, diverging=False)
    assert result.scales["optimizer.momentum"] == Scale("linear", (0.5, 1.0))
    assert result.scales["width"] == Scale("log", (8, 64))
    study = result.to_optuna()
    sgd = result.table["optimizer.name"] == "sgd"
    assert [("optimizer.momentum" in trial.params) for trial in study.trials] == sgd.tolist()
    assert study.trials[int(np.argmax(sgd))].distributions[
        "optimizer.momentum"
    ] == optuna.distributions.FloatDistribution(0.5, 1)
    shares = result.importances()
    assert set(shares) == set(result.names) and max(shares, key=shares.get) == "learning_rate"
    result.to_tensorboard(tmp_path / "logs")
    result.plot().savefig(tmp_path / "search.png")


def test_optuna_s_storage_and_direction(tmp_path):
    result, storage = made.result(12, 3, maximize=True), f"sqlite:///{tmp_path}/search.db"
    result.to_optuna(storage, "search")
    study = optuna.load_study(study_name="search", storage=storage)
    assert study.direction.name == "MAXIMIZE" and study.best_value == result.best["score"]
    with pytest.raises(optuna.exceptions.DuplicatedStudyError):
        result.to_optuna(storage, "search")


def test_functions_are_known_by_their_names():
    program = jn.search.Program(
        lambda hp, key: jnp.ones(()), lambda hp, x, key: hp.act(x * hp.rate), lambda hp, x: {"score": x}
    )
    space = jn.Space(rate=jn.choice(0.5, 0.25), act=jn.choice(jnp.tanh, jnp.sin))
    import jax

    result = jn.search.run(program, space, epochs=2, key=jax.random.key(0), sampler=jn.search.grid(2))
    study = result.to_optuna()
    assert [t.params for t in study.trials] == [
        {"rate": rate, "act": act} for rate in (0.5, 0.25) for act in ("tanh", "sin")
    ]
    x = 0.25 * np.sin(0.25 * np.sin(0.25))  # by hand, the last of them
    assert study.trials[3].value == pytest.approx(np.sin(0.25 * np.sin(0.25)), rel=1e-5) and x > 0


def test_optuna_s_dashboard_opens_the_study(tmp_path):
    dashboard = pytest.importorskip("optuna_dashboard")
    result, storage = made.result(12, 3), f"sqlite:///{tmp_path}/search.db"
    result.to_optuna(storage, "search")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        app = dashboard.wsgi(storage)

        def get(path):
            answer = {}
            environment = {
                "REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": "", "SERVER_NAME": "localhost",
                "SERVER_PORT": "80", "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(),
                "HTTP_ACCEPT": "application/json",
            }  # fmt: skip
            body = b"".join(app(environment, lambda status, *_: answer.update(status=status)))
            assert answer["status"].startswith("200"), (path, answer, body[:300])
            return json.loads(body)

        (study,) = get("/api/studies")["study_summaries"]
        assert study["study_name"] == "search"
        shown = get(f"/api/studies/{study['study_id']}")
    states = {"completed": "Complete", "diverged": "Fail"}
    assert [trial["state"] for trial in shown["trials"]] == [states[status] for status in result.table["status"]]


def test_tensorboard_reads_hyperparameters_and_curves(result, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    result.to_tensorboard(tmp_path / "logs")
    runs = sorted((tmp_path / "logs").iterdir())
    assert [run.name for run in runs] == [f"trial-{i:02}" for i in range(17)]
    for i in (0, 12, result.best["id"]):
        events = accumulator.EventAccumulator(str(runs[i])).Reload()
        for name in ("score", "train_loss"):
            scalars = [(event.step, event.value) for event in events.Scalars(name)]
            units = np.flatnonzero(np.isfinite(result.curves[i]))
            assert [step for step, _ in scalars] == (units + 1).tolist()
            np.testing.assert_allclose([value for _, value in scalars], result.history[name][i, units], rtol=1e-6)
        content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
        told = HParamsPluginData.FromString(content).session_start_info.hparams
        read = {name: getattr(value, value.WhichOneof("kind")) for name, value in told.items()}
        assert read == {name: result.row(i)[name] for name in result.names}
        assert "_hparams_/session_end_info" in events.summary_metadata
    with pytest.raises(ValueError, match="has a search's trials already"):
        result.to_tensorboard(tmp_path / "logs")


def test_scales_groups_and_rungs_survive_a_file(result, tmp_path):
    result.save(tmp_path / "search.msgpack")
    loaded = jn.search.SearchResult.load(tmp_path / "search.msgpack")
    assert loaded.scales == result.scales and loaded.maximize is False and loaded.counts == result.counts
    for table, other in ((loaded.groups, result.groups), (loaded.rungs, result.rungs)):
        assert list(table) == list(other)
        for name in table:
            assert [np.asarray(v).tolist() for v in table[name]] == [np.asarray(v).tolist() for v in other[name]]
    assert loaded.messages == {16: "a kernel of 7 doesn't fit"}
    higher = made.result(3, 2, maximize=True)
    higher.save(tmp_path / "search.msgpack")
    assert jn.search.SearchResult.load(tmp_path / "search.msgpack").best["score"] == np.nanmax(higher.table["score"])
