"""A training text under construction: what is read, what is asked at its end, and which tokens are to be learnt."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from training.ragged import Ids
from training.tokenizer import EOS

CHOICES = 10
"""Tokens of which any is right, at most."""


class TooShortError(Exception):
    """A task that does not fit the length."""


class Answer(NamedTuple):
    """Tokens to be learnt; at some of them others are right as well."""

    ids: Ids
    choices: Sequence[tuple[int, Sequence[int]]] = ()
    """Places in the answer, and the tokens that are right there."""

    @classmethod
    def of(cls, *parts: Ids) -> "Answer":
        """Return the parts as one answer."""
        return cls(np.concatenate(parts))

    @classmethod
    def any_order(cls, words: Sequence[Ids], before: Sequence[Ids] | None = None) -> "Answer":
        """Return a list of words of which any order is right: at each token what continues some word still to come.

        Args:
            words: in the order in which they are written.
            before: what is written before each.
        """
        parts: list[Ids] = []
        choices = []
        place = 0
        for written, word in enumerate(words):
            if before is not None:
                parts.append(before[written])
                place += len(before[written])
            left = words[written:]
            for at, _ in enumerate(word):
                left = [other for other in left if len(other) > at and (at == 0 or other[at - 1] == word[at - 1])]
                right = sorted({int(other[at]) for other in left})
                if len(right) > 1:
                    choices.append((place + at, right))
            parts.append(word)
            place += len(word)
        return cls(np.concatenate(parts), choices)

    def ended(self) -> "Answer":
        """Return the answer with the token that ends it."""
        return self._replace(ids=np.append(self.ids, np.int16(EOS)))


@dataclass
class Page:
    """A text of a length that it does not exceed.

    What is asked is known before the text is filled, so that the filling takes exactly the room that is left.
    """

    length: int
    used: int = 0
    _read: list[Ids | Answer] = field(default_factory=list)
    _asked: list[Ids | Answer] = field(default_factory=list)

    @property
    def room(self) -> int:
        """Tokens left for the text."""
        return self.length - self.used

    def text(self, parts: Iterable[Ids | Answer]) -> None:
        """Continue the text; answers within it are learnt like those at the end.

        Raises:
            TooShortError: it does not fit.
        """
        for part in parts:
            self._take(part)
            self._read.append(part)

    def include(self, other: "Page") -> None:
        """Continue the text with that of another page."""
        self.text(other._read)

    def ask(self, prompt: Iterable[Ids], answer: Answer, *, keep: int = 0) -> bool:
        """Ask something after the text, and return whether there was room, with ``keep`` tokens left for the text."""
        parts: list[Ids | Answer] = [*prompt, answer.ended()]
        if sum(map(size, parts)) + keep > self.room:
            return False
        for part in parts:
            self._take(part)
        self._asked += parts
        return True

    def finished(self) -> tuple[Ids, list[tuple[int, Answer]]]:
        """Return the ids, and each answer with its place in them.

        Raises:
            TooShortError: nothing is asked.
        """
        answers, place, ids = [], 0, []
        for part in (*self._read, *self._asked):
            if isinstance(part, Answer):
                answers.append((place, part))
            ids.append(part.ids if isinstance(part, Answer) else part)
            place += len(ids[-1])
        if not self._asked:
            raise TooShortError
        return np.concatenate(ids), answers

    def _take(self, part: Ids | Answer) -> None:
        self.used += size(part)
        if self.used > self.length:
            raise TooShortError


def size(part: Ids | Answer) -> int:
    """Return the tokens of a part."""
    return len(part.ids) if isinstance(part, Answer) else len(part)
