"""Gaussian Q, K, V: no head of a model looks like this, so they are never the default."""

import torch
from torch import Tensor

from fp_bench.inputs.source import QKV, Shape
from fp_bench.kernels.block_index import BlockIndex


class Random:
    """Independent standard normal values; deterministic from (seed, layer, shape, dtype) on one kind of device."""

    name = "random"

    def layers(self) -> list[int]:
        """Return the one layer that a synthetic source has."""
        return [0]

    def shapes(self, asked: Shape) -> Shape:
        """Return ``asked``: every shape can be made."""
        return asked

    def tensors(self, shape: Shape, *, layer: int, seed: int, dtype: torch.dtype, device: torch.device) -> QKV:
        """Draw the tensors of one layer on ``device``."""
        draw = torch.Generator(device).manual_seed(seed * 1_000_003 + layer)

        def normal(heads: int) -> Tensor:
            size = (shape.batch, shape.seq_len, heads, shape.head_dim)
            return torch.randn(size, generator=draw, dtype=dtype, device=device)

        return QKV(normal(shape.q_heads), normal(shape.kv_heads), normal(shape.kv_heads))

    def given_index(self, shape: Shape, *, seed: int, device: torch.device) -> BlockIndex | None:
        """Return None: the method decides what to keep."""
        del shape, seed, device
        return None
