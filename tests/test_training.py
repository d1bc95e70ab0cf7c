"""Training: the pure epoch against a plain loop in NumPy, masks, stop rules, and what is refused before it starts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.data import as_data, feeder
from jaxnet.training import Keys


def problem(examples=50, features=4, classes=3, seed=0):
    """Classes that a linear network separates: inputs float32 [examples, features], labels int32."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(classes, features)) * 2
    labels = generator.integers(classes, size=examples)
    return (centres[labels] + generator.normal(size=(examples, features))).astype(np.float32), labels.astype(np.int32)


def linear(**options):
    options = {"optimizer": optax.sgd(0.1), "batch_size": 16, "metric": jn.metrics.error} | options
    return jn.Trial(net=jn.dense(3), loss=jn.losses.softmax_cross_entropy, **options)


def softmax_regression(train, order, batch_size, rate, l2, params):
    """One epoch of gradient descent in float64 NumPy: new weights, and the mean loss over the examples as they came."""
    x, y = train[0].astype(np.float64), train[1]
    w, b, total = params["w"].astype(np.float64), params["b"].astype(np.float64), 0.0
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        logits = x[rows] @ w + b
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        total -= np.log(p[np.arange(len(rows)), y[rows]]).sum()
        delta = (p - np.eye(3)[y[rows]]) / len(rows)
        w, b = w - rate * (x[rows].T @ delta + l2 * w), b - rate * delta.sum(axis=0)
    return {"w": w, "b": b}, total / len(order)


