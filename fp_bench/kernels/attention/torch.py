"""Block-sparse attention in plain torch: one dense attention a query block over the keys it lists.

Only listed keys are gathered and multiplied, so the time falls with density, without a compile step. On the CPU each
query block runs PyTorch's own flash kernel, so its times are comparable with dense SDPA there.
"""

import math

import torch
from torch import Tensor

from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.pooling.means import BlockMeans


def block_sparse_attention_torch(
    q: Tensor, k: Tensor, v: Tensor, index: BlockIndex, scale: float, means: BlockMeans | None = None
) -> tuple[Tensor, Tensor]:
    """Return ``(out, lse)`` as `attention.block_sparse_attention` does."""
    grid = index.grid
    size, group = grid.block_size, q.shape[2] // k.shape[2]
    out = torch.zeros_like(q, memory_format=torch.contiguous_format)
    lse = torch.full((q.shape[0], q.shape[2], q.shape[1]), -math.inf, dtype=torch.float32, device=q.device)
    counts, diagonals = index.counts.tolist(), grid.diagonals().tolist()
    begins, ends = (each.tolist() for each in grid.spans())
    in_block = torch.arange(size, device=q.device)
    # Only the last listed block can be the diagonal one: its mask ends every row's mask.
    mask = torch.zeros((size, grid.key_blocks * size), dtype=q.dtype, device=q.device)
    mask[:, -size:] = torch.where(in_block > in_block[:, None], -math.inf, 0.0)
    for b in range(q.shape[0]):
        for head in range(q.shape[2]):
            keys, values = k[b, :, head // group], v[b, :, head // group]
            for row, a in enumerate(diagonals):
                count = counts[b][head // grid.packed][row]
                low, high = begins[head % grid.packed][row], ends[head % grid.packed][row]
                if count == 0 or low == high:
                    continue
                blocks = index.blocks[b, head // grid.packed, row, :count].long()
                seen = min((a + 1) * size, grid.kv_len)  # of the diagonal block, whoever sees it
                tokens = (blocks[:, None] * size + in_block).flatten()
                ends_in_diagonal = int(blocks[-1]) == a
                if ends_in_diagonal:
                    tokens = tokens[: len(tokens) - ((a + 1) * size - seen)]
                row_mask = mask.new_zeros((high - low, len(tokens)))
                if ends_in_diagonal:
                    end = mask.shape[1] - ((a + 1) * size - seen)
                    row_mask = mask[low - a * size : high - a * size, end - len(tokens) : end]
                tile_keys, tile_values = keys[tokens], values[tokens]
                if means is not None:
                    pruned = torch.ones(a, dtype=torch.bool, device=q.device)
                    pruned[blocks[blocks < a]] = False
                    tile_keys = torch.cat([tile_keys, means.k[b, :a, head // group][pruned]])
                    tile_values = torch.cat([tile_values, means.v[b, :a, head // group][pruned]])
                    added = len(tile_keys) - len(tokens)
                    row_mask = torch.nn.functional.pad(row_mask, (0, added), value=math.log(size))
                queries = slice(low - grid.offset, high - grid.offset)
                tile = _attend_tile(q[b, queries, head], tile_keys, tile_values, row_mask, scale)
                out[b, queries, head], lse[b, head, queries] = tile
    return out, lse


def _attend_tile(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return ``(out [queries, head_dim], lse [queries])`` of one row of tiles over gathered keys."""
    if q.device.type == "cpu":
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q[None, None],
            k[None, None],
            v[None, None],
            attn_mask=mask[None, None],
            scale=scale,
        )
        return out[0, 0], lse[0, 0]
    logits = q.float() @ k.float().T * scale + mask.float()
    lse = logits.logsumexp(-1)
    return (torch.exp(logits - lse[:, None]) @ v.float()).to(q.dtype), lse
