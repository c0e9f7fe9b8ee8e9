"""Helpers of plots: axes that one bad method does not stretch, lines that are told apart, ticks that do not touch."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from fp_bench.reports.drawing import far_out, length_axis, mark_below, side_by_side


@pytest.mark.parametrize(
    ("extents", "out"),
    [
        ({"a": 1.0, "b": 1.2, "c": 10.0}, ["c"]),
        ({"a": 1.0, "b": 6.0, "c": 10.0}, []),  # the next one needs more than half
        ({"a": 1.0, "b": 10.0}, []),  # of two, neither is the bad one
        ({"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0, "e": 9.0, "f": 10.0}, ["f", "e"]),
        ({"a": 1.0, "b": 1.0, "c": 9.0, "d": 9.0, "e": 9.0, "f": 10.0}, []),  # half of them are no exceptions
        ({"a": 0.0, "b": 0.0, "c": 0.0}, []),
        ({}, []),
    ],
)
def test_a_few_that_need_most_of_the_axis_are_far_out(extents: dict[str, float], out: list[str]) -> None:
    assert far_out(extents) == out


@pytest.mark.parametrize("count", [1, 2, 8, 30])
def test_lines_are_set_aside_in_equal_steps_around_their_length(count: int) -> None:
    aside = np.log2(list(side_by_side(range(count))))
    assert aside.sum() == pytest.approx(0)
    assert np.ptp(aside) < 0.36  # less than half of the way to a doubled length
    assert len(set(aside)) == count


@pytest.mark.parametrize(
    ("lengths", "named"),
    [
        ([4096, 8192, 16384], ["4K", "8K", "16K"]),
        ([4096, 4200, 4300, 16384], ["4300", "16K"]),
        ([2**n for n in range(9, 21)], ["1K", "4K", "16K", "64K", "256K", "1024K"]),
        ([4096], ["4K"]),
    ],
)
def test_lengths_that_would_touch_have_a_tick_without_a_name(lengths: list[int], named: list[str]) -> None:
    axes = Figure().subplots()
    length_axis(axes, pd.DataFrame({"seq_len": lengths}), most=6)
    write: Any = axes.xaxis.get_major_formatter()
    assert [write(place, None) for place in axes.xaxis.get_majorticklocs()] == named
    assert set(axes.xaxis.get_minorticklocs()) | set(axes.xaxis.get_majorticklocs()) == set(lengths)


def test_values_below_the_axis_are_marked_at_its_edge_with_their_numbers() -> None:
    axes = Figure().subplots()
    axes.set_ylim(50, 100)
    mark_below(axes, [1, 2, 3], [0.9, 60.0, 20.4], "#000000")
    assert [text.get_text() for text in axes.texts] == ["1", "20"]
    assert [float(line.get_ydata()[0]) for line in axes.lines] == [50, 50]  # type: ignore[index,arg-type]
