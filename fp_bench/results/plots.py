"""Plots of a run's times: latency, speed-up and stages against length."""

from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from fp_bench.results.drawing import (
    COLOURS,
    MUTED,
    PANEL_TITLE,
    STYLE,
    Plot,
    label_ends,
    length_axis,
    method_lines,
    new_figure,
)
from fp_bench.results.record import Record
from fp_bench.results.tables import SETTING, comparison, setting_title
from fp_bench.sizes import format_length


def latency_plots(records: Sequence[Record], machine: str) -> list[Plot]:
    """Draw latency, speed-up and stages against length for each setting in the records.

    Args:
        records: of one run.
        machine: what it ran on, for the caption.
    """
    plots = []
    with matplotlib.rc_context(STYLE):
        for rows, suffix, caption in settings(records, machine):
            plots.append(_latency(rows, f"latency{suffix}", caption))
            if rows["speedup_dense"].notna().any() and (rows["method"] != "dense").any():
                plots.append(_speedup(rows, f"speedup{suffix}", caption))
            if rows["select_ms"].notna().any():
                plots.append(_stages(rows, f"stages{suffix}", caption))
    return plots


def settings(records: Sequence[Record], machine: str) -> Iterator[tuple[pd.DataFrame, str, str]]:
    """Yield the measured rows of each setting, the suffix of its files' names, and its caption."""
    table = comparison(records)
    groups = [rows for _, rows in table[table["status"] == "ok"].groupby([*SETTING], sort=False)]
    for number, rows in enumerate(groups, 1):
        yield rows, f"-{number}" if len(groups) > 1 else "", f"{setting_title(rows.iloc[0])} · {machine}"


def _latency(rows: pd.DataFrame, name: str, caption: str) -> Plot:
    figure, (axes,) = new_figure("Latency of one attention call", caption, panels=1)
    ends = []
    for label, line, look in method_lines(rows):
        axes.plot(line["seq_len"], line["ms"], **look)
        axes.vlines(line["seq_len"], line["low_ms"], line["high_ms"], color=look["color"], linewidth=1)
        ends.append((label, float(line["ms"].iloc[-1]), look["color"]))
    axes.set_yscale("log")
    few_decades = rows["ms"].max() < 100 * rows["ms"].min()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few_decades else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda ms, _: f"{ms:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
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
        "; dashed: the ideal, 1 / density",
    }
    panels = {column: title for column, title in panels.items() if sparse[column].notna().any()}
    figure, all_axes = new_figure("Speed-up of sparse over dense attention", caption, panels=len(panels))
    ends: dict[Axes, list[tuple[str, float, str]]] = {}
    for axes, (column, title) in zip(all_axes, panels.items(), strict=True):
        ends[axes] = [("dense", 1.0, COLOURS["dense"])]
        axes.axhline(1, color=COLOURS["dense"], linewidth=1.3)
        for label, line, look in method_lines(sparse[sparse[column].notna()]):
            axes.plot(line["seq_len"], line[column], **look)
            ends[axes].append((label, float(line[column].iloc[-1]), look["color"]))
            if column == "speedup_dense":
                axes.plot(line["seq_len"], 1 / line["density"], color=look["color"], linewidth=1.3, dashes=(4, 3))
        axes.set_title(title, **PANEL_TITLE)
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_locator(LogLocator(base=2, subs=(1, 1.5) if sparse["density"].min() > 0.15 else (1,)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:g}x"))
        axes.yaxis.set_minor_locator(NullLocator())
        length_axis(axes, rows)
    for axes in all_axes:  # once the shared limits are known
        label_ends(axes, ends[axes])
    columns = ["seq_len", "label", "density", "speedup_fa2", "speedup_dense", "dense", "ideal_share"]
    return Plot(name, "Speed-up against length", figure, sparse[columns])


def _stages(rows: pd.DataFrame, name: str, caption: str) -> Plot:
    """Draw selecting and attending as stacked bars, in units of the fastest dense time where there is one."""
    rows = rows.assign(unit_ms=rows["dense_ms"].where(rows["dense_ms"].notna(), 1.0))
    relative = bool(rows["dense_ms"].notna().all())
    figure, (axes,) = new_figure("Where the time goes", caption, panels=1)
    lines = method_lines(rows)
    lengths = sorted(set(rows["seq_len"]))
    width = 0.84 / len(lines)
    number_look: dict[str, Any] = {"ha": "center", "fontsize": 7.5, "color": MUTED}
    number_look |= {"bbox": {"facecolor": "white", "linewidth": 0, "pad": 0.6}, "xytext": (0, 2.5)}
    for number, (_, line, look) in enumerate(lines):
        x = np.array([lengths.index(n) for n in line["seq_len"]]) + (number - (len(lines) - 1) / 2) * width
        attend, select = (line[stage].fillna(0.0) / line["unit_ms"] for stage in ("attend_ms", "select_ms"))
        bar = {"width": width * 0.92, "color": look["color"], "linewidth": 0}
        axes.bar(x, attend, **bar)
        axes.bar(x, select, bottom=attend, **bar | {"hatch": "/////", "edgecolor": "white"})
        for at, top, ms in zip(x, attend + select, line["attend_ms"] + line["select_ms"].fillna(0), strict=True):
            text = f"{ms:.3g}" if ms < 1000 else f"{ms:.0f}"
            axes.annotate(text, (at, top), textcoords="offset points", **number_look)
    if relative:
        axes.axhline(1, color=COLOURS["dense"], linewidth=1.0, dashes=(4, 3))
    axes.set_xticks(range(len(lengths)), [format_length(n) for n in lengths])
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("length in tokens")
    unit = f"times the fastest dense kernel, {', '.join(dict.fromkeys(rows['dense'].dropna()))}" if relative else "ms"
    axes.set_title(f"{unit}; numbers above the bars are milliseconds", **PANEL_TITLE)
    handles = [Patch(color=look["color"], label=label) for label, _, look in lines]
    handles.append(Patch(facecolor=MUTED, hatch="/////", edgecolor="white", linewidth=0, label="selecting"))
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9.5)
    columns = ["seq_len", "label", "select_ms", "attend_ms", "ms", "dense_ms"]
    return Plot(name, "Selecting and attending", figure, rows[columns])
