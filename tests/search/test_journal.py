"""The journal: whatever kills a search, and whenever, the same call ends in the same table."""

import errno
import fcntl
import functools
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.search import driver
from jaxnet.search import lanes as lanes_module
from jaxnet.search.journal import Journal, read_records, value_text


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


@pytest.mark.parametrize("torn", [b"\0" * 5, b"\0" * 999, b"half a record"], ids=["few zeros", "zeros", "text"])
def test_what_a_power_cut_leaves_is_cut_off_and_the_next_record_begins_there(torn, tmp_path):
    with Journal(tmp_path, {"a": "b"}) as journal:
        journal.append({"x": 1})
    content = (tmp_path / "journal").read_bytes()
    assert read_records(content + torn) == ([{"a": "b"}, {"x": 1}], len(content))
    (tmp_path / "journal").write_bytes(content + torn)
    (tmp_path / "kept-2-0.0123abcd.part").write_bytes(b"half a file of lanes")
    (tmp_path / "mine.0123abcd.part").write_bytes(b"somebody else's")
    with Journal(tmp_path, {"a": "b"}) as journal:
        assert (tmp_path / "journal").read_bytes() == content
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(content) + 20, limits[1]))  # a disk that is full in the middle
        try:
            with pytest.raises(OSError, match="File too large"):
                journal.append({"y": "z" * 100})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert (tmp_path / "journal").read_bytes() == content
        journal.append({"y": 2})
    assert read_records((tmp_path / "journal").read_bytes())[0] == [{"a": "b"}, {"x": 1}, {"y": 2}]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal", "lock", "mine.0123abcd.part"]


@pytest.mark.parametrize("content", [b"dear diary, " * 100, b"{}", b"\0\0dear diary"], ids=["text", "short", "zeros"])
def test_a_file_that_is_no_journal_stays_as_it_is(content, tmp_path):
    (tmp_path / "journal").write_bytes(content)
    with pytest.raises(ValueError, match="isn't the journal of a search, or its beginning is damaged.* give another"):
        Journal(tmp_path, {"a": "b"})
    assert (tmp_path / "journal").read_bytes() == content


def test_names_are_on_the_disk_before_a_record_tells_of_them(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(os.fstat(file).st_ino), fsync(file))[1])
    folder = tmp_path / "new" / "runs"
    with Journal(folder, {"a": "b"}) as journal:
        assert {path.stat().st_ino for path in (tmp_path, folder.parent, folder)} < set(synced)
        synced.clear()
        journal.save("kept-1-0", {0: np.ones(3)})
        journal.append({"kept": [0]})
    assert synced == [path.stat().st_ino for path in (folder / "kept-1-0", folder, folder / "journal")]


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


def scaled(hp, scale=1.0, *, act=jnp.tanh, **more):
    return trial(jn.hp(rate=hp.rate * scale, hidden=hp.hidden, act=act))


def capturing(*captured):
    return lambda hp: captured


class Configured:
    def __init__(self, scale):
        self.scale = scale

    def __call__(self, hp):
        return scaled(hp, self.scale)


def itself(scale):
    def trial(hp):
        return trial, scale

    return trial


