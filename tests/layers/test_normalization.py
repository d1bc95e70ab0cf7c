import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.data import as_data, feeder
from jaxnet.ops.reductions import counting_rows, valid_rows
from jaxnet.training import Keys


def close(got, wanted, rtol=1e-9, atol=1e-11):
    np.testing.assert_allclose(got, wanted, rtol=rtol, atol=atol)


# Numbers from PyTorch 2.13, float64.


@pytest.mark.parametrize("name", ["vectors", "images"])
def test_batch_norm_equals_pytorch_in_training_and_then_in_evaluation(name, torch_reference, x64):
    """Four training steps: the running averages (PyTorch's variance made biased), the last step's gradients."""
    wanted = {part: jnp.asarray(a) for part, a in torch_reference(f"normalization/batch_norm/{name}").items()}
    layer = jn.batch_norm(momentum=0.8)
    params = {"scale": wanted["scale"], "offset": wanted["offset"]}
    _, state, _ = layer.init(jax.random.key(0), jn.Spec(wanted["inputs"].shape[2:], jnp.float64))
    for x in wanted["inputs"][:-1]:
        _, state = layer.apply(params, state, x, train=True)

    def total(params, x):
        y, new_state = layer.apply(params, state, x, train=True)
        return jnp.vdot(y, wanted["g"]), (y, new_state)

    (d_params, dx), (y, after) = jax.grad(total, argnums=(0, 1), has_aux=True)(params, wanted["inputs"][-1])
    close(y, wanted["y"])
    close(after["mean"], wanted["mean"])
    close(after["variance"], wanted["variance"])
    close(d_params["scale"], wanted["dscale"])
    close(d_params["offset"], wanted["doffset"])
    close(dx, wanted["dx"])
    y, same = layer.apply(params, after, wanted["evaluation_x"])
    close(y, wanted["evaluation_y"])
    assert same is after


OTHERS = {
    "layer_norm/vectors": lambda: jn.layer_norm(),
    "layer_norm/sequences": lambda: jn.layer_norm(epsilon=0.01),
    "rms_norm/sequences": lambda: jn.rms_norm(),
    "group_norm/vectors": lambda: jn.group_norm(2),
    "group_norm/images": lambda: jn.group_norm(3),
    "group_norm/one": lambda: jn.group_norm(1),
    "instance_norm/images": lambda: jn.instance_norm(),
    "instance_norm/signals": lambda: jn.instance_norm(epsilon=0.01),
}


@pytest.mark.parametrize("name", OTHERS)
def test_outputs_and_gradients_equal_pytorch(name, torch_reference, x64):
    wanted = {part: jnp.asarray(a) for part, a in torch_reference(f"normalization/{name}").items()}
    params = {part: wanted[part] for part in ("scale", "offset") if part in wanted}

    def total(params, x):
        y, _ = OTHERS[name]().apply(params, (), x, train=True)
        return jnp.vdot(y, wanted["g"]), y

    (d_params, dx), y = jax.grad(total, argnums=(0, 1), has_aux=True)(params, wanted["x"])
    close(y, wanted["y"])
    close(dx, wanted["dx"])
    assert d_params.keys() == OTHERS[name]().init(jax.random.key(0), wanted["x"].shape[1:])[0].keys()
    for part, gradient in d_params.items():
        close(gradient, wanted[f"d{part}"])


