"""The definition itself, against worked numbers (T1-T6 of the FlashPrefill specification) and dense SDPA."""

import pytest
import torch
import torch.nn.functional as F

from fp_bench.kernels.attention import reference
from fp_bench.kernels.block_index import BlockIndex, causal_blocks
from fp_bench.kernels.flashprefill import reference as defined_selection
from fp_bench.kernels.flashprefill.rule import KeepRule
from fp_bench.kernels.layout import BlockGrid
from fp_bench.kernels.pooling import reference as defined_pooling
from tests.kernels.calls import Case, relative_error


def column(values):
    """One head of head_dim 1 with these values."""
    return torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)


def energies(q, k, block=2):
    pooled = defined_pooling.pool_keys(column(k), block)
    return defined_selection.block_energies(column(q), pooled, kv_len=len(k), scale=1.0, block_size=block)[0, 0]


def lists(index: BlockIndex):
    return [index.blocks[0, 0, row, : index.counts[0, 0, row]].tolist() for row in range(index.counts.shape[2])]


T1_Q, T1_K = [1, 1, 1, 1, 1, 2], [2, 0, 0, 0, 1, 1]


def test_t1_energies():
    expected = torch.tensor([[1, 0, 0], [2, 0.3679, 0], [1.3679, 0.2707, 1]])
    torch.testing.assert_close(energies(T1_Q, T1_K), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("alpha", "expected"), [(0.5, [[0], [0, 1], [0, 2]]), (0.1, [[0], [0, 1], [0, 1, 2]])])
def test_t1_lists(alpha, expected):
    q, k = column(T1_Q), column(T1_K)
    rule = KeepRule(alpha, sink_blocks=0, window_blocks=1, last_full_blocks=0)
    index = defined_selection.select_blocks(q, defined_pooling.pool_keys(k, 2), rule, kv_len=6, scale=1.0, block_size=2)
    assert lists(index) == expected


def test_t2_zero_queries_count_rows():
    energy = energies([0] * 8, [3, -1, 2, 5, 0, 1, 1, 7])
    expected = torch.tril(torch.full((4, 4), 2.0), -1) + torch.eye(4)
    torch.testing.assert_close(energy, expected)


def test_t3_padding_rows_do_not_count():
    energy = energies([1, 1, 1, 1, -3], [2, 2, 0, 0, 1])
    torch.testing.assert_close(energy[2], torch.tensor([0.0025, 1, 0]), atol=1e-4, rtol=0)


def test_t4_alpha_zero_is_dense():
    case = Case(q_len=300, kv_len=300, q_heads=4, kv_heads=2)
    q, k, v = case.tensors()
    index = defined_selection.select_blocks(q, defined_pooling.pool_keys(k), KeepRule(0), kv_len=300, scale=case.scale)
    ours = reference.attention(q, k, v, scale=case.scale, index=index)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    dense = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=case.scale, enable_gqa=True).transpose(1, 2)
    torch.testing.assert_close(ours.out, dense, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("length", "kept", "pairs"), [(4096, 228, 528), (32768, 2020, 32896)])
def test_t4_alpha_above_one_keeps_the_forced_blocks(length, kept, pairs):
    grid = BlockGrid(length, length)
    assert int(KeepRule(2.0).forced(grid).sum()) == kept
    assert causal_blocks(grid).sum() == pairs


def test_t5_selection_is_not_scale_free_but_ignores_a_shift_of_keys_that_queries_share():
    case = Case(q_len=1024, kv_len=1024, q_heads=1, kv_heads=1)
    q, k, _ = case.tensors()
    u = F.normalize(torch.randn(64, generator=torch.Generator().manual_seed(1)), dim=0)
    rule = KeepRule(0.3, 1, 1, 1)

    def mask(q, k):
        pooled = defined_pooling.pool_keys(k)
        return defined_selection.select_blocks(q, pooled, rule, kv_len=1024, scale=case.scale).mask()

    assert not torch.equal(mask(q, k), mask(4 * q, k))
    level = q - (q @ u)[..., None] * u + 2 * u  # q_i . u = 2 for all rows
    assert torch.equal(mask(level, k), mask(level, k + 3 * u))
    assert not torch.equal(mask(q, k), mask(q, k + 30 * u))


def test_t6_kept_set_shrinks_with_alpha_and_holds_sink_diagonal_and_maximum():
    case = Case(q_len=1500, kv_len=1500, q_heads=2, kv_heads=1)
    q, k, _ = case.tensors()
    pooled = defined_pooling.pool_keys(k)
    energy = defined_selection.block_energies(q, pooled, kv_len=1500, scale=case.scale)
    best = energy.argmax(-1, keepdim=True)
    before = None
    for alpha in (0.0, 0.05, 0.3, 1.0):
        rule = KeepRule(alpha, 1, 1, 0)
        mask = defined_selection.select_blocks(q, pooled, rule, kv_len=1500, scale=case.scale).mask()
        assert mask.gather(-1, best).all()
        assert mask[..., 0].all()
        assert mask.diagonal(dim1=-2, dim2=-1).all()
        assert before is None or not (mask & ~before).any()
        before = mask


def test_pooling_divides_the_last_block_by_its_real_length():
    pooled = defined_pooling.pool_keys(column([1, 3, 5]), 2)
    assert pooled.flatten().tolist() == [2.0, 5.0]


def test_rows_are_rows_of_the_whole_and_recall_follows_from_lse():
    case = Case(q_len=200, kv_len=500, q_heads=4, kv_heads=2)
    q, k, v = case.tensors()
    rule = KeepRule(0.5, 1, 1, 0)
    index = defined_selection.select_blocks(q, defined_pooling.pool_keys(k), rule, kv_len=500, scale=case.scale)
    rows = torch.tensor([0, 17, 199])
    some = reference.attention_rows(q, k, v, scale=case.scale, rows=rows, index=index)
    whole = reference.attention(q, k, v, scale=case.scale, index=index)
    torch.testing.assert_close(some.out, whole.out[:, rows])
    torch.testing.assert_close(some.lse, whole.lse[:, :, rows])
    dense = reference.attention_rows(q, k, v, scale=case.scale, rows=rows)
    recall = (some.lse - dense.lse).exp()
    assert (recall <= 1 + 1e-6).all()
    assert (recall > 0).all()
    assert recall.min() < 0.999  # something was dropped


def test_an_empty_list_gives_zero_and_minus_infinity():
    case = Case(q_len=256, kv_len=256)
    q, k, v = case.tensors()
    mask = torch.zeros((1, 2, 2, 2), dtype=torch.bool)
    mask[:, :, 1, 0] = True
    result = reference.attention(q, k, v, scale=case.scale, index=BlockIndex.from_mask(mask, 256, 256))
    assert (result.out[:, :128] == 0).all()
    assert (result.lse[:, :, :128] == -torch.inf).all()
    direct = reference.attention(q[:, 128:], k[:, :128], v[:, :128], scale=case.scale).out
    assert relative_error(result.out[:, 128:], direct) > 0  # a chunk aligned to other keys is something else
    logits = torch.einsum("bihd,bjhd->bhij", q[:, 128:], k[:, :128].expand(-1, -1, 2, -1)) * case.scale
    expected = torch.einsum("bhij,bjhd->bihd", logits.softmax(-1), v[:, :128].expand(-1, -1, 2, -1))
    torch.testing.assert_close(result.out[:, 128:], expected, atol=1e-5, rtol=1e-4)
