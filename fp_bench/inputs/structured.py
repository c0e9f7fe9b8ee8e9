"""Synthetic Q, K, V with the patterns of attention heads in language models. The default input.

Every logit is a sum of a few patterns, each a handful of features that a key carries and a query weighs:

- sinks: the first tokens, read by every query, whose share does not fade as the context grows;
- local window and slash diagonal: rotary phases, in step at distance 0 and at the head's own slash distance;
- recency: longer waves, which let attention fall with distance over the whole prompt;
- vertical columns: heights of keys, some read by all queries more than others, the first token of a passage above all;
- topics and a diffuse tail: the document is a row of passages, each on a topic that comes back later, and a query
  passage scores every key passage by Gaussian vectors that topics share. The extremes of these scores are what a
  sparse method keeps, so the number kept grows slowly with length. Tokens differ from their passage.

Passages do not align with blocks, sinks and columns hardly show in the mean key of a block, and the query heads of
one KV head weigh the same keys differently, as in a model with grouped queries. How strong each pattern is, is data
(`Strengths`), one file a version. ``python -m training.inputs`` fits it to what sparse methods keep of real models.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from torch import Generator, Tensor
from torch.nn.functional import normalize

from fp_bench.errors import UsageError
from fp_bench.inputs.source import QKV, Shape
from fp_bench.kernels.block_index import BlockIndex

SINK_HEIGHTS = (4.0, 3.9, 3.8, 3.7)
"""Of the first tokens' keys."""
OFFSET_HEIGHT = 4.0
"""Of all keys, where heads differ in `Strengths.offset`; the larger, the less the noise of keys is read with it."""
PASSAGE_TOKENS = (64, 320)
"""Shortest and longest passage."""
PASSAGE_FEATURES = 24
POSITION = 4096
"""Of a query that reads the first token with the logit `Strengths.sink`."""
SLASH_DISTANCE = (256, 4096)
"""In tokens."""
NOISE_POOL = 4096
VERSION = 2
"""The newest version of the inputs."""


class Strengths(BaseModel):
    """The data of one version: how strong each pattern is, ``structured-VERSION.json`` beside this file.

    Strengths are in natural-logarithm units of attention logits; a pair is a range over which heads spread.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stratified: bool
    """Whether the heads of a call spread evenly over each range, and those of great focus, local and recency are the
    same; else they are drawn, except for `focus`."""
    wavelengths: tuple[int, ...]
    """Of the rotary phases, in tokens; whole numbers keep phases exact at any position."""
    long_wavelengths: tuple[int, ...]
    """Of further phases with a strength of their own, `recency`."""
    diffuse: float
    """Share of the heads at the lower end of `focus` and `local`: they read a little of everything."""
    focus: tuple[float, float]
    """Standard deviation of a head's passage scores: the larger, the fewer blocks come near the best one."""
    interest: float
    """How far each query's own direction differs from its passage's, relative to it."""
    sink: tuple[float, float]
    """Logit of the first token at position POSITION."""
    sink_focused: float
    """Logit that the first token has on top of it in the most focused head."""
    sink_growth: float
    """The sinks' logits grow by this times ln(position): against a growing number of keys, heads with little to read
    rest on the sinks the more."""
    local: tuple[float, float]
    """Amplitude of each rotary phase; their sum is the logit at distance 0."""
    recency: tuple[float, float]
    """Amplitude of each long phase: attention falls with distance over the whole prompt."""
    offset: tuple[float, float]
    """Logit of all keys alike: nothing to a softmax, but methods that add the scores of several heads follow those of
    high logits."""
    slash: tuple[float, float]
    """Amplitude of each rotary phase at the slash distance."""
    column: tuple[float, float]
    """How much a head reads the heights of keys."""
    column_height: float
    """Standard deviation of the heights of passages' first tokens, which are all positive."""
    token_height: float
    """Standard deviation of the heights of other tokens."""
    token: float
    """How far a key's own content differs from its passage's, relative to it."""
    topic: float
    """Cosine between the direction that a query passage looks for and its topic."""
    common: float
    """Cosine between the directions that all query passages of a head look for and one of the head's own."""
    topic_share: float
    """Share of a key passage's variance that comes from its topic."""
    value_share: float
    """Share of a value's variance that all passages have in common."""
    salience: float
    """Spread, in logarithm, of the salience of passages: a few matter to many queries."""
    noise: float
    """Standard deviation of a token's noise per dimension; features are of order 1."""

    @property
    def has_offset(self) -> bool:
        """Whether heads differ in `offset`, which takes a feature."""
        return any(self.offset)

    @property
    def features(self) -> int:
        """Number of features, the least head_dim."""
        return 2 + self.has_offset + 2 * len(self.wavelengths) + 2 * len(self.long_wavelengths) + PASSAGE_FEATURES


