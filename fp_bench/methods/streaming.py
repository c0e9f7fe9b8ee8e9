"""StreamingLLM's A-shape (arXiv 2309.17453): the first tokens and a window, the same for every head."""

from pydantic import Field

from fp_bench.kernels.lines.head_patterns import AShape
from fp_bench.methods.base import AttentionCall, Knob, MethodParams
from fp_bench.methods.lines import LinesMethod
from fp_bench.methods.minference.patterns import MOST


class Streaming(LinesMethod):
    """Query i reads key j <= i if ``i - j < n_local`` or ``j < n_init``, exact to the token."""

    name = "streaming"

    class Params(MethodParams):
        """Sizes in tokens, equal at every length; defaults of MInference's experiments."""

        n_init: int = Field(128, ge=0, le=MOST)
        """First tokens that every query reads: the sinks."""
        n_local: int = Field(3968, ge=1, le=MOST)
        """Tokens before and including its own that each query reads: the window."""

    params: Params
    knob = Knob("n_local", 128, 65536, keeps="more", scale="log", whole=True)

    def heads(self, call: AttentionCall) -> list[AShape]:
        """Return the same shape for each query head."""
        return [AShape(self.params.n_init, self.params.n_local)] * call.q_heads
