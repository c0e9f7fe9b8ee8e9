"""What each rounding of 8-bit attention costs: ``python -m benchmarks.fp8_rounding --inputs captured:DIR --length 8k``.

On the CPU, in float32: FlashPrefill's lists of blocks, sampled queries of every head of every layer, one operand or
several rounded. A row has the relative error of a head to exact attention over the same lists, its mean and maximum
over heads. ``now`` is what `fp_bench.kernels.fp8` computes; sums are exact here, and tensor cores keep fewer bits.
"""

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.bench import Rows
from fp_bench.inputs.open import open_inputs
from fp_bench.inputs.source import Shape
from fp_bench.kernels.fp8.layout import E4M3, E4M3_LARGEST, INT8_LARGEST, LOG2_WEIGHTS, SMALLEST_PEAK, key_shift
from fp_bench.kernels.layout import BLOCK_SIZE
from fp_bench.methods.base import AttentionCall
from fp_bench.methods.flashprefill import FlashPrefill
from fp_bench.sizes import parse_length

QUERIES = 128
"""Sampled a head, evenly."""
Rounding = Callable[[Tensor], Tensor]
"""Of ``[rows, head_dim]``, a scale a group of rows."""


class Rounded(NamedTuple):
    """Which operands are rounded; None leaves one as it is."""

    q: Rounding | None = None
    k: Rounding | None = None
    v: Rounding | None = None
    p: bool = False
    shift: bool = False


def int8(rows: int) -> Rounding:
    """Return the rounding to INT8 with a scale for so many rows."""
    return lambda x: _scaled(x, rows, INT8_LARGEST, torch.Tensor.round)


def e4m3(rows: int) -> Rounding:
    """Return the rounding to e4m3 with a scale for so many rows."""
    return lambda x: _scaled(x, rows, E4M3_LARGEST, lambda scaled: scaled.to(E4M3).float())


BLOCK = BLOCK_SIZE
CASES = {
    "Q in e4m3": Rounded(q=e4m3(1)),
    "Q in INT8": Rounded(q=int8(1)),
    "K in e4m3": Rounded(k=e4m3(BLOCK)),
    "K in e4m3, shifted": Rounded(k=e4m3(BLOCK), shift=True),
    "K in INT8": Rounded(k=int8(BLOCK)),
    "K in INT8, shifted": Rounded(k=int8(BLOCK), shift=True),
    "V in e4m3": Rounded(v=e4m3(BLOCK)),
    "P in e4m3": Rounded(p=True),
    "all in e4m3": Rounded(e4m3(1), e4m3(BLOCK), e4m3(BLOCK), p=True),
    "all in e4m3, K shifted": Rounded(e4m3(1), e4m3(BLOCK), e4m3(BLOCK), p=True, shift=True),
    "now": Rounded(int8(1), int8(BLOCK), e4m3(BLOCK), p=True, shift=True),
}


def _scaled(x: Tensor, rows: int, largest: float, rounded: Rounding) -> Tensor:
    padded = torch.nn.functional.pad(x, (0, 0, 0, -len(x) % rows)).view(-1, rows, x.shape[1])
    scale = padded.abs().amax((1, 2), keepdim=True).clamp_min(SMALLEST_PEAK) / largest
    return (rounded(padded / scale) * scale).flatten(0, 1)[: len(x)]


def attended(q: Tensor, k: Tensor, v: Tensor, read: Tensor, scale: float, *, round_p: bool = False) -> Tensor:
    """Return attention of one head over the keys that each query reads, ``[queries, head_dim]``."""
    logits = (q @ k.T * scale).masked_fill(~read, float("-inf"))
    weights = (logits - logits.amax(1, keepdim=True)).exp() * 2**LOG2_WEIGHTS
    out: Tensor = (weights.to(E4M3).float() if round_p else weights) @ v / weights.sum(1, keepdim=True)
    return out


def errors(call: AttentionCall, method: FlashPrefill) -> dict[str, list[float]]:
    """Return the relative error of each query head by case."""
    index = method.select(call)
    assert index is not None
    position = torch.linspace(0, call.kv_len - 1, QUERIES).long()
    causal = position[:, None] >= torch.arange(call.kv_len)
    shift = key_shift(call.k)[0]
    found: dict[str, list[float]] = {case: [] for case in CASES}
    for head in range(call.q_heads):
        kv_head = head // (call.q_heads // call.kv_heads)
        q, k, v = call.q[0, position, head].float(), call.k[0, :, kv_head].float(), call.v[0, :, kv_head].float()
        read = index.keys_read(0, head, position) & causal
        exact = attended(q, k, v, read, call.scale)
        for case, how in CASES.items():
            keys = k - shift[kv_head] if how.shift else k
            of_q, of_k, of_v = (x if to is None else to(x) for x, to in ((q, how.q), (keys, how.k), (v, how.v)))
            out = attended(of_q, of_k, of_v, read, call.scale, round_p=how.p)
            found[case].append(float((out - exact).norm() / exact.norm()))
    return found


def figures(found: list[float]) -> Mapping[str, float]:
    """Return a row's figures."""
    return {"mean_err": sum(found) / len(found), "max_err": max(found), "heads": len(found)}


def main() -> None:
    """Write one row a case."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fp8_rounding", description=__doc__)
    parser.add_argument("--inputs", default="structured")
    parser.add_argument("--length", type=parse_length, default=8192)
    parser.add_argument("--alpha", type=float, default=0.12)
    parser.add_argument("--out", type=Path, default=Path("runs") / "fp8-rounding", help="run folder")
    asked = parser.parse_args()
    source, method = open_inputs(asked.inputs), FlashPrefill.from_options({"alpha": asked.alpha})
    shape = source.shapes(Shape(1, asked.length, 32, 8, 128))
    found: dict[str, list[float]] = {case: [] for case in CASES}
    for layer in source.layers():
        qkv = source.tensors(shape, layer=layer, seed=0, dtype=torch.bfloat16, device=torch.device("cpu"))
        for case, of_heads in errors(AttentionCall(*qkv, scale=shape.head_dim**-0.5), method).items():
            found[case] += of_heads
    rows = Rows("fp8_rounding", torch.device("cpu"), asked.out)
    for case, of_heads in found.items():
        rows.row(case, asked.length, partial(figures, of_heads), inputs=source.name)


if __name__ == "__main__":
    main()
