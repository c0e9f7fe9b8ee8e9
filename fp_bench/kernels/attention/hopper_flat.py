"""Packed rows of the Hopper attention kernel where no power of two of heads shares a list: Q and O through pointers.

Place r of a KV head is head ``r % PACKED`` of position ``r // PACKED``, and a row of tiles is 128 places. With 1, 2, 4,
... heads this is a box of positions and heads, which TMA moves. With 3, 5, 6 or 7 it begins and ends inside a position:
the producer copies Q with asynchronous copies of 16 bytes into the swizzled buffer that TMA would fill, and a consumer
stores O from there. The producer begins the copies of a row before it waits for room for the row's first K, and
announces them after it, so nothing but that wait has to hide them.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier


@gluon.jit
def copy_places(q_ptr, q_part, place, begin, end, eights, head_eights, PACKED: gl.constexpr):
    """Start copying Q of as many places as ``q_part`` has rows; ``q_ptr`` is of the call's first place of a KV head.

    Two positions are ``8 * eights`` numbers apart, two heads ``8 * head_eights``. Places before ``begin`` or from
    ``end`` on are not of the call: they get the nearest one's query, for nothing.
    """
    ROWS: gl.constexpr = q_part.shape[0]
    HEAD_DIM: gl.constexpr = q_part.shape[1]
    COPY: gl.constexpr = gl.BlockedLayout([1, 8], [256 // HEAD_DIM, HEAD_DIM // 8], [4, 1], [1, 0])
    # A copy or two a thread, so that few registers hold addresses; the swizzle repeats every 8 rows.
    AT_ONCE: gl.constexpr = 16 if HEAD_DIM == 64 else 8
    in_slice = gl.arange(0, AT_ONCE, layout=gl.SliceLayout(1, COPY))
    dim = gl.arange(0, HEAD_DIM, layout=gl.SliceLayout(0, COPY))
    position = place // PACKED
    q_ptr += (position - begin // PACKED).to(gl.int64) * eights * 8
    for at in gl.static_range(0, ROWS, AT_ONCE):
        here = gl.minimum(gl.maximum(place + at + in_slice, begin), end - 1)
        # Eights of a few positions and of a group's heads stay below 2^31, heads outermost at a million tokens too.
        number = ((here // PACKED - position) * eights + here % PACKED * head_eights).to(gl.int64) * 8
        async_copy.async_copy_global_to_shared(q_part.slice(at, AT_ONCE), q_ptr + number[:, None] + dim[None, :])


@gluon.jit
def announce_places(q_full, slot, CONSUMERS: gl.constexpr):
    """Wait for the copies of a row, and tell its consumers."""
    async_copy.wait_group(0)
    fence_async_shared()
    for part in gl.static_range(CONSUMERS):
        mbarrier.arrive(q_full.index(slot * CONSUMERS + part), count=1)


@gluon.jit
def store_places(out, q, q_empty, out_ptr, place, begin, end, stride_n, PACKED: gl.constexpr):
    """Store O of a part by way of its Q buffer, which then is free; ``out_ptr`` as ``q_ptr`` above, heads adjacent."""
    ROWS: gl.constexpr = q.shape[0]
    HEAD_DIM: gl.constexpr = q.shape[1]
    COPY: gl.constexpr = gl.BlockedLayout([1, 8], [256 // HEAD_DIM, HEAD_DIM // 8], [4, 1], [1, 0])
    q.store(out)
    whole = q.load(COPY)
    mbarrier.arrive(q_empty, count=1)
    here = place + gl.arange(0, ROWS, layout=gl.SliceLayout(1, COPY))
    dim = gl.arange(0, HEAD_DIM, layout=gl.SliceLayout(0, COPY))
    position = place // PACKED
    out_ptr += (position - begin // PACKED).to(gl.int64) * stride_n
    number = (here // PACKED - position) * stride_n + here % PACKED * HEAD_DIM
    mine = (here >= begin) & (here < end)
    gl.store(out_ptr + number[:, None] + dim[None, :], whole, mask=mine[:, None])
