"""The calls that plan and run a search."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable
from typing import Any, cast

import jax
import numpy as np
import optax

from jaxnet.data import as_data, check_count, input_spec
from jaxnet.search import samplers, schedules
from jaxnet.search.journal import Journal, data_text, digest, function_text
from jaxnet.search.lanes import run_plan
from jaxnet.search.planning import Group, Plan, make_plan
from jaxnet.search.progress import Progress
from jaxnet.search.result import Network, SearchResult, kept_network
from jaxnet.search.schedules import Schedule
from jaxnet.search.space import Distribution, Hyperparameters, Space
from jaxnet.training import Data, Keys, Program, Trial, check_trial, fit, supervised


def run(
    trial: Callable[[Hyperparameters], Trial] | Program,
    space: Space,
    train: Data | None = None,
    validation: Data | None = None,
    *,
    trials: int | None = None,
    epochs: int,
    key: jax.Array,
    sampler: samplers.Sampler | None = None,
    schedule: Schedule | None = None,
    shuffle: str = "shared",
    lanes: int | None = None,
    keep: int = 10,
    directory: str | os.PathLike | None = None,
    progress: bool | None = None,
) -> SearchResult:
    """Trains every configuration that the sampler proposes, many at once, and returns the table.

    Args:
      trial: a pure function from hyperparameters to a ``Trial``, called while programs are traced (so it prints and
        reads nothing); or a ``Program`` for what isn't supervised learning.
      space: the hyperparameters and their distributions.
      train, validation: ``(inputs, targets)``, as for ``fit``; None for a ``Program``.
      trials: how many configurations; None for all of a grid, or as many as the schedule asks for.
      epochs: passes over the data (for a ``Program``, units of budget) for each, at most.
      key: decides everything that is drawn. Configuration i depends on space, sampler, key and i alone, and what a
        trial draws on key and i; so a longer search begins with the trials of a shorter one.
      sampler: which configurations are tried; the default is ``search.random()``.
      schedule: who trains on, and how far; the default is ``search.full()``, all of them for all epochs.
      shuffle: "shared" shows all lanes the same batches in the same order, which is faster (the first layer of all
        lanes is one matmul) and compares trials on equal terms; "own" gives each trial its own order.
      lanes: how many trials run at once; the default is what memory (and on a CPU the cache) holds.
      keep: how many of the best networks come to the host for ``result.network``, of those trained for all epochs.
      directory: a folder for the journal of the search. Each chunk's rung is on the disk before the next starts; after
        a kill or an interrupt at any moment the same call goes on where it was, and ends in the same table. A folder of
        another search (space, key, trial function, data, versions) is refused with what differs. What the trial
        function calls isn't looked into.
      progress: None shows a bar when standard error is a terminal.

    A lane whose loss or parameters go non-finite is frozen at that step, keeps its last finite parameters, is marked
    "diverged", is never best, and touches no other lane.

    Raises:
      ValueError, TypeError: before anything is compiled: as ``fit`` for data and the first trial; for no trials or
        epochs; for a space, a sampler or a trial that don't fit together.

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
    setup = _Setup(trial, space, train, validation, trials, epochs, key, sampler, schedule, shuffle)
    extract = (lambda carry: (carry.params, carry.state)) if setup.make_trial else (lambda carry: carry)
    with contextlib.ExitStack() as stack:
        journal = None if directory is None else stack.enter_context(Journal(directory, setup.about(keep, lanes)))
        the_plan = setup.plan(lanes) if journal is None else setup.journaled_plan(lanes, journal)
        bar = stack.enter_context(Progress(len(setup.configurations), epochs, progress))
        try:
            outcome = run_plan(
                setup.program, the_plan, setup.configurations, setup.keys, schedule=setup.schedule, journal=journal,
                keep=keep, extract=extract, progress=bar,
            )  # fmt: skip
        except KeyboardInterrupt:
            if journal is not None:
                done = len({int(i) for record in journal.records[2:] for i in record.get("ids", ())})
                folder, trials = str(journal.folder), len(setup.configurations)
                print(
                    f"Interrupted: {done} of {trials} trials have results in {folder!r}; "
                    f"the same call, with directory={folder!r}, goes on from there.",
                    file=sys.stderr,
                )
            raise
    return setup.result(the_plan, outcome)


