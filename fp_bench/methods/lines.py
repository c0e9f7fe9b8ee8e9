"""Base of methods with one pattern per head, for whole prompts: MInference, StreamingLLM and TriangleMix."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from fp_bench.kernels.backend import resolve_backend
from fp_bench.kernels.layout import head_dim_problem
from fp_bench.kernels.lines.head_patterns import HeadPatterns, Pattern
from fp_bench.kernels.lines.index import TILE
from fp_bench.kernels.lines.mixed_heads import HeadsIndex, attend_heads, select_heads
from fp_bench.kernels.selection import Selection
from fp_bench.methods.base import AttentionCall, Method, MethodParams
from fp_bench.methods.dense import Dense


class LinesMethod(Method):
    """A method whose heads have patterns; it selects None for reported dense attention."""

    def __init__(self, params: MethodParams | None = None, *, backend: str = "auto") -> None:
        super().__init__(params, backend=backend)
        self._dense = Dense()
        self._patterns: dict[tuple[int, int, torch.device], HeadPatterns] = {}

    @abstractmethod
    def heads(self, call: AttentionCall) -> Sequence[Pattern]:
        """Return the pattern of each query head of the call's layer."""

    def unsupported(self, call: AttentionCall) -> str | None:
        """Return the reason for chunks of a prompt, whose row blocks lie elsewhere, and for unsupported head_dim."""
        if 1 < call.q_len < call.kv_len:
            return f"{self.name} is defined for whole prompts, not for q_len {call.q_len} of kv_len {call.kv_len}"
        return head_dim_problem(call.head_dim)

    def select(self, call: AttentionCall) -> Selection | None:
        """Choose the keys of each head; None (dense) for one query and for less than a tile of 64."""
        if call.q_len == 1 or call.kv_len < TILE:
            return None
        return select_heads(call.q, call.k, self.patterns(call), scale=call.scale, backend=self.backend)

    def patterns(self, call: AttentionCall) -> HeadPatterns:
        """Return the patterns of a call's heads on its device; copied once per layer, so that nothing waits."""
        key = (call.layer, call.q_heads, call.q.device)
        if key not in self._patterns:
            self._patterns[key] = HeadPatterns.of(self.heads(call), call.q.device)
        return self._patterns[key]

    def attend(self, call: AttentionCall, index: HeadsIndex | None) -> Tensor:
        """Attend exactly over the kept keys; dense attention if the index is None."""
        if index is None:
            return self._dense.attend(call, None)
        return attend_heads(call.q, call.k, call.v, index, scale=call.scale, backend=self.backend).out

    def implementation(self, call: AttentionCall, index: Selection | None) -> str:
        """Name the kernels, or the dense implementation that runs in their place."""
        return self._dense.implementation(call, None) if index is None else resolve_backend(call.q, self.backend)
