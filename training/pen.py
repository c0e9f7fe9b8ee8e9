"""What writes one training text: its own random numbers, and the lexicon."""

import random
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from training.lexicon import Lexicon
from training.page import Answer, Page, TooShortError, size
from training.ragged import Ids, Ragged

MOST_QUESTIONS = 32
TOKENS_A_QUESTION = 48
"""Of a text for each question that may be asked of it."""


class Pen:
    """Writes one text.

    Args:
        lexicon: what it is made of.
        draw: random numbers of this text alone.
    """

    def __init__(self, lexicon: Lexicon, draw: np.random.Generator) -> None:
        self.lexicon = lexicon
        self.draw = draw

    @cached_property
    def python(self) -> random.Random:
        """Random numbers for the suites' own functions."""
        return random.Random(int(self.draw.integers(2**62)))

    def chance(self, probability: float) -> bool:
        """Return True so often."""
        return bool(self.draw.random() < probability)

    def questions(self, page: Page) -> int:
        """Draw how many questions to ask at most: often one, as the suites do, else as many as a text may carry."""
        if self.chance(0.25 if page.length < 16_384 else 0.1):
            return 1
        return min(MOST_QUESTIONS, max(2, page.length // TOKENS_A_QUESTION // 2))

    def log_uniform(self, most: int) -> int:
        """Draw a number from 1 to ``most``, small ones as often as large ones."""
        return int(np.exp(self.draw.uniform(0, np.log(max(1, most) + 1))))

    def order(self, count: int) -> list[int]:
        """Return the numbers below ``count`` in random order."""
        return [int(place) for place in self.draw.permutation(count)]

    def choose(self, pieces: Ragged, count: int) -> list[Ids]:
        """Return different pieces."""
        places = self.draw.permutation(len(pieces))[:count] if count > 64 else self._few(len(pieces), count)
        return [pieces[int(place)] for place in places]

    def scattered(
        self, page: Page, filler: Ragged, inserts: Sequence[Sequence[Ids | Answer]], start: Ragged | None = None
    ) -> None:
        """Fill the page with pieces, with the inserts in their order at random places among them.

        Args:
            page: what to fill.
            filler: pieces.
            inserts: each as its parts.
            start: the first piece, by the same number as in ``filler``, where it is written otherwise.
        """
        room = page.room - sum(size(part) for insert in inserts for part in insert)
        places = filler.filling(self.draw, max(0, room))
        first = 0 if start is None else 1
        if len(places) < first:
            raise TooShortError
        cuts = np.sort(self.draw.integers(first, len(places) + 1, size=len(inserts))).tolist()
        if start is not None:
            page.text([start[int(places[0])]])
        for begin, end, insert in zip([first, *cuts], [*cuts, len(places)], [*inserts, []], strict=True):
            page.text([filler.joined(places[begin:end]), *insert])

    def _few(self, below: int, count: int) -> list[int]:
        found: dict[int, None] = {}
        while len(found) < count:
            found[int(self.draw.integers(below))] = None
        return list(found)
