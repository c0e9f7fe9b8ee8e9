"""MInference and StreamingLLM as methods, and the file of patterns."""

import json

import pytest
import torch

from fp_bench.errors import UsageError
from fp_bench.kernels.attention import reference
from fp_bench.kernels.lines import reference as defined
from fp_bench.kernels.lines.head_patterns import AShape, Blocks, Lines
from fp_bench.methods.base import AttentionCall
from fp_bench.methods.minference import MInference
from fp_bench.methods.minference.patterns import read_patterns, write_patterns
from fp_bench.methods.registry import Spec, create_method
from fp_bench.methods.streaming import Streaming
from tests.kernels.calls import relative_error
from tests.methods.test_rivals import a_call, selected_twice_without_a_sync


@pytest.mark.parametrize(
    "text",
    [
        "minference",
        "streaming",
        "minference:columns=2000",
        "streaming:n_init=1100:n_local=9",
        "streaming:n_local=2147483647",
    ],
)
def test_settings_that_keep_everything_are_dense_attention(text):
    call = a_call(batch=2)
    expected = reference.attention(call.q, call.k, call.v, scale=call.scale).out
    assert relative_error(create_method(Spec.parse(text))(call), expected) < 1e-5


@pytest.mark.parametrize("text", ["minference:columns=50:diagonals=150", "streaming:n_init=10:n_local=333"])
def test_output_is_attention_over_what_was_selected(text):
    method, call = create_method(Spec.parse(text)), a_call()
    index = method.select(call)
    assert 0 < index.density().mean() < 1
    expected = reference.attention(call.q, call.k, call.v, scale=call.scale, index=index).out
    assert relative_error(method(call), expected) < 1e-5
    assert method.implementation(call, index) == "torch"


def test_streaming_reads_its_window_and_sinks_to_the_token():
    index = Streaming.from_options({"n_init": 10, "n_local": 333}).select(a_call())
    for head in range(4):
        read = index.keys_read(0, head, torch.arange(1100)).tril()
        assert torch.equal(read, defined.a_shape_mask(1100, 10, 333))


@pytest.mark.parametrize("method", [MInference(), Streaming()])
def test_one_query_and_less_than_a_tile_are_dense_and_chunks_are_refused(method):
    for call in (a_call(q_len=1), a_call(q_len=63, kv_len=63)):
        assert method.unsupported(call) is None
        assert method.select(call) is None
        assert method.implementation(call, None) == "sdpa_cpu"
    assert "whole prompts" in method.unsupported(a_call(q_len=500))


def in_layer(call, layer):
    return AttentionCall(call.q, call.k, call.v, call.scale, layer=layer, layers=2)


def test_patterns_of_layers_and_heads_from_a_file(tmp_path):
    path = tmp_path / "patterns.json"
    first = {"0": ["stream_llm", 10, 300, 1.0], "2": ["vertical_and_slash", 30, 120, 0.9]}
    path.write_text(json.dumps([first, {}]))
    method, call = MInference.from_options({"config": str(path)}), a_call()
    index = method.select(in_layer(call, 0))
    assert torch.equal(index.keys_read(0, 0, torch.arange(1100)).tril(), defined.a_shape_mask(1100, 10, 300))
    density = index.density()[0]
    # Heads that are not named keep (1000, 6096): all of this prompt.
    assert density[1] == density[3] == 1
    alone = MInference.from_options({"columns": 30, "diagonals": 120}).select(call)
    assert density[2] == alone.density()[0, 2] < 1
    assert (method.select(in_layer(call, 1)).density() == 1).all()
    assert "2 layers" in method.unsupported(in_layer(call, 2))
    before = method.method_hash
    path.write_text(json.dumps([{"4": ["stream_llm", 10, 300, 1.0]}, {}]))
    other = MInference.from_options({"config": str(path)})
    assert other.method_hash != before
    assert "head 4 of 4 heads" in other.unsupported(in_layer(call, 0))


def test_heads_of_all_kinds_from_a_file(tmp_path):
    path = tmp_path / "patterns.json"
    kinds = [["block_sparse", 5, 1, 1], ["vertical_and_slash", 40, 110, 1], ["stream_llm", 10, 300, 1]]
    path.write_text(json.dumps([{str(head): kind for head, kind in enumerate(kinds)}]))
    method, call = MInference.from_options({"config": str(path)}), a_call(batch=2)
    index = method.select(call)
    exact = reference.attention(call.q, call.k, call.v, scale=call.scale, index=index).out
    assert relative_error(method(call), exact) < 1e-5
    assert method.implementation(call, index) == "torch"
    blocks = defined.strongest_blocks(call.q, call.k, 5)[1, 0].repeat_interleave(64, 0).repeat_interleave(64, 1)
    assert torch.equal(index.keys_read(1, 0, torch.arange(1100)).tril(), blocks[:1100, :1100].tril())
    assert torch.equal(index.keys_read(1, 2, torch.arange(1100)).tril(), defined.a_shape_mask(1100, 10, 300))
    density = index.density()[0]
    assert 0 < density[:3].min() <= density[:3].max() < density[3] == 1


def test_a_file_of_block_sparse_heads_alone_selects_blocks(tmp_path):
    path = tmp_path / "patterns.json"
    path.write_text(json.dumps([{str(head): ["block_sparse", head + 1, 1, 1] for head in range(4)}]))
    method, call = MInference.from_options({"config": str(path)}), a_call()
    index = method.select(call)
    assert index.counts[0, :, -1].tolist() == [1, 2, 3, 4]
    exact = reference.attention(call.q, call.k, call.v, scale=call.scale, index=index).out
    assert relative_error(method(call), exact) < 1e-5


def test_patterns_written_are_patterns_read(tmp_path):
    layers = [[(Lines(30, 800), 0.5), (AShape(100, 800), 1.0)], [(Lines(3500, 100), 0.25), (Blocks(58), 0.0)]]
    write_patterns(tmp_path / "out" / "patterns.json", layers)
    read = read_patterns(tmp_path / "out" / "patterns.json")
    assert read == [{head: pattern for head, (pattern, _) in enumerate(layer)} for layer in layers]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be JSON"),
        ("[]", "one entry per layer"),
        ('{"a": 1}', "must be JSON"),
        ('[{"x": ["stream_llm", 1, 2, 1]}]', "must be JSON"),
        ('[{"-1": ["stream_llm", 1, 2, 1]}]', "heads counted from 0"),
        ('[{"0": ["a_shape", 1, 2, 1]}]', "unknown kind 'a_shape'"),
        ('[{"0": [["a"], 1, 2, 1]}]', "must be JSON"),
        ('[{"0": []}]', "must be JSON"),
        ('[{"0": ["block_sparse", 0, 1, 1]}]', "keeps no blocks"),
        ('[{"0": ["vertical_and_slash", 1.5, 2, 1]}]', "two sizes"),
        ('[{"0": ["vertical_and_slash", 3000000000, 2, 1]}]', "two sizes"),
        ('[{"0": ["stream_llm", 5, 0, 1]}]', "no window"),
    ],
)
def test_a_file_of_other_things_is_a_usage_error(tmp_path, text, message):
    path = tmp_path / "patterns.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        MInference.from_options({"config": str(path)})


def test_a_file_that_is_not_there_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="none"):
        MInference.from_options({"config": str(tmp_path / "none.json")})


@pytest.mark.gpu
@pytest.mark.parametrize("text", ["minference:columns=200:diagonals=300", "streaming:n_init=64:n_local=1000"])
def test_on_a_gpu_without_a_sync(text):
    index, again = selected_twice_without_a_sync(text)
    assert torch.equal(again.entries(), index.entries())
