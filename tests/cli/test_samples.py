import json

import pytest

from fp_bench.jobs.accuracy.plan import make_plan
from fp_bench.jobs.request import AccuracyRequest
from fp_bench.records.record import AccuracyRecord
from fp_bench.records.store import RecordStore, read_run
from tests.cli.test_cli import fpbench
from tests.records.records import dense, write

LABELS = ("dense", "flashprefill", "streaming")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Write a run of two tasks and two samples each; streaming is wrong on one, and failed on another."""
    folder = tmp_path_factory.mktemp("scores")
    asked = {"suite": "probe", "tasks": "fact,multivalue", "lens": "512", "samples": "2", "methods": ",".join(LABELS)}
    plan = make_plan(AccuracyRequest.parse(asked))
    with RecordStore(folder) as store:
        for item in plan.items:
            _, task, _ = item.stripe
            found = {"status": "ok", "score": 1.0, "prediction": "right", "answers": ["right"]}
            if item.label == "streaming" and task == "fact":
                found |= {"score": 0.5, "prediction": "half of it"} if item.number else {}
                found = found if item.number else {"status": "oom", "reason": "too large"}
            record = store_record(item, found)
            store.append(record)
    return folder


def store_record(item, found):
    return AccuracyRecord(**item.asked, **found)


def test_a_sample_shows_the_prompt_the_answers_and_what_was_expected(run):
    done = fpbench("samples", run, "--task", "multivalue", "--limit", "1")
    assert done.exit_code == 0, done.output
    assert "multivalue/512/0, seed 0" in done.stdout
    assert "Read the following text and answer the question." in done.stdout
    assert "characters left out" in done.stdout
    assert "expected: 'right'" in done.stdout
    answers = [line.split() for line in done.stdout.splitlines() if line.startswith(LABELS)]
    assert answers == [[label, "100", "'right'"] for label in LABELS]
    assert "1 of 2 samples" in done.stderr
    assert "characters left out" not in fpbench("samples", run, "--task", "multivalue", "--full").stdout


def test_differs_keeps_the_samples_whose_scores_differ(run):
    done = fpbench("samples", run, "--differs")
    assert done.exit_code == 0
    assert "multivalue" not in done.stdout
    assert "streaming" in done.stdout
    assert "half of it" in done.stdout
    assert "oom: too large" in done.stdout


def test_one_method_is_shown_beside_dense(run):
    done = fpbench("samples", run, "--method", "flashprefill", "--json")
    found = json.loads(done.stdout)
    assert [[answer["label"] for answer in sample["answers"]] for sample in found] == [["dense", "flashprefill"]] * 4
    assert len({sample["prompt"] for sample in found}) == 4
    none = fpbench("samples", run, "--method", "flashprefill", "--differs")
    assert none.exit_code == 4
    assert "the same on all" in none.stderr


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--task", "fct"], "no task 'fct'; did you mean 'fact'?"),
        (["--method", "strming"], "did you mean 'streaming'?"),
        (["--len", "4k"], "no length '4096'; known: 512"),
        (["--limit", "0"], "--limit 0 is out of limits"),
    ],
)
def test_what_the_run_lacks_is_one_line(run, words, complaint):
    refused = fpbench("samples", run, *words)
    assert refused.exit_code == 2
    assert complaint in refused.stderr


def test_a_prompt_that_is_not_the_one_of_the_run_is_not_shown(run, tmp_path):
    with RecordStore(tmp_path) as store:
        for record in read_run(run).records:
            store.append(record.model_copy(update={"prompt_tokens": 7}))
    done = fpbench("samples", tmp_path, "--limit", "1")
    assert done.exit_code == 0
    assert "prompt: not available: generated again it has" in done.stdout
    assert "expected: 'right'" in done.stdout


def test_a_run_of_times_has_no_samples(tmp_path):
    refused = fpbench("samples", write(tmp_path, [dense()]))
    assert refused.exit_code == 2
    assert "no accuracy records" in refused.stderr
