"""Block-sparse causal attention from pages in portable Triton: attention/triton.py with two more look-ups.

Program order, the separate last block and the flat loop without a mask are those of the unpaged kernel. The tiles are
those of the batch, not the rows of one sequence: a program looks up the sequence of its tile, and returns at once if
the tile only fills the bound. If a page holds a whole tile of keys (128-token pages and tiles), a tile has one page
number. With smaller pages each key has its own, and a tile still takes one load of K and one of V. The kernel reads
the next tile's page number during the products of this one, so it does not wait for the two look-ups (list, block
table).
"""

import triton
import triton.language as tl
from torch import Tensor

from fp_bench.kernels.attention.online_softmax import fold
from fp_bench.kernels.attention.triton import ROW_GROUP, launch_config
from fp_bench.kernels.backend import capability
from fp_bench.kernels.launch import CachedKernel
from fp_bench.kernels.layout import BLOCK_SIZE, LOG2E
from fp_bench.kernels.paged.batch import PagedBatch
from fp_bench.kernels.paged.discovery_triton import PagedLists
from fp_bench.kernels.paged.pages import key_offsets, page_numbers

SIZES = ("tiles", "kv_heads", "group", "table_width")
"""Arguments that change from call to call and gain nothing from a form of their own: one compiled form takes all."""


