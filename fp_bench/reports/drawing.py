"""The look of all plots: one style, a fixed colour for each method, shared helpers."""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import log2
from pathlib import Path
from typing import Any
from zlib import crc32

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator
from PIL import Image

from fp_bench.reports.escape import csv
from fp_bench.reports.output import write
from fp_bench.sizes import format_length

INK, MUTED, GRID = "#1f2430", "#6b7280", "#e5e7eb"
COLOURS = {
    "dense": "#4b5563",
    "flashprefill": "#d1335b",
    "flashprefill_v2": "#f08a24",
    "flexprefill": "#2a78d6",
    "xattention": "#1a9a6c",
    "minference": "#7d57c2",
    "minference_official": "#b39ad9",
    "streaming": "#a0703c",
    "rbs": "#8c1d40",
    "prism": "#0b7a8c",
    "stem": "#5b7f1f",
    "delta": "#e06c4f",
    "skip_softmax": "#94a3b8",
    "spargeattn": "#9b2f86",
    "trianglemix": "#c9a227",
    "cosa": "#0f5fa8",
}
"""A method has the same colour in every plot."""
OTHER_COLOURS = ("#c0563b", "#2f5d8a", "#5b8c5a", "#8a5a83", "#6b7a00", "#00796b", "#ad1457")
"""Colours of plug-in methods, chosen by name, so that they do not depend on other methods in the plot."""
VARIANTS = (("o", 0.0), ("s", 0.35), ("^", 0.2), ("D", 0.5), ("v", 0.1), ("P", 0.6))
"""Marker and lightness of the first, second, ... variant of one method."""
PANEL_TITLE: dict[str, Any] = {"loc": "left", "fontsize": 9.5, "color": MUTED}
LABEL_GAP = 0.055
"""Smallest distance between two labels, in heights of the axes."""
BELOW = " · \N{BLACK DOWN-POINTING TRIANGLE} below the axis, with its value"
"""For the caption."""
STYLE = {
    "figure.dpi": 100,
    "savefig.dpi": 160,
    "font.family": "sans-serif",
    "font.size": 10.5,
    "text.color": INK,
    "text.parse_math": False,  # a name with dollars is a name
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
    "hatch.linewidth": 0.6,
    "pdf.fonttype": 42,
}


@dataclass(frozen=True)
class Plot:
    """A finished plot and the data it shows."""

    name: str
    title: str
    figure: Figure
    data: pd.DataFrame
    shaded: bool = False
    """Whether shades of colour are values, so that a dark page must not invert them."""

    @cached_property
    def png(self) -> bytes:
        """The plot as PNG with at most 256 colours (a third of the size), drawn on first use."""
        drawn, written = io.BytesIO(), io.BytesIO()
        # Without dates and versions, so that equal records give equal bytes.
        with matplotlib.rc_context(STYLE):
            self.figure.savefig(drawn, format="png", metadata={"Software": None})
        self.figure.set_layout_engine("none")  # the PDF keeps the layout, which takes long to find
        Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(written, "PNG", optimize=True)
        return written.getvalue()

    def save(self, folder: Path) -> None:
        """Write ``name.png``, ``name.pdf`` and ``name.csv``."""
        write(folder / f"{self.name}.png", self.png)
        drawn = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            self.figure.savefig(drawn, format="pdf", metadata={"CreationDate": None, "Producer": None})
        write(folder / f"{self.name}.pdf", drawn.getvalue())
        write(folder / f"{self.name}.csv", csv(self.data))


def new_figure(title: str, caption: str, panels: int) -> tuple[Figure, list[Axes]]:
    """Return a figure with a title, a caption and panels side by side that share their y axis."""
    figure = titled_figure(title, caption, (2.0 + 5.6 * panels, 4.9), below=0.25, above=0.4)
    return figure, panel_grid(figure, panels, across=panels)


def titled_figure(
    title: str,
    caption: str,
    size: tuple[float, float],
    *,
    below: float,
    above: float,
    note: str = "",
    gap: float | None = None,
) -> Figure:
    """Return an empty figure with a title, a note under it and a caption at the bottom.

    Args:
        title: in bold.
        caption: small.
        size: width and height of the figure in inches.
        below: inches left free at the bottom.
        above: inches left free at the top.
        note: a line under the title.
        gap: inches above and below each panel; None: matplotlib's default.
    """
    width, height = size
    room = ConstrainedLayoutEngine(rect=(0.0, below / height, 1.0, 1 - (below + above) / height), h_pad=gap)
    figure = Figure(figsize=size, layout=room)
    figure.text(0.12 / width, 1 - 0.12 / height, title, fontsize=14, fontweight="bold", va="top")
    figure.text(0.12 / width, 1 - 0.45 / height, note, fontsize=9.5, color=MUTED, va="top")
    figure.text(0.12 / width, 0.1 / height, caption, fontsize=8.5, color=MUTED, va="bottom", wrap=True)
    return figure


