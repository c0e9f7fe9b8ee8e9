"""Stem's selection: torch and Triton against the definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fp_bench.errors import UnsupportedError
from fp_bench.kernels import stem
from fp_bench.kernels.backend import triton_missing
from fp_bench.kernels.block_index import causal_blocks
from fp_bench.kernels.layout import BlockGrid
from fp_bench.kernels.stem import Budget, reference
from tests.kernels.calls import Case, cases

needs_interpreter = pytest.mark.skipif(triton_missing() is not None, reason=str(triton_missing()))
BACKENDS = ["torch", pytest.param("triton", marks=needs_interpreter)]
FORCED = {"sink_blocks": 1, "window_blocks": 1}


def assert_selects_as_defined(case, budget, backend, device="cpu", agree=1.0, stride=8):
    q, k, v = case.tensors(device)
    v[:, ::50] *= 5
    given = {"stride": stride, "value_weight": 0.2, "scale": case.scale, **FORCED}
    ours = stem.select_strided(q, k, v, budget, backend=backend, **given).mask().cpu()
    defined = reference.select_strided(q.cpu(), k.cpu(), v.cpu(), budget, **given).mask()
    causal = causal_blocks(BlockGrid(case.q_len, case.kv_len)).expand_as(ours)
    assert (ours == defined)[causal].float().mean() >= agree


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=3)
@given(
    case=cases(max_len=400, dtypes=(torch.float32,), head_dims=(64,)),
    factor=st.sampled_from([0.2, 0.6, 1.0]),
    stride=st.sampled_from([4, 16]),
)
def test_selects_as_defined(backend, case, factor, stride):
    assert_selects_as_defined(case, Budget(factor, 0.5), backend, stride=stride)


@pytest.mark.parametrize("backend", BACKENDS)
def test_scores_and_values_are_weighed_as_defined(backend):
    # Blocks of 16 tokens: enough of them that their order shows the weights.
    q, k, v = Case(q_len=240, kv_len=240, q_heads=1, head_dim=16).tensors(contrast=0.5, block=16)
    v[:, ::37] *= 3
    given = {"stride": 4, "value_weight": 0.5, "scale": 0.25, "block_size": 16, **FORCED}
    ours = stem.select_strided(q, k, v, Budget(0.3), backend=backend, **given).mask()
    assert torch.equal(ours, reference.select_strided(q, k, v, Budget(0.3), **given).mask())


@pytest.mark.parametrize("length", [1, 9, 130, 400])
def test_the_bonus_of_values_as_defined(length):
    v = Case(batch=2, q_len=length, kv_len=length, q_heads=2, kv_heads=2).tensors()[2]
    torch.testing.assert_close(stem.value_bonus(v, 8), reference.value_bonus(v, 8), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_chunk_selects_what_the_whole_prompt_does(backend):
    case = Case(q_len=500, kv_len=500, q_heads=1)
    q, k, v = case.tensors()
    given = {"stride": 8, "value_weight": 0.2, "scale": case.scale, "backend": backend, **FORCED}
    whole, chunk = (stem.select_strided(some, k, v, Budget(0.4), **given).mask() for some in (q, q[:, 256:]))
    assert torch.equal(chunk, whole[:, :, 2:])


def test_large_values_are_kept_where_scores_say_nothing():
    q, k = torch.zeros(1, 128, 1, 64), torch.zeros(1, 1024, 1, 64)
    v = torch.ones(1, 1024, 1, 64)
    v[:, 5 * 128 : 6 * 128] = 9
    given = {"stride": 8, "scale": 0.125, "sink_blocks": 0, "window_blocks": 1}
    kept = [
        stem.select_strided(q, k, v, Budget(0.15), value_weight=weight, **given).mask()[0, 0, 0].nonzero().flatten()
        for weight in (0.2, 0.0)
    ]
    assert [blocks.tolist() for blocks in kept] == [[5, 7], [0, 7]]


@pytest.mark.parametrize(
    ("blocks", "first", "last"),
    [(20, 20, 20), (55, 55, 55), (56, 41, 28), (128, 55, 38), (160, 46, 32), (1024, 132, 92)],
)
def test_the_published_budgets(blocks, first, last):
    budgets = Budget().of_rows(BlockGrid(blocks * 128, blocks * 128), "cpu")
    assert (budgets[0], budgets[-1]) == (first, last)
    assert (budgets.diff() <= 0).all()
    assert (budgets[:first] == first).all()
    chunk = Budget().of_rows(BlockGrid(256, blocks * 128), "cpu")
    assert torch.equal(chunk, budgets[-2:])


def test_limits_are_refused():
    q, k, v = Case().tensors()
    for stride in (3, 12, 256):
        with pytest.raises(UnsupportedError, match="stride"):
            stem.select_strided(q, k, v, Budget(), stride=stride, value_weight=0.2, scale=1.0)
    for values in ({"factor": 0}, {"decay": 0}, {"decay": 1.1}):
        with pytest.raises(UnsupportedError):
            Budget(**values)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "case",
    [
        Case(q_len=4096, kv_len=4096, q_heads=4, kv_heads=1, head_dim=128, dtype=torch.bfloat16),
        Case(batch=2, q_len=2500, kv_len=2500, q_heads=8, kv_heads=1, head_dim=64, dtype=torch.float16),
        Case(q_len=700, kv_len=5003, q_heads=2, kv_heads=1, head_dim=256, dtype=torch.bfloat16),
    ],
)
def test_on_a_gpu_as_defined(case):
    # Means are rounded to the tensors' type, which swaps blocks of nearly equal scores.
    assert_selects_as_defined(case, Budget(0.4), "auto", device="cuda", agree=0.98)
