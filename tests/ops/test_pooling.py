import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.ops.lowering import lowered_as

RNG = np.random.default_rng(0)


def run(layer, x, dy, how):
    """Outputs and gradient, by XLA's own windows or not."""

    def apply(x):
        if how is None:
            return layer.apply((), (), x)[0]
        with lowered_as(how):
            return layer.apply((), (), x)[0]

    y, back = jax.vjp(apply, x)
    return y, back(dy(y.shape))[0]


@pytest.mark.parametrize("make", [jn.max_pool, jn.min_pool, jn.avg_pool, jn.sum_pool], ids=lambda make: make.__name__)
@pytest.mark.parametrize(
    "space, window, strides, padding",
    [
        ((9,), (3,), 2, "VALID"),
        ((8,), (5,), 1, ((2, 1),)),
        ((7,), (2,), 3, "VALID"),
        ((7, 8), (3, 3), 2, "SAME"),
        ((7, 9), (2, 4), (1, 3), ((1, 0), (2, 3))),
        ((4, 5, 6), (3, 2, 3), (2, 1, 2), 1),
        ((8, 9), (2, 3), (2, 3), "SAME"),
        ((4, 5, 6), (2, 1, 3), (2, 1, 3), ((1, 1), (0, 0), (2, 1))),
    ],
)
@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_ours_equal_xlas_windows(make, space, window, strides, padding, backend, x64, monkeypatch):
    """Of small integers, so that many cells of a window are equal, and the gradient goes to the first of them.

    So do tangents, but for those of XLA's own windows, which since JAX 0.11 go to another.
    """
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    layer = make(window, strides=strides, padding=padding)
    x = jnp.asarray(RNG.integers(-2, 3, (2, *space, 3)), jnp.float64)
    weights = RNG.normal(size=1000)
    ours, native = (run(layer, x, lambda shape: jnp.resize(weights, shape), how) for how in (None, "native"))
    for got, expected in zip(ours, native, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)
    if "reduce_window" in str(jax.make_jaxpr(lambda x: layer.apply((), (), x)[0])(x)):
        return
    direction = RNG.normal(size=x.shape)
    tangent = jax.jvp(lambda x: layer.apply((), (), x)[0], (x,), (direction,))[1]
    np.testing.assert_allclose(np.vdot(tangent, np.resize(weights, tangent.shape)), np.vdot(ours[1], direction))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a choice that is made on a CPU only")
@pytest.mark.parametrize("width, windows", [(16, False), (17, True)])
def test_long_windows_stay_xlas(width, windows):
    program = str(jax.make_jaxpr(lambda x: jn.max_pool((width,), strides=1).apply((), (), x)[0])(jnp.ones((1, 20, 1))))
    assert ("reduce_window" in program) is windows


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_windows_side_by_side_are_ours_under_lanes_to_the_second_order(backend, x64, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    x = jnp.asarray(RNG.integers(-2, 3, (3, 2, 4, 6, 2)), jnp.float64)

    def curvature(layer, x):
        def value(x):
            return jnp.sum(jnp.sin(x * layer.apply((), (), x)[0].mean()))

        return jax.jvp(jax.grad(value), (x,), (jnp.cos(x),))[1]

    together = jax.vmap(lambda x: curvature(jn.max_pool((2, 3)), x))(x)
    for lane, got in zip(x, together, strict=True):
        with lowered_as("native"):
            np.testing.assert_allclose(got, curvature(jn.max_pool((2, 3)), lane), rtol=1e-10, atol=1e-10)


def test_windows_side_by_side_are_split_on_a_mesh_with_explicit_axes(monkeypatch):
    """The law of shards holds on an accelerator too, where both axes of space are split before anything is reduced."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    x = jnp.asarray(RNG.normal(size=(2, 4, 6, 2)), jnp.float32)
    value = jax.grad(lambda x: jnp.sum(jnp.sin(jn.max_pool((2, 3)).apply((), (), x)[0])))
    expected, mesh = value(x), jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        got = jax.jit(value)(jax.device_put(x, jax.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))))
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_not_a_number_is_the_largest_and_the_smallest(backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    x = jnp.array([1.0, jnp.nan, 3.0, 2.0, 5.0]).reshape(1, 5, 1)
    aside = jnp.array([1.0, jnp.nan, 2.0, 3.0, 5.0, 4.0]).reshape(1, 6, 1)
    for make, last in ((jn.max_pool, 5.0), (jn.min_pool, 3.0)):
        y, back = jax.vjp(lambda x, make=make: make((3,)).apply((), (), x)[0], aside)
        np.testing.assert_array_equal(y.ravel(), [np.nan, last])
        slope = back(jnp.array([0.0, 1.0]).reshape(y.shape))[0].ravel()
        np.testing.assert_array_equal(slope, aside.ravel() == last)
    for make, last in ((jn.max_pool, 5.0), (jn.min_pool, 2.0)):
        y = make((3,), strides=1).apply((), (), x)[0].ravel()
        np.testing.assert_array_equal(y, [np.nan, np.nan, last])
