"""RULER's thirteen tasks: the question, new tokens and score of each.

Source: NVIDIA/RULER ``scripts/synthetic.yaml`` and ``scripts/data/synthetic/constants.py``, commit c3f5e3b4.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

from fp_bench.suites.fit import Prompt
from fp_bench.suites.ruler import templates
from fp_bench.suites.ruler.templates import NEEDLE, Template
from fp_bench.suites.sample import Sample
from fp_bench.suites.scoring import all_of, any_of, printable
from fp_bench.suites.suite import Suite

Kind = Literal["words", "numbers", "uuids"]


class Written(NamedTuple):
    """A prompt and its right answers."""

    prompt: Prompt
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Needles:
    """A needle task: its needles and haystack."""

    haystack: Literal["noise", "essay", "needle"]
    keys: Kind = "words"
    values: Kind = "numbers"
    key_count: int = 1
    values_per_key: int = 1
    queries: int = 1

    def sentence(self, key: str, value: str) -> str:
        """Return the needle with a key and a value."""
        return NEEDLE.format(type_needle_v=self.values, key=key, value=value)

    @property
    def template(self) -> Template:
        """The wording for one value or several."""
        return templates.NIAH if self._several else templates.NIAH.singular()

    def prompt(self, context: str, keys: list[str]) -> Prompt:
        """Ask for the values of keys."""
        query = ", ".join(keys[:-1]) + ", and " + keys[-1] if len(keys) > 1 else keys[0]
        kind = self.values if self._several else self.values.removesuffix("s")
        return self.template.fill(context, type_needle_v=kind, query=query)

    @property
    def _several(self) -> bool:
        return self.queries * self.values_per_key > 1


NEEDLES = {
    "niah_single_1": Needles("noise"),
    "niah_single_2": Needles("essay"),
    "niah_single_3": Needles("essay", values="uuids"),
    "niah_multikey_1": Needles("essay", key_count=4),
    "niah_multikey_2": Needles("needle"),
    "niah_multikey_3": Needles("needle", keys="uuids", values="uuids"),
    "niah_multivalue": Needles("essay", values_per_key=4),
    "niah_multiquery": Needles("essay", key_count=4, queries=4),
}
MAX_NEW_TOKENS = {**dict.fromkeys(NEEDLES, 128), "vt": 30, "cwe": 120, "fwe": 50, "qa_1": 32, "qa_2": 32}
TASKS = tuple(MAX_NEW_TOKENS)
ANY_OF = frozenset({"qa_1", "qa_2"})
"""Tasks that need one right answer; in the others the share of found answers counts."""


def chain(names: Sequence[str], value: str) -> list[str]:
    """Return the lines of a chain of variables, NVIDIA's trailing spaces included."""
    return [f"VAR {names[0]} = {value}", *(f"VAR {name} = VAR {source} " for source, name in pairwise(names))]


def numbered_list(words: Sequence[str]) -> str:
    """Return ``1. one 2. two``."""
    return " ".join(f"{place}. {word}" for place, word in enumerate(words, start=1))


def sample_of(task: str, length: int, index: int, written: Written, max_new_tokens: int | None = None) -> Sample:
    """Return a written prompt as a sample, by default with the task's number of new tokens."""
    return Sample(
        id=Suite.sample_id(task, length, index),
        task=task,
        length=length,
        context=written.prompt.context,
        question=written.prompt.question,
        answer_prefix=written.prompt.answer_prefix,
        answers=written.answers,
        max_new_tokens=MAX_NEW_TOKENS[task] if max_new_tokens is None else max_new_tokens,
    )


def score(sample: Sample, prediction: str) -> float:
    """Return RULER's score of a prediction as a share: ``string_match_part`` for qa, else ``string_match_all``."""
    metric = any_of if sample.task in ANY_OF else all_of
    return metric(printable(prediction), sample.answers)
