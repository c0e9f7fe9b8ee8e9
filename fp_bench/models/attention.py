"""A sparse-prefill method inside a Hugging Face model: replaces its attention and restores it.

Prefill of plain causal attention goes through the method, of padded and packed batches one sequence after the other;
decode goes dense, of drafted tokens too. What a method does not define (windows, soft caps, sinks, other masks, ...)
goes dense with the right mask and is counted with its reason.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from fp_bench.errors import UnsupportedError, UsageError
from fp_bench.kernels.attention.reference import attention_rows, sample_rows
from fp_bench.kernels.layout import BLOCK_SIZE
from fp_bench.kernels.selection import Selection
from fp_bench.methods.base import AttentionCall, Method
from fp_bench.methods.dense import Dense
from fp_bench.methods.dense_kernels import DenseKernels
from fp_bench.models.calls import CallCounts, LayerCalls
from fp_bench.models.masks import (
    Span,
    both,
    dense_prefill_mask,
    hides_a_key,
    packed_positions,
    plain_causal_keys,
    prefill_mask,
    sequences,
    visible,
    with_own_selection,
)

RECALL_ROWS = 16
"""Number of query rows per layer for measuring recall."""
OWN_SELECTION = "the model's own selection"
"""Reason why a layer that selects keys itself runs dense."""
ROWS = 256
"""Queries computed at a time with a soft cap or sinks, to limit memory."""


class SparsePrefill:
    """Runs a model's prefill attention through a method, inside a ``with`` block.

    In a vision-language model only the language model's attention is replaced.

    Args:
        model: a loaded model whose attention goes through transformers' AttentionInterface.
        method: computes prefill.
        dense_layers: layers that run dense attention instead; a number is so many first ones.
        measure_selection: whether to keep each sparse call's density and its recall on sampled rows, for ``counts``.
        kernels: as in `AttentionCall`.

    Raises:
        UsageError: a negative number of layers, or more than the model has.
        UnsupportedError: a model without attention; on entry, one that does not allow its attention to be replaced, or
            that is compiled with ``fullgraph=True``.

    Example:
        with SparsePrefill(model, FlashPrefill()) as prefill:
            model.generate(**prompt)
        print(prefill.counts)
    """

    def __init__(
        self,
        model: Any,
        method: Method,
        *,
        dense_layers: int | Collection[int] = 0,
        measure_selection: bool = False,
        kernels: DenseKernels | None = None,
    ) -> None:
        self.method = method
        self.counts = CallCounts()
        """What became of the calls since ``counts.clear()``; each sequence of a padded or packed batch is one."""
        self.last_chunk = True
        """Whether the next forward pass ends the prompt; set to False before each earlier chunk of it.

        ``generate(prefill_chunk_size=...)`` cannot set it: every chunk counts as the last one, which may keep more.
        """
        self._whole_graph: bool = getattr(getattr(model, "dynamo_ctx", None), "fullgraph", False)
        self._language = _language_model(model)
        self._layers: int = self._language.config.num_hidden_layers
        if isinstance(dense_layers, int):
            if not 0 <= dense_layers <= self._layers:
                raise UsageError(f"dense_layers {dense_layers} is not in 0..{self._layers}, the model's layers")
            dense_layers = range(dense_layers)
        if beyond := [layer for layer in dense_layers if not 0 <= layer < self._layers]:
            raise UsageError(f"dense_layers: layer {beyond[0]} is not in 0..{self._layers - 1}, the model's layers")
        self._dense_layers = frozenset(dense_layers)
        self._dense = Dense()
        self._measure_selection = measure_selection
        self._kernels = kernels
        self._restarts: tuple[Tensor | None, bool] = (None, False)
        self._plain_mask: tuple[Tensor | None, int] = (None, 0)
        self._spans: tuple[Tensor | None, Tensor | None, list[Span] | None] = (None, None, None)
        self._former: str | None = None

    @property
    def _name(self) -> str:
        # One name per object, so that two models can be replaced at once. A name with "flash" means something else.
        return f"fp_bench_prefill_{id(self):x}"

    def __enter__(self) -> Self:
        """Swap the attention."""
        from transformers import AttentionInterface, AttentionMaskInterface

        if self._former is not None:
            raise UsageError("this SparsePrefill is already in use; make another one")
        if self._whole_graph:
            raise UnsupportedError("counting calls breaks the single graph of fullgraph=True; compile without it")
        # Counting must not be compiled: generate() compiles decoding with a static cache.
        AttentionInterface.register(self._name, torch.compiler.disable(self._attention))  # type: ignore[no-untyped-call]
        # A model without SDPA support may rely on an additive mask.
        takes_sdpa = getattr(self._language, "_supports_sdpa", False)
        AttentionMaskInterface.register(self._name, prefill_mask if takes_sdpa else dense_prefill_mask)
        self._former = self._language.config._attn_implementation
        self._language.set_attn_implementation(self._name)
        if self._language.config._attn_implementation != self._name:
            self.__exit__()
            raise UnsupportedError(f"{type(self._language).__name__} does not allow its attention to be replaced")
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the model's former attention."""
        from transformers import AttentionInterface, AttentionMaskInterface

        self._language.set_attn_implementation(self._former)
        self._former = None
        # transformers cannot unregister; without this every object would stay alive in its registry.
        for interface in (AttentionInterface, AttentionMaskInterface):
            interface._global_mapping.pop(self._name, None)

    def _attention(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
    ) -> tuple[Tensor, None]:
        """Compute one attention call in the form of transformers' AttentionInterface.

        Args:
            module: the layer's attention.
            query: ``[batch, q_heads, q_len, head_dim]``.
            key: ``[batch, kv_heads, kv_len, head_dim]``.
            value: as ``key``.
            attention_mask: from ``prefill_mask``, or the user's ``[batch, 1, q_len, kv_len]`` one.
            options: additions of the model's kind of attention.

        Returns:
            ``[batch, q_len, q_heads, head_dim]``, and no weights.
        """
        if attention_mask is not None and attention_mask.dim() == 2:
            key, value, attention_mask = _written(key, value, attention_mask)
        elif attention_mask is not None and (seen := self._plain_keys(attention_mask, key.shape[2])):
            # Only the mask shows it in models whose layers declare themselves not causal.
            key, value, attention_mask, options["is_causal"] = key[:, :, :seen], value[:, :, :seen], None, True
        attention_mask, selects = with_own_selection(module, query, key, attention_mask, options)
        call = Call(module, query, key, value, attention_mask, options)
        calls = self.counts.layer(module.layer_idx)
        call.packed = self._packed(call)
        reason = OWN_SELECTION if selects else call.not_causal_prefill()
        if reason is None and not (call.mask is None and call.packed is None):
            spans = self._sequences(call)
            if spans is not None:
                out = torch.zeros_like(call.query.transpose(1, 2))
                for span in spans:
                    part = call.part(span)
                    out[span.row, span.queries] = self._causal(part, calls, part.too_few_queries())[0]
                return out, None
            reason = call.why_masked()
        return self._causal(call, calls, reason or call.too_few_queries()), None

    def _causal(self, call: "Call", calls: LayerCalls, reason: str | None) -> Tensor:
        """Compute a call by the method or, for a reason that is given or found, densely; count it."""
        if reason is None:
            try:
                return self._by_method(call, calls)
            except UnsupportedError as error:
                reason = str(error)
        calls.went_dense(reason, call.q_len, call.kv_len)
        return call.dense()

    def _by_method(self, call: "Call", calls: LayerCalls) -> Tensor:
        """Compute a plain causal call by the method, or by dense attention in layers that run dense, and count it.

        Raises:
            UnsupportedError: the method does not support this call.
        """
        layer: int = call.module.layer_idx
        method = self._dense if layer in self._dense_layers else self.method
        attention = call.for_method(layer, self._layers, self.last_chunk, self._kernels)
        if (reason := method.unsupported(attention)) is not None:
            raise UnsupportedError(reason)
        out, index = self._run(method, attention)
        calls.kernels.add(method.implementation(attention, index))
        if index is not None:
            calls.sparse += 1
            if self._measure_selection:
                self._measure(calls, attention, index)
        elif method is self.method:
            calls.went_dense(f"{method.name} ran dense", call.q_len, call.kv_len)
        else:
            calls.went_dense("one of the layers asked to run dense", call.q_len, call.kv_len)
        return out

    def _run(self, method: Method, call: AttentionCall) -> tuple[Tensor, Selection | None]:
        return method.run(call)

    def _measure(self, calls: LayerCalls, call: AttentionCall, index: Selection) -> None:
        calls.add_density(index)
        calls.add_recall(selection_recall(call, index))

    def _plain_keys(self, mask: Tensor, kv_len: int) -> int:
        """Return how many keys an additive mask attends to causally, and in no other way; 0 if it says more."""
        if mask.dtype == torch.bool or mask.shape[-2] == 1 or mask.shape[-1] != kv_len:
            return 0
        # Reading the mask waits for the GPU: once for all layers that get the same tensor.
        if self._plain_mask[0] is not mask:
            self._plain_mask = (mask, plain_causal_keys(mask))
        return self._plain_mask[1]

    def _sequences(self, call: "Call") -> list[Span] | None:
        """Return the sequences of a padded or packed batch; None where its mask says more."""
        packing = call.unmasked_packing
        # Reading masks waits for the GPU: once for all layers that get the same tensors.
        if self._spans[0] is not call.mask or self._spans[1] is not packing:
            found = sequences(call.mask, packing, call.query.shape[0], call.q_len, call.kv_len)
            self._spans = (call.mask, packing, found)
        return self._spans[2]

    def _packed(self, call: "Call") -> Tensor | None:
        """Return the packed queries' positions ``[rows, q_len]``; None if each row is one sequence.

        Raises:
            UnsupportedError: sequence bounds together with several rows or cached keys.
        """
        if call.q_len == 1:
            return None
        bounds: Tensor | None = call.options.get("cu_seq_lens_q")
        if bounds is not None and bounds.numel() > 2:
            if call.query.shape[0] > 1 or call.q_len < call.kv_len:
                raise UnsupportedError("cu_seq_lens with several rows or cached keys; pack into one row, uncached")
            return packed_positions(bounds, call.q_len)
        positions: Tensor | None = call.options.get("position_ids")
        if positions is None or positions.dim() != 2 or positions.shape[1] != call.q_len:
            return None
        # Reading the positions waits for the GPU: once a forward pass, whose layers all get the same tensor.
        if self._restarts[0] is not positions:
            self._restarts = (positions, bool((positions.diff(dim=-1) < 1).any()))
        return positions if self._restarts[1] else None


