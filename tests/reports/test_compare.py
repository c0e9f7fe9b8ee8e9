import csv
import io
import itertools
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fp_bench.cli import app
from fp_bench.errors import NotComparableError, UsageError
from fp_bench.records.store import read_run
from fp_bench.reports.comparing.compare import compare
from fp_bench.reports.comparing.rows import AVERAGE, geometric_mean
from fp_bench.reports.comparing.text import MOST_ROWS, summary, tables
from fp_bench.reports.verdict import Rule
from tests.records.records import answers, dense, failed, rounds, scored, write

PUBLISHED = Path(__file__).parents[2] / "results" / "h200"
STEADY = (2.00, 2.01, 1.99, 2.002, 1.998)
SLOWER = tuple(1.1 * ms for ms in STEADY)
NOISY = (1.0, 2.0, 3.0, 1.5, 2.5)


def named(label, times):
    return rounds(times, label=label, method_hash=label)


def fpbench(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def pair(tmp_path):
    """Write two runs; return their folders."""

    numbers = itertools.count()

    def made(base, new, base_environment=None, new_environment=None):
        folder = tmp_path / str(next(numbers))
        one = write(folder / "base", base, **base_environment or {})
        return one, write(folder / "new", new, **new_environment or {})

    return made


@pytest.fixture
def compared(pair):
    def made(base, new, **options):
        one, other = pair(base, new)
        return compare(read_run(one), read_run(other), **options)

    return made


def verdicts(comparison):
    return list(comparison.latency["verdict"]) + list(comparison.accuracy["verdict"])


@pytest.mark.parametrize(
    ("base", "new", "verdict"),
    [
        (rounds(STEADY), rounds(SLOWER), "regressed"),
        (rounds(SLOWER), rounds(STEADY), "improved"),
        (rounds(STEADY), rounds(STEADY), "unchanged"),
        (rounds(STEADY), rounds(NOISY), "inconclusive"),
        (rounds(STEADY), [failed()], "new failure"),
        (rounds(STEADY), [*rounds(STEADY[:4]), failed(round=4)], "new failure"),
        (rounds(STEADY), rounds(STEADY, fallback=True), "new failure"),
        ([failed()], rounds(STEADY), "fixed"),
        (rounds(STEADY, fallback=True), rounds(SLOWER), "fixed"),
        (rounds(STEADY, fallback=True), rounds(SLOWER, fallback=True), "regressed"),
    ],
)
def test_verdicts_on_times(compared, base, new, verdict):
    assert verdicts(compared(base, new)) == [verdict]


@pytest.mark.parametrize(
    ("base", "new", "verdict"),
    [
        (answers([1.0] * 40), answers([1.0] * 30 + [0.0] * 10), "regressed"),
        (answers([0.0] * 40), answers([1.0] * 30 + [0.0] * 10), "improved"),
        (answers([1.0, 0.5] * 20), answers([1.0, 0.5] * 20), "unchanged"),
        (answers([0.5] * 40), answers([0.3] * 40), "regressed"),
        (answers([1.0] * 40), answers([1.0] * 40, prediction="other words"), "inconclusive"),
        (answers([1.0] * 40), answers([1.0] * 39 + [0.0]), "inconclusive"),
        (answers([1.0] * 4), [*answers([1.0] * 3), scored(None, sample_id="fact/3", status="oom")], "new failure"),
        ([*answers([1.0] * 3), scored(None, sample_id="fact/3", status="oom")], answers([1.0] * 4), "fixed"),
        (answers([1.0] * 4), answers([1.0] * 4, fallback=True), "new failure"),
    ],
)
def test_verdicts_on_scores(compared, base, new, verdict):
    assert verdicts(compared(base, new)) == [verdict]


def test_cells_of_one_run_alone_are_added_and_removed(compared):
    both, old, new = rounds(STEADY), named("old", STEADY), named("new", STEADY)
    assert sorted(verdicts(compared(both + old, both + new))) == ["added", "removed", "unchanged"]


def test_small_drops_of_many_tasks_show_in_their_average(compared):
    base, new = [], []
    for number in range(8):
        base += answers([1.0] * 20, task=f"t{number}")
        new += answers([1.0] * 18 + [0.0] * 2, task=f"t{number}")
    rows = compared(base, new).accuracy
    average = rows[rows["task"] == "average over tasks"].iloc[0]
    assert average["verdict"] == "regressed"
    assert average["difference"] == pytest.approx(-0.1)
    assert average["n"] == 160
    assert set(rows["verdict"]) == {"regressed", "inconclusive"}


def test_samples_are_paired_by_their_id(compared):
    base = answers([1.0, 0.0] * 20)
    assert verdicts(compared(base, list(reversed(answers([1.0, 0.0] * 20))))) == ["unchanged"]
    row = compared(base, answers([1.0, 0.0] * 5)).accuracy.iloc[0]
    assert row["n"] == 10


GPUS = ({"gpu": {"name": "NVIDIA H200"}}, {"gpu": {"name": "NVIDIA H100"}})


@pytest.mark.parametrize(
    ("name", "base", "new", "environments"),
    [
        ("gpu", rounds(STEADY), rounds(STEADY), GPUS),
        ("input", rounds(STEADY), rounds(STEADY, input="random"), ()),
        ("dtype", rounds(STEADY), rounds(STEADY, dtype="fp16"), ()),
        ("timer", rounds(STEADY), rounds(STEADY, timer="wall_clock"), ()),
        ("cache", rounds(STEADY), rounds(STEADY, cache="as_left"), ()),
        ("version", rounds(STEADY), rounds(STEADY, benchmark_version=2), ()),
        ("version", rounds(STEADY, params={"a": 1}), rounds(STEADY, params={"a": 1}, method_hash="other"), ()),
        ("params", rounds(STEADY, params={"a": 1}), rounds(STEADY, params={"a": 2}, method_hash="other"), ()),
        ("variant", answers([1.0] * 4, variant="nvidia"), answers([1.0] * 4, variant="files"), ()),
        ("version", answers([1.0] * 4), answers([1.0] * 4, suite_version=2), ()),
        ("dtype", answers([1.0] * 4), answers([1.0] * 4, dtype="fp16"), ()),
        ("gpu", answers([1.0] * 4), answers([1.0] * 4), GPUS),
    ],
)
def test_different_questions_are_refused_unless_allowed_by_name(pair, name, base, new, environments):
    one, other = map(read_run, pair(base, new, *environments))
    with pytest.raises(NotComparableError, match=f"not comparable: {name}: .* --allow {name} compares them"):
        compare(one, other)
    with pytest.raises(NotComparableError):
        compare(one, other, allow=["cache" if name != "cache" else "gpu"])
    assert verdicts(compare(one, other, allow=[name])) == ["unchanged"]


def test_only_what_has_no_counterpart_in_the_same_setting_is_refused(compared):
    base = rounds(STEADY) + rounds(STEADY, dtype="fp16")
    assert sorted(verdicts(compared(base, rounds(STEADY)))) == ["removed", "unchanged"]


def test_parameters_that_older_code_did_not_know_are_no_difference(compared):
    base = rounds(STEADY, params={"alpha": 0.12})
    new = rounds(STEADY, params={"alpha": 0.12, "dense_below": 0}, method_hash="other")
    assert verdicts(compared(base, new)) == ["unchanged"]


def test_published_runs_of_older_code_compare():
    old, new = (read_run(PUBLISHED / name) for name in ("latency-32-8-128", "same-twice-b"))
    found = compare(old, new)
    assert found.latency["ratio"].notna().sum() == 3
    assert "regressed" not in verdicts(found)


@pytest.mark.parametrize(("new", "named"), [(NOISY, True), (STEADY, False)])
def test_that_a_cell_too_noisy_to_judge_passes_is_said(compared, new, named):
    said = summary(compared(rounds(STEADY), rounds(new)))
    assert any("pass; with --strict they fail" in line for line in said) == named


@pytest.mark.parametrize(("name", "cells"), [("h200/same-twice", 6), ("h100/twice", 12)])
def test_two_equal_runs_of_real_machines_are_not_accused(name, cells):
    found = compare(*(read_run(PUBLISHED.parent / f"{name}-{which}") for which in "ab"))
    assert set(verdicts(found)) <= {"unchanged", "inconclusive"}
    assert len(found.latency) == cells


def at(second):
    return f"2026-01-01T00:00:{second:02}+00:00"


def test_rounds_that_alternated_are_paired(compared):
    drift = [1.0, 1.2, 1.4, 1.6, 1.8]

    def side(factors, first):
        return [timed.model_copy(update={"time": at(2 * n + first)}) for n, timed in enumerate(rounds(factors))]

    slower = [1.05 * ms for ms in drift]
    assert verdicts(compared(side(drift, 0), side(slower, 1))) == ["regressed"]
    assert verdicts(compared(rounds(drift, label="b"), rounds(slower, label="b"))) == ["inconclusive"]


def test_what_changed_besides_the_time_is_said(compared):
    base = rounds(STEADY, backend="hopper", gpu={"sm_mhz": 1980}, throttled=False)
    new = rounds(SLOWER, backend="triton", gpu={"sm_mhz": {"median": 1800}}, throttled=True)
    assert compared(base, new).latency["note"][0] == (
        "kernel hopper became triton; SM clock 1980 became 1800 MHz: in cycles 1.000; "
        "clocks held down in 0 and 5 rounds"
    )


def test_an_unknown_facet_is_named(compared):
    with pytest.raises(UsageError, match="'gpus' is unknown; did you mean 'gpu'"):
        compared(rounds(STEADY), rounds(STEADY), allow=["gpus"])


EXITS = [
    (rounds(STEADY), rounds(STEADY), (), 0),
    (rounds(STEADY), rounds(STEADY), ("--strict",), 0),
    (rounds(STEADY), rounds(SLOWER), (), 1),
    (rounds(STEADY), rounds(SLOWER), ("--min-effect", "15%"), 0),
    (rounds(STEADY), [failed()], (), 3),
    (rounds(STEADY), rounds(STEADY, input="random"), (), 4),
    (rounds(STEADY), named("other", STEADY), (), 4),
    (rounds(STEADY), answers([1.0] * 4), (), 4),
    ([failed()], [failed()], (), 4),
    (rounds(STEADY), rounds(NOISY), (), 0),
    (rounds(STEADY), rounds(NOISY), ("--strict",), 5),
    (rounds(STEADY), rounds(NOISY[:2]), ("--strict",), 5),
    ([*rounds(STEADY), dense()], rounds(STEADY), ("--strict",), 5),
    (answers([1.0] * 40), answers([0.0] * 40), (), 1),
    (answers([1.0] * 40), answers([0.0] * 40), ("--max-drop", "0"), 2),
    (rounds(STEADY), rounds(STEADY), ("--min-effect", "three"), 2),
    (rounds(STEADY), rounds(STEADY), ("--min-effect", "0"), 2),
    (rounds(STEADY), rounds(STEADY), ("--fdr", "2"), 2),
    (rounds(STEADY), rounds(STEADY), ("--allow", "weather"), 2),
    (rounds(STEADY), rounds(STEADY), ("--ci", "gitlab"), 2),
    (rounds(STEADY), rounds(STEADY), ("--format", "xml"), 2),
]


@pytest.mark.parametrize(("base", "new", "options", "code"), EXITS)
def test_exit_codes(pair, base, new, options, code):
    done = fpbench("compare", *pair(base, new), *options)
    assert done.exit_code == code, done.output
    if code in (2, 4):
        (line,) = done.stderr.splitlines()
        assert line.startswith("fpbench: ")


def test_no_folder_and_no_record_are_one_line(tmp_path):
    run = write(tmp_path / "run", rounds(STEADY))
    empty = write(tmp_path / "empty", [])
    for new in (tmp_path / "none", empty):
        done = fpbench("compare", run, new)
        assert done.exit_code == 2
        assert len(done.stderr.splitlines()) == 1


def test_every_format_tells_the_verdict(pair):
    folders = pair(rounds(STEADY) + answers([1.0] * 40), rounds(SLOWER) + answers([0.0] * 40))
    shown = fpbench("compare", *folders)
    for text in ("regressed", "1.100", "2 regressed", "Welch", "McNemar"):
        assert text in shown.stdout
    rows = list(csv.DictReader(io.StringIO(fpbench("compare", *folders, "--format", "csv").stdout)))
    assert [(row["kind"], row["verdict"]) for row in rows] == [("latency", "regressed"), ("accuracy", "regressed")]
    found = json.loads(fpbench("compare", *folders, "--format", "json").stdout)
    assert found["counts"]["regressed"] == 2
    assert found["latency"][0]["ratio"] == pytest.approx(1.1)
    assert found["geometric_mean_ratio"] == pytest.approx(1.1)
    text = fpbench("compare", *folders, "--format", "md").stdout
    assert text.startswith("## fpbench compare: 2 regressed")
    assert "| regressed | 4K | flashprefill |" in text


def test_as_github_action_benchmark_reads_it(pair):
    folders = pair(rounds(STEADY), rounds(SLOWER) + answers([1.0, 0.5]) + [failed(label="greedy")])
    rows = json.loads(fpbench("compare", *folders, "--format", "customSmallerIsBetter").stdout)
    assert [(row["unit"], row["value"]) for row in rows] == [("ms", pytest.approx(2.2)), ("points", pytest.approx(25))]
    assert all({"name", "unit", "value"} <= row.keys() for row in rows)
    of_run = fpbench("report", folders[1], "--format", "customSmallerIsBetter")
    assert of_run.exit_code == 0
    assert json.loads(of_run.stdout) == rows


def test_github_gets_annotations_and_a_summary(pair, tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    odd = "50%\nodd"
    folders = pair(rounds(STEADY, label=odd), rounds(SLOWER, label=odd))
    done = fpbench("compare", *folders, "--ci", "github", "--format", "json")
    json.loads(done.stdout)
    (line,) = done.stderr.splitlines()
    assert line.startswith("::error title=fpbench regressed::50%25%0Aodd at 4K: 2 to 2.2 ms, ratio 1.100")
    assert (tmp_path / "summary.md").read_text().startswith("## fpbench compare: 1 regressed")


def test_a_long_comparison_shows_the_gravest_and_counts_the_rest(compared):
    base = [record for n in range(60) for record in named(f"m{n}", STEADY)]
    new = [record for n in range(60) for record in named(f"m{n}", SLOWER if n == 59 else STEADY)]
    (table,) = tables(compared(base, new))
    assert len(table.rows) == MOST_ROWS
    assert table.rows[0][0] == "regressed"
    assert "20 more rows" in table.title


def test_every_format_names_both_folders_and_their_code(pair):
    base, new = pair(rounds(STEADY, code_version="1+aaaa"), rounds(SLOWER, code_version="2+bbbb"))
    for form in ("rich", "md", "csv", "json", "junit"):
        shown = fpbench("compare", base, new, "--format", form).stdout
        for text in (str(base), str(new), "1+aaaa", "2+bbbb"):
            assert text in shown.replace("\n", "")
    found = json.loads(fpbench("compare", base, new, "--format", "json").stdout)
    assert (found["base_code"], found["new_code"]) == ("1+aaaa", "2+bbbb")
    of_new = fpbench("compare", base, new, "--format", "customSmallerIsBetter").stdout
    assert str(new) in of_new
    assert "2+bbbb" in of_new


def test_a_corrected_p_is_called_so(compared):
    of_times, of_scores = compared(rounds(STEADY), rounds(SLOWER)), compared(answers([1.0] * 9), answers([0.0] * 9))
    for found in (of_times, of_scores):
        (table,) = tables(found)
        assert "corrected p" in table.columns
        assert "p" not in table.columns


def test_how_many_answers_changed_stands_beside_the_interval(compared):
    (table,) = tables(compared(answers([1.0] * 104), answers([1.0] * 102 + [0.0] * 2)))
    assert list(zip(table.columns, table.rows[0], strict=True))[-3][0] == "95 %"
    assert dict(zip(table.columns, table.rows[0], strict=True))["changed"] == "2 of 104"


def test_the_geometric_mean_is_of_sparse_cells_that_are_decided(compared):
    base = rounds(STEADY) + named("noisy", STEADY) + [dense(ms, round=n) for n, ms in enumerate(STEADY)]
    new = rounds(SLOWER) + named("noisy", NOISY) + [dense(3 * ms, round=n) for n, ms in enumerate(STEADY)]
    assert geometric_mean(compared(base, new).latency) == (pytest.approx(1.1), 1)


def test_one_odd_round_hides_no_slowdown(compared):
    odd = (3 * STEADY[0], *STEADY[1:])
    row = compared(rounds(odd), rounds(SLOWER)).latency.iloc[0]
    assert row["verdict"] == "regressed"
    assert row["base_ms"] == pytest.approx(2.002)
    assert row["ratio"] == pytest.approx(row["new_ms"] / row["base_ms"])


def launched(*launches):
    """Rounds of several processes, each given by its times."""
    times = [ms for of_launch in launches for ms in of_launch]
    names = [f"launch {n}" for n, of_launch in enumerate(launches) for _ in of_launch]
    return [record.model_copy(update={"launch": name}) for record, name in zip(rounds(times), names, strict=True)]


def test_launches_are_what_is_compared_where_there_are_several(compared):
    fast, slow = [1.0 * ms for ms in STEADY], [1.08 * ms for ms in STEADY]
    base, new = launched(fast, slow, fast), launched(slow, slow, fast)
    found = compared(base, new)
    assert verdicts(found) == ["inconclusive"]
    assert "launches" in tables(found)[0].rows[0][3]
    assert not any("One launch per side" in line for line in summary(found))
    # The same rounds, were they of one launch a side.
    assert any(
        "One launch per side: a difference under 1.5%" in line for line in summary(compared(rounds(fast), rounds(slow)))
    )
    assert verdicts(compared(base, launched(*([1.3 * ms for ms in side] for side in (fast, slow, fast))))) == [
        "regressed"
    ]


def distributions(kl, samples=4, parts=8, **fields):
    """Samples without answers whose likeliest tokens agree alike whatever the KL."""
    return [
        record.model_copy(update={"kl": kl, "kl_by_part": [kl / 2, 3 * kl / 2] * parts if parts else None})
        for record in answers([0.9] * samples, **{"suite": "fidelity", "task": "text"} | fields)
    ]


@pytest.mark.parametrize(
    ("base", "new", "verdict"),
    [
        (0.01, 0.03, "regressed"),
        (0.03, 0.01, "improved"),
        (0.01, 0.011, "unchanged"),
        (0.01, 0.01, "unchanged"),
    ],
)
def test_distributions_are_judged_by_their_kl(compared, base, new, verdict):
    found = compared(distributions(base), distributions(new))
    assert verdicts(found) == [verdict]
    assert any("judged by their KL" in line for line in summary(found))
    # The likeliest tokens agree as often as before: they alone would say unchanged.
    assert found.accuracy.iloc[0]["difference"] == 0
    # What may be lost is said by the rule.
    loose = compare(found.base, found.new, Rule(max_kl=0.05))
    assert verdicts(loose) == ["unchanged"]


def test_the_average_of_distributions_is_judged_by_kl_too(compared):
    tasks = [("code", 0.012), ("prose", 0.05)]
    base, new = ([*distributions(0.01, task="code"), *distributions(0.01, task="prose")], [])
    for task, kl in tasks:
        new += distributions(kl, task=task)
    rows = compared(base, new).accuracy.set_index("task")
    assert dict(rows["verdict"]) == {"code": "unchanged", "prose": "regressed", AVERAGE: "regressed"}
    assert rows.loc[AVERAGE, "new_kl"] == pytest.approx(0.031)


def test_kl_without_parts_is_judged_by_samples_and_one_sample_is_not_enough(compared):
    assert verdicts(compared(distributions(0.01, parts=0), distributions(0.03, parts=0))) == ["regressed"]
    assert verdicts(compared(distributions(0.01, 1, parts=0), distributions(0.03, 1, parts=0))) == ["inconclusive"]


def test_kl_is_compared_where_distributions_are(compared):
    found = compared(distributions(0.01), distributions(0.03))
    row = found.accuracy.iloc[0]
    assert (row["base_kl"], row["new_kl"]) == (pytest.approx(0.01), pytest.approx(0.03))
    assert 0 < row["kl_low"] < 0.02 < row["kl_high"]
    assert any("KL 0.01 became 0.03 nats (+" in cell for cell in tables(found)[0].rows[0])
