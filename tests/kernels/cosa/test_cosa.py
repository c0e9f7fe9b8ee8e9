"""CoSA's selection: torch and Triton against the definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fp_bench.errors import UnsupportedError
from fp_bench.kernels import cosa, xattention
from fp_bench.kernels.backend import triton_missing
from fp_bench.kernels.block_index import causal_blocks
from fp_bench.kernels.cosa import reference
from fp_bench.kernels.layout import BlockGrid
from tests.kernels.calls import Case, cases

needs_interpreter = pytest.mark.skipif(triton_missing() is not None, reason=str(triton_missing()))
BACKENDS = ["torch", pytest.param("triton", marks=needs_interpreter)]


def assert_peaks_as_defined(case, stride, backend, device="cpu", agree=1.0, tolerance=1e-3):
    q, k, _ = case.tensors(device)
    given = {"stride": stride, "scale": case.scale}
    ours = xattention.antidiagonal_peaks(q, k, backend=backend, **given).cpu()
    mass, leads = reference.peaks(q.cpu(), k.cpu(), **given)
    causal = causal_blocks(BlockGrid(case.q_len, case.kv_len)).expand_as(mass)
    torch.testing.assert_close(ours.abs()[causal], mass[causal], atol=tolerance, rtol=tolerance)
    # A score near 0.999 of the largest falls either way.
    assert ((ours < 0) == leads)[causal].float().mean() >= agree


def assert_selects_as_defined(case, coverage, backend, device="cpu", agree=1.0):
    q, k, _ = case.tensors(device)
    given = {"stride": 8, "scale": case.scale}
    ours = cosa.select_covering(q, k, coverage, backend=backend, **given).mask().cpu()
    defined = reference.select_covering(q.cpu(), k.cpu(), coverage, **given).mask()
    causal = causal_blocks(BlockGrid(case.q_len, case.kv_len)).expand_as(ours)
    assert (ours == defined)[causal].float().mean() >= agree


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=3)
@given(case=cases(max_len=300, dtypes=(torch.float32,), head_dims=(64,)), stride=st.sampled_from([8, 16]))
def test_peaks_as_defined(backend, case, stride):
    assert_peaks_as_defined(case, stride, backend, agree=0.99)


@needs_interpreter
def test_tiles_join_as_on_a_gpu(monkeypatch):
    from fp_bench.kernels.xattention import triton as antidiagonal_triton

    monkeypatch.setattr(antidiagonal_triton, "capability", lambda _device: 90)
    assert_peaks_as_defined(Case(q_len=700, kv_len=4200, q_heads=1), 8, "triton", agree=0.99)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("coverage", [0.3, 0.8, 1.0])
def test_selects_as_defined(backend, coverage):
    assert_selects_as_defined(Case(q_len=500, kv_len=900), coverage, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=12)
@given(
    rows=st.integers(1, 20),
    blocks=st.integers(1, 20),
    levels=st.sampled_from([2, 5, 100]),
    coverage=st.sampled_from([0.125, 0.5, 0.75, 1.0]),
    seed=st.integers(0, 10_000),
)
def test_the_sets_exactly(backend, rows, blocks, levels, coverage, seed):
    """Masses of sixteenths with zeros and ties, so that every sum is exact in any order."""
    draw = torch.Generator().manual_seed(seed)
    grid = BlockGrid(min(rows, blocks), blocks, 1)
    mass = torch.randint(0, levels, (1, 2, grid.rows, blocks), generator=draw) / 16
    leads = (torch.rand(mass.shape, generator=draw) < 0.4) & (mass > 0)
    asked = torch.full((2,), 2.0 if coverage == 1 else coverage)
    signed = torch.where(leads, -mass, mass) * causal_blocks(grid)
    ours = xattention.cumulative_blocks(signed, asked, grid, peaks=True, backend=backend)
    expected = reference.covering(mass * causal_blocks(grid), leads & causal_blocks(grid), coverage, grid)
    assert torch.equal(ours.mask(), expected)


def test_a_block_of_a_largest_score_comes_before_a_heavier_one():
    grid = BlockGrid(1, 5, 1)
    mass = torch.tensor([[[[1.0, 8.0, 2.0, 4.0, 1.0]]]])  # of 16
    leads = torch.tensor([[[[False, False, True, False, False]]]])
    kept = [reference.covering(mass, leads, share, grid).flatten().nonzero().flatten().tolist() for share in (0.2, 0.5)]
    assert kept == [[0, 2, 4], [0, 1, 2, 4]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_chunk_selects_what_the_whole_prompt_does(backend):
    case = Case(q_len=700, kv_len=700, q_heads=1)
    q, k, _ = case.tensors()
    given = {"stride": 8, "scale": case.scale, "backend": backend}
    whole, chunk = (cosa.select_covering(some, k, 0.6, **given).mask() for some in (q, q[:, 256:]))
    assert torch.equal(chunk, whole[:, :, 2:])


def test_limits_are_refused():
    q, k, _ = Case().tensors()
    for coverage, stride, match in ((0, 8, "coverage 0"), (1.5, 8, "coverage 1.5"), (0.8, 3, "stride 3")):
        with pytest.raises(UnsupportedError, match=match):
            cosa.select_covering(q, k, coverage, stride=stride, scale=1.0)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "case",
    [
        Case(q_len=2048, kv_len=2048, q_heads=4, kv_heads=1, head_dim=128, dtype=torch.bfloat16),
        Case(batch=2, q_len=1100, kv_len=1100, q_heads=2, kv_heads=1, head_dim=64, dtype=torch.float16),
        Case(q_len=300, kv_len=3003, q_heads=2, kv_heads=1, head_dim=256, dtype=torch.bfloat16),
    ],
)
def test_on_a_gpu_as_defined(case):
    assert_peaks_as_defined(case, 8, "triton", "cuda", agree=0.99)
    assert_selects_as_defined(case, 0.8, "auto", "cuda", agree=0.99)
