import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import metrics

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
