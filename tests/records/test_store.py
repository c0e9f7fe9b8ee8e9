import gzip
import json
import os
import shutil
import subprocess
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fp_bench.errors import UnavailableError, UsageError
from fp_bench.records import reading
from fp_bench.records.reading import ENVIRONMENTS, RECORDS, read_environments, read_records
from fp_bench.records.secrets import masked
from fp_bench.records.store import Records, RecordStore, newest, read_run, remembered
from tests.records.records import failed, scored, timed, write


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


def test_a_line_that_is_no_record_is_named_and_the_rest_is_used(tmp_path):
    write(tmp_path, [timed()])
    path = tmp_path / RECORDS
    path.write_text("{oops\n" + path.read_text() + "[]\n")
    with pytest.warns(UserWarning, match="skipped") as said:
        assert len(read_records(tmp_path).records) == 1
    assert [str(one.message).partition(" is not a record: ")[0] for one in said] == [f"{path} line 1", f"{path} line 3"]


def test_many_bad_lines_are_counted(tmp_path):
    write(tmp_path, [timed()])
    with (tmp_path / RECORDS).open("a") as file:
        file.write("no\n" * 1000)
    with pytest.warns(UserWarning, match="skipped") as said:
        assert len(read_records(tmp_path).records) == 1
    assert len(said) == 6
    assert "995 more lines are not records" in str(said[-1].message)


NOT_OURS = {
    "a stranger's line": b"my only copy",
    "a stranger's lines": b"one\ntwo\n",
    "a newer version's last line": b'{"schema_version":2,"kind":"latency"}\n',
    "a newer version's torn line": b'{"schema_version":2,"kind":"late',
    "a status of the future": timed().model_dump_json().replace('"ok"', '"melted"').encode() + b"\n",
}


@pytest.mark.parametrize("data", NOT_OURS.values(), ids=NOT_OURS)
def test_a_file_that_is_not_ours_is_left_as_it_is(tmp_path, data):
    (tmp_path / RECORDS).write_bytes(data)
    with pytest.raises(UsageError, match=r"line 1 is not a record: .*; the file was not changed"):
        RecordStore(tmp_path)
    assert (tmp_path / RECORDS).read_bytes() == data


def test_a_link_is_not_written_through(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / RECORDS).symlink_to(elsewhere)
    with pytest.raises(UsageError, match=r"records\.jsonl is a link"):
        RecordStore(tmp_path / "run")
    assert elsewhere.read_text() == "mine"


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / RECORDS)
    with pytest.raises(UsageError, match="cannot write to"):
        RecordStore(tmp_path)


def replace_by_copy(path):
    copied = path.with_name("copy")
    shutil.copy(path, copied)
    copied.replace(path)


def compress(path):
    subprocess.run(["gzip", path], check=True)


def remove_folder(path):
    shutil.rmtree(path.parent)


def append_a_line(path):
    with path.open("a") as file:
        file.write("mine\n")


@pytest.mark.parametrize("happens", [replace_by_copy, compress, remove_folder, append_a_line])
def test_records_are_never_written_to_a_file_that_is_no_longer_the_run_s(tmp_path, happens):
    run = tmp_path / "run"
    with RecordStore(run) as store:
        env = store.add_environment({"cpu": "a CPU"})
        store.append(timed(round=0, env=env))
        happens(run / RECORDS)
        with pytest.raises(UnavailableError, match=r"all 2 records are in the run folder .*run-saved-1"):
            store.append(timed(round=1, env=env))
        store._check_place = lambda: None
    saved = read_run(tmp_path / "run-saved-1")
    assert [record.round for record in saved.records] == [0, 1]
    assert saved.machine == "a CPU"


def test_a_file_replaced_at_the_very_end_is_said(tmp_path):
    store = RecordStore(tmp_path / "run")
    store.append(timed())
    remove_folder(tmp_path / "run" / RECORDS)
    with pytest.raises(UnavailableError, match="all 1 records are in"):
        store.__exit__(None, None, None)


def test_the_writer_takes_declared_fields_alone_and_the_reader_passes_over_others(tmp_path):
    with RecordStore(tmp_path) as store:
        with pytest.raises(ValueError, match="undeclared fields of a record: colour"):
            store.append(timed(colour="red"))
        store.append(timed())
    path = tmp_path / RECORDS
    path.write_text(path.read_text().replace('"round":0', '"round":0,"colour":"red"'))
    assert read_records(tmp_path).records[0].model_extra == {"colour": "red"}


