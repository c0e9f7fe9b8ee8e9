"""The Pareto plot: quality of each configuration against its time."""

import pandas as pd
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from fp_bench.reports.drawing import (
    BELOW,
    MUTED,
    Plot,
    far_out,
    left_out,
    mark_below,
    method_lines,
    panel_grid,
    titled_figure,
)
from fp_bench.reports.latency.tables import is_prefill
from fp_bench.sizes import format_length

ACROSS = 3
"""Panels in a row."""
MOST_LENGTHS = 9
"""Largest number of panels, for the greatest lengths."""
NAMES = {"kl": "KL to dense attention", "score": "Score", "recall": "Recall"}
LEGEND_ROW = 0.235
"""Inches."""


def pareto(rows: pd.DataFrame, quality: str, what: str, name: str, caption: str) -> Plot:
    """Draw quality against time, one panel per length, one point per configuration, and the Pareto front.

    Args:
        rows: of `latency_tables.comparison`, with a column for the quality.
        quality: the column: ``kl`` in nats (less is better), or ``score`` or ``recall``, 0 to 1.
        what: the quality in words.
        name: of the files.
        caption: below the plot.
    """
    lower = quality == "kl"
    caption += left_out(rows[rows["method"] != "dense"] if lower else rows, quality)
    rows = rows[rows["status"].eq("ok") & rows[quality].notna() & ~(lower & (rows["method"] == "dense"))]
    with_sparse = sorted(set(rows.loc[rows["method"] != "dense", "seq_len"]))
    lengths = with_sparse[-MOST_LENGTHS:]
    across = min(ACROSS, len(lengths))
    down = -(-len(lengths) // across)
    looks = {label: look for label, _, look in method_lines(rows)}
    size = (3.4 + 3.0 * across, max(1.2 + 2.6 * down, 1.6 + LEGEND_ROW * len(looks)))
    subject = "time to first token" if is_prefill(rows) else "latency"
    if len(lengths) < len(with_sparse):
        caption += f" · the {len(lengths)} longest of {len(with_sparse)} lengths"
    title = f"{NAMES[quality]} against {subject}"
    figure = titled_figure(title, caption, size, below=0.35, above=0.65, note=what)
    panels = panel_grid(figure, len(lengths), across)
    shown = rows[rows["seq_len"].isin(lengths)]
    lost = {} if lower else {str(label): 1 - worst for label, worst in shown.groupby("label")[quality].min().items()}
    if below := far_out(lost):
        least = 1 - max(share for label, share in lost.items() if label not in below)
        panels[0].set_ylim(least - 0.1 * (1 - least) - 0.01, 1 + 0.05 * (1 - least))
        figure.texts[-1].set_text(caption + BELOW)
    for axes, length in zip(panels, lengths, strict=True):
        here = rows[rows["seq_len"] == length].sort_values("ms")
        worth = -here[quality] if lower else here[quality]
        front = here[worth > worth.cummax().shift(fill_value=-float("inf"))]
        axes.step(front["ms"], front[quality], where="post", color=MUTED, linewidth=1, alpha=0.6, zorder=1)
        for _, row in here.iterrows():
            axes.plot(row["ms"], row[quality], linestyle="", **looks[row["label"]] | {"markersize": 8})
            if row["label"] in below:
                mark_below(axes, [row["ms"]], [row[quality]], looks[row["label"]]["color"], factor=100)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda ms, _: f"{ms:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(here["ms"].min() / 1.5, here["ms"].max() * 1.5)
        axes.set_title(format_length(length), loc="left", fontsize=11)
        axes.set_xlabel("milliseconds")
        if axes in panels[::across]:
            axes.set_ylabel("KL in nats" if lower else NAMES[quality].lower())
        if lower:
            axes.set_yscale("log")
        else:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol="" if quality == "score" else "%"))
    handles = [panels[0].plot([], [], linestyle="", label=label, **look)[0] for label, look in looks.items()]
    panels[across - 1].legend(handles=handles, loc="upper left", bbox_to_anchor=(1.02, 1.0), fontsize=9.5)
    columns = ["seq_len", "label", "ms", "density", quality]
    return Plot(name, title, figure, rows[columns])
