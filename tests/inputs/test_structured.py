"""The structured source: repeatable, of any shape, and under FlashPrefill's rule as dense and faithful as heads are."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fp_bench.errors import UsageError
from fp_bench.inputs.source import QKV, Shape
from fp_bench.inputs.structured import VERSION, Strengths, Structured, strengths_of

CPU = torch.device("cpu")
BLOCK = 128
PUBLISHED_DENSITY = {4096: 0.70, 8192: 0.46, 16384: 0.29, 32768: 0.18}
"""Of FlashPrefill at alpha 0.12, by its authors: what version 1 was made for."""
VERSIONS = pytest.mark.parametrize("version", range(1, VERSION + 1))


def make(
    shape: Shape, *, layer: int = 0, seed: int = 0, dtype: torch.dtype = torch.float32, version: int = VERSION
) -> QKV:
    return Structured(version).tensors(shape, layer=layer, seed=seed, dtype=dtype, device=CPU)


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


def measure(shape: Shape, *, seed: int = 0, version: int = VERSION) -> list[Head]:
    qkv = make(shape, seed=seed, version=version)
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
def test_mean_density_of_version_1_follows_the_published_one(length: int) -> None:
    heads = measure(Shape(1, length, 8, 2, 128), version=1)
    assert mean([head.density for head in heads]) == pytest.approx(PUBLISHED_DENSITY[length], rel=0.15)
    assert mean([head.recall for head in heads]) > 0.85
    assert all(0.05 < head.largest < 0.75 for head in heads)


@pytest.mark.parametrize("shape", [Shape(1, 8192, 16, 2, 128), Shape(1, 8192, 4, 4, 64), Shape(1, 8192, 4, 1, 256)])
def test_density_does_not_hang_on_head_counts_or_head_dim(shape: Shape) -> None:
    assert mean([head.density for head in measure(shape, seed=1)]) == pytest.approx(0.45, rel=0.25)


@VERSIONS
def test_heads_differ(version: int) -> None:
    densities = sorted(head.density for head in measure(Shape(1, 16384, 8, 2, 128), version=version))
    forced = 0.12
    assert densities[0] < 0.22
    assert densities[0] > forced
    assert densities[-1] > (2 if version == 1 else 1.6) * densities[0]


@VERSIONS
def test_same_arguments_same_values(version: int) -> None:
    shape = Shape(2, 300, 4, 2, 64)
    one, other = (make(shape, seed=3, layer=1, version=version) for _ in range(2))
    for tensor, again in zip(one, other, strict=True):
        assert torch.equal(tensor, again)


def test_version_1_is_what_published_records_were_measured_on() -> None:
    q, k, v = make(Shape(1, 5000, 4, 2, 128), layer=1, seed=3, version=1)
    found = [tensor[0, 4321, 1, 5:8] for tensor in (q, k, v)]
    expected = torch.tensor([[0.2481, -1.7682, -1.7706], [0.35, 1.3504, 0.0654], [0.3102, -0.2922, 1.9772]])
    torch.testing.assert_close(torch.stack(found), expected, atol=1e-3, rtol=1e-3)


def test_an_unknown_version_is_refused() -> None:
    with pytest.raises(UsageError, match=f"versions 1 to {VERSION}, not {VERSION + 1}"):
        Structured(VERSION + 1)


def weights(strengths: Mapping[str, object], length: int = 2048) -> Tensor:
    """Return dense attention of the last queries ``[heads, queries, keys]`` with some strengths changed."""
    changed = Strengths.model_validate(strengths_of(VERSION).model_dump() | dict(strengths))
    shape = Shape(1, length, 4, 2, 128)
    q, k, _ = Structured(strengths=changed).tensors(shape, layer=0, seed=0, dtype=torch.float32, device=CPU)
    keys = k[0].repeat_interleave(2, dim=1).transpose(0, 1)
    logits = q[0, -256:].transpose(0, 1) @ keys.mT * 128**-0.5
    hidden = torch.arange(length) > torch.arange(length - 256, length)[:, None]
    return logits.masked_fill(hidden, -torch.inf).softmax(-1)


def first_tokens(attention: Tensor) -> float:
    return float(attention[..., :4].sum(-1).mean())


def near(attention: Tensor, tokens: int = 64) -> float:
    length, queries = attention.shape[-1], attention.shape[-2]
    distance = torch.arange(length - queries, length)[:, None] - torch.arange(length)
    return float(attention.masked_fill(distance >= tokens, 0).sum(-1).mean())


def older_half(attention: Tensor) -> float:
    return float(attention[..., 4 : attention.shape[-1] // 2].sum(-1).mean())


def tokens_to_cover(attention: Tensor) -> float:
    """Return how many keys hold nine tenths of a row, mean over rows."""
    return float((attention.sort(-1, descending=True).values.cumsum(-1) < 0.9).sum(-1).float().mean())


def columns(attention: Tensor) -> float:
    """Return which share of what is read of the older half lies on its 16 keys that are read most."""
    older = attention[..., 4 : attention.shape[-1] // 2].mean(1)
    return float((older.topk(16).values.sum(-1) / older.sum(-1)).mean())


@pytest.mark.parametrize(
    ("strength", "low", "high", "measured"),
    [
        ("sink", (7.0, 8.0), (11.0, 12.0), first_tokens),
        ("sink_focused", 0.0, 6.0, first_tokens),
        ("local", (0.1, 0.5), (0.6, 1.6), near),
        ("focus", (1.5, 3.0), (0.3, 0.6), tokens_to_cover),
        ("diffuse", 0.0, 0.5, tokens_to_cover),
        ("token", 2.0, 0.5, tokens_to_cover),
        ("column", (0.0, 0.5), (2.0, 3.0), columns),
        ("token_height", 0.0, 2.0, columns),
        ("recency", (2.0, 2.5), (0.2, 0.5), older_half),
    ],
)
def test_a_strength_does_what_it_says(
    strength: str, low: object, high: object, measured: Callable[[Tensor], float]
) -> None:
    assert measured(weights({strength: high})) > 1.1 * measured(weights({strength: low}))


def test_an_offset_changes_no_attention() -> None:
    one, other = (weights({"offset": offset, "noise": 0.0}) for offset in ((0.5, 1.0), (8.0, 12.0)))
    torch.testing.assert_close(one, other, atol=2e-3, rtol=0)


def test_directions_in_common_make_queries_read_the_same_keys() -> None:
    def alike(common: float) -> float:
        first, last = weights({"common": common, "local": (0.0, 0.1), "recency": (0.0, 0.1)})[:, [0, -1], :1700].unbind(
            1
        )
        return float(torch.minimum(first, last).sum(-1).mean())

    assert alike(0.9) > 1.1 * alike(0.0)


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
    version=st.integers(1, VERSION),
)
def test_any_shape(
    batch: int, length: int, kv_heads: int, group: int, head_dim: int, dtype: torch.dtype, version: int
) -> None:
    shape = Shape(batch, length, kv_heads * group, kv_heads, head_dim)
    qkv = make(shape, dtype=dtype, version=version)
    assert qkv.q.shape == (batch, length, kv_heads * group, head_dim)
    assert qkv.k.shape == qkv.v.shape == (batch, length, kv_heads, head_dim)
    for tensor in qkv:
        assert tensor.dtype == dtype
        assert tensor.isfinite().all()


def test_too_small_heads_are_refused() -> None:
    with pytest.raises(UsageError, match=f"head_dim 32 .* at least {strengths_of(VERSION).features}"):
        Structured().shapes(Shape(1, 128, 1, 1, 32))
    with pytest.raises(UsageError, match="head_dim 49 is too small for structured inputs; at least 50"):
        Structured(1).shapes(Shape(1, 128, 1, 1, 49))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@VERSIONS
def test_gpu_gives_what_the_cpu_gives(version: int) -> None:
    shape = Shape(1, 5000, 4, 2, 128)
    device = torch.device("cuda")
    there = Structured(version).tensors(shape, layer=0, seed=0, dtype=torch.float32, device=device)
    for one, other in zip(make(shape, version=version), there, strict=True):
        torch.testing.assert_close(one, other.cpu(), atol=1e-3, rtol=1e-3)
