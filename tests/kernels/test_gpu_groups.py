"""Every number of query heads a KV head on a real GPU against the float32 definitions."""

import pytest
import torch

from fp_bench.kernels.attention import block_sparse_attention, implementation
from fp_bench.kernels.flashprefill.rule import KeepRule
from fp_bench.kernels.flexprefill.rule import FlexRule
from fp_bench.kernels.pooling.means import block_means
from tests.kernels import test_block_sparse as per_head
from tests.kernels import test_flex, test_gpu_fp8, test_packed
from tests.kernels.calls import Case
from tests.kernels.test_block_sparse import random_index

on_hopper = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)
pytestmark = pytest.mark.gpu
needs_hopper = pytest.mark.skipif(not on_hopper, reason="needs an sm_90 GPU; there is none here")
GROUPS = range(1, 9)
LENGTHS = [(1000, 1000), (300, 777), (1, 300), (5, 5), (2048, 2048)]


def of_group(group, q_len, kv_len, head_dim=128, dtype=torch.bfloat16):
    return Case(2, q_len, kv_len, q_heads=3 * group, kv_heads=3, head_dim=head_dim, dtype=dtype, seed=group)


@needs_hopper
@pytest.mark.parametrize("group", GROUPS)
def test_packed_rows_run_the_hopper_kernel(group):
    q, k, v = of_group(group, 300, 300).tensors("cuda")
    assert implementation(q, k, v, packed=group) == "hopper"


@needs_hopper
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(("q_len", "kv_len"), LENGTHS)
@pytest.mark.parametrize("group", GROUPS)
def test_packed_attention(group, q_len, kv_len, share):
    case = of_group(group, q_len, kv_len)
    poison = torch.full((2, q_len, 3 * group, 128), float("nan"), device="cuda", dtype=case.dtype)
    del poison  # the allocator hands this memory to the output
    test_packed.assert_attends_as_defined(case, True, share, False, "hopper", "cuda")


@needs_hopper
@pytest.mark.parametrize("group", [*GROUPS, 12, 64])
def test_packed_attention_with_means(group):
    test_packed.assert_attends_as_defined(of_group(group, 700, 1500), True, 0.4, True, "hopper", "cuda")


@needs_hopper
@pytest.mark.parametrize("head_dim", [64, 256])
@pytest.mark.parametrize("group", [3, 5, 7])
def test_packed_attention_of_other_head_sizes(group, head_dim):
    case = of_group(group, 700, 1500, head_dim, torch.float16)
    test_packed.assert_attends_as_defined(case, True, 0.4, False, "hopper", "cuda")


@needs_hopper
@pytest.mark.parametrize(("head_dim", "corrected"), [(128, False), (128, True), (64, False), (256, False)])
@pytest.mark.parametrize("group", [3, 4, 5, 6, 7])
def test_packed_attention_is_right_in_every_row_and_repeats_where_a_program_takes_many_rows(group, head_dim, corrected):
    case = Case(2, 6001, 9001, q_heads=2 * group, kv_heads=2, head_dim=head_dim, dtype=torch.bfloat16, seed=group)
    q, k, v = case.tensors("cuda")
    index = test_packed.random_lists(case, group, 0.3, "cuda")
    means = block_means(k, v) if corrected else None

    def attend(backend):
        return block_sparse_attention(q, k, v, index, scale=case.scale, means=means, backend=backend)

    out, lse = attend("hopper")
    portable = attend("triton")
    off = (out - portable.out).float().norm(dim=-1) / portable.out.float().norm(dim=-1).clamp_min(1e-3)
    assert off.max() < 3e-2
    torch.testing.assert_close(lse, portable.lse, atol=2e-3, rtol=1e-4)
    for _ in range(20):
        again = attend("hopper")
        assert torch.equal(again.out, out)
        assert torch.equal(again.lse, lse)


@needs_hopper
@pytest.mark.parametrize("group", GROUPS)
def test_attention_of_rows_of_one_head(group):
    per_head.assert_attends_as_defined(of_group(group, 700, 1500), 0.4, "hopper", "cuda")


@needs_hopper
@pytest.mark.parametrize("group", GROUPS)
def test_fp8_attention(group):
    case = of_group(group, 700, 1500)
    test_gpu_fp8.assert_attends_as_defined(case, random_index(case, 0.4, "cuda"))


@pytest.mark.parametrize("group", GROUPS)
def test_packed_lists(group):
    test_packed.assert_selects_as_defined(of_group(group, 2000, 2500), KeepRule(0.3, 1, 2, 1), "triton", "cuda")


@pytest.mark.parametrize("group", GROUPS)
def test_lists_of_flexprefill(group):
    case = of_group(group, 1500, 1500)
    test_flex.assert_selects_as_defined(case, FlexRule(0.9, 0.3, 256), "triton", "cuda", agree=0.97)
