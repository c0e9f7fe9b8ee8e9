"""Attention of methods that select blocks of 128 keys for blocks of 128 queries."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer
from torch import Tensor

from fp_bench.kernels.attention import block_sparse_attention, hopper_missing, implementation
from fp_bench.kernels.attention.skipping import SkippingOut, skip_tile, skipped_share, skipping_attention
from fp_bench.kernels.attention.skipping_reference import skipping_rows
from fp_bench.kernels.backend import HOPPER, capability
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.layout import BLOCK_SIZE, head_dim_problem
from fp_bench.methods.base import AttentionCall, Method, MethodParams
from fp_bench.methods.dense import Dense


def _divides_a_block(stride: int) -> int:
    if BLOCK_SIZE % stride:
        raise ValueError(f"stride must divide {BLOCK_SIZE}")
    return stride


Stride = Annotated[int, Field(ge=1, le=BLOCK_SIZE), AfterValidator(_divides_a_block)]
"""Tokens of a cell, whose queries and keys share one score."""


class BlockParams(MethodParams):
    """Parameters of a method that attends over blocks."""

    skip: float | None = Field(None, gt=0, le=1)
    """Skip-softmax: attention skips tiles whose weights, relative to the maximum so far, are all below this."""

    @model_serializer(mode="wrap")
    def _hashed_as_before_there_was_skip(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_unset_skip(dump(self))


def without_unset_skip(dumped: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters without an unset ``skip``, so that older hashes stay valid."""
    return {name: value for name, value in dumped.items() if name != "skip" or value is not None}


class BlockMethod(Method):
    """A method whose selection is a BlockIndex, or None for reported dense attention."""

    def __init__(self, params: MethodParams | None = None, *, backend: str = "auto") -> None:
        super().__init__(params, backend=backend)
        self._dense = Dense()

    def unsupported(self, call: AttentionCall) -> str | None:
        """Return the reason if the kernels do not support head_dim."""
        return head_dim_problem(call.head_dim)

    def skip(self, call: AttentionCall) -> float | None:
        """Return the threshold of skip-softmax for a call, or None if attention skips nothing."""
        del call
        return self.params.skip if isinstance(self.params, BlockParams) else None

    def attend(self, call: AttentionCall, index: BlockIndex | None) -> Tensor:
        """Attend over the kept blocks, and the means of the others if any; dense attention if the index is None."""
        if index is None:
            return self._dense.attend(call, None)
        if (skip := self.skip(call)) is not None:
            return self._skipping(call, index, skip).out
        return block_sparse_attention(
            call.q, call.k, call.v, index, scale=call.scale, means=self.means(call), backend=self.backend
        ).out

    def definition(self, call: AttentionCall, index: BlockIndex, rows: Tensor) -> Tensor | None:
        """Return the output over the tiles that skip-softmax keeps, if it is on; otherwise the default."""
        if (skip := self.skip(call)) is None:
            return super().definition(call, index, rows)
        tile = skip_tile(call.q, call.k, call.v, index, self.backend)
        return skipping_rows(call.q, call.k, call.v, index, scale=call.scale, skip=skip, tile=tile, rows=rows).out

    def skipped(self, call: AttentionCall, index: BlockIndex | None) -> float | None:
        """Return the share of the listed tiles that skip-softmax skips."""
        if index is None or (skip := self.skip(call)) is None:
            return None
        tile = skip_tile(call.q, call.k, call.v, index, self.backend)
        return float(skipped_share(self._skipping(call, index, skip).skipped, index, tile).mean())

    def implementation(self, call: AttentionCall, index: BlockIndex | None) -> str:
        """Name the kernel that attends over blocks (``hopper``, ``triton`` or ``torch``), or the dense one."""
        if index is None:
            return self._dense.implementation(call, None)
        skipping = self.skip(call) is not None
        return implementation(call.q, call.k, call.v, self.backend, index.block_size, index.packed, skipping)

    def slower_because(self, call: AttentionCall, index: BlockIndex | None) -> str | None:
        """Return why ``auto`` did not use the Hopper kernel on a Hopper GPU, or None."""
        if index is None or self.backend != "auto" or self.implementation(call, index) != "triton":
            return None
        if capability(call.q.device) != HOPPER:
            return None
        skipping = self.skip(call) is not None
        reason = hopper_missing(call.q, call.k, call.v, index.block_size, index.packed, skipping)
        return f"the portable kernel ran instead of the Hopper one: {reason}"

    def _skipping(self, call: AttentionCall, index: BlockIndex, skip: float) -> SkippingOut:
        return skipping_attention(call.q, call.k, call.v, index, scale=call.scale, skip=skip, backend=self.backend)
