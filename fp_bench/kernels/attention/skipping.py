"""Skip-softmax: attention over listed blocks that skips tiles whose logits are far below the maximum so far.

The product of Q and K is computed for every tile. A tile that cannot matter needs no exponentials, no load of V and no
second product. Any selection can use it.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from fp_bench.errors import UnsupportedError
from fp_bench.kernels.attention import check_call, implementation
from fp_bench.kernels.attention.skipping_reference import skipping_rows
from fp_bench.kernels.backend import capability
from fp_bench.kernels.block_index import BlockIndex


class SkippingOut(NamedTuple):
    """What `skipping_attention` returns.

    ``out`` and ``lse`` as of `AttentionOut`, over the tiles that were not skipped; ``skipped [batch, lists, rows,
    parts]`` int32: how many tiles each part of a row of tiles skipped, 0 for a part without a query of the call.
    """

    out: Tensor
    lse: Tensor
    skipped: Tensor


def check_skip(skip: float) -> None:
    """Refuse a threshold under which nothing, or a row's own maximum, could be skipped.

    Raises:
        UnsupportedError: the value and its limits.
    """
    if not 0 < skip <= 1:
        raise UnsupportedError(f"skip {skip} must be above 0 and at most 1")


def skip_tile(q: Tensor, k: Tensor, v: Tensor, index: BlockIndex, backend: str = "auto") -> tuple[int, int]:
    """Return how many rows of Q and how many keys are skipped together, by the kernel that runs for this call."""
    size = index.block_size
    kernel = implementation(q, k, v, backend, size, index.packed, skipping=True)
    if kernel == "torch":
        return size, size
    if kernel == "hopper":
        from fp_bench.kernels.attention import hopper_parts

        return size // hopper_parts.CONSUMERS, hopper_parts.launch_config(q.shape[3])["TILE"]
    from fp_bench.kernels.attention.triton import launch_config

    config = launch_config(q.shape[3], capability(q.device), size)
    return min(config["BLOCK_M"], size), min(config["BLOCK_N"], size)


def skipping_attention(
    q: Tensor, k: Tensor, v: Tensor, index: BlockIndex, *, scale: float, skip: float, backend: str = "auto"
) -> SkippingOut:
    """Return causal attention over the listed blocks, without the tiles that ``skip`` leaves out.

    Defined by `skipping_reference.skipping_rows` at the tile of `skip_tile`; torch runs that definition. Arguments and
    errors are those of `block_sparse_attention`, and:

    Args:
        q: ``[batch, q_len, q_heads, head_dim]``.
        k: ``[batch, kv_len, kv_heads, head_dim]``.
        v: as ``k``.
        index: the lists.
        scale: factor on the logits, positive.
        skip: a tile is left out where, for each of its queries, its largest weight relative to the maximum so far is
            below this; above 0 and at most 1.
        backend: ``auto``, ``hopper``, ``triton`` or ``torch``.

    Raises:
        UnavailableError: the backend asked for by name cannot run here or does not take these tensors.
        UnsupportedError: a threshold out of its limits, or what `block_sparse_attention` refuses.
    """
    check_skip(skip)
    check_call(q, k, v, scale, (index.counts.shape[0], index.q_heads, index.q_len, index.kv_len))
    kernel = implementation(q, k, v, backend, index.block_size, index.packed, skipping=True)
    if kernel == "hopper":
        from fp_bench.kernels.attention.hopper import skipping_attention_hopper

        return SkippingOut(*skipping_attention_hopper(q, k, v, index, scale, skip))
    if kernel == "triton":
        from fp_bench.kernels.attention.triton import skipping_attention_triton

        return SkippingOut(*skipping_attention_triton(q, k, v, index, scale, skip))
    tile = skip_tile(q, k, v, index, backend)
    rows = torch.arange(q.shape[1])
    found = skipping_rows(q, k, v, index, scale=scale, skip=skip, tile=tile, rows=rows)
    return SkippingOut(found.out.to(q.dtype), found.lse, found.skipped)


def skipped_share(skipped: Tensor, index: BlockIndex, tile: tuple[int, int]) -> Tensor:
    """Return the share of the listed tiles that was skipped, ``[batch, lists]`` float64.

    Parts of a row of tiles that hold no query of the call count as parts that skip nothing.
    """
    tiles = index.counts.sum(-1).double() * skipped.shape[-1] * (index.block_size // tile[1])
    return skipped.sum((-2, -1)).double() / tiles.clamp_min(1)
