"""Schedules without training: trials whose curves are known, and curves to simulate with."""

import numpy as np


def simulate(schedule, curves, points=None):
    """The rungs of a schedule over trials whose scores are known, ``[trials, units]``, as lists of (ids, units)."""
    trials, units = curves.shape
    seen, done = np.full(curves.shape, np.nan), np.zeros(trials, int)
    steps, log = schedule.rungs(trials, units, *(() if points is None else (points,))), []
    rungs = next(steps)
    while True:
        for rung in rungs:
            assert rung.units > done[rung.ids].max(initial=0)
            for i in rung.ids:
                seen[i, : rung.units] = curves[i, : rung.units]
            done[rung.ids] = rung.units
            log.append((rung.ids.tolist(), rung.units))
        try:
            rungs = steps.send(seen.copy())
        except StopIteration:
            return log, done


def learning_curves(generator, trials, units):
    """Noisy curves ``[trials, units]`` of four kinds: powers, stretched exponentials, MMF and 1 / log."""
    x = np.arange(1.0, units + 1)
    curves = np.empty((trials, units))
    for curve in curves:
        time = units * np.exp(generator.uniform(-3, 0))
        shapes = [
            x ** -generator.uniform(0.2, 2),
            np.exp(-((x / time) ** generator.uniform(0.6, 1.4))),
            1 / (1 + (x / time) ** generator.uniform(0.7, 3)),
            1 / np.log(x + 1),
        ]
        shape = shapes[generator.integers(4)]
        deviation = np.exp(generator.uniform(np.log(1e-3), np.log(3e-2)))
        curve[:] = generator.uniform(0.02, 0.6) + generator.uniform(0.1, 1) * shape / shape[0]
        curve += deviation * generator.normal(size=units)
    return curves
