import pytest
import torch

from fp_bench.jobs.latency.kept_maps import MAP_SIZE, kept_maps, kept_share
from fp_bench.kernels.block_index import BlockIndex


def index_of(mask, tokens):
    return BlockIndex.from_mask(mask, tokens, tokens)


def test_a_short_map_has_a_cell_for_each_pair():
    mask = torch.eye(5, dtype=torch.bool)[None, None]
    assert kept_share(index_of(mask, 600), 0).tolist() == (torch.eye(5, dtype=torch.int) * 255).tolist()


def test_a_long_map_has_the_share_of_the_causal_pairs():
    blocks = 2 * MAP_SIZE + 1
    mask = torch.ones(1, 1, blocks, blocks, dtype=torch.bool)
    mask[..., 0] = False
    share = kept_share(index_of(mask, blocks * 128), 0)
    assert share.shape == (171, 171)  # three by three pairs a cell
    assert share[100, 50] == share[100, 100] == 255
    assert share[100, 0] == pytest.approx(255 * 2 / 3, abs=1)
    assert share[0, 0] == pytest.approx(255 * 3 / 6, abs=1)


def test_the_heads_of_interest_each_once():
    mask = torch.zeros(1, 4, 4, 4, dtype=torch.bool)
    for head, kept in enumerate((2, 1, 4, 3)):
        mask[:, head, -1, :kept] = True
    assert [one.head for one in kept_maps(index_of(mask, 512))] == [0, 1, 2]
    assert [one.head for one in kept_maps(index_of(mask[:, :1], 512))] == [0]
    assert kept_maps(None) == []
