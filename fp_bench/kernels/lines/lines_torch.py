"""Vertical-slash conversion and attention in plain torch: one dense attention a row block over the keys it reads."""

import math

import torch
from torch import Tensor

from fp_bench.kernels.attention.torch import _attend_tile
from fp_bench.kernels.lines.index import OCTET, STOP, TILE, VerticalSlashIndex, walk


def convert_torch(index: VerticalSlashIndex) -> None:
    """Fill the counts and octets of an index whose other fields are given."""
    rows = torch.arange(index.rows, device=index.columns.device)
    for b, head in torch.cartesian_prod(*map(torch.arange, index.tile_counts.shape[:2])).tolist():
        distance = walk(index.following[b, head], rows)
        listed = distance > STOP
        starts = TILE * rows[:, None] - distance
        # At most one tile begins in 64 aligned keys: which one says whether a key is in a tile.
        begins = torch.full((len(rows), len(rows) + 3), -TILE, device=rows.device)
        begins.scatter_(1, torch.where(listed, starts // TILE + 1, len(rows) + 2), starts)
        column = index.columns[b, head].long()
        near = torch.stack([begins[:, column // TILE + 1], begins[:, column // TILE]])
        in_tile = ((column >= near) & (column < near + TILE)).any(0)
        reads = listed.any(-1, keepdim=True) & (column < TILE * rows[:, None]) & ~in_tile
        index.tile_counts[b, head] = listed.sum(-1)
        index.past_keys[b, head] = (distance.clamp(0, TILE) * listed).sum(-1)
        index.column_counts[b, head] = reads.sum(-1)
        bits = (reads.view(len(rows), -1, OCTET).int() << torch.arange(OCTET, device=rows.device)).sum(-1)
        order = torch.argsort(bits == 0, dim=-1, stable=True)
        index.octets[b, head] = order << OCTET | bits.gather(-1, order)
        index.octet_counts[b, head] = (bits > 0).sum(-1)


def vertical_slash_attention_torch(
    q: Tensor, k: Tensor, v: Tensor, index: VerticalSlashIndex, scale: float
) -> tuple[Tensor, Tensor]:
    """Return ``(out, lse)`` as `lines.vertical_slash_attention` does."""
    batch, kv_len, q_heads, _ = q.shape
    group = q_heads // k.shape[2]
    out = torch.zeros_like(q, memory_format=torch.contiguous_format)
    lse = torch.full((batch, q_heads, kv_len), -math.inf, dtype=torch.float32, device=q.device)
    rows = torch.arange(index.rows, device=q.device)
    in_tile = torch.arange(TILE, device=q.device)
    for b, head in torch.cartesian_prod(torch.arange(batch), torch.arange(q_heads)).tolist():
        keys, values = k[b, :, head // group], v[b, :, head // group]
        sink, local = index.windows[head].tolist()
        in_tiles = (index.tiles(b, head, rows)[..., None] + in_tile).flatten(1)
        tokens_of = torch.cat([in_tiles, index.columns_read(b, head, rows)], 1)
        for row in rows.tolist():
            queries = slice(TILE * row, min(TILE * (row + 1), kv_len))
            tokens = tokens_of[row]
            tokens = tokens[tokens < queries.stop]
            if len(tokens) == 0:
                continue
            ahead = torch.arange(queries.start, queries.stop, device=q.device)[:, None] - tokens
            hidden = (ahead < 0) | ((ahead >= local) & (tokens >= sink))
            mask = torch.zeros(hidden.shape, dtype=q.dtype, device=q.device).masked_fill_(hidden, -math.inf)
            tile = _attend_tile(q[b, queries, head], keys[tokens], values[tokens], mask, scale)
            out[b, queries, head], lse[b, head, queries] = tile
    return out, lse