@cache
def strengths_of(version: int) -> Strengths:
    """Return the published strengths of a version.

    Raises:
        UsageError: there is no such version.
    """
    if not 1 <= version <= VERSION:
        raise UsageError(f"structured inputs have versions 1 to {VERSION}, not {version}")
    return Strengths.model_validate_json(Path(__file__).with_name(f"structured-{version}.json").read_bytes())


class Structured:
    """Deterministic from (version, seed, layer, shape), and the same on every device up to rounding.

    All random numbers are drawn on the CPU, and few are needed: a token's noise is the sum of two rows of one
    pool. The work proportional to ``seq_len * head_dim`` runs on the target device, one head at a time.

    Args:
        version: of the strengths; records of different versions are never compared.
        strengths: others than the version's, for a fit.

    Raises:
        UsageError: there is no such version.
    """

    def __init__(self, version: int = VERSION, strengths: Strengths | None = None) -> None:
        self.strengths = strengths or strengths_of(version)
        self.name = "structured" if version == 1 else f"structured:version={version}"
        """Records of version 1 were published before there were versions."""

    def layers(self) -> list[int]:
        """Return the one layer that a synthetic source has."""
        return [0]

    def shapes(self, asked: Shape) -> Shape:
        """Return ``asked``.

        Raises:
            UsageError: heads too small to hold the patterns.
        """
        least = self.strengths.features
        if asked.head_dim < least:
            raise UsageError(f"head_dim {asked.head_dim} is too small for structured inputs; at least {least}")
        return asked

    def given_index(self, shape: Shape, *, seed: int, device: torch.device) -> BlockIndex | None:
        """Return None: the method decides what to keep."""
        del shape, seed, device
        return None

    def tensors(self, shape: Shape, *, layer: int, seed: int, dtype: torch.dtype, device: torch.device) -> QKV:
        """Make the tensors of one layer; another layer or seed has another document and other heads.

        Features are computed in float32 and rounded once to ``dtype``.
        """
        q = torch.empty(shape.batch, shape.seq_len, shape.q_heads, shape.head_dim, dtype=dtype, device=device)
        k = torch.empty(shape.batch, shape.seq_len, shape.kv_heads, shape.head_dim, dtype=dtype, device=device)
        v = torch.empty_like(k)
        group = shape.q_heads // shape.kv_heads
        strengths = self.strengths
        for b in range(shape.batch):
            draws = _Draws(seed, layer, b)
            draw = draws("document")
            document = _Document.draw(shape.seq_len, draw, device)
            noise = _Noise.draw(shape.head_dim, strengths.noise * shape.head_dim**0.25, draw, device)
            own = _Noise.draw(PASSAGE_FEATURES, 1.0, draws("tokens"), device)
            levels = _Levels(shape.q_heads, draws, strengths.stratified, strengths.diffuse)
            for h_kv in range(shape.kv_heads):
                draw, tokens = draws(f"KV head {h_kv}"), draws(f"tokens of KV head {h_kv}")
                head = _KVHead.draw(document, shape.head_dim, strengths, draw)
                k[b, :, h_kv] = head.project(head.key_features(document, own, tokens)) + noise(shape.seq_len, draw)
                v[b, :, h_kv] = head.values(document) + noise(shape.seq_len, draw)
                for h in range(h_kv * group, (h_kv + 1) * group):
                    draw, tokens = draws(f"query head {h}"), draws(f"tokens of query head {h}")
                    query = _QueryHead.draw(document, head, levels.of(h, draw), draw, tokens)
                    q[b, :, h] = head.project(query.features(document, own, tokens)) + noise(shape.seq_len, draw)
        return QKV(q, k, v)


@dataclass(frozen=True)
class _Draws:
    """Generators of the parts of one sequence."""

    seed: int
    layer: int
    b: int

    def __call__(self, part: str) -> Generator:
        """Return the CPU generator of one part; equal arguments give equal numbers."""
        digest = hashlib.sha256(f"structured {self.seed} {self.layer} {self.b} {part}".encode()).digest()
        return Generator().manual_seed(int.from_bytes(digest[:7], "big"))


