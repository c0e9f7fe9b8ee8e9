"""TriangleMix (arXiv 2507.21526): some layers dense, the others sinks, a window, and dense last rows."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from pydantic import Field, field_validator
from torch import Tensor

from fp_bench.kernels.lines.head_patterns import AShape
from fp_bench.kernels.lines.index import TILE, VerticalSlashIndex
from fp_bench.kernels.lines.mixed_heads import attend_heads
from fp_bench.methods.base import AttentionCall, Knob, MethodParams
from fp_bench.methods.lines import LinesMethod
from fp_bench.methods.minference.patterns import MOST
from fp_bench.sizes import parse_layers


@dataclass(frozen=True)
class TriangleIndex:
    """The first tokens and a window for most rows, all keys for the last ones; the same for every head.

    Args:
        lines: index of an A-shape for all rows.
        shape: the A-shape.
        last: queries at the end that read everything.
    """

    lines: VerticalSlashIndex
    shape: AShape
    last: int

    @property
    def q_len(self) -> int:
        """Queries of the call."""
        return self.lines.q_len

    @property
    def kv_len(self) -> int:
        """Keys of the call."""
        return self.lines.kv_len

    def density(self) -> Tensor:
        """Return the computed share of the causal query-key pairs, ``[batch, q_heads]`` float64."""
        return self.entries().double() / (self.kv_len * (self.kv_len + 1) // 2)

    def entries(self) -> Tensor:
        """Return how many causal query-key pairs each head computes, ``[batch, q_heads]`` int64."""
        of_lines = self.lines.entries()
        seen = torch.arange(self.kv_len - self.last + 1, self.kv_len + 1, device=of_lines.device)
        outside = (seen - self.shape.local).clamp_min(0)
        return of_lines + (outside - self.shape.sink).clamp_min(0).sum()

    def keys_read(self, batch: int, head: int, position: Tensor) -> Tensor:
        """Return ``[len(position), kv_len]`` bool: the keys that queries at these positions read."""
        return self.lines.keys_read(batch, head, position) | (position >= self.kv_len - self.last)[:, None]

    def kept_blocks(self, head: int) -> Tensor:
        """Return ``[rows, rows]`` float: approximate kept share of each pair of 64 queries and 64 keys."""
        kept = self.lines.kept_blocks(head)
        first = TILE * torch.arange(len(kept), device=kept.device)
        queries = (self.kv_len - first).clamp_max(TILE)
        full = ((first + queries - self.kv_len + self.last).clamp_min(0).minimum(queries) / queries)[:, None]
        return kept * (1 - full) + full


class TriangleMix(LinesMethod):
    """Some layers are dense; in the others queries read the first tokens and a window, the last ones everything."""

    name = "trianglemix"

    class Params(MethodParams):
        """Sizes in tokens, with the authors' defaults."""

        n_init: int = Field(8, ge=0, le=MOST)
        """First tokens that every query reads."""
        n_local: int = Field(512, ge=1, le=MOST)
        """Tokens before and including its own that each query reads."""
        n_last: int = Field(100, ge=0, le=MOST)
        """Queries at the prompt's end that read everything; the official operator ignores the paper's 128."""
        dense_layers: str | None = None
        """Dense layers, e.g. 0-15 or 0-3+7; default: the first half of the model's layers."""

        @field_validator("dense_layers")
        @classmethod
        def _is_a_set(cls, layers: str | None) -> str | None:
            if layers is not None:
                parse_layers(layers, "+")
            return layers

    params: Params
    knob = Knob("n_local", 64, 65536, keeps="more", scale="log", whole=True)
    presets: ClassVar = {"llama-3.1-8b": {"dense_layers": "0-15"}, "qwen2.5-7b": {"dense_layers": "0-19"}}

    def heads(self, call: AttentionCall) -> list[AShape]:
        """Return the same shape for each query head."""
        return [AShape(self.params.n_init, self.params.n_local)] * call.q_heads

    def select(self, call: AttentionCall) -> TriangleIndex | None:
        """Read the triangle; None (dense) in a dense layer, for one query and for less than a tile of 64."""
        named = self.params.dense_layers
        if call.layer < call.layers // 2 if named is None else call.layer in parse_layers(named, "+"):
            return None
        lines = super().select(call)
        if lines is None:
            return None
        assert isinstance(lines, VerticalSlashIndex)
        return TriangleIndex(lines, self.heads(call)[0], min(self.params.n_last, call.q_len - 1))

    def attend(self, call: AttentionCall, index: TriangleIndex | None) -> Tensor:  # type: ignore[override]
        """Attend over sinks and window, and densely for the last rows, whose first results are overwritten."""
        if index is None:
            return self._dense.attend(call, None)
        out = attend_heads(call.q, call.k, call.v, index.lines, scale=call.scale, backend=self.backend).out
        if index.last:
            last = replace(call, q=call.q[:, -index.last :])
            out[:, -index.last :] = self._dense.attend(last, None)
        return out
