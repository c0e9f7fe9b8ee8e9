"""Which score and which threshold keep the most attention mass: ``python -m benchmarks.scores --inputs captured:DIR``.

On the CPU, in float32, on a model's own Q and K. A score says how much of a row's attention a key block may hold, a
threshold turns a row of scores into a list. A row has the kept share of the blocks where 2, 5 and 10 % of the mass is
lost, mean over heads and layers, on straight lines between thresholds.

- ``mean P``: softmax energy of mean keys of P tokens, FlashPrefill's with P = 128, summed over a block.
- ``antidiagonal S``: softmax of sums along antidiagonals of S x S cells, XAttention's with S = 8, summed over a block.
- ``true mass``: the attention itself, which no method knows beforehand.
- ``of the maximum``: blocks with at least alpha times the row's largest score (FlashPrefill's rule); ``coverage``: the
  largest blocks that hold a share tau of the row's scores (XAttention's rule).
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.bench import Rows
from fp_bench.inputs.open import open_inputs
from fp_bench.inputs.source import Shape
from fp_bench.kernels.layout import BLOCK_SIZE as BLOCK
from fp_bench.sizes import parse_layers, parse_length

MEANS, STRIDES = (128, 64, 32, 16, 8), (8, 16)
STEPS = [2 ** (-step / 2) for step in range(1, 24)]
LOST = (0.02, 0.05, 0.1)
WINDOW, SINKS, LAST = 4, 2, 2
"""Blocks that FlashPrefill keeps in any case: up to the diagonal, first ones, and last rows."""
Score = Callable[[Tensor, Tensor], Tensor]
"""Of scaled queries and keys of a head, ``[length, head_dim]``: ``[query blocks, key blocks]``."""


def mean_energy(q: Tensor, k: Tensor, *, tokens: int) -> Tensor:
    """Return the energies of mean keys of ``tokens`` tokens, summed over blocks."""
    blocks = len(q) // BLOCK
    logits = q @ k.view(-1, tokens, k.shape[1]).mean(1).T
    ends = torch.arange(1, logits.shape[1] + 1) * tokens
    logits[torch.arange(len(q))[:, None] < ends - 1] = -torch.inf
    rows = logits.view(blocks, BLOCK, -1)
    return (rows - rows.amax((1, 2), keepdim=True)).exp().sum(1).view(blocks, blocks, -1).sum(-1)


def antidiagonal(q: Tensor, k: Tensor, *, stride: int) -> Tensor:
    """Return the softmax of antidiagonal sums of ``stride x stride`` cells, summed over blocks."""
    blocks, cells = len(q) // BLOCK, BLOCK // stride
    rows, columns = q.view(-1, stride, q.shape[1]).flip(1).flatten(1), k.view(-1, stride, k.shape[1]).flatten(1)
    logits = rows @ columns.T / stride
    logits.masked_fill_(torch.ones_like(logits, dtype=torch.bool).triu(1), -torch.inf)
    return logits.softmax(-1).view(blocks, cells, blocks, cells).sum((1, 3))


def true_mass(q: Tensor, k: Tensor) -> Tensor:
    """Return the share of each row of blocks' attention in each key block."""
    blocks = len(q) // BLOCK
    mass = torch.zeros(blocks, blocks)
    above = torch.ones(BLOCK, BLOCK, dtype=torch.bool).triu(1)
    for row, queries in enumerate(torch.split(q, BLOCK)):
        logits = queries @ k[: (row + 1) * BLOCK].T
        logits[:, row * BLOCK :][above] = -torch.inf
        mass[row, : row + 1] = logits.softmax(-1).view(BLOCK, row + 1, BLOCK).sum((0, 2)) / BLOCK
    return mass


def of_the_maximum(scores: Tensor, alpha: float) -> Tensor:
    """Return which blocks have at least ``alpha`` times the largest score of their row."""
    return scores >= alpha * scores.amax(1, keepdim=True)


def coverage(scores: Tensor, missing: float) -> Tensor:
    """Return the largest blocks of each row that hold all but ``missing`` of its scores."""
    largest, order = scores.sort(1, descending=True)
    before = largest.cumsum(1) - largest
    wanted = (1 - missing) * largest.sum(1, keepdim=True)
    return torch.zeros_like(scores, dtype=torch.bool).scatter(1, order, before < wanted)


