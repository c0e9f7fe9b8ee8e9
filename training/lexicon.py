"""What training texts are made of, cut into tokens once: words, names, sentences, and sentences with blanks.

Held out, so that what the suites ask was never seen in training: one key of ten, most coined words and names, four
kinds of sentences of the essays, and every word of wonderwords, which ``ruler@nvidia`` draws from; in place of those,
training has words spelled at random after the manner of our own.
"""

import itertools
import random
import string
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from fp_bench.suites.probe import text as probe_text
from fp_bench.suites.probe import words as probe
from fp_bench.suites.ruler.hermetic import prose
from fp_bench.suites.ruler.hermetic import words as ruler
from fp_bench.suites.ruler.templates import NOISE
from training.ragged import Ids, Ragged
from training.tokenizer import Vocabulary

BLANK = "\0"
POOL = 20_000
"""Words or names of one kind."""
SENTENCES = 6_000
HELD_OUT_PATTERNS = 4
HELD_OUT_KEYS = 10
"""One key of so many."""


class Phrase:
    """A text with blanks; what fills a blank brings the space before it along.

    Args:
        vocabulary: cuts it into tokens.
        text: with a NUL for each blank.
    """

    def __init__(self, vocabulary: Vocabulary, text: str) -> None:
        self._between = [np.array(vocabulary.encode(part), dtype=np.int16) for part in _around_blanks(text)]

    def __call__(self, *filled: Ids) -> list[Ids]:
        """Return the parts of the text with its blanks filled."""
        parts = [self._between[0]]
        for blank, after in zip(filled, self._between[1:], strict=True):
            parts += (blank, after)
        return parts


def _around_blanks(text: str) -> list[str]:
    *parts, last = text.split(BLANK)
    return [*(part.removesuffix(" ") for part in parts), last]


