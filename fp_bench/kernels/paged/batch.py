"""PagedBatch: the queries and pages of each sequence of a packed batch, and the inputs that the operators accept."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from fp_bench.errors import UnsupportedError
from fp_bench.kernels.block_index import MAX_KEY_BLOCKS
from fp_bench.kernels.layout import BLOCK_SIZE, DTYPES, check_no_grad, head_dim_problem

PAGE_SIZES = (16, 32, 64, 128, 256)
"""Tokens of a page that the kernels are compiled and tested for."""


class PagedSequence(NamedTuple):
    """One sequence of a batch, as the host sees it."""

    queries: slice
    """Of the packed queries."""
    kv_len: int
    pages: Tensor
    """Its row of the block table."""
    last_chunk: bool
    """Whether its last query ends its prompt."""

    def gather(self, cache: Tensor) -> Tensor:
        """Return its keys or values ``[1, kv_len, kv_heads, head_dim]``, copied out of their pages."""
        pages = self.pages[: -(-self.kv_len // cache.shape[1])].long()
        return cache[pages].flatten(0, 1)[None, : self.kv_len]


class Tiles(NamedTuple):
    """Query blocks of all sequences in the order in which programs take them; both ``[bound]`` int32."""

    sequence: Tensor
    """-1 where there are fewer query blocks than the bound, at the end."""
    block: Tensor
    """Absolute number of the query block in its sequence."""


@dataclass(frozen=True, eq=False)
class PagedBatch:
    """A batch of packed sequences whose keys and values lie in pages.

    Sequence s has the queries ``cu_seqlens_q[s]`` up to ``cu_seqlens_q[s + 1]`` of the packed ones, which are the last
    of its ``kv_lens[s]`` tokens; a sequence without queries is skipped. Token t of it lies in slot ``t % page_size`` of
    page ``block_table[s, t // page_size]``. One object serves all layers of a step: what it derives is derived once.

    Args:
        cu_seqlens_q: ``[sequences + 1]`` int32, ascending; the first need not be 0.
        kv_lens: ``[sequences]`` int32, each at least its sequence's number of queries.
        block_table: ``[sequences, pages]`` int32, each row contiguous; entries past a sequence's end are never read.
        tokens: number of packed queries of these sequences, or more.
        max_q_len: queries of the longest, or more.
        max_kv_len: tokens of the longest, or more.
        last_chunk: ``[sequences]`` bool: whether its last query ends its prompt; None is all of them.

    Raises:
        UnsupportedError: shapes, dtypes, devices or bounds that do not fit. The values on a GPU are not looked at.
    """

    cu_seqlens_q: Tensor
    kv_lens: Tensor
    block_table: Tensor
    tokens: int
    max_q_len: int
    max_kv_len: int
    last_chunk: Tensor | None = None

    def __post_init__(self) -> None:
        count = len(self.kv_lens)
        shapes = {"cu_seqlens_q": (count + 1,), "kv_lens": (count,), "block_table": (count, self.block_table.shape[-1])}
        for name, shape in shapes.items():
            tensor: Tensor = getattr(self, name)
            if tensor.dtype != torch.int32 or tuple(tensor.shape) != shape or tensor.stride(-1) != 1:
                raise UnsupportedError(
                    f"{name} is {tensor.dtype} {list(tensor.shape)}; {count} sequences need int32 {list(shape)}, dense"
                )
        last = self.last_chunk
        if last is not None and (last.dtype != torch.bool or tuple(last.shape) != (count,)):
            raise UnsupportedError(
                f"last_chunk is {last.dtype} {list(last.shape)}; {count} sequences need bool [{count}]"
            )
        if not count or min(self.tokens, self.max_q_len, self.max_kv_len) < 1:
            raise UnsupportedError(
                f"{count} sequences, tokens {self.tokens}, max_q_len {self.max_q_len}, max_kv_len {self.max_kv_len}: "
                "each must be at least 1"
            )
        if self.max_q_len > self.max_kv_len:
            raise UnsupportedError(f"max_q_len {self.max_q_len} exceeds max_kv_len {self.max_kv_len}")
        if self.key_blocks > MAX_KEY_BLOCKS:
            raise UnsupportedError(
                f"max_kv_len {self.max_kv_len} has more than {MAX_KEY_BLOCKS} blocks of {BLOCK_SIZE}, the limit"
            )

    @property
    def key_blocks(self) -> int:
        """Key blocks of the longest sequence, or more: a multiple of 16, so that rows of lists are aligned."""
        return -(-self.max_kv_len // (16 * BLOCK_SIZE)) * 16

    @property
    def tile_bound(self) -> int:
        """Query blocks of all sequences, or more: known on the host without reading a tensor."""
        count = len(self.kv_lens)
        # q tokens anywhere among blocks of 128 touch (q + 126) // 128 + 1 of them at most.
        longest = (self.max_q_len + BLOCK_SIZE - 2) // BLOCK_SIZE + 1
        return min((self.tokens + (BLOCK_SIZE - 2) * count) // BLOCK_SIZE + count, longest * count)

    @cached_property
    def tiles(self) -> Tiles:
        """Query blocks with the longest sequences first and, in each, the longest rows first; no host sync."""
        q_lens = self.cu_seqlens_q.diff()
        first = (self.kv_lens - q_lens) // BLOCK_SIZE
        rows = torch.where(q_lens > 0, (self.kv_lens + BLOCK_SIZE - 1) // BLOCK_SIZE - first, 0)
        order = self.kv_lens.argsort(descending=True)
        ends = rows[order].cumsum(0)
        number = torch.arange(self.tile_bound, device=ends.device)
        place = torch.searchsorted(ends, number, right=True)
        used = place < len(ends)
        place = place.clamp_max(len(ends) - 1)
        sequence = order[place]
        block = first[sequence] + ends[place] - 1 - number
        return Tiles(torch.where(used, sequence, -1).int(), torch.where(used, block, 0).int())

    @cached_property
    def ends_prompt(self) -> Tensor:
        """``last_chunk`` as the kernels read it, ``[sequences]`` int32."""
        return torch.ones_like(self.kv_lens) if self.last_chunk is None else self.last_chunk.int()

    @cached_property
    def sequences(self) -> list[PagedSequence]:
        """The sequences that have queries; reading the lengths waits for the device, once.

        Raises:
            UnsupportedError: lengths that contradict each other or the bounds.
        """
        starts, lens = self.cu_seqlens_q.tolist(), self.kv_lens.tolist()
        last = self.last_chunk.tolist() if self.last_chunk is not None else [True] * len(lens)
        found = []
        for s, kv_len in enumerate(lens):
            q_len = starts[s + 1] - starts[s]
            if not 0 <= q_len <= self.max_q_len or (q_len and not q_len <= kv_len <= self.max_kv_len):
                raise UnsupportedError(
                    f"sequence {s} has {q_len} queries and {kv_len} keys; queries are the last keys, at most "
                    f"max_q_len {self.max_q_len} and max_kv_len {self.max_kv_len}"
                )
            if q_len:
                found.append(PagedSequence(slice(starts[s], starts[s + 1]), kv_len, self.block_table[s], last[s]))
        return found


def check_paged(q: Tensor, k: Tensor, v: Tensor, batch: PagedBatch) -> None:
    """Refuse what no paged operator defines.

    Args:
        q: ``[tokens, q_heads, head_dim]``, with head_dim contiguous.
        k: ``[pages, page_size, kv_heads, head_dim]``, any strides with head_dim contiguous.
        v: as ``k``.
        batch: whose queries and pages they are.

    Raises:
        UnsupportedError: what is wrong, the value, and what is accepted.
    """
    if q.dim() != 3 or k.dim() != 4:
        raise UnsupportedError(
            f"q {list(q.shape)}, k {list(k.shape)}: [tokens, q_heads, head_dim] and "
            "[pages, page_size, kv_heads, head_dim] are accepted"
        )
    if k.shape != v.shape:
        raise UnsupportedError(f"k {list(k.shape)} and v {list(v.shape)} differ in shape; they must be equal")
    if q.shape[2] != k.shape[3] or q.shape[1] % k.shape[2]:
        raise UnsupportedError(
            f"q {list(q.shape)} and k {list(k.shape)}: head_dim must be equal, q_heads a multiple of kv_heads"
        )
    if (problem := head_dim_problem(q.shape[2])) is not None:
        raise UnsupportedError(problem)
    if k.shape[1] not in PAGE_SIZES:
        raise UnsupportedError(f"page size {k.shape[1]} is not one of {', '.join(map(str, PAGE_SIZES))}")
    if not q.dtype == k.dtype == v.dtype or q.dtype not in DTYPES:
        raise UnsupportedError(f"dtypes {q.dtype}, {k.dtype}, {v.dtype}: one of float16, bfloat16, float32 for all")
    tables = (batch.cu_seqlens_q, batch.kv_lens, batch.block_table)
    if any(tensor.device != q.device for tensor in (k, v, *tables)):
        raise UnsupportedError(f"q is on {q.device}, and k, v or the batch is not; move them to one device")
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.stride(-1) != 1:
            raise UnsupportedError(f"{name} has head_dim stride {tensor.stride(-1)}; head_dim must be contiguous")
    if batch.block_table.shape[1] * k.shape[1] < batch.max_kv_len:
        raise UnsupportedError(
            f"block_table has {batch.block_table.shape[1]} pages of {k.shape[1]} a sequence, too few for max_kv_len "
            f"{batch.max_kv_len}"
        )
    check_no_grad(q, k, v)
