import pytest
import torch

from fp_bench.errors import UnavailableError, UsageError
from fp_bench.kernels.attention import reference
from fp_bench.kernels.flashprefill import reference as defined_selection
from fp_bench.kernels.flashprefill.prefill import flash_prefill
from fp_bench.kernels.flashprefill.rule import KeepRule
from fp_bench.kernels.pooling import reference as defined_pooling
from fp_bench.methods.base import AttentionCall
from fp_bench.methods.flashprefill import FlashPrefill
from tests.kernels.calls import Case, relative_error


def call_of(case):
    return AttentionCall(*case.tensors(), scale=case.scale)


def test_the_method_is_the_operator():
    call = call_of(Case(q_len=900, kv_len=900, q_heads=4, kv_heads=2))
    method = FlashPrefill.from_options({"alpha": "0.3", "sink_blocks": 1, "window_blocks": 1})
    expected = flash_prefill(call.q, call.k, call.v, alpha=0.3, sink_blocks=1, window_blocks=1)
    torch.testing.assert_close(method(call), expected)


@pytest.mark.parametrize(("preset", "alpha"), [("llama-3.1-8b", 0.18), ("qwen2.5-7b", 0.08), ("qwen3-30b-a3b", 0.12)])
def test_presets_are_the_papers_thresholds(preset, alpha):
    assert FlashPrefill.from_options({"preset": preset}).params.alpha == alpha
    assert FlashPrefill.from_options({"preset": preset, "alpha": 0.5}).params.alpha == 0.5


@pytest.mark.parametrize(
    "options", [{"alpha": -1}, {"alpha": "nan"}, {"sink_blocks": -1}, {"preset": "gpt"}, {"alhpa": 1}, {"backend": "x"}]
)
def test_bad_options_are_one_line(options):
    with pytest.raises(UsageError) as caught:
        FlashPrefill.from_options(options)
    assert "\n" not in str(caught.value)


def test_only_the_last_chunk_has_full_rows():
    case = Case(q_len=512, kv_len=2048, q_heads=1, kv_heads=1)
    q, k, v = case.tensors()
    method = FlashPrefill.from_options({"alpha": 2.0, "last_full_blocks": 2})
    last = method.select(AttentionCall(q, k, v, scale=case.scale))
    middle = method.select(AttentionCall(q, k, v, scale=case.scale, last_chunk=False))
    assert last.counts[0, 0].tolist() == [6, 6, 15, 16]
    assert middle.counts[0, 0].tolist() == [6, 6, 6, 6]


def test_dense_below_a_length_runs_dense_and_selects_nothing():
    case = Case(q_len=900, kv_len=900)
    call = call_of(case)
    method = FlashPrefill.from_options({"alpha": 2.0, "dense_below": 1000})
    assert method.select(call) is None
    dense = reference.attention(call.q, call.k, call.v, scale=case.scale).out
    assert relative_error(method(call), dense) < 1e-5
    assert FlashPrefill.from_options({"alpha": 2.0, "dense_below": 900}).select(call) is not None


def test_dense_above_a_density_runs_dense():
    case = Case(q_len=2048, kv_len=2048, q_heads=1, kv_heads=1)
    call = call_of(case)
    density = float(FlashPrefill.from_options({"alpha": 2.0}).select(call).density().mean())
    for limit, falls_back in ((density - 0.01, True), (density + 0.01, False)):
        method = FlashPrefill.from_options({"alpha": 2.0, "dense_above": limit})
        assert (method.select(call) is None) == falls_back


def test_a_dense_fallback_names_the_dense_kernel():
    call = call_of(Case(q_len=300, kv_len=300))
    method = FlashPrefill.from_options({"dense_below": 1000})
    assert method.implementation(call, method.select(call)) == "sdpa_cpu"
    sparse = FlashPrefill()
    assert sparse.implementation(call, sparse.select(call)) == "torch"


