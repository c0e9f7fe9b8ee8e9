"""The shared part of the Hopper attention kernels: one row of tiles in a consumer warpgroup, and the launch.

See attention/hopper.py for the design. A consumer opens a row with S of its first tile, takes one step for each tile
(`issue`, then `settle`), and closes the row with the last product of P and V. A stage of K or V has the shape ``[1,
TILE, 1, HEAD_DIM]``.
"""

import functools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, warpgroup_mma, warpgroup_mma_wait

from fp_bench.kernels.backend import HOPPER, capability
from fp_bench.kernels.gluon import tma_load
from fp_bench.kernels.launch import Box, current_stream
from fp_bench.kernels.layout import BLOCK_SIZE, HEAD_DIMS, BlockGrid

BLOCK = BLOCK_SIZE
CONSUMERS = 2
ROW_GROUP = 32
"""Neighbouring query blocks handed out KV head by KV head, so that one wave reads the same K and V out of L2."""
SHORT = 64
"""Query blocks up to which they are handed out one by one: L2 has room for K and V of all heads, and with groups the
longest rows of the last KV head would start when nothing else is left to run beside them."""


def row_group_size(rows: int) -> int:
    """Return how many neighbouring query blocks are handed out KV head by KV head, of ``rows``."""
    return 1 if rows <= SHORT else ROW_GROUP


def launch_config(head_dim: int) -> dict[str, int]:
    """Return the keys of a tile, the stages of K and V, and the buffers of Q; all depend on head_dim only."""
    if head_dim == 256:
        return {"TILE": 64, "STAGES": 2, "Q_BUFFERS": 1}
    return {"TILE": 128, "STAGES": 2 if head_dim == 128 else 4, "Q_BUFFERS": 2}


@gluon.jit
def barriers(COUNT: gl.constexpr, READERS: gl.constexpr):
    """Return (full, empty), ``COUNT`` barriers each: one arrival fills a buffer, one of each reader empties it."""
    BARRIER: gl.constexpr = mbarrier.MBarrierLayout()
    full = gl.allocate_shared_memory(gl.int64, [COUNT, 1], BARRIER)
    empty = gl.allocate_shared_memory(gl.int64, [COUNT, 1], BARRIER)
    for i in gl.static_range(COUNT):
        mbarrier.init(full.index(i), count=1)
        mbarrier.init(empty.index(i), count=READERS)
    return full, empty


