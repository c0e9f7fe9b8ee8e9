import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from fp_bench.records.record import DENSITY_OF, AccuracyRecord
from fp_bench.reports.accuracy.report import accuracy_chapter
from fp_bench.reports.accuracy.tables import accuracy_tables, by_task, failures, summary
from fp_bench.reports.scores import paired_interval, wilson
from fp_bench.suites.ruler.tasks import TASKS

ASKED = {
    "code_version": "1", "model": "m", "dtype": "bf16", "suite": "probe", "variant": "", "suite_version": 1,
}  # fmt: skip


def scored(label, task, number, score, length=4096, **changed):
    method = label.split(":")[0]
    found = {"density": 1.0 if method == "dense" else 0.5, "recall": 0.9, "prompt_tokens": length - 64}
    where = {"task": task, "sample_id": f"{task}/{length}/{number}", "seq_len": length}
    names = {"method": method, "label": label, "method_hash": label}
    return AccuracyRecord(**ASKED | names | where | found | {"status": "ok", "score": score} | changed)


def test_scores_are_of_the_samples_that_all_methods_answered():
    records = [scored("dense", "a", n, 1.0) for n in range(4)] + [scored("dense", "b", 0, 1.0)]
    records += [scored("sparse", "a", n, float(n > 0)) for n in range(5)] + [scored("sparse", "b", 0, 0.0)]
    dense, sparse = (row for _, row in summary(records).iterrows())
    assert (dense["score"], sparse["score"]) == (1.0, pytest.approx((0.75 + 0.0) / 2))
    assert (dense["n"], sparse["n"], sparse["paired"]) == (5, 5, 5)  # sample 4 of task a has no dense answer
    assert list(by_task(records)["n"]) == [4, 4, 1, 1]
    assert any("1 answers are in no table" in line for line in accuracy_chapter(records, "a CPU").circumstances)
    assert sparse["difference"] == pytest.approx((-0.25 - 1.0) / 2)
    assert sparse["difference_low"] <= sparse["difference"] <= sparse["difference_high"]
    assert np.isnan(dense["difference"])


def test_how_many_samples_and_how_many_of_them_changed_stand_in_the_row():
    records = [
        scored(label, "a", n, float(n > lost)) for label, lost in (("dense", -1), ("sparse", 1)) for n in range(9)
    ]
    (table,) = accuracy_tables(records)
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [(row["samples"], row["changed"]) for row in rows] == [("9", ""), ("9", "2 of 9")]


def compared(label, number, kl, **changed):
    blocks = [kl / 2, 3 * kl / 2] * 8
    agreement = {"agreement_by_part": [1.0, 0.9] * 8, "kl_by_part": blocks}
    return scored(label, "text", number, 0.95, kl=kl, suite="fidelity", **agreement | changed)


def test_kl_comes_first_and_its_interval_is_of_blocks_not_of_samples():
    records = [compared("dense", n, 0.0) for n in range(4)] + [
        compared("sparse", n, 0.01 + 0.001 * n) for n in range(4)
    ]
    row = summary(records).iloc[1]
    assert 0 < row["kl_low"] < row["kl"] < row["kl_high"] < 0.02
    # Wilson's over four samples reaches from 35 to 97.
    assert 0.9 < row["low"] < row["score"] < row["high"] < 0.99
    (table,) = accuracy_tables(records)
    assert list(table.columns[2:7]) == ["samples", "KL, nats", "95 %", "agreement", "95 %"]
    older = [record.model_copy(update={"kl_by_part": None, "agreement_by_part": None}) for record in records]
    assert pd.isna(summary(older).iloc[1]["low"])


def test_plots_of_fidelity_are_of_kl():
    records = [
        compared(label, n, kl, length=length)
        for label, kl in (("dense", 0.0), ("sparse", 0.02))
        for n in range(2)
        for length in (4096, 8192)
    ]
    plots = {plot.name: plot for plot in accuracy_chapter(records, "a machine").draw()}
    assert set(plots) == {"kl", "pareto"}
    assert plots["kl"].title == "KL to dense attention against length"


def test_a_plot_says_whom_it_leaves_out():
    records = [scored(label, "a", 0, 1.0) for label in ("dense", "sparse")]
    records.append(scored("broken", "a", 0, None, status="oom", reason="too large"))
    plots = accuracy_chapter(records, "a machine").draw()
    assert plots
    for plot in plots:
        assert any("not shown, without a result: broken" in text.get_text() for text in plot.figure.texts)


