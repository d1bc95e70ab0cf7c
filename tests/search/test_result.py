"""What a search returns: table, networks without padding, and files that are whole or refused."""

import csv
import dataclasses
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn

X = np.random.default_rng(0).normal(size=(60, 4, 3)).astype(np.float32)
Y = (X.sum(axis=(1, 2)) > 0).astype(np.int32)
SPACE = jn.Space(
    rate=jn.log_uniform(1e-2, 1e-1), a=jn.integers(2, 7), b=jn.integers(2, 9), act=jn.choice(jnp.tanh, jax.nn.sigmoid)
)


def trial(hp):
    """Its first layer works on the last axis, so that flatten leaves gaps between active features."""
    net = jn.serial(
        features=jn.serial(jn.dense(hp.a), hp.act, jn.flatten), hidden=jn.dense(hp.b), act=hp.act, head=jn.dense(2)
    )
    return jn.Trial(net, jn.losses.softmax_cross_entropy, optax.adam(hp.rate), jn.metrics.error, batch_size=16)


@pytest.fixture(scope="module")
def result():
    return jn.random_search(trial, SPACE, (X, Y), (X, Y), trials=8, epochs=2, key=jax.random.key(0), keep=3)


def test_table_and_curves(result):
    assert list(result.table)[:4] == ["id", "status", "units", "score"]
    assert list(result.table)[-4:] == ["rate", "a", "b", "act"] == result.names
    assert {len(column) for column in result.table.values()} == {8}
    np.testing.assert_array_equal(result.curves[:, -1], result.table["score"])
    np.testing.assert_array_equal(result.table["score"], result.table["validation_error"])
    assert result.table["units"].tolist() == [2] * 8
    scores = [row["score"] for row in result.ranked()]
    assert scores == sorted(scores) and result.best == result.ranked(1)[0]
    assert all(isinstance(result.best[name], kind) for name, kind in {"id": int, "score": float, "a": int}.items())


def test_what_the_groups_took_and_the_rungs_that_were_trained(result):
    groups = result.groups
    assert sorted(np.concatenate(groups["ids"]).tolist()) == list(range(8))
    assert len(groups["ids"]) == len(result.plan.groups) and {len(column) for column in groups.values()} == {
        len(groups["ids"])
    }
    for ids, sizes, compiled_in in zip(groups["ids"], groups["sizes"], groups["compiled_in"], strict=True):
        low, high = result.table["a"][ids].min(), result.table["a"][ids].max()
        assert (f"a {low}-{high}" if low < high else f"a {low}") in sizes
        assert {f"act={act.__name__}" for act in result.table["act"][ids]} == {compiled_in}
    assert (groups["bytes"] > 0).all() and (groups["compile_seconds"] > 0).all()  # compiled memory analysis
    assert groups["run_seconds"].sum() > 0
    assert {name: values.tolist() for name, values in result.rungs.items() if name not in ("ids", "promoted")} == {
        "step": [0], "bracket": [0], "units": [2]
    }  # fmt: skip
    assert result.rungs["ids"][0].tolist() == list(range(8)) and len(result.rungs["promoted"][0]) == 0
    assert result.scales["rate"] == ("log", (1e-2, 1e-1), ()) and result.scales["b"] == ("linear", (2, 9), ())
    assert result.scales["act"] == ("category", None, (jnp.tanh, jax.nn.sigmoid))


def test_networks_have_the_narrow_shapes_and_the_row_s_score(result):
    kept = [row["id"] for row in result.ranked(3)]
    other = result.ranked()[-1]["id"]
    for trial_id in [*kept, other]:  # the last one wasn't kept, so it's trained again
        row = result.row(trial_id)
        net, params, state = result.network(row)
        assert params["features"][0]["w"].shape == (3, row["a"])
        assert params["hidden"]["w"].shape == (4 * row["a"], row["b"])
        assert all(np.all(leaf != 0) for leaf in jax.tree.leaves(params))  # no padding is left
        measured = jn.evaluate(trial(result.hyperparameters(row)), params, state, (X, Y))
        np.testing.assert_allclose(measured["error"], row["validation_error"], atol=1e-6)
        np.testing.assert_allclose(measured["loss"], row["validation_loss"], rtol=1e-4)
        assert net.apply(params, state, X[:2])[0].shape == (2, 2)


