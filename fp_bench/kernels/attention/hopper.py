"""Block-sparse causal attention for Hopper (sm_90) in Gluon: warp-specialised, TMA in, wgmma, TMA out.

A persistent grid of one program an SM; each program holds three partitions:

- a producer warpgroup (24 registers a thread, one thread issues) takes the next row of tiles from a device counter,
  announces it through a mailbox, and issues the TMA loads: Q of that row, then K and V of every listed block, two
  stages ahead;
- two consumer warpgroups (240 registers) own 64 of the 128 rows of Q each: S = Q K^T (64 x 128, float32, 64 registers),
  online softmax in base 2, O += P V (64 x head_dim, float32, 64 registers at 128) with P kept in registers as the A
  operand.

In the steady loop a consumer issues S of tile i and then O += P V of tile i-1. It waits for S only, and runs the
softmax of tile i while the PV product is computed. Meanwhile the tensor cores also work on the products of the other
consumer. The last listed block comes first, because only it may need the causal mask: the loop then needs no mask and
starts with a good running maximum. A row of tiles is a query block of one head or, if packed, the same positions of
all heads of a KV head; TMA loads either as one box. With mean correction, the means of past blocks follow as if they
were keys, 128 at a time. A bit of `means_triton.kept_bits` hides the mean of each listed block. With skip-softmax
(hopper_skipping.py), a consumer tests each tile, and the producer loads V of a tile after K of the next one.

Shared memory at head_dim 128 is 192 KB of 227: 64 KB for two buffers of Q, 2 x 32 KB for K, 2 x 32 KB for V. At
head_dim 256 a tile has 64 keys, half a block, and Q has one buffer of 64 KB: 192 KB too, and O takes 128 registers. At
64 everything is half. One program runs on each SM. With two buffers of Q, the next row is loaded while this one is
computed. O leaves by TMA through the Q buffer of its own row. TMA clips rows past the end, and the kernel waits for
the store only during the next row's first product. TMA cannot clip the partial first row of a chunk, because it takes
no negative coordinates; that row is stored through pointers.

Packed rows of 3, 5, 6 or 7 heads begin and end inside a position, which no box does: there each consumer loads its Q
and stores its O through pointers (hopper_flat.py). No place of a tile is empty in any group.

The longest rows start first: up to 8K tokens of all heads, from there on in groups of 32 neighbouring query blocks, one
KV head after another (see attention/triton.py). A device counter hands out the rows. It costs one atomic a row, keeps
all SMs busy when heads differ in density, and resets itself when the last program has drawn its last number.

Lower bound of the time: a listed block is 8.4 MFLOP at head_dim 128, which takes 1.40 us on one SM at 790 TFLOP/s (one
H200). A launch has 168 registers a thread and spills none.
"""

import functools
import math
from typing import Any

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma, warpgroup_mma_wait

from fp_bench.kernels.attention.hopper_flat import load_places, store_places
from fp_bench.kernels.attention.hopper_parts import (
    BLOCK,
    CONSUMERS,
    barriers,
    boxed,
    close_row,
    counter,
    disagreement,
    dismiss,
    hidden_means,
    hide_future,
    issue,
    launch_config,
    load_when_empty,
    locate,
    mean_tiles,
    open_row,
    read_mail,
    row_group_size,
    rows_boxed,
    settle,
    softmax,
    unfit,
)
from fp_bench.kernels.attention.hopper_skipping import ballots, load_if_needed, pass_over, step_or_skip
from fp_bench.kernels.backend import multiprocessors
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.gluon import tma_load, tma_store
from fp_bench.kernels.launch import CachedKernel
from fp_bench.kernels.layout import LOG2E, empty_outputs
from fp_bench.kernels.pooling.means import BlockMeans
from fp_bench.kernels.pooling.means_triton import kept_bits

SIZES = ("tiles", "q_len", "rows", "first", "offset", "width", "words", "batch_lists", "lists", "group", "row_group",
         "q_batch_eights", "q_eights", "q_head_eights")  # fmt: skip
"""Arguments that change from call to call and gain nothing from a form of their own: one compiled form takes all."""


