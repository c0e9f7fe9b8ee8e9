"""MInference (arXiv 2407.02490), with a pattern for each layer and head from a file in the published format."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from fp_bench.kernels.lines.head_patterns import Lines, Pattern
from fp_bench.methods.base import AttentionCall, Knob, MethodParams
from fp_bench.methods.lines import LinesMethod
from fp_bench.methods.minference.patterns import DEFAULT, MOST, read_patterns


class MInference(LinesMethod):
    """Each head keeps the columns and diagonals that its last queries read most, sinks and a window, or key blocks."""

    name = "minference"

    class Params(MethodParams):
        """Sizes in tokens, equal at every length, so the density falls with length."""

        columns: int = Field(DEFAULT.columns, ge=1, le=MOST)
        """Columns that a head keeps; fewer than 30 count as 30."""
        diagonals: int = Field(DEFAULT.diagonals, ge=1, le=MOST)
        """Diagonals that a head keeps; fewer than 50 count as 50."""
        config: str | None = None
        """JSON file of patterns by layer and head, in the authors' format; other heads use the sizes above."""

    params: Params
    knob = Knob("diagonals", 50, 65536, keeps="more", scale="log", whole=True)
    presets: ClassVar = {"llama-3.1-8b": {"columns": 512, "diagonals": 2048}}

    def __init__(self, params: Params | None = None, *, backend: str = "auto") -> None:
        super().__init__(params, backend=backend)
        self._layers = None if self.params.config is None else read_patterns(Path(self.params.config))

    def file_content(self) -> object:
        """Return the patterns of the file."""
        return self._layers

    def unsupported(self, call: AttentionCall) -> str | None:
        """Return the reason if the file belongs to another model, and for chunks and unsupported head_dim."""
        if self._layers is not None:
            if call.layer >= len(self._layers):
                return f"{self.params.config} has {len(self._layers)} layers; the call is of layer {call.layer}"
            if max(self._layers[call.layer], default=0) >= call.q_heads:
                return f"{self.params.config} names head {max(self._layers[call.layer])} of {call.q_heads} heads"
        return super().unsupported(call)

    def heads(self, call: AttentionCall) -> list[Pattern]:
        """Return each query head's pattern: from the file, or the given sizes."""
        named = {} if self._layers is None else self._layers[call.layer]
        other = Lines(self.params.columns, self.params.diagonals)
        return [named.get(head, other) for head in range(call.q_heads)]
