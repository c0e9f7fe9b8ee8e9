"""The shapes, strides and dtypes that the operators accept, and the position of query blocks in a sequence."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fp_bench.errors import UnsupportedError

BLOCK_SIZE = 128
"""Tokens of a query block and, by default, of a key block."""
HEAD_DIMS = (64, 128, 256)
"""Head sizes that the kernels are compiled and tested for."""
LOG2E = math.log2(math.e)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def check_layout(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Check one attention call's tensors.

    Args:
        q: ``[batch, q_len, q_heads, head_dim]``.
        k: ``[batch, kv_len, kv_heads, head_dim]``.
        v: as ``k``.

    Raises:
        UnsupportedError: what is wrong, the value, and what is accepted.
    """
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.dim() != 4:
            raise UnsupportedError(f"{name} has {tensor.dim()} dimensions; [batch, length, heads, head_dim] has 4")
    if k.shape != v.shape:
        raise UnsupportedError(f"k {list(k.shape)} and v {list(v.shape)} differ in shape; they must be equal")
    if q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise UnsupportedError(
            f"q {list(q.shape)} and k {list(k.shape)} differ in batch or head_dim; both must be equal"
        )
    if min(q.shape) == 0 or min(k.shape) == 0:
        raise UnsupportedError(f"q {list(q.shape)}, k {list(k.shape)}: every dimension must be at least 1")
    if q.shape[1] > k.shape[1]:
        raise UnsupportedError(f"q_len {q.shape[1]} exceeds kv_len {k.shape[1]}; queries must be the last keys")
    if q.shape[2] % k.shape[2]:
        raise UnsupportedError(f"q_heads {q.shape[2]} is not a multiple of kv_heads {k.shape[2]}")
    if not q.dtype == k.dtype == v.dtype:
        raise UnsupportedError(f"dtypes {q.dtype}, {k.dtype}, {v.dtype} differ; use one for q, k and v")
    if q.dtype not in DTYPES:
        raise UnsupportedError(f"dtype {q.dtype} is not one of float16, bfloat16, float32")
    if not q.device == k.device == v.device:
        raise UnsupportedError(f"devices {q.device}, {k.device}, {v.device} differ; move q, k and v to one")
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.stride(3) != 1 and tensor.shape[3] > 1:
            raise UnsupportedError(f"{name} has head_dim stride {tensor.stride(3)}; head_dim must be contiguous")


def head_dim_problem(head_dim: int) -> str | None:
    """Return why the kernels do not take heads of this size, or None."""
    if head_dim in HEAD_DIMS:
        return None
    return f"head_dim {head_dim} is not one of {', '.join(map(str, HEAD_DIMS))}"


def check_no_grad(*tensors: Tensor) -> None:
    """Refuse inputs that would need a backward pass, which these operators do not have.

    Raises:
        UnsupportedError: gradients are enabled and one of the tensors requires them.
    """
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        raise UnsupportedError("an input requires grad; prefill has no backward pass: use torch.no_grad()")


def empty_outputs(q: Tensor, device: torch.device | str | None = None) -> tuple[Tensor, Tensor]:
    """Allocate an attention's ``out``, contiguous and shaped as ``q``, and ``lse [batch, q_heads, q_len]`` float32.

    On Q's device unless another is named.
    """
    batch, q_len, q_heads, head_dim = q.shape
    device = q.device if device is None else device
    out = torch.empty((batch, q_len, q_heads, head_dim), dtype=q.dtype, device=device)
    return out, torch.empty((batch, q_heads, q_len), dtype=torch.float32, device=device)


@dataclass(frozen=True)
class BlockGrid:
    """The positions of one call's rows of tiles among its key blocks.

    Query i has position ``kv_len - q_len + i``. A row of tiles is a query block of one query head or, *packed*, as many
    queries of all heads of a KV head (FlashPrefill V2). Place r of a KV head is head ``r % packed`` of position
    ``r // packed``, and a row holds ``block_size`` places from an absolute multiple of ``block_size`` on. So a key
    block has ``packed`` rows and none lies in two; a row may begin and end inside a position; the first row and the
    last may be partial; and a chunk of a prompt selects what the whole prompt would for the same rows.

    Args:
        q_len: queries of the call.
        kv_len: keys of the call.
        block_size: tokens of a key block, and places of a row of tiles; a power of two.
        packed: query heads in a row of tiles.
    """

    q_len: int
    kv_len: int
    block_size: int = BLOCK_SIZE
    packed: int = 1

    @property
    def offset(self) -> int:
        """Position of the first query."""
        return self.kv_len - self.q_len

    @property
    def first(self) -> int:
        """Absolute number of the first row."""
        return self.offset * self.packed // self.block_size

    @property
    def rows(self) -> int:
        """Number of rows in this call."""
        return -(-self.kv_len * self.packed // self.block_size) - self.first

    @property
    def key_blocks(self) -> int:
        """Number of key blocks, the last one possibly partial."""
        return -(-self.kv_len // self.block_size)

    def diagonals(self, device: torch.device | str = "cpu") -> Tensor:
        """Return ``[rows]`` int64: the key block in which each row lies, the last one that it can see."""
        return torch.arange(self.first, self.first + self.rows, device=device) // self.packed

    def row_of(self, position: Tensor, in_list: Tensor | int) -> Tensor:
        """Return the rows of absolute positions of some heads, counted among those that share a list."""
        return (position * self.packed + in_list) // self.block_size - self.first

    def spans(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Return ``[packed, rows]`` int64 twice: from which absolute position each row holds each head, and to which.

        The second one excluded. A partial row ends with the call; one that has no query of a head ends where it begins.
        """
        row = torch.arange(self.first, self.first + self.rows + 1, device=device)
        in_list = torch.arange(self.packed, device=device)[:, None]
        edges = ((row * self.block_size - in_list + self.packed - 1) // self.packed).clamp(self.offset, self.kv_len)
        return edges[:, :-1], edges[:, 1:]


def check_scale(scale: float) -> None:
    """Refuse a factor on the logits that is not positive, because the largest product would not give the largest logit.

    Raises:
        UnsupportedError: the value and its limit.
    """
    if not (math.isfinite(scale) and scale > 0):
        raise UnsupportedError(f"scale {scale} must be finite and above 0")
