"""Skip-softmax in plain torch, float32: the definition the kernels are tested against (BLASST, arXiv 2512.12087)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fp_bench.kernels.block_index import BlockIndex


class SkippedRows(NamedTuple):
    """Attention of some queries, and what it skipped.

    ``out [batch, rows, q_heads, head_dim]`` and ``lse [batch, q_heads, rows]`` float32 as of `attention_rows`, over the
    tiles that are not skipped. ``skipped [batch, lists, rows of tiles, parts]`` int32: what each part of a row of
    tiles skips, where it holds one of the queries; 0 for others.
    """

    out: Tensor
    lse: Tensor
    skipped: Tensor


def skipping_rows(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    index: BlockIndex,
    *,
    scale: float,
    skip: float,
    tile: tuple[int, int],
    rows: Tensor,
) -> SkippedRows:
    """Return causal attention of the queries ``rows`` over the listed tiles, without those that cannot matter.

    A row of tiles is cut in parts of ``tile[0]`` rows of Q, a listed block in tiles of ``tile[1]`` keys. A part takes
    the tiles of the last listed block first, then those of the others in ascending order. It skips a tile whose largest
    logit lies, for each of its queries, more than ``log(1 / skip)`` below the largest of the tiles before.

    Args:
        q: ``[batch, q_len, q_heads, head_dim]``.
        k: ``[batch, kv_len, kv_heads, head_dim]``.
        v: as ``k``.
        index: the lists.
        scale: factor on the logits.
        skip: largest weight, relative to a query's maximum so far, of a key that is skipped; above 0 and at most 1.
        tile: rows of Q, of which the last part of a row of tiles may have fewer, and keys, a divisor of the block.
        rows: query numbers in ``[0, q_len)``, int64.
    """
    grid, packed = index.grid, index.packed
    size, group = grid.block_size, q.shape[2] // k.shape[2]
    distinct, again = torch.unique(rows, return_inverse=True)
    place = {row: number for number, row in enumerate(distinct.tolist())}
    batch, lists = index.counts.shape[:2]
    out = torch.zeros((batch, len(distinct), q.shape[2], v.shape[3]), dtype=torch.float32, device=q.device)
    lse = torch.full((batch, q.shape[2], len(distinct)), -math.inf, dtype=torch.float32, device=q.device)
    parts = -(-size // tile[0])
    skipped = torch.zeros((*index.counts.shape, parts), dtype=torch.int32, device=q.device)
    in_block = torch.arange(size, device=q.device)
    for b in range(batch):
        for number in range(lists):
            keys, values = (tensor[b, :, number * packed // group].float() for tensor in (k, v))
            for row in range(grid.rows):
                count = int(index.counts[b, number, row])
                listed = index.blocks[b, number, row, :count].long()
                tokens = (listed.roll(1)[:, None] * size + in_block).flatten()
                for part in range(parts):
                    begin = (grid.first + row) * size
                    places = range(begin + part * tile[0], begin + min((part + 1) * tile[0], size))
                    of_part = [(at // packed - grid.offset, number * packed + at % packed) for at in places]
                    present = [(query, head) for query, head in of_part if 0 <= query < grid.q_len]
                    if count == 0 or place.keys().isdisjoint(query for query, _ in present):
                        continue
                    queries, heads = (torch.tensor(each, device=q.device) for each in zip(*present, strict=True))
                    logits = q[b, queries, heads].float() @ keys[tokens.clamp_max(grid.kv_len - 1)].T * scale
                    logits = logits.masked_fill(tokens > (queries + grid.offset)[:, None], -math.inf)
                    peaks = logits.view(len(present), -1, tile[1]).amax(-1)
                    before = torch.cat([torch.full_like(peaks[:, :1], -math.inf), peaks.cummax(1).values[:, :-1]], 1)
                    read = (peaks >= before + math.log(skip)).any(0)
                    skipped[b, number, row, part] = int((~read).sum())
                    logits = logits.masked_fill(~read.repeat_interleave(tile[1]), -math.inf)
                    of_tile = logits.logsumexp(-1)
                    weighted = torch.exp(logits - of_tile[:, None]) @ values[tokens.clamp_max(grid.kv_len - 1)]
                    for at, (query, head) in enumerate(present):
                        if query in place:
                            out[b, place[query], head] = weighted[at]
                            lse[b, head, place[query]] = of_tile[at]
    again = again.to(q.device)
    return SkippedRows(out[:, again], lse[:, :, again], skipped)
