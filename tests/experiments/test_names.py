"""Names: the loader's rules, what readers and writers are given, and what a quick run writes."""

import jax
import numpy as np
import pytest

from experiments import names as experiment
from experiments import surnames


@pytest.mark.parametrize(
    "name, cleaned",
    [
        ("Müller", "muller"), ("Weiß", "weiss"), ("Łoś", "los"), ("Sørensen", "sorensen"), ("Đurić", "duric"),
        ("O’Neill", "o neill"), ("'s Gravensande", "s gravensande"), ("Anna-Maria", "anna maria"), ("...", ""),
    ],
)  # fmt: skip
def test_names_become_letters_and_spaces(name, cleaned):
    assert surnames.clean(name) == cleaned
    assert set(cleaned) <= set(surnames.ALPHABET)


def test_a_name_of_two_languages_is_dropped_after_cleaning():
    lists = {"Finnish": ["Salo", "Åberg", "Salo"], "Swedish": ["Aberg", "Lund"], "Dutch": ["B", "Bos", "x" * 17]}
    assert surnames.distinct(lists) == {"Finnish": ["salo"], "Swedish": ["lund"], "Dutch": ["bos"]}


def test_splits_share_no_name_and_depend_on_the_seed():
    splits, again, other = surnames.load(1, most=50), surnames.load(1, most=50), surnames.load(2, most=50)
    every = [name for names, _ in splits for name in names]
    assert len(set(every)) == len(every) == 12 * 50
    assert splits.train[0] == again.train[0] != other.train[0]
    assert [np.bincount(languages).tolist() for _, languages in splits] == [[35] * 12, [7] * 12, [8] * 12]


def test_what_a_writer_sees_is_the_language_and_then_the_name():
    inputs, targets = experiment.to_write(surnames.encode(["ab", "c"]), np.array([0, 3], np.int32))
    assert inputs.values[:, :3].tolist() == [[28, 1, 2], [31, 3, 0]] and inputs.lengths.tolist() == [3, 2]
    assert targets[0, :3].tolist() == [1, 2, experiment.END] and targets[1, :2].tolist() == [3, experiment.END]


def test_names_are_cut_inside_and_some_only():
    names = surnames.encode(["abcdefgh"] * 1000)
    short = experiment.shorten(jax.random.key(0), names)
    lengths = np.asarray(short.lengths)
    assert set(lengths.tolist()) == set(range(1, 9))
    # All 8 of the others, and an eighth of those that are cut: 0.7 + 0.3 / 8, and three standard errors of 0.013.
    assert abs(np.mean(lengths == 8) - 0.7375) < 0.042


def test_drawn_characters_become_names_where_they_end():
    end = experiment.END
    assert experiment.as_text(np.array([[1, 2] + [end] * 15, [1] * 17, [end] * 17])) == ["ab", "", ""]
