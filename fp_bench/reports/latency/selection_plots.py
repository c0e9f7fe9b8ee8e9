"""Plots of what methods select: density by length and by head, and maps of the kept blocks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from fp_bench.records.kept_maps import KeptMap, map_path, read_maps
from fp_bench.records.record import LatencyRecord
from fp_bench.records.store import newest
from fp_bench.reports.drawing import (
    GRID,
    INK,
    PANEL_TITLE,
    STYLE,
    Plot,
    label_ends,
    left_out,
    length_axis,
    log_axis,
    method_colour,
    method_lines,
    new_figure,
    panel_grid,
    titled_figure,
)
from fp_bench.reports.latency.plots import settings
from fp_bench.reports.latency.tables import SETTING
from fp_bench.sizes import format_length

PUBLISHED_DENSITY = {4096: 0.70, 8192: 0.46, 16384: 0.29, 32768: 0.18, 65536: 0.10, 131072: 0.06}
"""Published density of FlashPrefill at alpha 0.12, to which version 1 of structured inputs is calibrated."""
MOST_MAPPED = 6
"""Methods in one figure of maps."""


def selection_plots(records: Sequence[LatencyRecord], machine: str, folder: Path) -> list[Plot]:
    """Draw density by length and by head, and kept-block maps, for each setting in the records.

    Args:
        records: of one run.
        machine: the machine, for the caption.
        folder: of the run, which has the maps.
    """
    plots = []
    with matplotlib.rc_context(STYLE):
        for rows, suffix, caption in settings(records, machine):
            every = rows[rows["method"] != "dense"]
            sparse = every[(every["status"] == "ok") & ~every["fallback"].astype(bool)]
            if sparse.empty:
                continue
            caption += left_out(every.assign(shown=sparse["ms"]), "shown")
            plots.append(_by_length(sparse, f"density{suffix}", caption))
            mine = _of_setting(records, rows.iloc[0])
            longest = [record for record in mine if record.seq_len == sparse["seq_len"].max()]
            if any(len(record.density_by_head or ()) > 1 for record in longest):
                plots.append(_by_head(sparse, longest, f"density-by-head{suffix}", caption))
            if maps := _maps(longest, folder):
                plots.append(_kept_blocks(maps, f"kept-blocks{suffix}", caption))
    return plots


def _of_setting(records: Sequence[LatencyRecord], row: pd.Series) -> list[LatencyRecord]:
    """Return the first measured round of each sparse cell of a setting, from the newest code."""
    first: dict[str, LatencyRecord] = {}
    for record in newest(records):
        sparse = record.method != "dense" and not record.fallback and record.status == "ok"
        if sparse and record.cell_key not in first and all(getattr(record, name) == row[name] for name in SETTING):
            first[record.cell_key] = record
    return list(first.values())


def _by_length(sparse: pd.DataFrame, name: str, caption: str) -> Plot:
    figure, (axes,) = new_figure("Share of causal attention that is computed", caption, panels=1)
    ends = []
    for number, (label, line, look) in enumerate(method_lines(sparse)):
        axes.plot(line["seq_len"], line["density"], **look, zorder=2 - number / 100)  # the same keep the first on top
        ends.append((label, float(line["density"].iloc[-1]), look["color"]))
    table = sparse[["seq_len", "label", "density", "recall"]]
    structured = sparse["input"].iloc[0] == "structured"
    if structured and (sparse["method"] == "flashprefill").any():
        marks = {n: share for n, share in PUBLISHED_DENSITY.items() if n in set(sparse["seq_len"])}
        look = {"marker": "_", "markersize": 17, "markeredgewidth": 2.2, "linestyle": "", "color": INK, "zorder": 3}
        axes.plot(list(marks), list(marks.values()), **look, label="published for FlashPrefill, alpha 0.12")
        if marks:
            axes.legend(loc="lower left", fontsize=9)
        table = table.assign(published=table["seq_len"].map(marks).where(sparse["method"] == "flashprefill"))
    log_axis(axes, lambda share: f"{share:.0%}" if share >= 0.01 else f"{share:.1%}")
    axes.set_ylim(top=1.0)
    axes.set_title("density, mean over heads", **PANEL_TITLE)
    length_axis(axes, sparse)
    label_ends(axes, ends)
    return Plot(name, "Density against length", figure, table)


def _by_head(sparse: pd.DataFrame, longest: Sequence[LatencyRecord], name: str, caption: str) -> Plot:
    figure, (axes,) = new_figure("Density of each head", caption, panels=1)
    rows: list[dict[str, Any]] = []
    most = max(len(record.density_by_head or ()) for record in longest)
    size = {"markersize": 6 if most <= 16 else 4.5, "linewidth": 1.2}
    seen: dict[str, NDArray[np.float64]] = {}
    looks = {label: look for label, _, look in method_lines(sparse)}
    for label, look in looks.items():
        by_layer = [record.density_by_head for record in longest if record.label == label and record.density_by_head]
        if not by_layer:
            continue
        per_head = np.mean(by_layer, axis=0)
        order = np.argsort(per_head)
        drawn = next((other for other, same in seen.items() if np.array_equal(same, per_head)), None)
        seen[label] = per_head
        if drawn is None:
            axes.plot(np.arange(1, len(order) + 1), per_head[order], **look | size, label=label)
        else:
            axes.plot([], [], linestyle="", label=f"{label}: as {drawn}")
        rows += [{"label": label, "head": int(head), "density": float(per_head[head])} for head in order]
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlim(0.5, most + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    length = format_length(longest[0].seq_len)
    axes.set_title(f"at {length}, each method's heads from the sparsest to the densest", **PANEL_TITLE)
    axes.set_xlabel("head by rank")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9.5)
    return Plot(name, "Density by head", figure, pd.DataFrame(rows))


def head_maps(records: Sequence[LatencyRecord], machine: str) -> list[Plot]:
    """Draw the density of every head: by length, or with several layers by layer at the greatest length.

    Args:
        records: of one run.
        machine: the machine, for the caption.
    """
    plots = []
    with matplotlib.rc_context(STYLE):
        for rows, suffix, caption in settings(records, machine):
            mine = [record for record in _of_setting(records, rows.iloc[0]) if len(record.density_by_head or ()) > 1]
            layers = len({record.layer for record in mine}) > 1
            if layers:
                longest = max(record.seq_len for record in mine)
                mine = [record for record in mine if record.seq_len == longest]
            by_label: dict[str, list[LatencyRecord]] = {}
            for record in sorted(mine, key=lambda record: (record.label, record.layer, record.seq_len)):
                by_label.setdefault(record.label, []).append(record)
            if by_label:
                what = f"layer, at {format_length(mine[0].seq_len)}" if layers else "length"
                plots.append(
                    _head_maps(by_label, layers, f"head-maps{suffix}", f"Density of each head by {what}", caption)
                )
    return plots


def _head_maps(
    by_label: Mapping[str, Sequence[LatencyRecord]], layers: bool, name: str, title: str, caption: str
) -> Plot:
    shown = dict(list(by_label.items())[:MOST_MAPPED])
    if missing := list(by_label)[MOST_MAPPED:]:
        caption += f" · not shown: {', '.join(missing)}"
    tallest = max(map(len, shown.values()))
    across = min(2, len(shown))
    down = -(-len(shown) // across)
    size = (1.2 + 5.0 * across, 1.1 + down * (0.9 + 0.24 * tallest))
    figure = titled_figure(title, caption, size, below=0.35, above=0.6)
    panels = panel_grid(figure, len(shown), across, sharey=False)
    most = max(max(record.density_by_head or ()) for records in shown.values() for record in records)
    rows: list[dict[str, Any]] = []
    for axes, (label, records) in zip(panels, shown.items(), strict=True):
        heads = max(len(record.density_by_head or ()) for record in records)
        shares = np.full((len(records), heads), np.nan)
        for line, record in enumerate(records):
            shares[line, : len(record.density_by_head or ())] = record.density_by_head
            where = {"label": label, "layer": record.layer, "seq_len": record.seq_len}
            rows += [
                where | {"head": head, "density": share} for head, share in enumerate(record.density_by_head or ())
            ]
        colour = method_colour(label.partition(":")[0])
        shades = LinearSegmentedColormap.from_list("kept", ["white", colour])
        image = axes.imshow(shares, cmap=shades, vmin=0, vmax=most, aspect="auto", interpolation="nearest")
        figure.colorbar(image, ax=axes, format=PercentFormatter(1.0, decimals=0), pad=0.02)
        axes.grid(visible=False)
        names = [str(r.layer) if layers else format_length(r.seq_len) for r in records]
        axes.set_yticks(range(len(records)), names, fontsize=8.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("query head")
        axes.set_title(label, **PANEL_TITLE)
    return Plot(name, title, figure, pd.DataFrame(rows), shaded=True)


def _maps(longest: Sequence[LatencyRecord], folder: Path) -> list[tuple[LatencyRecord, list[KeptMap]]]:
    first = sorted(longest, key=lambda record: (record.layer, record.label))[:MOST_MAPPED]
    with_maps = [(record, read_maps(map_path(folder, record.cell_key, record.code_version))) for record in first]
    return [(record, maps) for record, maps in with_maps if maps]


def _kept_blocks(mapped: Sequence[tuple[LatencyRecord, list[KeptMap]]], name: str, caption: str) -> Plot:
    columns = max(len(maps) for _, maps in mapped)
    length = format_length(mapped[0][0].seq_len)
    width, height = max(5.6, 1.2 + 3.0 * columns), 1.1 + 3.25 * len(mapped)
    partly = any(((one.share > 0) & (one.share < 255)).any() for _, maps in mapped for one in maps)
    note = "a cell is many block pairs; its shade is the square root of the share that is kept" if partly else ""
    title = f"Blocks that are kept at {length}"
    figure = titled_figure(title, caption, (width, height), below=0.35, above=0.6, note=note)
    axes_of = figure.subplots(len(mapped), columns, squeeze=False)
    rows: list[dict[str, Any]] = []
    for (record, maps), line in zip(mapped, axes_of, strict=True):
        for axes in line[len(maps) :]:
            axes.set_visible(False)
        densities = [one.density for one in maps]
        for axes, one in zip(line, maps, strict=False):
            extreme = {min(densities): "sparsest", max(densities): "densest"}.get(one.density)
            which = f"head {one.head}{f', the {extreme}' if extreme and len(maps) > 1 else ''}"
            draw_map(axes, one.share, record.label)
            axes.set_title(f"{which}: {one.density:.1%}", **PANEL_TITLE)
            axes.set_xlabel("key block")
            what = {"label": record.label, "layer": record.layer, "head": one.head}
            rows += [
                what | {"row": row, "kept_of_255": " ".join(map(str, shares[: row + 1]))}
                for row, shares in enumerate(one.share)
            ]
        layer = f", layer {record.layer}" if record.layer else ""
        line[0].set_ylabel(f"{record.label}{layer}\nquery block")
    return Plot(name, f"Kept blocks at {length}", figure, pd.DataFrame(rows))


def draw_map(axes: Axes, share: Any, label: str) -> None:
    """Draw one map: white for nothing kept, the method's colour for everything, grey above the diagonal."""
    colour = method_colour(label.partition(":")[0])
    shades = LinearSegmentedColormap.from_list("kept", ["white", colour]).with_extremes(bad=GRID)
    future = np.triu(np.ones(share.shape, dtype=bool), 1)
    # The square root makes a single kept block in a large cell visible.
    kept = np.ma.array(np.sqrt(share / 255), mask=future)
    axes.imshow(kept, cmap=shades, vmin=0, vmax=1, interpolation="nearest")
    axes.grid(visible=False)
    axes.set_xticks([])
    axes.set_yticks([])
