import itertools
import shlex
from dataclasses import replace
from multiprocessing import active_children

import pytest
import torch
from safetensors.torch import save_file
from transformers import MambaConfig

from fp_bench.cli.options import known
from fp_bench.errors import UsageError
from fp_bench.inputs.captured import MANIFEST, CaptureManifest, file_hash, file_name
from fp_bench.inputs.source import Shape
from fp_bench.jobs.latency import plan as plan_module
from fp_bench.jobs.latency.job import Conduct, count_pending, run
from fp_bench.jobs.latency.plan import Heads, make_plan
from fp_bench.jobs.request import LatencyRequest
from fp_bench.methods.registry import Spec, methods
from fp_bench.records.kept_maps import map_path, read_maps
from fp_bench.records.store import RecordStore, read_records
from fp_bench.reports.latency.tables import cells
from tests.records.records import timed

HERE = Conduct(isolate=False)
"""In this process: a worker takes seconds to start, and most of this is not about processes."""
SMALL = LatencyRequest(lens=[256], heads=Heads(2, 1, 64), dtype="fp32", rounds=2, samples=1)


def request(methods, **changed):
    return changed_request(methods=[Spec.parse(name) for name in methods.split(",")], **changed)


def changed_request(**changed):
    """Ask as `SMALL` does but for some fields, which are checked as those of a user are."""
    return LatencyRequest.parse(dict(SMALL) | changed)


def quick_plan(asked):
    """Plan without warming up."""
    plan = make_plan(asked)
    groups = [replace(group, effort=replace(group.effort, warm_up_seconds=0.0)) for group in plan.groups]
    return replace(plan, groups=groups)


def records_of(asked, folder, conduct=HERE):
    with RecordStore(folder) as store:
        return list(run(quick_plan(asked), store, conduct))


def capture(folder, lengths):
    """Write a capture of one layer as `fpbench capture` would; return its folder."""
    folder.mkdir()
    files = {}
    for n in lengths:
        path = folder / file_name(n, 0)
        save_file({name: torch.randn(1, n, heads, 64) for name, heads in {"q": 2, "k": 1, "v": 1}.items()}, path)
        files[path.name] = file_hash(path)
    heads = {"q_heads": 2, "kv_heads": 1, "head_dim": 64, "dtype": "float32"}
    manifest = CaptureManifest(
        model="m", text="t", lengths=list(lengths), layers=[0], model_layers=1, batch=1, files=files, **heads
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return folder


def identity(record):
    return (record.cell_key, record.round, record.status)


def test_times_of_two_machines_never_share_a_folder(tmp_path):
    with RecordStore(tmp_path) as store:
        env = store.add_environment({"gpu": {"name": "NVIDIA Other"}})
        store.append(timed(env=env))
        with pytest.raises(UsageError, match=r"holds times of NVIDIA Other, but this machine is .*; give another"):
            list(run(quick_plan(request("dense")), store, HERE))
        assert len(store.records) == 1


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"batch": 2}, "--batch"), ({"layers": [0]}, "--layers"), ({"inputs": "random"}, "--inputs"), ({}, "--shape")],
)
def test_what_a_prefill_would_not_heed_is_refused(changed, named):
    heads = SMALL.heads if named == "--shape" else None
    with pytest.raises(UsageError, match=f"^{named}: not with --ttft"):
        request("dense", model="embedded", heads=heads, **changed)


def test_time_to_first_token_of_a_model_without_attention_is_refused(tmp_path):
    MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=128).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="no attention heads"):
        make_plan(request("dense", model=f"random:{tmp_path}", heads=None))


def test_every_cell_is_measured_in_every_round(odd_methods, tmp_path):
    found = records_of(request("dense,window,window:blocks=2", lens=[128, 300]), tmp_path)
    assert len(found) == len({identity(record) for record in found}) == 3 * 2 * 2
    assert {record.status for record in found} == {"ok"}
    assert found == read_records(tmp_path).records
    one = found[0]
    assert one.env
    assert one.samples_ms
    assert (one.timer, one.cache, one.rows_checked) == ("wall_clock", "as_left", 128)


def test_each_launch_measures_its_rounds_by_new_processes(odd_methods, tmp_path):
    records = records_of(request("dense,wrong,window", rounds=3, launches=2), tmp_path, Conduct())
    for label in ("dense", "window"):
        first, again, other = (record.launch for record in sorted(records, key=by_round) if record.label == label)
        assert first == again != other
    assert [(record.round, record.status) for record in records if record.label == "wrong"] == [(0, "incorrect")]
    assert cells(records).set_index("label").loc["dense", "launches"] == 2


