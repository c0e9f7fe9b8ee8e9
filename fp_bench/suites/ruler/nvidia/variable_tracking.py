"""Variable tracking drawn like NVIDIA's ``variable_tracking.py``: one chain of five variables, one solved example."""

from collections.abc import Iterator

from fp_bench.errors import UsageError
from fp_bench.suites.ruler.nvidia.dice import Dice
from fp_bench.suites.ruler.nvidia.fit import SHORT, Budget, FailedDraw, most_units, search, sequence
from fp_bench.suites.ruler.tasks import Written, chain
from fp_bench.suites.ruler.templates import NOISE, VARIABLE_TRACKING

CHAIN = 5
EXAMPLE_LENGTH = 500
EXAMPLE_VALUE = "12345"


def generate(dice: Dice, budget: Budget) -> Iterator[Written]:
    """Draw samples of variable tracking.

    Args:
        dice: freshly seeded.
        budget: limits of a prompt.

    Raises:
        UsageError: a seed on which NVIDIA's generator fails.
    """
    example = _example(dice, budget)
    extra = budget.count(example) + budget.new_tokens

    def write(units: int) -> Written:
        written = _write(dice, units, letters=5, value=None)
        solved = _renamed(example, dice) + "\n"
        return written._replace(prompt=written.prompt._replace(context=solved + written.prompt.context))

    step = 10 if budget.length >= SHORT else 5
    units = _search(dice, budget, step, extra, letters=5, value=None)
    return sequence(lambda _, size: write(size), budget, units, step)


def _example(dice: Dice, budget: Budget) -> str:
    """Draw the solved example; it may take 500 tokens."""
    short = Budget(budget.task, EXAMPLE_LENGTH, budget.reserved, 0, budget.count)
    units = _search(dice, short, 5, 0, letters=3, value=EXAMPLE_VALUE)
    written = next(sequence(lambda _, size: _write(dice, size, 3, EXAMPLE_VALUE), short, units, step=5))
    return written.prompt.text + " " + " ".join(written.answers) + "\n"


def _search(dice: Dice, budget: Budget, step: int, extra: int, letters: int, value: str | None) -> int:
    def tokens(units: int) -> int:
        return budget.count(_write(dice, units, letters, value).prompt.text)

    try:
        most = most_units(budget, tokens(step), step)
        return search(lambda units: tokens(units) + extra, budget.limit, step, most)
    except FailedDraw:
        raise UsageError(f"ruler@nvidia: vt: NVIDIA's generator fails on seed {dice.seed}; take another") from None


def _write(dice: Dice, units: int, letters: int, value: str | None) -> Written:
    """Hide one chain in noise; a chain without a value draws one."""
    names = [dice.letters(letters) for _ in range(CHAIN)]
    while len(set(names)) < CHAIN:
        names.append(dice.letters(letters))
    head = value or dice.value()
    if len(names) > CHAIN and value is None:
        dice.value()  # NVIDIA's generator begins a second chain with the names left over, and runs out of them
    if len(names) > CHAIN or units < CHAIN:
        raise FailedDraw
    lines, told = [NOISE] * units, chain(names, head)
    for moved, place in enumerate(sorted(dice.python.sample(range(units), CHAIN))):
        lines.insert(place + moved, told[moved])
    context = "\n".join(lines).replace(". \n", ".\n")
    return Written(VARIABLE_TRACKING.fill(context, query=head, num_v=CHAIN), tuple(names))


def _renamed(example: str, dice: Dice) -> str:
    """Give the example other variables and another value, because a repeated one would help the model."""
    for name in example.split()[-CHAIN:]:
        example = example.replace(name, dice.letters(len(name)))
    return example.replace(EXAMPLE_VALUE, dice.value())
