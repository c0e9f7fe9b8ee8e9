"""Prompts of an exact number of tokens, made of the probe's sentences, for models without a given text."""

import random
from collections.abc import Iterator
from typing import Any, NamedTuple

from fp_bench.errors import UsageError
from fp_bench.suites.probe.text import LONGEST_SENTENCE, OPENING, document, filler, keys, needle, number, people, recall

SHORT_FILLERS = (
    " The road is long and the hill is quiet.",
    " The people are named at the door.",
    " One window is lit.",
    " We walk on.",
)


class WrittenPrompt(NamedTuple):
    """A prompt and its expected continuation."""

    text: str
    answer: str


def needle_prompt(tokenizer: Any, tokens: int, seed: int) -> WrittenPrompt:
    """Write a prompt of exactly ``tokens`` tokens, special tokens included.

    Args:
        tokenizer: a Hugging Face tokenizer; the embedded model's, or one that also cuts sentence by sentence.
        tokens: length of the prompt.
        seed: equal seeds give equal prompts.

    Raises:
        UsageError: too few tokens for a question and its needle, or a tokenizer whose counts do not add up.
    """
    draw = random.Random(seed)
    unused = keys(draw)
    key, value = next(unused), number(draw)
    asked = needle(key, value)
    question = (
        f"\n\nQuestion: What is the magic number for {key} in the text above?\nAnswer: The magic number for {key} is"
    )
    budget = tokens - len(tokenizer(OPENING + asked + question).input_ids)
    if budget < LONGEST_SENTENCE:
        raise UsageError(f"a prompt of {tokens} tokens is too short; at least {tokens - budget + LONGEST_SENTENCE}")
    units = _units_of(tokenizer, _units(draw, unused), budget)
    units.insert(draw.randrange(len(units) + 1), asked)
    text = OPENING + "".join(units) + question
    if len(tokenizer(text).input_ids) != tokens:
        raise UsageError(f"no prompt of exactly {tokens} tokens can be written for this tokenizer; give a text instead")
    return WrittenPrompt(text, f" {value}.")


def first_tokens(tokenizer: Any, text: str, length: int) -> list[int]:
    """Return the first ``length`` token ids of a text.

    Args:
        tokenizer: a Hugging Face tokenizer.
        text: what to read.
        length: tokens wanted, special tokens at the start included.

    Raises:
        UsageError: the text has fewer.
    """
    # A prefix that is long enough is faster than a whole book, and its tokens are the same.
    ids: list[int] = tokenizer(text[: 16 * length], verbose=False).input_ids
    if len(ids) <= length:
        ids = tokenizer(text, verbose=False).input_ids
    if len(ids) < length:
        raise UsageError(f"the text has {len(ids)} tokens, fewer than length {length}; give a longer text")
    return ids[:length]


def some_tokens(tokenizer: Any, length: int, seed: int, *, vocabulary: int, text: str = "") -> list[int]:
    """Return exactly ``length`` token ids for timing.

    They are the first of a text, else of a needle prompt; without a tokenizer they are drawn at random.

    Args:
        tokenizer: a Hugging Face tokenizer, or None.
        length: tokens wanted.
        seed: equal seeds give equal ids.
        vocabulary: ids are below it.
        text: what to read, if anything is given.

    Raises:
        UsageError: the text has fewer tokens.
    """
    if text:
        return first_tokens(tokenizer, text, length)
    draw = random.Random(seed)
    if tokenizer is None:
        return draw.choices(range(vocabulary), k=length)
    ids: list[int] = tokenizer(OPENING).input_ids
    units = _units(draw, keys(draw))
    while len(ids) < length:
        ids += tokenizer("".join(next(units) for _ in range(256)), add_special_tokens=False).input_ids
    return ids[:length]


def _units(draw: random.Random, unused: Iterator[str]) -> Iterator[str]:
    """Yield needles, recalls of earlier ones, documents and filler endlessly."""
    known: list[tuple[str, str]] = []
    unknown = enumerate(people(draw), 1)
    while True:
        kind = draw.choices(("filler", "needle", "recall", "document"), (6, 2, 1, 1))[0]
        if kind == "needle" and (key := next(unused, None)) is not None:
            known.append((key, number(draw)))
            yield needle(*known[-1])
        elif kind == "recall" and known:
            yield recall(*draw.choice(known))
        elif kind == "document" and (person := next(unknown, None)) is not None:
            yield document(draw, *person)
        else:
            yield filler(draw)


def _units_of(tokenizer: Any, units: Iterator[str], budget: int) -> list[str]:
    """Take units until the budget is nearly used, then fill it exactly with short sentences."""

    def count(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False).input_ids)

    taken = []
    while budget >= 2 * LONGEST_SENTENCE:
        taken.append(next(units))
        budget -= count(taken[-1])
    return taken + _exact_fill({text: count(text) for text in SHORT_FILLERS}, budget)


def _exact_fill(lengths: dict[str, int], budget: int) -> list[str]:
    """Return sentences whose lengths add up to the budget, or as near as possible."""
    fills: list[list[str] | None] = [[]] + [None] * budget
    for total in range(1, budget + 1):
        for text, length in lengths.items():
            shorter = fills[total - length] if length <= total else None
            if shorter is not None:
                fills[total] = [*shorter, text]
                break
    return next(fill for fill in reversed(fills) if fill is not None)
