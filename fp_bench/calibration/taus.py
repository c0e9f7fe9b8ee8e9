"""XAttention's threshold for each layer and head of a model, profiled as in the authors' repository.

Exact attention determines the blocks that a row needs. The tau of a head is the share of XAttention's estimated mass
that keeps them all (specification of arXiv 2503.16428's repository; the paper uses dynamic programming).
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fp_bench.calibration.captured import captured_calls
from fp_bench.errors import UsageError
from fp_bench.inputs.captured import Captured
from fp_bench.kernels.layout import BlockGrid
from fp_bench.kernels.xattention import antidiagonal_weights
from fp_bench.methods.base import AttentionCall
from fp_bench.methods.xattention import XAttention
from fp_bench.params import write_json
from fp_bench.reports.table import Table


@dataclass(frozen=True)
class TauTable:
    """A tau for each layer and query head."""

    taus: list[list[float]]

    @property
    def mean(self) -> float:
        """Mean over layers and heads."""
        return sum(map(sum, self.taus)) / sum(map(len, self.taus))

    def table(self) -> Table:
        """Return the taus of each layer."""
        rows = [
            [str(layer), f"{sum(heads) / len(heads):.3f}", f"{min(heads):.3f}", f"{max(heads):.3f}"]
            for layer, heads in enumerate(self.taus)
        ]
        return Table("XAttention's tau by layer", ["layer", "mean", "least", "greatest"], rows, numbers=1)

    def save(self, path: Path) -> None:
        """Write the file that ``xattention:tau_file=...`` reads.

        Raises:
            UnavailableError: it cannot be written.
        """
        write_json(path, self.taus)


def check_coverage(coverage: float) -> None:
    """Refuse an invalid share of attention mass.

    Raises:
        UsageError: outside (0, 1].
    """
    if not 0 < coverage <= 1:
        raise UsageError(f"coverage {coverage:g} is outside (0, 1]; XAttention's authors cover 0.9")


@torch.no_grad()
def profile(source: Captured, coverage: float, stride: int, *, device: torch.device, dtype: torch.dtype) -> TauTable:
    """Return the taus with which each head keeps the blocks that hold ``coverage`` of its dense attention.

    Args:
        source: the captured tensors; the greatest tau over lengths counts.
        coverage: share of each query block's dense attention mass.
        stride: of XAttention.
        device: where it is computed.
        dtype: of the tensors there.
    """
    check_coverage(coverage)
    found: dict[int, list[Tensor]] = {}
    for call in captured_calls(source, device, dtype, XAttention()):
        weights = antidiagonal_weights(call.q, call.k, stride=stride, scale=call.scale)
        found.setdefault(call.layer, []).append(needed_taus(weights, block_masses(call), coverage))
    return TauTable([torch.stack(found[layer]).amax(0).tolist() for layer in sorted(found)])


def needed_taus(weights: Tensor, masses: Tensor, coverage: float) -> Tensor:
    """Return ``[q_heads]``: the share of estimated mass whose blocks include the needed ones, mean over rows by mass.

    Args:
        weights: ``[batch, q_heads, rows, key_blocks]``, estimated mass; future blocks are not read.
        masses: the same for exact attention, 0 in the future.
        coverage: a row needs the fewest blocks that hold this share of its exact mass.
    """
    order = masses.argsort(-1, descending=True)
    sorted_masses = masses.gather(-1, order)
    before = sorted_masses.cumsum(-1) - sorted_masses
    needed = torch.zeros_like(masses, dtype=torch.bool)
    needed.scatter_(-1, order, before < coverage * masses.sum(-1, keepdim=True))
    needed &= masses > 0
    seen = torch.where(masses > 0, weights, 0.0)
    least = torch.where(needed, weights, torch.inf).amin(-1, keepdim=True)
    kept = torch.where(seen >= least, seen, 0.0)
    return kept.sum((0, 2, 3)) / seen.sum((0, 2, 3))


def block_masses(call: AttentionCall) -> Tensor:
    """Return exact attention mass of each pair of blocks, ``[batch, q_heads, rows, key_blocks]``, float32.

    A row of a whole query block sums to its 128 queries.
    """
    grid = BlockGrid(call.q_len, call.kv_len)
    group = call.q_heads // call.kv_heads
    masses = torch.zeros((call.batch, call.q_heads, grid.rows, grid.key_blocks), device=call.q.device)
    block_of_key = torch.arange(grid.kv_len, device=call.q.device) // grid.block_size
    for row in range(grid.rows):
        start = max((grid.first + row) * grid.block_size, grid.offset)
        end = min((grid.first + row + 1) * grid.block_size, grid.kv_len)
        queries = call.q[:, start - grid.offset : end - grid.offset].float()
        keys = call.k[:, :end].float().repeat_interleave(group, dim=2)
        logits = torch.einsum("bqhd,bkhd->bhqk", queries, keys) * call.scale
        position = torch.arange(start, end, device=call.q.device)
        future = torch.arange(end, device=call.q.device) > position[:, None]
        weights = logits.masked_fill(future, float("-inf")).softmax(-1).sum(2)
        masses[:, :, row].index_add_(2, block_of_key[:end], weights)
    return masses
