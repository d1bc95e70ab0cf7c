import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn


@pytest.mark.parametrize("name", ["matrix", "sequence"])
def test_outputs_and_gradients_equal_pytorch(name, torch_reference, x64):
    """PyTorch 2.13's ``nn.Linear``, float64."""
    wanted = torch_reference(f"linear/{name}")
    params = {"w": jnp.asarray(wanted["w"]), "b": jnp.asarray(wanted["b"])}

    def total(params, x):
        y, _ = jn.dense(3).apply(params, (), x)
        return jnp.vdot(y, wanted["g"]), y

    (d_params, dx), y = jax.grad(total, argnums=(0, 1), has_aux=True)(params, jnp.asarray(wanted["x"]))
    np.testing.assert_allclose(y, wanted["y"], rtol=1e-12)
    np.testing.assert_allclose(dx, wanted["dx"], rtol=1e-12)
    np.testing.assert_allclose(d_params["w"], wanted["dw"], rtol=1e-12)
    np.testing.assert_allclose(d_params["b"], wanted["db"], rtol=1e-12)


def test_by_hand():
    params = {"w": jnp.array([[1.0, 0.0, -1.0], [2.0, 3.0, 0.5]]), "b": jnp.array([10.0, 20.0, 30.0])}
    y, state = jn.dense(3).apply(params, (), jnp.array([[1.0, 2.0]]))
    assert y.tolist() == [[15.0, 26.0, 30.0]]
    assert state == ()


def test_the_default_draws_have_variance_one_over_the_inputs_and_biases_are_zero(key):
    params, _, _ = jn.dense(400).init(key, (250,))
    # 100,000 draws: the deviation of their mean is 0.0002, the relative one of their variance about 0.4 %
    assert abs(params["w"].mean()) < 0.001
    np.testing.assert_allclose(params["w"].var() * 250, 1, rtol=0.02)
    assert abs(params["w"]).max() * 250**0.5 < 2 / 0.8796 + 1e-3  # truncated at two deviations of the parent normal
    assert not params["b"].any()


def test_the_variance_counts_active_inputs(key):
    spec = jn.Spec((100,), active=jnp.arange(100) % 4 == 0)
    params, _, _ = jn.dense(4000).init(key, spec)
    w = np.asarray(params["w"])
    np.testing.assert_allclose(w[::4].var() * 25, 1, rtol=0.02)
    assert not w[np.arange(100) % 4 > 0].any()


def test_w_init_is_used(key):
    params, _, _ = jn.dense(3, w_init=jax.nn.initializers.constant(2.5)).init(key, (2,))
    assert params["w"].tolist() == [[2.5] * 3] * 2


def test_different_keys_give_different_weights():
    first, second = (jn.dense(3).init(jax.random.key(i), (2,))[0]["w"] for i in (0, 1))
    assert (first != second).all()


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint8, jnp.bool_])
def test_inputs_that_are_not_floating_make_float32(dtype, key):
    params, _, out = jn.dense(3).init(key, jn.Spec((2,), dtype))
    y, _ = jn.dense(3).apply(params, (), jnp.ones((4, 2), dtype))
    assert params["w"].dtype == out.dtype == y.dtype == jnp.float32


def test_numpy_integers_are_integers(key):
    assert jn.dense(np.int64(3)).init(key, (2,))[2].shape == (3,)


@pytest.mark.parametrize("key", [jax.random.PRNGKey(3), jax.random.key(3)], ids=["raw", "typed"])
def test_both_kinds_of_keys_are_taken(key):
    wanted = jn.dense(3).init(jax.random.key(3), (2,))[0]["w"]
    np.testing.assert_array_equal(jn.dense(3).init(key, (2,))[0]["w"], wanted)


@pytest.mark.parametrize("features", [True, 2.5, "3", None, [3]])
def test_units_that_are_no_integer_are_refused(features):
    with pytest.raises(TypeError, match="dense: features must be an integer or a Size, got"):
        jn.dense(features)


@pytest.mark.parametrize("features", [0, -1])
def test_units_below_one_are_refused(features):
    with pytest.raises(ValueError, match=f"dense: features must be at least 1, got {features}"):
        jn.dense(features)


def test_an_example_without_features_is_refused(key):
    with pytest.raises(ValueError, match=r"at least 1 axis \(features last\), but got the shape \(\).*expand_dims"):
        jn.dense(3).init(key, ())


def test_inputs_of_another_width_are_refused(key):
    params, _, _ = jn.dense(3).init(key, (5,))
    with pytest.raises(ValueError, match=r"dense: expected x of shape \[batch, ..., 5\].*got \(2, 4\).*moveaxis"):
        jn.dense(3).apply(params, (), jnp.ones((2, 4)))
    with pytest.raises(ValueError, match=r"dense: expected x of shape \[batch, ..., 5\].*got \(5,\).*x\[None\]"):
        jn.dense(3).apply(params, (), jnp.ones(5))
