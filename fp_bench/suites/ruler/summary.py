"""What is made of RULER's task scores: a mean as each harness has it, the longest context that a model can use.

Scores are shares, 0 to 1; the paper prints percent.
"""

from collections.abc import Mapping, Sequence

from fp_bench.suites.scoring import all_of, printable

LENGTHS = tuple(4096 * 2**doublings for doublings in range(6))
"""The lengths of the paper's tables, 4K to 128K."""
EFFECTIVE = 0.856
"""Average of Llama-2-7B at 4K, the threshold for a length to count (RULER, section 4)."""


def lm_eval_score(prediction: str, answers: Sequence[str]) -> float:
    """Return the score that lm-evaluation-harness gives a sample of any task: the share of its answers that occur.

    In qa NVIDIA's is 1 when any answer occurs. Its mean is that of the thirteen tasks' means, as NVIDIA's.
    Source: EleutherAI/lm-evaluation-harness ``lm_eval/tasks/ruler/common_utils.py``, commit 4e7e0d47.
    """
    return all_of(printable(prediction), answers)


def effective_length(averages: Mapping[int, float]) -> int | None:
    """Return the largest length, of those with an average, whose average reaches the threshold, or None."""
    return max((length for length, score in averages.items() if score >= EFFECTIVE), default=None)


def weighted_average(averages: Mapping[int, float], *, longer_counts_more: bool) -> float:
    """Return the paper's wAvg: weights 1, 2, 3, ... over lengths, increasing (inc) or decreasing (dec).

    Args:
        averages: average of each length; the paper's are of `LENGTHS`.
        longer_counts_more: the longest length has the largest weight, else the shortest.

    Raises:
        ValueError: no lengths.
    """
    if not averages:
        raise ValueError("no lengths to average over")
    ordered = [averages[length] for length in sorted(averages, reverse=not longer_counts_more)]
    weights = range(1, len(ordered) + 1)
    return sum(weight * score for weight, score in zip(weights, ordered, strict=True)) / sum(weights)