class Lexicon:
    """All pieces; equal seeds give equal ones.

    Args:
        vocabulary: cuts text into tokens.
        seed: of the words and sentences that are drawn.
        pool: how many words or names of one kind.
    """

    def __init__(self, vocabulary: Vocabulary, seed: int, pool: int = POOL) -> None:
        draw = random.Random(f"lexicon {seed}")
        self.vocabulary = vocabulary
        self._phrases: dict[str, Phrase] = {}

        def spaced(words: Sequence[str]) -> Ragged:
            return self.pieces([f" {word}" for word in words])

        def some(words: Iterator[str], count: int = pool) -> list[str]:
            return list(itertools.islice(words, count))

        self.adjectives, self.nouns = spaced(ruler.ADJECTIVES), self.pieces(ruler.NOUNS)
        spell = _speller([*ruler.ADJECTIVES, *ruler.NOUNS], draw)
        spelled = list(dict.fromkeys(spell() for _ in range(pool)))
        self.spelled, self.spelled_end = spaced(spelled), self.pieces(spelled)
        self.coined = spaced(some(ruler.coined(draw)))
        self.coded = spaced(some(ruler.letters(draw, 6, string.ascii_lowercase)))
        self.variables = {
            letters: spaced(some(ruler.letters(draw, letters, string.ascii_uppercase), min(pool, 26**letters // 2)))
            for letters in (3, 5)
        }
        self.digits = spaced(string.digits), self.pieces(string.digits)
        # In a code they are cut in pairs, which alone they would not be.
        self.pairs = Ragged([[vocabulary.tokenizer.token_to_id(f"{byte:02x}")] for byte in range(256)])
        self.dots, self.dot, self.comma, self.colon = map(self.ids, (" ...", ".", ",", ":"))
        self.space, self.hyphen, self.line, self.sharp = map(self.ids, (" ", "-", "\n", " #"))
        self.places = self.pieces([("" if i == 0 else " ") + f"{i + 1}." for i in range(30_000)])
        self.spaced_places = spaced([f"{i + 1}." for i in range(40)])

        told = prose.sentences(draw, prose.PATTERNS[:-HELD_OUT_PATTERNS])
        essay = some(told, SENTENCES)
        self.essay, self.essay_start = spaced(essay), self.pieces(essay)
        self.noise = self.pieces([NOISE + "\n"])
        self.filler = self.pieces([probe_text.filler(draw) for _ in range(SENTENCES)])
        self.probe_adjectives, self.probe_nouns = spaced(probe.ADJECTIVES), spaced(probe.NOUNS)

    def ids(self, text: str) -> Ids:
        """Return the ids of a text."""
        return np.array(self.vocabulary.encode(text), dtype=np.int16)

    def pieces(self, texts: Sequence[str]) -> Ragged:
        """Return texts as pieces."""
        return Ragged(self.vocabulary.encode_all(texts))

    def phrase(self, text: str) -> Phrase:
        """Return a text with blanks."""
        if text not in self._phrases:
            self._phrases[text] = Phrase(self.vocabulary, text)
        return self._phrases[text]

    def number(self, value: int) -> Ids:
        """Return a number with the space before it."""
        first, *rest = map(int, str(value))
        return np.array([self.digits[0][first][0], *(self.digits[1][digit][0] for digit in rest)], dtype=np.int16)

    def numbers(self, draw: np.random.Generator, count: int, low: int, high: int) -> list[Ids]:
        """Return different numbers below ``high`` of as many digits as ``low``, each with the space before it."""
        values = np.array(_distinct(draw, count, high - low)) + low
        width = len(str(low))
        digits = values[:, None] // 10 ** np.arange(width - 1, -1, -1) % 10
        return list(np.concatenate([self.digits[0].flat[digits[:, :1]], self.digits[1].flat[digits[:, 1:]]], axis=1))

    def digits_of(self, draw: np.random.Generator, count: int, width: int) -> list[Ids]:
        """Return numbers of so many digits, zeros before them too, each with the space before it."""
        digits = draw.integers(10, size=(count, width))
        return list(np.concatenate([self.digits[0].flat[digits[:, :1]], self.digits[1].flat[digits[:, 1:]]], axis=1))

    def uuids(self, draw: np.random.Generator, count: int) -> list[Ids]:
        """Return version 4 UUIDs, each with the space before it."""
        values = draw.integers(256, size=(count, 16))
        values[:, 6] = values[:, 6] & 0x0F | 0x40
        values[:, 8] = values[:, 8] & 0x3F | 0x80
        pairs = self.pairs.flat[values]
        space, hyphen = (np.repeat(sign[None], count, axis=0) for sign in (self.space, self.hyphen))
        groups = np.split(pairs, (4, 6, 8, 10), axis=1)
        return list(
            np.concatenate([space, groups[0], *(part for each in groups[1:] for part in (hyphen, each))], axis=1)
        )

    def codes(self, draw: np.random.Generator, count: int, groups: int) -> list[Ids]:
        """Return the probe's codes, each with the space before it."""
        pairs = self.pairs.flat[draw.integers(256, size=(count, groups, 2))]
        signs = np.repeat(self.hyphen[None], count, axis=0), np.repeat(self.sharp[None], count, axis=0)
        parts = [part for group in range(groups) for part in (signs[group == 0], pairs[:, group])]
        return list(np.concatenate(parts, axis=1))

    def keys(self, draw: np.random.Generator, count: int, *, spelled: bool) -> list[Ids]:
        """Return different ``adjective-noun`` keys, each with the space before it.

        Args:
            draw: random numbers.
            count: how many at most; one in ten may be lacking.
            spelled: of words that are in no list.
        """
        first, second = (self.spelled, self.spelled_end) if spelled else (self.adjectives, self.nouns)
        places = _distinct(draw, count, len(first) * len(second))
        return [
            np.concatenate([first[place // len(second)], self.hyphen, second[place % len(second)]])
            for place in places
            if place % HELD_OUT_KEYS
        ]

    def probe_keys(self, draw: np.random.Generator, count: int) -> list[Ids]:
        """Return different adjective-noun pairs of the probe, at most so many."""
        first, second = self.probe_adjectives, self.probe_nouns
        places = _distinct(draw, count, len(first) * len(second))
        return [
            np.concatenate([first[place // len(second)], second[place % len(second)]])
            for place in places
            if place % HELD_OUT_KEYS
        ]


def _distinct(draw: np.random.Generator, count: int, below: int) -> list[int]:
    """Return different numbers in random order: ``count``, or fewer where there are few."""
    found: dict[int, None] = {}
    for _ in range(4):
        found |= dict.fromkeys(draw.integers(below, size=count + 8).tolist())
        if len(found) >= count:
            break
    return list(found)[:count]


def _speller(words: Sequence[str], draw: random.Random) -> Callable[[], str]:
    """Return a function that spells words of three to twelve letters: each letter after two as in some word."""
    after: dict[str, list[str]] = defaultdict(list)
    for word in words:
        padded = f"^^{word}$"
        for place in range(len(word) + 1):
            after[padded[place : place + 2]].append(padded[place + 2])

    def spell() -> str:
        while True:
            word = "^^"
            while (letter := draw.choice(after[word[-2:]])) != "$":
                word += letter
            if 3 <= len(word) - 2 <= 12:
                return word[2:]

    return spell
