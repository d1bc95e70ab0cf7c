import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.ops.parameters import unpad

UNITS = 4
CELLS = {
    "rnn_tanh": lambda **options: jn.rnn(UNITS, **options),
    "rnn_relu": lambda **options: jn.rnn(UNITS, jax.nn.relu, **options),
    "gru": lambda **options: jn.gru(UNITS, **options),
    "lstm": lambda **options: jn.lstm(UNITS, forget_bias=0.0, **options),  # PyTorch's only one is in its biases
}
MAKERS = {"rnn": jn.rnn, "gru": jn.gru, "lstm": jn.lstm}


@pytest.fixture(params=MAKERS.values(), ids=MAKERS.keys())
def make(request):
    return request.param


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def states_of(final):
    """A final state as a tuple, whatever the cell."""
    return final if isinstance(final, tuple) else (final,)


# Numbers of PyTorch 2.13: packed sequences of lengths 3, 5, 1, 4 from given states; float64.


def parameters(wanted, prefix=""):
    """The stored parameters (prefix "") or gradients (prefix "d"), [layer][direction]."""
    names = ("w", "u", "b", "b_u")
    directions = {name.rsplit("/", 1)[0] for name in wanted if "/" in name}
    layers = sorted({name.split("/")[0] for name in directions})
    return [
        [
            {n: jnp.asarray(wanted[f"{place}/{prefix}{n}"]) for n in names if f"{place}/{prefix}{n}" in wanted}
            for place in sorted(name for name in directions if name.startswith(f"{layer}/"))
        ]
        for layer in layers
    ]


@pytest.mark.parametrize("stack", ["one", "two", "bidirectional", "two_bidirectional"])
@pytest.mark.parametrize("cell", CELLS)
def test_outputs_final_states_and_gradients_equal_pytorch_on_packed_sequences(cell, stack, torch_reference, x64):
    wanted = torch_reference(f"recurrent/{cell}/{stack}")
    lengths = jnp.asarray(torch_reference("recurrent")["lengths"])
    both_ways = "bidirectional" in stack
    directions = 2 if both_ways else 1

    def run(params, x, starts):  # params [layer][direction], starts [arrays, layers * directions, batch, units]
        y, finals = jn.Sequence(x, lengths), []
        for i, of_layer in enumerate(params):
            given = [tuple(starts[:, i * directions + d]) for d in range(directions)]
            given = [state if cell == "lstm" else state[0] for state in given]
            layer = CELLS[cell](returns="both")
            if both_ways:
                layer = jn.bidirectional(layer)
                trees = dict(zip(("forward", "backward"), of_layer, strict=True))
                (y, final), _ = layer.apply(trees, {"forward": (), "backward": ()}, (y, tuple(given)))
                finals += zip(*(jnp.split(array, 2, axis=-1) for array in states_of(final)), strict=True)
            else:
                (y, final), _ = layer.apply(of_layer[0], (), (y, given[0]))
                finals.append(states_of(final))
        return y.values, jnp.stack([jnp.stack(arrays) for arrays in zip(*finals, strict=True)])

    def total(params, x, starts):
        y, finals = run(params, x, starts)
        return jnp.vdot(y, wanted["g"]) + jnp.vdot(finals, wanted["g_final"]), (y, finals)

    arguments = parameters(wanted), jnp.asarray(wanted["x"]), jnp.asarray(wanted["start"])
    gradients, (y, finals) = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(*arguments)
    d_params, dx, d_start = gradients
    close = {"rtol": 1e-10, "atol": 1e-12}
    np.testing.assert_allclose(y, wanted["y"], **close)
    np.testing.assert_allclose(finals, wanted["final"], **close)
    np.testing.assert_allclose(dx, wanted["dx"], **close)
    np.testing.assert_allclose(d_start, wanted["d_start"], **close)
    wanted_gradients = parameters(wanted, "d")
    assert jax.tree.structure(d_params) == jax.tree.structure(wanted_gradients)
    for got, expected in zip(jax.tree.leaves(d_params), jax.tree.leaves(wanted_gradients), strict=True):
        np.testing.assert_allclose(got, expected, **close)


