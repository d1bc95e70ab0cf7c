"""Lanes: the vmapped program of a group, compiled ahead of time, and the loop that runs its chunks."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.callback import Callback
from jaxnet.layer import Size
from jaxnet.ops import compiling
from jaxnet.search.cost import evaluated, fed
from jaxnet.search.devices import Devices, SharedJournal, everywhere, from_first, gathered
from jaxnet.search.journal import Journal
from jaxnet.search.planning import Group, Plan, compile_seconds, concurrent_chunks, cores, free_memory
from jaxnet.search.progress import Progress
from jaxnet.search.schedules import Rung, Schedule, steps
from jaxnet.search.space import Hyperparameters
from jaxnet.stream import Parts, run_parts
from jaxnet.training import Keys, Program

Configurations = Sequence[Mapping[str, Any]]


class Lane(NamedTuple):
    """What one lane carries: the program's own carry, and the step at which it diverged, or -1."""

    carry: Any
    diverged: Any


class Proposals(NamedTuple):
    """Where a search's configurations come from when the sampler learns from scores.

    ``trials`` is how many there will be, ``batch`` how many are proposed at once; ``ask(count)`` adds so many to the
    configurations and the plan; ``tell(ids, curves, finished)`` is the sampler's.
    """

    trials: int
    batch: int
    ask: Callable[[int], None]
    tell: Callable[[np.ndarray, np.ndarray, np.ndarray], None]


@dataclasses.dataclass
class Measured:
    """What a group took: bytes of its largest program, seconds to trace and compile, and seconds of its units.

    ``lanes`` is how many ran at once, where fewer than planned did. Programs compile, and on a CPU chunks run, side by
    side, so that the groups' seconds may add up to more than the search's.
    """

    lanes: int | None = None
    bytes: int = 0
    compile_seconds: float = 0.0
    run_seconds: float = 0.0


@dataclasses.dataclass
class Outcome:
    """What running a plan gives.

    ``history`` has a float64 array ``[trials, units]`` for each measure, NaN where a trial wasn't trained or had
    diverged; ``diverged`` is ``[trials]``, the step or -1; ``kept`` has trees of the best trials by id;
    ``compile_seconds`` is the time in which programs were traced or compiled and no trial ran; ``measured`` what each
    group took; ``rungs`` the schedule's steps, each the rungs that were trained side by side.
    """

    history: dict[str, np.ndarray]
    diverged: np.ndarray
    kept: dict[int, Any]
    compile_seconds: float = 0.0
    run_seconds: float = 0.0
    measured: dict[Group, Measured] = dataclasses.field(default_factory=lambda: collections.defaultdict(Measured))
    rungs: list[Sequence[Rung]] = dataclasses.field(default_factory=list)


def run_plan(
    program: Program,
    plan: Plan,
    configurations: Configurations,
    keys: Keys,
    *,
    schedule: Schedule,
    journal: Journal | SharedJournal | None,
    keep: int,
    extract: Callable[[Any], Any],
    progress: Progress,
    callbacks: Sequence[Callback],
    notes: Callable[[], Mapping[str, Any]],
    maximize: bool,
    proposals: Proposals | None,
    points: np.ndarray | None,
    devices: Devices,
) -> Outcome:
    """Runs a plan's trials, chunk by chunk, on a CPU as many chunks at once as it has cores.

    Tracing, data and everything that is written down stay on the calling thread (JAX's configuration is local to a
    thread, and nothing needs a lock); other threads only wait, for the compiler and for units that run.

    Args:
      program, plan, configurations, keys: what runs, and the streams it draws from. With ``plan.repeats``, each
        configuration stands there so many times in a row, and is one trial to the schedule, with the mean score.
      schedule: who trains on.
      journal: what was finished before, and where what finishes is written down.
      keep: how many of the best trials' carries come to the host, of those that trained for all units.
      extract: what of a carry is kept.
      progress: shows how it stands. callbacks: are told what happens.
      notes: what a record of the journal is to say besides, when it is written.
      maximize: whether higher scores are better.
      proposals: where configurations come from that aren't there yet.
      points: where the configurations lie in the unit cube, for a schedule that models scores.
      devices: those that the plan was made for.

    Raises:
      KeyboardInterrupt: on a signal to stop, with a journal as soon as the units that run are over and written down;
        a second signal, or one without a journal, raises it at once. What XLA runs or compiles then can't be
        interrupted: it comes to its end on its thread, for which the interpreter waits before it exits, unless it is
        interrupted once more.
    """
    run = _Run(
        program, plan, configurations, keys, keep, extract, progress, callbacks, notes, journal, maximize, proposals,
        devices,
    )  # fmt: skip
    return run.to_its_end(schedule, () if points is None else (points,))


def concrete(
    space_kinds: Mapping[str, str], group_sizes: Mapping[str, tuple[int, int]], configuration: Mapping[str, Any]
) -> Hyperparameters:
    """A trial's hyperparameters as its lane sees them, with concrete values in its sizes."""
    values = {}
    for name, value in configuration.items():
        if space_kinds[name] == "size":
            least, bound = group_sizes[name]
            value = Size(bound, int(value), name, least)
        values[name] = value
    return Hyperparameters(values, frozenset(name for name in values if space_kinds[name] == "static"))


