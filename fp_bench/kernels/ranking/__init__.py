"""Keeping the best key blocks of each row by scores of block pairs: as many as asked for, or those that hold a share.

Methods that score means of query blocks have few enough pairs to write all scores: one float32 for each pair and band.
The ranking of a row needs no sort.
"""

from enum import IntEnum

from torch import Tensor

from fp_bench.kernels.block_index import BlockIndex

PAIRS_AT_ONCE = 1 << 26
"""Scores that a method writes before they are ranked: 256 MiB."""


class Need(IntEnum):
    """The unit of a row's need."""

    COUNT = 0
    """Blocks: the best of them, as many as the need."""
    SHARE = 1
    """The row's softmax: the fewest blocks that reach it."""
    SHARE_WITHIN = 2
    """The row's softmax: the most blocks that do not pass it, one at least."""


def list_best(
    scores: Tensor,
    need: Tensor,
    kind: Need,
    index: BlockIndex,
    lists: slice,
    *,
    sink_blocks: int = 0,
    window_blocks: int = 0,
    backend: str = "auto",
) -> None:
    """Write what some lists keep: the union over bands of each band's best blocks, and the forced ones.

    Defined by `reference.best_blocks`. Of equal scores the first ones are taken. No host sync.

    Args:
        scores: ``[bands, lists, rows, key_blocks]`` float32, log2 of a block's weight where the need is a share; what
            lies in the future is not read. inf is kept whatever the need and takes none of it, -inf is not kept.
        need: ``[bands, rows]`` float32.
        kind: the unit of the need.
        index: to be filled, one list a query head.
        lists: which of its ``batch * q_heads`` lists.
        sink_blocks: key blocks at the start that every row keeps.
        window_blocks: key blocks up to and including the diagonal that are kept.
        backend: ``triton`` or ``torch``; ``auto`` is Triton on a GPU.
    """
    if backend == "triton" or (backend == "auto" and scores.is_cuda):
        from fp_bench.kernels.ranking.triton import list_best_triton as write
    else:
        from fp_bench.kernels.ranking.torch import list_best_torch as write
    write(scores, need, kind, index, lists, sink_blocks, window_blocks)


def heads_at_once(pairs: int, heads: int) -> range:
    """Return the first heads of parts of which each has at most `PAIRS_AT_ONCE` scores, ``pairs`` of them a head."""
    return range(0, heads, max(PAIRS_AT_ONCE // pairs, 1))
