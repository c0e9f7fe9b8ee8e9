"""A method inside an inference engine: it computes the prefill rows of a packed batch, directly from the pages."""

import logging
import os
import re
import warnings
from collections.abc import Callable
from functools import cache

from torch import Tensor

from fp_bench.errors import UsageError
from fp_bench.kernels.layout import BLOCK_SIZE
from fp_bench.kernels.paged import flash_prefill_paged, implementation
from fp_bench.kernels.paged.batch import PagedBatch, PagedSequence
from fp_bench.kernels.selection import Selection
from fp_bench.methods.base import AttentionCall, Method
from fp_bench.methods.dense import Dense
from fp_bench.methods.dense_kernels import DenseKernels
from fp_bench.methods.flashprefill import FlashPrefill
from fp_bench.methods.registry import Spec, create_method
from fp_bench.models.attention import selection_recall
from fp_bench.models.calls import CallCounts, LayerCalls

VARIABLE = "FPBENCH_METHOD"
"""Environment variable that names the method, as in ``--methods``, because engines do not pass our options."""
DEFAULT = "flashprefill"
REQUIRED = "FPBENCH_REQUIRE_METHOD"
"""If set to anything except 0, a method must be named by `VARIABLE`: a worker on another machine may
have lost the variable and would silently run the default."""
LOGGER = "vllm.fp_bench"
"""A child of vLLM's logger, with its handlers and level."""


