"""Attention over lists: both implementations against the definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fp_bench.errors import UnsupportedError
from fp_bench.kernels.attention import block_sparse_attention, reference
from fp_bench.kernels.backend import triton_missing
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.layout import BlockGrid
from tests.kernels.calls import Case, cases, relative_error

needs_interpreter = pytest.mark.skipif(triton_missing() is not None, reason=str(triton_missing()))
BACKENDS = ["torch", pytest.param("triton", marks=needs_interpreter)]
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def random_index(case, share, device="cpu"):
    """Lists with and without the diagonal block, and empty ones."""
    grid = BlockGrid(case.q_len, case.kv_len)
    generator = torch.Generator().manual_seed(case.seed)
    shape = (case.batch, case.q_heads, grid.rows, grid.key_blocks)
    mask = torch.rand(shape, generator=generator) < share
    return BlockIndex.from_mask(mask.to(device), case.q_len, case.kv_len)


def assert_attends_as_defined(case, share, backend, device="cpu"):
    q, k, v = case.tensors(device)
    index = random_index(case, share, device)
    out, lse = block_sparse_attention(q, k, v, index, scale=case.scale, backend=backend)
    expected = reference.attention(q, k, v, scale=case.scale, index=index)
    assert out.dtype == q.dtype
    assert relative_error(out, expected.out) < TOLERANCE[case.dtype]
    torch.testing.assert_close(lse, expected.lse, atol=2e-3 if case.dtype != torch.float32 else 1e-4, rtol=1e-4)


shares = st.sampled_from([0.0, 0.2, 0.6, 1.0])


@settings(max_examples=100)
@given(cases(), shares)
def test_torch_attends_as_defined(case, share):
    assert_attends_as_defined(case, share, "torch")


@needs_interpreter
@settings(max_examples=10)
@given(cases(dtypes=(torch.float32, torch.float16), max_len=600), shares)
def test_triton_attends_as_defined(case, share):
    assert_attends_as_defined(case, share, "triton")


@pytest.mark.parametrize("backend", BACKENDS)
def test_more_query_blocks_than_one_row_group(backend):
    case = Case(q_len=17 * 32 + 5, kv_len=17 * 32 + 5, q_heads=3, kv_heads=3)
    q, k, v = case.tensors(block=32)
    grid = BlockGrid(case.q_len, case.kv_len, 32)
    mask = torch.rand((1, 3, grid.rows, grid.key_blocks), generator=torch.Generator().manual_seed(0)) < 0.5
    index = BlockIndex.from_mask(mask, case.q_len, case.kv_len, 32)
    out = block_sparse_attention(q, k, v, index, scale=case.scale, backend=backend).out
    expected = reference.attention(q, k, v, scale=case.scale, index=index).out
    assert relative_error(out, expected) < 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
def test_unlisted_keys_and_values_are_never_read(backend):
    case = Case(q_len=512, kv_len=512, q_heads=1, kv_heads=1)
    q, k, v = case.tensors()
    mask = torch.eye(4, dtype=torch.bool)[None, None].clone()
    mask[..., 3, 0] = True
    index = BlockIndex.from_mask(mask, 512, 512)
    before = block_sparse_attention(q, k, v, index, scale=case.scale, backend=backend).out
    k[:, 128:256], v[:, 128:256] = float("nan"), float("nan")
    after = block_sparse_attention(q, k, v, index, scale=case.scale, backend=backend).out
    assert torch.equal(before[:, 256:], after[:, 256:])
    assert torch.equal(before[:, :128], after[:, :128])


@pytest.mark.parametrize("backend", BACKENDS)
def test_large_logits_do_not_overflow(backend):
    case = Case(q_len=300, kv_len=300)
    q, k, v = case.tensors()
    index = random_index(case, 1.0)
    out = block_sparse_attention(100 * q, k, v, index, scale=case.scale, backend=backend).out
    expected = reference.attention(100 * q, k, v, scale=case.scale, index=index).out
    assert relative_error(out, expected) < 1e-4


def bad_calls():
    q, k, v = Case().tensors()
    yield "dimensions", (q[0], k, v)
    yield "differ in shape", (q, k, v[:, :-1])
    yield "batch or head_dim", (q, torch.cat([k, k]), torch.cat([v, v]))
    yield "exceeds kv_len", (q, k[:, :100], v[:, :100])
    yield "multiple of kv_heads", (torch.cat([q, q[:, :, :1]], 2), torch.cat([k, k], 2), torch.cat([v, v], 2))
    yield "dtypes", (q.half(), k, v)
    yield "not one of float16", (q.double(), k.double(), v.double())
    yield "contiguous", (q.transpose(2, 3).contiguous().transpose(2, 3), k, v)
    yield "requires grad", (q.clone().requires_grad_(), k, v)
    yield "head_dim 32", (q[..., :32], k[..., :32], v[..., :32])
    yield "at least 1", (q[:0], k[:0], v[:0])


@pytest.mark.parametrize(("message", "tensors"), list(bad_calls()), ids=lambda x: x if isinstance(x, str) else "")
def test_undefined_tensors_are_refused_in_one_line(message, tensors):
    index = random_index(Case(), 1.0)
    with pytest.raises(UnsupportedError, match=message) as caught:
        block_sparse_attention(*tensors, index, scale=0.125)
    assert "\n" not in str(caught.value)


def test_an_index_of_other_lengths_is_refused():
    q, k, v = Case().tensors()
    with pytest.raises(UnsupportedError, match="index is for"):
        block_sparse_attention(q, k, v, random_index(Case(q_len=128, kv_len=128), 1.0), scale=0.125)
