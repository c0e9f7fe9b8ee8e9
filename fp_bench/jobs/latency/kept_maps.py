"""Maps of what a selection kept."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fp_bench.kernels.selection import Selection
from fp_bench.records.kept_maps import KeptMap

MAP_SIZE = 256
"""Most rows and columns of a map."""


def kept_maps(index: Selection | None) -> list[KeptMap]:
    """Return the maps of head 0, the sparsest and the densest head of the first sequence, each head once.

    Args:
        index: a method's selection; None (dense) has no maps.
    """
    if index is None:
        return []
    density = index.density()[0]
    heads = dict.fromkeys((0, int(density.argmin()), int(density.argmax())))
    return [KeptMap(head, float(density[head]), kept_share(index, head)) for head in heads]


def kept_share(index: Selection, head: int) -> NDArray[np.uint8]:
    """Return `KeptMap.share` of one head of the first sequence."""
    blocks = index.kept_blocks(head)
    causal = torch.ones_like(blocks).tril(blocks.shape[1] - blocks.shape[0])
    kept = blocks * causal
    factor = -(-max(kept.shape) // MAP_SIZE)
    share = _sums(kept, factor) / _sums(causal, factor).clamp_min(1)
    pooled: NDArray[np.uint8] = (share * 255).round().to(torch.uint8).cpu().numpy()
    return pooled


def _sums(shares: Tensor, factor: int) -> Tensor:
    """Return the sum of each square of ``factor`` by ``factor``, with zeros beyond the edges."""
    rows, columns = shares.shape
    padded = torch.nn.functional.pad(shares, (0, -columns % factor, 0, -rows % factor))
    return padded.view(len(padded) // factor, factor, -1, factor).sum((1, 3))
