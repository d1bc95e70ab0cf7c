import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn

PARAMS = ({"w": jnp.array([[3.0, 0.3], [4.0, 0.4]]), "b": jnp.array([9.0, 9.0])}, {"w": jnp.full((2, 2, 1, 2), 3.0)})
NOTHING = jax.tree.map(jnp.zeros_like, PARAMS)


def after(constraint, params, updates):
    return optax.apply_updates(params, constraint.update(updates, constraint.init(params), params)[0])


def test_a_unit_above_the_limit_comes_back_to_it_and_others_stay():
    first, second = after(jn.max_norm(2.0), PARAMS, NOTHING)
    np.testing.assert_allclose(first["w"], [[1.2, 0.3], [1.6, 0.4]], rtol=1e-6)  # 3-4-5, from 5 to 2
    np.testing.assert_array_equal(first["b"], PARAMS[0]["b"])
    np.testing.assert_allclose(second["w"], 1.0, rtol=1e-6)  # a kernel of 4 entries of 3 has norm 6


def test_the_norm_is_that_after_the_update():
    w = jnp.array([[3.0], [0.0]])
    np.testing.assert_allclose(after(jn.max_norm(4.0), w, jnp.array([[3.0], [8.0]])), [[2.4], [3.2]], rtol=1e-6)
    np.testing.assert_array_equal(after(jn.max_norm(4.0), w, jnp.array([[-1.0], [1.0]])), [[2.0], [1.0]])


def test_where_chooses_by_the_path():
    first, second = after(jn.max_norm(1.0, where=lambda path: path in ("0/b", "1/w")), PARAMS, NOTHING)
    np.testing.assert_array_equal(first["w"], PARAMS[0]["w"])
    np.testing.assert_allclose(first["b"], [1, 1])  # of a vector, each entry is a unit
    np.testing.assert_allclose(second["w"], 0.5, rtol=1e-6)


def test_in_a_trial_the_limit_differs_from_lane_to_lane_and_holds(key):
    generator = np.random.default_rng(0)
    train = generator.normal(size=(40, 3)).astype(np.float32), generator.integers(2, size=40).astype(np.int32)

    def trial(limit):
        net = jn.serial(jn.dense(jn.Size(6, 4)), jnp.tanh, jn.dense(2))
        optimizer = optax.chain(optax.adam(0.1), jn.max_norm(limit))
        return jn.Trial(net, jn.losses.softmax_cross_entropy, optimizer, batch_size=10)

    keys = jn.training.Keys.of(key)
    program = jn.training.supervised(trial, jn.data.as_data(train, "train"), None, order_key=key, shuffle="shared")
    limits = jnp.array([0.1, 0.5])
    carry = jax.jit(
        jax.vmap(lambda limit: program.advance(limit, program.init(limit, keys.init(0)), key, program.feed(0)))
    )(limits)
    for layer in (0, 2):
        norms = np.linalg.norm(carry.params[layer]["w"], axis=1)  # [lanes, units]
        assert (norms <= np.asarray(limits)[:, None] * (1 + 1e-5)).all()
        np.testing.assert_allclose(norms.max(axis=1), limits, rtol=1e-5)
    np.testing.assert_array_equal(carry.params[0]["w"][..., 4:], 0)


def test_zero_weights_stay_zero_and_finite_in_half_precision():
    w = jnp.zeros((3, 2), jnp.float16).at[0, 0].set(60000)
    kept = after(jn.max_norm(2.0), w, jnp.zeros_like(w))
    assert kept.dtype == jnp.float16
    np.testing.assert_allclose(kept, [[2, 0], [0, 0], [0, 0]], atol=40)  # 60000 - 59998 in steps of 32


@pytest.mark.parametrize("limit", [0, -1.0, float("nan")])
def test_a_limit_that_is_not_positive_is_refused(limit):
    with pytest.raises(ValueError, match="max_norm: limit must be positive, got"):
        jn.max_norm(limit)


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match="max_norm: needs the parameters"):
        jn.max_norm(1.0).update(PARAMS, optax.EmptyState())
    with pytest.raises(
        TypeError, match="max_norm: where must be a function of a parameter's path such as 'head/w', got 'w'"
    ):
        jn.max_norm(1.0, where="w")
