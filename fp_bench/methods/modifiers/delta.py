"""Delta Attention (arXiv 2505.11254): adds another method's error at some queries to the following ones."""

from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from fp_bench.errors import UsageError
from fp_bench.kernels.attention.reference import attention_rows
from fp_bench.kernels.delta import DenseRows, attend_rows, correct
from fp_bench.kernels.selection import Selection
from fp_bench.methods.base import AttentionCall, Knob, Method, MethodParams
from fp_bench.methods.dense import Dense
from fp_bench.methods.registry import Spec, create_method


@dataclass(frozen=True)
class DeltaIndex:
    """The selection of the method below, and all keys for the dense queries.

    Args:
        over: selection of the method below.
        rows: which queries are dense.
    """

    over: Selection
    rows: DenseRows

    @property
    def q_len(self) -> int:
        """Queries of the call."""
        return self.over.q_len

    @property
    def kv_len(self) -> int:
        """Keys of the call."""
        return self.over.kv_len

    def density(self) -> Tensor:
        """Return the kept share, ``[batch, q_heads]`` float64; dense rows add the share that the method below drops."""
        total = self.q_len * (2 * self.kv_len - self.q_len + 1) // 2
        kept = self.over.density()
        return kept + (1 - kept) * (self.rows.pairs(self.kv_len) / total)

    def entries(self) -> Tensor:
        """Return the number of query-key pairs per head, ``[batch, q_heads]`` int64, dense queries added."""
        return self.over.entries() + self.rows.pairs(self.kv_len)

    def keys_read(self, batch: int, head: int, position: Tensor) -> Tensor:
        """Return ``[len(position), kv_len]`` bool: the keys that queries at these positions read."""
        query = position - (self.kv_len - self.q_len)
        dense = (query % self.rows.gamma == 0) | (query >= self.rows.tail)
        return self.over.keys_read(batch, head, position) | dense[:, None]

    def kept_blocks(self, head: int) -> Tensor:
        """Return the share of each block pair that the method below keeps, without the few dense queries."""
        return self.over.kept_blocks(head)


class Delta(Method):
    """Run any sparse method, compute every gamma-th query densely, and add the difference to the queries after it."""

    name = "delta"

    class Params(MethodParams):
        """The method below and the distance of dense queries; defaults of the authors' code."""

        over: str = "streaming:n_init=1024:n_local=2048"
        """The sparse method; in double quotes if it has options."""
        gamma: int = Field(64, ge=1, le=65536)
        """Distance between dense queries; the last 128 or more are all dense."""

    params: Params
    knob = Knob("gamma", 8, 128, keeps="less", scale="log", whole=True)

    def __init__(self, params: MethodParams | None = None, *, backend: str = "auto") -> None:
        super().__init__(params, backend=backend)
        spec = Spec.parse(self.params.over)
        if spec.name == self.name:
            raise UsageError(f"{self.name}: over={self.params.over!r}: the method below must be another")
        self._over = create_method(spec, backend=backend)
        self._dense = Dense()

    def file_content(self) -> object:
        """Return the hash of the method below: its version, and the files it names."""
        return self._over.method_hash

    def unsupported(self, call: AttentionCall) -> str | None:
        """Return the reason given by the method below."""
        return self._over.unsupported(call)

    def tolerance(self) -> float | None:
        """Return that of the method below."""
        return self._over.tolerance()

    def select(self, call: AttentionCall) -> DeltaIndex | None:
        """Select as the method below; None (dense) if it does, and for calls that are all tail."""
        rows = DenseRows(call.q_len, self.params.gamma)
        over = self._over.select(call) if rows.anchors else None
        return None if over is None else DeltaIndex(over, rows)

    def attend(self, call: AttentionCall, index: Selection | None) -> Tensor:
        """Attend like the method below and densely for some queries, and add the differences."""
        if index is None:
            return self._dense.attend(call, None)
        index = self._around(call, index)
        dense = attend_rows(call.q, call.k, call.v, index.rows, scale=call.scale, backend=self.backend)
        return correct(self._over.attend(call, index.over), dense, index.rows)

    def definition(self, call: AttentionCall, index: Selection, rows: Tensor) -> Tensor:
        """Return ``sparse[i] + dense[a] - sparse[a]`` of queries i before the tail, a the dense one up to i."""
        index = self._around(call, index)
        before = rows < index.rows.tail
        anchors = torch.where(before, rows // index.rows.gamma * index.rows.gamma, rows)
        dense = attention_rows(call.q, call.k, call.v, scale=call.scale, rows=anchors).out
        difference = self._sparse(call, index.over, rows) - self._sparse(call, index.over, anchors)
        return dense + difference * before[None, :, None, None].to(dense.device)

    def skipped(self, call: AttentionCall, index: Selection | None) -> float | None:
        """Return the share that the method below skips."""
        return None if index is None else self._over.skipped(call, self._around(call, index).over)

    def implementation(self, call: AttentionCall, index: Selection | None) -> str:
        """Name what the method below runs on, or the dense implementation in its place."""
        if index is None:
            return self._dense.implementation(call, None)
        return self._over.implementation(call, self._around(call, index).over)

    def _sparse(self, call: AttentionCall, index: Selection, rows: Tensor) -> Tensor:
        defined = self._over.definition(call, index, rows)
        if defined is not None:
            return defined
        return attention_rows(call.q, call.k, call.v, scale=call.scale, rows=rows, index=index).out

    def _around(self, call: AttentionCall, index: Selection) -> DeltaIndex:
        """Return the index, or wrap a selection that the input source prescribes."""
        return index if isinstance(index, DeltaIndex) else DeltaIndex(index, DenseRows(call.q_len, self.params.gamma))
