"""Augmentation: where pixels go, and how often."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage

from experiments import augmentation


def test_a_shift_moves_whole_cells_each_way_as_often(key):
    images = np.zeros((3000, 5, 5, 2), np.float32)
    images[:, 2, 2] = 1, 2
    moved = np.asarray(augmentation.shift(1)(key, images))
    assert moved[..., 1].tolist() == (2 * moved[..., 0]).tolist()
    counts = moved[..., 0].sum(axis=0)
    assert counts.sum() == 3000 and np.all(counts[1:4, 1:4] > 0)
    # 333 each on average, with a standard deviation of 17.
    assert np.abs(counts[1:4, 1:4] - 333).max() < 70


def test_what_leaves_the_image_is_gone_and_zeros_come_in(key):
    moved = np.asarray(augmentation.shift(2)(key, np.ones((50, 3, 3, 1), np.float32)))
    assert set(np.unique(moved)) == {0.0, 1.0} and moved.sum(axis=(1, 2, 3)).min() == 1


def test_a_warp_reads_where_scipy_reads():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, 7, 6, 2)).astype(np.float32)
    angle = 0.4
    matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) @ np.array(
        [[1.1, 0], [0.2, 0.9]]
    )
    moved = np.array([0.7, -1.2])
    made = augmentation.warp(
        images, jnp.asarray(np.stack([matrix] * 2), jnp.float32), jnp.asarray([moved] * 2, jnp.float32)
    )
    centre = np.array([3, 2.5])
    wanted = np.stack(
        [
            # grid-constant interpolates between the image and the zeros around it, where constant has a sharp edge.
            scipy.ndimage.affine_transform(
                images[0, ..., c], matrix, centre - moved - matrix @ centre, order=1, mode="grid-constant"
            )
            for c in range(2)
        ],
        axis=-1,
    )
    np.testing.assert_allclose(made[0], wanted, atol=1e-5)


def test_a_quarter_turn_is_numpys():
    images = np.arange(25, dtype=np.float32).reshape(1, 5, 5, 1)
    made = augmentation.warp(images, jnp.array([[[0.0, 1.0], [-1.0, 0.0]]]), jnp.zeros((1, 2)))
    np.testing.assert_allclose(made[0, ..., 0], np.rot90(images[0, ..., 0]), atol=1e-5)


def test_affine_stays_within_what_was_asked_for(key):
    # A dot 10 cells to the right of the centre tells the angle and the factor that it was moved by.
    images = np.zeros((200, 31, 31, 1), np.float32)
    images[:, 15, 25] = 1
    rows, columns = np.meshgrid(np.arange(31) - 15, np.arange(31) - 15, indexing="ij")

    def found(**amounts):
        made = np.asarray(augmentation.affine(**amounts)(key, images))[..., 0]
        mass = made.sum(axis=(1, 2))
        return (made * rows).sum(axis=(1, 2)) / mass, (made * columns).sum(axis=(1, 2)) / mass

    down, right = found(degrees=20)
    angles = np.degrees(np.arctan2(-down, right))
    assert -20.5 < angles.min() < -18 and 18 < angles.max() < 20.5
    down, right = found(squeeze=0.2)
    assert np.abs(down).max() < 1e-4 and 10 / 1.2 - 0.3 < right.min() < 8.7 and 11.6 < right.max() < 12.3
    assert found(shear=0.5)[0].max() < 1e-4  # it lies on the row that isn't moved
    same = augmentation.affine()(key, images)
    np.testing.assert_allclose(same, images, atol=1e-5)


def test_together_draws_apart_for_each(key):
    images = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6, 6, 1)), jnp.float32)
    made = augmentation.together(augmentation.shift(1), augmentation.flip)(key, images)
    first = augmentation.shift(1)(jax.random.fold_in(key, 0), images)
    np.testing.assert_array_equal(made, augmentation.flip(jax.random.fold_in(key, 1), first))
