import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn

POOLS = {
    "max_pool": jn.max_pool,
    "min_pool": jn.min_pool,
    "avg_pool": jn.avg_pool,
    "sum_pool": jn.sum_pool,
    "lp_pool": lambda *a, **k: jn.lp_pool(2, *a, **k),
}
OVER_ALL = {  # what each makes of all cells of a window
    "max_pool": np.max,
    "min_pool": np.min,
    "avg_pool": np.mean,
    "sum_pool": np.sum,
    "lp_pool": lambda cells: np.sqrt(np.sum(cells**2)),
}


def column(*numbers, dtype=None):
    return jnp.array(numbers, dtype)[None, :, None]


# Numbers from elsewhere


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_outputs_and_gradients_equal_pytorch(dims, torch_reference, x64):
    """PyTorch 2.13, float64: strides, padding, ceil mode and bins; of ties there are none."""
    x = jnp.asarray(torch_reference(f"pooling/{dims}d")["x"])
    cases = json.loads(str(torch_reference("pooling")["settings"]))
    cases = [(name, *case) for name, case in cases.items() if case[1] == f"{dims}d" and "pool" in case[0]]
    assert len(cases) == 22
    for name, layer, _, settings in cases:
        wanted = torch_reference(f"pooling/{name}")
        layer = getattr(jn, layer)(**settings)
        assert layer.init(None, x.shape[1:])[2].shape == wanted["y"].shape[1:], name

        def total(x, layer=layer):
            y, _ = layer.apply((), (), x)
            return jnp.sum(y * jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)), y

        gradient, y = jax.jit(jax.grad(total, has_aux=True))(x)
        np.testing.assert_allclose(y, wanted["y"], rtol=1e-12, err_msg=name)
        np.testing.assert_allclose(gradient, wanted["dx"], rtol=1e-12, atol=1e-15, err_msg=name)


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("padding", ["SAME", "VALID", ((0, 1), (1, 0))], ids=str)
@pytest.mark.parametrize("strides", [None, 1, (2, 3)], ids=str)
@pytest.mark.parametrize("ceil", [False, True])
def test_every_kind_equals_numpy_over_the_cells_inside(name, padding, strides, ceil, key):
    x = np.asarray(jax.random.normal(key, (2, 5, 7, 3)))
    layer = POOLS[name]((2, 3), strides=strides, padding=padding, ceil=ceil)
    y, _ = layer.apply((), (), jnp.asarray(x))
    assert y.shape == (2, *layer.init(None, x.shape[1:])[2].shape)
    strides = (strides,) * 2 if isinstance(strides, int) else strides or (2, 3)
    # SAME puts the odd cell behind: of 5 rows, windows of 2 and strides 1 or 2 leave one, behind.
    low = (0, 0)
    if padding == "SAME":
        low = tuple(max((-(-n // s) - 1) * s + w - n, 0) // 2 for n, s, w in zip((5, 7), strides, (2, 3), strict=True))
    elif padding != "VALID":
        low = (0, 1)
    for i in range(y.shape[1]):
        for j in range(y.shape[2]):
            top, left = i * strides[0] - low[0], j * strides[1] - low[1]
            cells = x[:, max(top, 0) : top + 2, max(left, 0) : left + 3]
            wanted = [[OVER_ALL[name](cells[b, :, :, f]) for f in range(3)] for b in range(2)]
            np.testing.assert_allclose(y[:, i, j], wanted, rtol=1e-5, atol=1e-6)


def test_by_hand():
    x = column(3.0, 1.0, 4.0, 1.0, 5.0)
    for layer, wanted in (
        (jn.max_pool((2,)), [3, 4]),
        (jn.max_pool((2,), ceil=True), [3, 4, 5]),
        (jn.min_pool((2,), strides=1), [1, 1, 1, 1]),
        (jn.avg_pool((2,), ceil=True), [2, 2.5, 5]),
        (jn.sum_pool((3,), strides=2, padding=1), [4, 6, 6]),
        (jn.sum_pool((2,), strides=1, padding="CAUSAL"), [3, 4, 5, 5, 6]),
        (jn.lp_pool(1, (5,)), [14]),
    ):
        assert layer.apply((), (), x)[0].ravel().tolist() == wanted


def test_the_mean_of_ones_is_one_at_every_border():
    for settings in ({"padding": "SAME"}, {"padding": 2}, {"padding": 1, "ceil": True, "strides": 2}):
        y, _ = jn.avg_pool((3, 3), **({"strides": 1} | settings)).apply((), (), jnp.ones((1, 4, 4, 1)))
        np.testing.assert_array_equal(y, np.ones(y.shape))


def test_the_norm_of_negative_numbers_counts_their_size(x64):
    y, _ = jn.lp_pool(3, (2,)).apply((), (), column(-1.0, 2.0, dtype=jnp.float64))
    np.testing.assert_allclose(y.ravel(), [9 ** (1 / 3)], rtol=1e-12)


def test_p_may_be_traced(key):
    x = jax.random.normal(key, (2, 4, 3))
    together = jax.vmap(lambda p: jn.lp_pool(p, (2,)).apply((), (), x)[0])(jnp.array([1.0, 2.5]))
    for p, y in zip((1.0, 2.5), together, strict=True):
        np.testing.assert_allclose(y, jn.lp_pool(p, (2,)).apply((), (), x)[0], rtol=1e-5)


# Gradients where they aren't unique


@pytest.mark.parametrize("pool", [jn.max_pool, jn.min_pool])
@pytest.mark.parametrize("cells", [4, 20])
@pytest.mark.parametrize("strides", [None, 1])
def test_ties_give_the_gradient_to_the_first(pool, cells, strides):
    x = jnp.ones((1, cells, cells, 1))
    gradient = jax.grad(lambda x: pool((cells, cells), strides=strides).apply((), (), x)[0].sum())(x)
    assert gradient[0, 0, 0, 0] == 1 and jnp.sum(gradient) == 1


@pytest.mark.parametrize("layer", [jn.global_max_pool, jn.adaptive_max_pool((1, 1))])
def test_ties_of_global_pools_give_the_gradient_to_the_first(layer):
    x = jnp.array([[1.0, 7.0], [7.0, 7.0]])[None, :, :, None]
    gradient = jax.grad(lambda x: layer.apply((), (), x)[0].sum())(x)
    assert gradient[0, :, :, 0].tolist() == [[0, 1], [0, 0]]


def test_the_norm_of_zeros_has_slope_zero():
    gradient = jax.grad(lambda x: jn.lp_pool(3.0, (2,)).apply((), (), x)[0].sum())(column(0.0, 0.0, 1.0, 0.0))
    assert gradient.ravel().tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("window", [(2,), (20,)])
@pytest.mark.parametrize("pool", [jn.max_pool, jn.min_pool])
def test_nan_is_not_hidden(window, pool):
    x = jnp.zeros((1, 20, 1))
    for place in (0, 1):
        assert jnp.isnan(pool(window).apply((), (), x.at[0, place, 0].set(jnp.nan))[0]).any()


# Dtypes


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int32])
def test_integers_stay_in_a_maximum_and_become_float32_in_a_mean(dtype):
    x = column(200, 100, 0, 7, dtype=jnp.uint8).astype(dtype)
    for settings in ({}, {"strides": 1, "padding": 1}):
        for pool, wanted in ((jn.max_pool, dtype), (jn.min_pool, dtype), (jn.avg_pool, jnp.float32)):
            layer = pool((2,), **settings)
            y, _ = layer.apply((), (), x)
            assert y.dtype == layer.init(None, jn.Spec((4, 1), dtype))[2].dtype == wanted
        assert jn.max_pool((2,)).apply((), (), x)[0].ravel().tolist() == [200, 7]
        assert jn.sum_pool((2,)).apply((), (), x)[0].ravel().tolist() == [300, 7]


def test_half_precision_is_summed_in_float32():
    x = jnp.ones((1, 4096, 1), jnp.bfloat16)  # in bfloat16, ones stop adding up at 256
    for layer in (jn.sum_pool((4096,)), jn.sum_pool((4096,), strides=1)):
        assert layer.apply((), (), x)[0].tolist() == [[[4096]]]
    assert jn.global_avg_pool.apply((), (), x)[0].tolist() == [[1]]


# Bins, sequences and masks


def test_adaptive_bins_may_be_more_than_cells():
    assert jn.adaptive_max_pool((5,)).apply((), (), column(1.0, 2.0))[0].ravel().tolist() == [1, 1, 2, 2, 2]


def test_global_pools_of_a_sequence_count_valid_steps_only(key):
    values = jax.random.normal(key, (3, 4, 2, 5)) - 5
    lengths = jnp.array([4, 2, 0])
    spoiled = jnp.where(jnp.arange(4)[None, :, None, None] < lengths[:, None, None, None], values, jnp.nan)
    for layer, over in ((jn.global_max_pool, np.max), (jn.global_avg_pool, np.mean)):
        assert layer.init(None, jn.Sequence(jn.Spec((4, 2, 5)), jn.Spec((), jnp.int32)))[2] == jn.Spec((5,))

        def total(values, layer=layer):
            y, _ = layer.apply((), (), jn.Sequence(values, lengths))
            return y.sum(), y

        gradient, y = jax.grad(total, has_aux=True)(spoiled)
        for i, n in enumerate(lengths[:2]):
            np.testing.assert_allclose(y[i], over(np.asarray(values[i, :n]), axis=(0, 1)), rtol=1e-5)
        assert y[2].tolist() == [0] * 5
        np.testing.assert_allclose(gradient.sum(axis=(1, 2)), [[1] * 5, [1] * 5, [0] * 5], rtol=1e-5)
        assert not gradient[1, 2:].any() and not gradient[2].any()


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize(
    "settings",
    [{}, {"strides": 1}, {"padding": 2}, {"strides": 2, "padding": ((0, 1),)}, {"strides": 1, "padding": "SAME"}],
    ids=str,
)
def test_windows_over_a_sequence_are_those_of_each_sequence_alone(name, settings, key):
    layer, lengths = POOLS[name]((3,), **settings), [7, 4, 1, 0]
    values = jax.random.normal(key, (4, 7, 2))
    inside = (jnp.arange(7)[None] < jnp.array(lengths)[:, None])[..., None]
    spec = jn.Sequence(jn.Spec((7, 2)), jn.Spec((), jnp.int32))
    y, _ = layer.apply((), (), jn.Sequence(jnp.where(inside, values, jnp.nan), jnp.array(lengths)))
    assert y.values.shape == (4, *layer.init(None, spec)[2].values.shape)
    for i, length in enumerate(lengths):
        windows = int(y.lengths[i])
        assert not y.values[i, windows:].any() and jnp.isfinite(y.values[i]).all()
        if windows:
            alone, _ = layer.apply((), (), values[i : i + 1, :length])
            np.testing.assert_allclose(y.values[i, :windows], alone[0], rtol=1e-6)
        elif length:
            with pytest.raises(ValueError, match="doesn't fit"):
                layer.init(None, (length, 2))


@pytest.mark.parametrize("layer", [jn.max_pool((2,)), jn.global_avg_pool, jn.adaptive_max_pool((1,))])
def test_the_mask_goes_through(layer):
    active = jnp.array([True, False, True])
    assert layer.init(None, jn.Spec((4, 3), active=active))[2].active is active


# Errors


@pytest.mark.parametrize("window", [3, "3", None, (), (1, 2, 3, 4)], ids=str)
def test_a_window_that_is_no_tuple_is_refused(window):
    hint = r"\. Try \(3,\) for sequences, \(3, 3\) for images" if window == 3 else ""
    with pytest.raises(TypeError, match=r"max_pool: window must be a tuple of 1, 2 or 3 integers, .*got .*" + hint):
        jn.max_pool(window)
    with pytest.raises(TypeError, match="adaptive_avg_pool: shape must be a tuple of 1, 2 or 3 integers"):
        jn.adaptive_avg_pool(window)


@pytest.mark.parametrize(
    "window, settings, kind, message",
    [
        ((2, 0), {}, ValueError, r"window must be at least 1, got \(2, 0\)"),
        ((2, 2.5), {}, TypeError, r"window must be an integer.*got \(2, 2.5\)"),
        ((2,), {"strides": 0}, ValueError, "strides must be at least 1, got 0"),
        ((2,), {"strides": (1, 1)}, ValueError, r"strides must be.*got \(1, 1\)"),
        ((2,), {"padding": "HALF"}, ValueError, "padding must be 'SAME', 'VALID'.*got 'HALF'"),
        ((2,), {"padding": -1}, ValueError, "padding must be at least 0, got -1"),
        ((2, 3), {"padding": 2}, ValueError, r"padding 2 must be below the window \(2, 3\)"),
    ],
)
def test_wrong_arguments_are_refused(window, settings, kind, message):
    with pytest.raises(kind, match="avg_pool: " + message):
        jn.avg_pool(window, **settings)


@pytest.mark.parametrize("p", [0.5, -1, float("inf"), float("nan")])
def test_a_p_that_makes_no_norm_is_refused(p):
    with pytest.raises(ValueError, match="lp_pool: p must be a finite number of at least 1, got .*max_pool"):
        jn.lp_pool(p, (2,))


@pytest.mark.parametrize("layer", [jn.max_pool((2, 2)), jn.adaptive_max_pool((2, 2))])
@pytest.mark.parametrize("shape", [(4, 4), (4,), (2, 4, 4, 1), ()])
def test_examples_with_other_space_axes_are_refused(layer, shape):
    for call in (lambda: layer.init(None, shape), lambda: layer.apply((), (), jnp.ones((3, *shape)))):
        with pytest.raises(ValueError, match=rf"{layer.name}: expected x of shape \[batch, height, width, features\]"):
            call()


def test_a_window_larger_than_the_input_is_refused():
    layer = jn.max_pool((5, 2), padding=((1, 0), (0, 0)))
    for call in (lambda: layer.init(None, (3, 8, 1)), lambda: layer.apply((), (), jnp.ones((3, 3, 8, 1)))):
        with pytest.raises(ValueError, match=r"window of \(5, 2\) with padding .*doesn't fit into .*\(3, 8\).*SAME"):
            call()
    assert layer.init(None, (4, 8, 1))[2].shape == (1, 4, 1)


@pytest.mark.parametrize("layer", [jn.global_max_pool, jn.global_avg_pool])
def test_nothing_to_pool_over_is_refused(layer):
    for call in (lambda: layer.init(None, (5,)), lambda: layer.apply((), (), jnp.ones((3, 5)))):
        with pytest.raises(ValueError, match=rf"{layer.name}: .*at least one axis to pool over.*, 5\)"):
            call()


def test_windows_of_a_sequence_that_need_its_end_are_refused():
    spec = jn.Sequence(jn.Spec((4, 2)), jn.Spec((), jnp.int32))
    for settings in ({"padding": "SAME"}, {"ceil": True}):
        with pytest.raises(ValueError, match="max_pool: .*a window of a Sequence would depend on where the padded"):
            jn.max_pool((2,), **settings).init(None, spec)
    images = jn.Sequence(jn.Spec((4, 2, 2)), jn.Spec((), jnp.int32))
    for layer, of in ((jn.max_pool((2, 2)), images), (jn.adaptive_max_pool((2,)), spec)):
        with pytest.raises(TypeError, match="Sequence"):
            layer.init(None, of)


def test_pools_of_truth_values_are_any_and_all():
    x = jnp.array([True, False, False, False, True, True]).reshape(1, 6, 1)
    assert jn.max_pool((2,)).apply((), (), x)[0].ravel().tolist() == [True, False, True]
    assert jn.min_pool((2,)).apply((), (), x)[0].ravel().tolist() == [False, False, True]
