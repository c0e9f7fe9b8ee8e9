"""Heads that keep blocks, alone and beside others: worked examples; the properties are with those of lines."""

import pytest
import torch

from fp_bench.errors import UnsupportedError
from fp_bench.kernels.attention import block_sparse_attention, reference
from fp_bench.kernels.backend import triton_missing
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.lines import reference as defined
from fp_bench.kernels.lines import strongest_blocks
from fp_bench.kernels.lines.head_patterns import AShape, Blocks, HeadPatterns, Lines
from fp_bench.kernels.lines.index import VerticalSlashIndex
from fp_bench.kernels.lines.mixed_heads import MixedIndex, attend_heads, select_heads
from fp_bench.kernels.lines.strongest_blocks import select_strongest_blocks
from fp_bench.kernels.pooling.means import block_means
from tests.kernels.calls import Case, relative_error

needs_interpreter = pytest.mark.skipif(triton_missing() is not None, reason=str(triton_missing()))
BACKENDS = ["torch", pytest.param("triton", marks=needs_interpreter)]


def select(case, heads, backend="torch", device="cpu"):
    q, k, v = case.tensors(device, contrast=1.0)
    index = select_heads(q, k, HeadPatterns.of(heads, device), scale=case.scale, backend=backend)
    return (q, k, v), index


@pytest.mark.parametrize("backend", BACKENDS)
def test_worked_lists(backend):
    """Queries agree with one coordinate, in which the blocks of keys are 3, -1, 2, 1 and the last, of 16 keys, 9."""
    strength = torch.tensor([3.0, -1.0, 2.0, 1.0, 9.0]).repeat_interleave(64)[:272]
    k = torch.zeros(1, 272, 1, 64)
    k[..., 0, 5] = strength
    q = torch.zeros(1, 272, 2, 64)
    q[..., 0, 5], q[..., 1, 5] = 1.0, -1.0
    two = HeadPatterns.of([Blocks(2)] * 2)
    index = select_strongest_blocks(q, k, two, backend=backend)
    lists = [
        [index.blocks[0, head, row, : index.counts[0, head, row]].tolist() for row in range(5)] for head in range(2)
    ]
    # The mean of the last block is 2.25: it counts 48 zeros.
    assert lists[0] == [[0], [0, 1], [0, 2], [0, 2], [0, 4]]
    # Rows 3 and 4 do not read their own block.
    assert lists[1] == [[0], [0, 1], [1, 2], [1, 3], [1, 3]]
    for head in range(2):
        kept = defined.strongest_blocks(q[:, :, head : head + 1], k, 2)[0, 0]
        assert [row.nonzero().flatten().tolist() for row in kept] == lists[head]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_short_last_block_counts_its_missing_keys_as_zeros(backend):
    k = torch.zeros(1, 80, 1, 64)
    k[:, :64], k[:, 64:] = 1.0, 2.0
    q = torch.ones(1, 80, 1, 64)
    index = select_strongest_blocks(q, k, HeadPatterns.of([Blocks(1)]), backend=backend)
    assert index.mask()[0, 0].tolist() == defined.strongest_blocks(q, k, 1)[0, 0].tolist() == [[True, False]] * 2
    # Queries from 64 on see nothing of their own block, and all of the first.
    v = torch.randn(1, 80, 1, 64, generator=torch.Generator().manual_seed(0))
    out = attend_heads(q, k, v, index, scale=0.1, backend=backend).out
    torch.testing.assert_close(out[0, 64:, 0], v[0, :64, 0].mean(0).expand(16, -1))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("length", [64, 65, 300, 320])
def test_up_to_as_many_blocks_as_are_kept_it_is_dense(backend, length):
    (q, k, v), index = select(Case(q_len=length, kv_len=length), [Blocks(5)] * 2, backend)
    assert isinstance(index, BlockIndex)
    assert index.density().tolist() == [[1.0, 1.0]]
    out = attend_heads(q, k, v, index, scale=Case().scale, backend=backend).out
    assert relative_error(out, reference.attention(q, k, v, scale=Case().scale).out) < 1e-5