def by_round(record):
    return record.round


@pytest.mark.parametrize(
    ("changed", "seconds", "spans"),
    [
        ({}, 0.1, [range(2), range(2, 4), range(4, 6)]),
        ({}, 2.0, [range(1), range(1, 2), range(2, 3)]),
        ({}, 10.0, [range(3)]),  # calls of seconds: another check takes as long as the rounds
        ({"rounds": 5}, 0.1, [range(2), range(2, 4), range(4, 5)]),
        ({"rounds": 2}, 0.1, [range(1), range(1, 2)]),
        ({"launches": 1}, 0.1, [range(6)]),
        ({"launches": 8}, 0.1, [range(n, n + 1) for n in range(8)]),
        ({"launches": 2}, 30.0, [range(2), range(2, 3)]),
        ({"model": "embedded"}, 0.1, [range(3)]),  # loaded anew each time
    ],
)
def test_launches_are_three_where_they_can_be_afforded(monkeypatch, changed, seconds, spans):
    asked = LatencyRequest.parse({"lens": [256], "methods": "dense", "dtype": "fp32"} | changed)
    flop = plan_module.dense_flop(Shape(1, 256, 2, 1, 128))
    monkeypatch.setattr(plan_module, "_seconds_per_flop", lambda *_: seconds / flop)
    assert make_plan(asked).groups[0].effort.spans() == spans


def test_one_launch_is_what_a_short_budget_allows():
    asked = changed_request(rounds=6)
    assert [make_plan(asked, budget=seconds).groups[0].effort.launches for seconds in (None, 3600, 1)] == [3, 3, 1]
    assert make_plan(changed_request(rounds=6, launches=2), budget=1).groups[0].effort.launches == 2


def test_launches_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(UsageError, match="--launches 3 of --rounds 2"):
        changed_request(rounds=2, launches=3)
    with pytest.raises(UsageError, match=r"--launches 2 .* --no-isolate"):
        records_of(changed_request(launches=2), tmp_path, HERE)


def test_what_goes_wrong_is_a_record_and_the_rest_goes_on(odd_methods, tmp_path):
    with pytest.warns(UserWarning, match="'broken' cannot be loaded"):
        asked = quick_plan(request("raises,wrong,hungry,broken,dense:impl=fa2,window"))
    with RecordStore(tmp_path) as store:
        found = list(run(asked, store, HERE))
    failures = {record.method: (record.status, record.median_ms) for record in found if record.status != "ok"}
    assert failures == {
        "raises": ("error", None),
        "wrong": ("incorrect", None),
        "hungry": ("oom", None),
        "broken": ("unavailable", None),
        "dense": ("unavailable", None),
    }
    assert [record.method for record in found if record.status == "ok"] == ["window", "window"]


def test_whatever_a_plugin_is_or_says_is_its_own_row(hostile_methods, tmp_path, capsys):
    with pytest.warns(UserWarning, match="'quits' cannot be loaded"):
        asked = quick_plan(request("quits,no_method,bad_params,unsayable,no_backend,no_numbers,copycat,window"))
    with RecordStore(tmp_path) as store:
        found = list(run(asked, store, HERE))
    said = {record.label: (record.status, record.reason) for record in found}
    assert said.pop("window") == ("ok", None)
    assert said.pop("quits") == ("unavailable", "method 'quits' cannot be loaded: SystemExit: 0")
    assert said.pop("no_method")[0] == "unavailable"
    assert said.pop("bad_params") == (
        "unavailable",
        "method 'bad_params' cannot be built: KeyError: 'no parameters today'",
    )
    assert said.pop("unsayable") == ("error", "UnsayableError: UnsayableError")
    assert "which calls itself 'dense'" in said.pop("copycat")[1]
    assert {status for status, _ in said.values()} <= {"error", "incorrect"}
    assert said.keys() == {"no_backend", "no_numbers"}
    assert "noise" not in capsys.readouterr().out


def test_a_plugin_that_a_built_in_name_hides_is_named(hostile_methods):
    with pytest.warns(
        UserWarning, match="plug-in hostile_methods:Unsayable is ignored: fp_bench has a method 'flashprefill'"
    ):
        known(None, methods)


