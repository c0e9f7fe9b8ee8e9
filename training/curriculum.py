"""What is read at which step: stages of growing length, tasks and their shares, and the batch of a step.

A batch is a function of the seed and its step alone, whoever makes it: workers, their number and interruptions change
nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training import drills, probe_pages, ruler_pages
from training.lexicon import Lexicon
from training.page import CHOICES, Answer, Page, TooShortError
from training.pen import Pen
from training.ragged import Ids
from training.tokenizer import BOS, PAD, vocabulary

Write = Callable[[Pen, Page], None]
DRILLED = 1024
"""Tokens of a text beyond which there are no drills."""
WRITERS: Mapping[str, tuple[Write, float]] = {
    "pairs": (drills.pairs, 0.15),
    "links": (drills.links, 0.15),
    "niah": (ruler_pages.needles, 0.32),
    "vt": (ruler_pages.variable_tracking, 0.18),
    "cwe": (ruler_pages.common_words, 0.12),
    "fwe": (ruler_pages.frequent_words, 0.06),
    "qa": (ruler_pages.documents, 0.14),
    "probe": (probe_pages.needles, 0.08),
    "facts": (probe_pages.documents, 0.06),
    "first": (probe_pages.question_first, 0.04),
}
"""How each kind of text is written, and its share of the texts."""
TRIES = 50
NO_CHOICE = -1


@dataclass(frozen=True)
class Stage:
    """Steps on texts of some lengths."""

    name: str
    steps: int
    lengths: Mapping[int, float]
    """Lengths and their shares of the steps."""
    rate: float
    """Of learning at the end of the stage, as a share of the highest; it moves evenly from that of the stage before."""


K = 1024
CURRICULUM = (
    Stage("256", 1500, {256: 1}, 1.0),
    Stage("512", 2500, {512: 1}, 1.0),
    Stage("1k", 3500, {K: 0.7, 512: 0.3}, 1.0),
    Stage("4k", 3000, {K: 0.3, 2 * K: 0.3, 4 * K: 0.4}, 0.8),
    Stage("16k", 1600, {K: 0.2, 4 * K: 0.35, 8 * K: 0.25, 16 * K: 0.2}, 0.6),
    Stage("64k", 800, {K: 0.2, 4 * K: 0.25, 16 * K: 0.25, 32 * K: 0.2, 64 * K: 0.1}, 0.4),
    Stage("128k", 1200, {K: 0.2, 4 * K: 0.3, 16 * K: 0.2, 32 * K: 0.12, 64 * K: 0.1, 128 * K: 0.08}, 0.0),
)


class Batch(NamedTuple):
    """Texts of one length, and what is to be learnt of them."""

    ids: NDArray[np.int16]
    """``[texts, length]``."""
    places: NDArray[np.int32]
    """Of the tokens before those to be learnt, in the texts one after the other."""
    weights: NDArray[np.float32]
    """Of each token to be learnt; their sum is one."""
    kinds: NDArray[np.uint8]
    """The writer of each, by its place in `WRITERS`."""
    rows: NDArray[np.int64]
    """Those of the tokens to be learnt instead of which others are right too."""
    choices: NDArray[np.int16]
    """The tokens that are right there, ``[rows, CHOICES]``, filled with `NO_CHOICE`."""


@dataclass(frozen=True)
class Curriculum:
    """Stages one after the other.

    Args:
        stages: what is read.
        seed: of all random numbers.
        tokens: of a batch.
        pool: words of a kind in the lexicon.
        shares: of each kind of text; None takes `WRITERS`'.
    """

    stages: Sequence[Stage] = CURRICULUM
    seed: int = 0
    tokens: int = 131_072
    pool: int = 20_000
    shares: Mapping[str, float] | None = None

    @property
    def steps(self) -> int:
        """Steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def begin(self, name: str) -> int:
        """Return the first step of a stage.

        Raises:
            KeyError: no such stage.
        """
        return {stage.name: end - stage.steps for stage, end in zip(self.stages, self._ends, strict=True)}[name]

    def stage(self, step: int) -> Stage:
        """Return the stage of a step."""
        return next(stage for stage, end in zip(self.stages, self._ends, strict=True) if step < end)

    def rate(self, step: int) -> float:
        """Return the share of the highest rate of learning at a step."""
        before = 1.0
        for stage, end in zip(self.stages, self._ends, strict=True):
            if step < end:
                share = (step - (end - stage.steps)) / stage.steps
                return before + share * (stage.rate - before)
            before = stage.rate
        return before

    def length(self, step: int) -> int:
        """Return the length of the texts of a step."""
        lengths = self.stage(step).lengths
        draw = np.random.default_rng([self.seed, step])
        shares = np.array(list(lengths.values()))
        return int(draw.choice(list(lengths), p=shares / shares.sum()))

    def batch(self, step: int, lexicon: Lexicon) -> Batch:
        """Write the texts of a step."""
        length = self.length(step)
        texts = max(1, self.tokens // length)
        ids = np.full((texts, length), PAD, dtype=np.int16)
        places, weights, kinds, rows, choices = [], [], [], [], []
        count = 0
        for text in range(texts):
            kind, written, answers = self._text(lexicon, np.random.default_rng([self.seed, step, text]), length)
            ids[text, : len(written)] = written
            learnt = sum(len(answer.ids) for _, answer in answers)
            for start, answer in answers:
                places.append(np.arange(start, start + len(answer.ids)) + (text * length - 1))
                for at, right in answer.choices:
                    rows.append(count + at)
                    choices.append([*right, *[NO_CHOICE] * (CHOICES - len(right))])
                count += len(answer.ids)
            weights.append(np.full(learnt, learnt**-0.5))
            kinds.append(np.full(learnt, kind))
        weight = np.concatenate(weights)
        return Batch(
            ids,
            np.concatenate(places).astype(np.int32),
            (weight / weight.sum()).astype(np.float32),
            np.concatenate(kinds).astype(np.uint8),
            np.array(rows, dtype=np.int64),
            np.array(choices, dtype=np.int16).reshape(-1, CHOICES),
        )

    def lexicon(self) -> Lexicon:
        """Return what the texts are made of."""
        return Lexicon(vocabulary(), self.seed, self.pool)

    def _text(
        self, lexicon: Lexicon, draw: np.random.Generator, length: int
    ) -> tuple[int, Ids, list[tuple[int, Answer]]]:
        pen = Pen(lexicon, draw)
        for _ in range(TRIES):
            kind = int(draw.choice(len(WRITERS), p=self._shares[length <= DRILLED]))
            page = Page(length)
            try:
                page.text([np.array([BOS], dtype=np.int16)])
                list(WRITERS.values())[kind][0](pen, page)
                return kind, *page.finished()
            except TooShortError:
                continue
        raise TooShortError(f"no kind of text fits {length} tokens")

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(stage.steps for stage in self.stages))

    @cached_property
    def _shares(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Shares of the kinds of text, without drills and with them."""
        given = {name: share for name, (_, share) in WRITERS.items()} if self.shares is None else self.shares
        shares = np.array([given.get(name, 0.0) for name in WRITERS])
        drilled = np.array([write.__module__ == drills.__name__ for write, _ in WRITERS.values()])
        without = shares if drilled @ shares == shares.sum() else np.where(drilled, 0, shares)
        return without / without.sum(), shares / shares.sum()
