"""Lanes: the vmapped program of a group, compiled ahead of time, and the loop that runs its chunks."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.layer import Size
from jaxnet.search.planning import Group, Plan, concurrent_chunks, cores, free_memory
from jaxnet.search.progress import Progress
from jaxnet.search.space import Hyperparameters
from jaxnet.training import Keys, Program

Configurations = Sequence[Mapping[str, Any]]


class Lane(NamedTuple):
    """What one lane carries: the program's own carry, and the step at which it diverged, or -1."""

    carry: Any
    diverged: Any


@dataclasses.dataclass
class Outcome:
    """What running a plan gives.

    ``history`` has a float64 array ``[trials, units]`` for each measure, NaN where a trial wasn't trained or had
    diverged; ``diverged`` is ``[trials]``, the step or -1; ``kept`` has trees of the best trials by id;
    ``compile_seconds`` is the time in which programs were traced or compiled and no trial ran.
    """

    history: dict[str, np.ndarray]
    diverged: np.ndarray
    kept: dict[int, Any]
    compile_seconds: float = 0.0
    run_seconds: float = 0.0


def run_plan(
    program: Program,
    plan: Plan,
    configurations: Configurations,
    keys: Keys,
    *,
    keep: int = 0,
    extract: Callable[[Any], Any] = lambda carry: carry,
    progress: Progress | None = None,
) -> Outcome:
    """Runs all groups of a plan, chunk by chunk, on a CPU as many chunks at once as it has cores.

    Tracing, data and everything that is written down stay on the calling thread (JAX's configuration is local to a
    thread, and nothing needs a lock); other threads only wait, for the compiler and for units that run.

    Args:
      program, plan, configurations, keys: what runs, and the streams it draws from.
      keep: how many of the best trials' carries come to the host.
      extract: what of a carry is kept.
      progress: told of every unit.
    """
    return _Run(program, plan, configurations, keys, keep, extract, progress).to_its_end()


def concrete(
    space_kinds: Mapping[str, str], group_sizes: Mapping[str, tuple[int, int]], configuration
) -> Hyperparameters:
    """A trial's hyperparameters as its lane sees them, with concrete values in its sizes."""
    values = {}
    for name, value in configuration.items():
        if space_kinds[name] == "size":
            least, bound = group_sizes[name]
            value = Size(bound, int(value), name, least)
        values[name] = value
    return Hyperparameters(values)


def _needed(compiled: tuple[Any, Any]) -> int:
    """Bytes that a group's compiled program takes while it runs, as the compiler knows them."""
    analysis = compiled[1].memory_analysis()
    if analysis is None:
        return 0
    passed = analysis.argument_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return passed + analysis.temp_size_in_bytes


@dataclasses.dataclass(eq=False)
class _Chunk:
    """Trials on their way through all units in the lanes of one compiled program."""

    group: Group
    lanes: int
    ids: np.ndarray
    compiled: tuple[Any, Any]
    lane: Any = None
    unit: int = 0
    arguments: tuple = ()


@dataclasses.dataclass(eq=False)
class _Compilation:
    """A group's program on its way through the compiler, for the trials ``ids``."""

    group: Group
    lanes: int
    ids: np.ndarray