class PagedPrefill:
    """Prefill attention of one method over pages.

    FlashPrefill runs in three launches for the whole batch, without a host sync. Any other method takes one
    sequence after the other and first copies its keys and values out of the pages. This costs a read and a write of
    the context's K and V in every layer and step, their memory, one wait per step for the lengths, and launches for
    each sequence.

    Args:
        method: any method; dense leaves everything to the engine.
        layers: of the model.
        measure_selection: keep the density and the recall of each selection, for ``counts``; this selects twice.

    Raises:
        UsageError: an option that is not supported over pages.
    """

    def __init__(self, method: Method, layers: int, *, measure_selection: bool = False) -> None:
        self.method = method
        self.layers = layers
        self.counts = CallCounts()
        """Counts of prefill calls: a call is a sequence of a batch or, for FlashPrefill, a batch."""
        self._kernels = _FlashAttention2()
        self._measure_selection = measure_selection
        if isinstance(method, FlashPrefill):
            if method.params.dense_above < 1:
                raise UsageError(f"{method.label}: dense_above waits for the GPU, which an engine's step must not do")
            if method.params.rule != "max" or method.params.correction or method.params.precision != "input":
                raise UsageError(
                    f"{method.label}: over pages FlashPrefill has only its threshold rule, no correction and no FP8"
                )
            if method.params.skip is not None:
                raise UsageError(f"{method.label}: over pages FlashPrefill skips no tiles; leave skip out")
            if (reason := method.other_model(layers)) is not None:
                raise UsageError(f"{method.label}: {reason}")

    @classmethod
    def from_environment(cls, layers: int) -> "PagedPrefill":
        """Build the method named by ``FPBENCH_METHOD``, by default FlashPrefill, and log it once per process.

        Raises:
            UsageError: an unknown method, a parameter out of its limits, or a missing required name.
        """
        named = os.environ.get(VARIABLE)
        if not named and os.environ.get(REQUIRED, "0") not in ("", "0"):
            raise UsageError(f"{REQUIRED} is set but {VARIABLE} is not; set it for every worker, e.g. {DEFAULT}")
        method = create_method(Spec.parse(named or DEFAULT))
        _log_once(f"prefill attention by {method.label} ({VARIABLE}{'' if named else ' is not set: the default'})")
        return cls(method, layers)

    def takes(self, max_kv_len: int) -> bool:
        """Return whether the method runs for a batch whose longest sequence has this many tokens.

        FlashPrefill keeps everything in a sequence covered by its sinks and window, so dense attention is equal there.
        """
        if isinstance(self.method, FlashPrefill):
            params = self.method.params
            covered = (params.sink_blocks + params.window_blocks) * BLOCK_SIZE
            return max_kv_len > max(covered, params.dense_below - 1)
        return not isinstance(self.method, Dense)

    def fill(
        self, q: Tensor, k: Tensor, v: Tensor, batch: PagedBatch, out: Tensor, *, scale: float, layer: int
    ) -> None:
        """Write the attention of the batch's queries to their rows of ``out``.

        Args:
            q: ``[tokens, q_heads, head_dim]``.
            k: ``[pages, page_size, kv_heads, head_dim]``.
            v: as ``k``.
            batch: of the queries and pages.
            out: as ``q``.
            scale: factor on the logits.
            layer: number of this layer.
        """
        calls = self.counts.layer(layer)
        if isinstance(self.method, FlashPrefill):
            self._flash_prefill(self.method.params, self.method.alpha_of(layer), q, k, v, batch, out, scale)
            calls.sparse += not self.method.makes_dense(layer)
            calls.kernels.add(f"paged {implementation(q, k, v, out, self.method.backend)}")
            if not self._measure_selection:
                return
        for sequence in batch.sequences:
            call = self.call_of(sequence, q, k, v, scale=scale, layer=layer)
            if isinstance(self.method, FlashPrefill):
                if self.method.makes_dense(layer):
                    calls.went_dense("alpha is 0 in this layer", call.q_len, call.kv_len)
                self._measure(call, self.method.select(call), calls)
            else:
                out[sequence.queries] = self._one(call, calls)[0]

    def call_of(
        self, sequence: PagedSequence, q: Tensor, k: Tensor, v: Tensor, *, scale: float, layer: int
    ) -> AttentionCall:
        """Return one sequence's call, its keys and values gathered from the pages; arguments as for `fill`."""
        return AttentionCall(
            q[None, sequence.queries],
            sequence.gather(k),
            sequence.gather(v),
            scale,
            layer=layer,
            layers=self.layers,
            last_chunk=sequence.last_chunk,
            kernels=self._kernels,
        )

    def _flash_prefill(
        self, params: FlashPrefill.Params, alpha: float, q: Tensor, k: Tensor, v: Tensor, batch: PagedBatch,
        out: Tensor, scale: float,
    ) -> None:  # fmt: skip
        flash_prefill_paged(
            q,
            k,
            v,
            batch,
            alpha=alpha,
            sink_blocks=params.sink_blocks,
            window_blocks=params.window_blocks,
            last_full_blocks=params.last_full_blocks,
            scale=scale,
            out=out,
            backend=self.method.backend,
        )

    def _one(self, call: AttentionCall, calls: LayerCalls) -> Tensor:
        """Compute one sequence with the method, or densely if it does not support it; count it."""
        reason = self.method.unsupported(call)
        if reason is not None:
            warnings.warn(f"{self.method.label} ran dense: {reason}", stacklevel=2)
            calls.went_dense(reason, call.q_len, call.kv_len)
            return Dense(Dense.Params(impl="fa2" if call.q.is_cuda else "sdpa_cpu"))(call)
        out, index = self.method.run(call)
        calls.kernels.add(self.method.implementation(call, index))
        if index is None:
            calls.went_dense(f"{self.method.name} ran dense", call.q_len, call.kv_len)
        else:
            calls.sparse += 1
            self._measure(call, index, calls)
        return out

    def _measure(self, call: AttentionCall, index: Selection | None, calls: LayerCalls) -> None:
        if self._measure_selection and index is not None:
            calls.add_density(index)
            calls.add_recall(selection_recall(call, index))


class _FlashAttention2(DenseKernels):
    """Where ``dense:impl=auto`` runs in a server, it is what servers run, so that no rank and no request differs."""

    def kernel(self, kind: str, decide: Callable[[], str]) -> str:
        del kind, decide
        return "fa2"


@cache
def _log_once(line: str) -> None:
    """Log a line once per process, because each layer of a rank requests it."""
    logging.getLogger(LOGGER).info(line)


def layer_number(name: str) -> int:
    """Return the number in a layer's name, e.g. 3 for ``model.layers.3.self_attn.attn``; 0 if it has none."""
    found = re.search(r"\.(\d+)(\.|$)", name)
    return int(found[1]) if found else 0
