"""Layers made of layers. Child ``i`` gets ``fold_in(key, i)``, so appending a layer changes no other's numbers.

Where a wrapper has one child (``frozen``, ``with_dtype``, ``remat``, ``time_distributed``) the child gets the wrapper's
own key, so wrapping changes no numbers.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxnet.hints import did_you_mean
from jaxnet.layer import Layer, Spec, as_spec, function_name
from jaxnet.layers.elementwise import as_layer
from jaxnet.layers.recurrent import split_spec
from jaxnet.ops.linear import Linear, transposable
from jaxnet.ops.reductions import counting_rows, short_rows, valid_rows
from jaxnet.sequence import Sequence, sequence_spec


def serial(*layers: Any, **named: Any) -> Layer:
    """Layers one after the other; plain functions among them become elementwise layers.

    Args:
      layers: ``serial(a, b)``: the params and the state are tuples of the children's trees.
      named: ``serial(features=a, head=b)``: they are dicts under those names, in the order given, so that freezing or
        replacing a part is dict work (``params | {"head": fresh}``).

    Raises:
      TypeError: when positional and named children are mixed, or a child is neither a layer nor a function.
      ValueError, TypeError: from a child's ``init`` or ``apply``, with the path of the child in front.

    >>> import jax, jaxnet as jn
    >>> net = serial(jn.flatten, jn.dense(30), jax.nn.relu, jn.dense(10))
    >>> params, state, out = net.init(jax.random.key(0), (28, 28, 1))
    >>> out.shape, [w.shape for w in jax.tree.leaves(params)]
    ((10,), [(30,), (784, 30), (10,), (30, 10)])
    >>> serial(jax.nn.relu, jn.dense(3)).init(jax.random.key(0), ())
    Traceback (most recent call last):
    ValueError: serial[1] relu > dense: expected examples with at least 1 axis...
    """
    children = Children("serial", layers, named)

    def init(key, spec):
        params, state = [], []
        if not len(children) and not isinstance(spec, Sequence):
            spec = as_spec(spec)
        for i in range(len(children)):
            child_params, child_state, spec = children.init(i, key, spec)
            params.append(child_params)
            state.append(child_state)
        return children.pack(params), children.pack(state), spec

    def apply(params, state, x, *, key=None, train=False):
        new_state = []
        for i, (p, s) in enumerate(children.unpack(params, state)):
            x, s = children.apply(i, p, s, x, key, train)
            new_state.append(s)
        return x, children.pack(new_state)

    return Layer(init, apply)


def parallel(*branches: Any, merge: str | Callable[..., Any] = "concat", **named: Any) -> Layer:
    """Layers side by side: each gets the same input, and their outputs are merged.

    Args:
      branches, named: as the children of ``serial``; params and state are tuples, or dicts under the names.
      merge: "concat", which joins the features of all branches in their order; "sum"; "product"; or a function
        ``(first, second, ...) -> array`` of the branches' outputs ``[batch, ...]``, each example by itself.

    Under sizes, concat joins the masks of active features, each branch's padding where it stands. For sum and product
    every branch must have the same active features: either all have a mask or none has one, and masks whose values are
    known must be equal. Those of a search aren't known while it is traced; there, of two different sizes of one bound,
    the narrower counts as padded with zeros. Of sequences, all branches must keep the lengths.

    Raises:
      TypeError: for branches as in ``serial``, none at all, or another ``merge``. ValueError: from ``init``, when
        outputs can't be merged; and a branch's own, with its path in front.

    >>> import jaxnet as jn
    >>> net = parallel(jn.dense(3), jn.dense(4), jnp.tanh)
    >>> params, state, out = net.init(jax.random.key(0), (2,))
    >>> out.shape
    (9,)
    """
    children = Children("parallel", branches, named)
    if not len(children):
        raise TypeError("parallel: needs at least one branch, such as parallel(jn.dense(3), jn.dense(4))")
    if not callable(merge) and merge not in (known := ("sum", "product", "concat")):
        raise TypeError(
            f"parallel: merge must be 'sum', 'product', 'concat' or a function, got {merge!r}"
            f"{did_you_mean(merge, known)}"
        )
    return _merged(children, merge)


def residual(layer: Any, shortcut: Any = None) -> Layer:
    """``layer(x) + shortcut(x)``, so that a deep network starts near a shallow one.

    Args:
      layer: what is learned on top of the shortcut; a layer or a function.
      shortcut: a layer that gives the same shape, such as a ``dense`` or a 1 x 1 convolution where ``layer`` changes
        it; the input itself when None.

    Params and state are dicts ``{"layer": ..., "shortcut": ...}``; ``layer`` gets ``fold_in(key, 0)``, ``shortcut``
    ``fold_in(key, 1)``. Sizes as in a ``parallel`` of merge "sum".

    Raises:
      TypeError: when one is neither a layer nor a function. ValueError: from ``init``, when the two shapes differ.

    Source: He et al., "Deep residual learning for image recognition" (2015), equation 1, without the activation after
    the sum.

    >>> import jaxnet as jn
    >>> net = residual(jn.serial(jn.dense(4), jax.nn.relu, jn.dense(2)))
    >>> params, state, out = net.init(jax.random.key(0), (2,))
    >>> zeros = jax.tree.map(jnp.zeros_like, params)
    >>> net.apply(zeros, state, jnp.array([[1.0, 2.0]]))[0].tolist()
    [[1.0, 2.0]]
    """
    return _merged(Children("residual", (), {"layer": layer, "shortcut": serial() if shortcut is None else shortcut}))


def bidirectional(forward: Any, backward: Any = None) -> Layer:
    """Two layers over time on the same input, the second from each sequence's own end to its start, side by side.

    Args:
      forward: a recurrent layer, with any ``returns`` but "step"; also a ``serial`` of such layers.
      backward: what reads the sequence reversed, a layer that returns the same kind; by default ``forward`` again, with
        parameters of its own. It must not be made with ``reverse=True``, which would turn it round a second time.

    Output: what the two return, concatenated on the features, forward first; of outputs over time, each pair belongs to
    the same input. Where they return several arrays (the ``(h, c)`` of an LSTM), so does this layer. Params and state
    are dicts ``{"forward": ..., "backward": ...}``. A state to start from is given as
    ``(x, (forward_state, backward_state))``.

    Raises:
      TypeError: when one is neither a layer nor a function. ValueError: from ``init``, when an example has no time
        axis, or the two don't return the same kind; and a layer's own, with its path in front.

    Source: Schuster and Paliwal, "Bidirectional recurrent neural networks" (1997).

    >>> import jaxnet as jn
    >>> layer = bidirectional(jn.rnn(1, jax.nn.relu))
    >>> params = {"w": jnp.ones((1, 1)), "u": jnp.ones((1, 1)), "b": jnp.zeros(1)}  # it adds up
    >>> x = Sequence(jnp.array([[[1.0], [2.0], [9.0]]]), jnp.array([2]))
    >>> layer.apply({"forward": params, "backward": params}, {"forward": (), "backward": ()}, x)[0].values.tolist()
    [[[1.0, 3.0], [3.0, 2.0], [0.0, 0.0]]]
    """
    both = {"forward": forward, "backward": forward if backward is None else backward}
    children = Children("bidirectional", (), both)

    def init(key, spec):
        x, given = split_spec(spec)
        shape = as_spec(sequence_spec(x)[0]).shape
        if len(shape) < 2:
            raise ValueError(
                f"bidirectional: expected examples (time, ...), or a Sequence of them, but got the shape {shape}"
            )
        made = [children.init(i, key, x if given is None else (x, given[i])) for i in range(2)]
        (ahead, tree), (back, other) = (jax.tree.flatten(out, is_leaf=_is_spec) for *_, out in made)
        outs = list(zip(ahead, back, strict=False))
        if tree != other or any(_kind(a) != _kind(b) for a, b in outs):
            raise ValueError(f"bidirectional: both layers must return the same kind, but got {ahead} and {back}")
        merged = [_merged_spec(children, "concat", [_values_spec(a), _values_spec(b)]) for a, b in outs]
        merged = [
            Sequence(m, a.lengths) if isinstance(a, Sequence) else m for m, (a, _) in zip(merged, outs, strict=True)
        ]
        params, state, _ = zip(*made, strict=True)
        return children.pack(params), children.pack(state), tree.unflatten(merged)

    def apply(params, state, x, *, key=None, train=False):
        x, given = x if isinstance(x, tuple) else (x, None)
        ys, new_state = [], []
        for i, (p, s) in enumerate(children.unpack(params, state)):
            turned = _reversed(x) if i else x
            y, s = children.apply(i, p, s, turned if given is None else (turned, given[i]), key, train)
            ys.append(jax.tree.map(_reversed, y, is_leaf=_is_sequence) if i else y)
            new_state.append(s)
        return jax.tree.map(_joined, *ys, is_leaf=_is_sequence), children.pack(new_state)

    return Layer(init, apply)


def repeat(layer: Any, n: int) -> Layer:
    """``n`` copies of a layer one after the other, each with its own weights, as a loop that is compiled once.

    The same numbers as ``serial(*[layer] * n)``: copy ``i`` gets ``fold_in(key, i)``. But params and state are one
    tree, every leaf with a leading axis of ``n``, and the program is as long for a hundred copies as for one.

    What looks at a parameter as a whole (``max_norm``, ``spectral_norm(repeat(...))``) sees all copies as one; a
    wrapper belongs inside, ``repeat(spectral_norm(...), n)``.

    Args:
      layer: keeps the shape, the dtype and the active features; a layer or a function.
      n: at least 1, an integer: a number of steps is compiled in, so it can't differ from lane to lane.

    Raises:
      TypeError, ValueError: here, for another ``n``; from ``init``, when the layer changes its input's spec.

    >>> import jaxnet as jn
    >>> net = repeat(jn.serial(jn.dense(4), jnp.tanh), 10)
    >>> params, state, out = net.init(jax.random.key(0), (4,))
    >>> params[0]["w"].shape
    (10, 4, 4)
    """
    child = _child("repeat", layer)
    n = operator.index(n)  # a Size says here how to make it static
    if n < 1:
        raise ValueError(f"repeat: n must be at least 1, got {n}")
    path = functools.partial(_path, f"repeat > {child.name}")

    def init(key, spec):
        def one(i):
            with path(), _observed_by(None):
                return child.init(None if key is None else jax.random.fold_in(key, i), spec)

        params, state, out = jax.vmap(one, out_axes=(0, 0, None))(jnp.arange(n, dtype=jnp.uint32))
        with path():
            came, made = _values_spec(spec), _values_spec(out)
            same = isinstance(spec, Sequence) == isinstance(out, Sequence)
            if not same or (came.shape, came.dtype) != (made.shape, made.dtype):
                raise ValueError(
                    f"only a layer that keeps shape and dtype can be repeated, but of {came.shape}, {came.dtype} it "
                    f"made {made.shape}, {made.dtype}. Try a layer before it that makes that shape."
                )
            _common_mask([came.active, made.active], ["the input", child.name], jnp.logical_or)
        return params, state, out

    def apply(params, state, x, *, key=None, train=False):
        def step(x, copy):
            p, s, i = copy
            with path():
                y, s = child.apply(p, s, x, key=None if key is None else jax.random.fold_in(key, i), train=train)
                came, made = ([leaf.dtype for leaf in jax.tree.leaves(tree)] for tree in (x, y))
                if came != made:
                    raise ValueError(
                        f"only a layer that keeps the dtype can be repeated, but of {came[0]} it made {made[0]}. Try "
                        f"x.astype({made[0]}), the dtype that init saw."
                    )
                return y, s

        return jax.lax.scan(step, x, (params, state, jnp.arange(n, dtype=jnp.uint32)), length=n)

    return Layer(init, apply)


def frozen(layer: Any) -> Layer:
    """A layer whose parameters stay as they are: no optimiser sees them, and no penalty or weight decay does.

    They are kept in the state: params are ``()``, the state is ``{"params": ..., "state": ...}``. So trained weights
    are put in by dict work: ``state | {"params": trained}``. Gradients go through to what is before it. In training the
    layer does what it does in training: it drops, and running statistics move on.

    Args:
      layer: a layer or a function.

    Raises:
      TypeError: when it's neither.

    >>> import jaxnet as jn
    >>> params, state, out = frozen(jn.dense(3)).init(jax.random.key(0), (2,))
    >>> params, state["params"]["w"].shape
    ((), (2, 3))
    """
    child = _child("frozen", layer)
    path = functools.partial(_path, f"frozen > {child.name}")

    def init(key, spec):
        with path(), _observed_by(None):
            params, state, out = child.init(key, spec)
        return (), {"params": params, "state": state}, out

    def apply(params, state, x, *, key=None, train=False):
        if not isinstance(state, dict) or set(state) != {"params", "state"}:
            raise ValueError(f"frozen > {child.name}: expected a state {{'params', 'state'}}, got {_outline(state)}")
        with path():
            fixed = jax.lax.stop_gradient(state["params"])
            y, inner = child.apply(fixed, state["state"], x, key=key, train=train)
        return y, {"params": state["params"], "state": inner}

    return Layer(init, apply)


def with_dtype(layer: Any, dtype: Any, *, loss_scale: Any = None) -> Layer:
    """Arithmetic in another dtype, such as bfloat16: parameters stay as they were drawn, outputs in the input's dtype.

    Parameters and a floating input are cast on the way in, the output on the way back, and so are the gradients. The
    state isn't cast: running statistics in half precision would stop moving. So ``with_dtype(frozen(layer), ...)``
    would compute with uncast weights; write ``frozen(with_dtype(layer, ...))``.

    Args:
      layer: a layer or a function.
      dtype: a floating dtype.
      loss_scale: what gradients are multiplied by while they are in ``dtype``, and divided by when they are cast back;
        a number, may be traced. It changes no gradient, but for rounding, and but for what the layer closes over (a
        traced hyperparameter), whose gradient comes out so many times as large. None means 1024 for float16 and 1 for
        all others: float16 has nothing between 0 and 6e-8, where the gradient of a mean over a batch often lies, while
        bfloat16 has the range of float32 and needs no scale.

    The scale is fixed. Where a scaled gradient goes beyond float16's 65504 it is infinite, which training takes for a
    divergence; then a smaller scale, or bfloat16, is the way out.

    Raises:
      TypeError: for a layer that's neither layer nor function, or a dtype that isn't floating. ValueError: for a scale
        that isn't positive.

    Source: Micikevicius et al., "Mixed precision training" (2018), who scale the loss; scaling at the layer's borders
    is the same by the chain rule, and lets other layers stay in float32.

    >>> import jaxnet as jn
    >>> net = with_dtype(jn.dense(3), jnp.bfloat16)
    >>> params, state, out = net.init(jax.random.key(0), (2,))
    >>> params["w"].dtype, net.apply(params, state, jnp.ones((1, 2)))[0].dtype
    (dtype('float32'), dtype('float32'))
    """
    child, dtype = _child("with_dtype", layer), jnp.dtype(dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"with_dtype: dtype must be floating, such as jnp.bfloat16, got {dtype}")
    if isinstance(loss_scale, (int, float)) and not loss_scale > 0:
        raise ValueError(f"with_dtype: loss_scale must be positive, got {loss_scale!r}")
    scale = (1024 if dtype == jnp.float16 else 1) if loss_scale is None else loss_scale
    path = functools.partial(_path, f"with_dtype > {child.name}")

    def floating(change):
        return lambda a: change(a) if jnp.issubdtype(a.dtype, jnp.floating) else a

    @floating
    def scaled_up(a):
        return _scaled_gradient(a, jnp.asarray(scale, a.dtype))

    @floating
    def scaled_down(a):
        return _scaled_gradient(a, 1 / jnp.asarray(scale, a.dtype))

    inside = floating(lambda a: scaled_down(a).astype(dtype))

    def init(key, spec):
        with path():
            return child.init(key, spec)

    def apply(params, state, x, *, key=None, train=False):
        dtypes = [a.dtype for a in jax.tree.leaves(x) if jnp.issubdtype(a.dtype, jnp.floating)]
        came = dtypes[0] if dtypes else jnp.dtype(jnp.float32)
        outside = floating(lambda a: scaled_up(a.astype(came)))
        with path():
            given = jax.tree.map(inside, params), jax.tree.map(scaled_down, state), jax.tree.map(inside, x)
            y, new_state = child.apply(*given, key=key, train=train)
        new_state = jax.tree.map(lambda new, old: scaled_up(new.astype(old.dtype)), new_state, state)
        return jax.tree.map(outside, y), new_state

    return Layer(init, apply)


def remat(layer: Any) -> Layer:
    """The same layer, which keeps nothing for its gradient but its input, and computes the rest again when it's needed.

    Less memory for at most one more forward pass: ``repeat(remat(block), n)`` keeps one activation a block.

    Args:
      layer: a layer or a function.

    Raises:
      TypeError: when it's neither.

    Source: Chen et al., "Training deep nets with sublinear memory cost" (2016); ``jax.checkpoint``.

    >>> import jaxnet as jn
    >>> net = remat(jn.serial(jn.dense(100), jnp.tanh, jn.dense(1)))
    >>> params, state, out = net.init(jax.random.key(0), (2,))
    >>> out.shape
    (1,)
    """
    child = _child("remat", layer)
    path = functools.partial(_path, f"remat > {child.name}")

    def init(key, spec):
        with path():
            return child.init(key, spec)

    def apply(params, state, x, *, key=None, train=False):
        @jax.checkpoint
        def run(params, state, x, key):
            return child.apply(params, state, x, key=key, train=train)

        with path():
            return run(params, state, x, key)

    return Layer(init, apply)


def time_distributed(layer: Any) -> Layer:
    """One layer at every time step, with the same weights: ``[batch, time, ...]`` to ``[batch, time, ...]``.

    For layers to which the time axis would be something else, such as a convolution over the images of a film. Layers
    that work on features (dense, normalisation of features, activations) take sequences as they are.

    Args:
      layer: a layer or a function, of one step's shape.

    Input: an array, or a ``Sequence``, whose steps past the end come out as zeros and count in no batch statistics.
    Parameters and state are the layer's. To a layer inside all steps are one batch: what dropout draws there depends on
    how long the padding is, and outside, on the sequences, it doesn't.

    Raises:
      TypeError: when it's neither a layer nor a function. ValueError: from ``init``, for examples without a time axis.

    >>> import jaxnet as jn
    >>> net = time_distributed(jn.serial(jn.conv(6, (3, 3)), jax.nn.relu, jn.global_avg_pool))
    >>> params, state, out = net.init(jax.random.key(0), (20, 28, 28, 1))  # twenty images
    >>> out.shape
    (20, 6)
    """
    child = _child("time_distributed", layer)
    path = functools.partial(_path, f"time_distributed > {child.name}")

    def init(key, spec):
        values, lengths = sequence_spec(spec, rank=1)
        with path():
            time, *step = as_spec(values, rank=1).shape
            active = values.active if isinstance(values, Spec) and step else None
            params, state, out = child.init(key, Spec(tuple(step), as_spec(values).dtype, active))
            out = as_spec(out)
        out = Spec((time, *out.shape), out.dtype, out.active if out.shape else None)
        return params, state, out if lengths is None else Sequence(out, lengths)

    def apply(params, state, x, *, key=None, train=False):
        values = x.values if isinstance(x, Sequence) else x
        if values.ndim < 2:
            raise ValueError(f"time_distributed: expected x of shape [batch, time, ...], got {values.shape}")
        counted, short = valid_rows(), short_rows()
        if isinstance(x, Sequence):
            short = None
            values = x.replace(values).values
            counted = x.mask if counted is None else x.mask & counted[:, None]  # [batch, time]
        elif counted is not None:
            counted = jnp.broadcast_to(counted[:, None], values.shape[:2])
        short = None if short is None else short * values.shape[1]
        with path(), counting_rows(None if counted is None else counted.reshape(-1), short):
            folded = values.reshape(-1, *values.shape[2:])  # [batch * time, ...]
            y, state = child.apply(params, state, folded, key=key, train=train)
        y = y.reshape(*values.shape[:2], *y.shape[1:])
        return (x.replace(y) if isinstance(x, Sequence) else y), state

    return Layer(init, apply)


class Children:
    """The children of one combinator: their names, their keys, their trees, and their path in what is raised."""

    def __init__(self, name: str, layers: tuple[Any, ...], named: dict[str, Any]):
        if layers and named:
            raise TypeError(
                f"{name}: give either positional children, {name}(a, b), or named ones, {name}(first=a, second=b)"
            )
        self.name = name
        self.named: bool = bool(named)
        self.names: tuple[str, ...] | tuple[int, ...] = tuple(named) or tuple(range(len(layers)))
        given = tuple(named.values()) or layers
        self._layers = tuple(
            _child(f"{name}[{child}]", value, name) for child, value in zip(self.names, given, strict=True)
        )

    def __len__(self) -> int:
        return len(self._layers)

    def pack(self, trees: Any) -> Any:
        """One tree of a tree for each child: a tuple, or a dict by name."""
        return dict(zip(self.names, trees, strict=True)) if self.named else tuple(trees)

    def unpack(self, params: Any, state: Any) -> list[tuple[Any, Any]]:
        """Each child's params and state; a ValueError when they aren't those of so many children."""
        for kind, trees in (("params", params), ("state", state)):
            if _names(trees) != set(self.names):
                raise ValueError(
                    f"{self.name}: expected {kind} for the children {list(self.names)}, got {_outline(trees)}"
                )
        return [(params[child], state[child]) for child in self.names]

    def path(self, i: int) -> contextlib.AbstractContextManager[None]:
        """What is raised in here says in which child."""
        before = f"{self._layers[i - 1].name} > " if i and self.name == "serial" else ""
        return _path(f"{self.name}[{self.names[i]}] {before}{self._layers[i].name}")

    def init(self, i: int, key: Any, spec: Any) -> tuple[Any, Any, Any]:
        """Child ``i``'s ``init``, with a key of its own."""
        child, observer = self._layers[i], _observer.get()
        path = () if observer is None else (*observer[1], str(self.names[i]))
        with self.path(i), _observed_by(None if observer is None else (observer[0], path)):
            if isinstance(spec, (tuple, list)) and all(hasattr(n, "__index__") for n in spec):
                spec = as_spec(tuple(spec))  # a layer of one's own needn't know of shapes
            params, state, out = child.init(None if key is None else jax.random.fold_in(key, i), spec)
        if observer is not None:
            observer[0].append(Made(path, child, spec, params, state, out))
        return params, state, out

    def apply(self, i: int, params: Any, state: Any, x: Any, key: Any, train: bool) -> tuple[Any, Any]:
        """Child ``i``'s ``apply``, with a key of its own."""
        with self.path(i):
            child_key = None if key is None else jax.random.fold_in(key, i)
            return self._layers[i].apply(params, state, x, key=child_key, train=train)