def test_the_header_says_what_density_is_a_share_of():
    old = [scored(label, "a", 0, 1.0) for label in ("dense", "sparse")]
    new = [record.model_copy(update={"density_of": DENSITY_OF, "density_sparse": 0.2}) for record in old]
    assert "density (of blocks or pairs)" in accuracy_tables(old)[0].columns
    columns = accuracy_tables(new)[0].columns
    assert list(columns[-3:]) == ["density of causal query-key pairs", "density of sparse layers", "recall"]


def test_there_is_no_average_of_fewer_tasks_than_others_have():
    records = [scored("dense", task, 0, 1.0) for task in ("fact", "vt")]
    records += [scored("flashprefill", "fact", 0, 1.0), scored("flashprefill", "vt", 0, 0.0, length=8192)]
    rows = summary(records)
    assert list(zip(rows["label"], rows["seq_len"], strict=True)) == [("dense", 4096), ("flashprefill", 8192)]
    said = accuracy_chapter(records, "a CPU").circumstances
    assert "At 4K, flashprefill has answers in 1 of 2 tasks, so it has no average." in said


def test_only_the_newest_code_counts_and_failures_are_listed_not_averaged():
    records = [scored("dense", "a", 0, 0.0), scored("dense", "a", 0, 1.0, code_version="2")]
    records.append(scored("dense", "a", 1, None, status="oom", reason="too large"))
    table = by_task(records)
    assert list(table["score"]) == [1.0]
    assert list(table["n"]) == [1]
    assert failures(records).rows == [["dense", "oom", "4K", "1", "too large"]]


@given(hits=st.integers(0, 60), n=st.integers(1, 60))
def test_wilsons_interval_is_scipys(hits, n):
    hits = min(hits, n)
    exact = binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson(hits / n, n) == pytest.approx((exact.low, exact.high), abs=1e-6)


@given(st.lists(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 1.0]), min_size=1, max_size=20), min_size=1, max_size=4))
def test_an_interval_holds_the_difference_and_is_never_empty(changes):
    middle, low, high = paired_interval([np.array(change) for change in changes])
    assert middle == pytest.approx(float(np.mean([np.mean(change) for change in changes])))
    assert -1 <= low <= middle + 1e-9 <= high + 2e-9
    assert low < high <= 1


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    draw = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        sample = -(draw.random((2, 60)) < [[0.3], [0.1]]).astype(float)
        _, low, high = paired_interval(list(sample))
        hits += low <= -0.2 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_effective_length_is_said_where_all_of_ruler_was_scored():
    def records(score_by_length):
        return [
            scored("dense", task, 0, score, length, suite="ruler")
            for length, score in score_by_length.items()
            for task in TASKS
        ]

    headline = accuracy_chapter(records({4096: 0.99, 8192: 0.9, 16384: 0.5}), "a machine").headlines[-1]
    assert "at least 85.6): dense 8K." in headline
    some = accuracy_chapter(records({4096: 0.99})[:5], "a machine").headlines
    assert not any("Effective length" in line for line in some)


def test_the_mean_of_ruler_is_printed_as_both_harnesses_define_it():
    def record(task, prediction, answers, score):
        return scored("dense", task, 0, score, suite="ruler", prediction=prediction, answers=answers)

    records = [record(task, "one", ["one"], 1.0) for task in TASKS if not task.startswith("qa")]
    records += [record("qa_1", "It is one.", ["One", "the one"], 1.0), record("qa_2", "two", ["one"], 0.0)]
    lines = accuracy_chapter(records, "a machine").headlines
    (mean,) = (line for line in lines if "thirteen tasks" in line)
    assert mean.endswith(f"dense {100 * 12 / 13:.1f} and {100 * 11.5 / 13:.1f}.")
    assert not any("thirteen tasks" in line for line in accuracy_chapter(records[1:], "a machine").headlines)


def test_plots_show_every_setting():
    records = [
        scored(label, task, n, score, length)
        for label, score in (("dense", 1.0), ("flashprefill:alpha=0.5", 0.7))
        for task in ("a", "b")
        for n in range(3)
        for length in (4096, 8192)
    ]
    plots = {plot.name: plot for plot in accuracy_chapter(records, "a machine").draw()}
    assert set(plots) == {"score", "pareto", "task-grid", "tasks"}
    assert isinstance(plots["pareto"].data, pd.DataFrame)
    assert set(plots["pareto"].data["label"]) == {"dense", "flashprefill:alpha=0.5"}
