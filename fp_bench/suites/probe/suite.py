"""The probe as a suite: drafts become samples that fit their length."""

import random
from collections.abc import Iterator, Sequence
from typing import ClassVar

from fp_bench.errors import UsageError
from fp_bench.suites.probe.tasks import TASKS, ProbeText, Room
from fp_bench.suites.sample import Sample
from fp_bench.suites.scoring import all_of
from fp_bench.suites.suite import Suite, Tokenizer

MAX_NEW_TOKENS = 64
SHORTEST = 256
"""Fewest tokens of a prompt and its answer with which every task has some text."""


class Probe(Suite):
    """Hermetic retrieval tasks in the wording and vocabulary that the embedded model was trained on."""

    name: ClassVar[str] = "probe"
    tasks: ClassVar[tuple[str, ...]] = tuple(TASKS)

    def samples(
        self, task: str, length: int, indices: Sequence[int], tokenizer: Tokenizer, *, seed: int, reserved: int
    ) -> Iterator[Sample]:
        """Write samples; see `Suite.samples`."""
        self.check_tasks([task])
        if length < SHORTEST + reserved:
            raise UsageError(f"probe: length {length} is too short for {task}; at least {SHORTEST + reserved}")
        limit = length - reserved - MAX_NEW_TOKENS
        for index in indices:
            seeded = f"probe {self.version} {task} {length} {seed} {index}"
            draft = _fitted(task, length, limit, tokenizer, index, seeded)
            yield Sample(
                id=self.sample_id(task, length, index),
                task=task,
                length=length,
                context=draft.opening + "".join(draft.units),
                question=draft.question,
                answer_prefix=draft.prefix,
                answers=draft.answers,
                max_new_tokens=MAX_NEW_TOKENS,
            )

    def score(self, sample: Sample, prediction: str) -> float:
        """Return the share of the answers found in the prediction."""
        return all_of(prediction, sample.answers)


def _fitted(task: str, length: int, limit: int, tokenizer: Tokenizer, index: int, seeded: str) -> ProbeText:
    """Return a seed's longest draft of at most ``limit`` tokens.

    Raises:
        UsageError: even its shortest is longer.
    """

    def draft(room: int) -> ProbeText:
        return TASKS[task](Room(random.Random(seeded), room, tokenizer, index))

    def tokens(text: str) -> int:
        return len(tokenizer.encode(text))

    shortest = draft(0)
    if (least := tokens(shortest.text)) > limit:
        raise UsageError(
            f"probe: length {length} is too short for {task}; "
            f"this sample's shortest prompt and answer take {least + length - limit}"
        )
    room = limit - tokens(shortest.opening + shortest.question + shortest.prefix)
    while (over := tokens((longest := draft(room)).text) - limit) > 0:
        # Sentences together may take more tokens than each alone, and the question may name another person.
        room = max(0, room - over)
    return longest
