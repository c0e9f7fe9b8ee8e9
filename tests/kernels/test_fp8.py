"""8-bit attention: rounding, the order of keys, the definition; the kernel itself runs on a Hopper GPU alone."""

import pytest
import torch
from hypothesis import given, settings

from fp_bench.errors import UnavailableError, UnsupportedError
from fp_bench.kernels.attention import reference
from fp_bench.kernels.backend import triton_missing
from fp_bench.kernels.fp8 import block_sparse_attention_fp8, quantise_kv
from fp_bench.kernels.fp8 import reference as reference_fp8
from fp_bench.kernels.fp8.layout import E4M3_LARGEST, INT8_LARGEST, SHIFT_KEYS, SMALLEST_PEAK, key_order, key_shift
from fp_bench.kernels.pooling import reference as defined_pooling
from tests.kernels.calls import Case, cases, relative_error
from tests.kernels.test_block_sparse import random_index, shares

if triton_missing() is None:
    from fp_bench.kernels.fp8.triton import quantise_kv_triton

needs_interpreter = pytest.mark.skipif(triton_missing() is not None, reason=str(triton_missing()))
fp8_cases = cases(max_len=500, dtypes=(torch.float32, torch.float16), head_dims=(128,))


def test_v_comes_in_the_order_in_which_a_thread_holds_p():
    # PTX ISA: the float32 accumulator of wgmma, and its 8-bit A operand, of one row of 32 columns and thread t of four.
    column = torch.arange(32)
    held_by = column % 8 // 2
    wanted_by = column % 16 // 4
    order = key_order()[:32]
    assert torch.equal(held_by[order], wanted_by)
    for t in range(4):
        held = column[held_by == t]  # ascending: the order of the accumulator's registers
        assert torch.equal(order[wanted_by == t], held)


def test_the_order_names_each_key_of_a_block_once_and_changes_no_product():
    order = key_order()
    assert torch.equal(order.sort().values, torch.arange(128))
    p, v = torch.randn(3, 128, dtype=torch.float64), torch.randn(128, 5, dtype=torch.float64)
    torch.testing.assert_close(p[:, order] @ v[order], p @ v)


