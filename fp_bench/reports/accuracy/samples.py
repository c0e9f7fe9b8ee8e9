"""Single samples: the answer of each method next to the expected one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fp_bench.errors import UsageError, did_you_mean
from fp_bench.records.record import AccuracyRecord
from fp_bench.records.store import newest

QUESTION = [name for name in AccuracyRecord.asked if name not in ("method", "method_hash", "asked_backend")]


@dataclass(frozen=True)
class Answers:
    """One sample and its records, dense first, then by label."""

    records: Sequence[AccuracyRecord]

    @property
    def first(self) -> AccuracyRecord:
        """Any of the records; the request is the same in all."""
        return self.records[0]

    @property
    def expected(self) -> list[str]:
        """The right answers; empty if distributions are compared."""
        return next((record.answers for record in self.records if record.answers), [])

    @property
    def differ(self) -> bool:
        """Whether the methods' scores differ; failed answers do not count."""
        return len({record.score for record in self.records}) > 1


def samples(
    records: Sequence[AccuracyRecord],
    *,
    task: str | None = None,
    method: str | None = None,
    length: int | None = None,
    differs: bool = False,
) -> list[Answers]:
    """Return the samples of a run by length, suite, task and number.

    Args:
        records: of a run.
        task: only samples of this task.
        method: only answers of this method (label or name), next to those of dense attention.
        length: only samples of this length, in tokens.
        differs: only samples on which the methods' scores differ.

    Raises:
        UsageError: no record has this task, method or length.
    """
    _check("task", task, {record.task for record in records})
    _check("method", method, {name for record in records for name in (record.label, record.method)})
    _check("length", None if length is None else str(length), {str(record.seq_len) for record in records})
    found: dict[tuple[object, ...], list[AccuracyRecord]] = {}
    for record in newest(records):
        shown = method is None or record.method == "dense" or method in (record.label, record.method)
        if shown and task in (None, record.task) and length in (None, record.seq_len):
            found.setdefault(_question(record), []).append(record)
    together = [Answers(sorted(answers, key=lambda r: (r.method != "dense", r.label))) for answers in found.values()]
    together.sort(key=lambda each: (each.first.seq_len, each.first.suite, each.first.task_number))
    return [each for each in together if each.differ or not differs]


def _check(what: str, given: str | None, known: set[str]) -> None:
    if given is not None and given not in known:
        raise UsageError(f"the run has no {what} {given!r}{did_you_mean(given, known)}")


def _question(record: AccuracyRecord) -> tuple[str, ...]:
    """Return a key shared by all answers to one question."""
    return tuple(str(getattr(record, name)) for name in QUESTION)


def answer_lines(answers: Answers) -> Iterator[str]:
    """Yield one line per method: its score, and its answer from the record."""
    width = max(len(record.label) for record in answers.records)
    for record in answers.records:
        yield f"{record.label:<{width}}  {_score(record):>5}  {_answer(record)}"


def _score(record: AccuracyRecord) -> str:
    return "" if record.score is None else f"{100 * record.score:.1f}".removesuffix(".0")


def _answer(record: AccuracyRecord) -> str:
    if record.status != "ok":
        return f"{record.status}: {record.reason}"
    if record.thought_cut:
        return f"no answer: its thought has no end after {record.new_tokens} tokens: ...{record.thought!r}"
    if record.prediction is None:
        return f"KL {record.kl:.3g} nats to dense" if record.kl is not None else ""
    return repr(record.prediction)


def shortened(text: str, keep: int) -> str:
    """Return a text without its middle, and the number of removed characters.

    Args:
        text: any text.
        keep: characters to keep at the start and at the end.
    """
    left_out = len(text) - 2 * keep
    if left_out <= 0:
        return text
    return f"{text[:keep]}\n[... {left_out} characters left out; --full shows them ...]\n{text[-keep:]}"
