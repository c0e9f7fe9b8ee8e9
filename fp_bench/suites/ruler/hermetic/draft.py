"""A sample's random numbers, and the places of hidden lines in its text."""

import math
import random
from dataclasses import dataclass

GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Draw:
    """Source of a sample's random numbers, seeded only by its name."""

    run: str
    """Suite, version, task, length and seed."""
    index: int

    def stream(self, purpose: str) -> random.Random:
        """Return separate random numbers, so that one purpose does not shift another's."""
        return random.Random(f"{self.run} {self.index} {purpose}")

    def depths(self, count: int) -> list[float]:
        """Return ascending places in the context, 0 to 1, for the answers.

        Each lies in its own part of the context, and over samples 0, 1, 2, ... moves through it in steps of the golden
        ratio, which fill it evenly for any number of samples.
        """
        start = random.Random(f"{self.run} depths").random()
        return [(part + (start + self.index * GOLDEN + part * math.sqrt(2)) % 1) / count for part in range(count)]


def placed(lines: list[str], hidden: list[tuple[float, str]]) -> list[str]:
    """Return the lines with others between them, each at its relative place."""
    result = []
    start = 0
    for depth, text in sorted(hidden, key=lambda each: each[0]):
        place = int(depth * (len(lines) + 1))
        result += [*lines[start:place], text]
        start = place
    return result + lines[start:]
