import pytest

from fp_bench.suites.ruler.summary import effective_length, weighted_average

GPT_4 = {4096: 0.966, 8192: 0.963, 16384: 0.952, 32768: 0.932, 65536: 0.87, 131072: 0.812}
"""GPT-4-1106-preview in NVIDIA/RULER's README: effective 64K, wAvg (inc) 89.0, wAvg (dec) 94.1."""


def test_the_published_row_of_gpt_4():
    assert effective_length(GPT_4) == 65536
    assert round(100 * weighted_average(GPT_4, longer_counts_more=True), 1) == 89.0
    assert round(100 * weighted_average(GPT_4, longer_counts_more=False), 1) == 94.1


def test_no_length_may_be_effective():
    assert effective_length({4096: 0.85}) is None
    assert effective_length({}) is None
    assert effective_length({4096: 0.856}) == 4096


def test_no_lengths_have_no_average():
    with pytest.raises(ValueError, match="no lengths"):
        weighted_average({}, longer_counts_more=True)
