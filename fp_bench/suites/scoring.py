"""Metrics of predictions, as pure functions; each returns a share between 0 and 1."""

import re
from collections.abc import Sequence

_CONTROL = re.compile(r"[\x00-\x1f]")


def printable(prediction: str) -> str:
    """Return a prediction as RULER reads it: stripped, control characters as line breaks.

    Source: NVIDIA/RULER ``scripts/eval/evaluate.py``.
    """
    return _CONTROL.sub("\n", prediction.strip()).strip()


def all_of(prediction: str, answers: Sequence[str]) -> float:
    """Return the share of the answers that occur in the prediction, without regard to case (RULER's ``all``).

    Raises:
        ValueError: no answers.
    """
    if not answers:
        raise ValueError("no answers to look for")
    return sum(answer.lower() in prediction.lower() for answer in answers) / len(answers)


def any_of(prediction: str, answers: Sequence[str]) -> float:
    """Return 1 when at least one answer occurs in the prediction, without regard to case (RULER's ``part``).

    Raises:
        ValueError: no answers.
    """
    if not answers:
        raise ValueError("no answers to look for")
    return float(any(answer.lower() in prediction.lower() for answer in answers))