def test_ctrl_c_while_a_record_is_written_keeps_it_whole_or_leaves_it_out(tmp_path, monkeypatch):
    real = os.write

    def interrupted(file, data=b""):
        raise KeyboardInterrupt(data and real(file, data[:10]))

    with RecordStore(tmp_path) as store:
        store.append(timed(round=0))
        monkeypatch.setattr(os, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.append(timed(round=1))
        monkeypatch.setattr(os, "write", real)
        monkeypatch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.append(timed(round=2))
        monkeypatch.undo()
        assert [record.round for record in store.records] == [0, 2]
    assert [record.round for record in read_records(tmp_path).records] == [0, 2]


SECRET = "hf_" + "a1B2" * 9


def test_secrets_are_not_written(tmp_path):
    url = f"https://me:{SECRET}@example.org/model"
    with RecordStore(tmp_path) as store:
        store.add_environment({"cpu": "a CPU", "packages": {"torch": f"2 from {url}"}, "list": [SECRET]})
        store.append(failed(command=f"fpbench latency --model {url}", reason=f"401 of x?token={SECRET}&y=1"))
    written = "".join(path.read_text() for path in tmp_path.iterdir())
    assert SECRET not in written
    assert "--model https://***@example.org/model" in written
    assert "x?token=***&y=1" in written


def test_what_is_no_secret_is_written_as_it_is():
    for plain in ("min_token=64", "hf_transformers_model", "task-123456789012345678901", "user@host", "a://b"):
        assert masked(plain) == plain


@pytest.mark.parametrize("limit", ["LONGEST_LINE", "MOST_LINES", "MOST_BYTES"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_bomb_is_one_line(tmp_path, monkeypatch, limit, packed):
    write(tmp_path, [timed(round=number) for number in range(9)])
    monkeypatch.setattr(reading, limit, 8)
    if packed:
        compress(tmp_path / RECORDS)
    with pytest.raises(UsageError, match="exceeds the limits"):
        read_records(tmp_path)


def test_a_gzip_bomb_is_not_unpacked(tmp_path):
    with gzip.open(tmp_path / f"{RECORDS}.gz", "wb", compresslevel=1) as file:
        file.write(bytes(2**26))
    tracemalloc.start()
    with pytest.raises(UsageError, match="exceeds the limits"):
        read_records(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 2**25
    tracemalloc.stop()


def test_a_finished_run_is_read_compressed_and_not_written(tmp_path):
    with RecordStore(tmp_path) as store:
        store.append(timed(round=0))
        store.append(timed(round=1))
    plain = read_records(tmp_path)
    subprocess.run(["gzip", tmp_path / "records.jsonl"], check=True)
    assert read_records(tmp_path) == plain
    with pytest.raises(UsageError, match="is a finished run; gunzip it to continue"):
        RecordStore(tmp_path)
    packed = tmp_path / "records.jsonl.gz"
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(UsageError, match="an incomplete gzip file"):
        read_records(tmp_path)
    packed.write_bytes(b"{}")
    with pytest.raises(UsageError, match="an incomplete gzip file"):
        read_records(tmp_path)


def test_records_of_a_newer_fpbench_are_refused(tmp_path):
    (tmp_path / RECORDS).write_text(json.dumps({"schema_version": 99}) + "\n")
    with pytest.raises(UsageError, match="schema_version 99 is newer than 1, that of this fpbench; update"):
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
        first = store.add_environment({"cpu": "one"})
        assert store.add_environment({"cpu": "one"}) == first
        second = store.add_environment({"cpu": "two"})
    assert read_environments(tmp_path) == {first: {"cpu": "one"}, second: {"cpu": "two"}}
    with RecordStore(tmp_path) as store:
        third = store.add_environment({"cpu": "three"})
    assert set(read_environments(tmp_path)) == {first, second, third}


def test_a_run_continued_elsewhere_names_both_machines(tmp_path):
    write(tmp_path, [scored(sample_id="a")], cpu="one")
    write(tmp_path, [scored(sample_id="b")], cpu="two")
    assert read_run(tmp_path).machine == "one and two"


ODD_ENVIRONMENTS = [
    "", "[]", "null", "3", '"x"', "{", '{"a": 3}', '{"a": []}', '{"a": {"gpu": []}}', '{"a": {"gpu": "H200"}}',
    '{"a": {"cpu": {}}}', '{"a": {"cpu_cores": "many"}}', '{"a": {"packages": 3}}', '{"a": {"cpu": "\\ud800"}}',
    '{"a": ' * 100_000, '{"a": {"b": ' + "[" * 300 + "]" * 300 + "}}", "\ufeff{}", "{'a': {}}",
]  # fmt: skip


@pytest.mark.parametrize("text", ODD_ENVIRONMENTS, ids=range(len(ODD_ENVIRONMENTS)))
def test_an_odd_env_json_is_one_line(tmp_path, text):
    (tmp_path / ENVIRONMENTS).write_text(text)
    for read in (read_environments, RecordStore):
        with pytest.raises(UsageError, match=r"env\.json holds no environments .*; delete it to continue") as said:
            read(tmp_path)
        assert "\n" not in str(said.value)
        assert len(str(said.value)) < 500


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
