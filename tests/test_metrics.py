import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import metrics
from jaxnet.sequence import Sequence

OUTPUTS = jnp.array([[0.1, 0.7, 0.2], [2.0, -1.0, 1.9], [-3.0, -2.0, -1.0], [0.0, 0.0, 0.0]])


def test_error_by_hand():
    values = metrics.error(OUTPUTS, jnp.array([1, 2, 2, 0]))  # the second is wrong; a tie goes to the lower class
    assert values.tolist() == [0, 1, 0, 0] and values.dtype == jnp.float32


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.float32, bool])
def test_distributions(dtype):
    assert metrics.error(OUTPUTS, jnp.eye(3)[jnp.array([1, 2, 2, 0])].astype(dtype)).tolist() == [0, 1, 0, 0]
    assert metrics.error(OUTPUTS[:1], jnp.array([[0.2, 0.5, 0.3]])).tolist() == [0]


def test_several_labels_an_example_are_averaged():
    outputs = jnp.stack([OUTPUTS, OUTPUTS])
    assert metrics.error(outputs, jnp.array([[1, 0, 2, 0], [0, 1, 2, 1]])).tolist() == [0, 0.75]


def test_a_single_output_says_yes_when_positive():
    outputs = jnp.array([[2.0], [-1.0], [0.5], [0.0]])
    for targets in (jnp.array([1, 0, 0, 0]), jnp.array([[1], [0], [0], [0]]), jnp.array([[1.0], [0.0], [0.0], [0.0]])):
        assert metrics.error(outputs, targets).tolist() == [0, 0, 1, 0]


def test_vmap_and_jit(key):
    outputs, labels = jax.random.normal(key, (3, 5, 4)), jnp.arange(15).reshape(3, 5) % 4
    lanes = jax.jit(jax.vmap(metrics.error))(outputs, labels)
    for i in range(3):
        wanted = np.asarray(outputs[i]).argmax(-1) != np.asarray(labels[i])
        np.testing.assert_array_equal(lanes[i], wanted)


@pytest.mark.parametrize(
    "outputs, targets, kind, message",
    [
        (OUTPUTS, jnp.zeros(4), TypeError, r"labels of shape \(4,\) must be integers, got float32"),
        (
            OUTPUTS,
            jnp.zeros((4, 1), int),
            ValueError,
            r"want integer labels \(4,\).*got targets \(4, 1\).*targets\[..., 0\]",
        ),
        (OUTPUTS, jnp.zeros(3, int), ValueError, r"got targets \(3,\)"),
        (OUTPUTS[:, 0], jnp.zeros(4, int), ValueError, r"expected outputs \[batch, ..., classes\], got \(4,\)"),
    ],
)
def test_error_refuses(outputs, targets, kind, message):
    with pytest.raises(kind, match="error: .*" + message):
        metrics.error(outputs, targets)


# The k largest


def test_top_k_error_by_hand():
    assert metrics.top_k_error(2)(OUTPUTS, jnp.array([2, 2, 0, 1])).tolist() == [0, 0, 1, 0]
    assert metrics.top_k_error(2)(OUTPUTS, jnp.array([0, 1, 1, 2])).tolist() == [1, 1, 0, 1]  # ties: the lower classes
    assert metrics.top_k_error(3)(OUTPUTS, jnp.array([0, 1, 2, 2])).tolist() == [0, 0, 0, 0]


def test_top_1_is_the_error_and_top_k_is_a_sort(key):
    outputs, labels = jax.random.normal(key, (7, 3, 5)), jnp.arange(21).reshape(7, 3) % 5
    np.testing.assert_array_equal(metrics.top_k_error(1)(outputs, labels), metrics.error(outputs, labels))
    for k in (2, 4):
        largest = np.argsort(-np.asarray(outputs), axis=-1, kind="stable")[..., :k]
        wanted = 1 - (largest == np.asarray(labels)[..., None]).any(-1)
        got = jax.jit(metrics.top_k_error(k))(outputs, labels)
        np.testing.assert_allclose(got, wanted.mean(1), rtol=1e-6)
        np.testing.assert_array_equal(got, metrics.top_k_error(k)(outputs, jax.nn.one_hot(labels, 5)))


def test_nan_and_labels_out_of_range_count_as_errors():
    outputs = jnp.array([[jnp.nan, 1.0, 0.0], [1.0, jnp.nan, 0.0], [1.0, 0.5, 0.0], [1.0, 0.5, 0.0]])
    assert metrics.top_k_error(1)(outputs, jnp.array([0, 0, 3, -1])).tolist() == [1, 1, 1, 1]


