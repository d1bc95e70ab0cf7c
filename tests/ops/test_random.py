import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import random as extend_random
from scipy import stats

import jaxnet as jn
from jaxnet.ops.random import position_bits, position_key, position_uniform, threefry

ACCEPT = 1e-3  # the p-value below which a test of one fixed key fails; they aren't drawn anew


def test_threefry_equals_jax():
    words = np.random.default_rng(0).integers(0, 2**32, (4, 1000), np.uint32)
    for key in ([0, 0], [2**32 - 1, 2**32 - 1], [0x13198A2E, 0x03707344]):
        key = np.array(key, np.uint32)
        wanted = extend_random.threefry_2x32(key, words[:2].reshape(-1))
        got = threefry(*(jnp.full(1000, k) for k in key), *words[:2])
        np.testing.assert_array_equal(np.concatenate(got), wanted)


def test_threefry_equals_its_authors_vectors():
    """Of Random123's known answers, threefry2x32 with 20 rounds."""
    vectors = [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ]
    for key, counter, wanted in vectors:
        got = threefry(*(jnp.array([word], jnp.uint32) for word in (*key, *counter)))
        assert [int(word[0]) for word in got] == [*wanted]


def test_no_key_is_hashed_in_plain_operations():
    """A guard: XLA fuses a key's hash into the loop that draws with it, if it is of plain operations, and LLVM takes
    for ever over that (jaxlib 0.11 and 0.12 on a CPU: it looks at all paths through the 20 rounds)."""
    net = jn.serial(jn.dense(jn.Size(4, 3)), jax.nn.relu, jn.dropout(0.5), jn.lstm(3), jn.batch_norm())

    def run(key):
        params, state, _ = net.init(key, (2, 5))
        return net.apply(params, state, jnp.ones((2, 2, 5)), key=key, train=True)[0]

    program = str(jax.make_jaxpr(run)(jax.random.key(0)))
    assert "= shift_left" in program and ":u32[] = shift" not in program


@pytest.mark.parametrize(
    "small, large", [((), ()), ((5,), (9,)), ((3, 5), (7, 8)), ((2, 3, 5), (4, 6, 9)), ((2,) * 4, (3,) * 4)]
)
def test_an_entry_depends_on_its_position_alone(small, large, key):
    corner = tuple(slice(n) for n in small)
    for draw in (
        lambda shape: position_uniform(key, *map(jnp.arange, shape)),
        lambda shape: jax.random.normal(position_key(key), shape),
    ):
        np.testing.assert_array_equal(draw(large)[corner], draw(small))


def test_coordinates_choose_entries(key):
    rows, columns = jnp.array([5, 0, 2]), jnp.array([1, 1, 7])
    full = position_uniform(key, jnp.arange(6), jnp.arange(8))
    np.testing.assert_array_equal(position_uniform(key, rows, columns), full[rows][:, columns])


def test_vmap_over_keys_equals_one_at_a_time(key):
    keys = jax.random.split(key, 3)
    lanes = jax.vmap(lambda k: position_uniform(k, jnp.arange(3), jnp.arange(2), jnp.arange(4)))(keys)
    for lane, k in zip(lanes, keys, strict=True):
        np.testing.assert_array_equal(lane, position_uniform(k, jnp.arange(3), jnp.arange(2), jnp.arange(4)))


@pytest.mark.parametrize("shape", [(40_000,), (200, 200), (20, 40, 50), (10, 10, 20, 20)])
@pytest.mark.parametrize("seed", [0, 1])
def test_numbers_are_uniform_and_independent(shape, seed):
    u = np.asarray(position_uniform(jax.random.key(seed), *map(jnp.arange, shape)), np.float64)
    assert u.shape == shape and u.min() >= 0 and u.max() < 1
    assert stats.kstest(u.ravel(), "uniform").pvalue > ACCEPT
    # moments: the variance of a uniform number is 1/12, of its square 4/45, of its deviation's square 1/180
    n = u.size
    assert abs(u.mean() - 1 / 2) < 4 * (1 / 12 / n) ** 0.5
    assert abs((u**2).mean() - 1 / 3) < 4 * (4 / 45 / n) ** 0.5
    assert abs(((u - 0.5) ** 2).mean() - 1 / 12) < 4 * (1 / 180 / n) ** 0.5
    for axis in range(len(shape)):  # neighbours along each axis are uncorrelated
        a, b = np.take(u, range(shape[axis] - 1), axis).ravel(), np.take(u, range(1, shape[axis]), axis).ravel()
        assert stats.pearsonr(a, b).pvalue > ACCEPT
        # and so are the means along it
        means = u.mean(axis=tuple(i for i in range(len(shape)) if i != axis))
        if len(shape) > 1:
            chi_square = ((means - 0.5) ** 2).sum() * 12 * (n / shape[axis])
            assert ACCEPT < stats.chi2.sf(chi_square, shape[axis]) < 1 - ACCEPT


