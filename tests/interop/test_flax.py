"""flax.linen's weights in: the network then computes what the module computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from flax.errors import LazyInitError

import jaxnet as jn
from jaxnet.interop import flax


def check(net, spec, module, x, mapping, rtol=1e-5):
    variables = module.init(jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(1), leaf.shape), variables)
    params, state = flax.weights(net, spec, variables, mapping)
    np.testing.assert_allclose(net.apply(params, state, x)[0], module.apply(variables, x), rtol=rtol, atol=1e-6)


class Convolutional(linen.Module):
    """The usual order of things, in flax's defaults."""

    @linen.compact
    def __call__(self, x):
        x = linen.Conv(4, (3, 3))(x)
        x = linen.BatchNorm(use_running_average=True)(x)
        x = linen.relu(x)
        x = linen.Conv(6, (2, 3), feature_group_count=2, use_bias=False, padding="VALID")(x)
        x = linen.LayerNorm()(x)
        return linen.Dense(3)(x.reshape(len(x), -1))


def test_a_convolutional_network():
    net = jn.serial(
        jn.conv(4, (3, 3), padding="SAME"), jn.batch_norm(), jax.nn.relu, jn.conv(6, (2, 3), groups=2, bias=False),
        jn.layer_norm(epsilon=1e-6), jn.flatten, jn.dense(3),
    )  # fmt: skip
    mapping = {
        "0": flax.conv("Conv_0"), "1": flax.batch_norm("BatchNorm_0"), "3": flax.conv("Conv_1", bias=False),
        "4": flax.layer_norm("LayerNorm_0"), "6": flax.dense("Dense_0"),
    }  # fmt: skip
    x = jax.random.normal(jax.random.key(2), (5, 6, 6, 2))
    check(net, (6, 6, 2), Convolutional(), x, mapping, rtol=1e-4)


@pytest.mark.parametrize(
    "cell, layer, convert",
    [
        (linen.SimpleCell, jn.rnn, flax.rnn),
        (linen.GRUCell, jn.gru, flax.gru),
        (linen.LSTMCell, jn.lstm, flax.lstm),
        (linen.OptimizedLSTMCell, jn.lstm, flax.lstm),
    ],
)
def test_recurrent_cells(cell, layer, convert):
    x = jax.random.normal(jax.random.key(2), (2, 5, 3))
    check(layer(4), (5, 3), linen.RNN(cell(4)), x, {"": convert("cell")})


def test_rms_norm():
    x = jax.random.normal(jax.random.key(2), (5, 3))
    check(jn.rms_norm(), (3,), linen.Sequential([linen.RMSNorm()]), x, {"": flax.rms_norm("layers_0")})


def test_an_embedding():
    x = jnp.array([[0, 2], [1, 1]])
    net = jn.embedding(3, 4)
    module = linen.Embed(3, 4)
    variables = module.init(jax.random.key(0), x)
    params, state = flax.weights(
        net, jn.Spec((2,), jnp.int32), {"params": {"table": variables["params"]}}, {"": flax.embed("table")}
    )
    np.testing.assert_array_equal(net.apply(params, state, x)[0], module.apply(variables, x))


def test_leftovers_are_named():
    x = jnp.ones((1, 2))
    variables = linen.Sequential([linen.Dense(3), linen.Dense(1)]).init(jax.random.key(0), x)
    with pytest.raises(
        ValueError, match=r"used by no layer of the mapping: \['params.layers_1.bias', 'params.layers_1.k"
    ):
        flax.weights(jn.dense(3), (2,), variables, {"": flax.dense("layers_0")})


def test_what_is_sown_when_a_module_is_initialised_is_refused_with_a_way_out():
    class Sown(linen.Module):
        at_first: bool

        @linen.compact
        def __call__(self, x):
            y = linen.Dense(2)(x)
            if self.at_first or not self.is_initializing():
                self.sow("seen", "y", y)
            return y

    with pytest.raises(LazyInitError) as raised:
        flax.layer(Sown(True)).init(jax.random.key(0), (3,))
    assert "try `if not self.is_initializing():` before self.sow" in "".join(raised.value.__notes__)
    flax.layer(Sown(False)).init(jax.random.key(0), (3,))
