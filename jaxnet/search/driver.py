"""The calls that plan and run a search."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import jax
import numpy as np
import optax

from jaxnet.callback import Callback, check_callbacks
from jaxnet.data import check_count, check_on_host, input_spec
from jaxnet.hints import did_you_mean
from jaxnet.layer import Size
from jaxnet.search import samplers, schedules
from jaxnet.search.devices import Devices, SharedJournal, check_same, failing_together, from_first
from jaxnet.search.journal import Journal, data_text, digest, trials_with_results, value_text
from jaxnet.search.lanes import Proposals, concrete, run_plan
from jaxnet.search.planning import Group, Plan, make_plan, raised
from jaxnet.search.progress import Progress
from jaxnet.search.result import Network, SearchResult, executed_rungs, kept_network, measured_groups
from jaxnet.search.schedules import Schedule
from jaxnet.search.space import Hyperparameters, Space
from jaxnet.stream import Stream, as_source, shapes_of
from jaxnet.training import Data, Fitted, Keys, Program, Trial, check_trial, fit, supervised


def run(
    trial: Callable[[Hyperparameters], Trial] | Program,
    space: Space,
    train: Data | Stream | None = None,
    validation: Data | Stream | None = None,
    *,
    trials: int | None = None,
    epochs: int,
    key: jax.Array,
    sampler: samplers.Sampler | None = None,
    schedule: Schedule | None = None,
    maximize: bool = False,
    include: Sequence[Mapping[str, Any]] = (),
    repeats: int = 1,
    shuffle: str = "shared",
    lanes: int | None = None,
    keep: int = 10,
    directory: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
    callbacks: Iterable[Callback] = (),
) -> SearchResult:
    """Trains every configuration that the sampler proposes, many at once, and returns the table.

    The lanes that run at once are spread over all devices of the process, and, after ``jax.distributed.initialize``, of
    all processes: each runs this same call with the same data, and gets the same result. The first one alone writes the
    journal and shows progress.

    Args:
      trial: a pure function from hyperparameters to a ``Trial``, called once with the numbers of each configuration and
        while programs are traced (so it is quick, prints and reads nothing); or a ``Program`` for what isn't supervised
        learning.
      space: the hyperparameters and their distributions.
      train, validation: ``(inputs, targets)`` or a ``jn.Stream``, as for ``fit``; None for a ``Program``.
      trials: how many configurations; None for all of a grid, or as many as the schedule asks for, and those of
        ``include``.
      epochs: passes over the data (for a ``Program``, units of budget) for each, at most.
      key: decides everything that is drawn. Configuration i depends on space, sampler, key and i alone, and what a
        trial draws on key and i; so a longer search begins with the trials of a shorter one.
      sampler: which configurations are tried; the default is ``search.random()``. An adaptive sampler proposes a batch,
        waits for its scores (with a schedule: at the end of the first rung), then proposes the next.
      schedule: who trains on, and how far; the default is ``search.full()``, all of them for all epochs.
      maximize: whether a higher score is better, as of an accuracy.
      include: configurations to try whatever the sampler proposes, such as the best one known: they are the first
        trials.
      repeats: seeds for each configuration, each in a lane of its own. The score is their mean, and ``score_error`` its
        standard error; a configuration diverges with any of its seeds. Seed r of trial i draws what
        ``fit(..., trial_id=i * repeats + r)`` does.
      shuffle: "shared" shows all lanes the same batches in the same order, which is faster (the first layer of all
        lanes is one matmul) and compares trials on equal terms; "own" gives each trial its own order.
      lanes: how many trials run at once; the default is what memory (and on a CPU the cache) holds. With several
        devices it is rounded up to a multiple of their number.
      keep: how many of the best networks come to the host for ``result.network``, of those trained for all epochs.
      directory: a folder for the journal of the search. Each chunk's rung is on the disk before the next starts; after
        a kill or an interrupt at any moment the same call goes on where it was, and ends in the same table. A folder of
        another search (space, key, trial function and what it captures, data, versions) is refused with what differs.
        Global names that the trial function uses aren't looked into.
      progress: None shows what runs, what is best and how trials ended, when standard error is a terminal.
      callbacks: objects of ``jn.Callback``, told of units and trials as they finish.

    A lane whose loss or parameters go non-finite is frozen at that step, keeps its last finite parameters, is marked
    "diverged", is never best, and touches no other lane. A configuration from which no trial can be built (a kernel
    larger than the image, say) is marked "failed", and the others run; ``result.messages`` tells why.

    An interrupt (Ctrl-C) of a search with a journal lets the units that run come to their end, writes them down and
    says how to go on; a second one, or one without a journal, raises ``KeyboardInterrupt`` at once. What XLA runs or
    compiles can't be interrupted, so the process ends when that has ended, or at one more Ctrl-C.

    Raises:
      ValueError, TypeError: before anything is compiled: for data as ``fit``; for no trials or epochs; for a space, a
        sampler or a schedule that don't fit together; for configurations outside of the space; for processes that don't
        run the same search. Later: for a step of a schedule that can't be taken.
      RuntimeError: when another process has died; the same call on those that are left goes on from the journal.
      Exception: whatever building or tracing the first trial raised, when no trial can be built.

    >>> import optax, jaxnet as jn
    >>> x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
    >>> def trial(hp):
    ...     net = jn.serial(jn.dense(hp.hidden), jax.numpy.tanh, jn.dense(1))
    ...     return jn.Trial(net, jn.losses.squared_error, optax.adam(hp.rate), batch_size=16)
    >>> space = jn.Space(rate=jn.log_uniform(1e-3, 1e-1), hidden=jn.log_integers(2, 32))
    >>> result = run(trial, space, (x, x**2), (x, x**2), trials=8, epochs=20, key=jax.random.key(0))
    >>> result.curves.shape, sorted(result.best)[:3], result.best["score"] < 0.1
    ((8, 20), ['diverged', 'hidden', 'id'], True)
    """
    alone, first, callbacks = jax.process_count() == 1, jax.process_index() == 0, check_callbacks(callbacks)
    with failing_together(), contextlib.ExitStack() as stack:
        setup = _Setup(
            trial, space, train, validation, trials=trials, epochs=epochs, key=key, sampler=sampler, schedule=schedule,
            shuffle=shuffle, include=include, repeats=repeats, lanes=lanes, maximize=maximize, keep=keep,
        )  # fmt: skip
        extract = (lambda carry: (carry.params, carry.state)) if setup.make_trial else (lambda carry: carry)
        about = {} if alone and directory is None else setup.about()
        check_same(about | {"number of devices": str(len(setup.devices.local))})
        if directory is not None:
            opened = Journal if alone else SharedJournal
            setup.journal = stack.enter_context(opened(directory, about))
            setup.recall_read(setup.journal.records)
        the_plan = setup.agreed_plan()
        bar = stack.enter_context(
            Progress(setup.lanes, setup.trials * repeats, progress if first else False, maximize, repeats)
        )
        try:
            outcome = run_plan(
                setup.program, the_plan, setup.lanes, setup.keys, schedule=setup.schedule, journal=setup.journal,
                keep=keep, extract=extract, progress=bar, callbacks=callbacks * first, notes=setup.newly_read,
                maximize=maximize, proposals=setup.proposals(the_plan), points=setup.points, devices=setup.devices,
            )  # fmt: skip
        except KeyboardInterrupt:
            if setup.journal is not None and first:
                done = trials_with_results(setup.journal.folder, repeats)
                folder = str(setup.journal.folder)
                print(
                    f"Interrupted: {done} of {setup.trials} trials have results in {folder!r}; "
                    f"the same call, with directory={folder!r}, goes on from there.",
                    file=sys.stderr,
                )
            raise
        result = setup.result(the_plan, outcome)
        for callback in callbacks * first:
            callback.on_end(result)
        return result


def random_search(
    trial: Callable[[Hyperparameters], Trial] | Program,
    space: Space,
    train: Data | Stream | None = None,
    validation: Data | Stream | None = None,
    *,
    trials: int,
    epochs: int,
    key: jax.Array,
    **options: Any,
) -> SearchResult:
    """``search.run`` with independent random configurations, each trained for all epochs; see there for everything.

    Raises:
      ValueError, TypeError, RuntimeError, Exception: as ``run``.

    >>> import jaxnet as jn
    >>> def advance(hp, x, key):  # gradient descent on x ** 2, a Program of three pure functions
    ...     return x - hp.rate * 2 * x
    >>> program = jn.search.Program(lambda hp, key: jax.numpy.ones(()), advance, lambda hp, x: {"score": x**2})
    >>> result = random_search(program, jn.Space(rate=jn.uniform(0, 1)), trials=16, epochs=5, key=jax.random.key(0))
    >>> abs(result.best["rate"] - 0.5) < 0.1
    True
    """
    return run(
        trial, space, train, validation, trials=trials, epochs=epochs, key=key, sampler=samplers.random(), **options
    )


def plan(
    trial: Callable[[Hyperparameters], Trial] | Program,
    space: Space,
    train: Data | Stream | None = None,
    validation: Data | Stream | None = None,
    *,
    trials: int | None = None,
    epochs: int,
    key: jax.Array,
    sampler: samplers.Sampler | None = None,
    schedule: Schedule | None = None,
    include: Sequence[Mapping[str, Any]] = (),
    repeats: int = 1,
    shuffle: str = "shared",
    lanes: int | None = None,
) -> Plan:
    """Prints, and returns, what ``run`` with the same arguments would do; nothing is compiled or trained.

    A line for each group of trials that share a compiled program: how many trials, the range of their sizes, what is
    compiled in, how many lanes run at once (on all devices together) and in how many chunks, the share of arithmetic
    that is padding, the bytes that the lanes hold on each device (estimated from above), and the group's share of the
    cost. Where a sampler learns, the groups are those that as many random configurations would have. Arguments are
    those of ``run``. Of several processes the first one prints.

    Raises:
      ValueError, TypeError, Exception: as ``run``, before it compiles anything.

    >>> import jaxnet as jn
    >>> program = jn.search.Program(lambda hp, key: 1.0, lambda hp, x, key: x * hp.rate, lambda hp, x: {"score": x})
    >>> space, key = jn.Space(rate=jn.uniform(0, 1), power=jn.choice(1, 2)), jax.random.key(0)
    >>> made = plan(program, space, trials=8, epochs=5, key=key)  # doctest: +ELLIPSIS
    8 trials of 5 units: 2 compiled programs, 0% of the arithmetic is padding, ...
    >>> sorted(group.static["power"] for group in made.groups), made.failed
    ([1, 2], {})
    """
    setup = _Setup(
        trial, space, train, validation, trials=trials, epochs=epochs, key=key, sampler=sampler, schedule=schedule,
        shuffle=shuffle, include=include, repeats=repeats, lanes=lanes,
    )  # fmt: skip
    made = setup.plan()
    if jax.process_index() == 0:
        print(made)
    return made


class _Setup:
    """Arguments of a search, checked, with the configurations that the sampler proposes and the program that runs.

    ``configurations`` has one a trial; ``lanes`` each of them ``repeats`` times in a row.
    """

    make_trial: Callable[[Any], Any] | None

    def __init__(
        self, trial: Any, space, train, validation, *, trials, epochs, key, sampler, schedule, shuffle, include,
        repeats, lanes, maximize=False, keep=0,
    ):  # fmt: skip
        if not isinstance(space, Space):
            raise TypeError(f"expected a jn.Space as the second argument, got {space!r}")
        if trials is not None:
            check_count("trials", trials)
        if lanes is not None:
            check_count("lanes", lanes)
        for name, count, least in (("epochs", epochs, 1), ("repeats", repeats, 1), ("keep", keep, 0)):
            check_count(name, count, least)
        if not isinstance(maximize, (bool, np.bool_)):
            raise TypeError(f"maximize must be True or False, got {maximize!r}")
        if isinstance(include, Mapping):
            raise TypeError(f"include must be a list of configurations, got one alone; try include=[{dict(include)}]")
        self.keys, self.space = Keys.of(key), space
        check_on_host("a search", self.keys.order)
        self.key, self.epochs, self.shuffle, self.repeats, self.maximize = key, epochs, shuffle, repeats, maximize
        self.width, self.keep, self.devices = lanes, keep, Devices()
        self.batched: dict[str, Any] = {}  # streams of batches, by name
        self.written: set[tuple[str, int]] = set()  # of their epochs, those of which the journal has checksums
        self.journal: Journal | SharedJournal | None = None
        self.again: dict[int, Trial] = {}  # the last that was trained again, by id: other seeds of it compile nothing
        self.schedule = schedules.full() if schedule is None else schedule
        if not isinstance(self.schedule, Schedule):
            raise TypeError(
                f"schedule must be a jn.search.Schedule, such as jn.search.hyperband(), got {schedule!r}"
                f"{did_you_mean(schedule, vars(schedules))}"
            )
        if sampler is not None and not callable(sampler):
            raise TypeError(
                f"sampler must be a function, such as jn.search.sobol() makes, got {sampler!r}"
                f"{did_you_mean(sampler, vars(samplers))}"
            )
        wanted = self.schedule.trials(epochs)
        if trials is not None and wanted is not None and trials != wanted:
            raise ValueError(
                f"the schedule asks for {wanted} trials at {epochs} epochs, got trials={trials}; leave it out"
            )
        trials = trials if wanted is None else wanted
        self._prepare(trial, train, validation)
        self.configurations: list[dict[str, Any]] = [space.check(configuration) for configuration in include]
        self.included = len(self.configurations)
        self.given = f"{self.included} {_digest_of(self.configurations)}"
        if trials is not None and self.included > trials:
            raise ValueError(f"include has {self.included} configurations, more than trials={trials}")
        proposed: Any = []
        if self.included != trials:
            more = None if trials is None else trials - self.included
            proposed = (sampler or samplers.random())(space, self.keys.sampler, more)
        if isinstance(proposed, samplers.Proposer):
            if trials is None:
                raise ValueError("a sampler that learns needs trials=, the number of configurations to try")
            self.proposer = proposed
            if self.included and (learn_from := getattr(proposed, "include", None)) is not None:
                learn_from(self.configurations)
                self.configurations, self.included = [], 0
        else:
            self.proposer = None
            self.configurations += [space.check(configuration) for configuration in proposed]
        self.trials = len(self.configurations) if trials is None else trials
        if not self.trials:
            raise ValueError("the sampler proposed no configuration")
        self.batch_size = self._batch_size([*self.configurations, *self._fill()])
        if self.make_trial is not None and self.train is not None:
            self.program = supervised(
                self.make_trial, self.train, self.validation, order_key=self.keys.order, shuffle=self.shuffle,
                batch_size=self.batch_size,
            )  # fmt: skip
        if self.proposer is None and len(self.configurations) != self.trials:
            raise ValueError(
                f"the sampler proposed {len(self.configurations) - self.included} configurations, "
                f"wanted were {self.trials - self.included}"
            )
        self.lanes = [configuration for configuration in self.configurations for _ in range(repeats)]
        self.points: np.ndarray | None = None
        if self.schedule.points:
            self.points = np.full((self.trials, len(space)), np.nan)
            self._place(0)

    def _prepare(self, trial: Any, train: Any, validation: Any) -> None:
        """The program that runs, of a trial function and its data or as it was given."""
        if isinstance(trial, Program):
            if train is not None or validation is not None:
                raise ValueError("a Program brings its own data (feed=); give train and validation with a trial only")
            self.make_trial, self.program, self.train, self.validation = None, trial, None, None
            return
        if not callable(trial):
            raise TypeError(f"expected a function from hyperparameters to a jn.Trial, or a Program, got {trial!r}")
        if train is None or validation is None:
            raise ValueError("a search over trials needs train and validation, each a pair (inputs, targets)")
        self.make_trial = cast(Callable[[Any], Trial], trial)
        self.train, self.validation = as_source(train, "train"), as_source(validation, "validation")
        for stream in (self.train, self.validation):
            if isinstance(stream, Stream) and stream.batched:
                stream.marks, self.batched[stream.name] = {}, stream

    def newly_read(self) -> dict[str, Any]:
        """Checksums of the epochs of sources of batches that weren't yet written down, for a journal's record."""
        new = {
            # Copied at once: threads that read add to it meanwhile.
            name: {str(epoch): mark for epoch, mark in stream.marks.copy().items() if (name, epoch) not in self.written}
            for name, stream in self.batched.items()
            if stream.marks
        }
        self.written |= {(name, int(epoch)) for name, marks in new.items() for epoch in marks}
        return {"read": new} if any(new.values()) else {}

    def recall_read(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Those that a journal has: epochs must be what they were."""
        for record in records:
            for name, marks in record.get("read", {}).items():
                if name in self.batched:
                    known = {int(epoch): mark for epoch, mark in marks.items()}
                    self.batched[name].marks |= known
                    self.written |= {(name, epoch) for epoch in known}

    def _batch_size(self, configurations: Iterable[Mapping[str, Any]], known: int | None = None) -> int | None:
        """The one that all trials have, where they train on a stream, whose windows hold whole batches; else None.

        Args:
          configurations: of the trials. known: that of earlier ones.

        Raises:
          ValueError: for several.
        """
        make_trial = self.make_trial
        if make_trial is None or not isinstance(self.train, Stream):
            return None
        sizes: set[Any] = set() if known is None else {known}
        seen = set()
        for configuration in configurations:
            kinds = self.space.kinds(configuration)
            mark = tuple(
                (name, kind, configuration[name] if kind == "static" else None) for name, kind in kinds.items()
            )
            if mark in seen:
                continue
            seen.add(mark)
            ranges = {
                name: (int(configuration[name]), int(configuration[name]))
                for name, kind in kinds.items()
                if kind == "size"
            }
            try:
                size = make_trial(concrete(kinds, ranges, configuration)).batch_size
            except Exception:  # such a trial is among the plan's failures, with its message
                continue
            sizes.add("hp" if isinstance(size, Size) else size)
        if len(sizes) > 1 or "hp" in sizes:
            raise ValueError(
                "a Stream is cut into batches once for all trials, so they need one batch_size; got "
                + ("one that differs from lane to lane" if "hp" in sizes else f"batch sizes {sorted(sizes)}")
                + ". Search each batch size by itself, or give the data as arrays"
            )
        return next(iter(sizes), 1)  # where no trial can be made at all, planning tells why

    def plan(self) -> Plan:
        """The plan that this machine would make."""
        lanes = [*self.lanes, *self._fill()]
        average = schedules.units_on_average(self.schedule, self.trials, self.epochs)
        made = self._planned(lanes, range(len(lanes)), average)
        made.repeats = self.repeats
        return made

    def agreed_plan(self) -> Plan:
        """The plan that the journal's search began with, else the first process's: other machines' would differ."""
        if self.journal is not None and len(self.journal.records) > 1:
            record = self.journal.records[1]
        else:
            made = self.plan()
            if jax.process_count() == 1 and self.journal is None:
                return made
            record = {"expected": made.expected, "work": float(made.work)} | self._written(made)
            record = from_first(lambda: record)
            if self.journal is not None:
                self.journal.append(record)
        groups, failed = self._read(record, [*self.lanes, *self._fill()])
        return Plan(groups, self.epochs, record["expected"], record["work"], failed, self.repeats, self.devices.count)

    def proposals(self, the_plan: Plan) -> Proposals | None:
        """How a sampler that learns is asked and told, or None for one that has proposed all."""
        proposer = self.proposer
        if proposer is None:
            return None
        check_count("the sampler's batch", proposer.batch)
        for group in the_plan.groups:  # planned for other configurations than those that will be proposed
            group.ids = group.ids[group.ids < len(self.lanes)]
        the_plan.failed = {i: why for i, why in the_plan.failed.items() if i < len(self.lanes)}
        journal = self.journal
        written = [] if journal is None else [record for record in journal.records if "proposed" in record][::-1]

        def ask(count: int) -> None:
            asked = [self.space.check(configuration) for configuration in proposer.ask(count)]
            if len(asked) != count:
                raise ValueError(f"the sampler was asked for {count} configurations, and proposed {len(asked)}")
            first = len(self.lanes)
            self._batch_size(asked, self.batch_size)
            self.configurations += asked
            self.lanes += [configuration for configuration in asked for _ in range(self.repeats)]
            known = written.pop() if written else None
            self._place(len(self.configurations) - count)
            mark = _digest_of(asked)
            check_same({"what the sampler proposed": mark})
            if known is not None and known["proposed"] != mark:
                raise ValueError(
                    "the sampler proposed other configurations than when the search began: it must draw from its key "
                    "alone; search into a new folder"
                )
            homeless = []
            for i in range(first, len(self.lanes)):
                kinds = self.space.kinds(self.lanes[i])
                fitting = [group for group in the_plan.groups if group.holds(kinds, self.lanes[i])]
                if fitting and raised(self._made, self.lanes[i]) is None:
                    narrowest = min(fitting, key=lambda group: group.seconds)
                    narrowest.ids = np.append(narrowest.ids, i)
                else:
                    homeless.append(i)
            if known is None:
                made = self._planned(self.lanes, homeless, the_plan.expected, strict=False)
                known = from_first(lambda: {"proposed": mark} | self._written(made))
                if journal is not None:
                    journal.append(known)
            groups, failed = self._read(known, self.lanes)
            the_plan.failed |= failed
            the_plan.groups += groups

        def tell(ids: np.ndarray, curves: np.ndarray, finished: np.ndarray) -> None:
            own = ids >= self.included
            if own.any():
                proposer.tell(ids[own] - self.included, curves[own], finished[own])

        return Proposals(self.trials, proposer.batch, ask, tell)

    def _planned(self, lanes: list[dict[str, Any]], ids: Sequence[int], average: float, strict: bool = True) -> Plan:
        def check(made: Trial | None) -> None:
            if made is not None:
                check_trial(made, self.train, self.validation)

        return make_plan(
            self.program, self.space, lanes, self.epochs, ids=ids, expected=average, lanes=self.width,
            together=None if self.proposer is None else self.proposer.batch * self.repeats, build=self._made,
            check=check, strict=strict, devices=self.devices,
        )  # fmt: skip

    def _made(self, configuration: Mapping[str, Any]) -> Trial | None:
        """The trial of a configuration, with numbers; there is none of a ``Program``."""
        return None if self.make_trial is None else self.make_trial(Hyperparameters(configuration))

    def _place(self, first: int) -> None:
        """Tells the schedule where the configurations from the first on lie."""
        if self.points is not None:
            points = [self.space.point(configuration) for configuration in self.configurations[first:]]
            self.points[first : len(self.configurations)] = np.reshape(points, (-1, len(self.space)))

    def _fill(self) -> list[dict[str, Any]]:
        """What is planned for where a sampler learns: what random search would try."""
        if self.proposer is None:
            return []
        random = samplers.random()(self.space, self.keys.sampler, max(self.trials - self.included, 1))
        return [configuration for configuration in random for _ in range(self.repeats)]

    def _written(self, made: Plan) -> dict[str, Any]:
        """Groups and trials that fail as a journal holds them, with lanes for one device: programs as wide as before
        give the same bits on any number. What is compiled in is read off a trial, since it may be a function."""
        rows = []
        for group in made.groups:
            row = {field.name: getattr(group, field.name) for field in dataclasses.fields(group)}
            row["sizes"] = {name: list(map(int, ends)) for name, ends in group.sizes.items()}
            row["static"] = list(group.static)
            each = int(group.lanes // made.devices)
            rows.append(row | {"lanes": each, "bytes": int(group.bytes), "waste": float(group.waste)})
        return {"groups": rows, "failed": list(made.failed), "messages": list(made.failed.values())}

    def _read(self, record: Mapping[str, Any], lanes: list[dict[str, Any]]) -> tuple[list[Group], dict[int, str]]:
        groups = []
        for row in record["groups"]:
            first = lanes[int(row["ids"][0])]
            static = {name: first[name] for name in row["static"]}
            sizes = {name: (int(least), int(bound)) for name, (least, bound) in row["sizes"].items()}
            wide = self.devices.rounded(min(row["lanes"] * self.devices.count, len(row["ids"])))
            own = {"static": static, "sizes": sizes, "ids": np.asarray(row["ids"]), "lanes": wide}
            groups.append(Group(**row | own))
        return groups, dict(zip(map(int, record["failed"]), record["messages"], strict=True))

    def about(self) -> dict[str, str]:
        """What a journal knows this search by."""
        from jaxnet import __version__  # when it is used: that module imports this one

        entries = {name: value_text(entry) for name, entry in self.space.entries.items()}
        entries |= {f"where {name}": value_text(where) for name, where in self.space.constraints.items()}
        sampler = "" if self.proposer is None else f" and those of {type(self.proposer).__name__}"
        about = {
            "versions": f"jaxnet {__version__} (journal 2), jax {jax.__version__}, optax {optax.__version__}",
            "backend": jax.default_backend(),
            "space": str(entries), "trials": f"{self.trials} {_digest_of(self.configurations)}{sampler}",
            "epochs": str(self.epochs), "schedule": _schedule_text(self.schedule, self.trials, self.epochs),
            "included": self.given, "maximize": str(self.maximize), "repeats": str(self.repeats),
            "key": np.asarray(jax.random.key_data(self.keys.trials)).tobytes().hex(),
            "shuffle": self.shuffle, "keep": str(self.keep), "lanes": str(self.width),
            "matmul precision": str(jax.config.jax_default_matmul_precision),  # pyright: ignore[reportAttributeAccessIssue]
        }  # fmt: skip
        if self.make_trial is None:
            parts = zip(("init", "advance", "evaluate"), self.program, strict=False)
            return about | {f"program's {name}": value_text(cast(Any, function)) for name, function in parts}
        data = {"train data": data_text(self.train), "validation data": data_text(self.validation)}
        return about | data | {"trial function": value_text(self.make_trial)}

    def result(self, the_plan: Plan, outcome: Any) -> SearchResult:
        configurations = self.configurations
        trials = len(configurations)  # where a schedule ends before all have been proposed, those that were
        repeated = {
            name: values.reshape(self.trials, self.repeats, -1)[:trials] for name, values in outcome.history.items()
        }
        history = {name: values.mean(axis=1) for name, values in repeated.items()}
        frozen = outcome.diverged.reshape(self.trials, -1)[:trials]
        diverged = np.where(frozen < 0, np.iinfo(frozen.dtype).max, frozen).min(axis=1)
        diverged = np.where((frozen < 0).all(axis=1), -1, diverged)
        messages = {i // self.repeats: why for i, why in the_plan.failed.items()}
        units = np.isfinite(history["score"]).sum(axis=1)
        status = np.where(units < self.epochs, "stopped", "completed")
        status = np.where(diverged < 0, status, "diverged")
        status[list(messages)] = "failed"
        fine, last = (diverged < 0) & (units > 0), np.maximum(units, 1) - 1

        columns = {"id": np.arange(trials), "status": status, "units": units}
        for name in ["score", *(name for name in history if name != "score")]:
            columns[name] = np.where(fine, history[name][np.arange(trials), last], np.nan)
        if self.repeats > 1:
            spread = repeated["score"][np.arange(trials), :, last].std(axis=1, ddof=1)
            columns["score_error"] = np.where(fine, spread / np.sqrt(self.repeats), np.nan)
        columns["diverged"] = diverged
        names = list(self.space.entries)
        for name in names:
            values = [configuration[name] for configuration in configurations]
            column = np.empty(trials, object)
            column[:] = values
            kinds = {next((kind for kind in (bool, int, float) if isinstance(v, kind)), None) for v in values}
            columns[name] = column if None in kinds or len(kinds) > 1 else np.array(values)  # 1 isn't to become 1.0
        kept = {}
        for lane, trees in outcome.kept.items():
            if self.make_trial is None:
                kept[lane] = lambda trees=trees: trees
                continue
            hp = Hyperparameters(self.lanes[lane])
            sizes = next(group.sizes for group in the_plan.groups if lane in group.ids)
            kept[lane] = kept_network(
                self.make_trial, hp, self.space.kinds(hp), sizes, input_spec(shapes_of(self.train)[0]), trees
            )
        the_plan.groups = [group for group in the_plan.groups if len(group.ids)]
        return SearchResult(
            columns, history, names, plan=the_plan, kept=kept, retrain=self._retrain if self.make_trial else None,
            maximize=self.maximize, messages=messages, repeated=repeated, devices=the_plan.devices,
            scales=self.space.scales(configurations), groups=measured_groups(the_plan, outcome.measured),
            rungs=executed_rungs(outcome.rungs, trials),
            compile_seconds=outcome.compile_seconds, run_seconds=outcome.run_seconds,
        )  # fmt: skip

    def _retrain(self, lane: int, units: int) -> tuple[Network, Fitted]:
        """The network of a lane trained again alone, and what ``fit`` returned."""
        assert self.make_trial is not None and self.train is not None
        made = self.again.get(lane // self.repeats) or self.make_trial(Hyperparameters(self.lanes[lane]))
        self.again = {lane // self.repeats: made}
        fitted = fit(made, self.train, self.validation, epochs=units, key=self.key, shuffle=self.shuffle, trial_id=lane)
        return Network(made.net, *jax.device_get((fitted.params, fitted.state))), fitted


def _digest_of(configurations: Iterable[Mapping[str, Any]]) -> str:
    return digest(repr([[value_text(value) for value in c.values()] for c in configurations]).encode())


def _schedule_text(schedule: Schedule, trials: int, units: int) -> str:
    """How a schedule was written, or else what it does when all scores are the same."""
    if schedule.label:
        return schedule.label
    log = [
        [(rung.ids.tolist(), rung.units, rung.promoted) for rung in rungs]
        for rungs in schedules.rehearsed(schedule, trials, units)
    ]
    return f"{len(log)} steps {digest(repr(log).encode())}"
