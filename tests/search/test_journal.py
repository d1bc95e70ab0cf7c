"""The journal: whatever kills a search, and whenever, the same call ends in the same table."""

import os
import signal
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.search import lanes as lanes_module
from jaxnet.search.journal import Journal


def problem(examples, seed):
    generator = np.random.default_rng(seed)
    labels = generator.integers(3, size=examples)
    centres = np.random.default_rng(9).normal(size=(3, 5)) * 1.5
    return (centres[labels] + generator.normal(size=(examples, 5))).astype(np.float32), labels.astype(np.int32)


TRAIN, VALIDATION = problem(60, 0), problem(40, 1)
SPACE = jn.Space(rate=jn.log_uniform(1e-2, 1e-1), hidden=jn.log_integers(2, 24), act=jn.choice(jnp.tanh, jax.nn.relu))


def trial(hp):
    net = jn.serial(jn.dense(hp.hidden), hp.act, jn.dropout(0.2), jn.dense(3))
    return jn.Trial(net, jn.losses.softmax_cross_entropy, optax.sgd(hp.rate, momentum=0.9), batch_size=16)


def search(directory=None, **options):
    options = {"trials": 9, "epochs": 4, "schedule": jn.search.successive_halving(eta=2), "lanes": 2} | options
    return jn.search.run(
        options.pop("trial", trial), options.pop("space", SPACE), options.pop("train", TRAIN), VALIDATION,
        key=options.pop("key", jax.random.key(3)), directory=directory, keep=2, **options,
    )  # fmt: skip


def same(a, b):
    assert list(a.table) == list(b.table)
    for name in a.table:
        np.testing.assert_array_equal(a.table[name], b.table[name], err_msg=name)
    for name in a.history:
        np.testing.assert_array_equal(a.history[name], b.history[name], err_msg=name)
    for x, y in zip(jax.tree.leaves(a.network()[1:]), jax.tree.leaves(b.network()[1:]), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def whole():
    return search()


class Killed(Exception):
    """In place of a signal, between two records."""


def killed_after(count, directory, monkeypatch, **options):
    """Runs a search whose process, as it were, dies when so many records have been written; whether it did."""
    append, written = Journal.append, 0

    def counted(self, record):
        nonlocal written
        if written == count:
            raise Killed
        written += 1
        append(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", counted)
        try:
            search(directory, **options)
        except Killed:
            return True
    return False


def test_a_journal_changes_nothing_and_a_finished_search_is_only_read(whole, tmp_path, monkeypatch):
    same(search(tmp_path), whole)
    files = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    monkeypatch.setattr(lanes_module, "_lower", None)  # nothing is compiled
    same(search(tmp_path), whole)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files
    assert {name.split("-")[0] for name in files} == {"journal", "kept", "lock"}  # lanes that went on are gone


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 7, 9])
def test_killed_between_any_two_records(count, whole, tmp_path, monkeypatch):
    assert killed_after(count, tmp_path, monkeypatch)
    same(search(tmp_path), whole)


def test_killed_again_and_again(whole, tmp_path, monkeypatch):
    times = 0
    while killed_after(2, tmp_path, monkeypatch):
        times += 1
    assert times > 3
    same(search(tmp_path), whole)


def test_a_tail_torn_at_any_byte_is_cut_and_redone(whole, tmp_path):
    search(tmp_path)
    content = (tmp_path / "journal").read_bytes()
    with Journal(tmp_path, about(content)) as journal:
        sizes = len(journal.records)
    generator = np.random.default_rng(0)
    for length in [0, 3, 7, *sorted(generator.integers(8, len(content), 40)), len(content) - 1]:
        (tmp_path / "journal").write_bytes(content[:length])
        with Journal(tmp_path, about(content)) as journal:
            assert 1 <= len(journal.records) < sizes
            assert length < 8 or content.startswith((tmp_path / "journal").read_bytes()[: min(length, 8)])


def test_a_search_goes_on_after_a_torn_tail_and_again(whole, tmp_path, monkeypatch):
    assert killed_after(4, tmp_path, monkeypatch)
    path = tmp_path / "journal"
    path.write_bytes(path.read_bytes()[:-5])
    assert killed_after(3, tmp_path, monkeypatch)
    path.write_bytes(path.read_bytes() + b"half a record")
    same(search(tmp_path), whole)


def about(content):
    from flax import serialization

    return serialization.msgpack_restore(content[8 : 8 + int.from_bytes(content[:4], "little")])


