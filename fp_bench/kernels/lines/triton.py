"""Vertical-slash conversion and attention in portable Triton.

**Conversion.** One program walks the tiles of one row block through the table of the index, with one dependent load
for each tile. Meanwhile 1024 of the head's columns are in registers, and those in a tile are struck out. A prefix sum
packs the others in octets. This takes one compare for each tile and column, which should be a few per cent of the
attention's time.

**Attention.** One program computes 64 queries of one head, since tiles lie differently for every 64 queries. It walks
the table again: the next distance is loaded while the tile of this one is computed. The first tile (the far edge of a
window) and the last two (the only ones that can reach past a query) need a mask and come last, in a loop of their own,
so that the long loop has none. Then the single columns, 64 gathered rows of K and V at a time. One online softmax, base
2, in float32, runs through all of it.

The longest row blocks start first. Among 128 neighbouring ones, those of a KV head run together. They read the same K
and V from L2 although each reads its own tiles, because the tiles of one diagonal are neighbours too.

On sm_90 at head_dim 128 (64 queries, half a tile a step, 4 warps, 3 stages) a program takes 64 KB of shared memory, 16
KB for Q and 48 KB for three stages of K and V, and 154 registers a thread. Three programs then run on an SM, so that
the softmax of one overlaps the products and loads of the others. This matters most, because a tile is only 2.1 MFLOP
on 32 KB of K and V from L2. Whole tiles a step, as in MInference's kernel, leave room for two programs and are 1.3
times slower (H200, 64K: 81 ms instead of 62), with fewer stages or registers too. The loops follow one another and use
the same buffers.
"""

import triton
import triton.language as tl
from torch import Tensor

from fp_bench.kernels.attention.online_softmax import fold
from fp_bench.kernels.backend import capability
from fp_bench.kernels.launch import CachedKernel
from fp_bench.kernels.layout import LOG2E, empty_outputs
from fp_bench.kernels.lines.index import OCTET, TILE, VerticalSlashIndex

COLUMNS_AT_ONCE = 1024
"""Columns that a conversion holds in registers."""
ROW_GROUP = 128
"""Neighbouring row blocks that run KV head by KV head."""
SIZES = ("kv_len", "rows", "width", "batch_heads", "q_heads", "group")
"""Arguments that a kernel is not compiled again for."""


