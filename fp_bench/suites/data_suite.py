"""A suite whose samples are the rows of a data set with their own lengths; long ones lose their middle."""

import hashlib
import zipfile
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib.resources.abc import Traversable
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, NamedTuple

from pydantic import Field

from fp_bench.errors import UnavailableError, UsageError
from fp_bench.suites import hub
from fp_bench.suites.hub import Repository
from fp_bench.suites.rows import Row, count, numbered, rows
from fp_bench.suites.sample import Sample
from fp_bench.suites.suite import Suite, SuiteParams, Tokenizer

SUFFIXES = (".jsonl", ".json", ".parquet")


class Asked(NamedTuple):
    """A row's prompt before it is cut; names as in `Sample`."""

    prompt: str
    answers: tuple[str, ...]
    choices: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


class DataParams(SuiteParams):
    """The place of the data, and the limit of its prompts."""

    path: str = ""
    """A folder or zip with the data's files. Empty: a pinned revision from the hub."""
    max_prompt: int | None = Field(None, ge=2)
    """Longest prompt in tokens, before any chat template; none: as long as the length allows."""


class DataSuite(Suite):
    """Rows in the order of the file, for any seed; the length is where prompts are cut."""

    repository: ClassVar[Repository]
    hub_file: ClassVar[str]
    """File of a task's rows there, with ``{file}`` for the task's file name, or a zip of all."""
    max_new_tokens: ClassVar[Mapping[str, int]]
    stop: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Stop texts by task, as in `Sample`."""
    packages: ClassVar[Mapping[str, str]] = {}
    """Packages that a task's metric needs."""
    needs: ClassVar[str] = "its data: fetched from the Hugging Face hub, or path=FOLDER"
    Params: ClassVar[type[SuiteParams]] = DataParams
    params: DataParams

    @abstractmethod
    def ask(self, task: str, row: Row) -> Asked:
        """Return a row's prompt.

        Raises:
            KeyError: it lacks a field.
            TypeError, ValueError: a field is of another form.
        """

    def file_name(self, task: str) -> str:
        """Return the name of the file of a task, without its suffix."""
        return task

    def available(self, task: str) -> int:
        """Return the number of rows of a task; see `Suite.available`."""
        return count(self._file(task), self.full_name())

    def samples(
        self,
        task: str,
        length: int,
        indices: Sequence[int],
        tokenizer: Tokenizer,
        *,
        seed: int,  # noqa: ARG002
        reserved: int,
    ) -> Iterator[Sample]:
        """Read samples; see `Suite.samples`.

        Raises:
            UsageError: fewer samples than requested, or a length too short for the answers.
            UnavailableError: missing data or package, or rows of another form.
        """
        self.check_tasks([task])
        owner = f"{self.full_name()}: {task}"
        package = self.packages.get(task)
        if package and not find_spec(package):
            raise UnavailableError(f"{owner} is scored with {package}, not installed; pip install 'fp_bench[suites]'")
        room = length - reserved - self.max_new_tokens[task]
        keep = self._longest(owner, room, length)
        for index, row in numbered(rows(self._file(task), self.full_name()), indices, owner):
            try:
                asked = self.ask(task, row)
            except (KeyError, TypeError, ValueError) as error:
                reason = f"{type(error).__name__}: {error}; its fields: {', '.join(sorted(row))}"
                raise UnavailableError(f"{owner}: sample {index} is not of the data set's form: {reason}") from None
            prompt, cut = without_middle(asked.prompt, keep, room, tokenizer)
            yield Sample(
                id=self.sample_id(task, length, index),
                task=task,
                length=length,
                context=prompt,
                question="",
                answer_prefix="",
                answers=asked.answers,
                max_new_tokens=self.max_new_tokens[task],
                choices=asked.choices,
                stop=self.stop.get(task, ()),
                groups=asked.groups,
                cut_tokens=cut,
            )

    def provenance(self, task: str) -> dict[str, str]:
        """Return the revision of the data, or a hash of the user's file."""
        if not self.params.path:
            return {"data": f"{self.repository.name}@{self.repository.revision}"}
        if task not in self._hashes:
            file = self._file(task)
            self._hashes[task] = f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()[:16]}"
        return {"data": self._hashes[task]}

    @cached_property
    def _hashes(self) -> dict[str, str]:
        return {}

    def _longest(self, owner: str, room: int, length: int) -> int:
        """Return the largest number of tokens of a prompt.

        Raises:
            UsageError: none, or fewer than ``max_prompt``.
        """
        least = self.params.max_prompt or 2
        if room < least:
            needed = length - room + least
            raise UsageError(
                f"{owner}: length {length} is too short for prompts of {least} tokens and the answer; at least {needed}"
            )
        return self.params.max_prompt or room

    def _file(self, task: str) -> Traversable:
        name = self.file_name(task)
        place = Path(self.params.path).expanduser() if self.params.path else self._fetched(name)
        archive = place / self.hub_file
        for found in _candidates(archive if archive.is_file() else place, name):
            if found.is_file():
                return found
        raise UnavailableError(
            f"{self.full_name()}: {place} has no {name}.jsonl; put it there, or name other tasks with --tasks"
        )

    def _fetched(self, name: str) -> Path:
        try:
            return hub.fetch(self.repository, self.hub_file.format(file=name), self.full_name())
        except UnavailableError as error:
            raise UnavailableError(
                f"{error}; put its files in a folder, and give {self.full_name()}:path=FOLDER"
            ) from None


def _candidates(place: Path, name: str) -> Iterator[Traversable]:
    """Yield possible paths of a file within a place, or the place itself."""
    if place.name in [name + suffix for suffix in SUFFIXES]:
        yield place
        return
    root: Traversable = zipfile.Path(place) if zipfile.is_zipfile(place) else place
    yield from (folder / (name + suffix) for folder in (root, root / "data") for suffix in SUFFIXES)


def without_middle(text: str, keep: int, room: int, tokenizer: Tokenizer) -> tuple[str, int]:
    """Cut a text in its middle, because its ends may hold the question (LongBench's ``pred.py``).

    Args:
        text: of any length.
        keep: largest number of tokens; a longer text keeps half of them at each end.
        room: limit of tokens after decoding, which may change their number.
        tokenizer: of the model.

    Returns:
        The text, and the number of removed tokens.
    """
    ids = tokenizer.encode(text)
    half, over = keep // 2, len(ids) - keep
    if over <= 0:
        return text, 0
    while True:
        short = tokenizer.decode(ids[:half]) + tokenizer.decode(ids[len(ids) - half :])
        over = len(tokenizer.encode(short)) - room
        if over <= 0:
            return short, len(ids) - 2 * half
        half = max(0, half - -(-over // 2))
