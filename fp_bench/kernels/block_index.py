"""BlockIndex: which key blocks each query block reads. Most methods pass one from selection to attention."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from fp_bench.errors import UnsupportedError
from fp_bench.kernels.layout import BLOCK_SIZE, BlockGrid
from fp_bench.kernels.selection import causal_entries

MAX_KEY_BLOCKS = torch.iinfo(torch.int16).max
ROWS_AT_ONCE = 16
"""Query blocks scored by one matrix product of the torch implementation: 2048 rows keep it busy and small."""


@dataclass(frozen=True)
class BlockIndex:
    """Lists of ascending key blocks, one list a row of tiles: a query block of a query head, or packed rows.

    Args:
        blocks: ``[batch, q_heads / packed, rows, width]`` int16; entries from ``counts`` on are undefined. Ascending,
            so the diagonal block, when listed, is the last entry. ``width`` is the number of key blocks, or less where
            lists are known to be shorter.
        counts: ``[batch, q_heads / packed, rows]`` int32; 0 is an empty list, whose output is 0.
        q_len: queries of the call.
        kv_len: keys of the call.
        block_size: tokens of a key block, and of a query block.
        packed: query heads that share a list: 1, or all those of a KV head (`BlockGrid`).
    """

    blocks: Tensor
    counts: Tensor
    q_len: int
    kv_len: int
    block_size: int = BLOCK_SIZE
    packed: int = 1

    @classmethod
    def empty(
        cls, batch: int, lists: int, grid: BlockGrid, device: torch.device | str = "cpu", width: int | None = None
    ) -> "BlockIndex":
        """Allocate an index whose lists a kernel will fill, ``lists`` of them a row.

        Lists have room for ``width`` blocks, by default for all.

        Raises:
            UnsupportedError: more key blocks than the int16 lists can name.
        """
        if grid.key_blocks > MAX_KEY_BLOCKS:
            raise UnsupportedError(
                f"kv_len {grid.kv_len} has {grid.key_blocks} blocks of {grid.block_size}; the limit is {MAX_KEY_BLOCKS}"
            )
        room = grid.key_blocks if width is None else width
        blocks = torch.empty((batch, lists, grid.rows, room), dtype=torch.int16, device=device)
        counts = torch.empty((batch, lists, grid.rows), dtype=torch.int32, device=device)
        return cls(blocks, counts, grid.q_len, grid.kv_len, grid.block_size, grid.packed)

    @classmethod
    def from_mask(
        cls, mask: Tensor, q_len: int, kv_len: int, block_size: int = BLOCK_SIZE, packed: int = 1
    ) -> "BlockIndex":
        """Build the lists of a boolean mask ``[batch, q_heads / packed, rows, key_blocks]``, without non-causal pairs.

        Raises:
            UnsupportedError: the mask's rows or key blocks are not those of the lengths.
        """
        grid = BlockGrid(q_len, kv_len, block_size, packed)
        if mask.shape[2:] != (grid.rows, grid.key_blocks):
            raise UnsupportedError(
                f"mask {list(mask.shape)} does not fit q_len {q_len}, kv_len {kv_len}: "
                f"[batch, q_heads, {grid.rows}, {grid.key_blocks}] does"
            )
        index = cls.empty(mask.shape[0], mask.shape[1], grid, mask.device)
        kept = mask & causal_blocks(grid, mask.device)
        # A stable sort of "dropped" puts the kept ids first and leaves them ascending.
        index.blocks.copy_(torch.argsort(~kept, dim=-1, stable=True))
        index.counts.copy_(kept.sum(-1))
        return index

    @property
    def grid(self) -> BlockGrid:
        """Where the rows of tiles lie."""
        return BlockGrid(self.q_len, self.kv_len, self.block_size, self.packed)

    @property
    def q_heads(self) -> int:
        """Query heads of the call."""
        return self.counts.shape[1] * self.packed

    def mask(self) -> Tensor:
        """Return the lists as a boolean mask ``[batch, q_heads / packed, rows, key_blocks]``."""
        # Undefined entries point at one more column, which is cut off.
        target = self._listed(self.blocks, self.counts)
        shape = (*self.counts.shape, self.grid.key_blocks + 1)
        mask = torch.zeros(shape, dtype=torch.bool, device=self.blocks.device)
        return mask.scatter_(-1, target, True)[..., :-1]

    def density(self) -> Tensor:
        """Return the share of the causal query-key pairs that is computed, ``[batch, q_heads]`` float64."""
        return self.entries().double() / causal_entries(self.q_len, self.kv_len)

    def entries(self) -> Tensor:
        """Return how many causal query-key pairs each head computes, ``[batch, q_heads]`` int64."""
        grid = self.grid
        own = grid.diagonals(self.counts.device)
        first, last = grid.spans(self.counts.device)
        queries = last - first
        # Keys of its own block that the queries of each row see: a sum of consecutive integers.
        before = first - own * grid.block_size
        diagonal = (before + 1 + before + queries) * queries // 2
        at_end = (self.counts.long() - 1).clamp_min(0)[..., None]
        lists_own = (self.blocks.gather(-1, at_end)[..., 0] == own) & (self.counts > 0)
        past = self.counts.long() - lists_own.long()
        of_head = past[:, :, None] * queries * grid.block_size + lists_own.long()[:, :, None] * diagonal
        return of_head.sum(-1).flatten(1)

    def keys_read(self, batch: int, head: int, position: Tensor) -> Tensor:
        """Return ``[len(position), kv_len]`` bool: which keys the lists of one head let each position read."""
        grid = self.grid
        row = grid.row_of(position, head % self.packed)
        lists = head // self.packed
        blocks = self._listed(self.blocks[batch, lists, row], self.counts[batch, lists, row])
        by_block = torch.zeros((len(position), grid.key_blocks + 1), dtype=torch.bool, device=position.device)
        by_block.scatter_(1, blocks, True)
        return by_block[:, :-1].repeat_interleave(grid.block_size, dim=1)[:, : self.kv_len]

    def kept_blocks(self, head: int) -> Tensor:
        """Return ``[query blocks, key_blocks]`` float: the share of each block pair that a head keeps.

        Of a head of the first sequence; of packed rows the mean over those of a query block.
        """
        grid = self.grid
        one = slice(0, 1), slice(head // self.packed, head // self.packed + 1)
        alone = BlockIndex(self.blocks[one], self.counts[one], self.q_len, self.kv_len, self.block_size, self.packed)
        query_block = grid.diagonals(self.counts.device)
        query_block = query_block - query_block[0]
        kept = torch.zeros((int(query_block[-1]) + 1, grid.key_blocks), device=self.counts.device)
        kept.index_add_(0, query_block, alone.mask()[0, 0].float())
        return kept / torch.bincount(query_block)[:, None]

    def _listed(self, blocks: Tensor, counts: Tensor) -> Tensor:
        """Return lists as int64, with the number of key blocks where an entry is undefined."""
        listed = torch.arange(blocks.shape[-1], device=blocks.device) < counts[..., None]
        return torch.where(listed, blocks.long(), self.grid.key_blocks)


def causal_blocks(grid: BlockGrid, device: torch.device | str = "cpu") -> Tensor:
    """Return ``[rows, key_blocks]``: the key blocks of which each row can see a key."""
    return torch.arange(grid.key_blocks, device=device) <= grid.diagonals(device)[:, None]


def few_rows(batch: int, lists: int, grid: BlockGrid) -> Iterator[tuple[int, int, slice]]:
    """Yield (sequence, list, some rows of tiles) until all were: about 2048 rows of Q of each head at a time."""
    at_once = ROWS_AT_ONCE * grid.packed
    for b, number, row in product(range(batch), range(lists), range(0, grid.rows, at_once)):
        yield b, number, slice(row, min(row + at_once, grid.rows))


def list_kept(index: BlockIndex, b: int, number: int, rows: slice, kept: Tensor) -> None:
    """Write the lists of some rows: the kept ones of their first key blocks, ``[rows, blocks]`` bool, all causal."""
    index.blocks[b, number, rows, : kept.shape[1]] = torch.argsort(~kept, dim=-1, stable=True).to(torch.int16)
    index.counts[b, number, rows] = kept.sum(-1, dtype=torch.int32)
