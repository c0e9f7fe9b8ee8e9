"""Skip-softmax: the portable kernel and torch against the definition."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fp_bench.errors import UnsupportedError
from fp_bench.kernels.attention import reference
from fp_bench.kernels.attention.skipping import skip_tile, skipped_share, skipping_attention
from fp_bench.kernels.attention.skipping_reference import skipping_rows
from fp_bench.kernels.backend import triton_missing
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.layout import BlockGrid
from tests.kernels.calls import Case, cases, relative_error

needs_interpreter = pytest.mark.skipif(triton_missing() is not None, reason=str(triton_missing()))


def alike(case, device="cpu"):
    """Q, K and V of a case whose queries are alike, so that they agree on which blocks matter."""
    q, k, v = case.tensors(device)
    common = torch.randn(case.head_dim, generator=torch.Generator().manual_seed(1)).to(q)
    return 0.2 * q + 1.5 * common, k, v


def listed(case, device="cpu", packed=1, keep=0.7):
    grid = BlockGrid(case.q_len, case.kv_len, packed=packed)
    shape = (case.batch, case.q_heads // packed, grid.rows, grid.key_blocks)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(case.seed)) < keep
    return BlockIndex.from_mask(mask.to(device), case.q_len, case.kv_len, packed=packed)


def assert_skips_as_defined(case, skip, backend="triton", device="cpu", tolerance=1e-5, packed=1, agree=1.0):
    q, k, v = alike(case, device)
    index = listed(case, device, packed)
    ours = skipping_attention(q, k, v, index, scale=case.scale, skip=skip, backend=backend)
    tile = skip_tile(q, index.block_size, backend)
    defined = skipping_rows(q, k, v, index, scale=case.scale, skip=skip, tile=tile, rows=torch.arange(case.q_len))
    assert (ours.skipped == defined.skipped).float().mean() >= agree
    assert relative_error(ours.out, defined.out) < tolerance
    torch.testing.assert_close(ours.lse, defined.lse, atol=1e-3 + tolerance, rtol=1e-3)
    return float(skipped_share(ours.skipped, index, tile).mean())


@needs_interpreter
@settings(max_examples=2)
@given(cases(max_len=300, dtypes=(torch.float32,), head_dims=(64,)), st.sampled_from([1e-6, 1e-3, 0.3, 1.0]))
def test_triton_skips_as_defined(case, skip):
    assert_skips_as_defined(case, skip)


@needs_interpreter
@pytest.mark.parametrize("packed", [1, 4])
def test_the_tiles_of_hopper_and_packed_rows(packed, monkeypatch):
    monkeypatch.setattr("fp_bench.kernels.attention.triton.capability", lambda _device: 90)
    monkeypatch.setattr("fp_bench.kernels.attention.skipping.capability", lambda _device: 90)
    share = assert_skips_as_defined(Case(q_len=300, kv_len=700, q_heads=4), 0.01, packed=packed)
    assert 0.05 < share < 0.95


def test_torch_runs_the_definition():
    assert 0.05 < assert_skips_as_defined(Case(q_len=500, kv_len=700, q_heads=4, kv_heads=2), 0.01, "torch") < 0.95


def test_what_is_skipped_counted_by_hand():
    # One query block of equal queries, three key blocks of equal keys each: logits 0, -3 and -6 from the diagonal back.
    q, k = torch.zeros(1, 128, 1, 64), torch.zeros(1, 384, 1, 64)
    q[..., 0] = 1
    k[0, :, 0, 0] = torch.tensor([-3.0, -6.0, 0.0]).repeat_interleave(128)
    v = torch.randn(1, 384, 1, 64, generator=torch.Generator().manual_seed(0))
    index = BlockIndex.from_mask(torch.ones(1, 1, 1, 3, dtype=torch.bool), 128, 384)
    rows = torch.arange(128)
    for skip, read in ((0.001, [0, 1, 2]), (0.01, [0, 2]), (0.1, [2])):
        found = skipping_rows(q, k, v, index, scale=1.0, skip=skip, tile=(128, 128), rows=rows)
        kept = torch.zeros(1, 1, 1, 3, dtype=torch.bool)
        kept[..., read] = True
        exact = reference.attention(q, k, v, scale=1.0, index=BlockIndex.from_mask(kept, 128, 384))
        assert found.skipped.flatten().tolist() == [3 - len(read)]
        torch.testing.assert_close(found.out, exact.out)
        torch.testing.assert_close(found.lse, exact.lse)


def test_one_row_that_needs_a_tile_keeps_it_for_all():
    q, k, v = Case(q_len=256, kv_len=256, q_heads=1).tensors()
    k[:, :128] = 0
    q[:, 140], k[:, 3] = 9, 9
    given = {"scale": 0.125, "skip": 0.5, "tile": (128, 128)}
    index = BlockIndex.from_mask(torch.ones(1, 1, 2, 2, dtype=torch.bool), 256, 256)
    assert skipping_rows(q, k, v, index, rows=torch.arange(256), **given).skipped.sum() == 0
    some = skipping_rows(q, k, v, index, rows=torch.tensor([7, 250]), **given)
    exact = reference.attention_rows(q, k, v, scale=0.125, rows=torch.tensor([7, 250]))
    torch.testing.assert_close(some.out, exact.out)


@pytest.mark.parametrize("backend", ["torch", pytest.param("triton", marks=needs_interpreter)])
def test_a_tiny_threshold_is_exact_attention(backend):
    case = Case(q_len=300, kv_len=384, q_heads=2)
    q, k, v = case.tensors()
    index = listed(case)
    ours = skipping_attention(q, k, v, index, scale=case.scale, skip=1e-30, backend=backend)
    exact = reference.attention(q, k, v, scale=case.scale, index=index)
    assert relative_error(ours.out, exact.out) < 1e-5
    assert ours.skipped.sum() == 0


@pytest.mark.parametrize("skip", [0.0, -1.0, 1.1, math.nan])
def test_thresholds_out_of_limits_are_refused(skip):
    q, k, v = Case().tensors()
    with pytest.raises(UnsupportedError, match="skip"):
        skipping_attention(q, k, v, listed(Case()), scale=1.0, skip=skip)


@pytest.mark.gpu
@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize("packed", [1, 4])
def test_on_a_gpu_as_defined(head_dim, packed):
    case = Case(q_len=2000, kv_len=3001, q_heads=8, kv_heads=2, head_dim=head_dim, dtype=torch.bfloat16)
    # A logit on the edge of the threshold falls either way.
    share = assert_skips_as_defined(case, 1e-3, "auto", "cuda", 2e-2, packed, agree=0.97)
    assert 0.05 < share < 0.95
