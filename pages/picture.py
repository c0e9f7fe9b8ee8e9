"""Speed-up and kept attention mass against length, all methods on structured inputs, from published records.

``python -m pages.picture`` draws it again, with a CSV of what it shows.
"""

from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from fp_bench.reports.drawing import (
    COLOURS,
    PANEL_TITLE,
    STYLE,
    Plot,
    label_ends,
    length_axis,
    method_lines,
    ratio_axis,
    titled_figure,
)
from pages.tables import RIVALS, measured

SPEED = RIVALS.run
FOLDER = Path(__file__).parents[1] / "docs" / "img"
DIGITS = "%.4g"
SHORTEST = 4096
"""Tokens; at 1K nothing but launches is measured."""


def picture() -> Plot:
    """Return the picture: one line per method, in the colours of all plots."""
    speed = _speed()
    title = "How much faster than cuDNN, and how much of the attention mass is kept"
    note = (
        "the same calls: 32 query and 8 KV heads of 128, structured inputs of version 2, H200; defaults of each method"
    )
    with matplotlib.rc_context(STYLE):
        figure = titled_figure(title, f"records: results/{SPEED}", (13.0, 5.4), below=0.3, above=0.75, note=note)
        left, right = figure.subplots(1, 2, width_ratios=(1.2, 1))
        _draw_speed(left, speed)
        _draw_recall(right, speed)
    columns = ["seq_len", "label", "density", "speedup_dense", "recall"]
    return Plot("speed", "Speed-up and kept attention mass against length", figure, speed[columns])


def _speed() -> pd.DataFrame:
    found = measured(SPEED).reset_index()
    sparse = found["speedup_dense"].notna() & (found["method"] != "dense")
    return found[sparse & (found["seq_len"] >= SHORTEST)]


def _draw_speed(axes: Axes, rows: pd.DataFrame) -> None:
    ends = [("dense (cuDNN)", 1.0, COLOURS["dense"])]
    axes.axhline(1, color=COLOURS["dense"], linewidth=1.3)
    for label, line, look in method_lines(rows):
        axes.plot(line["seq_len"], line["speedup_dense"], **look)
        ends.append((label, float(line["speedup_dense"].iloc[-1]), look["color"]))
    ratio_axis(axes)
    axes.set_title("speed-up of one call over cuDNN's dense attention", **PANEL_TITLE)
    length_axis(axes, rows)
    label_ends(axes, ends)


def _draw_recall(axes: Axes, rows: pd.DataFrame) -> None:
    for _, line, look in method_lines(rows):
        axes.plot(line["seq_len"], 100 * line["recall"], **look)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda percent, _: f"{percent:g} %"))
    axes.set_title("attention mass in what is kept", **PANEL_TITLE)
    length_axis(axes, rows)


def main() -> None:
    """Draw it and write the PNG and its CSV."""
    drawn = picture()
    (FOLDER / f"{drawn.name}.png").write_bytes(drawn.png)
    drawn.data.to_csv(FOLDER / f"{drawn.name}.csv", index=False, float_format=DIGITS)


if __name__ == "__main__":
    main()
