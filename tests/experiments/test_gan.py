"""The GAN's experiment: its measure by hand, and a unit of the game."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxnet as jn
from experiments import gan as experiment


def test_the_measure_by_hand():
    undecided = experiment.judged(jnp.zeros((5, 10)))
    np.testing.assert_allclose(undecided["score"], np.log(10), rtol=1e-5)  # every sample is all ten digits
    assert undecided["confident"] == 0
    same = experiment.judged(jnp.tile(jnp.eye(10)[3] * 100, (5, 1)))
    np.testing.assert_allclose(same["score"], np.log(10), rtol=1e-5)  # sure, but of one digit only
    np.testing.assert_allclose([same["confident"], same["digits"]], [1, 1])
    two = experiment.judged(100 * jnp.eye(10)[jnp.array([3, 3, 8, 8])])
    np.testing.assert_allclose([two["score"], two["digits"]], [np.log(5), 2], rtol=1e-5)


def test_a_unit_moves_both_players_by_their_own_rates(key):
    amount = experiment.Amount(filters=2, batch=4, steps=2, longer=2)
    images = np.random.default_rng(0).integers(256, size=(20, 28, 28, 1)).astype(np.uint8)
    net = jn.serial(jn.flatten, jn.dense(10))
    params, state, _ = net.init(key, (28, 28, 1))
    judge = experiment.Judge(net, params, state)
    program = experiment.game(amount, images, judge, key)

    @jax.jit
    def unit(generator, discriminator, feed):
        hp = jn.hp(generator=generator, discriminator=discriminator)
        before = program.init(hp, key)
        after = program.advance(hp, before, key, feed)
        return before, after, program.evaluate(hp, after, feed)

    before, after, measures = unit(0.0, 1e-3, program.feed(0))
    assert after[3] == 1 and np.any(after[2][0]) and not np.any(after[2][1])  # a page of the album
    assert set(measures) == {"score", "confident", "digits"}
    still = jax.tree.map(lambda a, b: np.array_equal(a, b), before[0].params, after[0].params)
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), before[1].params, after[1].params)
    assert all(jax.tree.leaves(still)) and all(jax.tree.leaves(moved))
