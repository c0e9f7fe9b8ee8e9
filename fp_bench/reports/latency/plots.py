"""Plots of a run's times: latency, speed-up and stages against length, recall against latency."""

from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from fp_bench.records.record import LatencyRecord
from fp_bench.reports.drawing import (
    COLOURS,
    MUTED,
    PANEL_TITLE,
    STYLE,
    Plot,
    label_ends,
    left_out,
    length_axis,
    log_axis,
    method_lines,
    new_figure,
    panel_grid,
    ratio_axis,
    titled_figure,
)
from fp_bench.reports.latency.tables import SETTING, comparison, is_prefill, setting_title
from fp_bench.reports.pareto import pareto
from fp_bench.sizes import format_length

SPEEDUPS = ("speedup_fa2", "speedup_dense", "speedup_attention")
MOST_ACROSS = 7
"""Panels of lengths in a row."""


def latency_plots(records: Sequence[LatencyRecord], machine: str) -> list[Plot]:
    """Draw latency, speed-up, recall and stages for each setting in the records.

    Args:
        records: of one run.
        machine: the machine, for the caption.
    """
    plots = []
    with matplotlib.rc_context(STYLE):
        for rows, suffix, caption in settings(records, machine):
            plots.append(_latency(rows, f"latency{suffix}", caption))
            if rows.loc[rows["method"] != "dense", [*SPEEDUPS]].notna().any(axis=None):
                plots.append(_speedup(rows, f"speedup{suffix}", caption))
            if rows.loc[rows["method"] != "dense", "recall"].notna().any():
                what = "Share of the dense attention mass that is kept; upper left is better"
                plots.append(pareto(rows, "recall", what, f"recall{suffix}", caption))
            if rows["select_ms"].notna().any():
                plots.append(_stages(rows, f"stages{suffix}", caption))
    return plots


def settings(records: Sequence[LatencyRecord], machine: str) -> Iterator[tuple[pd.DataFrame, str, str]]:
    """Yield the rows of each measured setting, the suffix of its file names, and its caption.

    Failed cells are included without numbers, so that lines are interrupted there.
    """
    table = comparison(records)
    groups = [rows for _, rows in table.groupby([*SETTING], sort=False) if (rows["status"] == "ok").any()]
    for number, rows in enumerate(groups, 1):
        yield rows, f"-{number}" if len(groups) > 1 else "", f"{setting_title(rows.iloc[0])} · {machine}"


def _latency(rows: pd.DataFrame, name: str, caption: str) -> Plot:
    what = "Time to first token" if is_prefill(rows) else "Latency of one attention call"
    figure, (axes,) = new_figure(what, caption + left_out(rows, "ms"), panels=1)
    ends = []
    for label, line, look in method_lines(rows):
        if line["ms"].isna().all():
            continue
        axes.plot(line["seq_len"], line["ms"], **look)
        axes.vlines(line["seq_len"], line["low_ms"], line["high_ms"], color=look["color"], linewidth=1)
        ends.append((label, float(line["ms"].dropna().iloc[-1]), look["color"]))
    few_decades = rows["ms"].max() < 100 * rows["ms"].min()
    log_axis(axes, lambda ms: f"{ms:g}", (1, 2, 5) if few_decades else (1,))
    axes.set_title("milliseconds, median of rounds; bars from the fastest to the slowest round", **PANEL_TITLE)
    length_axis(axes, rows)
    label_ends(axes, ends)
    columns = ["seq_len", "label", "backend", "ms", "low_ms", "high_ms", "select_ms", "attend_ms", "rounds"]
    return Plot(name, "Latency against length", figure, rows[columns])


