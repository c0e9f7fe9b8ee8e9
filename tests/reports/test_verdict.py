import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from fp_bench.reports.verdict import (
    Rule,
    Verdict,
    compare_times,
    corrected_for_many,
    found_share,
    smallest_found,
    time_of,
)

RULE = Rule()
ALIKE = Rule(min_effect=1e-9, restart=0.0)
"""Of launches that do not differ."""
TIMES = arrays(float, (4, 1, 5), elements=st.floats(0.01, 1e4))


def normal(noise, cells, rounds, factor=1.0, seed=0):
    return factor * np.exp(noise * np.random.default_rng(seed).standard_normal((cells, 1, rounds)))


def test_unchanged_code_is_not_accused():
    _, accused = found_share(0.01, 0.0, 5, RULE, pairs=1000)
    assert accused < 0.01


@pytest.mark.parametrize("seed", range(3))
def test_a_tenth_slower_is_found(seed):
    found, accused = found_share(0.01, 0.10, 5, RULE, pairs=1000, seed=seed)
    assert found >= 0.95
    assert accused < 0.01


def test_the_smallest_slowdown_found_is_found_and_half_of_it_is_not():
    smallest = smallest_found(0.01, 5, RULE)
    assert found_share(0.01, smallest, 5, RULE)[0] > 0.9
    assert found_share(0.01, smallest / 2, 5, RULE)[0] < 0.5
    assert smallest_found(1.0, 3, RULE) is None


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("rounds", [3, 4, 5, 10])
def test_p_is_below_five_percent_in_at_most_five_of_a_hundred_equal_pairs(rounds, paired):
    base, new = np.exp(0.01 * np.random.default_rng(rounds).standard_normal((2, 4000, 1, 1, rounds)))
    found = compare_times(base, new, ALIKE, paired=paired, forecast=False)
    assert 0.02 < (found.p < 0.05).mean() < 0.06


@pytest.mark.parametrize("rounds", [5, 10, 50])
def test_one_odd_round_hides_no_slowdown(rounds):
    base, new = np.exp(0.01 * np.random.default_rng(rounds).standard_normal((2, 200, 30, 1, rounds)))
    new[:, 0] *= 1.1
    base[:, 0, 0, 0] *= 3
    found = compare_times(base, new, RULE, forecast=False).verdict[:, 0]
    assert (found == Verdict.REGRESSED.value).mean() > 0.9


def test_the_time_that_is_shown_is_the_one_that_is_judged():
    base, new = normal(0.1, 7, 5), normal(0.1, 7, 5, seed=1)
    assert compare_times(base, new, RULE).ratio == pytest.approx(time_of(new) / time_of(base))
    assert time_of(base) == pytest.approx(np.median(base[:, 0], axis=-1))
    several = base.reshape(1, 7, 5)
    assert time_of(several)[0] == pytest.approx(np.exp(np.log(np.median(base[:, 0], axis=-1)).mean()))


def test_cells_that_were_not_tested_correct_nothing():
    base, new = normal(0.01, 1, 5), normal(0.01, 1, 5, 1.05, seed=1)
    alone = compare_times(base, new, RULE)
    padding = np.full((29, 1, 5), np.nan)
    padding[..., :2] = 1.0
    among = compare_times(np.concatenate([base, padding]), np.concatenate([new, padding]), RULE)
    assert among.p[0] == alone.p[0]
    assert np.isnan(among.p[1:]).all()


@given(arrays(float, 6, elements=st.floats(0, 1)))
def test_the_correction_is_that_of_scipy(p):
    expected = stats.false_discovery_control(p)
    assert corrected_for_many(p) == pytest.approx(expected)
    assert corrected_for_many(np.append(p, np.nan))[:-1] == pytest.approx(expected)


MEASURED = RULE.restart
"""Spread of launches of kernels that a GPU bounds."""
HOST_BOUND = 0.38
"""Of those that the host cannot queue in time; both: docs/noise.md."""


@pytest.mark.parametrize("rounds", [2, 5])
@pytest.mark.parametrize(("launches", "restart"), [(1, MEASURED), (3, MEASURED), (3, 0.02), (3, HOST_BOUND)])
def test_launches_that_differ_are_no_false_alarms(launches, restart, rounds):
    _, accused = found_share(0.01, 0.0, rounds, RULE, launches=launches, restart=restart, pairs=300)
    assert accused <= 0.05


def test_runs_that_differ_beyond_their_launches_are_no_false_alarms():
    draw = np.random.default_rng(0)
    of_run, of_launch = (MEASURED * draw.standard_normal((2, 300, 30, launches, 1)) for launches in (1, 3))
    base, new = np.exp(of_run + of_launch + 0.01 * draw.standard_normal((2, 300, 30, 3, 2)))
    found = compare_times(base, new, RULE, forecast=False).verdict
    accused = (found == Verdict.REGRESSED.value) | (found == Verdict.IMPROVED.value)
    assert accused.any(axis=1).mean() <= 0.05


def test_without_launches_a_restart_would_be_taken_for_a_slowdown():
    assert found_share(0.01, 0.0, 5, RULE, launches=1, restart=0.02, pairs=300)[1] > 0.5


def test_three_launches_find_a_tenth():
    assert found_share(0.01, 0.10, 2, RULE, launches=3, pairs=300)[0] > 0.95


def test_one_launch_a_side_is_as_sure_as_a_restart_allows():
    base, new = normal(1e-6, 1, 50), normal(1e-6, 1, 50, 1 + RULE.told_from_a_restart, seed=1)
    found = compare_times(base, new, Rule(min_effect=0.001))
    assert found.p[0] == pytest.approx(0.05, abs=0.005)
    assert not found.by_launch[0]
    # No number of rounds would tell more; a launch would.
    assert np.isinf(found.more[0])


