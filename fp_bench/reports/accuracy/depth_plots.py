"""The heatmap of a needle test: score by length and depth, a panel for each method."""

from textwrap import wrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.ticker import FixedFormatter, FixedLocator

from fp_bench.reports.accuracy.tables import points
from fp_bench.reports.drawing import GRID, Plot, method_lines, panel_grid, titled_figure
from fp_bench.sizes import format_length

SCORES = LinearSegmentedColormap.from_list("scores", ["#b5173f", "#f3cf7a", "#0b7f93"])
"""Colours of wrong, half right and right, distinguishable without red and green."""
WHOLE = Normalize(0, 1)
"""The same colours in every plot, so that runs can be compared by eye."""
MOST_ACROSS, MOST_WIDE = 4, 3
"""Panels per row, and wide panels per row."""
WIDE = 3.0
"""Width in inches from which a panel is wide."""
MOST_LENGTHS, MOST_DEPTHS = 8, 12
"""That are named along an axis."""
MANY_CELLS = 20
"""Number of cells along an axis from which the lines between them are thin."""
LETTERS_AN_INCH = 12
"""Of a panel's title."""


def heatmap(rows: pd.DataFrame, name: str, caption: str) -> Plot:
    """Draw the scores of each method at each length and depth.

    Args:
        rows: of `accuracy_tables.by_depth`, of one setting.
        name: of the files.
        caption: below the plot.
    """
    labels = [label for label, _, _ in method_lines(rows)]
    lengths, depths = sorted(set(rows["seq_len"])), sorted(set(rows["depth"]))
    if len(rows) < len(labels) * len(lengths) * len(depths):
        caption = f"{caption} · grey: not scored"
    panel = float(np.clip(0.42 * len(lengths), 2.3, 4.0))
    down = -(-len(labels) // (MOST_WIDE if panel > WIDE else MOST_ACROSS))
    across = -(-len(labels) // down)
    size = (1.7 + across * panel, 1.5 + down * float(np.clip(0.3 * len(depths), 2.3, 3.6)))
    title = "Score by length and depth"
    figure = titled_figure(title, caption, size, below=0.32, above=0.68, note=samples_a_cell(rows))
    panels = panel_grid(figure, len(labels), across)
    for number, (axes, label) in enumerate(zip(panels, labels, strict=True)):
        _cells(axes, rows[rows["label"] == label], lengths, depths)
        axes.set_title(_title(rows[rows["label"] == label], int(panel * LETTERS_AN_INCH)), loc="left", fontsize=9.5)
        lowest = number + across >= len(labels)
        _ticks(axes.xaxis, [format_length(length) if lowest else "" for length in lengths], MOST_LENGTHS)
        axes.set_xlabel("length in tokens" if lowest else "")
        axes.set_ylabel("" if number % across else "depth of the needle")
    bar = figure.colorbar(panels[0].collections[0], ax=panels, shrink=0.8, aspect=30, label="score", pad=0.015)
    bar.outline.set_visible(False)
    bar.set_ticks([0, 0.25, 0.5, 0.75, 1], labels=["0", "25", "50", "75", "100"])
    columns = ["seq_len", "depth", "label", "n", "score", "density"]
    return Plot(name, title, figure, rows[columns], shaded=True)


def _cells(axes: Axes, rows: pd.DataFrame, lengths: list[int], depths: list[float]) -> None:
    scores = rows.pivot_table(index="depth", columns="seq_len", values="score")
    cells = scores.reindex(index=depths, columns=lengths).to_numpy(dtype=float)
    axes.set_facecolor(GRID)  # what was not scored
    axes.grid(False)
    line = 0.2 if max(cells.shape) > MANY_CELLS else 0.6
    axes.pcolormesh(np.ma.masked_invalid(cells), cmap=SCORES, norm=WHOLE, edgecolors="white", linewidth=line)
    axes.set_ylim(len(depths), 0)
    _ticks(axes.yaxis, [f"{depth:.0%}" for depth in depths], MOST_DEPTHS)
    axes.tick_params(length=0, labelsize=9)
    for side in axes.spines.values():
        side.set_visible(False)


def _title(rows: pd.DataFrame, letters: int) -> str:
    """Return a method's name, broken between its parameters, its mean score and its density."""
    name = broken(str(rows["label"].iloc[0]), letters)
    mean = points(float(np.average(rows["score"], weights=rows["n"])))
    sparse = (rows["method"] != "dense").any() and rows["density"].notna().any()
    kept = "" if not sparse else f", keeps {rows['density'].mean():.0%}"
    return f"{name}\nmean {mean}{kept}"


def broken(label: str, letters: int) -> str:
    """Return a method's label, broken between its parameters."""
    return "\n".join(wrap(label.replace(":", ": "), letters)).replace(": ", ":")


def samples_a_cell(rows: pd.DataFrame) -> str:
    """Return the number of samples behind each cell of a heatmap."""
    fewest, most = int(rows["n"].min()), int(rows["n"].max())
    return f"samples per cell: {fewest if fewest == most else f'{fewest} to {most}'}"


def _ticks(axis: Axis, names: list[str], most: int) -> None:
    """Label the cells of an axis; if there are many, every second, third, ..."""
    shown = range(0, len(names), max(1, -(-(len(names) - 1) // (most - 1))))
    axis.set_major_locator(FixedLocator([place + 0.5 for place in shown]))
    axis.set_major_formatter(FixedFormatter([names[place] for place in shown]))
