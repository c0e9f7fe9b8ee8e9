"""A method that looks at nothing: every query block reads the first key blocks and the nearest ones."""

import torch
from pydantic import Field
from torch import Tensor

from fp_bench.kernels.attention import block_sparse_attention
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.layout import BlockGrid
from fp_bench.methods.base import AttentionCall, Method, MethodParams


class SinkAndWindow(Method):
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
        grid = BlockGrid(call.q_len, call.kv_len)
        row = torch.arange(grid.first, grid.key_blocks, device=call.q.device)[:, None]
        block = torch.arange(grid.key_blocks, device=call.q.device)
        kept = (block < self.params.sink_blocks) | (row - block < self.params.window_blocks)
        mask = kept.expand(call.batch, call.q_heads, -1, -1)
        return BlockIndex.from_mask(mask, call.q_len, call.kv_len)

    def attend(self, call: AttentionCall, index: BlockIndex | None) -> Tensor:
        """Attend exactly over what was selected."""
        return block_sparse_attention(call.q, call.k, call.v, index, scale=call.scale, backend=self.backend).out
