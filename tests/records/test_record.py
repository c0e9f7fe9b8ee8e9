import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fp_bench.records.record import AccuracyRecord, LatencyRecord
from tests.records.records import failed, scored, timed

finite = st.floats(1e-6, 1e9)


@given(samples=st.lists(finite, min_size=1), density=st.floats(0, 1), round=st.integers(0, 99), reason=st.text())
def test_a_record_is_read_back_as_written(samples, density, round, reason):
    record = timed(samples_ms=samples, density=density, round=round, reason=reason)
    assert LatencyRecord.model_validate_json(record.model_dump_json(exclude_none=True)) == record


def test_a_failed_cell_never_has_a_number():
    with pytest.raises(ValidationError, match="a result needs status ok"):
        failed(median_ms=1.0)
    with pytest.raises(ValidationError, match="a result needs status ok"):
        timed(median_ms=None)


LIES = {
    "median_ms": [0, -1.0, 1e400, float("nan"), 1e13], "density": [1.1, -0.1, float("nan")], "seq_len": [0, -4, 2**70],
    "kv_heads": [0], "label": ["\ud800", "x" * 5000, 3], "cell_key": ["../../x"], "code_version": ["../x"],
    "samples_ms": [[-1.0], [float("inf")]], "gpu": [3, {"throttle": 3}, {"sm_mhz": {"min": 1}}], "kind": [["latency"]],
    "schema_version": ["x", None, 2, 0], "params": ["x"], "peak_bytes": [-1], "time": [3],
}  # fmt: skip


@pytest.mark.parametrize("field", LIES)
def test_what_cannot_have_been_measured_is_no_record(field):
    for value in LIES[field]:
        with pytest.raises(ValidationError):
            timed(**{field: value})


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -5, 7])
def test_a_score_that_is_none_becomes_a_status(score):
    whole = scored()
    asked = {name: getattr(whole, name) for name in (*whole.asked, "label", "code_version")}
    record = AccuracyRecord.measured(asked, {"score": score, "prediction": "x"})
    assert (record.status, record.score) == ("incorrect", None)
    assert f"score {score!r}: Input should be" in record.reason
    assert AccuracyRecord.model_validate_json(record.model_dump_json(exclude_none=True)) == record


def test_a_field_that_was_asked_for_is_no_failure_of_the_measuring():
    with pytest.raises(ValidationError):
        LatencyRecord.measured({"seq_len": -1}, {"median_ms": 1.0})


def test_a_reason_that_cannot_be_written_is_replaced():
    asked = {name: getattr(timed(), name) for name in (*LatencyRecord.asked, "label", "code_version")}
    assert LatencyRecord.failed(asked, "error", "no \udcff file").reason == "no ? file"


def test_what_was_not_asked_is_not_in_the_key():
    assert scored(tokenizer=None).cell_key == scored().cell_key != scored(tokenizer="ab12").cell_key


def test_the_key_says_what_was_asked_and_nothing_else():
    same = timed(9.0, round=3, code_version="2", backend="torch", reason="x")
    assert same.cell_key == timed().cell_key
    others = {timed(**{name: change}).cell_key for name, change in CHANGES.items()}
    assert len(others | {timed().cell_key}) == len(CHANGES) + 1


CHANGES = {
    "method": "x", "method_hash": "x", "asked_backend": "torch", "seq_len": 1, "q_len": 1, "batch": 2, "q_heads": 64,
    "rate": 1.0, "kv_heads": 4, "head_dim": 64, "dtype": "fp16", "input": "random", "layer": 1, "seed": 1,
    "concurrency": 1,
}  # fmt: skip


def test_every_asked_field_is_tried():
    assert set(CHANGES) == set(LatencyRecord.asked) - {"kind"}


def test_results_import_without_torch():
    records = "from fp_bench.records import record, store, environment, merge"
    reports = "from fp_bench.reports import latency, accuracy, drawing, report"
    code = f"import sys; {records}; {reports}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
