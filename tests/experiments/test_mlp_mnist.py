"""Networks of dense layers on MNIST: their sizes, and how each is trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from experiments import mlp_mnist as experiment


@pytest.mark.parametrize(
    "name, parameters",
    [
        ("784-500-10, tanh", 784 * 500 + 500 + 500 * 10 + 10),
        ("784-300-100-10, tanh", 266_610),  # as Keras and PyTorch count LeCun's 300 and 100
        ("784-3x1024-10, ReLU, dropout", 2_913_290),
    ],
)
def test_parameters_are_as_many_as_the_widths_say(name, parameters):
    net = experiment.layers(experiment.NETWORKS[name])
    made, _, out = jax.eval_shape(lambda: net.init(jax.random.key(0), (28, 28, 1)))
    assert sum(leaf.size for leaf in jax.tree.leaves(made)) == parameters and out.shape == (10,)


def test_only_the_network_with_dropout_needs_a_key():
    images = jnp.ones((2, 28, 28, 1))
    plain = experiment.layers(experiment.NETWORKS[experiment.FIRST])
    params, state, _ = plain.init(jax.random.key(0), (28, 28, 1))
    plain.apply(params, state, images, train=True)
    net = experiment.layers(experiment.NETWORKS[experiment.LAST])
    made = jax.eval_shape(lambda: net.init(jax.random.key(0), (28, 28, 1))[:2])
    with pytest.raises(ValueError, match="dropout"):
        jax.eval_shape(lambda trees: net.apply(*trees, images, train=True), made)


def test_rates_end_at_zero_after_the_last_step():
    trial = experiment.trials(experiment.settings(full=False, epochs=2), 250)(jn.hp(network=experiment.FIRST))
    params = {"w": np.zeros(1, np.float32)}
    state, moved = trial.optimizer.init(params), []
    for _ in range(7):  # two epochs of three steps, and one more
        updates, state = trial.optimizer.update({"w": np.ones(1, np.float32)}, state, params)
        moved.append(updates["w"].item())
    # By hand: momentum 1, 1.9, 2.71, ... times rates that fall from 0.2 by a sixth each step.
    np.testing.assert_allclose(moved[:3], [-0.2, -0.2 * 5 / 6 * 1.9, -0.2 * 4 / 6 * 2.71], rtol=1e-5)
    assert moved[6] == 0


def test_the_full_setting_is_the_tutorials_for_its_network():
    own = experiment.settings(full=True, epochs=1)[experiment.FIRST]
    assert (own.batch, own.epochs) == (20, 1000)
