"""A million tokens on a real GPU in both layouts: heads that lie apart, as models hand them over, and contiguous.

The last heads of Q begin past 2^31 elements where heads lie apart. What is listed and computed may not depend on it.
"""

import pytest
import torch

from fp_bench import flash_prefill
from fp_bench.kernels.attention import block_sparse_attention
from fp_bench.kernels.attention.last import last_attention
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.flashprefill import select_blocks
from fp_bench.kernels.flashprefill.rule import KeepRule
from fp_bench.kernels.flashprefill_v2 import select_packed_blocks
from fp_bench.kernels.fp8 import block_sparse_attention_fp8, quantise_kv
from fp_bench.kernels.layout import BlockGrid
from fp_bench.kernels.lines import vertical_slash_attention
from fp_bench.kernels.lines.head_patterns import AShape, HeadPatterns
from fp_bench.kernels.lines.mixed_heads import select_heads
from fp_bench.kernels.paged import flash_prefill_paged
from fp_bench.kernels.paged.batch import PagedBatch
from fp_bench.kernels.pooling import pool_keys
from fp_bench.kernels.pooling.means import block_means
from fp_bench.methods.base import AttentionCall
from fp_bench.methods.registry import Spec, create_method

on_hopper = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)
room = torch.cuda.is_available() and torch.cuda.get_device_properties(0).total_memory > 60 * 2**30
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.is_available() and not room, reason="a million tokens take 60 GiB of GPU memory"),
]
needs_hopper = pytest.mark.skipif(not on_hopper, reason="needs an sm_90 GPU; there is none here")
TOKENS, Q_HEADS, KV_HEADS, DIM = 2**20, 32, 8, 128
SCALE = DIM**-0.5
FORCED = KeepRule(2.0, sink_blocks=1, window_blocks=2, last_full_blocks=0)
"""Above 1 alpha keeps the forced blocks alone: attention over a million tokens is then a second's work."""


@pytest.fixture(scope="module")
def layouts():
    """Return (q, k, v) with heads apart, and the same numbers contiguous."""
    draw = torch.Generator("cuda").manual_seed(0)

    def apart(heads):
        made = torch.empty((1, heads, TOKENS, DIM), dtype=torch.bfloat16, device="cuda")
        return made.normal_(generator=draw).transpose(1, 2)

    far = [apart(heads) for heads in (Q_HEADS, KV_HEADS, KV_HEADS)]
    yield far, [tensor.contiguous() for tensor in far]
    torch.cuda.empty_cache()


def lists(index):
    """Return an index's counts and blocks, with what is undefined past the counts blanked."""
    place = torch.arange(index.blocks.shape[-1], device=index.blocks.device)
    return index.counts, index.blocks.masked_fill_(place >= index.counts[..., None], -1)


def pool(q, k, v):
    return pool_keys(k), *block_means(k, v)


def discover(q, k, v):
    return lists(select_blocks(q, pool_keys(k), KeepRule(0.6), kv_len=TOKENS, scale=SCALE))


def discover_packed(q, k, v):
    return lists(select_packed_blocks(q, pool_keys(k), KeepRule(0.6), kv_len=TOKENS, scale=SCALE))


def listed(q, k):
    return select_blocks(q, pool_keys(k), FORCED, kv_len=TOKENS, scale=SCALE)


def attend(q, k, v):
    return block_sparse_attention(q, k, v, listed(q, k), scale=SCALE)


def attend_portably(q, k, v):
    return block_sparse_attention(q, k, v, listed(q, k), scale=SCALE, backend="triton")


def attend_packed(q, k, v, backend="auto"):
    index = select_packed_blocks(q, pool_keys(k), FORCED, kv_len=TOKENS, scale=SCALE)
    return block_sparse_attention(q, k, v, index, scale=SCALE, backend=backend)


def attend_packed_portably(q, k, v):
    return attend_packed(q, k, v, "triton")


def attend_in_fp8(q, k, v):
    return block_sparse_attention_fp8(q, k, v, listed(q, k), scale=SCALE)


