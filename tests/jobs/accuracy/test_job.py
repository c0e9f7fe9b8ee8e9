"""The accuracy job through the command line's own functions, mostly in this process, which is quicker."""

import json
import os
import signal
from pathlib import Path

import pytest

from fp_bench.errors import UnavailableError, UsageError
from fp_bench.jobs.accuracy import worker as accuracy_worker
from fp_bench.jobs.accuracy.job import Conduct, kept_workers, pending_items, run
from fp_bench.jobs.accuracy.plan import make_plan
from fp_bench.jobs.request import AccuracyRequest, read_command
from fp_bench.methods.dense import Dense
from fp_bench.methods.registry import Spec
from fp_bench.records.store import RecordStore, read_records
from fp_bench.reports.accuracy.tables import summary
from tests.cli.test_cli import fpbench
from tests.jobs.accuracy.models import save_model

HERE = Conduct(isolate=False)
TASKS = ("fact", "needle_number")


def request(**changed):
    base = {
        "lens": [300],
        "suites": [Spec("probe")],
        "tasks": TASKS,
        "methods": [Spec("dense"), Spec("flashprefill", {"alpha": "0"})],
        "samples": 2,
        "dtype": "fp32",
    }
    return AccuracyRequest(**base | changed)


def records_of(folder, asked, conduct=HERE):
    with RecordStore(folder) as store:
        list(run(make_plan(asked), store, conduct))
    return read_records(folder).records


def test_every_sample_and_method_is_a_record_and_keeping_everything_is_dense(tmp_path):
    records = records_of(tmp_path, request())
    assert len(records) == 8
    assert {record.sample_id for record in records} == {f"{task}/300/{n}" for task in TASKS for n in (0, 1)}
    by_sample = {}
    for record in records:
        by_sample.setdefault(record.sample_id, []).append(record)
    for dense, everything in by_sample.values():
        assert (dense.method, everything.method) == ("dense", "flashprefill")
        assert dense.prediction == everything.prediction
        assert dense.score == everything.score == 1.0
        assert everything.density == 1.0
        assert everything.recall == pytest.approx(1.0, abs=1e-4)
        assert dense.prompt_tokens == everything.prompt_tokens <= 300 - 64
        assert (dense.backend, everything.backend) == ("sdpa_cpu", "torch")
        assert not everything.fallback


def test_auto_decides_once_whatever_the_number_of_samples(tmp_path, monkeypatch):
    decided = []
    monkeypatch.setattr("fp_bench.methods.dense.unavailable", lambda *_: None)
    monkeypatch.setattr(Dense, "_find_fastest", lambda _, call: decided.append(call.q_len) or "sdpa_cpu")
    records_of(tmp_path, request(methods=[Spec("dense")]))
    assert len(decided) == 1


@pytest.mark.parametrize(
    ("given", "layers", "recorded"),
    [
        ("0", [], 0),
        ("4", [0, 1, 2, 3], 4),
        ("0-3", [0, 1, 2, 3], 4),
        ("5,0-1", [0, 1, 5], "0-1,5"),
        ("3-3", [3], "3-3"),
        (2, [0, 1], 2),
    ],
)
def test_dense_layers_are_a_number_or_a_set(given, layers, recorded):
    asked = AccuracyRequest.parse({"dense_layers": given, "samples": 1, "methods": "dense", "lens": "300"})
    assert list(asked.dense) == layers
    assert read_command(asked.command).dense_layers == asked.dense_layers
    assert make_plan(asked).items[0].asked["dense_layers"] == recorded


def test_no_set_of_layers_is_one_line():
    with pytest.raises(UsageError, match="--dense-layers '3-1': '3-1' is neither a layer nor a range of layers"):
        AccuracyRequest.parse({"dense_layers": "3-1"})


def test_the_layers_of_a_set_run_dense(tmp_path):
    asked = request(dense_layers="1,4", samples=1, methods=[Spec("flashprefill", {"alpha": "0.5"})])
    for record in records_of(tmp_path, asked):
        assert (record.sparse_layers, record.model_layers) == (4, 6)
        assert record.dense_layers == "1,4"


def test_a_resumed_run_answers_only_what_is_missing(tmp_path):
    first = records_of(tmp_path, request(samples=1))
    again = records_of(tmp_path, request(samples=2))
    assert again[: len(first)] == first
    assert len(again) == 8
    with RecordStore(tmp_path) as store:
        assert pending_items(make_plan(request(samples=2)), store) == []


