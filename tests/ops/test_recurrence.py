import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.layers.recurrent import _GRU, _LSTM, _rnn_cell
from jaxnet.ops import recurrence
from jaxnet.ops.recurrence import Weights, recur

TIME, BATCH, FEATURES, UNITS = 5, 3, 2, 4
CELLS = {
    "rnn_tanh": _rnn_cell(jnp.tanh, ()),
    "rnn_relu": _rnn_cell(jax.nn.relu, ()),
    "gru": _GRU,
    "lstm": _LSTM,
}


@pytest.fixture(params=CELLS.values(), ids=CELLS.keys())
def cell(request):
    return request.param


def arguments(cell, biased_product, *, lanes=()):
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=(*lanes, *shape)))

    width = cell.gates * UNITS
    weights = Weights(normal(FEATURES, width), normal(UNITS, width), normal(width), normal(width))
    if not biased_product:
        weights = weights._replace(b_u=None)
    return weights, normal(TIME, BATCH, FEATURES), tuple(normal(BATCH, UNITS) for _ in range(cell.arrays))


@pytest.mark.parametrize(
    "reverse, outputs, backend",
    [(False, True, "cpu"), (True, False, "cpu"), (True, True, "gpu")],
    ids=["forward", "reverse, last", "noted as on an accelerator"],
)
def test_the_gradient_is_that_which_jax_takes_of_the_scan(cell, reverse, outputs, backend, x64, monkeypatch):
    """With lengths and masked outputs, forward mode, and second derivatives each way: they share the step alone."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(recurrence, "UNROLL", 2)  # and a step left over; four a turn take longer to compile
    inside = (jnp.arange(TIME)[:, None] < jnp.array([[5, 3, 0]]))[..., None]
    kept = jnp.asarray(np.random.default_rng(1).random((BATCH, UNITS)) > 0.3)

    def everything(cell):
        def value(weights, x, carry):
            options = {"inside": inside, "kept": kept, "reverse": reverse, "outputs": outputs}
            last, made = recur(cell, weights, x, carry, **options)
            assert (made is None) != outputs
            return sum(jnp.sum(jnp.sin((i + 1) * leaf)) for i, leaf in enumerate(jax.tree.leaves((last, made))))

        def slope(*args):
            return sum(jnp.sum(jnp.cos(leaf)) for leaf in jax.tree.leaves(jax.grad(value, argnums=(0, 1, 2))(*args)))

        def along(function):
            return lambda *args: jax.jvp(function, args, jax.tree.map(jnp.cos, args))[1]

        args, over = arguments(cell, reverse), {"argnums": (0, 1, 2)}
        first, second = jax.value_and_grad(value, **over), jax.grad(slope, **over)
        ways = first, second, along(value), along(slope), jax.grad(along(value), **over), along(along(value))
        return jax.jit(lambda *args: [way(*args) for way in ways])(*args)

    assert cell.retreat is not None
    got, wanted = everything(cell), everything(cell._replace(retreat=None))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("inside", [True, False], ids=["gradients of each lane", "the gradient of all lanes"])
def test_lanes_equal_a_loop(cell, inside, x64):
    """Weights of their own, inputs shared, inside and outside of gradients, of which the latter add up."""
    weights, _, carry = arguments(cell, True, lanes=(2,))
    x = arguments(cell, True)[1]

    def value(weights, x, carry):
        return jnp.sum(recur(cell, weights, x, carry)[1] ** 2)

    def of_lanes(function):
        return lambda *args: jax.vmap(function, in_axes=(0, None, 0))(*args)

    first = functools.partial(jax.value_and_grad, argnums=(0, 1, 2))
    single = jax.jit(first(value))
    alone = [
        single(weights, x, carry)
        for weights, carry in (jax.tree.map(lambda leaf, i=i: leaf[i], (weights, carry)) for i in range(2))
    ]
    total, (of_weights, of_x, of_carry) = jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone)
    if inside:
        wanted = total, (of_weights, of_x, of_carry)
        got = jax.jit(of_lanes(first(value)))(weights, x, carry)
    else:
        wanted = total.sum(), (of_weights, of_x.sum(0), of_carry)
        got = jax.jit(first(lambda *args: of_lanes(value)(*args).sum()))(weights, x, carry)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def test_of_no_steps_there_are_no_outputs_and_the_carry_is_the_one_it_started_from(cell):
    weights, x, carry = arguments(cell, True)

    def total(weights, x, carry):
        last, made = recur(cell, weights, x[:0], carry)
        assert made is not None
        assert made.shape == (0, BATCH, UNITS)
        return sum(map(jnp.sum, last)) + jnp.sum(made)

    of_weights, of_x, of_carry = jax.grad(total, argnums=(0, 1, 2))(weights, x, carry)
    for leaf in jax.tree.leaves((of_weights, of_x)):
        np.testing.assert_array_equal(leaf, 0)
    for leaf in of_carry:
        np.testing.assert_array_equal(leaf, 1)


def test_the_gradient_of_the_weights_is_one_matmul_after_the_loop(cell):
    """Inside of both loops there is one matmul: the state's product, and its gradient with respect to the state."""
    args = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), arguments(cell, True))
    gradient = jax.grad(lambda *args: jnp.sum(recur(cell, *args)[1]))
    loops = [e for e in jax.make_jaxpr(gradient)(*args).eqns if str(e.primitive) == "scan"]
    inside = [[str(e.primitive) for e in loop.params["jaxpr"].eqns].count("dot_general") for loop in loops]
    assert inside == [1, 1]
