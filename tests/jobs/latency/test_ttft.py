import pytest

from fp_bench.inputs.source import Shape
from fp_bench.jobs.latency import ttft
from fp_bench.jobs.latency.measure import Effort
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
