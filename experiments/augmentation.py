"""Random changes of images that keep their label: each a jitted ``(key, inputs) -> inputs`` for ``jn.Trial(augment=)``.

Images are ``[batch, height, width, channels]``, floating; every image of a batch is changed by a draw of its own, and
what comes in from outside is 0.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

Augmentation = Callable[[jax.Array, jax.Array], jax.Array]


def shift(cells: int) -> Augmentation:
    """Each image moved by whole cells, each of ``-cells`` to ``cells`` as likely, down and to the right apart.

    With 4 it is the crop from an image padded by 4 that He et al. (2015) train CIFAR's networks with.

    >>> moved = shift(2)(jax.random.key(0), jnp.ones((100, 8, 8, 1)))
    >>> moved.shape, sorted({int(n) for n in jnp.sum(moved, axis=(1, 2, 3))})  # (8 - i) * (8 - j) of 64 stay
    ((100, 8, 8, 1), [36, 42, 48, 49, 56, 64])
    """

    @jax.jit
    def shift(key, inputs):
        _, *space, channels = inputs.shape
        starts = jax.random.randint(key, (len(inputs), 2), 0, 2 * cells + 1)
        padded = jnp.pad(inputs, ((0, 0), (cells, cells), (cells, cells), (0, 0)))
        cut = jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), (*space, channels)))
        return cut(padded, starts)

    return shift


@jax.jit
def flip(key: jax.Array, inputs: jax.Array) -> jax.Array:
    """Left and right exchanged in one image of two.

    >>> images = jnp.tile(jnp.array([0.0, 1.0]).reshape(1, 1, 2, 1), (1000, 1, 1, 1))
    >>> 450 < float(jnp.sum(flip(jax.random.key(0), images)[:, 0, 0, 0])) < 550
    True
    """
    turned = jax.random.bernoulli(key, shape=(len(inputs), 1, 1, 1))
    return jnp.where(turned, jnp.flip(inputs, axis=2), inputs)


def affine(*, degrees: Any = 0, cells: Any = 0, scale: Any = 0, squeeze: Any = 0, shear: Any = 0) -> Augmentation:
    """Each image turned, moved, scaled, squeezed and sheared about its centre, by amounts uniform up to those given.

    All of them are numbers, and may be traced: hyperparameters of a search.

    Args:
      degrees: of rotation, in either direction.
      cells: moved down and to the right, apart; need not be whole.
      scale: larger or smaller by a factor of up to ``1 + scale``.
      squeeze: wider and lower, or narrower and higher, by a factor of up to ``1 + squeeze``.
      shear: cells that a row is moved sideways for each row that it is above the centre.

    Between cells, values are interpolated linearly. The kinds are those of LeCun et al. (1998), sec. III-C, who don't
    give amounts; rotation is ours.

    >>> turned = affine(degrees=10)(jax.random.key(0), jnp.ones((2, 28, 28, 1)))
    >>> turned.shape, float(turned[0, 14, 14, 0])
    ((2, 28, 28, 1), 1.0)
    """

    @jax.jit
    def affine(key, inputs):
        turn, down, right, larger, wider, slant = jax.random.uniform(key, (6, len(inputs)), minval=-1.0)
        angle = turn * degrees * (math.pi / 180)
        height, width = (1 + scale) ** larger / (1 + squeeze) ** wider, (1 + scale) ** larger * (1 + squeeze) ** wider
        cos, sin, slant = jnp.cos(angle), jnp.sin(angle), slant * shear
        # From a place of the output back: turned back, then unsheared, then unscaled.
        rows = jnp.stack([cos, sin], axis=1) / height[:, None]
        columns = jnp.stack([-sin + slant * cos, cos + slant * sin], axis=1) / width[:, None]
        return warp(inputs, jnp.stack([rows, columns], axis=1), cells * jnp.stack([down, right], axis=1))

    return affine


def rotation(degrees: Any) -> Augmentation:
    """Each image turned about its centre by up to so many degrees, in either direction; ``affine`` does more."""
    return affine(degrees=degrees)


def together(*augmentations: Augmentation) -> Augmentation:
    """One after the other, each with a key of its own.

    >>> together(shift(2), flip)(jax.random.key(0), jnp.ones((3, 8, 8, 1))).shape
    (3, 8, 8, 1)
    """

    @jax.jit
    def together(key, inputs):
        for i, augment in enumerate(augmentations):
            inputs = augment(jax.random.fold_in(key, i), inputs)
        return inputs

    return together


def warp(images: jax.Array, matrices: jax.Array, shifts: jax.Array) -> jax.Array:
    """Images ``[batch, height, width, channels]`` read at other places, linearly interpolated, 0 outside.

    Args:
      matrices: ``[batch, 2, 2]``, which take (row, column) of an output's cell, counted from the centre, to the place
        that it is read at. ``[[cos, sin], [-sin, cos]]`` turns the image anticlockwise.
      shifts: ``[batch, 2]``, rows and columns that the image is moved by before that.

    >>> half_a_cell = warp(jnp.array([0.0, 1.0, 0.0]).reshape(1, 1, 3, 1), jnp.eye(2)[None], jnp.array([[0.0, 0.5]]))
    >>> half_a_cell.ravel().tolist()
    [0.0, 0.5, 0.5]
    """
    height, width = images.shape[1:3]
    centre = jnp.array([height - 1, width - 1])[:, None, None] / 2
    places = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")) - centre

    @jax.vmap
    def one(image, matrix, moved):
        read = jnp.einsum("ij,jyx->iyx", matrix, places, precision="highest") + centre - moved[:, None, None]
        plane = functools.partial(map_coordinates, coordinates=list(read), order=1, mode="constant")
        return jax.vmap(plane, in_axes=-1, out_axes=-1)(image)

    return one(images, matrices, shifts)
