"""Lanes: the vmapped program of a group, compiled ahead of time, and the loop that runs its chunks."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.layer import Size
from jaxnet.search.planning import Group, Plan, free_memory
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
    diverged; ``diverged`` is ``[trials]``, the step or -1; ``kept`` has trees of the best trials by id.
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
    """Runs all groups of a plan, chunk by chunk.

    Args:
      program, plan, configurations, keys: what runs, and the streams it draws from.
      keep: how many of the best trials' carries come to the host.
      extract: what of a carry is kept.
      progress: told of every unit.
    """
    trials = len(configurations)
    outcome = Outcome({}, np.full(trials, -1), {})
    progress = progress or Progress(trials, plan.units, show=False)
    total, done = sum(group.seconds for group in plan.groups), 0.0
    waiting = time.perf_counter()
    for number, (group, compiled) in enumerate(_compiled_groups(program, plan, keys), start=1):
        outcome.compile_seconds += time.perf_counter() - waiting
        started = time.perf_counter()
        pending = [group.ids[i : i + group.lanes] for i in range(0, len(group.ids), group.lanes)]
        lanes, memory = group.lanes, free_memory()
        while lanes > 1 and _needed(compiled) > memory:  # the plan's estimate was too low
            lanes, compiled, pending = _halve(program, plan, group, lanes, keys, pending)
        while pending:
            ids = pending.pop(0)

            share = group.seconds * len(ids) / len(group.ids) / total
            told = functools.partial(_tell, progress, f"group {number}/{len(plan.groups)}", done, share, plan.units)
            try:
                lane = _run_chunk(program, plan, group, lanes, compiled, ids, configurations, keys, outcome, told)
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error) or lanes == 1:
                    raise
                lanes, compiled, pending = _halve(program, plan, group, lanes, keys, [ids, *pending])
                continue
            if keep:
                _keep_best(outcome, ids, lane, keep, extract)
            done += share
            progress.chunk(len(ids))
        outcome.run_seconds += time.perf_counter() - started
        waiting = time.perf_counter()
    return outcome


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


def _halve(program, plan, group, lanes, keys, pending):
    """For lanes that don't fit: half as many, their program, and the chunks that are left, cut to match."""
    lanes = -(-lanes // 2)
    pending = [part for chunk in pending for part in (chunk[:lanes], chunk[lanes:]) if len(part)]
    return lanes, _lower(program, plan, group, lanes, keys)(), pending


def _needed(compiled: tuple[Any, Any]) -> int:
    """Bytes that a group's compiled program takes while it runs, as the compiler knows them."""
    analysis = compiled[1].memory_analysis()
    if analysis is None:
        return 0
    passed = analysis.argument_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return passed + analysis.temp_size_in_bytes


def _tell(progress: Progress, doing: str, done: float, share: float, units: int, unit: int, best: float) -> None:
    progress.unit(doing, done + share * (unit + 1) / units, best)


def _run_chunk(program, plan: Plan, group: Group, lanes, compiled, ids, configurations, keys, outcome, told) -> Any:
    """Trains the trials ``ids`` for all units, writes what it measures into ``outcome``, returns the lanes."""
    padded = np.resize(ids, lanes)  # a chunk that isn't full repeats its trials; the repeats are not read
    values = {}
    for name in configurations[ids[0]]:
        column = [configurations[i][name] for i in padded]
        if name in group.sizes:
            least, bound = group.sizes[name]
            values[name] = Size(bound, np.array(column, np.int32), name, least)
        elif name in group.static:
            values[name] = group.static[name]
        else:
            values[name] = np.array(column, np.float32)
    hp = Hyperparameters({name: values[name] for name in group.structure(plan.floats)})
    start, advance = compiled
    lane = start(hp, padded.astype(np.int32), keys.trials)
    for unit in range(plan.units):
        rest = () if program.feed is None else (program.feed(unit),)
        lane, measures = advance(hp, lane, padded.astype(np.int32), keys.trials, np.int32(unit), *rest)
        measures = {name: np.asarray(value, np.float64)[: len(ids)] for name, value in jax.device_get(measures).items()}
        diverged = measures.pop("diverged")
        going = (diverged < 0) & np.isfinite(measures["score"])
        outcome.diverged[ids] = np.where(diverged >= 0, diverged, outcome.diverged[ids])
        for name, value in measures.items():
            column = outcome.history.setdefault(name, np.full((len(configurations), plan.units), np.nan))
            column[ids, unit] = np.where(going, value, np.nan)
        told(unit, float(np.min(measures["score"], where=going, initial=np.inf)))
        if not going.any():
            break
    return lane


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
    advancer = jax.jit(jax.vmap(advance, in_axes=(0, 0, 0, None, None) + (None,) * len(rest)), donate_argnums=1)
    lowered = starter.lower(hp, ids, key), advancer.lower(hp, lane, ids, key, unit, *rest)
    return lambda: (lowered[0].compile(), lowered[1].compile())


def _compiled_groups(program: Program, plan: Plan, keys: Keys) -> Iterator[tuple[Group, tuple[Any, Any]]]:
    """The groups with their compiled programs; the next ones compile on other threads while one runs."""
    ahead = min(4, os.cpu_count() or 1)
    with concurrent.futures.ThreadPoolExecutor(ahead) as pool:
        queue: list[tuple[Group, concurrent.futures.Future]] = []
        groups = iter(plan.groups)
        while True:
            while len(queue) <= ahead and (group := next(groups, None)) is not None:
                queue.append((group, pool.submit(_lower(program, plan, group, group.lanes, keys))))
            if not queue:
                return
            group, future = queue.pop(0)
            yield group, future.result()


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
