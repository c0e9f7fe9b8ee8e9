"""What became of a model's attention calls: how many a sparse method computed, how many went dense, and why."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fp_bench.kernels.layout import BlockGrid
from fp_bench.kernels.selection import Selection


@dataclass
class LayerCalls:
    """The calls of one layer."""

    sparse: int = 0
    """Calls whose selection the method attended over."""
    dense: Counter[str] = field(default_factory=Counter)
    """Calls computed densely, by reason; ``decode`` is the reason of calls with one query."""
    kernels: set[str] = field(default_factory=set)
    """What computed the prefill calls that the method took."""
    _kept: list[Tensor] = field(default_factory=list, repr=False)
    _pairs: int = 0
    _recalls: list[Tensor] = field(default_factory=list, repr=False)

    def add_density(self, index: Selection) -> None:
        """Keep a selection's density on the device, to be read when asked for."""
        pairs = BlockGrid(index.q_len, index.kv_len).causal_pairs
        self._kept.append(index.density().mean() * pairs)
        self._pairs += pairs

    def add_recall(self, recall: Tensor) -> None:
        """Keep a selection's recall, one number on the device."""
        self._recalls.append(recall)

    def recall(self) -> float | None:
        """Return the mean recall of the sparse calls; None where none was measured."""
        return float(torch.stack(self._recalls).mean()) if self._recalls else None

    def density(self) -> float | None:
        """Return the kept share of the causal block pairs of all sparse calls; None where none was measured."""
        return float(torch.stack(self._kept).sum()) / self._pairs if self._kept else None


@dataclass
class CallCounts:
    """The calls of all layers, by the layer's number."""

    layers: dict[int, LayerCalls] = field(default_factory=dict)

    def layer(self, number: int) -> LayerCalls:
        """Return the calls of one layer, none so far at first."""
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
        """What computed the prefill calls that the method took."""
        return set().union(*(calls.kernels for calls in self.layers.values()))

    def density(self) -> float | None:
        """Return the mean density of the layers that had one measured; None where none had."""
        return _mean(calls.density() for calls in self.layers.values())

    def recall(self) -> float | None:
        """Return the mean recall of the layers that had one measured; None where none had."""
        return _mean(calls.recall() for calls in self.layers.values())

    def clear(self) -> None:
        """Forget all calls."""
        self.layers.clear()

    def __str__(self) -> str:
        """One line, e.g. ``36 sparse; dense: 108 decode, 4 sliding window``."""
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.dense.most_common())
        return f"{self.sparse} sparse; dense: {reasons or 'none'}"


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
