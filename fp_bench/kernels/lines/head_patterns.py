"""The patterns of MInference: a head keeps columns and diagonals, first tokens and a window, or blocks of keys."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LEAST = (30, 50)
"""Fewest columns and diagonals that a head keeps, whatever is asked for."""


@dataclass(frozen=True)
class Lines:
    """A head that keeps its strongest lines.

    Args:
        columns: how many columns; fewer than 30 count as 30.
        diagonals: how many diagonals; fewer than 50 count as 50.
    """

    columns: int
    diagonals: int

    @property
    def sizes(self) -> tuple[int, int]:
        """Columns and diagonals that are kept of a prompt that is long enough."""
        return max(self.columns, LEAST[0]), max(self.diagonals, LEAST[1])


@dataclass(frozen=True)
class AShape:
    """A head whose query i reads key j <= i when ``i - j < local`` or ``j < sink``; (0, 0) reads nothing."""

    sink: int
    local: int

    @property
    def sizes(self) -> tuple[int, int]:
        """Sink and local."""
        return self.sink, self.local


@dataclass(frozen=True)
class Blocks:
    """A head in which each block of 64 queries keeps the ``count`` blocks of 64 keys with the nearest means."""

    count: int


Pattern = Lines | AShape | Blocks


@dataclass(frozen=True)
class HeadPatterns:
    """The pattern of each query head, on the device of the calls; it is made once, so that selection never waits.

    Args:
        sizes: ``[q_heads, 2]`` int32: columns and diagonals, or sink and local; (0, 0) of heads that keep blocks.
        fixed: ``[q_heads]`` bool: heads that keep no lines.
        most: the largest sizes of the heads that keep lines; (0, 0) where there are none.
        most_sinks: the largest sink of A-shape heads.
        block_heads: ``[block heads]`` int64: the numbers of those that keep blocks.
        block_counts: ``[block heads]`` int32: how many each keeps.
        most_blocks: the largest of these.
    """

    sizes: Tensor
    fixed: Tensor
    most: tuple[int, int]
    most_sinks: int
    block_heads: Tensor
    block_counts: Tensor
    most_blocks: int

    @classmethod
    def of(cls, heads: Sequence[Pattern], device: torch.device | str = "cpu") -> "HeadPatterns":
        """Gather the patterns of all query heads."""
        lines = [head.sizes for head in heads if isinstance(head, Lines)]
        columns, diagonals = (max(size) for size in zip(*lines, strict=True)) if lines else (0, 0)
        blocks = {number: head.count for number, head in enumerate(heads) if isinstance(head, Blocks)}
        sizes = [(0, 0) if isinstance(head, Blocks) else head.sizes for head in heads]
        return cls(
            torch.tensor(sizes, dtype=torch.int32, device=device),
            torch.tensor([not isinstance(head, Lines) for head in heads], device=device),
            (columns, diagonals),
            max((head.sink for head in heads if isinstance(head, AShape)), default=0),
            torch.tensor(list(blocks), dtype=torch.int64, device=device),
            torch.tensor(list(blocks.values()), dtype=torch.int32, device=device),
            max(blocks.values(), default=0),
        )

    @property
    def only_blocks(self) -> bool:
        """Whether every head keeps blocks."""
        return len(self.block_heads) == len(self.sizes)
