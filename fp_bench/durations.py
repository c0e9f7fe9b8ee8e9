"""Spans of time as people write them: ``90``, ``30s``, ``10m``, ``1.5h``."""

import re

from fp_bench.errors import UsageError

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}
LONGEST = 30 * 24 * 3600


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
    if not 0 < seconds <= LONGEST:
        raise UsageError(f"{what} {text!r} is {seconds:g} s; the limits are above 0 s and {LONGEST} s")
    return seconds
