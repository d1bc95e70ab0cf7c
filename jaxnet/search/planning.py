"""The plan: which trials share a compiled program, how wide it is, and how many of them run at once."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxnet.search.cost import CostModel, fed, structure
from jaxnet.search.devices import Devices
from jaxnet.search.space import Hyperparameters, Space
from jaxnet.stream import Parts
from jaxnet.training import Program

# What a trade between padding and compiling needs to know of a machine: rough, since only ratios decide.
# Operations a second and bytes a second of one core or one device, and seconds to compile one group's programs.
RATES = {"cpu": (7e10, 1.6e10, 2.4), "gpu": (2e13, 2e12, 5.0), "tpu": (5e13, 1e12, 10.0)}
CPU_CACHE = 2**20  # bytes of lanes in one program that stay in the cache of a core
# Bytes that a step of one program makes, beyond which a core is busy with them and more lanes save nothing: two lanes
# of a LeNet or an LSTM took 1.04 and 1.09 of the time of one after the other, sixteen of a narrow MLP a quarter.
CPU_STEP = 24 * 2**20
MOST_BLOCKS = 48  # candidates for where to cut a sorted list of trials
UNKNOWN = (  # what JAX raises where a traced value is asked for
    jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError, jax.errors.TracerIntegerConversionError,
)  # fmt: skip


@dataclasses.dataclass(eq=False)
class Group:
    """Trials that share one compiled program.

    ``ids`` are the trials, which a sampler that learns adds to; ``static`` the values compiled in; ``floats`` the names
    of traced numbers; ``sizes`` by name ``(least, bound)``, the smallest value in the group and the padded width;
    ``lanes`` how many run at once, on all devices; ``bytes`` an estimate of what they hold on each, from above;
    ``waste`` the share of arithmetic spent on padding; ``seconds`` a rough estimate of one trial's run.
    """

    ids: np.ndarray
    static: dict[str, Any]
    floats: list[str]
    sizes: dict[str, tuple[int, int]]
    lanes: int
    bytes: int
    waste: float
    seconds: float

    @property
    def chunks(self) -> int:
        """How many times the program runs through all units."""
        return -(-len(self.ids) // self.lanes)

    @property
    def total(self) -> float:
        """A rough estimate of the run of all its trials, in seconds."""
        return self.seconds * len(self.ids)

    @property
    def sizes_text(self) -> str:
        """The ranges of its sizes, for people."""
        return ", ".join(f"{n} {low}-{high}" if low < high else f"{n} {high}" for n, (low, high) in self.sizes.items())

    @property
    def static_text(self) -> str:
        """What is compiled in, for people."""
        return ", ".join(f"{n}={getattr(v, '__name__', v)}" for n, v in self.static.items())

    def structure(self) -> Hyperparameters:
        """The hyperparameters of one lane as shapes."""
        leasts, bounds = zip(*self.sizes.values(), strict=True) if self.sizes else ((), ())
        return structure(self.static, self.floats, list(self.sizes), bounds, leasts)

    def holds(self, kinds: Mapping[str, str], configuration: Mapping[str, Any]) -> bool:
        """Whether the compiled program can run such a trial."""
        own = dict.fromkeys(self.floats, "float") | dict.fromkeys(self.sizes, "size")
        own |= dict.fromkeys(self.static, "static")
        return (
            own == dict(kinds)
            and all(least <= configuration[name] <= bound for name, (least, bound) in self.sizes.items())
            and all(_same(configuration[name], value) for name, value in self.static.items())
        )


@dataclasses.dataclass
class Plan:
    """The groups of a search in the order in which they run; ``str`` of it is a table.

    ``units`` is the most that a trial trains, ``expected`` what it does on average; ``work`` a rough estimate of the
    run of all groups one after the other, in seconds; ``failed`` has by trial why it can't be trained; ``repeats`` is
    how many seeds each configuration has, each a trial here; ``devices`` how many share the lanes, on all hosts.
    ``search.plan`` makes one, and has an example.
    """

    groups: list[Group]
    units: int
    expected: float
    work: float
    failed: dict[int, str] = dataclasses.field(default_factory=dict)
    repeats: int = 1
    devices: int = 1

    def __repr__(self) -> str:
        return f"Plan({self.trials} trials, {self.units} units, {len(self.groups)} compiled programs)"

    @property
    def trials(self) -> int:
        """The number of trials in all groups."""
        return sum(len(group.ids) for group in self.groups)

    @property
    def waste(self) -> float:
        """The share of arithmetic spent on padding, over all groups."""
        return sum(group.waste * group.total for group in self.groups) / self.work if self.work else 0.0

    def __str__(self) -> str:
        rows = [("group", "trials", "sizes", "compiled in", "lanes", "chunks", "padding", "bytes", "cost")]
        for i, group in enumerate(self.groups):
            rows.append(
                (
                    str(i + 1), str(len(group.ids)), group.sizes_text or "-", group.static_text or "-",
                    str(group.lanes), str(group.chunks), f"{group.waste:.0%}", in_bytes(group.bytes),
                    f"{group.total / self.work:.0%}",
                )
            )  # fmt: skip
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(f"{cell:>{w}}" for cell, w in zip(row, widths, strict=True)) for row in rows]
        most = max((group.bytes for group in self.groups), default=0)
        of = f"{self.units}" if self.expected == self.units else f"{self.expected:.3g} (at most {self.units})"
        seeds = (
            "" if self.repeats == 1 else f" ({self.trials // self.repeats} configurations, {self.repeats} seeds each)"
        )
        programs = f"{len(self.groups)} compiled program{'s' * (len(self.groups) != 1)}"
        head = (
            f"{self.trials} trials{seeds} of {of} units: {programs}, "
            f"{self.waste:.0%} of the arithmetic is padding, at most {in_bytes(most)} at once"
            + (f" on each of {self.devices} devices" if self.devices > 1 else "")
        )
        failed = [f"{len(self.failed)} trials fail: {next(iter(self.failed.values()))}"] if self.failed else []
        return "\n".join([head, *lines, *failed])


def make_plan(
    program: Program,
    space: Space,
    configurations: Sequence[Mapping[str, Any]],
    units: int,
    *,
    ids: Sequence[int] | None = None,
    expected: float | None = None,
    memory: int | None = None,
    lanes: int | None = None,
    together: int | None = None,
    build: Callable[[Mapping[str, Any]], Any] = lambda configuration: None,
    check: Callable[[Any], None] = lambda trial: None,
    strict: bool = True,
    devices: Devices | None = None,
) -> Plan:
    """Groups trials by what must be static, sorts each group by cost and cuts it where padding costs most.

    A cut costs one more program to compile and saves the padding of the narrower trials; the cuts chosen minimise the
    sum of both (dynamic programming over at most ``MOST_BLOCKS`` candidates).

    Args:
      program, space, configurations: what runs; trial i is ``configurations[i]``.
      units: of budget for each trial, at most.
      ids: the trials to plan for; the default is all.
      expected: of budget for each trial on average, where a schedule stops some; the default is ``units``.
      memory: bytes for the lanes that run at once on a device; the default is what it has free, with a margin.
      lanes: how many run at once, in place of what memory (and on a CPU the cache) suggests; rounded up to a multiple
        of the devices.
      together: how many trials an adaptive sampler proposes at a time; None where all are known from the start.
      build: makes a trial of a configuration, or raises; called for each that differs from the others, since what a
        trial is made of can check numbers only, and not what stands for them in a program of many lanes.
      check: looks closely at what ``build`` made, which takes longer, or raises; called for the smallest and the
        largest of each size, and for all sizes only where a program of them can't be traced. Trials for which one of
        these raises, and those whose program can't be traced, are in ``failed``.
      strict: whether to raise what the first trial raised, if all fail.
      devices: that share the lanes of a chunk; the default is all.
    """
    devices = devices or Devices()
    feed = None if program.feed is None else Parts.of(fed(program, 0))
    devices.share(() if feed is None else feed.static)  # what is free is what these leave
    memory = free_memory(devices) if memory is None else memory
    expected = float(units if expected is None else expected)
    taken = expected / speedup(devices)
    groups: list[Group] = []
    failed: dict[int, Exception] = {}
    for (kinds, values), members in _by_static(space, configurations, ids).items():
        static = {name: value for name, _, value in values}
        floats, sizes = ([name for name, k in kinds if k == kind] for kind in ("float", "size"))
        failed |= _refused(build, configurations, members)
        if not (ours := np.array([i for i in members if i not in failed], int)).size:
            continue
        own = np.array([[configurations[i][name] for name in sizes] for i in ours], int).reshape(len(ours), -1)
        rows, first, row = np.unique(own, axis=0, return_index=True, return_inverse=True)
        look = functools.partial(_look, build, check, [configurations[i] for i in ours[first]])
        trace = functools.partial(_traced, program, static, floats, sizes, feed)
        model, wrong = _model(rows, look, trace)
        row = row.reshape(-1)
        failed |= {int(i): wrong[k] for i, k in zip(ours, row.tolist(), strict=True) if k in wrong}
        if model is not None:
            fine = ~np.isin(row, list(wrong))
            own, ours = own[fine], ours[fine]
            groups += _cut(model, static, floats, sizes, own, ours, taken, memory, lanes, together, devices.count)
    if failed and not groups and strict:
        raise failed[min(failed)]
    groups.sort(key=lambda group: -group.total / group.chunks)  # what takes longest first, so that no core ends alone
    work = sum(group.total for group in groups)
    messages = {i: message(error) for i, error in sorted(failed.items())}
    return Plan(groups, units, expected, work, messages, devices=devices.count)


def _refused(
    build: Callable[[Mapping[str, Any]], Any], configurations: Sequence[Mapping[str, Any]], ids: Sequence[int]
) -> dict[int, Exception]:
    """What building raises, by trial; each configuration is built once."""
    known: dict[tuple, Exception | None] = {}
    for i in ids:
        values = tuple(configurations[i].values())
        if values not in known:
            known[values] = raised(build, configurations[i])
    errors = {i: known[tuple(configurations[i].values())] for i in ids}
    return {i: error for i, error in errors.items() if error is not None}


def _model(
    rows: np.ndarray, look: Callable[[int], Any], trace: Callable[[np.ndarray], CostModel]
) -> tuple[CostModel | None, dict[int, Exception]]:
    """The cost of the trials that can be made, of those that differ in their sizes; and of each other row why not.

    Args:
      rows: sizes, ``[different, names]``. look: raises for a row of which no trial can be made.
      trace: the cost of rows in one program; raises where there can't be one.
    """
    wrong: dict[int, Exception] = {}
    left, looked, each = list(range(len(rows))), set(), False
    while left:
        ends = set(left if each else _ends(rows, left)) - looked
        wrong |= {k: error for k in ends if (error := raised(look, k)) is not None}
        looked |= ends
        if not ends.isdisjoint(wrong):
            left = [k for k in left if k not in wrong]
            continue
        try:
            return trace(rows[left]), wrong
        except Exception as error:
            if each or raised(trace, rows[left[:1]]) is not None:  # no row is at fault
                return None, wrong | dict.fromkeys(left, error)
            each = True
    return None, wrong


def _look(build: Any, check: Any, configurations: Sequence[Mapping[str, Any]], k: int) -> None:
    check(build(configurations[k]))


def _traced(
    program: Program, static: dict[str, Any], floats: list[str], sizes: list[str], feed: Any, rows: np.ndarray
) -> CostModel:
    ranges = {name: (column.min(), column.max()) for name, column in zip(sizes, rows.T, strict=True)}
    try:
        return CostModel(program, static, floats, ranges, feed, rows)
    except Exception as error:
        _explain(error, floats + sizes)
        raise


def _ends(rows: np.ndarray, left: list[int]) -> list[int]:
    """Of the rows that are left those with the smallest and with the largest value of each size."""
    some = rows[left]
    return [left[k] for k in (*some.argmin(axis=0), *some.argmax(axis=0))] or left[:1]


def raised(function: Callable[..., Any], *arguments: Any) -> Exception | None:
    """What a call raises, or None."""
    try:
        function(*arguments)
    except Exception as error:
        return error
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it was raised from, what that was raised from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__


def _explain(error: Exception, names: Sequence[str]) -> None:
    """Adds what to do about a value that isn't known while a program is traced, of one of these hyperparameters."""
    if names and any(isinstance(cause, UNKNOWN) for cause in _chain(error)):
        named = [name for name in names if f"hp[{name!r}]" in str(error)] or names
        error.add_note(
            f"Of {', '.join(named)} the values aren't known while a program for many lanes is traced. "
            f"Where Python asks for one (if, range, a shape), also inside another library's layer, declare it "
            f"static, which compiles a program for each value: jn.choice(..., static=True). A schedule of "
            f"optax that looks at its rate is written for the rate 1, and multiplied"
        )


