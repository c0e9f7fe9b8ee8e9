"""RULER through the accuracy job: every task and method on models of a user's kind, and what is missing said."""

import pytest

from fp_bench.jobs.accuracy.job import Conduct, run
from fp_bench.jobs.accuracy.plan import make_plan
from fp_bench.jobs.request import AccuracyRequest
from fp_bench.methods.registry import Spec
from fp_bench.records.store import RecordStore, read_records
from fp_bench.suites.cache import VARIABLE
from tests.cli.test_cli import fpbench
from tests.jobs.accuracy.models import save_model

METHODS = ["dense", "flashprefill", "flexprefill", "minference", "streaming", "xattention"]
NEEDS_DATA = {
    "niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multivalue", "niah_multiquery", "qa_1", "qa_2",
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("kind", "methods", "tasks"),
    [
        pytest.param({"experts": True}, METHODS, ["vt"], id="every method", marks=pytest.mark.slow),
        pytest.param({"chat": True}, METHODS[:1], None, id="every task"),
    ],
)
def test_tasks_and_methods_run_on_a_model_from_disk(tmp_path, kind, methods, tasks):
    folder = save_model(tmp_path / "model", **kind)
    specs = [Spec(name) for name in methods]
    asked = AccuracyRequest(
        lens=[4096], suites=[Spec("ruler")], tasks=tasks, methods=specs, model=str(folder), samples=1
    )
    with RecordStore(tmp_path / "run") as store:
        records = list(run(make_plan(asked), store, Conduct(isolate=False)))
    assert {record.status for record in records} == {"ok"}, {record.reason for record in records}
    count = len(tasks) if tasks else 13
    assert len(records) == count * len(methods)
    assert len({record.task for record in records}) == count
    for record in records:
        assert 0.9 * 4096 < record.prompt_tokens + record.new_tokens <= 4096
        assert record.chat is bool(kind.get("chat"))
        assert (record.suite, record.variant, record.model.split("@")[0]) == ("ruler", "", "model")
        assert not record.fallback or record.method == "dense"


def test_tasks_whose_data_is_not_here_are_rows_with_one_line(tmp_path):
    folder = save_model(tmp_path / "model")
    words = ["accuracy", "--suite", "ruler@nvidia", "--lens", "4k", "--samples", "1", "--model", folder]
    done = fpbench(*words, "--methods", "dense", "--no-isolate", "--out", tmp_path / "run")
    assert done.exit_code == 3, done.output
    assert "Traceback" not in done.output
    records = read_records(tmp_path / "run").records
    found = {record.task: record for record in records}
    # cwe's solved example alone is longer than 4K in this tokenizer, which spells most words.
    assert {task: record.status for task, record in found.items()} == {
        task: "unavailable" if task in NEEDS_DATA else "error" if task == "cwe" else "ok" for task in found
    }
    for task in NEEDS_DATA | {"cwe"}:
        assert task in found[task].reason
        assert "\n" not in found[task].reason
