"""XAttention's selection: block masses from antidiagonal sums, and the smallest set of blocks that holds enough."""

import math

import torch
from torch import Tensor

from fp_bench.errors import UnsupportedError
from fp_bench.kernels.backend import resolve_backend
from fp_bench.kernels.block_index import BlockIndex, causal_blocks
from fp_bench.kernels.layout import BLOCK_SIZE, BlockGrid, check_scale

NEARLY = 0.999
"""Weight from which on a block's largest one counts as its row's largest."""
CELLS_AT_ONCE = 1024
"""Query cells scored by one matrix product of the torch implementation."""


def select_antidiagonal(
    q: Tensor,
    k: Tensor,
    tau: Tensor,
    *,
    stride: int,
    scale: float,
    lagging: int = 0,
    rounded: bool = False,
    backend: str = "auto",
) -> BlockIndex:
    """Return the key blocks that XAttention keeps for each query block of each query head.

    `antidiagonal_weights`, then `cumulative_blocks`; no host sync on GPUs.

    Args:
        q: ``[batch, q_len, q_heads, head_dim]``.
        k: ``[batch, kv_len, kv_heads, head_dim]``.
        tau: ``[q_heads]`` float32 on Q's device.
        stride: tokens of a cell, a divisor of the block of 128.
        scale: factor on the logits, positive.
        lagging: see `cumulative_blocks`.
        rounded: see `antidiagonal_weights`.
        backend: ``auto``, ``triton`` or ``torch``; ``hopper`` runs the Triton kernels here.

    Raises:
        UnsupportedError: a stride or scale outside its limits, or more key blocks than a list can name.
    """
    weights = antidiagonal_weights(q, k, stride=stride, scale=scale, rounded=rounded, backend=backend)
    grid = BlockGrid(q.shape[1], k.shape[1])
    on_gpu = resolve_backend(q, backend) == "triton"
    return cumulative_blocks(weights, tau, grid, lagging=lagging, backend="triton" if on_gpu else "torch")


def antidiagonal_weights(
    q: Tensor,
    k: Tensor,
    *,
    stride: int,
    scale: float,
    block_size: int = BLOCK_SIZE,
    rounded: bool = False,
    backend: str = "auto",
) -> Tensor:
    """Return ``[batch, q_heads, rows, key_blocks]`` float32 masses; undefined where a key block is in the future.

    Defined by `xattention.reference.antidiagonal_weights`, whose arguments these are. The scores of all pairs of
    cells, ``(kv_len / stride) ** 2`` a head, never exist at once.

    Raises:
        UnsupportedError: a stride that does not divide the block, or a scale that is not positive.
    """
    return _weights(q, k, stride, scale, block_size, rounded, False, backend)


def antidiagonal_peaks(
    q: Tensor, k: Tensor, *, stride: int, scale: float, block_size: int = BLOCK_SIZE, backend: str = "auto"
) -> Tensor:
    """Return ``[batch, q_heads, rows, key_blocks]`` float32; undefined where a key block is in the future.

    Sums over a query block's cells of each key block's largest weight, relative to the largest of all key cells. The
    sum is negative where a cell has its largest weight in the block. Defined by `cosa.reference.peaks`.

    Raises:
        UnsupportedError: a stride that does not divide the block, or a scale that is not positive.
    """
    return _weights(q, k, stride, scale, block_size, False, True, backend)


def _weights(
    q: Tensor, k: Tensor, stride: int, scale: float, block_size: int, rounded: bool, peaks: bool, backend: str
) -> Tensor:
    check_scale(scale)
    if stride < 1 or block_size % stride:
        raise UnsupportedError(f"stride {stride} does not divide the block of {block_size} tokens")
    if resolve_backend(q, backend) == "triton":
        from fp_bench.kernels.xattention.triton import antidiagonal_weights_triton

        return antidiagonal_weights_triton(q, k, stride, scale, block_size, rounded, peaks)
    return _weights_torch(q, k, stride, scale, block_size, rounded, peaks)


def cumulative_blocks(
    weights: Tensor, tau: Tensor, grid: BlockGrid, *, lagging: int = 0, peaks: bool = False, backend: str = "auto"
) -> BlockIndex:
    """Return the smallest set of blocks of each row that holds ``tau`` of its mass; first and diagonal are forced.

    Defined by `xattention.reference.cumulative_blocks`, whose arguments these are.

    Args:
        weights: ``[batch, q_heads, rows, key_blocks]`` float32; entries in the future are not read.
        tau: ``[q_heads]`` float32 on the weights' device.
        grid: where the query blocks lie.
        lagging: query blocks at the start that follow the official block finder's slip; 0 is the intended rule.
        peaks: the weights are those of `antidiagonal_peaks`: blocks of negative ones come before all others.
        backend: ``triton`` or ``torch``; ``auto`` is Triton on a GPU.
    """
    index = BlockIndex.empty(weights.shape[0], weights.shape[1], grid, weights.device)
    if backend == "triton" or (backend == "auto" and weights.is_cuda):
        from fp_bench.kernels.xattention.triton import cumulative_blocks_triton

        cumulative_blocks_triton(weights.contiguous(), tau, lagging, index, peaks)
    else:
        _cumulative_torch(weights, tau, lagging, index)
    return index


