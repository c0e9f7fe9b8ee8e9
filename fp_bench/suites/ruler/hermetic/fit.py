"""The longest prompt that fits: drafts are written at a few sizes and counted whole, so nothing is estimated."""

from collections.abc import Callable

from fp_bench.suites.ruler.hermetic.draft import Draft
from fp_bench.suites.ruler.templates import Prompt

SLACK = 0.003
"""Share of the limit that may stay unused when units are small."""
MARGIN = 0.001
"""Share of the limit that a guess leaves, so that it rarely turns out too long."""
FEWEST_TOKENS = 0.25
"""Tokens of a unit that are assumed at least, so that a guess stays finite."""


def fitted(draft: Draft, count: Callable[[str], int], limit: int) -> Prompt | None:
    """Write a draft with as much filling as its limit takes.

    Tokens grow almost in proportion to units, so a guess is that proportion, and the next one begins at the last.

    Args:
        draft: what to write.
        count: counts tokens.
        limit: tokens that the prompt may take.

    Returns:
        The prompt, or None when the smallest is too long.
    """
    prompt = draft.write(draft.least)
    smallest = count(prompt.text)
    if smallest > limit:
        return None
    low, high, units = draft.least, None, draft.least + 8 + limit // 512
    while high is None or low < units < high:
        guess = draft.write(units)
        taken = count(guess.text)
        if taken <= limit:
            low, prompt = units, guess
        else:
            high = units
        per_unit = max((taken - smallest) / (units - draft.least), FEWEST_TOKENS)
        if 0 <= limit - taken <= SLACK * limit or (taken <= limit and limit - taken < per_unit / 2):
            break
        units += int(((1 - MARGIN) * limit - taken) // per_unit)
        units = max(units, low + 1)
        if high is not None:
            units = min(units, high - 1)
    return prompt
