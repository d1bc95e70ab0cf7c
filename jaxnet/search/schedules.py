"""Schedules: who trains on, and how far. Any schedule goes with any sampler."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Generator
from typing import NamedTuple

import numpy as np

from jaxnet.data import check_count
from jaxnet.hints import did_you_mean

Scores = np.ndarray


class Rung(NamedTuple):
    """Trials that train until so many units are done.

    ``ids`` are the trials, an array or a list; ``units`` what each has done, in all, when the rung is over;
    ``promoted`` how many of them may train on after it, at most, which bounds the lanes that are kept: those of the
    best scores, ties by id.

    >>> Rung(np.arange(4), units=5, promoted=2)
    Rung(ids=array([0, 1, 2, 3]), units=5, promoted=2)
    """

    ids: np.ndarray
    units: int
    promoted: int = 0


class Schedule(NamedTuple):
    """Two functions, and what a search wants to know of them; one's own schedule is made of it.

    Args:
      trials: ``trials(units)`` is the number of configurations that the schedule asks for, given the largest number of
        units of a trial, or None where it takes any number.
      rungs: ``rungs(trials, units)`` is a generator. It yields lists of rungs whose trials have nothing to do with each
        other and train side by side; when they are over, it is sent the scores so far, ``[trials, units]``, lower is
        better, NaN where a trial wasn't trained or had diverged; and so on until it returns. A trial that comes again
        goes on where it was.
      label: text that identifies the schedule in a journal. Without one, the journal stores the steps it takes when all
        scores are equal.
      average: ``average(trials, units)`` is the number of units that a trial trains on average; where there is none,
        that is rehearsed, too, with equal scores.
      points: True has the generator called as ``rungs(trials, units, points)``; points, ``[trials, entries of the
        space]``, are where the configurations lie in the unit cube, NaN for those that haven't been proposed yet, and
        are filled in as they are.
      pauses: False says that a trial that is left out of a step comes in none of the later ones, so callbacks are told
        there that it has stopped, not when the search is over, and its lane is forgotten.

    All train for half of the units, and the better half of them to the end:

    >>> def rungs(trials, units):
    ...     half = max(units // 2, 1)
    ...     scores = yield [Rung(np.arange(trials), half, promoted=trials // 2)]
    ...     best = np.argsort(scores[:, half - 1], kind="stable")[: trials // 2]  # NaN, what diverged, comes last
    ...     yield [Rung(np.sort(best), units)]
    >>> own = Schedule(lambda units: None, rungs, "the better half", pauses=False)
    >>> [(rung.ids.tolist(), rung.units) for step in rehearsed(own, 4, 10) for rung in step]
    [([0, 1, 2, 3], 5), ([0, 1], 10)]
    """

    trials: Callable[[int], int | None]
    rungs: Callable[..., Generator[list[Rung], Scores, None]]
    label: str = ""
    average: Callable[[int, int], float] | None = None
    points: bool = False
    pauses: bool = True


def full() -> Schedule:
    """Every trial trains for all units.

    >>> [(rung.ids.tolist(), rung.units) for rung in next(full().rungs(3, 10))]
    [([0, 1, 2], 10)]
    """

    def rungs(trials: int, units: int):
        yield [Rung(np.arange(trials), units)]

    return Schedule(lambda units: None, rungs, "full()")


def successive_halving(eta: int = 3, least: int = 1) -> Schedule:
    """All trials train a little, the best of them ``eta`` times as long, the best of those again, up to all units.

    The best ``1 / eta`` of a rung, rounded down but at least one, are promoted: by score, ties by id; what diverged
    never is. There are as many rungs as trials and units allow, and the last is always at all units.

    Args:
      eta: the share that goes on is one in so many; 3 or 4 are usual.
      least: units of the first rung, at least.

    Raises:
      TypeError, ValueError: for an ``eta`` below 2 and a ``least`` below 1, or that aren't integers.

    Source: Jamieson and Talwalkar, "Non-stochastic best arm identification" (2016). Promoted trials go on where they
    were, they don't start again.

    >>> steps, scores = successive_halving().rungs(9, 9), np.arange(81.0).reshape(9, 9)
    >>> [(r.ids.tolist(), r.units) for r in (next(steps)[0], steps.send(scores)[0], steps.send(scores)[0])]
    [([0, 1, 2, 3, 4, 5, 6, 7, 8], 1), ([0, 1, 2], 3), ([0], 9)]
    """
    _check_eta("successive_halving", eta)
    check_count("successive_halving: least", least)

    def rungs(trials: int, units: int):
        last = min(_logarithm(max(units // least, 1), eta), _logarithm(trials, eta))
        bracket = _bracket(np.arange(trials), units, eta, last)
        scores = yield [next(bracket)]
        while True:
            try:
                scores = yield [bracket.send(scores)]
            except StopIteration:
                return

    return Schedule(lambda units: None, rungs, f"successive_halving({eta}, {least})", pauses=False)


def hyperband(eta: int = 3, counts: str = "algorithm") -> Schedule:
    """Several brackets of successive halving side by side, from many trials that start short to few that train fully.

    It hedges against scores after few units that say little of scores after many. With R units there are
    ``floor(log_eta R) + 1`` brackets (the logarithm in integers: 1,000 and 10 give four); bracket s starts at
    ``R / eta ** s`` units. The number of trials follows from units and eta, so ``trials=`` is left out. Ids run through
    the brackets, the one with most trials first.

    Args:
      eta: as for ``successive_halving``.
      counts: the trials that bracket s starts with, of S + 1 brackets: "algorithm" is
        ``ceil((S + 1) * eta ** s / (s + 1))``, "table" is ``floor((S + 1) / (s + 1)) * eta ** s``.

    Raises:
      TypeError, ValueError: for an ``eta`` that isn't an integer of at least 2, or other ``counts``; from the search,
        for ``trials=`` that aren't as many.

    Source: Li et al., "Hyperband" (JMLR 2018), whose Algorithm 1 and Table 1 differ in their counts: for R = 81 and
    eta = 3 they are 81, 34, 15, 8, 5 and 81, 27, 9, 6, 5. Promoted trials go on where they were, so Table 1 costs
    1,404 units, not 1,701.

    >>> hyperband().trials(81), hyperband(counts="table").trials(81)
    (143, 128)
    """
    _check_eta("hyperband", eta)
    if counts not in (known := ("algorithm", "table")):
        hint = did_you_mean(counts, known)
        raise ValueError(f'hyperband: counts must be "algorithm" or "table", got {counts!r}{hint}')

    def sizes(units: int) -> list[tuple[int, int]]:
        """``(s, trials)`` of each bracket."""
        most = _logarithm(units, eta)
        if counts == "algorithm":
            return [(s, -(-(most + 1) * eta**s // (s + 1))) for s in range(most, -1, -1)]
        return [(s, (most + 1) // (s + 1) * eta**s) for s in range(most, -1, -1)]

    def rungs(trials: int, units: int):
        ends = np.cumsum([0] + [n for _, n in sizes(units)])
        brackets = [
            _bracket(np.arange(start, end), units, eta, s)
            for (s, _), start, end in zip(sizes(units), ends, ends[1:], strict=False)
        ]
        together = [(bracket, next(bracket)) for bracket in brackets]
        while together:
            scores = yield [rung for _, rung in together]
            going = []
            for bracket, _ in together:
                try:
                    going.append((bracket, bracket.send(scores)))
                except StopIteration:
                    continue
            together = going

    return Schedule(lambda units: sum(n for _, n in sizes(units)), rungs, f"hyperband({eta}, {counts!r})", pauses=False)


def median_stopping(start: int = 1, every: int = 1) -> Schedule:
    """Stops a trial whose best score so far is worse than the median of the others' running averages.

    Args:
      start: units before any trial is stopped.
      every: units from look to look.

    Raises:
      TypeError, ValueError: for units that aren't positive integers.

    Source: Golovin et al., "Google Vizier" (KDD 2017), sec. 3.2.1; there trials run one after the other and the median
    is over completed ones, here they run together and it is over all that have come as far.

    >>> steps = median_stopping().rungs(3, 2)
    >>> next(steps)[0].units, steps.send(np.array([[0.3, np.nan], [0.2, np.nan], [0.1, np.nan]]))[0].ids.tolist()
    (1, [1, 2])
    """
    check_count("median_stopping: start", start)
    check_count("median_stopping: every", every)

    def rungs(trials: int, units: int):
        ids, done = np.arange(trials), min(start, units)
        scores = yield [Rung(ids, done, len(ids))]
        while done < units and len(ids):
            averages = scores[:, :done].mean(axis=1)  # NaN for what was stopped or has diverged before
            if np.isfinite(averages).any():
                median = np.median(averages[np.isfinite(averages)])
                alive = np.isfinite(scores[ids, done - 1])
                ids = ids[alive][scores[ids[alive], :done].min(axis=1) <= median]
            else:
                return
            done = min(done + every, units)
            scores = yield [Rung(ids, done, len(ids))]

    return Schedule(lambda units: None, rungs, f"median_stopping({start}, {every})", pauses=False)


def steps(schedule: Schedule, trials: int, units: int, *points: np.ndarray) -> Generator[list[Rung], Scores, None]:
    """The steps of a schedule, with ids as arrays.

    Raises:
      TypeError, ValueError: for a step that isn't a list of rungs; for ids that aren't those of trials, or that come
        twice in a step; for units beyond the last one, or before what a trial has done; for more trials that train on
        than their rung promoted; and for a schedule that trains nothing.
    """
    done, of = np.zeros(trials, int), np.full(trials, -1)  # what each has trained, and which rung was its last
    places: list[int] = []  # how many more may train on, of each rung
    scores = np.full((trials, units), np.nan)
    given = schedule.rungs(trials, units, *points)
    step = next(given, None)
    while step is not None:
        if not isinstance(step, (list, tuple)) or not step or not all(isinstance(rung, Rung) for rung in step):
            raise TypeError(f"a schedule must yield lists of jn.search.Rung, with one at least, got {step!r}")
        step = [_checked(rung, trials, units) for rung in step]
        ids = np.concatenate([rung.ids for rung in step])
        if len(twice := np.flatnonzero(np.bincount(ids, minlength=trials) > 1)):
            raise ValueError(f"a trial trains in one rung at a time, but {twice.tolist()} come twice in {step}")
        for rung in step:
            if len(back := rung.ids[done[rung.ids] > rung.units]):
                raise ValueError(f"trials {back.tolist()} have already trained for more than the units of {rung}")
            for i in rung.ids[done[rung.ids] > 0].tolist():
                places[of[i]] -= bool(np.isfinite(scores[i, done[i] - 1]))  # what diverged isn't trained on
                if places[of[i]] < 0:
                    raise ValueError(
                        f"more trials train on than their rung promoted: {rung} has trial {i}, too; give the earlier "
                        f"one promoted=, the most that may train on"
                    )
            done[rung.ids], of[rung.ids] = rung.units, len(places)
            places.append(rung.promoted)
        scores = yield step
        try:
            step = given.send(scores)
        except StopIteration:
            step = None
    if not done.any():
        raise ValueError("the schedule trains no trial: its rungs() must yield a list of jn.search.Rung at least once")


def _checked(rung: Rung, trials: int, units: int) -> Rung:
    ids = np.asarray(rung.ids)
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise TypeError(f"a rung's ids must be a list or an array of integers, got {rung}")
    if len(strange := ids[(ids < 0) | (ids >= trials)]):
        raise ValueError(f"there are trials 0 to {trials - 1}, got {strange.tolist()} in {rung}")
    check_count("a rung's units", rung.units)
    check_count("a rung's promoted", rung.promoted, 0)
    if rung.units > units:
        raise ValueError(f"a trial trains for {units} units at most, got {rung}")
    return Rung(ids.astype(int), int(rung.units), int(rung.promoted))


def rehearsed(schedule: Schedule, trials: int, units: int) -> list[list[Rung]]:
    """The steps that a schedule takes if no trial diverges and all scores are the same.

    >>> [len(step) for step in rehearsed(hyperband(), 17, 9)]
    [3, 2, 1]
    """
    points = (np.full((trials, 1), np.nan),) if schedule.points else ()
    taking, taken = steps(schedule, trials, units, *points), []
    with contextlib.suppress(StopIteration):
        taken.append(next(taking))
        while True:
            taken.append(taking.send(np.zeros((trials, units))))
    return taken


def units_on_average(schedule: Schedule, trials: int, units: int) -> float:
    """Units that a trial trains on average: as the schedule says, or in ``rehearsed`` steps.

    >>> units_on_average(hyperband(counts="table"), 128, 81) * 128
    1404.0
    """
    if schedule.average is not None:
        return schedule.average(trials, units)
    done = np.zeros(trials, int)
    for rung in itertools.chain.from_iterable(rehearsed(schedule, trials, units)):
        done[rung.ids] = rung.units
    return float(done.mean())


def _bracket(ids: np.ndarray, units: int, eta: int, last: int) -> Generator[Rung, Scores, None]:
    """Successive halving of ``ids`` in ``last + 1`` rungs; rung i ends at ``units / eta ** (last - i)``."""
    count = len(ids)
    for i in range(last + 1):
        done = max(units // eta ** (last - i), 1)
        promoted = max(count // eta ** (i + 1), 1) if i < last else 0
        scores = (yield Rung(ids, done, promoted))[ids, done - 1]
        finite = ids[np.isfinite(scores)]
        best = np.argsort(scores[np.isfinite(scores)], kind="stable")[:promoted]
        ids = np.sort(finite[best])
        if not len(ids):
            return


def _logarithm(number: int, base: int) -> int:
    """The largest k with ``base ** k <= number``, in integers: floating point makes log(243, 3) less than 5."""
    power = 0
    while base ** (power + 1) <= number:
        power += 1
    return power


def _check_eta(name: str, eta: int) -> None:
    check_count(f"{name}: eta", eta)
    if eta < 2:
        raise ValueError(f"{name}: eta must be at least 2, since one in eta goes on, got {eta}")