def message(error: Exception) -> str:
    """An error as it stands in a table, with its notes and those of its causes, but for JAX's on hidden frames."""
    notes = [note for cause in _chain(error) for note in getattr(cause, "__notes__", []) if not note.startswith("---")]
    return "\n".join([f"{type(error).__name__}: {error}", *notes])


def _by_static(space: Space, configurations: Sequence[Mapping[str, Any]], ids: Sequence[int] | None):
    """Trials by the kinds of their hyperparameters and the values of those that are static."""
    trials: dict[tuple, list[int]] = {}
    kinds: dict[str, str] = {}
    names, items = [], ()
    for i in range(len(configurations)) if ids is None else ids:
        configuration = configurations[i]
        if not kinds or not space.independent:
            kinds = space.kinds(configuration)
            names, items = [name for name, kind in kinds.items() if kind == "static"], tuple(kinds.items())
        values = tuple([(name, type(configuration[name]), configuration[name]) for name in names])
        trials.setdefault((items, values), []).append(i)
    return trials


def _cut(
    model: CostModel,
    static,
    floats,
    sizes,
    own,
    ids,
    units: float,
    memory: int,
    lanes: int | None,
    together: int | None,
    devices: int = 1,
) -> list[Group]:
    alone = _seconds(model(own, own)) * units
    order = np.lexsort((ids, alone))
    own, ids, alone = own[order], ids[order], alone[order]
    edges = np.unique(np.linspace(0, len(ids), min(len(ids), MOST_BLOCKS) + 1).round().astype(int))
    blocks = len(edges) - 1
    highs = np.array([own[a:b].max(axis=0) for a, b in zip(edges, edges[1:], strict=False)]).reshape(blocks, -1)
    lows = np.array([own[a:b].min(axis=0) for a, b in zip(edges, edges[1:], strict=False)]).reshape(blocks, -1)

    best, cut_at = np.zeros(blocks + 1), np.zeros(blocks + 1, int)
    for end in range(1, blocks + 1):  # the group that ends here may start at any earlier edge
        bounds = np.maximum.accumulate(highs[:end][::-1], axis=0)[::-1]
        leasts = np.minimum.accumulate(lows[:end][::-1], axis=0)[::-1]
        padded = _seconds(model(bounds, leasts)) * units * (edges[end] - edges[:end])
        total = best[:end] + padded + compile_seconds()
        cut_at[end] = int(np.argmin(total))
        best[end] = total[cut_at[end]]

    groups, end = [], blocks
    while end:
        start = cut_at[end]
        members = slice(edges[start], edges[end])
        high, low = own[members].max(axis=0), own[members].min(axis=0)
        cost = model(high[None], low[None])[0]
        count = edges[end] - edges[start]
        most = -(-count // devices)  # on a device
        width = -(-lanes // devices) if lanes else _lanes(cost, min(count, together or count), memory, devices)
        seconds = float(_seconds(cost[None])[0]) * units
        groups.append(
            Group(
                ids=ids[members],
                static=static,
                floats=floats,
                sizes={name: (int(low[j]), int(high[j])) for j, name in enumerate(sizes)},
                lanes=int(min(width, most) * devices),
                bytes=int(_held(cost) * min(width, most)),
                waste=max(0.0, 1 - float(alone[members].mean()) / seconds),
                seconds=seconds,
            )
        )
        end = start
    return groups[::-1]


def _lanes(cost: np.ndarray, count: int, memory: int, devices: int = 1) -> int:
    """On each device as many lanes as fit, with the fewest empty in the last chunk; on a CPU, fit in the cache too."""
    most = max(1, min(-(-count // devices), int(memory // _held(cost))))
    if jax.default_backend() == "cpu":
        most = max(
            1, min(most, int(CPU_CACHE // cost[2]), int(CPU_STEP // cost[3]), -(-count // max(cores(), devices)))
        )
    return min(range(-(-most // 2), most + 1), key=lambda lanes: (-count % (lanes * devices), -lanes))


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and a == b


def _held(cost: np.ndarray) -> float:
    """Bytes of one lane: what is carried in and out, and all that a step makes."""
    return 2 * cost[2] + cost[3]


def _seconds(costs: np.ndarray) -> np.ndarray:
    flops, bandwidth, _ = _rates()
    return costs[:, 0] / flops + costs[:, 1] / bandwidth


def _rates() -> tuple[float, float, float]:
    flops, bandwidth, compiling = RATES.get(jax.default_backend(), RATES["gpu"])
    if jax.default_backend() == "cpu":
        return flops * cores(), bandwidth * cores(), compiling / cores()
    return flops, bandwidth, compiling


def speedup(devices: Devices) -> int:
    """How many times as fast as one device they are; those of one CPU share its cores."""
    return devices.count // len(devices.local) if jax.default_backend() == "cpu" else devices.count


def compile_seconds() -> float:
    """Roughly what it takes to compile a group's programs."""
    return _rates()[2]


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def concurrent_chunks(chunks: int, devices: int = 1) -> int:
    """How many chunks run at once: on a CPU one a core, since a single small matmul doesn't keep two cores busy.

    Where several devices share a chunk, one: they are all busy, and processes must come to their chunks in one order.
    """
    return min(cores(), chunks) if jax.default_backend() == "cpu" and devices == 1 else 1


def free_memory(devices: Devices) -> int:
    """Three quarters of what is free on the fullest device of this process; on a CPU half of the machine's free memory,
    in equal parts."""
    statistics = [device.memory_stats() for device in devices.local if device.platform != "cpu"]
    free = [s["bytes_limit"] - s.get("bytes_in_use", 0) for s in statistics if s and "bytes_limit" in s]
    if free:
        return int(0.75 * min(free))
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 // len(devices.local)
    except (ValueError, OSError, AttributeError):
        return 4 * 2**30


def in_bytes(n: float) -> str:
    """A number of bytes for people.

    >>> in_bytes(512), in_bytes(3 * 2**20)
    ('512 B', '3 MiB')
    """
    for unit in ("B", "KiB", "MiB"):
        if n < 1024:
            return f"{n:.0f} {unit}"
        n /= 1024
    return f"{n:.1f} GiB"
