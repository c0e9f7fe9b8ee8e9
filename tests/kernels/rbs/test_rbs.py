"""RBS-Attention's radii and selection: torch and Triton against the definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fp_bench.errors import UnsupportedError
from fp_bench.kernels import rbs
from fp_bench.kernels.backend import triton_missing
from fp_bench.kernels.flashprefill import select_blocks
from fp_bench.kernels.flashprefill.reference import block_energies
from fp_bench.kernels.flashprefill.rule import KeepRule
from fp_bench.kernels.pooling import pool_keys, pool_with_radii
from fp_bench.kernels.pooling import reference as defined_pooling
from fp_bench.kernels.rbs import reference
from fp_bench.kernels.rbs.rule import Rescue
from tests.kernels.calls import Case, cases

needs_interpreter = pytest.mark.skipif(triton_missing() is not None, reason=str(triton_missing()))
BACKENDS = ["torch", pytest.param("triton", marks=needs_interpreter)]
rules = st.builds(
    KeepRule,
    alpha=st.sampled_from([0.0, 0.05, 0.3, 1.5]),
    sink_blocks=st.integers(0, 2),
    window_blocks=st.integers(0, 2),
    last_full_blocks=st.integers(0, 1),
)
rescues = st.builds(
    Rescue, alpha=st.sampled_from([0.05, 0.3, 1.5]), beta=st.sampled_from([0.0, 0.3, 1.0]), low=st.just(0.2)
)


def uneven(case, device="cpu"):
    """Q and K of a case in which every third block of keys has a stray one."""
    q, k, _ = case.tensors(device)
    k[:, 64::384] *= 4
    return q, k


def clear_of(energies, alpha, tolerance=1e-3):
    """Where an energy is clearly on one side of its threshold."""
    threshold = alpha * energies.amax(-1, keepdim=True)
    return (energies - threshold).abs() > tolerance * threshold


def assert_selects_as_defined(case, rule, rescue, backend, device="cpu"):
    q, k = uneven(case, device)
    pooled, radii = defined_pooling.pool_keys(k), defined_pooling.block_radii(k)
    lengths = {"kv_len": case.kv_len, "scale": case.scale}
    ours = rbs.select_rescued(q, pooled, radii, rule, rescue, backend=backend, **lengths).mask()
    defined = reference.select_rescued(q, pooled, radii, rule, rescue, **lengths).mask()
    clear = clear_of(block_energies(q, pooled, **lengths), rule.alpha)
    clear &= clear_of(reference.lifted_energies(q, pooled, rescue.lifts(radii), **lengths), rescue.alpha)
    assert not ((ours != defined) & clear).any()
    if rule.alpha == 0:
        assert torch.equal(ours, defined)


@settings(max_examples=15)
@given(cases(max_len=700, head_dims=(64,)), rules, rescues)
def test_torch_selects_as_defined(case, rule, rescue):
    assert_selects_as_defined(case, rule, rescue, "torch")


@needs_interpreter
@settings(max_examples=4)
@given(cases(max_len=500, dtypes=(torch.float32, torch.float16), head_dims=(64,)), rules, rescues)
def test_triton_selects_as_defined(case, rule, rescue):
    assert_selects_as_defined(case, rule, rescue, "triton")


@needs_interpreter
def test_triton_walks_several_tiles_of_keys_and_of_lists():
    # Blocks of 16 tokens give more key blocks than a tile of either at a length the interpreter can walk.
    q, k, _ = Case(q_len=40, kv_len=16 * 520, head_dim=16).tensors(block=16)
    pooled, radii = pool_with_radii(k, 16)
    ours, defined = (
        select(
            q, pooled, radii, KeepRule(0.3, 1, 1, 0), Rescue(0.2), kv_len=16 * 520, scale=0.25, block_size=16, **more
        )
        for select, more in ((rbs.select_rescued, {"backend": "triton"}), (reference.select_rescued, {}))
    )
    assert torch.equal(ours.mask(), defined.mask())
    assert 0.01 < ours.density().mean() < 0.9


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=15)
@given(case=cases(max_len=500, dtypes=(torch.float32, torch.float16), head_dims=(64,)))
def test_radii_as_defined(backend, case):
    _, k, _ = case.tensors()
    pooled, radii = pool_with_radii(k, backend=backend)
    torch.testing.assert_close(pooled, pool_keys(k, backend=backend))
    torch.testing.assert_close(radii, defined_pooling.block_radii(k), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_radius_rescues_the_block_of_a_lone_key(backend):
    # The mean of block 1 hides its one key that matters; only its radius tells.
    q, k, _ = Case(q_len=128, kv_len=6 * 128, q_heads=1).tensors(contrast=0)
    q[:] = 3 * torch.nn.functional.normalize(torch.randn(64, generator=torch.Generator().manual_seed(1)), dim=0)
    k *= 0.1
    k[:, 200] = q[:, 0] * 20
    k[:, 201] = -k[:, 200]
    rule, lengths = KeepRule(0.5, 0, 1, 0), {"kv_len": 768, "scale": 0.125}
    pooled, radii = pool_with_radii(k, backend=backend)
    alone = select_blocks(q, pooled, KeepRule(1.5, 0, 1, 0), backend=backend, **lengths).mask()[0, 0, 0]
    rescued = rbs.select_rescued(q, pooled, radii, KeepRule(1.5, 0, 1, 0), Rescue(0.5), backend=backend, **lengths)
    assert alone.tolist() == [False] * 5 + [True]
    assert rescued.mask()[0, 0, 0].tolist() == [False, True, False, False, False, True]
    none = rbs.select_rescued(q, pooled, radii, rule, Rescue(1.5), backend=backend, **lengths).mask()
    assert torch.equal(none, select_blocks(q, pooled, rule, backend=backend, **lengths).mask())


def test_weights_rise_between_the_quantiles():
    radii = torch.arange(11.0)[None, :, None]
    assert Rescue(0.1, 0.5).lifts(radii)[0, :, 0].tolist() == pytest.approx(
        [0, 0, 0, 0, 0, 0, 0.75, 1.75, 3.0, 4.5, 5.0]
    )
    assert not Rescue(0.1).lifts(torch.ones(1, 5, 2)).any()
    assert not Rescue(0.1).lifts(torch.ones(1, 1, 2)).any()


@pytest.mark.parametrize("values", [{"alpha": -1}, {"alpha": 1, "beta": -1}, {"alpha": 1, "low": 0.9, "high": 0.9}])
def test_what_is_out_of_limits_is_refused(values):
    with pytest.raises(UnsupportedError):
        Rescue(**values)


GPU_CASES = [
    Case(q_len=4096, kv_len=4096, q_heads=4, kv_heads=1, head_dim=128, dtype=torch.bfloat16),
    Case(batch=2, q_len=2500, kv_len=2500, q_heads=8, kv_heads=1, head_dim=64, dtype=torch.float16),
    Case(q_len=700, kv_len=5003, q_heads=2, kv_heads=1, head_dim=256, dtype=torch.bfloat16),
]


@pytest.mark.gpu
@pytest.mark.parametrize("case", GPU_CASES)
def test_on_a_gpu_as_defined(case):
    q, k = uneven(case, "cuda")
    pooled, radii = pool_with_radii(k)
    torch.testing.assert_close(radii, defined_pooling.block_radii(k), atol=1e-3, rtol=1e-3)
    given = KeepRule(0.3), Rescue(0.3)
    lengths = {"kv_len": case.kv_len, "scale": case.scale}
    ours = rbs.select_rescued(q, pooled, radii, *given, **lengths).mask()
    defined = reference.select_rescued(q, pooled, radii, *given, **lengths).mask()
    assert (ours == defined).float().mean() >= 0.995
