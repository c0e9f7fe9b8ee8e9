"""The heatmap of tasks and methods: which task a method loses."""

import numpy as np
import pandas as pd

from fp_bench.reports.accuracy.depth_plots import SCORES, WHOLE, broken, samples_a_cell
from fp_bench.reports.accuracy.tables import points
from fp_bench.reports.drawing import GRID, Plot, method_lines, panel_grid, titled_figure
from fp_bench.sizes import format_length

LETTERS = 30
"""Longest line of a method's name."""
DARK = (0.25, 0.85)
"""Scores outside have a dark colour, and white numbers."""


def task_grid(rows: pd.DataFrame, name: str, caption: str) -> Plot:
    """Draw the score of each method in each task at the greatest length.

    Args:
        rows: of `accuracy_tables.by_task`, of one setting.
        name: of the files.
        caption: below the plot.
    """
    rows = rows[rows["seq_len"] == rows["seq_len"].max()]
    labels, tasks = [label for label, _, _ in method_lines(rows)], list(dict.fromkeys(rows["task"]))
    cells = rows.pivot_table(index="label", columns="task", values="score")
    scores = cells.reindex(index=labels, columns=tasks).to_numpy(dtype=float)
    title = f"Score by task and method at {format_length(int(rows['seq_len'].iloc[0]))}"
    size = (3.0 + 0.62 * len(tasks), 2.4 + 0.36 * len(labels))
    figure = titled_figure(title, caption, size, below=0.35, above=0.7, note=samples_a_cell(rows))
    (axes,) = panel_grid(figure, 1, 1)
    axes.set_facecolor(GRID)  # what was not scored
    axes.grid(False)
    axes.pcolormesh(np.ma.masked_invalid(scores), cmap=SCORES, norm=WHOLE, edgecolors="white", linewidth=0.6)
    for row, column in zip(*np.nonzero(np.isfinite(scores)), strict=True):
        score = float(scores[row, column])
        colour = "black" if DARK[0] < score < DARK[1] else "white"
        axes.text(column + 0.5, row + 0.5, points(score), ha="center", va="center", fontsize=8, color=colour)
    axes.set_ylim(len(labels), 0)
    axes.set_yticks([n + 0.5 for n in range(len(labels))], [broken(label, LETTERS) for label in labels])
    axes.set_xticks([n + 0.5 for n in range(len(tasks))], tasks, rotation=40, ha="right")
    axes.tick_params(length=0, labelsize=9)
    for side in axes.spines.values():
        side.set_visible(False)
    return Plot(name, title, figure, rows[["seq_len", "task", "label", "n", "score"]], shaded=True)
