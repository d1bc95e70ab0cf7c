"""Surnames by language from Faker's lists, cleaned, made ASCII, and split. Faker is in the extra ``experiments``."""

from __future__ import annotations

import importlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

import jaxnet as jn

# Lists of Faker, all in Latin letters: a locale, and the lists in it (of men where women's have endings of their own).
LISTS = {
    "Croatian": ("hr_HR", "last_names"),
    "Dutch": ("nl_NL", "last_names"),
    "English": ("en_GB", "last_names"),
    "Finnish": ("fi_FI", "last_names"),
    "French": ("fr_FR", "last_names"),
    "German": ("de_AT", "last_names"),
    "Irish": ("ga_IE", "last_names"),
    "Italian": ("it_IT", "last_names"),
    "Polish": ("pl_PL", "unisex_last_names"),
    "Slovak": ("sk_SK", "last_names_male"),
    "Spanish": ("es_ES", "last_names"),
    "Swedish": ("sv_SE", "last_names"),
}
LANGUAGES = tuple(LISTS)
ALPHABET = " abcdefghijklmnopqrstuvwxyz"  # a character is its place in here; padding is 0 as well, and never read
MOST = 1000  # names of a language, drawn where there are more, so that no language is most of the data
LONGEST = 16  # characters; the few longer names are left out

# Letters that no accent can be taken off; the others lose theirs.
LETTERS = str.maketrans({"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "đ": "d", "ð": "d", "þ": "th", "ł": "l", "ı": "i"})


class Splits(NamedTuple):
    """Each is ``(names, languages)``: a list of names, and int32 ``[n]``, places in ``LANGUAGES``."""

    train: tuple[list[str], np.ndarray]
    validation: tuple[list[str], np.ndarray]
    test: tuple[list[str], np.ndarray]


def clean(name: str) -> str:
    """In lower case, without accents; whatever isn't a letter from a to z becomes a space, of which none are in a row.

    >>> [clean(name) for name in ("Núñez", "O'Brien", "Groß", "Łukasik", " Ó  Ceallaigh")]
    ['nunez', 'o brien', 'gross', 'lukasik', 'o ceallaigh']
    """
    letters = unicodedata.normalize("NFKD", name.casefold().translate(LETTERS))
    letters = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return re.sub("[^a-z]+", " ", letters).strip()


def distinct(lists: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """Names of each language cleaned, each once, in order; those of two languages, and of one letter, are dropped.

    >>> distinct({"English": ["Lee", "Adams"], "Dutch": ["Adams", "Bos", "Bós", "B"]})
    {'English': ['lee'], 'Dutch': ['bos']}
    """
    cleaned = {language: {clean(name) for name in names} for language, names in lists.items()}
    languages = Counter(name for names in cleaned.values() for name in names)
    return {
        language: sorted(n for n in names if languages[n] == 1 and 2 <= len(n) <= LONGEST)
        for language, names in cleaned.items()
    }


def load(seed: int, most: int = MOST) -> Splits:
    """The names in an order drawn from the seed: of each language 70 % to train on, 15 % for each of the other two.

    Args:
      seed: decides which names are where. most: names of a language at most.

    Raises:
      ImportError: when Faker isn't installed.

    >>> splits = load(0, most=100)
    >>> [len(names) for names, _ in splits]
    [840, 180, 180]
    """
    rng = np.random.default_rng(seed)
    parts: list[list[tuple[str, int]]] = [[], [], []]
    for language, names in enumerate(distinct(raw()).values()):
        drawn = rng.permutation(names)[:most].tolist()
        ends = [0, round(0.7 * len(drawn)), round(0.85 * len(drawn)), len(drawn)]
        for part, start, end in zip(parts, ends, ends[1:], strict=False):
            part += [(name, language) for name in drawn[start:end]]
    return Splits(*(([name for name, _ in part], np.array([at for _, at in part], np.int32)) for part in parts))


def raw() -> dict[str, list[str]]:
    """The lists as they are in Faker, by language."""
    try:
        modules = {name: importlib.import_module(f"faker.providers.person.{at}") for name, (at, _) in LISTS.items()}
    except ImportError as error:
        raise ImportError("surnames: the lists come from Faker; try pip install -e '.[experiments]'") from error
    return {language: list(getattr(modules[language].Provider, LISTS[language][1])) for language in LISTS}


def encode(names: Iterable[str]) -> jn.Sequence:
    """Cleaned names as a ``Sequence`` of int32 characters ``[n, LONGEST]``.

    >>> encode(["ab"]).values[0, :3].tolist(), encode(["ab"]).lengths.tolist()
    ([1, 2, 0], [2])
    """
    names = list(names)
    values = np.zeros((len(names), LONGEST), np.int32)
    for row, name in zip(values, names, strict=True):
        row[: len(name)] = [ALPHABET.index(letter) for letter in name]
    return jn.Sequence(values, np.array([len(name) for name in names], np.int32))