@triton.jit(do_not_specialize=SIZES)
def _convert_kernel(
    following_ptr, columns_ptr, tile_counts_ptr, past_keys_ptr, octets_ptr, octet_counts_ptr, column_counts_ptr,
    rows, width, TILE: tl.constexpr, OCTET: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = rows - 1 - tl.program_id(0) % rows
    batch_head = tl.program_id(0) // rows
    list_row = (batch_head * rows + row).to(tl.int64)
    following_ptr += batch_head.to(tl.int64) * (rows * TILE + 1)
    columns_ptr += batch_head.to(tl.int64) * width
    octets_ptr += list_row * (width // OCTET)
    tiles = 0
    past_keys = 0
    octet_count = 0
    column_count = 0
    for start in range(0, width, COLUMNS):
        # Columns ascend: from one that is no past key on there is nothing to read.
        if (start == 0) | (tl.load(columns_ptr + start) < row * TILE):
            place = start + tl.arange(0, COLUMNS)
            column = tl.load(columns_ptr + place, mask=place < width, other=rows * TILE)
            distance = tl.load(following_ptr + (row + 1) * TILE)
            reads = (column < row * TILE) & (distance > -TILE)
            tiles = 0
            past_keys = 0
            while distance > -TILE:
                first = row * TILE - distance
                reads &= (column < first) | (column >= first + TILE)
                tiles += 1
                past_keys += tl.maximum(tl.minimum(distance, TILE), 0)
                distance = tl.load(following_ptr + tl.maximum(distance, 0))
            by_octet = tl.reshape(reads.to(tl.int32), (COLUMNS // OCTET, OCTET))
            bits = tl.sum(by_octet << tl.arange(0, OCTET)[None, :], 1)
            listed = (bits != 0).to(tl.int32)
            entry = (start // OCTET + tl.arange(0, COLUMNS // OCTET) << OCTET) + bits
            tl.store(octets_ptr + octet_count + tl.cumsum(listed, 0) - 1, entry, mask=listed != 0)
            octet_count += tl.sum(listed, 0)
            column_count += tl.sum(reads.to(tl.int32), 0)
    tl.store(tile_counts_ptr + list_row, tiles)
    tl.store(past_keys_ptr + list_row, past_keys)
    tl.store(octet_counts_ptr + list_row, octet_count)
    tl.store(column_counts_ptr + list_row, column_count)


@triton.jit(do_not_specialize=SIZES)
def _vertical_slash_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, following_ptr, tile_counts_ptr, columns_ptr, octets_ptr, octet_counts_ptr,
    windows_ptr, scale_log2,
    kv_len, rows, width, batch_heads, q_heads, group,
    stride_qb, stride_qn, stride_qh, stride_kb, stride_kn, stride_kh,
    stride_vb, stride_vn, stride_vh, stride_ob, stride_on, stride_oh,
    TILE: tl.constexpr, OCTET: tl.constexpr, BLOCK_N: tl.constexpr, HEAD_DIM: tl.constexpr, STAGES: tl.constexpr,
    ROW_GROUP: tl.constexpr,
):  # fmt: skip
    PARTS: tl.constexpr = TILE // BLOCK_N
    # Order: groups of row blocks, longest first; in a group by KV head, row block, head of the GQA group.
    per_kv_head = ROW_GROUP * group
    per_row_group = ROW_GROUP * batch_heads
    in_row_group = tl.program_id(0) % per_row_group
    in_kv_head = in_row_group % per_kv_head
    row = rows - 1 - tl.program_id(0) // per_row_group * ROW_GROUP - in_kv_head // group
    if row < 0:
        return
    batch_head = in_row_group // per_kv_head * group + in_kv_head % group
    batch = (batch_head // q_heads).to(tl.int64)
    head = (batch_head % q_heads).to(tl.int64)
    kv_head = (batch_head % q_heads // group).to(tl.int64)
    list_row = (batch_head * rows + row).to(tl.int64)
    tiles = tl.load(tile_counts_ptr + list_row)
    columns = tl.load(octet_counts_ptr + list_row) * OCTET
    following_ptr += batch_head.to(tl.int64) * (rows * TILE + 1)
    columns_ptr += batch_head.to(tl.int64) * width
    octets_ptr += list_row * (width // OCTET)

    begin = row * TILE
    query = begin + tl.arange(0, TILE)
    lane = tl.arange(0, BLOCK_N)
    dim = tl.arange(0, HEAD_DIM)
    q_rows = query[:, None].to(tl.int64) * stride_qn + dim[None, :]
    q = tl.load(q_ptr + batch * stride_qb + head * stride_qh + q_rows, mask=query[:, None] < kv_len, other=0.0)
    k_ptr += batch * stride_kb + kv_head * stride_kh
    v_ptr += batch * stride_vb + kv_head * stride_vh
    k_tile = lane[:, None] * stride_kn + dim[None, :]
    v_tile = lane[:, None] * stride_vn + dim[None, :]

    acc = tl.zeros((TILE, HEAD_DIM), tl.float32)
    denominator = tl.zeros((TILE,), tl.float32)
    highest = tl.full((TILE,), -1.0e30, tl.float32)

    farthest = tl.load(following_ptr + begin + TILE)
    distance = farthest
    ahead = tl.load(following_ptr + tl.maximum(farthest, 0))
    for step in tl.range(0, (tiles - 3) * PARTS, num_stages=STAGES):
        # The walk goes on with the first part of each tile.
        distance = tl.where(step % PARTS == 0, ahead, distance)
        ahead = tl.load(following_ptr + tl.maximum(distance, 0))
        start = (begin - distance + step % PARTS * BLOCK_N).to(tl.int64)
        k = tl.load(k_ptr + start * stride_kn + k_tile)
        v = tl.load(v_ptr + start * stride_vn + v_tile)
        logits = tl.dot(q, k.T, input_precision="ieee")
        acc, denominator, highest = fold(acc, denominator, highest, logits, v, scale_log2)

    # The first tile and the last two. The running maximum starts finite: where a query sees nothing, -inf weighs 0.
    sink = tl.load(windows_ptr + 2 * head)
    local = tl.load(windows_ptr + 2 * head + 1)
    for step in tl.range(0, tl.minimum(tiles, 3) * PARTS, num_stages=STAGES):
        distance = tl.load(following_ptr + distance, mask=(step >= PARTS) & (step % PARTS == 0), other=distance)
        at = tl.where(step < PARTS, farthest, distance)
        key = begin - at + step % PARTS * BLOCK_N + lane
        start = (begin - at + step % PARTS * BLOCK_N).to(tl.int64)
        k = tl.load(k_ptr + start * stride_kn + k_tile, mask=key[:, None] < kv_len, other=0.0)
        v = tl.load(v_ptr + start * stride_vn + v_tile, mask=key[:, None] < kv_len, other=0.0)
        logits = tl.dot(q, k.T, input_precision="ieee")
        past = query[:, None] - key[None, :]
        seen = (past >= 0) & ((past < local) | (key[None, :] < sink))
        logits = tl.where(seen, logits, float("-inf"))
        acc, denominator, highest = fold(acc, denominator, highest, logits, v, scale_log2)

    for start in tl.range(0, columns, BLOCK_N, num_stages=STAGES):
        place = start + lane
        octet = tl.load(octets_ptr + place // OCTET, mask=place < columns, other=0)
        reads = ((octet >> (place % OCTET)) & 1) != 0
        key = tl.load(columns_ptr + (octet >> OCTET) * OCTET + place % OCTET, mask=reads, other=0).to(tl.int64)
        k = tl.load(k_ptr + key[:, None] * stride_kn + dim[None, :], mask=reads[:, None], other=0.0)
        v = tl.load(v_ptr + key[:, None] * stride_vn + dim[None, :], mask=reads[:, None], other=0.0)
        logits = tl.where(reads[None, :], tl.dot(q, k.T, input_precision="ieee"), float("-inf"))
        acc, denominator, highest = fold(acc, denominator, highest, logits, v, scale_log2)

    denominator = tl.where(tiles > 0, denominator, 1.0)  # acc is 0 where nothing is read
    lse = tl.where(tiles > 0, (highest + tl.log2(denominator)) / 1.4426950408889634, float("-inf"))
    out_rows = query[:, None].to(tl.int64) * stride_on + dim[None, :]
    out_ptr += batch * stride_ob + head * stride_oh
    out = acc / denominator[:, None]
    tl.store(out_ptr + out_rows, out.to(out_ptr.dtype.element_ty), mask=query[:, None] < kv_len)
    tl.store(lse_ptr + batch_head.to(tl.int64) * kv_len + query, lse, mask=query < kv_len)


_convert = CachedKernel(_convert_kernel)
_attend = CachedKernel(_vertical_slash_kernel)


def launch_config(head_dim: int, capability: int) -> dict[str, int]:
    """Return keys of a step, stages and warps for a chip.

    Args:
        head_dim: 64, 128 or 256.
        capability: ten times the CUDA compute capability (90 for an H200); 0 for AMD.
    """
    if capability in (90, 100, 103):  # 227 KB of shared memory
        return {"BLOCK_N": 32, "STAGES": 2 if head_dim == 256 else 3, "num_warps": 4}
    if capability == 0:  # 64 KB
        return {"BLOCK_N": 32, "STAGES": 1, "num_warps": 4}
    # 99 KB and up: compiled for sm_80 and sm_89, not timed there.
    return {"BLOCK_N": 64 if head_dim == 64 else 32, "STAGES": 1 if head_dim == 256 else 2, "num_warps": 4}


def convert_triton(index: VerticalSlashIndex) -> None:
    """Fill the counts and octets of an index whose other fields are given."""
    width = index.columns.shape[-1]
    _convert(
        index.tile_counts.numel(),
        (
            *(index.following, index.columns, index.tile_counts, index.past_keys),
            *(index.octets, index.octet_counts, index.column_counts),
        ),
        (),
        (index.rows, width),
        {"TILE": TILE, "OCTET": OCTET, "COLUMNS": min(triton.next_power_of_2(width), COLUMNS_AT_ONCE)},
        {"num_warps": 4},
    )


def vertical_slash_attention_triton(
    q: Tensor, k: Tensor, v: Tensor, index: VerticalSlashIndex, scale: float
) -> tuple[Tensor, Tensor]:
    """Return ``(out, lse)`` as `lines.vertical_slash_attention` does."""
    batch, kv_len, q_heads, head_dim = q.shape
    out, lse = empty_outputs(q)
    config = launch_config(head_dim, capability(q.device))
    rows = triton.cdiv(index.rows, ROW_GROUP) * ROW_GROUP
    _attend(
        rows * batch * q_heads,
        (
            *(q, k, v, out, lse, index.following, index.tile_counts, index.columns, index.octets, index.octet_counts),
            index.windows,
        ),
        (scale * LOG2E,),
        (
            *(kv_len, index.rows, index.columns.shape[-1], batch * q_heads, q_heads, q_heads // k.shape[2]),
            *(*q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3]),
        ),
        {
            "TILE": TILE,
            "OCTET": OCTET,
            "BLOCK_N": config["BLOCK_N"],
            "HEAD_DIM": head_dim,
            "STAGES": config["STAGES"],
            "ROW_GROUP": ROW_GROUP,
        },
        {"num_warps": config["num_warps"]},
    )
    return out, lse
