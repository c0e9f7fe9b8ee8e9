"""RBS-Attention (arXiv 2609.20971): FlashPrefill's rule, and blocks with a large radius."""

from typing import Self

from pydantic import Field, model_validator

from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.flashprefill.rule import KeepRule
from fp_bench.kernels.pooling import pool_with_radii
from fp_bench.kernels.rbs import select_rescued
from fp_bench.kernels.rbs.rule import Rescue
from fp_bench.methods.base import AttentionCall, Knob
from fp_bench.methods.blocks import BlockMethod, BlockParams


class RBS(BlockMethod):
    """Keep the key blocks near the maximum by mean key, and those near it when their radius raises the score."""

    name = "rbs"

    class Params(BlockParams):
        """The rule's parameters, our reading of the paper's summaries; blocks have 128 tokens."""

        alpha: float = Field(0.12, ge=0, allow_inf_nan=False)
        """Threshold for mean keys, relative to the row's largest energy, as in FlashPrefill."""
        rescue_alpha: float | None = Field(None, ge=0, allow_inf_nan=False)
        """Threshold for raised scores, relative to the row's largest; default: alpha; above 1 adds no block."""
        beta: float = Field(1.0, ge=0, allow_inf_nan=False)
        """Share of the radius that raises the widest blocks; 1 is an upper bound of the score of each of their keys."""
        low: float = Field(0.5, ge=0, lt=1)
        """Quantile of a head's radii up to which no score is raised."""
        high: float = Field(0.9, gt=0, le=1)
        """Quantile from which the whole share counts; above low."""
        sink_blocks: int = Field(2, ge=0)
        """First key blocks that every query block keeps."""
        window_blocks: int = Field(4, ge=0)
        """Key blocks up to and including the diagonal that are kept."""
        last_full_blocks: int = Field(2, ge=0)
        """Query blocks at the end of the prompt that keep everything."""

        @model_validator(mode="after")
        def _ascending(self) -> Self:
            if self.low >= self.high:
                raise ValueError(f"low={self.low} must be below high={self.high}")
            return self

    params: Params
    knob = Knob("alpha", 0.005, 1.0, keeps="less", scale="log")

    def select(self, call: AttentionCall) -> BlockIndex:
        """Pool the keys with their radii, score the blocks twice, keep those near either maximum."""
        p = self.params
        pooled, radii = pool_with_radii(call.k, backend=self.backend)
        return select_rescued(
            call.q,
            pooled,
            radii,
            KeepRule(p.alpha, p.sink_blocks, p.window_blocks, p.last_full_blocks if call.last_chunk else 0),
            Rescue(p.alpha if p.rescue_alpha is None else p.rescue_alpha, p.beta, p.low, p.high),
            kv_len=call.kv_len,
            scale=call.scale,
            backend=self.backend,
        )
