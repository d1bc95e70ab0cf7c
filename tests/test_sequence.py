import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn

SPEC = jn.Sequence(jn.Spec((4, 3)), jn.Spec((), jnp.int32))
LENGTHS = jnp.array([4, 2, 0])


def values(seed=1):
    return 0.5 + jax.random.uniform(jax.random.key(seed), (3, 4, 3))  # positive, for the square root


def inside(x):
    return np.asarray(x.mask)[..., None]


# The container.


def test_it_is_a_pytree_that_jit_and_vmap_take():
    x = jn.Sequence(values(), LENGTHS)
    doubled = jax.jit(lambda x: jax.tree.map(lambda leaf: 2 * leaf, x))(x)
    np.testing.assert_array_equal(doubled.values, 2 * x.values)
    np.testing.assert_array_equal(doubled.lengths, 2 * x.lengths)
    lanes = jax.vmap(lambda scale: x.replace(scale * x.values))(jnp.arange(2.0))
    assert lanes.values.shape == (2, 3, 4, 3) and lanes.lengths.shape == (2, 3)


def test_replace_puts_zeros_past_each_end_whatever_the_axes():
    x = jn.Sequence(jnp.ones((2, 3)), jnp.array([2, 0]))
    assert x.replace(x.values).values.tolist() == [[1, 1, 0], [0, 0, 0]]
    assert x.replace(x.values, 5.0).values.tolist() == [[1, 1, 5], [5, 5, 5]]
    images = x.replace(jnp.ones((2, 3, 2, 2), jnp.int32)).values
    assert images.dtype == jnp.int32 and images.sum(axis=(2, 3)).tolist() == [[4, 4, 0], [0, 0, 0]]


# Layers that work on features.

NET = jn.serial(jn.dense(5), jax.nn.sigmoid, jn.dropout(0.3), jnp.sqrt, jn.dense(2), jax.nn.relu)
LAYERS = {
    "dense": jn.dense(2),
    "dropout": jn.dropout(0.3),
    "relu": jn.serial(jax.nn.relu),
    "sigmoid": jn.serial(jax.nn.sigmoid),  # not zero at zero
    "sqrt": jn.serial(jnp.sqrt),  # of infinite slope at zero
    "reciprocal": jn.serial(lambda x: 1 / x),  # infinite at zero
    "serial": NET,
}


@pytest.fixture(params=LAYERS.values(), ids=LAYERS.keys())
def layer(request):
    return request.param


@pytest.mark.parametrize("train", [False, True], ids=["evaluation", "training"])
def test_a_layer_does_with_a_sequence_what_it_does_with_its_values(layer, train, key):
    params, state, out = layer.init(key, SPEC)
    wanted, _ = layer.apply(params, state, values(), key=key, train=train)
    y, _ = layer.apply(params, state, jn.Sequence(values(), LENGTHS), key=key, train=train)
    assert isinstance(out, jn.Sequence) and out.values.shape == y.values.shape[1:] and out.lengths == SPEC.lengths
    np.testing.assert_allclose(y.values, jnp.where(inside(y), wanted, 0), rtol=1e-6)
    np.testing.assert_array_equal(y.lengths, LENGTHS)


