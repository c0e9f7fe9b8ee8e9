"""TriangleMix as a method: which layers are dense, and what the others read."""

import pytest
import torch

from fp_bench.errors import UsageError
from fp_bench.kernels.attention import reference
from fp_bench.methods.base import AttentionCall
from fp_bench.methods.trianglemix import TriangleMix
from tests.kernels.calls import Case, relative_error


def a_call(layer=0, layers=1, device="cpu", **changes):
    case = Case(**({"batch": 2, "q_len": 331, "kv_len": 331, "q_heads": 4, "kv_heads": 2} | changes))
    return AttentionCall(*case.tensors(device), case.scale, layer=layer, layers=layers)


def small(**options):
    return TriangleMix.from_options({"n_init": 5, "n_local": 70, "n_last": 40} | options)


def keys_of(position, length):
    """What a position reads, counted out."""
    return {j for j in range(position + 1) if j < 5 or position - j < 70 or position >= length - 40}


def test_it_reads_the_triangle_to_the_token():
    call = a_call()
    index = small().select(call)
    rows = torch.tensor([0, 69, 70, 74, 75, 200, 290, 291, 330])
    visible = torch.arange(331) <= rows[:, None]
    read = index.keys_read(1, 3, rows) & visible
    assert [set(row.nonzero().flatten().tolist()) for row in read] == [keys_of(row, 331) for row in rows.tolist()]
    assert index.entries().tolist() == [[sum(len(keys_of(row, 331)) for row in range(331))] * 4] * 2


def test_its_output_is_attention_over_that():
    call, method = a_call(), small()
    expected = reference.attention(call.q, call.k, call.v, scale=call.scale, index=method.select(call)).out
    assert relative_error(method(call), expected) < 1e-5


def test_a_map_of_it_shows_the_last_rows_whole():
    index = small().select(a_call(q_len=320, kv_len=320))
    kept = index.kept_blocks(0).tril()
    assert kept[4, 0] == pytest.approx(40 / 64 + 24 / 64 * index.lines.kept_blocks(0)[4, 0].item())
    assert kept[2, 0] < 1


@pytest.mark.parametrize(("dense_layers", "dense"), [(None, [0, 1]), ("0-2", [0, 1, 2]), ("1+3", [1, 3]), ("9", [])])
def test_a_set_of_layers_is_dense(dense_layers, dense):
    method = small(**({} if dense_layers is None else {"dense_layers": dense_layers}))
    found = [layer for layer in range(4) if method.select(a_call(layer, 4, q_len=100, kv_len=100)) is None]
    assert found == dense


@pytest.mark.parametrize("text", ["", "a", "3-1", "0,1", "1++2"])
def test_what_is_no_set_of_layers_is_one_line(text):
    with pytest.raises(UsageError, match="neither a layer nor a range"):
        TriangleMix.from_options({"dense_layers": text})


def test_presets_are_the_published_layers():
    assert TriangleMix.from_options({"preset": "llama-3.1-8b"}).params.dense_layers == "0-15"
    assert TriangleMix.from_options({"preset": "qwen2.5-7b"}).params.dense_layers == "0-19"


def test_chunks_are_refused_and_one_query_is_dense():
    assert "whole prompts" in TriangleMix().unsupported(a_call(q_len=100))
    assert TriangleMix().select(a_call(q_len=1)) is None


@pytest.mark.gpu
def test_on_a_gpu():
    call = a_call(device="cuda", q_len=3000, kv_len=3000, head_dim=128, dtype=torch.bfloat16)
    method = TriangleMix()
    index = method.select(call)
    expected = reference.attention(call.q, call.k, call.v, scale=call.scale, index=index).out
    assert relative_error(method(call), expected) < 1e-2
    torch.cuda.set_sync_debug_mode("error")
    try:
        method(call)
    finally:
        torch.cuda.set_sync_debug_mode("default")
