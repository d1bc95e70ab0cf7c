"""Devices and hosts: the same table on eight devices, in two processes, and when one of them dies.

What needs more devices or processes than pytest has runs in subprocesses, which are this file run as a script.
"""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.search import lanes as lanes_module
from jaxnet.search import planning
from jaxnet.search.devices import Devices, everywhere
from jaxnet.search.journal import Journal

HEARTBEAT = 10  # seconds after which a silent process counts as dead


def problem(examples, seed):
    generator = np.random.default_rng(seed)
    labels = generator.integers(3, size=examples)
    centres = np.random.default_rng(9).normal(size=(3, 5)) * 1.5
    return (centres[labels] + generator.normal(size=(examples, 5))).astype(np.float32), labels.astype(np.int32)


TRAIN, VALIDATION = problem(60, 0), problem(40, 1)
SPACE = jn.Space(rate=jn.log_uniform(1e-2, 1e-1), hidden=jn.log_integers(2, 24))


def trial(hp):
    net = jn.serial(jn.dense(hp.hidden), jnp.tanh, jn.dense(3))
    return jn.Trial(net, jn.losses.softmax_cross_entropy, optax.sgd(hp.rate, momentum=0.9), batch_size=16)


def search(directory=None, **options):
    """Eleven trials, which no number of devices here divides; two lanes on each of eight devices, or on one."""
    options = {"trials": 11, "epochs": 4, "schedule": jn.search.successive_halving(eta=2), "keep": 3} | options
    options = {"lanes": 2 * jax.device_count(), "key": jax.random.key(3)} | options
    return jn.search.run(trial, SPACE, TRAIN, VALIDATION, directory=directory, **options)


def walk():
    """A program that carries a typed key."""

    def advance(hp, carry, key):
        key, draw = jax.random.split(carry[0])
        return key, carry[1] + hp.rate * jax.random.normal(draw)

    return jn.search.Program(
        lambda hp, key: (key, jnp.zeros(())), advance, lambda hp, carry: {"score": jnp.abs(carry[1])}
    )


def walks(**options):
    return jn.search.run(walk(), SPACE, trials=11, epochs=4, key=jax.random.key(3), keep=0, **options)


def reused_buffer():
    """The curves of a program whose feed fills one NumPy array anew for each unit."""
    buffer, unit = np.zeros(1, np.float32), lanes_module._unit

    def feed(number):
        buffer[:] = number
        return buffer

    def late(*arguments):
        time.sleep(0.02)
        return unit(*arguments)

    program = jn.search.Program(
        lambda hp, key: jnp.zeros(()), lambda hp, carry, key, fed: carry + fed[0],
        lambda hp, carry, fed: {"score": carry}, feed,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lanes_module, "_unit", late)
        patch.setattr(planning, "cores", lambda: 3)
        space = jn.Space(rate=jn.uniform(0, 1))
        return jn.random_search(
            program, space, trials=6, epochs=4, key=jax.random.key(0), keep=0, lanes=len(jax.devices())
        ).curves.tolist()


@contextlib.contextmanager
def dying_after(records, death):
    """Inside, ``death()`` comes in place of the record after so many."""
    append, written = Journal.append, 0

    def counted(self, record):
        nonlocal written
        if written == records:
            death()
        written += 1
        append(self, record)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "append", counted)
        yield


class Killed(Exception):
    pass


def killed():
    raise Killed


# What the subprocesses do.


def on_eight_devices(folder):
    report, unit, lower = {}, lanes_module._unit, lanes_module._lower

    def watched(chunk, number, parts):
        parts = [*parts]
        rest = [tree for _, tree in parts]
        measures = unit(chunk, number, iter(parts))
        for leaf in jax.tree.leaves((chunk.lane, chunk.arguments[:2])):
            shards = [(shard.device.id, shard.data.shape[0]) for shard in leaf.addressable_shards]
            assert shards == [(device, 2) for device in range(8)], shards
        for leaf in jax.tree.leaves(rest):
            assert leaf.sharding.is_fully_replicated and len(leaf.addressable_shards) == 8
        report["data"] = sorted({id(leaf) for leaf in jax.tree.leaves(rest[0]["train"])} | set(report.get("data", [])))
        report["units"] = report.get("units", 0) + 1
        return measures

    def read(*arguments):
        compiling = lower(*arguments)

        def compiled():
            made = compiling()
            words = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")
            report["communication"] = [word for one in jax.tree.leaves(made) for word in words if word in one.as_text()]
            return made

        return compiled

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lanes_module, "_unit", watched)
        patch.setattr(lanes_module, "_lower", read)
        result = search(schedule=None)
    result.save(folder / "full")
    report |= {"devices": result.devices, "plan": str(result.plan), "lanes": [g.lanes for g in result.plan.groups]}
    search(folder / "halving-on-8").save(folder / "halving")
    search(folder / "from-1-to-8", lanes=2).save(folder / "resumed-on-8")
    walks().save(folder / "walks")
    report["reused buffer"] = reused_buffer()
    (folder / "report.json").write_text(json.dumps(report))
    with dying_after(4, lambda: os.kill(os.getpid(), signal.SIGKILL)):
        search(folder / "from-8-to-1")


