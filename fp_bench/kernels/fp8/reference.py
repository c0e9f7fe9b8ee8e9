"""8-bit attention in plain torch, float32: the definition of `fp8`, rounded where and as the kernels round.

Accumulation is in float32 throughout; tensor cores keep fewer bits of a running sum (see `fp8.hopper`).
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.fp8.layout import (
    E4M3,
    E4M3_LARGEST,
    INT8_LARGEST,
    LOG2_WEIGHTS,
    SMALLEST_PEAK,
    Fp8KV,
    key_order,
    key_shift,
)
from fp_bench.kernels.layout import BLOCK_SIZE, LOG2E
from fp_bench.kernels.pooling import reference as defined_pooling


def quantise_kv(k: Tensor, v: Tensor) -> Fp8KV:
    """Return shifted K over ``largest magnitude / 127`` and V over ``/ 448``, rounded by block; see `Fp8KV`."""
    k8, k_scale = _scaled(_blocks(k - key_shift(k)[:, None]), INT8_LARGEST)
    v8, v_scale = _scaled(_blocks(v), E4M3_LARGEST)
    v8 = v8.to(E4M3).view(torch.uint8)[:, :, :, key_order(v.device)].transpose(3, 4).contiguous().view(E4M3)
    scales = torch.stack([k_scale, v_scale, 1 / v_scale, torch.zeros_like(v_scale)], dim=-1)
    return Fp8KV(k8.round().to(torch.int8), v8, scales, defined_pooling.pool_keys(k))


def dequantised(rounded: Fp8KV, kv_len: int) -> tuple[Tensor, Tensor]:
    """Return what shifted K and V were rounded to, ``[batch, kv_len, kv_heads, head_dim]`` float32."""
    in_order = key_order(rounded.v.device).argsort()
    blocks = (rounded.k.float(), rounded.v.float()[..., in_order].transpose(3, 4))
    scales = rounded.scales[..., :2, None, None].unbind(3)
    k, v = ((x * scale).flatten(2, 3)[:, :, :kv_len].transpose(1, 2) for x, scale in zip(blocks, scales, strict=True))
    return k, v


def attention(q: Tensor, rounded: Fp8KV, index: BlockIndex, *, scale: float) -> Tensor:
    """Return causal attention of every query over its listed blocks, in the order of the kernel.

    Each query is rounded to integers over ``largest magnitude / 127``. Blocks are folded into the online softmax one
    by one, the last listed first, then ascending; weights relative to the maximum so far, times 2**8, are rounded to
    e4m3 for the product with V, and not for the denominator.

    Args:
        q: ``[batch, q_len, q_heads, head_dim]``.
        rounded: from `quantise_kv`.
        index: lists of blocks of 128, a list a query head.
        scale: factor on the logits.

    Returns:
        ``[batch, q_len, q_heads, head_dim]`` float32; 0 where a list is empty.
    """
    grid, size = index.grid, index.block_size
    batch, q_len, q_heads, head_dim = q.shape
    group = q_heads // rounded.k.shape[1]
    k, v = dequantised(rounded, index.kv_len)
    peak = q.float().abs().amax(-1, keepdim=True).clamp_min(SMALLEST_PEAK)
    queries = (q.float() * (torch.full_like(peak, INT8_LARGEST) / peak)).round() * (peak / INT8_LARGEST)
    out = torch.zeros((batch, q_len, q_heads, head_dim), dtype=torch.float32, device=q.device)
    for b, head, row in torch.cartesian_prod(*map(torch.arange, index.counts.shape)).tolist():
        blocks = index.blocks[b, head, row, : index.counts[b, head, row]].tolist()
        if not blocks:
            continue
        first = (grid.first + row) * size
        position = torch.arange(max(first, grid.offset), min(first + size, grid.kv_len), device=q.device)
        rows = position - grid.offset
        acc = q.new_zeros((len(rows), head_dim), dtype=torch.float32)
        highest = q.new_full((len(rows),), -1e30, dtype=torch.float32)
        denominator = torch.zeros_like(highest)
        for block in [blocks[-1], *blocks[:-1]]:
            key = torch.arange(block * size, min((block + 1) * size, grid.kv_len), device=q.device)
            logits = queries[b, rows, head] @ k[b, key, head // group].T * (scale * LOG2E)
            logits = logits.masked_fill(position[:, None] < key, -1e30)
            new_highest = torch.maximum(highest, logits.amax(1))
            weights = torch.exp2(logits - new_highest[:, None] + LOG2_WEIGHTS)
            shrink = torch.exp2(highest - new_highest)
            denominator = denominator * shrink + weights.sum(1)
            acc = acc * shrink[:, None] + weights.to(E4M3).float() @ v[b, key, head // group]
            highest = new_highest
        out[b, rows, head] = acc / denominator[:, None]
    return out


def _blocks(x: Tensor) -> Tensor:
    """Return ``[batch, kv_heads, key_blocks, 128, head_dim]`` float32, zeros past the end."""
    batch, _, kv_heads, head_dim = x.shape
    padded = pad(x.float(), (0, 0, 0, 0, 0, -x.shape[1] % BLOCK_SIZE)).transpose(1, 2)
    return padded.reshape(batch, kv_heads, -1, BLOCK_SIZE, head_dim)


def _scaled(blocks: Tensor, largest: float) -> tuple[Tensor, Tensor]:
    """Return blocks within ``largest`` and their scales ``[batch, kv_heads, key_blocks]``."""
    peak = blocks.abs().amax((3, 4)).clamp_min(SMALLEST_PEAK)
    # Not largest / peak, which PyTorch rounds twice.
    factor = torch.full_like(peak, largest) / peak
    return blocks * factor[..., None, None], peak / largest
