"""Mean keys of blocks, which FlashPrefill scores instead of every key, and the distance of keys from their mean."""

import torch
from torch import Tensor

from fp_bench.kernels.backend import resolve_backend
from fp_bench.kernels.layout import BLOCK_SIZE

PARTIAL = -2.0
"""The likeness of a block that is not whole."""


def pool_keys(k: Tensor, block_size: int = BLOCK_SIZE, *, backend: str = "auto") -> Tensor:
    """Return the mean key of each block, ``[batch, key_blocks, kv_heads, head_dim]`` in K's dtype.

    Accumulated in float32, rounded once; a partial last block is divided by its real length. Defined by
    `reference.pool_keys`.

    Args:
        k: ``[batch, kv_len, kv_heads, head_dim]``, head_dim contiguous.
        block_size: tokens of a block.
        backend: ``auto``, ``triton`` or ``torch``; ``hopper`` runs the Triton kernel here.
    """
    if resolve_backend(k, backend) == "triton":
        from fp_bench.kernels.pooling.triton import pool_keys_triton

        return pool_keys_triton(k, block_size)
    return _pool_keys_torch(k, block_size)


def pool_with_radii(k: Tensor, block_size: int = BLOCK_SIZE, *, backend: str = "auto") -> tuple[Tensor, Tensor]:
    """Return mean keys as `pool_keys`, and the radius of each block, ``[batch, key_blocks, kv_heads]`` float32.

    A block's radius is the largest distance of one of its keys from their mean, before the mean is rounded. Defined by
    `reference.block_radii`; arguments as `pool_keys`.
    """
    if resolve_backend(k, backend) == "triton":
        from fp_bench.kernels.pooling.radii_triton import pool_with_radii_triton

        return pool_with_radii_triton(k, block_size)
    blocks = [block.float() for block in torch.split(k, block_size, dim=1)]
    means = [block.mean(1, keepdim=True) for block in blocks]
    radii = [(block - mean).norm(dim=-1).amax(1) for block, mean in zip(blocks, means, strict=True)]
    return torch.cat(means, dim=1).to(k.dtype), torch.stack(radii, dim=1)


def pool_cells(
    x: Tensor, stride: int = 1, *, before: int = 0, block_size: int = BLOCK_SIZE, backend: str = "auto"
) -> Tensor:
    """Return means of each block's tokens by their place in a cell, ``[batch, blocks, heads, stride, head_dim]``.

    A block is ``block_size // stride`` cells of ``stride`` tokens. ``before`` zero vectors stand before the tokens, and
    zeros fill the last block: they count, as in code that pads. Accumulated in float32, rounded once. Defined by
    `reference.pool_cells`.

    Args:
        x: ``[batch, length, heads, head_dim]``, head_dim contiguous.
        stride: tokens of a cell, a power of two and a divisor of ``block_size``.
        before: tokens of the first block that are not there.
        block_size: tokens of a block.
        backend: ``auto``, ``triton`` or ``torch``; ``hopper`` runs the Triton kernel here.
    """
    if resolve_backend(x, backend) == "triton":
        from fp_bench.kernels.pooling.cells_triton import pool_cells_triton

        return pool_cells_triton(x, stride, before, block_size)
    after = -(before + x.shape[1]) % block_size
    padded = torch.nn.functional.pad(x, (0, 0, 0, 0, before, after))
    cells = padded.view(x.shape[0], -1, block_size // stride, stride, *x.shape[2:])
    return cells.mean(2, dtype=torch.float32).transpose(2, 3).to(x.dtype)


def block_likeness(
    x: Tensor, mean: Tensor | None = None, *, before: int = 0, block_size: int = BLOCK_SIZE, backend: str = "auto"
) -> Tensor:
    """Return how alike the tokens of each block are, ``[batch, blocks, heads]`` float32: their mean pairwise cosine.

    A block that is not whole is -2, below every cosine. Accumulated in float32. Defined by `reference.block_likeness`.

    Args:
        x: ``[batch, length, heads, head_dim]``, head_dim contiguous.
        mean: ``[batch, heads, head_dim]`` float32, taken off every token first.
        before: tokens of the first block that are not there.
        block_size: tokens of a block.
        backend: ``auto``, ``triton`` or ``torch``; ``hopper`` runs the Triton kernel here.
    """
    if resolve_backend(x, backend) == "triton":
        from fp_bench.kernels.pooling.likeness_triton import block_likeness_triton

        return block_likeness_triton(x, mean, before, block_size)
    batch, length = x.shape[:2]
    centred = x.float() if mean is None else x.float() - mean[:, None]
    directions = torch.nn.functional.normalize(centred, dim=-1)
    after = -(before + length) % block_size
    padded = torch.nn.functional.pad(directions, (0, 0, 0, 0, before, after))
    sums = padded.view(batch, -1, block_size, *x.shape[2:]).sum(2)
    likeness: Tensor = sums.square().sum(-1) / block_size**2
    if before:
        likeness[:, 0] = PARTIAL
    if after:
        likeness[:, -1] = PARTIAL
    return likeness


def _pool_keys_torch(k: Tensor, block_size: int) -> Tensor:
    full, rest = divmod(k.shape[1], block_size)
    whole = k[:, : full * block_size].reshape(k.shape[0], full, block_size, *k.shape[2:])
    parts = [whole.mean(2, dtype=torch.float32)]
    if rest:
        parts.append(k[:, -rest:].mean(1, keepdim=True, dtype=torch.float32))
    return torch.cat(parts, dim=1).to(k.dtype)