class _Run:
    """The run of a plan: which programs compile, which chunks wait, which run, and what came out so far."""

    def __init__(
        self, program: Program, plan: Plan, configurations: Configurations, keys: Keys, keep, extract, progress
    ):
        self.program, self.plan, self.configurations, self.keys = program, plan, configurations, keys
        self.keep, self.extract = keep, extract
        self.progress = progress or Progress(len(configurations), plan.units, show=False)
        self.outcome = Outcome({}, np.full(len(configurations), -1), {})
        self.cost, self.done = sum(group.seconds for group in plan.groups), 0.0
        self.at_once = concurrent_chunks(sum(group.chunks for group in plan.groups))
        self.memory = free_memory() // self.at_once
        self.groups = collections.deque(plan.groups)
        self.ready: collections.deque[_Chunk] = collections.deque()
        self.under_way: dict[concurrent.futures.Future, _Chunk | _Compilation] = {}
        # A matmul split over all cores waits for the slowest of them, so on a CPU compiling and running take turns.
        self.take_turns = jax.default_backend() == "cpu"
        self.ahead = 16 if self.take_turns else 4
        self.compilers = concurrent.futures.ThreadPoolExecutor(min(4, cores()), "jaxnet-compile")
        self.runners = concurrent.futures.ThreadPoolExecutor(self.at_once, "jaxnet-run")

    def to_its_end(self) -> Outcome:
        try:
            while self.groups or self.ready or self.under_way:
                started, idle = time.perf_counter(), not self._running
                self._go_on()
                self._await()
                elapsed = time.perf_counter() - started
                self.outcome.compile_seconds += idle * elapsed
                self.outcome.run_seconds += (not idle) * elapsed
        finally:
            self.compilers.shutdown(cancel_futures=True)
            self.runners.shutdown(cancel_futures=True)
        return self.outcome

    def _go_on(self) -> None:
        """Starts to run and to compile what may start now."""
        compiling = len(self.under_way) - self._running
        while self.ready and self._running < self.at_once and not (self.take_turns and compiling):
            self._start(self.ready.popleft())
        if self.take_turns and self.under_way:
            return
        programs = compiling + len({id(chunk.compiled) for chunk in self.ready})
        for _ in range(min(len(self.groups), self.ahead - programs)):
            group = self.groups.popleft()
            self._compile(group, group.lanes, group.ids)

    @property
    def _running(self) -> int:
        return sum(isinstance(job, _Chunk) for job in self.under_way.values())

    def _await(self) -> None:
        """Waits for whatever is ready first, and goes on from there."""
        done, _ = concurrent.futures.wait(self.under_way, return_when=concurrent.futures.FIRST_COMPLETED)
        for future in done:
            job = self.under_way.pop(future, None)
            if isinstance(job, _Compilation):
                self._compiled(job, future.result())
            elif job is not None:
                self._unit_over(job, future)

    def _compile(self, group: Group, lanes: int, ids: np.ndarray) -> None:
        lowered = _lower(self.program, self.plan, group, lanes, self.keys)
        self.under_way[self.compilers.submit(lowered)] = _Compilation(group, lanes, ids)

    def _compiled(self, job: _Compilation, compiled: tuple[Any, Any]) -> None:
        if job.lanes > 1 and _needed(compiled) > self.memory:  # the plan's estimate was too low
            self._compile(job.group, -(-job.lanes // 2), job.ids)
            return
        chunks = [job.ids[i : i + job.lanes] for i in range(0, len(job.ids), job.lanes)]
        self.ready.extend(_Chunk(job.group, job.lanes, ids, compiled) for ids in chunks)

    def _start(self, chunk: _Chunk) -> None:
        """The chunk's hyperparameters as arrays, and its first unit."""
        group, padded = chunk.group, np.resize(chunk.ids, chunk.lanes)  # repeats fill a chunk, and are not read
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
        hp = Hyperparameters({name: values[name] for name in group.structure(self.plan.floats)})
        chunk.arguments = hp, padded.astype(np.int32), self.keys.trials
        self._advance(chunk)

    def _advance(self, chunk: _Chunk) -> None:
        rest = () if self.program.feed is None else (self.program.feed(chunk.unit),)
        self.under_way[self.runners.submit(_unit, chunk, np.int32(chunk.unit), *rest)] = chunk

    def _unit_over(self, chunk: _Chunk, future: concurrent.futures.Future) -> None:
        share = chunk.group.seconds * len(chunk.ids) / len(chunk.group.ids) / self.plan.units / self.cost
        try:
            going = self._record(chunk, future.result())
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) or chunk.lanes == 1:
                raise
            self.done -= share * chunk.unit
            self._halve(chunk)
            return
        chunk.unit += 1
        self.done += share
        if chunk.unit < self.plan.units and going:
            self._advance(chunk)
            return
        if self.keep:
            _keep_best(self.outcome, chunk.ids, chunk.lane, self.keep, self.extract)
        self.done += share * (self.plan.units - chunk.unit)
        self.progress.chunk(len(chunk.ids), self.done)

    def _record(self, chunk: _Chunk, measures: dict[str, np.ndarray]) -> bool:
        """Writes down what a unit measured; whether any lane goes on."""
        outcome, ids = self.outcome, chunk.ids
        measures = {name: np.asarray(value, np.float64)[: len(ids)] for name, value in measures.items()}
        diverged = measures.pop("diverged")
        going = (diverged < 0) & np.isfinite(measures["score"])
        outcome.diverged[ids] = np.where(diverged >= 0, diverged, outcome.diverged[ids])
        for name, value in measures.items():
            column = outcome.history.setdefault(name, np.full((len(self.configurations), self.plan.units), np.nan))
            column[ids, chunk.unit] = np.where(going, value, np.nan)
        self.progress.unit(self.done, float(np.min(measures["score"], where=going, initial=np.inf)))
        return bool(going.any())

    def _halve(self, chunk: _Chunk) -> None:
        """For lanes that don't fit: the chunk and those that wait behind it again, in half as many lanes."""
        behind = [other for other in self.ready if other.compiled is chunk.compiled]
        self.ready = collections.deque(other for other in self.ready if other.compiled is not chunk.compiled)
        chunk.lane = None
        self._compile(chunk.group, -(-chunk.lanes // 2), np.concatenate([c.ids for c in (chunk, *behind)]))


def _unit(chunk: _Chunk, unit: np.int32, *rest: Any) -> dict[str, np.ndarray]:
    """Runs one unit of a chunk, the first after making its lanes; returns what it measured, on the host."""
    start, advance = chunk.compiled
    hp, ids, key = chunk.arguments
    lane = start(hp, ids, key) if chunk.unit == 0 else chunk.lane
    chunk.lane, measures = advance(hp, lane, ids, key, unit, *rest)
    return jax.device_get(measures)


def _lower(program: Program, plan: Plan, group: Group, lanes: int, keys: Keys) -> Callable[[], tuple[Any, Any]]:
    """Traces a group's programs now and here, since JAX's configuration is local to a thread; the call compiles."""

    def start(hp, trial_id, trials_key):
        return Lane(program.init(hp, Keys(trials_key, trials_key, trials_key).init(trial_id)), jnp.int32(-1))

    def advance(hp, lane, trial_id, trials_key, unit, *rest):
        key = Keys(trials_key, trials_key, trials_key).unit(trial_id, unit)
        carry = program.advance(hp, lane.carry, key, *rest)
        measures = dict(program.evaluate(hp, carry, *rest))
        if "score" not in measures:
            raise ValueError(
                f'evaluate must return a dict with a "score", the number to minimise, got {list(measures)}'
            )
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

    hp = jax.tree.map(lambda a: jax.ShapeDtypeStruct((lanes, *a.shape), a.dtype), group.structure(plan.floats))
    ids, unit = jax.ShapeDtypeStruct((lanes,), jnp.int32), jax.ShapeDtypeStruct((), jnp.int32)
    key = keys.trials
    rest = () if program.feed is None else (program.feed(0),)
    starter = jax.jit(jax.vmap(start, in_axes=(0, 0, None)))
    lane = jax.eval_shape(starter, hp, ids, key)
    advancer = jax.jit(_over_lanes(advance, lanes, (0, 0, 0, None, None) + (None,) * len(rest)), donate_argnums=1)
    lowered = starter.lower(hp, ids, key), advancer.lower(hp, lane, ids, key, unit, *rest)
    return lambda: (lowered[0].compile(), lowered[1].compile())


def _over_lanes(function: Callable[..., Any], lanes: int, in_axes: tuple) -> Callable[..., Any]:
    """``vmap``, except for a single lane, which is faster as it is than as a batch of one."""
    if lanes > 1:
        return jax.vmap(function, in_axes=in_axes)

    def one(*args):
        args = [
            jax.tree.map(lambda a: a[0], arg) if axis == 0 else arg for arg, axis in zip(args, in_axes, strict=True)
        ]
        return jax.tree.map(lambda a: a[None], function(*args))

    return one


def _keep_best(outcome: Outcome, ids: np.ndarray, lane: Lane, keep: int, extract: Callable[[Any], Any]) -> None:
    """Copies to the host what is kept of the chunk's lanes that are among the best so far, and forgets worse ones."""
    final = outcome.history["score"][:, -1]
    ranked = sorted([i for i in [*outcome.kept, *ids.tolist()] if np.isfinite(final[i])], key=lambda i: (final[i], i))
    best = ranked[:keep]
    outcome.kept = {i: outcome.kept[i] for i in best if i in outcome.kept}
    new = [i for i in best if i not in outcome.kept]
    if not new:
        return
    places = np.resize([ids.tolist().index(i) for i in new], min(keep, len(ids)))
    trees = jax.device_get(_take(extract(lane.carry), places))
    for place, i in enumerate(new):
        outcome.kept[i] = jax.tree.map(lambda leaf, place=place: leaf[place], trees)


@jax.jit
def _take(tree: Any, places: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[places], tree)
