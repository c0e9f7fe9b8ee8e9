"""Comparing as people do: several runs, methods of one run, and the forms that other tools read."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

import pytest

from fp_bench.errors import UsageError
from fp_bench.records.store import read_run
from fp_bench.reports.comparing.compare import compare
from fp_bench.reports.comparing.one_method import methods_as_runs
from tests.records.records import answers, dense, failed, rounds, timed, write
from tests.reports.test_compare import NOISY, SLOWER, STEADY, fpbench

START = datetime(2026, 1, 1, tzinfo=UTC)
TENTH = {"label": "flashprefill:alpha=0.3", "method_hash": "b", "params": {"alpha": 0.3, "sink_blocks": 2}}
DEFAULT = {"params": {"alpha": 0.12, "sink_blocks": 2}}


def interleaved(**of_methods):
    """Write the rounds of methods in turns, a minute apart."""
    records, minute = [], 0
    for number in range(len(STEADY)):
        for times, more in of_methods.values():
            minute += 1
            time = (START + timedelta(minutes=minute)).isoformat()
            records.append(timed(times[number], round=number, time=time, **more))
    return records


DENSE = {"method": "dense", "label": "dense", "method_hash": "d", "density": 1.0, "backend": "cudnn"}


@pytest.fixture
def run(tmp_path):
    """Write a run of dense attention, FlashPrefill 10 % slower, and FlashPrefill sparser and as fast as dense."""
    records = interleaved(dense=(STEADY, DENSE), default=(SLOWER, DEFAULT), sparser=(STEADY, TENTH))
    return write(
        tmp_path / "run", records + answers([1.0] * 40, **DENSE | {"backend": "x"}) + answers([1.0] * 40, **DEFAULT)
    )


def test_a_method_of_a_run_against_another(run):
    done = fpbench("compare", run, "--base", "dense", "--new", "flashprefill:alpha=0.12")
    assert done.exit_code == 1, done.output
    for text in ("flashprefill against dense", "regressed", "1.100", "paired t", "identical answers"):
        assert text in " ".join(done.stdout.split())
    assert "became" not in done.stdout
    assert fpbench("compare", run, "-b", "flashprefill:alpha=0.3", "--new", "dense").exit_code == 0
    assert fpbench("compare", run, "--base", "flashprefill", "--new", "flashprefill:alpha=0.3").exit_code == 0


def test_several_methods_and_the_gravest_decides(run):
    done = fpbench("compare", run, "--base", "dense", "--new", "flashprefill:alpha=0.3,flashprefill:alpha=0.12")
    assert done.exit_code == 1
    overview = done.stdout.partition("Comparisons")[2]
    assert "flashprefill:alpha=0.3 against dense" in overview
    assert "flashprefill against dense" in overview


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "give a second one, or --base METHOD and --new METHOD"),
        (["--base", "dense"], "give a second one, or --base METHOD and --new METHOD"),
        (["--base", "dens", "--new", "dense"], "no method 'dens'; did you mean 'dense'?"),
        (["--base", "dense", "--new", "flashprefill:alpha=0.5"], "no method 'flashprefill:alpha=0.5'"),
        (["--base", "dense", "--new", "flashprefill:sink_blocks=2"], "is one of several methods"),
    ],
)
def test_what_names_no_one_method_is_one_line(run, words, complaint):
    refused = fpbench("compare", run, *words)
    assert refused.exit_code == 2
    (line,) = refused.stderr.splitlines()
    assert complaint in line


def test_a_method_that_fell_back_to_dense_is_a_new_failure(tmp_path):
    run = read_run(write(tmp_path, [dense(), timed(4.0, fallback=True)]))
    found = compare(*methods_as_runs(run, "dense:impl=cudnn", run, "flashprefill"))
    assert list(found.latency["verdict"]) == ["new failure"]


def test_a_method_may_be_of_another_run(tmp_path, run):
    other = read_run(write(tmp_path / "other", rounds(SLOWER)))
    one, two = methods_as_runs(read_run(run), "dense", other, "flashprefill")
    assert list(compare(one, two).latency["verdict"]) == ["regressed"]
    with pytest.raises(UsageError, match="no method 'dense'"):
        methods_as_runs(read_run(run), "dense", other, "dense")


def test_more_than_two_runs_are_judged_against_the_first(tmp_path):
    runs = [write(tmp_path / name, rounds(times)) for name, times in (("a", STEADY), ("b", STEADY), ("c", SLOWER))]
    done = fpbench("compare", *runs)
    assert done.exit_code == 1
    headings = [line for line in done.stdout.splitlines() if line.startswith("== ")]
    assert [heading.split()[1] for heading in headings] == [str(runs[1]), str(runs[2])]
    assert "new against base" in done.stdout
    found = json.loads(fpbench("compare", *runs, "--json").stdout)
    assert [each["counts"]["regressed"] for each in found] == [0, 1]
    rows = list(csv.DictReader(io.StringIO(fpbench("compare", *runs, "--format", "csv").stdout)))
    assert [row["new"] for row in rows] == [str(runs[1]), str(runs[2])]
    assert fpbench("compare", *runs, "--format", "md").stdout.count("## fpbench compare") == 2


def test_junit_has_a_test_for_each_cell(tmp_path):
    named = {"label": "noisy", "method_hash": "n"}
    base = rounds(STEADY) + rounds(STEADY, **named) + [timed(layer=1)] + answers([1.0] * 40)
    new = rounds(SLOWER) + rounds(NOISY, **named) + [failed(layer=1)] + answers([1.0] * 40)
    done = fpbench("compare", write(tmp_path / "a", base), write(tmp_path / "b", new), "--format", "junit")
    assert done.exit_code == 1
    (suite,) = ElementTree.fromstring(done.stdout)
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("4", "2", "1")
    messages = [failure.get("message") for failure in suite.iter("failure")]
    assert messages[0].startswith("regressed: flashprefill at 4K: 2 to 2.2 ms")
    assert messages[1] == "new failure: flashprefill at 4K: oom: too large"
    names = [test.get("name") for test in suite]
    assert "flashprefill at 4K, layer 1" in names
    assert "flashprefill on fact at 4K" in names
