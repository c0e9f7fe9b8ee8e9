"""``dense:impl=auto`` is one kernel in a run, whatever its number of processes, places and resumes."""

import itertools
import threading

import pytest

from fp_bench.jobs import workers
from fp_bench.jobs.accuracy import job as accuracy
from fp_bench.jobs.accuracy import worker as accuracy_worker
from fp_bench.jobs.accuracy.plan import make_plan as accuracy_plan
from fp_bench.jobs.agreement import Agreement, said, shown
from fp_bench.jobs.candidate import Candidate
from fp_bench.jobs.failures import Failure
from fp_bench.jobs.isolation import Worker
from fp_bench.jobs.latency import job as latency
from fp_bench.jobs.latency.plan import Heads, make_plan
from fp_bench.jobs.machine import Machine
from fp_bench.jobs.places import Place
from fp_bench.jobs.request import AccuracyRequest, LatencyRequest
from fp_bench.jobs.schedule import DEFAULT, Conduct
from fp_bench.methods import dense
from fp_bench.methods.registry import Spec
from fp_bench.records.store import RecordStore, read_records


@pytest.fixture
def two_kernels(monkeypatch):
    """Two kernels on the CPU, of which each is the fastest at every second decision; workers are in this process."""
    decided = []
    turns = itertools.cycle(["one", "two"])
    _, _, make = dense._IMPLEMENTATIONS["sdpa_cpu"]
    monkeypatch.setattr(dense, "_IMPLEMENTATIONS", dict.fromkeys(("one", "two"), ("cpu", None, make)))
    monkeypatch.setattr(dense.Dense, "PROBED", ("one", "two"))
    monkeypatch.setattr(
        dense.Dense, "_find_fastest", lambda _, call: decided.append((call.q_len, found := next(turns))) or found
    )
    monkeypatch.setattr(workers, "WorkerProcess", Worker)
    load, one_at_a_time = accuracy_worker.load_model, threading.Lock()

    def load_model(*args, **more):  # transformers does not load in two threads
        with one_at_a_time:
            return load(*args, **more)

    monkeypatch.setattr(accuracy_worker, "load_model", load_model)
    return decided


def two_places():
    return [Place.of(Machine.here()) for _ in range(2)]


def answers(folder, places=(), conduct=DEFAULT, **changed):
    asked = {"lens": [300], "suites": [Spec("probe")], "tasks": ("fact",), "samples": 2, "dtype": "fp32"}
    with RecordStore(folder) as store:
        plan = accuracy_plan(AccuracyRequest(**asked | {"methods": [Spec("dense")]} | changed))
        list(accuracy.run(plan, store, conduct, places))
    records = read_records(folder).records
    assert [record.reason for record in records if record.status != "ok"] == []
    return records


def times(folder, places=(), **changed):
    asked = {"lens": [256], "heads": Heads(2, 1, 64), "dtype": "fp32", "rounds": 1, "samples": 1}
    with RecordStore(folder) as store:
        plan = make_plan(LatencyRequest.parse(asked | {"methods": [Spec("dense")]} | changed))
        list(latency.run(plan, store, Conduct(), places))
    records = read_records(folder).records
    assert [record.reason for record in records if record.status != "ok"] == []
    return records


def test_a_resumed_run_answers_with_the_kernel_it_began_with(tmp_path, two_kernels):
    answers(tmp_path, samples=1)
    assert [record.backend for record in answers(tmp_path, samples=3)] == ["one"] * 3
    assert len(two_kernels) == 1


def test_samples_at_two_places_are_answered_with_one_kernel(tmp_path, two_kernels):
    records = answers(tmp_path, two_places(), samples=6)
    assert len(records) == 6
    assert len({record.backend for record in records}) == 1
    assert len({str(record.dense_kernels) for record in records}) == 1


def test_dense_layers_and_fallbacks_are_of_the_same_kernel(tmp_path, two_kernels):
    methods = [Spec("flashprefill", {"alpha": "0"}), Spec("flashprefill", {"dense_below": "1000"}), Spec("dense")]
    records = answers(tmp_path, methods=methods, dense_layers="1")
    assert {record.backend for record in records} == {"one+torch", "one"}
    assert len(two_kernels) == 1


def test_dense_predictions_of_fidelity_are_of_one_kernel_and_a_sample_names_it(tmp_path, two_kernels):
    changed = {"suites": [Spec("fidelity")], "tasks": ("text",), "methods": [Spec("streaming", {"n_local": "128"})]}
    records = answers(tmp_path, lens=[600], samples=2, **changed)
    records = answers(tmp_path, lens=[600], samples=3, **changed)
    assert [set(record.dense_kernels.values()) for record in records] == [{"one"}] * 3
    assert len(two_kernels) == 1


