import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn

LENGTHS = jnp.array([5, 2, 3])


def close(got, wanted, rtol=1e-9, atol=1e-11):
    np.testing.assert_allclose(got, wanted, rtol=rtol, atol=atol)


# Numbers from PyTorch 2.13, float64.


def attention_params(packed):
    """Of ``nn.MultiheadAttention``'s parameters (or gradients) those of jaxnet: unpacked, and inputs first."""
    if "in_proj_weight" in packed:
        weights = np.split(packed["in_proj_weight"], 3)
    else:
        weights = [packed[f"{part}_proj_weight"] for part in "qkv"]
    params = {
        part: {"w": jnp.asarray(w.T), "b": jnp.asarray(b)}
        for part, w, b in zip(("query", "key", "value"), weights, np.split(packed["in_proj_bias"], 3), strict=True)
    }
    output = {"w": jnp.asarray(packed["out_proj.weight"].T), "b": jnp.asarray(packed["out_proj.bias"])}
    return params | {"output": output}


def block_params(packed):
    """The same of ``nn.TransformerEncoderLayer``."""
    below = "self_attn."
    attention = {name.removeprefix(below): value for name, value in packed.items() if name.startswith(below)}
    made = {"attention": attention_params(attention)}
    for ours, theirs in (("attention_norm", "norm1"), ("hidden_norm", "norm2")):
        made[ours] = {"scale": jnp.asarray(packed[f"{theirs}.weight"]), "offset": jnp.asarray(packed[f"{theirs}.bias"])}
    for ours, theirs in (("hidden", "linear1"), ("output", "linear2")):
        made[ours] = {"w": jnp.asarray(packed[f"{theirs}.weight"].T), "b": jnp.asarray(packed[f"{theirs}.bias"])}
    return made


def parts(wanted, prefix):
    return {name.removeprefix(prefix): value for name, value in wanted.items() if name.startswith(prefix)}


def assert_equals(layer, convert, wanted, inputs, make_x, spec):
    """Outputs, and all gradients of ``sum(y * g)``."""
    params, state = convert(parts(wanted, "params/")), layer.init(jax.random.key(0), spec)[1]

    def total(params, *inputs):
        y, _ = layer.apply(params, state, make_x(*inputs), train=True)
        y = y.values if isinstance(y, jn.Sequence) else y
        return jnp.vdot(y, wanted["g"]), y

    given = [jnp.asarray(wanted[name]) for name in inputs]
    gradient = jax.value_and_grad(total, argnums=tuple(range(len(given) + 1)), has_aux=True)
    (_, y), (d_params, *d_inputs) = jax.jit(gradient)(params, *given)
    close(y, wanted["y"])
    for name, dx in zip(inputs, d_inputs, strict=True):
        close(dx, wanted[f"d{name}"])
    d_wanted = convert(parts(wanted, "grads/"))
    assert jax.tree.structure(d_params) == jax.tree.structure(d_wanted)
    jax.tree.map(close, d_params, d_wanted)


@pytest.mark.parametrize("causal, lengths", [(False, None), (True, None), (False, LENGTHS), (True, LENGTHS)])
def test_self_attention_equals_pytorch(causal, lengths, torch_reference, x64):
    name = {(False, True): "plain", (True, True): "causal", (False, False): "lengths", (True, False): "both"}
    wanted = torch_reference(f"attention/self_{name[causal, lengths is None]}")
    layer = jn.multi_head_attention(3, causal=causal)
    make_x = (lambda x: x) if lengths is None else (lambda x: jn.Sequence(x, lengths))
    assert_equals(layer, attention_params, wanted, ["x"], make_x, (5, 6))


def test_cross_attention_equals_pytorch(torch_reference, x64):
    def make_x(queries, memory):
        return queries, jn.Sequence(memory, LENGTHS)

    spec = jn.Spec((2, 4)), jn.Sequence(jn.Spec((5, 5)), jn.Spec((), jnp.int32))
    wanted = torch_reference("attention/cross")
    assert_equals(jn.multi_head_attention(2), attention_params, wanted, ["queries", "memory"], make_x, spec)


@pytest.mark.parametrize("name", ["relu", "gelu"])
def test_the_transformer_block_equals_pytorch(name, torch_reference, x64):
    activation = jax.nn.relu if name == "relu" else functools.partial(jax.nn.gelu, approximate=False)
    make_x = (lambda x: x) if name == "relu" else (lambda x: jn.Sequence(x, LENGTHS))
    layer = jn.transformer_block(2, 10, activation=activation)
    assert_equals(layer, block_params, torch_reference(f"attention/block_{name}"), ["x"], make_x, (5, 6))


