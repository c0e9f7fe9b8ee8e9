"""``--engine vllm``: what is asked of vLLM, and the two jobs around an engine, with stand-ins for it.

No GPU and no compiled vLLM here: a fake module takes the calls, and a Hugging Face model answers in the engine's place.
"""

import multiprocessing
import os
import pickle
import sys
from functools import partial
from types import ModuleType, SimpleNamespace

import pytest
import torch

from fp_bench.errors import UnavailableError, UnsupportedError, UsageError
from fp_bench.inputs.source import Shape
from fp_bench.jobs.accuracy import plan as accuracy_plan
from fp_bench.jobs.accuracy import worker_engine
from fp_bench.jobs.latency import plan as latency_plan
from fp_bench.jobs.latency import ttft_engine
from fp_bench.jobs.latency.worker import Setup as LatencySetup
from fp_bench.jobs.request import AccuracyRequest, LatencyRequest
from fp_bench.methods.registry import Spec, create_method
from fp_bench.models import vllm_engine
from fp_bench.models.load import model_config, model_label
from fp_bench.models.vllm_engine import VllmEngine, check_engine
from fp_bench.records.environment import code_version
from tests.jobs.accuracy.models import save_model
from tests.models.hf_engine import HfEngine

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


def test_several_gpus_must_be_here(monkeypatch):
    monkeypatch.setattr(vllm_engine, "vllm_problem", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_engine("vllm", "bf16", "some/model", {"tensor_parallel_size": 2})
    with pytest.raises(UnavailableError, match="tensor_parallel_size=4: 2 GPUs are visible here"):
        check_engine("vllm", "bf16", "some/model", {"tensor_parallel_size": 4})
    with pytest.raises(UsageError, match="tensor_parallel_size=two: give a number"):
        check_engine("vllm", "bf16", "some/model", {"tensor_parallel_size": "two"})
    with pytest.raises(UsageError, match="reads no GGUF files and no changed keys"):
        check_engine("vllm", "bf16", "some/model?rope=yarn:4")


MADE = {}
"""What the last engine was asked to be."""


class Layer:
    """An attention layer of vLLM's."""

    def __init__(self):
        self.prefill = None

    def forward(self):
        return torch.zeros(1)


def attention(_number):
    return SimpleNamespace(impl=Layer())


class FakeLLM:
    """On each rank two attention layers and another module; answers count up from the prompt's length."""

    def __init__(self, model, **options):
        MADE.clear()
        MADE.update({"model": model, **options})
        ranks = range(options.get("tensor_parallel_size", 1))
        self.ranks = [[*map(attention, range(2)), SimpleNamespace(impl=object()), SimpleNamespace()] for _ in ranks]
        self.ended = 0
        self.llm_engine = SimpleNamespace(engine_core=SimpleNamespace(shutdown=self.end))

    def apply_model(self, function):
        models = [SimpleNamespace(modules=partial(list, rank)) for rank in self.ranks]
        if len(models) == 1:
            return [function(models[0])]
        return [self.sent(self.sent(function)(model)) for model in models]

    def sent(self, what):
        """As through the queue between processes."""
        return pickle.loads(pickle.dumps(what))

    def end(self):
        self.ended += 1

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
    engine.use(create_method(Spec.parse("flashprefill:alpha=0.3")))
    served = [module.impl.prefill for module in engine._llm.ranks[0][:2]]
    assert served[0] is served[1]
    assert served[0].method.label == "flashprefill:alpha=0.3"
    served[1].counts.layer(3).sparse += 1
    assert engine.counts().sparse == 1
    engine.use(create_method(Spec.parse("dense")))
    assert engine.counts().kernels == {"vllm flash_attn"}
    with pytest.raises(UsageError, match="write dense"):
        engine.use(create_method(Spec.parse("dense:impl=fa2")))


@pytest.fixture
def two_ranks(vllm, folder):
    arguments = {"tensor_parallel_size": 2, "quantization": "fp8"}
    return VllmEngine(folder, device=CPU, dtype=torch.bfloat16, longest=10, arguments=arguments)


def test_arguments_reach_the_engine(two_ranks):
    assert (MADE["tensor_parallel_size"], MADE["quantization"], MADE["attention_backend"]) == (2, "fp8", "CUSTOM")


def test_every_rank_takes_the_method_and_its_counts_are_joined(two_ranks):
    two_ranks.use(create_method(Spec.parse("xattention:tau=0.8"), "torch"), measure_selection=True)
    for kept, recall, rank in zip((0.2, 0.6), (0.9, 0.7), two_ranks._llm.ranks, strict=True):
        prefill = rank[0].impl.prefill
        assert (prefill.method.label, prefill.method.backend) == ("xattention:tau=0.8:backend=torch", "torch")
        calls = prefill.counts.layer(5)
        calls.sparse, calls._kept, calls._pairs = 1, [torch.tensor(kept * 100)], 100
        calls.add_recall(torch.tensor(recall))
        calls.dense["decode"] += 3
    counts = two_ranks.counts()
    assert counts.density() == pytest.approx(0.4)
    assert counts.recall() == pytest.approx(0.8)
    assert (counts.sparse, counts.dense["decode"]) == (1, 3)


def test_attention_on_several_gpus_takes_as_long_as_the_slowest(two_ranks, monkeypatch):
    class Event:
        def __init__(self, **_):
            self.at = None

        def record(self):
            ticks.append(1)
            self.at = len(ticks) ** 2

        def elapsed_time(self, other):
            return other.at - self.at

    ticks = []
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    layers = [module.impl for rank in two_ranks._llm.ranks for module in rank[:2]]
    # The marks of the first rank are at 1, 4, 9 and 16, those of the second at 25, 36, 49 and 64.
    assert two_ranks.attention_milliseconds(lambda: [layer.forward() for layer in layers]) == 36 - 25 + 64 - 49
    assert all(vars(layer).keys() == {"prefill"} for layer in layers)


def test_an_engine_on_several_gpus_ends_their_processes(two_ranks, vllm, folder):
    ended = two_ranks._llm
    two_ranks.close()
    assert ended.ended == 1
    alone = VllmEngine(folder, device=CPU, dtype=torch.bfloat16, longest=10)
    ended = alone._llm
    alone.close()
    assert ended.ended == 0


def start_a_rank(queue):
    """In a worker process: what vLLM does."""
    rank = multiprocessing.get_context("fork").Process(target=queue.put, args=("started",), daemon=True)
    rank.start()
    rank.join()


def run_an_engine(folder, queue):
    engine = VllmEngine(folder, device=CPU, dtype=torch.bfloat16, longest=10)
    del engine
    start_a_rank(queue)


def test_a_worker_process_may_start_ranks(vllm, folder):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    worker = context.Process(target=run_an_engine, args=(folder, queue), daemon=True)
    worker.start()
    assert queue.get(timeout=60) == "started"
    worker.join(10)


class NoAttention(FakeLLM):
    """A model whose attention is another backend's."""

    def __init__(self, model, **options):
        super().__init__(model, **options)
        self.ranks = [rank[2:] for rank in self.ranks]


def test_a_model_without_layers_of_the_backend_is_refused(vllm, folder, monkeypatch):
    monkeypatch.setattr(sys.modules["vllm"], "LLM", NoAttention)
    with pytest.raises(UnsupportedError, match="no attention layer of this model"):
        VllmEngine(folder, device=CPU, dtype=torch.bfloat16, longest=10)


def test_first_tokens_are_timed_in_the_engine(monkeypatch, folder):
    monkeypatch.setattr(ttft_engine, "VllmEngine", HfEngine)
    spec = Spec.parse("flashprefill:alpha=2:window_blocks=1:last_full_blocks=0:sink_blocks=0")
    code = code_version()
    request = LatencyRequest(
        model=folder, engine="vllm", dtype="fp32", lens=[700], engine_args=["max_num_seqs=1", 'quantization="fp8"']
    )
    setup = LatencySetup(spec, request, "cpu", code, share=0.25)
    hand = ttft_engine.EngineWorker(setup)
    assert hand.load().value is None
    found = hand.check(Shape(1, 700, 2, 1, 64), 0).value
    pairs = 5 * 128 * 129 / 2 + 60 * 61 / 2  # of the diagonal blocks, the last of 60 tokens
    assert found.fields["density"] == pytest.approx(pairs / (700 * 701 / 2))
    assert (found.fields["fallback"], found.fields["backend"]) == (False, "torch")
    assert (hand._engine.longest, hand._engine.share) == (701, 0.25)
    assert hand._engine.arguments == {"max_num_seqs": 1, "quantization": "fp8"}
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
        answers.append(examinee.answer(("probe", "fact", 300), 0, "flashprefill", {}).value)
    direct, engine = answers
    for name in ("prediction", "score", "density", "backend"):
        assert engine[name] == direct[name]
    without_answers = SimpleNamespace(answers=[])
    with pytest.raises(UnsupportedError, match="next-token distributions"):
        examinee._reply(without_answers, None, [], set())


def test_records_of_two_engines_are_of_two_models(folder):
    assert model_label(folder, "vllm") == model_label(folder) + "@vllm"
    assert model_label("random:some/model", "vllm") == "random:some/model@vllm"
    assert model_label("some/model", "vllm", ["a=1", "b=x"]) == "some/model@vllm?a=1&b=x"


@pytest.mark.parametrize("verb", [LatencyRequest, AccuracyRequest])
def test_arguments_of_the_engine_are_part_of_a_cells_key(monkeypatch, folder, verb):
    """The folder's model is named with its arguments, so records of two engines never meet."""
    module = latency_plan if verb is LatencyRequest else accuracy_plan
    seen = []
    monkeypatch.setattr(module, "check_engine", lambda *given: seen.append(given))
    given = {"model": folder, "engine": "vllm", "lens": "512", "methods": "dense"}

    def planned(**more):
        plan = module.make_plan(verb.parse(given | more))
        return plan.groups[0].cells[0] if verb is LatencyRequest else plan.items[0]

    alone, two = planned(), planned(engine_args=["tensor_parallel_size=2"])
    assert alone.key != two.key
    name = "input" if verb is LatencyRequest else "model"
    assert two.asked[name] == alone.asked[name] + "?tensor_parallel_size=2"
    assert "--engine-arg tensor_parallel_size=2" in two.asked["command"]
    assert "--engine-arg" not in alone.asked["command"]
    assert [given[2:] for given in seen] == [(folder, {}), (folder, {"tensor_parallel_size": 2})]
