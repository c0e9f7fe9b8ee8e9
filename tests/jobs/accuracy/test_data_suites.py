"""Every task of LongBench, InfiniteBench and the needle variants through the accuracy job, on a random model."""

import pytest

from fp_bench.jobs.accuracy.job import Conduct, run
from fp_bench.jobs.accuracy.plan import make_plan
from fp_bench.jobs.request import AccuracyRequest
from fp_bench.methods.registry import Spec
from fp_bench.records.store import RecordStore
from fp_bench.reports.accuracy.report import accuracy_chapter
from fp_bench.suites.longbench.tasks import UNTEMPLATED
from tests.cli.test_cli import fpbench
from tests.jobs.accuracy.models import save_model
from tests.suites.data_rows import ROWS, SUITES, write


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model with a chat template."""
    return str(save_model(tmp_path_factory.mktemp("model"), chat=True))


@pytest.fixture(autouse=True)
def short_answers(monkeypatch):
    """A random model has nothing to say."""
    for suite in SUITES:
        monkeypatch.setattr(suite, "max_new_tokens", dict.fromkeys(suite.tasks, 4))


def answer(model, spec, out, *, tasks=None, samples=1, length=2048, methods=("dense",)):
    chosen = [Spec.parse(name) for name in methods]
    asked = AccuracyRequest(lens=[length], suites=[spec], tasks=tasks, methods=chosen, model=model, samples=samples)
    with RecordStore(out) as store:
        plan = make_plan(asked)
        records = list(run(plan, store, Conduct(isolate=False)))
    assert {record.status for record in records} == {"ok"}, {record.reason for record in records}
    return plan, records


@pytest.mark.parametrize("suite", SUITES, ids=[suite.full_name() for suite in SUITES])
def test_every_task_runs(suite, model, tmp_path):
    path = str(write(tmp_path / "data", suite))
    _, records = answer(model, Spec(suite.full_name(), {"path": path}), tmp_path / "run", tasks=suite.tasks)
    assert [record.task for record in records] == list(suite.tasks)
    for record in records:
        assert record.prompt_tokens + record.new_tokens <= 2048
        assert record.templated is (record.task not in UNTEMPLATED)
        assert record.cut_tokens >= 0
        assert record.groups is None or record.groups[0]
        assert list(record.provenance) == ["data"]
    chapter = accuracy_chapter(records, "a machine")
    if suite.name == "longbench":
        assert "group" in {str(table.columns[0]) for table in chapter.tables}


def test_no_more_is_asked_than_there_is(model, tmp_path):
    path = str(write(tmp_path / "data", SUITES[0]))
    plan, records = answer(model, Spec("longbench", {"path": path}), tmp_path / "run", tasks=["trec"], samples=100)
    assert (plan.samples, len(plan.items), len(records)) == (100, ROWS, ROWS)


def test_data_that_is_not_here_is_one_line(model, tmp_path):
    words = ["accuracy", "--suite", f"longbench:path={tmp_path}", "--lens", "2k", "--model", model]
    done = fpbench(*words, "--no-isolate", "--out", tmp_path / "run")
    assert done.exit_code not in (0, 1)
    assert "has no narrativeqa.jsonl; put it there" in done.output
    assert "Traceback" not in done.output


@pytest.mark.draws
def test_needles_are_records_with_their_depth_and_a_heatmap(model, tmp_path):
    words = ["accuracy", "--suite", "needle:depths=2", "--lens", "512,1k", "--samples", "2", "--model", model]
    done = fpbench(*words, "--methods", "dense,flashprefill", "--no-isolate", "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    for suffix in ("png", "pdf", "csv"):
        assert (tmp_path / "run" / "plots" / f"depth.{suffix}").stat().st_size > 100
    rows = (tmp_path / "run" / "plots" / "depth.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 2 * 2
    assert "plots/depth.png" in (tmp_path / "run" / "report.md").read_text()


@pytest.mark.parametrize("name", ["needle", "needle@gkamradt", "needle@minference"])
def test_a_chat_template_is_put_around_all_but_minferences(name, model, tmp_path):
    _, records = answer(model, Spec(name, {"depths": "2"}), tmp_path, samples=2, length=1024)
    assert [record.depth for record in records] == [0, 1]
    assert {record.templated for record in records} == {name != "needle@minference"}