@pytest.mark.parametrize("batch_size", [1, 7, 16, 50])
def test_epoch_equals_a_loop_in_numpy_to_the_last_partial_batch(batch_size, key):
    train = problem()
    trial = linear(batch_size=batch_size, optimizer=optax.sgd(0.05), penalty=jn.losses.l2(0.3))
    fitted = jn.fit(trial, train, epochs=2, key=key)
    params = jax.device_get(jn.dense(3).init(Keys.of(key).init(0), (4,))[0])
    for epoch in range(2):
        order = np.asarray(feeder(as_data(train, "train"), None, Keys.of(key).order, "shared")(epoch)["order"])
        assert sorted(order) == list(range(50))
        params, loss = softmax_regression(train, order, batch_size, 0.05, 0.3, params)
        np.testing.assert_allclose(fitted.curve["train_loss"][epoch], loss, rtol=1e-5)
    np.testing.assert_allclose(fitted.params["w"], params["w"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(fitted.params["b"], params["b"], rtol=1e-4, atol=1e-6)


def test_measures_are_means_over_all_examples(key):
    train, validation = problem(), problem(1234, seed=1)  # more than one evaluation batch, and not a multiple
    trial = linear()
    fitted = jn.fit(trial, train, validation, epochs=1, key=key)
    outputs = validation[0] @ np.asarray(fitted.params["w"]) + np.asarray(fitted.params["b"])
    wrong = (outputs.argmax(axis=1) != validation[1]).mean()
    measured = jn.evaluate(trial, fitted.params, fitted.state, validation)
    np.testing.assert_allclose(measured["error"], wrong, rtol=1e-6)
    np.testing.assert_allclose(fitted.curve["validation_error"], [wrong], rtol=1e-6)
    np.testing.assert_allclose(fitted.curve["validation_loss"], [measured["loss"]], rtol=1e-5)
    np.testing.assert_allclose(
        jn.predict(trial.net, *fitted[:2], validation[0], batch_size=100), outputs, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_measures_of_half_precision_are_summed_in_float32(dtype, key):
    """128 losses of 900: their sum is above the end of float16, and that of the 44 left isn't a bfloat16."""
    data = np.zeros((300, 1), dtype), np.full((300, 1), 30, dtype)
    still = jn.Trial(jn.dense(1), jn.losses.squared_error, optax.sgd(0.0), metric=jn.losses.absolute_error)
    curve = jn.fit(still, data, data, epochs=1, key=key).curve
    assert {name: value.item() for name, value in curve.items()} == {
        "train_loss": 900, "train_absolute_error": 30, "validation_loss": 900, "validation_absolute_error": 30
    }  # fmt: skip
    trial = jn.Trial(jn.dense(1), jn.losses.squared_error, optax.sgd(1e-3), penalty=jn.losses.l2(0.1))
    fitted = jn.fit(trial, data, epochs=1, key=key)
    assert {leaf.dtype for leaf in jax.tree.leaves(fitted.params)} == {jnp.dtype(dtype)}
    np.testing.assert_allclose(fitted.params["b"].astype(float), [30 * (1 - 0.998**3)], rtol=0.02)  # (30 - b) ** 2


def test_predict_has_no_more_than_two_batches_on_the_device(key, monkeypatch):
    inputs = problem(95)[0]
    params, state, _ = jn.dense(7).init(key, (4,))
    predictor, seen = jn.training._predictor, []

    def watched(net):
        shapes = [a.shape for a in jax.live_arrays()]
        seen.append((sum(shape[1:] == (7,) and shape[0] == 10 for shape in shapes), (95, 4) in shapes))
        return predictor(net)

    monkeypatch.setattr(jn.training, "_predictor", watched)
    outputs = jn.predict(jn.dense(7), params, state, inputs, batch_size=10)
    assert seen == [(0, False)] + [(1, False)] * 9
    np.testing.assert_array_equal(outputs, jn.predict(jn.dense(7), params, state, jnp.asarray(inputs), batch_size=10))


def test_pixels_stay_bytes_until_a_batch_is_made(key):
    images = np.arange(6 * 4, dtype=np.uint8).reshape(6, 2, 2, 1) * 10
    data = as_data((images, np.zeros(6, int)), "train")
    assert data[0].dtype == jnp.uint8
    net = jn.serial(jn.flatten, jn.dense(3))
    params, state, _ = net.init(key, (2, 2, 1))
    expected, _ = net.apply(params, state, images.astype(np.float32) / 255)
    np.testing.assert_allclose(jn.predict(net, params, state, images), expected, rtol=1e-6)
    trial = jn.Trial(net=net, loss=jn.losses.softmax_cross_entropy, optimizer=optax.sgd(0.1), batch_size=4)
    as_bytes = jn.fit(trial, (images, np.zeros(6, int)), epochs=2, key=key)
    as_floats = jn.fit(trial, (images.astype(np.float32) / 255, np.zeros(6, int)), epochs=2, key=key)
    np.testing.assert_allclose(as_bytes.curve["train_loss"], as_floats.curve["train_loss"], rtol=1e-6)


def test_data_are_arguments_of_the_compiled_epoch_not_constants(key):
    train = as_data(problem(4000), "train")
    program = jn.training.supervised(lambda hp: linear(), train, None, order_key=key, shuffle="shared")
    carry = jax.eval_shape(program.init, (), key)
    lowered = jax.jit(lambda c, k, f: program.advance((), c, k, f)).lower(carry, key, program.feed(0))
    assert len(lowered.as_text()) < 200_000  # the inputs alone would be 4000 * 4 numbers
    assert "tensor<4000x4xf32>" in lowered.as_text()  # they come in by the door


def test_stop_at_a_target_and_by_patience(key):
    train = problem(60)
    reached = jn.fit(linear(), train, epochs=200, key=key, stop=jn.target(train_error=0.2))
    assert len(reached.curve["train_error"]) < 200
    assert reached.curve["train_error"][-1] <= 0.2 < reached.curve["train_error"][:-1].min(initial=1)
    curve = jn.fit(linear(optimizer=optax.sgd(0.0)), train, train, epochs=50, key=key, stop=jn.patience(3)).curve
    assert len(curve["validation_loss"]) == 4  # the first epoch is the lowest, three more bring nothing new
    assert [jn.patience(2)({"validation_loss": np.array(losses)}) for losses in ([np.nan], [np.nan] * 2)] == [
        False,
        True,
    ]
    assert not jn.patience(2)({"validation_loss": np.array([np.nan, np.nan, 0.5, np.nan])})
    with pytest.raises(ValueError, match=r"no measure 'validation_error'.*train_error"):
        jn.fit(linear(), train, epochs=2, key=key, stop=jn.target(validation_error=0))


def test_more_seeds_compile_nothing(key):
    trial, train = linear(), problem()
    jn.fit(trial, train, epochs=1, key=key)
    first = jn.training._compiled(trial, jn.data.input_spec(jnp.asarray(train[0])), 50, None, "shared")
    second = jn.training._compiled(trial, jn.data.input_spec(jnp.asarray(train[0])), 50, None, "shared")
    assert first is second
    sizes = [function._cache_size() for function in first]
    jn.fit(trial, train, epochs=3, key=jax.random.key(99))
    assert [function._cache_size() for function in first] == sizes


def test_augment_acts_in_training_only_and_draws_anew_each_step(key):
    seen = []

    def augment(key, inputs):
        seen.append(inputs.shape)
        return inputs + jax.random.normal(key, inputs.shape)

    train = problem()
    frozen = {"optimizer": optax.sgd(0.0), "batch_size": 50}
    plain = jn.fit(linear(**frozen), train, train, epochs=2, key=key)
    noisy = jn.fit(linear(**frozen, augment=augment), train, train, epochs=2, key=key)
    assert set(seen) == {(50, 4)}
    np.testing.assert_allclose(noisy.curve["validation_loss"], plain.curve["validation_loss"], rtol=1e-6)
    assert len({*noisy.curve["train_loss"], *plain.curve["train_loss"].round(5)}) >= 3


@pytest.mark.parametrize("epoch_of_trouble", [0, 1])
def test_a_diverging_trial_is_frozen_at_its_step_with_its_last_finite_parameters(epoch_of_trouble, key):
    x, y = problem(48)
    # The loss of example 17 becomes infinite once training has passed so many steps: the schedule blows the weights up.
    trouble = 3 * epoch_of_trouble + 1
    trial = linear(optimizer=optax.sgd(lambda count: jnp.where(count == trouble, jnp.inf, 0.1)))
    fitted = jn.fit(trial, (x, y), (x, y), epochs=5, key=key)
    assert fitted.diverged == trouble  # steps count from 0; three steps an epoch
    assert len(fitted.curve["train_loss"]) == epoch_of_trouble + 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fitted.params))
    calm = linear(optimizer=optax.sgd(lambda count: jnp.where(count >= trouble, 0.0, 0.1)))
    expected = jn.fit(calm, (x, y), epochs=epoch_of_trouble + 1, key=key)
    np.testing.assert_array_equal(fitted.params["w"], expected.params["w"])


def test_the_curve_ends_with_the_epoch_of_divergence_and_a_search_leaves_it_out(key):
    train = problem(48)
    trial = linear(optimizer=optax.sgd(lambda count: jnp.where(count == 4, jnp.inf, 0.1)))
    fitted = jn.fit(trial, train, train, epochs=3, key=key)
    assert list(fitted.curve) == ["train_error", "train_loss", "validation_error", "validation_loss"]
    assert {len(values) for values in fitted.curve.values()} == {2} and np.isfinite(fitted.curve["train_loss"]).all()
    result = jn.random_search(lambda hp: trial, jn.Space(a=jn.choice(1)), train, train, trials=1, epochs=3, key=key)
    np.testing.assert_allclose(result.history["train_loss"][0], [fitted.curve["train_loss"][0], np.nan, np.nan], 1e-5)
    assert list(jn.fit(linear(metric=None), train, epochs=1, key=key).curve) == ["train_loss"]


@pytest.mark.parametrize("source", [lambda data: data, jn.Stream], ids=["arrays", "stream"])
def test_an_epoch_that_diverges_at_its_first_step_has_measured_nothing(source, key):
    """0 would be a perfect loss."""
    trial = linear(optimizer=optax.sgd(lambda count: jnp.where(count == 3, jnp.inf, 0.1)))  # three steps an epoch
    fitted = jn.fit(trial, source(problem(48)), source(problem(48)), epochs=3, key=key)
    assert fitted.diverged == 3
    for name, curve in fitted.curve.items():
        assert np.isfinite(curve).tolist() == [True, name.startswith("validation")]


@pytest.mark.parametrize(
    "numbers, dtype, diverged",
    [([6e4] * 9, "float16", None), ([3e38, 3e38], "float32", 0), ([np.inf, -np.inf], "float32", 0),
     ([0.0, np.nan], "bfloat16", 0)],
)  # fmt: skip
def test_a_parameter_that_is_not_finite_is_divergence_and_so_is_a_sum_above_float32(numbers, dtype, diverged, key):
    """None of these sums is finite in its dtype, and the first is in float32."""

    def init(key, spec):
        params, state, out = jn.dense(3).init(key, spec)
        return {"dense": params, "unused": jnp.array(numbers, dtype)}, state, out

    net = jn.Layer(init, lambda params, *rest, **options: jn.dense(3).apply(params["dense"], *rest, **options))
    trial = jn.Trial(net, jn.losses.softmax_cross_entropy, optax.sgd(0.1), batch_size=16)
    assert jn.fit(trial, problem(), epochs=1, key=key).diverged == diverged


def test_shuffle_own_and_shared_see_every_example_once(key):
    """With a rate so small that nothing moves, an epoch's mean loss is that of all data, whatever the order."""
    train = problem()
    losses = [
        jn.fit(linear(optimizer=optax.sgd(0.0), batch_size=8), train, epochs=1, key=key, shuffle=s).curve["train_loss"]
        for s in ("shared", "own")
    ]
    np.testing.assert_allclose(*losses, rtol=1e-6)


def test_inputs_may_be_trees(key):
    x, y = problem()
    net = jn.Layer(
        init=lambda key, spec: (jn.dense(3).init(key, spec["a"])[0], (), jn.Spec((3,))),
        apply=lambda params, state, x, *, key=None, train=False: jn.dense(3).apply(params, state, x["a"] + x["b"]),
    )
    trial = jn.Trial(net=net, loss=jn.losses.softmax_cross_entropy, optimizer=optax.sgd(0.1), batch_size=16)
    inputs = {"a": x - 1, "b": np.ones_like(x)}
    fitted = jn.fit(trial, (inputs, y), epochs=1, key=key)
    plain = jn.fit(linear(metric=None), (x, y), epochs=1, key=key)
    np.testing.assert_allclose(fitted.curve["train_loss"], plain.curve["train_loss"], rtol=1e-5)
    assert jn.predict(net, fitted.params, (), inputs).shape == (50, 3)


def test_optimisers_that_want_the_loss_get_it(key):
    """Polyak's step size reads the loss, optax's reduce-on-plateau too; both are ordinary transformations here."""
    train = problem()
    optimizer = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(patience=1))
    assert np.isfinite(jn.fit(linear(optimizer=optimizer), train, epochs=2, key=key).curve["train_loss"]).all()
    polyak = jn.fit(linear(optimizer=optax.polyak_sgd(0.1)), train, epochs=5, key=key).curve["train_loss"]
    assert polyak[-1] < polyak[0]


