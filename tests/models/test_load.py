"""Models by name: GGUF files, changes to a configuration, and one line for what cannot be had."""

import threading
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GptOssConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    set_seed,
)

from fp_bench.errors import UnavailableError, UsageError
from fp_bench.models import embedded
from fp_bench.models.load import _taken_attention, load_model, model_config, model_facts, model_label
from fp_bench.models.loading.silence import no_progress_bars
from fp_bench.models.spec import ModelSpec, positions

CPU = torch.device("cpu")
Given = dict[str, str]


def test_rope_is_stretched_in_the_configuration_and_in_the_label() -> None:
    own, stretched = model_config("embedded"), model_config("embedded?rope=yarn:4")
    assert stretched.rope_parameters["rope_type"] == "yarn"
    assert stretched.rope_parameters["factor"] == 4
    assert stretched.rope_parameters["original_max_position_embeddings"] == own.max_position_embeddings
    assert stretched.max_position_embeddings == 4 * own.max_position_embeddings
    assert model_label("embedded?rope=yarn:4") == "embedded?rope=yarn:4"
    assert model_label("embedded?rope=yarn:4", "vllm") == "embedded?rope=yarn:4@vllm"
    network, _ = load_model("random:embedded?rope=yarn:4", device=CPU, dtype=torch.float32)
    assert network.config.get_text_config().rope_parameters["rope_type"] == "yarn"


def test_rotary_scaling_of_a_configuration_counts_without_its_length() -> None:
    card = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768, "rope_theta": 1e6}
    assert positions(LlamaConfig(max_position_embeddings=32768, rope_parameters=card)) == 131072
    long = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192, "rope_theta": 1e6}
    long |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    assert positions(LlamaConfig(max_position_embeddings=131072, rope_parameters=long)) == 131072
    assert positions(LlamaConfig(max_position_embeddings=4096)) == 4096


