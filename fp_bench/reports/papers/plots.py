"""A figure's plot: our points over the published ones."""

from collections.abc import Sequence
from textwrap import fill
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from fp_bench.reports.drawing import (
    MUTED,
    PANEL_TITLE,
    STYLE,
    Plot,
    label_ends,
    length_axis,
    log_axis,
    method_lines,
    new_figure,
)
from fp_bench.reports.papers.figure import PaperFigure
from fp_bench.reports.papers.measured import Measured, MissingError
from fp_bench.reports.papers.quantities import ACCURACY, tick

CAPTION_WIDTH = 118
"""Letters of a line under the plot."""


def draw(figure: PaperFigure, measured: Sequence[Measured]) -> Plot | None:
    """Draw a figure with the values of the run that has most of it; None if nothing was measured."""
    sources = [values for values in measured if values.fits(figure.setting)]
    source = max(sources, key=lambda values: len(_ours(figure, values)), default=None)
    ours = pd.DataFrame() if source is None else _ours(figure, source)
    if source is None or ours.empty:
        return None
    points = pd.concat([_theirs(figure), ours], ignore_index=True)
    caption = f"published: {figure.paper}, {figure.place}; {figure.theirs}\nours: {source.setting} · {source.machine}"
    with matplotlib.rc_context(STYLE):
        wrapped = [fill(line, CAPTION_WIDTH) for line in caption.splitlines()]
        drawn, (axes,) = new_figure(figure.title, "\n".join(wrapped), panels=1)
        drawn.set_layout_engine(ConstrainedLayoutEngine(rect=(0.0, 0.12, 1.0, 0.79)))
        if figure.against == "length":
            _against_length(axes, figure, points)
        else:
            _against_method(axes, figure, points)
    return Plot(figure.name, figure.title, drawn, points[["source", "label", "seq_len", "value"]])


def _ours(figure: PaperFigure, source: Measured) -> pd.DataFrame:
    """Return the measured points at published lengths if there are any, else all."""
    rows = []
    for method in figure.methods:
        published = figure.published.get(figure.quantity, {}).get(method)
        of_method = source.table[source.table["label"] == method]
        for length in sorted(map(int, of_method["seq_len"])):
            if figure.against == "method" and published and length not in published:
                continue
            try:
                rows.append(_point("ours", method, length, source.value(figure.quantity, method, length)))
            except MissingError:
                continue
    return pd.DataFrame(rows)


def _theirs(figure: PaperFigure) -> pd.DataFrame:
    published = figure.published.get(figure.quantity, {})
    rows = [
        _point("published", method, n, value) for method, values in published.items() for n, value in values.items()
    ]
    return pd.DataFrame(rows)


def _point(source: str, label: str, length: int, value: float) -> dict[str, Any]:
    return {"source": source, "method": label.partition(":")[0], "label": label, "seq_len": length, "value": value}


def _against_length(axes: Axes, figure: PaperFigure, points: pd.DataFrame) -> None:
    ends: dict[str, tuple[str, float, str]] = {}
    for label, line, look in method_lines(points):
        ours, theirs = line[line["source"] == "ours"], line[line["source"] == "published"]
        hollow = look | {"markerfacecolor": "white", "markeredgecolor": look["color"]}
        axes.plot(theirs["seq_len"], theirs["value"], **hollow, linewidth=1.3, dashes=(4, 3))
        axes.plot(ours["seq_len"], ours["value"], **look)
        last = (ours if len(ours) else theirs).iloc[-1]
        ends[label] = (label, float(last["value"]), look["color"])
    _title(axes, figure, points)
    length_axis(axes, points)
    if figure.quantity in ACCURACY:
        axes.legend(handles=[Line2D([], [], color=colour, label=label) for label, _, colour in ends.values()])
        return
    span = points["value"].max() / points["value"].min()
    subs = (1, 1.2, 1.5, 2, 3, 5) if span < 5 else (1, 2, 5) if span < 50 else (1,)
    log_axis(axes, lambda value: tick(figure.quantity, value), subs)
    label_ends(axes, list(ends.values()))


def _against_method(axes: Axes, figure: PaperFigure, points: pd.DataFrame) -> None:
    places = {label: place for place, label in enumerate(figure.methods)}
    for _, line, look in method_lines(points):
        for source, of_source in line.groupby("source"):
            hollow = {"markerfacecolor": "white", "markeredgecolor": look["color"]} if source == "published" else {}
            at = [places[label] for label in of_source["label"]]
            axes.plot(at, of_source["value"], linestyle="none", **look | {"markersize": 9} | hollow)
    # Omit from each label what all methods have in common.
    axes.set_xticks(list(places.values()), [label.partition(":")[2] or label for label in places])
    axes.set_xlim(-0.5, len(places) - 0.5)
    axes.set_ylim(0, 1.12 * points["value"].max())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(figure.quantity, value)))
    _title(axes, figure, points)


def _title(axes: Axes, figure: PaperFigure, points: pd.DataFrame) -> None:
    both = points["source"].nunique() > 1
    axes.set_title(figure.axis + ("; filled: ours, hollow: published" if both else "; ours alone"), **PANEL_TITLE)
    axes.tick_params(colors=MUTED)
