"""A scripted model that thinks before it answers, through the accuracy job, the report and `fpbench samples`."""

import re

import pytest

from fp_bench.errors import UsageError
from fp_bench.jobs.accuracy import worker as accuracy_worker
from fp_bench.jobs.accuracy.again import sample_of
from fp_bench.jobs.accuracy.job import Conduct, run
from fp_bench.jobs.accuracy.plan import make_plan
from fp_bench.jobs.request import AccuracyRequest, read_command
from fp_bench.records.store import RecordStore, read_records
from fp_bench.reports.accuracy.report import accuracy_chapter
from fp_bench.reports.accuracy.samples import answer_lines, samples
from fp_bench.suites.longbench.v2 import LongBenchV2
from fp_bench.suites.probe.suite import MAX_NEW_TOKENS
from tests.jobs.accuracy.models import TEMPLATE, save_model, tokenizer
from tests.suites.data_rows import row, write

THINKS = TEMPLATE.replace("<|assistant|>\n", "<|assistant|>\n<think>\n")
LENGTH, THOUGHT = 700, 40


@pytest.fixture
def model(tmp_path):
    folder = save_model(tmp_path / "model")
    words = tokenizer(chat=False)
    words.chat_template = THINKS
    words.save_pretrained(folder)
    return folder


def plan_of(model, **more):
    asked = {"suite": "probe", "tasks": "needle_number", "lens": str(LENGTH), "samples": 1, "methods": "dense"}
    return make_plan(AccuracyRequest.parse(asked | {"model": str(model), "dtype": "fp32"} | more))


def answered(folder, plan):
    with RecordStore(folder) as store:
        list(run(plan, store, Conduct(isolate=False)))
    return read_records(folder).records


@pytest.fixture
def script(model, monkeypatch):
    """Make the model write a text in which NUMBER is the right answer."""
    words, greedy, budgets = tokenizer(chat=False), accuracy_worker.greedy, []

    def scripted(text):
        def write(model, ids, budget, stop, least=0):
            greedy(model, ids, 1, [])  # its attention is reached
            budgets.append(budget)
            prompt = words.decode(ids[0])
            key = re.search(r"magic number for (.+) in the text", prompt)[1]
            number = re.search(rf"magic number for {key} is (\d+)", prompt)[1]
            return words(text.replace("NUMBER", number)).input_ids

        monkeypatch.setattr(accuracy_worker, "greedy", write)
        return budgets

    return scripted


@pytest.mark.parametrize(
    ("text", "score", "cut", "prediction"),
    [
        ("It is NUMBER. Or is it", 0.0, True, ""),
        ("It is NUMBER.</think>\n\nI do not know.", 0.0, False, "I do not know."),
        ("Is it 1?</think>\n\nIt is NUMBER.", 1.0, False, "It is NUMBER."),
        ("One.</think>Wait.<think>Two.</think>NUMBER", 1.0, False, "NUMBER"),
        ("One.</think>NUMBER<think>Two.</think>It is 1.", 0.0, False, "It is 1."),
        ("One.</think>NUMBER<think>Two.", 0.0, True, ""),
    ],
)
def test_the_score_is_of_what_follows_the_last_thought(tmp_path, model, script, text, score, cut, prediction):
    budgets = script(text)
    (record,) = answered(tmp_path / "run", plan_of(model, thinking_tokens=THOUGHT))
    assert (record.reason, record.score, record.thought_cut) == (None, score, cut)
    assert record.prediction == prediction.replace("NUMBER", *record.answers)
    assert record.thought.startswith(text[:5])
    assert record.reasoning == f"up to {THOUGHT} tokens, ended by </think>"
    assert record.prompt_tokens <= LENGTH - MAX_NEW_TOKENS
    assert budgets == [MAX_NEW_TOKENS + THOUGHT]


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("The correct answer is (A).</think>The correct answer is (RIGHT)", 1.0),
        ("The correct answer is (RIGHT).</think>The correct answer is (WRONG)", 0.0),
        ("The correct answer is (RIGHT).", 0.0),
    ],
)
def test_longbench_v2_counts_the_letter_after_the_thought(tmp_path, model, monkeypatch, text, score):
    folder = write(tmp_path / "data", LongBenchV2)
    right = row(LongBenchV2, "choice")["answer"]
    written = text.replace("RIGHT", right).replace("WRONG", "A" if right != "A" else "B")
    words, greedy = tokenizer(chat=False), accuracy_worker.greedy

    def write_it(model, ids, budget, stop, least=0):
        greedy(model, ids, 1, [])
        return words(written).input_ids

    monkeypatch.setattr(accuracy_worker, "greedy", write_it)
    more = {"suite": f"longbench@v2:path={folder}", "tasks": "choice", "lens": "3000", "thinking_tokens": THOUGHT}
    (record,) = answered(tmp_path / "run", plan_of(model, **more))
    assert (record.status, record.score, record.reason) == ("ok", score, None)


def test_unfinished_thoughts_are_counted_and_shown(tmp_path, model, script):
    script("It is NUMBER. Or is it")
    records = answered(tmp_path / "run", plan_of(model, thinking_tokens=THOUGHT))
    report = accuracy_chapter(records, "here")
    assert "dense: 1 of 1 thoughts have no end, and score 0" in " ".join(report.circumstances)
    assert f"reasoning up to {THOUGHT} tokens, ended by </think>" in report.tables[0].title
    (line,) = answer_lines(samples(records)[0])
    assert "no answer: its thought has no end after" in line
    assert "Or is it" in line


def test_a_record_says_how_to_ask_again(tmp_path, model, script):
    script("Yes.</think>NUMBER")
    (record,) = answered(tmp_path / "run", plan_of(model, thinking_tokens=THOUGHT))
    assert f"--reasoning on --thinking-tokens {THOUGHT}" in record.command
    (item,) = make_plan(read_command(record.command)).items
    assert item.key == record.cell_key
    assert sample_of(record).answers == tuple(record.answers)


def test_what_changes_answers_changes_the_cell(model):
    asked = [{}, {"reasoning": "off"}, {"thinking_tokens": THOUGHT}, {"thought_end": "Answer:"}, {"chat": "off"}]
    plans = [plan_of(model, **more) for more in asked]
    assert [plan.reasoning for plan in plans] == [
        "up to 4096 tokens, ended by </think>",
        "closed at once",
        f"up to {THOUGHT} tokens, ended by </think>",
        "up to 4096 tokens, ended by Answer:",
        None,
    ]
    assert len({plan.items[0].key for plan in plans}) == len(plans)


def test_a_model_that_does_not_reason_has_the_cells_it_had(tmp_path):
    folder = save_model(tmp_path / "model", chat=True)
    (automatic,), (off,) = (plan_of(folder, reasoning=word).items for word in ("auto", "off"))
    assert automatic.key == off.key
    assert automatic.asked["reasoning"] is None


def test_prompts_as_they_are_have_no_thought(model):
    (item,) = plan_of(model, suite="fidelity", tasks="text").items
    assert item.asked["reasoning"] is None


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"thinking_tokens": 8000}, "length 700 with thoughts of 8000 tokens exceeds the 8192 positions"),
        ({"reasoning": "off", "thinking_tokens": 9}, "--thinking-tokens 9: model .* does not reason here"),
        ({"thinking_tokens": 0}, "--thinking-tokens 0 is out of limits: 1 to 1000000"),
        ({"thought_end": "("}, "is not a regular expression"),
    ],
)
def test_bad_options_are_one_line(model, more, message):
    with pytest.raises(UsageError, match=message):
        plan_of(model, **more)
