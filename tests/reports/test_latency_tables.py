import numpy as np
import pandas as pd
import pytest

from fp_bench.records.record import DENSITY_OF
from fp_bench.reports.latency.plots import latency_plots
from fp_bench.reports.latency.tables import beyond_ideal, cells, comparison, failures, latency_tables
from fp_bench.reports.table import Table
from tests.records.records import dense, failed, rounds, timed


def row(table, label, **where):
    found = table[(table["label"] == label) & (table[list(where)] == pd.Series(where)).all(axis=1)]
    assert len(found) == 1
    return found.iloc[0]


def test_rounds_merge_into_a_median_with_its_spread():
    table = cells([timed(ms, round=i) for i, ms in enumerate([3.0, 1.0, 2.0])])
    assert table[["ms", "low_ms", "high_ms", "rounds"]].iloc[0].tolist() == [2.0, 1.0, 3.0, 3]


def test_only_the_newest_code_counts():
    table = cells([timed(1.0, code_version="old", round=0), timed(5.0, code_version="new", round=0)])
    assert table["ms"].tolist() == [5.0]


def test_speed_ups_are_over_fa2_and_over_the_fastest_dense_by_name():
    table = comparison([timed(2.0, density=0.25), dense(4.0, "cudnn"), dense(7.0, "fa2")])
    sparse = row(table, "flashprefill")
    assert sparse[["speedup_fa2", "speedup_dense", "ideal_share"]].tolist() == [3.5, 2.0, 0.5]
    assert sparse["dense"] == "cudnn"


def test_without_fa2_there_is_no_speed_up_over_it():
    table = comparison([timed(2.0), dense(4.0, "sdpa_cpu")])
    assert pd.isna(row(table, "flashprefill")["speedup_fa2"])
    assert "vs FA2" not in latency_tables([timed(2.0), dense(4.0, "sdpa_cpu")])[0].columns


def test_a_fallback_to_dense_is_no_speed_up():
    table = comparison([timed(2.0, fallback=True), dense(4.0)])
    assert pd.isna(row(table, "flashprefill")["speedup_dense"])
    assert "fell back to dense" in latency_tables([timed(2.0, fallback=True), dense(4.0)])[0].markdown()


def test_a_cell_that_failed_in_a_later_round_has_no_number():
    table = comparison([timed(2.0, round=0), failed(round=1), dense(4.0)])
    assert row(table, "flashprefill")["status"] == "oom"
    assert pd.isna(row(table, "flashprefill")["ms"])


@pytest.mark.parametrize("change", [{"input": "random"}, {"q_heads": 64}, {"dtype": "fp16"}, {"seq_len": 8192}])
def test_nothing_is_compared_across_settings(change):
    table = comparison([timed(2.0), dense(4.0, **change)])
    assert table["speedup_dense"][table["label"] == "flashprefill"].isna().all()


def test_layers_are_averaged_and_one_that_failed_spoils_the_mean():
    both = [timed(2.0, layer=0), timed(4.0, layer=1), dense(9.0, layer=0), dense(9.0, layer=1)]
    assert row(comparison(both), "flashprefill")["speedup_dense"] == 3.0
    half = [timed(2.0, layer=0), failed(layer=1), dense(9.0)]
    assert pd.isna(row(comparison(half), "flashprefill")["ms"])


def test_all_failed_is_still_a_table():
    (table,) = latency_tables([failed(), failed("unavailable", "no GPU", method="dense", label="dense")])
    assert [line[2] for line in table.rows] == ["unavailable", "oom"]


def test_failures_of_one_reason_are_one_line():
    found = failures([timed(seq_len=1), failed(seq_len=4096), failed(seq_len=65536), failed("error", "x", seq_len=128)])
    assert found.rows == [["flashprefill", "error", "128", "x"], ["flashprefill", "oom", "4K, 64K", "too large"]]


def test_one_table_a_setting_dense_first_whatever_the_order_of_records():
    tables = latency_tables([timed(), dense(), timed(q_heads=64), dense(q_heads=64)])
    assert [[line[1] for line in table.rows] for table in tables] == [["dense:impl=cudnn", "flashprefill"]] * 2