@pytest.mark.parametrize(
    "optimizer", [lambda m: optax.sgd(0.1, momentum=m), lambda m: optax.adam(0.1, b1=m)], ids=["sgd", "adam"]
)
def test_a_searched_momentum_leaves_half_precision_as_it_is(optimizer, key):
    """Traced it is float32, and a Python number in ``fit``."""
    x = np.linspace(-1, 1, 48)[:, None].astype(jnp.bfloat16)
    space = jn.Space(m=jn.uniform(0.5, 0.9))

    def trial(hp):
        return jn.Trial(jn.dense(1), jn.losses.squared_error, optimizer(hp.m), batch_size=16)

    result = jn.random_search(trial, space, (x, x), (x, x), trials=2, epochs=2, key=key)
    assert result.network(0).params["w"].dtype == jnp.bfloat16
    fitted = jn.fit(trial(jn.hp(m=result.table["m"][0].item())), (x, x), (x, x), epochs=2, key=key)
    np.testing.assert_allclose(result.history["train_loss"][0], fitted.curve["train_loss"], rtol=0.02)


def test_optimisers_that_take_no_loss_get_none(key):
    """Sharpness-aware minimisation, whose update has other keywords; by hand, with a loss of w ** 2."""
    optimizer = optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.05), sync_period=2)
    net = jn.dense(1, w_init=jax.nn.initializers.ones, bias=False)
    trial = jn.Trial(net, jn.losses.squared_error, optimizer, batch_size=1)
    fitted = jn.fit(trial, (np.ones((2, 1), np.float32), np.zeros((2, 1), np.float32)), epochs=1, key=key)
    np.testing.assert_allclose(fitted.params["w"], [[1 - 0.1 * 2 * (1 + 0.05 * 2)]], rtol=1e-6)