def test_an_lstm_of_flax_with_its_parameters_gives_the_same(key):
    """flax.linen's ``LSTMCell``, which names each gate's matrices, with a forget bias of 1 in its biases."""
    cell = flax.linen.LSTMCell(UNITS)
    x, carry = normal(1, 2, 3), (normal(2, 2, UNITS), normal(3, 2, UNITS))
    variables = cell.init(key, carry, x)["params"]
    params = {
        "w": jnp.concatenate([variables[f"i{gate}"]["kernel"] for gate in "ifgo"], axis=1),
        "u": jnp.concatenate([variables[f"h{gate}"]["kernel"] for gate in "ifgo"], axis=1),
        "b": jnp.concatenate([variables[f"h{gate}"]["bias"] for gate in "ifgo"]) + 0.1,
    }
    flax_bias = {f"h{gate}": {"bias": variables[f"h{gate}"]["bias"] + 0.1 + (gate == "f")} for gate in "ifgo"}
    with_bias = {name: tree | flax_bias.get(name, {}) for name, tree in variables.items()}
    (c, h), y = cell.apply({"params": with_bias}, (carry[1], carry[0]), x)
    (output, state), _ = jn.lstm(UNITS, returns="step").apply(params, (), (x, carry))
    for got, wanted in ((output, y), (state[0], h), (state[1], c)):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_a_gru_of_flax_with_its_parameters_gives_the_same(key):
    """flax.linen's ``GRUCell``, which resets after the matmul too."""
    cell = flax.linen.GRUCell(UNITS)
    x, h = normal(1, 2, 3), normal(2, 2, UNITS)
    variables = cell.init(key, h, x)["params"]
    variables["hn"]["bias"] = normal(4, UNITS)
    params = {
        "w": jnp.concatenate([variables[f"i{gate}"]["kernel"] for gate in "rzn"], axis=1),
        "u": jnp.concatenate([variables[f"h{gate}"]["kernel"] for gate in "rzn"], axis=1),
        "b": jnp.concatenate([variables[f"i{gate}"]["bias"] for gate in "rzn"]),
        "b_u": variables["hn"]["bias"],
    }
    _, y = cell.apply({"params": variables}, h, x)
    (output, _), _ = jn.gru(UNITS, returns="step").apply(params, (), (x, h))
    np.testing.assert_allclose(output, y, rtol=1e-5, atol=1e-6)


# What is returned.


def test_all_that_can_be_returned_is_of_one_run(make, key):
    """Against single steps, one after the other."""
    x = jn.Sequence(normal(1, 3, 5, 2), jnp.array([5, 2, 0]))
    spec = jn.Sequence(jn.Spec((5, 2)), jn.Spec((), jnp.int32))
    params, state, _ = make(4).init(key, spec)
    step = make(4, returns="step")
    outputs, finals = np.zeros((3, 5, 4)), []
    for i, length in enumerate([5, 2, 0]):
        carry = None
        for t in range(length):
            (y, carry), _ = step.apply(params, state, (x.values[i : i + 1, t], carry))
            outputs[i, t] = y[0]
        finals.append([np.zeros((1, 4))] * (2 if make is jn.lstm else 1) if carry is None else states_of(carry))
    finals = [np.concatenate(arrays) for arrays in zip(*finals, strict=True)]

    def run(returns):
        layer = make(4, returns=returns)
        _, _, out = layer.init(key, spec)
        y, _ = layer.apply(params, state, x)
        assert jax.tree.map(lambda s: s.shape, out, is_leaf=lambda s: isinstance(s, jn.Spec)) == jax.tree.map(
            lambda a: a.shape[1:], y
        )
        return y

    close = {"rtol": 1e-5, "atol": 1e-6}
    np.testing.assert_allclose(run("sequence").values, outputs, **close)
    np.testing.assert_allclose(run("last"), finals[0], **close)
    for got, wanted in zip(states_of(run("state")), finals, strict=True):
        np.testing.assert_allclose(got, wanted, **close)
    y, state_too = run("both")
    np.testing.assert_array_equal(y.values, run("sequence").values)
    for got, wanted in zip(states_of(state_too), finals, strict=True):
        np.testing.assert_allclose(got, wanted, **close)


