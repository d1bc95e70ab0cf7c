import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet import losses

FROM_TORCH = {
    "cross_entropy_labels": losses.softmax_cross_entropy,
    "cross_entropy_distributions": losses.softmax_cross_entropy,
    "cross_entropy_pixels": losses.softmax_cross_entropy,
    "binary_labels": losses.sigmoid_cross_entropy,
    "binary_probabilities": losses.sigmoid_cross_entropy,
    "squared_error": losses.squared_error,
    "huber_0.5": losses.huber(0.5),
    "huber_2.0": losses.huber(2.0),
    "absolute_error": losses.absolute_error,
    "smoothing_labels": losses.label_smoothing(0.2),
    "smoothing_distributions": losses.label_smoothing(0.2),
    "smoothing_pixels": losses.label_smoothing(0.2),
    "kl_divergence": losses.kl_divergence,
    "hinge_yes_or_no": losses.hinge,
    "hinge_labels": losses.hinge,
}


@pytest.fixture(params=FROM_TORCH)
def example(request, torch_reference):
    return FROM_TORCH[request.param], torch_reference(f"losses/{request.param}")


def test_values_and_gradients_equal_pytorch(example, x64):
    """PyTorch 2.13, float64."""
    loss, wanted = example
    outputs, targets = jnp.asarray(wanted["outputs"]), jnp.asarray(wanted["targets"])
    values = loss(outputs, targets)
    assert values.dtype == jnp.float64
    np.testing.assert_allclose(values, wanted["losses"], rtol=1e-12)
    gradient = jax.grad(lambda o: loss(o, targets).sum())(outputs)
    np.testing.assert_allclose(gradient, wanted["gradient"], rtol=1e-10, atol=1e-13)


def test_gradients_equal_finite_differences(example, x64):
    loss, wanted = example
    outputs, targets = jnp.asarray(wanted["outputs"]), jnp.asarray(wanted["targets"])
    direction = jax.random.normal(jax.random.key(0), outputs.shape, jnp.float64)
    weights = jnp.arange(1.0, 1 + len(outputs))

    @jax.jit
    def total(outputs):
        return jnp.vdot(weights, loss(outputs, targets))

    difference = (total(outputs + 1e-6 * direction) - total(outputs - 1e-6 * direction)) / 2e-6
    np.testing.assert_allclose(jnp.vdot(jax.grad(total)(outputs), direction), difference, rtol=1e-7)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_one_number_an_example_that_sees_no_other(example, dtype):
    loss, wanted = example
    outputs, targets = jnp.asarray(wanted["outputs"], dtype), jnp.asarray(wanted["targets"])
    targets = targets.astype(dtype if jnp.issubdtype(targets.dtype, jnp.floating) else jnp.int32)
    values = loss(outputs, targets)
    assert values.shape == (len(outputs),) and values.dtype == dtype
    np.testing.assert_allclose(
        values.astype(jnp.float32), wanted["losses"], rtol=0.05 if dtype == jnp.bfloat16 else 1e-5
    )
    spoiled = loss(outputs.at[0].set(jnp.nan), targets)
    np.testing.assert_array_equal(spoiled[1:], values[1:])


def test_by_hand():
    assert losses.squared_error(jnp.array([[1.0, 2.0], [0.0, 0.0]]), jnp.array([[1.0, 4.0], [3.0, 1.0]])).tolist() == [
        2,
        5,
    ]
    np.testing.assert_allclose(losses.huber(2.0)(jnp.array([1.0, 2.0, -5.0]), jnp.zeros(3)), [0.5, 2.0, 8.0])
    logits = jnp.log(jnp.array([[1.0, 2.0, 5.0]]))
    np.testing.assert_allclose(losses.softmax_cross_entropy(logits, jnp.array([1])), [np.log(4)], rtol=1e-6)
    np.testing.assert_allclose(
        losses.sigmoid_cross_entropy(jnp.log(jnp.array([3.0])), jnp.array([1])), [np.log(4 / 3)], rtol=1e-6
    )


