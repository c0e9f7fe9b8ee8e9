"""MInference's block-sparse heads: each block of 64 queries keeps the key blocks whose mean agrees most with its own.

Blocks are pooled as in FlashPrefill. PyTorch's top-k ranks the products of means: ``n / 64`` rows of ``n / 64``
numbers a head, a few heads at a time. No block is forced, not even the diagonal. Rows with fewer blocks than a head
keeps read all of them.
"""

import torch
from torch import Tensor

from fp_bench.kernels.block_index import MAX_KEY_BLOCKS, BlockIndex
from fp_bench.kernels.layout import BlockGrid
from fp_bench.kernels.lines import check_prompt
from fp_bench.kernels.lines.head_patterns import HeadPatterns
from fp_bench.kernels.lines.index import TILE
from fp_bench.kernels.pooling import pool_keys

PRODUCTS_AT_ONCE = 2**26
"""Products of means that exist at once, 256 MiB of float32, or those of one head: 4 heads at 256K, all 32 at 64K."""


def select_strongest_blocks(q: Tensor, k: Tensor, patterns: HeadPatterns, *, backend: str = "auto") -> BlockIndex:
    """Return the key blocks of 64 that MInference keeps for each block of 64 queries of heads that keep blocks.

    Defined by `lines.reference.strongest_blocks`; other heads' lists are empty. Any of several equal products may be
    kept. On GPUs nothing waits for the device.

    Args:
        q: ``[batch, kv_len, q_heads, head_dim]``.
        k: ``[batch, kv_len, kv_heads, head_dim]``, at least 64 keys.
        patterns: what each query head keeps; some head must keep blocks.
        backend: ``auto``, ``triton`` or ``torch``, for the means; ``hopper`` runs the Triton kernel here.

    Raises:
        UnsupportedError: a chunk of a prompt, a prompt of less than one block, or patterns of other heads.
    """
    check_prompt(q, k, patterns)
    batch, kv_len, q_heads, _ = q.shape
    grid = BlockGrid(kv_len, kv_len, TILE)
    most = min(patterns.most_blocks, grid.key_blocks)
    index = BlockIndex.empty(batch, q_heads, grid, q.device, width=most)
    index.counts.zero_()
    mean_q, mean_k = (pool_keys(tensor, TILE, backend=backend).float() for tensor in (q, k))
    if kv_len % TILE:
        # The mean of a last block that is short counts its missing keys as zeros. One of queries is only scaled by it.
        mean_k[:, -1] *= kv_len % TILE / TILE
    block = torch.arange(grid.key_blocks, dtype=torch.int32, device=q.device)
    future = block > block[:, None]
    heads_at_once = max(1, PRODUCTS_AT_ONCE // (batch * grid.rows * grid.key_blocks))
    numbers_and_counts = (torch.split(each, heads_at_once) for each in (patterns.block_heads, patterns.block_counts))
    for heads, counts in zip(*numbers_and_counts, strict=True):
        queries = mean_q.index_select(2, heads).transpose(1, 2)
        keys = mean_k.index_select(2, heads // (q_heads // k.shape[2])).permute(0, 2, 3, 1)
        ranked = (queries @ keys).masked_fill_(future, -torch.inf).topk(most).indices
        # Future blocks, taken where there are too few others, sort behind them and are not counted.
        kept = ranked.masked_fill_(block[:most] >= counts[:, None, None], MAX_KEY_BLOCKS).sort(-1).values
        index.blocks.index_copy_(1, heads, kept.to(index.blocks.dtype))
        index.counts.index_copy_(1, heads, (block + 1).minimum(counts[:, None]).expand(batch, -1, -1))
    return index
