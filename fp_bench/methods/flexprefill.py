"""FlexPrefill (arXiv 2502.20766), with the coverage that its authors use for each model."""

from typing import ClassVar, Self

from pydantic import Field, model_validator

from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.flexprefill import select_flex
from fp_bench.kernels.flexprefill.rule import FlexRule
from fp_bench.kernels.layout import BLOCK_SIZE
from fp_bench.methods.base import AttentionCall, Knob
from fp_bench.methods.blocks import BlockMethod, BlockParams


class FlexPrefill(BlockMethod):
    """Each head keeps the columns and diagonals that its last queries read, or the blocks that mean queries predict."""

    name = "flexprefill"

    class Params(BlockParams):
        """The rule's parameters, as the authors' RULER runs set them; blocks have 128 tokens."""

        gamma: float = Field(0.9, gt=0, le=1)
        """Share of the attention mass to cover."""
        tau: float = Field(0.1, ge=0, allow_inf_nan=False)
        """Heads whose block masses are predicted better than this are query-aware; 0: no head is."""
        min_budget: int = Field(1024, ge=1)
        """Fewest tokens of columns, and of diagonals; calls no longer than this run dense attention and report it."""
        max_budget: int | None = Field(None, ge=1)
        """Most tokens of each; none by default."""
        official_quirks: bool = True
        """true: round as the official code, and masses of 0 make a head vertical-slash; false: follow the paper."""

        @model_validator(mode="after")
        def _ascending(self) -> Self:
            if self.max_budget is not None and self.max_budget < self.min_budget:
                raise ValueError(f"max_budget={self.max_budget} must be at least min_budget={self.min_budget}")
            return self

    params: Params
    knob = Knob("gamma", 0.5, 0.999, keeps="more")
    presets: ClassVar = {
        "llama-3.1-8b": {"gamma": 0.95},
        "glm-4-9b-1m": {"gamma": 0.95},
        "yi-9b-200k": {"gamma": 0.9},
        "qwen2-7b": {"gamma": 0.9},
    }

    def unsupported(self, call: AttentionCall) -> str | None:
        """Return the reason for chunks of a prompt, which lack its last queries, and for unsupported head_dim."""
        if 1 < call.q_len < call.kv_len:
            return f"FlexPrefill is defined for whole prompts, not for q_len {call.q_len} of kv_len {call.kv_len}"
        return super().unsupported(call)

    def select(self, call: AttentionCall) -> BlockIndex | None:
        """Decide each head's kind and select its blocks; None (dense) for one query and for short prompts."""
        rule = FlexRule(
            gamma=self.params.gamma,
            tau=self.params.tau,
            min_budget=self.params.min_budget,
            max_budget=self.params.max_budget,
            official=self.params.official_quirks,
        )
        if call.q_len == 1 or call.kv_len <= rule.dense_below(BLOCK_SIZE):
            return None
        return select_flex(call.q, call.k, rule, scale=call.scale, backend=self.backend)