def _speedup(rows: pd.DataFrame, name: str, caption: str) -> Plot:
    sparse = rows[rows["method"] != "dense"]
    panels = {
        "speedup_fa2": "over FlashAttention-2, the baseline of the papers",
        "speedup_dense": f"over the fastest dense kernel here, {', '.join(dict.fromkeys(rows['dense'].dropna()))}"
        f"{'' if is_prefill(rows) else '; dashed: the ideal, 1 / density'}",
        "speedup_attention": "of the attention alone, selecting and attending",
    }
    panels = {column: title for column, title in panels.items() if sparse[column].notna().any()}
    caption += left_out(sparse, *panels)
    figure, all_axes = new_figure("Speed-up of sparse over dense attention", caption, panels=len(panels))
    ends: dict[Axes, list[tuple[str, float, str]]] = {}
    for axes, (column, title) in zip(all_axes, panels.items(), strict=True):
        ends[axes] = [("dense", 1.0, COLOURS["dense"])]
        axes.axhline(1, color=COLOURS["dense"], linewidth=1.3)
        for label, line, look in method_lines(sparse):
            if line[column].isna().all():
                continue
            axes.plot(line["seq_len"], line[column], **look)
            ends[axes].append((label, float(line[column].dropna().iloc[-1]), look["color"]))
            if column == "speedup_dense" and not is_prefill(rows):
                axes.plot(line["seq_len"], 1 / line["density"], color=look["color"], linewidth=1.3, dashes=(4, 3))
        axes.set_title(title, **PANEL_TITLE)
        ratio_axis(axes, (1, 1.5) if sparse["density"].min() > 0.15 else (1,))
        length_axis(axes, rows)
    for axes in all_axes:  # once the shared limits are known
        label_ends(axes, ends[axes])
    columns = [
        "seq_len",
        "label",
        "density",
        "speedup_fa2",
        "speedup_dense",
        "speedup_attention",
        "dense",
        "ideal_share",
    ]
    return Plot(name, "Speed-up against length", figure, sparse[columns])


def _stages(rows: pd.DataFrame, name: str, caption: str) -> Plot:
    """Draw selection and attention of the sparse methods as stacked bars, one panel and scale per length."""
    sparse = rows[rows["select_ms"].notna()]
    lengths = sorted(set(sparse["seq_len"]))
    lines = method_lines(sparse)
    across = min(len(lengths), MOST_ACROSS)
    down = -(-len(lengths) // across)
    wide, high = max(1.45, 0.42 * len(lines) + 0.75), 2.5
    size = (max(7.0, across * wide + 0.4), down * high + 1.3)
    note = "milliseconds of one attention call; every length has its own scale"
    caption += left_out(rows[rows["method"] != "dense"], "select_ms")
    figure = titled_figure("Where the time goes", caption, size, below=0.35, above=0.65, note=note, gap=0.08)
    panels = panel_grid(figure, len(lengths), across, sharey=False)
    for axes, length in zip(panels, lengths, strict=True):
        tallest = 0.0
        for x, (_, line, look) in enumerate(lines):
            for _, row in line[line["seq_len"] == length].iterrows():
                bar = {"width": 0.8, "color": look["color"], "linewidth": 0}
                axes.bar(x, row["attend_ms"], **bar)
                axes.bar(x, row["select_ms"], bottom=row["attend_ms"], **bar | {"hatch": "/////", "edgecolor": "white"})
                top = row["attend_ms"] + row["select_ms"]
                tallest = max(tallest, top)
                look_of_number: dict[str, Any] = {"ha": "center", "fontsize": 8, "color": MUTED}
                axes.annotate(_short(top), (x, top), (0, 2), textcoords="offset points", **look_of_number)
        axes.set_ylim(0, 1.15 * tallest)
        axes.set_xlim(-0.65, len(lines) - 0.35)
        axes.set_xticks([])
        axes.grid(visible=False, axis="x")
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.tick_params(axis="y", labelsize=8.5)
        dense = rows.loc[rows["seq_len"] == length, "dense_ms"].iloc[0]
        beside = "" if pd.isna(dense) else f"dense: {_short(dense)} ms"
        axes.set_title(format_length(length), loc="left", fontsize=11)
        axes.set_xlabel(beside, fontsize=8.5, color=MUTED)
    handles = [Patch(color=look["color"], label=label) for label, _, look in lines]
    handles.append(Patch(facecolor=MUTED, hatch="/////", edgecolor="white", linewidth=0, label="selecting"))
    figure.legend(handles=handles, loc="outside right upper", fontsize=9.5)
    columns = ["seq_len", "label", "select_ms", "attend_ms", "ms", "dense", "dense_ms"]
    return Plot(name, "Selecting and attending", figure, sparse[columns])


def _short(ms: float) -> str:
    return f"{ms:.3g}" if ms < 1000 else f"{ms:.0f}"
