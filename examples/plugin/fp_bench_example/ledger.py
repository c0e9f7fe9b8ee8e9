"""A suite with one task: what did one thing of a long list cost?"""

import random
from collections.abc import Iterator, Sequence

from fp_bench import Sample, Suite, Tokenizer, UsageError
from fp_bench.suites.scoring import all_of

COLOURS = ("red", "blue", "green", "grey", "white", "black")
THINGS = ("kettle", "ladder", "carpet", "mirror", "saddle", "candle", "basket", "hammer")
OPENING = "Read the list of what was bought.\n"
MAX_NEW_TOKENS = 16


class Ledger(Suite):
    """Lines of a ledger, as many as fit."""

    name = "ledger"
    tasks = ("price",)

    def samples(
        self, task: str, length: int, indices: Sequence[int], tokenizer: Tokenizer, *, seed: int, reserved: int
    ) -> Iterator[Sample]:
        """Write samples; each has random numbers of its own, so that it does not depend on the others."""
        self.check_tasks([task])
        for index in indices:
            draw = random.Random(f"ledger {self.version} {seed} {length} {index}")
            number, colour, thing = draw.randrange(1, 100), draw.choice(COLOURS), draw.choice(THINGS)
            price = str(draw.randrange(10_000, 100_000))
            bought = f"Day {number}: a {colour} {thing} for {price} coins.\n"
            question = f"\nQuestion: How many coins was the {colour} {thing} of day {number}?"
            prefix = "\nAnswer:"
            room = length - reserved - MAX_NEW_TOKENS - len(tokenizer.encode(OPENING + bought + question + prefix))
            if room < 0:
                raise UsageError(f"ledger: length {length} is too short; at least {length - room}")
            lines = _others(draw, tokenizer, room)
            lines.insert(draw.randrange(len(lines) + 1), bought)
            context = OPENING + "".join(lines)
            yield Sample(
                self.sample_id(task, length, index), task, length, context, question, prefix, (price,), MAX_NEW_TOKENS
            )

    def score(self, sample: Sample, prediction: str) -> float:
        """Return 1 when the price is in the prediction."""
        return all_of(prediction, sample.answers)


def _others(draw: random.Random, tokenizer: Tokenizer, room: int) -> list[str]:
    """Return lines of later days that take at most so many tokens."""
    lines: list[str] = []
    for day in range(100, 100 + room):
        line = f"Day {day}: a {draw.choice(COLOURS)} {draw.choice(THINGS)} for {draw.randrange(1000, 10_000)} coins.\n"
        room -= len(tokenizer.encode(line)) + 1  # a token more may come of joining two lines
        if room < 0:
            break
        lines.append(line)
    return lines