@pytest.mark.parametrize("padding", [0.0, 1e9, -1.0, np.nan, np.inf])
def test_what_stands_past_the_end_changes_nothing(layer, padding, key):
    params, state, _ = layer.init(key, SPEC)

    def run(x):
        def total(params, x):
            y, _ = layer.apply(params, state, jn.Sequence(x, LENGTHS), key=key, train=True)
            return jnp.sum(jnp.sin(y.values)), y.values

        return jax.grad(total, argnums=(0, 1), has_aux=True)(params, x)

    x = jn.Sequence(values(), LENGTHS)
    (wanted_params, wanted_x), wanted = run(x.values)
    (d_params, dx), y = run(jnp.where(inside(x), x.values, padding))
    np.testing.assert_array_equal(y, wanted)
    np.testing.assert_array_equal(dx, wanted_x)
    np.testing.assert_array_equal(jnp.where(inside(x), 0, dx), 0)
    assert np.isfinite(dx).all()
    for a, b in zip(jax.tree.leaves(d_params), jax.tree.leaves(wanted_params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_sizes_go_through(key):
    net = jn.serial(jn.dense(jn.Size(5, 2)), jax.nn.sigmoid, jn.gru(jn.Size(4, 3), returns="last"), jn.dense(2))
    params, state, out = net.init(key, SPEC)
    narrow = jn.serial(jn.dense(2), jax.nn.sigmoid, jn.gru(3, returns="last"), jn.dense(2))
    narrow_params, narrow_state, _ = narrow.init(key, SPEC)
    assert out == jn.Spec((2,))
    y, _ = net.apply(params, state, jn.Sequence(values(), LENGTHS))
    wanted, _ = narrow.apply(narrow_params, narrow_state, jn.Sequence(values(), LENGTHS))
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-6)


# Errors.


def test_a_layer_of_whole_arrays_refuses_a_sequence_with_the_path(key):
    message = r"serial\[1\] dense > flatten: this layer takes arrays, not a Sequence of different.*returns=\"last\""
    with pytest.raises(TypeError, match=message):
        jn.serial(jn.dense(3), jn.flatten).init(key, SPEC)


def test_dense_doesnt_take_time_for_a_feature(key):
    spec = jn.Sequence(jn.Spec((4,)), jn.Spec((), jnp.int32))
    message = r"serial\[0\] dense: expected a Sequence with values \[batch, time, features\].*got.*\(4,\).*expand_dims"
    with pytest.raises(ValueError, match=message):
        jn.serial(jn.dense(3)).init(key, spec)


@pytest.mark.parametrize("layer", [jn.dense(3), jn.gru(3), jn.bidirectional(jn.gru(3))], ids=lambda layer: layer.name)
def test_lengths_that_are_no_integers_are_refused(layer, key):
    with pytest.raises(TypeError, match="lengths of a Sequence must be integers, got float32.*uint8.*int32"):
        layer.init(key, dataclasses.replace(SPEC, lengths=jn.Spec(())))
    with pytest.raises(ValueError, match=r"lengths \[batch\], but got examples of shapes \(4, 3\) and \(1,\)"):
        layer.init(key, dataclasses.replace(SPEC, lengths=jn.Spec((1,), jnp.int32)))


# Training and search: names, letter by letter, of two families.


def names(seed, examples=96):
    """1-of-6 letters; those of one family end in a vowel (the first two letters), those of the other don't."""
    random = np.random.default_rng(seed)
    lengths, labels = random.integers(2, 7, examples), random.integers(0, 2, examples)
    letters = random.integers(0, 6, (examples, 6))
    letters[np.arange(examples), lengths - 1] = np.where(labels, random.integers(0, 2, examples), 3)
    x = np.eye(6, dtype=np.float32)[letters]
    return jn.Sequence(x, lengths.astype(np.int32)), labels.astype(np.int32)


TRAIN, VALIDATION = names(0), names(1, 40)


def trial(hp):
    net = jn.serial(
        jn.dense(hp.letters), jnp.tanh, jn.bidirectional(jn.lstm(hp.hidden)), jn.dropout(0.1),
        jn.gru(hp.hidden, returns="last"), jn.dense(2),
    )  # fmt: skip
    return jn.Trial(
        net=net,
        loss=jn.losses.softmax_cross_entropy,
        optimizer=optax.adam(hp.learning_rate),
        metric=jn.metrics.error,
        batch_size=20,
    )


@pytest.fixture(scope="module")
def fitted():
    hp = jn.hp(letters=4, hidden=6, learning_rate=0.02)
    return hp, jn.fit(trial(hp), TRAIN, VALIDATION, epochs=12, key=jax.random.key(0))


def test_names_are_learned(fitted):
    """The last letter decides, wherever it stands, and the letters behind it mean nothing."""
    _, fit = fitted
    assert all(np.isfinite(curve).all() for curve in fit.curve.values())
    assert fit.curve["train_loss"][-1] < 0.2 < 0.6 < fit.curve["train_loss"][0]
    assert fit.curve["validation_error"][-1] < 0.1


def test_predictions_dont_depend_on_the_padding(fitted):
    hp, fit = fitted
    x, labels = VALIDATION
    outputs = jn.predict(trial(hp).net, fit.params, fit.state, x, batch_size=16)
    assert outputs.shape == (40, 2)
    longer = np.concatenate([x.values, np.ones((40, 3, 6), np.float32)], axis=1)
    mask = np.arange(9)[None, :, None] < x.lengths[:, None, None]
    again = jn.predict(trial(hp).net, fit.params, fit.state, jn.Sequence(np.where(mask, longer, -7), x.lengths))
    np.testing.assert_allclose(again, outputs, rtol=1e-5, atol=1e-6)
    measures = jn.evaluate(trial(hp), fit.params, fit.state, VALIDATION)
    np.testing.assert_allclose(measures["error"], (outputs.argmax(1) != labels).mean(), atol=1e-6)


def test_a_lane_of_a_search_equals_fit():
    space = jn.Space(letters=jn.integers(2, 4), hidden=jn.integers(3, 6), learning_rate=jn.log_uniform(1e-2, 5e-2))
    settings = {"epochs": 3, "key": jax.random.key(3)}
    result = jn.random_search(trial, space, TRAIN, VALIDATION, trials=3, progress=False, **settings)
    assert all(status == "completed" for status in result.table["status"])
    losses = result.table["train_loss"]
    assert np.isfinite(losses).all() and (losses < 0.69).all()
    i = int(result.best["id"])
    row = {name: result.table[name][i] for name in ("letters", "hidden", "learning_rate")}
    hp = jn.hp(letters=int(row["letters"]), hidden=int(row["hidden"]), learning_rate=float(row["learning_rate"]))
    fit = jn.fit(trial(hp), TRAIN, VALIDATION, trial_id=i, **settings)
    np.testing.assert_allclose(result.curves[i], fit.curve["validation_error"], atol=0.03)
    np.testing.assert_allclose(losses[i], fit.curve["train_loss"][-1], rtol=1e-3)
    net, params, state = result.network(result.best)
    for leaf, other in zip(jax.tree.leaves(params), jax.tree.leaves(fit.params), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=1e-2, atol=1e-3)
    wanted = jn.predict(trial(hp).net, fit.params, fit.state, VALIDATION[0])
    np.testing.assert_allclose(jn.predict(net, params, state, VALIDATION[0]), wanted, rtol=1e-2, atol=1e-2)


def test_padding_that_isnt_finite_is_refused_as_all_such_data_are():
    x, labels = TRAIN
    bad = jn.Sequence(np.where(np.asarray(x.mask)[..., None], x.values, np.nan), x.lengths)
    with pytest.raises(ValueError, match="train inputs.values: .* entries are NaN or infinite"):
        jn.fit(trial(jn.hp(letters=2, hidden=2, learning_rate=0.1)), (bad, labels), epochs=1, key=jax.random.key(0))


def test_uint8_lengths_are_refused():
    x, labels = TRAIN
    data = jn.Sequence(x.values, x.lengths.astype(np.uint8)), labels
    with pytest.raises(TypeError, match="lengths of a Sequence must be integers"):
        jn.fit(trial(jn.hp(letters=2, hidden=2, learning_rate=0.1)), data, epochs=1, key=jax.random.key(0))


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.uint32, np.int64])
def test_lengths_of_any_integers_are_calculated_with_alike(dtype):
    """In eight bits 90 * 10 cells would be -124, and of unsigned numbers one less than zero is large."""
    values, lengths = jnp.asarray(np.random.default_rng(0).normal(size=(2, 100, 10, 3)), jnp.float32), np.array([90, 1])
    films, songs = (jn.Sequence(v, lengths.astype(dtype)) for v in (values, values[:, :, 0]))
    wanted = [values[i, :n].mean(axis=(0, 1)) for i, n in enumerate(lengths)]
    np.testing.assert_allclose(jn.global_avg_pool.apply((), (), films)[0], np.stack(wanted), rtol=1e-5, atol=1e-6)
    layer = jn.conv(1, (3,), padding=20)
    made, _ = layer.apply(layer.init(jax.random.key(0), (100, 3))[0], (), songs)
    assert made.lengths.tolist() == [128, 39]
    assert jn.avg_pool((3,), strides=1).apply((), (), songs)[0].lengths.tolist() == [88, 0]
    both = jn.bidirectional(jn.gru(2))
    params, state, _ = both.init(jax.random.key(0), jn.Sequence(jn.Spec((100, 3)), jn.Spec((), jnp.int32)))
    plain = jn.Sequence(songs.values, jnp.asarray(lengths, jnp.int32))
    np.testing.assert_array_equal(*(both.apply(params, state, x)[0].values for x in (songs, plain)))
