"""Sentences of the probe, in the wording that the embedded model was trained on."""

import random
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

from fp_bench.suites.probe.words import ADJECTIVES, CITIES, FIRST_NAMES, JOBS, LAST_NAMES, NOUNS, VERBS

OPENING = "Read the following text and answer the question.\n"
LONGEST_SENTENCE = 64
"""Largest number of the embedded model's tokens in a needle, document or filler."""


class Person(NamedTuple):
    """The subject of a document; names and homes are unique within a prompt."""

    name: str
    home: str
    job: str
    thing: str


def keys(draw: random.Random) -> Iterator[str]:
    """Yield all adjective-noun pairs once, in random order."""
    pairs = [" ".join(pair) for pair in product(ADJECTIVES, NOUNS)]
    draw.shuffle(pairs)
    return iter(pairs)


def number(draw: random.Random) -> str:
    """Return seven digits."""
    return f"{draw.randrange(10**7):07d}"


def code(draw: random.Random, digits: int) -> str:
    """Return a code of hexadecimal digits in groups of four, e.g. ``#1a2b-3c4d``."""
    text = "".join(draw.choices("0123456789abcdef", k=digits))
    return "#" + "-".join(text[start : start + 4] for start in range(0, digits, 4))


def needle(key: str, value: str, kind: str = "number") -> str:
    """Return the sentence that states a value."""
    return f" The magic {kind} for {key} is {value}."


def recall(key: str, value: str, kind: str = "number") -> str:
    """Return the sentence that states it again."""
    return f" Recall that{needle(key, value, kind).replace('The', 'the', 1)}"


def ask(key: str, kind: str = "number") -> tuple[str, str]:
    """Return question and answer prefix for one value."""
    question = f"\n\nQuestion: What is the magic {kind} for {key} in the text above?"
    return question, f"\nAnswer: The magic {kind} for {key} is"


def people(draw: random.Random) -> Iterator[Person]:
    """Yield people until the names are used up; no two share a name or a home."""
    names = list(product(FIRST_NAMES, LAST_NAMES))
    homes = list(product(CITIES, CITIES))
    draw.shuffle(names)
    draw.shuffle(homes)
    for name, home in zip(names, homes, strict=False):
        thing = f"{draw.choice(ADJECTIVES)} {draw.choice(NOUNS)}"
        yield Person(" ".join(name), " ".join(home), draw.choice(JOBS), thing)


def document(draw: random.Random, count: int, person: Person) -> str:
    """Return a document of facts about a person, in random order, some with a filler sentence."""
    facts = [
        f" {person.name} lives in {person.home}.",
        f" {person.name} works as a {person.job}.",
        f" {person.name} owns a {person.thing}.",
    ]
    draw.shuffle(facts)
    if draw.random() < 0.6:
        facts.insert(draw.randrange(4), filler(draw))
    return f"\nDocument {count}:" + "".join(facts)


def filler(draw: random.Random) -> str:
    """Return a filler sentence."""
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
