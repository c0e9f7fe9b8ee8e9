"""Mean correction: the attention to unlisted blocks as if all their keys and values were the means.

FlashPrefill V2 adds, for each key block that a row of tiles sees whole and does not list, ``block_size`` pseudo-tokens
with the block's mean key and mean value to the same softmax. By Jensen's inequality the mass that is added is at most
the mass that was dropped; it is equal where all logits of the block are.
"""

from typing import NamedTuple

from torch import Tensor

from fp_bench.kernels.layout import BLOCK_SIZE
from fp_bench.kernels.pooling import pool_keys


class BlockMeans(NamedTuple):
    """Mean keys and mean values of all blocks, each ``[batch, key_blocks, kv_heads, head_dim]``, contiguous."""

    k: Tensor
    v: Tensor


def block_means(k: Tensor, v: Tensor, block_size: int = BLOCK_SIZE, *, backend: str = "auto") -> BlockMeans:
    """Return the means of the key blocks, in K's dtype; arguments as `pooling.pool_keys`."""
    return BlockMeans(*(pool_keys(tensor, block_size, backend=backend) for tensor in (k, v)))
