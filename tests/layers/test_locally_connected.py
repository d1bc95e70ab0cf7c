import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.ops.parameters import making_masks

CASES = {
    "1d": ((6,), (3,), 1, "VALID"),
    "1d, padded": ((6,), (3,), 1, 1),
    "1d, strides": ((7,), (3,), 2, "SAME"),
    "1d, causal": ((5,), (3,), 1, "CAUSAL"),
    "1d, a place that never meets an input": ((1,), (3,), 1, 1),
    "2d, pairs": ((4, 5), (2, 3), (1, 2), ((1, 0), (2, 1))),
    "3d": ((3, 2, 4), (2, 2, 3), (1, 1, 2), 1),
}


def weights(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("n", [3, 5, 28])
def test_the_course_counts_from_full_to_local_to_shared_weights(n, key):
    """Over n inputs, kernel 3, zero padding 1: ``n ** 2``, then ``3 * n - 2``, then 3 weights."""
    full, _, _ = jn.dense(n, bias=False).init(key, (n,))
    local, _, out = jn.locally_connected(1, (3,), padding=1, bias=False).init(key, (n, 1))
    shared, _, same = jn.conv(1, (3,), padding=1, bias=False).init(key, (n, 1))
    assert out.shape == same.shape == (n, 1)
    assert [weights(full), weights(local), weights(shared)] == [n**2, 3 * n - 2, 3]


def test_every_tap_is_one_entry_of_the_banded_matrix(key):
    """The layer's matrix, ``[out, in]``, has its weights on three diagonals, each once; all else is zero."""
    layer = jn.locally_connected(1, (3,), padding=1, bias=False)
    params, state, _ = layer.init(key, (5, 1))
    matrix = jax.jacobian(lambda x: layer.apply(params, state, x.reshape(1, 5, 1))[0].ravel())(jnp.zeros(5))
    w = params["w"].ravel()
    np.testing.assert_array_equal(matrix, np.diag(w[:4], -1) + np.diag(w[4:9]) + np.diag(w[9:], 1))


@pytest.mark.parametrize("space, kernel, strides, padding", CASES.values(), ids=CASES.keys())
def test_with_equal_weights_everywhere_it_is_a_convolution(space, kernel, strides, padding, key, x64):
    """The convolution (checked against PyTorch) with the weights copied to each tap; gradients sum over the copies."""
    spec = jn.Spec((*space, 2), jnp.float64)
    options = {"strides": strides, "padding": padding, "bias": False}
    conv, local = jn.conv(3, kernel, **options), jn.locally_connected(3, kernel, **options)
    shared, _, out = conv.init(key, spec)
    _, state, same = local.init(key, spec)
    assert same == out
    x = jax.random.normal(key, (2, *spec.shape), jnp.float64)

    # Which place of the kernel each tap is of: windows over ones with one place of the kernel on count its inputs.
    counts = []
    for place in np.ndindex(*kernel):
        one = jnp.zeros((*kernel, 1, 1)).at[place].set(1.0)
        y, _ = jn.conv(1, kernel, **options).apply({"w": one}, (), jnp.ones((1, *space, 1)))
        counts.append(int(y.sum()))

    def copied(w):
        return {"w": jnp.repeat(w.reshape(-1, 2, 3), np.array(counts), axis=0, total_repeat_length=sum(counts))}

    def total(layer, to_params):
        return lambda w, x: jnp.sum(jnp.sin(layer.apply(to_params(w), state, x)[0]))

    w = shared["w"]
    y, wanted = jax.jit(lambda x: (local.apply(copied(w), state, x)[0], conv.apply(shared, (), x)[0]))(x)
    np.testing.assert_allclose(y, wanted, rtol=1e-10, atol=1e-12)
    got = jax.jit(jax.grad(total(local, copied), argnums=(0, 1)))(w, x)
    wanted = jax.jit(jax.grad(total(conv, lambda w: {"w": w}), argnums=(0, 1)))(w, x)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_each_position_has_weights_and_biases_of_its_own():
    """By hand: taps ordered by place, then position."""
    layer = jn.locally_connected(1, (2,))
    params = {"w": jnp.array([1.0, 10.0, 100.0, 1000.0]).reshape(4, 1, 1), "b": jnp.array([[0.5], [0.25]])}
    y, state = layer.apply(params, (), jnp.array([2.0, 3.0, 4.0]).reshape(1, 3, 1))
    assert y.ravel().tolist() == [2 * 1 + 3 * 100 + 0.5, 3 * 10 + 4 * 1000 + 0.25]
    assert state == ()


def test_draws_have_the_variance_of_a_convolution_and_differ_from_position_to_position(key):
    params, _, _ = jn.locally_connected(50, (3, 3)).init(key, (8, 8, 10))
    w = np.asarray(params["w"]).reshape(9, 36, 10, 50)
    np.testing.assert_allclose(w.var() * 90, 1, rtol=0.02)
    assert len(np.unique(w[:, :, 0, 0])) == 9 * 36
    assert params["b"].shape == (6, 6, 50) and not params["b"].any()


def test_draws_at_a_position_do_not_depend_on_the_padding(key):
    """What is left out at the border leaves the other weights as they are."""
    padded, _, _ = jn.locally_connected(2, (3,), padding="SAME", bias=False).init(key, (6, 1))
    twice, _, _ = jn.locally_connected(2, (3,), padding=1, bias=False).init(key, (6, 1))
    np.testing.assert_array_equal(padded["w"], twice["w"])
    wide, _, _ = jn.locally_connected(jn.Size(7, 2), (3,), padding=1, bias=False).init(key, (6, 1))
    np.testing.assert_array_equal(wide["w"][..., :2], padded["w"])


def test_the_active_weights_are_counted_under_sizes(key):
    """``3 * n - 2`` for each pair of active features, whatever the bounds."""
    layer = jn.locally_connected(jn.Size(5, 2), (3,), padding=1, bias=False)
    with making_masks():
        params, _, _ = layer.init(key, jn.Spec((8, 4), active=jnp.array([True, False, True, True])))
    assert int(params["w"].sum()) == 22 * 3 * 2


@pytest.mark.parametrize(
    "make, kind, message",
    [
        (lambda: jn.locally_connected(1, 3), TypeError, "locally_connected: kernel must be a tuple.*got 3; try"),
        (lambda: jn.locally_connected(0, (3,)), ValueError, "locally_connected: features must be at least 1, got 0"),
        (lambda: jn.locally_connected(1, (3,), strides=0), ValueError, "locally_connected: strides must be at least 1"),
        (
            lambda: jn.locally_connected(1, (3,), padding="FULL"),
            ValueError,
            "locally_connected: padding must be 'SAME'",
        ),
    ],
)
def test_wrong_arguments_are_refused_at_once(make, kind, message):
    with pytest.raises(kind, match=message):
        make()


@pytest.mark.parametrize(
    "shape, message",
    [
        (
            (5,),
            r"locally_connected: a kernel \(3,\) slides over examples of shape \[time, features\], but got.*\(5, 1\)",
        ),
        ((2, 1), r"locally_connected: a window that spans \(3,\) doesn't fit into \(2,\)"),
    ],
)
def test_shapes_that_cannot_work_are_refused_by_init(shape, message, key):
    with pytest.raises(ValueError, match=message):
        jn.locally_connected(1, (3,)).init(key, shape)


def test_another_space_is_refused_since_weights_belong_to_positions(key):
    layer = jn.locally_connected(1, (3,))
    params, state, _ = layer.init(key, (5, 1))
    with pytest.raises(
        ValueError, match=r"the shape that init saw, for which there are 9 taps, but got \(1, 6, 1\).*12"
    ):
        layer.apply(params, state, jnp.ones((1, 6, 1)))
