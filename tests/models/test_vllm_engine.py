"""``--engine vllm``: what is asked of vLLM, and the two jobs around an engine, with stand-ins for it.

No GPU and no compiled vLLM here: a fake module takes the calls, and a Hugging Face model answers in the engine's place.
"""

import os
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from fp_bench.errors import UnavailableError, UnsupportedError, UsageError
from fp_bench.inputs.source import Shape
from fp_bench.jobs.accuracy import worker_engine
from fp_bench.jobs.accuracy.answer import greedy
from fp_bench.jobs.latency import ttft_engine
from fp_bench.jobs.latency.worker import Setup as LatencySetup
from fp_bench.jobs.request import LatencyRequest
from fp_bench.methods.registry import Spec, create_method
from fp_bench.models import vllm_engine
from fp_bench.models.attention import SparsePrefill
from fp_bench.models.load import load_model, model_config, model_label
from fp_bench.models.vllm_engine import VllmEngine, check_engine
from fp_bench.records.environment import code_version
from tests.jobs.accuracy.models import save_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(save_model(tmp_path_factory.mktemp("model")))


@pytest.mark.parametrize(
    ("engine", "dtype", "kind", "words"),
    [
        ("vlm", "bf16", UsageError, "unknown engine 'vlm'; write hf, vllm or openai:URL"),
        ("vllm", "bf16", UnavailableError, "--engine vllm: vLLM is not installed; pip install"),
    ],
)
def test_an_engine_that_is_not_here_is_one_line(engine, dtype, kind, words):
    with pytest.raises(kind, match=words) as error:
        check_engine(engine, dtype)
    assert "\n" not in str(error.value)


def test_vllm_needs_a_gpu_and_half_precision(monkeypatch):
    monkeypatch.setattr(vllm_engine, "vllm_problem", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnavailableError, match="there is no GPU here"):
        check_engine("vllm", "bf16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UsageError, match="not fp32"):
        check_engine("vllm", "fp32")
    check_engine("vllm", "fp16")


MADE = {}
"""What the last engine was asked to be."""


class FakeLLM:
    """Two attention layers and another module; answers count up from the prompt's length."""

    def __init__(self, model, **options):
        MADE.clear()
        MADE.update({"model": model, **options})
        self.modules = [SimpleNamespace(impl=SimpleNamespace(prefill=None)), SimpleNamespace(impl=object())]
        self.modules += [SimpleNamespace(impl=SimpleNamespace(prefill=None)), SimpleNamespace()]

    def apply_model(self, function):
        return [function(SimpleNamespace(modules=lambda: self.modules))]

    def generate(self, prompts, asked, **_):
        length = len(prompts[0]["prompt_token_ids"])
        tokens = list(range(length, length + asked.max_tokens))
        return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=tokens)])]


@pytest.fixture
def vllm(monkeypatch):
    fake = ModuleType("vllm")
    fake.LLM = FakeLLM
    fake.SamplingParams = lambda **options: SimpleNamespace(**options)
    fake.TokensPrompt = dict
    monkeypatch.setitem(sys.modules, "vllm", fake)
    monkeypatch.setattr(vllm_engine, "register", lambda: None)
    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)


def test_the_engine_is_vllms_own_but_for_attention_and_prefix_caching(vllm, folder):
    engine = VllmEngine(f"random:{folder}", device=CPU, dtype=torch.bfloat16, longest=4097, share=0.5)
    made = MADE
    assert made["model"] == folder
    assert (made["attention_backend"], made["enable_prefix_caching"]) == ("CUSTOM", False)
    assert (made["load_format"], made["max_model_len"], made["dtype"]) == ("dummy", 4097, "bfloat16")
    assert made["gpu_memory_utilization"] == pytest.approx(0.45)
    assert engine.generate([5, 6, 7], 4, stop={5}) == [3, 4]
    assert engine.generate([5, 6, 7], 2) == [3, 4]
    with pytest.raises(UsageError, match="first visible GPU, not on cuda:1"):
        VllmEngine(folder, device=torch.device("cuda:1"), dtype=torch.bfloat16, longest=10)


