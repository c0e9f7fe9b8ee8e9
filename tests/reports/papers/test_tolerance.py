import pytest

from fp_bench.reports.papers.tolerance import Tolerance, tolerance


@pytest.mark.parametrize(("kind", "size"), [("time ratio", 1.35), ("density", 1.11), ("score difference", 2.3)])
def test_tolerances_are_those_of_the_page(kind, size):
    assert tolerance(kind).size == pytest.approx(size, rel=0.01)


def test_a_factor_is_as_wide_above_as_below():
    low, high = Tolerance("time ratio", 1.25).limits(2.0)
    assert (low, high) == (1.6, 2.5)


def test_points_are_added_and_may_cross_zero():
    low, high = Tolerance("score difference", 2.0).limits(-1.5)
    assert (low, high) == (-3.5, 0.5)