@dataclass(frozen=True)
class _Levels:
    """Where the heads lie in the ranges of strengths, 0 to 1."""

    heads: int
    draws: _Draws
    stratified: bool
    diffuse: float

    def of(self, head: int, draw: Generator) -> Callable[[str], float]:
        """Return the function from a strength to the level of a head."""

        def level(name: str) -> float:
            if name == "focus" or (self.stratified and name in ("local", "recency")):
                return max(0.0, (self._spread("levels")[head] - self.diffuse) / (1 - self.diffuse))
            return self._spread(f"levels of {name}")[head] if self.stratified else float(torch.rand((), generator=draw))

        return level

    def _spread(self, part: str) -> list[float]:
        """Return evenly spread levels of all heads, shuffled, so the mean over heads is fixed."""
        return [(int(rank) + 0.5) / self.heads for rank in torch.randperm(self.heads, generator=self.draws(part))]


@dataclass(frozen=True)
class _Document:
    """Shared by all heads of one sequence: its passages and their topics."""

    passage: Tensor
    """``[seq_len]``: the passage that each token belongs to."""
    starts: Tensor
    """``[passages]``: the first token of each."""
    topic: Tensor
    """``[passages]``."""
    topics: int

    @classmethod
    def draw(cls, seq_len: int, draw: Generator, device: torch.device) -> "_Document":
        shortest, longest = PASSAGE_TOKENS
        lengths = torch.randint(shortest, longest + 1, (seq_len // shortest + 1,), generator=draw)
        starts = lengths.cumsum(0) - lengths
        starts = starts[starts < seq_len]
        passage = torch.searchsorted(starts, torch.arange(seq_len), right=True) - 1
        # A longer document has more topics and comes back to each more often.
        topics = math.isqrt(len(starts)) + 1
        topic = torch.randint(topics, (len(starts),), generator=draw)
        return cls(passage.to(device), starts.to(device), topic.to(device), topics)

    @property
    def positions(self) -> Tensor:
        return torch.arange(len(self.passage), device=self.passage.device)


@dataclass(frozen=True)
class _KVHead:
    """Content of the keys and values of one KV head."""

    strengths: Strengths
    basis: Tensor
    """``[features, head_dim]``, orthonormal rows: directions of the features."""
    topics: Tensor
    """``[topics, PASSAGE_FEATURES]``, standard normal."""
    passages: Tensor
    """``[passages, PASSAGE_FEATURES]``, normal, correlated by topic, of uneven salience."""
    columns: Tensor
    """``[passages]``: height of the column at each passage's first token."""
    contents: Tensor
    """``[passages, head_dim]``: the value that a passage's tokens share."""

    @classmethod
    def draw(cls, document: _Document, head_dim: int, strengths: Strengths, draw: Generator) -> "_KVHead":
        def normal(*size: int) -> Tensor:
            return torch.randn(*size, generator=draw).to(document.passage.device)

        passages = len(document.starts)
        basis = torch.linalg.qr(torch.randn(head_dim, strengths.features, generator=draw)).Q.T
        topics = normal(document.topics, PASSAGE_FEATURES)
        own = normal(passages, PASSAGE_FEATURES)
        share, shared = strengths.topic_share, strengths.value_share
        return cls(
            strengths=strengths,
            basis=basis.to(document.passage.device),
            topics=topics,
            passages=(share**0.5 * topics[document.topic] + (1 - share) ** 0.5 * own)
            * torch.exp(strengths.salience * normal(passages, 1)),
            columns=normal(passages).abs() * strengths.column_height,
            contents=shared**0.5 * normal(1, head_dim) + (1 - shared) ** 0.5 * normal(passages, head_dim),
        )

    def project(self, features: Tensor) -> Tensor:
        """Return ``[seq_len, head_dim]`` such that ``q . k / sqrt(head_dim)`` is the product of the features."""
        scale: float = self.basis.shape[1] ** 0.25
        return features @ self.basis * scale

    def key_features(self, document: _Document, own: "_Noise", draw: Generator) -> Tensor:
        """Return ``[seq_len, features]`` float32."""
        strengths, seq_len = self.strengths, len(document.passage)
        single = self.basis.new_zeros(seq_len, 2)
        sinks = single.new_tensor(SINK_HEIGHTS)[:seq_len]
        single[: len(sinks), 0] = sinks
        if strengths.token_height:
            heights = torch.randn(seq_len, generator=draw).to(single.device)
            single[len(sinks) :, 1] = strengths.token_height * heights[len(sinks) :]
        single[document.starts[1:], 1] = self.columns[1:]
        content = self.passages[document.passage]
        if strengths.token:
            content = content + strengths.token * own(seq_len, draw)
        if strengths.has_offset:
            single = torch.cat([single, torch.full_like(single[:, :1], OFFSET_HEIGHT)], dim=1)
        phases = [_rotary(document.positions, each) for each in (strengths.wavelengths, strengths.long_wavelengths)]
        return torch.cat([single, *phases, content], dim=1)

    def values(self, document: _Document) -> Tensor:
        """Return ``[seq_len, head_dim]`` float32; values of sinks are small, as in trained models."""
        values = self.contents[document.passage]
        values[: len(SINK_HEIGHTS)] *= 0.1
        return values


@dataclass(frozen=True)
class _QueryHead:
    """How much one query head reads of each pattern."""

    strengths: Strengths
    focus: float
    sink: float
    local: float
    recency: float
    offset: float
    slash: float
    distance: int
    """Of the slash diagonal, in tokens."""
    column: float
    passages: Tensor
    """``[passages, PASSAGE_FEATURES]``, of length 1: direction that each query passage looks for."""

    @classmethod
    def draw(
        cls, document: _Document, keys: _KVHead, level: Callable[[str], float], draw: Generator, tokens: Generator
    ) -> "_QueryHead":
        def between(name: str, limits: tuple[float, float]) -> float:
            low, high = limits
            return low if low == high else low + (high - low) * level(name)

        strengths = keys.strengths
        # Draw a head's character first, then what grows with length, so that a head is the same at every length.
        spread = {name: between(name, getattr(strengths, name)) for name in ("sink", "local", "slash", "column")}
        distance = int(between("distance", SLASH_DISTANCE))
        own = normalize(torch.randn(len(document.starts), PASSAGE_FEATURES, generator=draw), dim=1)
        topical = normalize(keys.topics, dim=1)[document.topic]
        wanted = strengths.topic * topical + (1 - strengths.topic**2) ** 0.5 * own.to(topical.device)
        if strengths.common:
            always = normalize(torch.randn(1, PASSAGE_FEATURES, generator=tokens), dim=1).to(topical.device)
            wanted = strengths.common * always + (1 - strengths.common**2) ** 0.5 * normalize(wanted, dim=1)
        passages = normalize(wanted, dim=1)
        low, high = strengths.focus
        focus = level("focus")
        spread["sink"] += strengths.sink_focused * focus
        return cls(
            strengths=strengths,
            focus=low * (high / low) ** focus,
            recency=between("recency", strengths.recency),
            offset=between("offset", strengths.offset),
            distance=distance,
            passages=passages,
            **spread,
        )

    def features(self, document: _Document, own: "_Noise", draw: Generator) -> Tensor:
        """Return ``[seq_len, features]`` float32."""
        strengths, positions = self.strengths, document.positions
        sink = (self.sink + strengths.sink_growth * torch.log((positions + 1) / POSITION)) / SINK_HEIGHTS[0]
        constant = [self.column, self.offset / OFFSET_HEIGHT] if strengths.has_offset else [self.column]
        single = torch.stack([sink, *(torch.full_like(sink, each) for each in constant)], dim=1)
        waves, long_waves = strengths.wavelengths, strengths.long_wavelengths
        rotary = self.local * _rotary(positions, waves) + self.slash * _rotary(positions - self.distance, waves)
        wanted = self.passages[document.passage]
        if strengths.interest:
            wanted = wanted + strengths.interest * PASSAGE_FEATURES**-0.5 * own(len(positions), draw)
        return torch.cat([single, rotary, self.recency * _rotary(positions, long_waves), self.focus * wanted], dim=1)


@dataclass(frozen=True)
class _Noise:
    """Token noise from a pool: cheap to draw on the CPU, and different for every token."""

    pool: Tensor

    @classmethod
    def draw(cls, width: int, scale: float, draw: Generator, device: torch.device) -> "_Noise":
        return cls((torch.randn(NOISE_POOL, width, generator=draw) * (scale / 2**0.5)).to(device))

    def __call__(self, tokens: int, draw: Generator) -> Tensor:
        """Return ``[tokens, width]`` float32."""
        rows = torch.randint(NOISE_POOL, (2, tokens), generator=draw).to(self.pool.device)
        return self.pool[rows[0]] + self.pool[rows[1]]


def _rotary(positions: Tensor, wavelengths: tuple[int, ...]) -> Tensor:
    """Return cosines and sines ``[tokens, 2 * len(wavelengths)]`` of each position's phases."""
    lengths = torch.tensor(wavelengths, dtype=torch.int64, device=positions.device)
    phases = (positions[:, None] % lengths) * (2 * math.pi / lengths)
    return torch.cat([phases.cos(), phases.sin()], dim=1)
