"""FlashPrefill V2 (arXiv 2608.19758): one list for all heads of a KV head, and dropped blocks as means."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import Field, SerializationInfo, SerializerFunctionWrapHandler, model_serializer, model_validator

from fp_bench.errors import UsageError
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.flashprefill.rule import KeepRule
from fp_bench.kernels.flashprefill_v2 import select_packed_blocks
from fp_bench.kernels.layout import BLOCK_SIZE
from fp_bench.kernels.pooling import pool_keys
from fp_bench.kernels.pooling.means import BlockMeans, block_means
from fp_bench.methods.base import AttentionCall, Knob
from fp_bench.methods.blocks import BlockMethod, BlockParams, without_unset_skip


class FlashPrefillV2(BlockMethod):
    """Keep the key blocks near the maximum for all heads of a KV head; other blocks contribute their means."""

    name = "flashprefill_v2"
    version = 2  # 1: rows of a power of two of positions, so other lists where the heads of a KV head are none

    class Params(BlockParams):
        """The values of the authors' launch script; blocks have 128 tokens."""

        alpha: float = Field(0.1, ge=0, allow_inf_nan=False)
        """Threshold relative to the row's largest energy; above 1 only forced blocks are kept."""
        sink_blocks: int = Field(2, ge=0)
        """First key blocks that every row keeps."""
        window_blocks: int = Field(4, ge=0)
        """Key blocks up to and including the row's own that are kept."""
        last_full_rows: int = Field(8, ge=0)
        """Packed rows at the end of the prompt that keep everything: 256 positions at 4 heads per KV head, 128 at 8."""
        min_sparse_q_len: int = Field(0, ge=0)
        """Calls with at most this many queries run dense attention and report it."""
        correction: bool = True
        """Whether dropped blocks contribute their mean key and value."""

        @classmethod
        def parse(cls, owner: str, given: Mapping[str, Any], base: Mapping[str, Any] | None = None) -> Self:
            """Build them from options, like `Params.parse`; older records may hold ``dense_layers``, always 0.

            Raises:
                UsageError: as there, or ``dense_layers`` other than 0, which belong to a model's run.
            """
            layers = given.get("dense_layers", 0)
            if str(layers) != "0":
                raise UsageError(
                    f"{owner}: dense_layers={layers} is not a parameter of the method; use accuracy --dense-layers"
                )
            return super().parse(owner, {name: given[name] for name in given if name != "dense_layers"}, base)

        @model_validator(mode="after")
        def _go_together(self) -> Self:
            if self.skip is not None and self.correction:
                raise ValueError("skip cannot be combined with correction; write correction=false:skip=...")
            return self

        @model_serializer(mode="wrap")
        def _hashed_as_when_it_had_dense_layers(
            self, dump: SerializerFunctionWrapHandler, info: SerializationInfo
        ) -> dict[str, Any]:
            found = without_unset_skip(dump(self))
            return found if info.exclude_defaults else found | {"dense_layers": 0}

    params: Params
    knob = Knob("alpha", 0.005, 1.0, keeps="less", scale="log")
    presets: ClassVar = {
        "llama-3.1-8b": {"alpha": 0.18},
        "qwen2.5-7b": {"alpha": 0.08},
        "qwen3-30b-a3b": {"alpha": 0.12},
    }

    def unsupported(self, call: AttentionCall) -> str | None:
        """Return the reason if a row of tiles cannot hold all heads of a KV head, or head_dim is not supported."""
        packed = call.q_heads // call.kv_heads
        if packed > BLOCK_SIZE:
            return f"{packed} query heads share a KV head; a row of tiles fits only {BLOCK_SIZE}"
        return super().unsupported(call)

    def select(self, call: AttentionCall) -> BlockIndex | None:
        """Pool the keys, score the blocks for packed rows, keep those near the maximum; None for short chunks."""
        if call.q_len <= self.params.min_sparse_q_len:
            return None
        rule = KeepRule(
            alpha=self.params.alpha,
            sink_blocks=self.params.sink_blocks,
            window_blocks=self.params.window_blocks,
            last_full_blocks=self.params.last_full_rows if call.last_chunk else 0,
        )
        pooled = pool_keys(call.k, backend=self.backend)
        return select_packed_blocks(call.q, pooled, rule, kv_len=call.kv_len, scale=call.scale, backend=self.backend)

    def means(self, call: AttentionCall) -> BlockMeans | None:
        """Return the means of the key blocks, if dropped blocks contribute."""
        return block_means(call.k, call.v, backend=self.backend) if self.params.correction else None