@settings(max_examples=30)
@given(fp8_cases)
def test_rounding_keeps_seven_bits_of_a_blocks_largest_shifted_key_and_three_of_a_large_value(case):
    _, k, v = case.tensors()
    rounded = reference_fp8.quantise_kv(k, v)
    blocks = -(-case.kv_len // 128)
    assert rounded.k.shape == rounded.v.shape == (case.batch, case.kv_heads, blocks, 128, 128)
    assert torch.equal(rounded.pooled, defined_pooling.pool_keys(k))
    scales = rounded.scales.repeat_interleave(128, 2)[:, :, : case.kv_len, :, None].transpose(1, 2).unbind(3)
    found_k, found_v = reference_fp8.dequantised(rounded, case.kv_len)
    assert ((found_k - shifted(k)).abs() <= scales[0] * 0.5 * (1 + 1e-4)).all()
    allowed = torch.maximum(v.float().abs() * 2**-4, scales[1] * 2**-10) * (1 + 1e-5)
    assert ((found_v - v.float()).abs() <= allowed).all()


def shifted(k):
    return k.float() - key_shift(k)[:, None]


@pytest.mark.parametrize("length", [1, 1000, SHIFT_KEYS, SHIFT_KEYS + 1, 5000])
def test_the_shift_is_the_mean_of_keys_from_all_over_the_prompt(length):
    k = torch.randn(2, length, 3, 128, generator=torch.Generator().manual_seed(length))
    stride = -(-length // SHIFT_KEYS)
    sampled = [k[:, token] for token in range(0, length, stride)]
    assert len(sampled) <= SHIFT_KEYS
    torch.testing.assert_close(key_shift(k), torch.stack(sampled).mean(0))


def test_a_constant_that_all_keys_share_costs_nothing():
    case = Case(q_len=300, kv_len=300, head_dim=128)
    q, k, v = case.tensors()
    index = random_index(case, 1.0)
    far = k + 20 * torch.randn(1, 1, case.kv_heads, 128, generator=torch.Generator().manual_seed(1))
    near, moved = (attended(q, keys, v, index, case.scale) for keys in (k, far))
    assert relative_error(moved, near) < 1e-3


def test_keys_past_the_end_are_zeros_whatever_the_shift():
    k = torch.full((1, 130, 1, 128), 5.0)
    assert not reference_fp8.quantise_kv(k, k).k[0, 0, 1, 2:].any()


def assert_scales_and_places_as_defined(k, v):
    """Triton's interpreter rounds e4m3 wrongly (ties, carries, subnormal numbers), so it writes V in float16 here."""
    found = quantise_kv_triton(k, v, dtype=torch.float16)
    defined = reference_fp8.quantise_kv(k, v)
    torch.testing.assert_close(found.scales, defined.scales, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.pooled, defined.pooled, rtol=1e-2, atol=1e-3)
    assert torch.equal(found.k, defined.k)
    assert found.v.shape == defined.v.shape
    values = reference_fp8.dequantised(found, k.shape[1])[1]
    torch.testing.assert_close(values, v.float(), rtol=1e-3, atol=1e-6)
    past = key_order() >= (k.shape[1] - 1) % 128 + 1
    assert not found.v[:, :, -1][..., past].any()


@needs_interpreter
@settings(max_examples=10)
@given(fp8_cases)
def test_triton_scales_and_places_as_defined(case):
    _, k, v = case.tensors()
    assert_scales_and_places_as_defined(k, v)


@needs_interpreter
def test_triton_reads_heads_that_lie_apart():
    fused = torch.randn(2, 200, 5, 128, generator=torch.Generator().manual_seed(0))
    assert_scales_and_places_as_defined(fused[:, :, 1:3], fused[:, :, 3:])


def attended(q, k, v, index, scale):
    return reference_fp8.attention(q, reference_fp8.quantise_kv(k, v), index, scale=scale)


@settings(max_examples=20)
@given(fp8_cases, shares)
def test_the_definition_is_attention_but_for_rounding(case, share):
    q, k, v = case.tensors(contrast=1.0)
    q = q / 3  # logits of about 1: their rounding is not amplified
    index = random_index(case, share)
    out = attended(q, k, v, index, case.scale)
    exact = reference.attention(q, k, v, scale=case.scale, index=index).out
    assert relative_error(out, exact) < 0.05
    assert not out[exact == 0].any()  # empty lists


def test_values_of_one_magnitude_are_off_by_the_rounding_of_logits_and_weights_alone():
    case = Case(q_len=300, kv_len=300, head_dim=128)
    q, k, v = (tensor.sign() for tensor in case.tensors())
    index = random_index(case, 1.0)
    out = attended(q, k, v, index, case.scale)
    exact = reference.attention(q, k, v, scale=case.scale, index=index).out
    assert 0 < relative_error(out, exact) < 0.03


def test_blocks_of_zeros_and_of_tiny_and_huge_values_mix():
    case = Case(q_len=640, kv_len=640, head_dim=128)
    q, k, v = case.tensors(contrast=0.0)
    for block, factor in enumerate((1.0, 0.0, 1e-9, 1e4, 1.0)):
        v[:, 128 * block : 128 * (block + 1)] *= factor
        k[:, 128 * block : 128 * (block + 1)] *= min(factor, 1.0)
    rounded = reference_fp8.quantise_kv(k, v)
    assert rounded.scales.isfinite().all()
    assert rounded.scales[..., 1].amin() == SMALLEST_PEAK / E4M3_LARGEST
    unshifted = reference_fp8.quantise_kv(torch.zeros_like(k), v)
    assert (unshifted.scales[..., 0] == SMALLEST_PEAK / INT8_LARGEST).all()
    out = reference_fp8.attention(q, rounded, random_index(case, 1.0), scale=case.scale)
    exact = reference.attention(q, k, v, scale=case.scale).out
    assert out.isfinite().all()
    assert relative_error(out, exact) < 0.1
    assert relative_error(out[:, :384], exact[:, :384]) < 0.1


def test_without_a_hopper_gpu_it_says_so_in_one_line():
    case = Case(head_dim=128)
    q, k, v = case.tensors()
    with pytest.raises(UnavailableError, match="runs on Hopper GPUs") as caught:
        block_sparse_attention_fp8(q, k, v, random_index(case, 1.0), scale=case.scale)
    assert "\n" not in str(caught.value)


def test_other_head_sizes_are_refused():
    _, k, v = Case(head_dim=64).tensors()
    with pytest.raises(UnsupportedError, match="head_dim 64: FP8 attention takes 128"):
        quantise_kv(k, v)
