import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.ops.scan import SEGMENT, guarded_steps, repetitions, scan_steps

LENGTHS = [0, 1, 2, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT, 2 * SEGMENT + 5]
LANES = 5


# A carry of several shapes; a lane goes bad at its own step, in one of its arrays, and stays bad from there on.


def step(own, carry, shared, index):
    bad = index == own["bad"]
    w = carry["w"] * 0.9 + shared["x"][index] * own["rate"]
    m = carry["m"] + jnp.where(bad, jnp.nan, jnp.sum(w))
    new = {"w": w, "m": m, "count": carry["count"] + 1, "stopped": carry["stopped"]}
    return jax.tree.map(lambda a, b: jnp.where(carry["stopped"] < 0, a, b), new, carry)


def healthy(carry):
    return jnp.isfinite(carry["m"])


def freeze(carry, index):
    return carry | {"stopped": index.astype(jnp.int32)}


def arguments(bad, length):
    lanes = len(bad)
    own = {"bad": jnp.array(bad, jnp.int32), "rate": jnp.linspace(0.1, 0.5, lanes)}
    carry = {
        "w": jax.random.normal(jax.random.key(0), (lanes, 2, 3)),
        "m": jnp.arange(lanes, dtype=jnp.float32),
        "count": jnp.zeros(lanes, jnp.int32),
        "stopped": jnp.full(lanes, -1, jnp.int32),
    }
    return own, carry, {"x": jax.random.normal(jax.random.key(1), (max(length, 1), 2, 3))}


def naive(own, carry, shared, length):
    """Step by step on the host, one lane: the definition."""
    one = jax.jit(step)
    for index in range(length):
        new = one(own, carry, shared, jnp.int32(index))
        carry = new if healthy(new) else freeze(carry, jnp.int32(index))
    return carry


def lane(tree, i):
    return jax.tree.map(lambda leaf: leaf[i], tree)


def assert_equal(got, wanted):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


PATTERNS = {
    "none": [-1] * LANES,
    "first step": [0, -1, -1, -1, -1],
    "middle": [-1, SEGMENT // 2, -1, -1, -1],
    "ends": [SEGMENT - 1, SEGMENT, 2 * SEGMENT - 1, 2 * SEGMENT, -1],
    "one segment, three lanes": [3, 7, 7, SEGMENT - 2, -1],
    "all": [5, 4, SEGMENT + 3, 2 * SEGMENT + 4, 0],
}


@pytest.mark.parametrize("bad", PATTERNS.values(), ids=PATTERNS.keys())
@pytest.mark.parametrize("length", LENGTHS)
def test_unhealthy_lanes_are_frozen_at_their_step(length, bad):
    own, carry, shared = arguments(bad, length)
    run = jax.jit(jax.vmap(guarded_steps(step, length, healthy, freeze), in_axes=(0, 0, None)))
    got = run(own, carry, shared)
    for i, at in enumerate(bad):
        wanted = naive(lane(own, i), lane(carry, i), shared, length)
        assert_equal(lane(got, i), wanted)
        stopped = 0 <= at < length
        assert int(got["stopped"][i]) == (at if stopped else -1)
        assert int(got["count"][i]) == (at if stopped else length)


@pytest.mark.parametrize("length", LENGTHS)
def test_one_lane_equals_many(length):
    own, carry, shared = arguments(PATTERNS["ends"], length)
    run = guarded_steps(step, length, healthy, freeze)
    together = jax.jit(jax.vmap(run, in_axes=(0, 0, None)))(own, carry, shared)
    alone = jax.jit(run)
    for i in range(LANES):
        assert_equal(lane(together, i), alone(lane(own, i), lane(carry, i), shared))


@pytest.mark.parametrize("length", LENGTHS)
def test_scan_steps_equals_a_loop(length):
    own, carry, shared = arguments(PATTERNS["none"], length)
    run = scan_steps(step, length)
    together = jax.jit(jax.vmap(run, in_axes=(0, 0, None)))(own, carry, shared)
    for i in range(LANES):
        wanted = naive(lane(own, i), lane(carry, i), shared, length)
        assert_equal(lane(together, i), wanted)
        assert_equal(jax.jit(run)(lane(own, i), lane(carry, i), shared), wanted)


def test_a_carry_that_starts_the_same_in_all_lanes():
    own, carry, shared = arguments(PATTERNS["one segment, three lanes"], 40)
    run = guarded_steps(step, 40, healthy, freeze)
    got = jax.jit(jax.vmap(run, in_axes=(0, None, None)))(own, lane(carry, 0), shared)
    for i in range(LANES):
        assert_equal(lane(got, i), naive(lane(own, i), lane(carry, 0), shared, 40))


def test_inputs_of_each_lanes_own():
    own, carry, shared = arguments(PATTERNS["ends"], 40)
    each = {"x": shared["x"][None] * jnp.arange(1.0, 1 + LANES).reshape(-1, 1, 1, 1)}
    got = jax.jit(jax.vmap(guarded_steps(step, 40, healthy, freeze)))(own, carry, each)
    for i in range(LANES):
        assert_equal(lane(got, i), naive(lane(own, i), lane(carry, i), lane(each, i), 40))


def test_vmap_of_vmap():
    own, carry, shared = arguments(PATTERNS["ends"][:4], 40)
    run = guarded_steps(step, 40, healthy, freeze)

    def fold(tree):
        return jax.tree.map(lambda leaf: leaf.reshape(2, 2, *leaf.shape[1:]), tree)

    got = jax.jit(jax.vmap(jax.vmap(run, (0, 0, None)), (0, 0, None)))(fold(own), fold(carry), shared)
    assert_equal(got, fold(jax.jit(jax.vmap(run, (0, 0, None)))(own, carry, shared)))


def test_a_lane_that_is_already_frozen_stays_and_costs_no_second_look():
    own, carry, shared = arguments([3, -1, -1, -1, -1], 40)
    carry = carry | {"stopped": jnp.array([7, -1, -1, -1, -1], jnp.int32)}
    got = jax.jit(jax.vmap(guarded_steps(step, 40, healthy, freeze), (0, 0, None)))(own, carry, shared)
    assert_equal(lane(got, 0), lane(carry, 0))
    assert got["count"].tolist() == [0, 40, 40, 40, 40]


def test_no_lane_touches_another():
    """The others' numbers are, bit for bit, those of a run in which nobody goes bad."""
    run = jax.jit(jax.vmap(guarded_steps(step, 70, healthy, freeze), (0, 0, None)))
    own, carry, shared = arguments([-1] * LANES, 70)
    calm = run(own, carry, shared)
    stormy = run(own | {"bad": jnp.array([-1, 40, -1, 0, -1], jnp.int32)}, carry, shared)
    for i in (0, 2, 4):
        jax.tree.map(np.testing.assert_array_equal, lane(stormy, i), lane(calm, i))


def test_the_number_of_repetitions_is_in_the_name():
    own, carry, shared = arguments([-1], 70)
    jaxpr = jax.make_jaxpr(guarded_steps(step, 70, healthy, freeze))(lane(own, 0), lane(carry, 0), shared)
    assert "jaxnet_steps_70" in str(jaxpr)
    assert repetitions("jaxnet_steps_70") == 70 and repetitions("relu") == 1
