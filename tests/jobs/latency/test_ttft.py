import pytest

from fp_bench.errors import UsageError
from fp_bench.inputs.source import Shape
from fp_bench.jobs.latency import ttft
from fp_bench.jobs.latency.measure import Effort
from fp_bench.jobs.latency.plan import make_plan
from fp_bench.jobs.latency.worker import Setup
from fp_bench.jobs.request import LatencyRequest
from fp_bench.methods.registry import Spec
from fp_bench.records.environment import code_version


def test_the_model_is_loaded_in_a_step_of_its_own(monkeypatch):
    loads = []
    load_model = ttft.load_model
    monkeypatch.setattr(ttft, "load_model", lambda *args, **more: loads.append(1) or load_model(*args, **more))
    setup = Setup(Spec("flashprefill"), LatencyRequest(model="embedded", dtype="fp32"), "cpu", code_version())
    hand = ttft.PrefillWorker(setup)
    shape = Shape(1, 300, 6, 2, 64)
    assert hand.check(shape, 0).value.reason == "RuntimeError: check comes after load"
    for _ in range(2):
        assert hand.load().value is None
        assert hand.check(shape, 0).value.fields["density"] == pytest.approx(1)
    assert loads == [1]
    hand.release(everything=True)
    assert hand.load().value is None
    assert loads == [1, 1]


def test_attention_s_time_is_of_every_call_whatever_computes_it(monkeypatch):
    setup = Setup(Spec("flashprefill"), LatencyRequest(model="embedded", dtype="fp32"), "cpu", code_version())
    hand = ttft.PrefillWorker(setup)
    hand.load()
    monkeypatch.setattr(type(hand._method), "unsupported", lambda *_: "not today")
    found = hand.check(Shape(1, 300, 6, 2, 64), 0).value.fields
    assert found["fallback"]
    assert set(found["dense_calls"]) == {"not today"}
    timing = hand.measure(Effort(rounds=1, samples=1)).value
    assert 0 < timing["attention_ms"] < timing["ttft_ms"] * 10


def test_a_given_text_is_the_prompt_and_part_of_the_input_s_name(tmp_path):
    texts = {"one": "The harbour was quiet. " * 200, "two": "A lamp burned in the window. " * 200}
    names = set()
    for name, text in texts.items():
        (path := tmp_path / name).write_text(text)
        asked = LatencyRequest(model="embedded", dtype="fp32", lens=[300], text=str(path), methods=[Spec("dense")])
        hand = ttft.PrefillWorker(Setup(Spec("dense"), asked, "cpu", code_version()))
        hand.load()
        assert hand.check(Shape(1, 300, 6, 2, 64), 0).value
        assert sorted(hand._ids[0].tolist()) == sorted(hand._tokenizer(text).input_ids[:300])  # turned
        names.add(make_plan(asked).input_name)
    assert len(names | {make_plan(LatencyRequest(model="embedded", dtype="fp32")).input_name}) == 3


def test_a_text_that_is_too_short_or_read_by_no_model_is_refused(tmp_path):
    (path := tmp_path / "short.txt").write_text("Too short.")
    with pytest.raises(UsageError, match=r"has \d+ tokens, fewer than length 300; give a longer text"):
        make_plan(LatencyRequest(model="embedded", lens=[300], text=str(path)))
    with pytest.raises(UsageError, match="--text: only a model reads a text; give --ttft too"):
        LatencyRequest.parse({"text": str(path)})
