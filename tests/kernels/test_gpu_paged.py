"""The paged Hopper kernel on its GPU against the portable one and the float32 definition."""

from dataclasses import replace

import pytest
import torch

from fp_bench.errors import UnavailableError
from fp_bench.kernels.flashprefill.rule import KeepRule
from fp_bench.kernels.paged import attention_triton, implementation
from tests.kernels.calls import Case, relative_error
from tests.kernels.paged_calls import PagedCall, Sequence, random_lists, spread
from tests.kernels.test_paged import alone, prefill

on_hopper = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not on_hopper, reason="needs an sm_90 GPU; there is none here"),
]
PAGES = (16, 32, 64, 128, 256)
LENGTHS = [(700, 700), (1, 333), (0, 90), (64, 64), (150, 470), (128, 512), (129, 1000), (5, 5), (200, 300)]
"""Queries and keys: whole prompts, a decode, no queries, blocks exactly, chunks from the middle of a block."""


def batch(
    head_dim=128, page_size=64, layout="packed", lengths=LENGTHS, heads=(4, 2), dtype=torch.bfloat16, seed=0
) -> PagedCall:
    cases = [Case(1, *lens, *heads, head_dim, dtype, seed=seed + n) for n, lens in enumerate(lengths)]
    return spread([Sequence(*case.tensors(), last_chunk=True) for case in cases], page_size, seed, layout, "cuda")


def attend(call: PagedCall, kernel: str, lists) -> torch.Tensor:
    if kernel == "hopper":
        from fp_bench.kernels.paged import hopper as module
    else:
        module = attention_triton
    out = torch.full_like(call.q, 7.0)
    module.attend_paged(call.q, call.k, call.v, call.batch, lists, call.scale, out)
    return out


@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize("page_size", PAGES)
def test_random_lists_as_the_portable_kernel_and_other_rows_untouched(page_size, head_dim):
    for seed, (layout, share) in enumerate([("packed", 0.5), ("apart", 1.0), ("stacked", 0.1)]):
        # One page size in float16 too: each form compiles for seconds.
        dtype = torch.float16 if page_size == 64 and seed else torch.bfloat16
        call = batch(head_dim, page_size, layout, dtype=dtype, seed=seed)
        lists = random_lists(call.batch, call.q.shape[1], share, seed)
        ours, portable = attend(call, "hopper", lists), attend(call, "triton", lists)
        assert ours.isfinite().all()
        assert (ours[:3] == 7).all()
        assert (ours[-2:] == 7).all()
        assert relative_error(ours[3:-2], portable[3:-2]) < 8e-3
        error = (ours - portable).float().norm(dim=-1) / portable.float().norm(dim=-1).clamp_min(1e-3)
        assert error.max() < 3e-2  # every row of every head


@pytest.mark.parametrize("page_size", PAGES)
def test_auto_takes_it_and_gives_the_definition_with_nan_in_unused_slots(page_size):
    call = batch(128, page_size)
    assert implementation(call.q, call.k, call.v, call.q) == "hopper"
    everything = KeepRule(0.0)  # no threshold that a rounding could cross
    assert relative_error(prefill(call, "auto", everything), alone(call, everything)) < 8e-3
    assert relative_error(prefill(call, "auto"), prefill(call, "triton")) < 8e-3


@pytest.mark.parametrize("group", [1, 3, 7])
def test_groups_of_heads(group):
    call = batch(heads=(2 * group, 2))
    lists = random_lists(call.batch, 2 * group, 0.5)
    assert relative_error(attend(call, "hopper", lists), attend(call, "triton", lists)) < 8e-3


def test_more_rows_than_programs_and_long_lists():
    call = batch(page_size=128, lengths=[(20_000, 20_000), (4000, 30_000), (8192, 8192)], heads=(8, 2))
    lists = random_lists(call.batch, 8, 0.2)
    ours, portable = attend(call, "hopper", lists), attend(call, "triton", lists)
    error = (ours - portable).float().norm(dim=-1) / portable.float().norm(dim=-1).clamp_min(1e-3)
    assert error.max() < 3e-2
    for _ in range(5):
        assert torch.equal(attend(call, "hopper", lists), ours)


def test_what_tma_does_not_take_runs_the_portable_kernel():
    call = batch()
    odd = replace(call, q=torch.nn.functional.pad(call.q, (0, 4))[..., :128])
    assert implementation(odd.q, call.k, call.v, call.q) == "triton"
    with pytest.raises(UnavailableError, match="q is not aligned to 16 bytes"):
        prefill(odd, "hopper")
    assert relative_error(prefill(odd, "auto"), prefill(call, "triton")) < 1e-3


def test_strided_queries_and_outputs():
    call = batch()
    tokens, heads, dim = call.q.shape
    q = torch.zeros((tokens, 3 * heads, dim), dtype=call.q.dtype, device="cuda")[:, heads : 2 * heads]
    q.copy_(call.q)
    out = torch.zeros((heads, tokens, dim), dtype=q.dtype, device="cuda").transpose(0, 1)
    assert implementation(q, call.k, call.v, out) == "hopper"
    prefill(replace(call, q=q), "hopper", out=out)
    assert relative_error(out, prefill(call, "hopper")) < 1e-3


def test_nothing_syncs_and_a_graph_replays():
    call = batch()
    lists = random_lists(call.batch, call.q.shape[1], 0.5)
    expected = attend(call, "hopper", lists)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = attend(call, "hopper", lists)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(again, expected)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = attend(call, "hopper", lists)
    for _ in range(3):
        graph.replay()
        assert torch.equal(out, expected)