def _needed(compiled: tuple[Any, Any]) -> int:
    """Bytes that a group's compiled program takes while it runs, as the compiler knows them."""
    most = 0
    for program in compiled[1]:
        analysis = program.memory_analysis()
        if analysis is not None:
            passed = analysis.argument_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
            most = max(most, passed + analysis.temp_size_in_bytes)
    return most


@dataclasses.dataclass(eq=False)
class _Batch:
    """Trials of a group that have trained for ``start`` units and go on together, to the end of their rung."""

    group: Group
    lanes: int
    ids: np.ndarray
    start: int
    rung: Rung

    @property
    def program(self) -> tuple[Group, int]:
        """What its compiled program is known by: the group, and for how many lanes."""
        return self.group, self.lanes


@dataclasses.dataclass(eq=False)
class _Chunk:
    """As many of a batch as its program has lanes, on their way through its units."""

    batch: _Batch
    ids: np.ndarray
    compiled: tuple[Any, Any]
    unit: int
    lane: Any = None
    arguments: tuple = ()


class _Run:
    """The run of a plan: which programs compile, which chunks wait, which run, and what came out so far.

    ``ids`` are those of lanes: of trials, or with several seeds a configuration ``trial * repeats + seed``.
    """

    def __init__(
        self, program: Program, plan: Plan, configurations: Configurations, keys: Keys, keep, extract,
        progress: Progress, callbacks: Sequence[Callback], notes: Callable[[], Mapping[str, Any]],
        journal: Journal | SharedJournal | None, maximize: bool, proposals: Proposals | None, devices: Devices,
    ):  # fmt: skip
        self.program, self.plan, self.configurations, self.keys = program, plan, configurations, keys
        self.keep, self.extract, self.journal, self.proposals, self.notes = keep, extract, journal, proposals, notes
        self.devices, self.key = devices, devices.share(keys.trials)
        self.in_order = jax.process_count() > 1  # all processes come to every exchange, and decide, in the same order
        self.sign, self.repeats = -1 if maximize else 1, plan.repeats
        self.trials = proposals.trials if proposals else len(configurations) // plan.repeats
        lanes = self.trials * plan.repeats
        self.progress = progress
        self.story = _Story(plan, configurations, self.trials, [*[progress] * progress.shown, *callbacks])
        self.outcome = Outcome({"score": np.full((lanes, plan.units), np.nan)}, np.full(lanes, -1), {})
        self.units = np.zeros(lanes, int)  # that each has trained for
        self.reached = np.zeros(self.trials, int)  # units to which the schedule has sent each trial
        self.rung = np.zeros(lanes, int)  # which of the rungs that train side by side each is in
        self.parked: dict[int, Any] = {}  # of those that may go on, the lane on the host, or the file it is in
        self.files: dict[str, tuple[str, list[int], int]] = {}  # what lanes they hold, of which ids, at which unit
        self.done, self.interrupted, self.stopping = 0.0, False, False
        self.at_once = concurrent_chunks(sum(group.chunks for group in plan.groups) or lanes, devices.count)
        self.memory = min(everywhere(lambda: free_memory(devices))) // self.at_once
        self.compile_seconds = from_first(compile_seconds)
        self.most: dict[int, int] = {}  # of the plan's groups, lanes, where fewer than planned fit
        self.batches: collections.deque[_Batch] = collections.deque()
        self.programs: dict[tuple[Group, int], tuple[Any, Any]] = {}  # of a group, for so many lanes
        self.compiling: dict[concurrent.futures.Future, list[_Batch]] = {}
        self.ready: collections.deque[_Chunk] = collections.deque()
        self.running: dict[concurrent.futures.Future, _Chunk] = {}
        # A matmul split over all cores waits for the slowest of them, so on a CPU compiling and running take turns.
        self.take_turns = jax.default_backend() == "cpu"
        self.ahead = 16 if self.take_turns else 4
        if self.in_order or journal is not None:
            for group in plan.groups:
                _lane_shape(program, group, keys)  # raises for lanes that can't be sent
        if journal is not None:
            self._restore(journal)

    def to_its_end(self, schedule: Schedule, points: tuple[np.ndarray, ...]) -> Outcome:
        taking = steps(schedule, self.trials, self.plan.units, *points)
        self.compilers = concurrent.futures.ThreadPoolExecutor(min(4, cores()), "jaxnet-compile")
        self.runners = concurrent.futures.ThreadPoolExecutor(self.at_once, "jaxnet-run")
        wait = True
        try:
            with self._stopping_in_good_order():
                self.story.begin()
                rungs = self._agreed(next(taking, None))
                while rungs is not None:
                    self.outcome.rungs.append(rungs)
                    self.rung[:] = -1  # who is paused since an earlier step is in none of these
                    if not schedule.pauses:
                        self._drop(rungs)
                    for ids in self._parts(rungs):
                        self._train(rungs, ids)
                    try:
                        rungs = taking.send(self._seen())
                    except StopIteration:
                        rungs = None
                    rungs = self._agreed(rungs)
            self.rung[:] = -1
            self.story.end()
            self._tell()
        except KeyboardInterrupt:
            wait = False
            _end_by_interrupts()
            raise
        finally:
            self.compilers.shutdown(wait, cancel_futures=True)
            self.runners.shutdown(wait, cancel_futures=True)
            self.devices.share(())  # lets go of the data
        for number, lanes in self.most.items():
            self.outcome.measured[self.plan.groups[number]].lanes = lanes
        kept = self.outcome.kept
        for group in self.plan.groups:  # those that were kept before a kill are in files
            for i in set(group.ids.tolist()) & {i for i, trees in kept.items() if isinstance(trees, str)}:
                lane = jax.eval_shape(self.extract, _lane_shape(self.program, group, self.keys).carry)
                assert self.journal is not None
                kept |= self.journal.load(kept[i], {i: lane})
        return self.outcome

    def _agreed(self, rungs: Sequence[Rung] | None) -> Sequence[Rung] | None:
        """What the first process's schedule says: on another machine its arithmetic may round otherwise."""
        if not self.in_order:
            return rungs
        told = from_first(lambda: rungs and [[rung.ids, int(rung.units), int(rung.promoted)] for rung in rungs])
        return told and [Rung(*rung) for rung in told]

    def _drop(self, rungs: Sequence[Rung]) -> None:
        """Trials that aren't in rungs any more have ended."""
        ids = set(np.concatenate([rung.ids for rung in rungs]).tolist())
        self.story.end(ids)
        for i in [i for i in self.parked if i // self.repeats not in ids]:
            del self.parked[i]

    def _parts(self, rungs: Sequence[Rung]) -> Iterator[np.ndarray]:
        """The trials of rungs in parts that train one after the other: all, or as they are proposed."""
        ids = np.sort(np.concatenate([rung.ids for rung in rungs]))
        if self.proposals is None:
            yield ids
            return
        while len(ids):
            known = len(self.configurations) // self.repeats
            if (missing := int(ids[-1]) + 1 - known) > 0:
                self.proposals.ask(min(self.proposals.batch, missing))
                known = len(self.configurations) // self.repeats
            part, ids = ids[ids < known], ids[ids >= known]
            if len(part):
                yield part
                self.proposals.tell(part, *self._told(part))

    def _told(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Curves of trials and which are finished, as a proposer is told."""
        curves = self._seen()[ids, : max(int(self.reached[ids].max()), 1)]
        lost = (self.outcome.diverged.reshape(self.trials, -1)[ids] >= 0).any(axis=1)
        lost |= np.isin(ids * self.repeats, list(self.plan.failed))
        trained = np.arange(curves.shape[1]) < self.reached[ids][:, None]
        curves = np.where(lost[:, None] & trained & np.isnan(curves), np.inf, curves)
        return curves, lost | (self.reached[ids] >= self.plan.units)

    def _seen(self) -> np.ndarray:
        """Scores ``[trials, units]`` as far as the schedule has sent each trial, lower is better, NaN elsewhere."""
        # After a kill more may be known than was when the schedule decided.
        scores = self.sign * self.outcome.history["score"].reshape(self.trials, self.repeats, -1).mean(axis=1)
        return np.where(np.arange(self.plan.units) < self.reached[:, None], scores, np.nan)

    @contextlib.contextmanager
    def _stopping_in_good_order(self) -> Iterator[None]:
        """With a journal, an interrupt lets the units that run come to their end; the second one doesn't wait."""
        before = signal.getsignal(signal.SIGINT)  # None for a handler of another language, which stays
        if self.journal is None or before is None or threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: Any) -> None:
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted, self.stopping = True, not self.in_order  # else when all processes know
            print("Stopping when the units that run are over; interrupt again not to wait for them", file=sys.stderr)

        signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _train(self, rungs: Sequence[Rung], ids: np.ndarray) -> None:
        """Trains those of the trials that are in rungs, side by side, to the end of each."""
        for number, rung in enumerate(rungs):
            inside = rung.ids[np.isin(rung.ids, ids)]
            lanes = self._lane_ids(inside)
            self.rung[lanes], self.reached[inside] = number, rung.units
            self.story.recall(lanes, np.minimum(self.units[lanes], rung.units), self.outcome)
            self.batches.extend(self._cut_rung(rung, lanes))
        order = {id(group): i for i, group in enumerate(self.plan.groups)}
        self.batches = collections.deque(sorted(self.batches, key=lambda batch: order[id(batch.group)]))
        while self.batches or self.compiling or self.ready or self.running:
            if self.stopping and not self.running:
                raise KeyboardInterrupt
            for act in (self._go_on, self._tell, self._await):
                started, running = time.perf_counter(), bool(self.running)
                act()
                elapsed = time.perf_counter() - started
                self.outcome.run_seconds += running * elapsed
                self.outcome.compile_seconds += (not running) * elapsed

    def _lane_ids(self, trials: np.ndarray) -> np.ndarray:
        return (np.asarray(trials)[:, None] * self.repeats + np.arange(self.repeats)).ravel()

    def _cut_rung(self, rung: Rung, ids: np.ndarray) -> Iterator[_Batch]:
        """Batches of lanes of a rung."""
        for group in self.plan.groups:
            mine = group.ids[np.isin(group.ids, ids)]
            # As many lanes as for all of them, also where some had finished when the search was killed.
            lanes = self._lanes(group, len(mine), rung.units)
            mine = mine[(self.outcome.diverged[mine] < 0) & (self.units[mine] < rung.units)]
            for start in np.unique(self.units[mine]):
                yield _Batch(group, lanes, mine[self.units[mine] == start], int(start), rung)

    def _lanes(self, group: Group, count: int, units: int) -> int:
        """The group's lanes, or half, a quarter, ... of them for fewer trials, where that saves more than compiling."""
        lanes = most = self.most.get(self.plan.groups.index(group), group.lanes)
        while lanes > self.devices.count and self.devices.rounded(lanes / 2) >= count:
            lanes = self.devices.rounded(lanes / 2)
        saved = (most - lanes) * units * self._unit_seconds(group)
        return lanes if saved > self.compile_seconds else most

    def _unit_seconds(self, group: Group) -> float:
        return group.seconds / self.plan.expected

    def _go_on(self) -> None:
        """Starts to run and to compile what may start now."""
        if self.stopping:
            return
        while self.ready and len(self.running) < self.at_once and not (self.take_turns and self.compiling):
            self._start(self.ready.popleft())
        if self.take_turns and (self.running or self.compiling):
            return
        while self.batches and len(self.compiling) + len({id(chunk.compiled) for chunk in self.ready}) < self.ahead:
            self._prepare(self.batches.popleft())

    def _await(self) -> None:
        """Waits for whatever is ready first, and goes on from there."""
        if not self.compiling and not self.running:
            return
        waiting = [*self.running, *self.compiling]
        done, _ = concurrent.futures.wait(
            waiting[:1] if self.in_order else waiting, return_when=concurrent.futures.FIRST_COMPLETED
        )
        for future in done:
            if future in self.running:
                self._unit_over(self.running.pop(future), future)
            else:
                self._compiled(self.compiling.pop(future), future)

    def _prepare(self, batch: _Batch) -> None:
        """Chunks of the batch, if its program is there; else the program has to be compiled first."""
        if (compiled := self.programs.get(batch.program)) is not None:
            parts = [batch.ids[i : i + batch.lanes] for i in range(0, len(batch.ids), batch.lanes)]
            self.ready.extend(_Chunk(batch, ids, compiled, batch.start) for ids in parts)
            return
        for waiting in self.compiling.values():
            if waiting[0].program == batch.program:
                waiting.append(batch)
                return
        lowered, seconds = _timed(_lower, self.program, batch.group, batch.lanes, self.keys, self.devices)
        self.outcome.measured[batch.group].compile_seconds += seconds
        self.compiling[self.compilers.submit(_timed, lowered)] = [batch]

    def _told_by_all(self, result: Callable[[], Any]) -> list[Any]:
        """What a future gave on each process, and whether any was interrupted."""
        told = everywhere(lambda: [result(), self.interrupted])
        self.stopping |= any(interrupted for _, interrupted in told)
        return [value for value, _ in told]

    def _compiled(self, batches: list[_Batch], future: concurrent.futures.Future) -> None:
        lanes = batches[0].lanes
        try:
            needed = max(self._told_by_all(lambda: _needed(future.result()[0])))
        except jax.errors.JaxRuntimeError as error:
            self._check_memory(error, lanes)
            needed = sys.maxsize
        if lanes > self.devices.count and needed > self.memory:  # the plan's estimate was too low
            for batch in batches:
                self._halve(batch, batch.ids)
            return
        compiled, seconds = future.result()
        measured = self.outcome.measured[batches[0].group]
        measured.compile_seconds += seconds
        measured.bytes = max(measured.bytes, needed)
        self.programs[batches[0].program] = compiled
        for batch in batches:
            self._prepare(batch)

    def _start(self, chunk: _Chunk) -> None:
        """The chunk's hyperparameters as arrays, its lanes if they were parked, and its first unit."""
        group = chunk.batch.group
        self.story.start(chunk.ids)
        padded = np.resize(chunk.ids, chunk.batch.lanes)  # repeats fill a chunk, and are not read
        padded = padded[self.devices.places(chunk.batch.lanes)]
        values = {}
        for name in self.configurations[chunk.ids[0]]:
            column = [self.configurations[i][name] for i in padded]
            if name in group.sizes:
                least, bound = group.sizes[name]
                values[name] = Size(bound, np.array(column, np.int32), name, least)
            elif name in group.static:
                values[name] = group.static[name]
            else:
                values[name] = np.array(column, np.float32)
        hp = Hyperparameters({name: values[name] for name in group.structure()}, frozenset(group.static))
        if chunk.unit:
            self._fetch(group, chunk.ids.tolist())

        def put() -> None:
            chunk.arguments = *self.devices.put((hp, padded.astype(np.int32))), self.key
            if chunk.unit:
                chunk.lane = self.devices.put(jax.tree.map(_stack, *[self.parked[i] for i in padded.tolist()]))

        try:
            everywhere(put)
        except jax.errors.JaxRuntimeError as error:
            self._split(chunk, error)
            return
        self._advance(chunk)

    def _advance(self, chunk: _Chunk) -> None:
        parts = None
        if self.program.feed is not None:
            given = fed(self.program, chunk.unit)
            if not isinstance(given, Parts):
                _check_fed(chunk.compiled[1][0].args_info[0][-1], given, chunk.unit)
            given = Parts.of(given)
            parts = given.stream(self.devices.share(given.static), self.devices.put_shared)
        self.running[self.runners.submit(_timed, _unit, chunk, np.int32(chunk.unit), parts)] = chunk

    def _unit_over(self, chunk: _Chunk, future: concurrent.futures.Future) -> None:
        share = self._share(chunk)
        rung, unit = chunk.batch.rung, chunk.unit
        try:
            parts = self._told_by_all(lambda: future.result()[0])  # of each process the measures of its lanes
            self.outcome.measured[chunk.batch.group].run_seconds += future.result()[1]
            going = self._record(chunk, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
        except jax.errors.JaxRuntimeError as error:
            self._split(chunk, error)
            return
        chunk.unit += 1
        self.done += share
        if chunk.unit < rung.units and going and not self.stopping:
            self._advance(chunk)
            self.story.unit(chunk.ids, unit, self.outcome)
            return
        if not going:  # nothing is left to train
            self.done += share * (rung.units - chunk.unit)
            chunk.unit = rung.units
        self.units[chunk.ids] = chunk.unit
        for i in chunk.ids.tolist():
            self.parked.pop(i, None)
        parked, kept = [], []
        if chunk.unit < rung.units:  # interrupted
            parked = self._copy(chunk, [i for i in chunk.ids.tolist() if self.outcome.diverged[i] < 0])
        elif rung.units == self.plan.units:
            if self.keep:
                kept = self._keep_best(chunk)
        elif rung.promoted:
            parked = self._park(chunk, rung.promoted)
        if self.journal is not None:
            self._write_down(self.journal, chunk, parked, kept)
        self.story.unit(chunk.ids, unit, self.outcome)

    def _record(self, chunk: _Chunk, measures: dict[str, np.ndarray]) -> bool:
        """Writes down what a unit measured; whether any lane goes on."""
        outcome, ids = self.outcome, chunk.ids
        measures = {name: np.asarray(value, np.float64)[: len(ids)] for name, value in measures.items()}
        diverged = measures.pop("diverged")
        going = (diverged < 0) & np.isfinite(measures["score"])
        outcome.diverged[ids] = np.where(diverged >= 0, diverged, outcome.diverged[ids])
        for name, value in measures.items():
            column = outcome.history.setdefault(name, np.full_like(outcome.history["score"], np.nan))
            column[ids, chunk.unit] = np.where(going, value, np.nan)
        return bool(going.any())

    def _tell(self) -> None:
        """Shows how the search stands, where somebody sees it."""
        if not self.progress.shown:
            return
        running = []
        for chunk in self.running.values():
            group, rung = chunk.batch.group, chunk.batch.rung
            what = ", ".join(filter(None, (group.sizes_text, group.static_text)))
            count = f"{len(chunk.ids)} trial{'s' * (len(chunk.ids) > 1)}"
            running.append(f"{count}, unit {chunk.unit + 1} of {rung.units}{': ' * bool(what)}{what}")
        self.progress.now(self.done, running, len(self.compiling))

    def _write_down(self, journal: Journal | SharedJournal, chunk: _Chunk, parked: list[int], kept: list[int]) -> None:
        """What a chunk's rung gave: its lanes first, then the record by which they are known."""
        outcome, ids, start = self.outcome, chunk.ids, chunk.batch.start
        record = {
            "ids": ids, "start": start, "units": chunk.unit, "diverged": outcome.diverged[ids],
            "parked": parked, "kept": kept,
            "history": {name: values[ids, start : chunk.unit] for name, values in outcome.history.items()},
            **self.notes(),
        }  # fmt: skip
        for role, trees in (("parked", self.parked), ("kept", outcome.kept)):
            if record[role]:
                journal.save(_lanes_file(record, role), {i: trees[i] for i in record[role]})
        journal.append(record)
        self._remember_files(record)
        self._forget_files(journal)

    def _restore(self, journal: Journal | SharedJournal) -> None:
        """Where the journal's search was; lanes are read when they go on."""
        outcome, scores = self.outcome, self.outcome.history["score"]
        for record in journal.records[2:]:
            if "most" in record:
                self.most[record["group"]] = record["most"] * self.devices.count
            if "ids" not in record:
                continue
            ids = np.asarray(record["ids"])
            self.units[ids] = record["units"]
            outcome.diverged[ids] = record["diverged"]
            for name, values in record["history"].items():
                column = outcome.history.setdefault(name, np.full_like(scores, np.nan))
                column[ids, record["start"] : record["units"]] = values
            for i in ids.tolist():
                self.parked.pop(i, None)
            self.parked |= dict.fromkeys(record["parked"], _lanes_file(record, "parked"))
            outcome.kept |= dict.fromkeys(record["kept"], _lanes_file(record, "kept"))
            self._remember_files(record)
        outcome.kept = {i: outcome.kept[i] for i in self._leaders(list(outcome.kept), self.plan.units, self.keep)}

    def _remember_files(self, record: Mapping[str, Any]) -> None:
        """Which files a record has, for ``_forget_files``."""
        for role in ("parked", "kept"):
            if record[role]:
                self.files[_lanes_file(record, role)] = role, record[role], record["units"]

    def _forget_files(self, journal: Journal | SharedJournal) -> None:
        """Removes files of lanes that have all gone on, or are no longer among the best."""
        trees = {"parked": self.parked, "kept": self.outcome.kept}
        for name, (role, ids, unit) in list(self.files.items()):
            if not any(i in trees[role] and self.units[i] == unit for i in ids):
                journal.remove(name)
                del self.files[name]

    def _fetch(self, group: Group, ids: list[int]) -> None:
        """Lanes that are in files only, into memory.

        Raises:
          ValueError: for one that wasn't kept.
        """
        if lost := sorted({i // self.repeats for i in ids if i not in self.parked}):
            raise ValueError(
                f"the schedule trains trials {lost} on, whose lanes weren't kept: after a rung those of the promoted= "
                f"best scores are, ties by id, and with pauses=False not those that a step has left out"
            )
        files: dict[str, list[int]] = {}
        for i in ids:
            if isinstance(self.parked[i], str):
                files.setdefault(self.parked[i], []).append(i)
        for name, inside in files.items():
            assert self.journal is not None
            lane = _lane_shape(self.program, group, self.keys)
            self.parked |= self.journal.load(name, dict.fromkeys(inside, lane))

    def _park(self, chunk: _Chunk, count: int) -> list[int]:
        """Copies to the host those lanes of a chunk that may be promoted, and forgets others of its rung that no longer
        may; the new ids."""
        rung = self.rung[chunk.ids[0]]
        own = [i for i in self.parked if self.rung[i] == rung and self.units[i] == chunk.unit]
        best = self._leaders([*own, *chunk.ids.tolist()], chunk.unit, count)
        for i in set(own) - set(best):
            del self.parked[i]
        return self._copy(chunk, [i for i in best if i not in self.parked])

    def _copy(self, chunk: _Chunk, ids: list[int]) -> list[int]:
        if ids:
            lanes, here = jax.device_get(chunk.lane), self.devices.places(chunk.batch.lanes)
            places = {i: place - here.start for place, i in enumerate(chunk.ids.tolist()) if place in here}
            own = {}
            for i in set(ids) & set(places):  # copies, so that one lane doesn't hold the memory of all
                own[i] = jax.tree.map(lambda leaf, place=places[i]: leaf[place].copy(), lanes)
            self.parked |= gathered(own, lanes)
        return ids

    def _keep_best(self, chunk: _Chunk) -> list[int]:
        """Copies to the host what is kept of the lanes among the best so far, and forgets worse ones; the new ids."""
        kept, ids = self.outcome.kept, chunk.ids.tolist()
        best = self._leaders([*kept, *ids], chunk.unit, self.keep)
        new = [i for i in best if i not in kept]
        self.outcome.kept = kept = {i: kept[i] for i in best if i in kept}
        if new:
            # As many as ever, so that this compiles once; more where a trial's other seeds are still on their way.
            most = max(len(new), min(self.keep * self.repeats, len(ids)))
            lanes = self.extract(chunk.lane.carry)
            found = self.devices.take(lanes, [ids.index(i) for i in new], chunk.batch.lanes, most)
            found = gathered({ids[place]: tree for place, tree in found.items()}, lanes)
            kept |= {i: found[i] for i in new}
        return new

    def _leaders(self, ids: Sequence[int], units: int, count: int) -> list[int]:
        """Of lanes after so many units those of the ``count`` best trials, ties by id, without any that diverged.

        A trial counts with the mean over its seeds; while some of them are on their way it may still be among the best.
        """
        trials = np.unique(np.array(ids, int) // self.repeats)
        lanes = self._lane_ids(trials).reshape(-1, self.repeats)
        scores = self.sign * self.outcome.history["score"][lanes, units - 1].mean(axis=1)
        waiting = ((self.units[lanes] < units) & (self.outcome.diverged[lanes] < 0)).any(axis=1)
        finite = np.flatnonzero(np.isfinite(scores) & ~waiting)
        best = [*trials[finite[np.argsort(scores[finite], kind="stable")]][:count], *trials[waiting]]
        place = {trial: i for i, trial in enumerate(best)}
        scores = self.outcome.history["score"]
        inside = [i for i in ids if i // self.repeats in place and np.isfinite(scores[i, units - 1])]
        return sorted(inside, key=lambda i: (place[i // self.repeats], i))

    def _share(self, chunk: _Chunk) -> float:
        """Of the work of all, a unit of the chunk."""
        return self._unit_seconds(chunk.batch.group) * len(chunk.ids) / self.plan.work

    def _check_memory(self, error: Exception, lanes: int) -> None:
        """Raises an error that isn't one of memory, and one for which there can't be fewer lanes."""
        if "RESOURCE_EXHAUSTED" not in str(error) or lanes == self.devices.count:
            raise error

    def _split(self, chunk: _Chunk, error: Exception) -> None:
        """For a chunk that didn't fit in memory: it and those of its batch that wait again, in half as many lanes."""
        self._check_memory(error, chunk.batch.lanes)
        self.done -= self._share(chunk) * (chunk.unit - chunk.batch.start)
        same = [other for other in self.ready if other.batch is chunk.batch]  # those that wait behind it
        self.ready = collections.deque(other for other in self.ready if other.batch is not chunk.batch)
        self._halve(chunk.batch, np.concatenate([other.ids for other in (chunk, *same)]))

    def _halve(self, batch: _Batch, ids: np.ndarray) -> None:
        """For lanes that don't fit: the trials again, in half as many."""
        lanes = self.devices.rounded(batch.lanes / 2)
        group = self.plan.groups.index(batch.group)
        self.most[group] = min(self.most.get(group, lanes), lanes)
        if self.devices.process == 0:
            print(
                f"{batch.lanes} lanes of group {group + 1} don't fit in memory; going on with {lanes}", file=sys.stderr
            )
        if self.journal is not None:
            self.journal.append({"group": group, "most": lanes // self.devices.count})  # another day on more, or fewer
        self._prepare(dataclasses.replace(batch, lanes=lanes, ids=ids))


class _Story:
    """What callbacks have been told, and what is to be told: each trial's start, units and end once, in this order.

    Args:
      plan, configurations: of the search. trials: how many there will be. callbacks: who is told.
    """

    def __init__(self, plan: Plan, configurations: Configurations, trials: int, callbacks: Sequence[Callback]):
        self.plan, self.configurations, self.callbacks = plan, configurations, callbacks
        self.units = np.zeros((trials, plan.repeats), int)  # told of each lane
        self.lost = np.zeros((trials, plan.repeats), bool)  # lanes that were told to have diverged
        self.going: dict[int, None] = {}  # trials that have started and not ended, in the order of their start
        self.over = np.zeros(trials, bool)

    def begin(self) -> None:
        for callback in self.callbacks:
            callback.on_start(self.plan)

    def start(self, lanes: np.ndarray) -> None:
        """Lanes begin to train, or go on."""
        if not self.callbacks:
            return
        for trial in np.unique(lanes // self.plan.repeats).tolist():
            if trial not in self.going and not self.over[trial]:
                self.going[trial] = None
                for callback in self.callbacks:
                    callback.on_trial_start(trial, self.configurations[trial * self.plan.repeats])

    def unit(self, lanes: np.ndarray, unit: int, outcome: Outcome) -> None:
        """Lanes have finished a unit; what ran before, for more lanes than memory held, isn't told again."""
        if not self.callbacks:
            return
        trials, seeds = np.divmod(lanes, self.plan.repeats)
        new = (self.units[trials, seeds] == unit) & ~self.lost[trials, seeds]
        lanes, trials, seeds = lanes[new], trials[new], seeds[new]
        if not len(lanes):
            return
        measures = {name: history[lanes, unit] for name, history in outcome.history.items()}
        self.units[trials, seeds] = unit + 1
        self.lost[trials, seeds] = ~np.isfinite(measures["score"])
        for callback in self.callbacks:
            callback.on_unit(trials, seeds, unit + 1, measures)
        last = self.lost | (self.units == self.plan.units)
        for trial in np.unique(trials[last[trials].all(axis=1)]).tolist():
            self._end(trial)

    def recall(self, lanes: np.ndarray, units: np.ndarray, outcome: Outcome) -> None:
        """What a journal gave back of lanes, as far as they have come; and trials that have failed."""
        if not self.callbacks:
            return
        for trial in np.unique(lanes // self.plan.repeats).tolist():
            if trial * self.plan.repeats in self.plan.failed and not self.over[trial]:
                self.start(np.array([trial * self.plan.repeats]))
                self._end(trial)
        for unit in range(units.max(initial=0)):
            known = lanes[units > unit]
            self.start(known)
            self.unit(known, unit, outcome)

    def end(self, but: Collection[int] = ()) -> None:
        """All trials have ended that have started, but some."""
        for trial in [trial for trial in self.going if trial not in but]:
            self._end(trial)

    def _end(self, trial: int) -> None:
        self.over[trial] = True
        del self.going[trial]
        if trial * self.plan.repeats in self.plan.failed:
            status = "failed"
        elif self.lost[trial].any():
            status = "diverged"
        else:
            status = "completed" if (self.units[trial] == self.plan.units).all() else "stopped"
        for callback in self.callbacks:
            callback.on_trial_end(trial, status)


def _end_by_interrupts() -> None:
    """An interrupt while the interpreter, at its exit, waits for threads ends the process.

    Else it would end the wait alone, and the process abort as a thread comes back from XLA to no interpreter.
    """
    at_exit = getattr(threading, "_register_atexit", None)  # what is registered last comes first, before threads' ends
    if at_exit is not None:
        at_exit(signal.signal, signal.SIGINT, signal.SIG_DFL)


def _timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """What the function returns, and the seconds that it took."""
    started = time.perf_counter()
    return function(*arguments), time.perf_counter() - started


def _unit(chunk: _Chunk, unit: np.int32, parts: Iterator[tuple[int, Any]] | None) -> dict[str, np.ndarray]:
    """Runs one unit of a chunk, the first after making its lanes; returns what it measured, on the host."""
    start, advance = chunk.compiled
    hp, ids, key = chunk.arguments
    lane = start(hp, ids, key) if chunk.lane is None else chunk.lane
    if parts is None:
        chunk.lane, measures = advance[0](hp, lane, ids, key, unit)
    else:
        chunk.lane, measures = run_parts(
            lambda kind, lane, part: advance[kind](hp, lane, ids, key, unit, part), lane, parts
        )
    return jax.device_get(measures)


def _lower(program: Program, group: Group, lanes: int, keys: Keys, devices: Devices) -> Callable[..., tuple[Any, Any]]:
    """Traces a group's programs now and here, since JAX's configuration is local to a thread; the call compiles.

    What it returns takes options for the compiler, if any, and gives the program that makes lanes, and those that
    advance them by a unit.
    """

    def start(hp, trial_id, trials_key):
        return Lane(program.init(hp, Keys(trials_key, trials_key, trials_key).init(trial_id)), jnp.int32(-1))

    def advance(hp, lane, trial_id, trials_key, unit, *rest):
        key = Keys(trials_key, trials_key, trials_key).unit(trial_id, unit)
        carry = jax.tree.map(jnp.asarray, program.advance(hp, lane.carry, key, *rest))
        measures = evaluated(program, hp, carry, *rest)
        noticed = measures.pop("diverged", None)
        finite = jnp.isfinite(measures["score"])
        if noticed is None:  # the program doesn't watch over itself, so a unit that isn't finite is undone as a whole
            for leaf in jax.tree.leaves(carry):
                if jnp.issubdtype(leaf.dtype, jnp.inexact):
                    finite &= jnp.all(jnp.isfinite(leaf))
            going = finite & (lane.diverged < 0)
            carry = jax.tree.map(lambda new, old: jnp.where(going, new, old), carry, lane.carry)
            noticed = jnp.int32(-1)
        noticed = jnp.where((noticed < 0) & ~finite, unit, noticed)
        diverged = jnp.where(lane.diverged < 0, noticed, lane.diverged)
        return Lane(carry, diverged), measures | {"diverged": diverged}

    here = len(devices.places(lanes))
    hp = jax.tree.map(lambda a: jax.ShapeDtypeStruct((here, *a.shape), a.dtype), group.structure())
    ids, unit = jax.ShapeDtypeStruct((here,), jnp.int32), jax.ShapeDtypeStruct((), jnp.int32)
    key = keys.trials
    kinds: list[tuple] = [()]
    if program.feed is not None:
        given = fed(program, 0)
        kinds = [(shapes,) for shapes, _ in given.kinds] if isinstance(given, Parts) else [(devices.share(given),)]
    axes = (0, 0, 0, None, None) + (None,) * len(kinds[0])
    starter = devices.over_lanes(jax.vmap(start, in_axes=(0, 0, None)), (0, 0, None))
    with compiling.keys_folded_by_kernel():
        started, lane = starter.lower(hp, ids, key), jax.eval_shape(starter, hp, ids, key)
    advancer = devices.over_lanes(_over_lanes(advance, lanes // devices.count, axes), axes, donate_argnums=1)
    advanced = [advancer.lower(hp, lane, ids, key, unit, *rest) for rest in kinds]
    return lambda *options: (started.compile(*options), [program.compile(*options) for program in advanced])


def _over_lanes(function: Callable[..., Any], lanes: int, in_axes: tuple) -> Callable[..., Any]:
    """``vmap``, except for a single lane, which is faster as it is than as a batch of one."""
    if lanes > 1:
        return jax.vmap(function, in_axes=in_axes)

    def one(*args):
        args = [
            jax.tree.map(lambda a: a[0], arg) if axis == 0 else arg for arg, axis in zip(args, in_axes, strict=True)
        ]
        return jax.tree.map(lambda a: jnp.asarray(a)[None], function(*args))

    return one


def _check_fed(first: Any, given: Any, unit: int) -> None:
    """Raises where a unit is fed what the program wasn't compiled for, which was what the first one is fed."""
    told = [
        jax.tree.map(lambda leaf: f"{jax.dtypes.canonicalize_dtype(leaf.dtype)}{list(leaf.shape)}", tree)
        for tree in (first, given)
    ]
    if jax.tree.flatten(told[0]) != jax.tree.flatten(told[1]):
        raise ValueError(
            f"feed must return arrays of the same structure, shapes and dtypes for every unit, but for unit 0 it was "
            f"{told[0]}, and for unit {unit} {told[1]}; pad arrays to one shape, with a mask or a "
            f"count beside them"
        )


def _lanes_file(record: Mapping[str, Any], role: str) -> str:
    """Where a record's lanes are."""
    return f"{role}-{record['units']}-{int(record['ids'][0])}"


def _lane_shape(program: Program, group: Group, keys: Keys) -> Lane:
    """One lane of a group, as shapes."""
    carry = jax.eval_shape(lambda hp, key: program.init(hp, key), group.structure(), keys.trials)
    if any(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in jax.tree.leaves(carry)):
        raise TypeError(
            "lanes with typed PRNG keys can't be written to a journal or sent to other hosts; let the program carry "
            "jax.random.key_data(key)"
        )
    return Lane(carry, jax.ShapeDtypeStruct((), jnp.int32))


def _stack(*leaves: Any) -> Any:
    return np.stack(leaves) if isinstance(leaves[0], np.ndarray) else jnp.stack(leaves)  # PRNG keys stay JAX's
