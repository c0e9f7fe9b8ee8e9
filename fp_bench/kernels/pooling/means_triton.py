"""Lists of blocks as bits, in Triton: one program a row of tiles sets the bit of each block that its list names."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.launch import CachedKernel

TILE = 128
"""Blocks whose means an attention kernel reads at once, at most."""
AT_ONCE = 256
"""Entries of a list read at once."""


@triton.jit(do_not_specialize=("key_blocks", "words"))
def _kept_bits_kernel(blocks_ptr, counts_ptr, bits_ptr, key_blocks, words, AT_ONCE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    count = tl.load(counts_ptr + row)
    lane = tl.arange(0, AT_ONCE)
    for start in range(0, count, AT_ONCE):
        listed = start + lane < count
        block = tl.load(blocks_ptr + row * key_blocks + start + lane, mask=listed, other=0).to(tl.int32)
        one = tl.full((AT_ONCE,), 1, tl.int32) << block % 32
        tl.atomic_or(bits_ptr + row * words + block // 32, one, mask=listed, sem="relaxed")


_kept_bits = CachedKernel(_kept_bits_kernel)


def kept_bits(index: BlockIndex) -> Tensor:
    """Return the lists as bits: ``[batch, lists, rows, words]`` int32, bit c % 32 of word c // 32 for block c.

    Rows are padded with 0 to whole tiles of 128 blocks.
    """
    words = -(-index.grid.key_blocks // TILE) * (TILE // 32)
    bits = torch.zeros((*index.counts.shape, words), dtype=torch.int32, device=index.counts.device)
    _kept_bits(
        index.counts.numel(),
        (index.blocks, index.counts, bits),
        (),
        (index.blocks.shape[-1], words),
        {"AT_ONCE": AT_ONCE},
        {"num_warps": 2},
    )
    return bits