def _merged(children: Children, merge: Any = "sum") -> Layer:
    """The children side by side, their outputs merged."""

    def init(key, spec):
        made = [children.init(i, key, spec) for i in range(len(children))]
        outs = [out for *_, out in made]
        with _path(children.name):
            out = _merged_spec(children, merge, [_values_spec(out) for out in outs])
        lengths = [out.lengths for out in outs if isinstance(out, Sequence)]
        if lengths and len(lengths) < len(outs):
            raise ValueError(
                f"{children.name}: some of {list(children.names)} make a Sequence of it and others an array"
            )
        pack = children.pack
        return pack(p for p, *_ in made), pack(s for _, s, _ in made), Sequence(out, lengths[0]) if lengths else out

    def apply(params, state, x, *, key=None, train=False):
        ys, new_state = [], []
        for i, (p, s) in enumerate(children.unpack(params, state)):
            y, s = children.apply(i, p, s, x, key, train)
            ys.append(y)
            new_state.append(s)
        join = merge if callable(merge) else _MERGES[merge]
        if isinstance(ys[0], Sequence):
            joined: Any = join(*(y.values for y in ys))
            return ys[0].replace(joined), children.pack(new_state)
        return join(*ys), children.pack(new_state)

    def named(layer):
        layer.init.__qualname__ = children.name
        return layer

    return named(Layer(init, apply))


