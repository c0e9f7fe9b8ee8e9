"""Counts of a model's attention calls: how many a sparse method computed, how many ran dense, and why."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fp_bench.errors import UnsupportedError
from fp_bench.kernels.selection import Selection, causal_entries
from fp_bench.records.record import DENSITY_OF


@dataclass
class LayerCalls:
    """The calls of one layer."""

    sparse: int = 0
    """Calls whose selection the method attended over."""
    dense: Counter[str] = field(default_factory=Counter)
    """Calls computed densely, by reason; ``decode`` is the reason of calls with one query."""
    kernels: set[str] = field(default_factory=set)
    """Kernels that computed the method's prefill calls."""
    _kept: list[Tensor] = field(default_factory=list, repr=False)
    _pairs: int = 0
    """Causal query-key pairs of the sparse calls whose density was measured."""
    _dense_pairs: int = 0
    """Causal query-key pairs of dense prefill calls."""
    _recalls: list[Tensor] = field(default_factory=list, repr=False)

    def went_dense(self, reason: str, q_len: int, kv_len: int) -> None:
        """Count a call that was computed densely."""
        self.dense[reason] += 1
        if q_len > 1:
            self._dense_pairs += causal_entries(q_len, kv_len)

    def add_density(self, index: Selection) -> None:
        """Store a selection's density on the device, to be read on request."""
        pairs = causal_entries(index.q_len, index.kv_len)
        self._kept.append(index.density().mean() * pairs)
        self._pairs += pairs

    def add_recall(self, recall: Tensor) -> None:
        """Store a selection's recall, one number on the device."""
        self._recalls.append(recall)

    def recall(self) -> float | None:
        """Return the mean recall of the sparse calls; None if none was measured."""
        return float(torch.stack(self._recalls).mean()) if self._recalls else None

    def density(self) -> float | None:
        """Return the computed share of the causal query-key pairs of all prefill calls; None if unknown."""
        if self.sparse and not self._kept:
            return None
        pairs = self._pairs + self._dense_pairs
        return (self._kept_pairs() + self._dense_pairs) / pairs if pairs else None

    def density_sparse(self) -> float | None:
        """Return the same for the sparse calls only; None if none was measured."""
        return self._kept_pairs() / self._pairs if self._kept else None

    def joined(self, other: "LayerCalls") -> "LayerCalls":
        """Return the same calls of two ranks, each of which computed its own heads."""
        return LayerCalls(
            max(self.sparse, other.sparse),
            self.dense | other.dense,
            self.kernels | other.kernels,
            [part.cpu() for part in self._kept + other._kept],
            self._pairs + other._pairs,
            self._dense_pairs + other._dense_pairs,
            [part.cpu() for part in self._recalls + other._recalls],
        )

    def _kept_pairs(self) -> float:
        return float(torch.stack(self._kept).sum()) if self._kept else 0.0


@dataclass
class CallCounts:
    """The calls of all layers, by the layer's number."""

    layers: dict[int, LayerCalls] = field(default_factory=dict)

    def layer(self, number: int) -> LayerCalls:
        """Return the calls of one layer, initially none."""
        return self.layers.setdefault(number, LayerCalls())

    @property
    def sparse(self) -> int:
        """Number of sparse calls."""
        return sum(calls.sparse for calls in self.layers.values())

    @property
    def dense(self) -> Counter[str]:
        """Number of dense calls by reason."""
        return sum((calls.dense for calls in self.layers.values()), Counter())

    @property
    def kernels(self) -> set[str]:
        """Kernels that computed the method's prefill calls."""
        return set().union(*(calls.kernels for calls in self.layers.values()))

    @property
    def sparse_layers(self) -> int:
        """Number of layers that had a sparse call."""
        return sum(calls.sparse > 0 for calls in self.layers.values())

    def density(self) -> float | None:
        """Return the mean density of all layers, dense ones included; None if one is unknown."""
        found = [calls.density() for calls in self.layers.values() if calls.sparse or calls.dense]
        return None if None in found else _mean(found)

    def density_sparse(self) -> float | None:
        """Return the mean density of the sparse calls over layers with a measurement; None if there is none."""
        return _mean(calls.density_sparse() for calls in self.layers.values())

    def recall(self) -> float | None:
        """Return the mean recall over layers with a measurement; None if there is none."""
        return _mean(calls.recall() for calls in self.layers.values())

    def fields(self, method: str) -> dict[str, Any]:
        """Return the fields of a record that say what the attention of a method, by its name, computed."""
        return {
            "backend": "+".join(sorted(self.kernels)) or None,
            "fallback": method != "dense" and not self.sparse,
            "density": self.density() if self.sparse else 1.0,
            "density_of": DENSITY_OF,
            "density_sparse": self.density_sparse(),
            "sparse_layers": self.sparse_layers,
            "model_layers": len(self.layers),
            "recall": self.recall() if self.sparse else 1.0,
            "dense_calls": {reason: count for reason, count in self.dense.items() if reason != "decode"},
        }

    def joined(self, other: "CallCounts") -> "CallCounts":
        """Return the calls of two ranks of a model as one, on the host: means over the heads of both."""
        numbers = sorted(self.layers.keys() | other.layers.keys())
        none = LayerCalls()
        return CallCounts({n: self.layers.get(n, none).joined(other.layers.get(n, none)) for n in numbers})

    def clear(self) -> None:
        """Forget all calls."""
        self.layers.clear()

    def check_reached(self) -> None:
        """Refuse a model that has run without any attention call arriving here.

        Raises:
            UnsupportedError: nothing was counted.
        """
        if not self.layers:
            raise UnsupportedError("no attention call of this model went through the method")

    def __str__(self) -> str:
        """One line, e.g. ``36 sparse; dense: 108 decode, 4 sliding window``."""
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.dense.most_common())
        return f"{self.sparse} sparse; dense: {reasons or 'none'}"


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