# Closed forms.


def test_equal_keys_give_the_mean_and_causal_ones_the_running_mean(key):
    x = jax.random.normal(key, (2, 4, 3))
    for causal in (False, True):
        layer = jn.multi_head_attention(1, bias=False, causal=causal)
        params, state, _ = layer.init(key, (4, 3))
        params |= {"key": {"w": jnp.zeros((3, 3))}, "value": {"w": jnp.eye(3)}, "output": {"w": jnp.eye(3)}}
        y, _ = layer.apply(params, state, x)
        running = np.cumsum(x, axis=1) / np.arange(1, 5)[None, :, None]
        close(y, running if causal else np.broadcast_to(running[:, -1:], y.shape), rtol=1e-5, atol=1e-6)


def test_a_sharp_query_copies_the_value_it_looks_for():
    layer = jn.multi_head_attention(1, bias=False)
    x = jnp.eye(3)[jnp.array([[2, 0, 1]])]
    params = {
        "query": {"w": 1000 * jnp.roll(jnp.eye(3), 1, axis=1)},  # looks for the next one
        "key": {"w": jnp.eye(3)},
        "value": {"w": jnp.diag(jnp.array([10.0, 20.0, 30.0]))},
        "output": {"w": jnp.ones((3, 1))},
    }
    y, _ = layer.apply(params, (), x)
    close(y[0, :, 0], [10, 20, 30], rtol=1e-6)


def test_an_activation_may_have_parameters_and_state(key):
    """``prelu`` with its slope at 0 is relu; a batch norm's averages come back."""
    x = jax.random.normal(key, (2, 3, 4))
    wanted, own = (jn.transformer_block(2, 8, activation=a) for a in (jax.nn.relu, jn.prelu(initial=0.0)))
    params, state, _ = own.init(key, (3, 4))
    assert params["activation"]["slope"].shape == (8,)
    relu_params, relu_state, _ = wanted.init(key, (3, 4))
    assert set(params) - set(relu_params) == {"activation"}
    np.testing.assert_array_equal(own.apply(params, state, x)[0], wanted.apply(relu_params, relu_state, x)[0])

    block = jn.transformer_block(2, 8, activation=jn.batch_norm(scale=False, offset=False))
    params, state, _ = block.init(key, (3, 4))
    _, after = block.apply(params, state, x, key=key, train=True)
    assert np.any(after["activation"]["mean"] != state["activation"]["mean"])


def test_a_pair_of_integers_is_a_shape(key):
    assert jn.multi_head_attention(2, 8).init(key, (7, np.int64(6)))[2].shape == (7, 8)


def test_an_earlier_step_sees_no_later_one(key):
    layer = jn.transformer_block(2, 8, causal=True)
    params, state, _ = layer.init(key, (5, 4))
    x = jax.random.normal(key, (1, 5, 4))
    gradient = jax.jit(jax.grad(lambda x: layer.apply(params, state, x)[0][0, 2].sum()))(x)
    assert gradient[0, :3].any(axis=-1).all() and not gradient[0, 3:].any()


# Sequences.


def test_an_empty_memory_gives_the_output_of_zeros(key):
    layer = jn.multi_head_attention(2)
    params, state, _ = layer.init(key, (jn.Spec((2, 4)), jn.Spec((3, 4))))
    params["output"]["b"] = jnp.array([1.0, 2.0, 3.0, 4.0])
    queries, memory = jax.random.normal(key, (2, 2, 4)), jn.Sequence(jnp.full((2, 3, 4), jnp.nan), jnp.array([0, 0]))

    def total(params, queries):
        y, _ = layer.apply(params, state, (queries, memory))
        return y.sum(), y

    gradient, y = jax.jit(jax.grad(total, has_aux=True))(params, queries)
    np.testing.assert_array_equal(y, np.broadcast_to(jnp.arange(1.0, 5), y.shape))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_queries_with_lengths_are_zero_past_the_end(key):
    layer = jn.multi_head_attention(2, 6)
    lengths = jn.Spec((), jnp.int32)
    spec = jn.Sequence(jn.Spec((3, 4)), lengths), jn.Sequence(jn.Spec((2, 5)), lengths)
    params, state, out = layer.init(key, spec)
    queries = jn.Sequence(jax.random.normal(key, (2, 3, 4)), jnp.array([1, 3]))
    memory = jn.Sequence(jax.random.normal(key, (2, 2, 5)), jnp.array([2, 1]))
    y, _ = layer.apply(params, state, (queries, memory))
    assert out.values.shape == (3, 6) and out.lengths is lengths and not y.values[0, 1:].any()
    alone, _ = layer.apply(params, state, (queries.values[1:], memory.values[1:, :1]))
    close(y.values[1], alone[0], rtol=1e-5, atol=1e-6)


