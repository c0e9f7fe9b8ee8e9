"""Offsets past 2^31 elements: heads, sequences or rows that lie that far apart give what contiguous ones do.

The tensors' memory is address space: only what holds a number is ever backed by pages. An offset that wraps around at
32 bits points 2^32 elements too low, still inside of it, where only zeros are.
"""

import math

import pytest
import torch
from torch import Tensor

from fp_bench.kernels.attention import block_sparse_attention
from fp_bench.kernels.attention.last import last_attention
from fp_bench.kernels.attention.skipping import skipping_attention
from fp_bench.kernels.backend import triton_missing
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.delta import DenseRows, attend_rows
from fp_bench.kernels.flashprefill import select_blocks
from fp_bench.kernels.flashprefill.ranked import log2_energies
from fp_bench.kernels.flashprefill.rule import KeepRule
from fp_bench.kernels.flashprefill_v2 import select_packed_blocks
from fp_bench.kernels.flexprefill import select_flex
from fp_bench.kernels.flexprefill.rule import FlexRule
from fp_bench.kernels.layout import BlockGrid
from fp_bench.kernels.lines import vertical_slash_attention
from fp_bench.kernels.lines.head_patterns import Blocks, HeadPatterns, Lines
from fp_bench.kernels.lines.mixed_heads import select_heads
from fp_bench.kernels.lines.strongest_blocks import select_strongest_blocks
from fp_bench.kernels.paged import flash_prefill_paged
from fp_bench.kernels.paged.batch import PagedBatch
from fp_bench.kernels.pooling import pool_keys, pool_with_radii
from fp_bench.kernels.pooling.means import block_means
from fp_bench.kernels.prism import Bands, select_bands
from fp_bench.kernels.ranking import Need
from fp_bench.kernels.rbs import select_rescued
from fp_bench.kernels.rbs.rule import Rescue
from fp_bench.kernels.spargeattn import select_alike
from fp_bench.kernels.stem import Budget, select_strided
from fp_bench.kernels.xattention import select_antidiagonal
from tests.kernels.calls import Case

pytestmark = pytest.mark.skipif(triton_missing() is not None, reason=str(triton_missing()))
FAR = 2**31
"""Elements at which an offset of 32 bits wraps around."""
SCALE = 64**-0.5
RULE = KeepRule(0.3, 1, 1, 0)
LENGTH = 200


