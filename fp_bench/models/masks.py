"""Attention masks between transformers and a causal operator: which calls are plain causal, and the masks of others.

A custom attention function without a mask function gets no mask at all from transformers, and padding, windows and
packed rows would be ignored silently. ``prefill_mask`` is that function. It returns the mask of a prefill call:

- ``None``: plain causal over all keys, bottom-right if there are fewer queries than keys;
- ``[batch, seen]``: plain causal over the first ``seen`` keys of a longer static cache;
- ``[batch, 1, q_len, kv_len]`` boolean: anything else, in SDPA's form.

Models with only eager attention may extend or read an additive mask; ``dense_prefill_mask`` makes it.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

ROWS = 1024
"""Rows of a mask read at a time, to limit memory."""


def prefill_mask(
    *,
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    device: torch.device | str = "cpu",
    **more: Any,
) -> Tensor | None:
    """Make the mask of one forward pass, in the form of transformers' AttentionMaskInterface.

    Args:
        batch_size: rows.
        q_length: queries of each row.
        kv_length: keys of each row, the unwritten ones of a static cache included.
        q_offset: position of the first query.
        kv_offset: position of the first key; a sliding cache has dropped those before it.
        attention_mask: ``[batch, tokens]`` boolean, False where a token is padding.
        local_size: window or chunk of the mask's layers.
        allow_is_causal_skip: False where transformers deviates from the causal pattern, as for packed rows.
        device: device of the mask.
        more: further arguments of SDPA's mask function.

    Returns:
        One of the three forms above.
    """
    from transformers.masking_utils import sdpa_mask

    local = local_size is not None and (kv_length > local_size or kv_offset > 0)
    if q_length > 1 and allow_is_causal_skip and not local:
        seen = int(q_offset) + q_length - kv_offset
        if attention_mask is None or bool(attention_mask[:, kv_offset : kv_offset + seen].all()):
            return None if seen == kv_length else torch.ones((batch_size, seen), dtype=torch.bool, device=device)
    mask: Tensor | None = sdpa_mask(
        batch_size=batch_size,
        q_length=q_length,
        kv_length=kv_length,
        q_offset=q_offset,
        kv_offset=kv_offset,
        attention_mask=attention_mask,
        local_size=local_size,
        allow_is_causal_skip=allow_is_causal_skip,
        device=device,
        **more,
    )
    return mask


def dense_prefill_mask(**asked: Any) -> Tensor:
    """Make the additive ``[batch, 1, q_len, kv_len]`` mask of eager attention, with transformers' arguments."""
    from transformers.masking_utils import eager_mask

    mask: Tensor = eager_mask(**asked)
    return mask


def plain_causal_keys(mask: Tensor) -> int:
    """Return how many keys an additive mask ``[batch, 1, q_len, kv_len]`` attends to, if bottom-right causal; else 0.

    Keys after them are hidden from every query: the places of a static cache that are not written yet.
    """
    hidden = torch.finfo(mask.dtype).min
    keys = torch.arange(mask.shape[-1], device=mask.device)
    kv_len = int((keys + 1).where(mask[0, 0, -1] > hidden, 0).max())
    q_len = mask.shape[-2]
    if kv_len < q_len:
        return 0
    for start in range(0, q_len, ROWS):
        rows = mask[:, :, start : start + ROWS]
        seen = keys <= torch.arange(start, start + rows.shape[2], device=mask.device)[:, None] + kv_len - q_len
        if not bool(torch.where(seen, rows == 0, rows <= hidden).all()):
            return 0
    return kv_len


