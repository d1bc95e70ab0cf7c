"""What speed comes down to, counted: programs, products, bytes, waits. No clock: a count is the same on every machine.

Products are counted in the jaxpr, before XLA, whose own account differs between versions and backends, and held against
numbers worked out by hand. A change that makes a count worse makes every search slower; of one that makes it better,
write the better number down.
"""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.ops.lowering import lowered_as
from jaxnet.search import lanes as lanes_module
from jaxnet.search.cost import traced_cost
from jaxnet.training import supervised

SPACE = jn.Space(rate=jn.log_uniform(1e-3, 1e-1), activation=jn.choice(jnp.tanh, jax.nn.relu))


def data(examples, shape=(5,)):
    generator = np.random.default_rng(0)
    return generator.normal(size=(examples, *shape)).astype(np.float32), generator.integers(3, size=examples)


def trial(hp):
    net = jn.serial(jn.dense(4), hp.activation, jn.dense(3))
    return jn.Trial(net, jn.losses.softmax_cross_entropy, optax.sgd(hp.rate), batch_size=16)


def search(trials=8, epochs=3, examples=64, space=SPACE, **options):
    options = {"trials": trials, "epochs": epochs, "key": jax.random.key(0)} | options
    return jn.search.run(trial, space, data(examples), data(32), **options)


@pytest.fixture
def programs(monkeypatch):
    """The groups' programs that advance lanes by a unit, in the order in which they are compiled."""
    made, lower = [], lanes_module._lower

    def counted(*arguments):
        compiling = lower(*arguments)

        def compiled():
            start, (advance,) = compiling()
            made.append(advance)
            return start, [advance]

        return compiled

    monkeypatch.setattr(lanes_module, "_lower", counted)
    return made


def test_a_search_compiles_one_program_a_group_however_many_trials_and_whatever_the_schedule(programs, tmp_path):
    result = search(lanes=4)
    assert len(programs) == len(result.plan.groups) == 2

    # A unit changes its lanes in place: what comes out lies where what went in was, but for sums that begin anew. Data
    # come in once, for all lanes.
    program = supervised(trial, data(64), data(32), order_key=jax.random.key(0), shuffle="shared")
    lane = jax.eval_shape(program.init, jn.hp(rate=0.1, activation=jnp.tanh), jax.random.key(0))
    leaves = jax.tree.leaves(lane._replace(totals={}, validation={}))
    carry = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) + 4  # the search's own number
    memory = programs[0].memory_analysis()
    assert memory.alias_size_in_bytes == min(4, len(result.plan.groups[0].ids)) * carry
    passed = memory.argument_size_in_bytes - memory.alias_size_in_bytes
    assert passed <= sum(leaf.nbytes for leaf in jax.tree.leaves(program.feed(0))) + 256
    assert (result.groups["bytes"] <= [group.bytes + passed for group in result.plan.groups]).all()

    programs.clear()
    assert len(search(trials=24, lanes=4).plan.groups) == len(programs) == 2  # more trials, the same programs
    programs.clear()
    halving = {"trials": 12, "epochs": 9, "schedule": jn.search.successive_halving(), "directory": tmp_path}
    search(**halving, lanes=4)
    assert len(programs) == 2  # those that go on move into the program that they came from
    programs.clear()
    search(**halving, lanes=4)
    assert not programs  # all is in the journal


@pytest.fixture
def waits(monkeypatch):
    """How often the host waited for numbers of the device, by how. On a CPU NumPy reads an array without asking JAX."""
    seen = collections.Counter()

    def counted(owner, name):
        function = getattr(owner, name)

        def call(*args, **kwargs):
            seen[name] += 1
            return function(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    for name in ("device_get", "block_until_ready"):
        counted(jax, name)
    array = type(jnp.zeros(()))
    for name in ("__array__", "__bool__", "__float__", "__int__", "__index__", "item", "tolist", "block_until_ready"):
        counted(array, name)
    return seen


def test_the_host_waits_once_a_chunk_and_epoch_however_many_steps_there_are(waits):
    def counts(run, **options):
        waits.clear()
        run(**options)
        return dict(waits)

    options = {
        "space": jn.Space(rate=jn.log_uniform(1e-3, 1e-1), activation=jn.choice(jnp.tanh)),
        "lanes": 4,
        "keep": 0,
    }
    few = counts(search, **options)
    assert few == counts(search, **options, examples=640)
    assert counts(search, **options, epochs=5)["device_get"] - few["device_get"] == 2 * 2  # of two chunks

    made = trial(jn.hp(rate=0.1, activation=jnp.tanh))

    def fit(examples, epochs):
        jn.fit(made, data(examples), data(32), epochs=epochs, key=jax.random.key(0))

    few = counts(fit, examples=64, epochs=3)
    assert few == counts(fit, examples=640, epochs=3)
    assert counts(fit, examples=64, epochs=5)["device_get"] - few["device_get"] == 2


BATCH = 8
MLP = jn.serial(jn.flatten, jn.dense(16), jax.nn.relu, jn.dense(10))
LENET = jn.models.lenet5()
LSTM = jn.serial(jn.lstm(128, returns="last"), jn.dense(10))


def dense(m, n, times=3):
    """Operations for an example: forward, the weights' gradient, and (not in the first layer) the input's."""
    return 2 * m * n * times


# Worked out by hand. The LSTM's input gets a gradient too, that XLA drops where nobody wants it.
PRODUCTS = {
    "MLP 784-16-10": (MLP, (28, 28, 1), dense(784, 16, 2) + dense(16, 10)),
    "LeNet-5": (
        LENET, (28, 28, 1),
        28 * 28 * dense(25, 6, 2) + 10 * 10 * dense(150, 16) + dense(400, 120) + dense(120, 84) + dense(84, 10),
    ),
    "LSTM 58-128, 20 steps": (LSTM, (20, 58), 20 * (dense(58, 512) + dense(128, 512)) + dense(128, 10)),
}  # fmt: skip


@pytest.mark.parametrize("net, shape, by_hand", PRODUCTS.values(), ids=PRODUCTS)
def test_a_training_step_has_the_products_that_it_needs_and_no_more(net, shape, by_hand):
    lane = jn.Trial(net, jn.losses.softmax_cross_entropy, optax.sgd(0.1, momentum=0.9), batch_size=BATCH)
    program = supervised(lambda hp: lane, data(2 * BATCH, shape), None, order_key=jax.random.key(0), shuffle="shared")
    carry = jax.eval_shape(lambda key: program.init((), key), jax.random.key(0))

    def flops():
        return traced_cost(program.advance, (), carry, jax.random.key(0), program.feed(0))[0]

    with lowered_as("patches"):
        assert flops() == pytest.approx(2 * BATCH * by_hand, rel=1e-3)
    # What a CPU computes has zeros in it, where blocks of outputs are made at once.
    assert flops() <= 2.0 * 2 * BATCH * by_hand


def test_a_program_is_as_long_for_many_repeated_layers_as_for_two():
    def operations(depth):
        net = jn.serial(jn.repeat(jn.serial(jn.dense(5), jnp.tanh), depth), jn.dense(3))
        lane = jn.Trial(net, jn.losses.softmax_cross_entropy, optax.sgd(0.1), batch_size=16)
        program = supervised(lambda hp: lane, data(32), None, order_key=jax.random.key(0), shuffle="shared")
        carry = jax.eval_shape(lambda key: program.init((), key), jax.random.key(0))
        text = jax.jit(program.advance).lower((), carry, jax.random.key(0), program.feed(0)).as_text()
        return text.count(" = ")

    assert operations(2) == operations(50) > 100
