"""Finds the longest prompt that fits: drafts of a few sizes are written and counted completely."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from fp_bench.errors import UsageError
from fp_bench.suites.sample import Sample
from fp_bench.suites.suite import Suite, Tokenizer

SLACK = 0.003
"""Share of the limit that may stay unused if units are small."""
MARGIN = 0.001
"""Share of the limit that a guess leaves unused, so that it is rarely too long."""
GOLDEN = 0.618034
"""Step by which a place moves from sample to sample, so that its depths are even."""
FEWEST_TOKENS = 0.25
"""Smallest assumed number of tokens per unit, so that a guess stays finite."""


class Prompt(NamedTuple):
    """A prompt in its parts; NVIDIA's ``input`` is context + question."""

    context: str
    question: str
    answer_prefix: str

    @property
    def text(self) -> str:
        """The whole prompt."""
        return self.context + self.question + self.answer_prefix


@dataclass(frozen=True)
class Draft:
    """One sample that can be written at any size."""

    write: Callable[[int], Prompt]
    """Writes it with a number of units of filling; more units take more tokens."""
    answers: tuple[str, ...]
    least: int = 1
    """Fewest units of a valid task."""


class Stream:
    """Stored items of an endless iterator, so that a longer prompt begins like a shorter one."""

    def __init__(self, items: Iterator[str]) -> None:
        self._items = items
        self._taken: list[str] = []

    def first(self, count: int) -> list[str]:
        """Return the first items."""
        self._taken += itertools.islice(self._items, max(0, count - len(self._taken)))
        return self._taken[:count]


def longest_prompt(
    drafts: Iterable[Draft], tokenizer: Tokenizer, *, limit: int, length: int, suite: str, task: str
) -> tuple[Draft, Prompt]:
    """Return the first of a sample's drafts that fits, with as much filling as fits too.

    Args:
        drafts: the sample, then replacements if even its smallest prompt is too long.
        tokenizer: counts tokens.
        limit: tokens that the prompt may take.
        length: tokens asked for, of which the limit is left.
        suite: for the message.
        task: the same.

    Raises:
        UsageError: not even the last one fits.
    """

    def count(text: str) -> int:
        return len(tokenizer.encode(text))

    for draft in drafts:
        if (prompt := fitted(draft, count, limit)) is not None:
            return draft, prompt
    least = count(draft.write(draft.least).text) + length - limit
    raise UsageError(f"{suite}: length {length} is too short for {task}; its shortest prompt and answer take {least}")


def fitted_sample(
    suite: Suite, task: str, length: int, index: int, draft: Draft, tokenizer: Tokenizer, *, reserved: int, new: int,
    **more: Any,
) -> Sample:  # fmt: skip
    """Return a sample with as much filling as fits.

    Args:
        suite: which asks it.
        task: of the suite.
        length: limit of tokens of the prompt, ``reserved`` and the answer together.
        index: of the sample.
        draft: what to write.
        tokenizer: counts tokens.
        reserved: tokens of a chat template.
        new: tokens of the answer.
        more: other fields of the sample.

    Raises:
        UsageError: a length too short.
    """
    limit = length - reserved - new
    _, prompt = longest_prompt([draft], tokenizer, limit=limit, length=length, suite=suite.name, task=task)
    return Sample(
        id=suite.sample_id(task, length, index),
        task=task,
        length=length,
        answers=draft.answers,
        max_new_tokens=new,
        **prompt._asdict(),
        **more,
    )


def fitted(draft: Draft, count: Callable[[str], int], limit: int) -> Prompt | None:
    """Write a draft with as much filling as fits its limit.

    Tokens grow almost in proportion to units, so a guess is that proportion, and the next one begins at the last.

    Args:
        draft: what to write.
        count: counts tokens.
        limit: tokens that the prompt may take.

    Returns:
        The prompt, or None if the smallest is too long.
    """
    prompt = draft.write(draft.least)
    smallest = count(prompt.text)
    if smallest > limit:
        return None
    low, high, units = draft.least, None, draft.least + 8 + limit // 512
    while high is None or low < units < high:
        guess = draft.write(units)
        taken = count(guess.text)
        if taken <= limit:
            low, prompt = units, guess
        else:
            high = units
        per_unit = max((taken - smallest) / (units - draft.least), FEWEST_TOKENS)
        if 0 <= limit - taken <= SLACK * limit or (taken <= limit and limit - taken < per_unit / 2):
            break
        units += int(((1 - MARGIN) * limit - taken) // per_unit)
        units = max(units, low + 1)
        if high is not None:
            units = min(units, high - 1)
    return prompt
