"""Recurrences over time: a scan whose gradient leaves the products with the weights' gradients outside the loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxnet.ops.linear import Linear, transposable
from jaxnet.ops.meshes import batch_zeros, split, varying_alike
from jaxnet.ops.products import gradient_of_weights

# On an accelerator, how many steps a turn of the loop takes, where nobody says: with four, a training step of an LSTM
# 58-128 over 20 steps starts 172 kernels in place of 262, with ten 154, and compiles for 1.2 of the time, with ten 2.2.
# (A prototype's, on one H100, took 0.6 of the time with five.)
UNROLL = 4

Arrays = tuple[jax.Array, ...]
Note = Callable[[jax.Array], jax.Array]


class Cell(NamedTuple):
    """One step of a recurrence, elementwise but for the products that it is given.

    ``advance(x, product, carry, note) -> carry``: ``x`` is the step's input times ``w`` and ``product`` the output
    before it times ``u``, each with its bias, one array ``[batch, units]`` for each gate; ``carry`` are ``arrays``
    such, the output first. Gates are arrays of their own, since in a loop on a CPU slices of one are read slowly.
    ``note(array)`` gives the array back, to be gone on with, and where a gradient is wanted notes it for ``retreat``;
    it is called ``notes`` times, with arrays ``[batch, units]``.

    ``retreat(noted, gradient) -> (x, product, carry)``: given the gradient with respect to the new carry, the gradients
    with respect to the step's inputs. Where a gate's ``x`` and ``product`` have the same gradient it is the same
    object. Without ``retreat``, JAX differentiates the scan.

    A unit for which all that goes in is zero must stay zero.
    """

    gates: int
    arrays: int
    advance: Callable[[Arrays, Arrays, Arrays, Note], Arrays]
    retreat: Callable[[Arrays, Arrays], tuple[Arrays, Arrays, Arrays]] | None = None
    notes: int = 0


class Weights(NamedTuple):
    """``w`` ``[in_features, gates * units]``, ``u`` ``[units, gates * units]``, and biases ``[gates * units]`` or None:
    ``b`` of the product with ``w``, ``b_u`` of that with ``u``."""

    w: jax.Array
    u: jax.Array
    b: jax.Array
    b_u: jax.Array | None = None


class _Options(NamedTuple):
    cell: Cell
    reverse: bool
    unroll: int | bool
    outputs: bool


def recur(
    cell: Cell,
    weights: Weights,
    x: jax.Array,
    carry: Arrays,
    *,
    inside: jax.Array | None = None,
    kept: jax.Array | None = None,
    reverse: bool = False,
    unroll: int | bool | None = None,
    outputs: bool = True,
) -> tuple[Arrays, jax.Array | None]:
    """Runs a cell over time: ``(last carry, outputs [time, batch, units])``.

    The inputs' product with ``w`` is one matmul before the loop. The gradient of ``u`` (and ``w``) is one after the
    loop that goes back, over all steps at once; what JAX makes of a scan adds up a matmul for each step. Tangents are
    those that JAX takes of the scan (``ops/linear.py``), so that all derivatives are there, forward ones too.

    Args:
      cell, weights: what a step does, of one dtype with ``x`` and ``carry``.
      x: ``[time, batch, in_features]``.
      carry: arrays ``[batch, units]`` to start from.
      inside: ``[time, batch, 1]``, bool, or None: steps that are not leave the carry alone, and their outputs are zero.
      kept: ``[batch, units]``, bool, or None: which outputs the product with ``u`` sees.
      reverse: from the last step to the first.
      unroll: steps in a turn of the loop, as for ``lax.scan``; None for ``UNROLL`` on an accelerator, one on a CPU.
      outputs: whether they are wanted; without them there is None.
    """
    if x.shape[0] == 0:
        return carry, batch_zeros(carry[0], (0, *carry[0].shape), carry[0].dtype, axis=1) if outputs else None
    run = _scan if cell.retreat is None else _recur
    if unroll is None:
        unroll = 1 if jax.default_backend() == "cpu" else UNROLL
    leaves, tree = jax.tree.flatten((weights, x, carry, inside, kept))
    arguments = jax.tree.unflatten(tree, varying_alike(*leaves))
    carry, made = run(_Options(cell, reverse, unroll, outputs), *arguments)
    if made is not None and inside is not None:
        made = jnp.where(inside, made, jnp.zeros((), made.dtype))
    return carry, made


def step(
    cell: Cell,
    weights: Weights,
    x: Arrays,
    carry: Arrays,
    inside: jax.Array | None,
    kept: jax.Array | None,
    note: Note = lambda array: array,
) -> Arrays:
    """One step, of inputs that have been multiplied with ``w``, an array for each gate."""
    h = carry[0] if kept is None else jnp.where(kept, carry[0], jnp.zeros((), carry[0].dtype))
    product = _biased(_split(h @ weights.u, cell.gates), weights.b_u)
    new = cell.advance(_biased(x, weights.b), product, carry, note)
    if inside is not None:
        new = tuple(jnp.where(inside, a, b) for a, b in zip(new, carry, strict=True))
    return new


def project(cell: Cell, x: jax.Array, w: jax.Array) -> Arrays:
    """``x @ w`` for each gate, without the bias, which costs nothing inside of the loop.

    On a CPU a matmul for each gate, which saves a copy of all of them; an accelerator prefers one that is wide, and so
    does a CPU where gates are narrow.
    """
    if jax.default_backend() == "cpu" and w.shape[1] >= 32 * cell.gates:
        return tuple(x @ columns for columns in _split(w, cell.gates))
    return _split(x @ w, cell.gates)


def _scan(options, weights, x, carry, inside, kept):
    def body(carry, at):
        x, inside = at
        carry = step(options.cell, weights, x, carry, inside, kept)
        return carry, carry[0] if options.outputs else None

    xs = project(options.cell, x, weights.w), inside
    return jax.lax.scan(body, carry, xs, reverse=options.reverse, unroll=options.unroll)


_recur = jax.custom_jvp(_scan, nondiff_argnums=(0,))


@_recur.defjvp
def _recur_jvp(options, primals, tangents):
    outputs, saved = _forward(options, *primals)
    return outputs, transposable(_TANGENT, options, saved, tangents[:3], like=outputs)  # without those of the masks


def _tangent(options, saved, tangents):
    *primals, _, _, inside, kept = saved

    def scan(weights, x, carry):
        return _scan(options, weights, x, carry, inside, kept)

    return jax.jvp(scan, tuple(primals), tangents)[1]


def _forward(options, weights, x, carry, inside, kept):
    shape = len(x), *carry[0].shape
    # On a CPU a loop writes what it computes straight into a larger array only where nothing else reads it; all else is
    # written twice. So it reads it from there, and the barrier keeps XLA from seeing through that. On an accelerator
    # all notes are one array: for each, XLA would start a kernel, and compute again in it what is noted.
    in_place = jax.default_backend() == "cpu"
    stacks = (batch_zeros(carry[0], shape, carry[0].dtype, axis=1),) * options.cell.notes if in_place else ()

    def body(loop, at):
        carry, stacks = loop
        x, inside, t = at
        noted = []

        def note(array):
            if in_place:
                stack = jax.lax.dynamic_update_index_in_dim(stacks[len(noted)], array, t, 0)
                noted.append(jax.lax.optimization_barrier(stack))
                return jax.lax.dynamic_index_in_dim(noted[-1], t, 0, keepdims=False)
            noted.append(array)
            return array

        carry = step(options.cell, weights, x, carry, inside, kept, note)
        stacks, notes = (tuple(noted), None) if in_place else ((), jnp.concatenate(noted, axis=-1))
        return (carry, stacks), (carry[0], notes)

    xs = project(options.cell, x, weights.w), inside, jnp.arange(len(x))
    (last, stacks), (made, notes) = jax.lax.scan(
        body, (carry, stacks), xs, reverse=options.reverse, unroll=options.unroll
    )
    return (last, made if options.outputs else None), (weights, x, carry, made, stacks or notes, inside, kept)


def _backward(options, saved, gradients):
    weights, x, (start, *_), made, noted, inside, kept = saved
    reverse = options.reverse

    # Transposed once: in the loop, Eigen takes twice as long for a matrix that isn't in order.
    back = jax.lax.optimization_barrier(weights.u.T)

    def masked(h):
        return h if kept is None else jnp.where(kept, h, jnp.zeros((), h.dtype))

    def body(gradient, at):
        of_output, noted, inside = at
        noted = noted if isinstance(noted, tuple) else _split(noted, options.cell.notes)
        passed = (0,) * len(gradient)
        if of_output is not None:
            gradient = (gradient[0] + of_output, *gradient[1:])
        if inside is not None:
            zero = jnp.zeros((), start.dtype)
            passed = tuple(jnp.where(inside, zero, array) for array in gradient)
            gradient = tuple(jnp.where(inside, array, zero) for array in gradient)
        dx, dproduct, dcarry = options.cell.retreat(noted, gradient)
        own = tuple(None if a is b else b for a, b in zip(dproduct, dx, strict=True))
        dproduct = jnp.concatenate(dproduct, axis=-1)  # [batch, gates * units]
        dh = masked(dproduct @ back)
        dcarry = (dcarry[0] + dh, *dcarry[1:])
        return tuple(a + b for a, b in zip(dcarry, passed, strict=True)), (dproduct, own)

    xs = gradients[1], noted, inside
    dcarry, (dproduct, own) = jax.lax.scan(body, gradients[0], xs, reverse=not reverse, unroll=options.unroll)
    dx = dproduct
    if any(part is not None for part in own):
        parts = zip(_split(dproduct, options.cell.gates), own, strict=True)
        dx = jnp.concatenate([a if b is None else b for a, b in parts], axis=-1)
    # The first step saw the state it started from, each of the others the output before it.
    before = (made[1:], start[None]) if reverse else (start[None], made[:-1])
    d_weights = Weights(
        w=_of_matrix(weights.w, x, dx),
        u=_of_matrix(weights.u, masked(jnp.concatenate(before)), dproduct),
        b=dx.sum((0, 1)),
        b_u=None if weights.b_u is None else dproduct.sum((0, 1)),
    )
    return d_weights, dx @ weights.w.T, dcarry


_TANGENT = Linear(_tangent, _backward)


def _split(array: jax.Array, gates: int) -> Arrays:
    return tuple(jnp.split(array, gates, axis=-1))


def _of_matrix(w: jax.Array, x: jax.Array, dy: jax.Array) -> jax.Array:
    """The gradient of ``w`` where ``x @ w`` has the gradient ``dy``, ``[time, batch, ...]``."""
    if any(split(dy)):
        return jax.linear_transpose(lambda w: x @ w, w)(dy)[0]
    return gradient_of_weights(x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1]))


def _biased(parts: Arrays, bias: jax.Array | None) -> Arrays:
    if bias is None:
        return parts
    return tuple(part + b[None] for part, b in zip(parts, _split(bias, len(parts)), strict=True))
