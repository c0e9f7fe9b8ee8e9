"""The text of the frequent-words task: six-letter words whose counts follow a zeta distribution, the first one dots.

Source: NVIDIA/RULER ``freq_words_extraction.py``; counts floor(N rank^-2 / zeta(2)).
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from scipy.special import zeta

T = TypeVar("T")

ALPHA = 2.0
LETTERS = 6
ANSWERS = slice(1, 4)
"""The ranks that are asked for."""
DOTS = "..."
"""Stands for the most frequent word, which is not asked for."""


def vocabulary_size(tokens: int) -> int:
    """Return the number of different words in a text of a number of tokens."""
    return tokens // 50


def coded_text(ranked: Sequence[T], total: int) -> list[T]:
    """Return each word repeated by its rank, in the order of ranks.

    Args:
        ranked: the words, the most frequent first.
        total: approximate number of words.
    """
    ranks = np.arange(1, len(ranked) + 1)
    counts = (total * (ranks**-ALPHA) / zeta(ALPHA)).astype(int)
    return [word for word, count in zip(ranked, counts, strict=True) for _ in range(count)]