def test_changes_are_part_of_the_name_in_one_order() -> None:
    assert ModelSpec.parse("folder?rope=yarn:4&a=1") == ModelSpec.parse("folder?a=1&rope=yarn:4")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("rope=yarn", "write e.g. yarn:4"),
        ("rope=yarn:half", "write e.g. yarn:4"),
        ("rope", "not one new key=value"),
        ("no_such_key=1", "has no key 'no_such_key'"),
        ("device_map=anywhere", "device_map is one of auto, balanced, balanced_low_0, sequential, not anywhere"),
        ("revision=a b", "revision may have only letters"),
        ("revision=main", "'embedded' has no revisions"),
        ("dtype=float32", "give --dtype"),
        ("attn_implementation=eager", "dense:impl=fa2"),
        ("trust_remote_code=true", "never run"),
    ],
)
def test_changes_that_no_model_takes_are_one_line(query: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        model_config(f"embedded?{query}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "config", "tokenizer", "model"),
    [
        ("someone/model", {}, {}, {}),
        ("someone/model?revision=v2&variant=fp16", {"revision": "v2"}, {"revision": "v2"}, {"variant": "fp16"}),
        ("embedded?device_map=auto", {}, {}, {"device_map": "auto"}),
        ("embedded?experts_implementation=batched_mm", {}, {}, {"experts_implementation": "batched_mm"}),
    ],
)
def test_arguments_of_loading_reach_transformers(
    monkeypatch: pytest.MonkeyPatch, name: str, config: Given, tokenizer: Given, model: Given
) -> None:
    known = model_config("embedded")
    asked: dict[Any, Given] = {}

    def ask(reader: Any, answer: Any) -> None:
        def read(**given: Any) -> Any:
            asked[reader] = given
            return answer

        monkeypatch.setattr(reader, "from_pretrained", read)

    loaded = LlamaForCausalLM(LlamaConfig(num_hidden_layers=1, hidden_size=32, intermediate_size=8, vocab_size=8))
    ask(AutoConfig, known)
    ask(AutoTokenizer, None)
    ask(AutoModelForCausalLM, (loaded, {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": []}))
    load_model(name, device=CPU, dtype=torch.float32)
    taken = {"revision", "variant", "device_map", "experts_implementation"}
    found = [{key: asked[reader][key] for key in taken & asked[reader].keys()} for reader in asked]
    assert found == [config, tokenizer, tokenizer | model]
    assert model_label(name).partition("?")[2] == name.partition("?")[2]


@pytest.mark.parametrize("query", ["device_map=auto", "variant=fp16"])
def test_random_weights_take_no_arguments_of_stored_ones(query: str) -> None:
    with pytest.raises(UsageError, match="needs stored weights"):
        load_model(f"random:embedded?{query}", device=CPU, dtype=torch.float32)


def test_models_that_sdpa_does_not_take_run_eager() -> None:
    assert _taken_attention(GptOssConfig(), "sdpa") == "eager"
    assert _taken_attention(LlamaConfig(), "sdpa") == "sdpa"


@pytest.mark.parametrize(("content", "message"), [(None, "cannot be read"), (b"no", "is not a GGUF file")])
def test_files_that_are_not_gguf_are_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    for ask in (model_label, model_config, model_facts):
        with pytest.raises(UnavailableError, match=message) as caught:
            ask(str(path))
        assert "\n" not in str(caught.value)


def tiny_gguf(path: Path) -> None:
    """Write a Llama of one layer with random weights."""
    gguf = pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    writer = gguf.GGUFWriter(path, "llama")
    tokens = ["<s>", "</s>", *map(chr, range(97, 123)), "ab", "cd"]
    for add, value in (
        (writer.add_context_length, 256), (writer.add_embedding_length, 64), (writer.add_block_count, 1),
        (writer.add_feed_forward_length, 32), (writer.add_head_count, 1), (writer.add_head_count_kv, 1),
        (writer.add_rope_freq_base, 1e4), (writer.add_layer_norm_rms_eps, 1e-5), (writer.add_vocab_size, len(tokens)),
        (writer.add_file_type, int(gguf.LlamaFileType.MOSTLY_Q8_0)), (writer.add_tokenizer_model, "gpt2"),
        (writer.add_token_list, tokens), (writer.add_token_types, [3, 3] + [1] * (len(tokens) - 2)),
        (writer.add_token_merges, ["a b", "c d"]), (writer.add_bos_token_id, 0), (writer.add_eos_token_id, 1),
    ):  # fmt: skip
        add(value)
    shapes = {"token_embd": (len(tokens), 64), "output": (len(tokens), 64), "output_norm": (64,)}
    shapes |= {f"blk.0.{name}": (64, 64) for name in ("attn_q", "attn_k", "attn_v", "attn_output")}
    shapes |= {"blk.0.attn_norm": (64,), "blk.0.ffn_norm": (64,)}
    shapes |= {"blk.0.ffn_gate": (32, 64), "blk.0.ffn_up": (32, 64), "blk.0.ffn_down": (64, 32)}
    draws = torch.Generator().manual_seed(0)
    for name, shape in shapes.items():
        weight = torch.randn(shape, generator=draws).numpy()
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", weight)
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(f"{name}.weight", gguf.quants.quantize(weight, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_is_a_model(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    tiny_gguf(path)
    digits = sha256(path.read_bytes()).hexdigest()[:8]
    assert model_label(f"{path}?rope=yarn:4") == f"tiny.gguf@Q8_0-{digits}?rope=yarn:4"
    facts = model_facts(f"{path}?rope=yarn:4")
    assert (facts.layers, facts.positions) == (1, 1024)
    network, tokenizer = load_model(str(path), device=CPU, dtype=torch.float32)
    assert len(tokenizer) == network.config.vocab_size
    assert not getattr(network, "is_quantized", False)
    assert network(torch.tensor([[2, 3, 4]])).logits.isfinite().all()
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(UnavailableError, match=r"GGUF|loaded") as caught:
        model_config(str(path))
    assert "\n" not in str(caught.value)


def checkpoint(folder: Path, change: Callable[[dict[str, torch.Tensor]], None], config: Any = None) -> str:
    """Write a tiny Llama whose weights were changed, with another configuration where one is given."""
    sizes = {"vocab_size": 32, "hidden_size": 64, "intermediate_size": 32, "num_attention_heads": 1}
    sizes |= {"num_key_value_heads": 1}
    set_seed(0)
    AutoModelForCausalLM.from_config(LlamaConfig(**sizes, num_hidden_layers=2)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(embedded.path()).save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    if config is not None:
        config(**sizes, num_hidden_layers=2).save_pretrained(folder)
    return str(folder)


def without_a_layer(weights: dict[str, torch.Tensor]) -> None:
    for key in [key for key in weights if ".layers.1." in key]:
        del weights[key]


def renamed(weights: dict[str, torch.Tensor]) -> None:
    for key in list(weights):
        weights[f"other.{key}"] = weights.pop(key)


def not_a_number(weights: dict[str, torch.Tensor]) -> None:
    weights["model.norm.weight"][3] = float("nan")


def of_another_shape(weights: dict[str, torch.Tensor]) -> None:
    weights["model.norm.weight"] = torch.ones(63)


def unchanged(weights: dict[str, torch.Tensor]) -> None:
    return None


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        (without_a_layer, None, r"lacks model.layers.1.input_layernorm.weight, .* and 6 more"),
        (renamed, None, r"lacks lm_head.weight, .* does not use other.lm_head.weight"),
        (not_a_number, None, "not finite in model.norm.weight"),
        (of_another_shape, None, "another shape of model.norm.weight"),
        (unchanged, Qwen2Config, "lacks model.layers.0.self_attn.k_proj.bias"),
    ],
)
def test_checkpoints_without_their_weights_are_refused_by_name(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], None], config: Any, message: str
) -> None:
    name = checkpoint(tmp_path, change, config)
    with pytest.raises(UnavailableError, match=message) as caught:
        load_model(name, device=CPU, dtype=torch.float32)
    assert "\n" not in str(caught.value)


def test_a_whole_checkpoint_is_loaded(tmp_path: Path) -> None:
    network, _ = load_model(checkpoint(tmp_path, unchanged), device=CPU, dtype=torch.float32)
    assert network(torch.tensor([[2, 3, 4]])).logits.isfinite().all()


def test_bars_of_a_worker_hold_no_semaphore() -> None:
    no_progress_bars()
    assert list(tqdm([1], disable=True)) == [1]
    assert isinstance(tqdm.get_lock(), type(threading.RLock()))
