import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fp_bench.errors import UnavailableError, UnsupportedError
from fp_bench.jobs.failures import IncorrectError, failure
from fp_bench.jobs.latency.definition import dense_truth
from fp_bench.jobs.latency.measure import Effort, check, computed_entries, measure
from fp_bench.jobs.latency.timers import WallClock
from fp_bench.kernels.attention.reference import sample_rows
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.layout import BlockGrid
from fp_bench.methods.base import AttentionCall
from fp_bench.methods.dense import Dense
from fp_bench.methods.registry import Spec, create_method
from fp_bench.records.record import DENSITY_OF

FAST = Effort(rounds=1, samples=2, warm_up_seconds=0.0)


def make_call(q_len=300, kv_len=300, dtype=torch.float32):
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, n, h, 64, generator=draw).to(dtype) for n, h in ((q_len, 2), (kv_len, 1), (kv_len, 1)))
    return AttentionCall(q, k, v, scale=0.125)


def checked(name, call=None, **more):
    call = call or make_call()
    return check(create_method(Spec.parse(name)), call, dense_truth(call, 0), WallClock(), **more)


@given(q_len=st.integers(1, 100_000), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=50)
def test_sampled_rows_cover_the_sequence(q_len, seed):
    rows = sample_rows(q_len, seed).tolist()
    assert rows == sorted(set(rows))
    assert (rows[0], rows[-1]) == (0, q_len - 1)
    assert max((b - a for a, b in pairwise(rows)), default=1) <= max(1, math.ceil(q_len / 64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dense_covers_everything_and_is_exact(dtype):
    found = checked("dense", make_call(dtype=dtype)).findings
    assert (found.density, found.fallback, found.density_by_head) == (1.0, False, [1.0, 1.0])
    assert found.recall == pytest.approx(1.0)
    assert found.rel_err == found.kernel_err < 0.01


def test_recall_is_the_share_of_dense_mass_and_the_error_is_against_dense(odd_methods):
    call = make_call()
    found = checked("window", call).findings
    weights = torch.einsum("bihd,bjgd->bhij", call.q, call.k) * call.scale
    weights = weights.masked_fill(torch.ones(300, 300).triu(1).bool(), -math.inf).softmax(-1)
    block = torch.arange(300) // 128
    mass = (weights * (block[:, None] == block)).sum(-1)[0, :, sample_rows(300, 0)]
    assert found.recall_by_head == pytest.approx(mass.mean(-1).tolist(), rel=1e-5)
    assert found.density == pytest.approx((2 * 128 * 129 + 44 * 45) / (300 * 301))
    assert found.kernel_err < 1e-5 < found.rel_err


@pytest.mark.parametrize("name", ["wrong", "nan"])
def test_a_wrong_output_is_never_timed(odd_methods, name):
    with pytest.raises(IncorrectError, match="relative error to the float32 definition"):
        checked(name)


class FivePerCentOff(Dense):
    def attend(self, call, index):
        return 1.05 * super().attend(call, index)


class AndSaysSo(FivePerCentOff):
    def tolerance(self):
        return 0.06


def test_a_method_may_declare_arithmetic_below_its_tensors_type():
    call = make_call()
    truth = dense_truth(call, seed=0)
    with pytest.raises(IncorrectError, match=r"error to the float32 definition is 0.05; the limit is 0.0001"):
        check(FivePerCentOff(), call, truth, WallClock())
    assert check(AndSaysSo(), call, truth, WallClock()).findings.kernel_err == pytest.approx(0.05, rel=1e-3)


def test_a_chunk_of_a_prompt_is_measured_too(odd_methods):
    call = make_call(q_len=200, kv_len=500)
    assert checked("window", call).findings.kernel_err < 1e-5
    assert checked("dense", call).findings.recall == pytest.approx(1.0)


def test_a_method_that_ran_dense_says_so(odd_methods):
    found = checked("falls_back").findings
    assert (found.fallback, found.density, found.density_of) == (True, 1.0, DENSITY_OF)


def test_each_step_is_timed_and_dense_has_no_selection(odd_methods):
    timing = measure(checked("slow"), FAST, WallClock())
    assert len(timing.samples_ms) == 2
    assert timing.median_ms > 50 < timing.attend_ms
    assert timing.select_ms < 50
    assert measure(checked("dense"), FAST, WallClock()).select_ms is None


def test_a_round_warms_up_on_other_content_before_its_samples():
    class Counts(Dense):
        seen: list = []  # noqa: RUF012

        def attend(self, call, index):
            self.seen.append(call.k[0, -1, 0, 0].item())
            return super().attend(call, index)

    call = make_call()
    own = call.k[0, -1, 0, 0].item()
    ready = check(Counts(), call, dense_truth(call, 0), WallClock())
    Counts.seen.clear()
    measure(ready, Effort(samples=1, warm_up_seconds=0.0), WallClock())
    assert [value == pytest.approx(own, rel=1e-5) for value in Counts.seen] == [False, True]


def test_a_given_selection_replaces_the_methods_own(odd_methods):
    call = make_call()
    everything = torch.ones(1, 2, 3, 3, dtype=torch.bool)
    given_index = BlockIndex.from_mask(everything, 300, 300)
    ready = checked("window", call, given=given_index)
    assert ready.findings.density == 1.0
    timing = measure(ready, FAST, WallClock())
    assert timing.select_ms is None
    assert timing.attend_ms == pytest.approx(timing.median_ms)
    assert checked("dense", call, given=given_index).index is None


def test_a_call_of_minutes_is_run_once_where_it_is_checked(odd_methods):
    ready = checked("slow")
    timing = measure(ready, Effort(checked_call_counts=True), WallClock())
    assert timing.samples_ms == [pytest.approx(ready.first_ms, abs=1e-4)]
    assert timing.select_ms == ready.first_select_ms


def test_nothing_precedes_a_call_of_minutes():
    class Counts(Dense):
        calls = 0

        def attend(self, call, index):
            self.calls += 1
            return super().attend(call, index)

    call, method = make_call(), Counts()
    ready = check(method, call, dense_truth(call, 0), WallClock(), first_is_other=False)
    measure(ready, Effort(checked_call_counts=True), WallClock())
    assert method.calls == 1


@given(q_len=st.integers(1, 600), more=st.integers(0, 300), seed=st.integers(0, 99))
@settings(max_examples=40)
def test_computed_entries_counts_the_pairs_of_the_mask(q_len, more, seed):
    kv_len = q_len + more
    call = AttentionCall(torch.zeros(1, q_len, 2, 64), *[torch.zeros(1, kv_len, 1, 64)] * 2, scale=1.0)
    grid = BlockGrid(q_len, kv_len)
    mask = torch.rand(1, 2, grid.rows, grid.key_blocks, generator=torch.Generator().manual_seed(seed)) < 0.5
    index = BlockIndex.from_mask(mask, q_len, kv_len)
    position = torch.arange(more, kv_len)
    causal = torch.arange(kv_len) <= position[:, None]
    kept = index.mask()[:, :, position // 128 - grid.first][..., torch.arange(kv_len) // 128]
    assert computed_entries(call, index) == (kept & causal).sum()
    assert computed_entries(call, None) == 2 * causal.sum()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "oom"),
        (MemoryError(), "oom"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."), "oom"),
        (UnsupportedError("head_dim 7"), "unsupported"),
        (UnavailableError("no such package"), "unavailable"),
        (IncorrectError("off"), "incorrect"),
        (KeyError("a\nb"), "error"),
        (RuntimeError("out of resource: shared memory"), "error"),
    ],
)
def test_every_failure_has_a_status_and_one_line(error, status):
    found = failure(error)
    assert found.status == status
    assert found.reason
    assert "\n" not in found.reason