def test_inputs_that_cannot_be_made_fail_their_cells_alone(tmp_path):
    folder = capture(tmp_path / "capture", lengths=(128, 256))
    plan = quick_plan(request("dense", inputs=f"captured:{folder}", lens=[128, 256]))
    (folder / file_name(128, 0)).write_bytes(b"cut short")
    with RecordStore(tmp_path / "run") as store:
        found = list(run(plan, store, HERE))
    assert [record.status for record in found] == ["error", "ok", "ok"]
    assert "differs from the capture's manifest" in found[0].reason


def test_after_an_out_of_memory_longer_ones_are_not_tried(fatal_methods, tmp_path):
    asked = request("dense,too_big", lens=[128, 256, 300], rounds=1)
    found = {(r.method, r.seq_len): r for r in records_of(asked, tmp_path)}
    assert [found["too_big", n].status for n in (128, 256, 300)] == ["ok", "oom", "oom"]
    assert found["too_big", 256].reason == "256 tokens are too many"
    assert found["too_big", 300].reason == "not tried: it already ran out of memory at 256"
    assert all(found["dense", n].status == "ok" for n in (128, 256, 300))


def test_an_out_of_memory_is_remembered_by_the_next_run(fatal_methods, tmp_path):
    records_of(request("too_big", lens=[256], rounds=1), tmp_path)
    (longer,) = records_of(request("too_big", lens=[256, 300], rounds=1), tmp_path)
    assert longer.reason.startswith("not tried")
    again = records_of(request("too_big", lens=[256, 300], rounds=1), tmp_path, replace(HERE, retry_failed=True))
    assert [r.reason for r in again] == ["256 tokens are too many", longer.reason]


def test_a_failed_cell_is_tried_again_only_when_asked(odd_methods, tmp_path, monkeypatch):
    asked = request("raises,window")
    assert len(records_of(asked, tmp_path)) == 3
    assert records_of(asked, tmp_path) == []
    monkeypatch.delattr("odd_methods.Raises.select")  # mended: it inherits one that works
    retry = replace(HERE, retry_failed=True)
    again = records_of(asked, tmp_path, retry)
    assert [(r.method, r.round, r.status) for r in again] == [("raises", 0, "ok"), ("raises", 1, "ok")]
    assert records_of(asked, tmp_path, retry) == []
    assert set(cells(read_records(tmp_path).records)["status"]) == {"ok"}


def test_past_the_budget_nothing_is_started(odd_methods, tmp_path, monkeypatch):
    plan = quick_plan(request("window,dense", lens=[128, 256]))
    ticking = itertools.count()
    monkeypatch.setattr("fp_bench.jobs.schedule.monotonic", lambda: next(ticking))
    with RecordStore(tmp_path) as store:
        assert list(run(plan, store, replace(HERE, budget=0.5))) == []
        assert count_pending(plan, store) == 8
        some = list(run(plan, store, replace(HERE, budget=6.5)))
        assert 0 < len(some) < 8
        assert count_pending(plan, store) == 8 - len(some)
        assert len(list(run(plan, store, HERE))) == 8 - len(some)


def test_selections_are_kept_as_maps(odd_methods, tmp_path):
    sparse = records_of(request("dense,window", rounds=1), tmp_path)
    assert {r.method for r in sparse} == {"dense", "window"}
    (one,) = (r for r in sparse if r.method == "window")
    (kept,) = read_maps(map_path(tmp_path, one.cell_key, one.code_version))
    assert (kept.head, kept.density) == (0, pytest.approx(one.density))
    assert kept.share.tolist() == [[255, 0], [0, 255]]


def test_inputs_that_do_not_fit_beside_each_other_are_made_anew(odd_methods, tmp_path):
    plan = quick_plan(request("dense,window"))
    tight = replace(plan, groups=[replace(group, keep_inputs=False) for group in plan.groups])
    with RecordStore(tmp_path) as store:
        assert [r.status for r in run(tight, store, HERE)] == ["ok"] * 4


def test_whatever_a_method_does_the_rest_is_measured(fatal_methods, odd_methods, tmp_path):
    found = records_of(request("crashes,exits,raises,dense", rounds=2), tmp_path, Conduct())
    said = {r.method: (r.status, r.reason) for r in found if r.status != "ok"}
    assert said == {
        "crashes": ("error", "checking: the worker process was killed by SIGSEGV"),
        "exits": ("error", "checking: the worker process exited with 7"),
        "raises": ("error", "KeyError: 'a bug\\nover two lines'"),
    }
    assert [(r.method, r.round) for r in found if r.status == "ok"] == [("dense", 0), ("dense", 1)]


