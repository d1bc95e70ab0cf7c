import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn


@pytest.mark.parametrize("shape, features", [((), 1), ((5,), 5), ((2, 3), 6), ((2, 3, 4), 24)])
def test_flatten_is_row_major(shape, features, key):
    params, state, out = jn.flatten.init(None, shape)
    x = jax.random.normal(key, (3, *shape))
    y, _ = jn.flatten.apply(params, state, x)
    assert out == jn.Spec((features,)) and (params, state) == ((), ())
    np.testing.assert_array_equal(y, np.asarray(x).reshape(3, features, order="C"))


def test_flatten_tiles_the_mask():
    spec = jn.Spec((2, 2, 3), jnp.bfloat16, jnp.array([True, False, True]))
    out = jn.flatten.init(None, spec)[2]
    assert out.shape == (12,) and out.dtype == jnp.bfloat16
    assert out.active.tolist() == [True, False, True] * 4


def test_flatten_keeps_the_dtype():
    assert jn.flatten.apply((), (), jnp.ones((2, 3, 4), jnp.uint8))[0].dtype == jnp.uint8
    assert jn.flatten.init(None, jn.Spec((3, 4), jnp.uint8))[2].dtype == jnp.uint8


def test_flatten_takes_a_batch_of_none():
    assert jn.flatten.apply((), (), jnp.ones((0, 2, 3)))[0].shape == (0, 6)


# Numbers from elsewhere


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_upsample_and_its_gradients_equal_pytorch(dims, torch_reference, x64):
    """PyTorch 2.13's ``interpolate``, float64, nearest and linear with ``align_corners=False``."""
    x = jnp.asarray(torch_reference(f"pooling/{dims}d")["x"])
    cases = json.loads(str(torch_reference("pooling")["settings"]))
    cases = [(name, case[2]) for name, case in cases.items() if case[:2] == ["upsample", f"{dims}d"]]
    assert len(cases) == 4
    for name, settings in cases:
        wanted = torch_reference(f"pooling/{name}")
        layer = jn.upsample(**settings)
        assert layer.init(None, jn.Spec(x.shape[1:], x.dtype))[2].shape == wanted["y"].shape[1:], name

        def total(x, layer=layer):
            y, _ = layer.apply((), (), x)
            return jnp.sum(y * jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)), y

        gradient, y = jax.grad(total, has_aux=True)(x)
        np.testing.assert_allclose(y, wanted["y"], rtol=1e-12, atol=1e-15, err_msg=name)
        np.testing.assert_allclose(gradient, wanted["dx"], rtol=1e-12, atol=1e-14, err_msg=name)


def test_reshape_and_transpose_equal_numpy(key):
    x = np.asarray(jax.random.normal(key, (2, 3, 4, 5)))
    for shape in ((12, 5), (-1, 5), (60,), (3, -1), (4, 3, 5), (1, 3, 4, 5, 1)):
        y, _ = jn.reshape(shape).apply((), (), jnp.asarray(x))
        np.testing.assert_array_equal(y, x.reshape(2, *shape))
        assert jn.reshape(shape).init(None, x.shape[1:])[2].shape == y.shape[1:]
    for axes in ((1, 0, 2), (2, 0, 1), (0, 1, 2)):
        y, _ = jn.transpose(axes).apply((), (), jnp.asarray(x))
        np.testing.assert_array_equal(y, np.stack([example.transpose(axes) for example in x]))
        assert jn.transpose(axes).init(None, x.shape[1:])[2].shape == y.shape[1:]


@pytest.mark.parametrize("mode, numpy_mode", [("zeros", "constant"), ("circular", "wrap"), ("edge", "edge")])
def test_pad_equals_numpy_and_crop_undoes_it(mode, numpy_mode, key):
    x = np.asarray(jax.random.normal(key, (2, 3, 4, 5)))
    for widths, pairs in ((1, ((1, 1), (1, 1))), (((0, 2), 1), ((0, 2), (1, 1))), (0, ((0, 0), (0, 0)))):
        layer = jn.pad(widths, mode=mode)
        y, _ = layer.apply((), (), jnp.asarray(x))
        np.testing.assert_array_equal(y, np.pad(x, ((0, 0), *pairs, (0, 0)), mode=numpy_mode))
        assert layer.init(None, x.shape[1:])[2].shape == y.shape[1:]
        back, _ = jn.crop(widths).apply((), (), y)
        np.testing.assert_array_equal(back, x)
        assert jn.crop(widths).init(None, y.shape[1:])[2].shape == x.shape[1:]


def test_pad_and_upsample_by_hand():
    x = jnp.array([1.0, 2.0, 4.0])[None, :, None]
    for layer, wanted in (
        (jn.pad(2, mode="reflect"), [4, 2, 1, 2, 4, 2, 1]),
        (jn.pad(((0, 3),), mode="circular"), [1, 2, 4, 1, 2, 4]),
        (jn.upsample(2), [1, 1, 2, 2, 4, 4]),
        (jn.upsample(2, method="linear"), [1, 1.25, 1.75, 2.5, 3.5, 4]),
        (jn.upsample((1,), method="linear"), [1, 2, 4]),
        (jn.crop(1), [2]),
    ):
        assert layer.apply((), (), x)[0].ravel().tolist() == wanted