def kept_by_model(indices: Tensor, kv_len: int, *, block_size: int = 1) -> Tensor:
    """Return the keys that a model's own selection keeps.

    Args:
        indices: ``[batch, heads, q_len, kept]``, numbers of keys or of blocks of keys; -1 for none.
        kv_len: keys.
        block_size: keys of a block.

    Returns:
        ``[batch, heads, q_len, kv_len]`` boolean.
    """
    blocks = -(-kv_len // block_size)
    places = indices.long().masked_fill(indices < 0, blocks)
    kept = torch.zeros((*indices.shape[:3], blocks + 1), dtype=torch.bool, device=indices.device)
    kept.scatter_(-1, places, True)
    return kept[..., :blocks].repeat_interleave(block_size, dim=-1)[..., :kv_len]


def with_own_selection(
    module: Any, query: Tensor, key: Tensor, mask: Tensor | None, options: dict[str, Any]
) -> tuple[Tensor | None, bool]:
    """Merge the keys that the model itself selects into the mask; return it, and whether there were any.

    transformers merges them only into the mask of eager and SDPA; other functions get the numbers.
    """
    tokens, blocks = options.get("indices"), options.get("block_indices")
    if tokens is None and blocks is None:
        return mask, False
    q_len, kv_len = query.shape[2], key.shape[2]
    if tokens is not None:
        kept = kept_by_model(tokens[:, None], kv_len)
    else:
        assert blocks is not None
        kept = kept_by_model(blocks, kv_len, block_size=module.indexer.block_size)
        kept = kept.repeat_interleave(query.shape[1] // kept.shape[1], dim=1)
    if mask is None:
        mask = visible(q_len, kv_len, device=query.device)
    return both(mask, kept), True


def both(mask: Tensor, own: Tensor) -> Tensor:
    """Return the intersection of a boolean or additive mask and a boolean one, in the first one's type."""
    if mask.dtype == torch.bool:
        return mask & own
    return mask.masked_fill(~own, torch.finfo(mask.dtype).min)


def visible(
    q_len: int,
    kv_len: int,
    *,
    window: int | None = None,
    positions: Tensor | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return the keys that each query sees: itself and earlier keys, within its window and its packed sequence.

    Args:
        q_len: queries; the last ones of the keys.
        kv_len: keys.
        window: keys up to and including itself that a query sees; None for all.
        positions: ``[rows, q_len]``, each query's position in its packed sequence; None for one sequence per row.
        device: device of the mask.

    Returns:
        ``[rows or 1, 1, q_len, kv_len]`` boolean.
    """
    query = torch.arange(kv_len - q_len, kv_len, device=device)[:, None]
    key = torch.arange(kv_len, device=device)
    mask = (key <= query)[None, None]
    if window is not None:
        mask = mask & (key > query - window)
    if positions is not None:
        mask = mask & (key >= query - positions[:, None, :, None])
    return mask


def packed_positions(cu_seq_lens: Tensor, q_len: int) -> Tensor:
    """Return each token's position in its own sequence, ``[1, q_len]``, from the bounds ``[sequences + 1]``."""
    tokens = torch.arange(q_len, device=cu_seq_lens.device)
    sequence = torch.searchsorted(cu_seq_lens.contiguous(), tokens, right=True) - 1
    return (tokens - cu_seq_lens[sequence])[None]


class Span(NamedTuple):
    """One sequence of a batch: queries that see what lies between their first key and themselves, and nothing else."""

    row: int
    queries: slice
    keys: slice


def sequences(mask: Tensor | None, positions: Tensor | None, rows: int, q_len: int, kv_len: int) -> list[Span] | None:
    """Return the sequences of a padded or packed batch; None where the mask says more. It waits for the device.

    Args:
        mask: ``[rows, heads, q_len, kv_len]``, boolean or additive; None where positions say all.
        positions: ``[rows or 1, q_len]``, of each query in its own packed sequence; None where the mask says all.
        rows: of the batch.
        q_len: queries; the last ones of the keys.
        kv_len: keys.
    """
    first = None
    if mask is not None and (first := _first_keys(mask, kv_len)) is None:
        return None
    if positions is not None:
        own = torch.arange(kv_len - q_len, kv_len, device=positions.device) - positions
        first = own.clamp_min(0) if first is None else own.maximum(first).where(first >= 0, first)
    assert first is not None
    found = []
    for row, keys in enumerate(first.expand(rows, -1)):
        stop = 0
        for key, count in zip(*(part.tolist() for part in keys.unique_consecutive(return_counts=True)), strict=True):
            start, stop = stop, stop + count
            if key >= 0:
                found.append(Span(row, slice(start, stop), slice(key, kv_len - q_len + stop)))
    return found


def _first_keys(mask: Tensor, kv_len: int) -> Tensor | None:
    """Return the first key that each query of a mask sees, ``[rows, q_len]``; -1 of padding, which none sees.

    None where a query sees more or less than all keys from its first one to itself, or a whole row looks like padding:
    its queries then lie elsewhere, as in a static cache.
    """
    if mask.shape[1] != 1 or mask.shape[-1] != kv_len:
        return None
    keys, before = torch.arange(kv_len, device=mask.device), kv_len - mask.shape[-2]
    firsts, whole, seen_by_any = [], [], torch.zeros(mask.shape[0], kv_len, dtype=torch.bool, device=mask.device)
    for start in range(0, mask.shape[-2], ROWS):
        part = mask[:, 0, start : start + ROWS]
        seen = part if part.dtype == torch.bool else part > torch.finfo(part.dtype).min
        first = seen.int().argmax(-1)
        own = keys[before + start :][: part.shape[1], None]
        whole.append((seen == ((keys >= first[..., None]) & (keys <= own))).all(-1))
        firsts.append(first)
        seen_by_any |= seen.any(1)
    padding = ~seen_by_any[:, before:]
    if bool(padding.all(-1).any()):
        return None
    return torch.cat(firsts, 1).where(~padding, -1) if bool((torch.cat(whole, 1) | padding).all()) else None


def hides_a_key(mask: Tensor) -> bool:
    """Whether a mask ``[.., q_len, kv_len]``, boolean or additive, hides some key from every query, as padding does."""
    seen = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min
    return not bool(seen.any(-2).all())
