"""Selection: the result of a method's `select`, which `attend` takes and the harness measures."""

from typing import Protocol

from torch import Tensor


def causal_entries(q_len: int, kv_len: int) -> int:
    """Return how many query-key pairs causal attention has, the last query on the last key."""
    return q_len * (kv_len - q_len) + q_len * (q_len + 1) // 2


class Selection(Protocol):
    """Which keys each query of a call reads; counts and lists live on the call's device."""

    @property
    def q_len(self) -> int:
        """Queries of the call."""
        ...

    @property
    def kv_len(self) -> int:
        """Keys of the call."""
        ...

    def density(self) -> Tensor:
        """Return the share of the causal query-key pairs that is computed, ``[batch, q_heads]`` float64."""
        ...

    def entries(self) -> Tensor:
        """Return how many causal query-key pairs each head computes, ``[batch, q_heads]`` int64."""
        ...

    def keys_read(self, batch: int, head: int, position: Tensor) -> Tensor:
        """Return ``[len(position), kv_len]`` bool: the keys that queries at these positions read.

        Keys in a query's future may be among them; they are for the caller to hide.
        """
        ...

    def kept_blocks(self, head: int) -> Tensor:
        """Return how much of each block pair a head of the first sequence keeps, ``[query blocks, key blocks]``.

        Float, 0 to 1; undefined where no key of the pair is visible.
        """
        ...
