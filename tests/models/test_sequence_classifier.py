"""The sequence classifier: its parameters, what padding does to it, and what it says while it reads."""

import jax
import numpy as np
import optax
import pytest

import jaxnet as jn

WORDS = jn.Sequence(np.array([[1, 4, 2, 0], [3, 0, 0, 0], [2, 2, 1, 4]], np.int32), np.array([3, 1, 4], np.int32))


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    "cell, options, recurrent",
    [
        # As PyTorch 2 counts nn.RNN(8, 6), nn.GRU and nn.LSTM, but for the second of its two biases, of which a GRU
        # keeps that of the candidate.
        (jn.rnn, {}, 6 * (8 + 6) + 6),
        (jn.gru, {}, 3 * 6 * (8 + 6) + 3 * 6 + 6),
        (jn.lstm, {}, 4 * 6 * (8 + 6) + 4 * 6),
        (jn.lstm, {"bidirectional": True}, 2 * (4 * 6 * (8 + 6) + 4 * 6)),
    ],
)
def test_parameters_are_counted_by_hand(cell, options, recurrent, key):
    net = jn.models.sequence_classifier(5, 3, cell=cell, units=6, features=8, dropout=0.5, **options)
    params, _, out = jax.eval_shape(lambda: net.init(key, (4,)))
    seen = 12 if options else 6
    assert {name: size(tree) for name, tree in params.items()} == {
        "symbols": 5 * 8, "recurrent": recurrent, "dropout": 0, "head": seen * 3 + 3,
    }  # fmt: skip
    assert out.shape == (3,)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_word_among_longer_ones_is_classified_as_it_is_alone(bidirectional, key):
    net = jn.models.sequence_classifier(5, 3, units=4, bidirectional=bidirectional)
    params, state, _ = net.init(key, (4,))
    together, _ = net.apply(params, state, WORDS)
    alone, _ = net.apply(params, state, np.array([[1, 4, 2]], np.int32))
    np.testing.assert_allclose(together[0], alone[0], rtol=1e-5)


def test_the_last_word_of_a_reader_is_what_the_classifier_says(key):
    reader = jn.models.sequence_classifier(5, 3, cell=jn.lstm, units=4, returns="sequence")
    classifier = jn.models.sequence_classifier(5, 3, cell=jn.lstm, units=4)
    params, state, _ = classifier.init(key, (4,))
    said, _ = reader.apply(params, state, WORDS)
    in_the_end, _ = classifier.apply(params, state, WORDS)
    np.testing.assert_allclose(said.values[np.arange(3), WORDS.lengths - 1], in_the_end, rtol=1e-5)


def test_widths_differ_from_lane_to_lane(key):
    def trial(hp):
        net = jn.models.sequence_classifier(5, 2, units=hp.width, features=hp.features)
        return jn.Trial(net, jn.losses.softmax_cross_entropy, optax.adam(0.03), jn.metrics.error, batch_size=8)

    # Whether the first symbol comes again as the last of three.
    words = np.random.default_rng(0).integers(0, 5, (64, 3), np.int32)
    words[::2, 2] = words[::2, 0]
    data = words, (words[:, 0] == words[:, 2]).astype(np.int32)
    space = jn.Space(width=jn.integers(12, 16), features=jn.integers(3, 6))
    result = jn.random_search(trial, space, data, data, trials=2, epochs=40, key=key, lanes=2)
    assert result.counts == {"completed": 2} and result.best["score"] < 0.1
