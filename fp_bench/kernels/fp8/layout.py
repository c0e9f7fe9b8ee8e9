"""How 8-bit attention holds keys (INT8) and values (e4m3): a scale a block, in the order that the kernel reads."""

from typing import NamedTuple

import torch
from torch import Tensor

from fp_bench.kernels.layout import BLOCK_SIZE

E4M3 = torch.float8_e4m3fn
E4M3_LARGEST = 448.0
"""Largest number of e4m3; the largest magnitude of a block of V becomes this."""
INT8_LARGEST = 127.0
"""The largest magnitude of a query, or of a block of shifted K, becomes this."""
ROUNDER = 1.5 * 2.0**23
"""Added to a float32 below 2**22 in magnitude, it leaves the nearest integer (ties to even) in the low bits."""
SHIFT_KEYS = 1024
"""Most keys whose mean is the shift."""
SMALLEST_PEAK = 2.0**-20
"""A block of smaller numbers is scaled as if this were its largest: no scale is 0, and ratios of two stay finite."""
LOG2_WEIGHTS = 8
"""Weights are multiplied by 2 to this before they are rounded: those down to 2**-14 of a row's largest are normal."""
HEAD_DIM = 128


class Fp8KV(NamedTuple):
    """Keys and values as the kernel reads them, and the block means that the same pass yields."""

    k: Tensor
    """``[batch, kv_heads, key_blocks, 128, head_dim]`` int8, contiguous: K less `key_shift`, over its block's scale,
    zeros past the end. A block is 16 KB in one piece: rows a power of two apart would meet in few channels of the
    memory."""
    v: Tensor
    """``[batch, kv_heads, key_blocks, head_dim, 128]`` e4m3, contiguous: V over its block's scale, transposed, keys in
    the order of `key_order`, zeros past the end."""
    scales: Tensor
    """``[batch, kv_heads, key_blocks, 4]`` float32: K's scale, V's, V's inverse, 0 (a box of TMA is 16 bytes)."""
    pooled: Tensor
    """``[batch, key_blocks, kv_heads, head_dim]`` in K's dtype: `pooling.pool_keys` of the keys as they came."""


def key_shift(k: Tensor) -> Tensor:
    """Return the mean of up to `SHIFT_KEYS` evenly spaced keys, ``[batch, kv_heads, head_dim]`` float32.

    A constant that all keys of a head share changes no softmax, but takes range from what is rounded.

    Args:
        k: ``[batch, kv_len, kv_heads, head_dim]``.
    """
    sample = k[:, :: -(-k.shape[1] // SHIFT_KEYS)]
    return sample.contiguous().mean(1, dtype=torch.float32)  # one order of the sum, whatever the strides


def key_order(device: torch.device | str = "cpu") -> Tensor:
    """Return ``[128]`` int64: which key of a block each column of `Fp8KV.v` holds.

    A thread has four of 16 neighbouring keys of P in registers: 2t, 2t + 1, 2t + 8 and 2t + 9 (the accumulator of
    wgmma). An 8-bit operand takes keys 4t to 4t + 3 from it. P V does not depend on the order of keys that P and V
    share. So V is stored in the order of P, and no register leaves its thread.
    """
    column = torch.arange(BLOCK_SIZE, device=device)
    return column // 16 * 16 + column % 16 // 4 * 2 + column // 2 % 2 * 8 + column % 2
