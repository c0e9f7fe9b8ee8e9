"""Both jobs on servers of the loopback: what becomes a record, and what two servers in one run are."""

import re
import threading

import pandas as pd
import pytest

from fp_bench.errors import UsageError
from fp_bench.jobs.accuracy import plan as accuracy_plan
from fp_bench.jobs.accuracy.job import run as answer
from fp_bench.jobs.latency import plan as latency_plan
from fp_bench.jobs.latency.job import run as measure
from fp_bench.jobs.openai import client
from fp_bench.jobs.request import AccuracyRequest, LatencyRequest, read_command
from fp_bench.jobs.schedule import Conduct
from fp_bench.models.load import EMBEDDED, model_facts
from fp_bench.records.store import RecordStore, read_records
from fp_bench.reports.accuracy.report import accuracy_chapter
from fp_bench.reports.accuracy.tables import summary
from fp_bench.reports.latency.load import served
from tests.cli.test_cli import fpbench
from tests.jobs.openai.scripted import Says, refuses, scripted

HERE = Conduct(isolate=False)
TASK = "needle_number"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(client, "PAUSES", ())


def scores(folder, engine, conduct=HERE, **more):
    given = {"suites": "probe", "tasks": TASK, "lens": "300", "samples": 3, "engine": engine}
    with RecordStore(folder) as store:
        list(answer(accuracy_plan.make_plan(AccuracyRequest.parse(given | more)), store, conduct))
    return read_records(folder).records


def times(folder, engine, conduct=HERE, **more):
    given = {"ttft": True, "lens": "300", "rounds": 2, "engine": engine}
    with RecordStore(folder) as store:
        list(measure(latency_plan.make_plan(LatencyRequest.parse(given | more)), store, conduct))
    return read_records(folder).records


def answering(tokenizer, share=1):
    """Return a script that finds the number of the needle, in one of ``share`` prompts."""
    count = iter(range(10_000))

    def script(asked):
        text = tokenizer.decode(asked["prompt"])
        if "number" not in text:
            return Says()
        key = re.search(r"number for (.+?) in the text above", text).group(1)
        value = re.search(rf"magic number for {re.escape(key)} is (\d+)", text).group(1)
        return Says((f" {value}.",) if next(count) % share == 0 else (" none",))

    return script


@pytest.fixture(scope="module")
def tokenizer():
    return model_facts(EMBEDDED).tokenizer


def test_two_servers_are_two_methods_and_the_prompts_are_those_of_hf(tmp_path, tokenizer):
    with scripted(answering(tokenizer)) as good, scripted(answering(tokenizer, share=3)) as bad:
        records = scores(tmp_path, f"dense=openai:{good.url},flashprefill:alpha=0.3=openai:{bad.url}")
        assert [record.status for record in records] == ["ok"] * 6
        assert {(record.engine, record.model, record.dtype) for record in records} == {
            ("openai", "embedded@openai", "as served")
        }
        for record in records:
            assert record.density is record.recall is record.model_layers is None
            (server,) = read_command(record.command).servers
            assert str(server.label) == record.label
            assert server.url == (good if record.label == "dense" else bad).url
        rows = summary(records).set_index("label")
        assert rows.loc["dense", "score"] == 1
        assert rows.loc["flashprefill:alpha=0.3", "difference"] == pytest.approx(-2 / 3)
        assert accuracy_chapter(records, "here").tables
        # The prompt of a record, made again as for any engine, is what was sent.
        sent = [asked["prompt"] for asked in good.asked[1:]]
        assert [len(prompt) for prompt in sent] == [r.prompt_tokens for r in records if r.label == "dense"]
        assert sent == [asked["prompt"] for asked in bad.asked[1:]]


def test_a_server_that_breaks_off_or_refuses_is_a_status_and_the_rest_goes_on(tmp_path):
    says = iter([Says(), refuses(429, "slow down"), Says((" 1",), finish=None), Says((" 12",))])
    with scripted(lambda _: next(says)) as server:
        records = scores(tmp_path, f"openai:{server.url}")
    assert [record.status for record in records] == ["unavailable", "error", "ok"]
    assert "429: slow down" in records[0].reason
    assert "broke off after 1 pieces" in records[1].reason
    assert records[2].prediction == " 12"
    assert {record.label for record in records} == {"served"}


def test_distributions_are_not_asked_of_a_server(tmp_path):
    with pytest.raises(UsageError, match="suite fidelity compares next-token distributions, which a server does not"):
        scores(tmp_path, "openai:http://127.0.0.1:1/v1", suites="fidelity", tasks=None)