@triton.jit(do_not_specialize=SIZES)
def _paged_attention_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, blocks_ptr, counts_ptr, table_ptr, cu_ptr, lens_ptr, sequence_ptr, block_ptr,
    scale_log2, tiles, key_blocks, kv_heads, group, table_width,
    stride_qn, stride_qh, stride_kp, stride_kn, stride_kh, stride_vp, stride_vn, stride_vh, stride_on, stride_oh,
    BLOCK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, HEAD_DIM: tl.constexpr, STAGES: tl.constexpr,
    ROW_GROUP: tl.constexpr, PAGE: tl.constexpr,
):  # fmt: skip
    PARTS: tl.constexpr = BLOCK // BLOCK_M
    TILES: tl.constexpr = BLOCK // BLOCK_N
    # Order: groups of query blocks, longest first; in a group by KV head, query block, part, head of the GQA group.
    per_kv_head = ROW_GROUP * PARTS * group
    in_row_group = tl.program_id(0) % (per_kv_head * kv_heads)
    in_kv_head = in_row_group % per_kv_head
    tile = tl.program_id(0) // (per_kv_head * kv_heads) * ROW_GROUP + in_kv_head // (PARTS * group)
    sequence = tl.load(sequence_ptr + tile, mask=tile < tiles, other=-1).to(tl.int64)
    if sequence < 0:
        return
    kv_head = (in_row_group // per_kv_head).to(tl.int64)
    head = kv_head * group + in_kv_head % group
    q_start = tl.load(cu_ptr + sequence)
    q_len = tl.load(cu_ptr + sequence + 1) - q_start
    kv_len = tl.load(lens_ptr + sequence)
    list_row = tile.to(tl.int64) * (kv_heads * group) + head
    count = tl.load(counts_ptr + list_row)
    blocks_ptr += list_row * key_blocks
    table_ptr += sequence * table_width

    position = tl.load(block_ptr + tile) * BLOCK + in_kv_head // group % PARTS * BLOCK_M + tl.arange(0, BLOCK_M)
    query = position - (kv_len - q_len)
    query_valid = (query >= 0) & (query < q_len)
    token = q_start.to(tl.int64) + query
    dim = tl.arange(0, HEAD_DIM)
    lane = tl.arange(0, BLOCK_N)
    q = tl.load(
        q_ptr + token[:, None] * stride_qn + head * stride_qh + dim, mask=query_valid[:, None], other=0.0
    )  # fmt: skip
    k_ptr += kv_head * stride_kh
    v_ptr += kv_head * stride_vh

    acc = tl.zeros((BLOCK_M, HEAD_DIM), tl.float32)
    denominator = tl.zeros((BLOCK_M,), tl.float32)
    highest = tl.full((BLOCK_M,), -1.0e30, tl.float32)

    # The last listed block: the only one with keys in a query's future or past the end. Its first tile shows every
    # query at least one key, so a later tile that is masked whole leaves the running maximum finite.
    last = tl.load(blocks_ptr + count - 1, mask=count > 0, other=0).to(tl.int32)
    for part in tl.static_range(TILES):
        start = last * BLOCK + part * BLOCK_N
        key = start + lane
        page = page_numbers(table_ptr, start, lane, kv_len, PAGE, BLOCK_N)
        k_at = key_offsets(page, start, lane, stride_kp, stride_kn, PAGE)
        v_at = key_offsets(page, start, lane, stride_vp, stride_vn, PAGE)
        k = tl.load(k_ptr + k_at[:, None] + dim, mask=key[:, None] < kv_len, other=0.0)
        v = tl.load(v_ptr + v_at[:, None] + dim, mask=key[:, None] < kv_len, other=0.0)
        logits = tl.dot(q, k.T, input_precision="ieee")
        logits = tl.where(position[:, None] >= key[None, :], logits, -1.0e30)
        acc, denominator, highest = fold(acc, denominator, highest, logits, v, scale_log2)

    steps = (count - 1) * TILES
    start = tl.load(blocks_ptr, mask=steps > 0, other=0).to(tl.int32) * BLOCK
    page = page_numbers(table_ptr, start, lane, kv_len, PAGE, BLOCK_N)
    for step in tl.range(0, steps, num_stages=STAGES):
        k_at = key_offsets(page, start, lane, stride_kp, stride_kn, PAGE)
        v_at = key_offsets(page, start, lane, stride_vp, stride_vn, PAGE)
        k = tl.load(k_ptr + k_at[:, None] + dim)
        v = tl.load(v_ptr + v_at[:, None] + dim)
        following = (step + 1) // TILES
        block = tl.load(blocks_ptr + following, mask=following < count - 1, other=0).to(tl.int32)
        start = block * BLOCK + (step + 1) % TILES * BLOCK_N
        page = page_numbers(table_ptr, start, lane, kv_len, PAGE, BLOCK_N)
        logits = tl.dot(q, k.T, input_precision="ieee")
        acc, denominator, highest = fold(acc, denominator, highest, logits, v, scale_log2)

    # An empty list has read block 0 for nothing: its output is 0.
    out = tl.where(count > 0, acc / denominator[:, None], 0.0)
    out_ptr += token[:, None] * stride_on + head * stride_oh + dim
    tl.store(out_ptr, out.to(out_ptr.dtype.element_ty), mask=query_valid[:, None])


_attend = CachedKernel(_paged_attention_kernel)


def attend_paged(
    q: Tensor, k: Tensor, v: Tensor, batch: PagedBatch, lists: PagedLists, scale: float, out: Tensor
) -> None:
    """Fill the rows of ``out`` that belong to a sequence with exact attention over the listed blocks.

    Args:
        q: ``[tokens, q_heads, head_dim]``.
        k: ``[pages, page_size, kv_heads, head_dim]``.
        v: as ``k``.
        batch: of the queries and pages.
        lists: as `select_paged_blocks` returns them.
        scale: factor on the logits, positive.
        out: shaped and typed as ``q``.
    """
    _, q_heads, head_dim = q.shape
    kv_heads = k.shape[2]
    config = launch_config(head_dim, capability(q.device))
    block_m = min(config["BLOCK_M"], BLOCK_SIZE)
    tiles = batch.tile_bound
    _attend(
        triton.cdiv(tiles, ROW_GROUP) * ROW_GROUP * q_heads * (BLOCK_SIZE // block_m),
        (q, k, v, out, *lists, batch.block_table, batch.cu_seqlens_q, batch.kv_lens, *batch.tiles),
        (scale * LOG2E,),
        (
            *(tiles, batch.key_blocks, kv_heads, q_heads // kv_heads, batch.block_table.stride(0)),
            *(*q.stride()[:2], *k.stride()[:3], *v.stride()[:3], *out.stride()[:2]),
        ),
        {
            "BLOCK": BLOCK_SIZE,
            "BLOCK_M": block_m,
            "BLOCK_N": config["BLOCK_N"],
            "HEAD_DIM": head_dim,
            "STAGES": config["STAGES"],
            "ROW_GROUP": ROW_GROUP,
            "PAGE": k.shape[1],
        },
        {"num_warps": config["num_warps"]},
    )
