"""Keys to INT8 and values to e4m3 in Triton, and the block means of K, in one pass.

One program reads one ``[128, 128]`` tile of K and one of V directly from device memory (rows of 256 bytes, each read
once) and finds the largest magnitude of each in registers. It writes K's tile as rows of 128 bytes, V's transposed as
rows of 128 bytes, four scales and one mean. V's rows are read in the order in which its columns are written
(`fp8.key_order`), so the transpose, through 16 KB of shared memory, is the only exchange. The shift of K is computed
before, from at most 1024 keys. Bound by memory: 3 bytes a number; at 256K with 8 KV heads 1.6 GB, 0.4 ms at 4.0 TB/s
(H200).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fp_bench.kernels.fp8.layout import (
    E4M3,
    E4M3_LARGEST,
    HEAD_DIM,
    INT8_LARGEST,
    ROUNDER,
    SMALLEST_PEAK,
    Fp8KV,
    key_shift,
)
from fp_bench.kernels.launch import CachedKernel
from fp_bench.kernels.layout import BLOCK_SIZE

SIZES = ("kv_len", "key_blocks", "kv_heads")
"""Arguments that change from call to call and gain nothing from a form of their own: one compiled form takes all."""


@triton.jit
def _peak(x, SMALLEST_PEAK: tl.constexpr):
    """Return the largest magnitude of a tile."""
    return tl.maximum(tl.max(tl.max(tl.abs(x), 1), 0), SMALLEST_PEAK)


@triton.jit(do_not_specialize=SIZES)
def _quantise_kernel(
    k_ptr, v_ptr, shift_ptr, k8_ptr, v8_ptr, scales_ptr, pooled_ptr, kv_len, key_blocks, kv_heads,
    stride_kb, stride_kn, stride_kh, stride_vb, stride_vn, stride_vh,
    BLOCK: tl.constexpr, HEAD_DIM: tl.constexpr, INT8_LARGEST: tl.constexpr, E4M3_LARGEST: tl.constexpr,
    SMALLEST_PEAK: tl.constexpr, ROUNDER: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0) % key_blocks
    batch_head = (tl.program_id(0) // key_blocks).to(tl.int64)
    batch = batch_head // kv_heads
    head = batch_head % kv_heads
    lane = tl.arange(0, BLOCK)
    dim = tl.arange(0, HEAD_DIM)

    token = block * BLOCK + lane
    keys = tl.load(
        k_ptr + batch * stride_kb + head * stride_kh + token.to(tl.int64)[:, None] * stride_kn + dim,
        mask=token[:, None] < kv_len,
        other=0.0,
    ).to(tl.float32)
    mean = tl.sum(keys, 0) / tl.minimum(kv_len - block * BLOCK, BLOCK)
    pooled = pooled_ptr + ((batch * key_blocks + block) * kv_heads + head) * HEAD_DIM + dim
    tl.store(pooled, mean.to(pooled_ptr.dtype.element_ty))
    shift = tl.load(shift_ptr + batch_head * HEAD_DIM + dim)
    shifted = tl.where(token[:, None] < kv_len, keys - shift[None, :], 0.0)
    k_peak = _peak(shifted, SMALLEST_PEAK)
    # The low byte is the nearest integer: see ROUNDER.
    k8 = (shifted * tl.div_rn(INT8_LARGEST, k_peak) + ROUNDER).to(tl.int32, bitcast=True).to(tl.int8)
    tile = (batch_head * key_blocks + block) * BLOCK * HEAD_DIM
    tl.store(k8_ptr + tile + lane[:, None] * HEAD_DIM + dim, k8)

    # Column c of V is this key: see fp8.key_order.
    token = block * BLOCK + lane // 16 * 16 + lane % 16 // 4 * 2 + lane // 2 % 2 * 8 + lane % 2
    values = tl.load(
        v_ptr + batch * stride_vb + head * stride_vh + token.to(tl.int64)[:, None] * stride_vn + dim,
        mask=token[:, None] < kv_len,
        other=0.0,
    ).to(tl.float32)
    v_peak = _peak(values, SMALLEST_PEAK)
    v8 = tl.trans((values * tl.div_rn(E4M3_LARGEST, v_peak)).to(v8_ptr.dtype.element_ty))
    tl.store(v8_ptr + tile + dim[:, None] * BLOCK + lane, v8)

    of_block = scales_ptr + (batch_head * key_blocks + block) * 4
    v_scale = tl.div_rn(v_peak, E4M3_LARGEST)
    tl.store(of_block, tl.div_rn(k_peak, INT8_LARGEST))
    tl.store(of_block + 1, v_scale)
    tl.store(of_block + 2, tl.div_rn(1.0, v_scale))
    tl.store(of_block + 3, 0.0)


def constants() -> dict[str, object]:
    """Return the kernel's compile-time arguments."""
    return {
        "BLOCK": BLOCK_SIZE,
        "HEAD_DIM": HEAD_DIM,
        "INT8_LARGEST": INT8_LARGEST,
        "E4M3_LARGEST": E4M3_LARGEST,
        "SMALLEST_PEAK": SMALLEST_PEAK,
        "ROUNDER": ROUNDER,
    }


_quantise = CachedKernel(_quantise_kernel)


def quantise_kv_triton(k: Tensor, v: Tensor, dtype: torch.dtype = E4M3) -> Fp8KV:
    """Return `fp8.quantise_kv` computed on K's device, V rounded to ``dtype``."""
    batch, kv_len, kv_heads, head_dim = k.shape
    key_blocks = triton.cdiv(kv_len, BLOCK_SIZE)
    rounded = Fp8KV(
        k=torch.empty((batch, kv_heads, key_blocks, BLOCK_SIZE, head_dim), dtype=torch.int8, device=k.device),
        v=torch.empty((batch, kv_heads, key_blocks, head_dim, BLOCK_SIZE), dtype=dtype, device=k.device),
        scales=torch.empty((batch, kv_heads, key_blocks, 4), dtype=torch.float32, device=k.device),
        pooled=torch.empty((batch, key_blocks, kv_heads, head_dim), dtype=k.dtype, device=k.device),
    )
    _quantise(
        key_blocks * batch * kv_heads,
        (k, v, key_shift(k), *rounded),
        (),
        (kv_len, key_blocks, kv_heads, *k.stride()[:3], *v.stride()[:3]),
        constants(),
        {"num_warps": 8},
    )
    return rounded
