"""The steps of `flexprefill` in Triton; `steps_torch` has the same functions and says what they return.

**Crossing.** This finds the value at which the descending prefix sums of a vector exceed a budget, without a sort.
Eight passes each find four bits of the value's float32 pattern. A pass sums, for each of 16 candidates, all values
from the candidate on. Each program sums one slab, and the next pass adds the slabs, so there are no atomics and the
result is deterministic. A last pass counts the values above it. A vector that is not active costs an empty program.

**Block attention.** Causal softmax of mean queries on mean keys in two passes over the keys (4 MB of them at 256K), for
query-aware heads only.

**Lists.** One program writes the list of one query block: columns, diagonals and single blocks, compacted by a prefix
sum.

On sm_90, crossing has 4 warps and 32 sums a thread; it uses shared memory only for the reduction. Reading the operands
from L2 or device memory limits each step.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.flexprefill.parts import Attention, Crossing
from fp_bench.kernels.launch import CachedKernel
from fp_bench.kernels.layout import LOG2E

CANDIDATES = 16
SLAB = 4096
"""Values that one program of a pass sums at least."""
MAX_SLABS = 64
CHUNK = 256
"""Values compared with all candidates at once."""
BLOCK_ROWS = 64
"""Query blocks and key blocks of a tile of block attention."""
COMPACT = 512
"""Key blocks listed at once."""
SIZES = ("tiles", "q_heads", "group", "length", "span", "shift", "blocks")
"""Arguments that a kernel is not compiled again for."""


@triton.jit
def _crossing_bits(partials_ptr, bits_ptr, vector, budget, shift, SLABS: tl.constexpr, CANDIDATES: tl.constexpr):
    """Return the bits found so far with the four that the last pass was about, at ``shift``."""
    candidate = tl.arange(0, CANDIDATES)
    partials = partials_ptr + (vector * SLABS + tl.arange(0, SLABS)[:, None]) * CANDIDATES + candidate[None, :]
    sums = tl.sum(tl.load(partials), 0)
    # The sums fall as candidates rise: as many exceed the budget as the digit says.
    digit = tl.sum(((candidate > 0) & (sums > budget)).to(tl.int32), 0)
    return tl.load(bits_ptr + vector) | (digit << shift)


@triton.jit(do_not_specialize=SIZES)
def _crossing_pass_kernel(
    values_ptr, active_ptr, partials_in_ptr, bits_in_ptr, partials_ptr, bits_ptr, budget, length, span, shift,
    SLABS: tl.constexpr, CANDIDATES: tl.constexpr, CHUNK: tl.constexpr, FIRST: tl.constexpr,
):  # fmt: skip
    vector = (tl.program_id(0) // SLABS).to(tl.int64)
    slab = tl.program_id(0) % SLABS
    if tl.load(active_ptr + vector) == 0:
        return
    found = tl.full((), 0, tl.int32)
    if not FIRST:
        found = _crossing_bits(partials_in_ptr, bits_in_ptr, vector, budget, shift + 4, SLABS, CANDIDATES)
    if slab == 0:
        tl.store(bits_ptr + vector, found)
    # Floats that are not negative are ordered as their bits are; candidates of 2 ** 31 and up are above all of them.
    digit = tl.arange(0, CANDIDATES)[:, None]
    candidate = (digit << shift).to(tl.uint32, bitcast=True) | found.to(tl.uint32, bitcast=True)
    values = values_ptr + vector * length
    sums = tl.zeros((CANDIDATES, CHUNK), tl.float32)
    for start in range(slab * span, tl.minimum((slab + 1) * span, length), CHUNK):
        place = start + tl.arange(0, CHUNK)[None, :]
        value = tl.load(values + place, mask=place < length, other=0.0)
        sums += tl.where(value.to(tl.uint32, bitcast=True) >= candidate, value, 0.0)
    out = (vector * SLABS + slab) * CANDIDATES + tl.arange(0, CANDIDATES)
    tl.store(partials_ptr + out, tl.sum(sums, 1))


@triton.jit(do_not_specialize=SIZES)
def _crossing_end_kernel(
    values_ptr, active_ptr, partials_in_ptr, bits_in_ptr, crossing_ptr, masses_ptr, amounts_ptr, budget, length, span,
    SLABS: tl.constexpr, CANDIDATES: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    vector = (tl.program_id(0) // SLABS).to(tl.int64)
    slab = tl.program_id(0) % SLABS
    if tl.load(active_ptr + vector) == 0:
        return
    crossing = _crossing_bits(partials_in_ptr, bits_in_ptr, vector, budget, 0, SLABS, CANDIDATES)
    if slab == 0:
        tl.store(crossing_ptr + vector, crossing.to(tl.float32, bitcast=True))
    values = values_ptr + vector * length
    mass = tl.zeros((CHUNK,), tl.float32)
    amount = tl.zeros((CHUNK,), tl.int32)
    for start in range(slab * span, tl.minimum((slab + 1) * span, length), CHUNK):
        place = start + tl.arange(0, CHUNK)
        value = tl.load(values + place, mask=place < length, other=0.0)
        above = value.to(tl.int32, bitcast=True) > crossing
        mass += tl.where(above, value, 0.0)
        amount += above.to(tl.int32)
    tl.store(masses_ptr + vector * SLABS + slab, tl.sum(mass, 0))
    tl.store(amounts_ptr + vector * SLABS + slab, tl.sum(amount, 0))


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
    columns_ptr, diagonals_ptr, weights_ptr, above_ptr, active_ptr, blocks_ptr, counts_ptr, blocks,
    SINGLE: tl.constexpr, COMPACT: tl.constexpr,
):  # fmt: skip
    batch_head = (tl.program_id(0) // blocks).to(tl.int64)
    a = tl.program_id(0) % blocks
    list_row = tl.program_id(0).to(tl.int64)
    single = 0
    if SINGLE:
        single = tl.load(active_ptr + batch_head).to(tl.int32)
    count = 0
    for start in range(0, a + 1, COMPACT):
        c = start + tl.arange(0, COMPACT)
        seen = c <= a
        column = tl.load(columns_ptr + batch_head * blocks + c, mask=seen, other=0)
        diagonal = tl.load(diagonals_ptr + batch_head * blocks + a - c, mask=seen, other=0)
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


_crossing_pass = CachedKernel(_crossing_pass_kernel)
_crossing_end = CachedKernel(_crossing_end_kernel)
_block_attention = CachedKernel(_block_attention_kernel)
_lists = CachedKernel(_lists_kernel)


def crossing(values: Tensor, budget: float, active: Tensor | None) -> Crossing:
    """See `steps_torch.crossing`; a vector that is not active gets undefined results."""
    vectors, length = values.shape
    slabs = min(MAX_SLABS, triton.next_power_of_2(triton.cdiv(length, SLAB)))
    span = triton.cdiv(triton.cdiv(length, slabs), CHUNK) * CHUNK
    flags = torch.ones(vectors, dtype=torch.int8, device=values.device) if active is None else active.view(torch.int8)
    partials = torch.empty((2, vectors, slabs, CANDIDATES), dtype=torch.float32, device=values.device)
    bits = torch.empty((2, vectors), dtype=torch.int32, device=values.device)
    constants = {"SLABS": slabs, "CANDIDATES": CANDIDATES, "CHUNK": CHUNK}
    for step in range(8):
        old, new = (step + 1) % 2, step % 2
        _crossing_pass(
            vectors * slabs,
            (values, flags, partials[old], bits[old], partials[new], bits[new]),
            (budget,),
            (length, span, 28 - 4 * step),
            {**constants, "FIRST": step == 0},
            {"num_warps": 4},
        )
    value = torch.empty(vectors, dtype=torch.float32, device=values.device)
    mass = torch.empty((vectors, slabs), dtype=torch.float32, device=values.device)
    count = torch.empty((vectors, slabs), dtype=torch.int32, device=values.device)
    _crossing_end(
        vectors * slabs,
        (values, flags, partials[1], bits[1], value, mass, count),
        (budget,),
        (length, span),
        constants,
        {"num_warps": 4},
    )
    return Crossing(value, mass.sum(-1), count.sum(-1))


def block_attention(queries: Tensor, pooled: Tensor, factor: float, active: Tensor, rounded: bool) -> Tensor:
    """See `steps_torch.block_attention`; heads that are not active are left undefined."""
    batch, blocks, q_heads, head_dim = queries.shape
    weights = torch.empty((batch, q_heads, blocks, blocks), dtype=torch.float32, device=queries.device)
    tiles = triton.cdiv(blocks, BLOCK_ROWS)
    _block_attention(
        tiles * batch * q_heads,
        (queries, pooled, active.view(torch.int8), weights),
        (factor * LOG2E,),
        (blocks, tiles, q_heads, q_heads // pooled.shape[2], *queries.stride()[:3], *pooled.stride()[:3]),
        {"HEAD_DIM": head_dim, "TILE": BLOCK_ROWS, "ROUNDED": rounded},
        {"num_warps": 4},
    )
    return weights


def write_lists(columns: Tensor, diagonals: Tensor, attention: Attention | None, index: BlockIndex) -> None:
    """See `steps_torch.write_lists`."""
    batch, q_heads, blocks = columns.shape
    columns, diagonals = columns.view(torch.int8), diagonals.view(torch.int8)
    # Without query-aware heads the kernel reads none of the three.
    single = (index.counts,) * 3 if attention is None else (*attention[:2], attention.heads.view(torch.int8))
    _lists(
        batch * q_heads * blocks,
        (columns, diagonals, *single, index.blocks, index.counts),
        (),
        (blocks,),
        {"SINGLE": attention is not None, "COMPACT": COMPACT},
        {"num_warps": 4},
    )