def test_a_step_has_the_parameters_of_the_whole(make, key):
    params, _, _ = make(4).init(key, (7, 3))
    step_params, _, (out, state) = make(4, returns="step").init(key, (3,))
    assert out.shape == (4,) and all(s.shape == (4,) for s in states_of(state))
    assert params.keys() == step_params.keys()
    for name in params:
        np.testing.assert_array_equal(params[name], step_params[name])


def test_a_sequence_of_length_0_ends_in_the_state_that_was_given(make, key):
    params, state, _ = make(4).init(key, (5, 2))
    given = (normal(2, 2, 4), normal(3, 2, 4)) if make is jn.lstm else normal(2, 2, 4)
    x = jn.Sequence(normal(1, 2, 5, 2), jnp.array([0, 0]))
    for reverse in (False, True):
        (y, final), _ = make(4, returns="both", reverse=reverse).apply(params, state, (x, given))
        np.testing.assert_array_equal(y.values, 0)
        for got, wanted in zip(states_of(final), states_of(given), strict=True):
            np.testing.assert_array_equal(got, wanted)


def test_a_sequence_in_two_parts_with_the_state_handed_on_is_the_whole(make, key):
    params, state, _ = make(4).init(key, (6, 2))
    x = normal(1, 3, 6, 2)
    layer = make(4, returns="both")
    whole, _ = layer.apply(params, state, x)
    (first, carry), _ = layer.apply(params, state, x[:, :4])
    second, _ = layer.apply(params, state, (x[:, 4:], carry))
    np.testing.assert_allclose(jnp.concatenate([first, second[0]], axis=1), whole[0], rtol=1e-6)


def test_no_state_is_a_state_of_zeros(make, key):
    params, state, _ = make(4).init(key, (3, 2))
    x, zeros = normal(1, 2, 3, 2), jnp.zeros((2, 4))
    wanted, _ = make(4).apply(params, state, x)
    for given in (None, (zeros, zeros) if make is jn.lstm else zeros):
        np.testing.assert_array_equal(make(4).apply(params, state, (x, given))[0], wanted)