def test_markdown_escapes_bars():
    assert "a\\|b" in Table("t", ["x"], [["a|b"]], numbers=1).markdown()


def test_the_spread_of_rounds_and_the_memory_are_shown():
    records = [*rounds((1.0, 1.1, 1.75), peak_bytes=3 << 20), *(dense(4.0, round=n) for n in range(3))]
    (table,) = latency_tables(records)
    row = dict(zip(table.columns, table.rows[1], strict=True))
    assert (row["spread of rounds"], row["peak MiB"]) == ("75.0%", "3")


def test_a_models_sparse_layers_and_their_density_are_shown():
    of_model = {"density_of": DENSITY_OF, "density_sparse": 0.2, "sparse_layers": 5, "model_layers": 26}
    (table,) = latency_tables([dense(), timed(attention_ms=1.0, density=0.85, **of_model)])
    row = dict(zip(table.columns, table.rows[1], strict=True))
    assert (row["density of sparse layers"], row["sparse layers"]) == ("20.0%", "5 of 26")


def test_the_header_says_what_density_is_a_share_of():
    (old,), (new,) = latency_tables([dense(), timed()]), latency_tables([timed(density_of=DENSITY_OF)])
    assert "density (of blocks or pairs)" in old.columns
    assert "density of causal query-key pairs" in new.columns


def test_launches_are_averaged_and_their_rounds_are_not_pooled():
    records = [
        timed(ms, round=n, launch=launch) for n, (ms, launch) in enumerate([(1, "a"), (1, "a"), (1, "a"), (4, "b")])
    ]
    assert cells(records)["ms"][0] == pytest.approx(2.0)
    assert cells(records)["launches"][0] == 2


def test_a_line_does_not_run_through_a_cell_that_failed():
    lengths = (4096, 8192, 16384)
    records = [dense(4.0, seq_len=n, q_len=n) for n in lengths]
    records += [timed(2.0, seq_len=n, q_len=n) for n in (4096, 16384)] + [failed("incorrect", seq_len=8192, q_len=8192)]
    records += [timed(2.0, seq_len=n, q_len=n, label="staged", method_hash="s", select_ms=0.5) for n in lengths]
    records += [failed(seq_len=n, q_len=n, label="broken", method_hash="b") for n in lengths]
    plots = {plot.name: plot for plot in latency_plots(records, "a machine")}
    for name in ("latency", "speedup"):
        lines = [line.get_ydata() for axes in plots[name].figure.axes for line in axes.lines]
        assert any(len(line) == 3 and np.isnan(line[1]) for line in lines)
        assert any("not shown, without a result: broken" in text.get_text() for text in plots[name].figure.texts)
    said = "not shown, without a result: broken, flashprefill"  # whose stages were not timed
    assert any(said in text.get_text() for text in plots["stages"].figure.texts)


@pytest.mark.parametrize(
    ("changed", "flagged"),
    [
        ({}, True),
        ({"density": 0.4}, False),
        ({"tolerance": 0.1}, False),
        ({"tflops": 150.0}, False),
        ({"tflops": 110.0}, True),
        ({"round": 1}, True),
    ],
)
def test_what_is_faster_than_the_ideal_for_no_measured_reason_is_flagged(changed, flagged):
    records = [timed(2.0, **{"density": 0.7, "tflops": 100.0} | changed), dense(4.0, tflops=100.0)]
    (table,) = latency_tables(records)
    assert ("140% (!)" in table.markdown()) is flagged
    assert comparison(records)[beyond_ideal(comparison(records))]["label"].tolist() == ["flashprefill"] * flagged


def test_rounds_that_differ_by_as_much_explain_more_than_the_ideal():
    table = comparison([*rounds((1.9, 2.0, 3.0), density=0.7, tflops=100.0), dense(4.0, tflops=100.0)])
    assert row(table, "flashprefill")["ideal_share"] == pytest.approx(1.4)
    assert not beyond_ideal(table).any()


def test_a_declared_error_is_in_the_table():
    assert "declared error" not in latency_tables([timed(2.0), dense(4.0)])[0].columns
    (table,) = latency_tables([timed(2.0, tolerance=0.1), dense(4.0)])
    assert [line[table.columns.index("declared error")] for line in table.rows] == ["", "0.1"]
