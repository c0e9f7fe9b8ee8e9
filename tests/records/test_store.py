import json
import os
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fp_bench.errors import UnavailableError, UsageError
from fp_bench.records.store import (
    RECORDS,
    Records,
    RecordStore,
    newest,
    read_environments,
    read_records,
    remembered,
)
from tests.records.records import failed, timed


def test_what_is_appended_is_on_disk_at_once(tmp_path):
    with RecordStore(tmp_path / "new" / "run") as store:
        store.append(timed())
        assert read_records(tmp_path / "new" / "run").records == [timed()]


def test_reopening_goes_on(tmp_path):
    for number in range(3):
        with RecordStore(tmp_path) as store:
            assert len(store.records) == number
            store.append(timed(round=number))
    assert [record.round for record in read_records(tmp_path).records] == [0, 1, 2]


@given(st.data())
def test_a_torn_last_line_is_dropped_wherever_the_kill_hit(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("run")
    with RecordStore(folder) as store:
        store.append(timed(round=0))
        whole = (folder / RECORDS).stat().st_size
        store.append(timed(round=1))
    end = (folder / RECORDS).stat().st_size
    cut = data.draw(st.integers(whole + 1, end - 1))
    os.truncate(folder / RECORDS, cut)
    assert read_records(folder).torn
    with RecordStore(folder) as store:
        assert store.torn
        assert [record.round for record in store.records] == [0]
        store.append(timed(round=1))
    reading = read_records(folder)
    assert ([record.round for record in reading.records], reading.torn) == ([0, 1], False)


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    with RecordStore(tmp_path) as store:
        store.append(timed())
    path = tmp_path / RECORDS
    path.write_text("{oops\n" + path.read_text())
    with pytest.raises(UsageError, match="line 1 is not a record"):
        read_records(tmp_path)


def test_a_finished_run_is_read_compressed_and_not_written(tmp_path):
    with RecordStore(tmp_path) as store:
        store.append(timed(round=0))
        store.append(timed(round=1))
    plain = read_records(tmp_path)
    subprocess.run(["gzip", tmp_path / "records.jsonl"], check=True)
    assert read_records(tmp_path) == plain
    with pytest.raises(UsageError, match="is a finished run; gunzip it to go on"):
        RecordStore(tmp_path)
    packed = tmp_path / "records.jsonl.gz"
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(UsageError, match="no whole gzip file"):
        read_records(tmp_path)
    packed.write_bytes(b"{}")
    with pytest.raises(UsageError, match="no whole gzip file"):
        read_records(tmp_path)


def test_records_of_a_newer_fpbench_are_refused(tmp_path):
    (tmp_path / RECORDS).write_text(json.dumps({"schema_version": 99}) + "\n")
    with pytest.raises(UsageError, match="schema_version 99 is newer"):
        read_records(tmp_path)


def test_two_writers_are_refused(tmp_path):
    with RecordStore(tmp_path), pytest.raises(UsageError, match="another fpbench"):
        RecordStore(tmp_path)
    RecordStore(tmp_path).__exit__(None, None, None)


def test_an_unwritable_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write to") as caught:
        RecordStore(tmp_path / "file" / "run")
    assert "\n" not in str(caught.value)


def test_a_full_disk_keeps_what_is_whole(tmp_path, monkeypatch):
    with RecordStore(tmp_path) as store:
        store.append(timed(round=0))
        real = os.write
        monkeypatch.setattr(os, "write", _write_ten_bytes_then_fail(real))
        with pytest.raises(UnavailableError, match="No space left on device; 1 records are kept"):
            store.append(timed(round=1))
        monkeypatch.setattr(os, "write", real)
        store.append(timed(round=1))
    assert [record.round for record in read_records(tmp_path).records] == [0, 1]


def _write_ten_bytes_then_fail(real):
    calls = []

    def write(file, data):
        calls.append(file)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return real(file, data[:10])

    return write


def test_settled_rounds_belong_to_one_version_of_the_code(tmp_path):
    with RecordStore(tmp_path) as store:
        store.append(timed(round=0))
        store.append(timed(round=2))
        key = timed().cell_key
        assert store.settled(key, "1+aaaa") == {0, 2}
        assert store.settled(key, "2+bbbb") == frozenset()
        store.append(failed(round=3))
        assert store.settled(key, "1+aaaa") is None


def test_environments_are_kept_by_their_content(tmp_path):
    with RecordStore(tmp_path) as store:
        first = store.add_environment({"gpu": "H200"})
        assert store.add_environment({"gpu": "H200"}) == first
        second = store.add_environment({"gpu": "B200"})
    assert read_environments(tmp_path) == {first: {"gpu": "H200"}, second: {"gpu": "B200"}}


def test_tables_of_a_run_are_made_once_and_handed_out_as_copies():
    made = []

    @remembered
    def table(records):
        made.append(len(records))
        return [record.round for record in records]

    records = Records([timed(), timed(round=1)])
    table(records).append(9)
    assert table(records) == [0, 1]
    assert made == [2]
    assert table(list(records)) == [0, 1]
    assert made == [2, 2]


def test_only_the_newest_code_of_a_cell_counts():
    old, new = timed(1.0), timed(2.0, code_version="2+bbbb")
    assert newest([timed(round=1), old, new]) == [new]