PAIRS = {
    "partial": [functools.partial(scaled, scale=1.0), functools.partial(scaled, scale=0.0)],
    "partial's function": [functools.partial(scaled, scale=1.0), functools.partial(trial, scale=1.0)],
    "closure": [capturing(1), capturing(2)],
    "kinds": [capturing(1), capturing(1.0), capturing(True), capturing("1"), capturing((1,)), capturing([1])],
    "containers": [capturing({"a": [1, {2}]}), capturing({"a": [1, {3}]}), capturing({"b": [1, {2}]})],
    "arrays": [capturing(np.arange(9999)), capturing(np.arange(9999.0)), capturing(np.arange(1, 10000))],
    "arrays on a device": [capturing(jnp.zeros(3)), capturing(jnp.ones(3)), capturing(jnp.zeros((3, 1)))],
    "keys": [capturing(jax.random.key(0)), capturing(jax.random.key(1))],
    "initialisers": [jax.nn.initializers.he_normal(), jax.nn.initializers.lecun_normal()],
    "optimisers": [capturing(optax.adam(0.1)), capturing(optax.adam(0.2)), capturing(optax.sgd(0.1))],
    "layers": [capturing(jn.dense(3)), capturing(jn.dense(4)), capturing(jn.dropout(0.1)), capturing(jn.dropout(0.2))],
    "defaults": [(lambda x: lambda hp, y=x: y)(v) for v in (1, 2)],
    "keyword defaults": [(lambda x: lambda hp, *, y=x: y)(v) for v in (1, 2)],
    "objects": [Configured(1.0), Configured(2.0)],
    "methods": [Configured(1.0).__call__, Configured(2.0).__call__],
    "jitted": [jax.jit(capturing(1)), jax.jit(capturing(2)), functools.lru_cache(capturing(1))],
    "captured functions": [capturing(jnp.tanh), capturing(jax.nn.relu), capturing(np.add), capturing(np.subtract)],
    "functions without source": [eval(f"lambda hp: hp in {{'a', 'b', 'c', {i}}}") for i in (1, 2)],
    "itself": [itself(1), itself(2)],
    "sets of text": [capturing({"a", "b", "c", "d"}), capturing({"a", "b", "c", "e"})],
    "choices": [jn.choice(Configured(1.0), jn.dense(3)), jn.choice(Configured(2.0), jn.dense(3)), jn.choice(trial)],
    "choices captured": [capturing(jn.choice(optax.sgd(0.1))), capturing(jn.choice(optax.sgd(0.2)))],
    "choices of sets": [jn.choice(frozenset({"a", "b", "c"})), jn.choice(frozenset({"a", "b", "d"}))],
    "kinds of entries": [jn.integers(1, 3), jn.integers(1, 3, static=True), jn.choice(1, 3), jn.choice(1.0, 3.0)],
    "text like an address": [capturing("one at 0x1"), capturing("one at 0x2")],
}


@pytest.mark.parametrize("functions", PAIRS.values(), ids=PAIRS.keys())
def test_functions_differ_in_what_they_capture(functions):
    assert len({value_text(function) for function in functions}) == len(functions)


def test_another_process_knows_a_function_again_whatever_it_captures():
    file, lock = open(os.devnull), threading.Lock()  # noqa: SIM115
    with file:  # what has no text of its own is no reason to refuse a search
        assert value_text(capturing(file, lock, np, object())) == value_text(
            capturing(file, threading.Lock(), np, object())
        )
    code = (
        f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r}); import test_journal as t\n"
        "print([t.value_text(f) for pair in t.PAIRS.values() for f in pair])"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1] and b"scale=0.0" in said[0]


@pytest.mark.parametrize(
    "option", [lambda: (8, lambda x: x), lambda: Configured(0.5), lambda: functools.partial(jnp.power, 2)]
)
def test_a_choice_of_what_has_an_address_is_known_again_when_it_is_made_anew(option, tmp_path):
    def again():
        program = jn.search.Program(lambda hp, key: jnp.ones(()), lambda hp, x, key: x, lambda hp, x: {"score": x})
        space = jn.Space(kind=jn.choice(option()), rate=lambda hp: jn.choice(hp.kind, 1.0, static=True))
        jn.search.run(program, space, trials=2, epochs=1, key=jax.random.key(0), directory=tmp_path)

    again()
    again()
    assert b" at 0x" not in (tmp_path / "journal").read_bytes()


def test_a_resumed_search_with_another_captured_value_is_refused(tmp_path, monkeypatch):
    assert killed_after(1, tmp_path, monkeypatch, trial=functools.partial(scaled, scale=1.0))
    with pytest.raises(ValueError, match=r"trial function was 'partial scaled .*scale=1.0.*, is '.*scale=0.0\)'"):
        search(tmp_path, trial=functools.partial(scaled, scale=0.0))


def test_a_file_system_without_locks_is_no_other_process(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="No locks available: the journal's folder can't be locked; give a directory="):
        Journal(tmp_path, {"a": "b"})


def test_where_python_has_no_locks_a_way_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.raises(RuntimeError, match=r"by fcntl, which Python doesn't have on Windows; search there in WSL"):
        Journal(tmp_path, {"a": "b"})


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


def ended():
    """Waits for what an interrupt left on threads."""
    for thread in threading.enumerate():
        if thread.name.startswith("jaxnet"):
            thread.join(timeout=60)
            assert not thread.is_alive()