X, Y = problem()
BAD_DATA = {
    "no pair": (X, TypeError, r"train: expected a pair \(inputs, targets\), got an array of shape \(50, 4\)"),
    "a loader": (iter([X]), TypeError, r"expected a pair \(inputs, targets\), got .*is given as jn.Stream"),
    "three": ((X, X, X), TypeError, r"(?s)expected a pair .*several arrays are the first of the pair"),
    "lengths": ((X, Y[:-1]), ValueError, r"train: 50 inputs but 49 targets"),
    "empty": ((X[:0], Y[:0]), ValueError, r"at least one example.*\(0, 4\)"),
    "nan": ((np.where(np.arange(4) == 2, np.nan, X), Y), ValueError, r"50 entries are NaN.*\[0, 2\].*nan_to_num"),
    "too large": (
        (np.where(np.arange(4) == 2, 1e300, X.astype(float)), Y),
        ValueError,
        r"50 entries are NaN or infinite as float32, the first at \[0, 2\]",
    ),
    "masked": ((np.ma.masked_greater(X, X.max() - 1e-6), Y), ValueError, r"inputs: 1 entries are masked.*filled\(0\)"),
    "text": ((np.array([["a"]] * 50), Y), TypeError, r"expected numbers, got dtype <U1"),
    "labels of floats": ((X, Y.astype(np.float32)), TypeError, r"must be integers, got float32.*astype\(int\)"),
    "labels too high": ((X, Y + 1), ValueError, r"in \[0, 3\).*is 3\..*targets - 1.*4 outputs"),
    "labels too low": ((X, Y - 1), ValueError, r"in \[0, 3\).*is -1"),
    "labels of rank 2": (
        (X, Y[:, None]),
        ValueError,
        r"want integer labels \(2,\).*got targets \(2, 1\).*targets\[..., 0\]",
    ),
    "rank": ((X[:, 0], Y), ValueError, r"dense|at least 1 axis.*expand_dims"),
    "fewer than a batch": ((X[:9], Y[:9]), ValueError, r"batch_size is 16, but there are only 9.*batch_size=9"),
}


