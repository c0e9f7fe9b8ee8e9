"""Questions about documents drawn like NVIDIA's ``qa.py``, on SQuAD or HotpotQA."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fp_bench.errors import UsageError
from fp_bench.suites.ruler.nvidia.dice import Dice
from fp_bench.suites.ruler.nvidia.fit import Budget, FailedDraw, most_units, search, sequence
from fp_bench.suites.ruler.tasks import Written
from fp_bench.suites.ruler.templates import DOCUMENT, QA

STEP = 10


@dataclass(frozen=True)
class QaPair:
    """A question about some of the documents."""

    text: str
    answers: tuple[str, ...]
    gold: tuple[int, ...]
    """Documents that answer it."""
    near: tuple[int, ...] = ()
    """Documents of the same article, used before others."""


@dataclass(frozen=True)
class Library:
    """Documents and questions about them, in NVIDIA's order."""

    documents: Sequence[str]
    questions: Sequence[QaPair]


def generate(dice: Dice, budget: Budget, library: Library) -> Iterator[Written]:
    """Draw samples; the one of index i asks question i.

    Args:
        dice: freshly seeded.
        budget: limits of a prompt.
        library: documents and questions.

    Raises:
        UsageError: more samples than there are questions.
    """
    everything = library.documents

    def chosen(question: QaPair, count: int) -> list[str]:
        if count >= len(everything):
            return ([*everything] * (count // len(everything) + 1))[:count]
        others = count - len(question.gold)
        if others > len(question.near):
            listed = {*question.gold, *question.near}
            rest = [place for place in range(len(everything)) if place not in listed]
            fill = [*question.near, *dice.python.sample(rest, others - len(question.near))]
        elif others < 0:
            raise FailedDraw
        else:
            fill = dice.python.sample(question.near, others)
        return [everything[place] for place in (*question.gold, *fill)]

    def write(index: int, count: int) -> Written:
        if index >= len(library.questions):
            raise UsageError(
                f"ruler@nvidia: {budget.task}: the data has {len(library.questions)} questions; ask for no more samples"
            )
        question = library.questions[index]
        documents = chosen(question, count)
        dice.shuffle(documents)
        context = "\n\n".join(DOCUMENT.format(i=i, document=text) for i, text in enumerate(documents, start=1))
        return Written(QA.fill(context, query=question.text), question.answers)

    def tokens(count: int) -> int:
        return budget.count(write(0, count).prompt.text)

    most = most_units(budget, tokens(STEP), STEP)
    units = search(lambda count: tokens(count) + budget.new_tokens, budget.limit, STEP, most)
    return sequence(write, budget, units, STEP)
