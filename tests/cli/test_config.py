import pytest
from typer.testing import CliRunner

from fp_bench.cli import app
from fp_bench.cli.asking import Conducting
from fp_bench.cli.config import read_config
from fp_bench.errors import UsageError
from fp_bench.jobs.request import AccuracyRequest, LatencyRequest
from fp_bench.sizes import parse_duration

OPTIONS = {"lens": "lens", "retry-failed": "retry_failed", "json": "as_json", "chat": "chat", "rounds": "rounds"}


def test_options_by_their_names(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("lens: [4k, 8192]\nretry_failed: true\njson: no\nchat: on\n")
    assert read_config(path, OPTIONS) == {"lens": "4k,8192", "retry_failed": "true", "as_json": "no", "chat": "on"}
    path.write_text("lens:\n")
    assert read_config(path, OPTIONS) == {}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("rounds: 3\nrounds: 4\n", "rounds is given twice"),
        ("retry_failed: true\nretry-failed: false\n", "retry-failed is given twice"),
        ("rounds: " + "9" * 5000 + "\n", "rounds is 5000 characters long; the limit is 4096"),
        ("rounds: " + "[" * 5000 + "]" * 5000 + "\n", "nested too deeply"),
        ("lens: &a [4k]\nrounds: [*a, *a]\n", "rounds is neither a word"),
        ("lens: [4k, ]\nrounds: [1, null]\n", "rounds is neither a word"),
        ("[a]: 3\n", "line 1: an option's name must be a word"),
        ("rounds: {a: 1}\n", "rounds is neither a word"),
    ],
)
def test_odd_files_are_one_line(text, complaint, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=complaint):
        read_config(path, OPTIONS)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("rounds: 4:30\n", "'4:30'"), ("budget: 4:30\n", "--budget '4:30'"), ("out: ''\n", "--out is empty")],
)
def test_a_value_means_what_it_means_on_the_command_line(text, complaint, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    done = CliRunner().invoke(app, ["latency", "--config", str(path), "--dry-run"])
    assert done.exit_code == 2
    assert complaint in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(("verb", "asked"), [("latency", LatencyRequest), ("accuracy", AccuracyRequest)])
def test_every_field_is_an_option_with_its_help(verb, asked):
    said = " ".join(CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "500"}).output.split())
    for field in [*asked.model_fields.values(), *Conducting.model_fields.values()]:
        assert " ".join(field.description.split()) in said


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("30s", 30), ("10m", 600), ("1.5h", 5400), (" 2M ", 120)])
def test_spans_of_time(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-1", "0", "1d", "1e3", "nan", "10 m", "999999h"])
def test_bad_spans_of_time(text):
    with pytest.raises(UsageError, match="budget"):
        parse_duration(text, "budget")