_MERGES: dict[Any, Callable[..., Any]] = {
    "concat": lambda *ys: jnp.concatenate(ys, axis=-1),
    "sum": lambda *ys: functools.reduce(operator.add, ys),
    "product": lambda *ys: functools.reduce(operator.mul, ys),
}


def _reversed(x: Any) -> Any:
    """What is over time, each sequence turned round within its own length; an array that isn't over time, as it is."""
    if not isinstance(x, Sequence):
        return x if x.ndim < 3 else jnp.flip(x, axis=1)
    steps = jnp.arange(x.values.shape[1])[None, :]
    turned = jnp.minimum(x.steps, steps.shape[1])[:, None] - 1 - steps
    index = jnp.where(turned >= 0, turned, steps)  # [batch, time]; padding stays where it is
    rows = jnp.arange(index.shape[0])[:, None]
    values = jnp.asarray(x.values).at[rows, index].get(unique_indices=True, mode="promise_in_bounds")
    return Sequence(values, x.lengths)


def _joined(forward: Any, backward: Any) -> Any:
    if isinstance(forward, Sequence):
        return Sequence(_joined(forward.values, backward.values), forward.lengths)
    return _MERGES["concat"](forward, backward)


def _kind(out: Any) -> Any:
    """What two outputs must have in common to be set side by side: all but the number of features."""
    return type(out), _values_spec(out).shape[:-1]


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence)