def in_two_processes(folder, process, port):
    jax.distributed.initialize(
        f"127.0.0.1:{port}", 2, process, heartbeat_timeout_seconds=HEARTBEAT, shutdown_timeout_seconds=30
    )
    report, unit = {"devices": [jax.local_device_count(), jax.device_count()]}, lanes_module._unit
    own, lower, programs = folder / str(process), lanes_module._lower, {}

    def compiled_once(program, group, lanes, *rest):  # all searches here run the same programs
        key = lanes, str(group.sizes)
        if key not in programs:
            programs[key] = lower(program, group, lanes, *rest)()
        return lambda: programs[key]

    lanes_module._lower = compiled_once

    def refused(name, **options):
        try:
            search(**options)
        except Exception as error:
            report[name] = f"{type(error).__name__}: {error}"

    def raising(error, where):
        def failing(chunk, number, *rest):
            if process == 1 and where(chunk, number):
                if error is None:
                    os.kill(os.getpid(), signal.SIGINT)
                else:
                    raise error
            return unit(chunk, number, *rest)

        return failing

    result = search(own / "journal")
    result.save(folder / f"two-{process}")
    report |= {"lanes": [group.lanes for group in result.plan.groups], "of": result.devices}
    refused("another key", key=jax.random.key(process))
    refused("another journal", directory=own / "journal", key=jax.random.key(9))
    try:
        walks()
    except TypeError as error:
        report["typed keys"] = str(error)
    with pytest.MonkeyPatch.context() as patch:
        exhausted = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        patch.setattr(lanes_module, "_unit", raising(exhausted, lambda chunk, number: chunk.batch.lanes > 4))
        search(own / "halved").save(folder / f"halved-{process}")
        patch.setattr(lanes_module, "_unit", raising(OSError("the disk went away"), lambda chunk, number: number == 1))
        refused("one fails")
        if process == 1:
            patch.setattr(lanes_module._Run, "_park", lambda *_: 1 / 0)
        refused("one fails alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lanes_module, "_unit", raising(None, lambda chunk, number: number == 1))
        try:
            search(own / "interrupted")
        except KeyboardInterrupt:
            report["interrupted"] = True
    search(own / "interrupted").save(folder / f"interrupted-{process}")
    (folder / f"report-{process}.json").write_text(json.dumps(report))

    def waiting(chunk, number, *rest):
        if process == 1 and number == 2:
            print("at unit 2", flush=True)
            sys.stdin.read()  # until it is killed
        return unit(chunk, number, *rest)

    lanes_module._unit = waiting
    search(own / "cut short")


# What pytest does.


def start(*arguments, devices, **options):
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": os.getcwd(),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_NUMPY_RANK_PROMOTION": "raise",
    }
    return subprocess.Popen(
        [sys.executable, "-u", __file__, *map(str, arguments)], text=True, stderr=subprocess.PIPE,
        env=environment, **options,
    )  # fmt: skip


def same(a, b, rtol=1e-5):
    assert a.table["status"].tolist() == b.table["status"].tolist()
    assert a.table["units"].tolist() == b.table["units"].tolist()
    for name in a.history:
        np.testing.assert_allclose(a.history[name], b.history[name], rtol=rtol, atol=1e-7, err_msg=name)


def loaded(path):
    return jn.search.SearchResult.load(path, trial, (5,))


