import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn

# prelu.


def test_prelu_has_a_slope_for_each_feature(key):
    x = jnp.array([[[-1.0, -2.0], [3.0, -0.5]]])
    params = {"slope": jnp.array([0.5, 0.1])}

    def total(params, x):
        y, _ = jn.prelu().apply(params, (), x)
        return y.sum(), y

    (d_params, dx), y = jax.grad(total, argnums=(0, 1), has_aux=True)(params, x)
    np.testing.assert_allclose(y, [[[-0.5, -0.2], [3.0, -0.05]]], rtol=1e-6)
    np.testing.assert_allclose(d_params["slope"], [-1.0, -2.5], rtol=1e-6)
    np.testing.assert_allclose(dx, [[[0.5, 0.1], [1.0, 0.1]]], rtol=1e-6)


def test_prelu_starts_where_it_is_told_also_in_lanes(key):
    assert jn.prelu().init(key, (2, 3))[0]["slope"].tolist() == [0.25] * 3
    lanes = jax.vmap(lambda initial: jn.prelu(initial=initial).init(key, (2,))[0]["slope"])(jnp.array([0.0, 0.5]))
    assert lanes.tolist() == [[0, 0], [0.5, 0.5]]
    spec = jn.Spec((3,), active=jnp.array([True, False, True]))
    assert jn.prelu(initial=0.5).init(key, spec)[0]["slope"].tolist() == [0.5, 0, 0.5]


def test_penalties_leave_slopes_out(key):
    assert float(jn.losses.l2(1.0)(jn.prelu().init(key, (3,))[0])) == 0


# maxout.


def test_maxout_is_the_largest_of_its_pieces_of_each_unit(key):
    """Against one dense layer for each piece."""
    x = jax.random.normal(key, (4, 2, 5))
    params, state, out = jn.maxout(3, pieces=4).init(key, (2, 5))
    params["b"] = jax.random.normal(key, (12,))
    pieces = [
        jn.dense(3).apply({"w": params["w"][:, 3 * i : 3 * i + 3], "b": params["b"][3 * i : 3 * i + 3]}, (), x)[0]
        for i in range(4)
    ]
    y, _ = jn.maxout(3, pieces=4).apply(params, state, x)
    assert out.shape == (2, 3)
    np.testing.assert_allclose(y, np.max(pieces, axis=0), rtol=1e-5, atol=1e-6)


def test_maxout_of_one_piece_is_dense(key):
    params, _, _ = jn.maxout(3, 1).init(key, (5,))
    wanted, _, _ = jn.dense(3).init(key, (5,))
    np.testing.assert_array_equal(params["w"], wanted["w"])


def test_pieces_have_the_variance_of_a_dense_layer(key):
    w = jn.maxout(100, 4).init(key, (250,))[0]["w"]
    np.testing.assert_allclose(w.var() * 250, 1, rtol=0.02)  # 100,000 draws


def test_bad_arguments_of_maxout_are_refused():
    with pytest.raises(ValueError, match="maxout: features must be at least 1, got 0"):
        jn.maxout(0, 2)
    with pytest.raises(TypeError, match="maxout: pieces must be an integer or a Size, got 2.5"):
        jn.maxout(2, 2.5)
    with pytest.raises(TypeError, match="hyperparameter 'pieces' was used where Python needs an integer"):
        jn.maxout(2, jn.Size(4, 2, "pieces"))


# softmax.


def test_softmax_is_jaxs(key):
    x = jax.random.normal(key, (3, 4, 5))
    y, state = jn.softmax.apply((), (), x)
    np.testing.assert_array_equal(y, jax.nn.softmax(x, axis=-1))
    assert state == () and jn.softmax.name == "softmax"


def test_softmax_counts_active_features_only_and_is_stable():
    params, state, _ = jn.softmax.init(None, jn.Spec((4,), active=jnp.array([True, False, True, False])))
    x = jnp.array([[-1000.0, 0.0, -1001.0, 0.0], [500.0, 0.0, 500.0, 0.0]])
    y, _ = jn.softmax.apply(params, state, x)
    share = 1 / (1 + np.exp(-1))
    np.testing.assert_allclose(y, [[share, 0, 1 - share, 0], [0.5, 0, 0.5, 0]], rtol=1e-6)


@pytest.mark.parametrize("layer", [jn.prelu(), jn.maxout(2, 2)], ids=["prelu", "maxout"])
def test_another_width_is_refused(layer, key):
    params, state, _ = layer.init(key, (5,))
    with pytest.raises(
        ValueError, match=rf"{layer.name}: expected x of shape \[batch, ..., 5\].*got \(2, 4\).*moveaxis"
    ):
        layer.apply(params, state, jnp.ones((2, 4)))
