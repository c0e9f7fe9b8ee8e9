"""Rows of scripts of ``benchmarks/``: records like any other."""

from pathlib import Path

import pytest
import torch

from benchmarks.bench import Rows
from fp_bench.records.record import BenchmarkRecord
from fp_bench.records.store import read_run
from fp_bench.reports.report import Part
from tests.cli.test_cli import fpbench

RESULTS = Path(__file__).parents[2] / "results"


def broken():
    raise RuntimeError("no such kernel\nsecond line")


@pytest.fixture
def written(tmp_path):
    rows = Rows("paged", torch.device("cpu"), tmp_path)
    rows.row("flashprefill:alpha=0.1", 8192, lambda: {"ms": 0.25, "kind": "fast"}, page=16)
    rows.row("flashprefill:alpha=0.1", 8192, lambda: {"ms": 0.5, "kind": "slow"}, page=32)
    rows.row("official", 8192, broken, page=16)
    return tmp_path


def test_a_row_is_a_record_with_its_machine_and_its_command(written, capsys):
    fast, slow, failed = read_run(written).records
    assert isinstance(fast, BenchmarkRecord)
    assert (fast.method, fast.seq_len, fast.case) == ("flashprefill", 8192, {"page": 16})
    assert fast.figures == {"ms": 0.25, "kind": "fast"}
    assert fast.cell_key != slow.cell_key
    assert (failed.status, failed.reason) == ("error", "RuntimeError: no such kernel")
    assert str(fast.command).startswith("python -m benchmarks.paged")
    assert read_run(written).environment["packages"]["torch"]


def test_a_report_shows_them(written):
    (chapter,) = Part(read_run(written)).chapters
    assert chapter.tables[0].columns == ["length", "what", "page", "ms", "kind"]
    assert chapter.tables[0].rows[1] == ["8K", "flashprefill:alpha=0.1", "32", "0.5", "slow"]
    assert chapter.failures.rows == [["official", "error", "8K", "RuntimeError: no such kernel"]]
    assert list(chapter.data["benchmarks"]["ms"])[:2] == [0.25, 0.5]
    assert fpbench("report", str(written), "--out", str(written / "page.html")).exit_code == 0


def test_no_published_figure_is_outside_a_record():
    made = {"tables", "plots"}
    loose = [
        path
        for kind in ("csv", "jsonl")
        for path in RESULTS.rglob(f"*.{kind}")
        if path.name not in ("records.jsonl", "findings.csv") and not made & set(path.parts)
    ]
    assert loose == []


@pytest.mark.parametrize(
    ("run", "rows", "case", "name", "value"),
    [
        ("h100/fp8", 5, {}, "fp8_ms", 22.56),
        ("cpu/fp8-rounding", 33, {"inputs": "structured"}, "heads", 32),
        ("h100/head-dims", 10, {"head_dim": 256, "heads": "16/4", "packed": 4}, "of_cudnn", 0.9805),
        ("h100/paged", 20, {"batch": "4 x 8k", "page": 128}, "rel_err", 0.0),
        ("h200/host-time", 12, {}, "graph_us", 634.0669199999382),
        ("h200/parity-minference", 91, {"row": "time", "heads": "32/8/128"}, "ms", None),
    ],
)
def test_published_rows_are_as_they_were_measured(run, rows, case, name, value):
    records = read_run(RESULTS / run).benchmarks
    assert len(records) == rows
    assert records[-1].case == case
    assert value in (None, (records[-1].figures or {})[name])