@pytest.mark.parametrize("name, iterations", [("linear_1", 1), ("linear_3", 3), ("conv", 1)])
def test_spectral_norm_equals_pytorch_from_the_same_vectors(name, iterations, torch_reference, x64):
    wanted = {part: jnp.asarray(a) for part, a in torch_reference(f"normalization/spectral_norm/{name}").items()}
    inner = jn.conv(3, (3, 2)) if name == "conv" else jn.dense(wanted["w"].shape[1])
    layer = jn.spectral_norm(inner, iterations=iterations)
    params = {"w": wanted["w"], "b": wanted["b"]}
    state = {"layer": (), "vectors": ({"left": wanted["left"], "right": wanted["right"]},)}
    _, state = layer.apply(params, state, wanted["x"], train=True)

    def total(params, x):
        y, new_state = layer.apply(params, state, x, train=True)
        return jnp.vdot(y, wanted["g"]), (y, new_state)

    (d_params, dx), (y, after) = jax.grad(total, argnums=(0, 1), has_aux=True)(params, wanted["x"])
    close(y, wanted["y"])
    close(after["vectors"][0]["left"], wanted["left_after"])
    close(after["vectors"][0]["right"], wanted["right_after"])
    close(d_params["w"], wanted["dw"])
    close(d_params["b"], wanted["db"])
    close(dx, wanted["dx"])
    y, same = layer.apply(params, after, wanted["x"])
    close(y, wanted["evaluation_y"])
    np.testing.assert_array_equal(same["vectors"][0]["left"], after["vectors"][0]["left"])


def test_spectral_norm_leaves_singular_values_of_at_most_one_in_every_weight(key):
    layer = jn.spectral_norm(jn.serial(jn.dense(7), jnp.tanh, jn.dense(4)), iterations=50)
    params, state, _ = layer.init(key, (5,))
    _, state = layer.apply(params, state, jnp.ones((2, 5)), train=True)
    for w, pair in zip((params[0]["w"], params[2]["w"]), state["vectors"], strict=True):
        largest = np.linalg.svd(np.asarray(w), compute_uv=False)[0]
        close(pair["left"] @ w @ pair["right"], largest, rtol=1e-5)
    inner = jn.dense(4)
    y, _ = jn.spectral_norm(inner).apply(params[2], {"layer": (), "vectors": state["vectors"][1:]}, jnp.eye(7))
    close(np.linalg.svd(np.asarray(y), compute_uv=False)[0], 1, rtol=1e-5)


def test_spectral_norm_draws_the_weights_that_the_layer_draws_alone(key):
    params, _, _ = jn.spectral_norm(jn.dense(4)).init(key, (5,))
    np.testing.assert_array_equal(params["w"], jn.dense(4).init(key, (5,))[0]["w"])


# Training: rows that fill up a batch don't count.


def net():
    return jn.serial(jn.dense(5), jn.batch_norm(momentum=0.7), jnp.tanh, jn.dense(3))


def data(examples=22):
    generator = np.random.default_rng(3)
    return (
        generator.normal(size=(examples, 4)).astype(np.float32) + 1,
        generator.integers(3, size=examples).astype(np.int32),
    )


def by_hand(train, batch_size, key, epochs=2, rate=0.1):
    """A loop over the batches as they are, with the order that ``fit`` takes: params, state, each epoch's mean loss."""
    keys, layer = Keys.of(key), net()
    params, state, _ = layer.init(keys.init(0), (4,))
    curve = []

    def loss(params, state, x, y):
        outputs, state = layer.apply(params, state, x, train=True)
        return jn.losses.softmax_cross_entropy(outputs, y).mean(), state

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    for epoch in range(epochs):
        order = np.asarray(feeder(as_data(train, "train"), None, keys.order, "shared")(epoch)["order"])
        total = 0.0
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            (value, state), gradient = step(params, state, train[0][rows], train[1][rows])
            params = jax.tree.map(lambda p, g: p - rate * g, params, gradient)
            total += float(value) * len(rows)
        curve.append(total / len(order))
    return params, state, curve


def trial(batch_size):
    return jn.Trial(net(), jn.losses.softmax_cross_entropy, optax.sgd(0.1), batch_size=batch_size)


