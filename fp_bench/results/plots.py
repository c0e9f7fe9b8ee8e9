"""Plots of a run: latency and speed-up against length. Each is a PNG beside the CSV of what it shows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from fp_bench.results.record import Record
from fp_bench.results.tables import SETTING, comparison, setting_title
from fp_bench.sizes import format_length

INK, MUTED, GRID = "#1f2430", "#6b7280", "#e5e7eb"
COLOURS = {
    "dense": "#4b5563",
    "flashprefill": "#d1335b",
    "flashprefill_v2": "#f08a24",
    "flexprefill": "#2a78d6",
    "xattention": "#1a9a6c",
    "minference": "#7d57c2",
    "streaming": "#a0703c",
}
"""A method has the same colour in every plot."""
OTHER_COLOURS = ("#0e8fa8", "#b5489b", "#7f8f1f", "#c0563b")
"""For methods of plug-ins, in the order of their names."""
VARIANTS = (("o", 0.0), ("s", 0.35), ("^", 0.2), ("D", 0.5))
"""Marker and share of white of the first, second, ... variant of one method."""
PANEL_TITLE: dict[str, Any] = {"loc": "left", "fontsize": 9.5, "color": MUTED}
LABEL_GAP = 0.055
"""Least distance of two labels, in heights of the axes."""
STYLE = {
    "figure.dpi": 100,
    "savefig.dpi": 160,
    "font.family": "sans-serif",
    "font.size": 10.5,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 2.0,
    "lines.markersize": 6,
    "legend.frameon": False,
}


class Plot(NamedTuple):
    """A finished plot and the data it shows."""

    name: str
    title: str
    figure: Figure
    data: pd.DataFrame

    def save(self, folder: Path) -> Path:
        """Write ``name.png`` and ``name.csv``; return the path of the picture."""
        path = folder / f"{self.name}.png"
        self.figure.savefig(path, metadata={"Software": None})
        self.data.to_csv(folder / f"{self.name}.csv", index=False)
        return path


def latency_plots(records: Sequence[Record], machine: str) -> list[Plot]:
    """Draw latency and speed-up against length, a pair for each setting in the records.

    Args:
        records: of one run.
        machine: what it ran on, for the caption.
    """
    table = comparison(records)
    measured = table[table["status"] == "ok"]
    settings = [group for _, group in measured.groupby([*SETTING], sort=False)]
    plots = []
    with matplotlib.rc_context(STYLE):
        for number, rows in enumerate(settings, 1):
            suffix = f"-{number}" if len(settings) > 1 else ""
            caption = f"{setting_title(rows.iloc[0])} · {machine}"
            plots.append(_latency(rows, f"latency{suffix}", caption))
            if rows["speedup_dense"].notna().any() and (rows["method"] != "dense").any():
                plots.append(_speedup(rows, f"speedup{suffix}", caption))
    return plots


def _latency(rows: pd.DataFrame, name: str, caption: str) -> Plot:
    figure, (axes,) = _figure("Latency of one attention call", caption, panels=1)
    ends = []
    for label, line, look in _lines(rows):
        axes.plot(line["seq_len"], line["ms"], **look)
        axes.vlines(line["seq_len"], line["low_ms"], line["high_ms"], color=look["color"], linewidth=1)
        ends.append((label, float(line["ms"].iloc[-1]), look["color"]))
    axes.set_yscale("log")
    few_decades = rows["ms"].max() < 100 * rows["ms"].min()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few_decades else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda ms, _: f"{ms:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_title("milliseconds, median of rounds; bars from the fastest to the slowest round", **PANEL_TITLE)
    _length_axis(axes, rows)
    _label_ends(axes, ends)
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
    figure, all_axes = _figure("Speed-up of sparse over dense attention", caption, panels=len(panels))
    ends: dict[Axes, list[tuple[str, float, str]]] = {}
    for axes, (column, title) in zip(all_axes, panels.items(), strict=True):
        ends[axes] = [("dense", 1.0, COLOURS["dense"])]
        axes.axhline(1, color=COLOURS["dense"], linewidth=1.3)
        for label, line, look in _lines(sparse[sparse[column].notna()]):
            axes.plot(line["seq_len"], line[column], **look)
            ends[axes].append((label, float(line[column].iloc[-1]), look["color"]))
            if column == "speedup_dense":
                axes.plot(line["seq_len"], 1 / line["density"], color=look["color"], linewidth=1.3, dashes=(4, 3))
        axes.set_title(title, **PANEL_TITLE)
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_locator(LogLocator(base=2, subs=(1, 1.5) if sparse["density"].min() > 0.15 else (1,)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:g}x"))
        axes.yaxis.set_minor_locator(NullLocator())
        _length_axis(axes, rows)
    for axes in all_axes:  # once the shared limits are known
        _label_ends(axes, ends[axes])
    columns = ["seq_len", "label", "density", "speedup_fa2", "speedup_dense", "dense", "ideal_share"]
    return Plot(name, "Speed-up against length", figure, sparse[columns])


def _figure(title: str, caption: str, panels: int) -> tuple[Figure, list[Axes]]:
    # Room above for the title and below for the caption.
    figure = Figure(figsize=(2.0 + 5.6 * panels, 4.9), layout=ConstrainedLayoutEngine(rect=(0.0, 0.05, 1.0, 0.87)))
    axes = figure.subplots(1, panels, squeeze=False, sharey=True)[0]
    margin = 0.12 / figure.get_figwidth()
    figure.text(margin, 0.975, title, fontsize=14, fontweight="bold", va="top")
    figure.text(margin, 0.022, caption, fontsize=8.5, color=MUTED, va="bottom")
    return figure, list(axes)


def _lines(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame, dict[str, Any]]]:
    """Return label, rows by length and look of each method's line; the look depends on names alone."""
    others = sorted(set(rows["method"]) - set(COLOURS))
    lines = []
    for method, of_method in rows.groupby("method", sort=False):
        colour = COLOURS.get(str(method)) or OTHER_COLOURS[others.index(method) % len(OTHER_COLOURS)]
        for number, label in enumerate(sorted(set(of_method["label"]))):
            marker, white = VARIANTS[number % len(VARIANTS)]
            shade = to_hex(np.array(to_rgb(colour)) * (1 - white) + white)
            line = of_method[of_method["label"] == label].sort_values("seq_len")
            lines.append((str(label), line, {"color": shade, "marker": marker, "markeredgecolor": "white"}))
    return lines


def _length_axis(axes: Axes, rows: pd.DataFrame) -> None:
    lengths = sorted(set(rows["seq_len"]))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(lengths))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda length, _: format_length(int(length))))
    axes.set_xlim(lengths[0] / 1.25, lengths[-1] * 1.25)
    axes.set_xlabel("length in tokens")


def _label_ends(axes: Axes, ends: Sequence[tuple[str, float, str]]) -> None:
    """Write each line's name beside its last point, pushed apart where they would overlap."""
    low, high = np.log(axes.get_ylim())
    ends = sorted(ends, key=lambda end: end[1])
    places = [float((np.log(value) - low) / (high - low)) for _, value, _ in ends]
    for _ in range(200):
        for i in range(len(places) - 1):
            overlap = LABEL_GAP - (places[i + 1] - places[i])
            if overlap > 0:
                places[i] -= overlap / 2
                places[i + 1] += overlap / 2
    for (label, _, colour), place in zip(ends, places, strict=True):
        axes.annotate(
            label,
            xy=(1.0, place),
            xycoords="axes fraction",
            xytext=(6, 0),
            textcoords="offset points",
            color=colour,
            va="center",
            fontsize=9.5,
            annotation_clip=False,
        )