def _is_spec(value: Any) -> bool:
    return isinstance(value, (Spec, Sequence))


def _merged_spec(children: Children, merge: Any, outs: list[Spec]) -> Spec:
    shapes, masks = {name: out.shape for name, out in zip(children.names, outs, strict=True)}, [o.active for o in outs]
    dtype = jnp.result_type(*(out.dtype for out in outs))
    if callable(merge):
        name = function_name(merge)
        if any(mask is not None for mask in masks):
            raise ValueError(
                f"the branches have features that aren't active in every lane, and what {name} makes of them isn't "
                f"known. Try merge='sum', 'product' or 'concat', or declare the width before it with static=True."
            )
        try:
            made = jax.eval_shape(merge, *(jax.ShapeDtypeStruct((2, *out.shape), out.dtype) for out in outs))
        except Exception as error:
            raise ValueError(f"{name} can't merge outputs of shapes {shapes}: {error}") from error
        if getattr(made, "shape", (0,))[:1] != (2,):
            raise ValueError(f"{name} must keep the batch axis of 2 in front, but of {shapes} it made {made}")
        return Spec(made.shape[1:], made.dtype)
    if merge == "concat":
        if any(not out.shape or out.shape[:-1] != outs[0].shape[:-1] for out in outs):
            raise ValueError(f"outputs are joined on the last axis, so the others must be equal, but got {shapes}")
        active = None
        if any(mask is not None for mask in masks):
            every = zip(masks, outs, strict=True)
            active = jnp.concatenate([jnp.ones(o.shape[-1], bool) if m is None else m for m, o in every])
        return Spec((*outs[0].shape[:-1], sum(out.shape[-1] for out in outs)), dtype, active)
    if any(out.shape != outs[0].shape for out in outs):
        hint = ". Try residual(layer, shortcut), with a layer that makes the same shape of the input"
        raise ValueError(
            f"outputs must have the same shape to be merged by {merge}, but got {shapes}"
            + (hint if children.name == "residual" else "")
        )
    join = jnp.logical_or if merge == "sum" else jnp.logical_and
    return Spec(outs[0].shape, dtype, _common_mask(masks, children.names, join))


