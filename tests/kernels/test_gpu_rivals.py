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


FLEX_CASES = [
    CASES[0][0],
    Case(batch=2, q_len=2500, kv_len=2500, q_heads=4, kv_heads=2, head_dim=64, dtype=FP16),
    Case(q_len=3001, kv_len=3001, q_heads=6, kv_heads=2, head_dim=128, dtype=BF16),
    Case(q_len=1100, kv_len=1100, q_heads=2, kv_heads=1, head_dim=256, dtype=BF16),
]
FLEX_RULES = [
    *(FlexRule(0.9, 0.3), FlexRule(0.6, 0.9), FlexRule(0.9, 0.2, 300, official=True)),
    *(FlexRule(0.9, 0.1, 1024, official=True), FlexRule(0.95, 0.0, max_budget=600)),
]


@pytest.mark.parametrize("case", FLEX_CASES)
@pytest.mark.parametrize("rule", FLEX_RULES)
def test_flex_selects_as_defined(case, rule):
    # A mean key, or a rounded logit, on the edge of two values of its dtype rounds either way.
    assert_selects_as_defined(case, rule, "triton", "cuda", agree=0.97)


@pytest.mark.parametrize("rule", FLEX_RULES)
def test_flex_selects_the_same_each_time(rule):
    q, k, _ = FLEX_CASES[2].tensors("cuda", contrast=1.0)
    first, second = (flex.select_flex(q, k, rule, scale=0.1, backend="triton").mask() for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(("length", "most"), [(4096, 9), (16384, 9), (65536, 17)])
def test_flex_is_few_launches(length, most):
    q = torch.randn((1, length, 8, 128), device="cuda", dtype=BF16)
    k = torch.randn((1, length, 2, 128), device="cuda", dtype=BF16)
    rule = FlexRule(0.9, 0.1, 1024, official=True)
    flex.select_flex(q, k, rule, scale=128**-0.5)  # compiles
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        flex.select_flex(q, k, rule, scale=128**-0.5)
        torch.cuda.synchronize()
    on_device = [event.name for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    assert 1 <= len(on_device) <= most, on_device


@pytest.mark.parametrize("rows", [64, 128])
@pytest.mark.parametrize("head_dim", [128, 256])
def test_masses_of_the_last_queries(head_dim, rows):
    assert_masses_as_defined(
        Case(q_len=3001, kv_len=3001, q_heads=4, kv_heads=2, head_dim=head_dim, dtype=BF16), rows, "triton", "cuda"
    )


def test_crossings_exactly():
    from tests.kernels.flex_steps import crossing, tokens_to_cover

    for length in (4096, 60_000, 300_000):
        values = torch.randint(0, 1000, (3, length), generator=torch.Generator().manual_seed(0)).cuda() / 1024
        values[:, ::7] = 0
        active = torch.tensor([1, 0, 1], dtype=torch.int8, device="cuda")
        for budget in (0.0, 512.0, 65536.0):
            defined = flex_torch.crossing(values, budget)
            assert torch.equal(crossing(values, budget, active)[active > 0], defined.value[active > 0])
            if length < 16384:  # longer sums round in float32
                assert torch.equal(tokens_to_cover(values, budget), defined.entries.clamp_max(length).int() + 1)


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
