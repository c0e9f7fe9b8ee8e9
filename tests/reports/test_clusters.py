import numpy as np
import pytest
from scipy import stats

from fp_bench.reports.clusters import clustered_mean, divergence_interval, share_interval
from fp_bench.reports.scores import wilson

BLOCKS, LENGTH, RUNS = 16, 16, 200
LEAST = 0.82
"""Of 200 runs; of two samples that differ by half a standard deviation, 88 % hold it in the long run."""
MOST_ALARMS = 0.12
"""Of 200 runs at 5 %; of two samples that differ by a third of a standard deviation it is 9 % in the long run."""
AGREE = 2.0
"""Standard deviations below the mean from which on a position agrees."""


def positions(samples, neighbours, of_sample, seed):
    """Normal values of neighbours that depend (their correlation), in samples that differ (standard deviation)."""
    draw = np.random.default_rng(seed)
    values = draw.standard_normal((BLOCKS * LENGTH, RUNS, samples))
    for place in range(1, len(values)):
        values[place] = neighbours * values[place - 1] + np.sqrt(1 - neighbours**2) * values[place]
    return np.moveaxis(values + of_sample * draw.standard_normal((RUNS, samples)), 0, -1)


def holds(truth, ends):
    return float(np.mean([low <= truth <= high for low, high in ends]))


@pytest.mark.parametrize("samples", [2, 4, 8, 32])
@pytest.mark.parametrize(("neighbours", "of_sample"), [(0.0, 0.0), (0.5, 0.0), (0.8, 0.0), (0.5, 0.3), (0.8, 0.5)])
def test_intervals_hold_the_truth_where_neighbours_depend_and_samples_differ(samples, neighbours, of_sample):
    values = positions(samples, neighbours, of_sample, seed=samples)
    spread = np.sqrt(1 + of_sample**2)

    def blocks(found):
        return found.reshape(RUNS, samples, BLOCKS, LENGTH).mean(-1)

    divergence = blocks(np.exp(values))
    agreement = values > -AGREE * spread
    assert holds(np.exp(spread**2 / 2), map(divergence_interval, divergence)) > LEAST
    assert holds(stats.norm.cdf(AGREE), map(share_interval, blocks(agreement))) > LEAST
    if neighbours == 0.8:
        # Positions taken for independent.
        naive = [wilson(found.mean(), found.size) for found in agreement]
        assert holds(stats.norm.cdf(AGREE), naive) < 0.8


def test_what_is_all_alike_leaves_an_interval():
    low, high = share_interval(np.ones((4, BLOCKS)))
    assert 0.9 < low < high == 1.0
    assert divergence_interval(np.zeros((4, BLOCKS))) == (0.0, 0.0)
    assert divergence_interval(np.full((1, 1), 0.5)) == (0.0, np.inf)
    assert share_interval(np.full((1, 1), 0.5)) == (0.0, 1.0)


@pytest.mark.parametrize("samples", [2, 4, 8, 32])
@pytest.mark.parametrize(("neighbours", "of_sample"), [(0.0, 0.0), (0.8, 0.0), (0.5, 0.3), (0.8, 0.5)])
def test_a_change_of_nothing_is_seldom_taken_for_one(samples, neighbours, of_sample):
    """KL of two settings that differ at every position and sample, in the mean by nothing."""
    one, other = (np.exp(positions(samples, neighbours, of_sample, seed=(samples, side))) for side in (0, 1))
    changes = (other - one).reshape(RUNS, samples, BLOCKS, LENGTH).mean(-1)
    assert np.mean([clustered_mean(change).p < 0.05 for change in changes]) < MOST_ALARMS
    assert samples == 2 or np.mean([clustered_mean(change + 3).p < 0.05 for change in changes]) > 0.5