def test_two_checkpoints_of_one_name_are_two_models(tmp_path):
    save_model(tmp_path / "a" / "hf")
    other = save_model(tmp_path / "b" / "hf")
    weights = other / "model.safetensors"
    middle = weights.stat().st_size // 2
    changed = bytearray(weights.read_bytes())
    changed[middle] ^= 1
    weights.write_bytes(changed)
    asked = [request(model=str(tmp_path / name / "hf"), lens=[600], samples=1) for name in ("a", "b")]
    one, two = (make_plan(each) for each in asked)
    assert {item.key for item in one.items}.isdisjoint(item.key for item in two.items)
    assert [item.key for item in make_plan(asked[0]).items] == [item.key for item in one.items]
    assert all(item.asked["model"].startswith("hf@") for item in one.items)


def test_another_text_is_another_question(tmp_path):
    text = tmp_path / "text.txt"
    keys = []
    for content in ("one " * 2000, "two " * 2000):
        text.write_text(content)
        plan = make_plan(request(suites=[Spec("fidelity", {"text": str(text)})], tasks=None, samples=1))
        keys.append({item.key for item in plan.items})
    assert keys[0].isdisjoint(keys[1])


def test_a_model_out_of_memory_stops_no_other(tmp_path, odd_methods):
    methods = [Spec("hungry")]
    records_of(tmp_path, request(methods=methods, samples=1, tasks=["fact"], lens=[300]))
    small = save_model(tmp_path / "small")
    found = records_of(tmp_path, request(methods=methods, samples=1, tasks=["fact"], lens=[1200], model=str(small)))
    assert "not tried" not in found[-1].reason


def test_a_task_that_no_suite_has_is_refused():
    suites = [Spec("probe"), Spec("ruler")]
    with pytest.raises(UsageError, match="no suite has task 'factt'; did you mean 'fact'"):
        make_plan(request(suites=suites, tasks=["factt", "vt"], lens=[4096]))


@pytest.mark.slow  # tests/jobs/test_places.py has it with places
def test_two_workers_write_what_one_does(tmp_path):
    one = records_of(tmp_path / "one", request())
    two = records_of(tmp_path / "two", request(workers=2), Conduct())

    def facts(records):
        return sorted((r.cell_key, r.score, r.prediction, r.density) for r in records)

    assert facts(one) == facts(two)


def test_a_method_that_fails_takes_no_other_with_it(tmp_path, odd_methods):
    methods = [Spec("raises"), Spec("hungry"), Spec("falls_back"), Spec("window"), Spec("broken")]
    with pytest.warns(UserWarning, match="broken"):
        records = records_of(tmp_path, request(methods=methods, samples=1, tasks=["fact"], lens=[300, 400]))
    found = {(record.label, record.seq_len): record for record in records}
    assert found["raises", 300].status == "error"
    assert found["raises", 300].reason == "KeyError: 'a bug\\nover two lines'"
    assert found["broken", 300].status == "unavailable"
    assert found["hungry", 300].status == found["hungry", 400].status == "oom"
    assert "not tried: it already ran out of memory at 300" in found["hungry", 400].reason
    assert found["falls_back", 300].status == "ok"
    assert found["falls_back", 300].fallback
    assert found["window", 400].status == "ok"
    assert found["window", 400].density < 1


def test_a_crash_and_a_hang_cost_their_own_samples_alone(tmp_path, fatal_methods):
    one = request(samples=1, tasks=["fact"])
    records_of(tmp_path, one.pinned(methods=[Spec("hangs")]), Conduct(timeout=0.5))
    records = records_of(tmp_path, one.pinned(methods=[Spec("crashes"), Spec("dense")]), Conduct())
    assert {record.label: (record.status, record.reason) for record in records} == {
        "hangs": (
            "timeout",
            "answering: no answer within 0.5 s; the worker process was stopped; --timeout sets the limit",
        ),
        "crashes": ("error", "answering: the worker process was killed by SIGSEGV"),
        "dense": ("ok", None),
    }


ROUNDS = [
    {"methods": [Spec("dense"), Spec("streaming")]},
    {"methods": [Spec("flashprefill", {"alpha": "0.3"})], "samples": 3},
    {"methods": [Spec("flashprefill", {"alpha": "0.3"})], "samples": 4, "tasks": ["fact"]},
]


def rounds_of(folder, rounds, kept, between=None, conduct=HERE):
    """Answer one request after the other in one folder; return the facts of all records."""
    for changed in rounds:
        with RecordStore(folder) as store:
            list(run(make_plan(request(tasks=["fact"]).pinned(**changed)), store, conduct, kept=kept))
        if between:
            between(kept)
    return sorted((r.cell_key, r.status, r.score, r.prediction, r.density) for r in read_records(folder).records)


