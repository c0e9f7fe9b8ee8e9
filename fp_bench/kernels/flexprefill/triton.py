"""FlexPrefill's selection in Triton: eight launches up to 32K tokens, none that waits for the device.

| launches | what | where |
| --: | :-- | :-- |
| 1 | mean keys and queries, last queries | `patterns_triton` |
| 3 | attention of the last queries by key and distance | `attention.last_triton` |
| 1 | kinds of heads, columns and diagonals | `patterns_triton` |
| 1 | block attention of query-aware heads | here |
| 1, above 32K tokens 9 | the value from which on their blocks are kept | `search_triton` |
| 1 | lists | here |

The first five read Q and K once and two vectors of ``kv_len`` numbers a head; of a rule without query-aware heads the
two before the last are left out. The launches of a layout are planned once (`plan`), since they take the host longer
than the device at 4K.

**Block attention.** Causal softmax of mean queries on mean keys in two passes over the keys (4 MB of them at 256K): one
program 64 query blocks, tiles of 64 mean keys, a head that is not query-aware costs an empty program. At head_dim 128
on sm_90 4 warps keep 64 x 64 products in registers (32 a thread); Q and three stages of K take 64 KB of shared memory.

**Lists.** One program a query block: column or diagonal or single block, compacted by a prefix sum of 512 blocks (4 a
thread). Bound by reading its marks from L2.
"""

import functools
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fp_bench.kernels.attention.last_triton import launch_last_masses
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.flexprefill.patterns_triton import Operands, launch_operands, launch_patterns
from fp_bench.kernels.flexprefill.rule import FlexRule
from fp_bench.kernels.flexprefill.search_triton import launch_crossing
from fp_bench.kernels.launch import CachedKernel
from fp_bench.kernels.layout import LOG2E, BlockGrid
from fp_bench.kernels.plan import Launches, Plan

PLANS = 128
"""Plans that are kept, one a layout and rule; the least used go first."""
BLOCK_ROWS = 64
"""Query blocks and key blocks of a tile of block attention."""
COMPACT = 512
"""Key blocks listed at once."""
SIZES = ("tiles", "q_heads", "group", "lists", "blocks")
"""Arguments that a kernel is not compiled again for."""


@triton.jit
def _block_products(
    q, k_base, start, a, scale_log2, stride_kn,
    HEAD_DIM: tl.constexpr, TILE: tl.constexpr, ROUNDED: tl.constexpr,
):  # fmt: skip
    c = start + tl.arange(0, TILE)
    dim = tl.arange(0, HEAD_DIM)
    seen = c[None, :] <= a[:, None]
    k = tl.load(k_base + c[:, None].to(tl.int64) * stride_kn + dim[None, :], mask=c[:, None] <= tl.max(a, 0), other=0.0)
    products = tl.dot(q, k.T, input_precision="ieee")
    if ROUNDED:
        products = products.to(q.dtype).to(tl.float32)
    return tl.where(seen, products * scale_log2, float("-inf"))


