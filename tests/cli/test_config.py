import pytest

from fp_bench.cli.config import read_config
from fp_bench.errors import UsageError
from fp_bench.sizes import parse_duration

OPTIONS = {"lens": "lens", "retry-failed": "retry_failed", "json": "as_json"}


def test_options_by_their_names(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("lens: [4k, 8192]\nretry_failed: true\njson: no\n")
    assert read_config(path, OPTIONS) == {"lens": "4k,8192", "retry_failed": True, "as_json": False}
    path.write_text("lens:\n")
    assert read_config(path, OPTIONS) == {}


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("30s", 30), ("10m", 600), ("1.5h", 5400), (" 2M ", 120)])
def test_spans_of_time(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-1", "0", "1d", "1e3", "nan", "10 m", "999999h"])
def test_bad_spans_of_time(text):
    with pytest.raises(UsageError, match="budget"):
        parse_duration(text, "budget")
