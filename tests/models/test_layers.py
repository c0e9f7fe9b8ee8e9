"""Which layers would run sparse, told from a configuration alone, for families that are dense in part or refused."""

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from fp_bench.errors import UnavailableError, UnsupportedError
from fp_bench.methods.flashprefill import FlashPrefill
from fp_bench.models.attention import SparsePrefill
from fp_bench.models.layers import layers_of
from tests.cli.test_cli import fpbench

SIZES = {"num_hidden_layers": 2, "hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64}
LONG = {"rope_type": "longrope", "rope_theta": 1e4, "long_factor": [1.0] * 32, "short_factor": [1.0] * 32}
LONG |= {"original_max_position_embeddings": 512}
FAMILIES = {
    "llama": (transformers.LlamaConfig(**SIZES), [None, None]),
    "experts": (transformers.Qwen3MoeConfig(**SIZES, num_experts=4, num_experts_per_tok=2), [None, None]),
    "windows": (
        transformers.Gemma3TextConfig(**SIZES, layer_types=["sliding_attention", "full_attention"]),
        ["sliding window", None],
    ),
    "soft cap": (transformers.Gemma2Config(**SIZES), ["soft cap", "soft cap"]),
    "sinks": (transformers.GptOssConfig(**SIZES, num_local_experts=4), ["attention sinks", "attention sinks"]),
    "long positions": (
        transformers.Phi3Config(**SIZES, max_position_embeddings=8192, pad_token_id=0, rope_parameters=LONG),
        [None, None],
    ),
    "head size": (transformers.LlamaConfig(**SIZES | {"head_dim": 80}), ["head_dim 80 is not one of"] * 2),
    "latent": (transformers.DeepseekV3Config(num_hidden_layers=2, first_k_dense_replace=2), ["differ in shape"] * 2),
    "hybrid": (
        transformers.Qwen3NextConfig(num_hidden_layers=2, layer_types=["linear_attention", "full_attention"]),
        ["no softmax attention", None],
    ),
}


def saved(config, folder):
    config.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_says_whether_it_would_run_sparse(family, tmp_path):
    config, expected = FAMILIES[family]
    layers = layers_of(saved(config, tmp_path), [FlashPrefill()])
    reasons = [layer.dense.get("flashprefill") for layer in layers]
    assert [reason is None for reason in reasons] == [part is None for part in expected], reasons
    assert all(part in reason for part, reason in zip(expected, reasons, strict=True) if reason)


def test_a_run_of_the_model_agrees(tmp_path):
    config = transformers.Gemma3TextConfig(
        **SIZES, layer_types=["sliding_attention", "full_attention"], sliding_window=128, vocab_size=64, pad_token_id=0
    )
    foreseen = layers_of(saved(config, tmp_path), [FlashPrefill()])
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad(), SparsePrefill(model, FlashPrefill()) as prefill:
        model(torch.zeros(1, 300, dtype=torch.long))
    for layer in foreseen:
        calls = prefill.counts.layer(layer.number)
        assert bool(calls.sparse) == ("flashprefill" not in layer.dense)
        assert list(calls.dense) == list(layer.dense.values())


def test_a_model_whose_attention_cannot_be_replaced_is_refused(tmp_path):
    with pytest.raises(UnsupportedError, match="does not allow its attention to be replaced"):
        layers_of(saved(transformers.BloomConfig(n_layer=1), tmp_path), [FlashPrefill()])
    with pytest.raises(UnavailableError, match="does not exist"):
        layers_of(str(tmp_path / "none"), [FlashPrefill()])


def test_doctor_shows_the_layers_of_a_model(tmp_path):
    folder = saved(FAMILIES["windows"][0], tmp_path)
    done = fpbench("doctor", "--model", folder, "--methods", "flashprefill,streaming")
    assert done.exit_code == 0, done.output
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "0 sliding attention 4/2/64 dense all 2 sliding window" in lines
    assert "1 full attention 4/2/64 sparse all 2" in lines
    assert "flashprefill 1 of 2" in lines
    refused = fpbench("doctor", "--model", folder, "--methods", "flashprefil")
    assert refused.exit_code == 2
    assert "did you mean" in refused.stderr
