"""Packed, chunked and paged prefill: every backend is the single-sequence operator, sequence by sequence."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from fp_bench.errors import UnsupportedError
from fp_bench.kernels.attention import reference
from fp_bench.kernels.backend import triton_missing
from fp_bench.kernels.flashprefill import reference as defined_selection
from fp_bench.kernels.flashprefill.rule import KeepRule
from fp_bench.kernels.layout import BlockGrid
from fp_bench.kernels.paged import flash_prefill_paged
from fp_bench.kernels.paged import reference as paged_reference
from fp_bench.kernels.paged.batch import PagedBatch
from fp_bench.kernels.pooling import reference as defined_pooling
from tests.kernels.calls import Case, relative_error
from tests.kernels.paged_calls import PagedCall, Sequence, random_call, spread

needs_interpreter = pytest.mark.skipif(triton_missing() is not None, reason=str(triton_missing()))
RULE = KeepRule(0.3, 1, 2, 1)


def prefill(call: PagedCall, backend="torch", rule=RULE, **options):
    return flash_prefill_paged(
        call.q, call.k, call.v, call.batch, alpha=rule.alpha, sink_blocks=rule.sink_blocks,
        window_blocks=rule.window_blocks, last_full_blocks=rule.last_full_blocks, backend=backend, **options,
    )  # fmt: skip


def tied(call: PagedCall, rule=RULE) -> bool:
    """Whether an energy lies so near its threshold that it may fall on either side."""
    for sequence in call.sequences:
        if sequence.q.shape[1]:
            pooled = defined_pooling.pool_keys(sequence.k)
            energy = defined_selection.block_energies(sequence.q, pooled, kv_len=sequence.k.shape[1], scale=call.scale)
            if ((energy / energy.amax(-1, keepdim=True) - rule.alpha).abs() < 1e-5).any():
                return True
    return False


def alone(call: PagedCall, rule=RULE) -> torch.Tensor:
    """The definition of the single-sequence operator on each sequence, without pages."""
    out = torch.zeros_like(call.q, dtype=torch.float32)
    starts = call.batch.cu_seqlens_q.tolist()
    for s, sequence in enumerate(call.sequences):
        if sequence.q.shape[1] == 0:
            continue
        own = rule if sequence.last_chunk else replace(rule, last_full_blocks=0)
        q, k, v = (tensor.to(call.q.device) for tensor in (sequence.q, sequence.k, sequence.v))
        index = defined_selection.select_blocks(
            q, defined_pooling.pool_keys(k), own, kv_len=k.shape[1], scale=call.scale
        )
        out[starts[s] : starts[s + 1]] = reference.attention(q, k, v, scale=call.scale, index=index).out[0]
    return out


def test_random_batches_are_their_sequences_alone():
    """A sample; `python -m tests.soak.paged_batches` does 200 and, on a GPU, the kernels."""
    compared = 0
    for seed in range(16):
        call = random_call(seed, max_len=300, max_sequences=3)
        if tied(call):
            continue
        compared += 1
        expected = alone(call)
        for out in (
            prefill(call),
            paged_reference.flash_prefill_paged(call.q, call.k, call.v, call.batch, RULE, scale=call.scale),
        ):
            assert relative_error(out, expected) < 1e-5 or not expected.any(), seed
    assert compared > 12


@needs_interpreter
def test_triton_batches_are_their_sequences_alone():
    for seed in (1, 4, 6):
        call = random_call(seed, max_len=260, max_sequences=3)
        assert not tied(call)
        assert relative_error(prefill(call, "triton"), alone(call)) < 1e-5, seed


@needs_interpreter
@pytest.mark.parametrize(("page_size", "layout"), [(16, "packed"), (64, "apart"), (128, "stacked")])
def test_triton_reads_pages_of_every_size_and_layout(page_size, layout):
    cases = [Case(1, 40, 200, 1, 1, 64, torch.float16, seed=1), Case(1, 129, 129, 1, 1, 64, torch.float16, seed=2)]
    call = spread([Sequence(*case.tensors(), last_chunk=True) for case in cases], page_size, layout=layout)
    assert relative_error(prefill(call, "triton"), prefill(call)) < 2e-3


def chunks_of(q, k, v, cuts):
    """The chunks of one prompt, each with all keys up to its end."""
    edges = [0, *cuts, q.shape[1]]
    return [Sequence(q[:, low:high], k[:, :high], v[:, :high], high == q.shape[1]) for low, high in pairwise(edges)]


@pytest.mark.parametrize("backend", ["torch", pytest.param("triton", marks=needs_interpreter)])
def test_chunks_cut_at_blocks_give_the_whole_prompts_rows(backend):
    q, k, v = Case(1, 400, 400, 1, 1, 64).tensors()
    whole = prefill(spread([Sequence(q, k, v, True)], 64), backend)[3:-2]
    # The chunks of one prompt side by side, as if three sequences were at these points.
    chunked = prefill(spread(chunks_of(q, k, v, [128, 256]), 32), backend)[3:-2]
    torch.testing.assert_close(chunked, whole, atol=1e-5, rtol=1e-5)


def test_a_chunk_in_the_middle_does_not_keep_all_in_its_last_rows():
    q, k, v = Case(1, 512, 1024, 1, 1, 64).tensors()
    rule = KeepRule(2.0, 1, 1, 2)

    def middle(last_chunk):
        return prefill(spread([Sequence(q, k, v, last_chunk)], 64), rule=rule)[3:-2]

    differs = (middle(True) != middle(False)).any(-1).any(-1)
    assert differs[-200:].all()
    assert not differs[:256].any()


@needs_interpreter
def test_bounds_larger_than_the_batch_change_nothing():
    case = Case(1, 100, 200, 1, 1, 64)
    call = spread([Sequence(*case.tensors(), last_chunk=True)] * 2, 64)
    loose = replace(call.batch, tokens=900, max_q_len=300, max_kv_len=384)
    assert loose.tile_bound > call.batch.tile_bound
    expected = prefill(call, "triton")
    torch.testing.assert_close(prefill(replace(call, batch=loose), "triton"), expected, atol=0, rtol=0)


@pytest.mark.parametrize("backend", ["torch", pytest.param("triton", marks=needs_interpreter)])
def test_rows_of_no_sequence_are_left_as_they_are(backend):
    call = spread([Sequence(*Case(1, 100, 200, 2, 1, 64).tensors(), last_chunk=True)], 64)
    out = torch.full_like(call.q, 7.0)
    assert prefill(call, backend, out=out) is out
    assert (out[:3] == 7).all()
    assert (out[-2:] == 7).all()
    assert torch.equal(out[3:-2], prefill(call, backend)[3:-2])


def test_every_query_block_has_one_tile_longest_first():
    draw = torch.Generator().manual_seed(0)
    for _ in range(200):
        count = int(torch.randint(1, 9, (), generator=draw))
        lens = torch.randint(1, 1000, (count,), generator=draw)
        q_lens = (lens * torch.rand(count, generator=draw) * 1.5).long().minimum(lens)
        q_lens[torch.rand(count, generator=draw) < 0.2] = 0
        starts = torch.cat([torch.zeros(1), q_lens.cumsum(0)]).int()
        table = torch.zeros((count, 1), dtype=torch.int32)
        longest = max(int(q_lens.max()), 1)
        batch = PagedBatch(starts, lens.int(), table, max(int(q_lens.sum()), 1), longest, 1000)
        sequence, block = (tensor.tolist() for tensor in batch.tiles)
        used = [pair for pair in zip(sequence, block, strict=True) if pair[0] >= 0]
        expected = {
            (s, a)
            for s, (q_len, kv_len) in enumerate(zip(q_lens.tolist(), lens.tolist(), strict=True))
            if q_len
            for a in range(BlockGrid(q_len, kv_len).first, BlockGrid(q_len, kv_len).key_blocks)
        }
        assert set(used) == expected
        assert len(used) == len(expected)
        assert all(s < 0 for s in sequence[len(used) :])
        order = [(-int(lens[s]), -a) for s, a in used]
        assert [length for length, _ in order] == sorted(length for length, _ in order)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: {"k": c.k[:, :8]}, "differ in shape"),
        (lambda c: {"k": c.k[:, :8], "v": c.v[:, :8]}, "page size 8 is not one of 16, 32"),
        (lambda c: {"q": c.q[0]}, r"\[tokens, q_heads, head_dim\]"),
        (lambda c: {"q": c.q.half()}, "dtypes"),
        (lambda c: {"q": c.q[..., :32], "k": c.k[..., :32], "v": c.v[..., :32]}, "head_dim 32"),
        (lambda c: {"batch": replace(c.batch, max_kv_len=10**5)}, "too few for max_kv_len 100000"),
        (lambda c: {"batch": replace(c.batch, kv_lens=c.batch.kv_lens.clone().fill_(1))}, "has 128 queries and 1 keys"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(change, words):
    q, k, v = Case(1, 128, 300, 2, 1, 64).tensors()
    call = spread([Sequence(q, k, v, True)], 64)
    with pytest.raises(UnsupportedError, match=words) as error:
        prefill(replace(call, **change(call)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kv_lens": torch.tensor([5, 5])}, "kv_lens is torch.int64"),
        ({"block_table": torch.zeros((1, 4), dtype=torch.int32)}, "2 sequences need int32"),
        ({"max_q_len": 0}, "each must be at least 1"),
        ({"max_q_len": 600}, "max_q_len 600 exceeds max_kv_len 512"),
        ({"max_kv_len": 2**23}, "more than 32767 blocks of 128"),
        ({"last_chunk": torch.ones(3, dtype=torch.bool)}, "need bool"),
    ],
)
def test_a_batch_that_contradicts_itself_is_refused(changes, words):
    good = {
        "cu_seqlens_q": torch.tensor([0, 5, 10], dtype=torch.int32),
        "kv_lens": torch.tensor([5, 5], dtype=torch.int32),
        "block_table": torch.zeros((2, 32), dtype=torch.int32),
        "tokens": 10,
        "max_q_len": 5,
        "max_kv_len": 512,
    }
    PagedBatch(**good)
    with pytest.raises(UnsupportedError, match=words):
        PagedBatch(**good | changes)
