"""Synthetic Q, K, V with the patterns of attention heads in language models. The default input.

Every logit is a sum of a few patterns, each a handful of features that a key carries and a query weighs:

- sinks: the first tokens, read by every query, whose share does not fade as the context grows;
- local window and slash diagonal: rotary phases, in step at distance 0 and at the head's own slash distance;
- vertical columns: the first token of each passage, some read more than others;
- topics and a diffuse tail: the document is a row of passages, each on a topic that comes back later, and a query
  passage scores every key passage by Gaussian vectors that topics share. The extremes of these scores are what a
  sparse method keeps, so the number kept grows slowly with length.

Passages do not align with blocks, sinks and columns hardly show in the mean key of a block, and the query heads of
one KV head weigh the same keys differently, as in a model with grouped queries.
"""

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import normalize

from fp_bench.errors import UsageError
from fp_bench.inputs.source import QKV, Shape
from fp_bench.kernels.block_index import BlockIndex

SINK_HEIGHTS = (4.0, 3.9, 3.8, 3.7)
"""Of the first tokens' keys."""
WAVELENGTHS = (12, 16, 20, 25, 32, 40, 50, 66, 90, 130, 330, 760)
"""Wavelengths of the rotary phases, in tokens; whole numbers keep phases exact at any position."""
PASSAGE_TOKENS = (64, 320)
"""Shortest and longest passage."""
PASSAGE_FEATURES = 24
FEATURES = 2 + 2 * len(WAVELENGTHS) + PASSAGE_FEATURES
NOISE_POOL = 4096

# Strengths in natural-logarithm units of attention logits; a pair is a range over which heads spread. Found by hand so
# that FlashPrefill's rule (alpha 0.12, sink 2, window 4, last 2) keeps its published density in the mean, and that
# this holds most of the dense attention mass. Mean over 8 query heads on 2 KV heads of 128, seed 0:
#   length     4K    8K    16K   32K   64K   128K  256K
#   published  0.70  0.46  0.29  0.18  0.10  0.06  -
#   density    0.653 0.425 0.301 0.176 0.105 0.065 0.033
#   recall     0.98  0.96  0.96  0.96  0.92  0.92  0.89
# Density rises as FOCUS and SALIENCE fall (SALIENCE more at long lengths); recall rises with SINK and LOCAL, the
# error falls with VALUE_SHARE.
FOCUS = (0.68, 2.8)
"""Standard deviation of a head's passage scores: the larger, the fewer blocks come near the best one."""
SINK = (14.0, 16.0)
"""Logit of the first token at position SINK_POSITION."""
SINK_POSITION = 4096
SINK_GROWTH = 1.5
"""The sinks' logits grow by this times ln(position): against a growing number of keys, heads with little to read rest
on the sinks the more."""
LOCAL = (0.8, 1.15)
"""Amplitude of each rotary phase; their sum is the logit at distance 0."""
SLASH = (0.0, 0.4)
"""The same at the slash distance."""
SLASH_DISTANCE = (256, 4096)
"""In tokens."""
COLUMN = (0.0, 1.0)
COLUMN_HEIGHT = 4.0
"""Standard deviation of the heights of a KV head's columns, around COLUMN."""
TOPIC = 0.2
"""Cosine between the direction that a query passage looks for and its topic."""
TOPIC_SHARE = 0.5
"""Share of a key passage's variance that comes from its topic."""
VALUE_SHARE = 0.5
"""Share of a value's variance that all passages have in common."""
SALIENCE = 0.3
"""Spread, in logarithm, of the salience of passages: a few matter to many queries."""
NOISE = 0.1
"""Standard deviation of a token's noise per dimension; features are of order 1."""