@gluon.jit
def dismiss(item, items, counter_ptr, turn, mailbox, q_full, q_empty,
            Q_BUFFERS: gl.constexpr, CONSUMERS: gl.constexpr, MAILS: gl.constexpr = 1):  # fmt: skip
    """Tell the consumers that there are no more rows: -1 in the first of a slot's ``MAILS``."""
    MAIL: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    # The last program to run dry leaves the counter at 0 for the next launch.
    if item == items + gl.num_programs(0) - 1:
        gl.store(counter_ptr, 0)
    slot = turn % Q_BUFFERS
    for part in gl.static_range(CONSUMERS):
        mbarrier.wait(q_empty.index(slot * CONSUMERS + part), (turn // Q_BUFFERS & 1) ^ 1)
    mailbox.index(slot * MAILS).store(gl.full([1], -1, gl.int32, MAIL))
    for part in gl.static_range(CONSUMERS):
        mbarrier.arrive(q_full.index(slot * CONSUMERS + part), count=1)


@gluon.jit
def locate(tile, rows, batch_lists, group, row_group):
    """Return (row, batch * lists + list) of a tile: row groups longest first; inside by KV head, row, list."""
    per_kv_head = row_group * group
    per_row_group = row_group * batch_lists
    in_row_group = tile % per_row_group
    in_kv_head = in_row_group % per_kv_head
    row = rows - 1 - tile // per_row_group * row_group - in_kv_head // group
    return row, in_row_group // per_kv_head * group + in_kv_head % group


@gluon.jit
def load_when_empty(desc, batch, start, kv_head, step, smem, full, empty, STAGES: gl.constexpr):
    """Load K or V of a tile when its stage is empty."""
    stage = step % STAGES
    mbarrier.wait(empty.index(stage), (step // STAGES & 1) ^ 1)
    mbarrier.expect(full.index(stage), desc.block_type.nbytes)
    tma_load(desc, [batch, start, kv_head, 0], full.index(stage), smem.index(stage))


@gluon.jit
def hide_future(logits, position, key, i, TILE: gl.constexpr, TILES: gl.constexpr):
    """Mask S of a row's i-th tile where it is of the last listed block, whose keys begin with ``key``; i > 0."""
    if TILES > 1:  # noqa: SIM102 -- decided by the compiler, the next one by the program
        if i < TILES:
            logits = gl.where(position[:, None] >= (key + i * TILE)[None, :], logits, -1.0e30)
    return logits


@gluon.jit
def mean_tiles(row, first, PACKED: gl.constexpr, TILE: gl.constexpr):
    """Return the number of tiles with the means of all blocks that a row sees whole."""
    return ((first + row) // PACKED + TILE - 1) // TILE


@gluon.jit
def hidden_means(bits_row, i, past, in_tile, TILE: gl.constexpr):
    """Return which means of the i-th tile do not count: those of listed blocks, and those of blocks not seen whole."""
    bits_row += i * (TILE // 32)
    left = past - i * TILE
    word = _or_beyond(gl.load(bits_row), left)
    for part in gl.static_range(1, TILE // 32):
        word = gl.where(in_tile >= 32 * part, _or_beyond(gl.load(bits_row + part), left - 32 * part), word)
    return word << (31 - in_tile % 32) < 0


@gluon.jit
def _or_beyond(word, left):
    """Set all bits of a word from bit ``left`` on."""
    return gl.where(left >= 32, word, gl.where(left <= 0, -1, word | (-1 << left)))


@gluon.jit
def softmax(logits, highest, denominator, scale_log2, LOG2_TIMES: gl.constexpr = 0):
    """Return (weights, factor on what was summed before, running maximum, running denominator).

    Every key counts ``2 ** LOG2_TIMES`` times.
    """
    return softmax_below(logits, gl.max(logits, 1) * scale_log2, highest, denominator, scale_log2, LOG2_TIMES)


@gluon.jit
def softmax_below(logits, peaks, highest, denominator, scale_log2, LOG2_TIMES: gl.constexpr = 0):
    """Return what `softmax` does; ``peaks`` are the rows' largest scaled logits."""
    new_highest = gl.maximum(highest, peaks + LOG2_TIMES)
    weights = gl.exp2(logits * scale_log2 - (new_highest - LOG2_TIMES)[:, None])
    shrink = gl.exp2(highest - new_highest)
    return weights, shrink, new_highest, denominator * shrink + gl.sum(weights, 1)


@gluon.jit
def open_row(q, zero, step, k_smem, k_full, STAGES: gl.constexpr, TILE: gl.constexpr, HEAD_DIM: gl.constexpr):
    """Issue S of a row's first tile."""
    stage = step % STAGES
    mbarrier.wait(k_full.index(stage), step // STAGES & 1)
    k = k_smem.index(stage).reshape([TILE, HEAD_DIM]).permute((1, 0))
    return warpgroup_mma(q, k, zero, use_acc=False, is_async=True)


@gluon.jit
def issue(q, weights, acc, zero, step, k_smem, v_smem, k_full, k_empty, v_full,
          STAGES: gl.constexpr, TILE: gl.constexpr, HEAD_DIM: gl.constexpr):  # fmt: skip
    """Issue S of a tile, then O += P V of the one before; return S when it is there, and O on its way."""
    stage = step % STAGES
    before = (step - 1) % STAGES
    mbarrier.wait(k_full.index(stage), step // STAGES & 1)
    k = k_smem.index(stage).reshape([TILE, HEAD_DIM]).permute((1, 0))
    next_logits = warpgroup_mma(q, k, zero, use_acc=False, is_async=True)
    mbarrier.wait(v_full.index(before), (step - 1) // STAGES & 1)
    v = v_smem.index(before).reshape([TILE, HEAD_DIM])
    next_acc = warpgroup_mma(weights, v, acc, is_async=True)
    logits = warpgroup_mma_wait(1, deps=[next_logits])
    mbarrier.arrive(k_empty.index(stage), count=1)
    return logits, next_acc


@gluon.jit
def settle(logits, next_acc, highest, denominator, scale_log2, step, v_empty,
           STAGES: gl.constexpr, P_LAYOUT: gl.constexpr, ROW_O: gl.constexpr, dtype: gl.constexpr,
           LOG2_TIMES: gl.constexpr = 0):  # fmt: skip
    """Run the softmax of S while O is on its way; return O scaled to it, and the weights P."""
    p, shrink, highest, denominator = softmax(logits, highest, denominator, scale_log2, LOG2_TIMES)
    acc = warpgroup_mma_wait(0, deps=[next_acc])
    mbarrier.arrive(v_empty.index((step - 1) % STAGES), count=1)
    acc = acc * gl.convert_layout(shrink, ROW_O)[:, None]
    return acc, gl.convert_layout(p.to(dtype), P_LAYOUT), highest, denominator


@gluon.jit
def close_row(weights, acc, step, v_smem, v_full, v_empty,
              STAGES: gl.constexpr, TILE: gl.constexpr, HEAD_DIM: gl.constexpr):  # fmt: skip
    """Return O with the product of the last tile added; ``step`` is the one after it."""
    before = (step - 1) % STAGES
    mbarrier.wait(v_full.index(before), (step - 1) // STAGES & 1)
    v = v_smem.index(before).reshape([TILE, HEAD_DIM])
    acc = warpgroup_mma(weights, v, acc, is_async=True)
    acc = warpgroup_mma_wait(0, deps=[acc])
    mbarrier.arrive(v_empty.index(before), count=1)
    return acc


@gluon.jit
def read_mail(mailbox, slot, MAIL: gl.constexpr):
    """Return the number in one slot of the mailbox."""
    return gl.max(mailbox.index(slot).load(MAIL), 0)


def unfit(q: Tensor, **tensors: Tensor) -> str | None:
    """Return why no Hopper kernel takes these tensors (all on a GPU, head_dim contiguous), or None."""
    if (capable := capability(q.device)) != HOPPER:
        return f"the GPU has compute capability {capable / 10}; this kernel is for 9.0"
    if q.dtype not in (torch.float16, torch.bfloat16) or q.shape[-1] not in HEAD_DIMS:
        return f"{q.dtype}, head_dim {q.shape[-1]}: it takes half precision and {HEAD_DIMS}"
    for name, tensor in {"q": q, **tensors}.items():
        if tensor.data_ptr() % 16 or any(stride % 8 for stride in tensor.stride()[:-1]):
            return f"{name} is not aligned to 16 bytes in every dimension, which TMA asks for"
    return None


def disagreement(
    ours: Callable[[], Tensor],
    expected: Callable[[], Tensor],
    *,
    kernel: str = "the Hopper kernel",
    other: str = "the portable kernel",
    limit: float = 1e-2,
) -> str | None:
    """Compare a kernel with another on a small call; return what went wrong, and warn of it, or None."""
    try:
        theirs = expected()
        error = float((ours() - theirs).float().norm() / theirs.float().norm())
    except Exception as failure:  # whatever Gluon's compiler raises, something else still runs
        reason = f"self-test raised {type(failure).__name__}: {str(failure).splitlines()[0]}"
    else:
        if error < limit:
            return None
        reason = f"self-test differs from {other} by {error:.1e}"
    warnings.warn(f"{kernel} is not used: {reason}", stacklevel=3)
    return reason


def boxed(tensor: Tensor, rows: int, heads: int = 1) -> Box:
    """Return ``[batch, length, heads, head_dim]`` in boxes of ``rows x heads``; `unfit` says whether TMA takes it."""
    return Box(tensor, (1, rows, heads, tensor.shape[3]))


def rows_boxed(x: Tensor, grid: BlockGrid) -> Box:
    """Return Q or the output in boxes of a consumer's rows: some positions of all heads that share a list.

    Where these are no power of two, nothing is moved in boxes, and they say what a consumer's buffer looks like.
    """
    heads = 1 if BLOCK % grid.packed else grid.packed
    return boxed(x, BLOCK // CONSUMERS // heads, heads)


def counter(device: torch.device) -> Tensor:
    """Return the tile counter of the current stream; every launch finds it 0 and leaves it 0.

    A launch in a CUDA graph gets its own counter, which the graph sets to zero: a graph is captured on one stream, but
    graphs may be replayed in any order and at the same time.
    """
    if torch.cuda.is_current_stream_capturing():
        return torch.zeros(1, dtype=torch.int32, device=device)
    return _counter(device, current_stream(device))


@functools.lru_cache(maxsize=64)
def _counter(device: torch.device, stream: int) -> Tensor:
    del stream
    return torch.zeros(1, dtype=torch.int32, device=device)
