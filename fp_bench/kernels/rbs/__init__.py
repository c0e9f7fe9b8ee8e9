"""RBS-Attention's selection: FlashPrefill's blocks, and those that their radius rescues."""

import torch
from torch import Tensor

from fp_bench.kernels.backend import resolve_backend
from fp_bench.kernels.block_index import BlockIndex, causal_blocks
from fp_bench.kernels.flashprefill import log2_energies_torch
from fp_bench.kernels.flashprefill.rule import KeepRule
from fp_bench.kernels.layout import BLOCK_SIZE, BlockGrid, check_scale
from fp_bench.kernels.rbs.rule import Rescue


def select_rescued(
    q: Tensor,
    pooled: Tensor,
    radii: Tensor,
    rule: KeepRule,
    rescue: Rescue,
    *,
    kv_len: int,
    scale: float,
    block_size: int = BLOCK_SIZE,
    backend: str = "auto",
) -> BlockIndex:
    """Return the key blocks that RBS-Attention keeps for each query block of each query head.

    Defined by `reference.select_rescued`. Only radii are sorted, ``key_blocks`` of them a KV head; no host sync.

    Args:
        q: ``[batch, q_len, q_heads, head_dim]``.
        pooled: ``[batch, key_blocks, kv_heads, head_dim]``, from `pool_with_radii`.
        radii: ``[batch, key_blocks, kv_heads]`` float32, from there too.
        rule: what to keep by mean keys, and what is forced.
        rescue: what to keep by lifted scores.
        kv_len: keys of the sequence; query i has position ``kv_len - q_len + i``.
        scale: factor on the logits, positive.
        block_size: tokens of a query block and of a key block.
        backend: ``auto``, ``triton`` or ``torch``; ``hopper`` runs the Triton kernel here.

    Raises:
        UnsupportedError: a scale that is not positive, or more key blocks than a list can name.
    """
    check_scale(scale)
    grid = BlockGrid(q.shape[1], kv_len, block_size)
    lifts = rescue.lifts(radii)
    if resolve_backend(q, backend) == "triton":
        from fp_bench.kernels.rbs.triton import discover_rescued_triton

        index = BlockIndex.empty(q.shape[0], q.shape[2], grid, q.device)
        discover_rescued_triton(q, pooled, lifts.transpose(1, 2).contiguous(), rule, rescue, scale, index)
        return index
    base = log2_energies_torch(q, pooled, grid, scale)
    # norm(q) * lift is one more dimension of the product.
    lifted = log2_energies_torch(_widened(q, q.float().norm(dim=-1)), _widened(pooled, lifts), grid, scale)
    kept = base >= base.amax(-1, keepdim=True) + rule.log2_alpha
    kept |= lifted >= lifted.amax(-1, keepdim=True) + rescue.log2_alpha
    kept = (kept | rule.forced(grid, q.device)) & causal_blocks(grid, q.device)
    return BlockIndex.from_mask(kept, q.shape[1], kv_len, block_size)


def _widened(vectors: Tensor, last: Tensor) -> Tensor:
    return torch.cat([vectors.float(), last[..., None]], dim=-1)
