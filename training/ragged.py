"""Rows of token ids of different lengths in one array, so that texts are put together without a loop over words."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int16]
Places = NDArray[np.int64]


class Ragged:
    """Pieces of text as token ids.

    Args:
        rows: the ids of each piece.
    """

    def __init__(self, rows: Sequence[Sequence[int]]) -> None:
        self.size: Places = np.array([len(row) for row in rows], dtype=np.int64)
        self.start: Places = np.cumsum(self.size) - self.size
        self.flat: Ids = np.array([token for row in rows for token in row], dtype=np.int16)

    def __len__(self) -> int:
        return len(self.size)

    def __getitem__(self, place: int) -> Ids:
        """Return the ids of a piece."""
        return self.flat[self.start[place] : self.start[place] + self.size[place]]

    def __add__(self, other: "Ragged") -> "Ragged":
        """Return these pieces and then the others."""
        both = Ragged([])
        both.flat = np.concatenate([self.flat, other.flat])
        both.size = np.concatenate([self.size, other.size])
        both.start = np.concatenate([self.start, other.start + len(self.flat)])
        return both

    def joined(self, places: Places) -> Ids:
        """Return pieces one after the other."""
        size = self.size[places]
        ends = np.cumsum(size)
        total = int(ends[-1]) if len(ends) else 0
        return self.flat[np.repeat(self.start[places] - ends + size, size) + np.arange(total)]

    def filling(self, draw: np.random.Generator, room: int) -> Places:
        """Draw pieces that fill the room as well as they can from the left."""
        places = draw.integers(len(self), size=room // int(self.size.min()) + 1)
        return places[: int(np.searchsorted(np.cumsum(self.size[places]), room, side="right"))]