@pytest.mark.parametrize("data, kind, message", BAD_DATA.values(), ids=BAD_DATA.keys())
def test_bad_data_are_refused_with_a_way_out(data, kind, message, key):
    with pytest.raises(kind, match=message):
        jn.fit(linear(), data, epochs=1, key=key)


@pytest.mark.parametrize(
    "loss",
    [jn.losses.label_smoothing(0.1), jn.losses.hinge, lambda o, t: 2 * jn.losses.softmax_cross_entropy(o, t)],
    ids=["label_smoothing", "hinge", "one's own"],
)
def test_labels_are_checked_for_whatever_takes_them_for_labels(loss, key):
    trial = jn.Trial(jn.dense(3), loss, optax.sgd(0.1), batch_size=16)
    with pytest.raises(ValueError, match=r"in \[0, 3\).*is 3\."):
        jn.fit(trial, (X, Y + 1), epochs=1, key=key)
    one = jn.Trial(jn.dense(1), loss, optax.sgd(0.1), batch_size=16)
    with pytest.raises(
        ValueError, match=r"one output has no softmax; use .*sigmoid_cross_entropy|must have the same shape"
    ):
        jn.fit(one, (X, np.minimum(Y, 1)), epochs=1, key=key)
    yes_or_no = jn.Trial(jn.dense(1), lambda o, t: jn.losses.hinge(o[:, 0], t), optax.sgd(0.1), jn.metrics.error)
    with pytest.raises(ValueError, match="batch_size is 128"):  # and not of labels: a single output has no classes
        jn.fit(yes_or_no, (X, Y), epochs=1, key=key)


