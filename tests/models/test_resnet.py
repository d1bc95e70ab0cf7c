"""Residual networks: published sizes, what stands past a block, widths that differ from lane to lane."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn


@pytest.mark.parametrize("depth, published", [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_parameters_are_those_of_the_paper(depth, published):
    # He et al. (2015), table 6, in millions, to the digits given there.
    parameters = jn.summary(jn.models.resnet(depth), (32, 32, 3)).total.parameters
    assert round(parameters / 1e6, 1 if depth == 110 else 2) == published


def test_every_number_of_resnet_20_counted_by_hand():
    # 3 x 3 convolutions, scale and offset after each, and the head.
    convolutions = 9 * (3 * 16 + 6 * 16**2 + 16 * 32 + 5 * 32**2 + 32 * 64 + 5 * 64**2)
    by_hand = convolutions + 2 * (7 * 16 + 6 * 32 + 6 * 64) + 65 * 10
    assert jn.summary(jn.models.resnet(20), (32, 32, 3)).total.parameters == by_hand == 269_722
    # Two more 1 x 1 convolutions with batch norm; and none past any block leaves the weights as they are.
    projected = jn.summary(jn.models.resnet(20, shortcuts="projection"), (32, 32, 3)).total.parameters
    assert projected == by_hand + 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    assert jn.summary(jn.models.resnet(20, shortcuts="none"), (32, 32, 3)).total.parameters == by_hand


@pytest.mark.parametrize("shortcuts", ["zeros", "projection", "none"])
def test_stages_halve_the_image_and_double_the_features(shortcuts):
    net = jn.models.resnet(14, 3, filters=4, shortcuts=shortcuts)
    params, state, out = jax.eval_shape(lambda key: net.init(key, (9, 8, 1)), jax.random.key(0))
    assert out.shape == (3,)
    assert params["head"][1]["w"].shape == (16, 3)
    assert set(params) == set(state) == {"first", "stage1", "stage2", "stage3", "head"}
    assert jax.eval_shape(net.apply, params, state, jnp.zeros((2, 9, 8, 1)))[0].shape == (2, 3)


def test_without_its_learned_part_an_image_goes_through(key):
    net = jn.models.resnet(8, 2, filters=2)
    params, state, _ = net.init(key, (8, 8, 1))
    dead = {name: jax.tree.map(jnp.zeros_like, params[name]) for name in ("stage1", "stage2", "stage3")}
    # The first layer passes the image on as its first feature (a kernel that is 1 in its middle), the head reads it.
    first = jnp.zeros((3, 3, 1, 2)).at[1, 1, 0, 0].set(1)
    w, b = params["head"][1]["w"], params["head"][1]["b"]
    parts = {
        "first": ({"w": first}, *params["first"][1:]),
        "head": ((), {"w": jnp.zeros_like(w).at[0, 0].set(1).at[1, 1].set(1), "b": b}),
    }
    images = np.random.default_rng(0).uniform(size=(2, 8, 8, 1)).astype(np.float32)
    outputs = jax.jit(net.apply)(params | dead | parts, state, images)[0]
    # Every fourth place is left, its mean is the first output; batch norm of the first layer divides by sqrt(1 + 1e-5).
    kept = images[:, ::4, ::4, 0].mean(axis=(1, 2)) / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(outputs, np.stack([kept, np.zeros(2)], axis=1), rtol=1e-5)


def test_a_padded_network_is_the_narrow_one(key):
    # Its layers are held to the law of sizes one by one; new here are the zeros past a block, and who is active there.
    images = np.random.default_rng(0).normal(size=(4, 4, 4, 1)).astype(np.float32)

    def outputs(filters):
        net = jn.models.resnet(8, 3, filters=filters)

        def run(key):
            params, state, _ = net.init(key, (4, 4, 1))
            return net.apply(params, state, images, train=True)[0]

        with jax.default_matmul_precision("highest"):
            return jax.jit(run)(key)

    padded, narrow = outputs(jn.Size(bound=4, value=jnp.int32(3), name="filters")), outputs(3)
    np.testing.assert_allclose(padded, narrow, rtol=2e-4, atol=1e-5)
    assert np.ptp(narrow) > 0.1


def test_a_size_goes_through_the_projection_too():
    net = jn.models.resnet(8, 3, filters=jn.Size(bound=4, value=3, name="filters"), shortcuts="projection")
    params, _, out = jax.eval_shape(lambda key: net.init(key, (4, 4, 1)), jax.random.key(0))
    assert out.shape == (3,) and params["stage3"][0][0]["shortcut"][0]["w"].shape == (1, 1, 8, 16)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"depth": 18}, ValueError, "6 n \\+ 2"), ({"depth": 2}, ValueError, "6 n \\+ 2"),
        ({"depth": "20"}, TypeError, "integer"), ({"depth": 8, "shortcuts": "A"}, ValueError, "zeros"),
        ({"depth": 8, "filters": 0}, ValueError, "filters"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        jn.models.resnet(**arguments)
