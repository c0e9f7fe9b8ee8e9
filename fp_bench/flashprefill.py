"""FlashPrefill as a method, with the thresholds its authors use for each model."""

from typing import ClassVar

from pydantic import Field

from fp_bench.baselines.block_method import BlockMethod
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.discovery import select_blocks
from fp_bench.kernels.means import BlockMeans, block_means
from fp_bench.kernels.pooling import pool_keys
from fp_bench.kernels.rule import KeepRule
from fp_bench.method import AttentionCall, MethodParams


class FlashPrefill(BlockMethod):
    """Keep each key block whose energy is at least alpha times its row's maximum (arXiv 2603.06199)."""

    name = "flashprefill"

    class Params(MethodParams):
        """The rule's parameters; blocks are of 128 tokens."""

        alpha: float = Field(0.12, ge=0, allow_inf_nan=False)
        """Threshold relative to the row's largest energy."""
        sink_blocks: int = Field(2, ge=0)
        """First key blocks that every query block keeps."""
        window_blocks: int = Field(4, ge=0)
        """Key blocks up to and including the diagonal that are kept."""
        last_full_blocks: int = Field(2, ge=0)
        """Query blocks at the end of the prompt that keep everything."""
        dense_below: int = Field(0, ge=0)
        """Calls with fewer keys run dense attention and say so; 0 never does."""
        dense_above: float = Field(1.0, gt=0, le=1)
        """Selections denser than this run dense attention and say so; below 1 this reads the density back (a sync)."""
        correction: bool = False
        """Whether blocks that are not kept take part with their mean key and value, as in FlashPrefill V2."""

    params: Params
    presets: ClassVar = {
        "llama-3.1-8b": {"alpha": 0.18},
        "qwen2.5-7b": {"alpha": 0.08},
        "qwen3-30b-a3b": {"alpha": 0.12},
        "embedded": {"alpha": 0.18},
    }

    def select(self, call: AttentionCall) -> BlockIndex | None:
        """Pool the keys, score the blocks, keep those near the maximum; None where dense attention is to run."""
        if call.kv_len < self.params.dense_below:
            return None
        rule = KeepRule(
            alpha=self.params.alpha,
            sink_blocks=self.params.sink_blocks,
            window_blocks=self.params.window_blocks,
            last_full_blocks=self.params.last_full_blocks if call.last_chunk else 0,
        )
        pooled = pool_keys(call.k, backend=self.backend)
        index = select_blocks(call.q, pooled, rule, kv_len=call.kv_len, scale=call.scale, backend=self.backend)
        too_dense = self.params.dense_above < 1 and float(index.density().mean()) > self.params.dense_above
        return None if too_dense else index

    def means(self, call: AttentionCall) -> BlockMeans | None:
        """Return the means of the key blocks, where those that are not kept are to count."""
        return block_means(call.k, call.v, backend=self.backend) if self.params.correction else None
