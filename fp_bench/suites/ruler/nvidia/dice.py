"""The random numbers of one run of a generator: NVIDIA seeds Python's and numpy's global state once."""

import random
import string
import uuid

import numpy as np

from fp_bench.errors import UsageError

HIGHEST_SEED = 2**32 - 1


class Dice:
    """The same streams as the global ones after seeding, without changing global state."""

    def __init__(self, seed: int) -> None:
        if not 0 <= seed <= HIGHEST_SEED:
            raise UsageError(f"ruler@nvidia: seed {seed} is not between 0 and {HIGHEST_SEED}, which numpy asks for")
        self.seed = seed
        self.python = random.Random(seed)
        self.numpy = np.random.RandomState(seed)  # the legacy stream, which numpy keeps as it is

    def shuffle(self, items: list[str]) -> None:
        """Shuffle in place, with the same permutation for each list of one length."""
        random.Random(self.seed).shuffle(items)

    def number(self) -> str:
        """Draw seven digits."""
        return str(self.python.randint(10**6, 10**7 - 1))

    def uuid(self) -> str:
        """Draw a version 4 UUID."""
        return str(uuid.UUID(int=self.python.getrandbits(128), version=4))

    def letters(self, count: int, alphabet: str = string.ascii_uppercase) -> str:
        """Draw letters with replacement."""
        return "".join(self.python.choices(alphabet, k=count))

    def value(self) -> str:
        """Draw the value of a chain of variables, from numpy's stream."""
        return str(self.numpy.randint(10000, 99999))