def test_streams_of_different_keys_are_independent():
    shape = [jnp.arange(200)] * 2
    keys = [jax.random.key(0), jax.random.key(1), *(jax.random.fold_in(jax.random.key(0), i) for i in range(2))]
    draws = [np.asarray(position_uniform(k, *shape)).ravel() for k in keys]
    draws.append(np.asarray(jax.random.uniform(jax.random.key(0), (200, 200))).ravel())
    for i, a in enumerate(draws):
        for b in draws[:i]:
            assert stats.pearsonr(a, b).pvalue > ACCEPT
            assert (a == b).mean() < 0.001


def test_axes_do_not_mix(key):
    """[i, j] and [j, i] have nothing to do with each other, nor have the axes of a larger array."""
    square = position_uniform(key, jnp.arange(30), jnp.arange(30))
    assert (square == square.T).sum() == 30  # the diagonal
    for shape in ((12, 30, 14), (5, 6, 7, 8), (4, 4, 5, 5, 6), (3, 3, 4, 4, 4, 4)):
        words = np.asarray(position_bits(key, *map(jnp.arange, shape))).reshape(2, -1)
        assert len(np.unique(words, axis=1).T) == words.shape[1]  # of 64 bits, no two entries have the same


@pytest.mark.parametrize("dtype, name", [(jnp.float32, "norm"), (jnp.bfloat16, "norm"), (jnp.float16, "norm")])
def test_normals_of_a_position_key(dtype, name, key):
    x = np.asarray(jax.random.normal(position_key(key), (100, 200), dtype), np.float64)
    assert abs(x.mean()) < 4 / x.size**0.5
    assert abs(x.var() - 1) < 4 * (2 / x.size) ** 0.5 + 0.01 * (dtype != jnp.float32)
    if dtype == jnp.float32:
        assert stats.kstest(x.ravel(), name).pvalue > ACCEPT


def test_normals_in_float64(x64):
    x = np.asarray(jax.random.normal(position_key(jax.random.key(0)), (100, 200), jnp.float64))
    assert x.dtype == np.float64 and np.unique(x).size == x.size
    assert stats.kstest(x.ravel(), "norm").pvalue > ACCEPT
    np.testing.assert_array_equal(x[:7, :9], jax.random.normal(position_key(jax.random.key(0)), (7, 9), jnp.float64))


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_every_kind_of_key_serves(impl):
    words = [position_bits(jax.random.key(seed, impl=impl), jnp.arange(50), jnp.arange(50)) for seed in (0, 1)]
    assert (words[0][0] == words[1][0]).mean() < 0.01
    assert (words[0][0] == words[0][1]).mean() < 0.01


def test_a_position_key_is_a_key(key):
    position = position_key(key)
    assert jnp.issubdtype(position.dtype, jax.dtypes.prng_key) and position.shape == ()
    first, second = jax.random.split(position)
    assert jax.random.bits(first) != jax.random.bits(second)
    assert jax.random.bits(jax.random.fold_in(position, 1)) != jax.random.bits(jax.random.fold_in(position, 2))


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_words_of_a_key_do_not_depend_on_those_beside_it(impl):
    keys = jax.random.split(jax.random.key(0, impl=impl), 4)
    draw = jax.jit(lambda key: position_bits(key, jnp.arange(5))[0])
    alone = np.stack([draw(key) for key in keys])
    np.testing.assert_array_equal(jax.vmap(draw)(keys), alone)
    assert len(np.unique(alone)) == alone.size
