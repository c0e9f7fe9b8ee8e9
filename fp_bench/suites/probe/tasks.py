"""The tasks of the probe. Those that separate attention methods come first; plain needles are sanity checks.

The question alone answers plain needles: it is in the last query blocks, which are dense in most
methods. In the first tasks the text itself must be connected: values that belong to one key, values that are
stated again, facts of one document.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count as numbers
from typing import NamedTuple

from fp_bench.suites.probe.text import (
    OPENING,
    Person,
    ask,
    code,
    document,
    filler,
    keys,
    needle,
    number,
    people,
    recall,
)
from fp_bench.suites.suite import Tokenizer

KEYS = 4
"""Number of values of one key, and of keys of one question."""
SHARE_RESTATED = 0.8
TOKENS_A_KEY = 120
"""Tokens of text per key that may be stated again."""


class ProbeText(NamedTuple):
    """The text of a prompt and its question."""

    units: Sequence[str]
    question: str
    prefix: str
    answers: tuple[str, ...]
    opening: str = OPENING

    @property
    def text(self) -> str:
        """The whole prompt."""
        return self.opening + "".join(self.units) + self.question + self.prefix


@dataclass(frozen=True)
class Room:
    """The token budget of the text, and its random numbers."""

    draw: random.Random
    tokens: int
    tokenizer: Tokenizer
    index: int
    """Number of the sample, for properties that must be even over samples."""

    def take(self, units: Iterable[str], among: Sequence[str] = ()) -> list[str]:
        """Return as many units as fit in addition to the present ones."""
        left = self.tokens - sum(map(self._cost, among))
        taken = []
        for unit in units:
            left -= self._cost(unit)
            if left < 0:
                break
            taken.append(unit)
        return taken

    def scatter(self, inserts: Sequence[str]) -> list[str]:
        """Return the inserts in order, at random places among filler sentences."""
        fillers = iter(self.take(_fillers(self.draw), among=inserts))
        length = len(inserts) + len(rest := list(fillers))
        places = set(self.draw.sample(range(length), len(inserts)))
        ours, theirs = iter(inserts), iter(rest)
        return [next(ours) if place in places else next(theirs) for place in range(length)]

    def at_depth(self, insert: str) -> list[str]:
        """Return it among filler sentences, at a depth that is spread evenly over samples."""
        units = self.take(_fillers(self.draw), among=[insert])
        golden_ratio = 0.6180339887
        depth = (0.5 + self.index * golden_ratio) % 1
        units.insert(round(depth * len(units)), insert)
        return units

    def _cost(self, unit: str) -> int:
        return len(self.tokenizer.encode(unit))


def _fillers(draw: random.Random) -> Iterator[str]:
    return (filler(draw) for _ in numbers())


def multivalue(room: Room) -> ProbeText:
    """Several values of one key, far apart; the question asks for all of them."""
    key = next(keys(room.draw))
    values = [number(room.draw) for _ in range(KEYS)]
    question = f"\n\nQuestion: What are all the magic numbers for {key} in the text above?"
    prefix = f"\nAnswer: All the magic numbers for {key} are"
    return ProbeText(room.scatter([needle(key, value) for value in values]), question, prefix, tuple(values))


def restated(room: Room) -> ProbeText:
    """Many keys, most of them stated again later in the text."""
    known: list[tuple[str, str]] = []
    inserts = []
    for key, _ in zip(keys(room.draw), range(max(2 * KEYS, room.tokens // TOKENS_A_KEY)), strict=False):
        known.append((key, number(room.draw)))
        inserts.append(needle(*known[-1]))
        if room.draw.random() < SHARE_RESTATED:
            inserts.append(recall(*room.draw.choice(known)))
    key, value = room.draw.choice(known)
    return ProbeText(room.scatter(inserts), *ask(key), (value,))


def fact(room: Room) -> ProbeText:
    """A fact about a named person."""
    documents, chosen = _documents(room)
    question, prefix, answer = (
        (f"In which city does {chosen.name} live?", f"{chosen.name} lives in", chosen.home),
        (f"What work does {chosen.name} do?", f"{chosen.name} works as a", chosen.job),
        (f"What does {chosen.name} own?", f"{chosen.name} owns a", chosen.thing),
    )[room.index % 3]
    return ProbeText(documents, f"\n\nQuestion: {question}", f"\nAnswer: {prefix}", (answer,))


def reverse_fact(room: Room) -> ProbeText:
    """Whom a fact is true of."""
    documents, chosen = _documents(room)
    prefix = f"The person living in {chosen.home} is"
    return ProbeText(documents, f"\n\nQuestion: Who lives in {chosen.home}?", f"\nAnswer: {prefix}", (chosen.name,))


def two_hop(room: Room) -> ProbeText:
    """A fact about a person described by another fact; the answer must name both."""
    documents, chosen = _documents(room)
    question = f"\n\nQuestion: What work does the person living in {chosen.home} do?"
    answer = f"{chosen.name}. {chosen.name} works as a {chosen.job}"
    return ProbeText(documents, question, f"\nAnswer: The person living in {chosen.home} is", (answer,))


def _documents(room: Room) -> tuple[list[str], Person]:
    """Return a text of documents, and a person of one of them."""
    everyone: list[Person] = []

    def documents() -> Iterator[str]:
        for person in people(room.draw):
            everyone.append(person)
            yield document(room.draw, len(everyone), person)

    taken = room.take(documents())
    return taken, room.draw.choice(everyone[: max(1, len(taken))])


def question_first(room: Room) -> ProbeText:
    """One of several keys, named before the text instead of after it, so reading must mark the value."""
    chosen, *others = (key for key, _ in zip(keys(room.draw), range(KEYS), strict=False))
    values = [number(room.draw) for _ in range(KEYS)]
    inserts = [needle(key, value) for key, value in zip([chosen, *others], values, strict=True)]
    room.draw.shuffle(inserts)
    opening = f"{OPENING}Question: What is the magic number for {chosen} in the text below?\n"
    return ProbeText(room.scatter(inserts), "\n", "\nAnswer: The magic number is", (values[0],), opening)


def multikey(room: Room) -> ProbeText:
    """Only needles, each with its own key."""
    known: list[tuple[str, str]] = []

    def needles() -> Iterator[str]:
        for key in keys(room.draw):
            known.append((key, number(room.draw)))
            yield needle(*known[-1])

    taken = room.take(needles())
    key, value = room.draw.choice(known[: max(1, len(taken))])
    return ProbeText(taken, *ask(key), (value,))


def needle_code(room: Room) -> ProbeText:
    """A single needle with a long code."""
    key, value = next(keys(room.draw)), code(room.draw, 12)
    return ProbeText(room.at_depth(needle(key, value, "code")), *ask(key, "code"), (value,))


def needle_number(room: Room) -> ProbeText:
    """A single needle with a number."""
    key, value = next(keys(room.draw)), number(room.draw)
    return ProbeText(room.at_depth(needle(key, value)), *ask(key), (value,))


TASKS: dict[str, Callable[[Room], ProbeText]] = {
    task.__name__: task
    for task in (
        multivalue,
        restated,
        fact,
        reverse_fact,
        two_hop,
        question_first,
        multikey,
        needle_code,
        needle_number,
    )
}
