"""What Prism keeps, in plain torch, float32: the definition the selection is tested against (arXiv 2602.08426)."""

import torch
from torch import Tensor

from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.layout import BLOCK_SIZE, LOG2E, BlockGrid
from fp_bench.kernels.pooling.reference import pool_cells
from fp_bench.kernels.prism import LEAST, Bands
from fp_bench.kernels.ranking import Need
from fp_bench.kernels.ranking.reference import best_blocks


def band_scores(q: Tensor, k: Tensor, bands: Bands, *, scale: float, block_size: int = BLOCK_SIZE) -> Tensor:
    """Return ``S[band, batch * q_heads, rows, key_blocks]``: log2 of each pair's weight before the row's softmax.

    ``qbar_a`` and ``kbar_c`` are means over blocks, absent tokens counted as zeros. In a band D of d' of the d
    dimensions ``S[a, c] = log2(e) * scale * sqrt(d) * qbar_a[D] . kbar_c[D] / (sqrt(d') * t)`` with the temperature
    ``t = sqrt(d' / d) * (rms(qbar[D]) / rms(qbar)) * (rms(kbar[D]) / rms(kbar))``, root mean squares over the blocks of
    the call and the dimensions of a head; t = 1 where bands are not calibrated.

    Args:
        q: ``[batch, q_len, q_heads, head_dim]``.
        k: ``[batch, kv_len, kv_heads, head_dim]``.
        bands: the dimensions.
        scale: factor on the logits.
        block_size: tokens of a block.
    """
    grid = BlockGrid(q.shape[1], k.shape[1], block_size)
    batch, _, q_heads, head_dim = q.shape
    group = q_heads // k.shape[2]
    before = grid.offset - grid.first * block_size
    queries = pool_cells(q, 1, before=before, block_size=block_size)[..., 0, :].float()
    keys = pool_cells(k, 1, block_size=block_size)[..., 0, :].float()
    scores = torch.empty((2, batch, q_heads, grid.rows, grid.key_blocks))
    for band, dimensions in enumerate(bands.dimensions(head_dim)):
        for b in range(batch):
            for head in range(q_heads):
                whole_q, whole_k = queries[b, :, head], keys[b, :, head // group]
                of_q, of_k = whole_q[:, dimensions], whole_k[:, dimensions]
                temperature = 1.0
                if bands.calibrated:
                    shares = [
                        part.square().mean().sqrt() / whole.square().mean().sqrt().clamp_min(LEAST)
                        for part, whole in ((of_q, whole_q), (of_k, whole_k))
                    ]
                    temperature = (len(dimensions) / head_dim) ** 0.5 * (shares[0] * shares[1]).clamp_min(LEAST)
                factor = LOG2E * scale * head_dim**0.5 / (len(dimensions) ** 0.5 * temperature)
                scores[band, b, head] = of_q @ of_k.T * factor
    return scores.flatten(1, 2)


def select_bands(
    q: Tensor, k: Tensor, bands: Bands, shares: tuple[float, float], *, scale: float, sink_blocks: int = 1,
    window_blocks: int = 1, block_size: int = BLOCK_SIZE,
) -> BlockIndex:  # fmt: skip
    """Return the fewest blocks of each band that hold its share of the row's softmax, both bands', and the forced."""
    grid = BlockGrid(q.shape[1], k.shape[1], block_size)
    need = torch.tensor(shares)[:, None].expand(2, grid.rows)
    scores = band_scores(q, k, bands, scale=scale, block_size=block_size)
    forced = {"sink_blocks": sink_blocks, "window_blocks": window_blocks}
    mask = best_blocks(scores, need, Need.SHARE, grid, **forced)
    return BlockIndex.from_mask(mask.view(q.shape[0], q.shape[2], grid.rows, -1), q.shape[1], k.shape[1], block_size)
