"""The selection kernels of FlexPrefill and XAttention on a real GPU against the float32 definitions."""

import pytest
import torch

from fp_bench.kernels import flexprefill as flex
from fp_bench.kernels import xattention as antidiagonal
from fp_bench.kernels.flexprefill import steps_torch as flex_torch
from fp_bench.kernels.flexprefill.rule import FlexRule
from fp_bench.kernels.layout import BlockGrid
from fp_bench.kernels.xattention import reference
from tests.kernels.calls import Case
from tests.kernels.test_antidiagonal import assert_weighs_as_defined
from tests.kernels.test_flex import assert_selects_as_defined
from tests.kernels.test_last_attention import assert_masses_as_defined

pytestmark = pytest.mark.gpu
BF16, FP16 = torch.bfloat16, torch.float16
CASES = [
    (Case(q_len=4096, kv_len=4096, q_heads=4, kv_heads=1, head_dim=128, dtype=BF16), 8),
    (Case(batch=2, q_len=2500, kv_len=2500, q_heads=2, kv_heads=2, head_dim=64, dtype=FP16), 16),
    (Case(q_len=700, kv_len=5003, q_heads=2, kv_heads=1, head_dim=128, dtype=BF16), 8),
]


@pytest.mark.parametrize(("case", "stride"), CASES)
def test_masses_of_antidiagonals(case, stride):
    assert_weighs_as_defined(case, stride, "triton", device="cuda")


def test_rounded_masses():
    assert_weighs_as_defined(CASES[0][0], 8, "triton", rounded=True, device="cuda")


@pytest.mark.parametrize("blocks", [5, 200, 2048, 5000])
@pytest.mark.parametrize("lagging", [0, 2000])
def test_the_smallest_sets_exactly(blocks, lagging):
    grid = BlockGrid(3, blocks, 1)
    weights = torch.randint(0, 50, (1, 2, 3, blocks), generator=torch.Generator().manual_seed(blocks)) / 16
    taus = torch.tensor([0.75, 1.5])
    found = antidiagonal.cumulative_blocks(weights.cuda(), taus.cuda(), grid, lagging=lagging)
    causal = antidiagonal.causal_blocks(grid)
    assert torch.equal(found.mask().cpu(), reference.cumulative_blocks(weights * causal, taus, grid, lagging=lagging))


@pytest.mark.parametrize(
    "case", [CASES[0][0], Case(batch=2, q_len=2500, kv_len=2500, q_heads=4, kv_heads=2, head_dim=64, dtype=FP16)]
)
@pytest.mark.parametrize("rule", [FlexRule(0.9, 0.3), FlexRule(0.6, 0.9), FlexRule(0.9, 0.2, 300, official=True)])
def test_flex_selects_as_defined(case, rule):
    # A mean key, or a rounded logit, on the edge of two values of its dtype rounds either way.
    assert_selects_as_defined(case, rule, "triton", "cuda", agree=0.97)


@pytest.mark.parametrize("rows", [64, 128])
@pytest.mark.parametrize("head_dim", [128, 256])
def test_masses_of_the_last_queries(head_dim, rows):
    assert_masses_as_defined(
        Case(q_len=3001, kv_len=3001, q_heads=4, kv_heads=2, head_dim=head_dim, dtype=BF16), rows, "triton", "cuda"
    )


def test_crossings_exactly():
    from fp_bench.kernels.flexprefill import triton as flex_triton

    values = torch.randint(0, 1000, (3, 300_000), generator=torch.Generator().manual_seed(0)).cuda() / 1024
    values[:, ::7] = 0
    active = torch.tensor([True, False, True], device="cuda")
    for budget in (0.0, 512.0, 65536.0):
        ours, defined = flex_triton.crossing(values, budget, active), flex_torch.crossing(values, budget, active)
        for mine, theirs in zip(ours[::2], defined[::2], strict=True):  # sums of this size round in float32
            assert torch.equal(mine[active].double(), theirs[active].double())


def test_a_quarter_of_a_million_tokens_within_four_gib():
    length, heads = 262_144, 32
    q = torch.randn((1, length, heads, 128), device="cuda", dtype=BF16)
    k = torch.randn((1, length, 8, 128), device="cuda", dtype=BF16)
    tau = torch.full((heads,), 0.9, device="cuda")
    for select in (
        lambda: antidiagonal.select_antidiagonal(q, k, tau, stride=8, scale=128**-0.5),
        lambda: flex.select_flex(q, k, FlexRule(0.9, 0.9, 1024), scale=128**-0.5),
    ):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        index = select()
        assert torch.cuda.max_memory_allocated() - before < 4 * 2**30
        counts = index.counts.amin(), index.counts.amax()
        assert 1 <= counts[0] <= counts[1] <= length // 128
