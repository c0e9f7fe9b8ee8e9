"""The definitions of FlexPrefill and XAttention against the worked numbers of their specifications."""

import math

import pytest
import torch

from fp_bench.kernels.attention import last_reference, reference
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.flexprefill import reference as flex
from fp_bench.kernels.flexprefill.rule import FlexRule
from fp_bench.kernels.layout import BlockGrid
from fp_bench.kernels.xattention import reference as antidiagonal
from tests.kernels.calls import Case, relative_error


def column(values):
    """One head of head_dim 1 with these values."""
    return torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)


def xattention_row(row, tau, lagging=0):
    """Blocks kept for a query block whose masses are ``row``."""
    a, blocks = len(row) - 1, len(row)
    weights = torch.zeros(1, 1, blocks, blocks)
    weights[0, 0, a] = torch.tensor(row)
    mask = antidiagonal.cumulative_blocks(weights, torch.tensor([tau]), BlockGrid(blocks, blocks, 1), lagging=lagging)
    return set(mask[0, 0, a].nonzero().flatten().tolist())


class TestXAttention:
    def test_t1_antidiagonal_scores_and_masses(self):
        q, k = column(range(1, 9)), column([1, 1, 3, 1, 1, 1, 1, 1])
        weights = antidiagonal.antidiagonal_weights(q, k, stride=2, scale=1.0, block_size=4)
        torch.testing.assert_close(weights[0, 0], torch.tensor([[2, 0], [1.9969, 0.0031]]), atol=1e-4, rtol=0)
        # s[3, :] = 15, 31, 15, 15: the last row's share of the first block follows from these.
        logits = torch.tensor([15.0, 31, 15, 15]) / 2
        alone = antidiagonal.antidiagonal_weights(q[:, 6:], k, stride=2, scale=1.0, block_size=4)
        torch.testing.assert_close(alone[0, 0, 0, 0], logits.softmax(0)[:2].sum())

    T2 = (3.34409, 5.15656, 4.23508, 6.05443, 6.02898, 5.16718, 2.01367)

    @pytest.mark.parametrize(
        ("tau", "intended", "official"),
        [(0.85, {0, 1, 3, 4, 5, 6}, {0, 1, 2, 3, 4, 5, 6}), (0.6, {0, 3, 4, 5, 6}, {0, 1, 3, 4, 5, 6})],
    )
    def test_t2_the_smallest_set(self, tau, intended, official):
        assert xattention_row(self.T2, tau) == intended
        assert xattention_row(self.T2, tau, lagging=7) == official

    def test_t3_zero_queries(self):
        q, k = torch.zeros(1, 500, 1, 4), Case(kv_len=500, kv_heads=1, head_dim=4).tensors()[1]
        weights = antidiagonal.antidiagonal_weights(q, k, stride=8, scale=0.5)[0, 0]
        torch.testing.assert_close(weights.sum(-1), torch.tensor([16.0, 16, 16, 15]))
        # Cell x shares its mass equally among the x + 1 cells it sees.
        expected = sum(min(16, x + 1) / (x + 1) for x in range(16, 32))
        assert weights[1, 0].item() == pytest.approx(expected, rel=1e-5)

    @pytest.mark.parametrize("tau", [0.5, 0.8, 0.95])
    def test_t4_enough_mass_and_none_to_spare(self, tau):
        case = Case(q_len=1200, kv_len=1200, q_heads=3, kv_heads=1)
        q, k, _ = case.tensors()
        weights = antidiagonal.antidiagonal_weights(q, k, stride=8, scale=case.scale)
        grid = BlockGrid(1200, 1200)
        mask = antidiagonal.cumulative_blocks(weights, torch.full((3,), tau), grid)
        total, held = weights.sum(-1), (weights * mask).sum(-1)
        assert (held >= tau * total * (1 - 1e-6)).all()
        a = torch.arange(grid.rows)
        picked = mask.clone()
        picked[..., 0] = False
        picked[:, :, a, a] = False
        smallest = weights.masked_fill(~picked, math.inf).amin(-1)
        assert ((held - smallest < tau * total) | ~picked.any(-1)).all()

    def test_t5_stride_one_is_dense_attention_and_tau_above_one_keeps_everything(self):
        case = Case(q_len=400, kv_len=400, q_heads=2, kv_heads=1)
        q, k, v = case.tensors()
        weights = antidiagonal.antidiagonal_weights(q, k, stride=1, scale=case.scale)
        logits = torch.einsum("bihd,bjhd->bhij", q, k.expand(-1, -1, 2, -1)) * case.scale
        dense = logits.masked_fill(torch.ones(400, 400).triu(1).bool(), -math.inf).softmax(-1)
        first = dense[:, :, 128:256, :128].sum((2, 3))
        torch.testing.assert_close(weights[:, :, 1, 0], first)
        mask = antidiagonal.cumulative_blocks(weights, torch.full((2,), 1.001), BlockGrid(400, 400))
        out = reference.attention(q, k, v, scale=case.scale, index=BlockIndex.from_mask(mask, 400, 400)).out
        assert relative_error(out, reference.attention(q, k, v, scale=case.scale).out) < 1e-6

    def test_t6_a_chunk_selects_what_the_whole_prompt_does(self):
        case = Case(q_len=1000, kv_len=1000)
        q, k, _ = case.tensors()
        whole = antidiagonal.antidiagonal_weights(q, k, stride=16, scale=case.scale)
        chunk = antidiagonal.antidiagonal_weights(q[:, 512:], k, stride=16, scale=case.scale)
        torch.testing.assert_close(chunk, whole[:, :, 4:])

    def test_tau_zero_keeps_the_forced_blocks(self):
        assert xattention_row(self.T2, 0.0) == {0, 6}
        assert xattention_row(self.T2, 0.0, lagging=7) == {0, 6}


