"""The heatmap of a needle test, as drawn."""

import matplotlib.colors
import pytest

from fp_bench.reports.accuracy.plots import accuracy_plots
from fp_bench.reports.accuracy.tables import by_depth, by_group
from tests.records.records import scored

LENGTHS = (4096, 8192)
DEPTHS = (0.0, 0.5, 1.0)


def grid(label="dense", score=1.0, turn=0, **changed):
    """A record at each length and depth."""
    names = {"method": label.partition(":")[0], "label": label, "method_hash": label, "suite": "needle"}
    where = [(length, depth) for length in LENGTHS for depth in DEPTHS]
    return [
        scored(
            score, **names | {"task": "needle", "seq_len": length, "depth": depth} | changed, sample_id=f"{turn}/{at}"
        )
        for at, (length, depth) in enumerate(where)
    ]


def panels(records):
    plot = next(plot for plot in accuracy_plots(records, "a machine") if plot.name == "depth")
    return plot, [axes for axes in plot.figure.axes if axes.get_title(loc="left")]


@pytest.mark.parametrize("others", [0, 1, 6])
def test_each_method_has_a_panel_and_all_have_the_same_colours(others):
    records = grid(density=1.0)
    for number in range(others):
        records += grid(f"flashprefill:alpha=0.{number}", score=0.25, density=0.9 - number / 10)
    plot, found = panels(records)
    assert len(found) == 1 + others
    assert found[0].get_title(loc="left") == "dense\nmean 100.0"
    for axes in found:
        (cells,) = axes.collections
        assert (cells.norm.vmin, cells.norm.vmax) == (0, 1)
        assert cells.get_array().shape == (len(DEPTHS), len(LENGTHS))
        assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the start of the haystack is at the top
    assert len(plot.data) == 6 * (1 + others)
    if others:
        colours = [matplotlib.colors.to_hex(axes.collections[0].cmap(0.25)) for axes in found]
        assert len(set(colours)) == 1
        assert "keeps" in found[1].get_title(loc="left")


def test_what_was_not_scored_is_no_zero():
    records = grid()[:-1] + grid("flashprefill", score=0.0)
    plot, (dense, sparse) = panels(records)
    assert dense.collections[0].get_array().mask.sum() == 1
    assert sparse.collections[0].get_array().mask.sum() == 0
    assert any("grey: not scored" in text.get_text() for text in plot.figure.texts)


def test_samples_at_one_place_are_averaged_and_those_without_a_place_are_no_part():
    records = grid() + grid(score=0.0, turn=1)
    records.append(scored(sample_id="elsewhere", suite="needle", method="dense", label="dense", method_hash="dense"))
    table = by_depth(records)
    assert len(table) == 6
    assert set(table["score"]) == {0.5}
    assert set(table["n"]) == {2}


def test_a_group_is_the_mean_of_its_tasks_and_a_sample_is_in_each_of_its_groups():
    records = [scored(1.0, task="a", sample_id=f"a/{n}", groups=["qa", "short"]) for n in range(3)]
    records += [scored(0.0, task="b", sample_id="b/0", groups=["qa", "long"])]
    table = by_group(records).set_index("group")
    assert dict(table["score"]) == {"long": 0.0, "qa": 0.5, "short": 1.0}
    assert dict(table["n"]) == {"long": 1, "qa": 4, "short": 3}
    assert by_group([scored()]).empty
