"""The Triton kernels on a real GPU against the float32 definition. No timing: speed lives in benchmarks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fp_bench import flash_prefill
from fp_bench.errors import UnsupportedError
from fp_bench.kernels.attention import block_sparse_attention, implementation, reference
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.flashprefill import reference as defined_selection
from fp_bench.kernels.flashprefill import select_blocks
from fp_bench.kernels.flashprefill.rule import KeepRule
from fp_bench.kernels.pooling import pool_keys
from fp_bench.kernels.pooling import reference as defined_pooling
from tests.kernels.calls import Case, cases, relative_error
from tests.kernels.test_block_sparse import assert_attends_as_defined
from tests.kernels.test_discovery import assert_selects_as_defined, rules

pytestmark = pytest.mark.gpu
on_hopper = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)
needs_hopper = pytest.mark.skipif(not on_hopper, reason="needs an sm_90 GPU; there is none here")
HALF = (torch.float16, torch.bfloat16)


@settings(max_examples=60)
@given(cases(max_len=1500, dtypes=HALF), st.sampled_from([0.0, 0.2, 0.6, 1.0]))
def test_attention_over_random_lists(case, share):
    assert_attends_as_defined(case, share, "triton", "cuda")


@needs_hopper
@settings(max_examples=100)
@given(cases(max_len=1500, dtypes=HALF, head_dims=(128,)), st.sampled_from([0.0, 0.2, 0.6, 1.0]))
def test_hopper_attention_over_random_lists(case, share):
    assert_attends_as_defined(case, share, "hopper", "cuda")


@needs_hopper
def test_the_hopper_kernel_is_what_auto_runs_and_it_passes_its_own_test():
    q, k, v = Case(q_len=300, kv_len=300, head_dim=128, dtype=torch.bfloat16).tensors("cuda")
    assert implementation(q, k, v) == "hopper"
    assert implementation(q, k, v, "triton") == "triton"
    assert implementation(q[..., :64], k[..., :64], v[..., :64]) == "hopper"
    single = [tensor.float() for tensor in (q, k, v)]
    assert implementation(*single) != "hopper"
    with pytest.raises(UnsupportedError, match="float32"):
        implementation(*single, "hopper")


@needs_hopper
def test_strides_that_tma_does_not_take_run_the_portable_kernel():
    q = torch.randn((1, 300, 2, 132), device="cuda", dtype=torch.bfloat16)[..., :128]
    assert implementation(q, q, q) == "triton"
    out = flash_prefill(q, q, q, alpha=0.0)
    assert relative_error(out, reference.attention(q, q, q, scale=128**-0.5).out) < 1e-2


def test_a_cuda_graph_replays_on_new_values():
    case = Case(q_len=2000, kv_len=2000, q_heads=8, kv_heads=2, head_dim=128, dtype=torch.bfloat16)
    q, k, v = case.tensors("cuda")
    flash_prefill(q, k, v, alpha=0.1)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = flash_prefill(q, k, v, alpha=0.1)
    other = Case(q_len=2000, kv_len=2000, q_heads=8, kv_heads=2, head_dim=128, dtype=torch.bfloat16, seed=1)
    for static, fresh in zip((q, k, v), other.tensors("cuda"), strict=True):
        static.copy_(fresh)
    for _ in range(3):
        out.fill_(float("nan"))
        graph.replay()
        torch.testing.assert_close(out, flash_prefill(q, k, v, alpha=0.1), atol=1e-2, rtol=1e-2)


def test_graphs_replay_in_any_order():
    case = Case(q_len=2000, kv_len=2000, q_heads=8, kv_heads=2, head_dim=128, dtype=torch.bfloat16)
    q, k, v = case.tensors("cuda")
    expected = flash_prefill(q, k, v, alpha=0.1)
    captured = []
    for _ in range(2):  # on one stream of torch's own
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = flash_prefill(q, k, v, alpha=0.1)
        captured.append((graph, out))
    for graph, out in reversed(captured):
        out.fill_(float("nan"))
        graph.replay()
        torch.testing.assert_close(out, expected, atol=1e-2, rtol=1e-2)


def test_two_streams_do_not_disturb_each_other():
    case = Case(q_len=4096, kv_len=4096, q_heads=8, kv_heads=2, head_dim=128, dtype=torch.bfloat16)
    q, k, v = case.tensors("cuda")
    expected = flash_prefill(q, k, v, alpha=0.1)
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(2)]
    outs = []
    for _ in range(10):
        for stream in streams:
            with torch.cuda.stream(stream):
                outs.append(flash_prefill(q, k, v, alpha=0.1))
    torch.cuda.synchronize()
    for out in outs:
        torch.testing.assert_close(out, expected, atol=1e-2, rtol=1e-2)


@settings(max_examples=60)
@given(cases(max_len=1500, dtypes=HALF), rules)
def test_selection_away_from_ties(case, rule):
    assert_selects_as_defined(case, rule, "triton", "cuda")


@settings(max_examples=30)
@given(cases(max_len=3000, dtypes=HALF))
def test_pooling(case):
    _, k, _ = case.tensors("cuda")
    torch.testing.assert_close(pool_keys(k), defined_pooling.pool_keys(k), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("heads", [(8, 2), (8, 1)])
def test_kept_blocks_that_are_not_forced_agree_at_16k(dtype, heads):
    case = Case(q_len=16384, kv_len=16384, q_heads=heads[0], kv_heads=heads[1], head_dim=128, dtype=dtype)
    q, k, _ = case.tensors("cuda", contrast=1.0)
    pooled = pool_keys(k)
    rule = KeepRule(0.12)
    ours = select_blocks(q, pooled, rule, kv_len=case.kv_len, scale=case.scale)
    forced = rule.forced(ours.grid, "cuda")
    mask = ours.mask() & ~forced
    defined = torch.cat(
        [
            defined_selection.select_blocks(
                q[:, :, head : head + 1], pooled[:, :, head // (heads[0] // heads[1]), None], rule,
                kv_len=case.kv_len, scale=case.scale,
            ).mask()
            for head in range(heads[0])
        ],
        dim=1,
    ) & ~forced  # fmt: skip
    assert defined.sum() > 1000
    assert (mask & defined).sum() / (mask | defined).sum() >= 0.995


def test_poisoned_output_is_overwritten_and_nothing_syncs():
    case = Case(q_len=2000, kv_len=2000, q_heads=8, kv_heads=2, head_dim=128, dtype=torch.bfloat16)
    q, k, v = case.tensors("cuda")
    flash_prefill(q, k, v, alpha=0.1)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        out, lse = flash_prefill(q, k, v, alpha=0.1, return_lse=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert out.isfinite().all()
    assert lse.isfinite().all()


def test_a_long_call_matches_on_sampled_rows():
    case = Case(q_len=65536, kv_len=65536, q_heads=4, kv_heads=1, head_dim=128, dtype=torch.bfloat16)
    q, k, v = case.tensors("cuda")
    rule = KeepRule(0.12)
    index = select_blocks(q, pool_keys(k), rule, kv_len=case.kv_len, scale=case.scale)
    out = block_sparse_attention(q, k, v, index, scale=case.scale).out
    rows = torch.tensor([0, 127, 128, 5000, 32768, 65407, 65535])
    expected = reference.attention_rows(q, k, v, scale=case.scale, rows=rows, index=index)
    assert relative_error(out[:, rows.cuda()], expected.out) < 1e-2


def test_offsets_beyond_two_to_the_31_elements():
    # 2 x 300K x 32 heads x 128 is 2.5e9 elements: int32 offsets would wrap.
    length = 300_000
    q = torch.randn((2, length, 32, 128), dtype=torch.bfloat16, device="cuda")
    k = torch.randn((2, length, 1, 128), dtype=torch.bfloat16, device="cuda")
    mask_row = KeepRule(2.0, 1, 2, 0)
    index = select_blocks(q, pool_keys(k), mask_row, kv_len=length, scale=128**-0.5)
    out = block_sparse_attention(q, k, k, index, scale=128**-0.5).out
    rows = torch.tensor([3, length - 1])
    one = slice(31, 32)
    last = BlockIndex(index.blocks[1:, one], index.counts[1:, one], length, length)
    expected = reference.attention_rows(q[1:, :, one], k[1:], k[1:], scale=128**-0.5, rows=rows, index=last)
    assert relative_error(out[1:, rows.cuda()][:, :, one], expected.out) < 1e-2
