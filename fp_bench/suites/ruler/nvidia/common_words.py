"""Common words drawn like NVIDIA's ``common_words_extraction.py``: a solved example, then the list."""

from collections.abc import Callable, Iterator, Sequence

from fp_bench.suites.ruler.nvidia.dice import Dice
from fp_bench.suites.ruler.nvidia.fit import SHORT, Budget, search, sequence
from fp_bench.suites.ruler.tasks import Written, numbered_list
from fp_bench.suites.ruler.templates import COMMON_WORDS

COMMON = 10
PROBE = 4096


def generate(dice: Dice, budget: Budget, pool: Sequence[str], more: Callable[[], Sequence[str]]) -> Iterator[Written]:
    """Draw samples of common words.

    Args:
        dice: freshly seeded.
        budget: limits of a prompt.
        pool: words in alphabetical order.
        more: returns further words if a prompt needs more than the pool has.
    """
    shuffled = [*pool]
    dice.shuffle(shuffled)

    def numbered(count: int, common_times: int, other_times: int) -> tuple[str, tuple[str, ...]]:
        drawn = dice.python.sample(shuffled if count <= len(shuffled) else more(), count)
        common = drawn[:COMMON]
        listed = common * common_times + drawn[COMMON:] * other_times
        dice.shuffle(listed)
        return numbered_list(listed), tuple(common)

    def write(count: int) -> Written:
        sizes = ((40, 10, 3), (count, 30, 3)) if budget.length >= SHORT else ((20, 3, 1), (count, 6, 1))
        (shown, solution), (context, answers) = (numbered(*size) for size in sizes)
        example = COMMON_WORDS.fill(shown).text + " " + numbered_list(solution) + "\n"
        return Written(COMMON_WORDS.fill(context, before=example), answers)

    def tokens(count: int) -> int:
        return budget.count(write(count).prompt.text)

    step = COMMON
    most = int(budget.limit // (tokens(PROBE) / PROBE)) * 2
    words = search(lambda count: tokens(count) + budget.new_tokens, budget.limit, step, most)
    return sequence(lambda _, count: write(count), budget, words, step)
