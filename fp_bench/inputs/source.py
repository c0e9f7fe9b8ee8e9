"""The interface of an input source. Sources read saved tensors or make synthetic ones; they never import models."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fp_bench.kernels.block_index import BlockIndex


@dataclass(frozen=True)
class Shape:
    """Shape of one attention call; lengths in tokens."""

    batch: int
    seq_len: int
    q_heads: int
    kv_heads: int
    head_dim: int


class QKV(NamedTuple):
    """q ``[batch, seq_len, q_heads, head_dim]``; k and v ``[batch, seq_len, kv_heads, head_dim]``."""

    q: Tensor
    k: Tensor
    v: Tensor


class InputSource(Protocol):
    """Makes or reads the tensors of a cell; the same arguments always give the same values."""

    name: str
    """Name in records, e.g. ``structured`` or ``captured:retriever``."""

    def layers(self) -> list[int]:
        """Return the available layers; synthetic sources have one, 0."""
        ...

    def shapes(self, asked: Shape) -> Shape:
        """Return the shape that this source gives for a requested one.

        Raises:
            UsageError: it has nothing of that length, batch or head count.
        """
        ...

    def tensors(self, shape: Shape, *, layer: int, seed: int, dtype: torch.dtype, device: torch.device) -> QKV:
        """Return the tensors of one layer."""
        ...

    def given_index(self, shape: Shape, *, seed: int, device: torch.device) -> BlockIndex | None:
        """Return the blocks to keep if the source prescribes them (kernel-only cells), else None."""
        ...
