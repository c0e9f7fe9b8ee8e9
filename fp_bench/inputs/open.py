"""Input sources by their names on the command line."""

from pathlib import Path

from fp_bench.errors import UsageError, did_you_mean
from fp_bench.inputs.captured import Captured
from fp_bench.inputs.density import GivenDensity
from fp_bench.inputs.random import Random
from fp_bench.inputs.source import InputSource
from fp_bench.inputs.structured import VERSION, Structured

SPECS = {"structured": "structured", "random": "random", "density": "density:0.04", "captured": "captured:FOLDER"}
"""Every source with an example."""


def open_inputs(spec: str) -> InputSource:
    """Open ``structured``, ``random``, ``density:0.04``, ``captured:FOLDER`` or ``captured:FOLDER:stack=3``.

    ``structured`` is the newest version, ``structured:version=1`` an older one.

    Raises:
        UsageError: an unknown source, a missing, bad or superfluous argument, or a folder that is not a capture.
    """
    kind, colon, argument = spec.strip().partition(":")
    if kind not in SPECS:
        raise UsageError(f"unknown input source {kind!r}{did_you_mean(kind, SPECS)}")
    example = SPECS[kind]
    takes_none, needs_one = kind == "random", ":" in example
    if (takes_none and argument) or (needs_one and not argument) or (colon and not argument):
        raise UsageError(f"inputs {spec!r} cannot be read; write {example}")
    match kind:
        case "structured":
            return Structured(_version(argument)) if argument else Structured()
        case "random":
            return Random()
        case "density":
            return GivenDensity(_number(argument, example))
        case _:
            folder, _, stack = argument.partition(":stack=")
            return Captured(Path(folder), _stacked(stack, argument))


def versioned(spec: str) -> str:
    """Return the name that opens the same source when there is a newer version of it."""
    return f"structured:version={VERSION}" if spec.strip() == "structured" else spec


def _stacked(text: str, argument: str) -> int:
    """Return how many captured layers are joined into one call."""
    if ":stack=" not in argument:
        return 1
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"stack {text!r} is not a number of layers; write e.g. captured:FOLDER:stack=3")
    return int(text)


def _version(argument: str) -> int:
    name, _, number = argument.partition("=")
    if name != "version" or not (number.isascii() and number.isdigit()):
        raise UsageError(f"structured:{argument} cannot be read; write structured or e.g. structured:version=1")
    return int(number)


def _number(text: str, example: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"density {text!r} is not a number; write e.g. {example}") from None