@pytest.mark.parametrize("batch_size", [8, 11], ids=["the last batch has 6 of 8", "all batches are full"])
def test_fit_equals_a_loop_over_the_true_batches(batch_size, key):
    train = data()
    params, state, curve = by_hand(train, batch_size, key)
    fitted = jn.fit(trial(batch_size), train, epochs=2, key=key)
    close(fitted.curve["train_loss"], curve, rtol=1e-5)
    close(fitted.state[1]["mean"], state[1]["mean"], rtol=1e-4, atol=1e-6)
    close(fitted.state[1]["variance"], state[1]["variance"], rtol=1e-4)
    close(fitted.params[0]["w"], params[0]["w"], rtol=1e-4, atol=1e-5)


def test_lanes_with_their_own_batch_sizes_equal_a_loop_each(key):
    train = data()
    program = jn.training.supervised(
        lambda size: trial(jn.Size(9, size, least=5)), as_data(train, "train"), None, order_key=Keys.of(key).order,
        shuffle="shared",
    )  # fmt: skip
    keys, sizes = Keys.of(key), (5, 8, 9)

    @jax.jit
    def run(size, feeds):
        carry = program.init(size, keys.init(0))
        for epoch, feed in enumerate(feeds):
            carry = program.advance(size, carry, keys.unit(0, epoch), feed)
        return carry.params, carry.state, carry.totals["loss"] / 22

    feeds = [program.feed(epoch) for epoch in range(2)]
    lanes = jax.vmap(run, in_axes=(0, None))(jnp.array(sizes), feeds)
    for i, size in enumerate(sizes):
        params, state, curve = by_hand(train, size, key)
        got, got_state, loss = jax.tree.map(lambda leaf, i=i: leaf[i], lanes)
        close(loss, curve[-1], rtol=1e-5)
        close(got_state[1]["mean"], state[1]["mean"], rtol=1e-4, atol=1e-6)
        close(got_state[1]["variance"], state[1]["variance"], rtol=1e-4)
        close(got[3]["w"], params[3]["w"], rtol=1e-4, atol=1e-5)


def test_copied_rows_change_no_statistics_and_get_outputs_all_the_same(key):
    x = jax.random.normal(key, (3, 4))
    layer = jn.batch_norm()
    params, state, _ = layer.init(key, (4,))
    y, wanted = layer.apply(params, state, x, train=True)
    with counting_rows(jnp.array([True, True, True, False, False])):
        filled, got = layer.apply(params, state, x[jnp.array([0, 1, 2, 2, 2])], train=True)
    assert valid_rows() is None
    close(got["mean"], wanted["mean"], rtol=1e-6)
    close(got["variance"], wanted["variance"], rtol=1e-6)
    close(filled, y[jnp.array([0, 1, 2, 2, 2])], rtol=1e-5, atol=1e-6)
    with (
        pytest.raises(ValueError, match=r"batch_norm: training counts 2 rows, but the batch came with 3.*counting_row"),
        counting_rows(jnp.array([True, False])),
    ):
        layer.apply(params, state, x, train=True)


def test_the_mask_of_rows_reaches_layers_behind_checkpoints_and_scans(key):
    """Traced anew each time, so that no trace keeps the rows of another."""
    layer, x = jn.batch_norm(), jax.random.normal(key, (4, 3))
    params, state, _ = layer.init(key, (3,))

    def run(valid, wrap):
        with counting_rows(valid):
            apply = wrap(lambda params, x: layer.apply(params, state, x, train=True)[0])
            return apply(params, x)

    def scanned(f):
        return lambda p, x: jax.lax.scan(lambda c, _: (f(p, x), None), x, length=1)[0]

    for wrap in (jax.checkpoint, scanned):
        for valid in ([True, True, False, False], [True, True, True, False]):
            got = jax.jit(lambda valid, wrap=wrap: run(valid, wrap))(jnp.array(valid))
            wanted, _ = layer.apply(params, state, x[: sum(valid)], train=True)
            close(got[: sum(valid)], wanted, rtol=1e-5, atol=1e-6)


# Sequences.


