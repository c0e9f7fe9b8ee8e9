"""Which blocks a selection kept, small enough to store and to draw."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fp_bench.kernels.block_index import BlockIndex, causal_blocks

MAP_SIZE = 256
"""Most rows and columns of a map."""


@dataclass(frozen=True)
class KeptMap:
    """Kept share of the causal block pairs in each cell of a grid over one head."""

    head: int
    density: float
    share: NDArray[np.uint8]
    """``[rows, columns]``, 0 to 255; equal to 0 or 255 where a cell is a single pair."""


def kept_maps(index: object) -> list[KeptMap]:
    """Return the maps of head 0, of the sparsest and of the densest head of the first sequence, each head once."""
    if not isinstance(index, BlockIndex):
        return []
    density = index.density()[0]
    heads = dict.fromkeys((0, int(density.argmin()), int(density.argmax())))
    return [KeptMap(head, float(density[head]), kept_share(index, head)) for head in heads]


def kept_share(index: BlockIndex, head: int, sequence: int = 0) -> NDArray[np.uint8]:
    """Return `KeptMap.share` of one head."""
    one = slice(sequence, sequence + 1), slice(head, head + 1)
    alone = BlockIndex(index.blocks[one], index.counts[one], index.q_len, index.kv_len, index.block_size)
    kept = alone.mask()[0, 0]
    causal = causal_blocks(index.grid, kept.device)
    factor = -(-max(kept.shape) // MAP_SIZE)
    kept_pairs, pairs = (_sums(mask.float(), factor) for mask in (kept & causal, causal))
    share = (kept_pairs / pairs.clamp_min(1) * 255).round()
    return share.to(torch.uint8).cpu().numpy()


def _sums(values: torch.Tensor, factor: int) -> torch.Tensor:
    """Return the sum of each square of ``factor`` by ``factor``, zeros beyond the edges."""
    rows, columns = values.shape
    padded = torch.nn.functional.pad(values, (0, -columns % factor, 0, -rows % factor))
    return padded.view(len(padded) // factor, factor, -1, factor).sum((1, 3))
