"""A plug-in of methods that behave, and of methods that do not."""
# ruff: noqa: ARG002

import time

import torch

from fp_bench.kernels.attention.reference import attention
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.layout import BlockGrid
from fp_bench.methods.base import Method, MethodParams


class Window(Method):
    """The key blocks near the diagonal, by the float32 definition."""

    name = "window"

    class Params(MethodParams):
        blocks: int = 1

    def select(self, call):
        grid = BlockGrid(call.q_len, call.kv_len)
        a = torch.arange(grid.rows)[:, None] + grid.first
        near = a - torch.arange(grid.key_blocks) < self.params.blocks
        shape = (call.batch, call.q_heads, grid.rows, grid.key_blocks)
        return BlockIndex.from_mask(near.expand(shape), call.q_len, call.kv_len)

    def attend(self, call, index):
        return attention(call.q, call.k, call.v, scale=call.scale, index=index).out.to(call.q.dtype)


class Wrong(Window):
    """Forgets one block of what it selected."""

    name = "wrong"

    def attend(self, call, index):
        blocks = index.blocks.clone()
        counts = index.counts.clone()
        counts[:, -1, -1] = 0
        return super().attend(call, BlockIndex(blocks, counts, index.q_len, index.kv_len))


class Nan(Window):
    name = "nan"

    def attend(self, call, index):
        return torch.full_like(call.q, float("nan"))


class Raises(Window):
    name = "raises"

    def select(self, call):
        raise KeyError("a bug\nover two lines")


class Hungry(Window):
    name = "hungry"

    def attend(self, call, index):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 PiB")


class FallsBack(Window):
    """Runs dense whatever was asked."""

    name = "falls_back"

    def select(self, call):
        return None


class Slow(Window):
    name = "slow"

    def attend(self, call, index):
        time.sleep(0.05)
        return super().attend(call, index)
