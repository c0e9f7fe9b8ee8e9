"""Plots of accuracy: score against length, against density, by task, and by depth if there is one."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from fp_bench.records.record import AccuracyRecord
from fp_bench.reports.accuracy.depth_plots import heatmap
from fp_bench.reports.accuracy.tables import SETTING, by_depth, by_task, of_setting, samples, setting_title, summary
from fp_bench.reports.accuracy.task_grid import task_grid
from fp_bench.reports.drawing import (
    BELOW,
    COLOURS,
    PANEL_TITLE,
    STYLE,
    Plot,
    far_out,
    left_out,
    length_axis,
    mark_below,
    method_lines,
    new_figure,
    panel_grid,
    side_by_side,
    titled_figure,
)
from fp_bench.reports.latency.tables import density_heading
from fp_bench.sizes import format_length

ACROSS, LENGTHS_ACROSS = 5, 3
"""Panels of tasks and of lengths in a row."""
LEGEND_ROW = 0.235
"""Inches."""


def accuracy_plots(records: Sequence[AccuracyRecord], machine: str) -> list[Plot]:
    """Draw the plots of each setting in the records.

    Args:
        records: of one run.
        machine: the machine, for the caption.
    """
    totals, tasks, depths, every = summary(records), by_task(records), by_depth(records), samples(records)
    plots = []
    groups = list(totals.groupby([*SETTING], sort=False, dropna=False))
    with matplotlib.rc_context(STYLE):
        for number, (setting, rows) in enumerate(groups, 1):
            suffix = f"-{number}" if len(groups) > 1 else ""
            of_tasks, of_depths = of_setting(tasks, setting), of_setting(depths, setting)
            caption = f"{setting_title(rows.iloc[0])} · {machine}"
            # Methods without an answer, or without one in every task, have no average.
            asked = of_setting(every, setting).drop_duplicates("label")
            caption += left_out(asked.assign(shown=asked["label"].where(asked["label"].isin(rows["label"]))), "shown")
            measure = AGREEMENT if rows["kl"].isna().all() else DIVERGENCE
            if len(of_depths):
                plots.append(heatmap(of_depths, f"depth{suffix}", caption))
            several, seen = rows["seq_len"].nunique() > 1, rows.loc[rows["method"] != "dense", "density"].notna().any()
            if several:
                plots.append(_against_length(rows, measure, f"{measure.column}{suffix}", caption))
            if seen:
                plots.append(_pareto(rows, measure, f"pareto{suffix}", caption))
            if of_tasks["task"].nunique() > 1:
                plots.append(task_grid(of_tasks, f"task-grid{suffix}", caption))
            if of_tasks["task"].nunique() > 1 and (several or rows["density"].notna().any()):
                plots.append(_tasks(of_tasks, f"tasks{suffix}", caption))
    return plots


class Measure(NamedTuple):
    """A measure of quality in a plot, in the units of `summary` times a factor."""

    column: str
    name: str
    low: str
    high: str
    factor: float
    axis: Callable[[Axes, pd.DataFrame], list[str]]
    """Scales the y axis to rows; returns the methods that fall below it."""


def _against_length(rows: pd.DataFrame, measure: Measure, name: str, caption: str) -> Plot:
    title = f"{measure.name} against length"
    figure, (axes,) = new_figure(title, caption, panels=1)
    lines = method_lines(rows)
    below = measure.axis(axes, rows)
    figure.texts[-1].set_text(caption + (BELOW if below else ""))
    for (label, line, look), aside in zip(lines, side_by_side(lines), strict=True):
        value, low, high = (measure.factor * line[column] for column in (measure.column, measure.low, measure.high))
        if (line["method"] == "dense").all():
            if measure is DIVERGENCE:
                continue
            axes.fill_between(line["seq_len"], low, high, color=look["color"], alpha=0.13)
        axes.plot(aside * line["seq_len"], value, label=label, **look)
        if label in below:
            mark_below(axes, aside * line["seq_len"], value, look["color"])
    what = "0 for dense" if measure is DIVERGENCE else "band: 95 % interval of dense attention"
    axes.set_title(f"average over tasks; {what}", **PANEL_TITLE)
    length_axis(axes, rows)
    figure.legend(loc="outside right upper", fontsize=9.5)
    columns = ["seq_len", "label", "n", "kl", "kl_low", "kl_high", "score", "low", "high"]
    columns += ["difference", "difference_low", "difference_high"]
    return Plot(name, title, figure, rows[columns])


def _pareto(rows: pd.DataFrame, measure: Measure, name: str, caption: str) -> Plot:
    lengths = sorted(set(rows["seq_len"]))
    title = f"{measure.name} against density"
    across = min(len(lengths), LENGTHS_ACROSS)
    down = -(-len(lengths) // across)
    note = "" if measure is DIVERGENCE else "band and bars: 95 % intervals"
    looks = {label: look for label, _, look in method_lines(rows[rows["method"] != "dense"])}
    size = (3.4 + 3.0 * across, max(1.2 + 2.6 * down, 1.9 + LEGEND_ROW * len(looks)))
    figure = titled_figure(title, caption, size, below=0.35, above=0.65, note=note)
    panels = panel_grid(figure, len(lengths), across)
    below = measure.axis(panels[0], rows)
    figure.texts[-1].set_text(caption + (BELOW if below else ""))
    labelled: dict[str, None] = {}
    for axes, length in zip(panels, lengths, strict=True):
        here = rows[rows["seq_len"] == length]
        dense = here[here["method"] == "dense"]
        for _, row in dense.head(0 if measure is DIVERGENCE else 1).iterrows():
            axes.axhspan(100 * row["low"], 100 * row["high"], color=COLOURS["dense"], alpha=0.13, linewidth=0)
            axes.axhline(100 * row["score"], color=COLOURS["dense"], linewidth=1.3)
        sparse = here[(here["method"] != "dense") & ~here["fallback"]]
        for _, front in sparse.groupby("method", sort=False):
            line = front.sort_values("density")
            colour = method_lines(front)[0][2]["color"]
            axes.plot(line["density"], measure.factor * line[measure.column], color=colour, linewidth=1, alpha=0.5)
        for label, points, look in method_lines(sparse):
            value, low, high = (measure.factor * points[name] for name in (measure.column, measure.low, measure.high))
            axes.plot(points["density"], value, linestyle="", **look)
            axes.vlines(points["density"], low, high, color=look["color"], linewidth=1)
            if label in below:
                mark_below(axes, points["density"], value, look["color"])
            labelled.setdefault(label)
        axes.set_title(format_length(length), loc="left", fontsize=11)
        _density_axis(axes, rows)
    handles = [panels[0].plot([], [], linestyle="", label=label, **looks[label])[0] for label in labelled]
    if measure is not DIVERGENCE:
        handles.append(panels[0].plot([], [], color=COLOURS["dense"], linewidth=1.3, label="dense")[0])
    panels[across - 1].legend(handles=handles, loc="upper left", bbox_to_anchor=(1.02, 1.0), fontsize=9.5)
    columns = ["seq_len", "label", "density", "recall", "n", "kl", "kl_low", "kl_high", "score", "low", "high"]
    return Plot(name, title, figure, rows[columns])


def _score_axis(axes: Axes, rows: pd.DataFrame) -> list[str]:
    """Show scores from a round number below the lowest (interval) up to 100; return the methods far below the rest."""
    lowest = 100 * rows.groupby("label")[["score", "low"]].min()
    below = far_out({str(label): 100 - score for label, score in lowest["score"].items()})
    _score_limits(axes, float(lowest["low"].drop(below).min()))
    return below


def _score_limits(axes: Axes, lowest: float) -> None:
    bottom = max(0.0, 10 * ((lowest - 2) // 10))
    margin = 0.04 * (100 - bottom)
    axes.set_ylim(bottom - margin, 100 + margin)
    axes.set_ylabel("score")


def _divergence_axis(axes: Axes, rows: pd.DataFrame) -> list[str]:
    if (rows["kl"] > 0).any():
        axes.set_yscale("log")
    axes.set_ylabel("KL in nats")
    return []


AGREEMENT = Measure("score", "Score", "low", "high", 100.0, _score_axis)
DIVERGENCE = Measure("kl", "KL to dense attention", "kl_low", "kl_high", 1.0, _divergence_axis)


def _density_axis(axes: Axes, rows: pd.DataFrame) -> None:
    axes.set_xlim(-0.03, 1.03)
    axes.set_xlabel(density_heading(rows))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))


def _tasks(rows: pd.DataFrame, name: str, caption: str) -> Plot:
    """Draw a panel for each task: score against length, or against density for a single length."""
    tasks = list(dict.fromkeys(rows["task"]))
    across = min(len(tasks), ACROSS)
    down = -(-len(tasks) // across)
    size = (2.4 + 2.5 * across, 1.2 + 2.3 * down)
    figure = titled_figure("Score by task", caption, size, below=0.35, above=0.5)
    panels = panel_grid(figure, len(tasks), across)
    for axes, task in zip(panels, tasks, strict=True):
        here = rows[rows["task"] == task]
        lines = method_lines(here)
        for (label, line, look), aside in zip(lines, side_by_side(lines), strict=True):
            if rows["seq_len"].nunique() > 1:
                axes.plot(aside * line["seq_len"], 100 * line["score"], label=label, **look | {"markersize": 4})
            else:
                axes.plot(line["density"], 100 * line["score"], linestyle="", label=label, **look)
        if rows["seq_len"].nunique() > 1:
            length_axis(axes, rows, most=6)
            axes.set_xlabel("")
            axes.tick_params(axis="x", labelsize=8)
        else:
            _density_axis(axes, rows)
        axes.set_title(task, loc="left", fontsize=10)
    _score_limits(panels[0], 100 * float(rows["score"].min()))
    for axes in panels[across::across]:
        axes.set_ylabel("score")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=9.5)
    columns = ["seq_len", "task", "label", "n", "score", "density", "recall"]
    return Plot(name, "Score by task", figure, rows[columns])
