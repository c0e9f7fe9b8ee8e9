"""A sample before its length is known, and the random numbers it is made of."""

import itertools
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fp_bench.suites.ruler.templates import Prompt

GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Draft:
    """One sample that can be written at any size."""

    write: Callable[[int], Prompt]
    """Writes it with so many units of filling; more units take more tokens."""
    answers: tuple[str, ...]
    least: int = 1
    """Units below which it is no task any more."""


@dataclass(frozen=True)
class Draw:
    """Where a sample's random numbers come from: nothing but its own name."""

    run: str
    """Suite, version, task, length and seed."""
    index: int

    def stream(self, purpose: str) -> random.Random:
        """Return random numbers of their own, so that one purpose does not shift another's."""
        return random.Random(f"{self.run} {self.index} {purpose}")

    def depths(self, count: int) -> list[float]:
        """Return ascending places in the context, 0 to 1, for what is to be found.

        Each lies in its own part of the context, and over samples 0, 1, 2, ... moves through it in steps of the golden
        ratio, which fill it evenly however many samples there are.
        """
        start = random.Random(f"{self.run} depths").random()
        return [(part + (start + self.index * GOLDEN + part * math.sqrt(2)) % 1) / count for part in range(count)]


class Stream:
    """The items of an endless iterator, kept, so that a longer prompt begins like a shorter one."""

    def __init__(self, items: Iterator[str]) -> None:
        self._items = items
        self._taken: list[str] = []

    def first(self, count: int) -> list[str]:
        """Return the first items."""
        self._taken += itertools.islice(self._items, max(0, count - len(self._taken)))
        return self._taken[:count]


def placed(lines: list[str], hidden: list[tuple[float, str]]) -> list[str]:
    """Return the lines with others between them, each at its share of the way."""
    result = []
    start = 0
    for depth, text in sorted(hidden, key=lambda each: each[0]):
        place = int(depth * (len(lines) + 1))
        result += [*lines[start:place], text]
        start = place
    return result + lines[start:]