def panel_grid(figure: Figure, panels: int, across: int, *, sharey: bool = True) -> list[Axes]:
    """Return panels in rows; unused places in the last row stay empty."""
    grid = list(figure.subplots(-(-panels // across), across, squeeze=False, sharey=sharey).flat)
    for axes in grid[panels:]:
        axes.set_visible(False)
    return grid[:panels]


def method_colour(method: str) -> str:
    """Return a method's colour, which depends only on its name."""
    return COLOURS.get(method) or OTHER_COLOURS[crc32(method.encode()) % len(OTHER_COLOURS)]


def method_lines(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame, dict[str, Any]]]:
    """Return label, rows by length and style of each method's line, dense first, then by label as in tables."""
    lines = []
    numbers: dict[str, int] = {}
    methods = dict(zip(rows["label"], rows["method"], strict=True))
    for label in sorted(methods, key=lambda label: (methods[label] != "dense", label)):
        number = numbers[methods[label]] = numbers.get(methods[label], -1) + 1
        marker, white = VARIANTS[number % len(VARIANTS)]
        shade = to_hex(np.array(to_rgb(method_colour(methods[label]))) * (1 - white) + white)
        line = rows[rows["label"] == label].sort_values("seq_len")
        lines.append((str(label), line, {"color": shade, "marker": marker, "markeredgecolor": "white"}))
    return lines


def left_out(rows: pd.DataFrame, *columns: str) -> str:
    """Return a note for the caption that names methods without a number in any column."""
    shown = set(rows.loc[rows[[*columns]].notna().any(axis=1), "label"])
    missing = [str(label) for label in dict.fromkeys(rows["label"]) if label not in shown]
    return f" · not shown, without a result: {', '.join(missing)}" if missing else ""


def length_axis(axes: Axes, rows: pd.DataFrame, most: int = 12) -> None:
    """Make the x axis one of lengths, with a tick at each measured one, except where more than ``most`` would touch."""
    lengths = sorted(set(rows["seq_len"]))
    gap = log2(lengths[-1] / lengths[0]) / most
    named = [lengths[-1]]
    for length in reversed(lengths):
        if log2(named[0] / length) > gap:
            named.insert(0, length)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(named))
    axes.xaxis.set_minor_locator(FixedLocator(lengths))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda length, _: format_length(int(length))))
    axes.set_xlim(lengths[0] / 1.25, lengths[-1] * 1.25)
    axes.set_xlabel("length in tokens")


def side_by_side(lines: Sequence[Any]) -> Iterator[float]:
    """Yield a factor on the lengths for each line, so that lines of equal values are told apart."""
    step = min(0.07, 0.35 / len(lines))  # in powers of two
    for number in range(len(lines)):
        yield 2.0 ** (step * (number - (len(lines) - 1) / 2))


def far_out(extents: Mapping[str, float]) -> list[str]:
    """Return up to a third of the names: those that would stretch an axis to more than twice what the others need.

    Args:
        extents: how much of the axis each name needs, from its fixed end.
    """
    names = sorted(extents, key=lambda name: -extents[name])
    tries = range(1, len(names) // 3 + 1)
    return next((names[:n] for n in tries if 2 * extents[names[n]] < extents[names[0]]), [])


def mark_below(axes: Axes, places: Iterable[float], values: Iterable[float], colour: str, *, factor: float = 1) -> None:
    """Mark values below the axis at its edge, each with its number times a factor; `BELOW` explains it."""
    bottom = axes.get_ylim()[0]
    for place, value in zip(places, values, strict=True):
        if value < bottom:
            axes.plot(place, bottom, marker="v", color=colour, markeredgecolor="white", clip_on=False, zorder=5)
            beside: dict[str, Any] = {"textcoords": "offset points", "va": "bottom", "fontsize": 8, "color": colour}
            axes.annotate(f"{factor * value:.0f}", (place, bottom), (5, 1), **beside)


def ratio_axis(axes: Axes, subs: Sequence[float] = (1,)) -> None:
    """Make the y axis one of speed-ups, with ticks at ``subs`` times each power of two."""
    log_axis(axes, lambda ratio: f"{ratio:g}x", subs, base=2)


def log_axis(axes: Axes, show: Callable[[float], str], subs: Sequence[float] = (1, 2, 5), *, base: int = 10) -> None:
    """Make the y axis logarithmic, with labels at ``subs`` times each power of the base and no other ticks."""
    axes.set_yscale("log", base=base)
    axes.yaxis.set_major_locator(LogLocator(base=base, subs=subs))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: show(value)))
    axes.yaxis.set_minor_locator(NullLocator())


def label_ends(axes: Axes, ends: Sequence[tuple[str, float, str]]) -> None:
    """Write each line's name next to its last point, without overlaps."""
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
