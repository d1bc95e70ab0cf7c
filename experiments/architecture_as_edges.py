"""Fully connected, locally connected, convolution: which edges does each allow, and which of them share a weight?

    python -m experiments.architecture_as_edges           about 10 seconds of processor time
    python -m experiments.architecture_as_edges --quick   the same with fewer weights drawn

Data: none to train on; weights and inputs are drawn.
Measure: parameters, counted from the layer's own tree and again from the matrix that the layer is; and, when the input
moves by one place, how far the output is from the old one moved by one place, relative to the output.

Each of the three layers maps n inputs on a line to n outputs and is linear, so each is a matrix: all n^2 entries free;
a band of three with 3 n - 2 free entries; the same band, each of whose three diagonals has one weight. What a layer
allows is which entries may differ from zero, and what it shares is which have to be equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxnet as jn
from experiments import plots
from experiments.record import Record

SHOWN = 16
KNOWN = {"fully connected": lambda n: n**2, "locally connected": lambda n: 3 * n - 2, "convolution": lambda n: 3}
FORMULA = dict(zip(KNOWN, ("n^2", "3n - 2", "3"), strict=True))
SLIDES = "the course, on layers of an image"


def layers(n: int) -> dict[str, jn.Layer]:
    """From ``[n, 1]`` to ``[n, 1]``, without biases."""
    return {
        "fully connected": jn.serial(jn.flatten, jn.dense(n, bias=False), jn.reshape((n, 1))),
        "locally connected": jn.locally_connected(1, (3,), padding=1, bias=False),
        "convolution": jn.conv(1, (3,), padding=1, bias=False),
    }


def parameters(layer: jn.Layer, shape: tuple[int, ...]) -> int:
    """How many numbers ``init`` would draw; none is."""
    params = jax.eval_shape(lambda key: layer.init(key, shape)[0], jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def matrix(layer: jn.Layer, n: int, key: jax.Array) -> np.ndarray:
    """``[outputs, inputs]``, with weights that are drawn."""
    params, _, _ = layer.init(key, (n, 1))
    return np.asarray(jn.linear_map(layer, params, (n, 1)))


def departure(layer: jn.Layer, n: int, keys: jax.Array) -> np.ndarray:
    """``|f(moved x) - moved f(x)| / |f(x)|`` for weights and inputs drawn from each key.

    The inputs are zero near the ends, so that moving them loses nothing there.
    """

    def one(key):
        params, state, _ = layer.init(key, (n, 1))
        inside = (jnp.arange(n) >= 2) & (jnp.arange(n) < n - 3)
        x = jnp.where(inside[None, :, None], jax.random.normal(jax.random.fold_in(key, 1), (1, n, 1)), 0.0)
        y, y_of_moved = (layer.apply(params, state, x)[0] for x in (x, jnp.roll(x, 1, axis=1)))
        return jnp.linalg.norm(y_of_moved - jnp.roll(y, 1, axis=1)) / jnp.linalg.norm(y)

    return np.asarray(jax.vmap(one)(keys))


def picture(key: jax.Array) -> Figure:
    """The three matrices, and below each what it makes of a bump and of the same bump five places on."""
    figure = Figure(figsize=(10, 6.2), layout="constrained")
    axes = figure.subplots(2, 3, height_ratios=[1.6, 1])
    image: Any = None
    bump = jnp.zeros((1, SHOWN, 1)).at[0, 3:6, 0].set(jnp.array([1.0, 2.0, 1.0]))
    inputs = jnp.concatenate([bump, jnp.roll(bump, 5, axis=1)])
    for (above, below), (name, layer) in zip(axes.T, layers(SHOWN).items(), strict=True):
        weights = matrix(layer, SHOWN, key)
        largest = np.abs(weights).max()
        edges = np.where(weights == 0, np.nan, weights / largest)  # what doesn't exist is left white
        image = above.imshow(edges, cmap="PuOr", vmin=-1, vmax=1)
        above.set(
            title=f"{name}\n{parameters(layer, (SHOWN, 1))} parameters", xlabel="input", yticks=range(0, SHOWN, 5)
        )
        params, state, _ = layer.init(key, (SHOWN, 1))
        outputs = layer.apply(params, state, inputs)[0][:, :, 0]
        for output, at, color, label in zip(
            outputs, (0, 5), plots.COLORS, ("of a bump", "5 places on,\nmoved back"), strict=False
        ):
            width = 3 if at == 0 else 1.5
            below.plot(jnp.roll(output, -at) / jnp.abs(outputs).max(), color=color, linewidth=width, label=label)
        below.set(xlabel="output", ylim=(-1.1, 1.1))
        plots.tidy(below)
    axes[0, 0].set_ylabel("output")
    axes[1, 0].set_ylabel("value / largest value")
    axes[1, 2].legend(frameon=False, loc="upper right")
    figure.colorbar(image, ax=axes[0], label="weight / largest weight", shrink=0.8)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment."""
    record = Record(__spec__.name, __doc__, arguments)
    key = jax.random.key(record.seed)
    sizes = (5, SHOWN) if record.quick else (3, 5, SHOWN, 40)

    for name, known in KNOWN.items():
        counted = {n: parameters(layers(n)[name], (n, 1)) for n in sizes}
        weights = {n: matrix(layers(n)[name], n, key) for n in sizes}
        record.number(f"{name}, parameters for n = {SHOWN}", counted[SHOWN], known=known(SHOWN), source=FORMULA[name])
        record.claim(f"{name}: {FORMULA[name]} parameters for n in {sizes}", all(counted[n] == known(n) for n in sizes))
        record.claim(
            f"{name}: its matrix has that many different weights",
            all(len(np.unique(w[w != 0])) == known(n) for n, w in weights.items()),
        )

    # 400,000 hidden units are 10 for each place of a 200 x 200 image.
    full = parameters(jn.serial(jn.flatten, jn.dense(400_000, bias=False)), (200, 200))
    record.number("200 x 200 image, 400,000 units, fully connected", full, known=16e9, source=SLIDES)
    local = jn.locally_connected(10, (10, 10), bias=False)
    whole = parameters(local, (209, 209, 1))  # with a margin, so that no field is cut at an edge
    record.number("the same units with fields of 10 x 10", whole, known=40e6, source=SLIDES)
    cut = parameters(jn.locally_connected(10, (10, 10), padding="SAME", bias=False), (200, 200, 1))
    record.number("the same, counting no edge that leaves the image", cut, known=10 * (10 * 200 - 25) ** 2,
                  source="25 places are missing in each direction")  # fmt: skip
    shared = parameters(jn.conv(10, (10, 10), padding="SAME", bias=False), (200, 200, 1))
    record.number(
        "the same units as 10 feature maps of a convolution", shared, known=1000, source="10 filters of 10 x 10"
    )
    record.claim("16 billion, 40 million and 1,000 parameters", (full, whole, shared) == (16 * 10**9, 40 * 10**6, 1000))

    keys = jax.random.split(key, 16 if record.quick else 64)
    for name, layer in layers(40).items():
        away = departure(layer, 40, keys)
        equivariant = name == "convolution"
        record.number(
            f"{name}: output of the moved input, against the moved output", away, known=0.0 if equivariant else 2**0.5,
            source="equivariant" if equivariant else "two independent draws of weights, about",
        )  # fmt: skip
        if equivariant:
            record.claim("convolution: its output moves as its input moves, to rounding", away.max() < 1e-6)
        else:
            record.claim(f"{name}: its output doesn't move as its input moves", away.min() > 0.3)
    record.figure(
        picture(key),
        f"Above: the matrices of three layers from {SHOWN} inputs to {SHOWN} outputs; white is no edge. "
        "Below: what each makes of a bump, and of the same bump five places on, moved back for comparison.",
    )
    record.finish()


if __name__ == "__main__":
    main()
