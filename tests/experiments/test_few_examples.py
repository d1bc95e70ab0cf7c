"""Few examples: which are drawn, and that what is to be kept is kept; transfer's pieces."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxnet as jn
from experiments import few_examples, transfer


def test_digits_are_five_with_labels_from_zero():
    images, labels = transfer.digits((np.arange(4), np.array([7, 2, 9, 5])), 5)
    assert images.tolist() == [0, 2, 3] and labels.tolist() == [2, 4, 0]


def test_only_the_first_examples_are_seen_and_what_is_kept_is_kept():
    """A dense layer on one-hot inputs: the weights of inputs that were never drawn stay as they were."""
    train = np.eye(8, dtype=np.float32), np.array([0, 1] * 4)
    order = few_examples.orders(train[1], 2, seed=0)
    net = jn.serial(head=jn.dense(2))
    program = few_examples.program(
        net, train, {"test": train}, order, units=1, steps=200, batch=4, rate=0.1,
        init=lambda hp, key: {"head": {"w": jnp.ones((8, 2)), "b": jnp.zeros(2)}},
        trained=lambda hp: {"head": {"w": 1.0, "b": 0.0}},
    )  # fmt: skip
    space = jn.Space(examples=jn.choice(2.0, 8.0), draw=jn.choice(0.0, 1.0))
    result = jn.search.run(program, space, sampler=jn.search.grid(1), epochs=1, key=jax.random.key(0), keep=4)
    for row in result.ranked():
        params = result.network(row).params["head"]
        moved = np.flatnonzero(np.any(np.asarray(params["w"]) != 1, axis=1))
        assert set(moved) == set(order[int(row["draw"]), : int(row["examples"])])
        assert params["b"].tolist() == [0, 0]
        # The others' weights are equal, and of equals the first is the answer: wrong for the label 1.
        assert row["score"] == (0 if row["examples"] == 8 else 3 / 8)


def test_each_way_follows_its_layers():
    shares = {way: transfer.followed(jn.hp(way=jnp.float32(way))) for way in range(4)}
    features = [[float(share) for share in shares[way]["features"]] for way in range(4)]
    assert features[0] == features[1] == [1] * 11
    assert features[2] == [0] * 6 + [1] * 5 and features[3] == [0] * 11
    assert all(shares[way]["head"] == 1 for way in range(4))


def test_a_way_starts_from_the_features_of_its_draw(key):
    old = [transfer.net.init(k, (28, 28, 1))[0] for k in jax.random.split(key)]
    init = transfer.starting(old)
    for way, draw in ((0.0, 1.0), (1.0, 0.0), (3.0, 1.0)):
        params = init(jn.hp(way=jnp.float32(way), draw=jnp.float32(draw)), jax.random.key(7))
        same = [bool(np.array_equal(params["features"][0]["w"], o["features"][0]["w"])) for o in old]
        assert same == ([False, False] if way == 0 else [draw == 0, draw == 1])
        assert not np.array_equal(params["head"]["w"], old[int(draw)]["head"]["w"])
