"""Delta correction (arXiv 2505.11254): adds the error of sparse attention at some queries to the queries after them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fp_bench.errors import UnsupportedError
from fp_bench.kernels.attention import check_call
from fp_bench.kernels.attention.reference import attention_rows
from fp_bench.kernels.backend import resolve_backend

LEAST_TAIL = 128
"""Fewest queries at the end that are dense."""


@dataclass(frozen=True)
class DenseRows:
    """Which queries of a call are dense: the first, every ``gamma``-th after it, and all of the last ones.

    The last ones number `LEAST_TAIL`, rounded up to a multiple of ``gamma``, plus the remainder of ``q_len / gamma``.

    Args:
        q_len: queries of the call.
        gamma: distance of dense queries, at least 1.

    Raises:
        UnsupportedError: a distance below 1.
    """

    q_len: int
    gamma: int

    def __post_init__(self) -> None:
        if self.gamma < 1:
            raise UnsupportedError(f"gamma {self.gamma} must be at least 1")

    @property
    def tail(self) -> int:
        """First query from which on all are dense; a multiple of ``gamma``, 0 for short calls."""
        last = -(-LEAST_TAIL // self.gamma) * self.gamma
        return max(self.q_len - self.q_len % self.gamma - last, 0)

    @property
    def anchors(self) -> int:
        """How many queries before the tail are dense."""
        return self.tail // self.gamma

    @property
    def count(self) -> int:
        """How many queries are dense."""
        return self.anchors + self.q_len - self.tail

    def queries(self, device: torch.device | str = "cpu") -> Tensor:
        """Return the numbers of the dense queries, ascending, int64."""
        return torch.cat(
            [torch.arange(0, self.tail, self.gamma, device=device), torch.arange(self.tail, self.q_len, device=device)]
        )

    def pairs(self, kv_len: int) -> int:
        """Return how many causal query-key pairs they compute."""
        offset, tail = kv_len - self.q_len, self.q_len - self.tail
        of_anchors = self.anchors * (offset + 1) + self.gamma * self.anchors * (self.anchors - 1) // 2
        return of_anchors + tail * (offset + self.tail + 1) + tail * (tail - 1) // 2


def attend_rows(q: Tensor, k: Tensor, v: Tensor, rows: DenseRows, *, scale: float, backend: str = "auto") -> Tensor:
    """Return dense causal attention of some queries, ``[batch, rows.count, q_heads, head_dim]`` in Q's dtype.

    Defined by `attention.reference.attention_rows`, which is also what torch runs.

    Args:
        q: ``[batch, q_len, q_heads, head_dim]``; head_dim 64, 128 or 256.
        k: ``[batch, kv_len, kv_heads, head_dim]``.
        v: as ``k``.
        rows: which queries.
        scale: factor on the logits, positive.
        backend: ``auto``, ``triton`` or ``torch``; ``hopper`` runs the Triton kernel here.

    Raises:
        UnsupportedError: tensors that the kernels do not define, or inputs that require grad.
    """
    check_call(q, k, v, scale, (q.shape[0], q.shape[2], rows.q_len, k.shape[1]))
    if resolve_backend(q, backend) == "triton":
        from fp_bench.kernels.delta.triton import attend_rows_triton

        return attend_rows_triton(q, k, v, rows, scale)
    return attention_rows(q, k, v, scale=scale, rows=rows.queries(q.device)).out.to(q.dtype)


def correct(out: Tensor, dense: Tensor, rows: DenseRows) -> Tensor:
    """Add to each query's sparse output what the last dense one before it lacks; put the tail's dense outputs in place.

    Args:
        out: sparse outputs, ``[batch, q_len, q_heads, head_dim]``, written to.
        dense: of `attend_rows`.
        rows: which queries are dense.

    Returns:
        ``out``.
    """
    batch, _, *head = out.shape
    stretches = out[:, : rows.tail].view(batch, rows.anchors, rows.gamma, *head)
    # In float32: at an anchor the sum is the dense output again.
    stretches += (dense[:, : rows.anchors].float() - stretches[:, :, 0])[:, :, None]
    out[:, rows.tail :] = dense[:, rows.anchors :]
    return out
