"""The figures of the documentation.

``draw`` makes those of the page on fusing, from the code and from committed benchmarks, whenever pages are built, so
that they can't be older than what they show. ``python -m docs.figures`` runs the tutorial and writes its pictures,
which take longer, into ``docs/images``.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import jaxnet as jn
from experiments.plots import COLORS, tidy

HERE = Path(__file__).parent
RESULTS = HERE.parent / "experiments" / "benchmarks" / "results"
INPUTS = 16


def draw(folder: Path) -> None:
    """Writes the figures that are made anew with the pages."""
    folder.mkdir(exist_ok=True)
    for make in (sizes, plans, layouts, lanes):
        with plt.rc_context({"font.size": 9, "savefig.dpi": 160, "figure.constrained_layout.use": True}):
            figure = make()
            figure.savefig(folder / f"{make.__name__}.png")
            plt.close(figure)


def sizes() -> plt.Figure:
    """The first weights of four lanes of one group, padded to its widest, after ten steps of Adam."""
    widths, bound, steps = (8, 14, 23, 32), 32, 10
    x = jax.random.normal(jax.random.key(1), (64, INPUTS))
    y = jnp.sin(x.sum(axis=1, keepdims=True))

    def trained(hidden, key):
        net, optimizer = jn.serial(jn.dense(hidden), jnp.tanh, jn.dense(1)), optax.adam(0.05)
        params, state, _ = net.init(key, (INPUTS,))
        carry = params, optimizer.init(params)

        def step(carry, _):
            params, memory = carry
            gradient = jax.grad(lambda params: jnp.mean((net.apply(params, state, x)[0] - y) ** 2))(params)
            updates, memory = optimizer.update(gradient, memory)
            return (optax.apply_updates(params, updates), memory), None

        return jax.lax.scan(step, carry, length=steps)[0][0][0]["w"]

    values = jn.Size(bound, jnp.array(widths), "hidden", min(widths))
    weights = jax.jit(jax.vmap(trained))(values, jax.random.split(jax.random.key(0), len(widths)))
    figure, row = plt.subplots(1, len(widths), figsize=(9, 2.3), sharey=True)
    for axes, width, w in zip(row, widths, np.asarray(weights), strict=True):
        assert not w[:, width:].any()
        axes.imshow(w, cmap="RdBu", vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
        if width < bound:
            axes.axvspan(width - 0.5, bound - 0.5, facecolor="0.92", hatch="///", edgecolor="0.75", linewidth=0)
        axes.set(title=f"hidden = {width}", xlabel="unit", xticks=[0, 8, 16, 24, 31])
    row[0].set_ylabel("input")
    return figure


def plans() -> plt.Figure:
    """How the tutorial's 64 trials are grouped when they train for longer."""
    space = jn.Space(rate=jn.log_uniform(3e-4, 0.3), hidden=jn.log_integers(8, 256), l2=jn.log_uniform(1e-6, 0.1))
    train, validation = ((np.zeros((n, 8, 8, 1), np.uint8), np.zeros(n, np.int32)) for n in (1000, 400))

    def trial(hp):
        net = jn.serial(jn.flatten, jn.dense(hp.hidden), jax.nn.relu, jn.dense(10))
        loss, optimizer = jn.losses.softmax_cross_entropy, optax.sgd(hp.rate, momentum=0.9)
        return jn.Trial(net, loss, optimizer, jn.metrics.error, jn.losses.l2(hp.l2), batch_size=50)

    figure, row = plt.subplots(1, 3, figsize=(9, 3), sharey=True)
    for axes, epochs in zip(row, (10, 200, 2000), strict=True):
        with mock.patch("jaxnet.search.planning.cores", return_value=2), contextlib.redirect_stdout(io.StringIO()):
            plan = jn.search.plan(trial, space, train, validation, trials=64, epochs=epochs, key=jax.random.key(0))
        widths = np.array([row["hidden"] for row in configurations(space)])
        place = 0
        for i, group in enumerate(sorted(plan.groups, key=lambda group: group.sizes["hidden"])):
            own, bound = np.sort(widths[group.ids]), group.sizes["hidden"][1]
            at = place + np.arange(len(own))
            axes.bar(at, bound, width=1, color="0.88", edgecolor="0.75", hatch="////", linewidth=0)
            axes.bar(at, own, width=0.85, color=COLORS[i % len(COLORS)])
            place += len(own)
        count = len(plan.groups)
        programs = f"{count} program{'s' * (count > 1)}"
        axes.set(title=f"{epochs:,} epochs: {programs},\n{plan.waste:.0%} of the arithmetic is padding", xlabel="trial")
        tidy(axes)
    row[0].set_ylabel("width (hatched: padding)")
    return figure