def test_predictions_of_another_kernel_are_forgotten(tmp_path, two_kernels):
    """A worker that stays from another run follows the decisions of the folder it goes on with."""
    changed = {"suites": [Spec("fidelity")], "tasks": ("text",), "lens": [600], "samples": 1}
    answers(tmp_path / "a", **changed)
    with accuracy.kept_workers() as kept:
        for folder in ("b", "a"):
            asked = AccuracyRequest(methods=[Spec("dense")], dtype="fp32", **changed | {"samples": 2})
            with RecordStore(tmp_path / folder) as store:
                list(accuracy.run(accuracy_plan(asked), store, Conduct(), (), kept))
    found = [set().union(*(r.dense_kernels.values() for r in read_records(tmp_path / f).records)) for f in ("a", "b")]
    assert found == [{"one"}, {"two"}]


def test_each_launch_times_the_same_kernel(tmp_path, two_kernels):
    records = times(tmp_path, rounds=3, launches=3)
    assert len({record.launch for record in records}) == 3
    assert [record.backend for record in records] == ["one"] * 3


def test_methods_and_layers_at_two_places_are_timed_with_one_kernel(tmp_path, two_kernels):
    methods = [Spec("dense"), Spec("flashprefill", {"dense_below": "1000"})]
    records = times(tmp_path, two_places(), methods=methods, lens=[200, 256])
    assert len(records) == 4
    assert len({record.backend for record in records}) == 1


def test_resumed_times_are_of_the_same_kernel(tmp_path, two_kernels):
    times(tmp_path)
    assert {record.backend for record in times(tmp_path, methods=[Spec("dense"), Spec("streaming")])} <= {
        "one",
        "torch",
    }
    assert [record.backend for record in times(tmp_path, rounds=2) if record.method == "dense"] == ["one"] * 2


def test_time_to_first_token_is_of_one_kernel_in_every_launch(tmp_path, two_kernels):
    records = times(tmp_path, model="embedded", heads=None, rounds=2, launches=2, lens=[300])
    assert [record.backend for record in records] == ["one"] * 2
    assert len(two_kernels) == 1


def test_a_kernel_that_is_gone_is_one_line(tmp_path, two_kernels, monkeypatch):
    answers(tmp_path, samples=1)
    monkeypatch.setattr(dense, "unavailable", lambda impl, _: "it is not installed" if impl == "one" else None)
    monkeypatch.setattr(dense.Dense, "PROBED", ("two", "sdpa_cpu"))
    with RecordStore(tmp_path) as store:
        asked = AccuracyRequest(lens=[300], suites=[Spec("probe")], tasks=("fact",), samples=2, dtype="fp32")
        list(accuracy.run(accuracy_plan(asked.pinned(methods=[Spec("dense")])), store, Conduct()))
        last = store.records[-1]
    assert last.status == "unavailable"
    assert last.reason == "this run has decided that dense:impl=auto is one, but it is not installed"


def test_where_there_is_nothing_to_choose_a_record_names_no_choice(tmp_path):
    (record,) = answers(tmp_path, samples=1, conduct=Conduct(isolate=False))
    assert record.dense_kernels is None


def fields(used):
    return {"dense_kernels": used}


def test_a_later_decision_is_discarded_and_its_step_done_again():
    agreement, given = Agreement([]), []
    assert agreement.reached(lambda _: fields({"8k": "fa2"}), dict) == fields({"8k": "fa2"})

    def step(decided):
        given.append(decided)
        return fields({"8k": "cudnn"} if len(given) == 1 else decided)

    assert agreement.reached(step, dict) == fields({"8k": "fa2"})
    assert given == [{"8k": "fa2"}] * 2


def test_a_process_that_does_not_follow_fails():
    agreement = Agreement([])
    agreement.reached(lambda _: fields({"8k": "fa2"}), dict)
    found = agreement.reached(lambda _: fields({"8k": "cudnn"}), dict)
    assert isinstance(found, Failure)
    assert found.status == "error"


def test_a_plug_in_decides_for_itself_alone():
    plugin = Candidate.of(Spec("dense"), "auto")
    mine = type("Mine", (type(plugin.method),), {"__module__": "mine"})
    plugin = Candidate(Spec("mine"), mine())
    ours = Candidate.of(Spec("dense"), "auto")
    decided = {"8k": "cudnn"} | said(plugin, {"8k": "cudnn", "4k": "fa2"}, {"8k": "cudnn"})
    assert decided == {"8k": "cudnn", "of dense: 4k": "fa2"}
    assert shown(ours, decided) == {"8k": "cudnn"}
    assert shown(plugin, decided) == {"8k": "cudnn", "4k": "fa2"}
    # What it decided first stays, although the run has decided otherwise since.
    later = decided | {"4k": "cudnn"}
    assert shown(plugin, later)["4k"] == "fa2"
    assert said(plugin, {"4k": "fa2"}, later) == {"of dense: 4k": "fa2"}
