"""Products whose gradient is multiplied in another order, against those of JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.ops import compiling
from jaxnet.ops.convolution import convolve
from jaxnet.ops.products import product


def everything(multiply, x, w):
    """Values, gradients to the second order, and forward mode."""

    def first(x, w):
        return jnp.sum(jnp.sin(multiply(x, w)))

    def second(x, w):
        return sum(jnp.sum(of**2) for of in jax.grad(first, (0, 1))(x, w))

    return (
        multiply(x, w),
        jax.grad(first, (0, 1))(x, w),
        jax.grad(second, (0, 1))(x, w),
        jax.jvp(multiply, (x, w), (jnp.cos(x), jnp.cos(w))),
        jax.jvp(lambda w: multiply(x, w), (w,), (jnp.cos(w),)),
        jax.hessian(lambda x: first(x, w))(x),
    )


@pytest.mark.parametrize("shape", [(5, 4), (2, 3, 4)], ids=["rows", "rows of rows"])
@pytest.mark.parametrize(
    "features, backend",
    [(3, "cpu"), (4, "cpu"), (6, "cpu"), (3, "gpu")],
    ids=["narrow", "square", "wide", "as on an accelerator"],
)
def test_products_have_the_derivatives_of_jax(shape, features, backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *shape)).astype(np.float32)
    w = rng.normal(size=(2, 4, features)).astype(np.float32)
    for axes, lanes in ((None, (x[0], w[0])), ((0, 0), (x, w)), ((None, 0), (x[0], w)), ((0, None), (x, w[0]))):

        def run(multiply, axes=axes):
            def of_one(x, w):
                return everything(multiply, x, w)

            return compiling.jit(of_one if axes is None else jax.vmap(of_one, axes))

        made = (jax.tree.leaves(run(multiply)(*lanes)) for multiply in (product, jnp.matmul))
        for got, expected in zip(*made, strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="an order that is chosen on a CPU only")
def test_the_gradient_is_three_steps_in_programs_that_train():
    """A guard: an XLA that drops barriers, or folds transposes into products, would be slow and not wrong."""
    x, w = jnp.ones((8, 4)), jnp.ones((4, 3))

    def text(jit, x, w):
        return jit(jax.grad(lambda w: jnp.sum(product(x, w) ** 2))).lower(w).compile().as_text()

    assert text(compiling.jit, x, w).count("opt-barrier(") == 2
    assert "opt-barrier(" not in text(jax.jit, x, w)
    assert "opt-barrier(" not in text(compiling.jit, x, jnp.ones((4, 8)))


def test_nothing_is_added_to_a_gradient_while_an_accelerator_multiplies(monkeypatch):
    """A barrier lies between the gradient and what a penalty adds to it."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    x, w = jnp.ones((8, 4)), jnp.ones((4, 3))
    loss = jax.grad(lambda w: jnp.sum(product(x, w) ** 2) + jnp.sum(w**2))
    text = compiling.jit(loss).lower(w).as_text()
    assert text.index("dot_general", text.index("dot_general") + 1) < text.index("optimization_barrier")
    assert "optimization_barrier" not in jax.jit(loss).lower(w).as_text()


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="an order that is chosen on a CPU only")
def test_a_wide_gradient_copies_nothing():
    """A guard: of JAX's own gradient XLA makes a product for which it copies the convolution's, number by number."""
    x, w = jnp.ones((2, 8, 8, 1)), jnp.ones((5, 5, 1, 16))

    def loss(w):
        y = convolve(x, w, strides=(1, 1), dilation=(1, 1), padding=((0, 0), (0, 0)))
        return jnp.sum(jax.nn.relu(y) ** 2)

    assert " copy(" not in compiling.jit(jax.grad(loss)).lower(w).compile().as_text()


def test_a_loss_with_derivatives_of_the_network_is_trained():
    """Physics in the loss: the network's second derivative by forward over reverse, with respect to its input."""
    net = jn.serial(jn.dense(16), jnp.tanh, jn.dense(1))
    seen = []

    def apply(params, state, x, *, key=None, train=False):
        def of_one(at):
            return net.apply(params, state, at[None])[0][0, 0]

        curvature = jax.vmap(jax.jacfwd(jax.grad(of_one)))(x)[:, 0]
        seen.append(compiling.multiplied_by_eigen())
        return jnp.concatenate([net.apply(params, state, x)[0], curvature], axis=1), state

    def init(key, spec):
        params, state, _ = net.init(key, spec)
        return params, state, jn.Spec((2,), jnp.float32)

    x = np.linspace(0, np.pi, 64, dtype=np.float32)[:, None]
    targets = np.concatenate([np.sin(x), -np.sin(x)], axis=1)
    trial = jn.Trial(jn.Layer(init, apply), jn.losses.squared_error, optax.adam(0.01), batch_size=16)
    curve = jn.fit(trial, (x, targets), epochs=60, key=jax.random.key(0)).curve["train_loss"]
    assert any(seen) == (jax.default_backend() == "cpu") and curve[-1] < 0.1 * curve[0]