def test_top_k_error_refuses():
    for k in (True, 1.5, None):
        with pytest.raises(TypeError, match="top_k_error: k must be an integer, got"):
            metrics.top_k_error(k)
    with pytest.raises(ValueError, match="top_k_error: k must be at least 1, got 0"):
        metrics.top_k_error(0)
    with pytest.raises(ValueError, match=r"top_k_error: k is 4, but the outputs \(4, 3\) have 3 classes"):
        metrics.top_k_error(4)(OUTPUTS, jnp.zeros(4, int))
    with pytest.raises(ValueError, match=r"top_k_error: .*got targets \(3,\)"):
        metrics.top_k_error(1)(OUTPUTS, jnp.zeros(3, int))


# Who is taken for whom


def test_confusion_by_hand():
    wanted = [[0, 1, 0], [1, 0, 0], [0, 0, 1]]  # the true class first; a label out of range isn't counted
    labels = jnp.array([0, 1, 2, 7])
    for made in (OUTPUTS, jnp.array([1, 0, 2, 0])):
        matrix = metrics.confusion_matrix(made, labels, 3)
        assert matrix.tolist() == wanted and matrix.dtype == jnp.int32
    assert metrics.confusion_matrix(OUTPUTS, jnp.eye(3)[jnp.array([0, 1, 2, 0])], 3).tolist() == [
        [1, 1, 0],
        *wanted[1:],
    ]
    single = jnp.array([[2.0], [-1.0], [0.5]])
    for targets in (jnp.array([1, 1, 0]), jnp.array([[1.0], [1.0], [0.0]])):
        assert metrics.confusion_matrix(single, targets, 2).tolist() == [[0, 1], [1, 1]]


def test_confusion_off_the_diagonal_is_the_error(key):
    outputs, labels = jax.random.normal(key, (50, 4)), jnp.arange(50) % 4
    matrix = np.asarray(jax.jit(metrics.confusion_matrix, static_argnums=2)(outputs, labels, 4))
    np.testing.assert_array_equal(matrix.sum(axis=1), np.bincount(labels))
    np.testing.assert_array_equal(matrix.sum(axis=0), np.bincount(np.asarray(outputs).argmax(1), minlength=4))
    np.testing.assert_allclose(1 - matrix.trace() / 50, metrics.error(outputs, labels).mean(), rtol=1e-6)


@pytest.mark.parametrize(
    "outputs, targets, classes, message",
    [
        (OUTPUTS, jnp.zeros(4, int), 4, r"expected outputs \[..., 4\], got \(4, 3\)"),
        (OUTPUTS, jnp.zeros(4, int), 1, "classes must be an integer of at least 2, got 1"),
        (OUTPUTS, jnp.zeros(4, int), 3.0, "classes must be an integer of at least 2, got 3.0"),
        (jnp.zeros(4, int), jnp.zeros(3, int), 3, r"predicted labels \(4,\) want integer labels.*got int32 \(3,\)"),
        (jnp.zeros(4, int), jnp.zeros(4), 3, r"predicted labels \(4,\) want integer labels.*got float32 \(4,\)"),
    ],
)
def test_confusion_refuses(outputs, targets, classes, message):
    with pytest.raises(ValueError, match="confusion_matrix: " + message):
        metrics.confusion_matrix(outputs, targets, classes)


@pytest.mark.parametrize("classes", [1, 3])
def test_outputs_that_are_nan_are_errors_whatever_the_label(classes):
    outputs, targets = jnp.full((2, classes), jnp.nan), jnp.array([0, 1])
    assert metrics.error(outputs, targets).tolist() == [1, 1]
    if classes > 1:
        assert metrics.top_k_error(1)(outputs, targets).tolist() == [1, 1]
    assert not metrics.confusion_matrix(outputs, targets, max(classes, 2)).any()


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64])
@pytest.mark.parametrize("classes", [20, 300])
def test_a_confusion_matrix_of_small_integers_has_its_counts_in_the_right_cells(classes, dtype):
    """300 squared, and 20 squared, don't fit into eight bits."""
    targets = np.array([15, 3], dtype)
    matrix = metrics.confusion_matrix(jax.nn.one_hot(targets.astype(int), classes), targets, classes)
    assert np.argwhere(matrix).tolist() == [[3, 3], [15, 15]]


def test_of_sequences_the_confusion_matrix_counts_the_steps_inside():
    outputs = Sequence(jax.nn.one_hot(jnp.array([[0, 1, 1], [1, 0, 0]]), 2), jnp.array([3, 1]))
    targets = jnp.array([[0, 0, 1], [1, 0, 0]])
    assert metrics.confusion_matrix(outputs, targets, 2).tolist() == [[1, 1], [0, 2]]
