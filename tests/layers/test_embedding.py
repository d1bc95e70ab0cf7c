import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn

# Embedding.


def test_each_integer_gets_its_row_in_any_shape(key):
    params, state, out = jn.embedding(6, 4).init(key, (2, 3))
    tokens = jnp.array([[[0, 5, 2], [2, 2, 1]]])
    y, _ = jn.embedding(6, 4).apply(params, state, tokens)
    assert out.shape == (2, 3, 4) and params["w"].shape == (6, 4)
    for place in np.ndindex(tokens.shape):
        np.testing.assert_array_equal(y[place], params["w"][tokens[place]])


def test_the_gradient_sums_over_the_places_of_an_integer(key):
    g = jax.random.normal(key, (2, 3, 4))
    tokens = jnp.array([[1, 1, 0], [4, 1, 0]])
    gradient = jax.grad(lambda w: jnp.vdot(jn.embedding(5, 4).apply({"w": w}, (), tokens)[0], g))(jnp.ones((5, 4)))
    wanted = np.zeros((5, 4))
    np.add.at(wanted, np.asarray(tokens), np.asarray(g, np.float64))
    np.testing.assert_allclose(gradient, wanted, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint16, jnp.int32])
def test_an_integer_out_of_range_is_nan_and_trains_nothing(dtype):
    outside = [5, 100] if dtype == jnp.uint16 else [5, -1]
    tokens = jnp.array([[0, *outside]], dtype)

    def total(w):
        y, _ = jn.embedding(5, 2).apply({"w": w}, (), tokens)
        return y[0, 0].sum(), y

    gradient, y = jax.grad(total, has_aux=True)(jnp.ones((5, 2)))
    assert y[0, 0].tolist() == [1, 1] and np.isnan(y[0, 1:]).all()
    assert gradient.tolist() == [[1, 1]] + [[0, 0]] * 4
    assert np.isnan(jn.one_hot(5).apply((), (), tokens)[0][0, 1:]).all()


def test_fit_says_that_a_wrong_vocabulary_diverges(key):
    net = jn.serial(jn.embedding(4, 3), jn.flatten, jn.dense(2))
    trial = jn.Trial(net, jn.losses.softmax_cross_entropy, optax.sgd(0.1), batch_size=4)
    tokens = np.arange(12).reshape(6, 2) % 5
    assert jn.fit(trial, (tokens, np.arange(6) % 2), epochs=1, key=key).diverged == 0
    assert jn.fit(trial, (tokens % 4, np.arange(6) % 2), epochs=1, key=key).diverged is None


def test_lanes_share_tokens_and_have_their_own_widths(key):
    tokens = jnp.array([[3, 0], [1, 3]])

    def lane(value, key):
        layer = jn.embedding(4, jn.Size(6, value))
        params, state, out = layer.init(key, (2,))
        gradient = jax.grad(lambda p: jnp.sum(layer.apply(p, state, tokens)[0] ** 2))(params)
        return params["w"], layer.apply(params, state, tokens)[0], gradient["w"], out.active

    keys = jax.random.split(key, 2)
    w, y, gradient, active = jax.vmap(lane)(jnp.array([2, 5]), keys)
    for i, width in enumerate((2, 5)):
        np.testing.assert_array_equal(w[i, :, :width], jn.embedding(4, width).init(keys[i], (2,))[0]["w"])
        assert not w[i, :, width:].any() and not y[i, ..., width:].any() and not gradient[i, :, width:].any()
        np.testing.assert_array_equal(y[i], w[i][tokens])
        np.testing.assert_allclose(gradient[i], 2 * w[i] * np.array([1, 1, 0, 2])[:, None], rtol=1e-6)
        assert active[i].sum() == width


def test_sequences_of_tokens_become_sequences_of_vectors(key):
    tokens = jn.Sequence(jnp.array([[1, 2, 0], [3, 99, -7]]), jnp.array([3, 1]))  # what lies past an end is not read
    spec = jn.Sequence(jn.Spec((3,), jnp.int32), jn.Spec((), jnp.int32))
    for layer, width in ((jn.embedding(4, 2), 2), (jn.one_hot(4), 4)):
        params, state, out = layer.init(key, spec)
        y, _ = layer.apply(params, state, tokens)
        assert out.values.shape == (3, width) and y.values.shape == (2, 3, width)
        assert not y.values[1, 1:].any() and np.isfinite(y.values).all()


def test_the_default_draws_are_standard_normal(key):
    w = jn.embedding(400, 250).init(key, ())[0]["w"]
    assert abs(w.mean()) < 0.013 and abs(w.var() - 1) < 0.02  # four deviations of 100,000 draws


