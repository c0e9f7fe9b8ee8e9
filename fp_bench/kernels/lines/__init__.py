"""Attention over vertical columns and slash diagonals (MInference), and over sinks and a window (A-shape).

What the last 64 queries attend to decides which columns and diagonals a head keeps; for each block of 64 queries the
diagonals become tiles of 64 keys, and the columns outside the tiles stay single keys.
"""

import torch
from torch import Tensor

from fp_bench.errors import UnsupportedError
from fp_bench.kernels.attention import AttentionOut, check_call
from fp_bench.kernels.attention.last import last_attention
from fp_bench.kernels.backend import resolve_backend
from fp_bench.kernels.layout import check_scale
from fp_bench.kernels.lines.head_patterns import HeadPatterns
from fp_bench.kernels.lines.index import OCTET, STOP, TILE, VerticalSlashIndex

LAST_QUERIES = 64
"""Queries whose attention decides."""
SINK_COLUMNS, NEAR_DIAGONALS = 30, 100
"""Columns at the start, and diagonals beside the main one, that are kept before any other."""


def check_prompt(q: Tensor, k: Tensor, patterns: HeadPatterns) -> None:
    """Refuse what patterns are not defined for.

    Raises:
        UnsupportedError: a chunk of a prompt, a prompt of less than one tile, or patterns of other heads.
    """
    if q.shape[1] != k.shape[1]:
        raise UnsupportedError(
            f"q_len {q.shape[1]} is not kv_len {k.shape[1]}; columns and diagonals need whole prompts"
        )
    if k.shape[1] < TILE:
        raise UnsupportedError(f"kv_len {k.shape[1]} is less than one tile of {TILE}; use dense attention")
    if len(patterns.sizes) != q.shape[2]:
        raise UnsupportedError(f"patterns are of {len(patterns.sizes)} heads, q has {q.shape[2]}")


def strongest_lines(
    q: Tensor, k: Tensor, patterns: HeadPatterns, *, scale: float, backend: str = "auto"
) -> tuple[Tensor, Tensor] | None:
    """Return ``(columns, offsets)``, ``[batch, q_heads, most]`` int32 each; None where no head keeps lines.

    An offset is how far a diagonal's keys are before their queries. Both ascend, as many as the head is to keep, then
    numbers past every key follow; those of heads that keep no lines are undefined. Of equal masses, which is kept is
    left open. On GPUs nothing waits for the device; it takes about four vectors of ``kv_len`` floats a head.

    Args:
        q: ``[batch, kv_len, q_heads, head_dim]``.
        k: ``[batch, kv_len, kv_heads, head_dim]``, at least 64 keys.
        patterns: what each query head keeps; heads that keep blocks read nothing here.
        scale: factor on the logits, positive.
        backend: ``auto``, ``triton`` or ``torch``; ``hopper`` runs the Triton kernels here.

    Raises:
        UnsupportedError: a chunk of a prompt, a prompt of less than one tile, or patterns of other heads.
    """
    check_prompt(q, k, patterns)
    check_scale(scale)
    if patterns.most == (0, 0):
        return None
    kv_len = k.shape[1]
    mass = last_attention(q[:, -LAST_QUERIES:], k, scale, backend=backend)[..., :kv_len]
    counts = patterns.sizes.clamp_max(kv_len)
    columns = _largest(mass[0], counts[:, 0], SINK_COLUMNS, min(patterns.most[0], kv_len))
    offsets = _largest(mass[1].flip(-1), counts[:, 1], NEAR_DIAGONALS, min(patterns.most[1], kv_len))
    return columns, offsets


def index_of_lines(
    lines: tuple[Tensor, Tensor] | None, patterns: HeadPatterns, lengths: tuple[int, int], backend: str
) -> VerticalSlashIndex:
    """Return the tiles and columns of chosen lines, and of A-shape heads, converted on ``triton`` or ``torch``.

    Args:
        lines: from `strongest_lines`; None where no head keeps lines.
        patterns: what each query head keeps.
        lengths: batch and kv_len.
        backend: ``triton`` or ``torch``.
    """
    batch, kv_len = lengths
    columns, following = _fixed_lines(patterns, kv_len)
    if lines is not None:
        chosen, offsets = lines
        chosen = torch.nn.functional.pad(chosen, (0, columns.shape[-1] - chosen.shape[-1]), value=_past(kv_len))
        fixed = patterns.fixed[:, None]
        columns = torch.where(fixed, columns, chosen)
        following = torch.where(fixed, following, following_diagonals(offsets, kv_len))
    shape = (batch, len(patterns.sizes), -1)
    everything = torch.zeros_like(patterns.sizes)
    everything[:, 1] = kv_len
    windows = torch.where(patterns.fixed[:, None], patterns.sizes, everything)
    index = VerticalSlashIndex.empty(
        following.expand(shape).contiguous(), columns.expand(shape).contiguous(), windows, kv_len
    )
    convert(index, backend)
    return index