def narrower(hp):
    return trial(jn.hp(rate=0.1, hidden=2, act=jnp.tanh))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"epochs": 5}, "epochs was '4', is '5'"),
        ({"key": jax.random.key(4)}, "key was '"),
        ({"trials": 8}, "trials was '9 "),
        (
            {"space": jn.Space(**SPACE.entries | {"rate": jn.log_uniform(1e-3, 1e-1)})},
            r"rate': 'log_uniform\(0.01, 0.1",
        ),
        ({"trial": narrower}, "trial function was 'trial .*, is 'narrower"),
        ({"train": problem(61, 0)}, r"train data was 'float32\[60, 5\], int32\[60\] .*float32\[61, 5\]"),
        ({"train": problem(60, 5)}, "train data was"),
        ({"schedule": None}, r"schedule was 'successive_halving\(2, 1\)', is 'full\(\)'"),
        ({"schedule": jn.search.full()._replace(label="")}, r"schedule was 'successive_halving\(2, 1\)', is '1 steps"),
        ({"shuffle": "own"}, "shuffle was 'shared', is 'own'"),
    ],
)
def test_the_journal_of_another_search_is_refused_with_the_difference(change, message, tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.getbasetemp() / "another"
    if not folder.exists():
        assert killed_after(1, folder, monkeypatch)
    before = (folder / "journal").read_bytes()
    with pytest.raises(ValueError, match=f"is the journal of another search: .*{message}"):
        search(folder, **change)
    assert (folder / "journal").read_bytes() == before


def test_two_processes_do_not_write_into_one_journal(tmp_path):
    with Journal(tmp_path, {"a": "b"}):
        code = f"from jaxnet.search.journal import Journal\nJournal({str(tmp_path)!r}, {{'a': 'b'}})"
        second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "another process is searching into" in second.stderr
    with Journal(tmp_path, {"a": "b"}):  # the lock went with its owner
        pass


def test_a_deleted_file_of_lanes_is_named_and_nothing_recorded_is_lost(whole, tmp_path, monkeypatch):
    count = 2
    while not any(path.name.startswith("parked") for path in tmp_path.glob("*")):
        count += 1
        assert killed_after(count, tmp_path, monkeypatch)
    assert killed_after(5, tmp_path, monkeypatch)
    parked = {path: path.read_bytes() for path in tmp_path.glob("parked-*")}
    assert parked
    before = (tmp_path / "journal").read_bytes()
    for path in parked:
        path.unlink()
    with pytest.raises(FileNotFoundError, match="is missing: the journal beside it says that trials .* go on from it"):
        search(tmp_path)
    assert (tmp_path / "journal").read_bytes().startswith(before)
    for path, content in parked.items():
        path.write_bytes(content)
    same(search(tmp_path), whole)


def test_a_full_disk_loses_nothing_that_was_recorded(whole, tmp_path, monkeypatch):
    fsync, calls = os.fsync, 0

    def full(descriptor):
        nonlocal calls
        calls += 1
        if calls == 6:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        search(tmp_path)
    monkeypatch.undo()
    assert not list(tmp_path.glob("*.part"))
    same(search(tmp_path), whole)


def test_a_folder_that_can_not_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"the journal's folder can't be written; give another directory=.*file/below"):
        search(tmp_path / "file" / "below")


def test_an_interrupt_says_how_to_go_on(whole, tmp_path, monkeypatch, capsys):
    unit, calls = lanes_module._unit, 0

    def interrupted(chunk, number, *rest):
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return unit(chunk, number, *rest)

    monkeypatch.setattr(lanes_module, "_unit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path)
    monkeypatch.undo()
    said = capsys.readouterr().err
    assert "of 9 trials have results in" in said and f"directory={str(tmp_path)!r}, goes on from there" in said
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("jaxnet")]
    same(search(tmp_path), whole)


def test_an_interrupt_lets_the_units_that_run_come_to_their_end(whole, tmp_path, monkeypatch, capsys):
    unit, trained, sent = lanes_module._unit, [], []

    def signalled(chunk, number, *rest):
        trained.extend((i, int(number)) for i in chunk.ids.tolist())
        if len(trained) >= 8 and not sent:
            sent.append(signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return unit(chunk, number, *rest)

    monkeypatch.setattr(lanes_module, "_unit", signalled)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, schedule=None)
    assert signal.getsignal(signal.SIGINT) is handler
    said = capsys.readouterr().err
    assert "Stopping when the units that run are over" in said and "goes on from there" in said
    assert 8 <= len(trained) < 36
    resumed = search(tmp_path, schedule=None)
    assert sorted(trained) == [(i, number) for i in range(9) for number in range(4)]  # no unit was trained twice
    same(resumed, search(schedule=None))


def test_halved_lanes_are_remembered(whole, tmp_path, monkeypatch):
    unit = lanes_module._unit

    def exhausted(chunk, number, *rest):
        if chunk.batch.lanes > 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return unit(chunk, number, *rest)

    monkeypatch.setattr(lanes_module, "_unit", exhausted)
    assert killed_after(4, tmp_path, monkeypatch)
    monkeypatch.undo()
    lowered, lower = [], lanes_module._lower
    monkeypatch.setattr(lanes_module, "_lower", lambda *a: lowered.append(a[2]) or lower(*a))
    result = search(tmp_path)
    np.testing.assert_allclose(result.curves, whole.curves, rtol=1e-4)
    assert 1 in lowered


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import test_journal
result = test_journal.search(sys.argv[1])
result.save(sys.argv[2])
"""


def test_killed_for_real_at_random(whole, tmp_path):
    """SIGKILL to a process of its own, after a delay that grows until it gets through."""
    script = SCRIPT.format(tests=os.path.dirname(__file__))
    folder, out = tmp_path / "journal", tmp_path / "result.msgpack"
    environment = os.environ | {
        "PYTHONPATH": os.getcwd(),
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
    }
    kills = 0
    for attempt in range(40):
        process = subprocess.Popen([sys.executable, "-c", script, str(folder), str(out)], env=environment)
        try:
            process.wait(timeout=2.0 + 0.7 * attempt + np.random.default_rng(attempt).random())
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
        if out.exists():
            break
    assert out.exists() and kills
    loaded = jn.search.SearchResult.load(out)
    for name in whole.history:
        np.testing.assert_allclose(loaded.history[name], whole.history[name], rtol=1e-6, err_msg=name)
