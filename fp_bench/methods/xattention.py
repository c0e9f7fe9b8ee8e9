"""XAttention (arXiv 2503.16428), at its published strides."""

import json
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fp_bench.errors import UsageError, unread
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.layout import BLOCK_SIZE
from fp_bench.kernels.xattention import select_antidiagonal
from fp_bench.methods.base import AttentionCall, Knob, MethodParams
from fp_bench.methods.blocks import BlockMethod, BlockParams, Stride


class XAttention(BlockMethod):
    """Keep the fewest blocks of each row that hold tau of its mass, estimated from antidiagonals of the scores."""

    name = "xattention"

    class Params(BlockParams):
        """The rule's parameters; blocks have 128 tokens, the first and the diagonal one are always kept."""

        stride: Stride = 8
        """Tokens that share one score: 4, 8 or 16 in the paper; a divisor of 128."""
        tau: float = Field(0.9, ge=0, allow_inf_nan=False)
        """Share of a row's estimated mass to keep; above 1 keeps every block."""
        tau_file: str | None = None
        """JSON file with a list of taus per layer, one per query head; replaces ``tau``."""
        official_quirks: bool = True
        """true: keep the extra block of the official block finder, and round like it; false: as intended."""

    params: Params
    knob = Knob("tau", 0.3, 0.999, keeps="more")
    presets: ClassVar = {
        "stride-4": {"stride": 4},
        "stride-8": {"stride": 8},
        "stride-16": {"stride": 16},
        "qwen2-vl-7b": {"stride": 16, "tau": 0.9},
    }

    def __init__(self, params: MethodParams | None = None, *, backend: str = "auto") -> None:
        super().__init__(params, backend=backend)
        self._table = None if self.params.tau_file is None else read_table(Path(self.params.tau_file))
        self._taus: dict[tuple[int, int, torch.device], Tensor] = {}

    def file_content(self) -> object:
        """Return the taus of the file."""
        return self._table

    def unsupported(self, call: AttentionCall) -> str | None:
        """Return the reason if the file of taus belongs to another model, or head_dim is not supported."""
        if self._table is not None:
            heads = len(self._table[0])
            if call.layer >= len(self._table) or call.q_heads != heads:
                return (
                    f"{self.params.tau_file} has {len(self._table)} layers of {heads} heads; the call is of "
                    f"layer {call.layer} with {call.q_heads} heads"
                )
        return super().unsupported(call)

    def select(self, call: AttentionCall) -> BlockIndex | None:
        """Estimate the mass of every pair of blocks, keep the fewest that hold enough; None (dense) for one query."""
        if call.q_len == 1:
            return None
        quirks = self.params.official_quirks
        return select_antidiagonal(
            call.q,
            call.k,
            self._tau(call),
            stride=self.params.stride,
            scale=call.scale,
            lagging=official_first_chunk(call.kv_len) // BLOCK_SIZE if quirks and call.q_len == call.kv_len else 0,
            rounded=quirks,
            backend=self.backend,
        )

    def _tau(self, call: AttentionCall) -> Tensor:
        """Return the taus of a call's heads on its device; copied once per layer, so that selection never waits."""
        key = (call.layer, call.q_heads, call.q.device)
        if key not in self._taus:
            values = [self.params.tau] * call.q_heads if self._table is None else self._table[call.layer]
            self._taus[key] = torch.tensor(values, dtype=torch.float32, device=call.q.device)
        return self._taus[key]


def read_table(path: Path) -> list[list[float]]:
    """Read a list of taus for each layer, one per query head.

    Raises:
        UsageError: the file is missing or is not such a table.
    """
    try:
        table = json.loads(path.read_text())
        rows = [[float(tau) for tau in row] for row in table]
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(
            f"xattention: tau_file={str(path)!r}: {unread(error)}; it must be JSON, [[tau, ...], ...]"
        ) from None
    if not rows or not rows[0] or {len(row) for row in rows} != {len(rows[0])} or not min(map(min, rows)) >= 0:
        raise UsageError(f"xattention: tau_file={str(path)!r}: it needs equally long rows of taus, one per layer")
    return rows


def official_first_chunk(kv_len: int) -> int:
    """Return the size in tokens of the official code's first chunk, in which its block finder errs."""
    power = 1 << (kv_len - 1).bit_length()
    return max(min(max(2048, power), 2**28 // power), 2048)
