"""Samplers that learn from the scores so far: Optuna's, and the one of them that is ours by default."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.data import check_count
from jaxnet.hints import needs
from jaxnet.search.samplers import REJECTIONS, Sampler
from jaxnet.search.space import Distribution, Space


def bayesian(batch: int | None = None) -> Sampler:
    """Proposes where good trials are dense and bad ones aren't: a tree-structured Parzen estimator (TPE), Optuna's.

    It models all hyperparameters together (those of each branch of a conditional space), and counts trials that are
    still proposed as bad ones, so that a batch is spread out. Of Optuna's samplers it is the default here because its
    cost grows with the trials and not with their cube, as a Gaussian process's does; because it takes choices and
    conditional entries as they are; and because it ranks trials that a schedule has stopped.

    Args:
      batch: as for ``optuna``.

    Raises:
      TypeError, ValueError: for another ``batch``; in a search, without ``trials=``. ImportError: without Optuna, which
        the extra ``optuna`` installs.

    Source: Bergstra et al., "Algorithms for hyper-parameter optimization" (NeurIPS 2011); of all hyperparameters
    together: Falkner et al., "BOHB" (ICML 2018); the liar: Ginsbourger et al., "Kriging is well-suited to parallelize
    optimization" (2010).

    >>> import jaxnet as jn
    >>> space = jn.Space(x=jn.uniform(-5, 5), y=jn.uniform(-5, 5))
    >>> proposer = bayesian(batch=8)(space, jax.random.key(0), 64)
    >>> best = np.inf
    >>> for start in range(0, 64, 8):
    ...     scores = np.array([[c["x"] ** 2 + c["y"] ** 2] for c in proposer.ask(8)])
    ...     proposer.tell(np.arange(start, start + 8), scores, np.ones(8, bool))
    ...     best = min(best, scores.min())
    >>> bool(best < 0.5)  # of 64 random trials the best is below 0.5 in 63 % of all searches
    True
    """

    def make(seed: int) -> Any:
        from optuna.exceptions import ExperimentalWarning
        from optuna.samplers import TPESampler

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)

    return optuna(make, batch)


def optuna(sampler: Callable[..., Any], batch: int | None = None) -> Sampler:
    """Any sampler of Optuna (the extra ``optuna`` installs it): TPE, Gaussian processes, CMA-ES, NSGA-II, ...

    Optuna is shown entries as they are: floats and integers with their bounds and scale, choices as unordered. An entry
    that depends on others is shown as its place in the unit interval, since Optuna wants one distribution under one
    name; an entry with a single value, such as an absent one, isn't shown.

    Scores of trials that have come furthest count as results. A trial that was stopped before, or waits, is "pruned"
    with its last score, as Optuna's own pruners leave it (TPE ranks it after those with more units, Gaussian processes
    and CMA-ES pass it over). A trial that diverged or failed counts as the worst score known. A trial that was proposed
    and has no score yet is "running".

    Args:
      sampler: makes the sampler, as ``sampler(seed=...)``: a class of Optuna, ``functools.partial`` of one, or
        ``lambda seed: TPESampler(seed=seed)``. The seed comes from the search's key.
      batch: configurations proposed at once; the default is a sixteenth of the trials, at least 8.

    Raises:
      ImportError: without Optuna. TypeError: for a sampler instead of what makes one. ValueError: from ``ask``, when
        ``where=`` of the space turns every proposal down.

    >>> import functools, jaxnet as jn, optuna as o
    >>> proposer = optuna(functools.partial(o.samplers.TPESampler, n_startup_trials=5), batch=4)(
    ...     jn.Space(rate=jn.log_uniform(1e-3, 1e-1), act=jn.choice("relu", "tanh")), jax.random.key(0), 100
    ... )
    >>> [sorted(configuration) for configuration in proposer.ask(2)]
    [['act', 'rate'], ['act', 'rate']]
    """
    if batch is not None:
        check_count("optuna: batch", batch)
    if not callable(sampler):
        name = type(sampler).__name__
        raise TypeError(
            f"optuna: the sampler's seed comes from the search's key, so give what makes a sampler, {name} or "
            f"lambda seed: {name}(seed=seed, ...), not the sampler {sampler!r}"
        )

    def sample(space: Space, key: jax.Array, trials: int | None) -> _Study:
        if trials is None:
            raise ValueError("a sampler that learns needs trials=, the number of configurations to try")
        seed = int(np.asarray(jax.random.bits(key, (), jnp.uint32)))
        return _Study(sampler, space, seed, batch or max(8, trials // 16))

    return sample


class _Study:
    """A ``Proposer`` that keeps an Optuna study in memory.

    Optuna's finished trials are final, ours may train on. So what has changed since a trial was told makes a new study
    with the same trials; what is only new is told to the one at hand.
    """

    def __init__(self, make: Callable[..., Any], space: Space, seed: int, batch: int):
        with needs("optuna"):
            import optuna
        self.optuna, self.make, self.space, self.seed, self.batch = optuna, make, space, seed, batch
        self.numbers: list[int] = []  # Optuna's, by trial id: it counts what where= turned down as well
        self.scores: dict[int, tuple[int, float]] = {}  # by trial id the units and the score then
        self.told: dict[int, tuple[Any, int, float]] = {}
        self.waiting: list[dict[str, Any]] = []  # parameters that come first
        self.study = self._new_study()

    def ask(self, count: int) -> Sequence[dict[str, Any]]:
        self._bring_up_to_date()
        return [self._propose() for _ in range(count)]

    def include(self, configurations: Sequence[dict[str, Any]]) -> None:
        """Proposes these first, so that the model learns from them as well."""
        for configuration in configurations:
            shown: dict[str, Any] = {}

            def pick(name, distribution, configuration=configuration, shown=shown):
                value = configuration[name]
                if not isinstance(self.space.entries[name], Distribution):
                    shown[name] = distribution.place(value)
                elif distribution.bounds is None:
                    shown[name] = int(distribution.place(value) * (distribution.count or 1))
                else:
                    shown[name] = value
                return value

            self.space.resolve(pick)
            self.waiting.append(shown)

    def tell(self, ids: np.ndarray, curves: np.ndarray, finished: np.ndarray) -> None:
        for i, curve, over in zip(ids.tolist(), np.asarray(curves, float), finished.tolist(), strict=True):
            if i >= len(self.numbers):
                raise ValueError(f"trial {i} was told before it was asked for; {len(self.numbers)} have been")
            units = len(curve) - int(np.isnan(curve[::-1]).argmin()) if not np.isnan(curve).all() else 0
            if units:
                self.scores[i] = (units, float(curve[units - 1]))
            elif over:  # diverged or failed before its first score
                self.scores[i] = (0, np.inf)

    def _new_study(self) -> Any:
        sampler = self.make(seed=self.seed)
        if not isinstance(sampler, self.optuna.samplers.BaseSampler):
            raise TypeError(f"optuna: {self.make!r} must make a sampler of Optuna, made {sampler!r}")
        self.seed = (self.seed + 1) % 2**32
        return quiet_study(sampler=sampler)

    def _bring_up_to_date(self) -> None:
        """Tells the study what it doesn't know, or makes a new one where what it knows no longer holds."""
        state = self.optuna.trial.TrialState
        finite = [score for _, score in self.scores.values() if np.isfinite(score)]
        if not finite:
            return  # without a single score nothing is known but what where= forbids
        worst, most = max(finite), max(units for units, score in self.scores.values() if np.isfinite(score))
        now = {
            i: (state.COMPLETE if units == most or not np.isfinite(score) else state.PRUNED, units, score)
            for i, (units, score) in sorted(self.scores.items())
        }
        new = {i: known for i, known in now.items() if self.told.get(i) != known}
        final = not new.keys() & self.told.keys() and all(kind == state.COMPLETE for kind, _, _ in new.values())
        self.told = now

        def value(score):
            return score if np.isfinite(score) else worst

        if final:
            for i, (_, _, score) in new.items():
                self.study.tell(self.numbers[i], value(score))
            return
        frozen = self.study.get_trials(deepcopy=False)
        self.study = self._new_study()
        for i, number in enumerate(self.numbers):
            kind, units, score = now.get(i, (state.RUNNING, 0, 0.0))
            trial = frozen[number]
            self.study.add_trial(
                self.optuna.trial.create_trial(
                    state=kind, value=None if kind == state.RUNNING else value(score), params=trial.params,
                    distributions=trial.distributions, system_attrs=trial.system_attrs,
                    intermediate_values={units: score} if kind == state.PRUNED else None,
                )
            )  # fmt: skip
        self.numbers = list(range(len(self.numbers)))

    def _propose(self) -> dict[str, Any]:
        def ask():
            if self.waiting:
                self.study.enqueue_trial(self.waiting.pop(0))
            return self.study.ask()

        trial, configuration = allowed_trial(self.study, self.space, ask, self._suggest)
        self.numbers.append(trial.number)
        return configuration

    def _suggest(self, trial: Any, name: str, distribution: Distribution) -> Any:
        if distribution.count == 1:
            return distribution.value(0.5)
        if not isinstance(self.space.entries[name], Distribution):  # it depends on other entries
            return distribution.value(min(trial.suggest_float(name, 0.0, 1.0), float(np.nextafter(1.0, 0.0))))
        if distribution.bounds is None:
            count = distribution.count or 1
            return distribution.value((trial.suggest_categorical(name, range(count)) + 0.5) / count)
        suggest = trial.suggest_float if distribution.kind == "float" else trial.suggest_int
        return suggest(name, *distribution.bounds, log=distribution.log)