def test_large_logits_neither_overflow_nor_lose_their_gradient():
    outputs = jnp.array([[1e4, -1e4], [-1e4, 1e4]])
    assert losses.softmax_cross_entropy(outputs, jnp.array([0, 0])).tolist() == [0, 2e4]
    assert losses.sigmoid_cross_entropy(outputs, jnp.array([[1, 0], [1, 0]])).tolist() == [0, 1e4]
    for loss, targets in (
        (losses.softmax_cross_entropy, jnp.array([0, 0])),
        (losses.sigmoid_cross_entropy, jnp.ones((2, 2))),
    ):
        assert np.isfinite(jax.grad(lambda o, loss=loss, t=targets: loss(o, t).sum())(outputs)).all()


def test_labels_equal_their_distributions(key):
    outputs, labels = jax.random.normal(key, (6, 3, 4)), jnp.arange(18).reshape(6, 3) % 4
    wanted = losses.softmax_cross_entropy(outputs, jax.nn.one_hot(labels, 4))
    np.testing.assert_allclose(losses.softmax_cross_entropy(outputs, labels), wanted, rtol=1e-6)
    np.testing.assert_allclose(losses.softmax_cross_entropy(outputs, labels.astype(jnp.uint8)), wanted, rtol=1e-6)


def test_labels_out_of_range_are_nan_and_no_others():
    values = losses.softmax_cross_entropy(jnp.zeros((4, 3)), jnp.array([0, -1, 3, 2]))
    assert np.isnan(values).tolist() == [False, True, True, False]


def test_delta_may_be_traced():
    lanes = jax.vmap(lambda delta: losses.huber(delta)(jnp.array([0.5, 3.0]), jnp.zeros(2)))(jnp.array([0.5, 1.0]))
    np.testing.assert_allclose(lanes, [[0.125, 1.375], [0.125, 2.5]])


def test_a_batch_of_none():
    for loss, targets in ((losses.squared_error, jnp.zeros((0, 3))), (losses.softmax_cross_entropy, jnp.zeros(0, int))):
        assert loss(jnp.zeros((0, 3)), targets).shape == (0,)


OUTPUTS = jnp.zeros((4, 3))


@pytest.mark.parametrize(
    "targets, kind, message",
    [
        (jnp.zeros(4), TypeError, r"labels of shape \(4,\) must be integers, got float32.*astype\(int\).*\(4, 3\)"),
        (jnp.zeros(4, bool), TypeError, "must be integers, got bool"),
        (
            jnp.zeros((4, 1), int),
            ValueError,
            r"want integer labels \(4,\) or distributions \(4, 3\), got targets \(4, 1\).*targets\[..., 0\]",
        ),
        (jnp.zeros(3, int), ValueError, r"want integer labels \(4,\).*got targets \(3,\)$"),
        (jnp.zeros((4, 2)), ValueError, r"distributions \(4, 3\), got targets \(4, 2\)"),
        (jnp.zeros(()), ValueError, r"got targets \(\)"),
    ],
)
def test_cross_entropy_refuses_targets(targets, kind, message):
    with pytest.raises(kind, match="softmax_cross_entropy: .*" + message):
        losses.softmax_cross_entropy(OUTPUTS, targets)


def test_cross_entropy_refuses_outputs_without_classes():
    with pytest.raises(
        ValueError, match=r"softmax_cross_entropy: expected outputs \[batch, ..., classes\], got \(4,\)"
    ):
        losses.softmax_cross_entropy(jnp.zeros(4), jnp.zeros(4, int))


@pytest.mark.parametrize(
    "name, loss",
    [
        ("squared_error", losses.squared_error),
        ("sigmoid_cross_entropy", losses.sigmoid_cross_entropy),
        ("huber", losses.huber()),
        ("absolute_error", losses.absolute_error),
        ("kl_divergence", losses.kl_divergence),
    ],
)
@pytest.mark.parametrize("shape", [(4,), (4, 1), (1, 3), (3, 4), (4, 3, 1)])
def test_shapes_are_never_broadcast(name, loss, shape):
    with pytest.raises(
        ValueError, match=rf"{name}: outputs and targets must have the same shape, got \(4, 3\) and"
    ) as error:
        loss(OUTPUTS, jnp.zeros(shape))
    assert str(shape) in str(error.value)


