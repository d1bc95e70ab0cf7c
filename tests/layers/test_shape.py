import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn


@pytest.mark.parametrize("shape, features", [((), 1), ((5,), 5), ((2, 3), 6), ((2, 3, 4), 24)])
def test_flatten_is_row_major(shape, features, key):
    params, state, out = jn.flatten.init(None, shape)
    x = jax.random.normal(key, (3, *shape))
    y, _ = jn.flatten.apply(params, state, x)
    assert out == jn.Spec((features,)) and (params, state) == ((), ())
    np.testing.assert_array_equal(y, np.asarray(x).reshape(3, features, order="C"))


def test_flatten_tiles_the_mask():
    spec = jn.Spec((2, 2, 3), jnp.bfloat16, jnp.array([True, False, True]))
    out = jn.flatten.init(None, spec)[2]
    assert out.shape == (12,) and out.dtype == jnp.bfloat16
    assert out.active.tolist() == [True, False, True] * 4


def test_flatten_keeps_the_dtype():
    assert jn.flatten.apply((), (), jnp.ones((2, 3, 4), jnp.uint8))[0].dtype == jnp.uint8
    assert jn.flatten.init(None, jn.Spec((3, 4), jnp.uint8))[2].dtype == jnp.uint8


def test_flatten_takes_a_batch_of_none():
    assert jn.flatten.apply((), (), jnp.ones((0, 2, 3)))[0].shape == (0, 6)
