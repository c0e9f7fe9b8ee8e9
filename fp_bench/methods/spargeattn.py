"""SpargeAttn's selection (arXiv 2502.18137): means predict blocks of similar tokens."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.ranking import Need
from fp_bench.kernels.spargeattn import select_alike
from fp_bench.methods.base import AttentionCall, Knob
from fp_bench.methods.blocks import BlockMethod, BlockParams


class SpargeAttn(BlockMethod):
    """Keep blocks whose tokens differ among themselves, and the strongest of the others by their means."""

    name = "spargeattn"

    class Params(BlockParams):
        """The rule's parameters, with the official defaults; blocks have 128 tokens."""

        rule: Literal["cdf", "topk"] = "cdf"
        """cdf: blocks up to the share mass of a row's predicted softmax; topk: the share keep of all blocks."""
        mass: float = Field(0.98, ge=0, allow_inf_nan=False)
        """Share of the predicted softmax that a row's blocks stay below, except the first one; above 1 keeps all."""
        keep: float = Field(0.5, ge=0, le=1)
        """For rule=topk: share of all key blocks of the prompt that each row keeps."""
        similarity: float = Field(0.6, ge=-1, le=1)
        """Blocks whose mean pairwise cosine is not above this are always kept."""
        smooth_k: bool = True
        """Whether the mean of all keys is subtracted before the comparison."""
        sink_blocks: int = Field(0, ge=0)
        """First key blocks that every query block keeps; the official attention_sink is 1."""
        window_blocks: int = Field(0, ge=0)
        """Key blocks up to and including the diagonal that are kept; none in the official code."""

    params: Params
    knob = Knob("mass", 0.3, 0.999, keeps="more")
    presets: ClassVar[dict[str, dict[str, Any]]] = {"plug-and-play": {"rule": "topk", "similarity": -0.1}}

    def select(self, call: AttentionCall) -> BlockIndex | None:
        """Compare each block's tokens, score pairs of means, keep the best; None (dense) for one query."""
        if call.q_len == 1:
            return None
        p = self.params
        by_share = p.rule == "cdf"
        return select_alike(
            call.q,
            call.k,
            p.mass if by_share else max(int(p.keep * call.grid.key_blocks), 1),
            Need.SHARE_WITHIN if by_share else Need.COUNT,
            likeness=p.similarity,
            scale=call.scale,
            centred=p.smooth_k,
            sink_blocks=p.sink_blocks,
            window_blocks=p.window_blocks,
            backend=self.backend,
        )
