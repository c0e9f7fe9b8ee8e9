import shlex
from dataclasses import replace

import pytest

from fp_bench.errors import UsageError
from fp_bench.latency.job import count_pending, run
from fp_bench.latency.plan import Heads, Request, make_plan
from fp_bench.registry import Spec
from fp_bench.results.store import RecordStore, read_records

SMALL = Request(lens=[256], heads=Heads(2, 1, 64), dtype="fp32", rounds=2, samples=1)


def request(methods, **changed):
    return replace(SMALL, methods=[Spec.parse(name) for name in methods.split(",")], **changed)


def quick_plan(asked):
    """Plan without warming up."""
    plan = make_plan(asked)
    groups = [replace(group, effort=replace(group.effort, warm_up_seconds=0.0)) for group in plan.groups]
    return replace(plan, groups=groups)


def records_of(asked, folder):
    with RecordStore(folder) as store:
        return list(run(quick_plan(asked), store))


def identity(record):
    return (record.cell_key, record.round, record.status)


def test_every_cell_is_measured_in_every_round(odd_methods, tmp_path):
    found = records_of(request("dense,window,window:blocks=2", lens=[128, 300]), tmp_path)
    assert len(found) == len({identity(record) for record in found}) == 3 * 2 * 2
    assert {record.status for record in found} == {"ok"}
    assert found == read_records(tmp_path).records
    one = found[0]
    assert one.env
    assert one.samples_ms
    assert (one.timer, one.cache, one.rows_checked) == ("wall_clock", "as_left", 128)


def test_what_goes_wrong_is_a_record_and_the_rest_goes_on(odd_methods, tmp_path):
    with pytest.warns(UserWarning, match="'broken' cannot be loaded"):
        asked = quick_plan(request("raises,wrong,hungry,broken,dense:impl=fa2,window"))
    with RecordStore(tmp_path) as store:
        found = list(run(asked, store))
    failures = {record.method: (record.status, record.median_ms) for record in found if record.status != "ok"}
    assert failures == {
        "raises": ("error", None),
        "wrong": ("incorrect", None),
        "hungry": ("oom", None),
        "broken": ("unavailable", None),
        "dense": ("unavailable", None),
    }
    assert [record.method for record in found if record.status == "ok"] == ["window", "window"]


def test_inputs_that_cannot_be_made_fail_their_cells_alone(odd_methods, tmp_path, monkeypatch):
    plan = quick_plan(request("window,dense", lens=[128, 256]))
    real = type(plan.source).tensors

    def tensors(self, shape, **more):
        if shape.seq_len == 128:
            raise MemoryError("too long")
        return real(self, shape, **more)

    monkeypatch.setattr(type(plan.source), "tensors", tensors)
    with RecordStore(tmp_path) as store:
        found = list(run(plan, store))
    assert [record.status for record in found] == ["oom"] * 2 + ["ok"] * 4


@pytest.mark.parametrize("kept", [0, 2, 5])
def test_a_run_cut_off_anywhere_resumes_to_the_same_set(odd_methods, tmp_path, kept):
    plan = quick_plan(request("dense,raises,window", lens=[128, 256], rounds=1))
    with RecordStore(tmp_path / "whole") as store:
        whole = {identity(record) for record in run(plan, store)}
    with RecordStore(tmp_path / "cut") as store:
        for _, _record in zip(range(kept), run(plan, store), strict=False):
            pass
    with RecordStore(tmp_path / "cut") as store:
        rest = count_pending(plan, store)
        assert len(list(run(plan, store))) == rest == 6 - kept
    again = read_records(tmp_path / "cut").records
    assert len(again) == len(whole)
    assert {identity(record) for record in again} == whole


def test_other_code_measures_again(odd_methods, tmp_path, monkeypatch):
    records_of(request("window"), tmp_path)
    assert records_of(request("window"), tmp_path) == []
    monkeypatch.setattr("fp_bench.latency.plan.code_version", lambda: "another")
    assert len(records_of(request("window"), tmp_path)) == 2


def test_rounds_are_shuffled_the_same_way_each_time(odd_methods, tmp_path):
    asked = request("dense,window,window:blocks=2,window:blocks=3", rounds=6)
    orders = []
    for name in ("a", "b"):
        found = records_of(asked, tmp_path / name)
        orders.append([[r.label for r in found if r.round == number] for number in range(6)])
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders[0]}) > 1


def test_the_command_of_a_record_measures_the_same_cell(odd_methods, tmp_path):
    from typer.testing import CliRunner

    from fp_bench.cli import app

    asked = request("window:blocks=2", lens=[256], seed=7)
    record = records_of(asked, tmp_path / "first")[0]
    words = [*shlex.split(record.command)[1:], "--out", str(tmp_path / "again"), "--rounds", "1", "--samples", "1"]
    assert CliRunner().invoke(app, words).exit_code == 0
    (again,) = read_records(tmp_path / "again").records
    assert again.cell_key == record.cell_key
    assert again.density == record.density


def test_a_given_density_is_kernel_only_and_dense_runs_dense(tmp_path):
    found = records_of(request("flashprefill,dense", inputs="density:0.5", lens=[2048]), tmp_path)
    sparse = next(record for record in found if record.method == "flashprefill")
    full = next(record for record in found if record.method == "dense")
    assert (sparse.input, sparse.select_ms) == ("density:0.5", None)
    assert 0.4 < sparse.density < 0.6 < full.density == 1.0


def test_the_same_method_asked_twice_is_one(odd_methods):
    assert len(make_plan(request("dense,dense:impl=auto,window")).groups[0].cells) == 2


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"dtype": "bf15"}, "unknown dtype 'bf15'; did you mean 'bf16'"),
        ({"inputs": "structred"}, "unknown input source"),
        ({"inputs": "captured:/no/such"}, "does not exist"),
        ({"layers": [3]}, "layer 3 is not in structured; it has 0"),
    ],
)
def test_bad_requests_are_refused_before_anything_runs(changed, says):
    with pytest.raises(UsageError, match=says):
        make_plan(replace(SMALL, **changed))


@pytest.mark.parametrize("text", ["", "32", "32/8", "0/1/64", "a/b/c", "3/2/64", "-2/1/64", "2/1/64/1"])
def test_bad_shapes_are_one_line(text):
    with pytest.raises(UsageError, match="shape"):
        Heads.parse(text)
