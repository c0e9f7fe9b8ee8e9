"""Metrics of predictions, as pure functions; each returns a share between 0 and 1."""

from collections.abc import Sequence


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