@gluon.jit
def _produce(
    q_desc, k_desc, v_desc, mean_k_desc, mean_v_desc, blocks_ptr, counts_ptr, counter_ptr,
    tiles, rows, first, offset, width, batch_lists, lists, group, row_group,
    q_smem, k_smem, v_smem, votes, mailbox, q_full, q_empty, k_full, k_empty, v_full, v_empty,
    STAGES: gl.constexpr, CONSUMERS: gl.constexpr, Q_BUFFERS: gl.constexpr, BLOCK: gl.constexpr, TILE: gl.constexpr,
    PACKED: gl.constexpr, MEANS: gl.constexpr, SKIP: gl.constexpr,
):  # fmt: skip
    MAIL: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    BLOCK_M: gl.constexpr = BLOCK // CONSUMERS
    FLAT: gl.constexpr = BLOCK % PACKED != 0
    TILES: gl.constexpr = BLOCK // TILE
    step = 0
    turn = 0
    tile = gl.atomic_add(counter_ptr, 1)
    while tile < tiles:
        row, batch_list = locate(tile, rows, batch_lists, group, row_group)
        if row >= 0:
            batch = batch_list // lists
            kv_head = batch_list % lists // group
            list_row = batch_list.to(gl.int64) * rows + row
            count = gl.load(counts_ptr + list_row)
            list_ptr = blocks_ptr + list_row * width
            last = gl.load(list_ptr + gl.maximum(count - 1, 0), mask=count > 0, other=0).to(gl.int32)
            slot = turn % Q_BUFFERS
            for part in gl.static_range(CONSUMERS):
                mbarrier.wait(q_empty.index(slot * CONSUMERS + part), (turn // Q_BUFFERS & 1) ^ 1)
            mailbox.index(slot).store(gl.full([1], tile, gl.int32, MAIL))
            for part in gl.static_range(CONSUMERS):
                barrier = q_full.index(slot * CONSUMERS + part)
                if FLAT:  # the row alone: each consumer loads its Q
                    mbarrier.arrive(barrier, count=1)
                else:
                    mbarrier.expect(barrier, q_desc.block_type.nbytes)
                    # TMA takes no negative coordinate: a first row that begins before the call is read from query 0 on.
                    start = gl.maximum(((first + row) * BLOCK + part * BLOCK_M) // PACKED - offset, 0)
                    q_part = q_smem.index(slot * CONSUMERS + part)
                    tma_load(q_desc, [batch, start, batch_list % lists * PACKED, 0], barrier, q_part)
            block = last
            start_before = 0
            for i in range(gl.maximum(count, 1)):
                following = gl.load(list_ptr + i, mask=i < count - 1, other=0).to(gl.int32)
                for part in gl.static_range(BLOCK // TILE):
                    start = block * BLOCK + part * TILE
                    load_when_empty(k_desc, batch, start, kv_head, step, k_smem, k_full, k_empty, STAGES)
                    if SKIP:
                        if i + part > 0:
                            load_if_needed(v_desc, batch, start_before, kv_head, step - 1, i * TILES + part - 1,
                                           v_smem, votes, k_empty, v_full, v_empty, STAGES, CONSUMERS)  # fmt: skip
                        start_before = start
                    else:
                        load_when_empty(v_desc, batch, start, kv_head, step, v_smem, v_full, v_empty, STAGES)
                    step += 1
                block = following
            if SKIP:
                load_if_needed(v_desc, batch, start_before, kv_head, step - 1, gl.maximum(count, 1) * TILES - 1,
                               v_smem, votes, k_empty, v_full, v_empty, STAGES, CONSUMERS)  # fmt: skip
            if MEANS:
                for i in range(mean_tiles(row, first, PACKED, TILE)):
                    load_when_empty(mean_k_desc, batch, i * TILE, kv_head, step, k_smem, k_full, k_empty, STAGES)
                    load_when_empty(mean_v_desc, batch, i * TILE, kv_head, step, v_smem, v_full, v_empty, STAGES)
                    step += 1
            turn += 1
        tile = gl.atomic_add(counter_ptr, 1)
    dismiss(tile, tiles, counter_ptr, turn, mailbox, q_full, q_empty, Q_BUFFERS, CONSUMERS)


@gluon.jit
def _consume(
    out_desc, q_ptr, out_ptr, lse_ptr, blocks_ptr, counts_ptr, bits_ptr, skipped_ptr, scale_log2, log2_skip,
    q_len, rows, first, offset, width, words, batch_lists, lists, group, row_group,
    q_batch_eights, q_eights, q_head_eights,
    q_smem, k_smem, v_smem, votes, mailbox, q_full, q_empty, k_full, k_empty, v_full, v_empty,
    STAGES: gl.constexpr, CONSUMERS: gl.constexpr, Q_BUFFERS: gl.constexpr, BLOCK: gl.constexpr, TILE: gl.constexpr,
    HEAD_DIM: gl.constexpr, PACKED: gl.constexpr, MEANS: gl.constexpr, SKIP: gl.constexpr, PART: gl.constexpr,
):  # fmt: skip
    dtype: gl.constexpr = out_desc.dtype
    V_STAGES: gl.constexpr = v_smem.shape[0]
    BLOCK_M: gl.constexpr = BLOCK // CONSUMERS
    FLAT: gl.constexpr = BLOCK % PACKED != 0
    TILES: gl.constexpr = BLOCK // TILE
    LOG2_BLOCK: gl.constexpr = 7  # a pruned block counts BLOCK times with its means
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
    tile = read_mail(mailbox, 0, MAIL)
    while tile >= 0:
        row, batch_list = locate(tile, rows, batch_lists, group, row_group)
        list_row = batch_list.to(gl.int64) * rows + row
        count = gl.load(counts_ptr + list_row)
        last = gl.load(blocks_ptr + list_row * width + gl.maximum(count - 1, 0), mask=count > 0, other=0)
        slot = turn % Q_BUFFERS
        q_part = q_smem.index(slot * CONSUMERS + PART)
        q = q_part.reshape([BLOCK_M, HEAD_DIM])
        acc = gl.full([BLOCK_M, HEAD_DIM], 0.0, gl.float32, O_LAYOUT)
        highest = gl.full([BLOCK_M], -1.0e30, gl.float32, ROW)
        denominator = gl.full([BLOCK_M], 0.0, gl.float32, ROW)
        # A box that would begin before the call begins with it; places past it are not of this part.
        place = (first + row) * BLOCK + PART * BLOCK_M
        begin, end = offset * PACKED, gl.minimum(place + BLOCK_M, (offset + q_len) * PACKED)
        places = (place if FLAT else gl.maximum(place, begin)) + in_part
        position = places // PACKED
        mine = places < end
        head = batch_list % lists * PACKED
        if FLAT:
            mine &= places >= begin
            at_q = (batch_list // lists).to(gl.int64) * q_batch_eights + head.to(gl.int64) * q_head_eights
            load_places(q_ptr + at_q * 8, q, place, begin, begin + q_len * PACKED, q_eights, q_head_eights, PACKED)

        # The first tile of the last listed block, masked.
        logits = open_row(q, zero, step, k_smem, k_full, STAGES, TILE, HEAD_DIM)
        if Q_BUFFERS == 2 and not FLAT:
            # The previous row's output has left while this product runs: its Q buffer is free.
            tma.store_wait(0)
            mbarrier.arrive(q_empty.index((1 - slot) * CONSUMERS + PART), count=1, pred=turn > 0)
        logits = warpgroup_mma_wait(0, deps=[logits])
        mbarrier.arrive(k_empty.index(step % STAGES), count=1)
        key = last.to(gl.int32) * BLOCK + in_tile
        logits = gl.where(position[:, None] >= key[None, :], logits, -1.0e30)
        weights, _, highest, denominator = softmax(logits, highest, denominator, scale_log2)
        weights = gl.convert_layout(weights.to(dtype), P_LAYOUT)
        step += 1

        pending = 1  # whether the tile before is needed
        needed = 1
        for i in range(1, gl.maximum(count, 1) * TILES):
            if SKIP:
                acc, weights, highest, denominator, pending = step_or_skip(
                    q, weights, acc, pending, zero, highest, denominator, mine,
                    position, key, i, scale_log2, log2_skip, step,
                    k_smem, v_smem, votes, k_full, k_empty, v_full, v_empty, STAGES, CONSUMERS, TILE, TILES, HEAD_DIM,
                    PART, P_LAYOUT, ROW_O, dtype,
                )  # fmt: skip
                needed += pending
            else:
                logits, next_acc = issue(
                    q, weights, acc, zero, step, k_smem, v_smem, k_full, k_empty, v_full, STAGES, TILE, HEAD_DIM
                )
                logits = hide_future(logits, position, key, i, TILE, TILES)
                acc, weights, highest, denominator = settle(
                    logits, next_acc, highest, denominator, scale_log2, step, v_empty, STAGES, P_LAYOUT, ROW_O, dtype
                )
            step += 1

        if MEANS:
            bits_row = bits_ptr + list_row * words
            past = (first + row) // PACKED
            for i in range(mean_tiles(row, first, PACKED, TILE)):
                hidden = hidden_means(bits_row, i, past, in_tile, TILE)
                logits, next_acc = issue(
                    q, weights, acc, zero, step, k_smem, v_smem, k_full, k_empty, v_full, STAGES, TILE, HEAD_DIM
                )
                logits = gl.where(hidden[None, :], -1.0e30, logits)
                acc, weights, highest, denominator = settle(
                    logits, next_acc, highest, denominator, scale_log2, step, v_empty, STAGES, P_LAYOUT, ROW_O, dtype,
                    LOG2_BLOCK,
                )  # fmt: skip
                step += 1

        if pending != 0:
            acc = close_row(weights, acc, step, v_smem, v_full, v_empty, V_STAGES, TILE, HEAD_DIM)
        else:
            pass_over(step, v_full, v_empty, V_STAGES)
        if SKIP:
            skipped = gl.where((count > 0) & (gl.maximum(place, begin) < end), count * TILES - needed, 0)
            gl.store(skipped_ptr + list_row * CONSUMERS + PART, skipped)

        # An empty list has read block 0 for nothing: its output is 0.
        share = gl.where(count > 0, 1.0 / denominator, 0.0)
        out = (acc * gl.convert_layout(share, ROW_O)[:, None]).to(dtype)
        token = batch_list.to(gl.int64) // lists * q_len
        if FLAT:
            out_list = out_ptr + (token * (lists * PACKED) + head) * HEAD_DIM
            freed = q_empty.index(slot * CONSUMERS + PART)
            store_places(out, q, freed, out_list, place, begin, end, lists * PACKED * HEAD_DIM, PACKED)
        elif place >= begin:
            q.store(out)
            fence_async_shared()
            tma_store(out_desc, [batch_list // lists, place // PACKED - offset, head, 0], q_part)
        else:  # some of these rows are the next part's to write
            places_o = begin + gl.arange(0, BLOCK_M, layout=ROW_O)
            at = (token + places_o // PACKED - offset) * (lists * PACKED) + head + places_o % PACKED
            dim = gl.arange(0, HEAD_DIM, layout=gl.SliceLayout(0, O_LAYOUT))
            mask = (places_o < end)[:, None] & (dim < HEAD_DIM)[None, :]
            gl.store(out_ptr + at[:, None] * HEAD_DIM + dim[None, :], out, mask=mask)
        lse = gl.where(count > 0, (highest + gl.log2(denominator)) / 1.4426950408889634, float("-inf"))
        batch_head = batch_list.to(gl.int64) * PACKED + places % PACKED
        gl.store(lse_ptr + batch_head * q_len + (position - offset), lse, mask=mine)
        if Q_BUFFERS == 1 and not FLAT:
            tma.store_wait(0)
            mbarrier.arrive(q_empty.index(PART), count=1)
        turn += 1
        slot = turn % Q_BUFFERS
        mbarrier.wait(q_full.index(slot * CONSUMERS + PART), turn // Q_BUFFERS & 1)
        tile = read_mail(mailbox, slot, MAIL)
    tma.store_wait(0)


@gluon.jit(do_not_specialize=SIZES)
def _block_sparse_hopper_kernel(
    q_desc, k_desc, v_desc, out_desc, mean_k_desc, mean_v_desc, q_ptr, out_ptr, lse_ptr, blocks_ptr, counts_ptr,
    bits_ptr, skipped_ptr, counter_ptr, scale_log2, log2_skip,
    tiles, q_len, rows, first, offset, width, words, batch_lists, lists, group, row_group,
    q_batch_eights, q_eights, q_head_eights,
    BLOCK: gl.constexpr, HEAD_DIM: gl.constexpr, TILE: gl.constexpr, STAGES: gl.constexpr, Q_BUFFERS: gl.constexpr,
    CONSUMERS: gl.constexpr, PACKED: gl.constexpr, MEANS: gl.constexpr, SKIP: gl.constexpr,
):  # fmt: skip
    dtype: gl.constexpr = q_desc.dtype
    FLAT: gl.constexpr = BLOCK % PACKED != 0
    BOXED: gl.constexpr = 1 if FLAT else PACKED  # heads of a box
    V_STAGES: gl.constexpr = 3 if SKIP and STAGES == 2 else STAGES
    q_smem = gl.allocate_shared_memory(
        dtype, [Q_BUFFERS * CONSUMERS, 1, BLOCK // CONSUMERS // BOXED, BOXED, HEAD_DIM], q_desc.layout
    )
    k_smem = gl.allocate_shared_memory(dtype, [STAGES, 1, TILE, 1, HEAD_DIM], k_desc.layout)
    v_smem = gl.allocate_shared_memory(dtype, [V_STAGES, 1, TILE, 1, HEAD_DIM], v_desc.layout)
    mailbox = gl.allocate_shared_memory(gl.int32, [Q_BUFFERS, 1], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    q_full, q_empty = barriers(Q_BUFFERS * CONSUMERS, 1)
    k_full, k_empty = barriers(STAGES, CONSUMERS)
    v_full, v_empty = barriers(V_STAGES, CONSUMERS)
    votes = ballots(SKIP, V_STAGES * CONSUMERS, BLOCK // CONSUMERS)
    # Spelled out: constexprs keep their type only inside the call.
    gl.warp_specialize([
        (_consume, (
            out_desc, q_ptr, out_ptr, lse_ptr, blocks_ptr, counts_ptr, bits_ptr, skipped_ptr, scale_log2, log2_skip,
            q_len, rows, first, offset, width, words, batch_lists, lists, group, row_group,
            q_batch_eights, q_eights, q_head_eights,
            q_smem, k_smem, v_smem, votes, mailbox, q_full, q_empty, k_full, k_empty, v_full, v_empty,
            STAGES, CONSUMERS, Q_BUFFERS, BLOCK, TILE, HEAD_DIM, PACKED, MEANS, SKIP, 0,
        )),
        (_consume, (
            out_desc, q_ptr, out_ptr, lse_ptr, blocks_ptr, counts_ptr, bits_ptr, skipped_ptr, scale_log2, log2_skip,
            q_len, rows, first, offset, width, words, batch_lists, lists, group, row_group,
            q_batch_eights, q_eights, q_head_eights,
            q_smem, k_smem, v_smem, votes, mailbox, q_full, q_empty, k_full, k_empty, v_full, v_empty,
            STAGES, CONSUMERS, Q_BUFFERS, BLOCK, TILE, HEAD_DIM, PACKED, MEANS, SKIP, 1,
        )),
        (_produce, (
            q_desc, k_desc, v_desc, mean_k_desc, mean_v_desc, blocks_ptr, counts_ptr, counter_ptr,
            tiles, rows, first, offset, width, batch_lists, lists, group, row_group,
            q_smem, k_smem, v_smem, votes, mailbox, q_full, q_empty, k_full, k_empty, v_full, v_empty,
            STAGES, CONSUMERS, Q_BUFFERS, BLOCK, TILE, PACKED, MEANS, SKIP,
        )),
    ], [4, 4], [240, 24])  # fmt: skip


ATTEND = CachedKernel(_block_sparse_hopper_kernel)


def missing(q: Tensor, k: Tensor, v: Tensor, block_size: int, packed: int, skipping: bool = False) -> str | None:
    """Return why this kernel cannot compute a call (the tensors are on a GPU), or None."""
    if block_size != BLOCK:
        return f"blocks of {block_size}: it takes {BLOCK}"
    if packed > BLOCK // CONSUMERS:
        return f"{packed} heads share a list: it takes up to {BLOCK // CONSUMERS}, a position for each consumer"
    return unfit(q, k=k, v=v) or _self_test(q.device, q.shape[3], skipping)


@functools.cache
def _self_test(device: torch.device, head_dim: int, skipping: bool) -> str | None:
    """Compare with the definition once a process on a small call; return what went wrong, or None."""
    from fp_bench.kernels.attention import reference

    draw = torch.Generator(device).manual_seed(0)  # the user's own random numbers stay as they are
    q, k, v = torch.randn((3, 1, 300, 2, head_dim), generator=draw, device=device, dtype=torch.bfloat16)
    index = BlockIndex.from_mask(torch.ones((1, 2, 3, 3), dtype=torch.bool, device=device), 300, 300)
    if skipping:  # the first block, whose weights are below exp(-8) for the others
        q[..., 0], k[:, :BLOCK, :, 0] = 8.0, -20.0

    def ours() -> Tensor:
        if skipping:
            return skipping_attention_hopper(q, k, v, index, 0.1, 1e-3)[0]
        return block_sparse_attention_hopper(q, k, v, index, 0.1)[0]

    return disagreement(
        ours,
        lambda: reference.attention(q, k, v, scale=0.1, index=index).out,
        other="the definition",
    )


def block_sparse_attention_hopper(
    q: Tensor, k: Tensor, v: Tensor, index: BlockIndex, scale: float, means: BlockMeans | None = None
) -> tuple[Tensor, Tensor]:
    """Return ``(out, lse)`` as `attention.block_sparse_attention` does."""
    out, lse = empty_outputs(q)
    ATTEND(*attend_arguments(q, k, v, out, lse, index, counter(q.device), scale, means))
    return out, lse


def skipping_attention_hopper(
    q: Tensor, k: Tensor, v: Tensor, index: BlockIndex, scale: float, skip: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``(out, lse, skipped)`` as `skipping.skipping_attention` does."""
    out, lse = empty_outputs(q)
    skipped = torch.empty((*index.counts.shape, CONSUMERS), dtype=torch.int32, device=q.device)
    ATTEND(*attend_arguments(q, k, v, out, lse, index, counter(q.device), scale, None, skip, skipped))
    return out, lse, skipped


def attend_arguments(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, index: BlockIndex, tiles_drawn: Tensor, scale: float,
    means: BlockMeans | None = None, skip: float | None = None, skipped: Tensor | None = None,
) -> tuple[Any, ...]:  # fmt: skip
    """Return what `ATTEND` takes; ``tiles_drawn`` is the stream's `counter`, ``skipped`` what it writes if it skips."""
    grid = index.grid
    batch, q_len, q_heads, head_dim = q.shape
    config = launch_config(head_dim)
    lists = q_heads // grid.packed
    row_group = row_group_size(-(-grid.rows // grid.packed)) * grid.packed
    tiles = -(-grid.rows // row_group) * row_group * batch * lists
    # Nothing reads the stand-ins.
    mean_k, mean_v, bits = (k, v, index.counts) if means is None else (*means, kept_bits(index))
    return (
        multiprocessors(q.device),
        (
            *(rows_boxed(q, grid), boxed(k, config["TILE"]), boxed(v, config["TILE"])),
            *(rows_boxed(out, grid), boxed(mean_k, config["TILE"]), boxed(mean_v, config["TILE"])),
            *(q, out, lse, index.blocks, index.counts, bits, index.counts if skipped is None else skipped, tiles_drawn),
        ),
        (scale * LOG2E, 0.0 if skip is None else math.log2(skip)),
        (
            *(tiles, q_len, grid.rows, grid.first, grid.offset, index.blocks.shape[-1], bits.shape[-1]),
            *(batch * lists, lists, lists // k.shape[2], row_group),
            # In eights, so that the compiler knows 16 bytes to be aligned, which `unfit` has seen to.
            *(stride // 8 for stride in q.stride()[:3]),
        ),
        {
            "BLOCK": BLOCK,
            "HEAD_DIM": head_dim,
            **config,
            "CONSUMERS": CONSUMERS,
            "PACKED": grid.packed,
            "MEANS": means is not None,
            "SKIP": skip is not None,
        },
        {"num_warps": 4},
    )