def test_a_server_that_hangs_is_a_timeout_and_one_that_is_gone_unavailable(tmp_path):
    release = threading.Event()
    asked = []

    def hangs(request):
        asked.append(request)
        return Says(wait=lambda: len(asked) == 1 or release.wait(120))

    with scripted(Says()) as gone:
        pass
    with scripted(hangs) as server:
        engines = f"dense=openai:{server.url},other=openai:{gone.url}"
        records = scores(tmp_path, engines, Conduct(timeout=1.0), samples=1)
        release.set()
    by_label = {record.label: record for record in records}
    assert by_label["dense"].status == "timeout"
    assert "no answer within 1 s" in by_label["dense"].reason
    assert by_label["other"].status == "unavailable"
    assert "is not reached" in by_label["other"].reason


def test_first_tokens_are_timed_alone_and_under_load(tmp_path):
    with scripted(Says(("a", "b", "c"))) as one, scripted(Says(("a",))) as other:
        engine = f"dense=openai:{one.url},flashprefill=openai:{other.url}"
        records = times(tmp_path, engine, concurrency="1,3", samples=6)
        assert [record.reason for record in records] == [None] * 8
        for record in records:
            assert len(record.samples_ms) == 6
            assert len(record.itl_ms) == (12 if record.label == "dense" else 0)
            assert len(record.tpot_ms) == (6 if record.label == "dense" else 0)
            assert record.ttft_ms == record.median_ms > 0
            assert record.request_throughput > 0
            assert record.density is None
        assert {(record.load, record.concurrency) for record in records} == {("1 at once", 1), ("3 at once", 3)}
        assert len({record.cell_key for record in records}) == 4
        prompts = [tuple(asked["prompt"]) for asked in one.asked[1:]]
        assert {len(prompt) for prompt in prompts} == {300}
        assert len({prompt[:8] for prompt in prompts}) == len(prompts)
        assert len({prompt[8:] for prompt in prompts}) == 1
        asked = read_command(records[0].command)
        assert (len(asked.servers), len(asked.concurrency)) == (1, 1)
    table = served(records)
    assert table["requests"].tolist() == [12] * 4
    assert table.loc[table["method"] == "dense", "vs_dense"].tolist() == [1, 1]
    assert table["p99_itl_ms"].notna().sum() == 2


@pytest.mark.parametrize(
    ("says", "status", "words"),
    [
        (Says(prompt_tokens=100), "incorrect", "the server read 100 tokens, the prompt has 300"),
        (Says(("",)), "incorrect", "an answer has no text"),
        (refuses(429, "full"), "unavailable", "1 of 1 requests failed, the first: .* answers 429: full"),
    ],
)
def test_a_load_that_is_not_answered_is_a_status(tmp_path, says, status, words):
    with scripted(lambda asked: Says() if len(asked["prompt"]) < 300 else says) as server:
        (record,) = times(tmp_path, f"openai:{server.url}", rate="50")
    assert record.status == status
    assert re.search(words, record.reason)
    assert record.load == "50 a second"


def test_the_command_line_reports_servers_as_methods(tmp_path):
    with scripted(Says(("a", "b"))) as one, scripted(Says(("a", "b"))) as other:
        engine = f"dense=openai:{one.url},flashprefill=openai:{other.url}"
        common = ("--lens", "300", "--engine", engine, "--no-isolate", "--out", tmp_path)
        timed = fpbench("latency", "--ttft", "--rounds", "1", "-n", "2", "--concurrency", "1,2", *common)
        assert timed.exit_code == 0, timed.output
        assert "2 at once" in timed.stdout
        assert "as served" in timed.stderr
        assert "at most about" not in timed.stderr
        scored = fpbench("accuracy", "-s", "probe", "-t", TASK, "-n", "1", *common)
        assert scored.exit_code == 0, scored.output
        assert "nan" not in scored.stdout
    page = (tmp_path / "report.md").read_text()
    assert "Time to first token of servers" in page
    assert "nan" not in page
    assert (tmp_path / "plots" / "ttft-concurrency.png").exists()
    load = pd.read_csv(tmp_path / "tables" / "load.csv")
    assert {"p50_ttft_ms", "p90_itl_ms", "p99_tpot_ms", "request_throughput"} <= set(load)


def test_a_server_takes_no_devices():
    refused = fpbench("latency", "--ttft", "--engine", "openai:http://127.0.0.1:1/v1", "--devices", "0")
    assert refused.exit_code == 2
    assert "give neither --devices nor --ray" in refused.stderr
