"""Block-sparse causal attention in 8 bits for Hopper (sm_90) in Gluon: warp-specialised, TMA in, wgmma, TMA out.

S = Q K^T multiplies INT8 and sums exactly in int32; O += P V multiplies e4m3. Both run at twice the rate of half
precision. The softmax amplifies errors of S; docs/kernels.md has what each rounding costs.

Partitions, order of rows, counter and mailbox are those of `attention.hopper`. head_dim is 128, a tile is a whole
block of 128 keys, and there are no packed rows and no means. The differences:

- the producer loads K as int8 ``[128 keys, 128]`` and V as e4m3 transposed, ``[128, 128 keys]``, since 8-bit wgmma
  reads both operands along their contraction, each 16 KB in one piece; with K come the 16 bytes of the block's scales,
  under one barrier;
- a consumer reads its 64 rows of Q (half precision) once into registers, scales each row by its own largest magnitude
  and keeps them there as the int8 operand (16 registers); K's scale is a factor on the logits;
- S is at most 127 * 127 * 128 < 2**22, so one integer addition of the bits of ROUNDER makes float32 of it, raised by
  ROUNDER; the softmax's FMA takes ROUNDER off again. Its rounding moves all logits of a block by about one unit of S.
  Row maxima are of integers, which one instruction takes two at a time;
- P goes from the accumulator of S to the operand of O += P V without an exchange: V's columns are in the order in which
  a thread holds P (`fp8.key_order`), and four weights are packed into a register by two conversions. P crosses the
  loop's end in float32, because Triton carries 8-bit tensors one number a register;
- O is summed in units of the last block's V scale: the factor that follows the running maximum carries the ratio of
  two blocks' scales, so V's scales cost nothing a number;
- the tensor cores keep about 14 bits of a running sum of 8-bit products, too few for hundreds of tiles: after every
  SUM_TILES tiles O is added to a float32 total (64 registers) and starts again from 0.

S of tile i is issued, then O += P V of tile i-1. The softmax of tile i runs during the products of the other consumer.
It is written to run during its own product too, but the assembler moves the wait for that product ahead of it.

Shared memory, 197 KB of 227: Q double-buffered 64 KB (O leaves through it), K 4 x 16 KB, V 4 x 16 KB. Registers 168 at
launch, 240 in consumers: S then P 64, O 64, total 64, P 16, Q 16.

Floor: a listed block is 8.4 MFLOP, twice as fast as in half precision, and 16384 exponentials, which take as long as
the products do: 1024 cycles of an SM each. Its 507 instructions a warp take 1014 issue slots of a scheduler.
"""

import functools

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from fp_bench.kernels.attention.hopper_parts import (
    BLOCK,
    CONSUMERS,
    barriers,
    boxed,
    counter,
    disagreement,
    dismiss,
    locate,
    read_mail,
    row_group_size,
)
from fp_bench.kernels.backend import multiprocessors
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.fp8.layout import HEAD_DIM, INT8_LARGEST, LOG2_WEIGHTS, ROUNDER, SMALLEST_PEAK, Fp8KV
from fp_bench.kernels.gluon import tma_load, tma_store
from fp_bench.kernels.launch import Box, CachedKernel
from fp_bench.kernels.layout import LOG2E

STAGES = 4
"""Of K and V."""
SUM_TILES = 16
"""Tiles that tensor cores sum before O is added to the float32 total."""
ALIGNED = 8
"""Boxes of scales between two stages: TMA writes to multiples of 128 bytes, and a box is 16."""

SIZES = ("tiles", "q_len", "rows", "first", "offset", "width", "batch_lists", "lists", "group", "row_group")
"""Arguments that change from call to call and gain nothing from a form of their own: one compiled form takes all."""


