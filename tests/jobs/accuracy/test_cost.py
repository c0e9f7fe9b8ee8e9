"""What a run costs at least: counted by hand on small configurations."""

import pytest
import torch
from transformers import LlamaConfig, MambaConfig, Qwen2_5_VLConfig, Qwen3MoeConfig

from fp_bench.cli.terminal import show_accuracy_plan
from fp_bench.errors import UnavailableError
from fp_bench.jobs.accuracy.cost import prefill_flop, prefill_seconds, weights_in_use
from fp_bench.jobs.accuracy.plan import make_plan
from fp_bench.jobs.failures import yardstick
from fp_bench.jobs.machine import Machine
from tests.jobs.accuracy.test_job import request

SIZES = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
ATTENTION = 32 * 16 * (4 + 2 + 2 + 4)
NORMS = 2 * 32


@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_counted_without_embeddings(tied):
    config = LlamaConfig(**SIZES, tie_word_embeddings=tied)
    assert weights_in_use(config) == 2 * (ATTENTION + 3 * 32 * 48 + NORMS) + 32


def test_of_experts_only_those_that_a_token_is_sent_to_count():
    config = Qwen3MoeConfig(
        **SIZES, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=24, norm_topk_prob=True
    )
    router, head_norms = 32 * 8, 2 * 16
    assert weights_in_use(config) == 2 * (ATTENTION + 2 * 3 * 32 * 24 + router + head_norms + NORMS) + 32


def test_a_prefill_multiplies_weights_by_tokens_and_heads_by_causal_pairs():
    config = LlamaConfig(**SIZES)
    pairs = 5 * 6 // 2
    assert prefill_flop(config, 1000.0, 5) == 2 * 1000 * 5 + 4 * pairs * 2 * 4 * 16


@pytest.mark.parametrize("config", [MambaConfig(), Qwen2_5_VLConfig()])
def test_of_models_that_the_arithmetic_is_not_about_there_is_no_estimate(config, tmp_path, capsys):
    config.save_pretrained(tmp_path)
    assert prefill_seconds(str(tmp_path), {512: 1}, Machine.here(), torch.float32) is None
    show_accuracy_plan(make_plan(request()), None, devices=1)
    said = capsys.readouterr().err
    assert "cost: not estimated" in said
    assert "at the rate of" not in said


def test_seconds_grow_with_the_prompts():
    few, many = (
        prefill_seconds("embedded", prompts, Machine.here(), torch.float32)
        for prompts in ({512: 1}, {512: 50, 2048: 50})
    )
    assert 0 < 20 * few < many


def test_a_device_without_memory_is_told_in_one_line():
    with pytest.raises(UnavailableError, match="cpu has no memory left to plan with"), yardstick(torch.device("cpu")):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(RuntimeError, match="something else"), yardstick(torch.device("cpu")):
        raise RuntimeError("something else")
