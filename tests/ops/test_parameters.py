import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn import initializers

import jaxnet as jn
from jaxnet.ops.parameters import making_masks, narrow_positions, parameter, unpad

INDEPENDENT = {
    "lecun normal": initializers.lecun_normal(),
    "lecun uniform": initializers.lecun_uniform(),
    "he normal": initializers.he_normal(),
    "he uniform": initializers.he_uniform(),
    "glorot normal": initializers.glorot_normal(),
    "glorot uniform": initializers.glorot_uniform(),
    "fan out": initializers.variance_scaling(3.0, "fan_out", "normal"),
    "fan avg": initializers.variance_scaling(0.5, "fan_avg", "truncated_normal"),
    "fan geo avg": initializers.variance_scaling(2.0, "fan_geo_avg", "uniform"),
    "swapped axes": initializers.lecun_normal(in_axis=-1, out_axis=-2),
    "normal": initializers.normal(0.3),
    "truncated normal": initializers.truncated_normal(0.3),
    "uniform": initializers.uniform(0.3),
    "constant": initializers.constant(-0.7),
    "zeros": initializers.zeros,
    "ones": initializers.ones,
}


@pytest.mark.parametrize("initializer", INDEPENDENT.values(), ids=INDEPENDENT.keys())
def test_active_entries_are_the_narrow_draw(initializer, key):
    """The law is found by drawing: whatever it is, the padded array holds the narrow one, and zeros."""
    active = jnp.array([True, False, True, True, False, True, True, False, True, True])  # 7 of 10
    for lead, bound in (((), 4), ((), 11), ((3, 2), 5)):
        wanted = np.asarray(parameter(key, initializer, (*lead, 7, 4)))
        masks = (None,) * len(lead) + (active, None)
        w = np.asarray(parameter(key, initializer, (*lead, 10, jn.Size(bound, 4)), active=masks))
        assert w.shape == (*lead, 10, bound)
        np.testing.assert_allclose(w[..., np.asarray(active), :4], wanted, rtol=1e-6)
        assert not w[..., ~np.asarray(active), :].any() and not w[..., 4:].any()


@pytest.mark.parametrize("initializer", INDEPENDENT.values(), ids=INDEPENDENT.keys())
def test_the_variance_is_that_of_the_initialiser(initializer, key):
    """Against JAX's own keys, at the narrow shape: the same law, other numbers."""
    wanted = initializer(key, (300, 200), jnp.float32)
    w = parameter(key, initializer, (jn.Size(450, 300), jn.Size(256, 200)))[:300, :200]
    np.testing.assert_allclose(w.std(), wanted.std(), rtol=0.02, atol=1e-7)
    np.testing.assert_allclose(w.mean(), wanted.mean(), atol=float(4 * wanted.std() / 60_000**0.5 * 2**0.5) + 1e-7)


def test_sizes_may_be_traced(key):
    def lane(value):
        return parameter(key, initializers.glorot_normal(), (6, jn.Size(5, value)))

    lanes = jax.jit(jax.vmap(lane))(jnp.array([1, 3, 5]))
    for value, w in zip([1, 3, 5], lanes, strict=True):
        np.testing.assert_allclose(w[:, :value], parameter(key, initializers.glorot_normal(), (6, value)), rtol=1e-6)
        assert not w[:, value:].any()


def test_an_initialiser_may_have_a_traced_scale(key):
    """In lanes of different scales and widths: each is the scale times the narrow draw of the same law."""
    laws = [initializers.glorot_normal(), initializers.lecun_normal(), initializers.normal(0.3), initializers.zeros]

    def lane(scale, value):
        def scaled(law):
            return lambda key, shape, dtype: scale * law(key, shape, dtype)

        size = jn.Size(5, value)
        return [parameter(key, scaled(law), (6, size)) for law in laws], parameter(key, scaled(laws[2]), (size,))

    scales, values = np.array([0.5, 3.0], np.float32), [3, 5]
    matrices, vectors = jax.jit(jax.vmap(lane))(scales, np.array(values))
    for i, (scale, value) in enumerate(zip(scales, values, strict=True)):
        for law, w in zip(laws, matrices, strict=True):
            np.testing.assert_allclose(w[i, :, :value], scale * parameter(key, law, (6, value)), rtol=1e-5)
            assert not w[i, :, value:].any()
        np.testing.assert_allclose(vectors[i, :value], scale * parameter(key, laws[2], (value,)), rtol=1e-5)


def test_a_traced_scale_of_dependent_entries_gives_nan(key):
    def lane(scale):
        return parameter(key, lambda *args: scale * initializers.orthogonal()(*args), (3, jn.Size(5, 3)))

    w = jax.jit(lane)(0.5)
    assert np.isnan(w[:, :3]).all() and not np.asarray(w[:, 3:]).any()


