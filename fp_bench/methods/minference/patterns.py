"""MInference's patterns in a file: a list over layers of ``{head: [kind, size, size, score]}``, as its authors publish.

The sizes of ``vertical_and_slash`` are columns and diagonals, those of ``stream_llm`` first tokens and a window. For
``block_sparse`` the first is the number of blocks of 64 keys, the second is unused. The authors' code reads
neither and keeps 100 blocks; their files have no such heads.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from fp_bench.errors import UsageError, unread
from fp_bench.kernels.lines.head_patterns import AShape, Blocks, Lines, Pattern
from fp_bench.params import write_json

DEFAULT = Lines(1000, 6096)
"""Pattern of heads that the file does not name, or of all heads without a file."""
MOST = 2**31 - 1
"""Largest size: kernels count in int32."""
KINDS = ("vertical_and_slash", "stream_llm", "block_sparse")

Layer = dict[int, Pattern]


def read_patterns(path: Path) -> list[Layer]:
    """Read the patterns of each layer's named heads.

    Raises:
        UsageError: the file is missing or is not a list of layers of known patterns.
    """
    try:
        layers = json.loads(path.read_text())
        found = [{int(head): _pattern(entry) for head, entry in layer.items()} for layer in layers]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        wanted = 'it must be JSON, [{"0": ["vertical_and_slash", 1000, 6096, 1], ...}, ...]'
        raise UsageError(f"minference: config={str(path)!r}: {unread(error)}; {wanted}") from None
    if not found or any(head < 0 for layer in found for head in layer):
        raise UsageError(f"minference: config={str(path)!r}: needs one entry per layer, and heads counted from 0")
    return found


def _pattern(entry: Sequence[object]) -> Pattern:
    kind, *sizes = entry[:3]
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; known: {', '.join(KINDS)}")
    whole = [size for size in sizes if isinstance(size, int) and 0 <= size <= MOST]
    if len(whole) != 2:
        raise ValueError(f"{entry!r} needs two sizes from 0 to {MOST}")
    first, second = whole
    if kind == "vertical_and_slash":
        return Lines(first, second)
    if kind == "stream_llm":
        if second == 0:
            raise ValueError(f"{entry!r} has no window; its second size must be at least 1")
        return AShape(first, second)
    if first == 0:
        raise ValueError(f"{entry!r} keeps no blocks; its first size must be at least 1")
    return Blocks(first)


def write_patterns(path: Path, layers: Sequence[Sequence[tuple[Pattern, float]]]) -> None:
    """Write each layer's patterns of all heads, with their scores.

    Raises:
        UnavailableError: it cannot be written.
    """
    write_json(path, [{str(head): _entry(*found) for head, found in enumerate(layer)} for layer in layers])


def _entry(pattern: Pattern, score: float) -> list[object]:
    match pattern:
        case Lines():
            return ["vertical_and_slash", pattern.columns, pattern.diagonals, score]
        case AShape():
            return ["stream_llm", pattern.sink, pattern.local, score]
        case Blocks():
            return ["block_sparse", pattern.count, 1, score]
