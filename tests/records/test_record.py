import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fp_bench.records.record import LatencyRecord
from tests.records.records import failed, timed

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


def test_the_key_says_what_was_asked_and_nothing_else():
    same = timed(9.0, round=3, code_version="2", backend="torch", reason="x")
    assert same.cell_key == timed().cell_key
    others = {timed(**{name: change}).cell_key for name, change in CHANGES.items()}
    assert len(others | {timed().cell_key}) == len(CHANGES) + 1


CHANGES = {
    "method": "x", "method_hash": "x", "asked_backend": "torch", "seq_len": 1, "q_len": 1, "batch": 2, "q_heads": 64,
    "kv_heads": 4, "head_dim": 64, "dtype": "fp16", "input": "random", "layer": 1, "seed": 1,
}  # fmt: skip


def test_every_asked_field_is_tried():
    assert set(CHANGES) == set(LatencyRecord.asked) - {"kind"}


def test_results_import_without_torch():
    records = "from fp_bench.records import record, store, environment, merge"
    reports = "from fp_bench.reports import latency, accuracy, drawing, report"
    code = f"import sys; {records}; {reports}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
