"""Tensors with contrast between key blocks, so that a threshold keeps some of them and drops others."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st


@dataclass(frozen=True)
class Case:
    batch: int = 1
    q_len: int = 256
    kv_len: int = 256
    q_heads: int = 2
    kv_heads: int = 1
    head_dim: int = 64
    dtype: torch.dtype = torch.float32
    seed: int = 0

    @property
    def scale(self) -> float:
        return self.head_dim**-0.5

    def tensors(self, device="cpu", contrast=2.0, block=128):
        """Q, K, V whose key blocks share a direction each, in a layout with strides of its own."""
        generator = torch.Generator().manual_seed(self.seed)

        def noise(*shape):
            return torch.randn(shape, generator=generator)

        blocks = -(-self.kv_len // block)
        shared = noise(self.batch, blocks, self.kv_heads, self.head_dim).repeat_interleave(block, 1)
        k = noise(self.batch, self.kv_len, self.kv_heads, self.head_dim) + contrast * shared[:, : self.kv_len]
        q = 1.5 * noise(self.batch, self.q_len, self.q_heads, self.head_dim)
        v = noise(self.batch, self.kv_len, self.kv_heads, self.head_dim)
        # Q as a [batch, heads, length, head_dim] tensor seen transposed, as models hand it over.
        q = q.transpose(1, 2).contiguous().transpose(1, 2)
        return tuple(tensor.to(device=device, dtype=self.dtype) for tensor in (q, k, v))


@st.composite
def cases(draw, max_len=900, dtypes=(torch.float32, torch.float16, torch.bfloat16), head_dims=(64, 128, 256)):
    kv_len = draw(st.integers(1, max_len))
    kv_heads = draw(st.sampled_from([1, 2]))
    return Case(
        batch=draw(st.sampled_from([1, 1, 2])),
        q_len=draw(st.one_of(st.just(kv_len), st.integers(1, kv_len))),
        kv_len=kv_len,
        q_heads=kv_heads * draw(st.sampled_from([1, 2, 3])),
        kv_heads=kv_heads,
        head_dim=draw(st.sampled_from(head_dims)),
        dtype=draw(st.sampled_from(dtypes)),
        seed=draw(st.integers(0, 10_000)),
    )


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over the norm of the expected; nan counts as infinite."""
    error = ((actual.float() - expected.float()).norm() / expected.float().norm().clamp_min(1e-20)).item()
    return error if error == error else float("inf")