@pytest.mark.parametrize("layer", [jn.embedding(4, 2), jn.one_hot(4)], ids=["embedding", "one_hot"])
def test_what_are_not_integers_is_refused(layer, key):
    with pytest.raises(TypeError, match=rf"{layer.name}: expected x of integers, got float32 of shape \(3,\).*uint8"):
        layer.apply({"w": jnp.ones((4, 2))}, (), jnp.ones(3))
    with pytest.raises(ValueError, match=f"{layer.name}: expected integers, but got features that aren't active"):
        layer.init(key, jn.Spec((3,), active=jnp.ones(3, bool)))


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="embedding: vocabulary must be at least 1, got 0"):
        jn.embedding(0, 3)
    with pytest.raises(TypeError, match="hyperparameter 'words' was used where Python needs an integer"):
        jn.embedding(jn.Size(9, 3, "words"), 3)
    with pytest.raises(TypeError, match="embedding: features must be an integer or a Size, got 2.5"):
        jn.embedding(3, 2.5)
    with pytest.raises(TypeError, match="one_hot: classes must be an integer or a Size, got True"):
        jn.one_hot(True)
    with pytest.raises(ValueError, match="learned_positions: longest must be at least 1, got -2"):
        jn.learned_positions(-2)


# 1-of-K.


def test_one_hot_is_the_identity_matrix_row_by_row():
    layer = jn.one_hot(4)
    params, state, out = layer.init(None, jn.Spec((2, 2), jnp.int32))
    y, _ = layer.apply(params, state, jnp.array([[[3, 0], [1, 2]]]))
    np.testing.assert_array_equal(y[0], np.eye(4)[[[3, 0], [1, 2]]])
    assert out == jn.Spec((2, 2, 4)) and y.dtype == jnp.float32 and params == state == ()


# Positions.


@pytest.mark.parametrize("features", [6, 5])
def test_sinusoidal_positions_equal_the_formula(features, x64):
    """Vaswani et al., sec. 3.5, entry by entry in Python's floats."""
    y, _ = jn.sinusoidal_positions().apply((), (), jnp.ones((2, 7, features), jnp.float64))
    for t in range(7):
        for k in range(features):
            angle = t / 10000 ** (2 * (k // 2) / features)
            np.testing.assert_allclose(y[:, t, k], 1 + (np.sin(angle) if k % 2 == 0 else np.cos(angle)), rtol=1e-12)


def test_frequencies_count_active_features(key):
    active = jnp.array([False, True, True, False, True])
    params, state, _ = jn.sinusoidal_positions().init(key, jn.Spec((4, 5), active=active))
    wide, _ = jn.sinusoidal_positions().apply(params, state, jnp.zeros((1, 4, 5)))
    narrow, _ = jn.sinusoidal_positions().apply((), (), jnp.zeros((1, 4, 3)))
    np.testing.assert_allclose(wide[..., active], narrow, rtol=1e-6)
    assert not wide[..., ~active].any()


def test_learned_positions_are_added_to_the_first_steps(key):
    w = jax.random.normal(key, (5, 2))
    x = jnp.ones((3, 4, 2))
    y, _ = jn.learned_positions(5).apply({"w": w}, (), x)
    np.testing.assert_array_equal(y, x + w[None, :4])


@pytest.mark.parametrize("layer", [jn.sinusoidal_positions(), jn.learned_positions(3)], ids=["sinusoidal", "learned"])
def test_positions_past_the_end_of_a_sequence_are_zero(layer, key):
    x = jn.Sequence(jnp.ones((2, 3, 4)), jnp.array([3, 1]))
    params, state, _ = layer.init(key, (3, 4))
    y, _ = layer.apply(params, state, x)
    alone, _ = layer.apply(params, state, x.values[1:, :1])
    np.testing.assert_allclose(y.values[1, :1], alone[0], rtol=1e-6)
    assert not y.values[1, 1:].any() and y.values[0].all()


def test_shapes_without_time_and_too_long_ones_are_refused(key):
    with pytest.raises(
        ValueError, match=r"sinusoidal_positions: expected floating examples \(time, features\).*\(4,\)"
    ):
        jn.sinusoidal_positions().init(key, (4,))
    with pytest.raises(ValueError, match=r"learned_positions: expected floating examples.*int32"):
        jn.learned_positions(3).init(key, jn.Spec((3, 4), jnp.int32))
    with pytest.raises(
        ValueError, match=r"learned_positions: got 4 time steps.*for 3 only; try learned_positions\(4\)"
    ):
        jn.learned_positions(3).init(key, (4, 2))
    with pytest.raises(ValueError, match="learned_positions: got 4 time steps"):
        jn.learned_positions(3).apply({"w": jnp.ones((3, 2))}, (), jnp.ones((1, 4, 2)))


def test_known_integers_make_no_nan_on_the_way(key):
    """Under ``jax.debug_nans`` outside jit, where a NaN that is made for others would be found."""
    with jax.debug_nans(True):
        layer = jn.embedding(5, 2)
        params, state, _ = layer.init(key, (3,))
        assert layer.apply(params, state, jnp.array([[1, 2, 3]]))[0].shape == (1, 3, 2)
