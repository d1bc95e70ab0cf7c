import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn


def drop(rate, x, key):
    layer = jn.dropout(rate)
    params, state, _ = layer.init(None, x.shape[1:])
    return layer.apply(params, state, x, key=key, train=True)[0]


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_rate_is_the_share_that_is_dropped(rate, key):
    y = drop(rate, jnp.ones((200, 500)), key)
    deviation = (rate * (1 - rate) / y.size) ** 0.5  # of a binomial share
    assert abs((y == 0).mean() - rate) < 4 * deviation
    np.testing.assert_allclose(np.unique(y), [0, 1 / (1 - rate)], rtol=1e-6)


def test_each_example_and_each_feature_is_dropped_by_itself(key):
    dropped = np.asarray(drop(0.5, jnp.ones((200, 300)), key) == 0)
    # shares of a row and of a column have deviations of 0.029 and 0.035
    assert abs(dropped.mean(axis=1) - 0.5).max() < 0.15
    assert abs(dropped.mean(axis=0) - 0.5).max() < 0.18
    agreement = (dropped[:-1] == dropped[1:]).mean(), (dropped[:, :-1] == dropped[:, 1:]).mean()
    np.testing.assert_allclose(agreement, 0.5, atol=0.01)


def test_a_rate_of_zero_drops_nothing(key):
    x = jax.random.normal(key, (5, 7))
    np.testing.assert_array_equal(drop(0.0, x, key), x)


def test_evaluation_does_nothing():
    x = jnp.arange(6.0).reshape(2, 3)
    y, state = jn.dropout(0.5).apply((), (), x)
    assert y is x and state == ()


def test_the_gradient_is_the_mask(key):
    x = jax.random.normal(key, (4, 5))
    gradient = jax.grad(lambda x: drop(0.25, x, key).sum())(x)
    np.testing.assert_allclose(gradient, drop(0.25, jnp.ones_like(x), key))


def test_keys_draw_and_repeat():
    x = jnp.ones((8, 50))
    first, again, other = (drop(0.5, x, jax.random.key(i)) for i in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert 100 < (first != other).sum() < 300  # of 400, 200 expected, deviation 10


def test_the_rate_may_be_traced(key):
    x, rates = jnp.ones((3, 40)), jnp.array([0.0, 0.3, 0.8])
    lanes = jax.vmap(lambda rate: drop(rate, x, key))(rates)
    for rate, lane in zip([0.0, 0.3, 0.8], lanes, strict=True):
        np.testing.assert_allclose(lane, drop(rate, x, key), rtol=1e-6)


def test_a_wider_array_starts_with_the_same_draws(key):
    wide = drop(0.5, jnp.ones((8, 3, 20)), key)
    np.testing.assert_array_equal(wide[:5, :2, :11], drop(0.5, jnp.ones((5, 2, 11)), key))


@pytest.mark.parametrize("rate", [1.0, 1, 1.5, -0.1, float("nan"), True])
def test_a_rate_outside_its_interval_is_refused(rate):
    with pytest.raises(ValueError, match=r"dropout: rate is the share that is dropped and must be in \[0, 1\), got"):
        jn.dropout(rate)


def test_training_without_a_key_is_refused():
    with pytest.raises(ValueError, match="dropout: needs a key in training, got none"):
        jn.dropout(0.5).apply((), (), jnp.ones((2, 3)), train=True)