def test_targets_at_each_step_of_sequences(key):
    """Which of two inputs is larger, at each step: learnt to the last one, with padding that says otherwise."""
    generator = np.random.default_rng(0)
    values, lengths = generator.normal(size=(64, 5, 2)).astype(np.float32), generator.integers(1, 6, 64)
    inside = np.arange(5) < lengths[:, None]
    labels = np.where(inside, values[..., 0] > values[..., 1], -1).astype(np.int32)
    inputs = jn.Sequence(values, lengths.astype(np.int32))
    trial = jn.Trial(jn.dense(2), jn.losses.softmax_cross_entropy, optax.adam(0.1), jn.metrics.error, batch_size=16)
    fitted = jn.fit(trial, (inputs, labels), epochs=30, key=key)
    assert fitted.curve["train_error"][0] > 0.1
    assert fitted.curve["train_error"][-1] < 0.03

    wrong = np.where(np.arange(64)[:, None] == 9, np.where(inside, 2, -1), labels)
    message = r"labels must be integers in \[0, 2\).*targets\[9, 0\] is 2"
    for targets in (wrong, jn.Sequence(wrong, inputs.lengths), {"labels": wrong}):
        loss = (
            trial.loss
            if not isinstance(targets, dict)
            else lambda o, t: jn.losses.softmax_cross_entropy(o, t["labels"])
        )
        with pytest.raises(ValueError, match=message):
            jn.fit(jn.Trial(trial.net, loss, trial.optimizer, batch_size=16), (inputs, targets), epochs=1, key=key)
    with pytest.raises(ValueError, match="train: example 9: labels must be integers"):
        jn.fit(trial, jn.Stream((inputs, wrong)), epochs=1, key=key)
    jn.fit(trial, jn.Stream((inputs, labels)), epochs=1, key=key)
    later = trial.net._replace(
        apply=lambda p, s, x, **_: (jn.Sequence(jn.dense(2).apply(p, s, x.values)[0], x.lengths - 1), s)
    )
    unknown = jn.Trial(later, trial.loss, trial.optimizer, batch_size=16)  # lengths that only the network knows
    assert jn.fit(unknown, (inputs, wrong), epochs=1, key=key).diverged is not None


def test_bad_arguments_are_refused_with_a_way_out(key):
    with pytest.raises(ValueError, match="epochs must be at least 1, got 0"):
        jn.fit(linear(), problem(), epochs=0, key=key)
    with pytest.raises(TypeError, match="expected a single key such as jax.random.key"):
        jn.fit(linear(), problem(), epochs=1, key=0)
    with pytest.raises(TypeError, match=r"expected a single key .*got an array of shape \(3,\), uint32"):
        jn.fit(linear(), problem(), epochs=1, key=np.zeros(3, np.uint32))
    for inputs in (lambda x: x, lambda x: X):
        with pytest.raises(TypeError, match=r"fit: call it outside of jax.jit"):
            jax.jit(lambda x, inputs=inputs: jn.fit(linear(), (inputs(x), Y), epochs=1, key=key))(X)
    params, state, _ = jn.dense(3).init(key, X.shape[1:])
    for inputs in (lambda x: x, lambda x: X):
        with pytest.raises(TypeError, match="predict: call it outside of jax.jit"):
            jax.jit(lambda x, inputs=inputs: jn.predict(jn.dense(3), params, state, inputs(x)))(X)
    with pytest.raises(TypeError, match="evaluate: call it outside of jax.jit"):
        jax.grad(lambda params: jn.evaluate(linear(), params, state, problem())["loss"])(params)
    with pytest.raises(ValueError, match="trial_id must be at least 0, got -1"):
        jn.fit(linear(), problem(), epochs=1, key=key, trial_id=-1)
    with pytest.raises(TypeError, match="trial_id must be an integer, got 1.5"):
        jn.fit(linear(), problem(), epochs=1, key=key, trial_id=1.5)
    with pytest.raises(ValueError, match="loss_limit must be a number, got nan"):
        linear(loss_limit=np.float32("nan"))
    with pytest.raises(ValueError, match='shuffle must be "shared" or "own"'):
        jn.fit(linear(), problem(), epochs=1, key=key, shuffle="none")
    with pytest.raises(TypeError, match="hyperparameter 'batch' was used where Python needs an integer.*static=True"):
        jn.fit(linear(batch_size=jn.Size(16, 8, "batch")), problem(), epochs=1, key=key)
    with pytest.raises(TypeError, match=r"Trial: optimizer must be an optax transformation.*got 0.1"):
        linear(optimizer=0.1)
    with pytest.raises(TypeError, match="Trial: penalty must be a function, got 0.1"):
        linear(penalty=0.1)
    with pytest.raises(ValueError, match="Trial: batch_size must be at least 1, got 0"):
        linear(batch_size=0)
    with pytest.raises(ValueError, match=r"expected x of shape \[batch, ..., 4\]"):
        jn.predict(jn.dense(3), {"w": jnp.ones((4, 3)), "b": jnp.ones(3)}, (), X[:, :3])
    named_loss = jn.losses.of_steps(jn.metrics.error)
    named_loss.__name__ = "loss"
    with pytest.raises(ValueError, match="a metric called 'loss' would take the loss's place"):
        jn.fit(linear(metric=named_loss), problem(), epochs=1, key=key)
    mean_loss = jn.Trial(net=jn.dense(3), loss=lambda o, t: jnp.mean(o), optimizer=optax.sgd(0.1), batch_size=16)
    with pytest.raises(ValueError, match=r"loss '<lambda>' must return one number for each example"):
        jn.fit(mean_loss, problem(), epochs=1, key=key)
    with pytest.raises(ValueError, match="last layer has a Size"):
        jn.fit(
            jn.Trial(jn.dense(jn.Size(4, 3, "classes")), jn.losses.softmax_cross_entropy, optax.sgd(0.1), batch_size=4),
            problem(), epochs=1, key=key,
        )  # fmt: skip


