"""Skip-softmax in the Hopper attention kernel: a consumer's step that may skip a tile, and loads of V on demand.

A consumer tests each tile after S = Q K^T: does a row's largest logit come near its running maximum? The four warps
agree through shared memory (``votes``), and skip the exponentials and O += P V together. The step has two arms, with
and without the product of the tile before. In the first arm, the test and the softmax run while that product is
computed.

At 64K, K and V take about 5 TB/s out of L2 when every tile is computed, near what L2 gives. A skipped tile must
therefore not load V either. The votes are there when K is released, so the producer finds them where it waits for room
for K anyway. It loads V ahead as long as it sees tiles that were needed, and on demand after a tile that both consumers
skipped. V's barriers turn once a tile in any case: an arrival without a load stands for a tile that nobody needs.

V is loaded a tile later than without skip and its stage is released after the vote, so V has three stages: 224 KB of
shared memory at head sizes 128 and 256. At 64 both K and V have four in any case. Votes have as many slots as V has
stages (``V_STAGES``), because the producer reads those on the tile that it loads and on that of ``V_STAGES - 1`` tiles
ago.

Considered instead: V always ahead, which is simpler and bound by L2 at about 1.2x; and a branch-free consumer that
multiplies zeros, which saves exponentials alone.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, warpgroup_mma, warpgroup_mma_wait

from fp_bench.kernels.attention.hopper_parts import hide_future, softmax_below
from fp_bench.kernels.gluon import tma_load


@gluon.jit
def ballots(SKIP: gl.constexpr, COUNT: gl.constexpr, ROWS: gl.constexpr):
    """Return ``COUNT`` buffers of shared memory with a vote of each row; without skip a stand-in."""
    LAYOUT: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    SHAPE: gl.constexpr = [COUNT, ROWS] if SKIP else [1, 1]
    return gl.allocate_shared_memory(gl.int32, SHAPE, LAYOUT)


@gluon.jit
def load_if_needed(v_desc, batch, start, kv_head, step, i, v_smem, votes, k_empty, v_full, v_empty,
                   STAGES: gl.constexpr, CONSUMERS: gl.constexpr):  # fmt: skip
    """Load V of a row's i-th tile ahead, or wait for the votes on it and load it if a consumer needs it.

    A consumer empties V's stage when it has voted on the next tile: that of ``V_STAGES - 1`` tiles ago. This vote tells
    which of the two to do. The first tile of a row is always needed and has no vote.
    """
    V_STAGES: gl.constexpr = v_smem.shape[0]
    stage = step % V_STAGES
    mbarrier.wait(v_empty.index(stage), (step // V_STAGES & 1) ^ 1)
    needed = 1
    if i >= V_STAGES:
        needed = _needed(votes, (step + 1) % V_STAGES, CONSUMERS)
        if needed == 0:
            mbarrier.wait(k_empty.index(step % STAGES), step // STAGES & 1)  # released with the votes
            needed = _needed(votes, stage, CONSUMERS)
    if needed != 0:
        mbarrier.expect(v_full.index(stage), v_desc.block_type.nbytes)
        tma_load(v_desc, [batch, start, kv_head, 0], v_full.index(stage), v_smem.index(stage))
    else:
        mbarrier.arrive(v_full.index(stage), count=1)


@gluon.jit
def _needed(votes, stage, CONSUMERS: gl.constexpr):
    """Return 1 if a consumer needs the tile of this stage, 0 otherwise."""
    needed = 0
    for part in gl.static_range(CONSUMERS):
        needed = gl.maximum(needed, _any(votes.index(stage * CONSUMERS + part)))
    return needed


@gluon.jit
def _any(ballot):
    """Return the largest of the votes; every warp reads all, so that warps exchange nothing."""
    LAYOUT: gl.constexpr = gl.BlockedLayout([ballot.shape[0] // 32], [32], [4], [0])
    return gl.max(ballot.load(LAYOUT), 0)


@gluon.jit
def step_or_skip(
    q, weights, acc, pending, zero, highest, denominator, mine, position, key, i, scale_log2, log2_skip, step,
    k_smem, v_smem, votes, k_full, k_empty, v_full, v_empty,
    STAGES: gl.constexpr, CONSUMERS: gl.constexpr, TILE: gl.constexpr, TILES: gl.constexpr, HEAD_DIM: gl.constexpr,
    PART: gl.constexpr, P_LAYOUT: gl.constexpr, ROW_O: gl.constexpr, dtype: gl.constexpr,
):  # fmt: skip
    """Take a consumer through a row's i-th tile; return O, weights, maxima, sums and whether the tile is needed.

    If the tile before is needed (``pending``), ``weights`` times its V is still to be added to O. Rows that are not
    ``mine``, the consumer's own queries of this call, have no vote.
    """
    V_STAGES: gl.constexpr = v_smem.shape[0]
    stage = step % STAGES
    before = (step - 1) % V_STAGES
    ballot = votes.index(step % V_STAGES * CONSUMERS + PART)
    mbarrier.wait(k_full.index(stage), step // STAGES & 1)
    k = k_smem.index(stage).reshape([TILE, HEAD_DIM]).permute((1, 0))
    if pending != 0:
        next_logits = warpgroup_mma(q, k, zero, use_acc=False, is_async=True)
        mbarrier.wait(v_full.index(before), (step - 1) // V_STAGES & 1)
        v = v_smem.index(before).reshape([TILE, HEAD_DIM])
        next_acc = warpgroup_mma(weights, v, acc, is_async=True)
        logits = hide_future(warpgroup_mma_wait(1, deps=[next_logits]), position, key, i, TILE, TILES)
        peaks = gl.max(logits, 1) * scale_log2
        pending = _vote(mine & (peaks - highest >= log2_skip), ballot, k_empty.index(stage))
        # The wait comes where both ways meet: within one of them, ptxas moves it ahead of the exponentials. Weights are
        # packed behind it, into registers that the product reads; those of a skipped tile are never used.
        shrink = gl.full(highest.shape, 1.0, gl.float32, highest.type.layout)
        if pending != 0:
            logits, shrink, highest, denominator = softmax_below(logits, peaks, highest, denominator, scale_log2)
        acc = warpgroup_mma_wait(0, deps=[next_acc])
        acc = acc * gl.convert_layout(shrink, ROW_O)[:, None]
        weights = gl.convert_layout(logits.to(dtype), P_LAYOUT)
    else:
        next_logits = warpgroup_mma(q, k, zero, use_acc=False, is_async=True)
        # A load made ahead in vain must end all the same.
        mbarrier.wait(v_full.index(before), (step - 1) // V_STAGES & 1)
        logits = hide_future(warpgroup_mma_wait(0, deps=[next_logits]), position, key, i, TILE, TILES)
        peaks = gl.max(logits, 1) * scale_log2
        pending = _vote(mine & (peaks - highest >= log2_skip), ballot, k_empty.index(stage))
        if pending != 0:
            p, shrink, highest, denominator = softmax_below(logits, peaks, highest, denominator, scale_log2)
            acc = acc * gl.convert_layout(shrink, ROW_O)[:, None]
            weights = gl.convert_layout(p.to(dtype), P_LAYOUT)
    mbarrier.arrive(v_empty.index(before), count=1)  # not before the vote: see `load_if_needed`
    return acc, weights, highest, denominator, pending


@gluon.jit
def pass_over(step, v_full, v_empty, V_STAGES: gl.constexpr):
    """Empty the stage of V of a row's last tile, which is not needed; ``step`` is the one after it."""
    before = (step - 1) % V_STAGES
    mbarrier.wait(v_full.index(before), (step - 1) // V_STAGES & 1)
    mbarrier.arrive(v_empty.index(before), count=1)


@gluon.jit
def _vote(near, ballot, k_empty):
    """Return whether a row of this consumer needs the tile; K is released with the votes on it."""
    ballot.store(near.to(gl.int32))
    needed = _any(ballot)
    mbarrier.arrive(k_empty, count=1)
    return needed
