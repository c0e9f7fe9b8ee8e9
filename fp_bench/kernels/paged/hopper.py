"""Block-sparse causal attention from pages for Hopper in Gluon: attention/hopper.py with three more look-ups.

Partitions, tiles, stages, shared memory (192 KB at head_dim 128) and the consumers' loop are those of the unpaged
kernel. What differs:

- The producer asks of which sequence a tile is and where its pages are, and skips tiles that are there for the bound
  only. All that consumers need to know of a tile goes through the mailbox, so that they wait for no look-up: the
  producer makes them a tile ahead.
- A stage of K or V is filled by boxes of one page each, or of a part of one: min(page, tile) keys. They land in slices
  of the stage, which a row of 16 keys or more keeps on the swizzle's period of 8 rows; one barrier counts the bytes of
  all. A list is read two blocks ahead and the block table one, so that neither is waited for in front of a load. Of
  the boxes of a block only the first's page is kept: the others lie beside it in the block table, in L1 by then.
- Keys past a sequence's end, in the last block that it has, are what the page's former owner left there, or page 0.
  K's are hidden by the causal mask; V's rows are zeroed in shared memory, since 0 times NaN is NaN. Each consumer does
  it for its own product: both write the same bytes, so neither waits for the other. Only a sequence's last rows do it.
  At head_dim 256 a block is two tiles, and the last block's second one comes before the loop too: inside of it the
  mask's operands would be on the stack.
- Q and O are packed: the rows after a sequence's last are the next one's. They are loaded and computed for nothing; a
  half tile with such rows is stored through pointers under a mask, any other leaves by TMA.

It is fast for the reasons of the unpaged kernel, because the loop of products is the same; boxes of a page of 64
tokens or more are as long as TMA needs. At launch a thread has 168 registers, then 240 in a consumer and 24 in the
producer.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma, warpgroup_mma_wait

from fp_bench.kernels.attention.hopper_parts import (
    BLOCK,
    CONSUMERS,
    barriers,
    boxed,
    close_row,
    counter,
    disagreement,
    dismiss,
    issue,
    launch_config,
    locate,
    open_row,
    read_mail,
    row_group_size,
    settle,
    softmax,
    unfit,
)
from fp_bench.kernels.backend import multiprocessors
from fp_bench.kernels.gluon import tma_load, tma_store
from fp_bench.kernels.launch import CachedKernel
from fp_bench.kernels.layout import LOG2E
from fp_bench.kernels.paged.batch import PagedBatch
from fp_bench.kernels.paged.discovery_triton import PagedLists

SIZES = ("tiles", "key_blocks", "q_heads", "group", "table_width", "row_group")
"""Arguments that change from call to call and gain nothing from a form of their own: one compiled form takes all."""

MAILS = gl.constexpr(7)
"""Numbers in the mail of one tile, -1 first after the last tile: how many blocks are listed, the last of them, the
query head, the position of the tile's first row, the token of position 0 (may be negative), and the positions of the
first query and past the last key of the sequence."""


@gluon.jit
def _load_boxes(desc, page, table_ptr, start, kv_len, kv_head, barrier, stage_smem,
                TILE: gl.constexpr, BOX: gl.constexpr, PAGE: gl.constexpr):  # fmt: skip
    """Load keys ``start .. start + TILE``, of which the first lies on ``page``, into a stage of K or V."""
    mbarrier.expect(barrier, desc.block_type.nbytes * (TILE // BOX))
    for part in gl.static_range(TILE // BOX):
        key = start + part * BOX
        if part > 0:
            page = gl.load(table_ptr + key // PAGE, mask=key < kv_len, other=0)
        box = stage_smem.slice(part * BOX, BOX, 1)
        tma_load(desc, [page, key % PAGE, kv_head, 0], barrier, box)


@gluon.jit
def _produce(
    q_desc, k_desc, v_desc, blocks_ptr, counts_ptr, table_ptr, cu_ptr, lens_ptr, sequence_ptr, block_ptr, counter_ptr,
    tiles, key_blocks, q_heads, group, table_width, row_group,
    q_smem, k_smem, v_smem, mailbox, q_full, q_empty, k_full, k_empty, v_full, v_empty,
    STAGES: gl.constexpr, CONSUMERS: gl.constexpr, Q_BUFFERS: gl.constexpr, BLOCK: gl.constexpr, TILE: gl.constexpr,
    PAGE: gl.constexpr, BOX: gl.constexpr,
):  # fmt: skip
    MAIL: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    BLOCK_M: gl.constexpr = BLOCK // CONSUMERS
    items = (tiles + row_group - 1) // row_group * row_group * q_heads
    step = 0
    turn = 0
    item = gl.atomic_add(counter_ptr, 1)
    while item < items:
        row, head = locate(item, tiles, q_heads, group, row_group)
        tile = tiles - 1 - row  # the batch's tiles are the longest first already
        list_row = tile.to(gl.int64) * q_heads + head
        sequence = gl.load(sequence_ptr + tile, mask=row >= 0, other=-1)
        count = gl.load(counts_ptr + list_row, mask=row >= 0, other=0)
        if sequence >= 0:
            kv_len = gl.load(lens_ptr + sequence)
            token_0 = gl.load(cu_ptr + sequence + 1) - kv_len
            chunk = gl.load(cu_ptr + sequence) - token_0  # position of the chunk's first query
            position = gl.load(block_ptr + tile) * BLOCK
            list_ptr = blocks_ptr + list_row * key_blocks
            row_ptr = table_ptr + sequence.to(gl.int64) * table_width
            last = gl.load(list_ptr + gl.maximum(count - 1, 0), mask=count > 0, other=0).to(gl.int32)
            page = gl.load(row_ptr + last * BLOCK // PAGE)
            following = gl.load(list_ptr, mask=count > 1, other=0).to(gl.int32)

            slot = turn % Q_BUFFERS
            for part in gl.static_range(CONSUMERS):
                mbarrier.wait(q_empty.index(slot * CONSUMERS + part), (turn // Q_BUFFERS & 1) ^ 1)
            mail = (count, last, head, position, token_0, chunk, kv_len)
            for i in gl.static_range(MAILS):
                mailbox.index(slot * MAILS + i).store(gl.full([1], mail[i], gl.int32, MAIL))
            for part in gl.static_range(CONSUMERS):
                barrier = q_full.index(slot * CONSUMERS + part)
                mbarrier.expect(barrier, q_desc.block_type.nbytes)
                # TMA takes no negative coordinate: a tile that begins before its chunk is read from the chunk on.
                token = token_0 + gl.maximum(position + part * BLOCK_M, chunk)
                tma_load(q_desc, [0, token, head, 0], barrier,
                                                q_smem.index(slot * CONSUMERS + part))  # fmt: skip

            kv_head = head // group
            block = last
            for i in range(gl.maximum(count, 1)):
                next_page = gl.load(row_ptr + following * BLOCK // PAGE)
                after = gl.load(list_ptr + i + 1, mask=i + 2 < count, other=0).to(gl.int32)
                for part in gl.static_range(BLOCK // TILE):
                    start = block * BLOCK + part * TILE
                    if part > 0:
                        page = gl.load(row_ptr + start // PAGE, mask=start < kv_len, other=0)
                    stage = step % STAGES
                    phase = (step // STAGES & 1) ^ 1
                    mbarrier.wait(k_empty.index(stage), phase)
                    _load_boxes(k_desc, page, row_ptr, start, kv_len, kv_head, k_full.index(stage),
                                k_smem.index(stage), TILE, BOX, PAGE)  # fmt: skip
                    mbarrier.wait(v_empty.index(stage), phase)
                    _load_boxes(v_desc, page, row_ptr, start, kv_len, kv_head, v_full.index(stage),
                                v_smem.index(stage), TILE, BOX, PAGE)  # fmt: skip
                    step += 1
                block = following
                page = next_page
                following = after
            turn += 1
        item = gl.atomic_add(counter_ptr, 1)
    dismiss(item, items, counter_ptr, turn, mailbox, q_full, q_empty, Q_BUFFERS, CONSUMERS, MAILS)


@gluon.jit
def _blank(v_smem, v_full, step, valid, STAGES: gl.constexpr, TILE: gl.constexpr, HEAD_DIM: gl.constexpr):
    """Zero the rows of a tile of V from ``valid`` on, once it is there."""
    ROWS: gl.constexpr = 16
    LAYOUT: gl.constexpr = gl.BlockedLayout([1, 8], [256 // HEAD_DIM, HEAD_DIM // 8], [4, 1], [1, 0])
    if valid < TILE:
        stage = step % STAGES
        mbarrier.wait(v_full.index(stage), step // STAGES & 1)
        v = v_smem.index(stage).reshape([TILE, HEAD_DIM])
        row = gl.arange(0, ROWS, layout=gl.SliceLayout(1, LAYOUT))
        for at in gl.static_range(0, TILE, ROWS):
            if at + ROWS > valid:
                part = v.slice(at, ROWS, 0)
                part.store(gl.where((at + row < valid)[:, None], part.load(LAYOUT), 0.0))
        fence_async_shared()


@gluon.jit
def _consume(
    out_desc, out_ptr, scale_log2, stride_on, stride_oh,
    q_smem, k_smem, v_smem, mailbox, q_full, q_empty, k_full, k_empty, v_full, v_empty,
    STAGES: gl.constexpr, CONSUMERS: gl.constexpr, Q_BUFFERS: gl.constexpr, BLOCK: gl.constexpr, TILE: gl.constexpr,
    HEAD_DIM: gl.constexpr, PART: gl.constexpr,
):  # fmt: skip
    dtype: gl.constexpr = out_desc.dtype
    BLOCK_M: gl.constexpr = BLOCK // CONSUMERS
    TILES: gl.constexpr = BLOCK // TILE
    S_LAYOUT: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, TILE, 16])
    O_LAYOUT: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, HEAD_DIM, 16]
    )
    P_LAYOUT: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=O_LAYOUT, k_width=2)
    ROW: gl.constexpr = gl.SliceLayout(1, S_LAYOUT)
    ROW_O: gl.constexpr = gl.SliceLayout(1, O_LAYOUT)
    MAIL: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    zero = gl.full([BLOCK_M, TILE], 0.0, gl.float32, S_LAYOUT)
    in_tile = gl.arange(0, TILE, layout=gl.SliceLayout(0, S_LAYOUT))
    in_part = gl.arange(0, BLOCK_M, layout=ROW)
    step = 0
    turn = 0
    mbarrier.wait(q_full.index(PART), 0)
    count = read_mail(mailbox, 0, MAIL)
    while count >= 0:
        slot = turn % Q_BUFFERS
        mail = slot * MAILS
        last = read_mail(mailbox, mail + 1, MAIL)
        head = read_mail(mailbox, mail + 2, MAIL)
        first = read_mail(mailbox, mail + 3, MAIL) + PART * BLOCK_M
        token_0 = read_mail(mailbox, mail + 4, MAIL)
        start = gl.maximum(first, read_mail(mailbox, mail + 5, MAIL))
        kv_len = read_mail(mailbox, mail + 6, MAIL)
        q_part = q_smem.index(slot * CONSUMERS + PART)
        q = q_part.reshape([BLOCK_M, HEAD_DIM])
        acc = gl.full([BLOCK_M, HEAD_DIM], 0.0, gl.float32, O_LAYOUT)
        highest = gl.full([BLOCK_M], -1.0e30, gl.float32, ROW)
        denominator = gl.full([BLOCK_M], 0.0, gl.float32, ROW)
        seen = start - last * BLOCK + in_part  # the last key of that block that each query sees
        valid = kv_len - last * BLOCK  # keys of the last listed block, or more

        # The first tile of the last listed block, masked.
        logits = open_row(q, zero, step, k_smem, k_full, STAGES, TILE, HEAD_DIM)
        if Q_BUFFERS == 2:
            # The previous row's output has left while this product runs: its Q buffer is free.
            tma.store_wait(0)
            mbarrier.arrive(q_empty.index((1 - slot) * CONSUMERS + PART), count=1, pred=turn > 0)
        logits = warpgroup_mma_wait(0, deps=[logits])
        mbarrier.arrive(k_empty.index(step % STAGES), count=1)
        logits = gl.where(seen[:, None] >= in_tile[None, :], logits, -1.0e30)
        weights, _, highest, denominator = softmax(logits, highest, denominator, scale_log2)
        weights = gl.convert_layout(weights.to(dtype), P_LAYOUT)
        _blank(v_smem, v_full, step, valid, STAGES, TILE, HEAD_DIM)
        step += 1

        for i in gl.static_range(1, TILES):  # the rest of the last listed block
            logits, next_acc = issue(
                q, weights, acc, zero, step, k_smem, v_smem, k_full, k_empty, v_full, STAGES, TILE, HEAD_DIM
            )
            logits = gl.where((seen - i * TILE)[:, None] >= in_tile[None, :], logits, -1.0e30)
            acc, weights, highest, denominator = settle(
                logits, next_acc, highest, denominator, scale_log2, step, v_empty, STAGES, P_LAYOUT, ROW_O, dtype
            )
            _blank(v_smem, v_full, step, valid - i * TILE, STAGES, TILE, HEAD_DIM)
            step += 1

        for _ in range(TILES, gl.maximum(count, 1) * TILES):
            logits, next_acc = issue(
                q, weights, acc, zero, step, k_smem, v_smem, k_full, k_empty, v_full, STAGES, TILE, HEAD_DIM
            )
            acc, weights, highest, denominator = settle(
                logits, next_acc, highest, denominator, scale_log2, step, v_empty, STAGES, P_LAYOUT, ROW_O, dtype
            )
            step += 1

        acc = close_row(weights, acc, step, v_smem, v_full, v_empty, STAGES, TILE, HEAD_DIM)

        # An empty list has read block 0 for nothing: its output is 0.
        share = gl.where(count > 0, 1.0 / denominator, 0.0)
        out = (acc * gl.convert_layout(share, ROW_O)[:, None]).to(dtype)
        if (start == first) & (start + BLOCK_M <= kv_len):
            q.store(out)
            fence_async_shared()
            tma_store(out_desc, [0, token_0 + start, head, 0], q_part)
        else:  # some of these rows are the next part's to write, or the next sequence's
            end = gl.minimum(first + BLOCK_M, kv_len)
            row = start + gl.arange(0, BLOCK_M, layout=ROW_O)
            dim = gl.arange(0, HEAD_DIM, layout=gl.SliceLayout(0, O_LAYOUT))
            at = (token_0 + row).to(gl.int64) * stride_on + head.to(gl.int64) * stride_oh
            mask = (row < end)[:, None] & (dim < HEAD_DIM)[None, :]
            gl.store(out_ptr + at[:, None] + dim[None, :], out, mask=mask)
        if Q_BUFFERS == 1:
            tma.store_wait(0)
            mbarrier.arrive(q_empty.index(PART), count=1)
        turn += 1
        slot = turn % Q_BUFFERS
        mbarrier.wait(q_full.index(slot * CONSUMERS + PART), turn // Q_BUFFERS & 1)
        count = read_mail(mailbox, slot * MAILS, MAIL)
    tma.store_wait(0)


@gluon.jit(do_not_specialize=SIZES)
def _paged_hopper_kernel(
    q_desc, k_desc, v_desc, out_desc, out_ptr, blocks_ptr, counts_ptr, table_ptr, cu_ptr, lens_ptr, sequence_ptr,
    block_ptr, counter_ptr,
    scale_log2,
    tiles, key_blocks, q_heads, group, table_width, row_group, stride_on, stride_oh,
    BLOCK: gl.constexpr, HEAD_DIM: gl.constexpr, TILE: gl.constexpr, STAGES: gl.constexpr, Q_BUFFERS: gl.constexpr,
    CONSUMERS: gl.constexpr, PAGE: gl.constexpr, BOX: gl.constexpr,
):  # fmt: skip
    dtype: gl.constexpr = q_desc.dtype
    q_smem = gl.allocate_shared_memory(
        dtype, [Q_BUFFERS * CONSUMERS, 1, BLOCK // CONSUMERS, 1, HEAD_DIM], q_desc.layout
    )
    k_smem = gl.allocate_shared_memory(dtype, [STAGES, 1, TILE, 1, HEAD_DIM], k_desc.layout)
    v_smem = gl.allocate_shared_memory(dtype, [STAGES, 1, TILE, 1, HEAD_DIM], v_desc.layout)
    mailbox = gl.allocate_shared_memory(gl.int32, [Q_BUFFERS * MAILS, 1], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    q_full, q_empty = barriers(Q_BUFFERS * CONSUMERS, 1)
    k_full, k_empty = barriers(STAGES, CONSUMERS)
    v_full, v_empty = barriers(STAGES, CONSUMERS)
    # Spelled out: constexprs keep their type only inside the call.
    gl.warp_specialize([
        (_consume, (
            out_desc, out_ptr, scale_log2, stride_on, stride_oh,
            q_smem, k_smem, v_smem, mailbox, q_full, q_empty, k_full, k_empty, v_full, v_empty,
            STAGES, CONSUMERS, Q_BUFFERS, BLOCK, TILE, HEAD_DIM, 0,
        )),
        (_consume, (
            out_desc, out_ptr, scale_log2, stride_on, stride_oh,
            q_smem, k_smem, v_smem, mailbox, q_full, q_empty, k_full, k_empty, v_full, v_empty,
            STAGES, CONSUMERS, Q_BUFFERS, BLOCK, TILE, HEAD_DIM, 1,
        )),
        (_produce, (
            q_desc, k_desc, v_desc, blocks_ptr, counts_ptr, table_ptr, cu_ptr, lens_ptr, sequence_ptr, block_ptr,
            counter_ptr, tiles, key_blocks, q_heads, group, table_width, row_group,
            q_smem, k_smem, v_smem, mailbox, q_full, q_empty, k_full, k_empty, v_full, v_empty,
            STAGES, CONSUMERS, Q_BUFFERS, BLOCK, TILE, PAGE, BOX,
        )),
    ], [4, 4], [240, 24])  # fmt: skip


_attend = CachedKernel(_paged_hopper_kernel)


def attend_paged(
    q: Tensor, k: Tensor, v: Tensor, batch: PagedBatch, lists: PagedLists, scale: float, out: Tensor
) -> None:
    """Fill ``out`` as `attention_triton.attend_paged` does."""
    _, q_heads, head_dim = q.shape
    page = k.shape[1]
    config = launch_config(head_dim)
    box = min(page, config["TILE"])
    part = BLOCK // CONSUMERS
    _attend(
        multiprocessors(q.device),
        (
            *(boxed(q[None], part), boxed(k, box), boxed(v, box), boxed(out[None], part)),
            *(out, *lists, batch.block_table, batch.cu_seqlens_q, batch.kv_lens, *batch.tiles, counter(q.device)),
        ),
        (scale * LOG2E,),
        (
            *(batch.tile_bound, batch.key_blocks, q_heads, q_heads // k.shape[2], batch.block_table.stride(0)),
            row_group_size(batch.tile_bound),
            *out.stride()[:2],
        ),
        {
            "BLOCK": BLOCK,
            "HEAD_DIM": head_dim,
            **config,
            "CONSUMERS": CONSUMERS,
            "PAGE": page,
            "BOX": box,
        },
        {"num_warps": 4},
    )


def missing(q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> str | None:
    """Return why this kernel cannot compute a call (the tensors are on a GPU), or None."""
    if not q.shape[0] or not k.shape[0]:
        return "there are no tokens or no pages, and TMA needs some"
    return unfit(q, k=k, v=v, out=out) or _self_test(q.device, q.shape[2], k.shape[1])


@functools.cache
def _self_test(device: torch.device, head_dim: int, page_size: int) -> str | None:
    """Compare with the portable kernel once a process on a small call; return what went wrong, or None."""
    from fp_bench.kernels.paged import attention_triton

    # A prompt of two blocks and a bit, and the chunk of another from the middle of a block on.
    draw = torch.Generator(device).manual_seed(0)  # the user's own random numbers stay as they are
    pages = -(-300 // page_size)
    q = torch.randn((350, 2, head_dim), generator=draw, device=device, dtype=torch.bfloat16)
    shape = (2 * pages, page_size, 2, head_dim)
    k, v = torch.randn((2, *shape), generator=draw, device=device, dtype=torch.bfloat16)
    starts, lens = (torch.tensor(values, dtype=torch.int32, device=device) for values in ([0, 270, 350], [270, 300]))
    table = torch.arange(2 * pages, dtype=torch.int32, device=device).flip(0).view(2, pages)
    batch = PagedBatch(starts, lens, table, tokens=350, max_q_len=270, max_kv_len=300)
    tiles = batch.tile_bound
    blocks = torch.arange(batch.key_blocks, device=device).to(torch.int16).expand(tiles, 2, -1).contiguous()
    lists = PagedLists(blocks, (batch.tiles.block + 1)[:, None].expand(-1, 2).contiguous())

    def by(attend: Callable[..., None]) -> Tensor:
        out = torch.zeros_like(q)
        attend(q, k, v, batch, lists, 0.1, out)
        return out

    return disagreement(lambda: by(attend_paged), lambda: by(attention_triton.attend_paged))
