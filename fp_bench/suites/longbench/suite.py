"""``longbench`` and ``longbench@e`` as suites."""

from typing import ClassVar

from fp_bench.suites.data_suite import Asked, DataSuite
from fp_bench.suites.hub import Repository
from fp_bench.suites.longbench.tasks import DATA_SETS, IN_E, PACKAGES, STOP, UNTEMPLATED, best_score, length_range
from fp_bench.suites.longbench.templates import PROMPTS
from fp_bench.suites.rows import Row
from fp_bench.suites.sample import Sample


class LongBench(DataSuite):
    """LongBench's 21 data sets, from its own ``data.zip`` or its files; Chinese ones need jieba."""

    name: ClassVar[str] = "longbench"
    tasks: ClassVar[tuple[str, ...]] = tuple(DATA_SETS)
    untemplated: ClassVar[frozenset[str]] = UNTEMPLATED
    repository: ClassVar[Repository] = Repository("zai-org/LongBench", "5e628be450b7e67fb7ae6e201bd6d8f7056f7672")
    hub_file: ClassVar[str] = "data.zip"
    max_new_tokens: ClassVar = {name: data.max_new_tokens for name, data in DATA_SETS.items()}
    stop: ClassVar = STOP
    packages: ClassVar = PACKAGES
    needs: ClassVar[str] = f"{DataSuite.needs}; pip install 'fp_bench[suites]' for some tasks"

    def ask(self, task: str, row: Row) -> Asked:
        """Return a row's prompt and answers; see `DataSuite.ask`."""
        prompt = PROMPTS[task].format(context=row["context"], input=row["input"])
        return Asked(prompt, tuple(row["answers"]), tuple(row["all_classes"] or ()), self.groups(task, row))

    def groups(self, task: str, row: Row) -> tuple[str, ...]:  # noqa: ARG002
        """Return the category of a data set."""
        return (DATA_SETS[task].category,)

    def score(self, sample: Sample, prediction: str) -> float:
        """Return LongBench's score; see `best_score`."""
        return best_score(sample.task, prediction, sample.answers, sample.choices)


class LongBenchE(LongBench):
    """LongBench-E: 13 of the data sets, with equally many short and long texts; means by range of length."""

    variant: ClassVar[str] = "e"
    tasks: ClassVar[tuple[str, ...]] = IN_E

    def file_name(self, task: str) -> str:
        """Return the name of the file of a task."""
        return f"{task}_e"

    def groups(self, task: str, row: Row) -> tuple[str, ...]:
        """Return the category of a data set, and the range of a row's length."""
        return (*super().groups(task, row), length_range(row["length"]))
