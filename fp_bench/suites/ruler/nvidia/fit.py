"""The number of units of filling in NVIDIA's generators: a bisection over random samples, then retries with less."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fp_bench.errors import UsageError
from fp_bench.suites.ruler.tasks import Written

SHORT = 4096
"""Below this length the generators take smaller steps."""
PATIENCE = 50
"""Number of draws at the smallest size after which NVIDIA's endless loop is stopped."""


class FailedDraw(Exception):
    """A draw on which NVIDIA's generator raises, which it treats as a prompt that is too long."""


@dataclass(frozen=True)
class Budget:
    """Limits of a prompt, and how to count tokens."""

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
        """Return the error for a length that no prompt fits, for which NVIDIA's generator would loop forever."""
        return UsageError(
            f"ruler@nvidia: {self.task} does not fit length {self.length} ({self.reserved} reserved): its smallest "
            f"prompt and answer take {needed}; ask for a longer length"
        )


def search(tokens: Callable[[int], int], limit: int, step: int, most: int) -> int:
    """Bisect for the largest number of units that fits; each probe is one random sample.

    Args:
        tokens: returns the tokens of prompt and answer for a number of units.
        limit: largest number of tokens.
        step: the smallest number, used if none fits.
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
    """Return the start of the search: three times the number that a trial suggests."""
    return int(budget.limit / (probe / units) * 3)


def sequence(write: Callable[[int, int], Written], budget: Budget, units: int, step: int) -> Iterator[Written]:
    """Yield samples endlessly, each with less filling until it fits.

    Args:
        write: draws the sample of an index with a number of units.
        budget: its limits.
        units: initial number for each sample.
        step: units to remove if it is too long; none are removed at or below one step.

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
