import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from fp_bench.reports.verdict import (
    Rule,
    ScoreChange,
    Verdict,
    compare_times,
    found_share,
    judge_scores,
    paired_interval,
    sign_test,
    smallest_found,
)

RULE = Rule()
TIMES = arrays(float, (4, 5), elements=st.floats(0.01, 1e4))


def normal(noise, cells, rounds, factor=1.0, seed=0):
    return factor * np.exp(noise * np.random.default_rng(seed).standard_normal((cells, rounds)))


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


@pytest.mark.filterwarnings("ignore:Precision loss")
@given(TIMES, TIMES)
def test_p_is_that_of_scipy(base, new):
    for paired, test in ((False, lambda a, b: stats.ttest_ind(a, b, equal_var=False)), (True, stats.ttest_rel)):
        mine = compare_times(base, new, RULE, paired=paired)
        theirs = [test(np.log(b), np.log(a)).pvalue for a, b in zip(base, new, strict=True)]
        if np.isfinite(theirs).all() and np.ptp(np.log(base), axis=1).min() > 1e-6:
            assert mine.p == pytest.approx(stats.false_discovery_control(theirs), rel=1e-6, abs=1e-12)


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
    found = compare_times(normal(1e-4, 1, 5), normal(1e-4, 1, 5, 1.02, seed=1), RULE)
    assert found.p[0] < 1e-6
    assert found.verdict[0] == Verdict.UNCHANGED
    found = compare_times(normal(0.2, 1, 5), normal(0.2, 1, 5, 1.1, seed=1), RULE)
    assert found.verdict[0] == Verdict.INCONCLUSIVE


def test_rounds_without_any_spread_are_judged_too():
    same, slower = np.full((1, 3), 2.0), np.full((1, 3), 2.2)
    assert compare_times(same, same, RULE).verdict[0] == Verdict.UNCHANGED
    assert compare_times(same, slower, RULE).verdict[0] == Verdict.REGRESSED
    assert compare_times(same, slower, RULE, paired=True).verdict[0] == Verdict.REGRESSED


@pytest.mark.parametrize("rounds", [1, 2])
def test_fewer_than_three_rounds_decide_nothing(rounds):
    found = compare_times(np.full((1, rounds), 1.0), np.full((1, 5), 9.0), RULE)
    assert found.verdict[0] == Verdict.INCONCLUSIVE
    assert np.isnan(found.p[0])
    assert found.more_rounds[0] == 3 - rounds


def test_missing_rounds_are_left_out():
    base, new = normal(0.01, 1, 6), normal(0.01, 1, 4, 1.2, seed=1)
    padded = np.concatenate([new, np.full((1, 2), np.nan)], axis=1)
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
    more = int(np.median(found.more_rounds[open_]))
    assert 1 < more < 60
    later = compare_times(normal(0.03, 200, 4 + more, seed=2), normal(0.03, 200, 4 + more, seed=3), RULE)
    assert (later.verdict == Verdict.INCONCLUSIVE).mean() < 0.75 * open_.mean()


def test_many_cells_need_more_evidence():
    base, new = normal(0.02, 1, 5), normal(0.02, 1, 5, 1.05, seed=5)
    alone = compare_times(base, new, RULE)
    among = compare_times(np.vstack([base, normal(0.02, 99, 5)]), np.vstack([new, normal(0.02, 99, 5, seed=6)]), RULE)
    assert among.p[0] > alone.p[0]


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_sign_test_is_the_exact_binomial_one(worse, better):
    expected = stats.binomtest(worse, worse + better).pvalue if worse + better else 1.0
    assert sign_test([worse], [better])[0] == pytest.approx(expected)


def change(difference, half, worse=0, better=0, identical=False, n=100):
    return ScoreChange(n, difference, difference - half, difference + half, worse, better, identical)


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (change(-0.10, 0.05, worse=12, better=1), Verdict.REGRESSED),
        (change(0.10, 0.05, worse=1, better=12), Verdict.IMPROVED),
        (change(-0.005, 0.004, worse=12, better=1), Verdict.UNCHANGED),  # sure, and too small to matter
        (change(-0.10, 0.12, worse=6, better=3), Verdict.INCONCLUSIVE),
        (change(0.0, 0.02), Verdict.INCONCLUSIVE),  # too few samples to exclude a loss of a point
        (change(0.0, 0.02, identical=True), Verdict.UNCHANGED),
        (change(-0.10, 0.05, worse=3, better=0), Verdict.INCONCLUSIVE),  # the interval alone is not enough
    ],
)
def test_scores(row, verdict):
    found = judge_scores([row], RULE)
    assert found.verdict[0] == verdict
    assert np.isnan(found.more_samples[0]) == (verdict != Verdict.INCONCLUSIVE)


def test_no_rows_are_no_verdicts():
    assert len(judge_scores([], RULE).verdict) == 0


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("each", [1, 2, 4, 8, 50])
def test_the_paired_interval_covers(each, parts):
    draw = np.random.default_rng(each)
    for changed, lost in ((0.02, 1.0), (0.05, 0.8), (0.1, 0.5), (0.1, 1.0)):
        shape = (300, 13, each)
        signs = np.where(draw.random(shape) < lost, -1.0, 1.0)
        changes = (draw.random(shape) < changed) * signs * draw.integers(1, parts + 1, shape) / parts
        truth = changed * (1 - 2 * lost) * (parts + 1) / (2 * parts)
        ends = [paired_interval(list(change))[1:] for change in changes]
        # Three standard errors of 300 runs below 95 %.
        assert np.mean([low <= truth <= high for low, high in ends]) > 0.91


def test_the_paired_interval_narrows_with_evidence_and_never_to_nothing():
    widths = [np.ptp(paired_interval([np.zeros(each)] * 13)[1:]) for each in (1, 2, 4, 8, 50)]
    assert widths == sorted(widths, reverse=True)
    assert 0 < widths[-1] < 0.01
    none, one = np.zeros(104), np.eye(104)[0]
    assert np.ptp(paired_interval([none])[1:]) < np.ptp(paired_interval([one])[1:])
    low, high = paired_interval([-one])[1:]
    assert low < -1 / 104 < 0 < high
