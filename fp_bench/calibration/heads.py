"""MInference's pattern for each layer and head of a model, by the search that its authors ship.

Each candidate's lines or blocks are chosen as in MInference; its score is the exact attention mass that they
hold, mean over queries. The best one becomes the head's pattern, under its own name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fp_bench.calibration.captured import captured_calls, captured_model
from fp_bench.errors import UsageError
from fp_bench.inputs.captured import Captured
from fp_bench.jobs.machine import parse_dtype
from fp_bench.kernels.attention.last import last_attention
from fp_bench.kernels.lines import LAST_QUERIES, SINK_COLUMNS
from fp_bench.kernels.lines.head_patterns import AShape, Blocks, HeadPatterns, Lines, Pattern
from fp_bench.kernels.lines.strongest_blocks import select_strongest_blocks
from fp_bench.methods.base import AttentionCall
from fp_bench.methods.minference import MInference
from fp_bench.methods.minference.patterns import write_patterns
from fp_bench.reports.table import Table

CANDIDATES: tuple[Pattern, ...] = (
    AShape(100, 800), Lines(30, 800), Lines(100, 750), Lines(500, 700), Lines(3500, 100), Blocks(58),
)  # fmt: skip
"""The candidates of the authors' search; its blocks of 32 keys, an eighth of 30000 tokens, hold as many keys."""
NEAR_DIAGONALS = 30
"""Forced diagonals during the search; the method forces 100."""
FIRST_QUERY = 2500
"""First scored query; in short texts the second half is scored."""
QUERIES_AT_ONCE = 256
ALL = 0.9999
"""Share of the attention from which a pattern counts as complete."""


@dataclass(frozen=True)
class HeadSearch:
    """Each layer's pattern and score of every query head."""

    layers: list[list[tuple[Pattern, float]]]

    @property
    def mean(self) -> float:
        """Mean score over layers and heads."""
        scores = [score for layer in self.layers for _, score in layer]
        return sum(scores) / len(scores)

    def table(self) -> Table:
        """Return the number of heads per layer and pattern."""
        used = [
            pattern for pattern in CANDIDATES if any(pattern == found for heads in self.layers for found, _ in heads)
        ]
        rows = []
        for layer, heads in enumerate(self.layers):
            counts = [str(sum(found == pattern for found, _ in heads)) for pattern in used]
            rows.append([str(layer), *counts, f"{sum(score for _, score in heads) / len(heads):.1%}"])
        return Table("heads by pattern", ["layer", *map(_name, used), "mass held"], rows, numbers=1)

    def save(self, path: Path) -> None:
        """Write the file that ``minference:config=...`` reads.

        Raises:
            UnavailableError: it cannot be written.
        """
        write_patterns(path, self.layers)


def _name(pattern: Pattern) -> str:
    match pattern:
        case Lines():
            return f"lines {pattern.columns}/{pattern.diagonals}"
        case AShape():
            return f"A-shape {pattern.sink}/{pattern.local}"
        case Blocks():
            return f"blocks {pattern.count}"


def search_model(
    model: str, lengths: Sequence[int], *, text: str | None, seed: int, device: torch.device, dtype: str
) -> HeadSearch:
    """Capture Q, K, V of all layers of a model and search its heads; see `search`.

    Raises:
        UsageError: a text that is too short, a length beyond the model's or below 64, or one at which a candidate
            keeps everything.
        UnsupportedError: attention that a dense causal call does not define.
        UnavailableError: the model cannot be loaded.
    """
    if min(lengths) < LAST_QUERIES:
        raise UsageError(
            f"--lens {min(lengths)} is less than the {LAST_QUERIES} queries that it needs; give a greater length"
        )
    with captured_model(model, lengths, text=text, seed=seed, device=device, dtype=parse_dtype(dtype)) as source:
        found = search(source, device=device, dtype=parse_dtype(dtype))
    if all(score >= ALL for layer in found.layers for _, score in layer):
        raise UsageError(
            f"--lens {max(lengths)}: every head's best pattern keeps everything, so none is better; give a greater "
            "length"
        )
    return found


