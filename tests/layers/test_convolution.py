import ast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn

IMAGE = [[1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 1], [0, 0, 1, 1, 0], [0, 1, 1, 0, 0]]
FILTER = [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
PLAIN = ["1d", "1d_one_place", "1d_no_bias", "2d", "2d_strides", "2d_padding", "2d_same", "2d_dilation", "2d_all"]
PLAIN += ["2d_groups", "2d_depthwise", "3d", "3d_all"]
PLAIN += [f"{dims}d_{mode}" for dims in (1, 2, 3) for mode in ("reflect", "replicate", "circular")]
TRANSPOSED = ["1d", "1d_output_padding", "1d_wide_output_padding", "2d", "2d_strides", "2d_padding", "2d_all", "3d_all"]


# Numbers from elsewhere.


def assert_equals_pytorch(layer, wanted):
    """Outputs, and all gradients of ``sum(y * g)``; ``init`` foretells the shapes of parameters and outputs."""
    params = {name: jnp.asarray(wanted[name]) for name in ("w", "b") if name in wanted}
    x = jnp.asarray(wanted["x"])
    spec = jn.Spec(x.shape[1:], x.dtype)
    drawn, state, out = layer.init(jax.random.key(0), spec)
    assert jax.tree.map(jnp.shape, drawn) == jax.tree.map(jnp.shape, params)
    assert out == jn.Spec(wanted["y"].shape[1:], jnp.float64)

    def total(params, x):
        y, _ = layer.apply(params, state, x)
        return jnp.vdot(y, wanted["g"]), y

    (d_params, dx), y = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))(params, x)
    np.testing.assert_allclose(y, wanted["y"], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(dx, wanted["dx"], rtol=1e-10, atol=1e-12)
    for name in params:
        np.testing.assert_allclose(d_params[name], wanted[f"d{name}"], rtol=1e-10, atol=1e-12)


def arguments(wanted):
    """The case's arguments in jaxnet's words."""
    given = ast.literal_eval(str(wanted["arguments"]))
    given["strides"] = given.pop("stride", 1)
    if isinstance(given.get("padding"), str):
        given["padding"] = given["padding"].upper()
    if given.get("padding_mode") == "replicate":
        given["padding_mode"] = "edge"
    return given


@pytest.mark.parametrize("name", PLAIN)
def test_conv_equals_pytorch(name, torch_reference, x64):
    """PyTorch 2.13's ``nn.Conv1d`` to ``Conv3d``, float64: strides, padding, dilation, groups, padding modes."""
    wanted = torch_reference(f"convolution/plain/{name}")
    assert_equals_pytorch(jn.conv(**arguments(wanted)), wanted)


@pytest.mark.parametrize("name", TRANSPOSED)
def test_conv_transpose_equals_pytorch(name, torch_reference, x64):
    """PyTorch 2.13's ``nn.ConvTranspose1d`` to ``3d``, float64: strides, padding, output padding, dilation."""
    wanted = torch_reference(f"convolution/transposed/{name}")
    assert_equals_pytorch(jn.conv_transpose(**arguments(wanted)), wanted)


def test_every_case_of_the_reference_is_looked_at(torch_reference):
    for topic, names in {"plain": [*PLAIN, "1d_causal"], "transposed": TRANSPOSED}.items():
        assert {name.split("/")[0] for name in torch_reference(f"convolution/{topic}")} == set(names)


def test_depthwise_equals_pytorch_with_a_group_for_each_feature(torch_reference, x64):
    wanted = torch_reference("convolution/plain/2d_depthwise")
    assert_equals_pytorch(jn.depthwise_conv(2, (3, 2), strides=2, padding=1), wanted)


def test_causal_equals_pytorch_padded_on_both_sides_and_cut(torch_reference, x64):
    wanted = torch_reference("convolution/plain/1d_causal")
    params = {"w": jnp.asarray(wanted["w"]), "b": jnp.asarray(wanted["b"])}
    y, _ = jn.conv(3, (3,), dilation=2, padding="CAUSAL").apply(params, (), jnp.asarray(wanted["x"]))
    np.testing.assert_allclose(y, wanted["y"][:, :7], rtol=1e-12)


def test_the_course_convolves_a_sequence():
    """``[1, 1, 1, 0, 0] * [1, 0, 1] = [2, 1, 1]``."""
    layer = jn.conv(1, (3,), bias=False)
    x, w = jnp.array([1.0, 1, 1, 0, 0]).reshape(1, 5, 1), jnp.array([1.0, 0, 1]).reshape(3, 1, 1)
    assert layer.apply({"w": w}, (), x)[0].ravel().tolist() == [2, 1, 1]
    assert jn.fixed_conv([1, 0, 1]).apply((), (), x)[0].ravel().tolist() == [2, 1, 1]


def test_the_course_convolves_an_image():
    """The first value is 4; the others by hand."""
    w = jnp.array(FILTER, jnp.float32).reshape(3, 3, 1, 1)
    y, _ = jn.conv(1, (3, 3), bias=False).apply({"w": w}, (), jnp.array(IMAGE, jnp.float32).reshape(1, 5, 5, 1))
    assert y[0, :, :, 0].tolist() == [[4, 3, 4], [2, 4, 3], [2, 3, 4]]


@pytest.mark.parametrize("length, stride, kernel, wanted", [(5, 2, 3, 3), (6, 2, 3, 3), (6, 3, 2, 2), (4, 1, 2, 4)])
def test_same_makes_as_many_windows_as_tensorflow(length, stride, kernel, wanted):
    """``ceil(length / stride)`` windows; of an odd number of zeros, one more at the end."""
    layer = jn.conv(1, (kernel,), strides=stride, padding="SAME", bias=False)
    _, _, out = layer.init(jax.random.key(0), (length, 1))
    assert out.shape == (wanted, 1)
    # a kernel that picks its first place shows how much was padded before
    w = jnp.zeros((kernel, 1, 1)).at[0].set(1.0)
    y, _ = layer.apply({"w": w}, (), jnp.arange(1.0, length + 1).reshape(1, -1, 1))
    before = max((wanted - 1) * stride + kernel - length, 0) // 2
    assert y.ravel().tolist() == [max(stride * p - before + 1, 0) for p in range(wanted)]


def test_causal_outputs_see_no_later_input(key):
    layer = jn.conv(2, (3,), dilation=2, padding="CAUSAL")
    params, state, out = layer.init(key, (8, 3))
    assert out.shape == (8, 2)
    seen = jax.jacobian(lambda x: layer.apply(params, state, x[None])[0][0])(jnp.ones((8, 3))).any(axis=(1, 3))
    wanted = [[at in (p, p - 2, p - 4) for at in range(8)] for p in range(8)]
    assert seen.tolist() == wanted


def test_separable_is_depthwise_then_pointwise(key):
    layer = jn.separable_conv(4, (3, 2), multiplier=2, strides=2, padding=1)
    params, state, out = layer.init(key, (6, 5, 3))
    x = jax.random.normal(key, (2, 6, 5, 3))
    parts = jn.serial(
        depthwise=jn.depthwise_conv(2, (3, 2), strides=2, padding=1, bias=False), pointwise=jn.conv(4, (1, 1))
    )
    wanted, _ = parts.apply(params, {"depthwise": (), "pointwise": ()}, x)
    assert out.shape == wanted.shape[1:] == (3, 3, 4)
    np.testing.assert_array_equal(layer.apply(params, state, x)[0], wanted)
    drawn, _, _ = parts.init(key, (6, 5, 3))
    jax.tree.map(np.testing.assert_array_equal, params, drawn)


def test_conv_transpose_undoes_the_shape_of_conv(key):
    for space, stride in [((7,), 2), ((8,), 3), ((6, 5), 2)]:
        kernel = (3,) * len(space)
        _, _, middle = jn.conv(2, kernel, strides=stride, padding=1).init(key, (*space, 1))
        lost = tuple((n + 2 - 3) % stride for n in space)
        back = jn.conv_transpose(1, kernel, strides=stride, padding=1, output_padding=lost)
        assert back.init(key, middle)[2].shape == (*space, 1)


def test_a_fixed_kernel_filters_each_feature_by_itself_and_is_in_no_tree(key):
    layer = jn.fixed_conv(jnp.array(FILTER), padding=1)
    params, state, out = layer.init(key, (5, 5, 2))
    assert params == state == ()
    assert out.shape == (5, 5, 2)
    image = jnp.array(IMAGE, jnp.float32)
    y, _ = layer.apply(params, state, jnp.stack([image, 2 * image], axis=-1)[None])
    assert y[0, 1:4, 1:4, 0].tolist() == [[4, 3, 4], [2, 4, 3], [2, 3, 4]]
    np.testing.assert_array_equal(y[..., 1], 2 * y[..., 0])


def test_a_fixed_kernel_may_be_traced():
    """Such as a blur of a width that is searched; the derivative of ``sum(k * x)`` by a scale of k, by hand."""
    x = jnp.array([1.0, 2.0, 4.0]).reshape(1, 3, 1)

    def total(scale):
        return jn.fixed_conv(scale * jnp.array([1.0, 10.0])).apply((), (), x)[0].sum()

    assert jax.grad(total)(2.0) == (1 + 20) + (2 + 40)


@pytest.mark.parametrize("dtype, wanted", [(jnp.uint8, jnp.float32), (jnp.bfloat16, jnp.bfloat16)])
def test_a_fixed_kernel_takes_the_dtype_of_the_input(dtype, wanted, key):
    layer = jn.fixed_conv(np.array([0.5, 0.25]))
    _, _, out = layer.init(key, jn.Spec((3, 1), dtype))
    y, _ = layer.apply((), (), jnp.full((1, 3, 1), 200, dtype))
    assert y.dtype == out.dtype == wanted
    assert y.ravel().tolist() == [150, 150]


@pytest.mark.parametrize("make", [lambda: jn.conv(2, (3,)), lambda: jn.conv_transpose(2, (3,))])
def test_bytes_make_float32(make, key):
    params, state, out = make().init(key, jn.Spec((4, 1), jnp.uint8))
    y, _ = make().apply(params, state, jnp.full((1, 4, 1), 200, jnp.uint8))
    wanted, _ = make().apply(params, state, jnp.full((1, 4, 1), 200.0))
    assert y.dtype == out.dtype == params["w"].dtype == jnp.float32
    np.testing.assert_allclose(y, wanted)


# Draws.


def test_the_variance_counts_the_places_and_the_active_inputs_of_a_group(key):
    w = jn.conv(2000, (3, 2)).init(key, jn.Spec((4, 4, 10), active=jnp.arange(10) % 2 == 0))[0]["w"]
    np.testing.assert_allclose(np.asarray(w)[:, :, ::2].var() * 6 * 5, 1, rtol=0.02)
    w = jn.conv(2000, (5,), groups=2).init(key, (5, 12))[0]["w"]
    assert w.shape == (5, 6, 2000)
    np.testing.assert_allclose(w.var() * 5 * 6, 1, rtol=0.02)
    w = jn.depthwise_conv(200, (3, 3)).init(key, (4, 4, 30))[0]["w"]
    np.testing.assert_allclose(w.var() * 9, 1, rtol=0.02)


def test_biases_start_at_zero_and_w_init_is_used(key):
    params, _, _ = jn.conv(3, (2,), w_init=jax.nn.initializers.constant(2.5)).init(key, (4, 2))
    assert params["b"].tolist() == [0, 0, 0]
    assert set(params["w"].ravel().tolist()) == {2.5}


def test_a_small_kernel_of_a_lane_is_that_of_the_narrow_network_whatever_the_bound(key):
    narrow = jn.conv(5, (3, 3)).init(key, (4, 4, 2))[0]["w"]
    for bound in (5, 8, 32):
        wide = jn.conv(jn.Size(bound, 5), (3, 3)).init(key, (4, 4, 2))[0]["w"]
        np.testing.assert_array_equal(wide[..., :5], narrow)
        assert not wide[..., 5:].any()


def test_a_multiplier_with_a_size_keeps_the_outputs_of_each_feature_together(key):
    layer = jn.depthwise_conv(jn.Size(3, 2), (2,))
    params, _, out = layer.init(key, (4, 2))
    assert out.active.tolist() == [True, True, False] * 2
    narrow = jn.depthwise_conv(2, (2,)).init(key, (4, 2))[0]["w"]
    np.testing.assert_array_equal(params["w"][..., out.active], narrow)


# Sequences.

OVER_TIME = {
    "valid": lambda: jn.conv(2, (3,)),
    "same": lambda: jn.conv(2, (4,), padding="SAME"),
    "causal": lambda: jn.conv(2, (3,), dilation=2, padding="CAUSAL", strides=2),
    "pairs": lambda: jn.conv(2, (3,), padding=((2, 1),), strides=3),
    "depthwise": lambda: jn.depthwise_conv(2, (2,), strides=2),
    "separable": lambda: jn.separable_conv(2, (3,), padding=1),
    "fixed": lambda: jn.fixed_conv([1.0, -2.0, 0.5], padding="SAME"),
}


@pytest.mark.parametrize("make", OVER_TIME.values(), ids=OVER_TIME.keys())
def test_a_sequence_in_a_batch_equals_the_sequence_alone(make, key):
    layer = make()
    spec = jn.Sequence(jn.Spec((9, 3)), jn.Spec((), jnp.int32))
    params, state, out = layer.init(key, spec)
    params = jax.tree.map(lambda p: p + 0.1, params)
    lengths = [9, 5, 3, 4]
    x = jax.random.normal(key, (len(lengths), 9, 3))
    batch = jn.Sequence(
        jnp.where(jnp.arange(9)[None, :, None] < jnp.array(lengths)[:, None, None], x, jnp.nan), jnp.array(lengths)
    )
    y, _ = layer.apply(params, state, batch)
    assert y.values.shape == (len(lengths), *out.values.shape)
    gradient = jax.grad(
        lambda p, x: jnp.sum(jnp.sin(layer.apply(p, state, batch.replace(x))[0].values)), argnums=(0, 1)
    )
    dp, dx = jax.jit(gradient)(params, batch.values)
    of_one = jax.jit(jax.grad(lambda p, x: jnp.sum(jnp.sin(layer.apply(p, state, x)[0])), argnums=(0, 1)))
    alone_dp = jax.tree.map(jnp.zeros_like, params)
    for i, length in enumerate(lengths):
        single = x[i : i + 1, :length]
        alone, _ = layer.apply(params, state, single)
        assert y.lengths[i] == alone.shape[1]
        np.testing.assert_allclose(y.values[i, : y.lengths[i]], alone[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(y.values[i, y.lengths[i] :], 0)
        own_dp, own_dx = of_one(params, single)
        np.testing.assert_allclose(dx[i, :length], own_dx[0], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(dx[i, length:], 0)
        alone_dp = jax.tree.map(jnp.add, alone_dp, own_dp)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), dp, alone_dp)


def test_sequences_too_short_for_a_window_have_no_outputs(key):
    layer = jn.conv(2, (4,))
    params, state, _ = layer.init(key, (6, 1))
    y, _ = layer.apply(params, state, jn.Sequence(jnp.ones((3, 6, 1)), jnp.array([6, 3, 0])))
    assert y.lengths.tolist() == [3, 0, 0]
    assert not y.values[1:].any()


@pytest.mark.parametrize(
    "layer, kind, message",
    [
        (lambda: jn.conv(2, (3, 3)), TypeError, r"conv: a Sequence has one axis of time, but the kernel is \(3, 3\)"),
        (
            lambda: jn.conv(2, (3,), strides=2, padding="SAME"),
            ValueError,
            "padding 'SAME'.*padded array ends.*'CAUSAL'",
        ),
        (
            lambda: jn.conv(2, (3,), padding=1, padding_mode="edge"),
            ValueError,
            "padding_mode 'edge'.*padded array ends",
        ),
    ],
)
def test_sequences_that_would_feel_the_padding_are_refused(layer, kind, message, key):
    with pytest.raises(kind, match=message):
        layer().init(key, jn.Sequence(jn.Spec((9, 3)), jn.Spec((), jnp.int32)))
    with pytest.raises(kind, match=message):
        layer().apply({"w": jnp.ones((3, 3, 2))}, (), jn.Sequence(jnp.ones((1, 9, 3)), jnp.array([9])))


# Errors.


def spaced(kernel=(3,), **options):
    return lambda: jn.conv(2, kernel, **options)


@pytest.mark.parametrize(
    "make, kind, message",
    [
        (spaced(3), TypeError, r"conv: kernel must be a tuple.*got 3; try \(3,\) for sequences or \(3, 3\) for images"),
        (spaced("3"), TypeError, "conv: kernel must be a tuple of one to three integers, got '3'"),
        (spaced(()), ValueError, r"conv: kernel must have one to three dimensions, got \(\)"),
        (spaced((1, 2, 3, 4)), ValueError, r"conv: kernel must have one to three dimensions, got \(1, 2, 3, 4\)"),
        (spaced((2.5,)), TypeError, r"conv: kernel must be an integer or a tuple of integers, got \(2.5,\)"),
        (spaced((3, 0)), ValueError, r"conv: kernel must be at least 1, got \(3, 0\)"),
        (spaced(strides=0), ValueError, "conv: strides must be at least 1, got 0"),
        (spaced(strides=(1, 2)), ValueError, r"conv: strides must be one integer or 1, one for each dim.*got \(1, 2\)"),
        (spaced(dilation=True), TypeError, "conv: dilation must be an integer or a tuple of integers, got True"),
        (spaced(padding="FULL"), ValueError, "conv: padding must be 'SAME', 'VALID', 'CAUSAL', integers.*got 'FULL'"),
        (spaced((3, 3), padding="CAUSAL"), ValueError, "conv: padding 'CAUSAL' pads time.*one dimension, got 2"),
        (spaced(padding=-1), ValueError, "conv: padding must be at least 0, got -1"),
        (spaced(padding=1.5), TypeError, "conv: padding must be an integer or a tuple of integers, got 1.5"),
        (spaced(padding=(1, 2)), ValueError, r"conv: padding must be one integer.*for a pair, try \(\(1, 2\),\)"),
        (spaced(padding=((1, 2, 3),)), ValueError, r"conv: padding must be one integer or 2.*got \(1, 2, 3\)"),
        (
            spaced(padding_mode="mirror"),
            ValueError,
            "conv: padding_mode must be one of 'zeros', 'reflect'.*got 'mirror'",
        ),
        (spaced(groups=0), ValueError, "conv: groups must be at least 1, got 0"),
        (spaced(groups=3), ValueError, "conv: groups=3 must divide the features, got features=2"),
        (lambda: jn.conv(2.5, (3,)), TypeError, "conv: features must be an integer or a Size, got 2.5"),
        (
            lambda: jn.conv(jn.Size(4, 2, "filters"), (3,), groups=2),
            ValueError,
            "conv: groups=2 with features that differ from lane to lane.*'filters'.*static=True",
        ),
        (lambda: jn.depthwise_conv(0, (3,)), ValueError, "depthwise_conv: multiplier must be at least 1, got 0"),
        (lambda: jn.separable_conv(0, (3,)), ValueError, "separable_conv: features must be at least 1, got 0"),
        (
            lambda: jn.conv_transpose(2, (3,), padding="SAME"),
            TypeError,
            "conv_transpose: padding is what is cut off.*got 'SAME'",
        ),
        (
            lambda: jn.conv_transpose(2, (3, 3), strides=2, output_padding=(1, 2)),
            ValueError,
            r"conv_transpose: output_padding must be below the stride or the dilation, got \(1, 2\)",
        ),
        (lambda: jn.conv_transpose("2", (3,)), TypeError, "conv_transpose: features must be an integer or a Size"),
        (lambda: jn.fixed_conv([[["a"]]]), TypeError, "fixed_conv: kernel must be an array of numbers"),
        (lambda: jn.fixed_conv(2.0), ValueError, r"fixed_conv: kernel must have one to three dimensions, got \(\)"),
    ],
)
def test_wrong_arguments_are_refused_at_once(make, kind, message):
    with pytest.raises(kind, match=message):
        make()


@pytest.mark.parametrize(
    "layer, shape, message",
    [
        (
            spaced((3, 3)),
            (28, 28),
            r"conv: a kernel \(3, 3\) slides over.*\[height, width, features\].*add.*\(28, 28, 1\)",
        ),
        (
            spaced((3,)),
            (4, 4, 1),
            r"conv: a kernel \(3,\) slides over.*\[time, features\], but got the shape \(4, 4, 1\)",
        ),
        (
            spaced((5,), dilation=2),
            (8, 1),
            r"conv: a window that spans \(9,\) doesn't fit into \(8,\).*try padding='SAME'",
        ),
        (spaced(padding=4, padding_mode="reflect"), (4, 1), r"conv: padding_mode 'reflect' has at most \(3,\) places"),
        (
            spaced(padding=5, padding_mode="circular"),
            (4, 1),
            r"conv: padding_mode 'circular' has at most \(4,\) places",
        ),
        (spaced(groups=2), (4, 3), r"conv: groups=2 must divide the input's features, got the shape \(4, 3\)"),
        (
            spaced(groups=2),
            jn.Spec((4, 2), active=np.array([True, False])),
            "conv: groups=2 after features that differ from lane to lane.*depthwise_conv.*static=True",
        ),
        (
            lambda: jn.conv_transpose(2, (3,), padding=3),
            (2, 1),
            r"conv_transpose: of \(2,\), padding \(\(3, 3\),\) leaves \(-2,\); try less padding",
        ),
    ],
)
def test_shapes_that_cannot_work_are_refused_by_init(layer, shape, message, key):
    with pytest.raises(ValueError, match=message):
        layer().init(key, shape)


def test_images_too_small_are_refused_by_apply_as_well(key):
    params, state, _ = jn.conv(2, (3, 3)).init(key, (5, 5, 1))
    with pytest.raises(ValueError, match=r"conv: a window that spans \(3, 3\) doesn't fit into \(2, 5\)"):
        jn.conv(2, (3, 3)).apply(params, state, jnp.ones((1, 2, 5, 1)))


def test_another_space_is_taken_since_weights_are_shared(key):
    params, state, _ = jn.conv(2, (3, 3)).init(key, (5, 5, 1))
    assert jn.conv(2, (3, 3)).apply(params, state, jnp.ones((1, 7, 4, 1)))[0].shape == (1, 5, 2, 2)