def test_unrolling_changes_no_number(make, key):
    params, state, _ = make(4).init(key, (7, 2))
    x = jn.Sequence(normal(1, 2, 7, 2), jnp.array([7, 3]))
    wanted, _ = make(4).apply(params, state, x)
    for unroll in (3, True):
        got, _ = make(4, unroll=unroll).apply(params, state, x)
        np.testing.assert_allclose(got.values, wanted.values, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_given_state_takes_the_dtype_of_the_rest(make, dtype, key):
    params, state, _ = make(4).init(key, jn.Spec((3, 2), dtype))
    given = (jnp.ones((2, 4)), np.ones((2, 4))) if make is jn.lstm else jnp.ones((2, 4))
    (y, final), _ = make(4, returns="both").apply(params, state, (jnp.ones((2, 3, 2), dtype), given))
    assert {array.dtype for array in jax.tree.leaves((y, final))} == {jnp.dtype(dtype)}


# Directions.


@pytest.mark.parametrize("returns", ["sequence", "last"])
def test_reversed_is_forward_over_each_sequence_turned_round(make, returns, key):
    params, state, _ = make(4).init(key, (5, 2))
    x, lengths = normal(1, 3, 5, 2), [5, 3, 1]
    y, _ = make(4, returns=returns, reverse=True).apply(params, state, jn.Sequence(x, jnp.array(lengths)))
    for i, length in enumerate(lengths):
        alone, _ = make(4, returns=returns).apply(params, state, x[i : i + 1, :length][:, ::-1])
        if returns == "sequence":
            np.testing.assert_allclose(y.values[i, :length], alone[0, ::-1], rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(y.values[i, length:], 0)
        else:
            np.testing.assert_allclose(y[i], alone[0], rtol=1e-5, atol=1e-6)


def test_bidirectional_is_a_forward_and_a_reversed_layer(make, key):
    layer = jn.bidirectional(make(4))
    values = normal(1, 3, 5, 2)
    for spec, x in (
        (jn.Sequence(jn.Spec((5, 2)), jn.Spec((), jnp.int32)), jn.Sequence(values, jnp.array([5, 3, 0]))),
        (jn.Spec((5, 2)), values),
    ):
        params, state, out = layer.init(key, spec)
        y, _ = layer.apply(params, state, x)
        forward, _ = make(4).apply(params["forward"], (), x)
        backward, _ = make(4, reverse=True).apply(params["backward"], (), x)
        y, forward, backward, out = (getattr(value, "values", value) for value in (y, forward, backward, out))
        assert out.shape == y.shape[1:] == (5, 8)
        np.testing.assert_allclose(y, jnp.concatenate([forward, backward], axis=-1), rtol=1e-6, atol=1e-7)


def test_bidirectional_draws_both_directions_anew_and_takes_two_layers(key):
    params, _, _ = jn.bidirectional(jn.gru(4)).init(key, (5, 2))
    assert (params["forward"]["w"] != params["backward"]["w"]).all()
    params, _, out = jn.bidirectional(jn.gru(4, returns="last"), jn.rnn(3, returns="last")).init(key, (5, 2))
    assert out.shape == (7,)
    assert params["forward"]["w"].shape == (2, 12) and params["backward"]["w"].shape == (2, 3)


def test_bidirectional_sets_masks_side_by_side(key):
    layer = jn.bidirectional(jn.gru(jn.Size(3, 2)), jn.rnn(2))
    assert layer.init(key, (5, 2))[2].active.tolist() == [True, True, False, True, True]


def test_bidirectional_goes_around_a_stack(key):
    layer = jn.bidirectional(jn.serial(jn.dense(3), jnp.tanh, jn.lstm(4, returns="state")))
    params, state, out = layer.init(key, (5, 2))
    y, _ = layer.apply(params, state, normal(1, 3, 5, 2))
    assert [spec.shape for spec in out] == [array.shape[1:] for array in y] == [(8,), (8,)]


# Dropout of the state.


def test_recurrent_dropout_has_one_mask_for_all_steps_and_leaves_evaluation_alone(key):
    """With u = 1 (diagonal), w = 0 and b = 1, a kept unit counts with factor 2 and a dropped one stays at 1."""
    layer = jn.rnn(50, jax.nn.relu, recurrent_dropout=0.5)
    params = {"w": jnp.zeros((1, 50)), "u": jnp.eye(50), "b": jnp.ones(50)}
    y, _ = layer.apply(params, (), jnp.zeros((20, 4, 1)), key=key, train=True)
    kept = y[:, 1] > 1
    assert 0.4 < kept.mean() < 0.6  # 1000 draws: the deviation of the mean is 0.016
    assert (kept[0] != kept[1]).any()
    np.testing.assert_array_equal(y, jnp.where(kept[:, None], jnp.array([1, 3, 7, 15])[None, :, None], 1))
    y, _ = layer.apply(params, (), jnp.zeros((2, 4, 1)), key=key)
    np.testing.assert_array_equal(y, jnp.broadcast_to(jnp.array([1, 2, 3, 4])[None, :, None], (2, 4, 50)))


def test_steps_under_one_key_drop_what_the_whole_drops(make, key):
    options = {"recurrent_dropout": 0.5}
    params, state, _ = make(8, **options).init(key, (4, 2))
    x, carry, step = normal(1, 3, 4, 2), None, make(8, returns="step", **options)
    wanted, _ = make(8, **options).apply(params, state, x, key=key, train=True)
    for t in range(4):
        (y, carry), _ = step.apply(params, state, (x[:, t], carry), key=key, train=True)
        np.testing.assert_allclose(y, wanted[:, t], rtol=1e-5, atol=1e-6)


def test_real_numbers_may_be_traced(key):
    x = normal(1, 2, 3, 2)
    params, _, _ = jn.lstm(4).init(key, (3, 2))

    def run(rate, bias, x=x, params=params):
        layer = jn.lstm(4, recurrent_dropout=rate, forget_bias=bias)
        return layer.apply(params, (), x, key=key, train=True)[0]

    np.testing.assert_allclose(jax.jit(run)(0.3, 0.5), run(0.3, 0.5), rtol=1e-6, atol=1e-7)
    half, x_half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (params, x))
    assert jax.jit(lambda r, b: run(r, b, x_half, half))(jnp.float32(0.3), jnp.float32(0.5)).dtype == jnp.bfloat16


# Parameters.


@pytest.mark.parametrize("name, gates", [("rnn", 1), ("gru", 3), ("lstm", 4)])
def test_draws_have_variance_one_over_what_a_gate_sums_and_biases_are_zero(name, gates, key):
    params, _, _ = MAKERS[name](200).init(key, (3, 100))
    assert params["w"].shape == (100, gates * 200) and params["u"].shape == (200, gates * 200)
    np.testing.assert_allclose(params["w"].var() * 100, 1, rtol=0.03)
    np.testing.assert_allclose(params["u"].var() * 200, 1, rtol=0.03)
    assert not params["b"].any() and params["b"].shape == (gates * 200,)
    blocks = [*jnp.split(params["w"], gates, axis=1), *jnp.split(params["u"][:100], gates, axis=1)]
    flat = np.stack([np.asarray(block).ravel() for block in blocks])
    assert (abs(np.corrcoef(flat) - np.eye(2 * gates)) < 0.04).all()  # gates are drawn apart from each other


def test_initialisers_draw_each_gate(key):
    params, _, _ = jn.lstm(6, w_init=jax.nn.initializers.constant(0.5), u_init=jax.nn.initializers.orthogonal()).init(
        key, (3, 2)
    )
    assert (params["w"] == 0.5).all()
    for gate in jnp.split(params["u"], 4, axis=1):
        np.testing.assert_allclose(gate.T @ gate, jnp.eye(6), atol=1e-5)


def test_an_orthogonal_u_is_refused_for_a_size(key):
    with pytest.raises(ValueError, match="orthogonal.*doesn't draw its entries independently"):
        jn.gru(jn.Size(6, 4), u_init=jax.nn.initializers.orthogonal()).init(key, (3, 2))


def test_units_lie_gate_by_gate_with_the_active_first(key):
    params, _, out = jn.lstm(jn.Size(5, 3)).init(key, (3, 2))
    narrow, _, _ = jn.lstm(3).init(key, (3, 2))
    gates = np.array(params["w"]).reshape(2, 4, 5)
    np.testing.assert_allclose(gates[..., :3].reshape(2, 12), narrow["w"], rtol=1e-6)
    np.testing.assert_array_equal(gates[..., 3:], 0)
    assert out.active.tolist() == [True] * 3 + [False] * 2


def test_penalties_leave_both_biases_of_a_gru_out():
    params = {"w": jnp.zeros((2, 3)), "u": jnp.zeros((1, 3)), "b": jnp.ones(3), "b_u": jnp.ones(1)}
    assert jn.losses.l2(1.0)(params) == 0


# Sizes, in whole networks.


def test_padded_lanes_train_like_narrow_networks():
    """Two layers both ways, behind a size, 20 steps of Adam; each lane has its own sizes."""
    x = jn.Sequence(normal(1, 8, 4, 3), jnp.array([4, 4, 3, 2, 1, 4, 3, 2]))
    labels = jnp.arange(8) % 3
    spec = jn.Sequence(jn.Spec((4, 3)), jn.Spec((), jnp.int32))
    optimizer = optax.adam(0.01)

    def network(first, second):
        return jn.serial(
            jn.dense(first), jax.nn.sigmoid, jn.bidirectional(jn.lstm(second, recurrent_dropout=0.2)),
            jn.gru(first, returns="last"), jn.dense(3),
        )  # fmt: skip

    def train(sizes, key):
        net = network(*sizes)
        params, state, _ = net.init(key, spec)

        def step(carry, index):
            params, moments = carry

            def loss(params):
                y, _ = net.apply(params, state, x, key=jax.random.fold_in(key, index), train=True)
                return jn.losses.softmax_cross_entropy(y, labels).mean()

            value, gradient = jax.value_and_grad(loss)(params)
            updates, moments = optimizer.update(gradient, moments, params)
            return (optax.apply_updates(params, updates), moments), value

        (params, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(20))
        return losses, params, state

    values, keys = jnp.array([[2, 3], [4, 1], [5, 6]]), jax.random.split(jax.random.key(0), 3)
    lanes = jax.jit(jax.vmap(lambda v, k: train((jn.Size(5, v[0]), jn.Size(6, v[1])), k)))(values, keys)
    for i, sizes in enumerate(values.tolist()):
        losses, params, state = jax.tree.map(lambda leaf, i=i: leaf[i], lanes)
        wanted, narrow_params, _ = jax.jit(lambda k, sizes=sizes: train(sizes, k))(keys[i])
        np.testing.assert_allclose(losses, wanted, rtol=1e-4)
        padded = network(jn.Size(5, sizes[0]), jn.Size(6, sizes[1]))
        cut, _ = unpad(padded, network(*sizes), spec, params, state)
        for leaf, other in zip(jax.tree.leaves(cut), jax.tree.leaves(narrow_params), strict=True):
            np.testing.assert_allclose(leaf, other, rtol=1e-3, atol=1e-4)


def test_a_state_of_the_same_size_is_taken(key):
    """An encoder's state starts a decoder."""
    size = jn.Size(5, 3)
    encoder, decoder = jn.lstm(size, returns="state"), jn.lstm(size)
    params, _, state_spec = encoder.init(key, (4, 2))
    own, _, out = decoder.init(key, (jn.Spec((3, 2)), state_spec))
    state, _ = encoder.apply(params, (), normal(1, 2, 4, 2))
    y, _ = decoder.apply(own, (), (normal(2, 2, 3, 2), state))
    assert y.shape == (2, *out.shape)
    np.testing.assert_array_equal(y[..., 3:], 0)


# Errors.


@pytest.mark.parametrize("units", [True, 2.5, "3", None, [3]])
def test_units_that_are_no_integer_are_refused(make, units):
    with pytest.raises(TypeError, match=f"{make.__name__}: units must be an integer or a Size, got"):
        make(units)


def test_options_of_the_wrong_kind_are_refused(make):
    name = make.__name__
    with pytest.raises(ValueError, match=f"{name}: units must be at least 1, got 0"):
        make(0)
    with pytest.raises(ValueError, match=f"{name}: returns must be one of 'sequence', 'last', .*got 'all'"):
        make(3, returns="all")
    with pytest.raises(ValueError, match=f"{name}: a single step has no direction; leave out reverse"):
        make(3, returns="step", reverse=True)
    for rate in (1.0, -0.1):
        with pytest.raises(ValueError, match=rf"{name}: recurrent_dropout.*must be in \[0, 1\), got {rate}"):
            make(3, recurrent_dropout=rate)
    with pytest.raises(ValueError, match=f"{name}: unroll must be at least 1, got 0"):
        make(3, unroll=0)
    with pytest.raises(TypeError, match=f"{name}: unroll must be an integer"):
        make(3, unroll=1.5)


def test_an_activation_that_is_no_elementwise_function_is_refused(key):
    with pytest.raises(TypeError, match="expected a layer or a function"):
        jn.rnn(3, "tanh")
    with pytest.raises(ValueError, match="softmax: an entry of its output depends on other entries"):
        jn.rnn(3, jax.nn.softmax).init(key, (3, 2))


@pytest.mark.parametrize("shape", [(), (5,), (5, 28, 28)])
def test_examples_that_are_no_sequences_are_refused(make, shape, key):
    message = rf"{make.__name__}: expected examples \(time, in_features\), or a Sequence of them, but got the shape \("
    with pytest.raises(ValueError, match=message + r".*returns=\"step\""):
        make(3).init(key, shape)
    with pytest.raises(ValueError, match=message):
        make(3).init(key, jn.Sequence(jn.Spec((5,)), jn.Spec((), jnp.int32)))


def test_a_step_takes_neither_time_nor_a_sequence(make, key):
    step = make(3, returns="step")
    message = rf"{make.__name__}: expected examples \(in_features,\), but got the shape \(5, 2\)"
    with pytest.raises(ValueError, match=message):
        step.init(key, (5, 2))
    with pytest.raises(ValueError, match=message + " of a Sequence"):
        step.init(key, jn.Sequence(jn.Spec((5, 2)), jn.Spec((), jnp.int32)))
    params, state, _ = step.init(key, (2,))
    with pytest.raises(ValueError, match=r"expected x of shape \[batch, 2\].*got \(4, 5, 2\).*leave out returns"):
        step.apply(params, state, jnp.ones((4, 5, 2)))


def test_another_state_is_refused(make, key):
    name, pair = make.__name__, make is jn.lstm
    wanted = r"a pair \(h, c\), each of shape" if pair else "of shape"
    x = jn.Spec((5, 2))
    for given in ((4,), ((4,), (4,)), (((3,), (4,)) if pair else jn.Spec((4,)))):
        with pytest.raises(ValueError, match=rf"{name}: the given state must be {wanted} \(3,\), but got"):
            make(3).init(key, (x, given))
    given = ((3,), (3,)) if pair else (3,)
    with pytest.raises(ValueError, match=rf"{wanted} \(3,\) with a mask, from a layer of the same Size, but got"):
        make(jn.Size(3, 2)).init(key, (x, given))
    params, state, _ = make(3).init(key, (x, given))
    for given in (jnp.ones((2, 4)), (jnp.ones((2, 3)), jnp.ones((1, 3))), (jnp.ones((2, 3)),)):
        with pytest.raises(ValueError, match=rf"{name}: the given state must be {wanted} \(2, 3\), \[batch, units\]"):
            make(3).apply(params, state, (jnp.ones((2, 5, 2)), given))


def test_dropout_without_a_key_is_refused_in_training(make, key):
    layer = make(3, recurrent_dropout=0.1)
    params, state, _ = layer.init(key, (5, 2))
    layer.apply(params, state, jnp.ones((1, 5, 2)))
    with pytest.raises(ValueError, match=f"{make.__name__}: recurrent_dropout needs a key in training"):
        layer.apply(params, state, jnp.ones((1, 5, 2)), train=True)


def test_bidirectional_refuses_what_is_no_layer_and_two_kinds(key):
    with pytest.raises(TypeError, match=r"bidirectional\[forward\]: expected a layer or a function, got 8"):
        jn.bidirectional(8)
    with pytest.raises(TypeError, match=r"bidirectional\[backward\]: expected a layer or a function, got 8"):
        jn.bidirectional(jn.gru(3), 8)
    with pytest.raises(ValueError, match="bidirectional: both layers must return the same kind"):
        jn.bidirectional(jn.gru(3), jn.lstm(3, returns="state")).init(key, (5, 2))
    with pytest.raises(ValueError, match=r"bidirectional: expected examples \(time, ...\).* but got the shape \(5,\)"):
        jn.bidirectional(jn.gru(3, returns="step")).init(key, (5,))
    with pytest.raises(ValueError, match="bidirectional: both layers must return the same kind"):
        jn.bidirectional(jn.gru(3), jn.gru(3, returns="last")).init(key, (5, 2))


def test_errors_below_a_bidirectional_layer_have_the_path(key):
    layer = jn.serial(jn.bidirectional(jn.gru(3), jn.serial(jn.lstm(3))))
    params, state, _ = layer.init(key, (5, 2))
    with pytest.raises(
        ValueError, match=r"serial\[0\] bidirectional: bidirectional\[forward\] gru: gru: expected x of shape"
    ):
        layer.apply(params, state, jnp.ones((4, 5, 3)))
    with pytest.raises(
        ValueError, match=r"bidirectional\[backward\] serial: serial\[0\] lstm: lstm: expected examples"
    ):
        jn.bidirectional(jnp.tanh, jn.serial(jn.lstm(3))).init(key, (5, 2, 2))
