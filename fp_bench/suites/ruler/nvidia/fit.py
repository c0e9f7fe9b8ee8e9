"""How many units of filling NVIDIA's generators take: a bisection over random samples, then retries with less."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fp_bench.errors import UsageError
from fp_bench.suites.ruler.tasks import Written

SHORT = 4096
"""Below this length the generators take smaller steps."""
PATIENCE = 50
"""Draws of the smallest size after which NVIDIA's endless loop is given up."""


class FailedDraw(Exception):
    """A draw on which NVIDIA's generator raises; it takes that for a prompt that is too long."""


@dataclass(frozen=True)
class Budget:
    """What a prompt may take, and how it is counted."""

    task: str
    length: int
    """As asked for."""
    reserved: int
    """Tokens of a chat template; NVIDIA's ``model_template_token``."""
    new_tokens: int
    count: Callable[[str], int]

    @property
    def limit(self) -> int:
        """Tokens of prompt and answer."""
        return self.length - self.reserved

    def too_short(self, needed: object) -> UsageError:
        """Return the error for a length that no prompt fits, where NVIDIA's generator would loop for ever."""
        return UsageError(
            f"ruler@nvidia: {self.task} does not fit length {self.length} ({self.reserved} reserved): its smallest "
            f"prompt and answer take {needed}; ask for a longer length"
        )


def search(tokens: Callable[[int], int], limit: int, step: int, most: int) -> int:
    """Bisect for the largest number of units that fits; each probe is one random sample.

    Args:
        tokens: tokens of prompt and answer with so many units.
        limit: tokens that they may take.
        step: the smallest number, taken when none fits.
        most: the largest number, raised to two steps.
    """
    best, low, high = step, step, max(most, 2 * step)
    while low <= high:
        middle = (low + high) // 2
        if tokens(middle) <= limit:
            best, low = middle, middle + 1
        else:
            high = middle - 1
    return best


def most_units(budget: Budget, probe: int, units: int) -> int:
    """Return where the search begins: three times what a probe of so many units suggests."""
    return int(budget.limit / (probe / units) * 3)


def sequence(write: Callable[[int, int], Written], budget: Budget, units: int, step: int) -> Iterator[Written]:
    """Write samples without end, each with less filling until it fits.

    Args:
        write: draws the sample of an index with so many units.
        budget: what it may take.
        units: where each sample begins.
        step: units to leave out when it is too long; no more are left out at or below one step.

    Raises:
        UsageError: the smallest prompt does not fit.
    """
    for index in itertools.count():
        left, patience, total = units, PATIENCE, 0
        while True:
            try:
                written = write(index, left)
            except FailedDraw:
                written = None
            if written is not None:
                total = budget.count(written.prompt.text) + budget.new_tokens
                if total <= budget.limit:
                    break
            if left > step:
                left -= step
            elif patience:
                patience -= 1
            else:
                raise budget.too_short(f"{total} tokens" if total else f"more than {left} units of filling")
        yield written