@pytest.mark.parametrize(("over", "allowed"), [(0, None), (1, "1"), (2, None)])
def test_a_prompt_may_fill_the_model_and_have_its_first_token(vllm, folder, monkeypatch, over, allowed):
    monkeypatch.setenv("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "")
    monkeypatch.delenv("VLLM_ALLOW_LONG_MAX_MODEL_LEN")
    positions = model_config(folder).max_position_embeddings
    VllmEngine(folder, device=CPU, dtype=torch.bfloat16, longest=positions + over)
    assert os.environ.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN") == allowed


def test_methods_take_turns_in_one_engine(vllm, folder):
    engine = VllmEngine(folder, device=CPU, dtype=torch.float16, longest=10)
    counts = engine.use(create_method(Spec.parse("flashprefill:alpha=0.3")))
    served = [module.impl.prefill for module in engine._llm.modules[::2]]
    assert served[0] is served[1]
    assert served[0].method.label == "flashprefill:alpha=0.3"
    assert served[0].counts is counts
    assert engine.use(create_method(Spec.parse("dense"))).kernels == {"vllm flash_attn"}
    with pytest.raises(UsageError, match="write dense"):
        engine.use(create_method(Spec.parse("dense:impl=fa2")))


class HfEngine:
    """The same model by transformers, where vLLM would be."""

    def __init__(self, model, *, device, dtype, longest, share=1.0):
        self.longest, self.share = longest, share
        self.model, _ = load_model(model, device=device, dtype=dtype)
        self.prefill = None

    def use(self, method, *, measure_selection=False):
        self.prefill = SparsePrefill(self.model, method, measure_selection=measure_selection)
        return self.prefill.counts

    def generate(self, ids, new, *, stop=None, least=0):
        with self.prefill:
            return greedy(self.model, torch.tensor([ids]), new, stop or (), least=least)

    def attention_milliseconds(self, run):
        run()
        return 1.0

    def close(self):
        self.model = None


def test_first_tokens_are_timed_in_the_engine(monkeypatch, folder):
    monkeypatch.setattr(ttft_engine, "VllmEngine", HfEngine)
    spec = Spec.parse("flashprefill:alpha=2:window_blocks=1:last_full_blocks=0:sink_blocks=0")
    code = code_version()
    request = LatencyRequest(model=folder, engine="vllm", dtype="fp32", lens=[700])
    setup = LatencySetup(spec, request, "cpu", code, share=0.25)
    hand = ttft_engine.EngineWorker(setup)
    assert hand.load().value is None
    found = hand.check(Shape(1, 700, 2, 1, 64), 0).value
    pairs = 5 * 128 * 129 / 2 + 60 * 61 / 2  # of the diagonal blocks, the last of 60 tokens
    assert found.fields["density"] == pytest.approx(pairs / (700 * 701 / 2))
    assert (found.fields["fallback"], found.fields["backend"]) == (False, "torch")
    assert (hand._engine.longest, hand._engine.share) == (701, 0.25)
    timing = hand.measure(SimpleNamespace(samples=2)).value
    assert len(timing["samples_ms"]) == 2
    assert timing["attention_ms"] == 1.0
    hand.release()
    assert hand._engine is None


def test_samples_are_answered_as_by_the_same_model_without_the_engine(monkeypatch, folder):
    monkeypatch.setattr(worker_engine, "VllmEngine", HfEngine)
    from fp_bench.jobs.accuracy.plan import make_plan
    from fp_bench.jobs.accuracy.worker import ModelWorker
    from fp_bench.jobs.accuracy.workers import OURS, ModelWorkers
    from fp_bench.jobs.request import AccuracyRequest
    from fp_bench.jobs.schedule import Conduct

    plan = make_plan(
        AccuracyRequest(
            lens=[300],
            suites=[Spec("probe")],
            tasks=["fact"],
            methods=[Spec("flashprefill")],
            model=folder,
            samples=1,
            dtype="fp32",
        )
    )
    setup = ModelWorkers(plan, plan.machine, Conduct(), {}).made(OURS)[1]
    answers = []
    for kind in (ModelWorker, worker_engine.EngineModelWorker):
        examinee = kind(setup)
        assert examinee.load().value is None
        answers.append(examinee.answer(("probe", "fact", 300), 0, "flashprefill").value)
    direct, engine = answers
    for name in ("prediction", "score", "density", "backend"):
        assert engine[name] == direct[name]
    without_answers = SimpleNamespace(answers=[])
    with pytest.raises(UnsupportedError, match="next-token distributions"):
        examinee._reply(without_answers, None, [], set())


def test_records_of_two_engines_are_of_two_models(folder):
    assert model_label(folder, "vllm") == model_label(folder) + "@vllm"
    assert model_label("random:some/model", "vllm") == "random:some/model@vllm"
