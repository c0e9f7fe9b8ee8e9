"""Forms of the Hopper attention kernel whose tiles have no, or few, empty places for groups of 3, 5, 6 and 7 heads.

Candidates that `benchmarks.full_tiles` times beside attention/hopper.py, from which the design and the shared parts
come; without means, skip-softmax and head sizes above 128. Two forms:

- *boxes*: a consumer's 64 places hold ``64 // HEADS`` positions of ``HEADS`` heads, one TMA box. The compiler knows
  boxes of 64 rows alone; the tensor map that the launch passes has the real one, of up to 64, and TMA writes its rows
  one after the other. So the places past the last position of a part are empty, not those past the last head of every
  position: 63 of 64 are in use for 3 and 7 heads, 60 for 5 and 6. A row of tiles is no power of two of positions
  long, so it may lie in two key blocks, and two tiles may need the mask. With ``HEADS`` of 1, 2 or 4, fewer than the
  group has, a launch computes these heads alone (the group split into powers of two).
- *flat*: place r of a KV head is head ``r % GROUP`` of position ``r // GROUP``, and a row of tiles is 128 places. A key
  block has ``GROUP`` rows, and no row lies in two. No box has the shape of such a row. Q comes through pointers: by
  asynchronous copies of the producer, two tiles ahead (``BY_PRODUCER``), or by loads of the consumers at the start of a
  row. O goes through the Q buffer of its row and leaves through pointers.
"""

from typing import Any

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma, warpgroup_mma_wait

from fp_bench.kernels.attention.hopper_parts import (
    BLOCK,
    CONSUMERS,
    barriers,
    boxed,
    close_row,
    counter,
    dismiss,
    issue,
    launch_config,
    load_when_empty,
    locate,
    open_row,
    read_mail,
    row_group_size,
    settle,
    softmax,
)
from fp_bench.kernels.backend import multiprocessors
from fp_bench.kernels.gluon import tma_load, tma_store
from fp_bench.kernels.launch import Box, CachedKernel, current_stream, tensor_map
from fp_bench.kernels.layout import LOG2E, empty_outputs

SIZES = ("tiles", "q_len", "rows", "first", "offset", "width", "batch_lists", "lists", "row_group", "first_head")