def allowed_trial(
    study: Any, space: Space, ask: Callable[[], Any], suggest: Callable[[Any, str, Distribution], Any]
) -> tuple[Any, dict[str, Any]]:
    """The next trial of an Optuna study that ``where=`` of the space allows, and its configuration.

    Args:
      ask: the study's next trial. suggest: the value of an entry, of the trial, the entry's name and distribution.

    Raises:
      ValueError: after ``REJECTIONS`` trials that aren't allowed; those have failed. Exception: what ``suggest`` raises
        for a trial, which has failed, too.
    """
    from optuna.trial import TrialState

    for _ in range(REJECTIONS):
        trial = ask()
        try:
            configuration = space.resolve(functools.partial(suggest, trial))
            if space.allows(configuration):
                return trial, configuration
        except BaseException:  # of an enqueued value that isn't a choice, say
            study.tell(trial, state=TrialState.FAIL)
            raise
        study.tell(trial, state=TrialState.FAIL)
    raise ValueError(f"where= of the space turned down {REJECTIONS} proposals one after the other; try a wider one")


def quiet_study(*, maximize: bool = False, **options: Any) -> Any:
    """A new Optuna study, without the line that Optuna logs for each; ``options`` are for ``optuna.create_study``."""
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(verbosity, optuna.logging.WARNING))
    try:
        return optuna.create_study(direction="maximize" if maximize else "minimize", **options)
    finally:
        optuna.logging.set_verbosity(verbosity)