@pytest.mark.parametrize(
    "make", [jn.layer_norm, jn.rms_norm, jn.instance_norm, lambda: jn.group_norm(2)],
    ids=["layer_norm", "rms_norm", "instance_norm", "group_norm"],
)  # fmt: skip
def test_each_sequence_is_normalised_as_if_it_were_alone(make, key):
    values, lengths = jax.random.normal(key, (3, 5, 4)), np.array([5, 2, 0])
    padding = np.arange(5)[None, :, None] >= lengths[:, None, None]
    sequence = jn.Sequence(jnp.where(padding, jnp.nan, values), jnp.asarray(lengths))
    params, state, out = make().init(key, jn.Sequence(jn.Spec((5, 4)), jn.Spec((), jnp.int32)))
    assert isinstance(out, jn.Sequence)

    def total(values):
        y, _ = make().apply(params, state, jn.Sequence(values, sequence.lengths), train=True)
        return jnp.sum(jnp.sin(y.values)), y

    gradient, y = jax.grad(total, has_aux=True)(sequence.values)
    for i, n in enumerate(lengths):
        np.testing.assert_array_equal(y.values[i, n:], 0)
        np.testing.assert_array_equal(gradient[i, n:], 0)
        if n:
            close(y.values[i, :n], make().apply(params, state, values[i : i + 1, :n])[0][0], rtol=1e-5, atol=1e-6)


def test_batch_norm_counts_steps_inside_only_of_rows_that_count(key):
    values, lengths = jax.random.normal(key, (3, 4, 2)), jnp.array([4, 1, 3])
    layer = jn.batch_norm(momentum=0.0)
    params, state, _ = layer.init(key, (4, 2))
    steps = np.concatenate([values[0], values[1, :1], values[2, :3]])
    y, new = layer.apply(params, state, jn.Sequence(values, lengths), train=True)
    close(new["mean"], steps.mean(axis=0), rtol=1e-5)
    close(new["variance"], steps.var(axis=0), rtol=1e-5)
    np.testing.assert_array_equal(y.values[1, 1:], 0)
    with counting_rows(jnp.array([True, True, False])):
        _, new = layer.apply(params, state, jn.Sequence(values, lengths), train=True)
    close(new["variance"], steps[:5].var(axis=0), rtol=1e-5)


# Sizes and dtypes.


def test_statistics_count_active_features_only_wherever_the_gaps_are():
    active = jnp.array([True, False, True, False])
    x = jnp.array([[1.0, 0.0, 3.0, 0.0]])
    for layer, wanted in (
        (jn.layer_norm(), [[-1, 0, 1, 0]]),
        (jn.group_norm(1), [[-1, 0, 1, 0]]),
        (jn.rms_norm(), [[1 / 5**0.5, 0, 3 / 5**0.5, 0]]),
    ):
        params, state, out = layer.init(jax.random.key(0), jn.Spec((4,), active=active))
        close(layer.apply(params, state, x)[0], wanted, rtol=1e-5)
        assert out.active is active


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_statistics_of_half_precision_are_taken_in_float32(dtype, key):
    """300 ** 2 is past the largest float16, and the mean of bfloat16 numbers near 300 has no digit to spare."""
    x = (300 + 10 * jax.random.normal(key, (512, 1))).astype(dtype)
    layer = jn.batch_norm(momentum=0.0)
    params, state, _ = layer.init(key, jn.Spec((1,), dtype))
    y, state = layer.apply(params, state, x, train=True)
    assert y.dtype == params["scale"].dtype == dtype and state["mean"].dtype == jnp.float32
    close(state["mean"], np.asarray(x, np.float64).mean(axis=0), rtol=1e-5)
    close(state["variance"], np.asarray(x, np.float64).var(axis=0), rtol=1e-4)


