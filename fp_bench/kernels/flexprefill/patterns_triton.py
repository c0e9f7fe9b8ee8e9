"""What FlexPrefill's selection reads of Q and K, and each head's kind, columns and diagonals, in two Triton kernels.

**Operands.** One program a tile of 128 tokens and head: mean keys, mean queries, or the last queries and their mean. A
tile is loaded once into registers (128 numbers a thread of 4 warps at head_dim 128) and summed there. Bound by reading
Q and K.

**Patterns.** Two programs a head, one for columns and one for diagonals, of 16 warps: the mass of each block, the
head's kind (divergence of the mean last query's foresight from that mass), the budget (`search_triton`), and the blocks
of most mass, which end at the budget's order statistic, found by the same search. Both programs tell the head's kind,
which costs less than a launch between them. A program keeps 32 x 128 numbers at once in registers and reads everything
again from L1 or L2: 16 KB of mass at 4K, 1 MB at 256K. Shared memory is the reductions', 16 KB; 128 registers a thread.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fp_bench.kernels.flexprefill.rule import FlexRule
from fp_bench.kernels.flexprefill.search_triton import AT_ONCE, WARPS, crossing_value, entries_above, tokens_to_cover
from fp_bench.kernels.launch import CachedKernel
from fp_bench.kernels.layout import LOG2E, BlockGrid
from fp_bench.kernels.plan import Launches

BUDGET_TOKENS = 128
"""Tokens of a budget that one block pays for, whatever the block size, as in the official code."""
BLOCKS_SUMMED = 32
"""Blocks whose tokens, or whose mean keys, a program reads at once."""
BLOCKS_AT_ONCE = 512
"""Blocks that a program compares at once, a thread each."""
SIZES = ("kv_len", "blocks", "kv_lists", "q_lists", "kv_heads", "q_heads", "group", "lists", "low", "high")
"""Arguments that a kernel is not compiled again for."""


@triton.jit
def _tile(
    x_ptr, list_, heads, start, kv_len, stride_b, stride_n, stride_h, BLOCK: tl.constexpr, HEAD_DIM: tl.constexpr
):  # fmt: skip
    """Return ``[BLOCK, HEAD_DIM]`` of one head from token ``start`` on; zeros past the end."""
    token = start + tl.arange(0, BLOCK)[:, None]
    x = x_ptr + (list_ // heads).to(tl.int64) * stride_b + (list_ % heads).to(tl.int64) * stride_h
    x += token.to(tl.int64) * stride_n + tl.arange(0, HEAD_DIM)[None, :]
    return tl.load(x, mask=token < kv_len, other=0.0)


@triton.jit
def _row(list_, heads, block, blocks, HEAD_DIM: tl.constexpr):
    """Return where a head's row lies in ``[batch, blocks, heads, HEAD_DIM]``."""
    row = ((list_ // heads).to(tl.int64) * blocks + block) * heads + list_ % heads
    return row * HEAD_DIM + tl.arange(0, HEAD_DIM)


@triton.jit(do_not_specialize=SIZES)
def _operands_kernel(
    q_ptr, k_ptr, last_ptr, mean_ptr, pooled_ptr, queries_ptr, scale,
    kv_len, blocks, kv_lists, q_lists, kv_heads, q_heads,
    stride_qb, stride_qn, stride_qh, stride_kb, stride_kn, stride_kh,
    BLOCK: tl.constexpr, HEAD_DIM: tl.constexpr, ROUNDED: tl.constexpr,
):  # fmt: skip
    dtype = q_ptr.dtype.element_ty
    program = tl.program_id(0)
    if program < q_lists:
        x = _tile(q_ptr, program, q_heads, kv_len - BLOCK, kv_len, stride_qb, stride_qn, stride_qh, BLOCK, HEAD_DIM)
        if ROUNDED:
            x = (x.to(tl.float32) * scale).to(dtype)
        mean = tl.sum(x.to(tl.float32), 0) / BLOCK
        if ROUNDED:
            mean = mean.to(dtype).to(tl.float32)
        row = ((program // q_heads).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[:, None]) * q_heads + program % q_heads
        tl.store(last_ptr + row * HEAD_DIM + tl.arange(0, HEAD_DIM)[None, :], x)
        tl.store(mean_ptr + program.to(tl.int64) * HEAD_DIM + tl.arange(0, HEAD_DIM), mean)
    elif program < q_lists + blocks * kv_lists:
        list_ = (program - q_lists) % kv_lists
        block = (program - q_lists) // kv_lists
        x = _tile(k_ptr, list_, kv_heads, block * BLOCK, kv_len, stride_kb, stride_kn, stride_kh, BLOCK, HEAD_DIM)
        key = tl.sum(x.to(tl.float32), 0) / tl.minimum(kv_len - block * BLOCK, BLOCK)
        tl.store(pooled_ptr + _row(list_, kv_heads, block, blocks, HEAD_DIM), key.to(dtype))
    else:
        list_ = (program - q_lists - blocks * kv_lists) % q_lists
        block = (program - q_lists - blocks * kv_lists) // q_lists
        x = _tile(q_ptr, list_, q_heads, block * BLOCK, kv_len, stride_qb, stride_qn, stride_qh, BLOCK, HEAD_DIM)
        query = (tl.sum(x.to(tl.float32), 0) / tl.minimum(kv_len - block * BLOCK, BLOCK)).to(dtype)
        if ROUNDED:
            query = (query.to(tl.float32) * scale).to(dtype)
        tl.store(queries_ptr + _row(list_, q_heads, block, blocks, HEAD_DIM), query)


@triton.jit
def _sum_blocks(mass_ptr, below_ptr, sums_ptr, blocks, slash, BLOCK: tl.constexpr, AT_ONCE: tl.constexpr):
    """Sum the mass of each block; of diagonals, first add to it what went on from the tile before."""
    for start in range(0, blocks, AT_ONCE):
        block = start + tl.arange(0, AT_ONCE)
        token = block[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
        inside = block[:, None] < blocks
        mass = tl.load(mass_ptr + token, mask=inside, other=0.0)
        goes_on = inside & (slash != 0) & (block[:, None] > 0)
        mass += tl.load(below_ptr + token - BLOCK, mask=goes_on, other=0.0)
        tl.store(mass_ptr + token, mass, mask=goes_on)
        tl.store(sums_ptr + block, tl.sum(mass, 1), mask=block < blocks)


@triton.jit
def _foretells(
    mean_ptr, pooled_ptr, logits_ptr, foreseen_ptr, factor, tau, batch_head, blocks, q_heads, group,
    HEAD_DIM: tl.constexpr, ROUNDED: tl.constexpr, KEYS: tl.constexpr, AT_ONCE: tl.constexpr, LOG2E: tl.constexpr,
):  # fmt: skip
    """Return whether the mean last query foretells the mass of each key block: whether a head is query-aware."""
    dim = tl.arange(0, HEAD_DIM)
    mean = tl.load(mean_ptr + batch_head * HEAD_DIM + dim)[None, :]
    kv_heads = q_heads // group
    first = batch_head // q_heads * blocks * kv_heads + batch_head % q_heads // group
    highest = tl.full((), -1.0e30, tl.float32)
    total = tl.full((), 0.0, tl.float32)
    for start in range(0, blocks, KEYS):
        block = start + tl.arange(0, KEYS)
        keys = pooled_ptr + (first + block.to(tl.int64) * kv_heads)[:, None] * HEAD_DIM + dim[None, :]
        logits = tl.sum(tl.load(keys, mask=block[:, None] < blocks, other=0.0).to(tl.float32) * mean, 1) * factor
        if ROUNDED:
            logits = logits.to(pooled_ptr.dtype.element_ty).to(tl.float32)
        tl.store(logits_ptr + block, logits, mask=block < blocks)
        logits = tl.where(block < blocks, logits, float("-inf"))
        peak = tl.maximum(highest, tl.max(logits, 0))
        total = total * tl.exp2((highest - peak) * LOG2E) + tl.sum(tl.exp2((logits - peak) * LOG2E), 0)
        highest = peak
    tl.debug_barrier()  # every warp's logits are written before any warp reads them
    divergence = tl.zeros((AT_ONCE,), tl.float32)
    empty = tl.zeros((AT_ONCE,), tl.int32)
    for start in range(0, blocks, AT_ONCE):
        block = start + tl.arange(0, AT_ONCE)
        inside = block < blocks
        above_peak = (tl.load(logits_ptr + block, mask=inside, other=0.0) - highest) * LOG2E
        p = tl.exp2(above_peak) / total
        q = tl.load(foreseen_ptr + block, mask=inside, other=0.0)
        mean_mass = tl.maximum((p + q) / 2, 2.0e-38)
        # 0 log 0 is 0.
        terms = tl.where(p > 0.0, p * tl.log(tl.maximum(p, 2.0e-38) / mean_mass), 0.0)
        terms += tl.where(q > 0.0, q * tl.log(tl.maximum(q, 2.0e-38) / mean_mass), 0.0)
        divergence += tl.where(inside, terms, 0.0)
        # float32 holds numbers down to 2 ** -149, which exp2 here flushes to 0.
        empty |= (inside & ((above_peak - tl.log2(total) <= -150.0) | (q == 0.0))).to(tl.int32)
    similar = tl.sqrt(tl.maximum(tl.sum(divergence, 0) / 2, 0.0)) < tau
    if ROUNDED:
        similar &= tl.sum(empty, 0) == 0
    return similar.to(tl.int32)


@triton.jit
def _keep_largest(sums_ptr, kept_ptr, budget, blocks, slash, AT_ONCE: tl.constexpr):
    """Mark the ``budget`` largest sums, of equal ones the first; diagonals by how far before the query they are."""
    least = crossing_value(sums_ptr, blocks, budget.to(tl.float32) - 0.5, True, AT_ONCE)
    above, _ = entries_above(sums_ptr, blocks, least, AT_ONCE)
    equal_kept = budget - above
    seen = 0
    for start in range(0, blocks, AT_ONCE):
        block = start + tl.arange(0, AT_ONCE)
        mass = tl.load(sums_ptr + block, mask=block < blocks, other=-1.0)
        equal = (mass == least).to(tl.int32)
        kept = (mass > least) | ((equal != 0) & (seen + tl.cumsum(equal, 0) <= equal_kept))
        place = tl.where(slash != 0, blocks - 1 - block, block)
        tl.store(kept_ptr + place, kept.to(tl.int8), mask=block < blocks)
        seen += tl.sum(equal, 0)


@triton.jit(do_not_specialize=SIZES)
def _patterns_kernel(
    columns_ptr, diagonals_ptr, below_ptr, mean_ptr, pooled_ptr, sums_ptr, logits_ptr, kept_ptr, active_ptr,
    factor, gamma, tau,
    lists, kv_len, blocks, q_heads, group, low, high,
    BLOCK: tl.constexpr, HEAD_DIM: tl.constexpr, ROUNDED: tl.constexpr, FORETOLD: tl.constexpr,
    BUDGET_TOKENS: tl.constexpr, SUMMED: tl.constexpr, BLOCKS_AT_ONCE: tl.constexpr, AT_ONCE: tl.constexpr,
    LOG2E: tl.constexpr,
):  # fmt: skip
    batch_head = (tl.program_id(0) // 2).to(tl.int64)
    slash = tl.program_id(0) % 2
    length = blocks * BLOCK
    columns = columns_ptr + batch_head * length
    below = below_ptr + batch_head * length
    mass = columns
    if slash != 0:
        mass = diagonals_ptr + batch_head * length
    vector = slash * lists.to(tl.int64) + batch_head
    sums = sums_ptr + vector * blocks
    _sum_blocks(mass, below, sums, blocks, slash, BLOCK, SUMMED)
    query_aware = 0
    if FORETOLD:
        # The columns' sums: the program of the diagonals makes its own.
        foreseen = sums + slash * lists.to(tl.int64) * blocks
        if slash != 0:
            _sum_blocks(columns, below, foreseen, blocks, 0, BLOCK, SUMMED)
        tl.debug_barrier()  # every warp's sums are written before any warp reads them
        query_aware = _foretells(
            mean_ptr, pooled_ptr, logits_ptr + vector * blocks, foreseen, factor, tau, batch_head, blocks, q_heads,
            group, HEAD_DIM, ROUNDED, SUMMED, BLOCKS_AT_ONCE, LOG2E,
        )  # fmt: skip
        tl.store(active_ptr + batch_head, query_aware.to(tl.int8), mask=slash == 0)
    tl.debug_barrier()
    tokens = tokens_to_cover(mass, kv_len, gamma, AT_ONCE)
    budget = tl.minimum(tl.maximum(tokens // BUDGET_TOKENS + 1, low), high)
    budget = tl.where(query_aware != 0, low, budget)
    # The first column and the diagonal of offset 0 are forced.
    tl.store(sums + slash * (blocks - 1), float("inf"))
    tl.debug_barrier()
    _keep_largest(sums, kept_ptr + vector * blocks, budget, blocks, slash, BLOCKS_AT_ONCE)


_operands = CachedKernel(_operands_kernel)
_patterns = CachedKernel(_patterns_kernel)


class Operands(NamedTuple):
    """What the selection reads instead of Q and K."""

    last: Tensor
    """``[batch, block_size, q_heads, head_dim]``: the last queries, scaled if the rule is the official one."""
    mean: Tensor
    """``[batch, q_heads, head_dim]`` float32: their mean."""
    pooled: Tensor
    """``[batch, blocks, kv_heads, head_dim]``: the mean key of each block; undefined where the rule's ``tau`` is 0."""
    queries: Tensor
    """``[batch, blocks, q_heads, head_dim]``: the mean query of each block, scaled as ``last``; likewise."""
    factor: float
    """On products of queries with keys."""


def launch_operands(
    launches: Launches, q: Tensor, k: Tensor, rule: FlexRule, scale: float, grid: BlockGrid
) -> Operands:
    """Add the launch that fills the operands, and return them; arguments as `flexprefill.select_flex`."""
    batch, kv_len, q_heads, head_dim = q.shape
    kv_heads, blocks, size = k.shape[2], grid.key_blocks, grid.block_size
    last, queries = (launches.empty(batch, rows, q_heads, head_dim, dtype=q.dtype) for rows in (size, blocks))
    pooled = launches.empty(batch, blocks, kv_heads, head_dim, dtype=q.dtype)
    mean = launches.empty(batch, q_heads, head_dim)
    pooled_tiles = blocks * (q_heads + kv_heads) if rule.tau > 0 else 0
    launches.add(
        _operands,
        batch * (q_heads + pooled_tiles),
        (q, k, last, mean, pooled, queries),
        (scale,),
        (kv_len, blocks, batch * kv_heads, batch * q_heads, kv_heads, q_heads, *q.stride()[:3], *k.stride()[:3]),
        {"BLOCK": size, "HEAD_DIM": head_dim, "ROUNDED": rule.official},
        {"num_warps": 4},
    )
    return Operands(last, mean, pooled, queries, 1.0 if rule.official else scale)


def launch_patterns(
    launches: Launches, operands: Operands, mass: tuple[Tensor, Tensor, Tensor], kv_len: int, rule: FlexRule
) -> tuple[Tensor, Tensor]:
    """Add the launch that fills ``(kept [2, batch, q_heads, blocks], query_aware [batch, q_heads])`` int8.

    ``kept`` marks columns, then diagonals by how many blocks the key lies before the query. ``query_aware`` is
    undefined where ``rule.tau`` is 0.

    Args:
        launches: to add to.
        operands: of the call.
        mass: columns, diagonals and what goes on, from `attention.last_triton.launch_last_masses`; overwritten.
        kv_len: keys of the call.
        rule: what to keep.
    """
    batch, block_size, q_heads, head_dim = operands.last.shape
    kv_heads, blocks = operands.pooled.shape[2], mass[0].shape[-1] // block_size
    kept = launches.empty(2, batch, q_heads, blocks, dtype=torch.int8)
    query_aware = launches.empty(batch, q_heads, dtype=torch.int8)
    # Sums of columns, of diagonals, and of columns for the diagonals' program.
    sums, logits = launches.empty(3, batch, q_heads, blocks), launches.empty(2, batch, q_heads, blocks)
    launches.add(
        _patterns,
        2 * batch * q_heads,
        (*mass, operands.mean, operands.pooled, sums, logits, kept, query_aware),
        (operands.factor, rule.gamma, rule.tau),
        (batch * q_heads, kv_len, blocks, q_heads, q_heads // kv_heads, *rule.budget_blocks(blocks, block_size)),
        {
            "BLOCK": block_size,
            "HEAD_DIM": head_dim,
            "ROUNDED": rule.official,
            "FORETOLD": rule.tau > 0,
            "BUDGET_TOKENS": BUDGET_TOKENS,
            "SUMMED": BLOCKS_SUMMED,
            "BLOCKS_AT_ONCE": BLOCKS_AT_ONCE,
            "AT_ONCE": AT_ONCE,
            "LOG2E": LOG2E,
        },
        {"num_warps": WARPS},
    )
    return kept, query_aware
