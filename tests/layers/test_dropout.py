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


# Whole channels.


def test_whole_channels_are_dropped_at_all_positions_together(key):
    layer, shape = jn.dropout(0.5, whole_channels=True), (40, 3, 4, 30)
    y, _ = layer.apply((), (), jnp.ones(shape), key=key, train=True)
    assert set(np.unique(y)) == {0, 2}
    np.testing.assert_array_equal(y, np.broadcast_to(y[:, :1, :1], shape))
    assert abs((y == 0).mean() - 0.5) < 4 * (0.25 / (40 * 30)) ** 0.5
    flat, _ = layer.apply((), (), jnp.ones((40, 30)), key=key, train=True)
    np.testing.assert_array_equal(y[:, 0, 0], flat)
    np.testing.assert_array_equal(flat, drop(0.5, jnp.ones((40, 30)), key))  # of vectors, it's plain dropout


def test_whole_channels_of_a_sequence_are_dropped_at_all_its_steps(key):
    layer = jn.dropout(0.5, whole_channels=True)
    x = jn.Sequence(jnp.ones((2, 3, 50)), jnp.array([3, 1]))
    y, _ = layer.apply((), (), x, key=key, train=True)
    np.testing.assert_array_equal(y.values[0], np.broadcast_to(y.values[0, :1], (3, 50)))
    np.testing.assert_array_equal(y.values[1, 1:], 0)


# Noise.


def noisy(deviation, x, key):
    layer = jn.gaussian_noise(deviation)
    params, state, _ = layer.init(None, x.shape[1:])
    return layer.apply(params, state, x, key=key, train=True)[0]


def test_noise_is_normal_with_the_deviation_and_independent(key):
    noise = np.asarray(noisy(0.5, jnp.ones((200, 500)), key) - 1, np.float64) / 0.5  # 100,000 numbers
    assert abs(noise.mean()) < 4 / 316
    assert abs((noise**2).mean() - 1) < 4 * 2**0.5 / 316
    assert abs((noise**4).mean() - 3) < 4 * 96**0.5 / 316
    assert abs((noise[1:] * noise[:-1]).mean()) < 0.015 and abs((noise[:, 1:] * noise[:, :-1]).mean()) < 0.015


def test_noise_is_added_in_training_only_and_repeats_with_the_key(key):
    x = jax.random.normal(key, (3, 4))
    assert jn.gaussian_noise(0.5).apply((), (), x)[0] is x
    np.testing.assert_array_equal(noisy(0.5, x, key), noisy(0.5, x, key))
    assert (noisy(0.5, x, key) != noisy(0.5, x, jax.random.key(1))).all()
    np.testing.assert_array_equal(noisy(0.0, x, key), x)


def test_the_deviation_may_be_traced_and_scales_the_same_draws(key):
    x = jnp.zeros((3, 5))
    lanes = jax.vmap(lambda deviation: noisy(deviation, x, key))(jnp.array([1.0, 3.0]))
    np.testing.assert_allclose(lanes[1], 3 * lanes[0], rtol=1e-6)


def test_noise_passes_the_gradient_through(key):
    assert jax.grad(lambda x: noisy(2.0, x, key).sum())(jnp.ones((2, 3))).tolist() == [[1] * 3] * 2


@pytest.mark.parametrize("deviation", [-0.1, -1, float("nan")])
def test_a_negative_deviation_is_refused(deviation):
    with pytest.raises(ValueError, match="gaussian_noise: deviation must not be negative, got"):
        jn.gaussian_noise(deviation)


def test_noise_without_a_key_is_refused():
    with pytest.raises(ValueError, match="gaussian_noise: needs a key in training, got none"):
        jn.gaussian_noise(0.5).apply((), (), jnp.ones((2, 3)), train=True)


@pytest.mark.parametrize("layer", [jn.dropout(0.5), jn.gaussian_noise(0.1)], ids=["dropout", "noise"])
def test_of_integers_float32_is_made(layer, key):
    params, state, out = layer.init(key, jn.Spec((40,), jnp.int32))
    x = jnp.ones((2, 40), jnp.int32)
    y, _ = layer.apply(params, state, x, key=key, train=True)
    assert out.dtype == y.dtype == layer.apply(params, state, x)[0].dtype == jnp.float32
    assert np.isfinite(y).all() and len(np.unique(y)) > 1
