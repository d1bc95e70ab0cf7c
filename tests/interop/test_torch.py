"""PyTorch's weights in: the network then computes what the module computed, and what doesn't fit is named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.interop import torch


@pytest.fixture
def module(torch_reference):
    def read(name):
        arrays = torch_reference(f"weights/{name}")
        prefix = "state_dict/"
        state_dict = {key[len(prefix) :]: value for key, value in arrays.items() if key.startswith(prefix)}
        return state_dict, arrays["x"], arrays["y"]

    return read


CONVOLUTIONAL = jn.serial(
    features=jn.serial(jn.conv(4, (3, 3)), jn.batch_norm(), jnp.tanh, jn.conv(6, (2, 3), groups=2, bias=False)),
    flat=jn.flatten,
    head=jn.dense(3),
)
MAPPING = {
    "features.0": torch.conv("0"),
    "features.1": torch.batch_norm("1"),
    "features.3": torch.conv("3", bias=False),
    "head": torch.linear("5", flattened=(6, 3, 2)),
}


def check(net, state_dict, x, y, mapping):
    params, state = torch.weights(net, jn.Spec(x.shape[1:], x.dtype), state_dict, mapping)
    np.testing.assert_allclose(net.apply(params, state, x)[0], y, rtol=1e-10, atol=1e-12)


def test_convolutions_batch_norm_and_a_flattened_linear(module, x64):
    check(CONVOLUTIONAL, *module("convolutional"), MAPPING)


def test_normalizations(module, x64):
    net = jn.serial(jn.layer_norm(), jn.rms_norm(epsilon=np.finfo(float).eps))
    check(net, *module("normalizations"), {"0": torch.layer_norm("0"), "1": torch.rms_norm("1")})


def test_a_transposed_convolution(module, x64):
    net = jn.conv_transpose(2, (3, 3), strides=2, padding=1, output_padding=1)
    check(net, *module("transposed"), {"": torch.conv_transpose("0")})


def test_an_embedding_and_attention(module, x64):
    state_dict, x, y = module("attention")
    net = jn.serial(jn.embedding(7, 6), jn.multi_head_attention(3))
    mapping = {"0": torch.embedding("table"), "1": torch.multi_head_attention("attention")}
    params, state = torch.weights(net, jn.Spec(x.shape[1:], x.dtype), state_dict, mapping)
    np.testing.assert_allclose(net.apply(params, state, x)[0], y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["rnn", "gru", "lstm"])
def test_two_recurrent_layers_both_ways(kind, module, x64):
    layer, convert = getattr(jn, kind), getattr(torch, kind)
    state_dict, x, y = module(kind)
    renamed = {f"names.{name}": value for name, value in state_dict.items()}
    net = jn.serial(jn.bidirectional(layer(4)), jn.bidirectional(layer(4)))
    check(net, renamed, x, y, {str(i): convert("names", layer=i, bidirectional=True) for i in range(2)})


def test_one_way(module, x64):
    """The first layer's forward half of the both-ways module, which then reads the same."""
    state_dict, x, _ = module("lstm")
    both, _ = torch.weights(
        jn.bidirectional(jn.lstm(4)), jn.Spec((5, 3), x.dtype), state_dict_of(state_dict, "_l0"),
        {"": lambda take: torch.lstm("lstm", bidirectional=True)(lambda name: take(name.removeprefix("lstm.")))},
    )  # fmt: skip
    one, _ = torch.weights(
        jn.lstm(4, forget_bias=0.5),
        jn.Spec((5, 3), x.dtype),
        {f"lstm.{name}": value for name, value in state_dict.items() if name.endswith("_l0")},
        {"": torch.lstm("lstm", forget_bias=0.5)},
    )
    y_both = jn.bidirectional(jn.lstm(4)).apply(both, {"forward": (), "backward": ()}, x)[0]
    np.testing.assert_allclose(jn.lstm(4, forget_bias=0.5).apply(one, (), x)[0], y_both[..., :4], rtol=1e-10)


