"""Prism's selection: two bands of head_dim, each scored from its own pooled queries and keys, each by its own share.

The mean of keys under RoPE loses the content of the fast dimensions; the slow ones keep theirs. So both bands are
scored separately, with a temperature for the loss, and neither hides the other (arXiv 2602.08426).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fp_bench.errors import UnsupportedError
from fp_bench.kernels.backend import resolve_backend
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.layout import BLOCK_SIZE, LOG2E, BlockGrid, check_scale
from fp_bench.kernels.pooling import pool_cells
from fp_bench.kernels.ranking import Need, heads_at_once, list_best

LEAST = 1e-6
"""Below this a root mean square counts as this."""


@dataclass(frozen=True)
class Bands:
    """The dimensions that are scored together; RoPE pairs the halves of a head.

    Args:
        high: dimensions of the fastest rotations, even.
        low: dimensions of the slowest, even; both bands may overlap.
        calibrated: whether each band's temperature restores the energy that pooling took from it.

    Raises:
        UnsupportedError: the value and its limit.
    """

    high: int
    low: int
    calibrated: bool = True

    def __post_init__(self) -> None:
        for name in ("high", "low"):
            if (size := getattr(self, name)) < 2 or size % 2:
                raise UnsupportedError(f"a {name} band of {size} dimensions must be even and at least 2")

    def dimensions(self, head_dim: int) -> tuple[list[int], list[int]]:
        """Return the numbers of the dimensions of the high and of the low band.

        Raises:
            UnsupportedError: a band wider than the head.
        """
        if max(self.high, self.low) > head_dim:
            raise UnsupportedError(f"bands of {self.high} and {self.low} dimensions; the head has {head_dim}")
        half = head_dim // 2
        fast, slow = range(self.high // 2), range(half - self.low // 2, half)
        return [*fast, *(half + i for i in fast)], [*slow, *(half + i for i in slow)]


def select_bands(
    q: Tensor,
    k: Tensor,
    bands: Bands,
    shares: tuple[float, float],
    *,
    scale: float,
    sink_blocks: int = 1,
    window_blocks: int = 1,
    block_size: int = BLOCK_SIZE,
    backend: str = "auto",
) -> BlockIndex:
    """Return the key blocks that Prism keeps for each query block of each query head.

    Defined by `reference.select_bands`. Products of means are float32 matrix products; no sort on GPUs, no host sync.

    Args:
        q: ``[batch, q_len, q_heads, head_dim]``.
        k: ``[batch, kv_len, kv_heads, head_dim]``.
        bands: what is scored together.
        shares: of a row's softmax that the blocks of the high and the low band hold.
        scale: factor on the logits, positive.
        sink_blocks: key blocks at the start that every row keeps.
        window_blocks: key blocks up to and including the diagonal that are kept.
        block_size: tokens of a block.
        backend: ``auto``, ``triton`` or ``torch``; ``hopper`` runs the Triton kernels here.

    Raises:
        UnsupportedError: bands that the head has no room for, a scale that is not positive, too many key blocks.
    """
    check_scale(scale)
    grid = BlockGrid(q.shape[1], k.shape[1], block_size)
    batch, _, q_heads, head_dim = q.shape
    kv_heads, group = k.shape[2], q_heads // k.shape[2]
    kernels = resolve_backend(q, backend)
    before = grid.offset - grid.first * block_size
    # [batch, heads, blocks, head_dim]
    queries = pool_cells(q, before=before, block_size=block_size, backend=kernels)[..., 0, :].transpose(1, 2).float()
    keys = pool_cells(k, block_size=block_size, backend=kernels)[..., 0, :].transpose(1, 2).float()
    index = BlockIndex.empty(batch, q_heads, grid, q.device)
    need = torch.empty((2, grid.rows), dtype=torch.float32, device=q.device)
    parts = []
    for band, dimensions in enumerate(bands.dimensions(head_dim)):
        of_q, of_k = _part(queries, dimensions), _part(keys, dimensions)
        factor = _factor(of_q, of_k, queries, keys, bands.calibrated) * (scale * LOG2E)
        parts.append(((of_q * factor).view(-1, group * grid.rows, len(dimensions)), of_k.flatten(0, 1).mT))
        need[band].fill_(shares[band])
    step = heads_at_once(2 * group * grid.rows * grid.key_blocks, batch * kv_heads)
    for start in step:
        some = slice(start, min(start + step.step, batch * kv_heads))
        scores = q.new_empty((2, (some.stop - start) * group, grid.rows, grid.key_blocks), dtype=torch.float32)
        for band, (of_q, of_k) in enumerate(parts):
            torch.bmm(of_q[some], of_k[some], out=scores[band].view(-1, group * grid.rows, grid.key_blocks))
        lists = slice(start * group, some.stop * group)
        list_best(
            scores, need, Need.SHARE, index, lists,
            sink_blocks=sink_blocks, window_blocks=window_blocks, backend=kernels,
        )  # fmt: skip
    return index


def _part(pooled: Tensor, dimensions: list[int]) -> Tensor:
    """Return some dimensions of pooled vectors, as two slices: an index would be copied to the device each time."""
    half = len(dimensions) // 2
    first, second = dimensions[0], dimensions[half]
    return torch.cat([pooled[..., first : first + half], pooled[..., second : second + half]], dim=-1)


def _factor(of_q: Tensor, of_k: Tensor, queries: Tensor, keys: Tensor, calibrated: bool) -> Tensor | float:
    """Return what a band's products are multiplied by to be logits, for each query head ``[batch, q_heads, 1, 1]``.

    Uncalibrated a band counts as a head of its own size. Calibrated its logits are divided by its share of the energy
    of the pooled queries and keys, so that a band that pooling damped is as sharp as one that it left alone.
    """
    size, head_dim = of_q.shape[-1], queries.shape[-1]
    natural = float((head_dim / size) ** 0.5)
    if not calibrated:
        return natural
    share_q = _rms(of_q) / _rms(queries).clamp_min(LEAST)
    share_k = _rms(of_k) / _rms(keys).clamp_min(LEAST)
    share_k = share_k.repeat_interleave(of_q.shape[1] // of_k.shape[1], dim=1)
    # A band of zeros has no logits to sharpen.
    return natural * float((head_dim / size) ** 0.5) / (share_q * share_k).clamp_min(LEAST)


def _rms(pooled: Tensor) -> Tensor:
    return pooled.square().mean((-2, -1), keepdim=True).sqrt()
