import io
import itertools
import re

import pytest
from rich.console import Console

from fp_bench.cli.terminal import duration, rate, record_line, show_progress, show_tables
from fp_bench.reports.latency.tables import failures, latency_tables
from fp_bench.reports.table import Table
from tests.records.records import dense, failed, timed


def test_a_narrow_terminal_never_cuts_a_number_or_a_name_short(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    label = "flashprefill:alpha=0.18:sink_blocks=4"
    show_tables(latency_tables([timed(1234.5, rel_err=0.00123, label=label), dense(5432.1)]))
    shown = capsys.readouterr().out
    for text in ("1234", "5432", "50.0%", "90.00%", "0.00123", "4.40x", label):
        assert text in shown


def test_failures_the_last_record_and_one_now_and_then_are_said(capsys, monkeypatch):
    clock = iter([0.0, 1.0, 1.5, 4.0, 4.5, 5.0])
    monkeypatch.setattr("fp_bench.cli.terminal.monotonic", lambda: next(clock))
    records = [timed(2.5, round=1), failed(label="greedy"), timed(2.5, round=2), timed(3, round=3), timed(4, round=4)]
    assert list(show_progress(records, 5)) == records
    assert capsys.readouterr().err.splitlines() == [
        "2/5 4K greedy: oom: too large; about 2 s left",
        "3/5 4K flashprefill round 2: 2.5 ms, density 50.0%; about 3 s left",
        "5/5 4K flashprefill round 4: 4 ms, density 50.0%",
    ]


def lines_of(records, seconds, capsys, monkeypatch):
    """Return the lines of a run whose records are so many seconds apart."""
    clock = itertools.count(step=seconds)
    monkeypatch.setattr("fp_bench.cli.terminal.monotonic", lambda: float(next(clock)))
    assert list(show_progress(records, len(records))) == records
    return capsys.readouterr().err.splitlines()


def test_a_cell_is_a_line_at_most_and_its_failure_one(capsys, monkeypatch):
    records = [timed(2.5, round=number, seq_len=length) for number in range(6) for length in (1024, 2048, 4096)]
    assert len(lines_of(records, 3, capsys, monkeypatch)) == 3 + 1
    starved = [failed(label="greedy", round=number) for number in range(20)]
    assert len(lines_of(starved, 0.1, capsys, monkeypatch)) == 1 + 1


def test_a_cell_that_takes_minutes_is_told_of_again(capsys, monkeypatch):
    records = [timed(2.5, round=number) for number in range(10)]
    assert len(lines_of(records, 61, capsys, monkeypatch)) == 10


def test_quiet_says_nothing(capsys):
    records = [timed(), failed()]
    assert list(show_progress(records, 2, quiet=True)) == records
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("speed", "text"), [(None, ""), (0.0, ""), (12.5, "12.5/s"), (1.0, "1.0/s"), (0.125, "8.0 s each")]
)
def test_rates(speed, text):
    assert rate(speed) == text


def test_a_terminal_has_one_bar_with_rate_and_time_left_and_a_failure_once(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr("fp_bench.cli.terminal._people", lambda: Console(file=shown, force_terminal=True, width=80))
    records = [timed(2.5, round=n) for n in range(3)] + [failed(label="greedy", round=n) for n in range(3)]
    assert list(show_progress(iter(records), 6)) == records
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue())
    assert "6/6" in text
    assert sum(line.strip() == "4K greedy: oom: too large" for line in re.split("[\r\n]+", text)) == 1


def test_layers_are_named():
    assert record_line(timed(layer=3)).startswith("4K flashprefill layer 3 round 0")


@pytest.mark.parametrize(("seconds", "text"), [(0, "1 s"), (89, "89 s"), (100, "2 min"), (9000, "2.5 h")])
def test_durations(seconds, text):
    assert duration(seconds) == text


WIDE = Table(
    "Wide",
    ["length", "method", "kernel", "blank", *(f"number {i}" for i in range(9))],
    [["4K", label, "a kernel", "", *(f"{1000 * i + 0.5}" for i in range(9))] for label in ("dense", "flashprefill")],
    numbers=4,
)


def test_columns_that_do_not_fit_go_below_beside_what_names_the_row(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    show_tables([WIDE])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("flashprefill" in line for line in lines) == 2
    assert sum("Wide" in line for line in lines) == 1
    shown = " ".join(lines)
    assert all(f"{1000 * i + 0.5}" in shown for i in range(9))
    assert "blank" not in shown


def test_a_long_name_leaves_room_for_numbers_and_sentences(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    label = "sink_and_window:sink_blocks=1:window_blocks=1"
    columns = ["verdict", "length", "method", "note", "base ms", "new ms", "ratio", "interval"]
    sides = ("43.09", "52.35", "1.215", "0.610 to 2.421")
    rows = [["inconclusive", "512", name, "about 31 more launches would decide", *sides] for name in ("dense", label)]
    show_tables([Table("A comparison", columns, rows, numbers=3)])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(label in line for line in lines) == 4  # with the verdict, the note, the times, the interval
    assert sum("inconclusive" in line for line in lines) == 2
    assert any({label, "43.09", "52.35", "1.215"} <= set(line.split()) for line in lines)
    assert any("about 31 more launches" in line for line in lines)


@pytest.mark.parametrize(("columns", "wide"), [(None, False), ("80", True)])
def test_a_pipe_and_wide_have_one_line_a_row(columns, wide, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns) if columns else monkeypatch.delenv("COLUMNS", raising=False)
    show_tables([WIDE], wide)
    assert sum("flashprefill" in line for line in capsys.readouterr().out.splitlines()) == 1


def test_tables_of_any_run_fit_eighty_columns(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    label = "flashprefill:alpha=0.18"
    times = [
        timed(1234.5, rel_err=0.00123, kernel_err=1e-3, label=label, select_ms=3.25),
        dense(5432.1),
        dense(6000.0, "fa2"),
    ]
    show_tables([*latency_tables(times), failures([failed(reason="a long reason " * 9)])])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