@gluon.jit
def _copy_q(q_ptr, q_part, place, begin, end, stride_qn, stride_qh, kv_head,
            GROUP: gl.constexpr, ROWS: gl.constexpr, HEAD_DIM: gl.constexpr, AT_ONCE: gl.constexpr):  # fmt: skip
    """Start copying Q of ``ROWS`` places from ``place`` on, some at a time so that addresses take few registers."""
    COPY: gl.constexpr = gl.BlockedLayout([1, 8], [256 // HEAD_DIM, HEAD_DIM // 8], [4, 1], [1, 0])
    in_slice = gl.arange(0, AT_ONCE, layout=gl.SliceLayout(1, COPY))
    dim = gl.arange(0, HEAD_DIM, layout=gl.SliceLayout(0, COPY))
    for at in gl.static_range(0, ROWS, AT_ONCE):
        # A place outside the call reads the nearest one's query, for nothing.
        here = gl.minimum(gl.maximum(place + at + in_slice, begin), end - 1)
        at_q = (here // GROUP - begin // GROUP) * stride_qn + (kv_head * GROUP + here % GROUP) * stride_qh
        async_copy.async_copy_global_to_shared(q_part.slice(at, AT_ONCE), q_ptr + at_q[:, None] + dim[None, :])


@gluon.jit
def _produce(
    q_desc, k_desc, v_desc, q_ptr, blocks_ptr, counts_ptr, counter_ptr,
    tiles, q_len, rows, first, offset, width, batch_lists, lists, row_group, stride_qb, stride_qn, stride_qh,
    q_smem, k_smem, v_smem, mailbox, q_full, q_empty, k_full, k_empty, v_full, v_empty,
    STAGES: gl.constexpr, CONSUMERS: gl.constexpr, Q_BUFFERS: gl.constexpr, BLOCK: gl.constexpr,
    HEAD_DIM: gl.constexpr, GROUP: gl.constexpr, HEADS: gl.constexpr, FLAT: gl.constexpr, BY_PRODUCER: gl.constexpr,
):  # fmt: skip
    MAIL: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    PART: gl.constexpr = BLOCK // CONSUMERS
    POSITIONS: gl.constexpr = PART // HEADS
    step = 0
    turn = 0
    tile = gl.atomic_add(counter_ptr, 1)
    while tile < tiles:
        row, batch_list = locate(tile, rows, batch_lists, 1, row_group)
        if row >= 0:
            batch = batch_list // lists
            kv_head = batch_list % lists
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
                q_part = q_smem.index(slot * CONSUMERS + part)
                if not FLAT:
                    mbarrier.expect(barrier, POSITIONS * HEADS * HEAD_DIM * 2)
                    start = gl.maximum(((first + row) * CONSUMERS + part) * POSITIONS - offset, 0)
                    tma_load(q_desc, [batch, start, kv_head, 0, 0], barrier, q_part)
                elif BY_PRODUCER:
                    _copy_q(
                        q_ptr + batch.to(gl.int64) * stride_qb, q_part.reshape([PART, HEAD_DIM]),
                        (first + row) * BLOCK + part * PART, offset * GROUP, (offset + q_len) * GROUP,
                        stride_qn, stride_qh, kv_head, GROUP, PART, HEAD_DIM, 16,
                    )  # fmt: skip
                else:
                    mbarrier.arrive(barrier, count=1)
            block = last
            for i in range(gl.maximum(count, 1)):
                following = gl.load(list_ptr + i, mask=i < count - 1, other=0).to(gl.int32)
                load_when_empty(k_desc, batch, block * BLOCK, kv_head, step, k_smem, k_full, k_empty, STAGES)
                if FLAT and BY_PRODUCER:  # noqa: SIM102 -- decided by the compiler, the next one by the program
                    if i == 0:
                        # The wait for room for K has given the copies time. No consumer has begun this row, so K of it
                        # waits for tiles of rows before alone.
                        async_copy.wait_group(0)
                        fence_async_shared()
                        for part in gl.static_range(CONSUMERS):
                            mbarrier.arrive(q_full.index(slot * CONSUMERS + part), count=1)
                load_when_empty(v_desc, batch, block * BLOCK, kv_head, step, v_smem, v_full, v_empty, STAGES)
                step += 1
                block = following
            turn += 1
        tile = gl.atomic_add(counter_ptr, 1)
    dismiss(tile, tiles, counter_ptr, turn, mailbox, q_full, q_empty, Q_BUFFERS, CONSUMERS)


@gluon.jit
def _consume(
    out_desc, q_ptr, out_ptr, lse_ptr, blocks_ptr, counts_ptr, scale_log2,
    q_len, rows, first, offset, width, batch_lists, lists, row_group, first_head, stride_qb, stride_qn, stride_qh,
    q_smem, k_smem, v_smem, mailbox, q_full, q_empty, k_full, k_empty, v_full, v_empty,
    STAGES: gl.constexpr, CONSUMERS: gl.constexpr, Q_BUFFERS: gl.constexpr, BLOCK: gl.constexpr, TILE: gl.constexpr,
    HEAD_DIM: gl.constexpr, GROUP: gl.constexpr, HEADS: gl.constexpr, FLAT: gl.constexpr, BY_PRODUCER: gl.constexpr,
    PART: gl.constexpr,
):  # fmt: skip
    dtype: gl.constexpr = out_desc.dtype
    BLOCK_M: gl.constexpr = BLOCK // CONSUMERS
    POSITIONS: gl.constexpr = BLOCK_M // HEADS
    ROW_SIZE: gl.constexpr = POSITIONS * CONSUMERS
    CROSSING: gl.constexpr = not FLAT and BLOCK % ROW_SIZE != 0
    S_LAYOUT: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, TILE, 16])
    O_LAYOUT: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, HEAD_DIM, 16]
    )
    P_LAYOUT: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=O_LAYOUT, k_width=2)
    ROW: gl.constexpr = gl.SliceLayout(1, S_LAYOUT)
    ROW_O: gl.constexpr = gl.SliceLayout(1, O_LAYOUT)
    COPY: gl.constexpr = gl.BlockedLayout([1, 8], [256 // HEAD_DIM, HEAD_DIM // 8], [4, 1], [1, 0])
    MAIL: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    zero = gl.full([BLOCK_M, TILE], 0.0, gl.float32, S_LAYOUT)
    in_tile = gl.arange(0, TILE, layout=gl.SliceLayout(0, S_LAYOUT))
    in_part = gl.arange(0, BLOCK_M, layout=ROW)
    step = 0
    turn = 0
    mbarrier.wait(q_full.index(PART), 0)
    tile = read_mail(mailbox, 0, MAIL)
    while tile >= 0:
        row, batch_list = locate(tile, rows, batch_lists, 1, row_group)
        list_row = batch_list.to(gl.int64) * rows + row
        count = gl.load(counts_ptr + list_row)
        last = gl.load(blocks_ptr + list_row * width + gl.maximum(count - 1, 0), mask=count > 0, other=0)
        slot = turn % Q_BUFFERS
        q_part = q_smem.index(slot * CONSUMERS + PART)
        q = q_part.reshape([BLOCK_M, HEAD_DIM])
        acc = gl.full([BLOCK_M, HEAD_DIM], 0.0, gl.float32, O_LAYOUT)
        highest = gl.full([BLOCK_M], -1.0e30, gl.float32, ROW)
        denominator = gl.full([BLOCK_M], 0.0, gl.float32, ROW)
        kv_head = batch_list % lists
        place = (first + row) * BLOCK + PART * BLOCK_M  # of the flat form
        first_position = ((first + row) * CONSUMERS + PART) * POSITIONS  # of the other
        start = gl.maximum(first_position - offset, 0)
        if FLAT:
            position = (place + in_part) // GROUP
            if not BY_PRODUCER:
                in_copy = gl.arange(0, BLOCK_M, layout=gl.SliceLayout(1, COPY))
                dim_q = gl.arange(0, HEAD_DIM, layout=gl.SliceLayout(0, COPY))
                here = gl.minimum(gl.maximum(place + in_copy, offset * GROUP), (offset + q_len) * GROUP - 1)
                at_q = (here // GROUP - offset) * stride_qn + (kv_head * GROUP + here % GROUP) * stride_qh
                from_q = q_ptr + (batch_list // lists).to(gl.int64) * stride_qb
                q.store(gl.load(from_q + at_q[:, None] + dim_q[None, :]))
                fence_async_shared()
        else:
            position = offset + start + in_part // HEADS

        # The last listed block, masked.
        logits = open_row(q, zero, step, k_smem, k_full, STAGES, TILE, HEAD_DIM)
        if not FLAT:
            # The previous row's output has left while this product runs: its Q buffer is free.
            tma.store_wait(0)
            mbarrier.arrive(q_empty.index((1 - slot) * CONSUMERS + PART), count=1, pred=turn > 0)
        logits = warpgroup_mma_wait(0, deps=[logits])
        mbarrier.arrive(k_empty.index(step % STAGES), count=1)
        key = last.to(gl.int32) * BLOCK + in_tile
        # Not a large negative number: a first position may see nothing here, and 0 must remain of its weights.
        logits = gl.where(position[:, None] >= key[None, :], logits, float("-inf"))
        weights, _, highest, denominator = softmax(logits, highest, denominator, scale_log2)
        weights = gl.convert_layout(weights.to(dtype), P_LAYOUT)
        step += 1
        if CROSSING:  # the part's first position may not see all of the block listed before either
            own = first_position // BLOCK
            before = gl.load(blocks_ptr + list_row * width + gl.maximum(count - 2, 0), mask=count > 1, other=0)
            before = before.to(gl.int32)
            masked = gl.where(before >= own, 2, 1)
            key_before = before * BLOCK + in_tile

        for i in range(1, gl.maximum(count, 1)):
            logits, next_acc = issue(
                q, weights, acc, zero, step, k_smem, v_smem, k_full, k_empty, v_full, STAGES, TILE, HEAD_DIM
            )
            if CROSSING:  # noqa: SIM102 -- decided by the compiler, the next one by the program
                if i < masked:
                    logits = gl.where(position[:, None] >= key_before[None, :], logits, float("-inf"))
            acc, weights, highest, denominator = settle(
                logits, next_acc, highest, denominator, scale_log2, step, v_empty, STAGES, P_LAYOUT, ROW_O, dtype
            )
            step += 1
        acc = close_row(weights, acc, step, v_smem, v_full, v_empty, STAGES, TILE, HEAD_DIM)

        # An empty list has read block 0 for nothing, and a row of two blocks may list none that its first queries see.
        reads = (count > 0) & (highest > -1.0e20)
        share = gl.where(reads, 1.0 / denominator, 0.0)
        out = (acc * gl.convert_layout(share, ROW_O)[:, None]).to(dtype)
        token = batch_list.to(gl.int64) // lists * q_len
        lse = gl.where(reads, (highest + gl.log2(denominator)) / 1.4426950408889634, float("-inf"))
        if FLAT:
            q.store(out)
            whole = q.load(COPY)
            mbarrier.arrive(q_empty.index(slot * CONSUMERS + PART), count=1)
            in_out = place + gl.arange(0, BLOCK_M, layout=gl.SliceLayout(1, COPY))
            dim = gl.arange(0, HEAD_DIM, layout=gl.SliceLayout(0, COPY))
            at_out = (in_out // GROUP - offset) * (lists * GROUP) + kv_head * GROUP + in_out % GROUP
            mine = (in_out >= offset * GROUP) & (in_out < (offset + q_len) * GROUP)
            to_out = out_ptr + token * (lists * GROUP) * HEAD_DIM
            gl.store(to_out + (at_out * HEAD_DIM)[:, None] + dim[None, :], whole, mask=mine[:, None])
            head = kv_head * GROUP + (place + in_part) % GROUP
            mine_lse = (place + in_part >= offset * GROUP) & (place + in_part < (offset + q_len) * GROUP)
        else:
            end = gl.minimum(first_position + POSITIONS, offset + q_len)
            if first_position >= offset:
                q.store(out)
                fence_async_shared()
                tma_store(out_desc, [batch_list // lists, start, kv_head, 0, 0], q_part)
            else:  # some of these rows are the next part's to write
                in_part_o = gl.arange(0, BLOCK_M, layout=ROW_O)
                query_o = start + in_part_o // HEADS
                mine = (query_o + offset < end) & (in_part_o < POSITIONS * HEADS)
                at_out = (token + query_o) * (lists * GROUP) + kv_head * GROUP + first_head + in_part_o % HEADS
                dim = gl.arange(0, HEAD_DIM, layout=gl.SliceLayout(0, O_LAYOUT))
                gl.store(out_ptr + at_out[:, None] * HEAD_DIM + dim[None, :], out, mask=mine[:, None])
            head = kv_head * GROUP + first_head + in_part % HEADS
            mine_lse = (position < end) & (in_part < POSITIONS * HEADS)
        batch_head = batch_list.to(gl.int64) // lists * (lists * GROUP) + head
        gl.store(lse_ptr + batch_head * q_len + (position - offset), lse, mask=mine_lse)
        turn += 1
        slot = turn % Q_BUFFERS
        mbarrier.wait(q_full.index(slot * CONSUMERS + PART), turn // Q_BUFFERS & 1)
        tile = read_mail(mailbox, slot, MAIL)
    tma.store_wait(0)


@gluon.jit(do_not_specialize=SIZES)
def _full_tiles_kernel(
    q_desc, k_desc, v_desc, out_desc, q_ptr, out_ptr, lse_ptr, blocks_ptr, counts_ptr, counter_ptr, scale_log2,
    tiles, q_len, rows, first, offset, width, batch_lists, lists, row_group, first_head,
    stride_qb, stride_qn, stride_qh,
    BLOCK: gl.constexpr, HEAD_DIM: gl.constexpr, TILE: gl.constexpr, STAGES: gl.constexpr, Q_BUFFERS: gl.constexpr,
    CONSUMERS: gl.constexpr, GROUP: gl.constexpr, HEADS: gl.constexpr, FLAT: gl.constexpr, BY_PRODUCER: gl.constexpr,
):  # fmt: skip
    dtype: gl.constexpr = q_desc.dtype
    q_smem = gl.allocate_shared_memory(
        dtype, [Q_BUFFERS * CONSUMERS, 1, BLOCK // CONSUMERS, 1, 1, HEAD_DIM], q_desc.layout
    )
    k_smem = gl.allocate_shared_memory(dtype, [STAGES, 1, TILE, 1, HEAD_DIM], k_desc.layout)
    v_smem = gl.allocate_shared_memory(dtype, [STAGES, 1, TILE, 1, HEAD_DIM], v_desc.layout)
    mailbox = gl.allocate_shared_memory(gl.int32, [Q_BUFFERS, 1], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    q_full, q_empty = barriers(Q_BUFFERS * CONSUMERS, 1)
    k_full, k_empty = barriers(STAGES, CONSUMERS)
    v_full, v_empty = barriers(STAGES, CONSUMERS)
    PRODUCER_REGISTERS: gl.constexpr = 40 if FLAT and BY_PRODUCER else 24
    CONSUMER_REGISTERS: gl.constexpr = 232 if FLAT and BY_PRODUCER else 240
    # Spelled out: constexprs keep their type only inside the call.
    gl.warp_specialize([
        (_consume, (
            out_desc, q_ptr, out_ptr, lse_ptr, blocks_ptr, counts_ptr, scale_log2,
            q_len, rows, first, offset, width, batch_lists, lists, row_group, first_head,
            stride_qb, stride_qn, stride_qh,
            q_smem, k_smem, v_smem, mailbox, q_full, q_empty, k_full, k_empty, v_full, v_empty,
            STAGES, CONSUMERS, Q_BUFFERS, BLOCK, TILE, HEAD_DIM, GROUP, HEADS, FLAT, BY_PRODUCER, 0,
        )),
        (_consume, (
            out_desc, q_ptr, out_ptr, lse_ptr, blocks_ptr, counts_ptr, scale_log2,
            q_len, rows, first, offset, width, batch_lists, lists, row_group, first_head,
            stride_qb, stride_qn, stride_qh,
            q_smem, k_smem, v_smem, mailbox, q_full, q_empty, k_full, k_empty, v_full, v_empty,
            STAGES, CONSUMERS, Q_BUFFERS, BLOCK, TILE, HEAD_DIM, GROUP, HEADS, FLAT, BY_PRODUCER, 1,
        )),
        (_produce, (
            q_desc, k_desc, v_desc, q_ptr, blocks_ptr, counts_ptr, counter_ptr,
            tiles, q_len, rows, first, offset, width, batch_lists, lists, row_group, stride_qb, stride_qn, stride_qh,
            q_smem, k_smem, v_smem, mailbox, q_full, q_empty, k_full, k_empty, v_full, v_empty,
            STAGES, CONSUMERS, Q_BUFFERS, BLOCK, HEAD_DIM, GROUP, HEADS, FLAT, BY_PRODUCER,
        )),
    ], [4, 4], [CONSUMER_REGISTERS, PRODUCER_REGISTERS])  # fmt: skip


ATTEND = CachedKernel(_full_tiles_kernel)


def arguments(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, blocks: Tensor, counts: Tensor, tiles_drawn: Tensor,
    scale: float, *, flat: bool, heads: int = 1, first_head: int = 0, by_producer: bool = True,
) -> tuple[tuple[Any, ...], tuple[int, ...]]:  # fmt: skip
    """Return what `ATTEND` takes, and the real box of Q and O, but for head_dim.

    Args:
        q: ``[batch, q_len, q_heads, head_dim]``.
        k: ``[batch, kv_len, kv_heads, head_dim]``.
        v: as ``k``.
        out: contiguous, like ``q``.
        lse: ``[batch, q_heads, q_len]`` float32.
        blocks: lists ``[batch, kv_heads, rows, width]`` int16 of key blocks; see `BlockIndex`.
        counts: ``[batch, kv_heads, rows]`` int32.
        tiles_drawn: the stream's `counter`.
        scale: factor on the logits.
        flat: rows of 128 flattened places instead of boxes.
        heads: of a box.
        first_head: of each group, from which on a box form computes ``heads``.
        by_producer: whether the producer copies Q of the flat form, or the consumers.
    """
    batch, q_len, q_heads, head_dim = q.shape
    lists = k.shape[2]
    group = q_heads // lists
    offset = k.shape[1] - q_len
    positions = BLOCK // CONSUMERS // heads
    first = offset * group // BLOCK if flat else offset // (positions * CONSUMERS)
    rows = counts.shape[2]
    in_block = group if flat else -(-BLOCK // (positions * CONSUMERS))
    row_group = row_group_size(-(-rows // in_block)) * in_block
    tiles = -(-rows // row_group) * row_group * batch * lists
    config = launch_config(head_dim)

    def boxes_of(x: Tensor) -> Box:
        # The compiler's box is of 64 rows, whatever the real one holds.
        part = x.unflatten(2, (lists, group))[:, :, :, first_head : first_head + heads]
        return Box(part, (1, BLOCK // CONSUMERS, 1, 1, head_dim))

    asked = (
        multiprocessors(q.device),
        (
            *(boxes_of(q), boxed(k, config["TILE"]), boxed(v, config["TILE"]), boxes_of(out)),
            *(q, out, lse, blocks, counts, tiles_drawn),
        ),
        (scale * LOG2E,),
        (
            *(tiles, q_len, rows, first, offset, blocks.shape[-1], batch * lists, lists, row_group, first_head),
            *q.stride()[:3],
        ),
        {
            "BLOCK": BLOCK,
            "HEAD_DIM": head_dim,
            **config,
            "CONSUMERS": CONSUMERS,
            "GROUP": group,
            "HEADS": heads,
            "FLAT": flat,
            "BY_PRODUCER": by_producer,
        },
        {"num_warps": 4},
    )
    return asked, (1, positions, 1, heads)


def attend(
    q: Tensor, k: Tensor, v: Tensor, lists: list[tuple[int, Tensor, Tensor]], scale: float, *,
    flat: bool, by_producer: bool = True,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return ``(out, lse)``; ``lists`` holds heads, blocks and counts of each launch, which share out a group."""
    out, lse = empty_outputs(q)
    first_head = 0
    for heads, blocks, counts in lists:
        asked, box = arguments(
            q, k, v, out, lse, blocks, counts, counter(q.device), scale,
            flat=flat, heads=heads, first_head=first_head, by_producer=by_producer,
        )  # fmt: skip
        launch_boxed(asked, box)
        first_head += heads
    return out, lse


def launch_boxed(asked: tuple[Any, ...], box: tuple[int, ...]) -> None:
    """Launch with a real box of Q and O that the compiler does not know: what `CachedKernel` does else."""
    programs, tensors, *rest = asked
    device = tensors[0].base.device
    launch = ATTEND.prepare(device, programs, tensors, *rest)
    maps = iter(launch.maps)
    addresses: list[int | bytes] = []
    for number, tensor in enumerate(tensors):
        if not isinstance(tensor, Box):
            addresses.append(tensor.data_ptr())
            continue
        tma_map = next(maps)
        if number in (0, 3):
            tma_map = tma_map._replace(block=(*box, tma_map.block[-1]))
        base = tensor.base
        addresses.append(tensor_map(base.data_ptr(), base.shape, base.stride(), tma_map))
    launch(current_stream(device), *addresses)