def test_save_and_load_without_pickling(result, tmp_path):
    path = tmp_path / "result.msgpack"
    result.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["result.msgpack"]  # no temporary file is left
    loaded = jn.search.SearchResult.load(path)
    for name, column in result.table.items():
        if name != "act":
            np.testing.assert_array_equal(loaded.table[name], column)
    assert loaded.table["act"].tolist() == [f.__name__ for f in result.table["act"]]
    np.testing.assert_array_equal(loaded.curves, result.curves)
    with pytest.raises(ValueError, match=r"isn't at hand.*jn.fit\(trial"):
        loaded.network()

    by_name = {"tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid}
    loaded = jn.search.SearchResult.load(path, lambda hp: trial(jn.hp(**{**hp, "act": by_name[hp.act]})), (4, 3))
    net, params, state = loaded.network()
    np.testing.assert_array_equal(
        net.apply(params, state, X)[0], result.network().net.apply(*result.network()[1:], X)[0]
    )
    other = jn.search.SearchResult.load(path, lambda hp: trial(jn.hp(rate=0.1, a=20, b=2, act=jnp.tanh)), (4, 3))
    with pytest.raises(ValueError, match=r"\['features'\]\[0\]\['b'\] is float32\[\d\], the network's float32\[20\]"):
        other.network()


@dataclasses.dataclass
class Kernels:
    """A trial function that can't be hashed, as one with fields can't, and that needs its values as they were."""

    width: int

    def __call__(self, hp):
        assert (type(hp.depth), hp.depth) in ((int, 1), (float, 2.5)) and isinstance(hp.kernel, tuple)
        net = jn.serial(jn.conv(self.width, hp.kernel[:1]), jn.flatten, jn.dense(2))
        return jn.Trial(net, jn.losses.softmax_cross_entropy, optax.sgd(hp.rate), batch_size=16)


def test_values_keep_their_type_in_the_table_and_in_files(tmp_path):
    space = jn.Space(
        rate=jn.log_uniform(1e-2, 1e-1), depth=jn.choice(1, 2.5, static=True), on=jn.choice(True, False),
        kernel=jn.choice((2, 2), (3, ("a", None))), part=lambda hp: jn.uniform(0.5, 1) if hp.on else 0,
    )  # fmt: skip
    result = jn.random_search(Kernels(2), space, (X, Y), (X, Y), trials=12, epochs=1, key=jax.random.key(0), keep=1)
    kinds = {name: {type(value) for value in result.table[name].tolist()} for name in result.names}
    assert kinds == {"rate": {float}, "depth": {int, float}, "on": {bool}, "kernel": {tuple}, "part": {int, float}}
    assert result.table["rate"].dtype == float and result.table["on"].dtype == bool
    result.save(tmp_path / "result.msgpack")
    loaded = jn.search.SearchResult.load(tmp_path / "result.msgpack", Kernels(2), (4, 3))
    for name in result.names:
        again, were = loaded.table[name].tolist(), result.table[name].tolist()
        assert [(type(value), value) for value in again] == [(type(value), value) for value in were]
    assert loaded.scales == result.scales and loaded.table["kernel"][0] in loaded.scales["kernel"].values
    np.testing.assert_array_equal(loaded.network().params[0]["w"], result.network().params[0]["w"])

    result.to_csv(tmp_path / "result.csv")
    with open(tmp_path / "result.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["depth"] for row in rows} == {"1", "2.5"} and rows[0]["kernel"] == str(result.table["kernel"][0])
    result.to_json(tmp_path / "result.json")
    assert json.loads((tmp_path / "result.json").read_text())["table"]["part"] == result.table["part"].tolist()
    assert result.to_pandas()["part"].tolist() == result.table["part"].tolist()
    result.report(tmp_path / "report.html")
    assert result.importances().keys() == set(result.names) and result.plot() is not None


def test_a_trial_function_without_a_spec_is_refused_where_it_is_given(result, tmp_path):
    result.save(tmp_path / "result.msgpack")
    with pytest.raises(ValueError, match=r"load: a trial function wants spec= too.*\(28, 28, 1\)"):
        jn.search.SearchResult.load(tmp_path / "result.msgpack", trial)


def test_carries_of_a_program_are_loaded_with_it(tmp_path):
    program = jn.search.Program(
        lambda hp, key: {"x": jnp.ones(3), "steps": (jnp.int32(0),)},
        lambda hp, carry, key: {"x": carry["x"] * hp.rate, "steps": (carry["steps"][0] + 1,)},
        lambda hp, carry: {"score": carry["x"].sum()},
    )
    space = jn.Space(rate=jn.uniform(0, 1))
    result = jn.random_search(program, space, trials=4, epochs=3, key=jax.random.key(0), keep=2)
    result.save(tmp_path / "result.msgpack")
    loaded = jn.search.SearchResult.load(tmp_path / "result.msgpack", program)
    for row in result.ranked(2):
        jax.tree.map(np.testing.assert_array_equal, loaded.network(row), jax.device_get(result.network(row)))
    other = program._replace(init=lambda hp, key: {"x": jnp.ones(3)})
    with pytest.raises(ValueError, match=r"has a carry of .*steps.*, the program makes one of \[\"\['x'\]\"\]"):
        jn.search.SearchResult.load(tmp_path / "result.msgpack", other).network()


@pytest.mark.parametrize("spoil", ["truncated", "foreign", "empty", "other archive"])
def test_files_that_are_not_whole_are_refused(spoil, result, tmp_path):
    path = tmp_path / "result.msgpack"
    result.save(path)
    content = path.read_bytes()
    if spoil == "other archive":
        jn.save(path, {"w": np.ones(3)})
    else:
        path.write_bytes({"truncated": content[: len(content) // 2], "foreign": b"PNG" * 99, "empty": b""}[spoil])
    with pytest.raises(ValueError, match="is not a whole result of a search"):
        jn.search.SearchResult.load(path)
    with pytest.raises(FileNotFoundError):
        jn.search.SearchResult.load(tmp_path / "missing.msgpack")


def test_a_failed_write_leaves_the_old_file(result, tmp_path, monkeypatch):
    path = tmp_path / "result.msgpack"
    path.write_bytes(b"old")

    def full(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        result.save(path)
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_csv_and_pandas(result, tmp_path):
    result.to_csv(tmp_path / "results.csv")
    with open(tmp_path / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(result.table) and len(rows) == 8
    assert [float(row["rate"]) for row in rows] == result.table["rate"].tolist()
    assert rows[0]["act"] in ("tanh", "sigmoid")
    frame = result.to_pandas()
    assert list(frame.columns) == list(result.table) and frame["score"].min() == result.best["score"]


def test_other_seeds_of_a_row_compile_nothing():
    options = {"trials": 2, "epochs": 2, "key": jax.random.key(0), "repeats": 2, "keep": 0}
    result = jn.random_search(trial, SPACE, (X, Y), (X, Y), **options)
    assert result.reproduce(0, seed=0).difference < 1e-4
    compiled = jn.training._compiled_for.cache_info().misses
    assert result.reproduce(0, seed=1).difference < 1e-4 and result.network(0, seed=1).params
    assert jn.training._compiled_for.cache_info().misses == compiled
    assert result.reproduce(1, seed=0).difference < 1e-4
    assert jn.training._compiled_for.cache_info().misses == compiled + 1


def test_rows_that_are_not_there(result):
    with pytest.raises(ValueError, match="no trial 8; ids run from 0 to 7"):
        result.row(8)
