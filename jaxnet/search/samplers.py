"""Samplers: which configurations are tried. Configuration i depends on (space, sampler, key, i) alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.data import check_count
from jaxnet.search.space import Distribution, Space

Sampler = Callable[[Space, jax.Array, int | None], list[dict[str, Any]]]
"""``sampler(space, key, trials) -> configurations``, ``trials`` of them; None asks for as many as there are."""


def random() -> Sampler:
    """Independent draws from the space: the baseline that is hard to beat (Bergstra and Bengio, JMLR 2012).

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
        points = np.random.Generator(np.random.Philox(key=words)).random((trials, len(space)))
        return [space.configuration(point) for point in points]

    return sample


def sobol() -> Sampler:
    """Points of a scrambled Sobol sequence: as random as ``random()`` one by one, but spread more evenly together.

    With powers of two trials each hyperparameter's range, cut into as many equal parts, has one trial in each part.

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
        points = qmc.Sobol(len(space), rng=seed).random_base2((trials - 1).bit_length())[:trials]
        return [space.configuration(point) for point in points]

    return sample


def grid(points: int | Mapping[str, int] = 5) -> Sampler:
    """All combinations of evenly spaced values (on the entry's own scale, ends included), the last entry fastest.

    Args:
      points: values of each entry, or ``{name: values}`` with 5 for entries that aren't named. Choices, and integers
        with fewer values than that, give each value once.

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
            raise ValueError(f"grid: the space has no {sorted(unknown)}; it has {list(space.entries)}")

        def grow(earlier: dict[str, Any], names: list[str]):
            if not names:
                yield earlier
                return
            name, *rest = names
            values = _values(space.distribution(name, earlier), per_entry.get(name, default))
            for value in values:
                yield from grow(earlier | {name: value}, rest)

        configurations = list(itertools.islice(grow({}, list(space.entries)), trials))
        if trials is not None and len(configurations) < trials:
            raise ValueError(
                f"grid: {trials} trials asked for, but the grid has only {len(configurations)}; try more points"
            )
        return configurations

    return sample


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
