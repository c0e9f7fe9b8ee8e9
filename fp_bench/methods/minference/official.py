"""MInference on the operators of its authors' package ``minference``, if it is installed.

The package chooses lines inside the models that it patches, before its operators. Therefore columns and diagonals are
chosen here, like in `minference`, and the package converts them and attends. Its operator chooses blocks itself.
"""

import contextlib
import functools
import importlib
import io
import math
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

import torch
from torch import Tensor

from fp_bench.errors import UnavailableError, UnsupportedError
from fp_bench.kernels.lines import strongest_lines
from fp_bench.kernels.lines.head_patterns import AShape, Blocks, HeadPatterns, Lines, Pattern
from fp_bench.kernels.lines.index import TILE
from fp_bench.kernels.lines.mixed_heads import HeadsIndex, index_heads
from fp_bench.kernels.selection import Selection
from fp_bench.methods.base import AttentionCall
from fp_bench.methods.minference import MInference

HEAD_DIMS = (64, 128)
"""Head sizes that its kernels support."""


@dataclass(frozen=True)
class Handed:
    """Arguments of the package's operators, and our index of the same lines, because the package reports none.

    The index is made on first use, because the operators do not need it.

    Args:
        call: the call.
        patterns: of its heads.
        lines: columns and offsets from `strongest_lines`; None if no head keeps lines.
    """

    call: AttentionCall
    patterns: HeadPatterns
    lines: tuple[Tensor, Tensor] | None

    @functools.cached_property
    def index(self) -> HeadsIndex:
        """Our index of the lines, and of the blocks of block-sparse heads."""
        return index_heads(self.call.q, self.call.k, self.patterns, self.lines)

    def lines_of(self, batch: int, head: int, pattern: Lines) -> tuple[Tensor, Tensor]:
        """Return ``(columns, offsets)`` of a head, ``[1, 1, count]`` int32 each, without padding."""
        assert self.lines is not None
        counts = (min(size, self.kv_len) for size in pattern.sizes)
        columns, offsets = (each[batch, head, :n][None, None] for each, n in zip(self.lines, counts, strict=True))
        return columns, offsets

    @property
    def q_len(self) -> int:
        """Queries of the call."""
        return self.call.q_len

    @property
    def kv_len(self) -> int:
        """Keys of the call."""
        return self.call.kv_len

    def density(self) -> Tensor:
        """Return the density of our index, ``[batch, q_heads]`` float64."""
        return self.index.density()

    def entries(self) -> Tensor:
        """Return how many causal query-key pairs our index has, ``[batch, q_heads]`` int64."""
        return self.index.entries()

    def keys_read(self, batch: int, head: int, position: Tensor) -> Tensor:
        """Return ``[len(position), kv_len]`` bool: the keys that queries at these positions read by our index."""
        return self.index.keys_read(batch, head, position)

    def kept_blocks(self, head: int) -> Tensor:
        """Return ``[rows, rows]`` float: the share of each pair of 64 queries and 64 keys in our index."""
        return self.index.kept_blocks(head)


class MInferenceOfficial(MInference):
    """MInference with the attention of its authors' package; its lines are chosen here, as by `minference`."""

    name = "minference_official"
    DEVICE: ClassVar = "cuda"
    """Where the package runs."""

    def unsupported(self, call: AttentionCall) -> str | None:
        """Return the reason if the package's kernels, or `minference`, do not support the call."""
        if call.q.dtype == torch.float32:
            return f"{self.name} takes float16 and bfloat16, not float32"
        if call.head_dim not in HEAD_DIMS:
            return f"{self.name}: head_dim {call.head_dim} is not one of {', '.join(map(str, HEAD_DIMS))}"
        if not math.isclose(call.scale, call.head_dim**-0.5, rel_tol=1e-4):
            return f"{self.name}: scale {call.scale:g} is not head_dim ** -0.5, which the package has fixed"
        return super().unsupported(call)

    def select(self, call: AttentionCall) -> Selection | None:
        """Choose columns and diagonals; None (dense) for one query and for less than a tile of 64.

        Raises:
            UnavailableError: the package is not installed, or does not import here.
        """
        if call.q_len == 1 or call.kv_len < TILE:
            return None
        self._package(call)
        patterns = self.patterns(call)
        lines = strongest_lines(call.q, call.k, patterns, scale=call.scale, backend=self.backend)
        return Handed(call, patterns, lines)

    def attend(self, call: AttentionCall, index: Selection | None) -> Tensor:
        """Attend with the package's operators, one head of one sequence at a time, like its patched models.

        Raises:
            UnavailableError: the package is not installed, or does not import here.
            UnsupportedError: a selection that is not from `select`.
        """
        if index is None:
            return self._dense.attend(call, None)
        if not isinstance(index, Handed):
            raise UnsupportedError(f"{self.name} attends over lines that it chose, not over a {type(index).__name__}")
        package = self._package(call)
        group = call.q_heads // call.kv_heads
        out = torch.empty_like(call.q, memory_format=torch.contiguous_format)
        for head, pattern in enumerate(self.heads(call)):
            for batch in range(call.batch):
                operands = [(call.q, head), (call.k, head // group), (call.v, head // group)]
                qkv = [tensor[batch, :, number].contiguous()[None, None] for tensor, number in operands]
                lines = index.lines_of(batch, head, pattern) if isinstance(pattern, Lines) else ()
                out[batch, :, head] = _attend_head(package, pattern, qkv, lines)[0, 0]
        return out

    def implementation(self, call: AttentionCall, index: Selection | None) -> str:
        """Name the package, or the dense implementation that runs in its place."""
        return self._dense.implementation(call, None) if index is None else "minference"

    def _package(self, call: AttentionCall) -> ModuleType:
        if call.q.device.type != self.DEVICE:
            raise UnavailableError(f"{self.name} runs on {self.DEVICE}, not on {call.q.device.type}")
        return _import_package(self.name)


def _import_package(method: str) -> ModuleType:
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it recommends other packages
            return importlib.import_module("minference")
    except ModuleNotFoundError as error:
        if error.name == "minference":
            needed = "needs the package minference, which is not installed; pip install 'fp_bench[minference]'"
            raise UnavailableError(f"{method} {needed}") from None
        raise UnavailableError(
            f"{method}: the package minference needs {error.name}, which is not installed"
        ) from error
    except Exception as error:  # compiled for another torch, made for another transformers, ...
        reason = " ".join(str(error).split())
        raise UnavailableError(f"{method}: minference does not import: {type(error).__name__}: {reason}") from error


def _attend_head(package: ModuleType, pattern: Pattern, qkv: list[Tensor], lines: tuple[Tensor, ...]) -> Tensor:
    """Return the attention of one head, ``[1, 1, kv_len, head_dim]``, like its Q, K and V."""
    out: Tensor
    match pattern:
        case Lines():
            out = package.vertical_slash_sparse_attention(*qkv, *lines)
        case AShape():
            out = package.streaming_forward(*qkv, pattern.sink, pattern.local)
        case Blocks():
            out = package.block_sparse_attention(*qkv, pattern.count)
    return out
