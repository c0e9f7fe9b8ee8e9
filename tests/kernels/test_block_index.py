import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fp_bench.errors import UnsupportedError
from fp_bench.kernels.block_index import MAX_KEY_BLOCKS, BlockIndex, causal_blocks
from fp_bench.kernels.layout import BlockGrid


@given(
    kv_len=st.integers(1, 700),
    chunk=st.floats(0, 1),
    block=st.sampled_from([32, 64, 128]),
    seed=st.integers(0, 99),
)
def test_mask_to_lists_and_back(kv_len, chunk, block, seed):
    q_len = max(1, int(kv_len * chunk))
    grid = BlockGrid(q_len, kv_len, block)
    mask = torch.rand((2, 3, grid.rows, grid.key_blocks), generator=torch.Generator().manual_seed(seed)) < 0.4
    index = BlockIndex.from_mask(mask, q_len, kv_len, block)
    causal = mask & causal_blocks(grid)
    assert torch.equal(index.mask(), causal)
    assert index.blocks.dtype == torch.int16
    assert index.counts.dtype == torch.int32
    for b, h, row in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(grid.rows)).tolist():
        listed = index.blocks[b, h, row, : index.counts[b, h, row]].tolist()
        assert listed == sorted(set(listed))
    reads = torch.stack(
        [index.keys_read(b, h, torch.arange(kv_len - q_len, kv_len)) for b in range(2) for h in range(3)]
    )
    visible = torch.ones(q_len, kv_len, dtype=torch.bool).tril(kv_len - q_len)
    expected = (reads & visible).sum((-1, -2)).reshape(2, 3) / visible.sum()
    torch.testing.assert_close(index.density(), expected.double(), check_dtype=False)


def test_density_is_the_computed_share_of_the_causal_query_key_pairs():
    grid = BlockGrid(512, 512)
    everything = torch.ones((1, 1, 4, 4), dtype=torch.bool)
    assert BlockIndex.from_mask(everything, 512, 512).density().item() == 1.0
    diagonal = torch.eye(4, dtype=torch.bool)[None, None]
    assert BlockIndex.from_mask(diagonal, 512, 512).density().item() == pytest.approx(4 * (128 * 129) / (512 * 513))
    assert causal_blocks(grid).sum() == 10


@pytest.mark.parametrize(
    ("q_len", "kv_len", "first", "rows"), [(256, 256, 0, 2), (1, 257, 2, 1), (130, 300, 1, 2), (2, 129, 0, 2)]
)
def test_grid_cuts_query_blocks_at_absolute_multiples(q_len, kv_len, first, rows):
    grid = BlockGrid(q_len, kv_len)
    assert (grid.first, grid.rows) == (first, rows)


def test_a_mask_of_another_length_is_refused_with_the_right_shape():
    with pytest.raises(UnsupportedError, match=r"\[batch, q_heads, 2, 2\] does"):
        BlockIndex.from_mask(torch.ones((1, 1, 3, 3), dtype=torch.bool), 256, 256)


def test_more_blocks_than_a_list_can_name_are_refused():
    with pytest.raises(UnsupportedError, match=str(MAX_KEY_BLOCKS)):
        BlockIndex.empty(1, 1, BlockGrid(1, 128 * (MAX_KEY_BLOCKS + 1)))
