"""Layers of a model that would run sparse, found before loading it: its attention runs on shapes without data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fp_bench.errors import UnsupportedError
from fp_bench.methods.base import AttentionCall, Method
from fp_bench.methods.dense import Dense
from fp_bench.models.attention import OWN_SELECTION, Call, SparsePrefill
from fp_bench.models.load import model_without_weights

SHORTEST = 1024
"""Fewest tokens of the trial prompt; it has at least twice the length of any window."""


@dataclass(frozen=True)
class Layer:
    """One layer's attention call."""

    number: int
    kind: str
    """The layer's kind in the configuration; empty if all layers are of one kind."""
    shape: str
    """Query heads, KV heads and head size of its attention; empty if it has none."""
    dense: Mapping[str, str] = field(default_factory=dict)
    """Reasons why a method would run the layer dense, by label; other methods run it sparse."""


def layers_of(name: str, methods: Sequence[Method]) -> list[Layer]:
    """Return for each layer whether its prefill would run sparse, without reading weights or a tokenizer.

    Args:
        name: of the model, as `load_model` takes it.
        methods: the methods to try.

    Raises:
        UsageError: a change that the configuration does not allow.
        UnavailableError: the configuration is missing, or the model does not run without data.
        UnsupportedError: a model that does not allow its attention to be replaced.
    """
    model = model_without_weights(name)
    config = model.config.get_text_config(decoder=True)
    windows = (getattr(config, name, None) or 0 for name in ("sliding_window", "attention_chunk_size"))
    length = max(SHORTEST, *(2 * window for window in windows))
    with torch.no_grad(), _Asked(model, methods) as asked:
        ids = torch.zeros(1, length, dtype=torch.long, device="meta")
        try:
            model(input_ids=ids, logits_to_keep=1)
        except (RuntimeError, ValueError, IndexError) as error:
            # Code that reads its data, e.g. of some routers, cannot run without data.
            asked.stopped = f"unknown: the model reads data before this layer ({type(error).__name__})"
    kinds = getattr(config, "layer_types", None) or [""] * config.num_hidden_layers
    return [asked.layer(number, str(kind)) for number, kind in enumerate(kinds)]


class _Asked(SparsePrefill):
    """Records each layer's call, without computing it."""

    def __init__(self, model: Any, methods: Sequence[Method]) -> None:
        super().__init__(model, Dense())
        self._methods = methods
        self._found: dict[int, Layer] = {}
        self.stopped = ""
        """Reason why the model did not run to the end."""

    def layer(self, number: int, kind: str) -> Layer:
        """Return a layer's call, or a note that it has no attention that could be replaced."""
        found = self._found.get(number)
        if found is not None:
            return Layer(number, kind, found.shape, found.dense)
        reason = self.stopped or "no softmax attention through transformers' interface"
        return Layer(number, kind, "", {method.label: reason for method in self._methods})

    def _attention(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
    ) -> tuple[Tensor, None]:
        call = Call(module, query, key, value, None, options)
        reason = call.not_causal_prefill()
        if reason is None and any(options.get(name) is not None for name in ("indices", "block_indices")):
            reason = OWN_SELECTION
        if reason is None and attention_mask is not None and attention_mask.dtype == torch.bool:
            reason = "custom mask"
        number: int = module.layer_idx
        dense = {method.label: why for method in self._methods if (why := reason or _refusal(method, call, number))}
        shape = f"{query.shape[1]}/{key.shape[1]}/{query.shape[3]}"
        self._found[number] = Layer(number, "", shape, dense)
        return query.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[3]), None


def _refusal(method: Method, call: Call, layer: int) -> str | None:
    try:
        asked: AttentionCall = call.for_method(layer, layer + 1, last=True)
    except UnsupportedError as error:
        return str(error)
    return method.unsupported(asked)
