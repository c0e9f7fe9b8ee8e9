"""What the RULER paper makes of task scores: an average a length, and how long a context a model can use.

Scores are shares, 0 to 1; the paper prints percent.
"""

from collections.abc import Mapping

from fp_bench.suites.ruler.tasks import TASKS

EFFECTIVE = 0.856
"""Average of Llama-2-7B at 4K, which a model must reach at a length for it to count (RULER, section 4)."""


def average(scores: Mapping[str, float]) -> float:
    """Return the plain mean over the thirteen tasks.

    Args:
        scores: mean score of each task at one length.

    Raises:
        ValueError: a task is missing: a mean of some tasks is no RULER average.
    """
    missing = [task for task in TASKS if task not in scores]
    if missing:
        raise ValueError(f"no score of {', '.join(missing)}")
    return sum(scores[task] for task in TASKS) / len(TASKS)


def effective_length(averages: Mapping[int, float], threshold: float = EFFECTIVE) -> int | None:
    """Return the largest length whose average reaches the threshold, or None.

    Args:
        averages: average of each length.
        threshold: the average to reach.
    """
    return max((length for length, score in averages.items() if score >= threshold), default=None)


def weighted_average(averages: Mapping[int, float], *, longer_counts_more: bool) -> float:
    """Return the paper's wAvg: weights 1, 2, 3, ... over lengths, increasing (inc) or decreasing (dec).

    Args:
        averages: average of each length; the paper takes 4K to 128K, doubling.
        longer_counts_more: the longest length has the largest weight, else the shortest.

    Raises:
        ValueError: no lengths.
    """
    if not averages:
        raise ValueError("no lengths to average over")
    ordered = [averages[length] for length in sorted(averages, reverse=not longer_counts_more)]
    weights = range(1, len(ordered) + 1)
    return sum(weight * score for weight, score in zip(weights, ordered, strict=True)) / sum(weights)
