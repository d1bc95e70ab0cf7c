"""What a search returns: table, networks without padding, and files that are whole or refused."""

import csv
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


def test_rows_that_are_not_there(result):
    with pytest.raises(ValueError, match="no trial 8; ids run from 0 to 7"):
        result.row(8)
