"""Skip-softmax (BLASST, arXiv 2512.12087) without a selection: every block is listed, attention skips some."""

import torch
from pydantic import Field

from fp_bench.kernels.block_index import BlockIndex, causal_blocks
from fp_bench.methods.base import AttentionCall, Knob
from fp_bench.methods.blocks import BlockMethod, BlockParams


class SkipSoftmax(BlockMethod):
    """Multiply Q with every key, and skip the rest of the work for tiles far below the running maxima."""

    name = "skip_softmax"

    class Params(BlockParams):
        """The threshold, as in engines; other methods have ``skip`` for their own blocks."""

        factor: float = Field(1000.0, gt=0, allow_inf_nan=False)
        """The threshold is this divided by the number of keys, at most 1; ``skip`` sets it directly."""

    params: Params
    knob = Knob("factor", 0.1, 100000.0, keeps="less", scale="log")

    def skip(self, call: AttentionCall) -> float:
        """Return the threshold for a call's number of keys."""
        return min(self.params.factor / call.kv_len, 1.0) if self.params.skip is None else self.params.skip

    def select(self, call: AttentionCall) -> BlockIndex | None:
        """List every block; None (dense) for one query."""
        if call.q_len == 1:
            return None
        grid = call.grid
        index = BlockIndex.empty(call.batch, call.q_heads, grid, call.q.device)
        index.blocks.copy_(torch.arange(grid.key_blocks, dtype=torch.int16, device=call.q.device))
        index.counts.copy_(causal_blocks(grid, call.q.device).sum(-1))
        return index