SCORES: Mapping[str, Score] = {
    **{f"mean {tokens}": partial(mean_energy, tokens=tokens) for tokens in MEANS},
    **{f"antidiagonal {stride}": partial(antidiagonal, stride=stride) for stride in STRIDES},
    "true mass": true_mass,
}
RULES: Mapping[str, Callable[[Tensor, float], Tensor]] = {"of the maximum": of_the_maximum, "coverage": coverage}
Sums = dict[tuple[str, str, float], list[float]]
"""Of score, rule and threshold: kept share, lost mass and heads."""


def forced(blocks: int, *, few: bool) -> Tensor:
    """Return the blocks that are kept in any case: FlashPrefill's, or only the first one and the diagonal."""
    row, column = torch.arange(blocks)[:, None], torch.arange(blocks)
    if few:
        return (row == column) | (column == 0)
    return (row - column < WINDOW) | (column < SINKS) | (row >= blocks - LAST)


def add_head(found: Sums, q: Tensor, k: Tensor, kept_anyway: Tensor) -> None:
    """Add a head: what each score and threshold keeps, and the mass it loses."""
    mass = true_mass(q, k)
    causal = torch.ones_like(mass, dtype=torch.bool).tril()
    for name, score in SCORES.items():
        scores = mass if name == "true mass" else score(q, k)
        for rule, keep in RULES.items():
            for step in STEPS:
                kept = (keep(scores, step) | kept_anyway) & causal
                lost = 1 - float((mass * kept).sum()) / len(mass)
                sums = found[name, rule, step]
                sums[:] = [a + b for a, b in zip(sums, (float(kept.sum() / causal.sum()), lost, 1.0), strict=True)]


def densities(sums: Sequence[Sequence[float]]) -> dict[str, float]:
    """Return the kept share by lost mass, from the sums of all thresholds."""
    points = sorted((lost / heads, kept / heads) for kept, lost, heads in sums)
    lost, kept = np.array(points).T
    at = np.interp(np.log(LOST), np.log(np.maximum(lost, 1e-9)), kept)
    return {f"kept_at_{share:g}": float(value) for share, value in zip(LOST, at, strict=True)} | {"heads": sums[0][2]}


def main() -> None:
    """Write one row a score and threshold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scores", description=__doc__)
    parser.add_argument("--inputs", required=True, help="captured:DIR")
    parser.add_argument("--length", type=parse_length, default=8192, help="a multiple of 128")
    parser.add_argument("--layers", type=parse_layers, help="default: all that were captured")
    parser.add_argument("--every", type=int, default=2, help="of each layer, one head in so many")
    parser.add_argument("--few", action="store_true", help="force only the first block and the diagonal")
    parser.add_argument("--out", type=Path, default=Path("runs") / "scores", help="run folder")
    asked = parser.parse_args()
    source = open_inputs(asked.inputs)
    shape = source.shapes(Shape(1, asked.length, 32, 8, 128))
    kept_anyway = forced(asked.length // BLOCK, few=asked.few)
    found: Sums = defaultdict(lambda: [0.0, 0.0, 0.0])
    for layer in asked.layers or source.layers():
        q, k, _ = source.tensors(shape, layer=layer, seed=0, dtype=torch.bfloat16, device=torch.device("cpu"))
        for head in range(0, shape.q_heads, asked.every):
            keys = k[0, :, head // (shape.q_heads // shape.kv_heads)].float()
            add_head(found, q[0, :, head].float() * shape.head_dim**-0.5, keys.contiguous(), kept_anyway)
        print(f"layer {layer}", flush=True)
    rows = Rows("scores", torch.device("cpu"), asked.out)
    window = "first block and diagonal" if asked.few else f"window {WINDOW}, {SINKS} sinks"
    for name in SCORES:
        for rule in RULES:
            sums = [found[name, rule, step] for step in STEPS]
            figures = partial(densities, sums)
            rows.row(f"{name}, {rule}", asked.length, figures, inputs=source.name, forced=window)


if __name__ == "__main__":
    main()
