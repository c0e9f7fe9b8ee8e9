"""What a suite is: tasks, the samples of each, and how a prediction is scored. There is no suite in here."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self

from fp_bench.errors import UsageError, did_you_mean
from fp_bench.methods.registry import Spec
from fp_bench.params import Params
from fp_bench.suites.sample import Sample


class Tokenizer(Protocol):
    """What a suite may ask of a model's tokenizer. Special tokens are neither added nor counted."""

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
    """Which protocol of that name this is; written ``name@variant``."""
    version: ClassVar[int] = 1
    """Raised when the same seed may give other samples or scores than before."""
    tasks: ClassVar[tuple[str, ...]]
    """All tasks, in the order of tables."""
    left_out: ClassVar[frozenset[str]] = frozenset()
    """Tasks that are only run when they are named."""
    untemplated: ClassVar[frozenset[str]] = frozenset()
    """Tasks whose prompts reach a model as they are: a chat template is never put around them."""
    needs: ClassVar[str] = ""
    """What a user must have or name before it runs, in a few words; empty: nothing."""
    compared: ClassVar[bool] = False
    """Whether its samples have no answers: next-token distributions are compared with dense attention's."""
    Params: ClassVar[type[SuiteParams]] = SuiteParams

    def __init__(self, params: SuiteParams | None = None) -> None:
        self.params = params if params is not None else self.Params()

    def facts(self) -> dict[str, Any]:
        """Return what its samples depend on beside the arguments of `samples`, for records."""
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
        """Name and variant as the command line takes them, e.g. ``ruler@nvidia``."""
        return f"{cls.name}@{cls.variant}" if cls.variant else cls.name

    @property
    def label(self) -> str:
        """Name, variant and changed parameters as the command line takes them."""
        return str(Spec(self.full_name(), self.params.changed()))

    def check_tasks(self, tasks: Sequence[str]) -> None:
        """Raise UsageError when a task is none of this suite's."""
        for task in tasks:
            if task not in self.tasks:
                raise UsageError(f"{self.full_name()} has no task {task!r}{did_you_mean(task, self.tasks)}")

    @staticmethod
    def sample_id(task: str, length: int, index: int) -> str:
        """Return the id of a sample, which is known before it is written."""
        return f"{task}/{length}/{index}"

    @abstractmethod
    def samples(
        self, task: str, length: int, indices: Sequence[int], tokenizer: Tokenizer, *, seed: int, reserved: int
    ) -> Iterator[Sample]:
        """Write samples of a task; equal arguments give equal samples in every process.

        Args:
            task: one of ``tasks``.
            length: tokens that the prompt, ``reserved`` and the answer may take together.
            indices: ascending numbers of the samples; sample i does not depend on which others are asked for.
            tokenizer: counts tokens.
            seed: another seed gives other samples.
            reserved: tokens that special tokens and a chat template, if the task takes one, will add.

        Yields:
            The samples, in the order of ``indices``.

        Raises:
            UsageError: a length too short for the task.
            UnavailableError: data that is not here.
        """

    def available(self, task: str) -> int | None:  # noqa: ARG002
        """Return how many samples a task has; None: as many as are asked for.

        Raises:
            UnavailableError: data that is not here.
        """
        return None

    def provenance(self, task: str) -> dict[str, str]:  # noqa: ARG002
        """Return versions and hashes of the data that a task's samples are made of; code has ``version``.

        Raises:
            UnavailableError: data that is not here.
        """
        return {}

    @abstractmethod
    def score(self, sample: Sample, prediction: str) -> float:
        """Return how right a prediction is, 0 to 1.

        Args:
            sample: what was asked.
            prediction: the text generated after the prompt, without special tokens.
        """

    def lenient_score(self, sample: Sample, prediction: str) -> float | None:  # noqa: ARG002
        """Return a kinder reading of a prediction than `score`, 0 to 1, where the comparable metric is known as harsh.

        Args:
            sample: what was asked.
            prediction: the text generated after the prompt, without special tokens.
        """
        return None
