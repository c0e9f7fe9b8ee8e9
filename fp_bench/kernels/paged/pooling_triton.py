"""Mean-pooled keys of a paged batch in Triton: pooling/triton.py, with each key found through the block table.

One program computes one key block of a KV head of a sequence; programs past a sequence's end return at once. Pages of
a cached prefix are read again in every call: K is read once, as attention over a whole prompt would read it.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fp_bench.kernels.launch import CachedKernel
from fp_bench.kernels.layout import BLOCK_SIZE
from fp_bench.kernels.paged.batch import PagedBatch
from fp_bench.kernels.paged.pages import key_offsets, page_numbers

SIZES = ("table_width", "key_blocks", "kv_heads")
"""Arguments that change from call to call and gain nothing from a form of their own: one compiled form takes all."""


@triton.jit(do_not_specialize=SIZES)
def _paged_pool_kernel(
    k_ptr, pooled_ptr, table_ptr, lens_ptr, table_width, key_blocks, kv_heads,
    stride_kp, stride_kn, stride_kh,
    BLOCK: tl.constexpr, HEAD_DIM: tl.constexpr, PAGE: tl.constexpr,
):  # fmt: skip
    # Heads innermost: the heads of a block lie beside each other in most caches.
    head = (tl.program_id(0) % kv_heads).to(tl.int64)
    block = tl.program_id(0) // kv_heads % key_blocks
    sequence = (tl.program_id(0) // kv_heads // key_blocks).to(tl.int64)
    kv_len = tl.load(lens_ptr + sequence)
    start = block * BLOCK
    if start >= kv_len:
        return
    lane = tl.arange(0, BLOCK)
    dim = tl.arange(0, HEAD_DIM)
    page = page_numbers(table_ptr + sequence * table_width, start, lane, kv_len, PAGE, BLOCK)
    offset = key_offsets(page, start, lane, stride_kp, stride_kn, PAGE)
    keys = tl.load(k_ptr + head * stride_kh + offset[:, None] + dim, mask=start + lane[:, None] < kv_len, other=0.0)
    mean = tl.sum(keys.to(tl.float32), 0) / tl.minimum(kv_len - start, BLOCK)
    row = (sequence * key_blocks + block) * kv_heads + head
    tl.store(pooled_ptr + row * HEAD_DIM + dim, mean.to(pooled_ptr.dtype.element_ty))


_pool = CachedKernel(_paged_pool_kernel)


def pool_paged_keys(k: Tensor, batch: PagedBatch) -> Tensor:
    """Return the mean key of each block, ``[sequences, key_blocks, kv_heads, head_dim]`` in K's dtype.

    Rows past a sequence's end are undefined.
    """
    kv_heads, head_dim = k.shape[2:]
    count = len(batch.kv_lens)
    pooled = torch.empty((count, batch.key_blocks, kv_heads, head_dim), dtype=k.dtype, device=k.device)
    _pool(
        count * batch.key_blocks * kv_heads,
        (k, pooled, batch.block_table, batch.kv_lens),
        (),
        (batch.block_table.stride(0), batch.key_blocks, kv_heads, *k.stride()[:3]),
        {"BLOCK": BLOCK_SIZE, "HEAD_DIM": head_dim, "PAGE": k.shape[1]},
        {"num_warps": 4},
    )
    return pooled