def test_vectors(key):
    size = jn.Size(5, 3)
    assert parameter(key, initializers.ones, (size,)).tolist() == [1, 1, 1, 0, 0]
    b = parameter(key, initializers.normal(), (size,))
    np.testing.assert_array_equal(b[:3], parameter(key, initializers.normal(), (3,)))
    gaps = jnp.array([False, True, True])
    b = parameter(key, initializers.normal(), (3,), active=(gaps,))
    np.testing.assert_array_equal(b, [0, *parameter(key, initializers.normal(), (2,))])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_dtypes(dtype, key):
    w = parameter(key, initializers.lecun_normal(), (jn.Size(5, 3), 4), dtype=dtype)
    narrow = parameter(key, initializers.lecun_normal(), (3, 4), dtype=dtype)
    assert w.dtype == narrow.dtype == dtype
    np.testing.assert_allclose(
        w[:3].astype(jnp.float32), narrow.astype(jnp.float32), rtol=4 * float(jnp.finfo(dtype).eps)
    )


DEPENDENT = {"orthogonal": initializers.orthogonal(), "delta orthogonal": initializers.delta_orthogonal()}


@pytest.mark.parametrize("name", DEPENDENT)
def test_what_draws_no_independent_entries_is_refused_under_a_size(name, key):
    lead = (1,) * (name == "delta orthogonal")
    with pytest.raises(
        ValueError, match="orthogonal.*doesn't draw its entries independently.*variance_scaling.*static=True"
    ):
        parameter(key, DEPENDENT[name], (*lead, 3, jn.Size(5, 3)))


def test_orthogonal_is_fine_with_integers(key):
    w = np.asarray(parameter(key, initializers.orthogonal(), (5, 5)), np.float64)
    np.testing.assert_allclose(w @ w.T, np.eye(5), atol=1e-5)
    layer = jn.dense(5, w_init=initializers.orthogonal())
    w = np.asarray(layer.init(key, (5,))[0]["w"])
    np.testing.assert_allclose(w.T @ w, np.eye(5), atol=1e-5)
    with pytest.raises(ValueError, match=r"serial\[0\] dense: .*orthogonal"):
        jn.serial(jn.dense(jn.Size(5, 3), w_init=initializers.orthogonal())).init(key, (5,))


def test_narrow_positions():
    assert narrow_positions(jnp.array([False, True, False, True, True])).tolist() == [0, 0, 0, 1, 2]
    assert narrow_positions(jnp.ones(4, bool)).tolist() == [0, 1, 2, 3]


def test_masks_instead_of_values(key):
    with making_masks():
        (first, _, second), _, _ = jn.serial(jn.dense(jn.Size(3, 2)), jn.flatten, jn.dense(2)).init(key, (2, 1))
        with pytest.raises(ZeroDivisionError), making_masks():
            1 / 0  # noqa: B018
    assert first["w"].tolist() == [[True, True, False]] and first["b"].tolist() == [True, True, False]
    assert second["w"].tolist() == [[True] * 2, [True] * 2, [False] * 2] * 2 and second["b"].tolist() == [True] * 2
    assert jn.dense(2).init(key, (1,))[0]["w"].dtype == jnp.float32


def test_unpad_keeps_values_and_drops_masks(key):
    def net(first, second):
        return jn.serial(body=jn.serial(jn.dense(first), jax.nn.sigmoid, jn.flatten), head=jn.dense(second))

    padded, narrow, spec = net(jn.Size(5, 2), 3), net(2, 3), jn.Spec((2, 3))
    params, state, _ = padded.init(key, spec)
    cut, cut_state = unpad(padded, narrow, spec, params, state)
    wanted, wanted_state, _ = narrow.init(key, spec)
    assert cut_state == wanted_state
    assert jax.tree.structure(cut) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(cut), jax.tree.leaves(wanted), strict=True):
        assert isinstance(a, np.ndarray)
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_unpad_refuses_what_was_made_without_parameter(key):
    def own(features):
        def init(key, spec):
            bound = features.bound if isinstance(features, jn.Size) else features
            return {"scale": jnp.ones(bound)}, (), spec

        return jn.Layer(init, lambda params, state, x, **_: (x * params["scale"], state))

    params, state, _ = own(jn.Size(4, 2)).init(key, (4,))
    with pytest.raises(ValueError, match=r"scale.*from \(4,\) to \(2,\).*without jn.parameter"):
        unpad(own(jn.Size(4, 2)), own(2), jn.Spec((4,)), params, state)


def test_there_must_be_a_mask_for_each_axis(key):
    with pytest.raises(ValueError, match="active"):
        parameter(key, initializers.normal(), (3, 4), active=(None,))
    with pytest.raises(ValueError, match="active"):
        parameter(key, initializers.normal(), (3, 4), active=(jnp.ones(2, bool), None))
