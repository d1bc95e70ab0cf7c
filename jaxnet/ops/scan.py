"""A loop over steps whose ``vmap`` stays a loop over steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

SEGMENT = 32  # steps between looks at whether all is finite; a look costs about one step's pass over the parameters


def scan_steps(step: Callable[[Any, Any, Any, jax.Array], Any], length: int) -> Callable[[Any, Any, Any], Any]:
    """``run(own, carry, shared) -> carry``: ``carry = step(own, carry, shared, i)`` for i in 0 ... length - 1.

    ``vmap`` of ``lax.scan`` moves the lane axis of everything carried to the front. Here ``vmap(run)`` is a scan
    around ``vmap(step)``, and the lane axis lies where the backend multiplies fastest (``lane_axis``). What all lanes
    share stays without a lane axis, so that a matmul of shared inputs with every lane's weights is one matmul.

    Args:
      step: pure; it must not close over traced values.
      length: the number of steps, a Python integer.
    """

    def loop(lanes, own, carry, shared):
        one = lanes(step)
        return jax.lax.scan(lambda c, i: (one(own, c, shared, i), None), carry, jnp.arange(length))[0]

    return _lanes_inside(loop, 1)


def guarded_steps(
    step: Callable[[Any, Any, Any, jax.Array], Any],
    length: int,
    healthy: Callable[[Any], jax.Array],
    freeze: Callable[[Any, jax.Array], Any],
    between: Callable[[Any], Any] | None = None,
    held: Callable[[Any], jax.Array] | None = None,
) -> Callable[[Any, Any, Any], Any]:
    """``scan_steps`` in which a lane that stops being healthy stays for ever as it was before that step.

    The same as ``new = step(...); carry = new if healthy(new) else freeze(carry, i)`` at every step, without its cost,
    for steps that don't make an unhealthy carry healthy again (NaN stays NaN in a sum): steps are taken on trust,
    ``SEGMENT`` at a time; only when a lane comes out unhealthy is the segment taken again from its start, one step at a
    time, and each unhealthy lane frozen at its step.

    Args:
      step, length: as for ``scan_steps``; ``step`` must leave a frozen carry as it is.
      healthy: whether a carry may be kept; true of every carry that was frozen.
      freeze: marks a carry as frozen at a step.
      between: what is made of a carry before it is looked at.
      held: how many steps may be taken, from a carry, before that; by default any number.
    """

    def choose(flags, carries, index):
        (take, stop), (new, old) = flags, carries
        kept = jax.tree.map(lambda a, b: jnp.where(take, a, b), new, old)
        return jax.tree.map(lambda a, b: jnp.where(stop, a, b), freeze(kept, index), kept)

    def loop(lanes, own, carry, shared):
        one = lanes(step)

        def body(at):
            first, watched, carry = at
            count = jnp.where(first < watched, 1, jnp.minimum(SEGMENT, length - first))
            if held is not None:
                count = jnp.minimum(count, jnp.min(lanes.look(held)(carry)))
            new = jax.lax.fori_loop(first, first + count, lambda i, c: one(own, c, shared, i), carry)
            new = new if between is None else lanes.change(between)(new)
            fine = lanes.look(healthy)(new)
            settled = jnp.all(fine) | (count == 1)
            carry = lanes.settle(choose)((fine & settled, ~fine & settled), (new, carry), first)
            first, watched = jnp.where(settled, first + count, first), jnp.where(settled, watched, first + count)
            return first, watched, carry

        return jax.lax.while_loop(lambda at: at[0] < length, body, (jnp.int32(0), jnp.int32(0), carry))[2]

    return _lanes_inside(loop, length)


class _OneLane(NamedTuple):
    """How a loop calls the functions of one lane when there is one lane: as they are."""

    def __call__(self, step):
        return step

    look = change = settle = __call__


class _Lanes(NamedTuple):
    """How a loop calls them for many: vmapped, given the axes of what the loop was called with."""

    own: Any
    carry: Any
    shared: Any

    def __call__(self, step):
        return jax.vmap(step, in_axes=(self.own, self.carry, self.shared, None), out_axes=self.carry)

    def look(self, healthy):
        return jax.vmap(healthy, in_axes=(self.carry,))

    def change(self, between):
        return jax.vmap(between, in_axes=(self.carry,), out_axes=self.carry)

    def settle(self, choose):
        return jax.vmap(choose, in_axes=(0, (self.carry, self.carry), None), out_axes=self.carry)


def repetitions(name: str) -> int:
    """How often the body of a jitted function of this name runs, for those that hide it from a reader of the jaxpr."""
    return int(name.removeprefix(_REPEATED)) if name.startswith(_REPEATED) else 1


_REPEATED = "jaxnet_steps_"


def _lanes_inside(loop: Callable[..., Any], repeated: int) -> Callable[[Any, Any, Any], Any]:
    """``loop(lanes, own, carry, shared)`` as a function of one lane whose ``vmap`` calls the loop once, with lanes."""

    def named(*args):
        return loop(*args)

    named.__name__ = f"{_REPEATED}{repeated}"  # a while loop doesn't say how often it runs; its name does

    @custom_vmap
    def run(own, carry, shared):
        return jax.jit(named, static_argnums=0)(_OneLane(), own, carry, shared)

    @run.def_vmap  # pyright: ignore[reportFunctionMemberAccess]
    def _(lanes, batched, own, carry, shared):
        def inside(leaf, has_lanes=True):
            return jnp.moveaxis(leaf, 0, lane_axis(leaf)) if has_lanes else leaf

        own_batched, carry_batched, shared_batched = batched
        # A carry that starts the same in all lanes doesn't stay so.
        carry = jax.tree.map(lambda a, b: a if b else jnp.broadcast_to(a, (lanes, *a.shape)), carry, carry_batched)
        axes = _Lanes(
            own=jax.tree.map(lambda leaf, b: lane_axis(leaf) if b else None, own, own_batched),
            carry=jax.tree.map(lane_axis, carry),
            shared=jax.tree.map(lambda b: 0 if b else None, shared_batched),
        )
        own, carry = jax.tree.map(inside, own, own_batched), jax.tree.map(inside, carry)
        carry = loop(axes, own, carry, shared)
        carry = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, lane_axis(leaf), 0), carry)
        return carry, jax.tree.map(lambda _: True, carry)

    return run


def lane_axis(leaf: jax.Array) -> int:
    """Where the lane axis of an array with lanes lies inside the loop: first, or on accelerators before the last axis.

    There ``[in, lanes, out]`` makes the product of shared inputs with all lanes' weights one plain matmul. On a CPU the
    lanes' weights are better off contiguous: a few lanes then stay in the cache.
    """
    return 0 if jax.default_backend() == "cpu" or leaf.ndim < 3 else leaf.ndim - 2
