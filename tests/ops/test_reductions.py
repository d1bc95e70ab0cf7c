import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.ops.reductions import standardize

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


def test_it_can_be_differentiated_again(x64):
    def total(function):
        return lambda x: jnp.sum(WEIGHTS * function(x, (0, 1), 0.1, SOME)[0] ** 2)

    made = (jax.jit(jax.hessian(total(function)))(jnp.asarray(X)) for function in (standardize, plainly))
    np.testing.assert_allclose(*made, rtol=1e-9, atol=1e-11)
