"""``infinitebench`` as a suite."""

import re
from typing import ClassVar

from fp_bench.suites.data_suite import Asked, DataSuite
from fp_bench.suites.hub import Repository
from fp_bench.suites.infinitebench.metrics import LENIENT, LETTERS, METRICS
from fp_bench.suites.infinitebench.templates import PROMPTS
from fp_bench.suites.rows import Row
from fp_bench.suites.sample import Sample

WITH_OPTIONS = frozenset({"longbook_choice_eng", "code_debug"})
_CALL = re.compile(r"(func_[0-9]+)\(-?[0-9]+\)")
_WHICH = re.compile(r"(The .+) of")


class InfiniteBench(DataSuite):
    """InfiniteBench's twelve tasks; two run only when named, because MInference's evaluation omits them."""

    name: ClassVar[str] = "infinitebench"
    tasks: ClassVar[tuple[str, ...]] = tuple(PROMPTS)
    left_out: ClassVar[frozenset[str]] = frozenset({"math_calc", "code_run"})
    repository: ClassVar[Repository] = Repository(
        "xinrongzhang2022/InfiniteBench", "90f0394333616266d9fe85824ceaf505093cbaa5"
    )
    hub_file: ClassVar[str] = "{file}.jsonl"
    max_new_tokens: ClassVar = {
        **dict.fromkeys(PROMPTS, 40),
        "passkey": 15,
        "number_string": 20,
        "kv_retrieval": 80,
        "longbook_sum_eng": 1200,
        "math_find": 3,
        "math_calc": 30_000,
        "code_run": 5,
        "code_debug": 5,
    }
    """MInference's new tokens; upstream's 6, 12 and 50 for the first three are too few at one token per digit."""
    packages: ClassVar = {"longbook_sum_eng": "rouge_score"}
    needs: ClassVar[str] = f"{DataSuite.needs}; pip install 'fp_bench[suites]' for longbook_sum_eng"

    def ask(self, task: str, row: Row) -> Asked:
        """Return a row's prompt and answers; see `DataSuite.ask`."""
        fields = {"context": row["context"], "input": row["input"], "question": row["input"]}
        if task in WITH_OPTIONS:
            fields |= {f"OPTION_{letter}": option for letter, option in zip(LETTERS, row["options"], strict=True)}
        elif task == "code_run":
            call = _found(_CALL, row["input"])
            fields |= {"func": call[1], "func_call": call[0]}
        elif task == "math_find":
            fields["prefix"] = f"What is {_found(_WHICH, row['input'])[1].lower()} in the following list?"
        return Asked(PROMPTS[task].format(**fields), _answers(task, row))

    def score(self, sample: Sample, prediction: str) -> float:
        """Return InfiniteBench's score of the task."""
        return METRICS[sample.task](prediction, sample.answers)

    def lenient_score(self, sample: Sample, prediction: str) -> float | None:
        """Return the more tolerant score of ``code_debug``, None for other tasks."""
        metric = LENIENT.get(sample.task)
        return None if metric is None else metric(prediction, sample.answers)


def _found(pattern: re.Pattern[str], text: str) -> re.Match[str]:
    found = pattern.search(text)
    if found is None:
        raise ValueError(f"no {pattern.pattern!r} in its input")
    return found


def _answers(task: str, row: Row) -> tuple[str, ...]:
    """Return the answers as texts: options as text and letter, numbers as digits."""
    given = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
    if given and isinstance(given[0], list):
        (given,) = given
    if task in WITH_OPTIONS:
        return (given[0], LETTERS[row["options"].index(given[0])])
    return tuple(map(str, given))
