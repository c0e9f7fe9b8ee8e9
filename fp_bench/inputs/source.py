"""What an input source is. Sources read saved tensors or make synthetic ones; they never import models."""

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
    """As records carry it, e.g. ``structured`` or ``captured:retriever``."""

    def layers(self) -> list[int]:
        """Return the layers there are inputs of; synthetic sources have one, 0."""
        ...

    def shapes(self, asked: Shape) -> Shape:
        """Return the shape this source really gives when ``asked`` is asked for.

        Raises:
            UsageError: it has nothing of that length, batch or head count.
        """
        ...

    def tensors(self, shape: Shape, *, layer: int, seed: int, dtype: torch.dtype, device: torch.device) -> QKV:
        """Return the tensors of one layer."""
        ...

    def given_index(self, shape: Shape, *, seed: int, device: torch.device) -> BlockIndex | None:
        """Return the blocks to keep where the source prescribes them (kernel-only cells), else None."""
        ...
