"""Does backpropagation written out by hand give the gradients of jax.grad, and what does a reverse-mode tape hold?

    python -m experiments.backpropagation_by_hand           about 8 seconds of processor time
    python -m experiments.backpropagation_by_hand --quick   the same with fewer networks

Data: drawn inputs and labels of 0 and 1; nothing is trained.
Measure: the largest difference between two gradients, relative to the largest entry; everything in float64.

First the algorithm of Andrew Ng's course (machine learning, week 5) in NumPy, example by example, with its names: Theta
is a layer's weights, those of the bias in column 0; a are a layer's activations, with a 1 in front; delta its errors.
Then the other way to see the same thing: y = ln x1 + x1 x2 - sin x2 at (2, 5), the example of Baydin et al., "Automatic
differentiation in machine learning: a survey" (2018), by a tape that reads the operations out of the function's jaxpr
and multiplies derivatives backwards. Its table is theirs (tables 2 and 3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal
from matplotlib.figure import Figure

import jaxnet as jn
from experiments import plots
from experiments.record import Record

NETWORKS = ((2, 2, 1), (4, 5, 3), (10, 8, 6, 4), (3, 4, 4, 4, 2))  # units of each layer, the input's first
EXAMPLES, DECAY = 20, 0.7  # m and lambda


# The course's algorithm.


def forward(thetas: list[np.ndarray], x: np.ndarray) -> list[np.ndarray]:
    """The activations of all layers for one example, each but the last with the bias unit's 1 in front."""
    activations = [np.append(1.0, x)]
    for theta in thetas:
        a = 1 / (1 + np.exp(-theta @ activations[-1]))
        activations.append(np.append(1.0, a))
    activations[-1] = activations[-1][1:]
    return activations


def cost(thetas: list[np.ndarray], inputs: np.ndarray, labels: np.ndarray, decay: float) -> float:
    """J: the cross entropy, summed over outputs and averaged over examples, and the penalty on all but the biases."""
    total = 0.0
    for x, y in zip(inputs, labels, strict=True):
        a = forward(thetas, x)[-1]
        total -= np.sum(y * np.log(a) + (1 - y) * np.log(1 - a))
    return (total + decay / 2 * sum(np.sum(theta[:, 1:] ** 2) for theta in thetas)) / len(inputs)


def backpropagation(thetas: list[np.ndarray], inputs: np.ndarray, labels: np.ndarray, decay: float) -> list[np.ndarray]:
    """The gradient of ``cost`` with respect to each Theta."""
    accumulated = [np.zeros_like(theta) for theta in thetas]
    for x, y in zip(inputs, labels, strict=True):
        a = forward(thetas, x)
        delta = a[-1] - y  # at the output
        for layer in reversed(range(len(thetas))):
            accumulated[layer] += np.outer(delta, a[layer])
            # delta_i = a_i (1 - a_i) sum over k of delta_k Theta_ki; the bias unit has none
            delta = (a[layer] * (1 - a[layer]) * (thetas[layer].T @ delta))[1:]
    gradients = [total / len(inputs) for total in accumulated]
    for gradient, theta in zip(gradients, thetas, strict=True):
        gradient[:, 1:] += decay / len(inputs) * theta[:, 1:]  # column 0, the bias, is left out
    return gradients


def numerical(thetas: list[np.ndarray], inputs: np.ndarray, labels: np.ndarray, decay: float) -> list[np.ndarray]:
    """The course's gradient checking: two-sided differences of ``cost``, epsilon = 1e-4, one weight after the other."""
    gradients = [np.zeros_like(theta) for theta in thetas]
    for theta, gradient in zip(thetas, gradients, strict=True):
        for place in np.ndindex(theta.shape):
            kept = theta[place]
            theta[place] = kept + 1e-4
            above = cost(thetas, inputs, labels, decay)
            theta[place] = kept - 1e-4
            gradient[place] = (above - cost(thetas, inputs, labels, decay)) / 2e-4
            theta[place] = kept
    return gradients


# The same network in jaxnet.


def by_jax(units: Sequence[int], thetas: list[np.ndarray], inputs: np.ndarray, labels: np.ndarray, decay: float):
    """Cost and gradients of the same weights by jaxnet's layers, loss and penalty, and ``jax.grad``."""
    layers = [layer for count in units[1:] for layer in (jn.dense(count), jax.nn.sigmoid)]
    net = jn.serial(*layers[:-1])  # the last sigmoid is in the loss
    _, state, _ = net.init(jax.random.key(0), (units[0],))
    penalty = jn.losses.l2(decay / len(inputs))
    params = [part for theta in thetas for part in ({"w": jnp.array(theta[:, 1:].T), "b": jnp.array(theta[:, 0])}, ())]

    def objective(params):
        outputs, _ = net.apply(params, state, inputs)
        # The loss is the mean over the outputs, the course's their sum.
        return units[-1] * jnp.mean(jn.losses.sigmoid_cross_entropy(outputs, jnp.asarray(labels))) + penalty(params)

    value, gradient = jax.value_and_grad(objective)(tuple(params[:-1]))
    return float(value), [np.column_stack([layer["b"], layer["w"].T]) for layer in gradient[::2]]


