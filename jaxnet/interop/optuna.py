"""Optuna, turned round: the study asks, stops and remembers, and jaxnet trains what it asked for side by side."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxnet.callback import Callback
from jaxnet.data import Data, check_count
from jaxnet.hints import needs
from jaxnet.search import driver
from jaxnet.search.adaptive import allowed_trial
from jaxnet.search.analysis import value_names
from jaxnet.search.result import SearchResult
from jaxnet.search.schedules import Rung, Schedule
from jaxnet.search.space import Distribution, Space

with needs("optuna"):
    import optuna
    from optuna.trial import TrialState

PLAIN = (type(None), bool, int, float, str)  # choices that a storage of Optuna keeps as they are
INSTEAD = {  # what users of Optuna and of searches would expect
    "timeout": "give a callback that calls study.stop()",
    "n_jobs": "give lanes=",
    "catch": "nothing is needed: trials that can't be built have failed, and the others run",
    "show_progress_bar": "give progress=True",
    "trials": "give n_trials=",
    "directory": "give the study a storage",
    "maximize": "give the study a direction",
    "sampler": "give the study a sampler",
    "schedule": "give the study a pruner",
}


def optimize(
    study: optuna.Study,
    trial: Callable[..., Any] | Any,
    space: Space,
    train: Data | None = None,
    validation: Data | None = None,
    *,
    n_trials: int,
    epochs: int,
    key: jax.Array,
    lanes: int | None = None,
    callbacks: Sequence[Callable[[optuna.Study, optuna.trial.FrozenTrial], None]] = (),
    **options: Any,
) -> SearchResult:
    """``study.optimize`` with fused training: the sampler, the storage, the pruner and the callbacks stay the study's.

    The study is asked for as many trials as run at once; they train as lanes of one program; after each epoch their
    intermediate values, and then their scores, are told back. A trial that the pruner stops is "pruned", one that
    diverges or can't be built has "failed", as where an objective raises. Names, bounds and scales of hyperparameters
    are the space's; an entry with one value is left out, and choices that a storage can't keep (functions) go by their
    names. Choices that differ from trial to trial, which Optuna refuses, go by a number from 0 to 1 under a name that
    says so.

    Everything is in the study's storage as it happens. After a kill, load the study and call again: finished trials are
    there, and those that ran then stay "running", as after a kill of ``study.optimize``. Heartbeats aren't kept.

    Args:
      study: of one objective, whose direction says whether the trial's metric is to be small or large.
      trial, space, train, validation, epochs, key: as for ``jn.search.run``. What is drawn for a trial depends on the
        key and on its place in this call, so a call that goes on should have another key.
      n_trials: of this call.
      lanes: trials that are asked for and train at once, a sixteenth of ``n_trials`` by default, at least 8. More are
        faster, and leave the sampler less to learn from between them; let TPE know of those that run
        (``TPESampler(constant_liar=True)``).
      callbacks: called as ``callback(study, frozen_trial)`` when a trial is over, in the order of trials that end
        together. With ``study.stop()`` the search ends after the trials that run.
      options: ``shuffle``, ``keep`` and ``progress``, as for ``jn.search.run``.

    Returns:
      the result of the trials of this call, in the order in which they were asked for; its ``table["number"]`` is
      Optuna's number of each.

    Raises:
      ValueError: for a study of several objectives, and for an enqueued trial outside of the space. Else as
        ``jn.search.run``.

    >>> import jaxnet as jn, optax
    >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
    >>> x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
    >>> def trial(hp):
    ...     net = jn.serial(jn.dense(8), jax.numpy.tanh, jn.dense(1))
    ...     return jn.Trial(net, jn.losses.squared_error, optax.adam(hp.rate), batch_size=16)
    >>> study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0, constant_liar=True))
    >>> space = jn.Space(rate=jn.log_uniform(1e-3, 1e-1))
    >>> result = optimize(
    ...     study, trial, space, (x, x**2), (x, x**2), n_trials=16, epochs=5, lanes=8, key=jax.random.key(0)
    ... )
    >>> len(study.trials), bool(study.best_value == result.best["score"])
    (16, True)
    """
    if len(study.directions) != 1:
        raise ValueError(f"optimize: a search has one score, but the study has {len(study.directions)} objectives")
    if unknown := sorted(set(options) - {"shuffle", "keep", "progress"}):
        instead = "".join(f"; in place of {name} {INSTEAD[name]}" for name in unknown if name in INSTEAD)
        raise TypeError(f"optimize: unknown options {unknown}; there are shuffle, keep and progress{instead}")
    if callable(callbacks) or not all(map(callable, callbacks)):
        raise TypeError(
            f"optimize: expected callbacks to be a list of functions callback(study, frozen_trial), got {callbacks!r}"
        )
    check_count("n_trials", n_trials)
    live = _Live(study, space, min(lanes or max(8, n_trials // 16), n_trials), epochs, callbacks)
    try:
        with _stoppable(study):
            result = driver.run(
                trial, space, train, validation, trials=n_trials, epochs=epochs, key=key, sampler=lambda *_: live,
                schedule=live.schedule(), maximize=live.sign < 0, lanes=live.batch, callbacks=[live], **options,
            )  # fmt: skip
    finally:
        live.end()
    result.table["number"] = np.array([trial.number for trial in live.trials])
    return result


@contextlib.contextmanager
def _stoppable(study: optuna.Study) -> Iterator[None]:
    """Inside, callbacks may call ``study.stop()``, which Optuna allows while its own loop runs."""
    study._stop_flag = False
    study._thread_local.in_optimize_loop = True
    try:
        yield
    finally:
        study._thread_local.in_optimize_loop = False


class _Live(Callback):
    """The study as a proposer, its pruner as a schedule, and its trials' intermediate values as a callback's."""

    def __init__(self, study: optuna.Study, space: Space, batch: int, epochs: int, callbacks: Sequence[Any]):
        self.study, self.space, self.batch, self.epochs, self.callbacks = study, space, batch, epochs, callbacks
        self.sign = -1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else 1
        self.trials: list[optuna.Trial] = []
        self.over: set[int] = set()
        self.prunes = not isinstance(study.pruner, optuna.pruners.NopPruner)
        self.choices: dict[
            str, list[Any]
        ] = {  # of each categorical parameter, which Optuna wants to be the same in all trials
            name: list(distribution.choices)
            for past in study.get_trials(deepcopy=False)
            for name, distribution in past.distributions.items()
            if isinstance(distribution, optuna.distributions.CategoricalDistribution)
        }

    def ask(self, count: int) -> list[dict[str, Any]]:
        return [self._propose() for _ in range(count)]

    def tell(self, ids: np.ndarray, curves: np.ndarray, finished: np.ndarray) -> None:
        for i, curve, over in zip(ids.tolist(), np.asarray(curves, float), finished.tolist(), strict=True):
            values = curve[: int(np.isfinite(curve).cumprod().sum())]
            if over and len(values) == self.epochs:
                self._finish(i, TrialState.COMPLETE, self.sign * values[-1])
            elif over:
                self._finish(i, TrialState.FAIL)

    def on_unit(self, trials: np.ndarray, seeds: np.ndarray, units: int, measures: Mapping[str, np.ndarray]) -> None:
        for i, score in zip(trials.tolist(), measures["score"].tolist(), strict=True):
            if math.isfinite(score):
                self.trials[i].report(score, units)

    def schedule(self) -> Schedule:
        """Batch after batch; with a pruner, epoch after epoch, of those that it leaves."""

        def rungs(trials: int, units: int) -> Generator[list[Rung], np.ndarray, None]:
            for first in range(0, trials, self.batch):
                ids = np.arange(first, min(first + self.batch, trials))
                for epoch in range(1, units + 1) if self.prunes else (units,):
                    yield [Rung(ids, epoch, len(ids) if epoch < units else 0)]
                    ids = np.array([i for i in ids.tolist() if i not in self.over and not self._pruned(i)], int)
                    if not len(ids):
                        break
                if self.study._stop_flag:
                    return

        return Schedule(
            lambda units: None, rungs, "the study's pruner", lambda trials, units: float(units), pauses=False
        )

    def end(self) -> None:
        """What was asked for and isn't over was interrupted."""
        for i in range(len(self.trials)):
            if i not in self.over:
                self._finish(i, TrialState.FAIL, quietly=True)

    def _pruned(self, i: int) -> bool:
        if pruned := self.trials[i].should_prune():
            self._finish(i, TrialState.PRUNED)
        return pruned

    def _finish(self, i: int, state: TrialState, value: float | None = None, quietly: bool = False) -> None:
        if i in self.over:
            return
        self.over.add(i)
        frozen = self.study.tell(self.trials[i], value, state)
        for callback in () if quietly else self.callbacks:
            callback(self.study, frozen)

    def _propose(self) -> dict[str, Any]:
        trial, configuration = allowed_trial(self.study, self.space, self.study.ask, self._suggest)
        self.trials.append(trial)
        try:
            return self.space.check(configuration)
        except ValueError as error:
            raise ValueError(
                f"optimize: trial {trial.number}, as it was enqueued, isn't in the space: {error}"
            ) from None

    def _suggest(self, trial: optuna.Trial, name: str, distribution: Distribution) -> Any:
        if distribution.count == 1:
            return distribution.value(0.5)
        if distribution.bounds is not None:
            suggest: Any = trial.suggest_float if distribution.kind == "float" else trial.suggest_int
            return suggest(name, *distribution.bounds, log=distribution.log)
        count = distribution.count or 1
        values = [distribution.value((i + 0.5) / count) for i in range(count)]
        shown = values if all(isinstance(value, PLAIN) for value in values) else value_names(values)
        if self.choices.setdefault(name, shown) != shown:
            place = trial.suggest_float(f"{name} (place among its choices)", 0.0, 1.0)
            return distribution.value(min(place, float(np.nextafter(1.0, 0.0))))
        return values[shown.index(trial.suggest_categorical(name, shown))]