class TestFlexPrefill:
    @pytest.mark.parametrize("gamma", [0.75, 0.8])
    def test_t1_token_budget(self, gamma):
        assert flex.tokens_to_cover(torch.tensor([0.5, 0.25, 0.15, 0.1]), gamma) == 3

    def test_t1_the_crossing_entry_is_dropped(self):
        attention = torch.tensor([[0.5, 0.25], [0.15, 0.1]])
        # 0.375 times two rows is the budget .75.
        assert flex.query_aware_blocks(attention, 0.375).flatten().tolist() == [True, True, False, False]

    @pytest.mark.parametrize(("q", "expected"), [([0.9, 0.1], 0.3190), ([0.6, 0.4], 0.0711)])
    def test_t2_divergence(self, q, expected):
        assert flex.divergence(torch.tensor([0.5, 0.5]), torch.tensor(q)).item() == pytest.approx(expected, abs=5e-5)

    def test_t2_divergence_is_at_most_the_root_of_ln_2(self):
        apart = flex.divergence(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])).item()
        assert apart == pytest.approx(math.log(2) ** 0.5)

    def test_t3_a_budget_of_tokens_is_not_coverage(self):
        scattered = torch.zeros(32768)
        scattered[::128] = 1 / 256
        tokens = flex.tokens_to_cover(scattered, 0.9)
        assert (tokens, tokens // 128 + 1) == (231, 2)
        assert scattered.view(256, 128).sum(1).sort(descending=True).values[:2].sum().item() == pytest.approx(0.0078125)
        run = torch.zeros(32768)
        run[5120 : 5120 + 1000] = 1 / 1000
        tokens = flex.tokens_to_cover(run, 0.9)
        assert tokens == pytest.approx(900, abs=1)  # 900 summed in float32, 901 in exact thousandths
        assert tokens // 128 + 1 == 8
        assert run.view(256, 128).sum(1).sort(descending=True).values[:8].sum().item() == pytest.approx(1)

    @pytest.mark.parametrize("official", [False, True])
    @pytest.mark.parametrize("tau", [0.0, 0.1, 0.9])
    def test_t4_masses_sum_to_one_and_forced_blocks_are_kept(self, tau, official):
        case = Case(q_len=1100, kv_len=1100, q_heads=4, kv_heads=2)
        q, k, _ = case.tensors()
        for mass in last_reference.last_attention(q, k, scale=case.scale):
            torch.testing.assert_close(mass.sum(-1), torch.ones(1, 4))
        mask = flex.select_blocks(q, k, FlexRule(0.9, tau, official=official), scale=case.scale).mask()
        assert mask[..., 0].all()
        assert mask.diagonal(dim1=-2, dim2=-1).all()
        assert not (mask & torch.ones(9, 9).triu(1).bool()).any()

    def test_slash_is_by_distance(self):
        # Every query reads the key 5 tokens before it: all mass lies on one diagonal.
        n, size = 64, 8
        q = torch.zeros(1, n, 1, n)
        k = torch.eye(n).view(1, n, 1, n)
        q[0, torch.arange(5, n), 0, torch.arange(n - 5)] = 200.0
        _, slash = last_reference.last_attention(q, k, scale=1.0, block_size=size)
        assert slash[0, 0].argmax() == n - 1 - 5
        assert slash[0, 0].max().item() == pytest.approx(1)

    def test_t5_tau_decides_which_heads_are_query_aware(self):
        case = Case(q_len=1500, kv_len=1500, q_heads=4, kv_heads=2)
        q, k, _ = case.tensors()
        vertical, _ = last_reference.last_attention(q, k, scale=case.scale)
        mass = torch.stack([block.sum(-1) for block in vertical.split(128, -1)], -1)
        distance = flex.pattern_divergence(q, k, mass, scale=case.scale, block_size=128)
        assert ((distance >= 0) & (distance <= 0.8326)).all()

        def counts(tau):
            return flex.select_blocks(q, k, FlexRule(0.5, tau), scale=case.scale).counts

        middle = float(distance.flatten().sort().values[1:3].mean())
        mixed, never, always = counts(middle), counts(0.0), counts(0.9)
        for head in range(4):
            assert torch.equal(mixed[0, head], (always if distance[0, head] < middle else never)[0, head])

    def test_limits_are_refused(self):
        for options in ({"gamma": 0.0}, {"gamma": 1.1}, {"gamma": 0.5, "tau": -1}, {"gamma": 0.5, "min_budget": 0}):
            with pytest.raises(ValueError, match=r"must be|at least"):
                FlexRule(**options)
