"""Skip-softmax: the portable kernel and torch against the definition."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fp_bench.errors import UnsupportedError
from fp_bench.kernels.attention import block_sparse_attention, reference
from fp_bench.kernels.attention.skipping import skip_tile, skipped_share, skipping_attention
from fp_bench.kernels.attention.skipping_reference import skipping_rows
from fp_bench.kernels.backend import triton_missing
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.layout import BlockGrid
from tests.kernels.calls import Case, cases, relative_error

needs_interpreter = pytest.mark.skipif(triton_missing() is not None, reason=str(triton_missing()))


def alike(case, device="cpu"):
    """Q, K and V of a case whose queries are alike, so that they agree on which blocks matter."""
    q, k, v = case.tensors(device)
    common = torch.randn(case.head_dim, generator=torch.Generator().manual_seed(1)).to(q)
    return 0.2 * q + 1.5 * common, k, v


def listed(case, device="cpu", packed=1, keep=0.7):
    grid = BlockGrid(case.q_len, case.kv_len, packed=packed)
    shape = (case.batch, case.q_heads // packed, grid.rows, grid.key_blocks)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(case.seed)) < keep
    return BlockIndex.from_mask(mask.to(device), case.q_len, case.kv_len, packed=packed)


def assert_skips_as_defined(case, skip, backend="triton", device="cpu", tolerance=1e-5, packed=1, agree=1.0):
    q, k, v = alike(case, device)
    index = listed(case, device, packed)
    ours = skipping_attention(q, k, v, index, scale=case.scale, skip=skip, backend=backend)
    tile = skip_tile(q, k, v, index, backend)
    defined = skipping_rows(q, k, v, index, scale=case.scale, skip=skip, tile=tile, rows=torch.arange(case.q_len))
    assert (ours.skipped == defined.skipped).float().mean() >= agree
    assert relative_error(ours.out, defined.out) < tolerance
    torch.testing.assert_close(ours.lse, defined.lse, atol=1e-3 + tolerance, rtol=1e-3)
    return float(skipped_share(ours.skipped, index, tile).mean())


@needs_interpreter
@settings(max_examples=2)
@given(cases(max_len=300, dtypes=(torch.float32,), head_dims=(64,)), st.sampled_from([1e-6, 1e-3, 0.3, 1.0]))
def test_triton_skips_as_defined(case, skip):
    assert_skips_as_defined(case, skip)


@needs_interpreter
@pytest.mark.parametrize("packed", [1, 4])
def test_the_tiles_of_hopper_and_packed_rows(packed, monkeypatch):
    monkeypatch.setattr("fp_bench.kernels.attention.triton.capability", lambda _device: 90)
    monkeypatch.setattr("fp_bench.kernels.attention.skipping.capability", lambda _device: 90)
    share = assert_skips_as_defined(Case(q_len=300, kv_len=700, q_heads=4), 0.01, packed=packed)
    assert 0.05 < share < 0.95


def test_torch_runs_the_definition():
    assert 0.05 < assert_skips_as_defined(Case(q_len=500, kv_len=700, q_heads=4, kv_heads=2), 0.01, "torch") < 0.95


def test_what_is_skipped_counted_by_hand():
    # One query block of equal queries, three key blocks of equal keys each: logits 0, -3 and -6 from the diagonal back.
    q, k = torch.zeros(1, 128, 1, 64), torch.zeros(1, 384, 1, 64)
    q[..., 0] = 1
    k[0, :, 0, 0] = torch.tensor([-3.0, -6.0, 0.0]).repeat_interleave(128)
    v = torch.randn(1, 384, 1, 64, generator=torch.Generator().manual_seed(0))
    index = BlockIndex.from_mask(torch.ones(1, 1, 1, 3, dtype=torch.bool), 128, 384)
    rows = torch.arange(128)
    for skip, read in ((0.001, [0, 1, 2]), (0.01, [0, 2]), (0.1, [2])):
        found = skipping_rows(q, k, v, index, scale=1.0, skip=skip, tile=(128, 128), rows=rows)
        kept = torch.zeros(1, 1, 1, 3, dtype=torch.bool)
        kept[..., read] = True
        exact = reference.attention(q, k, v, scale=1.0, index=BlockIndex.from_mask(kept, 128, 384))
        assert found.skipped.flatten().tolist() == [3 - len(read)]
        torch.testing.assert_close(found.out, exact.out)
        torch.testing.assert_close(found.lse, exact.lse)


def test_one_row_that_needs_a_tile_keeps_it_for_all():
    q, k, v = Case(q_len=256, kv_len=256, q_heads=1).tensors()
    k[:, :128] = 0
    q[:, 140], k[:, 3] = 9, 9
    given = {"scale": 0.125, "skip": 0.5, "tile": (128, 128)}
    index = BlockIndex.from_mask(torch.ones(1, 1, 2, 2, dtype=torch.bool), 256, 256)
    assert skipping_rows(q, k, v, index, rows=torch.arange(256), **given).skipped.sum() == 0
    some = skipping_rows(q, k, v, index, rows=torch.tensor([7, 250]), **given)
    exact = reference.attention_rows(q, k, v, scale=0.125, rows=torch.tensor([7, 250]))
    torch.testing.assert_close(some.out, exact.out)


@pytest.mark.parametrize(("packed", "rows", "parts"), [(1, 64, 2), (3, 64, 2), (5, 64, 2), (3, 128, 1)])
def test_parts_of_a_row_skip_what_each_of_their_queries_would(packed, rows, parts):
    case = Case(q_len=200, kv_len=600, q_heads=packed)
    q, k, v = alike(case)
    index = listed(case, packed=packed)
    given = {"scale": case.scale, "skip": 0.01, "rows": torch.arange(200)}
    found = skipping_rows(q, k, v, index, tile=(rows, 128), **given)
    assert found.skipped.shape == (*index.counts.shape, parts)
    single = skipping_rows(q, k, v, index, tile=(1, 128), **given).skipped
    for part in range(parts):  # a part skips what each of its queries would skip
        assert (found.skipped[..., part] <= single[..., part * rows : (part + 1) * rows].amax(-1)).all()
    assert found.skipped.sum() > 0


@pytest.mark.parametrize("backend", ["torch", pytest.param("triton", marks=needs_interpreter)])
def test_a_tiny_threshold_is_exact_attention(backend):
    case = Case(q_len=300, kv_len=384, q_heads=2)
    q, k, v = case.tensors()
    index = listed(case)
    ours = skipping_attention(q, k, v, index, scale=case.scale, skip=1e-30, backend=backend)
    exact = reference.attention(q, k, v, scale=case.scale, index=index)
    assert relative_error(ours.out, exact.out) < 1e-5
    assert ours.skipped.sum() == 0


@pytest.mark.parametrize("skip", [0.0, -1.0, 1.1, math.nan])
def test_thresholds_out_of_limits_are_refused(skip):
    q, k, v = Case().tensors()
    with pytest.raises(UnsupportedError, match="skip"):
        skipping_attention(q, k, v, listed(Case()), scale=1.0, skip=skip)


on_hopper = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)
needs_hopper = pytest.mark.skipif(not on_hopper, reason="needs an sm_90 GPU; there is none here")
BF16 = torch.bfloat16


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["triton", pytest.param("hopper", marks=needs_hopper)])
@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize("packed", [1, 4])
def test_on_a_gpu_as_defined(backend, head_dim, packed):
    case = Case(q_len=2000, kv_len=3001, q_heads=8, kv_heads=2, head_dim=head_dim, dtype=BF16)
    # A logit on the edge of the threshold falls either way.
    share = assert_skips_as_defined(case, 1e-3, backend, "cuda", 2e-2, packed, agree=0.97)
    assert 0.05 < share < 0.95


@pytest.mark.gpu
@needs_hopper
@settings(max_examples=60)
@given(cases(max_len=1500, dtypes=(torch.float16, BF16)), st.sampled_from([1e-30, 1e-6, 1e-3, 0.1, 1.0]), st.booleans())
def test_hopper_skips_as_defined_over_random_lists(case, skip, together):
    packed = case.q_heads // case.kv_heads if together else 1
    assert_skips_as_defined(case, skip, "hopper", "cuda", 2e-2, packed, agree=0.9)


@pytest.mark.gpu
@needs_hopper
@pytest.mark.parametrize("group", [2, 3, 5, 7, 8])
def test_hopper_skips_as_defined_in_rows_of_several_heads(group):
    case = Case(q_len=1111, kv_len=2001, q_heads=2 * group, kv_heads=2, head_dim=128, dtype=BF16)
    assert 0.05 < assert_skips_as_defined(case, 1e-3, "hopper", "cuda", 2e-2, group, agree=0.97) < 0.95


@pytest.mark.gpu
@needs_hopper
@pytest.mark.parametrize("skip", [1e-30, 1e-3, 1.0])
def test_hopper_skips_as_defined_where_a_program_takes_many_rows(skip):
    case = Case(q_len=9001, kv_len=9001, q_heads=8, kv_heads=2, head_dim=128, dtype=BF16)
    assert_skips_as_defined(case, skip, "hopper", "cuda", 2e-2, agree=0.97)


@pytest.mark.gpu
@needs_hopper
def test_hopper_without_a_tile_to_skip_is_the_kernel_without_skip_each_time():
    case = Case(batch=2, q_len=5000, kv_len=5000, q_heads=8, kv_heads=2, head_dim=128, dtype=BF16)
    q, k, v = case.tensors("cuda")
    index = listed(case, "cuda")
    plain = block_sparse_attention(q, k, v, index, scale=case.scale, backend="hopper")
    for _ in range(20):
        ours = skipping_attention(q, k, v, index, scale=case.scale, skip=1e-30, backend="hopper")
        assert ours.skipped.sum() == 0
        assert relative_error(ours.out, plain.out) < 1e-3
        torch.testing.assert_close(ours.lse, plain.lse)


@pytest.mark.gpu
@needs_hopper
def test_hopper_skips_all_tiles_but_two_of_a_row():
    case = Case(q_len=3952, kv_len=6000, q_heads=4, kv_heads=2, head_dim=128, dtype=BF16)
    q, k, v = case.tensors("cuda")
    q[..., 0] = 40
    k[..., 0] = -(torch.arange(6000, device="cuda").flip(0) // 128)[None, :, None] * 10  # far back, far below
    index = BlockIndex.from_mask(torch.ones(1, 4, 31, 47, dtype=torch.bool, device="cuda"), 3952, 6000)
    ours = skipping_attention(q, k, v, index, scale=case.scale, skip=1e-2, backend="hopper")
    defined = skipping_rows(q, k, v, index, scale=case.scale, skip=1e-2, tile=(64, 128), rows=torch.arange(0, 3952, 37))
    assert relative_error(ours.out[:, ::37], defined.out) < 2e-2
    assert (ours.skipped == index.counts[..., None] - 2).all()


@pytest.mark.gpu
@needs_hopper
def test_a_graph_of_hopper_with_skip_replays_on_new_values():
    case = Case(q_len=2000, kv_len=2000, q_heads=8, kv_heads=2, head_dim=128, dtype=BF16)
    q, k, v = alike(case, "cuda")
    index = listed(case, "cuda")
    given = {"scale": case.scale, "skip": 1e-3, "backend": "hopper"}
    skipping_attention(q, k, v, index, **given)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = skipping_attention(q, k, v, index, **given)
    for static, fresh in zip((q, k, v), alike(Case(**vars(case) | {"seed": 1}), "cuda"), strict=True):
        static.copy_(fresh)
    for _ in range(3):
        found.out.fill_(float("nan"))
        graph.replay()
        expected = skipping_attention(q, k, v, index, **given)
        torch.testing.assert_close(found.out, expected.out)
        assert torch.equal(found.skipped, expected.skipped)