def test_workers_go_on_with_another_run_and_answer_as_new_ones_do(tmp_path, monkeypatch):
    loads = []
    load = accuracy_worker.load_model
    monkeypatch.setattr(accuracy_worker, "load_model", lambda *args, **more: loads.append(1) or load(*args, **more))
    new = rounds_of(tmp_path / "new", ROUNDS, None)
    assert len(loads) == len(ROUNDS)
    with kept_workers() as kept:
        assert rounds_of(tmp_path / "kept", ROUNDS, kept) == new
        assert len(loads) == len(ROUNDS) + 1
        rounds_of(tmp_path / "other", [{"dtype": "bf16"}], kept)
        assert (len(loads), len(kept)) == (len(ROUNDS) + 2, 2)
    assert not any(workers.posts() for workers in kept.values())


@pytest.mark.parametrize(("room", "computed"), [(2**29, 2), (1, 4)])
def test_dense_predictions_of_a_text_are_computed_once_by_kept_workers(tmp_path, monkeypatch, room, computed):
    """Two rounds over two samples; with room for one sample each round predicts anew."""
    predicted, predict = [], accuracy_worker.next_tokens
    dense = [Spec("streaming", {"n_local": n}) for n in (128, 256)]
    of_text = {"suites": [Spec("fidelity")], "tasks": ["text"], "lens": [600], "samples": 2}
    rounds = [of_text | {"methods": [method]} for method in dense]
    monkeypatch.setattr(accuracy_worker, "KNOWN_BYTES", room)
    monkeypatch.setattr(accuracy_worker, "next_tokens", lambda *args: predicted.append(1) or predict(*args))
    with kept_workers() as kept:
        found = rounds_of(tmp_path / "kept", rounds, kept)
    assert len(predicted) == computed + 4  # and the method's own
    assert [status for _, status, *_ in found] == ["ok"] * 4
    monkeypatch.undo()
    assert found == rounds_of(tmp_path / "new", rounds, None)


def test_a_kept_worker_that_dies_is_replaced(tmp_path):
    pids = []

    def kill(kept):
        (workers,) = kept.values()
        ((_, post),) = workers.posts()
        pids.append(post.worker.pid)
        if len(pids) == 2:
            os.kill(post.worker.pid, signal.SIGKILL)

    with kept_workers() as kept:
        found = rounds_of(tmp_path / "killed", ROUNDS, kept, kill, Conduct())
    assert pids[0] == pids[1] != pids[2]
    assert found == rounds_of(tmp_path / "new", ROUNDS, None)
    assert not Path(f"/proc/{pids[2]}").exists()


def test_workers_of_methods_that_a_run_lacks_end(tmp_path, odd_methods):
    with kept_workers() as kept:
        both, ours = {"methods": [Spec("dense"), Spec("window")], "samples": 1}, {"methods": [Spec("dense")]}
        found = rounds_of(tmp_path, [both], kept, conduct=Conduct())
        assert [status for _, status, *_ in found] == ["ok", "ok"]
        (workers,) = kept.values()
        assert {name for name, _ in workers.posts()} == {"methods of fp_bench", "window"}
        rounds_of(tmp_path, [ours], kept, conduct=Conduct())
        assert {name for name, _ in workers.posts()} == {"methods of fp_bench"}


def test_an_interrupted_run_keeps_no_worker(tmp_path):
    with kept_workers() as kept, RecordStore(tmp_path) as store:
        answers = run(make_plan(request()), store, HERE, kept=kept)
        next(answers)
        answers.close()
        assert not kept


def test_what_a_plugin_does_to_its_process_touches_no_other(tmp_path, hostile_methods):
    methods = [Spec("patches"), Spec("dense")]
    records = records_of(tmp_path, request(methods=methods, samples=1, tasks=["fact"]), Conduct())
    assert {record.label: record.score for record in records}["dense"] == 1.0
    asked = request(methods=methods[:1], samples=1, suites=[Spec("fidelity")], tasks=None)
    (compared,) = (record for record in records_of(tmp_path, asked, Conduct()) if record.suite == "fidelity")
    assert compared.kl > 0.1


def test_a_model_that_does_not_load_is_loaded_once(tmp_path, monkeypatch):
    folder = save_model(tmp_path / "model")
    plan = make_plan(request(model=str(folder), samples=3))
    (folder / "model.safetensors").unlink()
    loads = []
    load = accuracy_worker.load_model
    monkeypatch.setattr(accuracy_worker, "load_model", lambda *args, **more: loads.append(1) or load(*args, **more))
    with RecordStore(tmp_path / "run") as store:
        records = list(run(plan, store, HERE))
    assert (len(records), len(loads)) == (12, 1)
    (reason,) = {record.reason for record in records}
    assert "no file named model.safetensors" in reason


