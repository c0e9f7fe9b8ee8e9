"""Gaussian Q, K, V with prescribed blocks: times the attention kernel at a known density."""

import torch

from fp_bench.errors import UsageError
from fp_bench.inputs.random import Random
from fp_bench.inputs.source import Shape
from fp_bench.kernels.block_index import BlockIndex, causal_blocks
from fp_bench.kernels.flashprefill.rule import KeepRule
from fp_bench.kernels.layout import BlockGrid
from fp_bench.kernels.selection import causal_entries

FORCED = KeepRule(0.0, sink_blocks=2, window_blocks=4, last_full_blocks=0)


class GivenDensity(Random):
    """Sink and window blocks, and random others up to the requested expected causal density.

    Args:
        density: kept share of the causal query-key pairs, in (0, 1]; at least the share of sinks and window.

    Raises:
        UsageError: a density outside (0, 1].
    """

    def __init__(self, density: float) -> None:
        if not 0 < density <= 1:
            raise UsageError(
                f"density {density:g} is outside (0, 1]; e.g. density:0.04 keeps 4 % of the query-key pairs"
            )
        self.density = density
        self.name = f"density:{density:g}"

    def given_index(self, shape: Shape, *, seed: int, device: torch.device, packed: int = 1) -> BlockIndex:
        """Return the blocks to keep, drawn on the CPU: the same for every device and layer; packed as `BlockGrid`."""
        grid = BlockGrid(shape.seq_len, shape.seq_len, packed=packed)
        forced = FORCED.forced(grid)
        optional = causal_blocks(grid) & ~forced
        alone = BlockIndex.from_mask(forced[None, None], shape.seq_len, shape.seq_len, packed=packed)
        pairs, kept = causal_entries(shape.seq_len, shape.seq_len), int(alone.entries()[0, 0])
        share = max(0.0, (self.density * pairs - kept) / max(1, pairs - kept))
        draw = torch.Generator().manual_seed(seed)
        index = BlockIndex.empty(shape.batch, shape.q_heads // packed, grid, device)
        # Head by head: a mask of all heads and its sort would take gigabytes at 1M tokens.
        for b in range(shape.batch):
            for h in range(shape.q_heads // packed):
                mask = forced | (optional & (torch.rand(optional.shape, generator=draw) < share))
                mask = mask.to(device)[None, None]
                head = BlockIndex.from_mask(mask, shape.seq_len, shape.seq_len, packed=packed)
                index.blocks[b, h] = head.blocks[0, 0]
                index.counts[b, h] = head.counts[0, 0]
        return index