@triton.jit(do_not_specialize=SIZES)
def _block_attention_kernel(
    q_ptr, k_ptr, active_ptr, weights_ptr, scale_log2,
    blocks, tiles, q_heads, group, stride_qb, stride_qn, stride_qh, stride_kb, stride_kn, stride_kh,
    HEAD_DIM: tl.constexpr, TILE: tl.constexpr, ROUNDED: tl.constexpr,
):  # fmt: skip
    batch_head = tl.program_id(0) // tiles
    if tl.load(active_ptr + batch_head) == 0:
        return
    tile = tiles - 1 - tl.program_id(0) % tiles
    batch = (batch_head // q_heads).to(tl.int64)
    head = (batch_head % q_heads).to(tl.int64)
    kv_head = (batch_head % q_heads // group).to(tl.int64)
    # Rows past the end repeat the last one, so that every row sees a key.
    row = tile * TILE + tl.arange(0, TILE)
    a = tl.minimum(row, blocks - 1)
    dim = tl.arange(0, HEAD_DIM)
    q = tl.load(q_ptr + batch * stride_qb + head * stride_qh + a[:, None].to(tl.int64) * stride_qn + dim[None, :])
    k_base = k_ptr + batch * stride_kb + kv_head * stride_kh
    highest = tl.full((TILE,), -1.0e30, tl.float32)
    total = tl.zeros((TILE,), tl.float32)
    for start in range(0, (tile + 1) * TILE, TILE):
        logits = _block_products(q, k_base, start, a, scale_log2, stride_kn, HEAD_DIM, TILE, ROUNDED)
        peak = tl.maximum(highest, tl.max(logits, 1))
        total = total * tl.exp2(highest - peak) + tl.sum(tl.exp2(logits - peak[:, None]), 1)
        highest = peak
    lse = highest + tl.log2(total)
    out = weights_ptr + (batch_head.to(tl.int64) * blocks + row[:, None]) * blocks
    for start in range(0, blocks, TILE):
        c = start + tl.arange(0, TILE)[None, :]
        weights = tl.zeros((TILE, TILE), tl.float32)
        if start < (tile + 1) * TILE:
            logits = _block_products(q, k_base, start, a, scale_log2, stride_kn, HEAD_DIM, TILE, ROUNDED)
            weights = tl.exp2(logits - lse[:, None])
        tl.store(out + c, weights, mask=(row[:, None] < blocks) & (c < blocks))


@triton.jit(do_not_specialize=SIZES)
def _lists_kernel(
    kept_ptr, weights_ptr, above_ptr, active_ptr, blocks_ptr, counts_ptr, lists, blocks,
    SINGLE: tl.constexpr, COMPACT: tl.constexpr,
):  # fmt: skip
    batch_head = (tl.program_id(0) // blocks).to(tl.int64)
    a = tl.program_id(0) % blocks
    list_row = tl.program_id(0).to(tl.int64)
    columns = kept_ptr + batch_head * blocks
    diagonals = columns + lists.to(tl.int64) * blocks
    single = 0
    if SINGLE:
        single = tl.load(active_ptr + batch_head).to(tl.int32)
    count = 0
    for start in range(0, a + 1, COMPACT):
        c = start + tl.arange(0, COMPACT)
        seen = c <= a
        column = tl.load(columns + c, mask=seen, other=0)
        diagonal = tl.load(diagonals + a - c, mask=seen, other=0)
        keep = (column | diagonal).to(tl.int32) != 0
        if SINGLE:
            above = tl.load(above_ptr + batch_head)
            above = tl.where(above > 0.0, above, -0.5)  # 0 keeps every block
            weights = tl.load(weights_ptr + list_row * blocks + c, mask=seen & (single != 0), other=-1.0)
            keep |= weights > above
        keep = (keep & seen).to(tl.int32)
        place = count + tl.cumsum(keep, 0) - 1
        tl.store(blocks_ptr + list_row * blocks + place, c.to(tl.int16), mask=keep > 0)
        count += tl.sum(keep, 0)
    tl.store(counts_ptr + list_row, count)


_block_attention = CachedKernel(_block_attention_kernel)
_lists = CachedKernel(_lists_kernel)


def select_flex_triton(q: Tensor, k: Tensor, rule: FlexRule, scale: float, index: BlockIndex) -> None:
    """Fill ``index`` with the blocks that FlexPrefill keeps; arguments as `flexprefill.select_flex`."""
    if not q.is_cuda or torch.version.hip or (q.data_ptr() | k.data_ptr()) % 16:
        _launches(q, k, rule, scale, index, Launches(q.device)).run()
        return
    if q.device.index != torch.cuda.current_device():
        with torch.cuda.device(q.device):
            return select_flex_triton(q, k, rule, scale, index)
    layouts = (Layout(tuple(x.shape), x.stride(), x.dtype) for x in (q, k))
    _plan(*layouts, rule, scale, index.block_size, q.device)(q, k, index.blocks, index.counts)


class Layout(NamedTuple):
    """Of a tensor, all that launches depend on."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    def empty(self) -> Tensor:
        """Return a tensor of this layout without memory."""
        return torch.empty_strided(self.shape, self.strides, dtype=self.dtype, device="meta")


@functools.lru_cache(maxsize=PLANS)
def _plan(q: Layout, k: Layout, rule: FlexRule, scale: float, block_size: int, device: torch.device) -> Plan:
    queries, keys = q.empty(), k.empty()
    batch, kv_len, q_heads, _ = q.shape
    index = BlockIndex.empty(batch, q_heads, BlockGrid(kv_len, kv_len, block_size), "meta")
    launches = _launches(queries, keys, rule, scale, index, Launches(device, planned=True))
    return Plan(launches, (queries, keys, index.blocks, index.counts))


def _launches(q: Tensor, k: Tensor, rule: FlexRule, scale: float, index: BlockIndex, launches: Launches) -> Launches:
    """Add all launches of a selection."""
    grid = index.grid
    batch, kv_len, q_heads, _ = q.shape
    blocks = grid.key_blocks
    operands = launch_operands(launches, q, k, rule, scale, grid)
    columns, diagonals, below = (launches.empty(batch, q_heads, blocks * grid.block_size) for _ in range(3))
    mass = (columns, diagonals, below)
    launch_last_masses(launches, operands.last, k, operands.factor, rule.official, mass)
    kept, query_aware = launch_patterns(launches, operands, mass, kv_len, rule)
    # Without query-aware heads no kernel reads these two.
    weights, above = below, below
    if rule.tau > 0:
        weights = _launch_block_attention(launches, operands, query_aware, rule.official)
        above = launch_crossing(launches, weights, rule.gamma * blocks, query_aware)
    launches.add(
        _lists,
        batch * q_heads * blocks,
        (kept, weights, above, query_aware, index.blocks, index.counts),
        (),
        (batch * q_heads, blocks),
        {"SINGLE": rule.tau > 0, "COMPACT": COMPACT},
        {"num_warps": 4},
    )
    return launches


def _launch_block_attention(launches: Launches, operands: Operands, query_aware: Tensor, rounded: bool) -> Tensor:
    """Add the launch that fills ``[batch, q_heads, blocks, blocks]`` float32: mean queries' weights on mean keys.

    Undefined for heads that are not query-aware; ``rounded`` rounds the products to K's dtype.
    """
    queries, pooled = operands.queries, operands.pooled
    batch, blocks, q_heads, head_dim = queries.shape
    weights = launches.empty(batch, q_heads, blocks, blocks)
    tiles = triton.cdiv(blocks, BLOCK_ROWS)
    launches.add(
        _block_attention,
        tiles * batch * q_heads,
        (queries, pooled, query_aware, weights),
        (operands.factor * LOG2E,),
        (blocks, tiles, q_heads, q_heads // pooled.shape[2], *queries.stride()[:3], *pooled.stride()[:3]),
        {"HEAD_DIM": head_dim, "TILE": BLOCK_ROWS, "ROUNDED": rounded},
        {"num_warps": 4},
    )
    return weights
