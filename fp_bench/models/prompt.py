"""Long prompts of the embedded model's own kind: needles, documents of facts, filler, and a question at the end.

The wording is what the model was trained on; words come from its closed vocabulary.
"""

import random
from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

from fp_bench.errors import UsageError


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ADJECTIVES = _words("""
    quiet amber silver golden crimson hollow gentle bitter frozen ancient modern rapid narrow broad heavy light
    bright dark pale green purple orange yellow scarlet rusty dusty mossy sandy rocky stormy sunny cloudy windy
    rainy snowy clever brave humble proud eager calm lonely merry noble royal rural urban loyal honest curious
""")
NOUNS = _words("""
    harbor lantern river mountain valley forest meadow garden bridge tower castle village market temple library
    museum station airport tunnel canal island desert glacier volcano canyon waterfall orchard vineyard farm
    mill barn stable workshop factory bakery brewery kitchen pantry cellar attic balcony hallway window door
    gate fence roof chimney carpet mirror table chair bench sofa cabinet drawer shelf basket barrel bucket
""")
VERBS = _words("""
    watched followed carried painted repaired borrowed visited measured counted cleaned admired sketched
""")
FIRST_NAMES = _words("""
    Anna Boris Clara David Elena Frank Greta Henry Irene Jacob Karen Louis Maria Nolan Olga Peter Quinn Rosa
    Simon Tanya Ursula Victor Wanda Xavier
""")
LAST_NAMES = _words("""
    Fabek Sobe Nobine Fanimor Vimifos Pugizis Litevur Pafas Vipanel Laruval Somin Bevuge Pipekan Sazonu Luseker
    Minol Kufule Nezorul Nekit Lapo
""")
CITIES = _words("""
    Kugubu Sovulu Balolok Pegel Fupi Notu Vulizos Sugoko Soniru Seleri Kivupu Kenulu Tazetat Kuga Zige Mabir
    Dadan Kezete Muben Lusas
""")
JOBS = _words("""
    baker teacher pilot farmer doctor nurse painter writer singer dancer plumber welder miner sailor lawyer
""")

OPENING = "Read the following text and answer the question.\n"
SHORT_FILLERS = (
    " The road is long and the hill is quiet.",
    " The people are named at the door.",
    " One window is lit.",
    " We walk on.",
)
LONGEST_UNIT = 64
"""Tokens that no needle, document or filler exceeds."""


class Prompt(NamedTuple):
    """A prompt and the text that the model should continue it with."""

    text: str
    answer: str


def needle_prompt(tokenizer: Any, tokens: int, seed: int) -> Prompt:
    """Write a prompt of exactly ``tokens`` tokens, special tokens included.

    Args:
        tokenizer: a Hugging Face tokenizer; the embedded model's, or one that also cuts sentence by sentence.
        tokens: length of the prompt.
        seed: equal seeds give equal prompts.

    Raises:
        UsageError: too few tokens for a question and its needle, or a tokenizer whose counts do not add up.
    """
    draw = random.Random(seed)
    keys = iter(draw.sample(list(product(ADJECTIVES, NOUNS)), len(ADJECTIVES) * len(NOUNS)))
    key = " ".join(next(keys))
    value = _number(draw)
    needle = _needle(key, value)
    question = (
        f"\n\nQuestion: What is the magic number for {key} in the text above?\nAnswer: The magic number for {key} is"
    )
    budget = tokens - len(tokenizer(OPENING + needle + question).input_ids)
    if budget < LONGEST_UNIT:
        raise UsageError(f"a prompt of {tokens} tokens is too short; at least {tokens - budget + LONGEST_UNIT}")
    units = _units_of(tokenizer, _units(draw, keys), budget)
    units.insert(draw.randrange(len(units) + 1), needle)
    text = OPENING + "".join(units) + question
    if len(tokenizer(text).input_ids) != tokens:
        raise UsageError(f"no prompt of exactly {tokens} tokens can be written for this tokenizer; give a text instead")
    return Prompt(text, f" {value}.")


def _units(draw: random.Random, keys: Iterator[tuple[str, str]]) -> Iterator[str]:
    """Write needles, recalls of earlier ones, documents and filler without end."""
    known: list[tuple[str, str]] = []
    documents = 0
    while True:
        kind = draw.choices(("filler", "needle", "recall", "document"), (6, 2, 1, 1))[0]
        fresh = next(keys, None) if kind == "needle" else None
        if fresh is not None:
            known.append((" ".join(fresh), _number(draw)))
            yield _needle(*known[-1])
        elif kind == "recall" and known:
            key, value = draw.choice(known)
            yield f" Recall that the magic number for {key} is {value}."
        elif kind == "document":
            documents += 1
            yield _document(draw, documents)
        else:
            yield _filler(draw)


def _units_of(tokenizer: Any, units: Iterator[str], budget: int) -> list[str]:
    """Take units until the budget is nearly used, then fill it to the token with short sentences."""

    def count(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False).input_ids)

    taken = []
    while budget >= 2 * LONGEST_UNIT:
        taken.append(next(units))
        budget -= count(taken[-1])
    return taken + _exact_fill({text: count(text) for text in SHORT_FILLERS}, budget)


def _exact_fill(lengths: dict[str, int], budget: int) -> list[str]:
    """Return sentences whose lengths add up to the budget, or to as much of it as they can."""
    fills: list[list[str] | None] = [[]] + [None] * budget
    for total in range(1, budget + 1):
        for text, length in lengths.items():
            shorter = fills[total - length] if length <= total else None
            if shorter is not None:
                fills[total] = [*shorter, text]
                break
    return next(fill for fill in reversed(fills) if fill is not None)


def _needle(key: str, value: str) -> str:
    return f" The magic number for {key} is {value}."


def _number(draw: random.Random) -> str:
    return f"{draw.randrange(10**7):07d}"


def _document(draw: random.Random, number: int) -> str:
    name = f"{draw.choice(FIRST_NAMES)} {draw.choice(LAST_NAMES)}"
    facts = [
        f" {name} lives in {draw.choice(CITIES)} {draw.choice(CITIES)}.",
        f" {name} works as a {draw.choice(JOBS)}.",
        f" {name} owns a {draw.choice(ADJECTIVES)} {draw.choice(NOUNS)}.",
    ]
    draw.shuffle(facts)
    return f"\nDocument {number}:" + "".join(facts)


def _filler(draw: random.Random) -> str:
    adjective, noun, other = draw.choice(ADJECTIVES), draw.choice(NOUNS), draw.choice(NOUNS)
    verb, city, count = draw.choice(VERBS), draw.choice(CITIES), draw.randrange(1, 100)
    return draw.choice(
        (
            f" The {adjective} {noun} {verb} the {other} near the {noun}.",
            f" A {adjective} {noun} {verb} the {adjective} {other}.",
            f" In the evening the {noun} {verb} many {other}.",
            f" Some people {verb} the {adjective} {noun} and the {other}.",
            f" After {count} days the {noun} {verb} the {other}.",
            f" We {verb} {count} boxes near the {adjective} {noun}.",
            f" It was {adjective} on the road to {city}.",
            f" There are {count} travelers in {city}.",
            f" They often {verb} the {noun} during the {adjective} winter.",
        )
    )
