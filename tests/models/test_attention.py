"""Methods inside models: dense is SDPA's result, what a method does not define is honoured and counted, all undone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GlmConfig,
    GptOssConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    StaticCache,
    set_seed,
)

from fp_bench.errors import UnsupportedError, UsageError
from fp_bench.methods.base import Method
from fp_bench.methods.dense import Dense
from fp_bench.methods.flashprefill import FlashPrefill
from fp_bench.methods.xattention import XAttention
from fp_bench.models.attention import SparsePrefill

LENGTH = 640
LAYERS = 2
SIZES: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 128,
    "intermediate_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "max_position_embeddings": 2048,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
PLAIN: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SIZES),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES),
    "qwen3_moe": Qwen3MoeConfig(**SIZES, **EXPERTS),
    "mistral": MistralConfig(**SIZES, sliding_window=None),
    "phi3": Phi3Config(**{key: size for key, size in SIZES.items() if key != "head_dim"}),
    "glm": GlmConfig(**SIZES),
}
# Two layers: the first with a window of 100, the second full.
WINDOWED: dict[str, PretrainedConfig] = {
    "gemma2": Gemma2Config(**SIZES, sliding_window=100, attn_logit_softcapping=None),
    "gemma3": Gemma3TextConfig(
        **SIZES, sliding_window=100, layer_types=["sliding_attention", "full_attention"], query_pre_attn_scalar=64
    ),
}


def keeps_all() -> Method:
    return FlashPrefill.from_options({"alpha": 0}, backend="torch")


def keeps_little() -> Method:
    """Sinks and the diagonal only."""
    options = {"alpha": 2, "sink_blocks": 1, "window_blocks": 1, "last_full_blocks": 0}
    return FlashPrefill.from_options(options, backend="torch")


def build(config: PretrainedConfig, attention: str = "sdpa", model_class: Any = AutoModelForCausalLM) -> Any:
    set_seed(0)
    make = model_class.from_config if model_class is AutoModelForCausalLM else model_class._from_config
    model = make(config, attn_implementation=attention).eval()
    # Large weights, so that attention is far from uniform and a wrong mask shows.
    for name, weight in model.named_parameters():
        if "proj" in name and weight.dim() == 2:
            torch.nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
    return model


def tokens(length: int = LENGTH, batch: int = 1) -> Tensor:
    return torch.randint(3, 128, (batch, length), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits(model: Any, ids: Tensor, **inputs: Any) -> Tensor:
    return model(input_ids=ids, **inputs).logits


def assert_same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-3)


def differs(found: Tensor, expected: Tensor) -> bool:
    return (found - expected).abs().max() > 1e-2


@pytest.mark.parametrize("architecture", PLAIN)
def test_plain_causal_models(architecture: str) -> None:
    model, ids = build(PLAIN[architecture]), tokens()
    expected = logits(model, ids)
    with SparsePrefill(model, Dense()) as dense:
        assert_same(logits(model, ids), expected)
    with SparsePrefill(model, keeps_all(), measure_selection=True) as everything:
        assert_same(logits(model, ids), expected)
    with SparsePrefill(model, keeps_little(), measure_selection=True) as little:
        assert differs(logits(model, ids), expected)
    for layer in range(LAYERS):
        assert dict(dense.counts.layers[layer].dense) == {"dense ran dense": 1}
        assert (everything.counts.layers[layer].sparse, little.counts.layers[layer].sparse) == (1, 1)
    assert everything.counts.density() == 1
    # 5 blocks: the diagonal each, and the first one in all rows but the first.
    n = ids.shape[1]
    own = sum(size * (size + 1) / 2 for size in (128, 128, 128, 128, n - 512))
    assert little.counts.density() == pytest.approx((own + 128 * (n - 128)) / (n * (n + 1) / 2))
    assert dense.counts.density() == 1
    assert dense.counts.density_sparse() is None
    assert torch.equal(logits(model, ids), expected)


@pytest.mark.parametrize("architecture", WINDOWED)
def test_windows_are_honoured_and_counted(architecture: str) -> None:
    # Eager, since SDPA of transformers does not take Gemma 2.
    model, ids = build(WINDOWED[architecture], "eager"), tokens()
    expected = logits(model, ids)
    with SparsePrefill(model, keeps_all()) as prefill:
        assert_same(logits(model, ids), expected)
    assert dict(prefill.counts.layers[0].dense) == {"sliding window": 1}
    assert prefill.counts.layers[1].sparse == 1


def test_a_window_wider_than_the_prompt_is_plain_causal() -> None:
    model = build(MistralConfig(**SIZES, sliding_window=400))
    for length, sparse in ((400, LAYERS), (401, 0)):
        ids = tokens(length)
        expected = logits(model, ids)
        with SparsePrefill(model, keeps_all()) as prefill:
            assert_same(logits(model, ids), expected)
        assert prefill.counts.sparse == sparse


def test_soft_caps_equal_the_models_own_attention() -> None:
    model = build(Gemma2Config(**SIZES, sliding_window=100, attn_logit_softcapping=2.0), "eager")
    ids = tokens(300)
    expected = logits(model, ids)
    with SparsePrefill(model, keeps_all()) as prefill:
        assert_same(logits(model, ids), expected)
    assert prefill.counts.dense == {"soft cap": LAYERS}


def test_sinks_equal_the_models_own_attention() -> None:
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 100}
    model = build(
        GptOssConfig(**SIZES | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, **experts), "eager"
    )
    for layer in model.model.layers:
        torch.nn.init.normal_(layer.self_attn.sinks)
    ids = tokens(300)
    expected = logits(model, ids)
    with SparsePrefill(model, keeps_all()) as prefill:
        assert_same(logits(model, ids), expected)
    assert prefill.counts.dense == {"attention sinks": LAYERS}


def padded(side: str) -> dict[str, Tensor]:
    """Return a batch of two prompts, 800 and 650 tokens, of which the second one is padded."""
    mask = torch.ones(2, 800, dtype=torch.long)
    mask[1, slice(0, 150) if side == "left" else slice(650, 800)] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return {"input_ids": tokens(800, batch=2) * mask, "attention_mask": mask, "position_ids": positions}


def test_left_padding_hides_the_padding_under_a_soft_cap() -> None:
    model = build(Gemma2Config(**SIZES, sliding_window=100, attn_logit_softcapping=2.0), "eager")
    batch = padded("left")
    mask = batch["attention_mask"].bool()
    expected = logits(model, batch.pop("input_ids"), **batch)
    with SparsePrefill(model, keeps_little()) as prefill:
        found = logits(model, padded("left")["input_ids"], **batch)
    assert_same(found[mask], expected[mask])
    assert prefill.counts.dense == {"soft cap": LAYERS}


@pytest.mark.parametrize("side", ["left", "right"])
def test_each_prompt_of_a_padded_batch_is_answered_as_alone(side: str) -> None:
    model, batch = build(PLAIN["qwen3"]), padded(side)
    mask = batch["attention_mask"].bool()
    with SparsePrefill(model, keeps_little()) as prefill:
        alone = [logits(model, ids[real][None]) for ids, real in zip(batch["input_ids"], mask, strict=True)]
        prefill.counts.clear()
        found = logits(model, batch.pop("input_ids"), **batch)
    assert_same(found[mask], torch.cat(alone, dim=1)[0])
    assert str(prefill.counts) == f"{2 * LAYERS} sparse; dense: none"


def test_a_padded_batch_that_keeps_everything_equals_dense_attention() -> None:
    model, batch = build(PLAIN["llama"]), padded("left")
    ids, mask = batch.pop("input_ids"), batch["attention_mask"].bool()
    expected = logits(model, ids, **batch)
    with SparsePrefill(model, keeps_all(), measure_selection=True) as prefill:
        assert_same(logits(model, ids, **batch)[mask], expected[mask])
    assert prefill.counts.density() == 1.0


def test_a_padded_batch_generates_what_its_prompts_do_alone() -> None:
    model, batch = build(PLAIN["llama"]), padded("left")
    new = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    with SparsePrefill(model, keeps_little()) as prefill:
        together = model.generate(batch["input_ids"], attention_mask=batch["attention_mask"], **new)[:, 800:]
        assert (prefill.counts.sparse, dict(prefill.counts.dense)) == (2 * LAYERS, {"decode": 3 * LAYERS})
        for row, start in enumerate((0, 150)):
            alone = batch["input_ids"][row : row + 1, start:]
            assert torch.equal(
                model.generate(alone, attention_mask=torch.ones_like(alone), **new)[0, 800 - start :], together[row]
            )


def test_a_mask_without_padding_is_plain_causal() -> None:
    model, ids = build(PLAIN["llama"]), tokens(300, batch=2)
    with SparsePrefill(model, keeps_all()) as prefill:
        logits(model, ids, attention_mask=torch.ones_like(ids))
    assert prefill.counts.sparse == LAYERS


def test_a_4d_mask_is_honoured() -> None:
    model, ids = build(PLAIN["llama"]), tokens(300)
    mask = torch.ones(300, 300, dtype=torch.bool).tril()[None, None]
    mask[..., 200:, 50:60] = False
    expected = logits(model, ids, attention_mask=mask)
    assert differs(expected, logits(model, ids))
    with SparsePrefill(model, keeps_little()) as prefill:
        assert_same(logits(model, ids, attention_mask=mask), expected)
    assert prefill.counts.dense == {"custom mask": LAYERS}


@pytest.mark.parametrize("use_cache", [False, True])
@pytest.mark.parametrize("told_by", ["positions", "bounds"])
def test_packed_rows_do_not_see_each_other(use_cache: bool, told_by: str) -> None:
    model, ids = build(PLAIN["qwen2"]), tokens(1300)
    positions = torch.cat([torch.arange(500), torch.arange(800)])[None]
    told = {"position_ids": positions}
    if told_by == "bounds":
        # RoPE is relative, so that positions without a restart give the same.
        bounds = torch.tensor([0, 500, 1300])
        told = {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds}
    with SparsePrefill(model, keeps_little()) as prefill:
        expected = torch.cat([logits(model, ids[:, :500]), logits(model, ids[:, 500:])], dim=1)
        prefill.counts.clear()
        assert_same(logits(model, ids, use_cache=use_cache, **told), expected)
    assert str(prefill.counts) == f"{2 * LAYERS} sparse; dense: none"


def test_packed_rows_beside_others_are_refused() -> None:
    model, ids, bounds = build(PLAIN["qwen2"]), tokens(300, batch=2), torch.tensor([0, 200, 600])
    with SparsePrefill(model, keeps_all()), pytest.raises(UnsupportedError, match="pack into one row, uncached"):
        logits(model, ids, cu_seq_lens_q=bounds, cu_seq_lens_k=bounds)


def test_generate_is_sparse_in_prefill_and_dense_in_decode() -> None:
    model, ids = build(PLAIN["llama"]), tokens(300)
    greedy = {"max_new_tokens": 4, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    expected = model.generate(ids, **greedy)
    with SparsePrefill(model, keeps_all()) as prefill:
        assert torch.equal(model.generate(ids, **greedy), expected)
    for calls in prefill.counts.layers.values():
        assert (calls.sparse, dict(calls.dense)) == (1, {"decode": 3})
    assert str(prefill.counts) == f"{LAYERS} sparse; dense: {3 * LAYERS} decode"


@pytest.mark.parametrize("method", [Dense(), keeps_all()], ids=["dense", "flashprefill"])
@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_generate_with_a_static_cache(architecture: str, method: Method) -> None:
    model, ids = build((PLAIN | WINDOWED)[architecture]), tokens(300)
    greedy = {"max_new_tokens": 4, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    expected = model.generate(ids, **greedy)
    with SparsePrefill(model, method) as prefill:
        assert torch.equal(model.generate(ids, cache_implementation="static", **greedy), expected)
    assert prefill.counts.layers[LAYERS - 1].dense["decode"] == 3
    assert prefill.counts.layers[LAYERS - 1].sparse == (method.name == "flashprefill")


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("cut", [256, 200])
def test_chunks_equal_the_whole_prompt(static: bool, cut: int) -> None:
    model, ids = build(PLAIN["llama"]), tokens()
    expected = logits(model, ids)
    cache = StaticCache(config=model.config, max_cache_len=700) if static else None
    with SparsePrefill(model, keeps_all(), dense_layers=1) as prefill, torch.no_grad():
        prefill.last_chunk = False
        first = model(ids[:, :cut], past_key_values=cache, use_cache=True)
        prefill.last_chunk = True
        second = model(ids[:, cut:], past_key_values=first.past_key_values)
    assert_same(torch.cat([first.logits, second.logits], dim=1), expected)
    assert prefill.counts.layers[0].dense == {"one of the layers asked to run dense": 2}
    assert prefill.counts.layers[1].sparse == 2


def test_density_is_of_all_layers_and_beside_it_of_those_that_ran_sparse() -> None:
    model, ids = build(PLAIN["llama"]), tokens()
    with SparsePrefill(model, keeps_little(), dense_layers=1, measure_selection=True) as prefill:
        logits(model, ids)
    sparse = prefill.counts.density_sparse()
    assert 0 < sparse < 1
    assert prefill.counts.sparse_layers == LAYERS - 1
    assert prefill.counts.density() == pytest.approx((1 + (LAYERS - 1) * sparse) / LAYERS)
    fields = prefill.counts.fields("flashprefill")
    assert (fields["density"], fields["density_sparse"]) == (prefill.counts.density(), sparse)
    assert fields["density_of"] == "causal query-key pairs"


def test_chunks_at_block_bounds_select_what_the_whole_prompt_does() -> None:
    model, ids = build(PLAIN["llama"]), tokens()
    method = FlashPrefill.from_options({"alpha": 2, "window_blocks": 1, "last_full_blocks": 1}, backend="torch")
    with SparsePrefill(model, method, measure_selection=True) as prefill, torch.no_grad():
        expected = model(ids).logits
        whole = prefill.counts.density()
        prefill.counts.clear()
        prefill.last_chunk = False
        first = model(ids[:, :256], use_cache=True)
        prefill.last_chunk = True
        second = model(ids[:, 256:], past_key_values=first.past_key_values)
    assert_same(torch.cat([first.logits, second.logits], dim=1), expected)
    assert prefill.counts.density() == pytest.approx(whole)


@pytest.mark.parametrize("additive", [False, True])
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("architecture", WINDOWED)
def test_chunks_with_a_window_equal_the_whole_prompt(architecture: str, static: bool, additive: bool) -> None:
    model, ids = build(WINDOWED[architecture], "eager"), tokens(500)
    expected = logits(model, ids)
    model._supports_sdpa = not additive  # a model without SDPA is given additive masks
    cache = StaticCache(config=model.config, max_cache_len=600) if static else None
    outputs = []
    with SparsePrefill(model, keeps_all()) as prefill, torch.no_grad():
        for chunk in ids.split([90, 180, 230], dim=1):
            outputs.append(model(chunk, past_key_values=cache, use_cache=True))
            cache = outputs[-1].past_key_values
    assert_same(torch.cat([output.logits for output in outputs], dim=1), expected)
    assert prefill.counts.layers[1].sparse == 3
    assert prefill.counts.layers[0].dense["sliding window"] == 2


def test_generate_in_chunks() -> None:
    model, ids = build(PLAIN["llama"]), tokens(600)
    greedy = {"max_new_tokens": 3, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    expected = model.generate(ids, **greedy)
    with SparsePrefill(model, keeps_all()) as prefill:
        assert torch.equal(model.generate(ids, prefill_chunk_size=256, **greedy), expected)
    assert prefill.counts.sparse == 2 * LAYERS
    assert prefill.counts.dense == {"less than a block after cached keys": LAYERS, "decode": 2 * LAYERS}


def test_drafted_tokens_are_no_prefill() -> None:
    model = build(PLAIN["llama"])
    ids = tokens(100).repeat(1, 3)  # what comes again is drafted
    greedy = {"max_new_tokens": 12, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    expected = model.generate(ids, prompt_lookup_num_tokens=4, **greedy)
    with SparsePrefill(model, XAttention.from_options({"tau": 0.3}, backend="torch")) as prefill:
        first = model.generate(ids, prompt_lookup_num_tokens=4, **greedy)
        drafted = prefill.counts.dense
        calls = prefill.counts.sparse
        prefill.counts.clear()
        model.generate(ids, **greedy)
    assert first.shape[1] == expected.shape[1]
    assert drafted["less than a block after cached keys"] > 0
    assert calls == prefill.counts.sparse == LAYERS


def test_a_model_without_attention_is_refused() -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "vocab_size": 128}
    with pytest.raises(UnsupportedError, match="MambaForCausalLM has no attention layers"):
        SparsePrefill(AutoModelForCausalLM.from_config(MambaConfig(**sizes)), keeps_all())


def test_a_model_compiled_as_one_graph_is_refused_in_one_line() -> None:
    model = build(PLAIN["llama"])
    with (
        pytest.raises(UnsupportedError, match="fullgraph=True"),
        SparsePrefill(torch.compile(model, fullgraph=True), keeps_all()),
    ):
        pass
    assert model.config._attn_implementation == "sdpa"


def test_a_mask_makes_layers_causal_that_do_not_say_so() -> None:
    model, ids = build(PLAIN["llama"], "eager"), tokens(300)
    expected = logits(model, ids)
    for layer in model.model.layers:
        layer.self_attn.is_causal = False
    model._supports_sdpa = False  # so that its mask is written out
    with SparsePrefill(model, keeps_all()) as prefill:
        assert_same(logits(model, ids), expected)
    assert prefill.counts.sparse == LAYERS


def test_a_padded_chunk_sees_what_is_cached_of_its_own_prompt() -> None:
    model, ids = build(PLAIN["llama"]), tokens(820)
    mask = torch.ones_like(ids)
    mask[:, :20] = 0
    with SparsePrefill(model, keeps_little()) as prefill, torch.no_grad():
        both = []
        for start in (0, 20):  # padded, and the prompt alone
            first = model(ids[:, start:404], attention_mask=mask[:, start:404], use_cache=True)
            second = model(ids[:, 404:], attention_mask=mask[:, start:], past_key_values=first.past_key_values)
            both.append(torch.cat([first.logits[:, 20 - start :], second.logits], dim=1))
    assert_same(*both)
    assert str(prefill.counts) == f"{4 * LAYERS} sparse; dense: none"


def test_head_sizes_that_kernels_do_not_take_go_dense_whole_or_in_chunks() -> None:
    model, ids = build(LlamaConfig(**SIZES | {"head_dim": 32})), tokens(300)
    expected = logits(model, ids)
    with SparsePrefill(model, keeps_little()) as prefill, torch.no_grad():
        assert_same(logits(model, ids), expected)
        first = model(ids[:, :130], use_cache=True)
        second = model(ids[:, 130:], past_key_values=first.past_key_values)
    assert_same(torch.cat([first.logits, second.logits], dim=1), expected)
    assert prefill.counts.dense == {"head_dim 32 is not one of 64, 128, 256": 3 * LAYERS}


def test_dtypes_that_kernels_do_not_take_go_dense() -> None:
    model, ids = build(PLAIN["llama"]).double(), tokens(300)
    expected = logits(model, ids)
    with SparsePrefill(model, keeps_little()) as prefill:
        assert_same(logits(model, ids), expected)
    assert prefill.counts.dense == {"dtype torch.float64 is not one of float16, bfloat16, float32": LAYERS}


def test_training_and_gradients_go_dense() -> None:
    model, ids = build(PLAIN["llama"]), tokens(300)
    with SparsePrefill(model, keeps_little()) as prefill:
        model(ids).logits.sum().backward()
        model.train()
        logits(model, ids)
    assert model.model.layers[0].self_attn.q_proj.weight.grad.abs().sum() > 0
    assert prefill.counts.dense == {"gradients": LAYERS, "training": LAYERS}


def test_two_models_at_once_and_both_restored() -> None:
    first, second, ids = build(PLAIN["llama"]), build(PLAIN["qwen3"], "eager"), tokens(300)
    known = set(AttentionInterface().keys())
    with SparsePrefill(first, keeps_all()) as one, SparsePrefill(second, Dense()) as other:
        logits(first, ids)
        logits(second, ids)
        with pytest.raises(UsageError, match="already in use"):
            one.__enter__()
    assert one.counts.sparse == LAYERS
    assert other.counts.sparse == 0
    assert (first.config._attn_implementation, second.config._attn_implementation) == ("sdpa", "eager")
    assert set(AttentionInterface().keys()) == known


def test_an_error_inside_still_restores() -> None:
    model = build(PLAIN["llama"])
    with pytest.raises(KeyError), SparsePrefill(model, keeps_all()):
        raise KeyError
    assert model.config._attn_implementation == "sdpa"


def test_a_set_of_layers_runs_dense() -> None:
    model, ids = build(PLAIN["llama"]), tokens()
    with SparsePrefill(model, keeps_all(), dense_layers={LAYERS - 1}) as prefill, torch.no_grad():
        model(ids)
    assert [bool(calls.dense) for calls in prefill.counts.layers.values()] == [False] * (LAYERS - 1) + [True]
    with pytest.raises(UsageError, match=rf"layer {LAYERS} is not in 0\.\.{LAYERS - 1}"):
        SparsePrefill(model, keeps_all(), dense_layers=[0, LAYERS])


def test_more_dense_layers_than_layers_are_refused() -> None:
    with pytest.raises(UsageError, match=rf"dense_layers 3 is not in 0\.\.{LAYERS}"):
        SparsePrefill(build(PLAIN["llama"]), keeps_all(), dense_layers=3)


def test_a_model_without_replaceable_attention_is_refused_and_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(PLAIN["llama"])
    monkeypatch.setattr(type(model), "_can_set_attn_implementation", staticmethod(lambda: False))
    monkeypatch.setattr(type(model.model), "_can_set_attn_implementation", staticmethod(lambda: False))
    with pytest.raises(UnsupportedError, match="does not allow its attention to be replaced"):
        SparsePrefill(model, keeps_all()).__enter__()
    assert model.config._attn_implementation == "sdpa"


VISION = {"depth": 2, "num_heads": 2, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
SPECIAL = {"image_token_id": 120, "video_token_id": 121, "vision_start_token_id": 122, "vision_end_token_id": 123}
MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [8, 12, 12]}


def qwen2_5_vl() -> Any:
    vision = VISION | {"hidden_size": 32, "intermediate_size": 32, "out_hidden_size": 128}
    text = SIZES | {"rope_parameters": MROPE}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **SPECIAL)
    return build(config, model_class=Qwen2_5_VLForConditionalGeneration)


def qwen3_vl() -> Any:
    vision = VISION | {"hidden_size": 32, "intermediate_size": 32, "out_hidden_size": 128}
    vision |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 64}
    text = SIZES | {"rope_parameters": MROPE}
    config = Qwen3VLConfig(text_config=text, vision_config=vision, **SPECIAL)
    return build(config, model_class=Qwen3VLForConditionalGeneration)


@pytest.mark.parametrize("make", [qwen2_5_vl, qwen3_vl])
def test_vision_language_models_are_swapped_in_the_language_model_only(make: Callable[[], Any]) -> None:
    model, ids = make(), tokens(400).clamp(max=119)
    ids[:, 50], ids[:, 51:67], ids[:, 67] = 122, 120, 123
    image = {
        "pixel_values": torch.randn(64, 3 * 2 * 14 * 14, generator=torch.Generator().manual_seed(2)),
        "image_grid_thw": torch.tensor([[1, 8, 8]]),
        "mm_token_type_ids": (ids == 120).int(),
    }
    expected = logits(model, ids, **image)
    with SparsePrefill(model, keeps_all()) as everything:
        assert model.config.vision_config._attn_implementation == "sdpa"
        assert_same(logits(model, ids, **image), expected)
    with SparsePrefill(model, keeps_little()):
        assert differs(logits(model, ids, **image), expected)
    assert everything.counts.sparse == LAYERS
    assert not everything.counts.dense
    assert torch.equal(logits(model, ids, **image), expected)
