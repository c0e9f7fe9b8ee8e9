"""Servers under load: percentiles over requests, the table and the plot."""

import pandas as pd
import pytest

from fp_bench.reports.latency.load import load_plots, load_tables, served
from fp_bench.reports.latency.report import latency_chapter
from tests.records.records import dense, failed, timed

SERVED = {"engine": "openai", "input": "prompt:toy@openai", "dtype": "as served", "density": None, "recall": None}


def requests(times, concurrency, label="flashprefill", rate=None, **more):
    load = {"concurrency": concurrency, "rate": rate, "request_throughput": 2.0}
    found = {"samples_ms": times, "itl_ms": [1.0, 3.0], "tpot_ms": [2.0] * len(times), "label": label, "method": label}
    return timed(times[0], **SERVED | load | found | {"method_hash": label} | more)


@pytest.fixture
def records():
    slow = [requests([20.0 * n, 40.0 * n], n, "dense") for n in (1, 4)]
    fast = [requests([10.0 * n, 20.0 * n], n, round=number) for n in (1, 4) for number in (0, 1)]
    gone = {name: SERVED[name] for name in ("engine", "input", "dtype")}
    return [*slow, *fast, failed("error", "gone", label="other", method="other", concurrency=4, **gone)]


def test_percentiles_are_over_the_requests_of_all_rounds(records):
    table = served(records).set_index(["label", "concurrency"])
    assert table.loc[("flashprefill", 4), "requests"] == 4
    assert table.loc[("flashprefill", 4), ["p50_ttft_ms", "p90_ttft_ms", "p99_ttft_ms"]].tolist() == [60, 80, 80]
    assert table.loc[("dense", 1), ["p50_ttft_ms", "p99_ttft_ms"]].tolist() == pytest.approx([30, 39.8])
    assert table.loc[("dense", 1), ["p50_itl_ms", "p50_tpot_ms", "request_throughput"]].tolist() == [2, 2, 2]
    assert table.loc[("flashprefill", 4), "vs_dense"] == 2
    assert pd.isna(table.loc[("other", 4), "p50_ttft_ms"])


def test_the_table_has_a_row_a_load_and_server_dense_first(records):
    (table,) = load_tables(served(records))
    assert [row[1:4] for row in table.rows] == [
        ["1 at once", "dense", "2"],
        ["1 at once", "flashprefill", "4"],
        ["4 at once", "dense", "2"],
        ["4 at once", "flashprefill", "4"],
        ["4 at once", "other", "error"],
    ]
    assert table.columns[4:7] == ["TTFT p50", "TTFT p90", "TTFT p99"]
    assert table.rows[3][-1] == "2x"


@pytest.mark.draws
def test_first_tokens_are_drawn_against_requests_at_once_and_a_second(records, sketched):
    rated = [requests([5.0], None, "dense", rate=rate) for rate in (0.5, 2.0)]
    plots = list(load_plots(served([*records, *rated]), "here"))
    assert [plot.name for plot in plots] == ["ttft-concurrency", "ttft-rate"]
    assert "without a result: other" in "".join(text.get_text() for text in plots[0].figure.texts)
    assert plots[1].data["rate"].tolist() == [0.5, 2.0]
    assert all(plot.png for plot in plots)


def test_served_times_share_a_run_with_attention_calls(records, tmp_path):
    both = latency_chapter([*records, timed(2.0), dense(4.0)], "here", tmp_path)
    assert len(both.tables) == 2
    assert [len(table.rows) for table in both.tables] == [2, 5]
    assert "At 4K and 4 at once, a first token of `flashprefill` takes 40 ms: 2.00x" in "".join(both.headlines)
    alone = latency_chapter(records, "here", tmp_path)
    assert alone.title == "Time to first token of servers"
    assert [row[:2] for row in alone.failures.rows] == [["other", "error"]]
    assert {"latency", "cells", "load"} <= set(alone.data)
