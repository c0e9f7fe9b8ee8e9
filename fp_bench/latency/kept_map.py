"""Maps of what a selection kept, from its block lists."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fp_bench.kernels.block_index import BlockIndex, causal_blocks
from fp_bench.results.kept_maps import KeptMap

MAP_SIZE = 256
"""Most rows and columns of a map."""


def kept_maps(index: object) -> list[KeptMap]:
    """Return the maps of head 0, the sparsest and the densest head of the first sequence, each head once.

    Args:
        index: what a method selected; anything but a `BlockIndex` has no maps.
    """
    if not isinstance(index, BlockIndex):
        return []
    density = index.density()[0]
    heads = dict.fromkeys((0, int(density.argmin()), int(density.argmax())))
    return [KeptMap(head, float(density[head]), kept_share(index, head)) for head in heads]


def kept_share(index: BlockIndex, head: int) -> NDArray[np.uint8]:
    """Return `KeptMap.share` of one head of the first sequence."""
    one = slice(0, 1), slice(head, head + 1)
    alone = BlockIndex(index.blocks[one], index.counts[one], index.q_len, index.kv_len, index.block_size)
    causal = causal_blocks(index.grid, index.counts.device)
    kept = alone.mask()[0, 0] & causal
    factor = -(-max(kept.shape) // MAP_SIZE)
    share = _sums(kept, factor) / _sums(causal, factor).clamp_min(1)
    pooled: NDArray[np.uint8] = (share * 255).round().to(torch.uint8).cpu().numpy()
    return pooled


def _sums(mask: Tensor, factor: int) -> Tensor:
    """Return how many are true in each square of ``factor`` by ``factor``; there are none beyond the edges."""
    rows, columns = mask.shape
    padded = torch.nn.functional.pad(mask.float(), (0, -columns % factor, 0, -rows % factor))
    return padded.view(len(padded) // factor, factor, -1, factor).sum((1, 3))
