"""Samplers: which configurations are tried. Configuration i depends on (space, sampler, key, i) alone.

A sampler that learns proposes batch by batch, and there configuration i depends on what it was told before as well.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.data import check_count
from jaxnet.hints import did_you_mean
from jaxnet.search.space import Distribution, Space


@runtime_checkable
class Proposer(Protocol):
    """What a sampler that learns from scores returns: it is asked for configurations, and told how they do.

    A search asks for the first ``batch`` configurations, trains them (to the end of their first rung, where there is a
    schedule), tells, asks for the next, and so on. A proposer draws from the sampler's key alone, so that the same asks
    and tells give the same configurations: a search that is resumed replays them.

    A proposer may have a method ``include(configurations)``: what the search was given to include then comes first when
    it is asked. Without one those trials run all the same, but it isn't told of them.

    Attributes:
      batch: how many configurations it likes to propose at once. More make a search that trains them side by side
        faster, and leave less to learn from between them.

    A sampler of one's own that looks near the best trial so far:

    >>> import jaxnet as jn
    >>> class Nearby:
    ...     batch = 8
    ...
    ...     def __init__(self, space, key, trials):
    ...         self.space, self.points = space, []
    ...         self.random = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    ...         self.centre, self.best = np.full(len(space), 0.5), np.inf
    ...
    ...     def ask(self, count):
    ...         steps = self.random.normal(scale=0.1, size=(count, len(self.space)))
    ...         points = np.clip(self.centre + steps, 0, 1 - 1e-9)
    ...         self.points += list(points)
    ...         return [self.space.configuration(point) for point in points]
    ...
    ...     def tell(self, ids, curves, finished):
    ...         for i, score in zip(ids, curves[:, -1], strict=True):
    ...             if score < self.best:  # neither NaN, where a trial hasn't trained, nor infinity, where it diverged
    ...                 self.best, self.centre = score, self.points[i]
    >>> def valley(x, y):
    ...     return (x - 0.9) ** 2 + (y - 0.1) ** 2
    >>> proposer = Nearby(jn.Space(x=jn.uniform(0, 1), y=jn.uniform(0, 1)), jax.random.key(0), 80)
    >>> for start in range(0, 80, proposer.batch):  # what a search does, but for the training
    ...     scores = [[valley(**configuration)] for configuration in proposer.ask(proposer.batch)]
    ...     proposer.tell(np.arange(start, start + 8), np.array(scores), np.ones(8, bool))
    >>> isinstance(proposer, jn.search.Proposer), bool(proposer.best < 0.01)
    (True, True)
    """

    batch: int

    def ask(self, count: int) -> Sequence[dict[str, Any]]:
        """The next ``count`` configurations; the i-th ever asked for is trial i."""
        ...

    def tell(self, ids: np.ndarray, curves: np.ndarray, finished: np.ndarray) -> None:
        """How trials do.

        Args:
          ids: int ``[n]``, trials that have been proposed. A trial may be told several times, each with more units.
          curves: float ``[n, units done so far]``, the score after each unit; lower is better, also where the search
            maximises. Infinity from where a trial diverged on, NaN for units that it hasn't trained.
          finished: bool ``[n]``, True for a trial that won't train on: it has all units, was stopped, diverged or
            failed.
        """
        ...


REJECTIONS = 4096  # proposals, none of which where= of the space allows, before a sampler gives up

Listing = Callable[[Space, jax.Array, int | None], list[dict[str, Any]]]
"""A sampler that proposes all its configurations at once."""

Sampler = Callable[[Space, jax.Array, int | None], Sequence[dict[str, Any]] | Proposer]
"""``sampler(space, key, trials)``: ``trials`` configurations (None asks for as many as there are), or a proposer."""


def random() -> Listing:
    """Independent draws from the space: the baseline that is hard to beat (Bergstra and Bengio, JMLR 2012).

    Raises:
      ValueError: in a search without ``trials=``, or where ``where=`` allows too little of the space.

    >>> import jaxnet as jn
    >>> space = jn.Space(x=jn.uniform(0, 1))
    >>> long, short = (random()(space, jax.random.key(0), n) for n in (256, 64))
    >>> long[:64] == short
    True
    """

    def sample(space: Space, key: jax.Array, trials: int | None) -> list[dict[str, Any]]:
        if trials is None:
            raise ValueError("random search needs trials=, the number of configurations to try")
        words = np.asarray(jax.random.bits(key, (2,), jnp.uint32)).astype(np.uint64)
        # Row by row, so that more trials leave the first ones as they are.
        draws = np.random.Generator(np.random.Philox(key=words))
        return _allowed(space, trials, lambda count: draws.random((count, len(space))))

    return sample


def sobol() -> Listing:
    """Points of a scrambled Sobol sequence: as random as ``random()`` one by one, but spread more evenly together.

    With powers of two trials each hyperparameter's range, cut into as many equal parts, has one trial in each part.

    Raises:
      ValueError: as ``random``.

    Source: Bergstra and Bengio, "Random search for hyper-parameter optimization" (JMLR 2012), sec. 5; the sequence and
    its scrambling (Owen; Matousek) are scipy's.

    >>> import jaxnet as jn
    >>> configurations = sobol()(jn.Space(x=jn.uniform(0, 8)), jax.random.key(0), 8)
    >>> sorted(int(configuration["x"]) for configuration in configurations)
    [0, 1, 2, 3, 4, 5, 6, 7]
    """

    def sample(space: Space, key: jax.Array, trials: int | None) -> list[dict[str, Any]]:
        if trials is None:
            raise ValueError("a Sobol search needs trials=, the number of configurations to try; best a power of two")
        from scipy.stats import qmc  # imported when used: it is slow

        seed = np.random.default_rng(np.asarray(jax.random.bits(key, (2,), jnp.uint32)))
        sequence = qmc.Sobol(len(space), rng=seed)
        return _allowed(space, trials, lambda count: sequence.random_base2((count - 1).bit_length()))

    return sample


def grid(points: int | Mapping[str, int] = 5) -> Listing:
    """All combinations of evenly spaced values (on the entry's own scale, ends included), the last entry fastest.

    Args:
      points: values of each entry, or ``{name: values}`` with 5 for entries that aren't named. Choices, and integers
        with fewer values than that, give each value once. A search's ``trials=`` below their product takes the first of
        them, a corner of the grid, with a warning.

    Raises:
      ValueError: for a name that the space doesn't have, or fewer than one point; and when ``trials=`` asks for more
        configurations than the grid has.

    >>> import jaxnet as jn
    >>> space = jn.Space(rate=jn.log_uniform(0.01, 1.0), act=jn.choice("relu", "tanh"))
    >>> [(round(c["rate"], 2), c["act"]) for c in grid(3)(space, None, None)][:3]
    [(0.01, 'relu'), (0.01, 'tanh'), (0.1, 'relu')]
    """
    per_entry = points if isinstance(points, Mapping) else {}
    default = 5 if isinstance(points, Mapping) else points
    for name, n in [("points", default), *per_entry.items()]:
        check_count(f"grid: {name}", n)

    def sample(space: Space, key: jax.Array | None, trials: int | None) -> list[dict[str, Any]]:
        if unknown := set(per_entry) - set(space.entries):
            raise ValueError(
                f"grid: the space has no {sorted(unknown)}; it has {list(space.entries)}"
                f"{did_you_mean(min(unknown), space.entries)}"
            )

        def grow(earlier: dict[str, Any], names: list[str]):
            if not names:
                yield earlier
                return
            name, *rest = names
            values = _values(space.distribution(name, earlier), per_entry.get(name, default))
            for value in values:
                yield from grow(earlier | {name: value}, rest)

        every: Iterator[dict[str, Any]]
        values: list[list[Any]] = []
        if space.independent:
            values = [_values(space.distribution(name, {}), per_entry.get(name, default)) for name in space.entries]
            every = (dict(zip(space.entries, row, strict=True)) for row in itertools.product(*values))
        else:
            every = grow({}, list(space.entries))
        configurations = list(itertools.islice(filter(space.allows, every) if space.constraints else every, trials))
        if not configurations:
            raise ValueError("grid: where= of the space allows no point of the grid; try more points, or a wider one")
        if trials is not None and len(configurations) < trials:
            raise ValueError(
                f"grid: {trials} trials asked for, but the grid has only {len(configurations)}; try more points"
            )
        if any(map(space.allows, itertools.islice(every, REJECTIONS))):
            of = math.prod(map(len, values)) if values and not space.constraints else "more"
            warnings.warn(
                f"grid: trials={trials} takes the first of {of} points, where {next(iter(space.entries))!r} hardly "
                f"varies. Leave trials= out for all of them, try fewer points, or sobol(), which spreads any number",
                stacklevel=2,
            )
        return configurations

    return sample


def _allowed(space: Space, trials: int, draw: Callable[[int], np.ndarray]) -> list[dict[str, Any]]:
    """The first ``trials`` configurations of a stream of points that meet ``where=`` of the space.

    ``draw(count)`` gives the next points, ``count`` or more of them. Trial i is the i-th that meets it, which more
    trials don't change; the stream is drawn in parts that double, since so grows a Sobol sequence.
    """
    points = draw(trials)
    if not space.constraints:
        return space.configurations(points[:trials])
    met: list[dict[str, Any]] = []
    drawn = 0
    while True:
        met += filter(space.allows, space.configurations(points))
        drawn += len(points)
        if len(met) >= trials:
            return met[:trials]
        if drawn >= REJECTIONS and len(met) * REJECTIONS < drawn:
            raise ValueError(f"where= of the space allows {len(met)} of {drawn} configurations drawn; try a wider one")
        points = draw(drawn)


def _every_value(distribution: Distribution, count: int) -> list[Any]:
    if distribution.bounds is not None:
        low, high = distribution.bounds
        return list(range(int(low), int(high) + 1))
    return list(dict.fromkeys(distribution.value((i + 0.5) / count) for i in range(count)))


def _values(distribution: Distribution, points: int) -> list[Any]:
    count = distribution.count
    if count is not None and (distribution.bounds is None or count <= points):
        return _every_value(distribution, count)
    if points == 1:
        return [distribution.value(0.5)]
    last = float(np.nextafter(1.0, 0.0))
    return list(dict.fromkeys(distribution.value(min(i / (points - 1), last)) for i in range(points)))
