"""8-bit attention on a real Hopper GPU against its definition. No timing: speed lives in benchmarks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fp_bench.inputs.source import Shape
from fp_bench.inputs.structured import Structured
from fp_bench.kernels.attention import reference
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.fp8 import block_sparse_attention_fp8, fp8_missing, quantise_kv
from fp_bench.kernels.fp8 import reference as reference_fp8
from fp_bench.kernels.layout import BlockGrid
from fp_bench.kernels.pooling import pool_keys
from fp_bench.methods.base import AttentionCall
from fp_bench.methods.flashprefill import FP8_TOLERANCE, FlashPrefill
from tests.kernels.calls import Case, cases, relative_error
from tests.kernels.test_block_sparse import random_index

on_hopper = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not on_hopper, reason="needs an sm_90 GPU; there is none here")]
HALF = (torch.float16, torch.bfloat16)
TOLERANCE = 2e-2
"""To the definition: tensor cores keep fewer bits of a sum, which turns some roundings of P."""


def assert_attends_as_defined(case, index):
    q, k, v = case.tensors("cuda", contrast=1.0)
    poison = torch.full_like(q, float("nan"))
    del poison  # the allocator hands this memory to the output
    rounded = quantise_kv(k, v)
    out = block_sparse_attention_fp8(q, k, v, index, scale=case.scale, rounded=rounded)
    defined = reference_fp8.attention(q, rounded, index, scale=case.scale)
    assert out.dtype == q.dtype
    assert relative_error(out, defined) < TOLERANCE


def test_the_kernel_passes_its_own_test():
    q, k, v = Case(q_len=300, kv_len=300, head_dim=128, dtype=torch.bfloat16).tensors("cuda")
    assert fp8_missing(q, k, v) is None


@settings(max_examples=30)
@given(cases(max_len=3000, dtypes=HALF, head_dims=(128,)))
def test_rounding(case):
    _, k, v = case.tensors("cuda")
    found, defined = quantise_kv(k, v), reference_fp8.quantise_kv(k, v)
    for ours, exact in ((found.k.float(), defined.k.float()), (found.v.float(), defined.v.float())):
        assert (ours != exact).float().mean() < 1e-3  # a product on the edge of two numbers rounds either way
    assert ((found.k.int() - defined.k.int()).abs() <= 1).all()
    assert ((found.v.float() - defined.v.float()).abs() <= defined.v.float().abs() / 8 + 2**-9).all()
    torch.testing.assert_close(found.scales, defined.scales, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.pooled, pool_keys(k))


@pytest.mark.parametrize(("q_len", "kv_len"), [(128, 128), (1, 1), (300, 300), (5, 1000), (200, 777), (1280, 1280)])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_attention_of_given_lengths(q_len, kv_len, share):
    case = Case(2, q_len, kv_len, q_heads=6, kv_heads=2, head_dim=128, dtype=torch.bfloat16)
    assert_attends_as_defined(case, random_index(case, share, "cuda"))


@settings(max_examples=30)
@given(cases(max_len=1000, dtypes=HALF, head_dims=(128,)), st.sampled_from([0.0, 0.2, 0.6, 1.0]))
def test_attention_over_random_lists(case, share):
    assert_attends_as_defined(case, random_index(case, share, "cuda"))


def test_long_lists_keep_their_sums():
    case = Case(q_len=256, kv_len=32768, q_heads=2, kv_heads=1, head_dim=128, dtype=torch.bfloat16)
    grid = BlockGrid(case.q_len, case.kv_len)
    everything = torch.ones((1, 2, grid.rows, grid.key_blocks), dtype=torch.bool, device="cuda")
    assert_attends_as_defined(case, BlockIndex.from_mask(everything, case.q_len, case.kv_len))


def structured_call(length):
    shape = Shape(1, length, 8, 2, 128)
    q, k, v = Structured(1).tensors(shape, layer=0, seed=0, dtype=torch.bfloat16, device=torch.device("cuda"))
    return AttentionCall(q, k, v, scale=128**-0.5)


def test_the_method_selects_as_before_and_is_some_per_cent_off():
    call = structured_call(8192)
    method, half = FlashPrefill.from_options({"precision": "fp8"}), FlashPrefill()
    index, same = method.select(call), half.select(call)
    assert torch.equal(index.mask(), same.mask())
    out = method(call)
    assert torch.equal(out, method(call))
    assert torch.equal(out, method.attend(call, index))
    assert method.implementation(call, index) == "hopper_fp8"
    exact = reference.attention(call.q, call.k, call.v, scale=call.scale, index=index).out
    by_head = (out.float() - exact).norm(dim=(1, 3)) / exact.norm(dim=(1, 3))
    assert by_head.max() < FP8_TOLERANCE


def test_nothing_syncs():
    call = structured_call(4096)
    method = FlashPrefill.from_options({"precision": "fp8"})
    method(call)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = method(call)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert out.isfinite().all()