class Space:
    """Address space for float16 tensors whose last head, sequence or row begins ``FAR`` elements after the first."""

    def __init__(self) -> None:
        self._elements = torch.empty(2 * FAR + 2**26, dtype=torch.float16, device="cpu")
        self._next = FAR  # what wraps around stays inside

    def spread(self, tensor: Tensor, axis: int) -> Tensor:
        """Return a copy of a tensor whose indices of one axis lie far apart; tensors lie between one another."""
        inner = [size for number, size in enumerate(tensor.shape) if number != axis]
        strides = [math.prod(inner[number + 1 :]) for number in range(len(inner))]
        strides.insert(axis, -(-FAR // (tensor.shape[axis] - 1) // 16) * 16 + 16)
        far = self._elements.as_strided(tensor.shape, strides, self._next)
        self._next += math.prod(inner) + 2**15  # the last parts begin where strides' rounding takes them
        return far.copy_(tensor)


@pytest.fixture(scope="module")
def space():
    return Space()


def pool(q, k, v):
    return pool_keys(k, backend="triton")


def means(q, k, v):
    return block_means(k, v, backend="triton")


def discover(q, k, v):
    return select_blocks(q, pool(q, k, v), RULE, kv_len=k.shape[1], scale=SCALE, backend="triton").mask()


def energies(q, k, v):
    return log2_energies(q, pool(q, k, v), BlockGrid(q.shape[1], k.shape[1]), SCALE, backend="triton")


def discover_packed(q, k, v):
    return select_packed_blocks(q, pool(q, k, v), RULE, kv_len=k.shape[1], scale=SCALE, backend="triton").mask()


def attend(q, k, v):
    index = BlockIndex.from_mask(torch.ones(len(q), q.shape[2], 2, 2, dtype=torch.bool), q.shape[1], k.shape[1])
    return block_sparse_attention(q, k, v, index, scale=SCALE, backend="triton")


def attend_packed(q, k, v):
    packed = q.shape[2] // k.shape[2]
    grid = BlockGrid(q.shape[1], k.shape[1], packed=packed)
    mask = torch.zeros(len(q), k.shape[2], grid.rows, grid.key_blocks, dtype=torch.bool)
    mask[..., 0] = True
    index = BlockIndex.from_mask(mask, q.shape[1], k.shape[1], packed=packed)
    means = block_means(k.contiguous(), v.contiguous())
    return block_sparse_attention(q, k, v, index, scale=SCALE, means=means, backend="triton")


def last(q, k, v):
    return last_attention(q[:, -64:], k, SCALE, backend="triton")


def flexprefill(q, k, v):
    return select_flex(q, k, FlexRule(gamma=0.9, tau=0.9, min_budget=1), scale=SCALE, backend="triton").mask()


def xattention(q, k, v):
    tau = torch.full((q.shape[2],), 0.8)
    return select_antidiagonal(q, k, tau, stride=16, scale=SCALE, backend="triton").mask()


def lines(q, k, v):
    patterns = HeadPatterns.of([Lines(20, 20)] * q.shape[2])
    index = select_heads(q, k, patterns, scale=SCALE, backend="triton")
    return index.octet_counts, *vertical_slash_attention(q, k, v, index, scale=SCALE, backend="triton")


def strongest(q, k, v):
    patterns = HeadPatterns.of([Blocks(2)] * q.shape[2])
    return select_strongest_blocks(q, k, patterns, backend="triton").mask()


def quantise(q, k, v):
    from fp_bench.kernels.fp8.triton import quantise_kv_triton

    return quantise_kv_triton(k, v, dtype=torch.float16)  # the interpreter rounds e4m3 wrongly


def rescued(q, k, v):
    pooled, radii = pool_with_radii(k, backend="triton")
    of_call = {"kv_len": k.shape[1], "scale": SCALE, "backend": "triton"}
    return radii, select_rescued(q, pooled, radii, RULE, Rescue(0.3), **of_call).mask()


def bands(q, k, v):
    return select_bands(q, k, Bands(32, 48), (0.5, 0.5), scale=SCALE, backend="triton").mask()


def strided(q, k, v):
    of_rule = {"stride": 8, "value_weight": 0.2, "sink_blocks": 0, "window_blocks": 0}
    return select_strided(q, k, v, Budget(0.5), scale=SCALE, backend="triton", **of_rule).mask()


def alike(q, k, v):
    return select_alike(q, k, 0.5, Need.SHARE_WITHIN, likeness=0.1, scale=SCALE, backend="triton").mask()


def dense_rows(q, k, v):
    return attend_rows(q, k, v, DenseRows(q.shape[1], 16), scale=SCALE, backend="triton")


def skipping(q, k, v):
    index = BlockIndex.from_mask(torch.ones(len(q), q.shape[2], 2, 2, dtype=torch.bool), q.shape[1], k.shape[1])
    return skipping_attention(q, k, v, index, scale=SCALE, skip=0.1, backend="triton")


OPERATORS = (
    *(pool, discover, discover_packed, quantise, attend),
    # Left to `make slow`: many programs of an interpreter.
    *(
        pytest.param(operator, marks=pytest.mark.slow)
        for operator in (
            *(attend_packed, means, energies, last, flexprefill, xattention, lines, strongest),
            *(rescued, bands, strided, alike, dense_rows, skipping),
        )
    ),
)


def assert_equal(found, expected):
    for ours, theirs in zip(*((x,) if isinstance(x, Tensor) else x for x in (found, expected)), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("axis", [0, 2], ids=["sequences", "heads"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_heads_and_sequences_far_apart(operator, axis, space):
    batch, kv_heads = (1, 3) if axis == 2 else (3, 1)
    q_heads = kv_heads * (2 if operator is attend_packed else 1)
    dim = 128 if operator is quantise else 64
    length = 300 if operator is flexprefill else LENGTH  # its shortest is 257
    near = Case(batch, length, length, q_heads, kv_heads, dim, torch.float16).tensors()
    far = [space.spread(tensor, axis) for tensor in near]
    assert_equal(operator(*far), operator(*near))


@pytest.mark.parametrize(
    "operator", [operator for operator in OPERATORS if xattention not in getattr(operator, "values", ())]
)
def test_rows_far_apart(operator, space):
    # XAttention's tile spans all rows of a call as short as this one, and no model's rows of a tile lie that far apart.
    dim = 128 if operator is quantise else 64
    length = 300 if operator is flexprefill else LENGTH
    near = Case(1, length, length, 2, 1, dim, torch.float16).tensors()
    far = [space.spread(tensor, 1) for tensor in near]
    assert_equal(operator(*far), operator(*near))


@pytest.mark.slow
@pytest.mark.parametrize("axis", [0, 1, 2], ids=["sequences", "blocks", "heads"])
@pytest.mark.parametrize("packed", [False, True])
def test_pooled_keys_far_apart(axis, packed, space):
    batch, kv_heads = (3, 1) if axis == 0 else (1, 3)
    q, k, _ = Case(batch, LENGTH, LENGTH, 2 * kv_heads, kv_heads, 64, torch.float16).tensors()
    pooled = pool_keys(k)
    select = select_packed_blocks if packed else select_blocks
    near, far = (
        select(q, keys, RULE, kv_len=LENGTH, scale=SCALE, backend="triton").mask()
        for keys in (pooled, space.spread(pooled, axis))
    )
    assert torch.equal(near, far)


@pytest.mark.slow
@pytest.mark.parametrize("axis", [0, 1, 2], ids=["pages", "slots", "heads"])
def test_pages_far_apart(axis, space):
    draw = torch.Generator().manual_seed(0)
    q = torch.randn((300, 6, 64), generator=draw).half()
    k, v = torch.randn((2, 6, 64, 3, 64), generator=draw).half()
    batch = PagedBatch(
        torch.tensor([0, 200, 300], dtype=torch.int32),
        torch.tensor([200, 170], dtype=torch.int32),
        torch.tensor([[5, 1, 4, 2], [3, 5, 0, 0]], dtype=torch.int32),
        tokens=300, max_q_len=200, max_kv_len=200,
    )  # fmt: skip
    near, far = (
        flash_prefill_paged(*tensors, batch, alpha=0.3, backend="triton")
        for tensors in (
            (q, k, v),
            (space.spread(q, min(axis, 1)), space.spread(k, axis), space.spread(v, axis)),
        )
    )
    assert torch.equal(near, far)
