"""Planned calls of FlashPrefill on a real GPU: the same numbers as its steps one by one, whoever calls, wherever."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fp_bench import flash_prefill
from fp_bench.errors import UnsupportedError
from fp_bench.kernels.attention import AttentionOut, block_sparse_attention
from fp_bench.kernels.flashprefill import planned, select_blocks
from fp_bench.kernels.flashprefill.planned import Settings, run_planned
from fp_bench.kernels.flashprefill.rule import KeepRule
from fp_bench.kernels.pooling import pool_keys
from tests.kernels.calls import Case, cases

pytestmark = pytest.mark.gpu
HALF = (torch.float16, torch.bfloat16)


def step_by_step(q, k, v, alpha, backend="auto"):
    """The call's steps one by one, each with tensors of its own."""
    scale = q.shape[3] ** -0.5
    pooled = pool_keys(k, backend=backend)
    index = select_blocks(q, pooled, KeepRule(alpha), kv_len=k.shape[1], scale=scale, backend=backend)
    return block_sparse_attention(q, k, v, index, scale=scale, backend=backend)


def assert_same(found, expected):
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


@settings(max_examples=60)
@given(cases(max_len=1500, dtypes=HALF), st.sampled_from([0.0, 0.1, 0.5]), st.sampled_from(["auto", "triton"]))
def test_a_plan_computes_what_its_steps_compute(case, alpha, backend):
    q, k, v = case.tensors("cuda")
    found = run_planned(q, k, v, Settings(alpha, 2, 4, 2, case.scale, backend))
    assert found is not None
    assert_same(found, step_by_step(q, k, v, alpha, backend))


def test_tensors_of_one_layout_share_a_plan_but_no_memory():
    case = Case(q_len=700, kv_len=900, q_heads=8, kv_heads=2, head_dim=128, dtype=torch.bfloat16)
    calls = [case.tensors("cuda"), Case(**{**vars(case), "seed": 1}).tensors("cuda")]
    planned._plans.clear()
    found = [flash_prefill(*tensors, alpha=0.2, return_lse=True) for tensors in calls]
    assert len(planned._plans) == 1
    for one, tensors in zip(found, calls, strict=True):
        assert_same(one, step_by_step(*tensors, 0.2))


def test_tensors_off_by_some_bytes_run_without_a_plan():
    memory = torch.randn(300 * 2 * 128 + 1, device="cuda").bfloat16()
    q = memory[1:].view(1, 300, 2, 128)
    assert run_planned(q, q, q, Settings(0.1, 2, 4, 2, 0.1)) is None
    aligned = q.clone()
    found = flash_prefill(q, q, q, alpha=0.0)
    assert (found - flash_prefill(aligned, aligned, aligned, alpha=0.0)).abs().max() < 2e-2


def test_plans_are_bounded_and_refuse_each_time():
    q = torch.randn((1, 300, 2, 96), device="cuda").bfloat16()
    for _ in range(2):
        with pytest.raises(UnsupportedError, match="head_dim 96"):
            flash_prefill(q, q, q, alpha=0.1)
    for length in range(1, planned.PLANS + 20):
        q = torch.randn((1, length, 1, 64), device="cuda").bfloat16()
        flash_prefill(q, q, q, alpha=0.1)
    assert len(planned._plans) == planned.PLANS


def test_threads_with_streams_of_their_own_get_their_own_answers():
    """New threads, so that each meets the driver for the first time."""
    case = Case(q_len=1500, kv_len=1500, q_heads=8, kv_heads=2, head_dim=128, dtype=torch.bfloat16)
    calls = [Case(**{**vars(case), "seed": seed}).tensors("cuda") for seed in range(4)]
    expected = [step_by_step(*tensors, 0.2) for tensors in calls]
    torch.cuda.synchronize()

    def call_often(tensors):
        with torch.cuda.stream(torch.cuda.Stream()):
            found = [flash_prefill(*tensors, alpha=0.2, return_lse=True) for _ in range(50)]
            torch.cuda.current_stream().synchronize()
            return [AttentionOut(*each) for each in found]

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(call_often, calls))
    for found, right in zip(answers, expected, strict=True):
        for one in found:
            assert_same(one, right)


def test_a_captured_plan_replays_on_new_values():
    case = Case(q_len=1000, kv_len=1000, q_heads=8, kv_heads=2, head_dim=128, dtype=torch.bfloat16)
    q, k, v = case.tensors("cuda")
    flash_prefill(q, k, v, alpha=0.2)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = flash_prefill(q, k, v, alpha=0.2, return_lse=True)
    for seed in (1, 2):
        for tensor, fresh in zip((q, k, v), Case(**{**vars(case), "seed": seed}).tensors("cuda"), strict=True):
            tensor.copy_(fresh)
        graph.replay()
        assert_same(captured, step_by_step(q, k, v, 0.2))
