"""The reference of every check: the float32 definition, from copies of the inputs that no method ever had."""

import sys
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from fp_bench.jobs.failures import IncorrectError
from fp_bench.jobs.latency.changing import flipped
from fp_bench.kernels.attention.reference import AttentionRows, attention_at, sample_rows
from fp_bench.kernels.layout import BLOCK_SIZE
from fp_bench.kernels.selection import Selection
from fp_bench.methods.base import AttentionCall, Method

TOLERANCE = {torch.bfloat16: 2e-2, torch.float16: 5e-3, torch.float32: 1e-4}
"""Largest relative error of a head over the sampled rows; a single row may have `ROW_SLACK` times it."""
ROW_SLACK = 5.0
MOST_TOLERANCE = 0.1
"""Largest tolerance that a method may declare: the error of e4m3."""
HIDDEN_ROWS = 64
"""Number of secret rows on which timed outputs are compared."""
ROOM = 4
"""Copies stay on the device if this multiple of their size is free, else on the host."""


@dataclass(frozen=True)
class SampledRows:
    """Some queries of a call, and exact dense attention of them."""

    rows: Tensor
    q: Tensor
    dense: AttentionRows

    def missed(self, covered: AttentionRows) -> Tensor:
        """Return the share of dense attention mass that a selection drops, ``[batch, q_heads]`` float64."""
        return 1 - (covered.lse - self.dense.lse).double().exp().mean(-1)


class Truth:
    """The reference for recall, errors and outputs, made before a method sees the call.

    Args:
        call: the attention call.
        rows: the queries that a record reports on.
        hidden: the queries on which timed outputs are compared; default: `HIDDEN_ROWS` random ones.
    """

    def __init__(self, call: AttentionCall, rows: Tensor, hidden: Tensor | None = None) -> None:
        self.device = call.q.device
        self._scale = call.scale
        self._offset = call.kv_len - call.q_len
        self._k, self._v = _copies(call.k, call.v)
        self.reported = self._sampled(call.q, rows)
        drawn = sample_rows(call.q_len, torch.Generator().seed(), HIDDEN_ROWS) if hidden is None else hidden
        self.hidden = self._sampled(call.q, drawn)

    def _sampled(self, q: Tensor, rows: Tensor) -> SampledRows:
        rows = rows.to(q.device)
        taken = q[:, rows]
        return SampledRows(rows, taken, self._attention(taken, rows, None, None))

    @property
    def positions(self) -> Tensor:
        """All sampled queries, by their places among the keys."""
        return torch.cat([self.reported.rows, self.hidden.rows]) + self._offset

    def over(self, sampled: SampledRows, index: Selection | None, masks: Tensor | None = None) -> AttentionRows:
        """Return exact attention over a selection.

        Args:
            sampled: the queries.
            index: the keys that each reads; None: all.
            masks: flipped bits of the inputs at the time (`ChangingCall.masks`).
        """
        return self._attention(sampled.q, sampled.rows, index, masks)

    def _attention(self, q: Tensor, rows: Tensor, index: Selection | None, masks: Tensor | None) -> AttentionRows:
        with ExitStack() as stack:
            if masks is not None:
                for tensor, mask in zip((q, self._k, self._v), masks, strict=True):
                    stack.enter_context(flipped(tensor, mask))
            position = rows + self._offset
            return attention_at(q, self._k, self._v, scale=self._scale, position=position, index=index)


def dense_truth(call: AttentionCall, seed: int) -> Truth:
    """Return exact dense attention of sampled rows of a call; the seed of the run determines the reported rows."""
    return Truth(call, sample_rows(call.q_len, seed))


def _copies(*tensors: Tensor) -> list[Tensor]:
    """Return copies, on the host if the device has little room."""
    device = tensors[0].device
    needed = ROOM * sum(tensor.nbytes for tensor in tensors)
    if device.type == "cuda" and torch.cuda.mem_get_info(device)[0] < needed:
        return [tensor.cpu() for tensor in tensors]
    return [tensor.clone() for tensor in tensors]


def allowed(method: Method, dtype: torch.dtype) -> tuple[float, float | None]:
    """Return the allowed relative error per head, and the declared one; None: the limit of the dtype."""
    declared = method.tolerance()
    if declared is None:
        return TOLERANCE[dtype], None
    limit = min(float(declared), MOST_TOLERANCE)
    return limit, limit


def check_error(found: Tensor, defined: Tensor, tolerance: float) -> float:
    """Return the relative error over all rows; raise `IncorrectError` if a head or a row exceeds its tolerance."""
    for what, dims, limit in (("head", (1, 3), tolerance), ("row", (3,), ROW_SLACK * tolerance)):
        worst = relative_error(found, defined, dims=dims).max().item()
        # Written so that NaN fails too.
        if not worst <= limit:
            raise IncorrectError(
                f"a {what}'s relative error to the float32 definition is {worst:.2g}; the limit is {limit:.2g}"
            )
    return float(relative_error(found, defined, dims=(0, 1, 2, 3)).item())


