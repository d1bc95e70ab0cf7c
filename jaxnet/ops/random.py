"""Random draws whose entries depend on their position, not on the shape of the array they are drawn in.

``jax.random.normal(key, (784, 64))`` shares no number with the first 64 columns of a ``(784, 128)`` draw. Here it does:
entry ``[i, j]`` is a hash of the key, ``i`` and ``j`` alone. So a layer of 50 units starts with the same weights,
and drops the same units, whatever the bound of the arrays that it lives in.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


@jax.jit
def threefry(key0: jax.Array, key1: jax.Array, count0: jax.Array, count1: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Threefry-2x32 with 20 rounds, elementwise on uint32 arrays of one shape: the hash behind JAX's default keys.

    JAX's own takes its rounds in a loop on a CPU, which compiles and runs four times slower than these plain
    operations, and initialising a network is nothing but such hashes.

    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011); the same numbers as ``jax.random``.
    """
    schedule = (key0, key1, lax.bitwise_xor(lax.bitwise_xor(key0, key1), _like(0x1BD11BDA, key0)))
    count0, count1 = lax.add(count0, schedule[0]), lax.add(count1, schedule[1])
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            count0 = lax.add(count0, count1)
            left = lax.shift_left(count1, _like(rotation, count1))
            right = lax.shift_right_logical(count1, _like(32 - rotation, count1))
            count1 = lax.bitwise_xor(lax.bitwise_or(left, right), count0)
        count0 = lax.add(count0, schedule[(group + 1) % 3])
        count1 = lax.add(lax.add(count1, schedule[(group + 2) % 3]), _like(group + 1, count1))
    return count0, count1


def _like(number: int, array: jax.Array) -> jax.Array:
    return lax.full_like(array, number)


_DOMAIN = np.uint32(0x6A61786C)  # keeps these draws apart from what else is made of the key, such as its fold_ins
_GOLDEN = np.uint32(0x9E3779B1)  # 2 ** 32 / the golden ratio, whose multiples lie as far from one another as they can


def position_bits(key: jax.Array, *coordinates: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two arrays of random words ``[len(c) for c in coordinates]``, uint32; ``[i, j]`` depends on ``c0[i], c1[j]``.

    The hash is Threefry-2x32, once for each entry, as ``jax.random.bits`` takes it. Its counter has two words. For up
    to two axes they are the coordinates; for more, each word packs half of them, ``golden * first + second``, which
    tells all positions apart while the axes that share a word have fewer than 2 ** 21 positions together; beyond that
    a few entries may share their words. Arrays of different rank have nothing in common.

    >>> wide, narrow = (position_bits(jax.random.key(0), jnp.arange(3), jnp.arange(n))[0] for n in (9, 5))
    >>> bool((wide[:, :5] == narrow).all())
    True
    """
    words = _two_words(key)
    shape = tuple(map(len, coordinates))
    counters = [jnp.zeros(shape, jnp.uint32), jnp.zeros(shape, jnp.uint32)]
    half = len(shape) // 2
    for axis, coordinate in enumerate(coordinates):
        along = lax.broadcast_in_dim(coordinate.astype(jnp.uint32), shape, (axis,))
        word = int(axis >= half)
        counters[word] = counters[word] * _GOLDEN + along if axis not in (0, half) else along
    first, second = (jnp.broadcast_to(word, shape) for word in (words[0] ^ np.uint32(_DOMAIN + len(shape)), words[1]))
    return threefry(first, second, *counters)


def position_uniform(key: jax.Array, *coordinates: jax.Array) -> jax.Array:
    """Uniform float32 numbers in [0, 1) at the given coordinates, with 24 random bits each."""
    return (position_bits(key, *coordinates)[0] >> 8).astype(jnp.float32) * 2.0**-24


def threefry_key(key: jax.Array) -> jax.Array:
    """The key, or of another implementation one of Threefry that is made of it.

    What ``rbg`` draws for a lane under ``vmap`` depends on the lanes beside it.

    >>> made = threefry_key(jax.random.key(0, impl="rbg"))
    >>> str(jax.random.key_impl(made)), threefry_key(made) is made
    ('threefry2x32', True)
    """
    return key if _is_threefry(key) else _threefry(_two_words(key))


def _is_threefry(key: jax.Array) -> bool:
    return str(jax.random.key_impl(key)) == "threefry2x32"


def _two_words(key: jax.Array) -> jax.Array:
    """What Threefry takes for its key: the data of a key that is one, of any other a hash of its words.

    Not what such a key draws: of ``rbg`` under ``vmap`` that depends on the lanes beside it.
    """
    data = jax.random.key_data(key)
    if _is_threefry(key):
        return data
    words = (jnp.zeros((), jnp.uint32), jnp.zeros((), jnp.uint32))
    for i in range(0, len(data), 2):
        words = threefry(*words, data[i], data[min(i + 1, len(data) - 1)])
    return jnp.stack(words)


def _threefry(data: jax.Array) -> jax.Array:
    return jax.random.wrap_key_data(data, impl="threefry2x32")


def _random_bits(data: jax.Array, bit_width: int, shape: tuple[int, ...]) -> jax.Array:
    high, low = position_bits(_threefry(data), *map(jnp.arange, shape))
    if bit_width == 64:
        return (high.astype(jnp.uint64) << 32) | low.astype(jnp.uint64)
    return high.astype(f"uint{bit_width}")


@functools.cache
def _position_implementation():
    """As an implementation of JAX's keys, the hash serves every initialiser that draws its entries independently."""
    from jax.extend import random as extend_random  # imported when used: it is slow

    return extend_random.define_prng_impl(
        key_shape=(2,),
        seed=lambda seed: jax.random.key_data(jax.random.key(seed, impl="threefry2x32")),
        split=lambda data, shape: jax.random.key_data(jax.random.split(_threefry(data), shape)),
        random_bits=_random_bits,
        fold_in=lambda data, number: jax.random.key_data(jax.random.fold_in(_threefry(data), number)),
        name="jaxnet_position",
        tag="jnp",
    )


def position_key(key: jax.Array) -> jax.Array:
    """A key for ``jax.random`` and ``jax.nn.initializers`` under which draws don't depend on their array's shape.

    >>> normal = jax.random.normal(position_key(jax.random.key(0)), (2, 7))
    >>> bool((normal[:, :3] == jax.random.normal(position_key(jax.random.key(0)), (2, 3))).all())
    True
    """
    return jax.random.wrap_key_data(_two_words(key), impl=_position_implementation())
