"""Needle tasks drawn like NVIDIA's ``niah.py``."""

from collections.abc import Callable, Iterator, Sequence

from fp_bench.suites.ruler.nvidia.dice import Dice
from fp_bench.suites.ruler.nvidia.fit import SHORT, Budget, FailedDraw, most_units, search, sequence
from fp_bench.suites.ruler.tasks import Kind, Needles, Written
from fp_bench.suites.ruler.templates import NOISE

DEPTHS = [round(100 * place / 39) for place in range(40)]
"""Percent of an essay's sentences before a needle."""


def generate(
    needles: Needles,
    dice: Dice,
    budget: Budget,
    words: Sequence[str],
    essay: Sequence[str] = (),
    sentences: Callable[[str], list[str]] = lambda text: [text],
) -> Iterator[Written]:
    """Draw samples of a needle task.

    Args:
        needles: the task.
        dice: freshly seeded.
        budget: limits of a prompt.
        words: to draw keys of type ``words`` from.
        essay: words of the essays, for that haystack.
        sentences: cuts text into sentences, for that haystack.
    """

    def one(kind: Kind) -> str:
        if kind == "words":
            return dice.python.choice(words)
        return dice.number() if kind == "numbers" else dice.uuid()

    def haystack(units: int, hidden: list[str]) -> str:
        if needles.haystack == "essay":
            text = " ".join(_repeated(essay, units))
            return " ".join(_between(sentences(text.strip()), hidden, dice))
        if needles.haystack == "noise":
            lines = [NOISE] * units
        else:
            lines = [needles.sentence(one(needles.keys), one(needles.values)) for _ in range(units)]
        if len(hidden) > units:
            raise FailedDraw
        places = sorted(dice.python.sample(range(units), len(hidden)), reverse=True)
        for place, needle in zip(places, hidden, strict=True):
            lines.insert(place, needle)
        return "\n".join(lines)

    def write(units: int) -> Written:
        keys: list[str] = []
        values: list[list[str]] = []
        for _ in range(needles.key_count):
            keys.append(one(needles.keys))
            values.append([one(needles.values) for _ in range(needles.values_per_key)])
        hidden = [needles.sentence(key, value) for key, held in zip(keys, values, strict=True) for value in held]
        dice.shuffle(hidden)
        context = haystack(units, hidden)
        asked = dice.python.sample(range(needles.key_count), needles.queries)
        answers = tuple(value for which in asked for value in values[which])
        return Written(needles.prompt(context, [keys[which] for which in asked]), answers)

    step = 500 if needles.haystack == "essay" else 25 if budget.length >= SHORT else 5
    most = most_units(budget, budget.count(write(step).prompt.text), step)
    units = search(lambda size: budget.count(write(size).prompt.text) + budget.new_tokens, budget.limit, step, most)
    return sequence(lambda _, size: write(size), budget, units, step)


def _repeated(words: Sequence[str], count: int) -> list[str]:
    """Return a number of words, repeated from the beginning if necessary."""
    whole, rest = divmod(count, len(words))
    return [*words] * whole + [*words[:rest]]


def _between(sentences: list[str], hidden: list[str], dice: Dice) -> Iterator[str]:
    """Yield the sentences up to each needle, joined, then the needle."""
    drawn = dice.python.sample(DEPTHS, len(hidden))
    start = 0
    for place, needle in zip(sorted(int(len(sentences) * (depth / 100)) for depth in drawn), hidden, strict=True):
        yield " ".join(sentences[start:place])
        yield needle
        start = place
    yield " ".join(sentences[start:])
