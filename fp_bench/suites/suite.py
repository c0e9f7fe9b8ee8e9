"""The interface of a suite: tasks, their samples, and scores of predictions."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self

from fp_bench.errors import UsageError, did_you_mean
from fp_bench.methods.registry import Spec
from fp_bench.params import Params
from fp_bench.suites.sample import Sample


class Tokenizer(Protocol):
    """A model's tokenizer, as suites may use it. Special tokens are neither added nor counted."""

    @property
    def fingerprint(self) -> str:
        """Identifies the vocabulary and its rules, for caches."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids."""
        ...


class SuiteParams(Params):
    """Parameters of a suite."""


class Suite(ABC):
    """A set of tasks at any length. A third-party suite names itself in the entry-point group ``fp_bench.suites``."""

    name: ClassVar[str]
    """Name on the command line and in records."""
    variant: ClassVar[str] = ""
    """Variant of the protocol, written ``name@variant``."""
    version: ClassVar[int] = 1
    """Increment when the same seed may give different samples or scores."""
    tasks: ClassVar[tuple[str, ...]]
    """All tasks, in the order of tables."""
    left_out: ClassVar[frozenset[str]] = frozenset()
    """Tasks that run only when named."""
    untemplated: ClassVar[frozenset[str]] = frozenset()
    """Tasks whose prompts never use a chat template."""
    needs: ClassVar[str] = ""
    """What a user must install or name before it runs, in a few words; empty: nothing."""
    compared: ClassVar[bool] = False
    """Whether its samples have no answers: next-token distributions are compared with dense attention's."""
    Params: ClassVar[type[SuiteParams]] = SuiteParams

    def __init__(self, params: SuiteParams | None = None) -> None:
        self.params = params if params is not None else self.Params()

    def facts(self) -> dict[str, Any]:
        """Return further dependencies of its samples, besides the arguments of `samples`, for records."""
        return self.params.changed()

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """Build the suite from ``key=value`` options.

        Raises:
            UsageError: an unknown parameter, or a value out of its limits.
        """
        return cls(cls.Params.parse(cls.full_name(), options))

    @classmethod
    def full_name(cls) -> str:
        """Name and variant as on the command line, e.g. ``ruler@nvidia``."""
        return f"{cls.name}@{cls.variant}" if cls.variant else cls.name

    @property
    def label(self) -> str:
        """Name, variant and changed parameters as on the command line."""
        return str(Spec(self.full_name(), self.params.changed()))

    def check_tasks(self, tasks: Sequence[str]) -> None:
        """Raise UsageError if the suite does not have a task."""
        for task in tasks:
            if task not in self.tasks:
                raise UsageError(f"{self.full_name()} has no task {task!r}{did_you_mean(task, self.tasks)}")

    @staticmethod
    def sample_id(task: str, length: int, index: int) -> str:
        """Return the id of a sample before it is written."""
        return f"{task}/{length}/{index}"

    @abstractmethod
    def samples(
        self, task: str, length: int, indices: Sequence[int], tokenizer: Tokenizer, *, seed: int, reserved: int
    ) -> Iterator[Sample]:
        """Write samples of a task; equal arguments give equal samples in every process.

        Args:
            task: one of ``tasks``.
            length: limit of tokens of the prompt, ``reserved`` and the answer together.
            indices: ascending numbers of the samples; sample i does not depend on the others.
            tokenizer: counts tokens.
            seed: another seed gives other samples.
            reserved: number of special tokens and tokens of a chat template, if the task uses one.

        Yields:
            The samples, in the order of ``indices``.

        Raises:
            UsageError: a length too short for the task.
            UnavailableError: missing data.
        """

    def available(self, task: str) -> int | None:  # noqa: ARG002
        """Return the number of samples of a task; None: unlimited.

        Raises:
            UnavailableError: missing data.
        """
        return None

    def provenance(self, task: str) -> dict[str, str]:  # noqa: ARG002
        """Return versions and hashes of the data of a task's samples; ``version`` covers the code.

        Raises:
            UnavailableError: missing data.
        """
        return {}

    @abstractmethod
    def score(self, sample: Sample, prediction: str) -> float:
        """Return the score of a prediction, 0 to 1.

        Args:
            sample: the sample.
            prediction: the text generated after the prompt, without special tokens.
        """

    def lenient_score(self, sample: Sample, prediction: str) -> float | None:  # noqa: ARG002
        """Return a more tolerant score of a prediction, 0 to 1, for tasks whose standard metric is known to be harsh.

        Args:
            sample: the sample.
            prediction: the text generated after the prompt, without special tokens.
        """
        return None
