"""A model's prefill by a method that is not taken at its word."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fp_bench.jobs.failures import IncorrectError
from fp_bench.jobs.latency.changing import WRITES_INPUTS, fingerprint
from fp_bench.jobs.latency.definition import Truth, allowed, check_error, defined, read_only, seen
from fp_bench.kernels.selection import Selection
from fp_bench.methods.base import AttentionCall, Method
from fp_bench.methods.dense_kernels import DenseKernels
from fp_bench.models.attention import SparsePrefill
from fp_bench.models.calls import LayerCalls


class HeldPrefill(SparsePrefill):
    """Counts the keys that selections read, whatever those say, and holds one layer's output to the definition.

    Args:
        model: as for `SparsePrefill`.
        method: the same.
        layer: whose outputs are compared with the definition; None: no layer.
        dense_layers: as for `SparsePrefill`.
        measure_selection: the same.
        kernels: the same.
    """

    def __init__(
        self,
        model: Any,
        method: Method,
        layer: int | None,
        *,
        dense_layers: int | Collection[int] = 0,
        measure_selection: bool = False,
        kernels: DenseKernels | None = None,
    ) -> None:
        super().__init__(model, method, dense_layers=dense_layers, measure_selection=measure_selection, kernels=kernels)
        self._held = layer

    def _run(self, method: Method, call: AttentionCall) -> tuple[Tensor, Selection | None]:
        """Compute a call; raise IncorrectError where its output is no attention over the selection."""
        if call.layer != self._held:
            return super()._run(method, call)
        self._mark()
        own = replace(call)
        truth, before = Truth(own, torch.tensor([own.q_len - 1])), fingerprint(own.q, own.k, own.v)
        self._mark()
        out, index = super()._run(method, call)
        self._mark()
        rows = truth.hidden.rows
        found, over = out[:, rows].float(), seen(index, own, truth)
        if fingerprint(own.q, own.k, own.v) != before:
            raise IncorrectError(WRITES_INPUTS)
        if not bool(found.isfinite().all()):
            raise IncorrectError(f"in layer {own.layer}, the output is not all finite")
        of_method = defined(method, own, over, rows)
        try:
            right = truth.over(truth.hidden, over).out if of_method is None else of_method
            check_error(found, right, allowed(method, own.q.dtype)[0])
        except IncorrectError as error:
            raise IncorrectError(f"in layer {own.layer}, {error}") from None
        self._mark()
        return out, index

    def _measure(self, calls: LayerCalls, call: AttentionCall, index: Selection) -> None:
        super()._measure(calls, call, read_only(index, call))

    def _mark(self) -> None:
        """Begin or end what is looked at beside the method, for whoever takes the time."""
