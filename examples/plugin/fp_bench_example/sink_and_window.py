"""A method that looks at nothing: every query block reads the first key blocks and the nearest ones."""

import torch
from pydantic import Field

from fp_bench import AttentionCall, BlockIndex, BlockMethod, MethodParams


class SinkAndWindow(BlockMethod):
    """Keep the first blocks and the last ones."""

    name = "sink_and_window"

    class Params(MethodParams):
        """Parameters of SinkAndWindow, in blocks of 128 tokens."""

        sink_blocks: int = Field(2, ge=0)
        """First key blocks, kept for every query block."""
        window_blocks: int = Field(8, ge=1)
        """Nearest key blocks, the query block's own among them."""

    params: Params

    def select(self, call: AttentionCall) -> BlockIndex:
        """Decide which key blocks each query block reads."""
        grid = call.grid
        row = torch.arange(grid.first, grid.key_blocks, device=call.q.device)[:, None]
        block = torch.arange(grid.key_blocks, device=call.q.device)
        kept = (block < self.params.sink_blocks) | (row - block < self.params.window_blocks)
        mask = kept.expand(call.batch, call.q_heads, -1, -1)
        return BlockIndex.from_mask(mask, call.q_len, call.kv_len)
