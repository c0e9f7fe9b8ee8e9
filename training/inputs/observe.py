"""What sparse methods keep of an attention call: the share of pairs, and of dense attention's weights in them."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from fp_bench.methods.base import AttentionCall
from fp_bench.methods.registry import Spec, create_method

LONG = 16384
"""Beyond this length XAttention is observed on parts of a prompt on a CPU; its scores of all pairs take minutes."""
PARTED = ("xattention",)
PARTS = 8
"""Such parts, evenly spread."""
PART_TOKENS = 256
ROWS = 96
"""Queries on which recall is measured, evenly spread over a prompt or its parts."""


@dataclass(frozen=True)
class Kept:
    """What a method keeps, mean over heads (and layers, where there are several)."""

    density: float
    """Share of the causal query-key pairs."""
    recall: float
    """Share of dense attention's weights, mean over queries."""


def observe(call: AttentionCall, labels: Iterable[str]) -> dict[str, Kept]:
    """Return what each method, named as on the command line, keeps of a prompt; one that runs dense keeps all.

    Args:
        call: of one layer.
        labels: e.g. ``flashprefill:alpha=0.03``.
    """
    labels = list(labels)
    short = call.q.is_cuda or call.kv_len <= LONG
    parted = [label for label in labels if label.startswith(PARTED) and not short]
    kept = _observe(call, [label for label in labels if label not in parted], ROWS)
    if parted:
        parts = _parts(call)
        of_parts = [_observe(part, parted, ROWS // PARTS) for part in parts]
        pairs = [part.kv_len / sum(part.kv_len for part in parts) for part in parts]
        for label in parted:
            each = [found[label] for found in of_parts]
            density = sum(one.density * share for one, share in zip(each, pairs, strict=True))
            kept[label] = Kept(density, mean_kept(each).recall)
    return kept


def mean_kept(each: Iterable[Kept]) -> Kept:
    """Return the mean of observations, e.g. of layers or texts."""
    each = list(each)
    return Kept(sum(one.density for one in each) / len(each), sum(one.recall for one in each) / len(each))


def _parts(call: AttentionCall) -> list[AttentionCall]:
    """Return evenly spread chunks of queries with the keys before them."""
    middles = ((number + 0.5) / PARTS for number in range(PARTS))
    ends = [math.ceil(call.kv_len * middle / PART_TOKENS) * PART_TOKENS for middle in middles]
    return [
        AttentionCall(
            call.q[:, end - PART_TOKENS : end], call.k[:, :end], call.v[:, :end], scale=call.scale, last_chunk=False
        )
        for end in ends
    ]


def _observe(call: AttentionCall, labels: list[str], count: int) -> dict[str, Kept]:
    rows = torch.linspace(0, call.q_len - 1, count, device=call.q.device).long()
    position = rows + call.kv_len - call.q_len
    indices = {label: create_method(Spec.parse(label)).select(call) for label in labels}
    recall = dict.fromkeys(labels, 0.0)
    visible = torch.arange(call.kv_len, device=call.q.device) <= position[:, None]
    for head in range(call.q_heads):
        weights = _dense(call, head, rows, visible)
        for label, index in indices.items():
            read = visible if index is None else visible & index.keys_read(0, head, position)
            recall[label] += float((weights * read).sum(1).mean()) / call.q_heads
    return {
        label: Kept(1.0 if index is None else float(index.density().mean()), recall[label])
        for label, index in indices.items()
    }


def _dense(call: AttentionCall, head: int, rows: Tensor, visible: Tensor) -> Tensor:
    """Return dense attention's weights ``[rows, kv_len]`` of one head."""
    keys = call.k[0, :, head // (call.q_heads // call.kv_heads)].float()
    logits = call.q[0, rows, head].float() @ keys.T * call.scale
    return logits.masked_fill(~visible, -math.inf).softmax(1)