def quantise(q, k, v):
    rounded = quantise_kv(k, v)
    return rounded.k.view(torch.int8), rounded.v.view(torch.int8), rounded.scales, rounded.pooled


def last(q, k, v):
    return last_attention(q[:, -128:], k, SCALE)


def lines(q, k, v):
    patterns = HeadPatterns.of([AShape(64, 512)] * Q_HEADS, "cuda")
    return vertical_slash_attention(q, k, v, select_heads(q, k, patterns, scale=SCALE), scale=SCALE)


def composed(q, k, v):
    return (flash_prefill(q, k, v, alpha=2.0, sink_blocks=1, window_blocks=2, last_full_blocks=0),)


@pytest.mark.parametrize(
    "operator",
    [
        *(pool, discover, discover_packed, attend, attend_portably, attend_packed, attend_packed_portably),
        *(last, lines, quantise, composed, pytest.param(attend_in_fp8, marks=needs_hopper)),
    ],
)
def test_both_layouts_of_a_million_tokens_give_the_same(operator, layouts):
    found, expected = (operator(*tensors) for tensors in layouts)
    found, expected = ((x,) if isinstance(x, torch.Tensor) else x for x in (found, expected))
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


SELECTING = ["flexprefill", "flashprefill:rule=topk", "minference", "rbs", "prism", "stem", "spargeattn"]


@pytest.mark.parametrize("method", SELECTING)
def test_selections_of_a_million_tokens_are_the_same_in_both_layouts(method, layouts):
    made = create_method(Spec.parse(method))
    found, expected = (made.select(AttentionCall(*tensors, SCALE)) for tensors in layouts)
    if isinstance(found, BlockIndex):
        for ours, theirs in zip(lists(found), lists(expected), strict=True):
            assert torch.equal(ours, theirs)
    assert torch.equal(found.entries(), expected.entries())


@pytest.mark.parametrize("backend", ["triton", pytest.param("hopper", marks=needs_hopper)])
def test_pages_of_a_million_tokens_in_both_layouts(backend, layouts):
    pages = TOKENS // 128
    rules = {"alpha": 2.0, "sink_blocks": 1, "window_blocks": 2, "last_full_blocks": 0, "backend": backend}
    whole = torch.tensor([TOKENS], dtype=torch.int32, device="cuda")
    table = torch.arange(pages, dtype=torch.int32, device="cuda")[None]
    batch = PagedBatch(torch.cat([whole * 0, whole]), whole, table, TOKENS, TOKENS, TOKENS)
    found, expected = (
        flash_prefill_paged(q[0], *(x[0].unflatten(0, (pages, 128)) for x in (k, v)), batch, **rules)
        for q, k, v in layouts
    )
    assert torch.equal(found, expected)


def test_xattention_of_a_chunk_in_both_layouts(layouts):
    from fp_bench.kernels.xattention import select_antidiagonal

    tau = torch.full((Q_HEADS,), 0.5, device="cuda")
    found, expected = (
        # All masses of a million tokens are 8 GiB a head: the last queries' alone.
        lists(select_antidiagonal(q[:, -1024:], k, tau, stride=16, scale=SCALE))
        for q, k, _ in layouts
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_the_first_and_the_last_head_are_their_own(layouts):
    """Both layouts could be wrong alike: the last head, alone and at the start of its memory, gives the same."""
    q, k, v = layouts[0]
    grid = BlockGrid(TOKENS, TOKENS)
    whole = block_sparse_attention(q, k, v, listed(q, k), scale=SCALE).out
    for head in (0, Q_HEADS - 1):
        kv_head = head // (Q_HEADS // KV_HEADS)
        alone = [q[:, :, head : head + 1], *(x[:, :, kv_head : kv_head + 1] for x in (k, v))]
        alone = [tensor.contiguous() for tensor in alone]
        index = listed(*alone[:2])
        assert isinstance(index, BlockIndex)
        assert index.grid == grid
        assert torch.equal(block_sparse_attention(*alone, index, scale=SCALE).out[:, :, 0], whole[:, :, head])
