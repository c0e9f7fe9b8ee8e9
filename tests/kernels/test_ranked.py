"""Top-k and top-p over energies: both implementations of the energies against the definition."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fp_bench.errors import UnsupportedError
from fp_bench.kernels import ranking as ranking_family
from fp_bench.kernels.backend import triton_missing
from fp_bench.kernels.flashprefill import reference as defined_selection
from fp_bench.kernels.flashprefill.ranked import TopK, TopP, log2_energies, select_ranked
from fp_bench.kernels.flashprefill.rule import KeepRule
from fp_bench.kernels.layout import BlockGrid
from fp_bench.kernels.pooling import reference as defined_pooling
from tests.kernels.calls import Case, cases

needs_interpreter = pytest.mark.skipif(triton_missing() is not None, reason=str(triton_missing()))
NONE_FORCED = KeepRule(alpha=0.0, sink_blocks=0, window_blocks=0, last_full_blocks=0)
DEFINED = {TopK: defined_selection.select_top_k, TopP: defined_selection.select_top_p}
rankings = st.builds(
    lambda kind, share: kind(share), st.sampled_from([TopK, TopP]), st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])
)


def both(case, ranking, backend, forced=NONE_FORCED, device="cpu", block=128):
    """Return our mask and the defined one."""
    q, k, _ = case.tensors(device, block=block)
    pooled = defined_pooling.pool_keys(k, block)
    call = {"kv_len": case.kv_len, "scale": case.scale, "block_size": block}
    ours = select_ranked(q, pooled, ranking, forced, **call, backend=backend).mask()
    return ours, DEFINED[type(ranking)](q, pooled, ranking.share, forced, **call).mask()


def assert_selects_as_defined(case, ranking, backend, device="cpu"):
    q, k, _ = case.tensors(device)
    ours, defined = both(case, ranking, backend, device=device)
    pooled = defined_pooling.pool_keys(k)
    energies = defined_selection.block_energies(q, pooled, kv_len=case.kv_len, scale=case.scale)
    # Rounding may swap blocks whose energies are alike, or take one more where the sum just reaches the share.
    differs = (ours ^ defined).float() * energies
    total = energies.sum(-1)
    if isinstance(ranking, TopK):
        assert torch.equal(ours.sum(-1), defined.sum(-1))
        gained = (ours & ~defined).float() * energies
        lost = (defined & ~ours).float() * energies
        assert ((gained.sum(-1) - lost.sum(-1)).abs() <= 1e-4 * total).all()
    else:
        held = (ours.float() * energies).sum(-1)
        assert (held >= ranking.share * total * (1 - 1e-4)).all()
        clear = ((defined.float() * energies).sum(-1) - ranking.share * total).abs() > 1e-4 * total
        clear &= ranking.share < 1
        assert (differs.sum(-1) <= 1e-3 * total)[clear].all()


@settings(max_examples=25)
@given(cases(head_dims=(64,)), rankings)
def test_torch_selects_as_defined(case, ranking):
    assert_selects_as_defined(case, ranking, "torch")


ODD = [
    Case(q_len=300, kv_len=300, q_heads=3, dtype=torch.float16),
    Case(batch=2, q_len=129, kv_len=390, q_heads=2, kv_heads=2),
    Case(q_len=256, kv_len=512, head_dim=128),
]
"""Partial blocks, chunks, batches, groups."""


@needs_interpreter
@pytest.mark.parametrize("ranking", [TopK(0.5), TopP(0.9)])
def test_triton_selects_as_defined(ranking):
    assert_selects_as_defined(ODD[0], ranking, "triton")


@needs_interpreter
@pytest.mark.parametrize("case", ODD)
def test_triton_writes_the_defined_energies(case):
    q, k, _ = case.tensors()
    pooled = defined_pooling.pool_keys(k)
    grid = BlockGrid(case.q_len, case.kv_len)
    defined = defined_selection.block_energies(q, pooled, kv_len=case.kv_len, scale=case.scale)
    ours = torch.exp2(log2_energies(q, pooled, grid, case.scale, "triton"))
    seen = defined.sum(-1, keepdim=True) > 0
    # The definition is relative to the largest logit of each row, ours is not: compare shares.
    share = (ours / ours.sum(-1, keepdim=True)).where(seen, 0)
    torch.testing.assert_close(share, (defined / defined.sum(-1, keepdim=True)).where(seen, 0), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("pairs", [1, 2 * 2 * 9])
def test_heads_in_parts_are_selected_like_all_at_once(pairs, monkeypatch):
    draw = torch.Generator().manual_seed(0)
    q, k = (torch.randn((1, 300, heads, 64), generator=draw) for heads in (10, 5))
    call = {"kv_len": 300, "scale": 0.125, "backend": "torch"}
    whole = select_ranked(q, defined_pooling.pool_keys(k), TopK(0.5), NONE_FORCED, **call).mask()
    monkeypatch.setattr(ranking_family, "PAIRS_AT_ONCE", pairs)
    parts = select_ranked(q, defined_pooling.pool_keys(k), TopK(0.5), NONE_FORCED, **call).mask()
    assert torch.equal(parts, whole)


def test_definition_by_hand():
    # Energies of the rows: [1], [2, 0.3679], [1.3679, 0.2707, 1] (specs: one head of size 1, blocks of 2).
    q = torch.tensor([1.0, 1, 1, 1, 1, 2]).view(1, 6, 1, 1)
    k = torch.tensor([2.0, 0, 0, 0, 1, 1]).view(1, 6, 1, 1)
    pooled = defined_pooling.pool_keys(k, 2)
    call = {"kv_len": 6, "scale": 1.0, "block_size": 2}
    half = defined_selection.select_top_k(q, pooled, 0.5, NONE_FORCED, **call)
    assert half.mask()[0, 0].int().tolist() == [[1, 0, 0], [1, 0, 0], [1, 0, 1]]
    most = defined_selection.select_top_p(q, pooled, 0.8, NONE_FORCED, **call)
    assert most.mask()[0, 0].int().tolist() == [[1, 0, 0], [1, 0, 0], [1, 0, 1]]
    nearly = defined_selection.select_top_p(q, pooled, 0.95, NONE_FORCED, **call)
    assert nearly.mask()[0, 0].int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]


def test_forced_blocks_are_kept_whatever_is_ranked():
    forced = KeepRule(alpha=0.0, sink_blocks=1, window_blocks=1, last_full_blocks=1)
    ours, defined = both(Case(q_len=900, kv_len=900), TopK(0.0), "torch", forced)
    assert torch.equal(ours, defined)
    assert torch.equal(ours[0, 0], forced.forced(BlockGrid(900, 900)))


@pytest.mark.parametrize(("share", "blocks"), [(0.1, 30), (0.3, 10), (0.7, 10)])
def test_a_whole_number_of_blocks_is_not_rounded_up(share, blocks):
    case = Case(q_len=16, kv_len=16 * blocks, q_heads=1, head_dim=16)
    ours, defined = both(case, TopK(share), "torch", block=16)
    assert ours.sum() == defined.sum() == round(share * blocks)


@pytest.mark.parametrize("ranking", [TopK, TopP])
@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_shares_are_shares(ranking, share):
    with pytest.raises(UnsupportedError, match="0 to 1"):
        ranking(share)


@pytest.mark.gpu
@pytest.mark.parametrize("ranking", [TopK(0.1), TopP(0.9)])
@pytest.mark.parametrize("case", [Case(q_len=9000, kv_len=9000, q_heads=8, kv_heads=2, head_dim=128), *ODD])
def test_a_gpu_selects_as_defined(case, ranking):
    assert_selects_as_defined(replace(case, dtype=torch.bfloat16), ranking, "triton", "cuda")
