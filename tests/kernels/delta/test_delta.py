"""Dense attention of some queries, and the correction made of it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fp_bench.errors import UnsupportedError
from fp_bench.kernels.attention.reference import attention_rows
from fp_bench.kernels.backend import triton_missing
from fp_bench.kernels.delta import DenseRows, attend_rows, correct
from tests.kernels.calls import Case, cases, relative_error

needs_interpreter = pytest.mark.skipif(triton_missing() is not None, reason=str(triton_missing()))
BACKENDS = ["torch", pytest.param("triton", marks=needs_interpreter)]


def assert_attends_as_defined(case, gamma, backend="auto", device="cpu", tolerance=1e-5):
    q, k, v = case.tensors(device)
    rows = DenseRows(case.q_len, gamma)
    ours = attend_rows(q, k, v, rows, scale=case.scale, backend=backend)
    defined = attention_rows(q, k, v, scale=case.scale, rows=rows.queries()).out
    assert ours.dtype == q.dtype
    assert relative_error(ours, defined) < tolerance


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=3)
@given(case=cases(max_len=400, dtypes=(torch.float32,), head_dims=(64,)), gamma=st.sampled_from([1, 16, 100]))
def test_rows_as_defined(backend, case, gamma):
    assert_attends_as_defined(case, gamma, backend)


@pytest.mark.parametrize(
    ("q_len", "gamma", "tail"),
    [(1000, 64, 832), (1024, 64, 896), (1000, 256, 512), (1000, 100, 800), (190, 64, 0), (1, 64, 0)],
)
def test_which_rows_are_dense(q_len, gamma, tail):
    rows = DenseRows(q_len, gamma)
    queries = rows.queries().tolist()
    assert rows.tail == tail
    assert queries == sorted({*range(0, tail, gamma), *range(tail, q_len)})
    assert rows.count == len(queries)
    for kv_len in (q_len, q_len + 77):
        assert rows.pairs(kv_len) == sum(kv_len - q_len + query + 1 for query in queries)


def test_differences_are_added_up_to_the_next_dense_row():
    rows = DenseRows(9 + 128, 4)
    sparse = torch.randn(2, 137, 3, 8, generator=torch.Generator().manual_seed(0))
    dense = torch.randn(2, rows.count, 3, 8, generator=torch.Generator().manual_seed(1))
    out = correct(sparse.clone(), dense, rows)
    assert rows.tail == 8
    for query in range(8):
        anchor = query // 4 * 4
        torch.testing.assert_close(out[:, query], sparse[:, query] + dense[:, anchor // 4] - sparse[:, anchor])
    assert torch.equal(out[:, 8:], dense[:, 2:])


def test_a_distance_below_1_is_refused():
    with pytest.raises(UnsupportedError, match="gamma 0"):
        DenseRows(10, 0)


@pytest.mark.gpu
@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_on_a_gpu_as_defined(head_dim):
    case = Case(batch=2, q_len=5003, kv_len=5500, q_heads=8, kv_heads=2, head_dim=head_dim, dtype=torch.bfloat16)
    assert_attends_as_defined(case, 64, device="cuda", tolerance=1e-2)
