import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.combinators import as_layer
from jaxnet.layers.elementwise import elementwise

ACTIVE = jnp.array([True, False, True, True])
SPEC = jn.Spec((4,), active=ACTIVE)


def run(layer, x, spec=SPEC, train=False):
    params, state, out = layer.init(None, spec)
    return layer.apply(params, state, x, train=train)[0], state, out


@pytest.mark.parametrize(
    "function, value",
    [(jax.nn.relu, 0.0), (jnp.tanh, np.tanh(-1.5)), (jax.nn.sigmoid, 1 / (1 + np.exp(1.5))), (jnp.arctan, -0.98279372)],
)
def test_a_function_is_applied_to_each_entry(function, value):
    y, state, out = run(elementwise(function), jnp.full((2, 3), -1.5), jn.Spec((3,)))
    np.testing.assert_allclose(y, np.full((2, 3), value), rtol=1e-6)
    assert state == () and out == jn.Spec((3,))


@pytest.mark.parametrize("function", [jax.nn.relu, jnp.tanh, jax.nn.gelu, jax.nn.silu, jnp.sin, jnp.square, abs])
def test_a_function_that_keeps_zero_needs_no_mask(function):
    assert run(elementwise(function), jnp.zeros((1, 4)))[1] == ()


@pytest.mark.parametrize("function", [jax.nn.sigmoid, jnp.cos, jnp.exp, jnp.log, jnp.sqrt, jnp.cbrt, jnp.reciprocal])
def test_others_are_masked_in_value_and_gradient(function):
    x = jnp.where(ACTIVE, jnp.array([0.3, 0.0, 0.7, 1.5]), 0)[None]
    y, state, out = run(elementwise(function), x)
    assert state["active"].tolist() == out.active.tolist() == ACTIVE.tolist()
    assert y[0, 1] == 0
    np.testing.assert_allclose(y[:, ACTIVE], function(x)[:, ACTIVE])
    gradient = jax.grad(lambda x: run(elementwise(function), x)[0].sum())(x)
    assert gradient[0, 1] == 0
    wanted = jax.vmap(jax.grad(function))(x[0, ACTIVE])
    np.testing.assert_allclose(gradient[0, ACTIVE], wanted, rtol=1e-6)


def test_a_slope_that_is_infinite_at_one_makes_no_nan():
    """An inactive entry is shown to the function as a one, where arctanh is infinite."""
    function = lambda x: jnp.arctanh(x) + 1  # noqa: E731
    x = jnp.array([[0.3, 0.0, 0.7, 0.5]])
    y, gradient = jax.value_and_grad(lambda x: run(elementwise(function), x)[0].sum())(x)
    assert np.isfinite(y) and np.isfinite(gradient).all() and gradient[0, 1] == 0


def test_a_function_of_a_traced_hyperparameter():
    """What it makes of zero can't be known while tracing, so it is masked."""

    def lane(slope):
        return run(elementwise(lambda x: slope * x + 1), jnp.ones((1, 4)))[0]

    lanes = jax.jit(jax.vmap(lane))(jnp.array([2.0, 3.0]))
    assert lanes.tolist() == [[[3.0, 0.0, 3.0, 3.0]], [[4.0, 0.0, 4.0, 4.0]]]


def test_a_learned_function_under_jit_is_probed_at_compile_time():
    layer = jn.serial(jn.dense(jn.Size(3, 2)), functools.partial(jax.nn.leaky_relu, negative_slope=0.1))
    state = jax.jit(lambda key: layer.init(key, (2,))[:2])(jax.random.key(0))[1]
    assert state == ((), ())


def test_the_dtype_is_the_functions():
    assert elementwise(jnp.tanh).init(None, jn.Spec((3,), jnp.int32))[2].dtype == jnp.float32
    assert elementwise(jnp.sign).init(None, jn.Spec((3,), jnp.int32))[2].dtype == jnp.int32
    assert elementwise(lambda x: x > 0).init(None, jn.Spec((3,)))[2].dtype == bool


@pytest.mark.parametrize(
    "function, message",
    [
        (jax.nn.softmax, r"softmax: an entry of its output depends on other entries.*jn.lift\(softmax\)"),
        (jax.nn.log_softmax, "log_softmax: an entry of its output depends on other entries"),
        (lambda x: x - x.mean(), "lambda.*depends on other entries"),
        (jnp.sum, r"sum: an elementwise function keeps the shape.*jn.lift\(sum\)"),
        (jnp.cumsum, "cumsum"),
        (lambda x: x[..., None], "keeps the shape"),
        (lambda x: x[:, :2], "keeps the shape"),
        (lambda x: x @ jnp.ones((3, 3)), r"lambda.*can't be applied to a single entry.*jn.lift"),
        (lambda x: x.undefined, "can't take examples of shape.*undefined"),
    ],
)
def test_what_is_not_elementwise_is_refused(function, message):
    with pytest.raises(ValueError, match=message):
        elementwise(function).init(None, (3,))


@pytest.mark.parametrize("value", [None, 3, "relu", [jax.nn.relu]])
def test_what_is_no_function_is_refused(value):
    with pytest.raises(TypeError, match="expected a layer or a function of arrays, got"):
        elementwise(value)
    with pytest.raises(TypeError, match="lift: expected a function of a batch, got"):
        jn.lift(value)


def test_as_layer_leaves_layers_alone():
    layer = jn.dense(3)
    assert as_layer(layer) is layer
    assert as_layer(jax.nn.relu).name == "relu"


# lift


def test_lift_finds_the_shape():
    x = jax.random.normal(jax.random.key(0), (2, 7, 6, 3))
    y, state, out = run(jn.lift(lambda images: images.mean(axis=(1, 2))), x, jn.Spec((7, 6, 3)))
    np.testing.assert_allclose(y, np.asarray(x).mean(axis=(1, 2)), rtol=1e-5)
    assert out.shape == (3,) and state == ()
    assert jn.lift(jax.nn.softmax).init(None, (5,))[2].shape == (5,)
    assert jn.lift(lambda x: x[:, 0]).init(None, (5,))[2].shape == ()


def test_lift_of_inactive_features_wants_to_know_which_outputs_are_active():
    with pytest.raises(ValueError, match=r"lift\(softmax\).*aren't active in every lane.*active=lambda.*static=True"):
        jn.lift(jax.nn.softmax).init(None, SPEC)
    pairs = jn.lift(lambda x: jnp.concatenate([x, x + 1], axis=-1), active=lambda mask: jnp.tile(mask, 2))
    y, _, out = run(pairs, jnp.array([[1.0, 0.0, 2.0, 3.0]]))
    assert y.tolist() == [[1.0, 0.0, 2.0, 3.0, 2.0, 0.0, 3.0, 4.0]]
    assert out.active.tolist() == [*ACTIVE.tolist()] * 2


@pytest.mark.parametrize(
    "layer, message",
    [
        (jn.lift(lambda x: x.sum()), "batch axis of 2 kept in front"),
        (jn.lift(lambda x: x.T), "batch axis of 2 kept in front"),
        (jn.lift(lambda x: (x, x)), "expected an array with the batch axis"),
        (jn.lift(lambda x: x @ jnp.ones((3, 3))), r"lift\(<lambda>\): can't take examples of shape \(4,\), float32"),
        (jn.lift(lambda x: x[:, :2], active=lambda mask: mask), r"mask of shape \(4,\) for \(2,\) output features"),
    ],
)
def test_lift_refuses(layer, message):
    with pytest.raises(ValueError, match=message):
        layer.init(None, SPEC)
