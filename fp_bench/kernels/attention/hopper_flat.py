"""Packed rows of the Hopper attention kernel where no power of two of heads shares a list: Q and O through pointers.

Place r of a KV head is head ``r % PACKED`` of position ``r // PACKED``, and a row of tiles is 128 places. With 1, 2, 4,
... heads this is a box of positions and heads, which TMA moves. With 3, 5, 6 or 7 it begins and ends inside a position.
There the producer only announces a row. Each consumer loads Q of its own half with loads of 16 bytes, at the start of
the row, into the swizzled buffer that TMA would fill, and stores O from there at the end. The producer and the other
consumer never touch this half, and a consumer begins no row before it has read O of the one before out of its buffer:
so nothing but its own barriers has to keep Q and O apart.

Not the producer's asynchronous copies: with those, results differed from run to run on an H200.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier


@gluon.jit
def load_places(q_ptr, q, place, begin, end, eights, head_eights, PACKED: gl.constexpr):
    """Fill ``q`` with as many places as it has rows; ``q_ptr`` is of the call's first place of a KV head.

    Two positions are ``8 * eights`` numbers apart, two heads ``8 * head_eights``. Places before ``begin`` or from
    ``end`` on are not of the call: they get the nearest one's query, for nothing.
    """
    ROWS: gl.constexpr = q.shape[0]
    HEAD_DIM: gl.constexpr = q.shape[1]
    COPY: gl.constexpr = gl.BlockedLayout([1, 8], [256 // HEAD_DIM, HEAD_DIM // 8], [4, 1], [1, 0])
    here = place + gl.arange(0, ROWS, layout=gl.SliceLayout(1, COPY))
    here = gl.minimum(gl.maximum(here, begin), end - 1)
    dim = gl.arange(0, HEAD_DIM, layout=gl.SliceLayout(0, COPY))
    position = place // PACKED
    q_ptr += (position - begin // PACKED).to(gl.int64) * eights * 8
    # Eights of a few positions and of a group's heads stay below 2^31, heads outermost at a million tokens too.
    number = ((here // PACKED - position) * eights + here % PACKED * head_eights).to(gl.int64) * 8
    q.store(gl.load(q_ptr + number[:, None] + dim[None, :]))
    fence_async_shared()  # the products read Q through the asynchronous proxy


@gluon.jit
def store_places(out, q, q_empty, out_ptr, place, begin, end, stride_n, PACKED: gl.constexpr):
    """Store O of a part by way of its Q buffer, and allow the producer another row for it.

    ``out_ptr`` is as ``q_ptr`` above, with adjacent heads.
    """
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