def relative(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """The largest difference of two lists of arrays, relative to the largest entry."""
    largest = max(np.abs(b).max() for b in theirs)
    return max(np.abs(a - b).max() for a, b in zip(ours, theirs, strict=True)) / largest


# A tape.


class Rule(NamedTuple):
    """An operation: its value, and its derivative with respect to each operand."""

    value: Callable[..., float]
    derivatives: Callable[..., tuple[float, ...]]
    written: str


RULES = {
    "add": Rule(lambda a, b: a + b, lambda a, b: (1.0, 1.0), "{} + {}"),
    "sub": Rule(lambda a, b: a - b, lambda a, b: (1.0, -1.0), "{} - {}"),
    "mul": Rule(lambda a, b: a * b, lambda a, b: (b, a), "{} x {}"),
    "log": Rule(math.log, lambda a: (1 / a,), "ln {}"),
    "sin": Rule(math.sin, lambda a: (math.cos(a),), "sin {}"),
}


class Entry(NamedTuple):
    """A line of the tape."""

    name: str
    written: str
    operands: tuple[str, ...]
    value: float
    adjoint: float


def tape(function: Callable[..., Any], *arguments: float) -> list[Entry]:
    """Values and adjoints, ``d function / d value``, of every intermediate of a function of numbers to a number.

    Named as Baydin et al. do: the n arguments are v(1-n) ... v0, then come v1, v2, ... as they are computed.

    Raises:
      ValueError: for an operation without a rule.
    """
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    names = {var: f"v{i + 1 - len(arguments)}" for i, var in enumerate(jaxpr.invars)}
    values = dict(zip(jaxpr.invars, arguments, strict=True))

    def value_of(operand):
        return float(operand.val) if isinstance(operand, Literal) else values[operand]

    for number, step in enumerate(jaxpr.eqns, start=1):  # forward: each value from those before it
        if step.primitive.name not in RULES:
            raise ValueError(f"tape: no rule for {step.primitive.name!r}; there are rules for {', '.join(RULES)}")
        names[step.outvars[0]] = f"v{number}"
        values[step.outvars[0]] = RULES[step.primitive.name].value(*map(value_of, step.invars))

    adjoints = dict.fromkeys(values, 0.0)
    adjoints[jaxpr.outvars[0]] = 1.0
    for step in reversed(jaxpr.eqns):  # backward: a value passes its adjoint on to what it was computed from
        derivatives = RULES[step.primitive.name].derivatives(*map(value_of, step.invars))
        for operand, derivative in zip(step.invars, derivatives, strict=True):
            if not isinstance(operand, Literal):
                adjoints[operand] += adjoints[step.outvars[0]] * derivative

    made: dict[Any, tuple[str, tuple[str, ...]]] = {var: (f"x{i + 1}", ()) for i, var in enumerate(jaxpr.invars)}
    for step in jaxpr.eqns:
        operands = tuple(repr(o.val) if isinstance(o, Literal) else names[o] for o in step.invars)
        made[step.outvars[0]] = RULES[step.primitive.name].written.format(*operands), operands
    return [Entry(names[var], *made[var], values[var], adjoints[var]) for var in values]


def example(x1: Any, x2: Any) -> Any:
    """Written in the order of the paper's table."""
    v1, v2, v3 = jnp.log(x1), x1 * x2, jnp.sin(x2)
    return (v1 + v2) - v3


# name: value and adjoint, as printed in the paper (the adjoints of the inputs after both contributions)
TABLE = {
    "v-1": (2, 5.5), "v0": (5, 1.716), "v1": (0.693, 1), "v2": (10, 1), "v3": (-0.959, -1), "v4": (10.693, 1),
    "v5": (11.652, 1),
}  # fmt: skip


def printed(entries: Sequence[Entry]) -> str:
    """The tape as a table: forward from above, backward from below."""
    lines = [f"{'':3}   {'computed as':11}  {'value':>8}  {'adjoint':>8}"]
    lines += [f"{e.name:>3} = {e.written:11}  {e.value:8.3f}  {e.adjoint:8.3f}" for e in entries]
    return "\n".join(lines)


def picture(gradients: list[tuple[np.ndarray, np.ndarray]], entries: Sequence[Entry]) -> Figure:
    """Both gradients against each other, ``gradients`` a pair for each network; and the tape as a graph."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    scatter, graph = figure.subplots(1, 2, width_ratios=[1, 2])
    for units, (ours, theirs), color in zip(NETWORKS, gradients, plots.COLORS, strict=False):
        scatter.plot(theirs, ours, "o", color=color, markersize=4, alpha=0.7, label="-".join(map(str, units)))
    ends = np.array(scatter.get_xlim())
    scatter.plot(ends, ends, color="0.6", linewidth=1, zorder=0)
    scatter.set(xlabel="gradient by jax.grad", ylabel="gradient by hand", aspect="equal")
    scatter.legend(frameon=False, title="units", fontsize=9)
    plots.tidy(scatter)

    places = {
        "v-1": (0, 1),
        "v0": (0, 0),
        "v1": (1, 1.25),
        "v2": (1, 0.5),
        "v3": (1, -0.25),
        "v4": (2, 0.9),
        "v5": (3, 0.3),
    }
    for entry in entries:
        x, y = places[entry.name]
        for operand in entry.operands:
            graph.annotate(
                "",
                (x, y),
                places[operand],
                arrowprops={"arrowstyle": "->", "color": "0.5", "shrinkA": 42, "shrinkB": 46},
            )
        graph.text(x, y + 0.08, f"{entry.name} = {entry.written}", ha="center", va="bottom", fontsize=10)
        graph.text(x, y + 0.06, f"{entry.value:.3f}", ha="center", va="top", fontsize=10, color=plots.BLUE)
        graph.text(x, y - 0.05, f"{entry.adjoint:.3f}", ha="center", va="top", fontsize=10, color=plots.RED)
    graph.text(2, -0.1, "value", ha="center", color=plots.BLUE)
    graph.text(2, -0.22, "adjoint", ha="center", color=plots.RED)
    graph.set(xlim=(-0.4, 3.4), ylim=(-0.5, 1.5))
    graph.set_axis_off()
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the experiment."""
    record = Record(__spec__.name, __doc__, arguments)
    random = np.random.default_rng(record.seed)

    gradients, farthest = [], 0.0
    for units in NETWORKS[: 2 if record.quick else None]:
        thetas = [random.normal(size=(out, 1 + into)) for into, out in zip(units, units[1:], strict=False)]
        inputs = random.normal(size=(EXAMPLES, units[0]))
        labels = random.integers(0, 2, size=(EXAMPLES, units[-1])).astype(float)
        by_hand = backpropagation(thetas, inputs, labels, DECAY)
        with jax.enable_x64(True):
            value, by_grad = by_jax(units, thetas, inputs, labels, DECAY)
        name = "-".join(map(str, units))
        away = relative(by_hand, by_grad)
        farthest = max(farthest, away, abs(cost(thetas, inputs, labels, DECAY) - value) / value)
        record.number(f"units {name}: gradient by hand against jax.grad", away, known=0.0, source="jax.grad, float64")
        record.number(
            f"units {name}: gradient by hand against differences of the cost",
            relative(by_hand, numerical(thetas, inputs, labels, DECAY)), known=0.0,
            source="the course's gradient checking",
        )  # fmt: skip
        gradients.append(tuple(np.concatenate([g.ravel() for g in group]) for group in (by_hand, by_grad)))
    record.claim("cost and gradient by hand equal jaxnet's and jax.grad's to 1e-6", farthest < 1e-6)

    entries = tape(example, 2.0, 5.0)
    print(f"y = ln x1 + x1 x2 - sin x2 at (2, 5)\n{printed(entries)}\n")
    for entry in entries:
        value, adjoint = TABLE[entry.name]
        record.number(f"{entry.name} = {entry.written}: value, adjoint", f"{entry.value:.3f}, {entry.adjoint:.3f}",
                      known=f"{value:.3f}, {adjoint:.3f}", source="Baydin et al. (2018), tables 2 and 3")  # fmt: skip
    record.claim(
        "every value and adjoint of the paper's table, to its three decimals",
        [(e.name, round(e.value, 3), round(e.adjoint, 3)) for e in entries]
        == [(name, value, adjoint) for name, (value, adjoint) in TABLE.items()],
    )
    of_jax = jax.grad(example, argnums=(0, 1))(2.0, 5.0)
    record.claim(
        "the adjoints of x1 and x2 are jax.grad's",
        np.allclose([entry.adjoint for entry in entries[:2]], np.array(of_jax), rtol=1e-6),
    )
    record.figure(
        picture(gradients, entries),
        "Left: every entry of the gradients of the networks, by hand and by jax.grad. Right: the tape of "
        "y = ln x1 + x1 x2 - sin x2 at (2, 5): values flow to the right, adjoints to the left.",
    )
    record.finish()


if __name__ == "__main__":
    main()