def selection_recall(call: AttentionCall, index: Selection) -> Tensor:
    """Return the share of dense attention mass that a selection covers, mean over heads and sampled rows."""
    rows = sample_rows(call.q_len, seed=call.layer, count=RECALL_ROWS)
    dense, kept = (
        attention_rows(call.q, call.k, call.v, scale=call.scale, rows=rows, index=which).lse for which in (None, index)
    )
    return (kept - dense).exp().mean()


@dataclass
class Call:
    """One attention call in transformers' terms."""

    module: Any
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    options: dict[str, Any]
    packed: Tensor | None = None
    """Positions ``[rows, q_len]`` of the queries if they restart, as in packed rows or after left padding."""

    @property
    def q_len(self) -> int:
        """Number of queries."""
        return self.query.shape[2]

    @property
    def kv_len(self) -> int:
        """Number of keys."""
        return self.key.shape[2]

    @property
    def scale(self) -> float:
        """Factor on the logits."""
        scaling: float | None = self.options.get("scaling")
        return self.query.shape[-1] ** -0.5 if scaling is None else scaling

    @property
    def causal(self) -> bool:
        """Whether a query sees no keys after it."""
        asked: bool | None = self.options.get("is_causal")
        return getattr(self.module, "is_causal", True) if asked is None else asked

    @property
    def window(self) -> int | None:
        """Keys up to and including itself that a query sees, if fewer than all."""
        window: int | None = self.options.get("sliding_window")
        return window if window is not None and window < self.kv_len else None

    @property
    def unmasked_packing(self) -> Tensor | None:
        """``packed`` if the mask does not include it: there is no mask, or bounds were given, which masks ignore."""
        return self.packed if self.mask is None or self.options.get("cu_seq_lens_q") is not None else None

    def not_causal_prefill(self) -> str | None:
        """Return what, beside a mask, makes this call more than causal prefill, or None."""
        if self.q_len == 1:
            return "decode"
        extras = {
            "training": self.options.get("dropout") or self.module.training,
            "gradients": torch.is_grad_enabled() and self.query.requires_grad,
            "not causal": not self.causal,
            "soft cap": self.options.get("softcap") is not None,
            "attention sinks": self.options.get("s_aux") is not None,
            "position bias": self.options.get("position_bias") is not None,
            "sliding window": self.window is not None,
        }
        return next((name for name, given in extras.items() if given), None)

    def why_masked(self) -> str:
        """Return what a mask is for that no sequence of a batch explains."""
        if self.mask is not None and hides_a_key(self.mask):
            return "padding"
        return "custom mask" if self.packed is None else "packed rows"

    def part(self, span: Span) -> "Call":
        """Return one sequence of a batch as a call of its own."""
        row = slice(span.row, span.row + 1)
        query, key, value = self.query[row, :, span.queries], self.key[row, :, span.keys], self.value[row, :, span.keys]
        without = ("cu_seq_lens_q", "cu_seq_lens_k", "position_ids")
        options = {name: given for name, given in self.options.items() if name not in without}
        return Call(self.module, query, key, value, None, options)

    def too_few_queries(self) -> str | None:
        """Return why a causal call is not worth a method, or None."""
        # Assisted decoding checks a few drafted tokens at a time; of a prompt, dense attention of so few is as fast.
        return "less than a block after cached keys" if self.q_len < min(BLOCK_SIZE, self.kv_len) else None

    def for_method(self, layer: int, layers: int, last: bool, kernels: DenseKernels | None = None) -> AttentionCall:
        """Return the call for a method.

        Raises:
            UnsupportedError: shapes or dtypes that no method supports.
        """
        q, k, v = (tensor.transpose(1, 2) for tensor in (self.query, self.key, self.value))
        return AttentionCall(q, k, v, self.scale, layer, layers, last, kernels)

    def dense(self) -> Tensor:
        """Compute dense attention with all features of the model, ``[batch, q_len, q_heads, head_dim]``."""
        mask = self._dense_mask()
        if self.options.get("softcap") is not None or self.options.get("s_aux") is not None:
            return _capped(self, mask)
        plain = mask is None and self.causal and self.options.get("position_bias") is None
        if plain and 1 < self.q_len < self.kv_len:
            return self._chunk()
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        out: Tensor = sdpa_attention_forward(self.module, self.query, self.key, self.value, mask, **self.options)[0]
        return out

    def _dense_mask(self) -> Tensor | None:
        """Return the given mask, combined with the window and packed sequences that it may lack."""
        packing = self.unmasked_packing
        if packing is None and (self.window is None or self.mask is not None):
            return self.mask
        own = visible(self.q_len, self.kv_len, window=self.window, positions=packing, device=self.query.device)
        return own if self.mask is None else both(self.mask, own)

    def _chunk(self) -> Tensor:
        """Bottom-right causal attention, because transformers' SDPA would treat the keys as a static cache."""
        from torch.nn.attention.bias import causal_lower_right  # brings torch's compiler, which takes seconds

        out = F.scaled_dot_product_attention(
            self.query,
            self.key,
            self.value,
            attn_mask=causal_lower_right(self.q_len, self.kv_len),
            dropout_p=self.options.get("dropout") or 0.0,
            scale=self.scale,
            enable_gqa=self.query.shape[1] != self.key.shape[1],
        )
        return out.transpose(1, 2).contiguous()