def relative_error(found: Tensor, exact: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Return the norm of the difference over the norm of ``exact``, over ``dims``; 0 / 0 is 0."""
    difference: Tensor = torch.linalg.vector_norm((found - exact).double(), dim=dims)
    norm: Tensor = torch.linalg.vector_norm(exact.double(), dim=dims)
    return difference / norm.clamp_min(torch.finfo(torch.float64).tiny)


def seen(index: Selection | None, call: AttentionCall, truth: Truth, *, copied: bool = False) -> Selection | None:
    """Return a selection rebuilt from its lists in our own type, or for other types only the keys that it reads.

    Args:
        index: a method's selection.
        call: the call it is for.
        truth: of that call.
        copied: whether to copy it, for a method that reuses its memory.
    """
    if index is None:
        return None
    if (ours := _ours(index, copied)) is not None:
        return ours
    return KeysRead(deepcopy(index) if copied else index, call, truth.positions)


def read_only(index: Selection, call: AttentionCall) -> Selection:
    """Return the same of a call that there is no truth of."""
    if (ours := _ours(index, False)) is not None:
        return ours
    rows = sample_rows(call.q_len, call.layer, HIDDEN_ROWS).to(call.q.device)
    return KeysRead(index, call, rows + call.kv_len - call.q_len)


def _ours(index: object, copied: bool) -> Selection | None:
    """Return a selection of our types, or one inside another type, rebuilt from its fields."""
    if (carried := getattr(index, "index", None)) is not None:
        return _ours(carried, copied)
    if not (is_dataclass(index) and is_ours(type(index))):
        return None
    values = {field.name: getattr(index, field.name) for field in fields(index)}
    for name, value in values.items():
        if hasattr(value, "keys_read"):
            values[name] = _ours(value, copied)
            if values[name] is None:
                return None
        elif copied and isinstance(value, Tensor):
            values[name] = value.clone()
    return cast("Selection", replace(cast("Any", index), **values))


def is_ours(kind: type) -> bool:
    """Return whether a class belongs to this package, by its location."""
    return (
        kind.__module__.startswith("fp_bench.")
        and getattr(sys.modules.get(kind.__module__), kind.__name__, None) is kind
    )


def defined(method: Method, call: AttentionCall, index: Selection | None, rows: Tensor) -> Tensor | None:
    """Return the output of some queries as defined by a method of ours, or None for attention over the selection.

    For a plug-in's own class it is always None.
    """
    if index is None or not all(_of_us(method, name) for name in ("definition", "means")):
        return None
    return method.definition(call, index.index if isinstance(index, KeysRead) else index, rows)


def skipped(method: Method, call: AttentionCall, index: Selection | None) -> float | None:
    """Return the share of its selection that a method of ours skips; a plug-in's own class is not asked."""
    if index is None or not _of_us(method, "skipped"):
        return None
    return method.skipped(call, index.index if isinstance(index, KeysRead) else index)


def _of_us(method: Method, name: str) -> bool:
    owner = next(kind for kind in type(method).__mro__ if name in vars(kind))
    return is_ours(owner) and name not in vars(method)


def tensors_of(index: Selection | None) -> list[Tensor]:
    """Return the tensors of a selection of our types."""
    if index is None or isinstance(index, KeysRead):
        return []
    values = list(vars(index).values())
    nested = [tensor for value in values if hasattr(value, "keys_read") for tensor in tensors_of(value)]
    return nested + [value for value in values if isinstance(value, Tensor)]


class KeysRead:
    """A selection of a foreign type: only the keys that the sampled queries read are used.

    Outputs are compared with exactly these; density and entries are those of the sampled queries.

    Args:
        index: the selection.
        call: the call it is for.
        positions: of the sampled queries among the keys.
    """

    def __init__(self, index: Selection, call: AttentionCall, positions: Tensor) -> None:
        self.index = index
        self._positions = positions
        self._offset = call.kv_len - call.q_len
        self._shape = (call.batch, call.q_heads)
        self.q_len, self.kv_len = call.q_len, call.kv_len

    def density(self) -> Tensor:
        """Return the kept share of the sampled queries' causal pairs, ``[batch, q_heads]`` float64."""
        visible = torch.arange(self.kv_len, device=self._positions.device) <= self._positions[:, None]
        shares = [
            [(self.keys_read(b, h, self._positions) & visible).sum() / visible.sum() for h in range(self._shape[1])]
            for b in range(self._shape[0])
        ]
        return torch.tensor(shares, dtype=torch.float64)

    def entries(self) -> Tensor:
        """Return about how many causal query-key pairs each head computes, ``[batch, q_heads]`` int64."""
        pairs = self.q_len * (self._offset + 1 + self.kv_len) / 2
        return (self.density() * pairs).long()

    def keys_read(self, batch: int, head: int, position: Tensor) -> Tensor:
        """Return ``[len(position), kv_len]`` bool: the keys that queries at these positions read."""
        return self.index.keys_read(batch, head, position)

    def kept_blocks(self, head: int) -> Tensor:
        """Return ``[query blocks, key blocks]`` float, 0 to 1: the share that the last query of each block reads."""
        device = self._positions.device
        ends = torch.arange(BLOCK_SIZE, self.q_len + BLOCK_SIZE, BLOCK_SIZE, device=device).clamp_max(self.q_len)
        blocks = torch.arange(self.kv_len, device=device) // BLOCK_SIZE
        sizes = torch.bincount(blocks)
        kept = torch.zeros((len(ends), len(sizes)), device=device)
        for number, end in enumerate(ends):
            read = self.keys_read(0, head, end[None] - 1 + self._offset)[0]
            kept[number].index_add_(0, blocks, read.to(kept))
        return kept / sizes
