"""The attention of the last queries by key and distance: torch and Triton against the definition."""

import pytest
import torch

from fp_bench.kernels.attention import last_reference
from fp_bench.kernels.attention.last import last_attention
from fp_bench.kernels.backend import triton_missing
from tests.kernels.calls import Case

needs_interpreter = pytest.mark.skipif(triton_missing() is not None, reason=str(triton_missing()))
BACKENDS = ["torch", pytest.param("triton", marks=needs_interpreter)]


def assert_masses_as_defined(case, rows, backend, device="cpu"):
    q, k, _ = case.tensors(device)
    defined = torch.stack(last_reference.last_attention(q, k, scale=case.scale, block_size=rows))
    ours = last_attention(q[:, -rows:], k, case.scale, backend=backend)
    torch.testing.assert_close(ours[..., : case.kv_len], defined, atol=1e-6, rtol=1e-4)
    assert (ours[..., case.kv_len :] == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("rows", "length"), [(64, 64), (64, 300), (128, 300), pytest.param(128, 1500, marks=pytest.mark.slow)]
)
def test_masses_of_the_last_queries(backend, rows, length):
    assert_masses_as_defined(Case(q_len=length, kv_len=length, q_heads=4, kv_heads=2), rows, backend)