def configurations(space: jn.Space) -> list[dict]:
    """What a random search with key 0 tries."""
    from jaxnet.training import Keys

    return jn.search.random()(space, Keys.of(jax.random.key(0)).sampler, 64)


def layouts() -> plt.Figure:
    """The first layer of all lanes: as many products of small matrices, or one product."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.6), width_ratios=(1, 1))
    count, high, wide, batch = 4, 3.0, 1.1, 1.7

    def block(axes, x, y, width, height, color, text=""):
        axes.add_patch(plt.Rectangle((x, y), width, height, facecolor=color, edgecolor="white", linewidth=1.5))
        axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", color="white", fontsize=8)

    for i in range(count):
        block(left, 4.3 + 0.55 * i, 1.2 - 0.45 * i, wide, high, COLORS[i % len(COLORS)], "" if i < count - 1 else "w")
    block(left, 0, 1.0, high, batch, "0.45", "x")
    left.text(3.6, 1.8, "@", ha="center", va="center", fontsize=14)
    left.set_title("[lanes, in, out]: one product a lane")
    block(right, 0, 1.0, high, batch, "0.45", "x")
    right.text(3.6, 1.8, "@", ha="center", va="center", fontsize=14)
    for i in range(count):
        block(right, 4.2 + wide * i, 0.3, wide, high, COLORS[i % len(COLORS)], f"w of\nlane {i}")
    right.set_title("[in, lanes, out]: one product")
    for axes in (left, right):
        axes.set(xlim=(-0.2, 9), ylim=(-0.6, 4.6), aspect="equal")
        axes.axis("off")
    return figure


def lanes() -> plt.Figure:
    """Time for each lane against that of one lane alone, by network, of every machine whose benchmark is committed."""
    measured: dict[str, dict[str, list]] = {}
    for path in sorted(RESULTS.glob("*.json")):
        report = json.loads(path.read_text())
        of = measured.setdefault(report["machine"]["device"], {})
        for row in report["rows"]:
            if row.get("part") == "lanes":
                of.setdefault("MLP 784-16-10", []).append((row["lanes"], row["us_per_lane_and_step"]))
            elif row.get("contender") in ("jaxnet", "jaxnet, one at a time") and "lanes" in row and "us" in row:
                of.setdefault(row["network"], []).append((row["lanes"], row["us"]))
    measured = {device: networks for device, networks in measured.items() if networks}
    figure, row = plt.subplots(1, len(measured), figsize=(1 + 4.2 * len(measured), 3.2), sharey=True, squeeze=False)
    for axes, (device, networks) in zip(row[0], measured.items(), strict=True):
        for i, (name, points) in enumerate(networks.items()):
            count, us = np.transpose(sorted(points))
            style = "o-" if i < len(COLORS) else "s--"
            axes.plot(count, us / us[0], style, color=COLORS[i % len(COLORS)], label=name, markersize=4)
        axes.set_xscale("log", base=4)
        axes.set_yscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set(title=device, xlabel="lanes in one program")
        axes.legend(frameon=False, fontsize=7)
        tidy(axes)
    row[0, 0].set_ylabel("time for each lane and step, one lane = 1")
    return figure


def tutorial(folder: Path) -> None:
    """Runs the tutorial, and keeps the picture that it draws and what its report looks like."""
    from playwright.sync_api import sync_playwright

    folder.mkdir(exist_ok=True)
    blocks = re.findall(r"^```python\n(.*?)^```$", (HERE / "tutorial.md").read_text(), re.M | re.S)
    with tempfile.TemporaryDirectory() as work, contextlib.chdir(work), sync_playwright() as playwright:
        exec(compile("\n".join(blocks), "tutorial.md", "exec"), {})
        shutil.copy("search.png", folder / "tutorial.png")
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1200, "height": 800})
        page.goto(Path("search.html").resolve().as_uri())
        page.wait_for_timeout(1000)
        page.screenshot(path=folder / "report.png")
        chromium.close()


if __name__ == "__main__":
    tutorial(HERE / "images")
