import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fp_bench.reports.scores import ScoreChange, judge_scores, paired_interval, sign_test
from fp_bench.reports.verdict import Rule, Verdict

RULE = Rule()


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


def test_a_forecast_is_of_the_whole_rule():
    rows = [change(-0.02, 0.021, worse=3, better=1, n=104), change(-0.10, 0.05, worse=3, better=0, n=30)]
    for row, more in zip(rows, judge_scores(rows, RULE).more_samples, strict=True):
        times = (row.n + more) / row.n
        assert 1 < times < 100
        # Were the further samples like those seen, the sign test would agree by then.
        assert sign_test([int(row.worse * times)], [int(row.better * times)])[0] < RULE.alpha
    # As many better as worse: a difference that no number of samples makes significant.
    assert np.isinf(judge_scores([change(-0.02, 0.03, worse=5, better=5)], RULE).more_samples[0])


def test_a_forecast_waits_for_the_interval_too():
    """The sign test is sure; an interval five times too wide needs 25 times as many samples."""
    found = judge_scores([change(-0.02, 0.1, worse=60, better=20, n=100)], RULE)
    assert found.p[0] < RULE.alpha
    assert found.more_samples[0] == pytest.approx(24 * 100, rel=0.05)


def test_a_forecast_knows_how_many_rows_are_judged():
    row, others = change(-0.10, 0.05, worse=3, better=0, n=30), [change(0.0, 0.02, worse=5, better=5)] * 19
    (alone,), (among, *_) = judge_scores([row], RULE).more_samples, judge_scores([row, *others], RULE).more_samples
    assert alone < among < np.inf


def test_more_evidence_never_takes_a_verdict_back():
    n, order = 104, ["inconclusive", "regressed"]
    found = []
    for worse in range(40):
        lost = paired_interval([np.repeat([-1.0, 0.0], [worse, n - worse])])
        found.append(str(judge_scores([ScoreChange(n, *lost, worse, 0, False)], RULE).verdict[0]))
    assert found == sorted(found, key=order.index)
    assert {*found} == {*order}


def test_rows_of_equal_words_correct_nothing():
    row = change(-0.10, 0.05, worse=12, better=1)
    alone, among = judge_scores([row], RULE), judge_scores([row, *[change(0, 0.1, identical=True)] * 9], RULE)
    assert among.p[0] == alone.p[0]
    assert np.isnan(among.p[1:]).all()


def test_no_rows_are_no_verdicts():
    assert len(judge_scores([], RULE).verdict) == 0


DISCORDANT = ((0.0, 1.0), (0.01, 1.0), (0.02, 1.0), (0.02, 0.5), (0.05, 0.8), (0.1, 0.5), (0.1, 1.0))
"""Shares of answers that change, and of these that get worse."""


def coverage(each, changed, lost):
    """How often the interval of right and wrong answers holds the truth: every outcome counted, none drawn."""
    n = 13 * each
    most = int(stats.binom.isf(1e-7, n, changed)) if changed else 0
    covered = 0.0
    for worse, better in itertools.product(range(most + 1), repeat=2):
        chance = stats.multinomial.pmf(
            [worse, better, n - worse - better], n, [changed * lost, changed * (1 - lost), 1 - changed]
        )
        if chance > 1e-7:
            low, high = paired_interval([np.repeat([-1.0, 1.0, 0.0], [worse, better, n - worse - better])])[1:]
            covered += chance * (low <= changed * (1 - 2 * lost) <= high)
    return covered


@pytest.mark.parametrize("each", [1, 2, 4, 8, 50])
def test_the_paired_interval_covers(each):
    for changed, lost in DISCORDANT:
        found = coverage(each, changed, lost)
        assert found > 0.93
        # Where an answer or two change, 0 or 1 changed must both be covered, and that is more than 99 %.
        assert found < 0.99 or 13 * each * changed < 6


@pytest.mark.parametrize("each", [1, 2, 4, 8, 50])
def test_the_paired_interval_of_partial_scores_covers(each):
    draw = np.random.default_rng(each)
    for changed, lost in DISCORDANT:
        shape = (300, 13, each)
        signs = np.where(draw.random(shape) < lost, -1.0, 1.0)
        changes = (draw.random(shape) < changed) * signs * draw.integers(1, 5, shape) / 4
        truth = changed * (1 - 2 * lost) * 5 / 8
        ends = [paired_interval(list(change))[1:] for change in changes]
        # Two standard errors of 300 runs below 93 %.
        assert np.mean([low <= truth <= high for low, high in ends]) > 0.90


def test_the_paired_interval_narrows_with_evidence_and_never_to_nothing():
    widths = [np.ptp(paired_interval([np.zeros(each)] * 13)[1:]) for each in (1, 2, 4, 8, 50)]
    assert widths == sorted(widths, reverse=True)
    assert 0 < widths[-1] < 0.01
    none, one = np.zeros(104), np.eye(104)[0]
    assert np.ptp(paired_interval([none])[1:]) < np.ptp(paired_interval([one])[1:])
    low, high = paired_interval([-one])[1:]
    assert low < -1 / 104 < 0 < high
