"""Frequent words drawn like NVIDIA's ``freq_words_extraction.py``: coded words with zeta frequencies."""

import string
from collections.abc import Iterator

from fp_bench.suites.ruler.nvidia.dice import Dice
from fp_bench.suites.ruler.nvidia.fit import Budget
from fp_bench.suites.ruler.tasks import Written
from fp_bench.suites.ruler.templates import FREQUENT_WORDS
from fp_bench.suites.ruler.zeta import ANSWERS, DOTS, LETTERS, coded_text, vocabulary_size


def generate(dice: Dice, budget: Budget) -> Iterator[Written]:
    """Draw samples of frequent words.

    Args:
        dice: freshly seeded.
        budget: limits of a prompt.

    Raises:
        UsageError: the smallest prompt does not fit.
    """
    limit = budget.limit - budget.new_tokens
    size, step = vocabulary_size(limit), limit // 32
    if size < ANSWERS.stop or step < 1:
        raise budget.too_short(f"{50 * ANSWERS.stop + budget.new_tokens} tokens")

    def vocabulary() -> list[str]:
        words = {dice.letters(LETTERS, string.ascii_lowercase) for _ in range(size)}
        while len(words) < size:
            words.add(dice.letters(LETTERS, string.ascii_lowercase))
        ranked = sorted(words)
        dice.shuffle(ranked)
        return [DOTS, *ranked[1:]]

    def write(ranked: list[str], count: int) -> Written:
        coded = coded_text(ranked, count)
        dice.shuffle(coded)
        return Written(FREQUENT_WORDS.fill(" ".join(coded)), tuple(ranked[ANSWERS]))

    def tokens(ranked: list[str], count: int) -> int:
        return budget.count(write(ranked, count).prompt.text)

    ranked, most = vocabulary(), limit // LETTERS
    while tokens(ranked, most) < limit:
        most += step
    most -= step

    while True:
        ranked, count = vocabulary(), most
        while (taken := tokens(ranked, count)) > limit:
            count -= step
            if count <= 0:
                raise budget.too_short(f"{taken + budget.new_tokens} tokens")
        yield write(ranked, count)
