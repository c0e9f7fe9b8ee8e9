"""What heads of MInference keep, conversion and attention: torch and Triton against the definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fp_bench.errors import UnsupportedError
from fp_bench.kernels.attention import reference
from fp_bench.kernels.backend import triton_missing
from fp_bench.kernels.lines import (
    convert,
    following_diagonals,
    vertical_slash_attention,
)
from fp_bench.kernels.lines import reference as defined
from fp_bench.kernels.lines.head_patterns import AShape, Blocks, HeadPatterns, Lines
from fp_bench.kernels.lines.index import TILE, VerticalSlashIndex
from fp_bench.kernels.lines.mixed_heads import attend_heads, select_heads
from tests.kernels.calls import Case, relative_error

needs_interpreter = pytest.mark.skipif(triton_missing() is not None, reason=str(triton_missing()))
BACKENDS = ["torch", pytest.param("triton", marks=needs_interpreter)]
patterns = st.one_of(
    st.builds(Lines, st.integers(1, 400), st.integers(1, 400)),
    st.builds(AShape, st.integers(0, 150), st.integers(1, 400)),
    st.builds(Blocks, st.integers(1, 12)),
)


def index_of(columns, offsets, kv_len, backend):
    """The index of given lines for one head."""
    past = -(-kv_len // TILE) * TILE
    width = -(-len(columns) // 8) * 8
    listed = torch.tensor(sorted(columns) + [past] * (width - len(columns)), dtype=torch.int32)[None, None]
    following = following_diagonals(torch.tensor(sorted(offsets), dtype=torch.int32)[None, None], kv_len)
    index = VerticalSlashIndex.empty(following, listed, torch.tensor([[0, kv_len]], dtype=torch.int32), kv_len)
    convert(index, backend)
    return index


def lists_of(index, head=0):
    """``(first keys of tiles, single columns)`` of each row block of a head of the first sequence."""
    rows = torch.arange(index.rows)
    tiles, columns = index.tiles(0, head, rows), index.columns_read(0, head, rows)
    past = TILE * index.rows
    return [(tiles[row][tiles[row] < past].tolist(), columns[row][columns[row] < past].tolist()) for row in rows]


@pytest.mark.parametrize("backend", BACKENDS)
def test_worked_conversion(backend):
    columns, offsets = [0, 5, 70, 130], [150, 100, 64, 0]
    worked = [([0], []), ([0, 64], []), ([0, 64, 128], []), ([42, 106, 170, 234], [0, 5])]
    assert defined.convert(columns, offsets, 256) == worked
    index = index_of(columns, offsets, 256, backend)
    assert lists_of(index) == worked
    assert index.tile_counts.flatten().tolist() == [1, 2, 3, 4]
    assert index.entries().item() == 30336
    assert index.density().item() == 30336 / 32896


@st.composite
def lines(draw):
    kv_len = draw(st.integers(64, 900))
    some = st.sets(st.integers(0, kv_len - 1), max_size=40)
    return sorted(draw(some) | {0}), sorted(draw(some) | {0}, reverse=True), kv_len


@settings(max_examples=25)
@given(lines())
def test_conversion_as_defined_covers_every_line_and_counts_no_key_twice(case):
    columns, offsets, kv_len = case
    index = index_of(columns, offsets, kv_len, "torch")
    lists = lists_of(index)
    assert lists == defined.convert(columns, offsets, kv_len)
    for tiles, single in lists:
        keys = [key for first in tiles for key in range(first, first + TILE)] + single
        assert len(keys) == len(set(keys))
    mask = index.keys_read(0, 0, torch.arange(kv_len)).tril()
    assert torch.equal(mask, defined.lines_mask(lists, kv_len))
    assert index.entries().item() == mask.sum()
    i, j = torch.arange(kv_len)[:, None], torch.arange(kv_len)
    asked = (torch.isin(j, torch.tensor(columns)) | torch.isin(i - j, torch.tensor(offsets))) & (j <= i)
    assert not (asked & ~mask).any()


@needs_interpreter
@settings(max_examples=6, derandomize=True)
@given(lines())
def test_triton_converts_as_torch_does(case):
    found, expected = (index_of(*case, backend) for backend in ("triton", "torch"))
    assert lists_of(found) == lists_of(expected)
    for name in ("tile_counts", "past_keys", "octet_counts", "column_counts"):
        assert torch.equal(getattr(found, name), getattr(expected, name))


def test_masses_sum_to_the_number_of_queries_and_the_nearest_lines_are_kept():
    case = Case()
    q, k, _ = case.tensors()
    by_key, by_offset = defined.line_masses(q, k, scale=case.scale)
    for masses in (by_key, by_offset):
        torch.testing.assert_close(masses.sum(-1), torch.full((1, 2), 64.0))
    columns, offsets = defined.strongest_lines(by_key[0, 0], by_offset[0, 0], 40, 110)
    assert set(range(30)) <= set(columns)
    assert len(columns) == 40
    assert set(range(100)) <= set(offsets)
    assert len(offsets) == 110


@st.composite
def prompts(draw, max_len):
    kv_heads = draw(st.sampled_from([1, 2]))
    length = draw(st.integers(64, max_len))
    case = Case(
        batch=draw(st.sampled_from([1, 2])),
        q_len=length,
        kv_len=length,
        q_heads=kv_heads * draw(st.sampled_from([1, 2])),
        kv_heads=kv_heads,
        head_dim=draw(st.sampled_from([64, 128])),
        seed=draw(st.integers(0, 10_000)),
    )
    return case, [draw(patterns) for _ in range(case.q_heads)]


def k_of(case, k, head):
    """The keys that a query head reads, as the one KV head."""
    kv_head = head // (case.q_heads // case.kv_heads)
    return k[:, :, kv_head : kv_head + 1]


def assert_as_defined(case, heads, backend, device="cpu", tolerance=1e-5):
    q, k, v = case.tensors(device, contrast=1.0)
    index = select_heads(q, k, HeadPatterns.of(heads, device), scale=case.scale, backend=backend)
    out, lse = attend_heads(q, k, v, index, scale=case.scale, backend=backend)
    exact = reference.attention(q, k, v, scale=case.scale, index=index)
    assert relative_error(out, exact.out) < tolerance
    torch.testing.assert_close(lse, exact.lse, atol=10 * tolerance, rtol=10 * tolerance)
    by_key, by_offset = defined.line_masses(q, k, scale=case.scale)
    length = case.kv_len
    for batch in range(case.batch):
        for number, head in enumerate(heads):
            if isinstance(head, AShape):
                mask = defined.a_shape_mask(length, head.sink, head.local)
            elif isinstance(head, Blocks):
                blocks = defined.strongest_blocks(q[:, :, number : number + 1], k_of(case, k, number), head.count)
                blocks = blocks[batch, 0].cpu().repeat_interleave(TILE, 0).repeat_interleave(TILE, 1)
                mask = blocks[:length, :length].tril()
            else:
                chosen = defined.strongest_lines(
                    by_key[batch, number].cpu(), by_offset[batch, number].cpu(), head.columns, head.diagonals
                )
                mask = defined.lines_mask(defined.convert(*chosen, length), length)
            read = index.keys_read(batch, number, torch.arange(length, device=device)).tril().cpu()
            # A tie in float32 may fall either way, and means are rounded to the dtype of their tokens.
            assert (read & mask).sum() / (read | mask).sum() > (0.95 if isinstance(head, Blocks) else 0.98)
            if isinstance(head, AShape):
                assert torch.equal(read, mask)
            assert index.entries()[batch, number] == read.sum()


@settings(max_examples=10, derandomize=True)
@given(prompts(max_len=700))
def test_torch_selects_and_attends_as_defined(given_prompt):
    assert_as_defined(*given_prompt, "torch")


@needs_interpreter
@settings(max_examples=4, derandomize=True)
@given(prompts(max_len=330))
def test_triton_selects_and_attends_as_defined(given_prompt):
    assert_as_defined(*given_prompt, "triton")


@pytest.mark.slow
@needs_interpreter
def test_triton_on_long_walks_and_a_head_that_reads_nothing():
    heads = [Lines(40, 120), AShape(70, 200), AShape(0, 0), AShape(4, 1)]
    case = Case(batch=1, q_len=460, kv_len=460, q_heads=4, kv_heads=2)
    assert_as_defined(case, heads[:2] + heads[3:] + [AShape(0, 100)], "triton")
    q, k, v = case.tensors()
    index = select_heads(q, k, HeadPatterns.of(heads), scale=case.scale, backend="triton")
    out, lse = vertical_slash_attention(q, k, v, index, scale=case.scale, backend="triton")
    assert index.density()[0, 2] == 0
    assert (out[:, :, 2] == 0).all()
    assert (lse[:, 2] == float("-inf")).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("head", [Lines(1000, 50), Lines(30, 1000), AShape(0, 300), AShape(300, 1)])
def test_all_of_one_kind_of_line_is_dense(backend, head):
    case = Case(q_len=300, kv_len=300)
    q, k, v = case.tensors()
    index = select_heads(q, k, HeadPatterns.of([head] * 2), scale=case.scale, backend=backend)
    assert index.density().tolist() == [[1.0, 1.0]]
    out = vertical_slash_attention(q, k, v, index, scale=case.scale, backend=backend).out
    assert relative_error(out, reference.attention(q, k, v, scale=case.scale).out) < 1e-5


def test_the_map_of_what_is_kept():
    index = index_of([0, 5, 70, 130], [150, 100, 64, 0], 256, "torch")
    mask = index.keys_read(0, 0, torch.arange(256)).float()
    shares = mask.view(4, 64, 4, 64).mean((1, 3))
    past = torch.ones(4, 4, dtype=torch.bool).tril(-1)
    torch.testing.assert_close(index.kept_blocks(0)[past], shares[past])


def test_what_is_not_defined_is_refused_in_a_line():
    case = Case(q_len=128)
    q, k, v = case.tensors()
    two = HeadPatterns.of([Lines(30, 100)] * 2)
    with pytest.raises(UnsupportedError, match="q_len 128 is not kv_len 256"):
        select_heads(q, k, two, scale=1.0)
    with pytest.raises(UnsupportedError, match="less than one tile"):
        select_heads(q[:, :32], k[:, :32], two, scale=1.0)
    with pytest.raises(UnsupportedError, match="3 heads"):
        select_heads(q, k[:, :128], HeadPatterns.of([AShape(1, 1)] * 3), scale=1.0)
    index = select_heads(q, k[:, :128], two, scale=1.0)
    with pytest.raises(UnsupportedError, match="index is for"):
        vertical_slash_attention(q, k, v, index, scale=1.0)


@pytest.mark.gpu
@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize("length", [64, 1000, 5001])
def test_on_a_gpu(head_dim, length):
    heads = [Lines(200, 300), AShape(128, 1000), Lines(1000, 2000), AShape(64, 100), Blocks(9), Blocks(30)]
    case = Case(batch=2, q_len=length, kv_len=length, q_heads=6, kv_heads=2, head_dim=head_dim, dtype=torch.bfloat16)
    assert_as_defined(case, heads, "triton", device="cuda", tolerance=1e-2)
