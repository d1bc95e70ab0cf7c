import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.ops import compiling
from jaxnet.ops.lowering import lowered_as
from jaxnet.ops.reductions import moments, standardize

RNG = np.random.default_rng(0)
X, WEIGHTS = RNG.normal(size=(2, 4, 5, 3))
SOME = RNG.random((4, 5, 1)) > 0.3
NONE_IN_ONE = np.array([True, True, False, True])[:, None, None]


def plainly(x, axes, epsilon, counted):
    """The same by NumPy's formulas, which JAX differentiates by itself."""
    weights = jnp.broadcast_to(1.0 if counted is None else counted, x.shape)
    count = jnp.maximum(jnp.sum(weights, axes, keepdims=True), 1)
    mean = jnp.sum(x * weights, axes, keepdims=True) / count
    variance = jnp.sum((x - mean) ** 2 * weights, axes, keepdims=True) / count
    return (x - mean) / jnp.sqrt(variance + epsilon), mean, variance


@pytest.mark.parametrize("axes", [(0, 1), (2,), (1, 2)], ids=str)
@pytest.mark.parametrize(
    "shape", [None, (1, 1, 3), (1, 5, 1)], ids=["plain", "a scale for each feature", "for each step"]
)
@pytest.mark.parametrize("counted", [None, SOME, NONE_IN_ONE], ids=["all", "some", "none in one example"])
@pytest.mark.parametrize(
    "of", [(WEIGHTS, 0.0, 0.0), (WEIGHTS, 2.0, 3.0), (0.0, 0.0, 3.0)], ids=["y", "all", "variance"]
)
def test_gradients_written_out_equal_those_of_the_formula(axes, shape, counted, of, x64):
    affine = () if shape is None else tuple(np.random.default_rng(1).normal(size=(2, *shape)))

    def plain(x, axes, epsilon, counted, scale=1.0, offset=0.0):
        y, *moments = plainly(x, axes, epsilon, counted)
        return y * scale + offset, *moments

    def total(function):
        return lambda x, epsilon, *affine: sum(
            jnp.sum(a * b) for a, b in zip(of, function(x, axes, epsilon, counted, *affine), strict=True)
        )

    arguments = jnp.asarray(X), 0.1, *map(jnp.asarray, affine)
    made = (function(X, axes, 0.1, counted, *affine) for function in (standardize, plain))
    for got, expected in zip(*made, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)
    made = (jax.grad(total(function), range(len(arguments)))(*arguments) for function in (standardize, plain))
    for got, expected in zip(*made, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("counted", [None, SOME], ids=["all", "some"])
def test_it_can_be_differentiated_again(counted, x64):
    def total(function):
        return lambda x: jnp.sum(WEIGHTS * function(x, (0, 1), 0.1, counted)[0] ** 2)

    made = (jax.jit(jax.hessian(total(function)))(jnp.asarray(X)) for function in (standardize, plainly))
    np.testing.assert_allclose(*made, rtol=1e-9, atol=1e-11)


# Of features: as many deviations from zero as these, and one that is a constant.
DEVIATIONS = np.array([0.0, 1.0, 3.9, 4.1, 100.0, 1e4, -1e6])
FAR = np.concatenate([RNG.normal(size=(64, 7)) + DEVIATIONS, np.full((64, 1), 3.0)], 1).astype(np.float32)


# In a program that trains, in any other, and in one without gradients.
WAYS = {
    "training": lambda axes, groups=None: compiling.jit(lambda x: moments(x, axes, None, groups)),
    "elsewhere": lambda axes, groups=None: jax.jit(lambda x: moments(x, axes, None, groups)),
    "forward": lambda axes, groups=None: jax.jit(lambda x: moments(x, axes, None, groups, forward=True)),
}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


@every_way
@pytest.mark.parametrize(("scale", "groups"), [(1e-12, None), (1.0, None), (1e14, None), (1.0, 4)])
def test_variances_keep_their_digits_however_far_the_mean_is(way, scale, groups):
    x = np.float32(scale) * FAR
    exact = x.astype(np.float64) if groups is None else x.astype(np.float64).reshape(64, 4, 2)
    axes = 0 if groups is None else (0, 2)
    mean, variance = (np.asarray(moment)[0] for moment in way((0,), groups)(x))
    np.testing.assert_allclose(mean, exact.mean(axes), rtol=1e-6, atol=1e-6 * scale)
    # A mean of float32 is itself known to less than 1e-6 of it.
    bound = 5e-6 * exact.var(axes) + np.square(1e-6 * exact.mean(axes))
    assert np.all(np.abs(variance - exact.var(axes)) <= bound)


@every_way
@pytest.mark.parametrize("shape", [(6, 5), (5, 1), (1, 5), (2, 3, 4, 5), (4,)], ids=str)
def test_all_ways_to_the_moments_equal_two_plain_passes(way, shape, x64):
    x = RNG.normal(size=shape)
    for axes in {(len(shape) - 1,), tuple(range(len(shape) - 1)), (0,)} - {()}:
        with lowered_as("native"):
            expected = moments(x, axes)
        for got, plain in zip(way(axes)(x), expected, strict=True):
            assert got.shape == plain.shape
            np.testing.assert_allclose(got, plain, rtol=1e-12, atol=1e-15)


@every_way
def test_moments_of_no_rows_are_zero(way):
    for moment in way((0,))(np.zeros((0, 3), np.float32)):
        np.testing.assert_array_equal(moment, np.zeros((1, 3)))


@every_way
def test_what_one_row_is_changes_no_other(way):
    near, moved = RNG.normal(size=(2, 8, 64)).astype(np.float32)
    alone = way((1,))(near)
    for other in (moved + 1e4, np.full_like(moved, np.nan), np.full_like(moved, np.inf), moved * 1e30):
        beside = way((1,))(np.concatenate([near[:4], other[4:]]))
        for got, expected in zip(beside, alone, strict=True):
            np.testing.assert_array_equal(got[:4], expected[:4])


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_lane_that_broke_hides_no_lane_that_is_far(broken):
    far = FAR[:, :6]
    x = np.stack([far, np.full_like(far, broken)])
    variance = compiling.jit(jax.vmap(lambda x: moments(x, (0,))[1]))(x)
    np.testing.assert_allclose(variance[0, 0], far.astype(np.float64).var(0), rtol=1e-5)
    assert np.isnan(variance[1]).all()


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a choice that is made on a CPU only")
def test_under_vmap_the_second_pass_stays_a_choice():
    lanes = compiling.jit(jax.vmap(jax.vmap(lambda x: moments(x, (0,)))))
    assert str(lanes.trace(FAR[None, None]).jaxpr).count(" cond[") == 1
