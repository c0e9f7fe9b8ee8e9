"""SpargeAttn's selection: torch and Triton against the definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fp_bench.kernels import spargeattn
from fp_bench.kernels.backend import triton_missing
from fp_bench.kernels.block_index import causal_blocks
from fp_bench.kernels.layout import BlockGrid
from fp_bench.kernels.pooling import block_likeness
from fp_bench.kernels.pooling import reference as defined_pooling
from fp_bench.kernels.ranking import Need
from fp_bench.kernels.spargeattn import reference
from tests.kernels.calls import Case, cases

needs_interpreter = pytest.mark.skipif(triton_missing() is not None, reason=str(triton_missing()))
BACKENDS = ["torch", pytest.param("triton", marks=needs_interpreter)]
NEEDS = [(0.6, Need.SHARE_WITHIN), (0.98, Need.SHARE_WITHIN), (2.0, Need.COUNT)]


def in_part_alike(case, device="cpu"):
    """Q and K whose blocks are alike within themselves, but for some of each."""
    q, k, _ = case.tensors(device, contrast=3.0)
    common = torch.randn(case.head_dim, generator=torch.Generator().manual_seed(2)).to(q)
    number = torch.arange(case.q_len, device=device) // 128 % 3 != 1
    return q + 3 * common * number[:, None, None], k


def assert_selects_as_defined(case, need, kind, backend, device="cpu", agree=1.0):
    q, k = in_part_alike(case, device)
    given = {"likeness": 0.5, "scale": 0.3 * case.scale}
    ours = spargeattn.select_alike(q, k, need, kind, backend=backend, **given).mask().cpu()
    defined = reference.select_alike(q.cpu(), k.cpu(), need, kind, **given).mask()
    causal = causal_blocks(BlockGrid(case.q_len, case.kv_len)).expand_as(ours)
    assert (ours == defined)[causal].float().mean() >= agree
    return ours[causal].float().mean()


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=3)
@given(case=cases(max_len=400, dtypes=(torch.float32,), head_dims=(64,)), how=st.sampled_from(NEEDS))
def test_selects_as_defined(backend, case, how):
    assert_selects_as_defined(case, *how, backend)


@pytest.mark.parametrize("how", NEEDS)
def test_some_are_foretold_and_some_are_not(how):
    assert 0.2 < assert_selects_as_defined(Case(q_len=1100, kv_len=1100), *how, "torch") < 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("length", "before"), [(384, 0), (300, 100), (90, 0)])
@pytest.mark.parametrize("centred", [False, True])
def test_likeness_as_defined(backend, length, before, centred):
    x = Case(batch=2, q_len=length, kv_len=length, q_heads=2, kv_heads=2).tensors()[1]
    mean = x.mean(1) if centred else None
    ours = block_likeness(x, mean, before=before, backend=backend)
    torch.testing.assert_close(ours, defined_pooling.block_likeness(x, mean, before=before), atol=1e-5, rtol=1e-4)


def test_a_block_of_one_direction_is_alike_and_one_of_two_is_not():
    x = torch.ones(1, 256, 1, 64)
    x[:, 128::2] *= -5
    assert block_likeness(x)[0, :, 0].tolist() == pytest.approx([1.0, 0.0])


def test_a_block_that_is_not_alike_is_kept_by_all_and_keeps_all():
    q, k = torch.ones(1, 512, 1, 64), torch.zeros(1, 512, 1, 64)
    k[..., 0] = 1 + torch.arange(4).repeat_interleave(128)[None, :, None]
    k[:, 128:256:2] *= -1
    q[:, 256:384:2] *= -1
    given = {"likeness": 0.5, "scale": 1.0, "centred": False}
    kept = spargeattn.select_alike(q, k, 1.0, Need.COUNT, **given).mask()[0, 0].int().tolist()
    assert kept == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 0, 1]]


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
    assert_selects_as_defined(case, 0.8, Need.SHARE_WITHIN, "auto", device="cuda", agree=0.99)
