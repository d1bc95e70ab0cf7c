import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.ops import convolution
from jaxnet.ops.convolution import MOST_BLOCKED_FEATURES, MOST_SLICES, convolve, convolve_transposed
from jaxnet.ops.lowering import lowered_as

# space, in_features, features, kernel, strides, dilation, padding, groups
CASES = {
    "1d": ((7,), 3, 4, (3,), (1,), (1,), ((0, 0),), 1),
    "1d, all": ((9,), 2, 3, (3,), (2,), (2,), ((1, 4),), 1),
    "one place": ((5, 4), 3, 2, (1, 1), (2, 1), (1, 1), ((0, 0), (1, 0)), 1),
    "2d": ((6, 5), 3, 4, (3, 2), (1, 1), (1, 1), ((0, 0), (0, 0)), 1),
    "2d, all": ((7, 8), 2, 3, (2, 3), (2, 3), (3, 1), ((2, 0), (1, 2)), 1),
    "3d, all": ((4, 5, 3), 2, 3, (2, 3, 2), (1, 2, 1), (2, 1, 1), ((0, 1), (1, 0), (0, 0)), 1),
    "2d, last axis dense": ((6, 11), 2, 3, (2, 3), (2, 1), (1, 2), ((0, 0), (1, 2)), 1),
    "2d, two at once": ((5, 8), 2, 9, (2, 3), (1, 1), (1, 1), ((0, 1), (1, 1)), 1),
    "groups": ((6, 5), 6, 4, (3, 2), (2, 1), (1, 2), ((1, 0), (0, 1)), 2),
    "depthwise": ((6, 5), 3, 3, (3, 2), (1, 2), (2, 1), ((1, 1), (0, 0)), 3),
    "depthwise, two outputs each": ((7,), 3, 6, (3,), (2,), (1,), ((2, 0),), 3),
    "depthwise, 3d": ((3, 4, 2), 2, 4, (2, 2, 1), (1, 2, 1), (1, 1, 1), ((0, 0), (1, 1), (0, 0)), 2),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request):
    """``(function of x and w, x, w)``, where the function is ``convolve`` with the case's arguments."""
    space, in_features, features, kernel, strides, dilation, padding, groups = request.param
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *space, in_features))
    w = rng.normal(size=(*kernel, in_features // groups, features))

    def run(x, w):
        return convolve(x, w, strides=strides, dilation=dilation, padding=padding, groups=groups)

    return run, x, w


@pytest.fixture
def tiny_cache(monkeypatch):
    """Patches of a kernel with more than one place never fit."""
    monkeypatch.setattr(convolution, "MOST_BYTES", 0)
    monkeypatch.setattr(convolution, "LEAST_LARGE_FEATURES", 0)


def natively(run, how="native"):
    def under(*args):
        with lowered_as(how):
            return run(*args)

    return under


def primitives(run, *args):
    return {str(equation.primitive) for equation in jax.make_jaxpr(run)(*args).eqns}


def test_matrix_products_equal_native_convolutions(case, x64):
    """Outputs, gradients, and gradients of gradients; two programs that share nothing but their arguments."""
    run, x, w = case
    x, w = jnp.asarray(x), jnp.asarray(w)
    assert "conv_general_dilated" not in primitives(run, x, w)
    assert "conv_general_dilated" in primitives(natively(run), x, w)

    def everything(run):
        def first(x, w):
            return jnp.sum(jnp.sin(run(x, w)))

        def second(x, w):
            dx, dw = jax.grad(first, argnums=(0, 1))(x, w)
            return jnp.sum(dx**3) + jnp.sum(jnp.cos(dw))

        gradients = jax.grad(first, argnums=(0, 1)), jax.grad(second, argnums=(0, 1))
        return jax.jit(lambda x, w: (run(x, w), *(gradient(x, w) for gradient in gradients)))(x, w)

    for got, wanted in zip(*(jax.tree.leaves(everything(r)) for r in (run, natively(run))), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shared", [True, False], ids=["shared inputs", "own inputs"])
@pytest.mark.parametrize("native", [False, True], ids=["products", "native"])
def test_lanes_equal_a_loop(case, shared, native, x64):
    """``vmap`` over weights, and over inputs or not, inside and outside of gradients."""
    run, x, w = case
    run = natively(run) if native else run
    lanes = 3
    ws = jnp.stack([jnp.asarray(w) * (i + 1) for i in range(lanes)])
    xs = jnp.asarray(x) if shared else jnp.stack([jnp.asarray(x) - i for i in range(lanes)])

    def lane(x, w):
        return run(x, w), jax.grad(lambda x, w: jnp.sum(jnp.sin(run(x, w))), argnums=(0, 1))(x, w)

    together = jax.jit(jax.vmap(lane, in_axes=(None if shared else 0, 0)))(xs, ws)
    single = jax.jit(lane)
    for i in range(lanes):
        alone = single(xs if shared else xs[i], ws[i])
        for got, wanted in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(got[i], wanted, rtol=1e-10, atol=1e-10)


def test_a_sum_written_out_gives_the_same(x64):
    """``y[b, p, o] = sum x[b, stride * p + dilation * k - before, i] * w[k, i, o]``, by loops."""
    rng = np.random.default_rng(1)
    x, w = rng.normal(size=(2, 6, 3)), rng.normal(size=(3, 3, 2))
    y = convolve(jnp.asarray(x), jnp.asarray(w), strides=(2,), dilation=(2,), padding=((3, 1),))
    wanted = np.zeros((2, 3, 2))
    for b, p, k, i, o in np.ndindex(2, 3, 3, 3, 2):
        at = 2 * p + 2 * k - 3
        wanted[b, p, o] += x[b, at, i] * w[k, i, o] if 0 <= at < 6 else 0
    np.testing.assert_allclose(y, wanted, rtol=1e-12)


def test_the_transpose_is_the_transpose(x64):
    """``<A x, y> = <x, A' y>``, for both ways of computing it."""
    rng = np.random.default_rng(2)
    x, w = jnp.asarray(rng.normal(size=(2, 7, 6, 3))), jnp.asarray(rng.normal(size=(3, 2, 3, 4)))
    arguments = {"strides": (2, 1), "dilation": (1, 2)}
    forth = convolve(x, w, **arguments, padding=((1, 0), (2, 1)))
    y = jnp.asarray(rng.normal(size=forth.shape))
    swapped = jnp.swapaxes(w, -1, -2)

    def back(y):
        return convolve_transposed(y, swapped, **arguments, crop=((1, 0), (2, 1)), space=(7, 6))

    assert back(y).shape == x.shape
    np.testing.assert_allclose(jnp.vdot(forth, y), jnp.vdot(x, back(y)), rtol=1e-12)
    np.testing.assert_allclose(natively(back)(y), back(y), rtol=1e-10, atol=1e-12)


def test_long_kernels_go_to_the_native_convolution():
    """One slice for each place would be a program that compiles for ever."""

    def run(places):
        arguments = {"strides": (1,), "dilation": (1,), "padding": ((0, 0),)}
        x, w = jnp.ones((1, 300, 1)), jnp.ones((places, 1, 1))
        return primitives(lambda x, w: convolve(x, w, **arguments), x, w)

    assert "conv_general_dilated" not in run(MOST_SLICES)
    assert "conv_general_dilated" in run(MOST_SLICES + 1)


def test_wide_kernels_go_to_the_native_convolution_on_accelerators(monkeypatch):
    def run(in_features):
        x, w = jnp.ones((1, 4, 4, in_features)), jnp.ones((3, 3, in_features, 1))
        arguments = {"strides": (1, 1), "dilation": (1, 1), "padding": ((0, 0), (0, 0))}
        return "conv_general_dilated" in primitives(lambda x, w: convolve(x, w, **arguments), x, w)

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert [run(n) for n in (64, 65)] == [False, True]
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert not run(65)


UNGROUPED = {
    "1d": CASES["1d"],
    "1d, padded": ((9,), 2, 3, (4,), (1,), (2,), ((5, 2),), 1),
    "1d, padded beyond its reach": ((4,), 2, 3, (2,), (1,), (1,), ((2, 0),), 1),
    "2d": CASES["2d"],
    "2d, dilated and padded": ((7, 8), 2, 3, (2, 3), (1, 1), (3, 1), ((2, 0), (1, 2)), 1),
    "2d, strides and dilation": CASES["2d, all"],
    "2d, strides": ((7, 8), 2, 3, (3, 3), (2, 2), (1, 1), ((1, 1), (0, 1)), 1),
    "2d, a stride on one axis": ((5, 9), 2, 3, (2, 4), (1, 3), (1, 1), ((1, 0), (2, 2)), 1),
    "2d, strides that leave the end unseen": ((6, 8), 2, 3, (2, 3), (2, 3), (1, 1), ((0, 0), (1, 1)), 1),
    "2d, strides past a short kernel": ((7, 8), 2, 3, (2, 1), (4, 2), (1, 1), ((0, 0), (0, 0)), 1),
    "1d, strides": ((9,), 2, 3, (4,), (3,), (1,), ((2, 1),), 1),
    "3d": ((4, 5, 3), 2, 3, (2, 3, 2), (1, 1, 1), (2, 1, 1), ((0, 1), (1, 0), (0, 0)), 1),
}


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a choice that is made on a CPU only")
@pytest.mark.parametrize("options", UNGROUPED.values(), ids=UNGROUPED.keys())
def test_what_is_too_large_for_patches_has_the_same_gradients_to_the_second_order(options, tiny_cache):
    """Against patches; alone, and with weights, inputs or both as lanes.

    XLA's own is no reference: padded by more than the kernel reaches, its second derivatives are wrong outside of jit.
    """
    space, in_features, features, kernel, strides, dilation, padding, _ = options
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 2, *space, in_features)).astype(np.float32)
    w = rng.normal(size=(3, *kernel, in_features, features)).astype(np.float32)

    def run(x, w):
        return convolve(x, w, strides=strides, dilation=dilation, padding=padding)

    def everything(run):
        def first(x, w):
            return jnp.sum(jnp.sin(run(x, w)))

        def second(x, w):
            dx, dw = jax.grad(first, argnums=(0, 1))(x, w)
            return jnp.sum(dx**2) + jnp.sum(jnp.cos(dw))

        def of_one(x, w):
            gradient = jax.grad(first, (0, 1))
            forward = jax.jvp(gradient, (x, w), (jnp.cos(x), jnp.sin(w)))
            return run(x, w), gradient(x, w), jax.grad(second, (0, 1))(x, w), forward

        alone = jax.jit(of_one)(x[0], w[0])
        return alone, *(jax.jit(jax.vmap(of_one, axes))(*lanes) for axes, lanes in LANES)

    LANES = ((0, 0), (x, w)), ((None, 0), (x[0], w)), ((0, None), (x, w[0]))
    found = "canonical_convolution" in primitives(run, x[0], w[0])
    wide = any(max(edges) > d * (k - 1) for edges, d, k in zip(padding, dilation, kernel, strict=True))
    folded = np.prod([-(-k // s) * s for k, s in zip(kernel, strides, strict=True)])
    strided = max(dilation) == 1 and folded <= convolution.MOST_FOLDED * np.prod(kernel)
    assert found == (len(kernel) < 3 and (strided if max(strides) > 1 else not wide))
    made = (jax.tree.leaves(everything(under)) for under in (run, natively(run, "patches")))
    for got, expected in zip(*made, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a choice that is made on a CPU only")
@pytest.mark.parametrize(
    "kernel, strides, dilation, crop, space",
    {
        "dilated": ((3, 2), (1, 1), (1, 2), ((1, 0), (1, 1)), (4, 4)),
        "strides": ((4, 3), (2, 2), (1, 1), ((1, 1), (0, 1)), (6, 8)),
        "strides, and space that nothing comes to": ((3, 2), (2, 2), (1, 1), ((0, 0), (0, 0)), (8, 9)),
    }.values(),
)
def test_a_large_transposed_convolution_is_one_too(kernel, strides, dilation, crop, space, tiny_cache):
    rng = np.random.default_rng(0)
    x, w = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 3, 4, 5), (*kernel, 5, 4)))

    def run(x, w):
        return convolve_transposed(x, w, strides=strides, dilation=dilation, crop=crop, space=space)

    assert "canonical_convolution" in primitives(run, x, w)

    def everything(run):
        return run(x, w), *jax.grad(lambda x, w: jnp.sum(run(x, w) ** 3), (0, 1))(x, w)

    for a, b in zip(everything(run), everything(natively(run)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


def test_how_large_patches_are(monkeypatch):
    """Bytes by hand: each of 2 x 5 x 4 windows sees 3 x 3 x 6 numbers, a block of 2 or 4 windows 3 x 4 or 3 x 6 x 6."""

    def how(features, most, in_features=6, dtype=jnp.float32):
        x, w = jnp.ones((2, 7, 6, in_features)), jnp.ones((3, 3, in_features, features), dtype)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(convolution, "MOST_BYTES", most)
            return convolution._how(x, w, (1, 1), (1, 1), ((0, 0), (0, 0)), 1)

    def size(features, seen):
        return 2 * 5 * 4 * 4 * (6 * seen + features)

    if jax.default_backend() == "cpu":
        wide, half, whole = 3 * 3, 3 * 4 // 2, 3 * 6 / 4
        assert [how(33, size(33, wide) - less) for less in (0, 1)] == [1, "canonical"]
        assert [how(32, most) for most in (size(32, wide), size(32, half), size(32, half) - 1)] == [1, 2, "canonical"]
        assert [how(16, most) for most in (size(16, wide), size(16, half) - 1)] == [2, "canonical"]
        assert [how(13, most) for most in (size(13, half), size(13, half) - 1, 1)] == [2, 4, "canonical"]
        assert [how(7, most) for most in (size(7, whole), size(7, whole) - 1)] == [4, "canonical"]
        assert [how(features, 1, 4) for features in (7, 8, 32, 33)] == [4, 2, 2, "canonical"]
        assert [how(features, 1, 5) for features in (7, 8, 14)] == ["canonical"] * 3
        assert [how(features, 1, dtype=jnp.bfloat16) for features in (7, 8, 32, 33)] == [4, 2, 2, 1]
        x, w, valid = jnp.ones((2, 7, 6, 6)), jnp.ones((5, 5, 6, 16)), ((0, 0), (0, 0))
        assert convolution._how(x, w, (1, 1), (1, 1), valid, 1) == 2
        monkeypatch.setattr(convolution, "multiplied_by_eigen", lambda: True)
        assert convolution._how(x, w, (1, 1), (1, 1), valid, 1) == 4
        assert how(16, 10**6) == 2
    else:
        assert how(32, 1) == how(32, 1, dtype=jnp.bfloat16) == 1


def test_the_switch_ends_with_its_block_even_after_an_error():
    x, w = jnp.ones((1, 4, 1)), jnp.ones((2, 1, 1))

    def run(x, w):
        return convolve(x, w, strides=(1,), dilation=(1,), padding=((0, 0),))

    with pytest.raises(RuntimeError), lowered_as("native"):
        raise RuntimeError
    assert "conv_general_dilated" not in primitives(run, x, w)


def test_integers_are_promoted():
    """Images of bytes with weights in half precision, in both ways."""
    x, w = jnp.full((1, 4, 1), 200, jnp.uint8), jnp.full((2, 1, 1), 2, jnp.bfloat16)

    def run():
        return convolve(x, w, strides=(1,), dilation=(1,), padding=((0, 0),))

    with lowered_as("native"):
        native = run()
    for y in (run(), native):
        assert y.dtype == jnp.bfloat16
        assert y.ravel().tolist() == [800, 800, 800]


def test_networks_of_different_widths_in_lanes_equal_each_alone(key):
    def make(first, second):
        return jn.serial(
            jn.conv(first, (3, 3), padding="SAME"),
            jax.nn.relu,
            jn.conv(second, (3, 3)),
            jnp.tanh,
            jn.flatten,
            jn.dense(3),
        )

    x = jax.random.normal(key, (2, 6, 6, 1))

    def lane(first, second):
        net = make(jn.Size(4, first), jn.Size(5, second))
        params, state, _ = net.init(key, (6, 6, 1))
        return net.apply(params, state, x)[0]

    together = jax.vmap(lane)(jnp.array([2, 4]), jnp.array([5, 3]))
    for got, widths in zip(together, [(2, 5), (4, 3)], strict=True):
        net = make(*widths)
        params, state, _ = net.init(key, (6, 6, 1))
        np.testing.assert_allclose(got, net.apply(params, state, x)[0], rtol=1e-4, atol=1e-5)


def test_few_features_are_made_in_blocks(monkeypatch):
    """One row of the matmul for 2 or 4 places of 6; with strides, and for many features, one for each."""

    def rows(features, stride=1, kernel=3):
        x, w = jnp.ones((1, 6, 6, 2)), jnp.ones((kernel, kernel, 2, features))
        edges = (kernel // 2, kernel // 2)
        arguments = {"strides": (1, stride), "dilation": (1, 1), "padding": (edges, edges)}
        (dot,) = (
            equation
            for equation in jax.make_jaxpr(lambda x, w: convolve(x, w, **arguments))(x, w).eqns
            if str(equation.primitive) == "dot_general"
        )
        return dot.outvars[0].aval.shape

    for kernel, most in ((3, (7, 19)), (5, (15, 21))):  # 26 x 5 / 6 = 21.7 products with two in a block
        assert rows(most[0], kernel=kernel) == (1, 6, 2, 4 * most[0])
        assert rows(most[0] + 1, kernel=kernel) == (1, 6, 3, 2 * (most[0] + 1))
        assert rows(most[1], kernel=kernel) == (1, 6, 3, 2 * most[1])
        assert rows(most[1] + 1, kernel=kernel) == (1, 6, 6, most[1] + 1)
    assert rows(3, stride=2) == (1, 6, 3, 3)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert rows(MOST_BLOCKED_FEATURES) == (1, 6, 2, 4 * MOST_BLOCKED_FEATURES)
    assert rows(MOST_BLOCKED_FEATURES + 1) == (1, 6, 6, MOST_BLOCKED_FEATURES + 1)
    assert rows(3, stride=2) == (1, 6, 3, 3)
    assert rows(3, kernel=1) == (1, 6, 6, 3)
