"""Prism's selection: torch and Triton against the definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fp_bench.errors import UnsupportedError
from fp_bench.kernels import prism
from fp_bench.kernels.backend import triton_missing
from fp_bench.kernels.block_index import causal_blocks
from fp_bench.kernels.layout import BlockGrid
from fp_bench.kernels.pooling import pool_cells
from fp_bench.kernels.pooling import reference as defined_pooling
from fp_bench.kernels.prism import Bands, reference
from tests.kernels.calls import Case, cases

needs_interpreter = pytest.mark.skipif(triton_missing() is not None, reason=str(triton_missing()))
BACKENDS = ["torch", pytest.param("triton", marks=needs_interpreter)]
BANDS = Bands(32, 48)


def assert_selects_as_defined(case, shares, backend, bands, device="cpu", agree=1.0):
    q, k, _ = case.tensors(device)
    ours = prism.select_bands(q, k, bands, shares, scale=case.scale, backend=backend).mask().cpu()
    defined = reference.select_bands(q.cpu(), k.cpu(), bands, shares, scale=case.scale).mask()
    causal = causal_blocks(BlockGrid(case.q_len, case.kv_len)).expand_as(ours)
    assert (ours == defined)[causal].float().mean() >= agree


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=3)
@given(
    case=cases(max_len=300, dtypes=(torch.float32,), head_dims=(64,)),
    shares=st.sampled_from([(0.3, 0.6), (0.95, 0.95), (0.0, 1.01)]),
    calibrated=st.booleans(),
)
def test_selects_as_defined(backend, case, shares, calibrated):
    assert_selects_as_defined(case, shares, backend, Bands(32, 48, calibrated))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("length", "before", "stride"), [(300, 0, 1), (130, 100, 8), (1, 127, 4), (256, 0, 16)])
def test_means_by_place_as_defined(backend, length, before, stride):
    x = Case(batch=2, kv_len=length, q_len=length, kv_heads=2, q_heads=2).tensors()[1]
    ours = pool_cells(x, stride, before=before, backend=backend)
    torch.testing.assert_close(ours, defined_pooling.pool_cells(x, stride, before=before), atol=1e-6, rtol=1e-5)


def test_in_parts_it_selects_the_same(monkeypatch):
    case = Case(batch=2, q_len=400, kv_len=400, q_heads=4, kv_heads=2)
    q, k, _ = case.tensors()
    given = (q, k, Bands(32, 48), (0.5, 0.5))
    whole = prism.select_bands(*given, scale=case.scale).mask()
    monkeypatch.setattr("fp_bench.kernels.ranking.PAIRS_AT_ONCE", 1)
    assert torch.equal(prism.select_bands(*given, scale=case.scale).mask(), whole)


def test_a_block_that_the_slow_dimensions_hide_is_found_by_the_fast_ones():
    q, k = torch.zeros(1, 128, 1, 64), torch.zeros(1, 6 * 128, 1, 64)
    q[..., 0], q[..., 31] = 1, 1
    k[..., 31] = 4 * torch.arange(6.0).repeat_interleave(128)[None, :, None]
    k[:, 256:384, :, 0] = 1
    shares, forced = (0.9, 0.9), {"sink_blocks": 0, "window_blocks": 0}
    kept = [
        prism.select_bands(q, k, bands, shares, scale=4.0, **forced).mask()[0, 0, 0]
        for bands in (Bands(16, 16), Bands(64, 64))
    ]
    assert kept[0][2]
    assert not kept[1][2]


def test_the_bands_of_a_head():
    high, low = Bands(4, 6).dimensions(16)
    assert high == [0, 1, 8, 9]
    assert low == [5, 6, 7, 13, 14, 15]
    with pytest.raises(UnsupportedError, match="the head has 16"):
        Bands(4, 18).dimensions(16)
    with pytest.raises(UnsupportedError, match="must be even"):
        Bands(3, 4)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "case",
    [
        Case(q_len=4096, kv_len=4096, q_heads=4, kv_heads=1, head_dim=128, dtype=torch.bfloat16),
        Case(batch=2, q_len=2500, kv_len=2500, q_heads=8, kv_heads=1, head_dim=64, dtype=torch.float16),
        Case(q_len=700, kv_len=5003, q_heads=2, kv_heads=1, head_dim=256, dtype=torch.bfloat16),
    ],
)
def test_on_a_gpu_as_defined(case):
    assert_selects_as_defined(case, (0.6, 0.6), "auto", BANDS, device="cuda", agree=0.995)
