"""FlexPrefill and XAttention as methods."""

import json

import pytest
import torch

from fp_bench.errors import UsageError
from fp_bench.kernels.attention import reference
from fp_bench.kernels.xattention import select_antidiagonal
from fp_bench.methods.base import AttentionCall
from fp_bench.methods.flashprefill_v2 import FlashPrefillV2
from fp_bench.methods.flexprefill import FlexPrefill
from fp_bench.methods.minference import MInference
from fp_bench.methods.registry import Spec, create_method
from fp_bench.methods.xattention import XAttention, official_first_chunk
from tests.kernels.calls import Case, relative_error

KEEP_EVERYTHING = ["xattention:tau=1.01", "flexprefill:gamma=0.9999:min_budget=2000"]


def a_call(device="cpu", **changes):
    case = Case(**({"q_len": 1100, "kv_len": 1100, "q_heads": 4, "kv_heads": 2, "head_dim": 128} | changes))
    return AttentionCall(*case.tensors(device), case.scale)


def selected_twice_without_a_sync(text):
    """On a GPU: attend right over what a method selects, select once more with syncs forbidden; return both."""
    method = create_method(Spec.parse(text))
    call = a_call("cuda", batch=2, q_len=3000, kv_len=3000, dtype=torch.bfloat16)
    index = method.select(call)
    expected = reference.attention(call.q, call.k, call.v, scale=call.scale, index=index).out
    assert relative_error(method.attend(call, index), expected) < 1e-2
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        return index, method.select(call)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("text", KEEP_EVERYTHING)
def test_settings_that_keep_everything_are_dense_attention(text):
    call = a_call(batch=2)
    expected = reference.attention(call.q, call.k, call.v, scale=call.scale).out
    assert relative_error(create_method(Spec.parse(text))(call), expected) < 1e-5


@pytest.mark.parametrize(
    "text", ["xattention", "xattention:official_quirks=false", "flexprefill:tau=0.3:min_budget=128"]
)
def test_output_is_attention_over_what_was_selected(text):
    method, call = create_method(Spec.parse(text)), a_call()
    index = method.select(call)
    assert 0 < index.density().mean() < 1
    expected = reference.attention(call.q, call.k, call.v, scale=call.scale, index=index).out
    assert relative_error(method(call), expected) < 1e-5
    assert method.implementation(call, index) == "torch"


@pytest.mark.parametrize("method", [FlexPrefill(), XAttention()])
def test_one_query_is_dense(method):
    call = a_call(q_len=1)
    assert method.unsupported(call) is None
    assert method.select(call) is None
    assert method.implementation(call, None) == "sdpa_cpu"


def test_flexprefill_is_dense_up_to_its_budget_and_refuses_chunks():
    assert FlexPrefill().select(a_call(q_len=1024, kv_len=1024)) is None
    assert FlexPrefill().select(a_call(q_len=1025, kv_len=1025)) is not None
    assert FlexPrefill.from_options({"min_budget": 1}).select(a_call(q_len=256, kv_len=256)) is None
    assert "whole prompts" in FlexPrefill().unsupported(a_call(q_len=500))


def test_presets_are_those_published():
    assert FlexPrefill.from_options({"preset": "llama-3.1-8b"}).params.gamma == 0.95
    assert XAttention.from_options({"preset": "stride-16"}).params.stride == 16
    with pytest.raises(UsageError, match="stride must divide 128"):
        XAttention.from_options({"stride": "12"})


def test_taus_of_layers_and_heads_from_a_file(tmp_path):
    path = tmp_path / "taus.json"
    path.write_text(json.dumps([[0.5] * 4, [0.0, 0.5, 0.9, 1.1]]))
    method = XAttention.from_options({"tau_file": str(path)})
    call = a_call()
    second = AttentionCall(call.q, call.k, call.v, call.scale, layer=1, layers=2)
    density = method.select(second).density()[0]
    assert density.tolist() == sorted(density.tolist())
    assert density[3] == 1
    for head, tau in enumerate((0.0, 0.5, 0.9, 1.1)):
        alone = XAttention.from_options({"tau": tau}).select(second)
        assert torch.equal(method.select(second).mask()[:, head], alone.mask()[:, head])
    assert "2 layers of 4 heads" in method.unsupported(AttentionCall(call.q, call.k, call.v, call.scale, layer=2))
    before = method.method_hash
    path.write_text(json.dumps([[0.6] * 4, [0.6] * 4]))
    assert XAttention.from_options({"tau_file": str(path)}).method_hash != before


@pytest.mark.parametrize("text", ["", "[]", "[[0.5], [0.5, 0.6]]", "[[-0.1]]", '{"a": 1}', "[[null]]"])
def test_a_file_that_is_no_table_is_a_usage_error(tmp_path, text):
    path = tmp_path / "taus.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="tau_file"):
        XAttention.from_options({"tau_file": str(path)})
    with pytest.raises(UsageError, match="tau_file"):
        XAttention.from_options({"tau_file": str(tmp_path / "none.json")})


@pytest.mark.parametrize(
    ("tokens", "chunk"),
    [(4096, 4096), (8192, 8192), (16384, 16384), (32768, 8192), (65536, 4096), (131072, 2048), (262144, 2048)],
)
def test_the_official_first_chunk(tokens, chunk):
    assert official_first_chunk(tokens) == chunk


def test_the_official_slip_keeps_more():
    call = a_call()
    intended, official = (
        XAttention.from_options({"tau": 0.6, "official_quirks": quirks}).select(call).mask() for quirks in (False, True)
    )
    assert not (intended & ~official).any()
    assert official.sum() > intended.sum()


def test_a_rival_runs_as_its_authors_ship_it_and_as_its_paper_reads_on_request():
    call = a_call()
    official = select_antidiagonal(
        call.q, call.k, torch.full((4,), 0.6), stride=8, scale=call.scale, lagging=16, rounded=True
    )
    assert torch.equal(XAttention.from_options({"tau": 0.6}).select(call).mask(), official.mask())
    for method in (XAttention, FlexPrefill):
        assert method().params.official_quirks
        assert method.from_options({"official_quirks": "false"}).label == f"{method.name}:official_quirks=False"
    script = {"alpha": 0.1, "sink_blocks": 2, "window_blocks": 4, "last_full_rows": 8, "correction": True}
    for method, shipped in ((MInference, {"columns": 1000, "diagonals": 6096}), (FlashPrefillV2, script)):
        assert method().method_hash == method.from_options(shipped).method_hash


@pytest.mark.gpu
@pytest.mark.parametrize("text", ["xattention", "flexprefill:min_budget=128", "flexprefill:tau=0.9"])
def test_on_a_gpu_without_a_sync(text):
    index, again = selected_twice_without_a_sync(text)
    assert torch.equal(again.mask(), index.mask())


@pytest.mark.gpu
@pytest.mark.parametrize("text", KEEP_EVERYTHING)
def test_keep_everything_is_dense_on_a_gpu(text):
    call = a_call("cuda", dtype=torch.bfloat16)
    expected = reference.attention(call.q, call.k, call.v, scale=call.scale).out
    assert relative_error(create_method(Spec.parse(text))(call), expected) < 1e-2
