import numpy as np
import pytest

from fp_bench.errors import UsageError
from fp_bench.records.kept_maps import KeptMap, map_path, read_maps
from fp_bench.records.merge import merge
from fp_bench.records.store import RecordStore, read_environments, read_records
from tests.records.records import dense, failed, timed

H200 = {"gpu": {"name": "NVIDIA H200"}}


def run(folder, *records, environment=H200):
    with RecordStore(folder) as store:
        env = store.add_environment(environment)
        for record in records:
            store.append(record.model_copy(update={"env": env}))
    return folder


def test_each_round_is_in_it_once_the_first_measured_stays(tmp_path):
    a = run(tmp_path / "a", timed(1.0, round=0, time="2026-01-01"), timed(1.1, round=1, time="2026-01-01"))
    b = run(tmp_path / "b", timed(9.0, round=1, time="2026-01-02"), dense(time="2026-01-02"))
    assert merge([b, a], tmp_path / "c") == (3, 1)
    found = read_records(tmp_path / "c").records
    assert [(r.method, r.round, r.median_ms) for r in found] == [
        ("flashprefill", 0, 1.0),
        ("flashprefill", 1, 1.1),
        ("dense", 0, 4.0),
    ]


def test_what_was_measured_wins_over_what_failed(tmp_path):
    a = run(tmp_path / "a", failed(time="2026-01-01"))
    b = run(tmp_path / "b", timed(time="2026-01-02"))
    assert merge([a, b], tmp_path / "c") == (1, 1)
    assert read_records(tmp_path / "c").records[0].status == "ok"


def test_two_versions_of_the_code_are_both_kept(tmp_path):
    a = run(tmp_path / "a", timed(code_version="1+aaaa"))
    b = run(tmp_path / "b", timed(code_version="2+bbbb"))
    assert merge([a, b], tmp_path / "c") == (2, 0)


def test_environments_and_maps_come_along(tmp_path):
    a = run(tmp_path / "a", timed(), environment=H200 | {"driver": 1})
    b = run(tmp_path / "b", dense(), environment=H200 | {"driver": 2})
    with RecordStore(a) as store:
        store.add_maps("cell", "1+aaaa", [KeptMap(3, 0.5, np.eye(2, dtype=np.uint8))])
    merge([a, b], tmp_path / "c")
    environments = read_environments(tmp_path / "c")
    assert environments == read_environments(a) | read_environments(b)
    assert {r.env for r in read_records(tmp_path / "c").records} == set(environments)
    (one,) = read_maps(map_path(tmp_path / "c", "cell", "1+aaaa"))
    assert (one.head, one.density, one.share.tolist()) == (3, 0.5, [[1, 0], [0, 1]])


def test_runs_of_two_machines_are_refused(tmp_path):
    a = run(tmp_path / "a", timed())
    b = run(tmp_path / "b", timed(round=1), environment={"gpu": {"name": "NVIDIA B200"}})
    with pytest.raises(UsageError, match="only runs of one machine"):
        merge([a, b], tmp_path / "c")
    assert not (tmp_path / "c").exists()
