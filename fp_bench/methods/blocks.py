"""What methods share that select blocks of 128 keys for blocks of 128 queries: how they attend."""

from torch import Tensor

from fp_bench.kernels.attention import block_sparse_attention, hopper_missing, implementation
from fp_bench.kernels.backend import HOPPER, capability
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.layout import head_dim_problem
from fp_bench.methods.base import AttentionCall, Method, MethodParams
from fp_bench.methods.dense import Dense


class BlockMethod(Method):
    """A method whose selection is a BlockIndex, or None for dense attention, which then says so."""

    def __init__(self, params: MethodParams | None = None, *, backend: str = "auto") -> None:
        super().__init__(params, backend=backend)
        self._dense = Dense()

    def unsupported(self, call: AttentionCall) -> str | None:
        """Return the reason when head_dim is one that the kernels do not take."""
        return head_dim_problem(call.head_dim)

    def attend(self, call: AttentionCall, index: BlockIndex | None) -> Tensor:
        """Attend over the kept blocks, and the means of the others if any; densely where ``select`` left it at that."""
        if index is None:
            return self._dense(call)
        return block_sparse_attention(
            call.q, call.k, call.v, index, scale=call.scale, means=self.means(call), backend=self.backend
        ).out

    def implementation(self, call: AttentionCall, index: BlockIndex | None) -> str:
        """Name the kernel that attends over blocks (``hopper``, ``triton`` or ``torch``), or the dense one."""
        if index is None:
            return self._dense.implementation(call, None)
        return implementation(call.q, call.k, call.v, self.backend, index.block_size, index.packed)

    def slower_because(self, call: AttentionCall, index: BlockIndex | None) -> str | None:
        """Return why ``auto`` did not take the Hopper kernel on a Hopper GPU, or None."""
        if index is None or self.backend != "auto" or self.implementation(call, index) != "triton":
            return None
        if capability(call.q.device) != HOPPER:
            return None
        reason = hopper_missing(call.q, call.k, call.v, index.block_size, index.packed)
        return f"the portable kernel ran, not the Hopper one: {reason}"