def test_momentum_and_epsilon_may_be_traced(key):
    x = jax.random.normal(key, (6, 3))

    def run(momentum, epsilon):
        layer = jn.batch_norm(momentum=momentum, epsilon=epsilon)
        params, state, _ = layer.init(key, (3,))
        return layer.apply(params, state, x, train=True)

    lanes = jax.vmap(run)(jnp.array([0.1, 0.9]), jnp.array([1e-3, 1.0]))
    for i, arguments in enumerate([(0.1, 1e-3), (0.9, 1.0)]):
        for got, wanted in zip(jax.tree.leaves(lanes), jax.tree.leaves(run(*arguments)), strict=True):
            close(got[i], wanted, rtol=1e-5, atol=1e-7)


def test_parameters_are_optional(key):
    for make in (jn.batch_norm, jn.layer_norm, jn.instance_norm):
        assert make(scale=False).init(key, (3, 2))[0].keys() == {"offset"}
        assert make(offset=False).init(key, (3, 2))[0].keys() == {"scale"}
        assert make(scale=False, offset=False).init(key, (3, 2))[0] == {}
    assert jn.rms_norm(scale=False).init(key, (3, 2))[0] == {}


def test_integers_are_normalised_as_floats(key):
    params, state, out = jn.layer_norm().init(key, jn.Spec((2,), jnp.int32))
    y, _ = jn.layer_norm().apply(params, state, jnp.array([[1, 3]]))
    assert y.dtype == out.dtype == jnp.float32
    close(y, [[-1, 1]], rtol=1e-5)


# Errors.


@pytest.mark.parametrize("epsilon", [0, -1e-5, 0.0, float("nan")])
@pytest.mark.parametrize("make", [jn.batch_norm, jn.layer_norm, jn.rms_norm, jn.instance_norm])
def test_an_epsilon_that_is_not_positive_is_refused(make, epsilon):
    with pytest.raises(ValueError, match=f"{make.__name__}: epsilon must be positive, got"):
        make(epsilon=epsilon)


@pytest.mark.parametrize("momentum", [-0.1, 1.1, float("nan")])
def test_a_momentum_out_of_range_is_refused(momentum):
    with pytest.raises(ValueError, match=r"batch_norm: momentum must be in \[0, 1\], got"):
        jn.batch_norm(momentum=momentum)


def test_groups_that_do_not_fit_are_refused(key):
    with pytest.raises(ValueError, match=r"group_norm: 4 groups don't divide the 6 features of \(2, 6\)"):
        jn.group_norm(4).init(key, (2, 6))
    with pytest.raises(ValueError, match="group_norm: groups must be at least 1, got 0"):
        jn.group_norm(0)
    with pytest.raises(TypeError, match="group_norm: groups must be an integer or a Size, got 2.5"):
        jn.group_norm(2.5)
    with pytest.raises(TypeError, match="hyperparameter 'groups' was used where Python needs an integer.*static=True"):
        jn.group_norm(jn.Size(4, 2, "groups"))
    with pytest.raises(ValueError, match=r"group_norm: the input's features differ from lane to lane.*static=True"):
        jn.serial(jn.dense(jn.Size(4, 2)), jn.group_norm(2)).init(key, (3,))


def test_instance_norm_of_vectors_is_refused(key):
    with pytest.raises(ValueError, match=r"instance_norm: expected examples with positions.*got the shape \(6,\).*lay"):
        jn.instance_norm().init(key, (6,))
    with pytest.raises(ValueError, match=r"instance_norm: expected x of shape \[batch, ..., 6\].*got \(2, 6\)"):
        jn.instance_norm().apply({"scale": jnp.ones(6), "offset": jnp.ones(6)}, (), jnp.ones((2, 6)))


def test_spectral_norm_says_what_it_can_not_do(key):
    with pytest.raises(TypeError, match="spectral_norm: expected a layer, got"):
        jn.spectral_norm(jnp.tanh)
    with pytest.raises(ValueError, match="spectral_norm: iterations must be at least 1, got 0"):
        jn.spectral_norm(jn.dense(2), iterations=0)
    with pytest.raises(ValueError, match="spectral_norm: flatten has no weights named 'w'"):
        jn.spectral_norm(jn.flatten).init(key, (3,))
