"""Stem (arXiv 2603.06274): a falling budget of the blocks with the largest mean scores and values."""

from pydantic import Field

from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.stem import Budget, select_strided
from fp_bench.methods.base import AttentionCall, Knob
from fp_bench.methods.blocks import BlockMethod, BlockParams, Stride


class Stem(BlockMethod):
    """Keep a number of blocks that falls along the rows: those with the largest mean scores and values."""

    name = "stem"

    class Params(BlockParams):
        """The rule's parameters, with the published defaults; blocks have 128 tokens."""

        budget: float = Field(1.0, gt=0, allow_inf_nan=False)
        """Factor on the published budgets: all below 56 blocks, N / 5 + 30 below 160, else N / 10 + 30."""
        decay: float = Field(0.7, gt=0, le=1)
        """Share of the budget that remains in the prompt's last row."""
        stride: Stride = 8
        """Tokens of a cell; a power of two."""
        value_weight: float = Field(0.2, ge=0, allow_inf_nan=False)
        """Weight of the values' norms, in units of the logits."""
        sink_blocks: int = Field(4, ge=0)
        """First key blocks that every query block keeps."""
        window_blocks: int = Field(4, ge=0)
        """Key blocks up to and including the diagonal that are kept."""

    params: Params
    knob = Knob("budget", 0.05, 4.0, keeps="more", scale="log")

    def select(self, call: AttentionCall) -> BlockIndex | None:
        """Score the pairs of blocks, keep each row's budget; None (dense) for one query."""
        if call.q_len == 1:
            return None
        p = self.params
        return select_strided(
            call.q,
            call.k,
            call.v,
            Budget(p.budget, p.decay),
            stride=p.stride,
            value_weight=p.value_weight,
            scale=call.scale,
            sink_blocks=p.sink_blocks,
            window_blocks=p.window_blocks,
            backend=self.backend,
        )
