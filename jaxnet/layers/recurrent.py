"""Recurrent layers: a cell, and a scan over time that all cells share; ``bidirectional`` is a combinator.

The product of the inputs with ``w`` stands outside the scan, over all time steps at once; inside it, the gates of a
step are one matmul of the hidden state with ``u`` (``ops/recurrence.py``, which also has the gradient). Columns of
``w``, ``u`` and ``b`` lie gate by gate, each gate with all its units (under sizes with all of its bound, the active
ones first): ``[in_features, gates * units]``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from jaxnet.hints import did_you_mean
from jaxnet.layer import Layer, Size, Spec, as_spec, check_features, units_of
from jaxnet.layers.elementwise import elementwise
from jaxnet.ops.meshes import batch_zeros
from jaxnet.ops.parameters import Initializer, parameter, parameter_dtype
from jaxnet.ops.random import position_uniform
from jaxnet.ops.recurrence import Cell, Weights, project, recur, step
from jaxnet.sequence import Sequence, sequence_spec

Returns = Literal["sequence", "last", "state", "both", "step"]


def rnn(
    units: int | Size,
    activation: Callable[[Any], Any] = jnp.tanh,
    *,
    returns: Returns = "sequence",
    reverse: bool = False,
    recurrent_dropout: Any = 0.0,
    unroll: int | bool | None = None,
    w_init: Initializer = jax.nn.initializers.lecun_normal(),
    u_init: Initializer = jax.nn.initializers.lecun_normal(),
) -> Layer:
    """The plain recurrence, ``h' = activation(x @ w + h @ u + b)``, from ``[batch, time, in_features]``.

    Input: an array, or a ``Sequence``; with a state to start from, the pair ``(x, state)``. Without one (or with None)
    it starts from zeros. Each sequence of a batch gives what it gives alone: padding changes no output, no final state
    and no gradient, outputs past the end are zero, and a sequence of length 0 ends in the state it starts from.

    Args:
      units: of the hidden state; a ``Size`` lets it differ from lane to lane.
      activation: an elementwise function, usually ``jnp.tanh`` or ``jax.nn.relu``.
      returns: "sequence": all outputs ``[batch, time, units]``, a ``Sequence`` if the input is one; "last": the output
        of the step that was taken last, ``[batch, units]``; "state": the final state, here the same array; "both": the
        pair of sequence and state. "step": there is no scan, x is a single step ``[batch, in_features]``, and what
        comes is the pair ``(output, state)``: a layer with the same parameters that takes one step at a time, as in
        generation.
      reverse: from the last step of each sequence to its first; outputs stay at their inputs' places.
      recurrent_dropout: in training, the share of the hidden units that the product with ``u`` doesn't see; a number in
        [0, 1), may be traced. One mask for an example, the same at all its steps (and, with "step", under the same key)
        and for all gates; what is kept is divided by ``1 - recurrent_dropout``.
      unroll: how many steps a turn of the scan's loop takes, True for all: more are faster on an accelerator (not on a
        CPU), and compile longer. The default is one on a CPU and four on an accelerator.
      w_init, u_init: draw ``w`` and ``u``, gate by gate. Entries of ``u`` have variance ``1 / units``, so a step keeps
        the expected norm of the state, as an orthogonal matrix does. An orthogonal ``u`` is the usual choice where
        widths are integers (``u_init=jax.nn.initializers.orthogonal()``); it can't be the default, since its entries
        depend on each other, and so on the bound of a ``Size``.

    Parameters: ``w`` ``[in_features, units]``, ``u`` ``[units, units]``, ``b`` ``[units]``, zero at first; in the
    input's dtype where that is floating, else float32. State: none, except for the mask of the active units where there
    are sizes and ``activation(0)`` isn't 0.

    Raises:
      TypeError, ValueError: here, for units or an option of the wrong kind; from ``init``, when an example isn't
        ``(time, in_features)``, or a given state not ``(units,)``; from ``apply``, for an ``x`` or a state of another
        shape, and in training with ``recurrent_dropout`` and without a key.

    Source: Elman, "Finding structure in time" (1990); the dropout is Gal and Ghahramani, "A theoretically grounded
    application of dropout in recurrent neural networks" (2016), with the mask that all gates share. PyTorch has two
    biases, whose sum is our ``b``.

    >>> layer = rnn(1, jax.nn.relu)  # with weights of 1 it adds up
    >>> params = {"w": jnp.ones((1, 1)), "u": jnp.ones((1, 1)), "b": jnp.zeros(1)}
    >>> x = Sequence(jnp.array([[[1.0], [2.0], [3.0]], [[4.0], [5.0], [6.0]]]), jnp.array([3, 2]))
    >>> layer.apply(params, (), x)[0].values[..., 0].tolist()
    [[1.0, 3.0, 6.0], [4.0, 9.0, 0.0]]
    >>> rnn(1, jax.nn.relu, returns="last").apply(params, (), (x, jnp.array([[0.0], [10.0]])))[0].tolist()
    [[6.0], [19.0]]
    """
    function = elementwise(activation)

    kind = _Kind(
        "rnn", functools.partial(_rnn_cell, activation), lambda key, units, spec: ({}, function.init(None, spec)[1])
    )
    return _recurrent(kind, units, returns, reverse, recurrent_dropout, unroll, w_init, u_init)


def gru(
    units: int | Size,
    *,
    returns: Returns = "sequence",
    reverse: bool = False,
    recurrent_dropout: Any = 0.0,
    unroll: int | bool | None = None,
    w_init: Initializer = jax.nn.initializers.lecun_normal(),
    u_init: Initializer = jax.nn.initializers.lecun_normal(),
) -> Layer:
    """Gated recurrent units: a reset gate r, an update gate z and a candidate n, from ``[batch, time, in_features]``.

    ``r, z = sigmoid(x @ w + h @ u + b)``, each with its own columns; ``n = tanh(x @ w + b + r * (h @ u + b_u))``;
    ``h' = (1 - z) * n + z * h``.

    Args, input, output, errors: as for ``rnn``.

    Parameters: ``w`` ``[in_features, 3 * units]``, ``u`` ``[units, 3 * units]`` and ``b`` ``[3 * units]``, in the order
    r, z, n; ``b_u`` ``[units]``, the bias that the reset gate multiplies together with the candidate's product with
    ``u`` (penalties leave it out as they do ``b``). No state.

    Source: Cho et al., "Learning phrase representations using RNN encoder-decoder" (2014), in the form that resets
    after the matmul (cuDNN, PyTorch, flax), so that there is one matmul. PyTorch has two biases for each gate: ``b`` is
    their sum for r and z; for n it is the first of them, and ``b_u`` the second.

    >>> params = {"w": jnp.zeros((2, 3)), "u": jnp.zeros((1, 3)), "b": jnp.zeros(3), "b_u": jnp.zeros(1)}
    >>> h = jnp.array([[1.0]])  # with weights of 0 both gates are one half, and so is what is kept at each step
    >>> gru(1).apply(params, (), (jnp.ones((1, 3, 2)), h))[0][..., 0].tolist()
    [[0.5, 0.25, 0.125]]
    """

    def begin(key, units, spec):
        return {"b_u": parameter(key, jax.nn.initializers.zeros, (units,), dtype=spec.dtype)}, ()

    def biases(params):
        return params["b"], jnp.pad(params["b_u"], (2 * params["b_u"].shape[0], 0))

    kind = _Kind("gru", lambda state: _GRU, begin, biases)
    return _recurrent(kind, units, returns, reverse, recurrent_dropout, unroll, w_init, u_init)


def lstm(
    units: int | Size,
    *,
    forget_bias: Any = 1.0,
    returns: Returns = "sequence",
    reverse: bool = False,
    recurrent_dropout: Any = 0.0,
    unroll: int | bool | None = None,
    w_init: Initializer = jax.nn.initializers.lecun_normal(),
    u_init: Initializer = jax.nn.initializers.lecun_normal(),
) -> Layer:
    """Long short-term memory, from ``[batch, time, in_features]``; its state is the pair ``(h, c)``.

    ``i, f, g, o = x @ w + h @ u + b``, each with its own columns;
    ``c' = sigmoid(f + forget_bias) * c + sigmoid(i) * tanh(g)`` and ``h' = sigmoid(o) * tanh(c')``, the output.

    Args:
      forget_bias: added to the forget gate at every step, so that with ``b`` at its initial zero the cell remembers,
        and early gradients reach far back; may be traced.
      Others, input, output, errors: as for ``rnn``. A given state, and what "state", "both" and "step" return, is a
        pair of arrays ``[batch, units]``.

    Parameters: ``w`` ``[in_features, 4 * units]``, ``u`` ``[units, 4 * units]`` and ``b`` ``[4 * units]``, in the order
    i, f, g, o. No state.

    Source: Hochreiter and Schmidhuber, "Long short-term memory" (1997), with the forget gate of Gers et al., "Learning
    to forget" (2000), and the bias of Jozefowicz et al. (2015). PyTorch has two biases, whose sum is our ``b`` plus
    ``forget_bias`` for the forget gate.

    >>> params = {"w": jnp.zeros((2, 4)), "u": jnp.zeros((1, 4)), "b": jnp.zeros(4)}
    >>> state = (jnp.zeros((1, 1)), jnp.ones((1, 1)))  # with weights of 0, c is multiplied by sigmoid(1) = 0.73
    >>> (h, c), _ = lstm(1, returns="state").apply(params, (), (jnp.ones((1, 2, 2)), state))
    >>> c.tolist()  # 0.73 squared
    [[0.5344]]
    """

    def biases(params):
        b = params["b"]
        units = b.shape[0] // 4
        return b.at[units : 2 * units].add(jnp.asarray(forget_bias, b.dtype)), None

    kind = _Kind("lstm", lambda state: _LSTM, lambda key, units, spec: ({}, ()), biases)
    return _recurrent(kind, units, returns, reverse, recurrent_dropout, unroll, w_init, u_init)


# By their values. Any other activation is left to JAX: what it closes over has a gradient, too.
_SLOPES: dict[Any, Callable[[jax.Array], jax.Array]] = {
    jnp.tanh: lambda y: 1 - y * y,
    jax.nn.relu: lambda y: (y > 0).astype(y.dtype),
}


def _rnn_cell(activation: Callable[[Any], Any], state: Any) -> Cell:
    slope = _SLOPES.get(activation) if isinstance(activation, Hashable) else None
    if slope is None:
        apply = elementwise(activation).apply
        return Cell(1, 1, lambda x, product, carry, note: (apply((), state, x[0] + product[0])[0],))

    def advance(x, product, carry, note):
        return (note(activation(x[0] + product[0])),)

    def retreat(noted, gradient):
        gates = (slope(noted[0]) * gradient[0],)
        return gates, gates, (jnp.zeros_like(noted[0]),)

    return Cell(1, 1, advance, retreat, notes=1)


def _gru_advance(x, product, carry, note):
    h = note(carry[0])
    r, z = (note(jax.nn.sigmoid(a + b)) for a, b in zip(x[:2], product[:2], strict=True))
    n = note(jnp.tanh(x[2] + r * note(product[2])))
    return ((1 - z) * n + z * h,)


def _gru_retreat(noted, gradient):
    h, r, z, product, n = noted
    (dh,) = gradient
    dn = dh * (1 - z) * (1 - n * n)
    dr, dz = dn * product * r * (1 - r), dh * (h - n) * z * (1 - z)
    return (dr, dz, dn), (dr, dz, dn * r), (dh * z,)


def _lstm_advance(x, product, carry, note):
    i, f, g, o = (a + b for a, b in zip(x, product, strict=True))
    i, f, g, o = note(jax.nn.sigmoid(i)), note(jax.nn.sigmoid(f)), note(jnp.tanh(g)), note(jax.nn.sigmoid(o))
    new = f * note(carry[1]) + i * g
    return o * note(jnp.tanh(new)), new


def _lstm_retreat(noted, gradient):
    i, f, g, o, c, t = noted
    dh, dc = gradient
    dc = dc + dh * o * (1 - t * t)
    gates = dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g * g), dh * t * o * (1 - o)
    return gates, gates, (jnp.zeros_like(dh), dc * f)


_GRU, _LSTM = Cell(3, 1, _gru_advance, _gru_retreat, notes=5), Cell(4, 2, _lstm_advance, _lstm_retreat, notes=6)


class _Kind(NamedTuple):
    """A recurrent layer by its cell.

    ``cell(state)`` is the cell, ``begin(key, units, spec) -> (params, state)``, of the output's spec, makes what the
    layer has beside ``w``, ``u`` and ``b``, and ``biases(params)`` are those that ``Weights`` has.
    """

    name: str
    cell: Callable[[Any], Cell]
    begin: Callable[[jax.Array, int | Size, Spec], tuple[dict[str, jax.Array], Any]]
    biases: Callable[[dict[str, jax.Array]], tuple[jax.Array, jax.Array | None]] = lambda params: (params["b"], None)


def _recurrent(
    kind: _Kind,
    units: int | Size,
    returns: Returns,
    reverse: bool,
    recurrent_dropout: Any,
    unroll: int | bool | None,
    w_init: Initializer,
    u_init: Initializer,
) -> Layer:
    """A cell as a layer, by a scan over time or, for "step", as it is."""
    name, one_step, cell = kind.name, returns == "step", kind.cell(())
    check_features(name, units, "units")
    if returns not in (known := get_args(Returns)):
        raise ValueError(
            f"{name}: returns must be one of {', '.join(map(repr, known))}, got {returns!r}"
            f"{did_you_mean(returns, known)}"
        )
    if one_step and reverse:
        raise ValueError(f'{name}: a single step has no direction; leave out reverse, or returns="step"')
    if isinstance(recurrent_dropout, (int, float)) and not 0 <= recurrent_dropout < 1:
        raise ValueError(
            f"{name}: recurrent_dropout is the share that is dropped and must be in [0, 1), got {recurrent_dropout!r}"
        )
    if unroll is not None and not isinstance(unroll, bool):
        check_features(name, unroll, "unroll")
    width, active = units_of(units)
    wanted_spec = "(in_features,)" if one_step else "(time, in_features), or a Sequence of them"

    def init(key, spec):
        x, given = split_spec(spec)
        x, lengths = sequence_spec(x)
        x = as_spec(x)
        if len(x.shape) != (1 if one_step else 2) or (one_step and lengths is not None):
            raise ValueError(
                f"{name}: expected examples {wanted_spec}, but got the shape {x.shape}"
                + (" of a Sequence" if lengths is not None else "")
                + ("" if one_step else '. A single step of all examples goes to a layer with returns="step".')
            )
        dtype = parameter_dtype(x)
        out = Spec((width,), dtype, active)
        if given is not None:
            _check_given_spec(name, cell.arrays, given, out)

        def gates(key, initializer, shape, active):
            def draw(gate):
                return parameter(jax.random.fold_in(key, gate), initializer, shape, active=active, dtype=dtype)

            drawn = jax.vmap(draw, out_axes=-2)(jnp.arange(cell.gates))  # [..., gates, units]
            return drawn.reshape((*drawn.shape[:-2], -1))

        w_key, u_key, own_key = (jax.random.fold_in(key, i) for i in range(3))
        params, state = kind.begin(own_key, units, out)
        params = {
            "w": gates(w_key, w_init, (x.shape[-1], units), (x.active, None)),
            "u": gates(u_key, u_init, (units, units), None),
            "b": gates(w_key, jax.nn.initializers.zeros, (units,), None),
        } | params
        final = out if cell.arrays == 1 else (out,) * cell.arrays
        over_time = Spec((*x.shape[:-1], width), dtype, active)
        if lengths is not None:
            over_time = Sequence(over_time, lengths)
        outs = {"sequence": over_time, "last": out, "state": final, "both": (over_time, final), "step": (out, final)}
        return params, state, outs[returns]

    def apply(params, state, x, *, key=None, train=False):
        x, given = x if isinstance(x, tuple) else (x, None)
        lengths, inside = None, None
        if isinstance(x, Sequence):
            lengths, inside = x.lengths, x.mask.T[..., None]  # [time, batch, 1]
            x = x.replace(x.values).values
        in_features, width = params["w"].shape[0], params["u"].shape[0]
        if x.ndim != (2 if one_step else 3) or x.shape[-1] != in_features:
            raise ValueError(
                f"{name}: expected x of shape [batch, {'' if one_step else 'time, '}{in_features}], the in_features "
                f"that init saw, but got {x.shape}. "
                + ("With a time axis, leave out" if one_step else "For a single time step, try")
                + ' returns="step".'
            )
        dtype = jnp.result_type(x, *jax.tree.leaves(params))
        cast = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)
        x, weights = x.astype(dtype), Weights(cast["w"], cast["u"], *kind.biases(cast))
        if given is None:
            carry = (batch_zeros(x, (x.shape[0], width), dtype),) * cell.arrays
        else:
            carry = _given_state(name, cell.arrays, given, (x.shape[0], width), dtype)
        kept = None
        if train and not (isinstance(recurrent_dropout, (int, float)) and recurrent_dropout == 0):
            if key is None:
                raise ValueError(
                    f"{name}: recurrent_dropout needs a key in training, got none; try apply(..., "
                    f"key=jax.random.key(0))"
                )
            kept = position_uniform(key, *map(jnp.arange, carry[0].shape)) >= recurrent_dropout  # [batch, units]
            weights = weights._replace(u=weights.u / jnp.asarray(1 - recurrent_dropout, dtype))

        own = kind.cell(state)
        if one_step:
            carry = step(own, weights, project(own, x, weights.w), carry, None, kept)
            over_time = carry[0]
        else:
            # Backwards it passes the padding first, which leaves the state alone, so each sequence starts at its end.
            outputs = returns not in ("last", "state")  # those that nobody reads would cost time in the gradient
            carry, over_time = recur(
                own, weights, x.swapaxes(0, 1), carry, inside=inside, kept=kept, reverse=reverse, unroll=unroll,
                outputs=outputs,
            )  # fmt: skip
            if over_time is not None:
                over_time = over_time.swapaxes(0, 1)  # [batch, time, units]
                over_time = over_time if lengths is None else Sequence(over_time, lengths)
        final = carry[0] if cell.arrays == 1 else carry
        pair = (over_time, final)
        return {"sequence": over_time, "last": carry[0], "state": final, "both": pair, "step": pair}[returns], state

    init.__qualname__ = name
    return Layer(init, apply)


def split_spec(spec: Any) -> tuple[Any, Any]:
    """The specs ``(x, state)`` of a pair of them; of any other, itself and None.

    >>> split_spec(((7, 3), (4,))), split_spec((7, 3))
    (((7, 3), (4,)), ((7, 3), None))
    """
    pair = isinstance(spec, (tuple, list)) and len(spec) == 2 and isinstance(spec[0], (Spec, Sequence, tuple, list))
    return tuple(spec) if pair else (spec, None)  # pyright: ignore[reportReturnType]


def _check_given_spec(name: str, arrays: int, given: Any, out: Spec) -> None:
    specs = given if arrays > 1 else (given,)
    right = isinstance(specs, (tuple, list)) and len(specs) == arrays
    try:
        for spec in map(as_spec, specs if right else ()):
            # Masks may be traced and can't be compared; that there is one says that the state comes from a sized layer.
            right = right and spec.shape == out.shape and (spec.active is None) == (out.active is None)
    except TypeError:  # a pair where one is wanted
        right = False
    if not right:
        wanted = f"shape {out.shape}" + ("" if out.active is None else " with a mask, from a layer of the same Size")
        raise ValueError(f"{name}: the given state must be {_described(arrays, wanted)}, but got {given}")


def _given_state(name: str, count: int, given: Any, shape: tuple[int, int], dtype: Any) -> tuple[jax.Array, ...]:
    arrays = given if count > 1 else (given,)
    shapes = jax.tree.map(jnp.shape, arrays)
    if not isinstance(arrays, (tuple, list)) or len(arrays) != count or any(s != shape for s in shapes):
        wanted = _described(count, f"shape {shape}")
        raise ValueError(f"{name}: the given state must be {wanted}, [batch, units], but got {shapes}")
    return tuple(jnp.asarray(array, dtype) for array in arrays)


def _described(arrays: int, wanted: str) -> str:
    return f"of {wanted}" if arrays == 1 else f"a pair (h, c), each of {wanted}"
