import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnet as jn


def test_parameters_are_as_many_as_published(key):
    # By hand: 26 * 6 + (150 + 1) * 16 + 401 * 120 + 121 * 84 + 85 * 10, as PyTorch's and Keras' LeNet-5 have them;
    # 26 * 20 + (500 + 1) * 50 + 801 * 500 + 501 * 10 for the tutorial's.
    lisa = jn.models.lenet5(filters=(20, 50), units=(500,), activation=jnp.tanh, padding="VALID")
    for net, parameters in ((jn.models.lenet5(), 61_706), (lisa, 431_080)):
        params, _, out = net.init(key, (28, 28, 1))
        assert out.shape == (10,)
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters


def test_pooling_before_a_rising_activation_is_as_after_it(key):
    net = jn.models.lenet5(filters=(3,), units=(), activation=jnp.tanh)
    after = jn.serial(
        features=jn.serial(jn.conv(3, (5, 5), padding="SAME"), jnp.tanh, jn.max_pool((2, 2)), jn.flatten),
        head=jn.dense(10),
    )
    params, state, _ = net.init(key, (8, 8, 1))
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    first, pool, activation, flat = params["features"]
    swapped = params | {"features": (first, activation, pool, flat)}
    expected, _ = after.apply(swapped, after.init(key, (8, 8, 1))[1], images)
    np.testing.assert_allclose(net.apply(params, state, images)[0], expected, rtol=1e-5, atol=1e-6)


def test_all_widths_may_differ_from_lane_to_lane(key):
    """A lane of a search equals the network of its widths trained alone."""
    space = jn.Space(
        k2=jn.integers(4, 8), k1=lambda hp: jn.integers(2, hp.k2), hidden=jn.integers(5, 9), batch=jn.integers(4, 8)
    )

    def trial(hp):
        net = jn.models.lenet5(3, filters=(hp.k1, hp.k2), units=(hp.hidden,), padding="VALID")
        return jn.Trial(net, jn.losses.softmax_cross_entropy, optax.sgd(0.05), batch_size=hp.batch)

    random = np.random.default_rng(0)
    data = random.normal(size=(16, 16, 16, 1)).astype(np.float32), random.integers(0, 3, 16).astype(np.int32)
    result = jn.random_search(trial, space, data, data, trials=3, epochs=2, key=key, lanes=3)
    assert result.reproduce(1).difference < 1e-4