@pytest.fixture(scope="module")
def alone():
    return search()


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eight")
    with dying_after(4, killed), pytest.raises(Killed):
        search(folder / "from-1-to-8")
    process = start("eight", folder, devices=8)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, errors
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (
        start("process", folder, 0, port, devices=2) as first,
        start("process", folder, 1, port, devices=2, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as second,
    ):
        try:
            said = next((line for line in second.stdout if line == "at unit 2\n"), None)
            second.kill()
            assert said, second.stderr.read()
            _, first_errors = first.communicate(timeout=60 + HEARTBEAT)
        finally:
            first.kill()
            second.kill()
    reports = [json.loads((folder / f"report-{process}.json").read_text()) for process in (0, 1)]
    return folder, reports, (first.returncode, first_errors)


def test_lanes_are_sharded_over_eight_devices_and_nothing_is_communicated(eight):
    report = json.loads((eight / "report.json").read_text())
    assert report["devices"] == 8 and report["lanes"] == [16] and report["units"] == 4
    assert "on each of 8 devices" in report["plan"]
    assert report["communication"] == []
    assert len(report["data"]) == 2  # inputs and targets, put on the devices once
    assert report["reused buffer"] == [[0.0, 1.0, 3.0, 6.0]] * 6


def test_eight_devices_give_the_table_and_the_networks_of_one(eight, alone):
    same(loaded(eight / "halving"), alone)
    full, full_alone = loaded(eight / "full"), search(schedule=None)
    same(full, full_alone)
    assert full.devices == 8 and full_alone.devices == 1
    for row in full_alone.ranked(3):  # of the lanes of different devices
        ours, expected = full.network(row), full_alone.network(row)
        for a, b in zip(jax.tree.leaves(ours[1:]), jax.tree.leaves(expected[1:]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_program_may_carry_typed_keys_on_eight_devices(eight):
    same(jn.search.SearchResult.load(eight / "walks"), walks())


def test_a_search_killed_on_eight_devices_goes_on_on_one_and_the_other_way_round(eight, alone):
    same(search(eight / "from-8-to-1", lanes=16), alone)
    same(loaded(eight / "resumed-on-8"), alone)


def test_two_processes_give_the_table_of_one(two, alone):
    folder, reports, _ = two
    first, second = loaded(folder / "two-0"), loaded(folder / "two-1")
    same(first, alone)
    for report in reports:
        assert report["devices"] == [2, 4] and report["of"] == 4 and report["lanes"] == [8]
    for name in first.history:
        np.testing.assert_array_equal(first.history[name], second.history[name])
    for a, b in zip(jax.tree.leaves(first.network()[1:]), jax.tree.leaves(second.network()[1:]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_one_process_writes_the_journal(two):
    folder = two[0]
    assert {path.name for path in (folder / "0").iterdir()} >= {"journal", "halved", "cut short"}
    assert not (folder / "1").exists()


def test_what_is_wrong_in_one_process_is_raised_in_both(two):
    first, second = two[1]
    for report in first, second:
        assert "ValueError: process 1 runs another search than process 0: key is" in report["another key"]
        assert report["another journal"].startswith("ValueError: ")
        assert "is the journal of another search: key was" in report["another journal"]
        assert "jax.random.key_data" in report["typed keys"]
    assert first["one fails"] == "OSError: the disk went away (on process 1)"
    assert second["one fails"] == "OSError: the disk went away"
    assert first["one fails alone"] == "RuntimeError: division by zero (on process 1)"
    assert second["one fails alone"] == "ZeroDivisionError: division by zero"


def test_memory_that_is_short_in_one_process_halves_the_lanes_of_both(two, alone):
    same(loaded(two[0] / "halved-0"), alone)
    same(loaded(two[0] / "halved-1"), alone)


def test_an_interrupt_of_one_process_stops_both_in_good_order(two, alone):
    folder, reports, _ = two
    assert all(report["interrupted"] for report in reports)
    same(loaded(folder / "interrupted-0"), alone)
    same(loaded(folder / "interrupted-1"), alone)


def test_a_process_that_dies_stops_the_other_with_an_error_and_the_journal_goes_on_in_one(two, alone):
    folder, _, (code, errors) = two
    assert code != 0
    assert "another process of this search has ended, or its host can't be reached" in errors
    assert "on as many hosts as are left or on one, goes on from there" in errors
    with Journal(folder / "0" / "cut short", json.loads(json.dumps(about(folder / "0" / "cut short")))) as journal:
        assert 2 < len(journal.records) < 2 + 6  # some chunks were done, some not
    same(search(folder / "0" / "cut short", lanes=8), alone)


def about(folder):
    from flax import serialization

    content = (folder / "journal").read_bytes()
    return serialization.msgpack_restore(content[8 : 8 + int.from_bytes(content[:4], "little")])


def test_lanes_are_planned_for_each_device(monkeypatch):
    """By hand: a lane holds 250 bytes; of 1,000 bytes on each of 8 devices, 4 lanes fit on each."""
    cost = np.array([1.0, 1.0, 100.0, 50.0])
    monkeypatch.setattr(planning.jax, "default_backend", lambda: "gpu")
    assert planning._lanes(cost, 128, memory=1000, devices=8) == 4  # 32 lanes, four times
    assert planning._lanes(cost, 48, memory=1000, devices=8) == 3  # 24 lanes, twice, are better than 32 and 16
    assert planning._lanes(cost, 5, memory=1000, devices=8) == 1
    assert planning.concurrent_chunks(9, devices=8) == 1


def test_memory_is_that_of_the_fullest_device():
    class Accelerator:
        platform = "gpu"

        def __init__(self, used):
            self.used = used

        def memory_stats(self):
            return {"bytes_limit": 1000, "bytes_in_use": self.used}

    devices = Devices()
    devices.local = [Accelerator(100), Accelerator(600)]
    assert planning.free_memory(devices) == 300


def test_one_device_has_no_mesh_and_one_process_no_messages():
    devices = Devices()
    assert devices.count == 1 and list(devices.places(5)) == [0, 1, 2, 3, 4] and devices.rounded(2.5) == 3
    tree = {"a": jnp.ones(3)}
    assert devices.share(tree)["a"] is tree["a"]
    assert devices.take({"a": jnp.arange(5)}, [4, 1], 5, 3) == {4: {"a": 4}, 1: {"a": 1}}
    assert everywhere(lambda: tree) == [tree]


def test_a_feed_may_fill_one_buffer_anew():
    """The unit i brings i, so after u of them a trial has u (u - 1) / 2; others are fed while its unit waits."""
    assert reused_buffer() == [[0.0, 1.0, 3.0, 6.0]] * 6


if __name__ == "__main__":
    role, where, *numbers = sys.argv[1:]
    {"eight": on_eight_devices, "process": in_two_processes}[role](pathlib.Path(where), *map(int, numbers))
