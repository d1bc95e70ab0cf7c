"""The DCGAN's players: parameters counted by hand, values in range, and widths that differ from lane to lane."""

import jax
import numpy as np
import pytest

import jaxnet as jn


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_parameters_as_counted_by_hand(key):
    generator, _, out = jn.models.dcgan_generator(8).init(key, (64,))
    # 64 to 7 * 7 * 16; scale and offset of 16; 4 * 4 from 16 to 8; scale and offset of 8; 4 * 4 from 8 to 1, and a bias
    assert count(generator) == 64 * 784 + 32 + 16 * 16 * 8 + 16 + 16 * 8 + 1
    assert out.shape == (28, 28, 1)
    discriminator, _, out = jn.models.dcgan_discriminator(8).init(key, (28, 28, 1))
    # 4 * 4 from 1 to 8, and biases; 4 * 4 from 8 to 16; scale and offset of 16; 7 * 7 * 16 to one, and a bias
    assert count(discriminator) == 16 * 8 + 8 + 16 * 8 * 16 + 32 + 784 + 1
    assert out.shape == (1,)


def test_images_of_another_shape_and_weights_of_the_papers_spread(key):
    net = jn.models.dcgan_generator(4, image=(8, 12, 3))
    params, state, out = net.init(key, (100,))
    images, _ = net.apply(params, state, np.asarray(jax.random.normal(key, (5, 100))), train=True)
    assert out.shape == images.shape[1:] == (8, 12, 3) and np.max(np.abs(images)) <= 1
    assert abs(np.std(params[0]["w"]) - 0.02) < 0.001
    with pytest.raises(ValueError, match="multiples of 4, got"):
        jn.models.dcgan_generator(4, image=(30, 28, 1))


def test_a_padded_discriminator_is_the_narrow_one(key):
    images = np.asarray(jax.random.uniform(key, (3, 8, 8, 1)))

    @jax.jit
    def padded(value):
        net = jn.models.dcgan_discriminator(jn.Size(4, value, "filters"))
        params, state, _ = net.init(key, (8, 8, 1))
        return net.apply(params, state, images, train=True)[0]

    net = jn.models.dcgan_discriminator(2)
    params, state, _ = net.init(key, (8, 8, 1))
    np.testing.assert_allclose(padded(2), net.apply(params, state, images, train=True)[0], rtol=1e-4, atol=1e-7)


def test_a_generators_width_is_static():
    with pytest.raises(TypeError, match="static=True"):
        jn.models.dcgan_generator(jn.Size(4, 2, "filters"))