def test_integers_pass_through():
    x = jnp.array([[[1], [2]]], jnp.uint8)
    for layer in (jn.reshape((1, 2)), jn.transpose((1, 0)), jn.pad(1), jn.crop(((0, 1),)), jn.upsample(2)):
        assert layer.apply((), (), x)[0].dtype == layer.init(None, jn.Spec((2, 1), jnp.uint8))[2].dtype == jnp.uint8


# Masks

ACTIVE = jnp.array([True, False, True])


@pytest.mark.parametrize(
    "layer, times",
    [
        (jn.reshape((8, 3)), 1),
        (jn.reshape((2, 12)), 4),
        (jn.reshape((-1,)), 8),
        (jn.transpose((1, 0, 2)), 1),
        (jn.pad(1), 1),
        (jn.crop(((0, 1), 0)), 1),
        (jn.upsample(2), 1),
    ],
)
def test_what_keeps_whole_features_keeps_their_mask(layer, times):
    out = layer.init(None, jn.Spec((2, 4, 3), active=ACTIVE))[2]
    assert out.active.tolist() == ACTIVE.tolist() * times and out.shape[-1] == 3 * times


@pytest.mark.parametrize("shape", [(2, 3, 4), (24, 1), (1, 2, 4, 3, 1), (3, 8), (12, 2)], ids=str)
def test_a_reshape_that_tears_features_apart_is_refused(shape):
    assert jn.reshape(shape).init(None, (2, 4, 3))[2].shape == shape
    with pytest.raises(ValueError, match=r"reshape: the last axis of \(2, 4, 3\) has.*multiple of 3, or.*static=True"):
        jn.reshape(shape).init(None, jn.Spec((2, 4, 3), active=ACTIVE))


def test_a_transpose_that_moves_the_features_is_refused():
    with pytest.raises(ValueError, match=r"transpose: the features of \(2, 4, 3\).*puts axis 0 there.*static=True"):
        jn.transpose((1, 2, 0)).init(None, jn.Spec((2, 4, 3), active=ACTIVE))


# Errors


@pytest.mark.parametrize(
    "make, kind, message",
    [
        (lambda: jn.reshape(3), TypeError, "reshape: shape must be a tuple without the batch axis, got 3"),
        (lambda: jn.reshape((2.5,)), TypeError, "reshape: shape must be an integer.*got 2.5"),
        (lambda: jn.reshape((-1, -1)), ValueError, r"reshape: .*at most one -1, got \(-1, -1\)"),
        (lambda: jn.reshape((0, 3)), ValueError, r"reshape: .*positive integers.*got \(0, 3\)"),
        (lambda: jn.transpose((0, 2)), ValueError, r"transpose: axes must be a permutation.*got \(0, 2\)"),
        (lambda: jn.transpose(1), ValueError, "transpose: axes must be a permutation.*got 1"),
        (lambda: jn.pad(1, mode="mirror"), ValueError, "pad: mode must be one of 'zeros'.*got 'mirror'"),
        (lambda: jn.pad(-1), ValueError, "pad: widths must be at least 0, got -1"),
        (lambda: jn.pad(((1, 2, 3),)), ValueError, r"pad: widths must be.*got \(1, 2, 3\)"),
        (lambda: jn.crop("all"), TypeError, "crop: widths must be.*got 'all'"),
        (lambda: jn.upsample(0), ValueError, "upsample: scale must be at least 1, got 0"),
        (lambda: jn.upsample(1.5), TypeError, "upsample: scale must be an integer.*got 1.5"),
        (lambda: jn.upsample(2, method="cubic"), ValueError, "upsample: method must be.*got 'cubic'"),
    ],
)
def test_wrong_arguments_are_refused(make, kind, message):
    with pytest.raises(kind, match=message):
        make()


@pytest.mark.parametrize(
    "layer, shape, message",
    [
        (jn.reshape((2, 4)), (3, 3), r"\(3, 3\) has 9 entries, which can't be shaped as \(2, 4\)"),
        (jn.reshape((4, -1)), (3, 3), r"9 entries, which can't be shaped as \(4, -1\)"),
        (jn.transpose((1, 0)), (3,), r"expected examples with 2 axes, as many as \(1, 0\), but got \(3,\)"),
        (jn.pad((1, 1)), (3, 1), r"expected examples with 2 space axes .*got the shape \(3, 1\)"),
        (jn.pad(1), (3,), r"expected examples with 1 space axes .*got the shape \(3,\)"),
        (jn.pad(3, mode="reflect"), (3, 1), r"mode 'reflect' can't make \(\(3, 3\),\) cells.*\(3,\)"),
        (jn.pad(4, mode="circular"), (3, 1), r"mode 'circular' can't make \(\(4, 4\),\) cells.*\(3,\)"),
        (jn.crop(2), (4, 1), r"of the space axes \(4,\) nothing is left without \(\(2, 2\),\) cells"),
        (jn.upsample((2, 2)), (4, 1), r"expected examples with 2 space axes .*got the shape \(4, 1\)"),
    ],
)
def test_shapes_that_cannot_work_are_refused(layer, shape, message):
    with pytest.raises(ValueError, match=f"^{layer.name}: .*{message}"):
        layer.init(None, shape)
    with pytest.raises(ValueError, match=f"^{layer.name}: .*{message}.*x has the shape"):
        layer.apply((), (), jnp.ones((2, *shape)))


def test_interpolating_integers_is_refused():
    with pytest.raises(ValueError, match="upsample: method 'linear' is for floating inputs, but got uint8"):
        jn.upsample(2, method="linear").init(None, jn.Spec((2, 1), jnp.uint8))
