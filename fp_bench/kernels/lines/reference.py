"""MInference's selection and conversion in plain torch and Python: the definition its kernels are tested against.

arXiv 2407.02490 and the code of its authors; sizes are tokens. One head at a time, nothing is skipped or merged.
"""

import torch
from torch import Tensor

from fp_bench.kernels.attention.last_reference import last_attention

LAST_QUERIES = 64
"""Queries whose attention decides."""
SINK_COLUMNS, NEAR_DIAGONALS = 30, 100
"""Columns at the start and diagonals beside the main one that come before all others."""
LEAST_COLUMNS, LEAST_DIAGONALS = 30, 50
BLOCK = 64


def line_masses(q: Tensor, k: Tensor, *, scale: float) -> tuple[Tensor, Tensor]:
    """Return ``(by_key, by_offset)``, each ``[batch, q_heads, kv_len]``: attention of the last 64 queries, summed.

    Entry o of the second is the mass on keys o tokens before their query. Each sums to the number of queries.
    """
    last = min(LAST_QUERIES, k.shape[1])
    by_key, by_distance = last_attention(q, k, scale=scale, block_size=last)
    return last * by_key, last * by_distance.flip(-1)


def strongest_lines(
    by_key: Tensor, by_offset: Tensor, columns: int, diagonals: int, near: int = NEAR_DIAGONALS
) -> tuple[list[int], list[int]]:
    """Return ``(columns, offsets)`` of one head: as many of the largest as asked for, ascending and descending.

    Args:
        by_key: ``[kv_len]``, mass of each column.
        by_offset: ``[kv_len]``, mass of each diagonal.
        columns: how many columns; fewer than 30 count as 30.
        diagonals: how many diagonals; fewer than 50 count as 50.
        near: diagonals that come before all others.
    """
    n = len(by_key)
    chosen = []
    sizes = max(columns, LEAST_COLUMNS), max(diagonals, LEAST_DIAGONALS)
    for mass, count, forced in zip((by_key, by_offset), sizes, (SINK_COLUMNS, near), strict=True):
        others = mass[forced:].argsort(descending=True, stable=True) + forced
        chosen.append([*range(min(forced, n)), *others.tolist()][: min(count, n)])
    return sorted(chosen[0]), sorted(chosen[1], reverse=True)


def convert(columns: list[int], offsets: list[int], kv_len: int) -> list[tuple[list[int], list[int]]]:
    """Return ``(first keys of tiles, single columns)`` of each block of 64 queries.

    Each offset below the block's end needs the 64 keys that end ``offset`` before it. In order of these ends: one more
    than 64 beyond the range so far begins a new range, one beyond it makes it 64 longer, others are in it.

    Args:
        columns: ascending.
        offsets: descending, 0 among them.
        kv_len: queries, and keys.
    """
    converted = []
    for end in range(BLOCK, kv_len + BLOCK, BLOCK):
        ranges: list[list[int]] = []
        for offset in offsets:
            needed = max(end - offset, BLOCK)
            if offset >= end:
                continue
            if not ranges or needed > ranges[-1][1] + BLOCK:
                ranges.append([needed - BLOCK, needed])
            elif needed > ranges[-1][1]:
                ranges[-1][1] += BLOCK
        tiles = [first for low, high in ranges for first in range(low, high, BLOCK)]
        outside = [j for j in columns if j < ranges[-1][0] and not any(low <= j < high for low, high in ranges)]
        converted.append((tiles, outside))
    return converted


def lines_mask(converted: list[tuple[list[int], list[int]]], kv_len: int) -> Tensor:
    """Return ``[kv_len, kv_len]`` bool: what converted lists let each query read, under the causal mask."""
    mask = torch.zeros((kv_len, kv_len), dtype=torch.bool)
    for row, (tiles, columns) in enumerate(converted):
        queries = slice(row * BLOCK, (row + 1) * BLOCK)
        for first in tiles:
            mask[queries, first : first + BLOCK] = True
        mask[queries, columns] = True
    return mask.tril()


def a_shape_mask(kv_len: int, sink: int, local: int) -> Tensor:
    """Return ``[kv_len, kv_len]`` bool: query i reads key j <= i when i - j < local or j < sink (A-shape)."""
    j = torch.arange(kv_len)
    return ((j[:, None] - j < local) | (j < sink)).tril()


def strongest_blocks(q: Tensor, k: Tensor, count: int) -> Tensor:
    """Return ``[batch, q_heads, rows, key_blocks]`` bool: the ``count`` largest products of mean query and mean key.

    Blocks are of 64 tokens, the last filled up with zeros, and so are the means; a row of fewer past and present blocks
    than ``count`` keeps all of them. The block of the queries themselves is not forced.

    Args:
        q: ``[batch, kv_len, q_heads, head_dim]``.
        k: ``[batch, kv_len, kv_heads, head_dim]``.
        count: blocks to keep.
    """
    rows = -(-k.shape[1] // BLOCK)
    keys = k.repeat_interleave(q.shape[2] // k.shape[2], 2)
    filled = (torch.nn.functional.pad(tensor.float(), (0, 0, 0, 0, 0, -k.shape[1] % BLOCK)) for tensor in (q, keys))
    mean_q, mean_k = (tensor.reshape(len(q), rows, BLOCK, *q.shape[2:]).mean(2) for tensor in filled)
    products = torch.einsum("bihd,bjhd->bhij", mean_q, mean_k)
    kept = torch.zeros_like(products, dtype=torch.bool)
    for row in range(rows):
        largest = products[:, :, row, : row + 1].argsort(dim=-1, descending=True, stable=True)[..., :count]
        kept[:, :, row].scatter_(-1, largest, True)
    return kept