@torch.no_grad()
def search(source: Captured, *, device: torch.device, dtype: torch.dtype) -> HeadSearch:
    """Return the candidate that holds most of each head's exact attention, and how much (mean over lengths).

    Args:
        source: the captured tensors of all layers.
        device: where it is computed.
        dtype: of the tensors there.
    """
    found: dict[int, list[Tensor]] = {}
    for call in captured_calls(source, device, dtype, MInference()):
        found.setdefault(call.layer, []).append(mass_held(call))
    layers = []
    for layer in sorted(found):
        best, which = torch.stack(found[layer]).mean(0).max(0)
        layers.append([(CANDIDATES[c], score) for c, score in zip(which.tolist(), best.tolist(), strict=True)])
    return HeadSearch(layers)


def mass_held(call: AttentionCall) -> Tensor:
    """Return ``[candidates, q_heads]``: the share of exact attention that each candidate keeps, mean over queries.

    Never more than 256 rows of one head's logits exist.
    """
    n, group = call.kv_len, call.q_heads // call.kv_heads
    by_line = last_attention(call.q[:, -LAST_QUERIES:], call.k, call.scale)[..., :n]
    by_line[1] = by_line[1].flip(-1)
    key = torch.arange(n, device=call.q.device)
    held = torch.zeros((len(CANDIDATES), call.q_heads), device=call.q.device)
    first = min(FIRST_QUERY, n // 2)
    of_blocks = {
        pattern: select_strongest_blocks(call.q, call.k, HeadPatterns.of([pattern] * call.q_heads, call.q.device))
        for pattern in CANDIDATES
        if isinstance(pattern, Blocks)
    }
    for batch in range(call.batch):
        for head in range(call.q_heads):
            of_lines = {
                pattern: kept_lines(pattern, *by_line[:, batch, head])
                for pattern in CANDIDATES
                if not isinstance(pattern, Blocks)
            }
            keys = call.k[batch, :, head // group].float()
            for start in range(first, n, QUERIES_AT_ONCE):
                query = torch.arange(start, min(start + QUERIES_AT_ONCE, n), device=key.device)
                distance = query[:, None] - key
                logits = call.q[batch, start : start + QUERIES_AT_ONCE, head].float() @ keys.T * call.scale
                weights = logits.masked_fill_(distance < 0, -torch.inf).softmax(-1)
                for number, pattern in enumerate(CANDIDATES):
                    if isinstance(pattern, Blocks):
                        kept = of_blocks[pattern].keys_read(batch, head, query)
                    else:
                        columns, diagonals = of_lines[pattern]
                        kept = columns | diagonals[distance.clamp_min(0)]
                    held[number, head] += torch.where(kept, weights, 0.0).sum()
    return held / (call.batch * (n - first))


def kept_lines(pattern: Lines | AShape, by_key: Tensor, by_offset: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``(columns, diagonals)``, each ``[kv_len]`` bool: the keys, and the distances, that a pattern keeps.

    Args:
        pattern: the pattern.
        by_key: ``[kv_len]``, attention of the last queries on each key.
        by_offset: ``[kv_len]``, the same on each distance.
    """
    place = torch.arange(len(by_key), device=by_key.device)
    if isinstance(pattern, AShape):
        return place < pattern.sink, place < pattern.local
    kept = []
    for mass, count, forced in zip((by_key, by_offset), pattern.sizes, (SINK_COLUMNS, NEAR_DIAGONALS), strict=True):
        largest = mass.masked_fill(place < forced, torch.inf).topk(min(count, len(mass))).indices
        kept.append(torch.zeros_like(mass, dtype=torch.bool).index_fill_(0, largest, True))
    return kept[0], kept[1]
