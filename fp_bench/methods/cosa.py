"""CoSA (arXiv 2607.25291), on XAttention's scores: blocks with a largest score first, then by their peaks."""

from pydantic import Field

from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.cosa import select_covering
from fp_bench.methods.base import AttentionCall, Knob
from fp_bench.methods.blocks import BlockMethod, BlockParams, Stride


class Cosa(BlockMethod):
    """Keep blocks with a largest score first, then those with large peaks, until they hold a share of the row's."""

    name = "cosa"

    class Params(BlockParams):
        """The rule's parameters, with the published defaults; blocks have 128 tokens."""

        coverage: float = Field(0.8, gt=0, le=1)
        """Share of a row's peaks that its blocks hold; 1 keeps every block."""
        stride: Stride = 8
        """Tokens that share one score; a divisor of 128."""

    params: Params
    knob = Knob("coverage", 0.1, 0.99, keeps="more")

    def select(self, call: AttentionCall) -> BlockIndex | None:
        """Score every pair of blocks by its peaks, keep enough of them; None (dense) for one query."""
        if call.q_len == 1:
            return None
        p = self.params
        return select_covering(call.q, call.k, p.coverage, stride=p.stride, scale=call.scale, backend=self.backend)
