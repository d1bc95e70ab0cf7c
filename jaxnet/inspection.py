"""Looking at networks: what they are made of, which matrix a linear one is, whether its gradients are right."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.combinators import observing
from jaxnet.layer import Layer, Spec, as_spec
from jaxnet.layers.elementwise import as_layer
from jaxnet.ops.lowering import lowered_as
from jaxnet.sequence import Sequence


class Row(NamedTuple):
    """One layer of a ``Summary``, or all of them.

    Args:
      path: the names of its place from the outermost in, ``features.0``; "" for the whole network.
      layer: its name.
      output: the shape of one example, or of several outputs their shapes.
      parameters: how many numbers the optimiser changes.
      bytes: of the parameters and the state.
      operations: floating point operations of matrix products and convolutions for one example, forward; a
        multiplication and an addition are two. Everything else is counted as nothing.
    """

    path: str
    layer: str
    output: tuple[Any, ...]
    parameters: int
    bytes: int
    operations: int


@dataclasses.dataclass(frozen=True)
class Summary:
    """What ``summary`` found: a table to print, or ``rows`` and their ``total`` to compute with."""

    rows: tuple[Row, ...]
    total: Row

    def __rich__(self) -> Any:
        from rich import box  # imported when used: a network is built more often than it's looked at
        from rich.table import Table

        table = Table(box=box.SIMPLE, show_footer=True)
        numbers = (self.total.parameters, self.total.bytes, self.total.operations)
        footers = ("", "total", str(self.total.output), *(f"{number:,}" for number in numbers))
        for i, title in enumerate(("path", "layer", "output", "parameters", "bytes", "operations")):
            table.add_column(title, footer=footers[i], justify="right" if i > 2 else "left", no_wrap=True)
        for row in self.rows:
            table.add_row(row.path, row.layer, str(row.output), *(f"{number:,}" for number in row[3:]))
        return table

    def __str__(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        Console(file=text, width=10_000, color_system=None, markup=False).print(self.__rich__())
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines() if line.strip())


def summary(net: Any, spec: Any) -> Summary:
    """The layers of a network with their output shapes, parameters, bytes and operations. Nothing is computed.

    Args:
      net: a layer. The children of ``serial``, ``parallel``, ``residual``, and of what is wrapped in ``with_dtype`` or
        ``remat``, have a row each; ``repeat`` and ``frozen`` are one row.
      spec: of one example, as for ``init``.

    Of a ``Size`` the bound is counted. A layer of your own that is used in several places counts in each.

    Raises:
      ValueError, TypeError: as ``net.init``.

    >>> import jaxnet as jn
    >>> table = summary(jn.serial(jn.flatten, jn.dense(30), jax.nn.relu, jn.dense(10)), (28, 28, 1))
    >>> table.total.parameters, table.total.operations
    (23860, 47640)
    >>> print(table)
      path   layer     output   parameters    bytes   operations
     ──...
      0      flatten   (784,)            0        0            0
      1      dense     (30,)        23,550   94,200       47,040
      2      relu      (30,)             0        0            0
      3      dense     (10,)           310    1,240          600
     ──...
             total     (10,)        23,860   95,440       47,640
    """
    net = as_layer(net)
    whole: Any = None

    def init(key):
        nonlocal whole
        params, state, out = net.init(key, spec)
        whole = (params, state, out)
        return params, state

    with observing() as made:
        jax.eval_shape(init, jax.random.key(0))
    inner = {child.path[:depth] for child in made for depth in range(len(child.path))}
    rows = tuple(
        _row(".".join(child.path), child.layer, child.spec, child.params, child.state, child.out)
        for child in made
        if child.path not in inner
    )
    total = _row("", net, spec, *whole)
    return Summary(rows or (total,), total)


def _row(path: str, layer: Layer, spec: Any, params: Any, state: Any, out: Any) -> Row:
    params, state = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (params, state))
    from jaxnet.search.cost import traced_cost  # when it is used: the search is half of what there is to import

    with lowered_as("patches"):
        flops, _, _ = traced_cost(lambda *given: layer.apply(*given)[0], params, state, _one_example(spec))
    held = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves((params, state)))
    outputs = [as_spec(one.values if isinstance(one, Sequence) else one).shape for one in _outputs(out)]
    output = outputs[0] if len(outputs) == 1 else tuple(outputs)
    numbers = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    return Row(path, layer.name, output, numbers, held, int(flops))


def _outputs(out: Any) -> list[Any]:
    """The specs of a layer that may put out several arrays, such as its state beside its output."""

    def is_one(value):
        is_shape = isinstance(value, tuple) and all(isinstance(n, int) for n in value)
        return is_shape or isinstance(value, (Spec, Sequence))

    return jax.tree.leaves(out, is_leaf=is_one)


def _one_example(spec: Any) -> Any:
    if isinstance(spec, Sequence):
        return Sequence(_one_example(spec.values), jax.ShapeDtypeStruct((1,), jnp.int32))
    spec = as_spec(spec)
    return jax.ShapeDtypeStruct((1, *spec.shape), spec.dtype)


def linear_map(layer: Any, params: Any, spec: Any, state: Any = None) -> jax.Array:
    """The matrix ``[out, in]`` of a linear layer in evaluation: its Jacobian at 0, an example in row-major order.

    So a convolution is seen to be a banded matrix, and a locally connected layer one whose bands have weights of their
    own. What is added, such as a bias, isn't in the matrix.

    Args:
      layer: linear or affine in its input.
      params: as ``init`` made them.
      spec: of one example.
      state: as ``init`` made it; made anew when None.

    Raises:
      ValueError: when the layer isn't affine, or ``spec`` isn't floating.

    >>> import jaxnet as jn
    >>> params = {"w": jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), "b": jnp.ones(2)}
    >>> linear_map(jn.dense(2), params, (3,)).tolist()
    [[1.0, 3.0, 5.0], [2.0, 4.0, 6.0]]
    """
    layer, spec = as_layer(layer), as_spec(spec)
    if not jnp.issubdtype(spec.dtype, jnp.floating):
        raise ValueError(f"linear_map: only a layer of floating inputs has a matrix, but the spec says {spec.dtype}")
    kept = layer.init(jax.random.key(0), spec)[1] if state is None else state

    def flat(x):
        return layer.apply(params, kept, x.reshape(1, *spec.shape))[0].ravel()

    origin = jnp.zeros(math.prod(spec.shape), spec.dtype)
    off = 0.0
    with jax.default_matmul_precision("highest"):  # else an accelerator's rounding would pass for a curve
        matrix = jax.jit(jax.jacfwd(flat))(origin)  # [out, in]
        for i, scale in enumerate((1.0, -8.0)):
            x = scale * jax.random.normal(jax.random.key(i), origin.shape, spec.dtype)
            linear = matrix @ x + flat(origin)
            off = max(off, float(jnp.max(jnp.abs(flat(x) - linear)) / (jnp.max(jnp.abs(linear)) + 1)))
    if not off < 50 * float(jnp.finfo(spec.dtype).eps) ** 0.75:
        raise ValueError(
            f"linear_map: {layer.name} isn't linear, nor linear up to what it adds: away from 0 its outputs differ by "
            f"{off:.2g} (relative) from those of its Jacobian at 0, so no matrix is equal to it"
        )
    return matrix


def check_gradients(function: Any, *arguments: Any, tolerance: float = 1e-5) -> float:
    """Compares gradients with central finite differences in float64; returns the largest relative disagreement.

    ``check_gradients(layer, spec)`` checks a layer, in evaluation and in training, with respect to parameters and
    inputs that are drawn. ``check_gradients(function, *arguments)`` checks a function of trees that returns one number.

    Args:
      function: a ``Layer``, or a function. Constants that it holds stay in their own precision.
      arguments: the spec of one example, or what the function is called with; floating leaves are cast to float64, one
        after the other moved in a random direction by 1e-5, and others left alone.
      tolerance: the largest disagreement that passes. Rounding and curvature alone give about 1e-8.

    Raises:
      AssertionError: when a disagreement is larger, with the leaf's path. Where an input lies within a step of a kink
        (of relu, or two equal maxima) a right gradient may fail.
      ValueError: when the function's output isn't one number.

    Source: central differences along random directions, as ``jax.test_util.check_grads`` does.

    >>> import jaxnet as jn
    >>> check_gradients(jn.serial(jn.dense(3), jnp.tanh), (4,)) < 1e-7
    True
    >>> check_gradients(lambda x: jax.lax.stop_gradient(x) * x, 2.0)
    Traceback (most recent call last):
    AssertionError: check_gradients: with respect to arguments[0]...
    """
    with jax.enable_x64(True):
        of_layer = isinstance(function, Layer)
        if of_layer:
            function, arguments = _layer_as_function(function, *arguments)
        leaves, tree = jax.tree_util.tree_flatten_with_path(tuple(arguments))
        paths = [path for path, _ in leaves]
        values = [jnp.asarray(leaf) for _, leaf in leaves]
        moved = [i for i, value in enumerate(values) if jnp.issubdtype(value.dtype, jnp.floating)]
        values = [value.astype(jnp.float64) if i in moved else value for i, value in enumerate(values)]

        def total(floating):
            every = list(values)
            for i, value in zip(moved, floating, strict=True):
                every[i] = value
            return function(*jax.tree.unflatten(tree, every))

        shape = getattr(jax.eval_shape(total, [values[i] for i in moved]), "shape", None)
        if shape != ():
            raise ValueError(f"check_gradients: the function must return one number, but made the shape {shape}")
        run = jax.jit(total)
        floating = [values[i] for i in moved]
        height, gradients = jax.jit(jax.value_and_grad(total))(floating)
        worst, step = 0.0, 1e-5
        for place, (i, gradient) in enumerate(zip(moved, gradients, strict=True)):
            direction = jax.random.normal(jax.random.key(i), gradient.shape, jnp.float64)
            behind, ahead = (
                run([*floating[:place], floating[place] + sign * step * direction, *floating[place + 1 :]])
                for sign in (-1, 1)
            )
            slope, difference = float(jnp.vdot(gradient, direction)), float((ahead - behind) / (2 * step))
            # A slope that is small beside the height is lost in the rounding of the difference.
            size = max(abs(slope), abs(difference), 1e-4 * abs(float(height)), 1e-12)
            disagreement = abs(slope - difference) / size
            if not disagreement <= tolerance:  # so written, NaN fails
                name = jax.tree_util.keystr(paths[i][1:]) if of_layer else f"arguments{jax.tree_util.keystr(paths[i])}"
                raise AssertionError(
                    f"check_gradients: with respect to {name} the gradient says a slope of {slope:.10g} along a random "
                    f"direction, finite differences say {difference:.10g}"
                )
            worst = max(worst, disagreement)
        return worst


def _layer_as_function(layer: Layer, spec: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A number that all outputs of a layer go into, and what it's a function of: params and inputs."""
    key, wanted = jax.random.key(0), as_spec(spec)
    params, state, _ = layer.init(key, Spec(wanted.shape, jnp.float64, wanted.active))
    x = np.random.default_rng(0).normal(size=(3, *wanted.shape))
    if wanted.active is not None:
        x = x * np.asarray(wanted.active)

    def total(trees):
        evaluation, _ = layer.apply(trees["params"], state, trees["x"])
        training, _ = layer.apply(trees["params"], state, trees["x"], key=key, train=True)
        weights = np.random.default_rng(1).normal(size=(2, *evaluation.shape))
        return jnp.sum(weights[0] * evaluation) + jnp.sum(weights[1] * training)

    return total, ({"params": params, "x": x},)