def _weights_torch(
    q: Tensor, k: Tensor, stride: int, scale: float, block_size: int, rounded: bool, peaks: bool
) -> Tensor:
    """Score some query cells of one head at a time, against the key cells up to the last of them."""
    grid = BlockGrid(q.shape[1], k.shape[1], block_size)
    batch, _, q_heads, _ = q.shape
    group = q_heads // k.shape[2]
    cells = block_size // stride
    first, end = grid.first * cells, grid.key_blocks * cells
    weights = torch.zeros((batch, q_heads, grid.rows, grid.key_blocks), dtype=torch.float32, device=q.device)
    cell = torch.arange(end, device=q.device)
    has_query = (cell >= grid.offset // stride) & (cell < -(-grid.kv_len // stride))
    step = max(CELLS_AT_ONCE // cells, 1) * cells
    for b in range(batch):
        for head in range(q_heads):
            queries = _cells(q[b, :, head], grid.offset - first * stride, end - first, stride).flip(1).flatten(1)
            keys = _cells(k[b, :, head // group], 0, end, stride).flatten(1)
            for x in range(first, end, step):
                stop = min(x + step, end)
                scores = queries[x - first : stop - first] @ keys[:stop].T
                if rounded:
                    scores = scores.to(q.dtype).float()
                scores = (scores * (scale / stride)).masked_fill_(cell[:stop] > cell[x:stop, None], -math.inf)
                if peaks:
                    largest = scores.view(stop - x, stop // cells, cells).amax(-1)
                    largest = (largest - largest.amax(-1, keepdim=True)).exp() * has_query[x:stop, None]
                    of_cells = largest.view(-1, cells, stop // cells)
                    by_block = of_cells.sum(1) * torch.where(of_cells.amax(1) >= NEARLY, -1.0, 1.0)
                else:
                    mass = scores.softmax(-1) * has_query[x:stop, None]
                    by_block = mass.view((stop - x) // cells, cells, stop // cells, cells).sum((1, 3))
                weights[b, head, (x - first) // cells : (stop - first) // cells, : stop // cells] = by_block
    return weights.to(q.dtype).float() if rounded else weights


def _cells(tokens: Tensor, before: int, cells: int, stride: int) -> Tensor:
    """Return ``[cells, stride, head_dim]`` float32: ``tokens`` after ``before`` zero vectors, zeros after them."""
    padded = tokens.new_zeros((cells * stride, tokens.shape[1]), dtype=torch.float32)
    padded[before : before + len(tokens)] = tokens
    return padded.view(cells, stride, tokens.shape[1])


def _cumulative_torch(weights: Tensor, tau: Tensor, lagging: int, index: BlockIndex) -> None:
    grid = index.grid
    causal = causal_blocks(grid, weights.device)
    a = torch.arange(grid.first, grid.key_blocks, device=weights.device)[:, None]
    c = torch.arange(grid.key_blocks, device=weights.device)
    lags = a < lagging
    forced = ((c == 0) & ~lags) | (c == a)
    leads = (weights < 0) & causal
    mass = weights.abs().masked_fill(~causal, 0.0).double()
    need = mass.sum(-1, keepdim=True) * tau.double()[:, None, None]
    held = mass.masked_fill(~forced, 0.0).sum(-1, keepdim=True)
    others = mass.masked_fill(forced | ~causal, -1.0)  # never before a block of mass 0
    key = (others + leads * 2.0 * BLOCK_SIZE).masked_fill(others < 0, -1.0)
    order = key.argsort(dim=-1, descending=True, stable=True)
    ordered = others.gather(-1, order).clamp_min(0.0)
    before = held + ordered.cumsum(-1) - ordered
    count = (before < need).sum(-1, keepdim=True) + (lags & (need > 0))
    taken = torch.zeros_like(forced.expand_as(order)).scatter(-1, order, c < count)
    kept = (taken | (c == 0) | (c == a)) & causal
    index.blocks.copy_(torch.argsort(~kept, dim=-1, stable=True))
    index.counts.copy_(kept.sum(-1))
