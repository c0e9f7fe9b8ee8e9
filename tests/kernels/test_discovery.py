"""Pooling and selection: both implementations against the definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fp_bench.errors import UnavailableError, UnsupportedError, UsageError
from fp_bench.kernels.backend import resolve_backend, triton_missing
from fp_bench.kernels.flashprefill import reference as defined_selection
from fp_bench.kernels.flashprefill import select_blocks
from fp_bench.kernels.flashprefill.rule import KeepRule
from fp_bench.kernels.layout import BlockGrid
from fp_bench.kernels.pooling import pool_keys
from fp_bench.kernels.pooling import reference as defined_pooling
from tests.kernels.calls import Case, cases

needs_interpreter = pytest.mark.skipif(triton_missing() is not None, reason=str(triton_missing()))
rules = st.builds(
    KeepRule,
    alpha=st.sampled_from([0.0, 0.02, 0.12, 0.5, 1.0, 1.5]),
    sink_blocks=st.integers(0, 2),
    window_blocks=st.integers(0, 3),
    last_full_blocks=st.integers(0, 2),
)


def away_from_ties(case, q, pooled, rule, tolerance=1e-4):
    """Where the energy is clearly on one side of the threshold in the float32 definition."""
    energy = defined_selection.block_energies(q, pooled, kv_len=case.kv_len, scale=case.scale)
    threshold = rule.alpha * energy.amax(-1, keepdim=True)
    return (energy - threshold).abs() > tolerance * threshold


def assert_selects_as_defined(case, rule, backend, device="cpu"):
    q, k, _ = case.tensors(device)
    pooled = defined_pooling.pool_keys(k)
    ours = select_blocks(q, pooled, rule, kv_len=case.kv_len, scale=case.scale, backend=backend).mask()
    defined = defined_selection.select_blocks(q, pooled, rule, kv_len=case.kv_len, scale=case.scale).mask()
    differs = (ours != defined) & away_from_ties(case, q, pooled, rule)
    # alpha 0 has no ties: every causal block is kept.
    assert not differs.any() if rule.alpha else torch.equal(ours, defined)


@settings(max_examples=200)
@given(cases(), rules)
def test_torch_selects_as_defined(case, rule):
    assert_selects_as_defined(case, rule, "torch")


@needs_interpreter
@settings(max_examples=10)
@given(cases(dtypes=(torch.float32, torch.float16), head_dims=(64,)), rules)
def test_triton_selects_as_defined(case, rule):
    assert_selects_as_defined(case, rule, "triton")


@needs_interpreter
def test_triton_compacts_lists_longer_than_one_tile():
    # Blocks of 16 tokens give more key blocks than COMPACT_TILE at a length the interpreter can walk.
    case = Case(q_len=64, kv_len=16 * 600, q_heads=1, kv_heads=1, head_dim=16)
    q, k, _ = case.tensors(block=16)
    pooled = defined_pooling.pool_keys(k, 16)
    rule = KeepRule(0.05, 1, 1, 0)
    ours, defined = (
        select(q, pooled, rule, kv_len=case.kv_len, scale=case.scale, block_size=16, **extra)
        for select, extra in ((select_blocks, {"backend": "triton"}), (defined_selection.select_blocks, {}))
    )
    assert ours.counts.max() > 20
    assert torch.equal(ours.mask(), defined.mask())
    listed = ours.blocks[0, 0, 0, : ours.counts[0, 0, 0]].tolist()
    assert listed == sorted(listed)
    assert listed[-1] > 512


@pytest.mark.parametrize("backend", ["torch", pytest.param("triton", marks=needs_interpreter)])
def test_a_chunk_selects_what_the_whole_prompt_does(backend):
    case = Case(q_len=1000, kv_len=1000, q_heads=2, kv_heads=1)
    q, k, _ = case.tensors()
    rule = KeepRule(0.2, 1, 2, 0)

    def mask(q, k):
        index = select_blocks(
            q, pool_keys(k, backend=backend), rule, kv_len=k.shape[1], scale=case.scale, backend=backend
        )
        return index.mask()

    whole = mask(q, k)
    cut = 512
    torch.testing.assert_close(mask(q[:, :cut], k[:, :cut]), whole[:, :, : cut // 128, : cut // 128])
    torch.testing.assert_close(mask(q[:, cut:], k), whole[:, :, cut // 128 :])


@pytest.mark.parametrize("backend", ["torch", pytest.param("triton", marks=needs_interpreter)])
@settings(max_examples=40)
@given(case=cases(dtypes=(torch.float32, torch.float16), head_dims=(64,)))
def test_pooling_as_defined(backend, case):
    _, k, _ = case.tensors()
    pooled = pool_keys(k, backend=backend)
    assert pooled.dtype == k.dtype
    tolerance = {torch.float32: 1e-6, torch.float16: 2e-3}[k.dtype]
    torch.testing.assert_close(pooled, defined_pooling.pool_keys(k), atol=tolerance, rtol=tolerance)


def test_pooling_accumulates_in_float32():
    # A bfloat16 running sum of 128 ones and a small rest would lose the rest.
    k = torch.ones((1, 128, 1, 64), dtype=torch.bfloat16)
    k[0, ::2] = 1.0078125
    expected = torch.tensor(1.00390625).bfloat16()
    assert (pool_keys(k) == expected).all()


@pytest.mark.parametrize("alpha", [-0.1, float("nan"), float("inf")])
def test_alpha_out_of_limits_is_refused(alpha):
    with pytest.raises(UnsupportedError, match="alpha"):
        KeepRule(alpha)


@pytest.mark.parametrize("name", ["sink_blocks", "window_blocks", "last_full_blocks"])
def test_negative_block_counts_are_refused(name):
    with pytest.raises(UnsupportedError, match=f"{name} -1 must be at least 0"):
        KeepRule(0.1, **{name: -1})


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_scale_must_be_positive(scale):
    q, k, _ = Case().tensors()
    with pytest.raises(UnsupportedError, match="scale"):
        select_blocks(q, pool_keys(k), KeepRule(0.1), kv_len=256, scale=scale)


def test_forced_blocks_of_a_chunk_are_those_of_its_rows():
    rule = KeepRule(2.0, 1, 2, 1)
    whole, chunk = rule.forced(BlockGrid(1024, 1024)), rule.forced(BlockGrid(256, 1024))
    assert torch.equal(chunk, whole[-2:])


def test_unknown_backend_names_the_near_one():
    with pytest.raises(UsageError, match="did you mean 'triton'"):
        resolve_backend(torch.zeros(1), "tritn")


def test_triton_is_refused_where_it_cannot_run(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(UnavailableError, match=r"no GPU|on cpu"):
        resolve_backend(torch.zeros(1, dtype=torch.float16), "triton")