@pytest.mark.parametrize(("method", "timeout", "step"), [("hangs", 0.5, "checking"), ("hangs_later", 10, "timing")])
def test_a_hang_is_a_timeout(fatal_methods, tmp_path, method, timeout, step):
    (record,) = records_of(request(method), tmp_path, Conduct(timeout=timeout))
    hung = f"{step}: no answer within {timeout:g} s; the worker process was stopped; --timeout sets the limit"
    assert (record.status, record.reason) == ("timeout", hung)


def test_a_lost_worker_is_replaced(fatal_methods, tmp_path):
    found = records_of(request("exits", lens=[128, 256], rounds=1), tmp_path, Conduct())
    assert [(r.seq_len, r.status) for r in found] == [(128, "error"), (256, "error")]


def test_no_process_is_left_behind(tmp_path):
    records = run(quick_plan(request("dense")), RecordStore(tmp_path))
    next(records)
    workers = active_children()
    assert workers
    records.close()
    assert not any(worker.is_alive() for worker in workers)


@pytest.mark.parametrize("kept", [pytest.param(0, marks=pytest.mark.slow), 2, pytest.param(5, marks=pytest.mark.slow)])
def test_a_run_cut_off_anywhere_resumes_to_the_same_set(odd_methods, tmp_path, kept):
    plan = quick_plan(request("dense,raises,window", lens=[128, 256], rounds=1))
    with RecordStore(tmp_path / "whole") as store:
        whole = {identity(record) for record in run(plan, store, HERE)}
    with RecordStore(tmp_path / "cut") as store:
        for _, _record in zip(range(kept), run(plan, store, HERE), strict=False):
            pass
    with RecordStore(tmp_path / "cut") as store:
        rest = count_pending(plan, store)
        assert len(list(run(plan, store, HERE))) == rest == 6 - kept
    again = read_records(tmp_path / "cut").records
    assert len(again) == len(whole)
    assert {identity(record) for record in again} == whole


def test_other_code_measures_again(odd_methods, tmp_path, monkeypatch):
    records_of(request("window"), tmp_path)
    assert records_of(request("window"), tmp_path) == []
    for part in ("jobs.candidate", "records.environment"):
        monkeypatch.setattr(f"fp_bench.{part}.code_version", lambda *_: "another")
    assert len(records_of(request("window"), tmp_path)) == 2


def test_code_that_changes_during_a_run_is_not_measured_as_what_it_was(odd_methods, tmp_path, monkeypatch):
    monkeypatch.setattr("fp_bench.records.environment.code_version", lambda *_: "another")
    (record,) = records_of(request("window"), tmp_path)
    assert (record.status, "the code changed during the run" in record.reason) == ("error", True)


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
        ({"layers": [3]}, "layer 3 is not in structured:version=2; it has 0"),
    ],
)
def test_bad_requests_are_refused_before_anything_runs(changed, says):
    with pytest.raises(UsageError, match=says):
        make_plan(changed_request(**changed))


@pytest.mark.parametrize("text", ["", "32", "32/8", "0/1/64", "a/b/c", "3/2/64", "-2/1/64", "2/1/64/1"])
def test_bad_shapes_are_one_line(text):
    with pytest.raises(UsageError, match="shape"):
        Heads.parse(text)


def test_kernels_slower_than_the_gpu_is_capable_of_are_noted_before_a_run_and_in_its_records(tmp_path, monkeypatch):
    assert not any("portable" in note for note in make_plan(request("dense")).notes())
    monkeypatch.setattr("fp_bench.jobs.latency.plan.capability", lambda _: 90)
    monkeypatch.setattr("fp_bench.jobs.latency.plan.gluon_missing", lambda: "Triton 4.0 is too new")
    monkeypatch.setattr("fp_bench.methods.blocks.BlockMethod.slower_because", lambda *_: "Triton 4.0 is too new")
    plan = make_plan(request("dense"))
    assert "The portable kernels run, not the Hopper ones, which are faster: Triton 4.0 is too new." in plan.notes()
    assert not any("portable" in note for note in make_plan(request("dense", backend="triton")).notes())
    notes = {record.method: record.note for record in records_of(request("dense,flashprefill", rounds=1), tmp_path)}
    assert notes == {"dense": None, "flashprefill": "Triton 4.0 is too new"}
