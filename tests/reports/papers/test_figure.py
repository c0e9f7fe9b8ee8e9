import shlex

import pytest
from pydantic import ValidationError

from fp_bench.errors import UsageError
from fp_bench.methods.registry import Spec, create_method, methods
from fp_bench.reports.papers.figure import PaperFigure, load_figure, load_figures
from fp_bench.reports.papers.judge import points
from fp_bench.reports.papers.quantities import ACCURACY, LATENCY
from fp_bench.sizes import parse_lengths

FIGURES = load_figures()
STATED = [figure for figure in FIGURES if figure.statements]
MINIMAL = {
    "name": "x", "title": "t", "paper": "p", "place": "here", "theirs": "a GPU", "setting": {}, "axis": "y",
    "quantity": "ms",
}  # fmt: skip
GROWS = {"says": "it grows", "grows": {"quantity": "ms", "method": "dense", "lens": "4k,8k"}}


def needed(figure):
    return [point for statement in figure.statements for point in points(figure, statement.form)]


def test_there_are_figures_of_every_paper():
    assert len(FIGURES) >= 15
    assert len({figure.paper for figure in FIGURES}) == 5


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.name)
def test_every_name_in_a_figure_is_known(figure):
    for quantity in {figure.quantity, *figure.published, *(point.quantity for point in needed(figure))}:
        assert quantity in LATENCY | ACCURACY
    for method in {*figure.methods, *(point.method for point in needed(figure))}:
        if Spec.parse(method).name in methods.targets():  # another's method may not be here yet
            assert create_method(Spec.parse(method)).label == method


@pytest.mark.parametrize("figure", STATED, ids=lambda figure: figure.name)
def test_a_figures_commands_measure_all_that_it_needs(figure):
    measured = set()
    for command in figure.commands:
        words = shlex.split(command)
        lens, names = (words[words.index(option) + 1] for option in ("--lens", "--methods"))
        measured |= {(name, length) for name in names.split(",") for length in parse_lengths(lens)}
    assert {(point.method, point.length) for point in needed(figure)} <= measured


def test_an_unknown_figure_gets_a_near_name():
    with pytest.raises(UsageError, match="did you mean 'v1-speedup'"):
        load_figure("v1-sppedup")


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"statements": [{"says": "nothing"}]},
        {"statements": [GROWS | {"falls": GROWS["grows"]}]},
        {"statements": [GROWS], "unmeasured": "both"},
        {"statements": [{"says": "no such value", "close": {"quantity": "ms", "method": "dense"}}]},
        {"statements": [{"says": "no bound", "bound": GROWS["grows"]}]},
    ],
)
def test_incomplete_figures_are_refused(wrong):
    assert PaperFigure(**MINIMAL, statements=[GROWS]).statements
    with pytest.raises(ValidationError):
        PaperFigure(**MINIMAL | wrong)