@pytest.mark.parametrize("delta", [0, -1.0, float("nan")])
def test_huber_refuses_a_delta(delta):
    with pytest.raises(ValueError, match="huber: delta must be positive, got"):
        losses.huber(delta)


def test_smoothing_by_hand():
    """Of 4 classes with amount 0.2 the target has 0.85 and each other 0.05; 0 is the plain loss, 1 ignores it."""
    outputs = jnp.log(jnp.array([[0.1, 0.2, 0.3, 0.4]]))
    wanted = -(0.05 * np.log(0.1) + 0.85 * np.log(0.2) + 0.05 * np.log(0.3) + 0.05 * np.log(0.4))
    np.testing.assert_allclose(losses.label_smoothing(0.2)(outputs, jnp.array([1])), [wanted], rtol=1e-6)
    plain = losses.softmax_cross_entropy(outputs, jnp.array([1]))
    np.testing.assert_allclose(losses.label_smoothing(0)(outputs, jnp.array([1])), plain, rtol=1e-6)
    one = losses.label_smoothing(1.0)
    np.testing.assert_allclose(one(outputs, jnp.array([1])), one(outputs, jnp.array([3])), rtol=1e-6)
    amounts = jax.vmap(lambda a: losses.label_smoothing(a)(outputs, jnp.array([1]))[0])(jnp.array([0.0, 0.2]))
    np.testing.assert_allclose(amounts, [plain[0], wanted], rtol=1e-6)


def test_hinge_takes_zeros_and_minus_ones_for_no():
    outputs = jnp.array([[2.0, 0.5, -3.0, 0.0]])
    for no in (0, -1):
        assert losses.hinge(outputs, jnp.array([[1, no, no, 1]])).tolist() == [(0 + 1.5 + 0 + 1) / 4]
    assert losses.hinge(outputs, jnp.array([[True, False, False, True]])).tolist() == [0.625]


def test_hinge_of_one_output_is_of_no_classes():
    with pytest.raises(
        ValueError, match=r"hinge: outputs and targets must have the same shape, got \(2, 1\) and \(2,\)"
    ):
        losses.hinge(jnp.ones((2, 1)), jnp.array([0, 1]))


def test_hinge_of_classes_by_hand():
    outputs = jnp.array([[3.0, 2.5, 0.0], [3.0, 0.0, 1.0], [1.0, 5.0, 0.0]])
    assert losses.hinge(outputs, jnp.array([0, 0, 0])).tolist() == [0.5, 0, 5]