@pytest.mark.parametrize(
    ("rule", "select"), [("topk", defined_selection.select_top_k), ("topp", defined_selection.select_top_p)]
)
def test_ranked_rules_keep_what_is_defined(rule, select):
    case = Case(q_len=900, kv_len=900, q_heads=4, kv_heads=2)
    call = call_of(case)
    method = FlashPrefill.from_options({"rule": rule, "sink_blocks": 1, "window_blocks": 1, "last_full_blocks": 0})
    forced = KeepRule(alpha=0.12, sink_blocks=1, window_blocks=1, last_full_blocks=0)
    share = {"topk": 0.125, "topp": 0.9}[rule]
    expected = select(call.q, defined_pooling.pool_keys(call.k), share, forced, kv_len=900, scale=case.scale)
    assert torch.equal(method.select(call).mask(), expected.mask())


def test_the_threshold_is_hashed_as_before_there_were_other_rules():
    # What published records of flashprefill hold.
    assert FlashPrefill().method_hash == "98923413e5b3"
    assert FlashPrefill.from_options({"rule": "topk"}).label == "flashprefill:rule=topk"


@pytest.mark.parametrize("options", [{"keep": 0.2}, {"mass": 0.5, "rule": "topk"}, {"rule": "topk", "keep": 2}])
def test_sizes_of_another_rule_are_refused(options):
    with pytest.raises(UsageError, match=r"^flashprefill: (keep|mass)") as caught:
        FlashPrefill.from_options(options)
    assert "\n" not in str(caught.value)


def test_fp8_says_in_one_line_where_it_does_not_run():
    fp8 = FlashPrefill.from_options({"precision": "fp8"})
    assert fp8.label == "flashprefill:precision=fp8"
    call = call_of(Case(q_len=300, kv_len=300, head_dim=128))
    with pytest.raises(UnavailableError, match="runs on Hopper GPUs") as caught:
        fp8(call)
    assert "\n" not in str(caught.value)
    with pytest.raises(UnavailableError, match="runs on Hopper GPUs"):
        fp8.attend(call, fp8.select(call))
    assert "head_dim 128, not 64" in fp8.unsupported(call_of(Case()))
    portable = FlashPrefill.from_options({"precision": "fp8", "backend": "triton"})
    assert "backend hopper, not triton" in portable.unsupported(call)
    with pytest.raises(UsageError, match="precision=fp8 has no correction"):
        FlashPrefill.from_options({"precision": "fp8", "correction": "true"})


def test_fp8_selects_what_the_input_precision_selects_and_hashes_apart():
    call = call_of(Case(q_len=900, kv_len=900, head_dim=128))
    fp8, half = FlashPrefill.from_options({"precision": "fp8"}), FlashPrefill()
    assert torch.equal(fp8.select(call).mask(), half.select(call).mask())
    assert fp8.method_hash != half.method_hash
    assert "precision" not in half.params.model_dump()
    assert (fp8.tolerance(), half.tolerance()) == (0.08, None)


def test_only_the_results_in_8_bits_have_a_later_version():
    fp8, half = FlashPrefill.from_options({"precision": "fp8"}), FlashPrefill()
    assert (fp8.results_version(), half.results_version()) == (2, half.version)


def test_fp8_runs_dense_where_it_is_told_to():
    call = call_of(Case(q_len=300, kv_len=300, head_dim=128))
    method = FlashPrefill.from_options({"precision": "fp8", "dense_below": 1000})
    dense = reference.attention(call.q, call.k, call.v, scale=call.scale).out
    assert relative_error(method(call), dense) < 1e-5


def test_a_slower_kernel_than_the_gpu_is_capable_of_is_said_with_its_reason(monkeypatch):
    call = call_of(Case(q_len=300, kv_len=300))
    index = FlashPrefill().select(call)
    assert FlashPrefill().slower_because(call, index) is None  # a CPU is capable of no more
    monkeypatch.setattr("fp_bench.methods.blocks.implementation", lambda *_: "triton")
    monkeypatch.setattr("fp_bench.methods.blocks.hopper_missing", lambda *_: "Triton 4.0 is too new")
    monkeypatch.setattr("fp_bench.methods.blocks.capability", lambda _: 90)
    said = FlashPrefill().slower_because(call, index)
    assert said == "the portable kernel ran instead of the Hopper one: Triton 4.0 is too new"
    assert FlashPrefill(backend="triton").slower_because(call, index) is None  # asked for by name
    monkeypatch.setattr("fp_bench.methods.blocks.capability", lambda _: 80)
    assert FlashPrefill().slower_because(call, index) is None
