"""Attention masks between transformers and a causal operator: which calls are plain causal, and what the others see.

A custom attention function without a mask function gets no mask at all from transformers, and padding, windows and
packed rows would be dropped in silence. ``prefill_mask`` is that function. It says what a prefill call may see:

- ``None``: plain causal over all keys, bottom-right where there are fewer queries than keys;
- ``[batch, seen]``: plain causal over the first ``seen`` keys of a longer static cache;
- ``[batch, 1, q_len, kv_len]`` boolean: anything else, as SDPA gets it.

Models that run eager alone may extend their mask or read it, as an additive one: ``dense_prefill_mask`` gives it.
"""

from typing import Any

import torch
from torch import Tensor

ROWS = 1024
"""Rows of a mask that are read at a time, to bound memory."""


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
    """Make the mask of one forward pass, as transformers' AttentionMaskInterface asks for it.

    Args:
        batch_size: rows.
        q_length: queries of each row.
        kv_length: keys of each row, the unwritten ones of a static cache included.
        q_offset: position of the first query.
        kv_offset: position of the first key; a sliding cache has dropped those before it.
        attention_mask: ``[batch, tokens]`` boolean, False where a token is padding.
        local_size: window or chunk of the layers that the mask is for.
        allow_is_causal_skip: False where transformers deviates from the causal pattern, as for packed rows.
        device: where the mask goes.
        more: what else SDPA's mask function takes.

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
    """Make the additive ``[batch, 1, q_len, kv_len]`` mask that eager attention gets, arguments as transformers'."""
    from transformers.masking_utils import eager_mask

    mask: Tensor = eager_mask(**asked)
    return mask


def is_plain_causal(mask: Tensor) -> bool:
    """Whether an additive mask ``[batch, 1, q_len, kv_len]`` is bottom-right causal and nothing else."""
    q_len, kv_len = mask.shape[-2:]
    hidden = torch.finfo(mask.dtype).min
    keys = torch.arange(kv_len, device=mask.device)
    for start in range(0, q_len, ROWS):
        rows = mask[:, :, start : start + ROWS]
        seen = keys <= torch.arange(start, start + rows.shape[2], device=mask.device)[:, None] + kv_len - q_len
        if not bool(torch.where(seen, rows == 0, rows <= hidden).all()):
            return False
    return True


def kept_by_model(indices: Tensor, kv_len: int, *, block_size: int = 1) -> Tensor:
    """Return which keys a model's own selection keeps.

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


def visible(
    q_len: int,
    kv_len: int,
    *,
    window: int | None = None,
    positions: Tensor | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return what each query sees: itself and the keys before it, within its window and its packed sequence.

    Args:
        q_len: queries; the last ones of the keys.
        kv_len: keys.
        window: keys up to and including itself that a query sees; None for all.
        positions: ``[rows, q_len]``, each query's position in its own packed sequence; None for one sequence a row.
        device: where the mask goes.

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


def hides_a_key(mask: Tensor) -> bool:
    """Whether a mask ``[.., q_len, kv_len]``, boolean or additive, hides some key from every query, as padding does."""
    seen = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min
    return not bool(seen.any(-2).all())
