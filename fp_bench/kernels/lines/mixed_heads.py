"""Selecting and attending where heads differ in kind: lines, windows, and blocks of keys (MInference).

Lines and windows are a VerticalSlashIndex, blocks a BlockIndex; a call that has both takes both, each of which reads
nothing for the other's heads: what they compute and how much they read is then a sum.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fp_bench.kernels.attention import AttentionOut, block_sparse_attention
from fp_bench.kernels.backend import resolve_backend
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.lines import index_of_lines, strongest_lines, vertical_slash_attention
from fp_bench.kernels.lines.head_patterns import HeadPatterns
from fp_bench.kernels.lines.index import VerticalSlashIndex
from fp_bench.kernels.lines.strongest_blocks import select_strongest_blocks


@dataclass(frozen=True)
class MixedIndex:
    """What heads of both kinds read; each index reads nothing for the heads of the other.

    Args:
        lines: of the heads that keep lines or a window.
        blocks: of the heads that keep blocks, which are of 64 keys.
    """

    lines: VerticalSlashIndex
    blocks: BlockIndex

    @property
    def q_len(self) -> int:
        """Queries of the call."""
        return self.lines.q_len

    @property
    def kv_len(self) -> int:
        """Keys of the call."""
        return self.lines.kv_len

    def density(self) -> Tensor:
        """Return the share of the causal query-key pairs that is computed, ``[batch, q_heads]`` float64."""
        return self.lines.density() + self.blocks.density()

    def entries(self) -> Tensor:
        """Return how many causal query-key pairs each head computes, ``[batch, q_heads]`` int64."""
        return self.lines.entries() + self.blocks.entries()

    def keys_read(self, batch: int, head: int, position: Tensor) -> Tensor:
        """Return ``[len(position), kv_len]`` bool: the keys that queries at these positions read."""
        return self.lines.keys_read(batch, head, position) | self.blocks.keys_read(batch, head, position)

    def kept_blocks(self, head: int) -> Tensor:
        """Return ``[rows, rows]`` float: the share of each pair of 64 queries and 64 keys that is read."""
        return self.lines.kept_blocks(head) + self.blocks.kept_blocks(head)


HeadsIndex = VerticalSlashIndex | BlockIndex | MixedIndex


def select_heads(q: Tensor, k: Tensor, patterns: HeadPatterns, *, scale: float, backend: str = "auto") -> HeadsIndex:
    """Return what each query head reads; defined by `lines.reference`, arguments and errors as of `strongest_lines`."""
    lines = strongest_lines(q, k, patterns, scale=scale, backend=backend)
    return index_heads(q, k, patterns, lines, backend=backend)


def index_heads(
    q: Tensor, k: Tensor, patterns: HeadPatterns, lines: tuple[Tensor, Tensor] | None, *, backend: str = "auto"
) -> HeadsIndex:
    """Return what each query head reads, given lines from `strongest_lines`; as `select_heads` else."""
    if patterns.only_blocks:
        return select_strongest_blocks(q, k, patterns, backend=backend)
    of_lines = index_of_lines(lines, patterns, (q.shape[0], k.shape[1]), resolve_backend(q, backend))
    if patterns.most_blocks == 0:
        return of_lines
    return MixedIndex(of_lines, select_strongest_blocks(q, k, patterns, backend=backend))


def attend_heads(
    q: Tensor, k: Tensor, v: Tensor, index: HeadsIndex, *, scale: float, backend: str = "auto"
) -> AttentionOut:
    """Return causal attention of every query over what its head reads.

    Defined by `reference.attention`; arguments and errors are those of `vertical_slash_attention`.
    """
    if isinstance(index, VerticalSlashIndex):
        return vertical_slash_attention(q, k, v, index, scale=scale, backend=backend)
    if isinstance(index, BlockIndex):
        # The Hopper kernel has no blocks of 64; asking for it by name runs the Triton kernel, as with lines.
        return block_sparse_attention(q, k, v, index, scale=scale, backend=resolve_backend(q, backend))
    of_lines = attend_heads(q, k, v, index.lines, scale=scale, backend=backend)
    of_blocks = attend_heads(q, k, v, index.blocks, scale=scale, backend=backend)
    return AttentionOut(of_lines.out.add_(of_blocks.out), torch.maximum(of_lines.lse, of_blocks.lse))