def _capped(call: Call, mask: Tensor | None) -> Tensor:
    """Attention with a soft cap or sinks, a few rows at a time; otherwise like ``Call.dense``."""
    if mask is None and call.causal:
        mask = visible(call.q_len, call.kv_len, device=call.query.device)
    if mask is not None:
        mask = mask.expand(-1, -1, call.q_len, -1)
    groups = call.query.shape[1] // call.key.shape[1]
    key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (call.key, call.value))
    softcap: float | None = call.options.get("softcap")
    sinks: Tensor | None = call.options.get("s_aux")
    rows = []
    for start in range(0, call.q_len, ROWS):
        logits = call.query[:, :, start : start + ROWS] @ key.transpose(2, 3) * call.scale
        if softcap is not None:
            logits = torch.tanh(logits / softcap) * softcap
        if mask is not None:
            logits = _masked(logits, mask[..., start : start + ROWS, : call.kv_len])
        if sinks is not None:
            column = sinks.to(logits.dtype).reshape(1, -1, 1, 1).expand(*logits.shape[:3], 1)
            logits = torch.cat([logits, column], dim=-1)
        weights = logits.softmax(-1, dtype=torch.float32).to(value.dtype)[..., : call.kv_len]
        weights = F.dropout(weights, call.options.get("dropout") or 0.0)
        rows.append(weights @ value)
    return torch.cat(rows, dim=2).transpose(1, 2).contiguous()


def _masked(logits: Tensor, mask: Tensor) -> Tensor:
    """Hide keys with a finite minimum, because the softmax of a row of padding would be NaN with infinities."""
    if mask.dtype == torch.bool:
        return logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
    return logits + mask


def _written(key: Tensor, value: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, None]:
    """Truncate a static cache's keys and values to the written ones.

    Raises:
        UnsupportedError: a mask that ``prefill_mask`` did not make.
    """
    seen = mask.shape[1]
    if seen >= key.shape[2]:
        raise UnsupportedError(f"the model gives a mask {list(mask.shape)} of its own; use attention without one")
    return key[:, :, :seen], value[:, :, :seen], None


def _language_model(model: Any) -> Any:
    """Return the model, or its part, that has the text decoder's configuration.

    Raises:
        UnsupportedError: there is none, or it has no attention layers.
    """
    from transformers import PreTrainedModel

    config = model.config.get_text_config(decoder=True)
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and module.config is config:
            if not any("Attention" in type(layer).__name__ for layer in module.modules()):
                raise UnsupportedError(f"{type(model).__name__} has no attention layers that a method could replace")
            return module
    raise UnsupportedError(f"{type(model).__name__} has no language model whose attention could be replaced")