@pytest.mark.parametrize("signals", [1, 2], ids=["without a journal", "the second one"])
def test_an_interrupt_does_not_wait_for_a_unit_that_runs(signals, whole, tmp_path, monkeypatch, capsys, request):
    unit, released, running = lanes_module._unit, threading.Event(), []

    def hanging(*arguments):
        running.append(1)
        if len(running) == 3:
            for _ in range(signals):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.2)  # else the second signal is the first one, still pending
        if len(running) >= 3:
            released.wait(timeout=60)
        return unit(*arguments)

    directory = tmp_path if signals == 2 else None
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it may be ignored
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with monkeypatch.context() as patch:
        patch.setattr(lanes_module, "_unit", hanging)
        with pytest.raises(KeyboardInterrupt):
            search(directory)
        assert not released.is_set()
        released.set()
        ended()
    if signals == 2:
        assert "interrupt again not to wait for them" in capsys.readouterr().err
        same(search(directory), whole)


def test_a_signal_handler_that_is_not_python_s_is_left_alone(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    monkeypatch.setattr(signal, "signal", None)
    same(search(tmp_path), whole)


def test_a_journal_grows_with_the_units_not_with_their_square(tmp_path):
    program = jn.search.Program(
        lambda hp, key: jnp.zeros(()), lambda hp, carry, key: carry + hp.rate, lambda hp, carry: {"score": carry}
    )

    def size(units):
        options = {"schedule": jn.search.median_stopping(), "trials": 40, "key": jax.random.key(0), "keep": 0}
        jn.search.run(
            program,
            jn.Space(rate=jn.uniform(1, 1.1)),
            epochs=units,
            directory=tmp_path / str(units),
            lanes=40,
            **options,
        )
        with Journal(tmp_path / str(units), about((tmp_path / str(units) / "journal").read_bytes())) as journal:
            values = [record["history"]["score"] for record in journal.records if "history" in record]
            kept = len(journal.records)
            journal.append({"one": "more"})
            assert len(journal.records) == kept  # only what was there when it was opened stays in memory
        assert [array.shape[1] for array in values] == [1] * units
        return sum(array.size for array in values)

    assert size(20) <= 2 * size(10)


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
    ended()
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


def test_check_sums_are_written_down_while_threads_add_to_them():
    stream, interval = types.SimpleNamespace(marks={}), sys.getswitchinterval()
    setup = types.SimpleNamespace(batched={"train": stream}, written=set())

    def read():
        for epoch in range(30_000):
            stream.marks.setdefault(epoch, epoch)

    reader, seen = threading.Thread(target=read), {}
    sys.setswitchinterval(1e-6)
    try:
        reader.start()
        while reader.is_alive():
            seen |= driver._Setup.newly_read(setup).get("read", {}).get("train", {})
    finally:
        reader.join()
        sys.setswitchinterval(interval)
    seen |= driver._Setup.newly_read(setup).get("read", {}).get("train", {})
    assert len(seen) == 30_000


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


HANGING = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background may have been told to ignore it
sys.path.insert(0, {tests!r})
import test_journal
test_journal.lanes_module._unit = lambda *_: print("running", flush=True) or time.sleep(300)
try:
    test_journal.search()
except KeyboardInterrupt:
    print("raised", flush=True)
"""


def test_an_interrupt_while_the_interpreter_waits_for_a_unit_ends_the_process():
    script, environment = HANGING.format(tests=os.path.dirname(__file__)), os.environ | {"PYTHONPATH": os.getcwd()}
    with subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdout.readline() == b"running\n"

        def interrupted():
            """Whether it is raised. Python loses an interrupt that comes while it runs a finaliser."""
            process.send_signal(signal.SIGINT)
            end = time.monotonic() + 20
            while (left := end - time.monotonic()) > 0 and select.select([process.stdout], [], [], left)[0]:
                if (line := process.stdout.readline()) in (b"raised\n", b""):
                    return line == b"raised\n"
            return False

        assert any(interrupted() for _ in range(3))
        for _ in range(100):
            try:
                process.wait(timeout=0.2)
                break
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)
        process.kill()
    assert process.returncode == -signal.SIGINT


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
