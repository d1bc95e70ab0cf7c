"""How many hidden units does it take to approximate a continuous function, of one variable and of two?

    python -m experiments.universal_approximation           about 40 seconds of processor time
    python -m experiments.universal_approximation --quick   about 15 seconds: three widths, two seeds, few steps

Data: two sums of sines on [-1, 1] and on the square [-1, 1] x [-1, 1], without noise: 256 points of a line and a
lattice of 24 x 24 to train on, a line and a lattice twice as fine to measure on.
Measure: mean squared error as a share of the function's variance (0 is perfect, 1 is what the best constant gets), at
the end of training. Nothing is chosen by it but the best of the seeds, which is told beside their mean.

One layer of n tanh units and a linear output, trained by L-BFGS on all points at once; all widths and seeds of a
function are lanes of one search. That some network gets as near as one likes is the theorem of Cybenko (1989) and
Hornik et al. (1989). How near with n units is told by Barron, "Universal approximation bounds for superpositions of a
sigmoidal function" (1993): some network has a mean squared error of at most (2 C)^2 / n, where C adds up amplitude
times frequency of the function's waves. Two caveats: the bound speaks of the best network, not of the one that training
finds; and it lies so far above what is seen here, above the variance itself, that it's no news that it holds. What can
be held against it is the rate, 1 / n, which is the same in any number of dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import jaxnet as jn
from experiments import plots
from experiments.record import Record

WIDTHS = (1, 2, 4, 8, 16, 32, 64)
RATE_UP_TO = (
    16  # units between which the rate is measured: with more, what is left is training's error, not the width's
)
STEPS = 20  # of L-BFGS in an epoch, so that the host waits once for so many
# Optax's default, the zoom line search, gets no nearer in as many steps, which take twice the time.
LBFGS = optax.lbfgs(linesearch=optax.scale_by_backtracking_linesearch(max_backtracking_steps=20, store_grad=True))
STEEP = jax.nn.initializers.normal(2.0)  # of the first weights: a unit's step then lies within the interval


class Waves(NamedTuple):
    """The function ``sum of amplitude * sin(pi * frequency . x + phase)``."""

    name: str
    waves: tuple[tuple[float, tuple[float, ...], float], ...]  # amplitude, frequency in each direction, phase
    points: int  # along each axis, to train on

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """``[n, dimensions]`` to ``[n, 1]``."""
        waves = [a * np.sin(np.pi * x @ np.array(frequency) + phase) for a, frequency, phase in self.waves]
        return np.sum(waves, axis=0)[:, None]

    @property
    def constant(self) -> float:
        """Barron's C on [-1, 1]^d: of each wave the amplitude times the largest ``|pi * frequency . x|`` there."""
        return sum(abs(a) * np.pi * np.abs(frequency).sum() for a, frequency, _ in self.waves)

    def data(self, finer: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Inputs ``[n, dimensions]``, the middles of cells along each axis, and the function there."""
        line = (np.arange(finer * self.points) + 0.5) / (finer * self.points) * 2 - 1
        x = np.stack(np.meshgrid(*[line] * len(self.waves[0][1])), axis=-1)
        x = x.reshape(-1, x.shape[-1])
        return x.astype(np.float32), self(x).astype(np.float32)


ONE = Waves("one variable", ((1.0, (1.0,), 0.0), (0.5, (3.0,), 0.5)), points=256)
TWO = Waves("two variables", ((1.0, (1.0, 0.0), 0.0), (0.5, (1.0, 1.0), 1.0), (0.5, (-1.0, 2.0), 0.0)), points=24)


def trial(hp) -> jn.Trial:
    """An example is the whole set of points, so that a step sees them all."""
    return jn.Trial(
        net=jn.serial(jn.dense(hp.hidden, w_init=STEEP), jnp.tanh, jn.dense(1)),
        loss=jn.losses.squared_error,
        optimizer=LBFGS,
        batch_size=1,
    )


def search(function: Waves, widths: Sequence[int], *, steps: int, seeds: int, key: jax.Array) -> jn.search.SearchResult:
    """All widths from so many seeds."""
    x, y = function.data()
    copies = (STEPS, 1, 1)  # of the one example, as many as an epoch has steps
    inputs, targets = function.data(finer=2)
    return jn.search.run(
        trial, jn.Space(hidden=jn.choice(*widths, static=False)), (np.tile(x, copies), np.tile(y, copies)),
        (inputs[None], targets[None]), epochs=steps // STEPS, key=key, sampler=jn.search.grid(), repeats=seeds,
        keep=len(widths),
    )  # fmt: skip


def errors(function: Waves, result: jn.search.SearchResult) -> np.ndarray:
    """At the end of training, ``[widths, seeds]``, as a share of the variance."""
    return result.repeated["score"][:, :, -1] / function.data(finer=2)[1].var()


def best_fit(result: jn.search.SearchResult, row: int, x: np.ndarray) -> np.ndarray:
    """The outputs of the best seed's network at ``[n, dimensions]``."""
    seed = int(np.argmin(result.repeated["score"][row, :, -1]))
    net, params, state = result.network(row, seed=seed)
    return jn.predict(net, params, state, x)


def picture(results: dict[Waves, jn.search.SearchResult], shown: Sequence[int]) -> Figure:
    """Errors against width, and the fits of the widths in the rows ``shown``."""
    figure = Figure(figsize=(10, 5.8), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[1.3, 1])
    above, below = parts
    error, fits = above.subplots(1, 2, width_ratios=[1, 1.3])
    widths = results[ONE].table["hidden"]
    for (function, result), color in zip(results.items(), plots.COLORS, strict=False):
        all_seeds = errors(function, result)
        error.plot(widths, all_seeds, "o", color=color, markersize=4, alpha=0.5, markeredgewidth=0)
        error.plot(widths, all_seeds.min(axis=1), color=color, label=function.name)
    ends = np.array([widths.min(), widths.max()])
    error.plot(ends, 0.6 / ends, "--", color="0.4", label="the rate 1/n")
    error.set(
        xscale="log", yscale="log", xlabel="hidden units n", ylabel="squared error / variance", xticks=widths,
        xticklabels=widths.tolist(), ylim=(2e-7, 1.5),
    )  # fmt: skip
    error.xaxis.minorticks_off()
    error.legend(frameon=False, loc="lower left")

    x, y = ONE.data(finer=2)
    fits.plot(x, y, color="black", linewidth=3, alpha=0.35, label="the function")
    for row, color in zip(shown, plots.COLORS[2:], strict=False):
        fits.plot(x, best_fit(results[ONE], row, x), color=color, label=f"n = {results[ONE].table['hidden'][row]}")
    fits.set(xlabel="x", ylabel="f(x)")
    fits.legend(frameon=False)
    for axis in (error, fits):
        plots.tidy(axis)

    x, y = TWO.data(finer=2)
    surfaces = {f"n = {results[TWO].table['hidden'][row]}": best_fit(results[TWO], row, x) for row in shown}
    surfaces["the function"] = y
    axes = below.subplots(1, len(surfaces))
    image: Any = None
    for axis, (title, surface) in zip(axes, surfaces.items(), strict=True):
        image = axis.imshow(
            surface.reshape(2 * TWO.points, -1), origin="lower", extent=(-1, 1, -1, 1), cmap="cividis",
            vmin=y.min(), vmax=y.max(), interpolation="nearest",
        )  # fmt: skip
        axis.set(title=title, xlabel="x1", ylabel="x2" if axis is axes[0] else "")
    below.colorbar(image, ax=axes, label="f(x1, x2)", shrink=0.8)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment."""
    record = Record(__spec__.name, __doc__, arguments)
    widths, seeds, steps = ((1, 4, 16), 2, 100) if record.quick else (WIDTHS, 5, 2000)
    keys = jax.random.split(jax.random.key(record.seed))

    results = {}
    for function, key in zip((ONE, TWO), keys, strict=True):
        result = results[function] = search(function, widths, steps=steps, seeds=seeds, key=key)
        found = errors(function, result)
        for hidden, all_seeds in zip(widths, found, strict=True):
            if hidden in (4, 16, 64):
                record.number(
                    f"{function.name}, {hidden} hidden units: squared error / variance", all_seeds,
                    note="training's error, no longer the width's" if hidden > RATE_UP_TO else "",
                )  # fmt: skip
                record.number("the best of these seeds", all_seeds.min())
        bound = (2 * function.constant) ** 2 / np.array(widths) / function.data()[1].var()
        narrow = np.array(widths) <= RATE_UP_TO
        slope = np.polyfit(np.log(widths)[narrow], np.log(found.min(axis=1))[narrow], 1)[0]
        record.number(
            f"{function.name}: the best error falls as n to the power of (up to {RATE_UP_TO} units)", slope, known=-1.0,
            source="Barron (1993): at least so fast for the best network",
        )  # fmt: skip
        record.claim(f"{function.name}: the widest network is nearer than one unit", found[-1].max() < found[0].min())
        if not record.quick:  # which trains too little
            record.claim(f"{function.name}: the error falls faster than 1/n up to {RATE_UP_TO} units", slope < -1)
        record.claim(
            f"{function.name}: no network is above Barron's bound (of {bound[-1]:.0f} variances at {widths[-1]} units)",
            (found < bound[:, None]).all(),
        )
    shown = [i for i, hidden in enumerate(widths) if hidden in (1, 4, 16)]
    record.figure(
        picture(results, shown),
        "Above: errors of all seeds by width, the best of them joined by lines, and the fits of the function of one "
        "variable by the best seed of three widths. Below: the same for the function of two variables.",
    )
    record.finish()


if __name__ == "__main__":
    main()
