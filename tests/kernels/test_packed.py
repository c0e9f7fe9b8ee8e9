"""FlashPrefill V2's lists, one for all heads of a KV head, and the means of the blocks that no list names."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fp_bench.errors import UnsupportedError
from fp_bench.kernels.attention import block_sparse_attention, reference
from fp_bench.kernels.backend import gluon_missing, triton_missing
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.flashprefill.rule import KeepRule
from fp_bench.kernels.flashprefill_v2 import reference as reference_packed
from fp_bench.kernels.flashprefill_v2 import select_packed_blocks
from fp_bench.kernels.layout import BlockGrid
from fp_bench.kernels.pooling import reference as defined_pooling
from fp_bench.kernels.pooling.means import BlockMeans, block_means
from tests.kernels.calls import Case, cases, relative_error
from tests.kernels.test_discovery import rules

needs_interpreter = pytest.mark.skipif(triton_missing() is not None, reason=str(triton_missing()))
BACKENDS = ["torch", pytest.param("triton", marks=needs_interpreter)]
TOLERANCE = {torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}


def random_lists(case, packed, share, device="cpu"):
    """Lists with and without the row's own block, and empty ones."""
    grid = BlockGrid(case.q_len, case.kv_len, packed=packed)
    shape = (case.batch, case.q_heads // packed, grid.rows, grid.key_blocks)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(case.seed)) < share
    return BlockIndex.from_mask(mask.to(device), case.q_len, case.kv_len, packed=packed)


def assert_attends_as_defined(case, packs, share, corrected, backend, device="cpu"):
    q, k, v = case.tensors(device)
    index = random_lists(case, case.q_heads // case.kv_heads if packs else 1, share, device)
    means = block_means(k, v) if corrected else None
    found = block_sparse_attention(q, k, v, index, scale=case.scale, means=means, backend=backend)
    expected = reference.attention(q, k, v, scale=case.scale, index=index, means=means)
    assert relative_error(found.out, expected.out) < TOLERANCE[case.dtype]
    torch.testing.assert_close(found.lse, expected.lse, atol=2e-3 if case.dtype != torch.float32 else 1e-4, rtol=1e-4)


def assert_selects_as_defined(case, rule, backend, device="cpu"):
    q, k, _ = case.tensors(device)
    pooled = defined_pooling.pool_keys(k)
    ours = select_packed_blocks(q, pooled, rule, kv_len=case.kv_len, scale=case.scale, backend=backend)
    defined = reference_packed.select_packed_blocks(q, pooled, rule, kv_len=case.kv_len, scale=case.scale)
    energies = reference_packed.packed_energies(q, pooled, ours.grid, case.scale)
    near = (energies - energies.amax(-1, keepdim=True) - rule.log2_alpha).abs() < 1e-3
    assert not ((ours.mask() != defined.mask()) & ~near).any()


@given(cases(dtypes=(torch.float32,)))
def test_rows_cover_every_query_once_and_lie_in_one_key_block(case):
    packed = case.q_heads // case.kv_heads
    grid = BlockGrid(case.q_len, case.kv_len, packed=packed)
    position = torch.arange(grid.offset, grid.kv_len)
    rows = torch.stack([grid.row_of(position, head) for head in range(packed)], 1)
    assert torch.equal(rows.flatten(), rows.flatten().sort().values)  # of places, one after the other
    assert rows.unique().tolist() == list(range(grid.rows))
    assert (rows.flatten().bincount()[1:-1] == grid.block_size).all()  # no place is empty, but at the ends
    assert torch.equal(grid.diagonals()[rows], (position // grid.block_size)[:, None].expand(-1, packed))
    begins, ends = grid.spans()
    for head in range(packed):
        of_rows = [torch.arange(*edges) for edges in zip(begins[head].tolist(), ends[head].tolist(), strict=True)]
        assert torch.equal(torch.cat(of_rows), position)
        assert torch.equal(rows[:, head], torch.arange(grid.rows).repeat_interleave(ends[head] - begins[head]))


@settings(max_examples=40)
@given(cases(max_len=500, dtypes=(torch.float32,)), st.sampled_from([0.0, 0.4, 1.0]))
def test_what_an_index_says_of_its_lists_is_what_its_queries_read(case, share):
    index = random_lists(case, case.q_heads // case.kv_heads, share)
    position = torch.arange(case.kv_len - case.q_len, case.kv_len)
    causal = torch.arange(case.kv_len) <= position[:, None]
    entries = index.entries()
    assert index.density().shape == entries.shape == (case.batch, case.q_heads)
    for head in range(case.q_heads):
        read = index.keys_read(0, head, position) & causal
        assert entries[0, head] == read.sum()
        assert torch.equal(index.kept_blocks(head) > 0, index.kept_blocks(head - head % index.packed) > 0)
    assert ((share < 1.0) | (index.density() == 1.0)).all()


@settings(max_examples=30)
@given(cases(max_len=500, dtypes=(torch.float32,), head_dims=(64,)), st.booleans(), st.sampled_from([0.0, 0.4, 1.0]),
       st.booleans())  # fmt: skip
def test_torch_attends_as_defined(case, packs, share, corrected):
    assert_attends_as_defined(case, packs, share, corrected, "torch")


@needs_interpreter
@settings(max_examples=8)
@given(cases(max_len=400, dtypes=(torch.float32, torch.float16), head_dims=(64,)), st.booleans(),
       st.sampled_from([0.4, 1.0]), st.booleans())  # fmt: skip
def test_triton_attends_as_defined(case, packs, share, corrected):
    assert_attends_as_defined(case, packs, share, corrected, "triton")


@pytest.mark.parametrize("group", range(1, 9))
@pytest.mark.parametrize("corrected", [False, True])
def test_every_group_attends_and_selects_as_defined(group, corrected):
    case = Case(q_len=170, kv_len=300, q_heads=2 * group, kv_heads=2, seed=group)
    assert_attends_as_defined(case, True, 0.4, corrected, "torch")
    assert_selects_as_defined(case, KeepRule(0.3, 1, 1, 0), "torch")


@needs_interpreter
@pytest.mark.parametrize("group", [3, 5])
def test_groups_whose_rows_end_inside_a_position_in_triton(group):
    case = Case(q_len=170, kv_len=300, q_heads=group, kv_heads=1, seed=group)
    assert_attends_as_defined(case, True, 0.4, True, "triton")
    assert_selects_as_defined(case, KeepRule(0.3, 1, 1, 0), "triton")


@pytest.mark.skipif(gluon_missing() is not None, reason=str(gluon_missing()))
@pytest.mark.parametrize("group", [1, 2, 4, 8])
def test_a_box_holds_the_heads_of_one_list(group):
    from fp_bench.kernels.attention.hopper_parts import CONSUMERS, rows_boxed

    q = torch.arange(2 * 40 * 3 * group * 64, dtype=torch.float32).view(2, 40, 3 * group, 64)
    grid = BlockGrid(40, 300, packed=group)
    box = rows_boxed(q, grid)
    assert math.prod(box.block) * CONSUMERS == grid.block_size * 64
    positions, heads = box.block[1:3]
    assert (positions * heads * CONSUMERS, heads) == (grid.block_size, group)


@settings(max_examples=60)
@given(cases(dtypes=(torch.float32,), head_dims=(64,)), rules)
def test_torch_selects_as_defined(case, rule):
    assert_selects_as_defined(case, rule, "torch")


@needs_interpreter
@settings(max_examples=10)
@given(cases(dtypes=(torch.float32, torch.float16), head_dims=(64,)), rules)
def test_triton_selects_as_defined(case, rule):
    assert_selects_as_defined(case, rule, "triton")


def test_the_worked_example_of_the_specification():
    """Rows at positions 10 and 11 of two heads, q = 1, 0, 2, 1, mean keys 1, 0, 1, 5: S = 1.8711, 0.5413, 1.8711."""
    q = torch.tensor([[1.0, 0.0], [2.0, 1.0]]).view(1, 2, 2, 1)
    pooled = torch.tensor([1.0, 0.0, 1.0]).view(1, 3, 1, 1)
    grid = BlockGrid(2, 12, 4, 2)
    assert (grid.rows, grid.first) == (1, 5)
    energies = reference_packed.packed_energies(q, pooled, grid, 1.0)[0, 0, 0].exp2()
    torch.testing.assert_close(energies / math.exp(2), torch.tensor([1.8711, 0.5413, 1.8711]), atol=1e-4, rtol=0)
    rule = KeepRule(0.5, 0, 0, 0)
    index = reference_packed.select_packed_blocks(q, pooled, rule, kv_len=12, scale=1.0, block_size=4)
    assert index.mask()[0, 0, 0].tolist() == [True, False, True]
    # Two positions earlier no row sees the last block whole: it has no energy, though its first token is seen.
    earlier = reference_packed.packed_energies(q, pooled, BlockGrid(2, 10, 4, 2), 1.0)[0, 0, 0]
    assert earlier[2] == -math.inf


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_chunk_selects_what_the_whole_prompt_does(backend):
    case = Case(q_len=700, kv_len=700, q_heads=4, kv_heads=1)
    q, k, _ = case.tensors()
    rule, pooled = KeepRule(0.3, 1, 1, 0), defined_pooling.pool_keys(k)
    whole = select_packed_blocks(q, pooled, rule, kv_len=700, scale=case.scale, backend=backend).mask()
    for start, stop in ((0, 96), (96, 512), (512, 700)):
        seen = defined_pooling.pool_keys(k[:, :stop])
        chunk = select_packed_blocks(q[:, start:stop], seen, rule, kv_len=stop, scale=case.scale, backend=backend)
        first = start // 32
        assert torch.equal(chunk.mask(), whole[:, :, first : first + chunk.grid.rows, : chunk.grid.key_blocks])


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_correction_is_exact_where_blocks_are_constant(backend):
    case = Case(q_len=600, kv_len=600, q_heads=2, kv_heads=1)
    q, k, v = case.tensors()
    k, v = (tensor[:, ::128].repeat_interleave(128, 1)[:, :600].contiguous() for tensor in (k, v))
    own = BlockIndex.from_mask(torch.eye(5, dtype=torch.bool).expand(1, 2, -1, -1), 600, 600)
    exact = reference.attention(q, k, v, scale=case.scale)
    corrected = block_sparse_attention(q, k, v, own, scale=case.scale, means=block_means(k, v), backend=backend)
    without = block_sparse_attention(q, k, v, own, scale=case.scale, backend=backend)
    assert relative_error(corrected.out, exact.out) < 1e-5
    torch.testing.assert_close(corrected.lse, exact.lse, atol=1e-4, rtol=1e-4)
    assert relative_error(without.out, exact.out) > 0.1


def test_a_mean_adds_at_most_the_mass_of_its_block():
    """Two keys with logits 0 and 2: 8.389 of mass, 5.437 by their mean (worked example of the specification)."""
    q, k = torch.ones(1, 1, 1, 1), torch.tensor([0.0, 2.0, 0.0]).view(1, 3, 1, 1)
    index = BlockIndex.from_mask(torch.tensor([False, True]).view(1, 1, 1, 2), 1, 3, 2)
    means = BlockMeans(defined_pooling.pool_keys(k, 2), defined_pooling.pool_keys(k, 2))
    dense = reference.attention(q, k, k, scale=1.0).lse.exp() - 1
    corrected = reference.attention(q, k, k, scale=1.0, index=index, means=means).lse.exp() - 1
    assert dense.item() == pytest.approx(8.389, abs=1e-3)
    assert corrected.item() == pytest.approx(5.437, abs=1e-3)


def test_the_correction_lowers_the_error_at_the_same_density():
    case = Case(q_len=2000, kv_len=2000, q_heads=4, kv_heads=2, head_dim=64)
    q, k, v = case.tensors(contrast=0.5)
    index = select_packed_blocks(q, defined_pooling.pool_keys(k), KeepRule(0.9), kv_len=2000, scale=case.scale)
    assert index.density().mean() < 0.8
    exact = reference.attention(q, k, v, scale=case.scale).out
    errors = [
        relative_error(block_sparse_attention(q, k, v, index, scale=case.scale, means=means).out, exact)
        for means in (block_means(k, v), None)
    ]
    assert errors[0] < 0.9 * errors[1]


@needs_interpreter
@given(cases(dtypes=(torch.float32,)), st.sampled_from([0.0, 0.4, 1.0]))
@settings(max_examples=20)
def test_bits_are_the_lists(case, share):
    from fp_bench.kernels.pooling.means_triton import kept_bits

    index = random_lists(case, case.q_heads // case.kv_heads, share)
    bits = kept_bits(index)[..., None] >> torch.arange(32) & 1
    listed = bits.flatten(-2)
    assert torch.equal(listed[..., : index.grid.key_blocks].bool(), index.mask())
    assert not listed[..., index.grid.key_blocks :].any()


def test_lists_of_some_heads_and_groups_without_room_are_refused():
    q, k, v = Case(q_heads=8, kv_heads=1).tensors()
    grid = BlockGrid(256, 256, packed=2)
    mask = torch.ones((1, 4, grid.rows, grid.key_blocks), dtype=torch.bool)
    with pytest.raises(UnsupportedError, match="2 heads share a list; it must be 1 or all"):
        block_sparse_attention(q, k, v, BlockIndex.from_mask(mask, 256, 256, packed=2), scale=1.0)
    with pytest.raises(UnsupportedError, match="8 query heads of a KV head do not fit a row of 4"):
        select_packed_blocks(q, defined_pooling.pool_keys(k, 4), KeepRule(0.1), kv_len=256, scale=1.0, block_size=4)


ON_GPU = cases(max_len=1500, dtypes=(torch.float16, torch.bfloat16))


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["auto", "triton"])
@settings(max_examples=60)
@given(case=ON_GPU, packs=st.booleans(), share=st.sampled_from([0.4, 1.0]), corrected=st.booleans())
def test_attention_on_a_gpu(backend, case, packs, share, corrected):
    assert_attends_as_defined(case, packs, share, corrected, backend, "cuda")


@pytest.mark.gpu
@settings(max_examples=60)
@given(ON_GPU, rules)
def test_selection_on_a_gpu(case, rule):
    assert_selects_as_defined(case, rule, "triton", "cuda")