# Dropout.


def test_dropout_drops_weights_in_training_only(key):
    """Equal weights over 200 steps whose values are 1: an output is the share that is kept, over its expectation."""
    layer = jn.multi_head_attention(1, bias=False, dropout=0.25)
    params, state, _ = layer.init(key, (200, 1))
    params = {part: {"w": jnp.full((1, 1), float(part in ("value", "output")))} for part in params}
    x = jnp.ones((3, 200, 1))
    y, _ = layer.apply(params, state, x, key=key, train=True)
    kept = np.asarray(y) * 0.75 * 200
    close(kept, kept.round(), atol=1e-3)
    assert abs(kept.mean() - 150) < 4 * (200 * 0.1875 / 600) ** 0.5 and len(np.unique(kept.round())) > 20
    close(layer.apply(params, state, x)[0], 1, rtol=1e-5)
    lanes = jax.vmap(
        lambda rate: jn.multi_head_attention(1, bias=False, dropout=rate).apply(params, state, x, key=key, train=True)[
            0
        ]
    )(jnp.array([0.25, 0.5]))
    close(lanes[0], y, rtol=1e-5)


@pytest.mark.parametrize("layer", [jn.multi_head_attention(2, dropout=0.1), jn.transformer_block(2, 3, dropout=0.1)])
def test_dropout_without_a_key_is_refused(layer, key):
    params, state, _ = layer.init(key, (3, 4))
    with pytest.raises(ValueError, match=f"{layer.name}: dropout needs a key in training"):
        layer.apply(params, state, jnp.ones((1, 3, 4)), train=True)
    layer.apply(params, state, jnp.ones((1, 3, 4)))


def test_without_dropout_no_key_is_needed(key):
    layer = jn.transformer_block(2, 3)
    params, state, _ = layer.init(key, (3, 4))
    layer.apply(params, state, jnp.ones((1, 3, 4)), train=True)


# Errors.


def test_shapes_and_arguments_that_can_not_work_are_refused(key):
    attention = jn.multi_head_attention
    with pytest.raises(ValueError, match="multi_head_attention: 4 heads don't divide 6 features; give head_features"):
        attention(4).init(key, (3, 6))
    with pytest.raises(ValueError, match=r"multi_head_attention: expected examples \(time, features\).*\(2, 3, 6\)"):
        attention(2).init(key, (2, 3, 6))
    with pytest.raises(ValueError, match=r"multi_head_attention: expected examples \(time, features\).*\(6,\)"):
        attention(2).init(key, (6,))
    with pytest.raises(ValueError, match="multi_head_attention: causal=True is for self attention"):
        attention(2, causal=True).init(key, ((2, 4), (3, 4)))
    with pytest.raises(ValueError, match="features differ from lane to lane.*Give head_features.*static=True"):
        attention(2, jn.Size(4, 2)).init(key, (3, 4))
    with pytest.raises(TypeError, match="hyperparameter 'heads' was used where Python needs an integer"):
        attention(jn.Size(4, 2, "heads"))
    with pytest.raises(ValueError, match="multi_head_attention: heads must be at least 1, got 0"):
        attention(0)
    with pytest.raises(TypeError, match="multi_head_attention: head_features must be an integer or a Size, got 1.5"):
        attention(2, head_features=1.5)
    with pytest.raises(ValueError, match=r"rate is the share that is dropped and must be in \[0, 1\), got 1.5"):
        attention(2, dropout=1.5)
    with pytest.raises(TypeError, match="transformer_block: hidden must be an integer or a Size, got None"):
        jn.transformer_block(2, None)


def test_a_memory_of_another_width_is_refused(key):
    layer = jn.multi_head_attention(2)
    params, state, _ = layer.init(key, (jn.Spec((3, 4)), jn.Spec((3, 5))))
    with pytest.raises(ValueError, match=r"multi_head_attention: expected x of shape \[batch, time, 5\].*\(1, 3, 4\)"):
        layer.apply(params, state, (jnp.ones((1, 3, 4)), jnp.ones((1, 3, 4))))
    with pytest.raises(ValueError, match=r"multi_head_attention: queries and memory .*1 and 2"):
        layer.apply(params, state, (jnp.ones((1, 3, 4)), jnp.ones((2, 3, 5))))
