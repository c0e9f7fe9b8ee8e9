"""The best blocks of each row: torch and Triton against the definition, exactly."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fp_bench.kernels.backend import triton_missing
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.layout import BlockGrid
from fp_bench.kernels.ranking import Need, heads_at_once, list_best
from fp_bench.kernels.ranking.reference import best_blocks

needs_interpreter = pytest.mark.skipif(triton_missing() is not None, reason=str(triton_missing()))
BACKENDS = ["torch", pytest.param("triton", marks=needs_interpreter)]


def scored(bands, lists, rows, blocks, seed, spread=8):
    """Whole scores, so that every sum of weights is exact in any order; some are kept always, some never."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(-spread, spread, (bands, lists, rows, blocks), generator=generator).float()
    fate = torch.rand(scores.shape, generator=generator)
    return scores.masked_fill(fate < 0.1, math.inf).masked_fill(fate > 0.9, -math.inf)


def listed(scores, need, kind, grid, backend, **forced):
    index = BlockIndex.empty(1, scores.shape[1], grid, scores.device)
    list_best(scores, need, kind, index, slice(None), backend=backend, **forced)
    return index


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", Need)
@settings(max_examples=5)
@given(data=st.data())
def test_the_best_exactly(backend, kind, data):
    blocks = data.draw(st.integers(1, 20))
    rows = data.draw(st.integers(1, blocks))
    bands, lists = data.draw(st.sampled_from([(1, 2), (2, 1)]))
    scores = scored(bands, lists, rows, blocks, data.draw(st.integers(0, 9999)))
    needs = [0.0, 1.0, 3.0, 30.0] if kind is Need.COUNT else [0.0, 0.25, 0.5, 0.875, 1.0, 1.5]
    need = torch.tensor([[data.draw(st.sampled_from(needs)) for _ in range(rows)] for _ in range(bands)])
    forced = {"sink_blocks": data.draw(st.integers(0, 2)), "window_blocks": data.draw(st.integers(0, 2))}
    grid = BlockGrid(rows, blocks, 1)
    index = listed(scores, need, kind, grid, backend, **forced)
    assert torch.equal(index.mask()[0], best_blocks(scores, need, kind, grid, **forced))
    for row in range(rows):
        blocks_of_row = index.blocks[0, 0, row, : index.counts[0, 0, row]].tolist()
        assert blocks_of_row == sorted(blocks_of_row)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_of_more_blocks_than_a_warp_has_threads(backend):
    grid = BlockGrid(2, 700, 1)
    scores = scored(1, 1, 2, 700, 0)
    for kind, need in ((Need.COUNT, 333.0), (Need.SHARE, 0.75)):
        needed = torch.full((1, 2), need)
        assert torch.equal(
            listed(scores, needed, kind, grid, backend).mask()[0], best_blocks(scores, needed, kind, grid)
        )


@pytest.mark.parametrize("backend", BACKENDS)
def test_some_lists_are_written_and_no_others(backend):
    grid = BlockGrid(4, 4, 1)
    index = BlockIndex.empty(2, 2, grid)
    index.counts.fill_(-1)
    list_best(torch.zeros(1, 2, 4, 4), torch.ones(1, 4), Need.COUNT, index, slice(1, 3), backend=backend)
    assert index.counts.flatten(0, 1).tolist() == [[-1] * 4, [1] * 4, [1] * 4, [-1] * 4]


def test_parts_hold_what_fits():
    assert list(heads_at_once(1024 * 1024, 128)) == [0, 64]
    assert list(heads_at_once(1 << 30, 3)) == [0, 1, 2]


@pytest.mark.gpu
@pytest.mark.parametrize("blocks", [5, 200, 2048, 5000])
@pytest.mark.parametrize("kind", Need)
def test_on_a_gpu_exactly(blocks, kind):
    grid = BlockGrid(3, blocks, 1)
    scores = scored(2, 2, 3, blocks, blocks, spread=4)
    need = torch.full((2, 3), blocks / 3 if kind is Need.COUNT else 0.75)
    found = listed(scores.cuda(), need.cuda(), kind, grid, "auto").mask()[0]
    assert torch.equal(found.cpu(), best_blocks(scores, need, kind, grid))