def test_calls_of_one_kind_have_one_index_and_lists_no_longer_than_needed():
    case = Case(q_len=700, kv_len=700)
    assert isinstance(select(case, [Lines(30, 100), AShape(1, 2)])[1], VerticalSlashIndex)
    assert select(case, [Blocks(2), Blocks(4)])[1].blocks.shape == (1, 2, 11, 4)
    assert isinstance(select(case, [Blocks(2), AShape(1, 2)])[1], MixedIndex)


def test_a_mixed_index_says_of_each_head_what_its_own_index_says():
    case = Case(batch=2, q_len=700, kv_len=700, q_heads=4, kv_heads=2)
    heads = [Blocks(3), Lines(40, 110), AShape(64, 128), Blocks(2)]
    _, mixed = select(case, heads)
    assert (mixed.q_len, mixed.kv_len) == (700, 700)
    position = torch.arange(700)
    for number, head in enumerate(heads):
        _, alone = select(case, [head] * 4)
        assert torch.equal(mixed.entries()[:, number], alone.entries()[:, number])
        assert torch.equal(mixed.density()[:, number], alone.density()[:, number])
        for batch in range(2):
            read = mixed.keys_read(batch, number, position)
            assert torch.equal(read, alone.keys_read(batch, number, position))
            assert mixed.entries()[batch, number] == read.tril().sum()
        assert torch.equal(mixed.kept_blocks(number), alone.kept_blocks(number))


def test_heads_a_few_at_a_time_are_as_all_at_once(monkeypatch):
    case = Case(batch=2, q_len=400, kv_len=400, q_heads=6, kv_heads=2)
    heads = [Blocks(1), Lines(30, 50), Blocks(4), Blocks(2), AShape(3, 5), Blocks(40)]
    at_once = select(case, heads)[1].blocks.mask()
    monkeypatch.setattr(strongest_blocks, "PRODUCTS_AT_ONCE", 1)
    assert torch.equal(select(case, heads)[1].blocks.mask(), at_once)


def test_what_is_not_defined_is_refused_in_a_line():
    q, k, _ = Case(q_len=128).tensors()
    two = HeadPatterns.of([Blocks(3)] * 2)
    with pytest.raises(UnsupportedError, match="q_len 128 is not kv_len 256"):
        select_strongest_blocks(q, k, two)
    with pytest.raises(UnsupportedError, match="less than one tile"):
        select_strongest_blocks(q[:, :32], k[:, :32], two)
    with pytest.raises(UnsupportedError, match="3 heads"):
        select_strongest_blocks(q, k[:, :128], HeadPatterns.of([Blocks(1)] * 3))
    index = select_strongest_blocks(q, k[:, :128], HeadPatterns.of([Blocks(1)] * 2))
    means = block_means(k[:, :128], k[:, :128], 64)
    with pytest.raises(UnsupportedError, match="lists of 1 blocks; with means"):
        block_sparse_attention(q, k[:, :128], k[:, :128], index, scale=1.0, means=means)


@pytest.mark.gpu
@pytest.mark.parametrize("heads", [[Blocks(7)] * 4, [Blocks(7), Lines(100, 200), AShape(64, 300), Blocks(20)]])
def test_on_a_gpu_without_a_sync(heads):
    case = Case(batch=2, q_len=3000, kv_len=3000, q_heads=4, kv_heads=2, head_dim=128, dtype=torch.bfloat16)
    q, k, v = case.tensors("cuda")
    patterns = HeadPatterns.of(heads, "cuda")
    index = select_heads(q, k, patterns, scale=case.scale)
    exact = reference.attention(q, k, v, scale=case.scale, index=index)
    out, lse = attend_heads(q, k, v, index, scale=case.scale)
    assert relative_error(out, exact.out) < 1e-2
    torch.testing.assert_close(lse, exact.lse, atol=0.1, rtol=0.1)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = select_heads(q, k, patterns, scale=case.scale)
        attend_heads(q, k, v, again, scale=case.scale)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(again.entries(), index.entries())
