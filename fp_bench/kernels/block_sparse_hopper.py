"""Block-sparse causal attention for Hopper (sm_90) in Gluon: warp-specialised, TMA in, wgmma, TMA out.

A persistent grid of one program an SM; each program holds three partitions:

- a producer warpgroup (24 registers a thread, one thread issues) takes the next query block from a device counter,
  announces it through a mailbox, and issues the TMA loads: Q of that block, then K and V of every listed block, two
  stages ahead;
- two consumer warpgroups (240 registers) own 64 of the 128 queries each: S = Q K^T (64 x 128, float32, 64 registers),
  online softmax in base 2, O += P V (64 x head_dim, float32, 64 registers) with P kept in registers as the A operand.

In the steady loop a consumer issues S of block i, then O += P V of block i-1, waits for S only, and runs the softmax
of block i under the PV product; the other consumer's products fill the tensor cores during the rest. The last listed
block, the only one that may need the causal mask, comes first, so the loop carries no mask and starts with a good
running maximum.

Shared memory at head_dim 128: Q double-buffered 64 KB, K 2 x 32 KB, V 2 x 32 KB: 192 KB of 227, one program an SM. Q of
the next query block is loaded while this one is computed. O goes through the Q buffer of its own block and leaves by
TMA, which clips rows past the end; the store is waited for only under the next block's first product. Only the partial
first block of a chunk, whose rows TMA cannot clip (no negative coordinates), is stored through pointers.

Query blocks are handed out longest first, 32 neighbours KV head by KV head (see block_sparse_triton.py): a counter
costs one atomic a query block, keeps heads of uneven density from starving an SM, and resets itself when the last
program has drawn its last number.

Floor: a listed block is 8.4 MFLOP, 1.40 us an SM at 790 TFLOP/s (one H200). Registers 168 at launch, no spills.
"""

import functools
import warnings

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
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from fp_bench.kernels.backend import capability, multiprocessors
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.launch import CachedKernel
from fp_bench.kernels.layout import LOG2E, empty_outputs

BLOCK = 128
CONSUMERS = 2
STAGES = 2
ROW_GROUP = 32
"""Neighbouring query blocks handed out KV head by KV head, so that one wave reads the same K and V out of L2."""


SIZES = ("tiles", "q_len", "rows", "first", "offset", "key_blocks", "batch_heads", "q_heads", "group")
"""Arguments that change from call to call and gain nothing from a form of their own: one compiled form takes all."""


@gluon.jit
def _locate(tile, rows, batch_heads, group, ROW_GROUP: gl.constexpr):
    """Return (row, batch * q_heads + head) of a tile: row groups longest first; inside by KV head, row, head."""
    per_kv_head = ROW_GROUP * group
    per_row_group = ROW_GROUP * batch_heads
    in_row_group = tile % per_row_group
    in_kv_head = in_row_group % per_kv_head
    row = rows - 1 - tile // per_row_group * ROW_GROUP - in_kv_head // group
    return row, in_row_group // per_kv_head * group + in_kv_head % group


