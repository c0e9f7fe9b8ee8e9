"""Prism (arXiv 2602.08426): key blocks chosen by two bands of the head's dimensions."""

from pydantic import Field

from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.prism import Bands, select_bands
from fp_bench.methods.base import AttentionCall, Knob
from fp_bench.methods.blocks import BlockMethod, BlockParams

DIMENSIONS = 128
"""Head size to which the band sizes refer; other heads have proportional bands."""


class Prism(BlockMethod):
    """Keep the blocks that hold a share of each row by the fast dimensions, and those by the slow ones."""

    name = "prism"

    class Params(BlockParams):
        """The rule's parameters, with the authors' defaults; blocks have 128 tokens."""

        mass: float = Field(0.95, ge=0, allow_inf_nan=False)
        """Share of a row's softmax that each band's blocks hold; above 1 keeps every block."""
        high_dims: int = Field(64, ge=2, le=DIMENSIONS, multiple_of=2)
        """Dimensions of the fast band, for heads of 128."""
        low_dims: int = Field(96, ge=2, le=DIMENSIONS, multiple_of=2)
        """Dimensions of the slow band, for heads of 128."""
        calibrated: bool = True
        """Whether a band's temperature restores the energy lost in pooling; false: only the band's size counts."""
        sink_blocks: int = Field(1, ge=0)
        """First key blocks that every query block keeps."""
        window_blocks: int = Field(1, ge=0)
        """Key blocks up to and including the diagonal that are kept."""

    params: Params
    knob = Knob("mass", 0.3, 0.999, keeps="more")

    def select(self, call: AttentionCall) -> BlockIndex | None:
        """Pool queries and keys, score both bands, keep enough of each; None (dense) for one query."""
        if call.q_len == 1:
            return None
        p = self.params
        high, low = (max(size * call.head_dim // DIMENSIONS // 2 * 2, 2) for size in (p.high_dims, p.low_dims))
        return select_bands(
            call.q,
            call.k,
            Bands(high, low, p.calibrated),
            (p.mass, p.mass),
            scale=call.scale,
            sink_blocks=p.sink_blocks,
            window_blocks=p.window_blocks,
            backend=self.backend,
        )