def _common_mask(masks: list[Any], names: Any, join: Callable[[Any, Any], Any]) -> Any:
    """The mask of features that are active alike; those of traced sizes, which can't be compared, are joined."""
    if all(mask is None for mask in masks):
        return None
    known = [np.asarray(mask) for mask in masks if mask is not None and not isinstance(mask, Tracer)]
    if any(mask is None for mask in masks) or any((mask != known[0]).any() for mask in known):
        without = [name for name, mask in zip(names, masks, strict=True) if mask is None]
        raise ValueError(
            f"all of {list(names)} must have the same active features, but "
            + (f"in {without} all are active and in the others some aren't" if without else "their masks differ")
            + ". Give them the same Size, or declare it with static=True."
        )
    return functools.reduce(join, masks)


def _child(where: str, value: Any, name: str | None = None) -> Layer:
    if not isinstance(value, Layer) and not callable(value):
        name = name or where
        hint = f"; try {name}(*layers)" if isinstance(value, (list, tuple)) and name != where else ""
        raise TypeError(f"{where}: expected a layer or a function, got {value!r}{hint}")
    return as_layer(value)


def _values_spec(spec: Any) -> Spec:
    return as_spec(spec.values if isinstance(spec, Sequence) else spec)


@contextlib.contextmanager
def _path(path: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError) as error:
        raise _at(path, error) from error


