"""Pooling of keys in plain torch, float32: the definition the kernels are tested against."""

import torch
from torch import Tensor

from fp_bench.kernels.layout import BLOCK_SIZE


def pool_keys(k: Tensor, block_size: int = BLOCK_SIZE) -> Tensor:
    """Return the mean key of each block, ``[batch, key_blocks, kv_heads, head_dim]`` in K's dtype.

    Accumulated in float32 and rounded once; a partial last block is divided by its real length
    (FlashPrefill, arXiv 2603.06199, key pooling).
    """
    blocks = [block.float().mean(1) for block in torch.split(k, block_size, dim=1)]
    return torch.stack(blocks, dim=1).to(k.dtype)


def block_radii(k: Tensor, block_size: int = BLOCK_SIZE) -> Tensor:
    """Return the largest distance of a key of each block from the block's mean, ``[batch, key_blocks, kv_heads]``."""
    blocks = [block.float() for block in torch.split(k, block_size, dim=1)]
    return torch.stack([(block - block.mean(1, keepdim=True)).square().sum(-1).amax(1).sqrt() for block in blocks], 1)


def pool_cells(x: Tensor, stride: int, *, before: int = 0, block_size: int = BLOCK_SIZE) -> Tensor:
    """Return ``[batch, blocks, heads, stride, head_dim]``: means by place in a cell, absent tokens counted as zeros."""
    batch, length, heads, head_dim = x.shape
    blocks = -(-(before + length) // block_size)
    sums = torch.zeros((batch, blocks, heads, stride, head_dim), dtype=torch.float32, device=x.device)
    for token in range(length):
        at = before + token
        sums[:, at // block_size, :, at % stride] += x[:, token].float()
    return (sums / (block_size // stride)).to(x.dtype)


def block_likeness(x: Tensor, mean: Tensor | None = None, *, before: int = 0, block_size: int = BLOCK_SIZE) -> Tensor:
    """Return the mean cosine of all pairs of a block's tokens, ``[batch, blocks, heads]``; -2 for a block in part."""
    batch, length, heads, _ = x.shape
    blocks = -(-(before + length) // block_size)
    likeness = torch.full((batch, blocks, heads), -2.0)
    for b, block, head in torch.cartesian_prod(*map(torch.arange, likeness.shape)).tolist():
        first = block * block_size - before
        if first < 0 or first + block_size > length:
            continue
        tokens = x[b, first : first + block_size, head].float()
        tokens = tokens if mean is None else tokens - mean[b, head]
        norms = tokens.norm(dim=-1).clamp_min(1e-12)
        likeness[b, block, head] = (tokens @ tokens.T / (norms[:, None] * norms)).mean()
    return likeness