def state_dict_of(state_dict, layer):
    return {name: value for name, value in state_dict.items() if layer in name}


def test_numbers_take_the_dtype_of_the_network(module):
    params, state = torch.weights(CONVOLUTIONAL, (6, 6, 2), module("convolutional")[0], MAPPING)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, state))} == {np.dtype("float32")}


def test_a_new_head_is_drawn_and_the_old_one_left_out(module):
    state_dict, *_ = module("convolutional")
    net = jn.serial(features=jn.serial(jn.conv(4, (3, 3)), jn.batch_norm()), flat=jn.flatten, head=jn.dense(7))
    mapping = {"features.0": MAPPING["features.0"], "features.1": MAPPING["features.1"]}
    with pytest.raises(ValueError, match=r"gives nothing to the layers \['head'\]; key= would draw"):
        torch.weights(net, (6, 6, 2), state_dict, mapping, leftovers=True)
    with pytest.raises(ValueError, match=r"used by no layer of the mapping: \['3.weight', '5.weight', '5.bias'\]"):
        torch.weights(net, (6, 6, 2), state_dict, mapping, key=jax.random.key(0))
    params, _ = torch.weights(net, (6, 6, 2), state_dict, mapping, key=jax.random.key(0), leftovers=True)
    np.testing.assert_allclose(params["features"][0]["b"], state_dict["0.bias"], rtol=1e-6)
    drawn = net.init(jax.random.key(0), (6, 6, 2))[0]
    np.testing.assert_array_equal(params["head"]["w"], drawn["head"]["w"])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"body.0": torch.conv("0")}, r"the network has no layer 'body.0' with weights; it has \['features.0', "),
        ({"features.0": torch.conv("7")}, r"layer 'features.0': there is no '7.weight' among the weights"),
        ({"features.0": torch.conv("0", bias=False)}, r"its params are \['b', 'w'\], the weights would give \['w'\]"),
        ({"features.3": torch.conv("0", bias=False)}, r"'w' has shape \(2, 3, 2, 6\), the weights give \(3, 3, 2, 4\)"),
        ({"head": torch.linear("5", flattened=(6, 4, 2))}, r"flattened=\(6, 4, 2\) isn't its 36 inputs"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(change, message, module):
    with pytest.raises(ValueError, match=message):
        torch.weights(CONVOLUTIONAL, (6, 6, 2), module("convolutional")[0], MAPPING | change)


def test_tensors_are_taken_as_they_come():
    """What has ``detach`` and ``cpu``, as PyTorch's tensors have, also where NumPy has no such dtype."""

    class Tensor:
        dtype = "torch.bfloat16"

        def __init__(self, array):
            self.array = array

        def detach(self):
            return self

        cpu = float = detach

        def __array__(self, dtype=None, copy=None):
            return self.array

    state_dict = {"weight": Tensor(np.ones((2, 3))), "bias": Tensor(np.ones(2))}
    params, _ = torch.weights(
        jn.dense(2), (3,), {f"fc.{name}": value for name, value in state_dict.items()}, {"": torch.linear("fc")}
    )
    assert params["w"].shape == (3, 2)


def test_a_batch_norm_without_parameters_has_its_averages():
    weights = {
        "0.weight": np.ones((3, 4), np.float32),
        "0.bias": np.zeros(3, np.float32),
        "1.running_mean": np.float32([1, 2, 3]),
        "1.running_var": np.float32([4, 5, 6]),
        "1.num_batches_tracked": np.int64(7),
    }
    net = jn.serial(jn.dense(3), jn.batch_norm(scale=False, offset=False))
    mapping = {"0": torch.linear("0"), "1": torch.batch_norm("1", affine=False)}
    _, state = torch.weights(net, (4,), weights, mapping)
    assert state[1]["mean"].tolist() == [1, 2, 3] and state[1]["variance"].tolist() == [4, 5, 6]
