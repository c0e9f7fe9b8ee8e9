from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fp_bench.errors import UsageError
from fp_bench.sizes import (
    MAX_LENGTH,
    format_length,
    format_lengths,
    format_ms,
    parse_length,
    parse_lengths,
    parse_share,
)

lengths = st.integers(1, MAX_LENGTH - 1)


@given(lengths)
def test_format_is_read_back(length):
    assert parse_length(format_length(length)) == length


@given(st.lists(lengths, min_size=1, max_size=6))
def test_lists_are_ascending_without_doubles(asked):
    assert parse_lengths(",".join(map(str, asked))) == sorted(set(asked))


@pytest.mark.filterwarnings("ignore:range .* is not measured")
@given(low=lengths, doublings=st.integers(0, 10))
def test_a_range_doubles_up_to_its_end(low, doublings):
    high = min(low * 2**doublings, MAX_LENGTH - 1)
    found = parse_lengths(f"{low}-{high}")
    assert found[0] == low
    assert found[-1] <= high < 2 * found[-1]
    assert all(b == 2 * a for a, b in pairwise(found))


def test_what_the_help_promises():
    assert parse_lengths("4k-32k,1000") == [1000, 4096, 8192, 16384, 32768]
    assert parse_lengths("256K, 1m") == [262144, 1048576]


@pytest.mark.parametrize(
    "text", ["", "0", "-4", "4kk", "4.5k", "4k,", "k", "8k-4k", "4k-", "16m", "1e3", "4k-8k-16k", "9" * 400]
)
def test_bad_lengths_are_one_line_with_the_value(text):
    with pytest.raises(UsageError) as caught:
        parse_lengths(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "share"), [("3%", 0.03), ("0.03", 0.03), (".5", 0.5), ("2.5 %", 0.025)])
def test_shares(text, share):
    assert parse_share(text, "x") == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "%", "0", "100%", "1", "-3%", "3%%", "nan", "1e-3"])
def test_bad_shares_are_one_line_with_the_value(text):
    with pytest.raises(UsageError, match="--min-effect"):
        parse_share(text, "--min-effect")


@pytest.mark.parametrize("text", ["4K-256K", "4K, 8K", "4K, 16K-64K, 100K", "256"])
def test_lengths_are_written_as_they_are_read(text):
    assert format_lengths(parse_lengths(text)) == text


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0.20612, "0.2061"), (1041.3, "1041"), (9999.4, "9999"), (9999.6, "10000"), (48310.0, "48310"), (0.0, "0")],
)
def test_milliseconds_have_no_exponents(milliseconds, text):
    assert format_ms(milliseconds) == text