@gluon.jit
def _produce(
    q_desc, k_desc, v_desc, blocks_ptr, counts_ptr, counter_ptr,
    tiles, rows, first, offset, key_blocks, batch_heads, q_heads, group,
    q_smem, k_smem, v_smem, mailbox, q_full, q_empty, k_full, k_empty, v_full, v_empty,
    STAGES: gl.constexpr, CONSUMERS: gl.constexpr, BLOCK_M: gl.constexpr, BLOCK: gl.constexpr, ROW_GROUP: gl.constexpr,
):  # fmt: skip
    MAIL: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    step = 0
    turn = 0
    tile = gl.atomic_add(counter_ptr, 1)
    while tile < tiles:
        row, batch_head = _locate(tile, rows, batch_heads, group, ROW_GROUP)
        if row >= 0:
            batch = batch_head // q_heads
            head = batch_head % q_heads
            list_row = batch_head.to(gl.int64) * rows + row
            count = gl.load(counts_ptr + list_row)
            list_ptr = blocks_ptr + list_row * key_blocks
            last = gl.load(list_ptr + gl.maximum(count - 1, 0), mask=count > 0, other=0).to(gl.int32)
            slot = turn % 2
            for part in gl.static_range(CONSUMERS):
                mbarrier.wait(q_empty.index(slot * CONSUMERS + part), (turn // 2 & 1) ^ 1)
            mailbox.index(slot).store(gl.full([1], tile, gl.int32, MAIL))
            for part in gl.static_range(CONSUMERS):
                barrier = q_full.index(slot * CONSUMERS + part)
                mbarrier.expect(barrier, q_desc.block_type.nbytes)
                # TMA takes no negative coordinate: a first block that begins before the call is read from query 0 on.
                start = gl.maximum((first + row) * BLOCK + part * BLOCK_M - offset, 0)
                tma.async_copy_global_to_shared(
                    q_desc, [batch, start, head, 0], barrier, q_smem.index(slot * CONSUMERS + part)
                )
            block = last
            for i in range(gl.maximum(count, 1)):
                following = gl.load(list_ptr + i, mask=i < count - 1, other=0).to(gl.int32)
                stage = step % STAGES
                phase = (step // STAGES & 1) ^ 1
                mbarrier.wait(k_empty.index(stage), phase)
                mbarrier.expect(k_full.index(stage), k_desc.block_type.nbytes)
                tma.async_copy_global_to_shared(
                    k_desc, [batch, block * BLOCK, head // group, 0], k_full.index(stage), k_smem.index(stage)
                )
                mbarrier.wait(v_empty.index(stage), phase)
                mbarrier.expect(v_full.index(stage), v_desc.block_type.nbytes)
                tma.async_copy_global_to_shared(
                    v_desc, [batch, block * BLOCK, head // group, 0], v_full.index(stage), v_smem.index(stage)
                )
                block = following
                step += 1
            turn += 1
        tile = gl.atomic_add(counter_ptr, 1)
    # The last program to run dry leaves the counter at 0 for the next launch.
    if tile == tiles + gl.num_programs(0) - 1:
        gl.store(counter_ptr, 0)
    slot = turn % 2
    for part in gl.static_range(CONSUMERS):
        mbarrier.wait(q_empty.index(slot * CONSUMERS + part), (turn // 2 & 1) ^ 1)
    mailbox.index(slot).store(gl.full([1], -1, gl.int32, MAIL))
    for part in gl.static_range(CONSUMERS):
        mbarrier.arrive(q_full.index(slot * CONSUMERS + part), count=1)


@gluon.jit
def _softmax(logits, highest, denominator, scale_log2):
    """Return (weights, factor on what was summed before, running maximum, running denominator)."""
    new_highest = gl.maximum(highest, gl.max(logits, 1) * scale_log2)
    weights = gl.exp2(logits * scale_log2 - new_highest[:, None])
    shrink = gl.exp2(highest - new_highest)
    return weights, shrink, new_highest, denominator * shrink + gl.sum(weights, 1)


@gluon.jit
def _next_tile(mailbox, slot, MAIL: gl.constexpr):
    return gl.max(mailbox.index(slot).load(MAIL), 0)


@gluon.jit
def _consume(
    out_desc, out_ptr, lse_ptr, blocks_ptr, counts_ptr, scale_log2,
    q_len, rows, first, offset, key_blocks, batch_heads, q_heads, group,
    q_smem, k_smem, v_smem, mailbox, q_full, q_empty, k_full, k_empty, v_full, v_empty,
    STAGES: gl.constexpr, CONSUMERS: gl.constexpr, BLOCK_M: gl.constexpr, BLOCK: gl.constexpr, HEAD_DIM: gl.constexpr,
    ROW_GROUP: gl.constexpr, PART: gl.constexpr,
):  # fmt: skip
    dtype: gl.constexpr = out_desc.dtype
    S_LAYOUT: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, BLOCK, 16]
    )
    O_LAYOUT: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, HEAD_DIM, 16]
    )
    P_LAYOUT: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=O_LAYOUT, k_width=2)
    ROW: gl.constexpr = gl.SliceLayout(1, S_LAYOUT)
    ROW_O: gl.constexpr = gl.SliceLayout(1, O_LAYOUT)
    MAIL: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    zero = gl.full([BLOCK_M, BLOCK], 0.0, gl.float32, S_LAYOUT)
    step = 0
    turn = 0
    mbarrier.wait(q_full.index(PART), 0)
    tile = _next_tile(mailbox, 0, MAIL)
    while tile >= 0:
        row, batch_head = _locate(tile, rows, batch_heads, group, ROW_GROUP)
        list_row = batch_head.to(gl.int64) * rows + row
        count = gl.load(counts_ptr + list_row)
        last = gl.load(blocks_ptr + list_row * key_blocks + gl.maximum(count - 1, 0), mask=count > 0, other=0)
        slot = turn % 2
        q_part = q_smem.index(slot * CONSUMERS + PART)
        q = q_part.reshape([BLOCK_M, HEAD_DIM])
        acc = gl.full([BLOCK_M, HEAD_DIM], 0.0, gl.float32, O_LAYOUT)
        highest = gl.full([BLOCK_M], -1.0e30, gl.float32, ROW)
        denominator = gl.full([BLOCK_M], 0.0, gl.float32, ROW)
        first_position = (first + row) * BLOCK + PART * BLOCK_M
        start = gl.maximum(first_position - offset, 0)
        position = offset + start + gl.arange(0, BLOCK_M, layout=ROW)

        # The last listed block, masked.
        stage = step % STAGES
        mbarrier.wait(k_full.index(stage), step // STAGES & 1)
        k = k_smem.index(stage).reshape([BLOCK, HEAD_DIM]).permute((1, 0))
        logits = warpgroup_mma(q, k, zero, use_acc=False, is_async=True)
        # The previous query block's output has left while this product runs: its Q buffer is free.
        tma.store_wait(0)
        mbarrier.arrive(q_empty.index((1 - slot) * CONSUMERS + PART), count=1, pred=turn > 0)
        logits = warpgroup_mma_wait(0, deps=[logits])
        mbarrier.arrive(k_empty.index(stage), count=1)
        key = last.to(gl.int32) * BLOCK + gl.arange(0, BLOCK, layout=gl.SliceLayout(0, S_LAYOUT))
        logits = gl.where(position[:, None] >= key[None, :], logits, -1.0e30)
        weights, shrink, highest, denominator = _softmax(logits, highest, denominator, scale_log2)
        weights = gl.convert_layout(weights.to(dtype), P_LAYOUT)
        step += 1

        for _ in range(1, count):
            stage = step % STAGES
            before = (step - 1) % STAGES
            mbarrier.wait(k_full.index(stage), step // STAGES & 1)
            k = k_smem.index(stage).reshape([BLOCK, HEAD_DIM]).permute((1, 0))
            next_logits = warpgroup_mma(q, k, zero, use_acc=False, is_async=True)
            mbarrier.wait(v_full.index(before), (step - 1) // STAGES & 1)
            v = v_smem.index(before).reshape([BLOCK, HEAD_DIM])
            next_acc = warpgroup_mma(weights, v, acc, is_async=True)
            logits = warpgroup_mma_wait(1, deps=[next_logits])
            mbarrier.arrive(k_empty.index(stage), count=1)
            p, shrink, highest, denominator = _softmax(logits, highest, denominator, scale_log2)
            acc = warpgroup_mma_wait(0, deps=[next_acc])
            mbarrier.arrive(v_empty.index(before), count=1)
            acc = acc * gl.convert_layout(shrink, ROW_O)[:, None]
            weights = gl.convert_layout(p.to(dtype), P_LAYOUT)
            step += 1

        before = (step - 1) % STAGES
        mbarrier.wait(v_full.index(before), (step - 1) // STAGES & 1)
        v = v_smem.index(before).reshape([BLOCK, HEAD_DIM])
        acc = warpgroup_mma(weights, v, acc, is_async=True)
        acc = warpgroup_mma_wait(0, deps=[acc])
        mbarrier.arrive(v_empty.index(before), count=1)

        # An empty list has read block 0 for nothing: its output is 0.
        share = gl.where(count > 0, 1.0 / denominator, 0.0)
        out = (acc * gl.convert_layout(share, ROW_O)[:, None]).to(dtype)
        batch_head_64 = batch_head.to(gl.int64)
        if first_position >= offset:
            q.store(out)
            fence_async_shared()
            tma.async_copy_shared_to_global(out_desc, [batch_head // q_heads, start, batch_head % q_heads, 0], q_part)
        else:  # some of these rows are the next part's to write
            query_o = start + gl.arange(0, BLOCK_M, layout=ROW_O)
            mine = query_o + offset < first_position + BLOCK_M
            token = (batch_head_64 // q_heads * q_len + query_o) * q_heads + batch_head % q_heads
            dim = gl.arange(0, HEAD_DIM, layout=gl.SliceLayout(0, O_LAYOUT))
            mask = (mine & (query_o < q_len))[:, None] & (dim < HEAD_DIM)[None, :]
            gl.store(out_ptr + token[:, None] * HEAD_DIM + dim[None, :], out, mask=mask)
        lse = gl.where(count > 0, (highest + gl.log2(denominator)) / 1.4426950408889634, float("-inf"))
        mine = (position < first_position + BLOCK_M) & (position < offset + q_len)
        gl.store(lse_ptr + batch_head_64 * q_len + (position - offset), lse, mask=mine)
        turn += 1
        slot = turn % 2
        mbarrier.wait(q_full.index(slot * CONSUMERS + PART), turn // 2 & 1)
        tile = _next_tile(mailbox, slot, MAIL)
    tma.store_wait(0)


@gluon.jit(do_not_specialize=SIZES)
def _block_sparse_hopper_kernel(
    q_desc, k_desc, v_desc, out_desc, out_ptr, lse_ptr, blocks_ptr, counts_ptr, counter_ptr, scale_log2,
    tiles, q_len, rows, first, offset, key_blocks, batch_heads, q_heads, group,
    BLOCK: gl.constexpr, HEAD_DIM: gl.constexpr, STAGES: gl.constexpr, CONSUMERS: gl.constexpr,
    ROW_GROUP: gl.constexpr,
):  # fmt: skip
    BLOCK_M: gl.constexpr = BLOCK // CONSUMERS
    dtype: gl.constexpr = q_desc.dtype
    BARRIER: gl.constexpr = mbarrier.MBarrierLayout()
    q_smem = gl.allocate_shared_memory(dtype, [2 * CONSUMERS, 1, BLOCK_M, 1, HEAD_DIM], q_desc.layout)
    k_smem = gl.allocate_shared_memory(dtype, [STAGES, 1, BLOCK, 1, HEAD_DIM], k_desc.layout)
    v_smem = gl.allocate_shared_memory(dtype, [STAGES, 1, BLOCK, 1, HEAD_DIM], v_desc.layout)
    mailbox = gl.allocate_shared_memory(gl.int32, [2, 1], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    q_full = gl.allocate_shared_memory(gl.int64, [2 * CONSUMERS, 1], BARRIER)
    q_empty = gl.allocate_shared_memory(gl.int64, [2 * CONSUMERS, 1], BARRIER)
    k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIER)
    k_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIER)
    v_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIER)
    v_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIER)
    for i in gl.static_range(2 * CONSUMERS):
        mbarrier.init(q_full.index(i), count=1)
        mbarrier.init(q_empty.index(i), count=1)
    for i in gl.static_range(STAGES):
        mbarrier.init(k_full.index(i), count=1)
        mbarrier.init(k_empty.index(i), count=CONSUMERS)
        mbarrier.init(v_full.index(i), count=1)
        mbarrier.init(v_empty.index(i), count=CONSUMERS)
    # Spelled out: constexprs keep their type only inside the call.
    gl.warp_specialize([
        (_consume, (
            out_desc, out_ptr, lse_ptr, blocks_ptr, counts_ptr, scale_log2,
            q_len, rows, first, offset, key_blocks, batch_heads, q_heads, group,
            q_smem, k_smem, v_smem, mailbox, q_full, q_empty, k_full, k_empty, v_full, v_empty,
            STAGES, CONSUMERS, BLOCK_M, BLOCK, HEAD_DIM, ROW_GROUP, 0,
        )),
        (_consume, (
            out_desc, out_ptr, lse_ptr, blocks_ptr, counts_ptr, scale_log2,
            q_len, rows, first, offset, key_blocks, batch_heads, q_heads, group,
            q_smem, k_smem, v_smem, mailbox, q_full, q_empty, k_full, k_empty, v_full, v_empty,
            STAGES, CONSUMERS, BLOCK_M, BLOCK, HEAD_DIM, ROW_GROUP, 1,
        )),
        (_produce, (
            q_desc, k_desc, v_desc, blocks_ptr, counts_ptr, counter_ptr,
            tiles, rows, first, offset, key_blocks, batch_heads, q_heads, group,
            q_smem, k_smem, v_smem, mailbox, q_full, q_empty, k_full, k_empty, v_full, v_empty,
            STAGES, CONSUMERS, BLOCK_M, BLOCK, ROW_GROUP,
        )),
    ], [4, 4], [240, 24])  # fmt: skip


_attend = CachedKernel(_block_sparse_hopper_kernel)


def missing(q: Tensor, k: Tensor, v: Tensor, block_size: int) -> str | None:
    """Return why this kernel cannot compute a call (the tensors are on a GPU), or None."""
    if (capable := capability(q.device)) != 90:
        return f"the GPU has compute capability {capable / 10}; this kernel is for 9.0"
    if q.dtype not in _GLUON_DTYPES or q.shape[3] != 128 or block_size != BLOCK:
        return f"{q.dtype}, head_dim {q.shape[3]}, blocks of {block_size}: it takes half precision, 128 and 128"
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.data_ptr() % 16 or any(stride % 8 for stride in tensor.stride()[:3]):
            return f"{name} is not aligned to 16 bytes in every dimension, which TMA asks for"
    return _self_test(q.device)


@functools.cache
def _self_test(device: torch.device) -> str | None:
    """Compare with the portable kernel once a process on a small call; return what went wrong, or None."""
    from fp_bench.kernels.block_sparse_triton import block_sparse_attention_triton

    draw = torch.Generator(device).manual_seed(0)  # the user's own random numbers stay as they are
    q, k, v = torch.randn((3, 1, 300, 2, 128), generator=draw, device=device, dtype=torch.bfloat16)
    index = BlockIndex.from_mask(torch.ones((1, 2, 3, 3), dtype=torch.bool, device=device), 300, 300)
    try:
        ours, _ = block_sparse_attention_hopper(q, k, v, index, 0.1)
        portable, _ = block_sparse_attention_triton(q, k, v, index, 0.1)
        error = float((ours - portable).float().norm() / portable.float().norm())
    except Exception as failure:  # whatever Gluon's compiler raises, the portable kernel still runs
        reason = f"self-test raised {type(failure).__name__}: {str(failure).splitlines()[0]}"
    else:
        if error < 1e-2:
            return None
        reason = f"self-test differs from the portable kernel by {error:.1e}"
    warnings.warn(f"the Hopper kernel is not used: {reason}", stacklevel=2)
    return reason


_GLUON_DTYPES = {torch.float16: gl.float16, torch.bfloat16: gl.bfloat16}


@functools.cache
def _box_layout(rows: int, head_dim: int, dtype: torch.dtype) -> gl.NVMMASharedLayout:
    return gl.NVMMASharedLayout.get_default_for([1, rows, 1, head_dim], _GLUON_DTYPES[dtype])


def _descriptor(tensor: Tensor, rows: int) -> TensorDescriptor:
    """Return a TMA descriptor of ``[batch, length, heads, head_dim]`` whose box is ``rows`` tokens of one head."""
    # Made without TensorDescriptor's own checks, a fifth of a launch's Python: `missing` has made them.
    descriptor = TensorDescriptor.__new__(TensorDescriptor)
    descriptor.base = tensor
    descriptor.shape = tensor.shape
    descriptor.strides = tensor.stride()
    descriptor.block_shape = [1, rows, 1, tensor.shape[3]]
    descriptor.layout = _box_layout(rows, tensor.shape[3], tensor.dtype)
    descriptor.padding = "zero"
    return descriptor


@functools.lru_cache(maxsize=64)
def _counter(device: torch.device, stream: int) -> Tensor:
    """Return the tile counter of one stream; every launch finds it 0 and leaves it 0."""
    del stream
    return torch.zeros(1, dtype=torch.int32, device=device)


def block_sparse_attention_hopper(
    q: Tensor, k: Tensor, v: Tensor, index: BlockIndex, scale: float
) -> tuple[Tensor, Tensor]:
    """Return ``(out, lse)`` as `block_sparse.block_sparse_attention` does."""
    grid = index.grid
    batch, q_len, q_heads, head_dim = q.shape
    out, lse = empty_outputs(q)
    batch_heads = batch * q_heads
    tiles = -(-grid.rows // ROW_GROUP) * ROW_GROUP * batch_heads
    counter = _counter(q.device, torch.cuda.current_stream(q.device).cuda_stream)
    _attend(
        multiprocessors(q.device),
        (
            *(_descriptor(q, BLOCK // CONSUMERS), _descriptor(k, BLOCK), _descriptor(v, BLOCK)),
            *(_descriptor(out, BLOCK // CONSUMERS), out, lse, index.blocks, index.counts, counter),
        ),
        (scale * LOG2E,),
        (
            *(tiles, q_len, grid.rows, grid.first, grid.offset, grid.key_blocks),
            *(batch_heads, q_heads, q_heads // k.shape[2]),
        ),
        {"BLOCK": BLOCK, "HEAD_DIM": head_dim, "STAGES": STAGES, "CONSUMERS": CONSUMERS, "ROW_GROUP": ROW_GROUP},
        {"num_warps": 4},
    )
    return out, lse
