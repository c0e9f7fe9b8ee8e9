"""The structured source: repeatable, of any shape, and under FlashPrefill's rule as dense and faithful as heads are."""

import math
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fp_bench.errors import UsageError
from fp_bench.inputs.source import QKV, Shape
from fp_bench.inputs.structured import FEATURES, Structured

CPU = torch.device("cpu")
BLOCK = 128
PUBLISHED_DENSITY = {4096: 0.70, 8192: 0.46, 16384: 0.29, 32768: 0.18}


def make(shape: Shape, *, layer: int = 0, seed: int = 0, dtype: torch.dtype = torch.float32) -> QKV:
    return Structured().tensors(shape, layer=layer, seed=seed, dtype=dtype, device=CPU)


class Head(NamedTuple):
    density: float
    recall: float
    """Share of dense attention mass in the kept blocks, mean over sampled rows."""
    largest: float
    """Mass of the most attended key, mean over sampled rows."""


def kept_blocks(q: Tensor, k: Tensor, alpha: float = 0.12) -> Tensor:
    """FlashPrefill's rule for one head of whole blocks, sink 2, window 4, last 2: ``[blocks, blocks]``."""
    scale = q.shape[1] ** -0.5
    pooled = k.unflatten(0, (-1, BLOCK)).mean(1)
    blocks = len(pooled)
    energy = torch.full((blocks, blocks), -torch.inf)
    for a, rows in enumerate(q.split(BLOCK)):
        logits = rows @ pooled[: a + 1].T * scale
        logits[:-1, a] = -torch.inf
        energy[a, : a + 1] = logits.logsumexp(0)
    c = torch.arange(blocks)
    a = c[:, None]
    scored = energy >= energy.amax(1, keepdim=True) + math.log(alpha)
    return (scored | (c < 2) | (a - c < 4) | (a >= blocks - 2)) & (c <= a)


def measure(shape: Shape, seed: int = 0) -> list[Head]:
    qkv = make(shape, seed=seed)
    rows = torch.linspace(shape.seq_len // 8, shape.seq_len - 2 * BLOCK - 1, 32).long()
    visible = torch.arange(shape.seq_len) <= rows[:, None]
    heads = []
    for h in range(shape.q_heads):
        q, k = qkv.q[0, :, h], qkv.k[0, :, h // (shape.q_heads // shape.kv_heads)]
        kept = kept_blocks(q, k)
        mass = (q[rows] @ k.T * shape.head_dim**-0.5).masked_fill(~visible, -torch.inf).softmax(1)
        in_kept = kept[rows // BLOCK].repeat_interleave(BLOCK, 1)
        pairs = len(kept) * (len(kept) + 1) / 2
        heads.append(Head(kept.sum().item() / pairs, (mass * in_kept).sum(1).mean().item(), mass.amax(1).mean().item()))
    return heads


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@pytest.mark.parametrize("length", PUBLISHED_DENSITY)
def test_mean_density_follows_the_published_one(length: int) -> None:
    heads = measure(Shape(1, length, 8, 2, 128))
    assert mean([head.density for head in heads]) == pytest.approx(PUBLISHED_DENSITY[length], rel=0.15)
    assert mean([head.recall for head in heads]) > 0.85
    assert all(0.05 < head.largest < 0.75 for head in heads)


@pytest.mark.parametrize("shape", [Shape(1, 8192, 16, 2, 128), Shape(1, 8192, 4, 4, 64), Shape(1, 8192, 4, 1, 256)])
def test_density_does_not_hang_on_head_counts_or_head_dim(shape: Shape) -> None:
    assert mean([head.density for head in measure(shape, seed=1)]) == pytest.approx(0.46, rel=0.25)


def test_heads_differ() -> None:
    densities = sorted(head.density for head in measure(Shape(1, 16384, 8, 2, 128)))
    forced = 0.12
    assert densities[0] < 0.22
    assert densities[0] > forced
    assert densities[-1] > 2 * densities[0]


def test_same_arguments_same_values() -> None:
    shape = Shape(2, 300, 4, 2, 64)
    for one, other in zip(make(shape, seed=3, layer=1), make(shape, seed=3, layer=1), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("change", [{"seed": 1}, {"layer": 1}])
def test_seed_and_layer_change_the_values(change: dict[str, int]) -> None:
    shape = Shape(1, 300, 2, 1, 64)
    for one, other in zip(make(shape), make(shape, **change), strict=True):
        assert not torch.allclose(one, other, atol=0.1)


def test_sequences_and_heads_are_not_copies() -> None:
    q, k, v = make(Shape(2, 300, 4, 2, 64))
    for tensor in (q, k, v):
        flat = tensor.transpose(1, 2).flatten(0, 1)
        for i in range(len(flat)):
            for j in range(i):
                assert not torch.allclose(flat[i], flat[j], atol=0.1)


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 2),
    length=st.integers(1, 700),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 4),
    head_dim=st.sampled_from([64, 128, 256]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_any_shape(batch: int, length: int, kv_heads: int, group: int, head_dim: int, dtype: torch.dtype) -> None:
    shape = Shape(batch, length, kv_heads * group, kv_heads, head_dim)
    qkv = make(shape, dtype=dtype)
    assert qkv.q.shape == (batch, length, kv_heads * group, head_dim)
    assert qkv.k.shape == qkv.v.shape == (batch, length, kv_heads, head_dim)
    for tensor in qkv:
        assert tensor.dtype == dtype
        assert tensor.isfinite().all()


def test_too_small_heads_are_refused() -> None:
    with pytest.raises(UsageError, match=f"head_dim 32 .* at least {FEATURES}"):
        Structured().shapes(Shape(1, 128, 1, 1, 32))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_gpu_gives_what_the_cpu_gives() -> None:
    shape = Shape(1, 5000, 4, 2, 128)
    device = torch.device("cuda")
    there = Structured().tensors(shape, layer=0, seed=0, dtype=torch.float32, device=device)
    for one, other in zip(make(shape), there, strict=True):
        torch.testing.assert_close(one, other.cpu(), atol=1e-3, rtol=1e-3)
