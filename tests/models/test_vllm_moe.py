"""``benchmarks.vllm_moe`` with a stand-in for vLLM: what it asks of an engine, and what its figures say."""

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from benchmarks import vllm_moe
from benchmarks.vllm_moe import CONFIG, Engine, density, label_of, measured, row_label, searched_alpha, set_weights
from fp_bench.methods.base import AttentionCall
from tests.kernels.calls import Case
from tests.kernels.paged_calls import Sequence, spread

LAYERS, LENGTH, LONG = 6, 4096, 4608


class Model(torch.nn.Module):
    """Layers of the plug-in, a norm of each kind, and embeddings."""

    def __init__(self):
        super().__init__()
        self.embed_tokens = torch.nn.Linear(2, 2, bias=False)
        self.q_norm, self.input_layernorm = torch.nn.LayerNorm(2, bias=False), torch.nn.LayerNorm(2, bias=False)
        self.attention = torch.nn.ModuleList(torch.nn.Module() for _ in range(LAYERS))
        for layer in self.attention:
            layer.impl = SimpleNamespace(prefill=None)


class FakeLLM:
    """Prefills each prompt with the layers' method; without the plug-in there is nothing to do."""

    asked: SimpleNamespace

    def __init__(self, folder, **options):
        with open(f"{folder}/config.json") as file:
            FakeLLM.asked = SimpleNamespace(**options, config=json.load(file), prompts=[])
        self.model = Model()

    def apply_model(self, function):
        return [function(self.model)]

    def generate(self, prompts, *_, **__):
        (length,) = (len(prompt) for prompt in prompts)
        methods = [layer.impl.prefill and layer.impl.prefill.method.label for layer in self.model.attention]
        self.asked.prompts.append((length, methods[0]))
        call = spread([Sequence(*Case(1, length, length, 2, 1, 64).tensors(), last_chunk=True)], 128)
        for number, layer in enumerate(self.model.attention):
            if layer.impl.prefill and layer.impl.prefill.takes(length):
                out = torch.zeros_like(call.q)
                layer.impl.prefill.fill(call.q, call.k, call.v, call.batch, out, scale=call.scale, layer=number)


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = FakeLLM, SimpleNamespace
    module.TokensPrompt = lambda prompt_token_ids: prompt_token_ids
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(vllm_moe, "LONG", LENGTH)
    for name in ("VLLM_ENABLE_V1_MULTIPROCESSING", "FPBENCH_METHOD"):
        monkeypatch.setenv(name, "")


def test_methods_take_turns_at_the_searched_density():
    engine = Engine(own=False, layers=LAYERS, longest=LENGTH, chunk=LENGTH)
    dense, sparse = measured(engine, ["dense", "flashprefill@0.6"], LENGTH, 2).values()
    searched = label_of(sparse["alpha"])
    assert [method for _, method in FakeLLM.asked.prompts] == [
        "dense", "flashprefill:alpha=0.9", searched, "dense", searched, searched, "dense",
    ]  # fmt: skip
    assert (dense["density"], dense["kernel"]) == (1.0, "vllm flash_attn")
    assert sparse["density"] == pytest.approx(0.6, abs=0.02)
    assert [part.partition(":")[0] for part in sparse["density_by_layer"].split(", ")] == ["1", "3", "5"]
    assert sparse["kernel"].startswith("paged")
    assert len(sparse["rounds"].split()) == 2
    assert FakeLLM.asked.attention_backend == "CUSTOM"


def test_a_long_prompt_has_one_round_without_warm_up_and_no_dense():
    engine = Engine(own=False, layers=LAYERS, longest=LONG, chunk=LONG)
    found = measured(engine, ["dense", "flashprefill:alpha=0.2"], LONG, 2)
    assert list(found) == ["flashprefill:alpha=0.2"]
    assert len(FakeLLM.asked.prompts) == 2  # of densities, and of the round
    assert found["flashprefill:alpha=0.2"]["alpha"] is None
    assert 0 < found["flashprefill:alpha=0.2"]["density"] < 1


def test_own_attention_runs_without_the_plug_in():
    engine = Engine(own=True, layers=LAYERS, longest=LENGTH, chunk=LENGTH)
    (own,) = measured(engine, ["own"], LENGTH, 2).values()
    assert FakeLLM.asked.prompts == [(LENGTH, None)] * 3
    assert not hasattr(FakeLLM.asked, "attention_backend")
    assert own["density"] == 1.0


def test_the_model_is_the_published_one_with_all_its_layers():
    Engine(own=True, layers=48, longest=2**18, chunk=2**18)
    changed = {"num_hidden_layers": 48, "max_window_layers": 48, "max_position_embeddings": 2**18 + 64}
    assert FakeLLM.asked.config == json.loads(CONFIG.read_text()) | changed


def test_norms_are_set_by_their_names():
    model = Model()
    before = model.embed_tokens.weight.clone()
    assert set_weights(model) == 2
    assert model.q_norm.weight.tolist() == [4.0, 4.0]
    assert model.input_layernorm.weight.tolist() == [1.0, 1.0]
    assert torch.equal(model.embed_tokens.weight, before * 1000)


def test_a_share_below_sinks_and_window_ends_at_the_largest_alpha():
    call = AttentionCall(*Case(1, 2048, 2048, 2, 1, 64).tensors(), scale=0.125)
    alpha = searched_alpha(call, 0.01)
    assert alpha > 1
    assert density(label_of(alpha), call) > 0.01


def test_labels_name_the_share():
    assert [row_label(name) for name in ("own", "dense", "flashprefill@0.05")] == [
        "dense of vLLM", "dense", "flashprefill at 0.05",
    ]  # fmt: skip


@pytest.mark.parametrize("methods", [["own", "dense"], ["xattention@0.1"]])
def test_what_cannot_be_measured_is_refused_before_the_engine(methods, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["vllm_moe", "--methods", *methods])
    with pytest.raises(SystemExit) as error:
        vllm_moe.main()
    assert error.value.code == 2
