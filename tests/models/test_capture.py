"""Capturing: the saved tensors are what attention was called with, and bad requests leave nothing behind."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoModelForCausalLM as Model
from transformers import (
    AutoTokenizer,
    Gemma2Config,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen3Config,
    set_seed,
)

from fp_bench.errors import UnavailableError, UnsupportedError, UsageError
from fp_bench.inputs.captured import MANIFEST, Captured
from fp_bench.inputs.source import Shape
from fp_bench.models import embedded
from fp_bench.models.capture import capture
from fp_bench.models.load import load_model

CPU = torch.device("cpu")
TEXT = "The magic number for quiet harbor is 4821937. " * 40
SIZES = {
    "vocab_size": 6912,
    "hidden_size": 96,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "qwen3": Qwen3Config(**SIZES),
    "granite": GraniteConfig(**SIZES | {"hidden_size": 384}, attention_multiplier=0.5),
}


def save_model(folder: Path, config: PretrainedConfig) -> str:
    set_seed(0)
    # Large weights, so that attention is far from uniform and a wrong scale or mask shows.
    model = Model.from_config(config)
    for name, weight in model.named_parameters():
        if "proj" in name:
            torch.nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(embedded.path()).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def llama(tmp_path: Path) -> str:
    return save_model(tmp_path / "llama", CONFIGS["llama"])


def run(
    model: str, out: Path, lengths: list[int] | None = None, layers: list[int] | None = None, text: str = TEXT
) -> Captured:
    capture(model, lengths or [200], out, layers=layers, text=text, device=CPU, dtype=torch.float32)
    return Captured(out)


def attention_outputs(model: str, tokens: int) -> list[Tensor]:
    """Return what each layer's attention gives before its output projection, eager: ``[tokens, heads * head_dim]``."""
    network, tokenizer = load_model(model, device=CPU, dtype=torch.float32, attention="eager")
    outputs: list[Tensor] = []
    for layer in network.model.layers:
        layer.self_attn.o_proj.register_forward_pre_hook(lambda _module, inputs: outputs.append(inputs[0][0]))
    with torch.no_grad():
        network(torch.tensor([tokenizer(TEXT).input_ids[:tokens]]))
    return outputs


@pytest.mark.parametrize("architecture", CONFIGS)
def test_saved_tensors_reproduce_the_models_attention(tmp_path: Path, architecture: str) -> None:
    model = save_model(tmp_path / architecture, CONFIGS[architecture])
    source = run(model, tmp_path / "out", [100, 200])
    assert source.layers() == [0, 1, 2]
    for length in (100, 200):
        expected = attention_outputs(model, length)
        shape = source.shapes(Shape(1, length, 1, 1, 1))
        assert (shape.q_heads, shape.kv_heads) == (6, 2)
        for layer in source.layers():
            qkv = source.tensors(shape, layer=layer, seed=0, dtype=torch.float32, device=CPU)
            q, k, v = (tensor.transpose(1, 2) for tensor in qkv)
            out = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            torch.testing.assert_close(out[0].transpose(0, 1).flatten(1), expected[layer], atol=1e-4, rtol=1e-3)


def test_manifest_says_what_was_captured_and_no_path(llama: str, tmp_path: Path) -> None:
    manifest = run(llama, tmp_path / "out", [200, 100, 100], [2, 0]).manifest
    assert re.fullmatch("llama@[0-9a-f]{8}", manifest.model)
    assert manifest.lengths == [100, 200]
    assert manifest.layers == [0, 2]
    assert manifest.model_layers == 3
    assert set(manifest.files) == {f"len{n}_layer{i}.safetensors" for n in (100, 200) for i in (0, 2)}
    assert str(tmp_path) not in (tmp_path / "out" / MANIFEST).read_text()


def test_same_text_gives_the_same_capture_and_another_text_another(llama: str, tmp_path: Path) -> None:
    hashes = [run(llama, tmp_path / name, text=text).name.split("@")[1] for name, text in
              (("a", TEXT), ("b", TEXT), ("c", TEXT.replace("quiet", "amber")))]  # fmt: skip
    assert hashes[0] == hashes[1] != hashes[2]


def test_an_earlier_capture_is_replaced_whole(llama: str, tmp_path: Path) -> None:
    run(llama, tmp_path / "out", [100, 200])
    run(llama, tmp_path / "out", [150], [1])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [MANIFEST, "len150_layer1.safetensors"]


def test_a_folder_with_other_files_is_left_alone(llama: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match=r"holds files that are not a capture \(thesis\.txt\)"):
        run(llama, out)
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


def test_a_capture_that_breaks_off_is_not_a_capture(
    llama: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run(llama, out)

    def full_disk(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("fp_bench.models.capture.save_file", full_disk)
    with pytest.raises(OSError, match="no space left"):
        run(llama, out)
    monkeypatch.undo()
    with pytest.raises(UsageError, match="not a finished capture"):
        Captured(out)
    assert run(llama, out).layers() == [0, 1, 2]


@pytest.mark.parametrize(
    ("lengths", "layers", "text", "message"),
    [
        ([200], [3], TEXT, r"layer 3 is not in 0\.\.2"),
        ([200], [-1], TEXT, r"layer -1 is not in 0\.\.2"),
        ([200], [], TEXT, "no layers"),
        ([1024], None, TEXT, "length 1024 exceeds the model's 512 positions"),
        ([100, 200], None, "The door.", "the text has 4 tokens, fewer than length 100"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_written(
    llama: str, tmp_path: Path, lengths: list[int], layers: list[int] | None, text: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        run(llama, tmp_path / "out", lengths, layers, text)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MistralConfig(**SIZES, sliding_window=64), "attention with a window"),
        (Gemma2Config(**SIZES, sliding_window=512), "attention with a soft cap"),
    ],
)
def test_attention_that_is_not_plain_causal_is_refused(tmp_path: Path, config: PretrainedConfig, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        run(save_model(tmp_path / "model", config), tmp_path / "out")


def test_a_window_wider_than_the_text_is_plain_causal(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model", MistralConfig(**SIZES, sliding_window=200))
    assert run(model, tmp_path / "out", [200]).layers() == [0, 1, 2]


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnavailableError, match="cannot be loaded") as caught:
        run(str(tmp_path / "empty"), tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_the_embedded_model_is_captured_without_a_text(tmp_path: Path) -> None:
    manifest = capture("embedded", [512], tmp_path, layers=[4], seed=7, device=CPU, dtype=torch.bfloat16)
    assert (manifest.model, manifest.text, manifest.dtype) == ("embedded", "generated:seed=7", "bfloat16")
    q, k, _ = Captured(tmp_path).tensors(Shape(1, 512, 6, 2, 128), layer=4, seed=0, dtype=torch.bfloat16, device=CPU)
    assert q.shape == (1, 512, 6, 128)
    assert k.shape == (1, 512, 2, 128)
