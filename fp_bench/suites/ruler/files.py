"""``ruler@files``: data sets of others, in three forms that are recognised by their fields.

- NVIDIA/RULER: ``{task}/validation.jsonl`` with ``input``, ``outputs`` and ``answer_prefix``;
- HELMET, and FlashPrefill's evaluation: ``{task}/validation_{length}.jsonl`` with ``context``, ``query``, ``outputs``;
- simonjegou/ruler (kvpress): all tasks in one file with ``context``, ``question``, ``answer_prefix``, ``answer``.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from fp_bench.errors import UnavailableError, UsageError
from fp_bench.suites.fit import Prompt
from fp_bench.suites.rows import Row, numbered, rows
from fp_bench.suites.ruler import tasks, templates
from fp_bench.suites.ruler.tasks import MAX_NEW_TOKENS, NEEDLES
from fp_bench.suites.ruler.templates import Template
from fp_bench.suites.sample import Sample
from fp_bench.suites.suite import Suite, SuiteParams, Tokenizer

HELMET_NAMES = {
    "niah_single_1": "niah_s_1",
    "niah_single_2": "niah_s_2",
    "niah_single_3": "niah_s_3",
    "niah_multikey_1": "niah_mk_1",
    "niah_multikey_2": "niah_mk_2",
    "niah_multikey_3": "niah_mk_3",
    "niah_multivalue": "niah_mv",
    "niah_multiquery": "niah_mq",
}
HELMET_NEW_TOKENS = {**dict.fromkeys(tasks.TASKS, 50), "niah_multikey_3": 100, "niah_multiquery": 100, "cwe": 100}
"""FlashPrefill's ``ruler/configs``; HELMET's own differ by task group."""
OVER = 1.25
"""Factor by which a file of unknown length may exceed the length with this model's tokenizer."""


class FilesParams(SuiteParams):
    """Where the set is."""

    path: str = ""
    """A folder, or one file with all tasks."""


class RulerFiles(Suite):
    """RULER from files: NVIDIA's folders, HELMET's, or simonjegou/ruler; the seed has no effect."""

    name: ClassVar[str] = "ruler"
    variant: ClassVar[str] = "files"
    tasks: ClassVar[tuple[str, ...]] = tasks.TASKS
    needs: ClassVar[str] = "path=FOLDER with a generated set"
    Params: ClassVar[type[SuiteParams]] = FilesParams
    params: FilesParams

    def samples(
        self,
        task: str,
        length: int,
        indices: Sequence[int],
        tokenizer: Tokenizer,
        *,
        seed: int,  # noqa: ARG002
        reserved: int,  # noqa: ARG002
    ) -> Iterator[Sample]:
        """Read samples; see `Suite.samples`. Prompts are unchanged, whatever tokenizer they were made for.

        Raises:
            UsageError: no path, fewer samples than requested, or a data set of another length.
            UnavailableError: a file that is missing or of unknown form.
        """
        self.check_tasks([task])
        file, names_length = self._file(task, length)
        for number, row in numbered(_rows(file, task), indices, f"ruler@files: {file}: {task}"):
            sample = _sample(file, task, length, number, row)
            if not names_length:
                _check_length(file, sample, row, lambda text: len(tokenizer.encode(text)))
            yield sample

    def score(self, sample: Sample, prediction: str) -> float:
        """Return RULER's score; see `tasks.score`."""
        return tasks.score(sample, prediction)

    def _file(self, task: str, length: int) -> tuple[Path, bool]:
        """Return the file of a task and length, and whether its path names the length."""
        if not self.params.path:
            raise UsageError("ruler@files needs path=FOLDER, with sets of NVIDIA/RULER, HELMET or simonjegou/ruler")
        root = Path(self.params.path).expanduser()
        if root.is_file():
            return root, False
        if not root.is_dir():
            raise UnavailableError(f"ruler@files: {root} is neither a folder nor a file")
        helmet = f"validation_{length}.jsonl"
        for folder in (root / str(length) / task, root / str(length) / "data" / task):
            if (file := folder / "validation.jsonl").is_file():
                return file, True
        for folder in (root / task, root / HELMET_NAMES.get(task, task)):
            if (file := folder / helmet).is_file():
                return file, True
        if (file := root / task / "validation.jsonl").is_file():
            return file, False
        for folder, names_length in ((root / str(length), True), (root, False)):
            found = [file for pattern in ("*.jsonl", "*.parquet") for file in sorted(folder.glob(pattern))]
            if len(found) == 1:
                return found[0], names_length
        raise UnavailableError(
            f"ruler@files: {root} has neither {task}/validation.jsonl, {length}/{task}/validation.jsonl, "
            f"{task}/{helmet} nor one file of all tasks in {length}/"
        )


