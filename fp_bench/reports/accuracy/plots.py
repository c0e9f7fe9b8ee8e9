"""Plots of accuracy: score against length, against density, by task, and by depth where one was chosen."""

from collections.abc import Sequence

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from fp_bench.records.record import AccuracyRecord
from fp_bench.reports.accuracy.depth_plots import heatmap
from fp_bench.reports.accuracy.tables import SETTING, by_depth, by_task, of_setting, setting_title, summary
from fp_bench.reports.drawing import (
    COLOURS,
    PANEL_TITLE,
    STYLE,
    Plot,
    length_axis,
    method_lines,
    new_figure,
    panel_grid,
    titled_figure,
)
from fp_bench.sizes import format_length

ACROSS = 5
"""Panels of tasks in a row."""


def accuracy_plots(records: Sequence[AccuracyRecord], machine: str) -> list[Plot]:
    """Draw the plots of each setting in the records.

    Args:
        records: of one run.
        machine: what it ran on, for the caption.
    """
    totals, tasks, depths = summary(records), by_task(records), by_depth(records)
    plots = []
    groups = list(totals.groupby([*SETTING], sort=False, dropna=False))
    with matplotlib.rc_context(STYLE):
        for number, (setting, rows) in enumerate(groups, 1):
            suffix = f"-{number}" if len(groups) > 1 else ""
            of_tasks, of_depths = of_setting(tasks, setting), of_setting(depths, setting)
            caption = f"{setting_title(rows.iloc[0])} · {machine}"
            if len(of_depths):
                plots.append(heatmap(of_depths, f"depth{suffix}", caption))
            if rows["seq_len"].nunique() > 1:
                plots.append(_score(rows, f"score{suffix}", caption))
            if (rows["method"] != "dense").any():
                plots.append(_pareto(rows, f"pareto{suffix}", caption))
            if of_tasks["task"].nunique() > 1:
                plots.append(_tasks(of_tasks, f"tasks{suffix}", caption))
    return plots


def _score(rows: pd.DataFrame, name: str, caption: str) -> Plot:
    figure, (axes,) = new_figure("Score against length", caption, panels=1)
    for label, line, look in method_lines(rows):
        if (line["method"] == "dense").all():
            axes.fill_between(line["seq_len"], 100 * line["low"], 100 * line["high"], color=look["color"], alpha=0.13)
        axes.plot(line["seq_len"], 100 * line["score"], label=label, **look)
    axes.set_title("average over tasks; band: 95 % interval of dense attention", **PANEL_TITLE)
    length_axis(axes, rows)
    _score_axis(axes, rows)
    figure.legend(loc="outside right upper", fontsize=9.5)
    columns = ["seq_len", "label", "n", "score", "low", "high", "difference", "difference_low", "difference_high"]
    return Plot(name, "Score against length", figure, rows[columns])


def _pareto(rows: pd.DataFrame, name: str, caption: str) -> Plot:
    lengths = sorted(set(rows["seq_len"]))
    figure, panels = new_figure("Score against density", caption, panels=len(lengths))
    figure.set_figwidth(2.4 + 3.1 * len(lengths))
    labelled: dict[str, None] = {}
    for axes, length in zip(panels, lengths, strict=True):
        here = rows[rows["seq_len"] == length]
        dense = here[here["method"] == "dense"]
        for _, row in dense.head(1).iterrows():
            axes.axhspan(100 * row["low"], 100 * row["high"], color=COLOURS["dense"], alpha=0.13, linewidth=0)
            axes.axhline(100 * row["score"], color=COLOURS["dense"], linewidth=1.3)
        sparse = here[(here["method"] != "dense") & ~here["fallback"]]
        for _, front in sparse.groupby("method", sort=False):
            line = front.sort_values("density")
            colour = method_lines(front)[0][2]["color"]
            axes.plot(line["density"], 100 * line["score"], color=colour, linewidth=1, alpha=0.5)
        for label, points, look in method_lines(sparse):
            axes.plot(points["density"], 100 * points["score"], linestyle="", **look)
            axes.vlines(points["density"], 100 * points["low"], 100 * points["high"], color=look["color"], linewidth=1)
            labelled.setdefault(label)
        axes.set_title(format_length(length), loc="left", fontsize=11)
        _density_axis(axes)
    _score_axis(panels[0], rows)
    looks = {label: look for label, _, look in method_lines(rows[rows["method"] != "dense"])}
    handles = [panels[0].plot([], [], linestyle="", label=label, **looks[label])[0] for label in labelled]
    handles.append(panels[0].plot([], [], color=COLOURS["dense"], linewidth=1.3, label="dense, 95 %")[0])
    figure.legend(handles=handles, loc="outside right upper", fontsize=9.5)
    columns = ["seq_len", "label", "density", "recall", "n", "score", "low", "high"]
    return Plot(name, "Score against density", figure, rows[columns])


def _score_axis(axes: Axes, rows: pd.DataFrame) -> None:
    """Show scores from a round number below the lowest (interval) up to 100."""
    lowest = 100 * rows["low" if "low" in rows else "score"].min()
    bottom = max(0.0, 10 * ((lowest - 2) // 10))
    margin = 0.04 * (100 - bottom)
    axes.set_ylim(bottom - margin, 100 + margin)


def _density_axis(axes: Axes) -> None:
    axes.set_xlim(-0.03, 1.03)
    axes.set_xlabel("kept share of block pairs")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))


def _tasks(rows: pd.DataFrame, name: str, caption: str) -> Plot:
    """Draw a panel for each task: score against length, or against density where there is one length."""
    tasks = list(dict.fromkeys(rows["task"]))
    across = min(len(tasks), ACROSS)
    down = -(-len(tasks) // across)
    size = (2.4 + 2.5 * across, 1.2 + 2.3 * down)
    figure = titled_figure("Score by task", caption, size, below=0.35, above=0.5)
    panels = panel_grid(figure, len(tasks), across)
    for axes, task in zip(panels, tasks, strict=True):
        here = rows[rows["task"] == task]
        for label, line, look in method_lines(here):
            if rows["seq_len"].nunique() > 1:
                axes.plot(line["seq_len"], 100 * line["score"], label=label, **look | {"markersize": 4})
            else:
                axes.plot(line["density"], 100 * line["score"], linestyle="", label=label, **look)
        if rows["seq_len"].nunique() > 1:
            length_axis(axes, rows)
            axes.set_xlabel("")
            axes.tick_params(axis="x", labelsize=8)
        else:
            _density_axis(axes)
        axes.set_title(task, loc="left", fontsize=10)
    _score_axis(panels[0], rows)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=9.5)
    columns = ["seq_len", "task", "label", "n", "score", "density", "recall"]
    return Plot(name, "Score by task", figure, rows[columns])