def test_the_divergence_is_the_cross_entropy_less_the_targets_entropy(key):
    outputs = jax.random.normal(key, (6, 3))
    targets = jax.nn.softmax(jax.random.normal(jax.random.key(1), (6, 3)))
    entropy = -np.sum(targets * np.log(targets), axis=1)
    wanted = losses.softmax_cross_entropy(outputs, targets) - entropy
    np.testing.assert_allclose(losses.kl_divergence(outputs, targets), wanted, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(losses.kl_divergence(jnp.log(targets), targets), 0, atol=1e-6)
    assert losses.kl_divergence(outputs[:1], jnp.array([[1, 0, 0]])).tolist() == pytest.approx(
        losses.softmax_cross_entropy(outputs[:1], jnp.array([0])).tolist()
    )


def test_the_slope_of_absolute_error_at_zero_is_zero():
    gradient = jax.grad(lambda o: losses.absolute_error(o, jnp.zeros(3)).sum())(jnp.array([2.0, 0.0, -1.0]))
    assert gradient.tolist() == [1, 0, -1]


@pytest.mark.parametrize("loss", [losses.label_smoothing(0.1), losses.hinge])
@pytest.mark.parametrize("label", [-1, 3])
def test_labels_out_of_range_are_nan(loss, label):
    values = loss(OUTPUTS, jnp.array([0, label, 1, 2]))
    assert jnp.isnan(values).tolist() == [False, True, False, False]


@pytest.mark.parametrize("name", ["label_smoothing", "hinge"])
def test_labels_that_are_floats_are_refused_by_other_losses_too(name):
    loss = losses.hinge if name == "hinge" else losses.label_smoothing(0.1)
    with pytest.raises(TypeError, match=rf"{name}: labels of shape \(4,\) must be integers, got float32"):
        loss(OUTPUTS, jnp.zeros(4))
    with pytest.raises(ValueError, match=f"{name}: "):
        loss(OUTPUTS, jnp.zeros((4, 2), int))


@pytest.mark.parametrize("amount", [-0.1, 1.5, float("nan")])
def test_smoothing_refuses_an_amount(amount):
    with pytest.raises(ValueError, match=r"label_smoothing: amount must be in \[0, 1\], got"):
        losses.label_smoothing(amount)


def test_a_divergence_needs_classes():
    with pytest.raises(ValueError, match=r"kl_divergence: expected outputs \[batch, ..., classes\], got \(4,\)"):
        losses.kl_divergence(jnp.zeros(4), jnp.zeros(4))


# Penalties

PARAMS = {
    "body": ({"w": jnp.array([[1.0, -2.0]]), "b": jnp.array([5.0, 5.0])}, ()),
    "norm": {"scale": jnp.ones(3), "offset": jnp.ones(3)},
    "head": {"w": jnp.array([[3.0]]), "u": jnp.array([-4.0]), "bias": jnp.ones(1)},
}


def test_penalties_by_hand():
    assert float(losses.l2(0.5)(PARAMS)) == 0.5 * 0.5 * (1 + 4 + 9 + 16)
    assert float(losses.l1(0.5)(PARAMS)) == 0.5 * (1 + 2 + 3 + 4)
    assert float(losses.l2(0)(PARAMS)) == 0


def test_the_gradient_of_l2_is_a_weight_decay():
    gradient = jax.grad(losses.l2(0.1))(PARAMS)
    np.testing.assert_allclose(gradient["body"][0]["w"], [[0.1, -0.2]], rtol=1e-6)
    assert not gradient["body"][0]["b"].any() and not gradient["norm"]["scale"].any()


def test_the_gradient_of_l1_is_a_sign_and_zero_at_zero():
    """So an inactive weight stays zero."""
    assert jax.grad(losses.l1(0.5))({"w": jnp.array([2.0, 0.0, -3.0])})["w"].tolist() == [0.5, 0.0, -0.5]


@pytest.mark.parametrize("penalty", [losses.l1, losses.l2])
def test_penalties_of_any_tree(penalty):
    assert float(penalty(1.0)(())) == 0
    assert float(penalty(2.0)([jnp.ones(3)])) == float(penalty(2.0)({"w": jnp.ones(3)}))
    assert float(penalty(2.0)(jnp.ones(3))) == float(penalty(2.0)({"w": jnp.ones(3)}))
    assert penalty(2.0)({"b": jnp.ones(3)}).shape == ()


@pytest.mark.parametrize("penalty", [losses.l1, losses.l2])
@pytest.mark.parametrize("strength", [-1, -0.1, float("nan")])
def test_negative_strengths_are_refused(penalty, strength):
    with pytest.raises(ValueError, match=f"{penalty.__name__}: strength must not be negative, got"):
        penalty(strength)


def test_strength_may_be_traced():
    assert jax.vmap(lambda s: jn.losses.l2(s)(PARAMS))(jnp.array([0.0, 2.0])).tolist() == [0, 30]


@pytest.mark.parametrize(
    "targets, message", [([0, 1, 3], r"\[2\] is 3\. .*give the network 4 outputs"), ([[0, -1]], r"\[0, 1\] is -1")]
)
def test_check_labels_says_where(targets, message):
    with pytest.raises(ValueError, match=r"integers in \[0, 3\).*targets" + message):
        losses.check_labels(np.array(targets), 3)
    losses.check_labels(np.array([0, 2]), 3)
    losses.check_labels(np.array([0.5, 7.0]), 3)


@pytest.mark.parametrize("penalty, wanted", [(losses.l1, 7), (losses.l2, 12.5)])
def test_a_penalty_of_chosen_parameters(penalty, wanted):
    params = {"body": {"w": jnp.ones((9, 9))}, "head": ({"w": jnp.array([[3.0]]), "b": jnp.array([-4.0])},)}
    assert float(penalty(1.0, where=lambda path: path.startswith("head/0/"))(params)) == wanted
    paths = []
    penalty(1.0, where=lambda path: paths.append(path))(params)
    assert paths == ["body/w", "head/0/b", "head/0/w"]
    with pytest.raises(TypeError, match=f"{penalty.__name__}: where must be a function of a parameter's path"):
        penalty(1.0, where="head")


# Outputs at each step of sequences of different lengths.

LABELLED = {
    "softmax_cross_entropy": losses.softmax_cross_entropy,
    "label_smoothing": losses.label_smoothing(0.1),
    "hinge": losses.hinge,
    "error": jn.metrics.error,
    "top_k_error": jn.metrics.top_k_error(2),
}
OF_EQUAL_SHAPE = {
    "squared_error": losses.squared_error,
    "absolute_error": losses.absolute_error,
    "huber": losses.huber(0.5),
    "sigmoid_cross_entropy": losses.sigmoid_cross_entropy,
    "kl_divergence": losses.kl_divergence,
}
STEPWISE = LABELLED | OF_EQUAL_SHAPE


@pytest.mark.parametrize("name", STEPWISE)
def test_a_sequences_loss_is_the_mean_over_its_steps_and_padding_is_not_read(name, x64):
    """Against each sequence cut to its length; past the end stand NaN and labels out of range."""
    loss, rng, lengths = STEPWISE[name], np.random.default_rng(0), [4, 1, 0]
    inside = np.arange(4) < np.array(lengths)[:, None]
    values = np.where(inside[..., None], rng.normal(size=(3, 4, 3)), np.nan)
    if name in LABELLED:
        targets = np.where(inside, rng.integers(3, size=(3, 4)), -1)
    else:
        targets = np.where(inside[..., None], rng.dirichlet(np.ones(3), size=(3, 4)), np.nan)
    outputs = jn.Sequence(jnp.asarray(values), jnp.array(lengths))
    wanted = [float(jnp.mean(loss(values[i, :n], targets[i, :n]))) if n else 0.0 for i, n in enumerate(lengths)]
    for given in (jnp.asarray(targets), jn.Sequence(jnp.asarray(targets), outputs.lengths)):
        np.testing.assert_allclose(loss(outputs, given), wanted, rtol=1e-12)
        slope = jax.grad(lambda v, t=given: loss(jn.Sequence(v, outputs.lengths), t).sum())(outputs.values)
        assert jnp.isfinite(slope).all()
        np.testing.assert_array_equal(slope[~inside], 0)


def test_a_sequence_of_targets_wants_one_of_outputs_and_as_many_steps():
    outputs = jn.Sequence(jnp.ones((2, 3, 4)), jnp.array([3, 1]))
    with pytest.raises(TypeError, match="error: targets are a Sequence, but the outputs an array of shape"):
        jn.metrics.error(jnp.ones((2, 4)), jn.Sequence(jnp.ones((2, 3), int), outputs.lengths))
    with pytest.raises(ValueError, match=r"hinge: .* targets must be \[batch, time, ...\] \(2, 3\), got \(2,\)"):
        losses.hinge(outputs, jnp.ones(2, int))


@pytest.mark.parametrize(
    "loss, targets",
    [
        (jn.losses.softmax_cross_entropy, jnp.array([0])),
        (jn.losses.softmax_cross_entropy, jnp.array([[1.0, 0.0, 0.0]])),
        (jn.losses.label_smoothing(0.0), jnp.array([0])),
        (jn.losses.hinge, jnp.array([0])),
    ],
    ids=["labels", "distributions", "label smoothing", "hinge"],
)
def test_a_class_that_is_ruled_out_adds_nothing(loss, targets):
    """Its logit is minus infinity; what is left is the loss of the other classes."""
    outputs, fewer = jnp.array([[3.0, -jnp.inf, 2.5]]), jnp.array([[3.0, 2.5]])
    rest = targets if targets.ndim == 1 else targets[:, ::2]
    value, gradient = jax.value_and_grad(lambda outputs: loss(outputs, targets).sum())(outputs)
    wanted, slope = jax.value_and_grad(lambda outputs: loss(outputs, rest).sum())(fewer)
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    np.testing.assert_allclose(gradient[:, ::2], slope, rtol=1e-5)
    assert gradient[0, 1] == 0 and wanted > 0