def test_an_answer_that_is_no_number_is_incorrect(tmp_path, odd_methods):
    (record,) = records_of(tmp_path, request(methods=[Spec("nan")], samples=1, tasks=["fact"]))
    assert record.status == "incorrect"
    assert "not all finite" in record.reason


def test_a_spent_budget_leaves_whole_samples(tmp_path):
    records = records_of(tmp_path, request(), Conduct(isolate=False, budget=0.0))
    assert records == []


def test_a_prompt_beyond_the_models_positions_is_refused_before_anything_runs(tmp_path):
    folder = save_model(tmp_path / "short", positions=1024)
    with pytest.raises(UsageError, match="length 2K exceeds the 1024 positions"):
        make_plan(request(model=str(folder), lens=[2048]))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tasks": ["facts"]}, "probe has no task 'facts'"),
        ({"chat": "on"}, "no chat template"),
        ({"dense_layers": 99}, "--dense-layers 99 is out of limits: 0 to 6"),
        ({"dense_layers": "0-1,6"}, "--dense-layers 0-1,6 is out of limits: 0 to 6"),
        ({"dtype": "int8"}, "unknown dtype 'int8'"),
        ({"lens": [300000]}, "exceeds the 131072 positions"),
        ({"model": "random:embedded"}, "random weights"),
    ],
)
def test_bad_requests_are_one_line(changed, message):
    with pytest.raises(UsageError, match=message):
        make_plan(request(**changed))


def test_a_model_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UnavailableError, match="nothing does not exist"):
        make_plan(request(model=str(tmp_path / "nothing")))


def test_fidelity_compares_with_dense_and_needs_no_answers(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 300)
    sparse = Spec("flashprefill", {"alpha": "4", "last_full_blocks": "0", "window_blocks": "1", "sink_blocks": "1"})
    suites = [Spec("fidelity", {"text": str(text)})]
    records = records_of(
        tmp_path / "run", request(suites=suites, tasks=None, methods=[Spec("dense"), sparse], lens=[1024])
    )
    dense, other = (record for record in records if record.sample_id == "text/1024/0")
    assert (dense.score, dense.kl) == (1.0, 0.0)
    assert other.kl > 0.0
    assert other.score <= 1.0
    assert other.prediction is None
    assert other.nll - other.nll_difference == pytest.approx(dense.nll)
    assert other.kl == pytest.approx(sum(other.kl_by_part) / 16, rel=1e-3)
    table = summary(records)
    assert list(table["nll_difference"]) == pytest.approx([0.0, table["nll"][1] - table["nll"][0]], rel=1e-4)
    assert list(table["kl"]) == pytest.approx([0.0, table["kl"][1]])


def test_the_verb_end_to_end(tmp_path):
    words = ["accuracy", "--suite", "probe", "--lens", "300", "--tasks", "fact,multivalue", "--samples", "1"]
    words += ["--dtype", "fp32", "--methods", "dense,flashprefill:alpha=0", "--no-isolate", "--out", tmp_path]
    done = fpbench(*words)
    assert done.exit_code == 0, done.output
    assert "1 samples each" in done.stderr
    assert "average of 2 tasks" in done.stdout
    report = (tmp_path / "report.md").read_text()
    assert "plots/pareto.png" in report
    (again,) = (line for line in report.splitlines() if line.startswith("fpbench accuracy"))
    asked = read_command(again)
    assert isinstance(asked, AccuracyRequest)
    assert (asked.suites, asked.lens, asked.samples, asked.model) == ([Spec("probe")], [300], 1, "embedded")
    assert asked.tasks == ["multivalue", "fact"]
    rows = json.loads(fpbench(*words, "--json").stdout)
    assert [row["score"] for row in rows] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--suite", "rulr"], "unknown suite 'rulr'"),
        (["--suite", "probe:x=1"], "unknown parameter 'x'"),
        (["--samples", "0"], "--samples 0 is out of limits"),
        (["--workers", "100"], "--workers 100 is out of limits: 1 to 64"),
        (["--timeout", "soon"], "--timeout"),
        (["--lens", "0"], "0"),
        (["--suite", "probe", "--lens", "100"], "too short"),
    ],
)
def test_bad_words_are_one_line(tmp_path, words, message):
    quick = ["--no-isolate", "--samples", "1", "--tasks", "fact"] if words[-1] == "100" else ["--dry-run"]
    done = fpbench("accuracy", *words, *quick, "--out", tmp_path)
    assert done.exit_code in (2, 3), done.output
    assert message in done.output
    assert "Traceback" not in done.output
