"""VerticalSlashIndex: which tiles of 64 keys and which single keys each block of 64 queries reads."""

from dataclasses import dataclass

import torch
from torch import Tensor

TILE = 64
"""Queries of a row block and keys of a tile."""
STOP = -TILE
"""The distance that ends a walk: all keys of a tile there would be in every query's future."""
OCTET = 8
"""Columns that share an entry of the lists."""


@dataclass(frozen=True)
class VerticalSlashIndex:
    """Tiles and single columns for each row block of 64 queries of each query head; ``q_len == kv_len``.

    A tile at *distance* x of a row block begins x tokens before its first query; tiles lie on no grid. The next tile
    depends only on x, so the tiles of all row blocks of a head are walks through one table, from far to near. Row
    block r starts from 64 * (r + 1), reads the tile at ``following`` of that, then the one at ``following`` of that
    distance. The lists themselves, up to kv_len ** 2 / 8192 numbers a head, never exist. At 256K with 32 heads of up
    to 1000 columns an index takes 0.1 GiB (table 32 MiB, columns 63 MiB, counts 2.5 MiB).

    Args:
        following: ``[batch, q_heads, 64 * rows + 1]`` int32; -64 where no tile follows.
        columns: ``[batch, q_heads, width]`` int32: single keys that row blocks may read, ascending, then numbers past
            every key. ``width`` is a multiple of 8.
        windows: ``[q_heads, 2]`` int32, (sink, local): of its tiles, query i reads the keys j < sink and those with
            i - j < local. A head without such limits has (0, kv_len), one that reads nothing (0, 0).
        tile_counts: ``[batch, q_heads, rows]`` int32: tiles of each row block.
        past_keys: ``[batch, q_heads, rows]`` int32: keys before the row block that its tiles hold.
        octets: ``[batch, q_heads, rows, width / 8]`` int32: the columns that each row block reads, none of them in one
            of its tiles: the number of an octet of ``columns`` * 256 + a bit for each of the eight that is read.
        octet_counts: ``[batch, q_heads, rows]`` int32: entries of ``octets``; those from there on are undefined.
        column_counts: ``[batch, q_heads, rows]`` int32: how many columns are read.
        kv_len: queries, and keys, of the call.
    """

    following: Tensor
    columns: Tensor
    windows: Tensor
    tile_counts: Tensor
    past_keys: Tensor
    octets: Tensor
    octet_counts: Tensor
    column_counts: Tensor
    kv_len: int

    @classmethod
    def empty(cls, following: Tensor, columns: Tensor, windows: Tensor, kv_len: int) -> "VerticalSlashIndex":
        """Allocate an index whose counts and octets a conversion will fill."""
        shape = (*following.shape[:2], -(-kv_len // TILE))
        counts = [torch.empty(shape, dtype=torch.int32, device=following.device) for _ in range(4)]
        octets = torch.empty((*shape, columns.shape[-1] // OCTET), dtype=torch.int32, device=following.device)
        return cls(following, columns, windows, counts[0], counts[1], octets, counts[2], counts[3], kv_len)

    @property
    def q_len(self) -> int:
        """Queries of the call."""
        return self.kv_len

    @property
    def rows(self) -> int:
        """Number of row blocks."""
        return -(-self.kv_len // TILE)

    def density(self) -> Tensor:
        """Return the share of the causal query-key pairs that is computed, ``[batch, q_heads]`` float64."""
        return self.entries().double() / (self.kv_len * (self.kv_len + 1) // 2)

    def entries(self) -> Tensor:
        """Return how many causal query-key pairs each head computes, ``[batch, q_heads]`` int64."""
        first = TILE * torch.arange(self.rows, device=self.columns.device)
        queries = (self.kv_len - first).clamp_max(TILE)
        own = queries * (queries + 1) // 2  # the last tiles hold all of a row block's own keys
        in_lists = ((self.past_keys + self.column_counts) * queries + own).sum(-1)
        sink, local = (part[:, None] for part in self.windows.long().unbind(-1))
        seen = torch.arange(1, self.kv_len + 1, device=self.columns.device)
        in_window = (seen.minimum(local) + (seen - local).clamp_min(0).minimum(sink)).sum(-1)
        return torch.where(local[:, 0] < self.kv_len, in_window, in_lists)

    def keys_read(self, batch: int, head: int, position: Tensor) -> Tensor:
        """Return ``[len(position), kv_len]`` bool: the keys that queries at these positions read."""
        rows = position // TILE
        starts = self.tiles(batch, head, rows)
        edges = torch.zeros((len(rows), TILE * (self.rows + 1) + 1), dtype=torch.int32, device=starts.device)
        ones = torch.ones_like(starts, dtype=torch.int32)
        edges.scatter_add_(1, starts, ones).scatter_add_(1, starts + TILE, -ones)
        read = edges.cumsum(1) > 0
        read.scatter_(1, self.columns_read(batch, head, rows), True)
        key = torch.arange(self.kv_len, device=starts.device)
        sink, local = self.windows[head]
        in_window: Tensor = (position[:, None] - key < local) | (key < sink)
        return read[:, : self.kv_len] & in_window

    def kept_blocks(self, head: int) -> Tensor:
        """Return ``[rows, rows]`` float: the share of each pair of 64 queries and 64 keys that is read.

        Of a head of the first sequence; the far edge of a window counts as whole tiles.
        """
        rows = torch.arange(self.rows, device=self.columns.device)
        starts = self.tiles(0, head, rows)
        columns = self.columns_read(0, head, rows)
        shares = torch.zeros((self.rows, self.rows + 2), device=starts.device)
        in_next = starts % TILE / TILE
        shares.scatter_add_(1, starts // TILE, 1 - in_next).scatter_add_(1, starts // TILE + 1, in_next)
        shares.scatter_add_(1, columns // TILE, torch.full_like(columns, 1 / TILE, dtype=shares.dtype))
        return shares[:, : self.rows].clamp_max(1.0)

    def tiles(self, batch: int, head: int, rows: Tensor) -> Tensor:
        """Return ``[len(rows), most]`` int64: first keys of the tiles of row blocks, ascending, then past every key."""
        distance = walk(self.following[batch, head], rows)
        return torch.where(distance > STOP, TILE * rows[:, None] - distance, TILE * self.rows)

    def columns_read(self, batch: int, head: int, rows: Tensor) -> Tensor:
        """Return ``[len(rows), width]`` int64: the columns of row blocks, in ascending order but for gaps.

        Where a column is not read there is a number past every key.
        """
        octets = self.octets[batch, head, rows].long()
        listed = torch.arange(octets.shape[-1], device=octets.device) < self.octet_counts[batch, head, rows, None]
        lane = torch.arange(OCTET, device=octets.device)
        place = (octets >> OCTET).masked_fill(~listed, 0)[..., None] * OCTET + lane
        read = listed[..., None] & ((octets[..., None] >> lane) & 1).bool()
        columns = self.columns[batch, head][place].long()
        return torch.where(read, columns, TILE * self.rows).flatten(1)


def walk(following: Tensor, rows: Tensor) -> Tensor:
    """Return ``[len(rows), steps]`` int64: the distances of the tiles of row blocks, then -64 up to a power of two.

    Each round doubles the number of known tiles, with a table of twice the reach: 1000 tiles take ten rounds, not 1000.

    Args:
        following: ``[64 * rows + 1]``, of one head.
        rows: numbers of row blocks, int64.
    """
    further = following.long()
    distances = further[TILE * (rows + 1)][:, None]
    while (distances[:, -1] > STOP).any():
        # Past the end, as from distance 0, a walk stays at the end.
        distances = torch.cat([distances, further[distances.clamp_min(0)]], 1)
        further = further[further.clamp_min(0)]
    return distances