def random_search(
    trial: Callable[[Hyperparameters], Trial] | Program,
    space: Space,
    train: Data | None = None,
    validation: Data | None = None,
    *,
    trials: int,
    epochs: int,
    key: jax.Array,
    **options: Any,
) -> SearchResult:
    """``search.run`` with independent random configurations, each trained for all epochs; see there for everything.

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
    train: Data | None = None,
    validation: Data | None = None,
    *,
    trials: int | None = None,
    epochs: int,
    key: jax.Array,
    sampler: samplers.Sampler | None = None,
    schedule: Schedule | None = None,
    shuffle: str = "shared",
    lanes: int | None = None,
) -> Plan:
    """Prints, and returns, what ``run`` with the same arguments would do; nothing is compiled or trained.

    A line for each group of trials that share a compiled program: how many trials, the range of their sizes, what is
    compiled in, how many lanes run at once and in how many chunks, the share of arithmetic that is padding, the bytes
    that the lanes hold (estimated from above), and the group's share of the cost. Arguments and errors are those of
    ``run``.
    """
    setup = _Setup(trial, space, train, validation, trials, epochs, key, sampler, schedule, shuffle)
    made = setup.plan(lanes)
    print(made)
    return made


class _Setup:
    """Arguments of a search, checked, with the configurations that the sampler proposes and the program that runs."""

    make_trial: Callable[[Any], Any] | None

    def __init__(self, trial: Any, space, train, validation, trials, epochs, key, sampler, schedule, shuffle):
        if not isinstance(space, Space):
            raise TypeError(f"expected a jn.Space as the second argument, got {space!r}")
        if trials is not None:
            check_count("trials", trials)
        check_count("epochs", epochs)
        self.keys, self.space = Keys.of(key), space
        self.key, self.epochs, self.shuffle = key, epochs, shuffle
        self.schedule = schedules.full() if schedule is None else schedule
        if not isinstance(self.schedule, Schedule):
            raise TypeError(f"schedule must be a jn.search.Schedule, such as jn.search.hyperband(), got {schedule!r}")
        wanted = self.schedule.trials(epochs)
        if trials is not None and wanted is not None and trials != wanted:
            raise ValueError(
                f"the schedule asks for {wanted} trials at {epochs} epochs, got trials={trials}; leave it out"
            )
        self.configurations = (sampler or samplers.random())(
            space, self.keys.sampler, trials if wanted is None else wanted
        )
        if not self.configurations:
            raise ValueError("the sampler proposed no configuration")
        if isinstance(trial, Program):
            if train is not None or validation is not None:
                raise ValueError("a Program brings its own data (feed=); give train and validation with a trial only")
            self.make_trial, self.program = None, trial
            return
        if not callable(trial):
            raise TypeError(f"expected a function from hyperparameters to a jn.Trial, or a Program, got {trial!r}")
        make_trial = cast(Callable[[Any], Trial], trial)
        if train is None or validation is None:
            raise ValueError("a search over trials needs train and validation, each a pair (inputs, targets)")
        self.train, self.validation = as_data(train, "train"), as_data(validation, "validation")
        self.make_trial = make_trial
        for configuration in {repr(self._static(c)): c for c in self.configurations}.values():
            check_trial(make_trial(Hyperparameters(configuration)), self.train, self.validation)
        self.program = supervised(make_trial, self.train, self.validation, order_key=self.keys.order, shuffle=shuffle)

    def plan(self, lanes: int | None) -> Plan:
        return make_plan(
            self.program, self.space, self.configurations, self.epochs, lanes=lanes,
            expected=schedules.units_on_average(self.schedule, len(self.configurations), self.epochs),
        )  # fmt: skip

    def journaled_plan(self, lanes: int | None, journal: Journal) -> Plan:
        """The plan that the journal's search began with, since another machine's would have other chunks."""
        if len(journal.records) == 1:
            made = self.plan(lanes)
            groups = [dataclasses.asdict(group) for group in made.groups]
            for group in groups:  # what is compiled in can be read off the trials; msgpack knows no tuples
                group |= {
                    "static": None,
                    "sizes": {name: list(map(int, ends)) for name, ends in group["sizes"].items()},
                }
                group |= {name: float(group[name]) for name in ("waste", "seconds")}
                group |= {name: int(group[name]) for name in ("lanes", "bytes")}
            journal.append({"groups": groups})
            return made
        groups = []
        for record in journal.records[1]["groups"]:
            first = self.configurations[int(record["ids"][0])]
            static = {name: first[name] for name, kind in self.space.kinds(first).items() if kind == "static"}
            sizes = {name: (int(least), int(bound)) for name, (least, bound) in record["sizes"].items()}
            groups.append(Group(**record | {"static": static, "sizes": sizes}))
        floats = [name for name, kind in self.space.kinds(self.configurations[0]).items() if kind == "float"]
        average = schedules.units_on_average(self.schedule, len(self.configurations), self.epochs)
        return Plan(tuple(groups), floats, self.epochs, average)

    def about(self, keep: int, lanes: int | None) -> dict[str, str]:
        """What a journal knows this search by."""
        from jaxnet import __version__  # when it is used: that module imports this one

        entries = {name: _text(entry) for name, entry in self.space.entries.items()}
        configurations = [[_text(value) for value in c.values()] for c in self.configurations]
        about = {
            "versions": f"jaxnet {__version__}, jax {jax.__version__}, optax {optax.__version__}",
            "backend": jax.default_backend(),
            "space": str(entries), "trials": f"{len(configurations)} {digest(repr(configurations).encode())}",
            "epochs": str(self.epochs), "schedule": _schedule_text(self.schedule, len(configurations), self.epochs),
            "key": np.asarray(jax.random.key_data(self.keys.trials)).tobytes().hex(),
            "shuffle": self.shuffle, "keep": str(keep), "lanes": str(lanes),
            "matmul precision": str(jax.config.jax_default_matmul_precision),  # pyright: ignore[reportAttributeAccessIssue]
        }  # fmt: skip
        if self.make_trial is None:
            parts = zip(("init", "advance", "evaluate"), self.program, strict=False)
            return about | {f"program's {name}": function_text(cast(Any, function)) for name, function in parts}
        data = {"train data": data_text(self.train), "validation data": data_text(self.validation)}
        return about | data | {"trial function": function_text(self.make_trial)}

    def _static(self, configuration):
        kinds = self.space.kinds(configuration)
        return [value for name, value in configuration.items() if kinds[name] == "static"]

    def result(self, the_plan: Plan, outcome: Any) -> SearchResult:
        configurations, history = self.configurations, outcome.history
        trials = len(configurations)
        units = np.isfinite(history["score"]).sum(axis=1)
        status = np.where(units < self.epochs, "stopped", "completed")
        columns = {
            "id": np.arange(trials),
            "status": np.where(outcome.diverged < 0, status, "diverged"),
            "units": units,
        }

        def at_the_end(values):
            return np.where(outcome.diverged < 0, values[np.arange(trials), np.maximum(units, 1) - 1], np.nan)

        columns["score"] = at_the_end(history["score"])
        columns |= {name: at_the_end(values) for name, values in history.items() if name != "score"}
        columns["diverged"] = outcome.diverged
        names = list(self.space.entries)
        if clash := set(names) & set(columns):
            raise ValueError(f"hyperparameters and measures have the same names: {sorted(clash)}; rename one of them")
        for name in names:
            values = [configuration[name] for configuration in configurations]
            column = np.empty(trials, object)
            column[:] = values
            numbers = all(isinstance(v, (int, float)) for v in values)
            columns[name] = np.array(values) if numbers else column
        kept = {}
        for trial_id, trees in outcome.kept.items():
            if self.make_trial is None:
                kept[trial_id] = lambda trees=trees: trees
                continue
            hp = Hyperparameters(configurations[trial_id])
            sizes = next(group.sizes for group in the_plan.groups if trial_id in group.ids)
            kept[trial_id] = kept_network(
                self.make_trial, hp, self.space.kinds(hp), sizes, input_spec(self.train[0]), trees
            )
        return SearchResult(
            columns, history, names, plan=the_plan, kept=kept, retrain=self._retrain if self.make_trial else None,
            compile_seconds=outcome.compile_seconds, run_seconds=outcome.run_seconds,
        )  # fmt: skip

    def _retrain(self, trial_id: int, units: int) -> Network:
        assert self.make_trial is not None
        made = self.make_trial(Hyperparameters(self.configurations[trial_id]))
        fitted = fit(made, self.train, epochs=units, key=self.key, shuffle=self.shuffle, trial_id=trial_id)
        return Network(made.net, *jax.device_get((fitted.params, fitted.state)))


def _text(value: Any) -> str:
    """A hyperparameter or an entry of a space as text that another process writes in the same way."""
    if isinstance(value, Distribution):
        return value.label
    return function_text(value) if callable(value) else repr(value)


def _schedule_text(schedule: Schedule, trials: int, units: int) -> str:
    """What a schedule does when all scores are the same."""
    log = [
        [(rung.ids.tolist(), rung.units, rung.promoted) for rung in rungs]
        for rungs in schedules.rehearsed(schedule, trials, units)
    ]
    return f"{len(log)} steps {digest(repr(log).encode())}"