def _rows(file: Path, task: str) -> Iterator[Row]:
    """Yield the rows of a task; a row without a task belongs to that of its file."""
    return (row for row in rows(file, "ruler@files") if row.get("task", task) == task)


def _sample(file: Path, task: str, length: int, number: int, row: Row) -> Sample:
    try:
        if "input" in row:
            prompt, answers, new_tokens = _nvidia(task, row), row["outputs"], MAX_NEW_TOKENS[task]
        elif "answer_prefix" in row:
            prompt = Prompt(row["context"], row["question"], row["answer_prefix"])
            answers, new_tokens = row["answer"], int(row["max_new_tokens"])
        else:
            prompt, new_tokens = _helmet(task, row), HELMET_NEW_TOKENS[task]
            answers = row["answer"] if "answer" in row else row["outputs"]
    except KeyError as error:
        raise UnavailableError(
            f"ruler@files: {file}: sample {number} of {task} has no field {error}; fields: {', '.join(sorted(row))}"
        ) from None
    answers = list(map(str, answers)) if isinstance(answers, list | tuple) else [str(answers)]
    if not answers or not all(map(str.strip, answers)):  # which every prediction contains
        raise UnavailableError(f"ruler@files: {file}: sample {number} of {task} has an empty answer: {answers}")
    written = tasks.Written(prompt, tuple(answers))
    return tasks.sample_of(task, length, number, written, new_tokens)


def _nvidia(task: str, row: Row) -> Prompt:
    """Split NVIDIA's input before its question; the parts together are the input and the prefix."""
    opening = _template(task).task.split("{context}")[1].split("{")[0]
    cut = row["input"].rfind(opening)
    cut = cut if cut >= 0 else len(row["input"])
    return Prompt(row["input"][:cut], row["input"][cut:], row.get("answer_prefix", ""))


def _helmet(task: str, row: Row) -> Prompt:
    """Put the fields into NVIDIA's wording, like HELMET's ``load_ruler``."""
    template = _template(task)
    # HELMET breaks the line before the answer prefix, and before the coded text.
    template = Template(
        template.task.replace("coded words. {context}", "coded words.\n{context}"),
        "\n" + template.answer_prefix.strip(),
    )
    fields = {name: row[name] for name in ("type_needle_v", "num_v") if name in row}
    fields["query"] = row["query"] if "query" in row else row.get("question", "")
    example = row.get("example") or ""
    return template.fill(row["context"], before=example and example + "\n\n", **fields)


def _template(task: str) -> Template:
    if task in NEEDLES:
        return NEEDLES[task].template
    return {
        "vt": templates.VARIABLE_TRACKING,
        "cwe": templates.COMMON_WORDS,
        "fwe": templates.FREQUENT_WORDS,
        "qa_1": templates.QA,
        "qa_2": templates.QA,
    }[task]


def _check_length(file: Path, sample: Sample, row: Row, count: Callable[[str], int]) -> None:
    """Refuse a data set of another length, because its scores would be in the wrong column."""
    length = int(row.get("length") or count(sample.text) + sample.max_new_tokens)
    if not sample.length / 2 < length <= sample.length * OVER:
        raise UsageError(
            f"ruler@files: {file} has samples of {length} tokens, not {sample.length}; ask for the length they are of"
        )
