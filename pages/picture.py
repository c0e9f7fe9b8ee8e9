"""The README's picture, from published records: speed-up against length, and accuracy.

``python -m pages.picture`` draws it again, with a CSV of what it shows.
"""

from collections.abc import Iterable
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from fp_bench.reports.drawing import (
    COLOURS,
    MUTED,
    PANEL_TITLE,
    STYLE,
    Plot,
    label_ends,
    length_axis,
    method_lines,
    ratio_axis,
    titled_figure,
)
from fp_bench.sizes import format_length
from pages.tables import ACCURACY_RUN, RIVALS, measured, scores

SPEED = RIVALS.run
FOLDER = Path(__file__).parents[1] / "docs" / "img"
CHANGES = ("difference", "difference_low", "difference_high")
DIGITS = "%.4g"
LOWEST = -14.0
"""Lower end of the right panel, in points below dense attention; lower values are written as text."""


def picture() -> Plot:
    """Return the picture: one line per method, in the colours of all plots."""
    speed, accuracy = _speed(), _accuracy()
    title = "How much faster than cuDNN, what it keeps, and what it answers"
    note = "left and middle: the same calls, 32 query and 8 KV heads of 128, structured inputs, H100; "
    note += "right: other inputs, on which methods keep other shares, FlashPrefill with alpha 0.33; bars: 95 %"
    caption = f"records: results/{SPEED}, results/{ACCURACY_RUN}"
    with matplotlib.rc_context(STYLE):
        figure = titled_figure(title, caption, (16.0, 5.2), below=0.3, above=0.75, note=note)
        left, middle, right = figure.subplots(1, 3, width_ratios=(1.2, 1, 1))
        _draw_speed(left, speed)
        _draw_recall(middle, speed)
        _draw_accuracy(right, accuracy)
    shown = pd.concat([speed.assign(shown="speed"), accuracy.assign(shown="accuracy")])
    columns = ["shown", "seq_len", "label", "density", "speedup_dense", "recall", *CHANGES]
    return Plot("speed-and-accuracy", "Speed-up and accuracy against length", figure, shown[columns])


def _speed() -> pd.DataFrame:
    found = measured(SPEED).reset_index()
    return found[found["method"] != "dense"]


def _accuracy() -> pd.DataFrame:
    found = scores(ACCURACY_RUN)
    return found[found["method"] != "dense"]


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


def _draw_accuracy(axes: Axes, rows: pd.DataFrame) -> None:
    axes.axhline(0, color=COLOURS["dense"], linewidth=1.3)
    lines = method_lines(rows.assign(**{name: 100 * rows[name] for name in CHANGES}))
    for place, (_, line, look) in enumerate(lines):
        apart = 1.05 ** (place - (len(lines) - 1) / 2)  # so that intervals stand side by side
        axes.plot(line["seq_len"] * apart, line["difference"], **look)
        axes.vlines(
            line["seq_len"] * apart, line["difference_low"], line["difference_high"], color=look["color"], linewidth=1
        )
    axes.set_ylim(LOWEST, 4)
    axes.set_title("RULER on the embedded model: points to dense", **PANEL_TITLE)
    length_axis(axes, rows)
    below = "; ".join(_below(rows[rows["difference"] < LOWEST / 100]))
    axes.annotate(below, (0.98, 0.03), xycoords="axes fraction", fontsize=9, color=MUTED, ha="right")


def _below(rows: pd.DataFrame) -> Iterable[str]:
    for label, mine in rows.groupby("label"):
        differences = [
            f"{100 * row['difference']:+.0f} at {format_length(row['seq_len'])}" for _, row in mine.iterrows()
        ]
        yield f"not shown: {label}, {differences[0]} to {differences[-1]}"


def main() -> None:
    """Draw it and write the PNG and its CSV."""
    drawn = picture()
    (FOLDER / f"{drawn.name}.png").write_bytes(drawn.png)
    drawn.data.to_csv(FOLDER / f"{drawn.name}.csv", index=False, float_format=DIGITS)


if __name__ == "__main__":
    main()
