"""``longbench@v2`` as a suite: one of four answers to a question about a text of up to two million words."""

import re
from typing import ClassVar

from fp_bench.suites.data_suite import Asked, DataSuite
from fp_bench.suites.hub import Repository
from fp_bench.suites.longbench.templates import VERSION_2
from fp_bench.suites.rows import Row
from fp_bench.suites.sample import Sample

FIELDS = {
    "$DOC$": "context",
    "$Q$": "question",
    "$C_A$": "choice_A",
    "$C_B$": "choice_B",
    "$C_C$": "choice_C",
    "$C_D$": "choice_D",
}
_FIELD = re.compile("|".join(map(re.escape, FIELDS)))
ANSWERS = (re.compile(r"The correct answer is \(([A-D])\)"), re.compile(r"The correct answer is ([A-D])"))
"""Forms of the answer; the first one found counts."""


class LongBenchV2(DataSuite):
    """LongBench v2: 503 questions with four choices; means by difficulty and length."""

    name: ClassVar[str] = "longbench"
    variant: ClassVar[str] = "v2"
    tasks: ClassVar[tuple[str, ...]] = ("choice",)
    repository: ClassVar[Repository] = Repository("zai-org/LongBench-v2", "2b48e494f2c7a2f0af81aae178e05c7e1dde0fe9")
    hub_file: ClassVar[str] = "data.json"
    max_new_tokens: ClassVar = {"choice": 128}

    def file_name(self, task: str) -> str:
        """Return the name of the one file."""
        del task
        return "data"

    def ask(self, task: str, row: Row) -> Asked:
        """Return a row's prompt and the letter of its answer; see `DataSuite.ask`."""
        del task
        prompt = _FIELD.sub(lambda found: str(row[FIELDS[found[0]]]).strip(), VERSION_2)
        return Asked(prompt, (row["answer"],), groups=(row["difficulty"], row["length"]))

    def score(self, sample: Sample, prediction: str) -> float:
        """Return 1 if the prediction gives the right letter in the requested form."""
        return float(answer(prediction) in sample.answers)


def answer(prediction: str) -> str | None:
    """Return the letter of a prediction, or None.

    Source: THUDM/LongBench ``pred.py``, commit 2e00731f.
    """
    text = prediction.replace("*", "")
    return next((found[1] for pattern in ANSWERS if (found := pattern.search(text))), None)
