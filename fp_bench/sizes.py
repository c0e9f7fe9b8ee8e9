"""Lengths as people write them (``4k``, ``8192``, ``4k-256k``), layers (``0-3,17``), shares and times (``10m``)."""

import re
import warnings
from collections.abc import Callable, Sequence

from fp_bench.errors import UsageError

_SUFFIX = {"": 1, "k": 1024, "m": 1024 * 1024}
MAX_LENGTH = 4 * 1024 * 1024
"""Longest length that the block lists can name (see kernels.block_index)."""
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}
LONGEST_SECONDS = 30 * 24 * 3600


def parse_length(text: str) -> int:
    """Return the number of tokens of ``4k``, ``1m`` or ``8192`` (k = 1024, m = 1024 * 1024).

    Raises:
        UsageError: not such a number, or out of 1..4M.
    """
    match = re.fullmatch(r"([0-9]{1,9})([km]?)", text.strip().lower())
    if not match:
        raise UsageError(f"length {text!r} is not a number of tokens, e.g. 4k, 8192 or 4k-256k")
    length = int(match[1]) * _SUFFIX[match[2]]
    if not 1 <= length < MAX_LENGTH:
        raise UsageError(f"length {text!r} is {length} tokens; the limits are 1 and {MAX_LENGTH - 1}")
    return length


def parse_lengths(text: str) -> list[int]:
    """Return the ascending lengths of ``4k,16k``, ``4k-256k`` (doubling) or a mix, each once.

    Warns of a range whose end is not among them.

    Raises:
        UsageError: a part that is not a length, or a range that does not ascend.
    """
    lengths: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if dash and not (first.strip() and last.strip()):
            raise UsageError(f"range {part!r} lacks an end; write e.g. 4k-256k")
        low = parse_length(first)
        high = parse_length(last) if dash else low
        if high < low:
            raise UsageError(f"range {part!r} descends; write the smaller length first")
        found = [low]
        while 2 * found[-1] <= high:
            found.append(2 * found[-1])
        lengths.update(found)
        if found[-1] < high:
            measured = ", ".join(map(format_length, found))
            warnings.warn(
                f"range {part.strip()} is {measured}: lengths double, so {last.strip()} is not measured", stacklevel=2
            )
    return sorted(lengths)


def format_length(tokens: int) -> str:
    """Return ``4K`` for 4096, and the plain number if it is not a multiple of 1024."""
    return f"{tokens // 1024}K" if tokens % 1024 == 0 else str(tokens)


def format_lengths(lengths: Sequence[int]) -> str:
    """Return ascending lengths in the form of `parse_lengths`: three or more that double become a range."""
    parts = []
    for run in _runs(lengths, lambda before, length: length == 2 * before):
        ends = [format_length(length) for length in run]
        parts += [f"{ends[0]}-{ends[-1]}"] if len(run) > 2 else ends
    return ", ".join(parts)


def format_ms(milliseconds: float) -> str:
    """Return a time in milliseconds with four digits or, from ten seconds on, in whole ones; never ``1.2e+04``."""
    return f"{milliseconds:.4g}" if milliseconds < 9999.5 else f"{milliseconds:.0f}"


def parse_layers(text: str, between: str = ",") -> list[int]:
    """Return the ascending layers of ``0-3,17``, each once.

    Raises:
        ValueError: a part that is neither a number nor a range.
    """
    found: set[int] = set()
    for part in text.split(between):
        match = re.fullmatch(r"\s*([0-9]{1,4})(?:-([0-9]{1,4}))?\s*", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise ValueError(f"{part!r} is neither a layer nor a range of layers; write e.g. 0-15 or 0-3{between}7")
        found |= set(range(int(match[1]), int(match[2] or match[1]) + 1))
    return sorted(found)


def format_layers(layers: Sequence[int]) -> str:
    """Return ascending layers as `parse_layers` reads them; one alone as a range, since a number alone is a count."""
    text = format_ranges(layers)
    return f"{text}-{text}" if text.isdigit() else text


def format_ranges(numbers: Sequence[int]) -> str:
    """Return ``0-4,6`` for ascending numbers."""
    runs = _runs(numbers, lambda before, number: number == before + 1)
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _runs(numbers: Sequence[int], follows: Callable[[int, int], bool]) -> list[list[int]]:
    """Return numbers in runs, in each of which one follows the other."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and follows(runs[-1][-1], number):
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs


def parse_share(text: str, what: str) -> float:
    """Return the share of ``3%`` or ``0.03``.

    Args:
        text: a number, with or without a per-cent sign.
        what: the option it was given for, for the message.

    Raises:
        UsageError: not such a number, or not above 0 and below 1.
    """
    match = re.fullmatch(r"([0-9]{0,9}\.?[0-9]{1,9}) *(%?)", text.strip())
    if not match:
        raise UsageError(f"{what} {text!r} is not a share, e.g. 3% or 0.03")
    share = float(match[1]) / (100 if match[2] else 1)
    if not 0 < share < 1:
        raise UsageError(f"{what} {text!r} is {share:g}; the limits are above 0 and below 1, or 100%")
    return share


def parse_duration(text: str, what: str = "duration") -> float:
    """Return seconds.

    Args:
        text: a number with ``s``, ``m`` or ``h``; without one it is seconds.
        what: the option it was given for, for the message.

    Raises:
        UsageError: no such span, or not above 0 and at most 30 days.
    """
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smh]?)", text.strip().lower())
    if not match:
        raise UsageError(f"{what} {text!r} is not a span of time, e.g. 90s, 10m or 1.5h")
    seconds = float(match[1]) * _SECONDS[match[2]]
    if not 0 < seconds <= LONGEST_SECONDS:
        raise UsageError(f"{what} {text!r} is {seconds:g} s; the limits are above 0 s and {LONGEST_SECONDS} s")
    return seconds