class Structured:
    """Deterministic from (seed, layer, shape), and the same on every device up to rounding.

    All random numbers are drawn on the CPU, and few are needed: a token's noise is the sum of two rows of one
    pool. The work proportional to ``seq_len * head_dim`` runs on the target device, one head at a time.
    """

    name = "structured"

    def layers(self) -> list[int]:
        """Return the one layer that a synthetic source has."""
        return [0]

    def shapes(self, asked: Shape) -> Shape:
        """Return ``asked``.

        Raises:
            UsageError: heads too small to hold the patterns.
        """
        if asked.head_dim < FEATURES:
            raise UsageError(f"head_dim {asked.head_dim} is too small for structured inputs; at least {FEATURES}")
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
        for b in range(shape.batch):
            draw = _generator(seed, layer, b, "document")
            document = _Document.draw(shape.seq_len, draw, device)
            noise = _Noise.draw(shape.head_dim, draw, device)
            levels = _levels(shape.q_heads, _generator(seed, layer, b, "levels"))
            for h_kv in range(shape.kv_heads):
                draw = _generator(seed, layer, b, f"KV head {h_kv}")
                head = _KVHead.draw(document, shape.head_dim, draw)
                k[b, :, h_kv] = head.project(head.key_features(document)) + noise(shape.seq_len, draw)
                v[b, :, h_kv] = head.values(document) + noise(shape.seq_len, draw)
                for h in range(h_kv * group, (h_kv + 1) * group):
                    draw = _generator(seed, layer, b, f"query head {h}")
                    features = _QueryHead.draw(document, head, levels[h], draw).features(document)
                    q[b, :, h] = head.project(features) + noise(shape.seq_len, draw)
        return QKV(q, k, v)


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

    basis: Tensor
    """``[FEATURES, head_dim]``, orthonormal rows: directions of the features."""
    topics: Tensor
    """``[topics, PASSAGE_FEATURES]``, standard normal."""
    passages: Tensor
    """``[passages, PASSAGE_FEATURES]``, normal, correlated by topic, of uneven salience."""
    columns: Tensor
    """``[passages]``: height of the column at each passage's first token."""
    contents: Tensor
    """``[passages, head_dim]``: the value that a passage's tokens share."""

    @classmethod
    def draw(cls, document: _Document, head_dim: int, draw: Generator) -> "_KVHead":
        def normal(*size: int) -> Tensor:
            return torch.randn(*size, generator=draw).to(document.passage.device)

        passages = len(document.starts)
        basis = torch.linalg.qr(torch.randn(head_dim, FEATURES, generator=draw)).Q.T
        topics = normal(document.topics, PASSAGE_FEATURES)
        own = normal(passages, PASSAGE_FEATURES)
        return cls(
            basis=basis.to(document.passage.device),
            topics=topics,
            passages=(TOPIC_SHARE**0.5 * topics[document.topic] + (1 - TOPIC_SHARE) ** 0.5 * own)
            * torch.exp(SALIENCE * normal(passages, 1)),
            columns=normal(passages).abs() * COLUMN_HEIGHT,
            contents=VALUE_SHARE**0.5 * normal(1, head_dim) + (1 - VALUE_SHARE) ** 0.5 * normal(passages, head_dim),
        )

    def project(self, features: Tensor) -> Tensor:
        """Return ``[seq_len, head_dim]`` such that ``q . k / sqrt(head_dim)`` is the product of the features."""
        scale: float = self.basis.shape[1] ** 0.25
        return features @ self.basis * scale

    def key_features(self, document: _Document) -> Tensor:
        """Return ``[seq_len, FEATURES]`` float32."""
        seq_len = len(document.passage)
        single = self.basis.new_zeros(seq_len, 2)
        sinks = single.new_tensor(SINK_HEIGHTS)[:seq_len]
        single[: len(sinks), 0] = sinks
        single[document.starts[1:], 1] = self.columns[1:]
        return torch.cat([single, _rotary(document.positions), self.passages[document.passage]], dim=1)

    def values(self, document: _Document) -> Tensor:
        """Return ``[seq_len, head_dim]`` float32; values of sinks are small, as in trained models."""
        values = self.contents[document.passage]
        values[: len(SINK_HEIGHTS)] *= 0.1
        return values


@dataclass(frozen=True)
class _QueryHead:
    """How much one query head reads of each pattern."""

    focus: float
    sink: float
    local: float
    slash: float
    distance: int
    """Of the slash diagonal, in tokens."""
    column: float
    passages: Tensor
    """``[passages, PASSAGE_FEATURES]``, of length 1: direction that each query passage looks for."""

    @classmethod
    def draw(cls, document: _Document, keys: _KVHead, level: float, draw: Generator) -> "_QueryHead":
        def between(limits: tuple[float, float]) -> float:
            return limits[0] + (limits[1] - limits[0]) * float(torch.rand((), generator=draw))

        # Draw a head's character first, then what grows with length, so that a head is the same at every length.
        sink, local, slash, column = between(SINK), between(LOCAL), between(SLASH), between(COLUMN)
        distance = int(between(SLASH_DISTANCE))
        own = normalize(torch.randn(len(document.starts), PASSAGE_FEATURES, generator=draw), dim=1)
        topical = normalize(keys.topics, dim=1)[document.topic]
        passages = normalize(TOPIC * topical + (1 - TOPIC**2) ** 0.5 * own.to(topical.device), dim=1)
        focus = FOCUS[0] * (FOCUS[1] / FOCUS[0]) ** level
        return cls(focus, sink, local, slash, distance, column, passages)

    def features(self, document: _Document) -> Tensor:
        """Return ``[seq_len, FEATURES]`` float32."""
        positions = document.positions
        sink = (self.sink + SINK_GROWTH * torch.log((positions + 1) / SINK_POSITION)) / SINK_HEIGHTS[0]
        single = torch.stack([sink, torch.full_like(sink, self.column)], dim=1)
        rotary = self.local * _rotary(positions) + self.slash * _rotary(positions - self.distance)
        return torch.cat([single, rotary, self.focus * self.passages[document.passage]], dim=1)


@dataclass(frozen=True)
class _Noise:
    """Token noise from a pool: cheap to draw on the CPU, and different for every token."""

    pool: Tensor

    @classmethod
    def draw(cls, head_dim: int, draw: Generator, device: torch.device) -> "_Noise":
        scale = NOISE * head_dim**0.25 / 2**0.5
        return cls((torch.randn(NOISE_POOL, head_dim, generator=draw) * scale).to(device))

    def __call__(self, tokens: int, draw: Generator) -> Tensor:
        """Return ``[tokens, head_dim]`` float32."""
        rows = torch.randint(NOISE_POOL, (2, tokens), generator=draw).to(self.pool.device)
        return self.pool[rows[0]] + self.pool[rows[1]]


def _rotary(positions: Tensor) -> Tensor:
    """Return cosines and sines ``[tokens, 2 * len(WAVELENGTHS)]`` of each position's phases."""
    wavelengths = torch.tensor(WAVELENGTHS, device=positions.device)
    phases = (positions[:, None] % wavelengths) * (2 * math.pi / wavelengths)
    return torch.cat([phases.cos(), phases.sin()], dim=1)


def _levels(heads: int, draw: Generator) -> list[float]:
    """Return ``heads`` evenly spread levels in 0..1, shuffled, so the mean over heads is fixed."""
    return [(int(rank) + 0.5) / heads for rank in torch.randperm(heads, generator=draw)]


def _generator(seed: int, layer: int, b: int, part: str) -> Generator:
    """Return the CPU generator of one part; equal arguments give equal numbers."""
    digest = hashlib.sha256(f"structured {seed} {layer} {b} {part}".encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:7], "big"))