def test_one_launch_of_an_unsteady_cell_is_not_tested():
    base, new = normal(0.2, 1, 5), normal(0.2, 1, 5, 0.3, seed=1)
    found = compare_times(base, new, RULE)
    assert (found.verdict[0], np.isnan(found.p[0])) == (Verdict.INCONCLUSIVE, True)
    assert np.isinf(found.more[0])
    three = np.random.default_rng(0).standard_normal((2, 1, 3, 5))
    assert compare_times(np.exp(0.2 * three[0]), 0.3 * np.exp(0.2 * three[1]), RULE).verdict[0] == Verdict.IMPROVED


def test_few_launches_are_not_tested():
    two, one = np.exp(0.01 * np.random.default_rng(0).standard_normal((1, 2, 5))), normal(0.01, 1, 5)
    found = compare_times(two, np.concatenate([one, np.full((1, 1, 5), np.nan)], axis=1), RULE)
    assert found.by_launch[0]
    assert np.isnan(found.p[0])
    assert found.more[0] == 1
    assert not np.isnan(compare_times(two, two[:, ::-1], RULE).p[0])


@given(TIMES, TIMES)
def test_the_other_way_round_is_the_mirror(base, new):
    one, other = compare_times(base, new, RULE), compare_times(new, base, RULE)
    mirrored = {"regressed": "improved", "improved": "regressed"}
    assert [mirrored.get(str(v), str(v)) for v in one.verdict] == [str(v) for v in other.verdict]
    assert one.ratio == pytest.approx(1 / other.ratio)


@given(TIMES)
def test_the_unit_does_not_matter(times):
    base, new = times[:2], times[2:]
    assert list(compare_times(base, new, RULE).verdict) == list(compare_times(1000 * base, 1000 * new, RULE).verdict)


def test_small_sure_changes_are_unchanged_and_large_unsure_ones_inconclusive():
    found = compare_times(normal(1e-4, 1, 5), normal(1e-4, 1, 5, 1.02, seed=1), Rule(restart=0.0))
    assert found.p[0] < 1e-6
    assert found.verdict[0] == Verdict.UNCHANGED
    found = compare_times(normal(0.2, 1, 5), normal(0.2, 1, 5, 1.1, seed=1), RULE)
    assert found.verdict[0] == Verdict.INCONCLUSIVE


def test_rounds_without_any_spread_are_judged_too():
    same, slower = np.full((1, 1, 3), 2.0), np.full((1, 1, 3), 2.2)
    assert compare_times(same, same, RULE).verdict[0] == Verdict.UNCHANGED
    assert compare_times(same, slower, RULE).verdict[0] == Verdict.REGRESSED
    assert compare_times(same, slower, RULE, paired=True).verdict[0] == Verdict.REGRESSED


@pytest.mark.parametrize("rounds", [1, 2])
def test_fewer_than_three_rounds_decide_nothing(rounds):
    found = compare_times(np.full((1, 1, rounds), 1.0), np.full((1, 1, 5), 9.0), RULE)
    assert found.verdict[0] == Verdict.INCONCLUSIVE
    assert np.isnan(found.p[0])
    assert found.more[0] == 3 - rounds


def test_missing_rounds_are_left_out():
    base, new = normal(0.01, 1, 6), normal(0.01, 1, 4, 1.2, seed=1)
    padded = np.concatenate([new, np.full((1, 1, 2), np.nan)], axis=-1)
    assert compare_times(base, padded, RULE).p == pytest.approx(compare_times(base, new, RULE).p)


def test_pairing_takes_out_what_both_sides_share():
    drift = np.exp(np.linspace(0, 0.5, 8))
    base, new = drift * normal(0.001, 1, 8), drift * normal(0.001, 1, 8, 1.05, seed=1)
    assert compare_times(base, new, RULE).verdict[0] == Verdict.INCONCLUSIVE
    assert compare_times(base, new, RULE, paired=True).verdict[0] == Verdict.REGRESSED


def test_as_many_more_rounds_as_forecast_decide_mostly():
    base, new = normal(0.03, 200, 4), normal(0.03, 200, 4, seed=1)
    found = compare_times(base, new, RULE)
    open_ = found.verdict == Verdict.INCONCLUSIVE
    more = int(np.median(found.more[open_]))
    assert 1 < more < 60
    later = compare_times(normal(0.03, 200, 4 + more, seed=2), normal(0.03, 200, 4 + more, seed=3), RULE)
    assert (later.verdict == Verdict.INCONCLUSIVE).mean() < 0.75 * open_.mean()


def test_a_forecast_knows_how_many_cells_are_judged():
    base, new = normal(0.02, 1, 5), normal(0.02, 1, 5, 1.05, seed=3)
    (alone,) = compare_times(base, new, RULE).more
    among = compare_times(np.vstack([base, normal(0.02, 99, 5)]), np.vstack([new, normal(0.02, 99, 5, seed=6)]), RULE)
    assert alone < among.more[0] < np.inf


def test_many_cells_need_more_evidence():
    base, new = normal(0.02, 1, 5), normal(0.02, 1, 5, 1.05, seed=5)
    alone = compare_times(base, new, RULE)
    among = compare_times(np.vstack([base, normal(0.02, 99, 5)]), np.vstack([new, normal(0.02, 99, 5, seed=6)]), RULE)
    assert among.p[0] > alone.p[0]
