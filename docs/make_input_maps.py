"""Make the pictures of docs/inputs.md, or the table of version 1: python docs/make_input_maps.py [--table].

Pictures take a minute on two cores; the table takes some minutes at 256K.
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor

from fp_bench.inputs.source import Shape
from fp_bench.inputs.structured import VERSION, Structured
from fp_bench.jobs.latency.kept_maps import kept_share
from fp_bench.kernels.attention.reference import attention_rows, sample_rows
from fp_bench.methods.base import AttentionCall
from fp_bench.methods.flashprefill import FlashPrefill
from fp_bench.reports.drawing import COLOURS, GRID, MUTED, PANEL_TITLE, STYLE
from fp_bench.reports.latency.selection_plots import PUBLISHED_DENSITY, draw_map
from fp_bench.sizes import format_length

HEADS, KV_HEADS, HEAD_DIM, LENGTH, SEED = 8, 2, 128, 4096, 0
CELL = 16
"""Tokens along each side of a pixel."""
IMAGES = Path(__file__).parent / "img"


def structured_call(length: int, version: int = VERSION) -> AttentionCall:
    """Return the call that the pictures, or of version 1 the table, are of."""
    shape = Shape(1, length, HEADS, KV_HEADS, HEAD_DIM)
    qkv = Structured(version).tensors(shape, layer=0, seed=SEED, dtype=torch.bfloat16, device=torch.device("cpu"))
    return AttentionCall(*qkv, scale=HEAD_DIM**-0.5)


def log_attention(call: AttentionCall, head: int) -> Tensor:
    """Return log10 of the mean attention probability in squares of `CELL` tokens; nan in the future."""
    q = call.q[0, :, head].float()
    k = call.k[0, :, head // (call.q_heads // call.kv_heads)].float()
    logits = q @ k.T * call.scale
    logits.masked_fill_(torch.ones_like(logits, dtype=torch.bool).triu(1), -torch.inf)
    squares = logits.softmax(-1).view(call.q_len // CELL, CELL, call.kv_len // CELL, CELL).mean((1, 3))
    return squares.log10().masked_fill(torch.ones_like(squares, dtype=torch.bool).triu(1), torch.nan)


def draw(heads: dict[str, int], call: AttentionCall, name: str) -> None:
    """Draw attention above and the kept blocks below, one column a head."""
    index = FlashPrefill().select(call)
    density = index.density()[0]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.1 * len(heads), 6.9), layout="constrained")
        axes = figure.subplots(2, len(heads), squeeze=False)
        shades = LinearSegmentedColormap.from_list(
            "attention", ["#ffffff", "#9fb8d8", "#2a5fa8", "#0b1f3f"]
        ).with_extremes(bad=GRID)
        for column, (title, head) in enumerate(heads.items()):
            above, below = axes[:, column]
            image = above.imshow(log_attention(call, head).numpy(), cmap=shades, vmin=-5.5, vmax=-2)
            above.set_title(f"head {head}, {title}", **PANEL_TITLE)
            draw_map(below, kept_share(index, head), "flashprefill")
            below.set_title(
                f"kept: {density[head]:.0%} of the block pairs", **PANEL_TITLE | {"color": COLOURS["flashprefill"]}
            )
            for one in (above, below):
                one.set_xticks([])
                one.set_yticks([])
                one.grid(visible=False)
            below.set_xlabel("key")
        axes[0, 0].set_ylabel("query")
        axes[1, 0].set_ylabel("query block")
        bar = figure.colorbar(image, ax=axes[0, :], shrink=0.8, pad=0.01)
        bar.set_label(f"log10 of attention, {CELL} x {CELL} tokens", color=MUTED, fontsize=8.5)
        bar.outline.set_visible(False)
        IMAGES.mkdir(exist_ok=True)
        figure.savefig(IMAGES / f"{name}.png", dpi=90, metadata={"Software": None})


def table(lengths: list[int]) -> None:
    """Print density, published density and recall of FlashPrefill on version 1 at each length."""
    print("| length | published | density | sparsest head | densest head | recall |")
    print("| :-- | --: | --: | --: | --: | --: |")
    for length in lengths:
        call = structured_call(length, version=1)
        index = FlashPrefill().select(call)
        by_head = index.density()[0]
        rows = sample_rows(length, SEED)
        dense, kept = (
            attention_rows(call.q, call.k, call.v, scale=call.scale, rows=rows, index=kept).lse.double()
            for kept in (None, index)
        )
        recall = float((kept - dense).exp().mean())
        published = f"{PUBLISHED_DENSITY[length]:.0%}" if length in PUBLISHED_DENSITY else "not published"
        shares = " | ".join(
            f"{share:.1%}" for share in (float(by_head.mean()), float(by_head.min()), float(by_head.max()))
        )
        print(f"| {format_length(length)} | {published} | {shares} | {recall:.1%} |", flush=True)


def main() -> None:
    """Make what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", action="store_true", help="print the table instead")
    parser.add_argument("--longest", type=int, default=262144, help="of the table, in tokens")
    asked = parser.parse_args()
    if asked.table:
        table([length for length in (*PUBLISHED_DENSITY, 262144) if length <= asked.longest])
        return
    call = structured_call(LENGTH)
    by_density = np.argsort(FlashPrefill().select(call).density()[0].numpy())
    ranks = {"the sparsest": 0, "below the middle": HEADS // 2 - 1, "above it": HEADS - 3, "the densest": HEADS - 1}
    draw({title: int(by_density[rank]) for title, rank in ranks.items()}, call, "structured-heads")


if __name__ == "__main__":
    main()