def convert(index: VerticalSlashIndex, backend: str) -> None:
    """Fill the counts and octets of an index whose other fields are given, on ``triton`` or ``torch``."""
    if backend == "triton":
        from fp_bench.kernels.lines.triton import convert_triton as fill
    else:
        from fp_bench.kernels.lines.lines_torch import convert_torch as fill
    fill(index)


def _past(kv_len: int) -> int:
    """Return the first number past every key of every row block: what ends lists of columns and offsets."""
    return -(-kv_len // TILE) * TILE


def _fixed_lines(patterns: HeadPatterns, kv_len: int) -> tuple[Tensor, Tensor]:
    """Return ``(columns [q_heads, width], following [q_heads, 64 * rows + 1])`` of A-shape heads, int32."""
    past, device = _past(kv_len), patterns.sizes.device
    sink, local = patterns.sizes.unbind(-1)
    most = min(max(patterns.most_sinks, patterns.most[0], 1), kv_len)
    place = torch.arange(-(-most // OCTET) * OCTET, dtype=torch.int32, device=device)
    columns = place.masked_fill(place >= sink[:, None].clamp_max(kv_len), past)
    distance = torch.arange(past + 1, dtype=torch.int32, device=device)
    following = (distance - TILE).minimum(local[:, None] - 1)
    return columns, following.masked_fill_((distance == 0) | (local[:, None] == 0), STOP)


def following_diagonals(offsets: Tensor, kv_len: int) -> Tensor:
    """Return `VerticalSlashIndex.following` of diagonals.

    Args:
        offsets: ``[batch, q_heads, most]`` int32, how far each diagonal's keys are before their queries: ascending, the
            first 0; numbers past every key fill the rest.
        kv_len: queries, and keys.
    """
    distance = torch.arange(_past(kv_len) + 1, dtype=torch.int32, device=offsets.device)
    everywhere = distance.expand(*offsets.shape[:2], -1).contiguous()
    # Offset 0 is always kept, so there is one below every distance but 0.
    below = offsets.gather(-1, torch.searchsorted(offsets, everywhere).sub_(1).clamp_min_(0))
    following = below.minimum(distance - TILE)
    following[..., 0] = STOP
    return following


def _largest(mass: Tensor, counts: Tensor, forced: int, most: int) -> Tensor:
    """Return ``[batch, q_heads, most]`` int32: the places of the ``counts[head]`` largest, ascending.

    ``mass [batch, q_heads, kv_len]``, of at most 1, is overwritten: the first ``forced`` places come before all others.
    """
    kv_len = mass.shape[-1]
    forced = min(forced, kv_len)
    mass[..., :forced] = torch.arange(forced + 1, 1, -1, device=mass.device)
    places = mass.topk(most).indices.int()
    beyond = torch.arange(most, device=mass.device) >= counts[:, None]
    return places.masked_fill_(beyond, _past(kv_len)).sort(-1).values


def vertical_slash_attention(
    q: Tensor, k: Tensor, v: Tensor, index: VerticalSlashIndex, *, scale: float, backend: str = "auto"
) -> AttentionOut:
    """Return causal attention of every query over the tiles and columns of its block of 64 queries.

    Defined by `reference.attention`. A head that reads nothing gets output 0 and lse -inf.

    Args:
        q: ``[batch, kv_len, q_heads, head_dim]``, any strides with head_dim contiguous; head_dim 64, 128 or 256.
        k: ``[batch, kv_len, kv_heads, head_dim]``.
        v: as ``k``.
        index: what to read, for this length and these query heads.
        scale: factor on the logits, positive.
        backend: ``auto``, ``triton`` (float16, bfloat16 on a GPU) or ``torch``; ``hopper`` runs the Triton kernel here.

    Raises:
        UnsupportedError: tensors or an index that the kernels do not define, or inputs that require grad.
    """
    check_call(q, k, v, scale, (*index.tile_counts.shape[:2], index.kv_len, index.kv_len))
    if resolve_backend(q, backend) == "triton":
        from fp_bench.kernels.lines.triton import vertical_slash_attention_triton as attend
    else:
        from fp_bench.kernels.lines.lines_torch import vertical_slash_attention_torch as attend
    return AttentionOut(*attend(q, k, v, index, scale))