@gluon.jit
def _load_tile(k_desc, vt_desc, scales_desc, batch, block, kv_head, step, k_smem, vt_smem, scales_smem,
               k_full, k_empty, v_full, v_empty, STAGES: gl.constexpr, ALIGNED: gl.constexpr):  # fmt: skip
    stage = step % STAGES
    phase = (step // STAGES & 1) ^ 1
    mbarrier.wait(k_empty.index(stage), phase)
    mbarrier.expect(k_full.index(stage), k_desc.block_type.nbytes + scales_desc.block_type.nbytes)
    start = [batch, kv_head, block, 0, 0]
    tma_load(k_desc, start, k_full.index(stage), k_smem.index(stage))
    tma_load(scales_desc, [batch, kv_head, block, 0], k_full.index(stage), scales_smem.index(stage * ALIGNED))
    mbarrier.wait(v_empty.index(stage), phase)
    mbarrier.expect(v_full.index(stage), vt_desc.block_type.nbytes)
    tma_load(vt_desc, start, v_full.index(stage), vt_smem.index(stage))


@gluon.jit
def _produce(
    q_desc, k_desc, vt_desc, scales_desc, blocks_ptr, counts_ptr, counter_ptr,
    tiles, rows, first, offset, width, batch_lists, lists, group, row_group,
    q_smem, k_smem, vt_smem, scales_smem, mailbox, q_full, q_empty, k_full, k_empty, v_full, v_empty,
    STAGES: gl.constexpr, CONSUMERS: gl.constexpr, BLOCK: gl.constexpr, ALIGNED: gl.constexpr,
):  # fmt: skip
    MAIL: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
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
            slot = turn % 2
            for part in gl.static_range(CONSUMERS):
                mbarrier.wait(q_empty.index(slot * CONSUMERS + part), (turn // 2 & 1) ^ 1)
            mailbox.index(slot).store(gl.full([1], tile, gl.int32, MAIL))
            for part in gl.static_range(CONSUMERS):
                barrier = q_full.index(slot * CONSUMERS + part)
                mbarrier.expect(barrier, q_desc.block_type.nbytes)
                # TMA takes no negative coordinate: a first row that begins before the call is read from query 0 on.
                start = gl.maximum((first + row) * BLOCK + part * (BLOCK // CONSUMERS) - offset, 0)
                tma_load(q_desc, [batch, start, batch_list % lists, 0], barrier, q_smem.index(slot * CONSUMERS + part))
            block = last
            for i in range(gl.maximum(count, 1)):
                following = gl.load(list_ptr + i, mask=i < count - 1, other=0).to(gl.int32)
                _load_tile(k_desc, vt_desc, scales_desc, batch, block, kv_head, step, k_smem, vt_smem, scales_smem,
                           k_full, k_empty, v_full, v_empty, STAGES, ALIGNED)  # fmt: skip
                step += 1
                block = following
            turn += 1
        tile = gl.atomic_add(counter_ptr, 1)
    dismiss(tile, tiles, counter_ptr, turn, mailbox, q_full, q_empty, 2, CONSUMERS)


@gluon.jit
def _raised(products):
    """Return ROUNDER plus each integer below 2**22 in magnitude, in float32: one integer addition, exact."""
    return (products + 0x4B400000).to(gl.float32, bitcast=True)


@gluon.jit
def _softmax(raised, peak, factor, highest, denominator, ROUNDER: gl.constexpr, LOG2_WEIGHTS: gl.constexpr):
    """Return (weights, factor on what was summed before, running maximum, running denominator); ``peak`` is of S."""
    new_highest = gl.maximum(highest, peak * factor)
    weights = gl.exp2(raised * factor[:, None] - (factor * ROUNDER + new_highest - LOG2_WEIGHTS)[:, None])
    shrink = gl.exp2(highest - new_highest)
    return weights, shrink, new_highest, denominator * shrink + gl.sum(weights, 1)


@gluon.jit
def _as_operand(weights, P_LAYOUT: gl.constexpr, BLOCK_M: gl.constexpr, TILE: gl.constexpr):
    """Return P as an 8-bit operand of PV: each thread keeps its own weights, the keys are permuted."""
    by_bits = weights.reshape([BLOCK_M, TILE // 16, 2, 4, 2]).permute((0, 1, 3, 2, 4)).reshape([BLOCK_M, TILE])
    return _to_e4m3(gl.convert_layout(by_bits, P_LAYOUT))


@gluon.jit
def _to_e4m3(x):
    """Round four neighbours into one register: Gluon's own conversion packs them with a dozen byte permutations."""
    return gl.inline_asm_elementwise(
        """
        {
        .reg .b16 low, high;
        cvt.rn.satfinite.e4m3x2.f32 low, $2, $1;
        cvt.rn.satfinite.e4m3x2.f32 high, $4, $3;
        mov.b32 $0, {low, high};
        }
        """,
        "=r,r,r,r,r",
        [x],
        dtype=gl.float8e4nv,
        is_pure=True,
        pack=4,
    )


@gluon.jit
def _to_int8(x):
    """Round four neighbours, at most 127 in magnitude, into one register: to the nearest, ties to even."""
    return gl.inline_asm_elementwise(
        """
        {
        .reg .b32 a, b, c, d;
        add.rn.f32 a, $1, 0f4B400000;
        add.rn.f32 b, $2, 0f4B400000;
        add.rn.f32 c, $3, 0f4B400000;
        add.rn.f32 d, $4, 0f4B400000;
        prmt.b32 a, a, b, 0x0040;
        prmt.b32 c, c, d, 0x0040;
        prmt.b32 $0, a, c, 0x5410;
        }
        """,
        "=r,r,r,r,r",
        [x],
        dtype=gl.int8,
        is_pure=True,
        pack=4,
    )


@gluon.jit
def _scale_of(scales_smem, stage, which: gl.constexpr, ROW: gl.constexpr, ALIGNED: gl.constexpr):
    """Return K's scale (0), V's (1) or its inverse (2) of the block at a stage, ``[1]``."""
    return scales_smem.index(stage * ALIGNED).reshape([4]).slice(which, 1).load(ROW)


@gluon.jit
def _consume(
    out_desc, out_ptr, blocks_ptr, counts_ptr, scale_log2,
    q_len, rows, first, offset, width, batch_lists, lists, group, row_group,
    q_smem, k_smem, vt_smem, scales_smem, mailbox, q_full, q_empty, k_full, k_empty, v_full, v_empty,
    STAGES: gl.constexpr, CONSUMERS: gl.constexpr, BLOCK: gl.constexpr, HEAD_DIM: gl.constexpr,
    ALIGNED: gl.constexpr, SUM_TILES: gl.constexpr,
    INT8_LARGEST: gl.constexpr, SMALLEST_PEAK: gl.constexpr, ROUNDER: gl.constexpr, LOG2_WEIGHTS: gl.constexpr,
    PART: gl.constexpr,
):  # fmt: skip
    dtype: gl.constexpr = out_desc.dtype
    BLOCK_M: gl.constexpr = BLOCK // CONSUMERS
    S_LAYOUT: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, BLOCK, 32]
    )
    O_LAYOUT: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, HEAD_DIM, 32]
    )
    Q_LAYOUT: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=S_LAYOUT, k_width=4)
    P_LAYOUT: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=O_LAYOUT, k_width=4)
    ROW: gl.constexpr = gl.SliceLayout(1, S_LAYOUT)
    ROW_O: gl.constexpr = gl.SliceLayout(1, O_LAYOUT)
    MAIL: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    zero = gl.full([BLOCK_M, BLOCK], 0, gl.int32, S_LAYOUT)
    in_tile = gl.arange(0, BLOCK, layout=gl.SliceLayout(0, S_LAYOUT))
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
        slot = turn % 2
        q_part = q_smem.index(slot * CONSUMERS + PART)
        q_half = q_part.reshape([BLOCK_M, HEAD_DIM]).load(Q_LAYOUT).to(gl.float32)
        q_peak = gl.maximum(gl.max(gl.abs(q_half), 1), SMALLEST_PEAK)
        q = _to_int8(q_half * gl.div_rn(INT8_LARGEST, q_peak)[:, None])
        q_factor = gl.convert_layout(q_peak, ROW) * (scale_log2 / INT8_LARGEST)
        acc = gl.full([BLOCK_M, HEAD_DIM], 0.0, gl.float32, O_LAYOUT)
        highest = gl.full([BLOCK_M], -1.0e30, gl.float32, ROW)
        denominator = gl.full([BLOCK_M], 0.0, gl.float32, ROW)
        first_position = (first + row) * BLOCK + PART * BLOCK_M
        start = gl.maximum(first_position - offset, 0)
        position = offset + start + in_part

        # The last listed block, masked.
        stage = step % STAGES
        mbarrier.wait(k_full.index(stage), step // STAGES & 1)
        k = k_smem.index(stage).reshape([BLOCK, HEAD_DIM]).permute((1, 0))
        products = warpgroup_mma(q, k, zero, use_acc=False, is_async=True)
        # The previous row's output has left while this product runs: its Q buffer is free.
        tma.store_wait(0)
        mbarrier.arrive(q_empty.index((1 - slot) * CONSUMERS + PART), count=1, pred=turn > 0)
        k_scale = _scale_of(scales_smem, stage, 0, ROW, ALIGNED)
        v_scale = _scale_of(scales_smem, stage, 1, ROW, ALIGNED)
        products = warpgroup_mma_wait(0, deps=[products])
        mbarrier.arrive(k_empty.index(stage), count=1)
        key = last.to(gl.int32) * BLOCK + in_tile
        raised = gl.where(position[:, None] >= key[None, :], _raised(products), -1.0e30)
        weights, _, highest, denominator = _softmax(
            raised, gl.max(raised, 1) - ROUNDER, q_factor * k_scale, highest, denominator, ROUNDER, LOG2_WEIGHTS
        )
        total = gl.full([BLOCK_M, HEAD_DIM], 0.0, gl.float32, O_LAYOUT)
        total_highest = highest
        total_v_scale = v_scale
        step += 1

        left = gl.maximum(count, 1) - 1
        while left > 0:
            for _i in range(gl.minimum(left, SUM_TILES)):
                stage = step % STAGES
                before = (step - 1) % STAGES
                p = _as_operand(weights, P_LAYOUT, BLOCK_M, BLOCK)
                mbarrier.wait(k_full.index(stage), step // STAGES & 1)
                k = k_smem.index(stage).reshape([BLOCK, HEAD_DIM]).permute((1, 0))
                next_products = warpgroup_mma(q, k, zero, use_acc=False, is_async=True)
                mbarrier.wait(v_full.index(before), (step - 1) // STAGES & 1)
                v = vt_smem.index(before).reshape([HEAD_DIM, BLOCK]).permute((1, 0))
                next_acc = warpgroup_mma(p, v, acc, is_async=True)
                k_scale = _scale_of(scales_smem, stage, 0, ROW, ALIGNED)
                next_v_scale = _scale_of(scales_smem, stage, 1, ROW, ALIGNED)
                per_v_scale = _scale_of(scales_smem, stage, 2, ROW, ALIGNED)
                products = warpgroup_mma_wait(1, deps=[next_products])
                mbarrier.arrive(k_empty.index(stage), count=1)
                peak = gl.max(products, 1).to(gl.float32)
                weights, shrink, highest, denominator = _softmax(
                    _raised(products), peak, q_factor * k_scale, highest, denominator, ROUNDER, LOG2_WEIGHTS
                )
                shrink = shrink * (v_scale * per_v_scale)
                v_scale = next_v_scale
                acc, weights = warpgroup_mma_wait(0, deps=[next_acc, weights])
                mbarrier.arrive(v_empty.index(before), count=1)
                acc = acc * gl.convert_layout(shrink, ROW_O)[:, None]
                step += 1
            left -= SUM_TILES
            if left > 0:
                since = gl.exp2(total_highest - highest) * total_v_scale / v_scale
                total = total * gl.convert_layout(since, ROW_O)[:, None] + acc
                acc = gl.full([BLOCK_M, HEAD_DIM], 0.0, gl.float32, O_LAYOUT)
                total_highest = highest
                total_v_scale = v_scale

        before = (step - 1) % STAGES
        mbarrier.wait(v_full.index(before), (step - 1) // STAGES & 1)
        v = vt_smem.index(before).reshape([HEAD_DIM, BLOCK]).permute((1, 0))
        p = _as_operand(weights, P_LAYOUT, BLOCK_M, BLOCK)
        acc = warpgroup_mma(p, v, acc, is_async=True)
        acc = warpgroup_mma_wait(0, deps=[acc])
        since = gl.exp2(total_highest - highest) * total_v_scale / v_scale
        acc += total * gl.convert_layout(since, ROW_O)[:, None]
        mbarrier.arrive(v_empty.index(before), count=1)

        # An empty list has read block 0 for nothing: its output is 0.
        share = gl.where(count > 0, v_scale / denominator, 0.0)
        out = (acc * gl.convert_layout(share, ROW_O)[:, None]).to(dtype)
        head = batch_list % lists
        if first_position >= offset:
            q_part.reshape([BLOCK_M, HEAD_DIM]).store(out)
            fence_async_shared()
            tma_store(out_desc, [batch_list // lists, start, head, 0], q_part)
        else:  # some of these rows are the next part's to write
            query_o = start + gl.arange(0, BLOCK_M, layout=ROW_O)
            mine = query_o + offset < first_position + BLOCK_M
            token = (batch_list.to(gl.int64) // lists * q_len + query_o) * lists + head
            dim = gl.arange(0, HEAD_DIM, layout=gl.SliceLayout(0, O_LAYOUT))
            mask = (mine & (query_o < q_len))[:, None] & (dim < HEAD_DIM)[None, :]
            gl.store(out_ptr + token[:, None] * HEAD_DIM + dim[None, :], out, mask=mask)
        turn += 1
        slot = turn % 2
        mbarrier.wait(q_full.index(slot * CONSUMERS + PART), turn // 2 & 1)
        tile = read_mail(mailbox, slot, MAIL)
    tma.store_wait(0)


@gluon.jit(do_not_specialize=SIZES)
def _block_sparse_fp8_kernel(
    q_desc, k_desc, vt_desc, scales_desc, out_desc, out_ptr, blocks_ptr, counts_ptr,
    counter_ptr, scale_log2,
    tiles, q_len, rows, first, offset, width, batch_lists, lists, group, row_group,
    BLOCK: gl.constexpr, HEAD_DIM: gl.constexpr, STAGES: gl.constexpr, CONSUMERS: gl.constexpr,
    ALIGNED: gl.constexpr, SUM_TILES: gl.constexpr,
    INT8_LARGEST: gl.constexpr, SMALLEST_PEAK: gl.constexpr, ROUNDER: gl.constexpr, LOG2_WEIGHTS: gl.constexpr,
):  # fmt: skip
    q_smem = gl.allocate_shared_memory(q_desc.dtype, [2 * CONSUMERS, 1, BLOCK // CONSUMERS, 1, HEAD_DIM], q_desc.layout)
    k_smem = gl.allocate_shared_memory(gl.int8, [STAGES, 1, 1, 1, BLOCK, HEAD_DIM], k_desc.layout)
    vt_smem = gl.allocate_shared_memory(gl.float8e4nv, [STAGES, 1, 1, 1, HEAD_DIM, BLOCK], vt_desc.layout)
    scales_smem = gl.allocate_shared_memory(gl.float32, [STAGES * ALIGNED, 1, 1, 1, 4], scales_desc.layout)
    mailbox = gl.allocate_shared_memory(gl.int32, [2, 1], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    q_full, q_empty = barriers(2 * CONSUMERS, 1)
    k_full, k_empty = barriers(STAGES, CONSUMERS)
    v_full, v_empty = barriers(STAGES, CONSUMERS)
    # Spelled out: constexprs keep their type only inside the call.
    gl.warp_specialize([
        (_consume, (
            out_desc, out_ptr, blocks_ptr, counts_ptr, scale_log2,
            q_len, rows, first, offset, width, batch_lists, lists, group, row_group,
            q_smem, k_smem, vt_smem, scales_smem, mailbox, q_full, q_empty, k_full, k_empty, v_full, v_empty,
            STAGES, CONSUMERS, BLOCK, HEAD_DIM, ALIGNED, SUM_TILES,
            INT8_LARGEST, SMALLEST_PEAK, ROUNDER, LOG2_WEIGHTS, 0,
        )),
        (_consume, (
            out_desc, out_ptr, blocks_ptr, counts_ptr, scale_log2,
            q_len, rows, first, offset, width, batch_lists, lists, group, row_group,
            q_smem, k_smem, vt_smem, scales_smem, mailbox, q_full, q_empty, k_full, k_empty, v_full, v_empty,
            STAGES, CONSUMERS, BLOCK, HEAD_DIM, ALIGNED, SUM_TILES,
            INT8_LARGEST, SMALLEST_PEAK, ROUNDER, LOG2_WEIGHTS, 1,
        )),
        (_produce, (
            q_desc, k_desc, vt_desc, scales_desc, blocks_ptr, counts_ptr, counter_ptr,
            tiles, rows, first, offset, width, batch_lists, lists, group, row_group,
            q_smem, k_smem, vt_smem, scales_smem, mailbox, q_full, q_empty, k_full, k_empty, v_full, v_empty,
            STAGES, CONSUMERS, BLOCK, ALIGNED,
        )),
    ], [4, 4], [240, 24])  # fmt: skip


def constants() -> dict[str, object]:
    """Return the kernel's compile-time arguments."""
    return {
        "BLOCK": BLOCK,
        "HEAD_DIM": HEAD_DIM,
        "STAGES": STAGES,
        "CONSUMERS": CONSUMERS,
        "ALIGNED": ALIGNED,
        "SUM_TILES": SUM_TILES,
        "INT8_LARGEST": INT8_LARGEST,
        "SMALLEST_PEAK": SMALLEST_PEAK,
        "ROUNDER": ROUNDER,
        "LOG2_WEIGHTS": LOG2_WEIGHTS,
    }


_attend = CachedKernel(_block_sparse_fp8_kernel)


@functools.cache
def self_test(device: torch.device) -> str | None:
    """Compare with the definition once a process on a small call; return what went wrong, or None."""
    from fp_bench.kernels.fp8 import reference as reference_fp8
    from fp_bench.kernels.fp8.triton import quantise_kv_triton

    draw = torch.Generator(device).manual_seed(0)  # the user's own random numbers stay as they are
    q, k, v = torch.randn((3, 1, 300, 2, HEAD_DIM), generator=draw, device=device, dtype=torch.bfloat16)
    index = BlockIndex.from_mask(torch.ones((1, 2, 3, 3), dtype=torch.bool, device=device), 300, 300)
    rounded = functools.cache(lambda: quantise_kv_triton(k, v))
    return disagreement(
        lambda: block_sparse_attention_fp8_hopper(q, rounded(), index, 0.1),
        lambda: reference_fp8.attention(q, rounded(), index, scale=0.1),
        kernel="FP8 attention",
        other="the definition",
        limit=3e-2,  # sums of fewer bits turn some roundings of P; a wrong layout is off by all
    )


def block_sparse_attention_fp8_hopper(q: Tensor, rounded: Fp8KV, index: BlockIndex, scale: float) -> Tensor:
    """Return what `fp8.block_sparse_attention_fp8` does."""
    grid = index.grid
    batch, q_len, q_heads, head_dim = q.shape
    out = torch.empty((batch, q_len, q_heads, head_dim), dtype=q.dtype, device=q.device)
    row_group = row_group_size(grid.rows)
    tiles = -(-grid.rows // row_group) * row_group * batch * q_heads
    _attend(
        multiprocessors(q.device),
        (
            boxed(q, BLOCK // CONSUMERS),
            Box(rounded.k, (1, 1, 1, BLOCK, head_dim)),
            Box(rounded.v, (1, 1, 1, head_dim, BLOCK)),
            Box(rounded.scales, (1, 1, 1, 4)),
            boxed(out, BLOCK // CONSUMERS),
            *(out, index.blocks, index.counts, counter(q.device)),
        ),
        (scale * LOG2E,),
        (
            *(tiles, q_len, grid.rows, grid.first, grid.offset, index.blocks.shape[-1]),
            *(batch * q_heads, q_heads, q_heads // rounded.k.shape[1], row_group),
        ),
        constants(),
        {"num_warps": 4},
    )
    return out