def _at(path: str, error: Exception) -> Exception:
    """The same kind of error with the path in front; what JAX raises with other arguments becomes a ``ValueError``."""
    kind = type(error) if type(error) in (ValueError, TypeError) else ValueError
    return kind(f"{path}: {error}")


def _names(trees: Any) -> set[Any] | None:
    """What the children are called whose trees these are, or None where they are of nothing."""
    if isinstance(trees, Mapping):
        return set(trees)
    return set(range(len(trees))) if isinstance(trees, (tuple, list)) else None


def _outline(trees: Any) -> str:
    if isinstance(trees, Mapping):
        return f"{list(trees)}"
    return f"a {type(trees).__name__}" + (f" of {len(trees)}" if isinstance(trees, (tuple, list)) else "")


_scaled_gradient = jax.custom_jvp(lambda x, scale: x)  # x, with a gradient `scale` times as large


@_scaled_gradient.defjvp
def _scaled_gradient_jvp(primals, tangents):
    (x, scale), (dx, _) = primals, tangents
    return x, transposable(_SCALED, None, scale, dx, like=dx)


_SCALED = Linear(lambda _, scale, dx: dx, lambda _, scale, dy: scale * dy)


class Made(NamedTuple):
    """What one child's ``init`` was given and returned; ``path`` is the children's names from the outermost in."""

    path: tuple[str, ...]
    layer: Layer
    spec: Any
    params: Any
    state: Any
    out: Any


_observer: contextvars.ContextVar[tuple[list[Made], tuple[str, ...]] | None] = contextvars.ContextVar(
    "observer", default=None
)


@contextlib.contextmanager
def observing() -> Iterator[list[Made]]:
    """Inside, what combinators' children make in ``init`` is listed, innermost first; ``summary`` shows it.

    The copies of ``repeat`` and what is ``frozen`` aren't looked into: their trees aren't those of the children.
    """
    made: list[Made] = []
    with _observed_by((made, ())):
        yield made


@contextlib.contextmanager
def _observed_by(observer: Any) -> Iterator[None]:
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)