@pytest.mark.parametrize(
    "options, message",
    [
        ({"penalty": lambda p: jnp.sum(p["b"], keepdims=True)}, r"penalty '<lambda>' must return one number.*\(1,\)"),
        ({"penalty": lambda p: None}, r"penalty '<lambda>' must return one number, of shape \(\), got None; sum"),
        ({"augment": lambda key, x: x[:5]}, r"augment must return as many inputs .*\(16, 4\).*got .*\(5, 4\)"),
        ({"augment": lambda key, x: (x, x)}, r"augment must return .*in the same structure: .*got \(Shape"),
        ({"augment": lambda key, x: None}, r"augment must return .*got None"),
        ({"augment": lambda key, x: x.sum()}, r"augment must return .*got .*\(shape=\(\)"),
    ],
    ids=["penalty of an axis", "no penalty", "fewer", "two", "none", "a sum"],
)
def test_penalty_and_augment_are_tried_before_training(options, message, key):
    with pytest.raises(ValueError, match=message):
        jn.fit(linear(**options), problem(), epochs=1, key=key)


def test_integers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="don't fit int32.*jax_enable_x64"):
        as_data((np.array([[2**40]]), np.array([0])), "train")


def test_older_keys_are_taken_and_give_the_same_numbers(key):
    raw = jax.random.PRNGKey(0)
    curves = [jn.fit(linear(), problem(), epochs=1, key=k).curve["train_loss"] for k in (raw, jax.random.key(0))]
    np.testing.assert_array_equal(*curves)


@pytest.mark.parametrize("limit, frozen_at", [(10.0, 2), (16.0, 3), (np.inf, None)])
def test_a_loss_above_its_limit_counts_as_divergence(limit, frozen_at, key):
    """loss = w ** 2 and a rate of 1.5 make w grow by -2 a step: losses of 1, 4, 16, 64, two steps an epoch."""
    x, y = np.ones((4, 1), np.float32), np.zeros((4, 1), np.float32)
    net = jn.dense(1, w_init=jax.nn.initializers.ones, bias=False)
    trial = jn.Trial(net, jn.losses.squared_error, optax.sgd(1.5), batch_size=2, loss_limit=limit)
    fitted = jn.fit(trial, (x, y), epochs=3, key=key)
    assert fitted.diverged == frozen_at
    assert fitted.params["w"].item() == (-2.0) ** (6 if frozen_at is None else frozen_at)
    with pytest.raises(TypeError, match="loss_limit must be a number, got 'high'"):
        jn.Trial(net, jn.losses.squared_error, optax.sgd(1.5), loss_limit="high")
