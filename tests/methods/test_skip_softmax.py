"""The option ``skip`` of methods that attend over blocks, and skip-softmax alone."""

from itertools import pairwise

import pytest
import torch

from fp_bench.errors import UsageError
from fp_bench.jobs.latency.definition import dense_truth
from fp_bench.jobs.latency.measure import check
from fp_bench.jobs.latency.timers import WallClock
from fp_bench.methods.base import AttentionCall
from fp_bench.methods.modifiers.skip_softmax import SkipSoftmax
from fp_bench.methods.registry import BUILTIN_METHODS, Spec, create_method, methods
from tests.kernels.calls import Case
from tests.kernels.test_skipping import alike

WITH_BLOCKS = ["flashprefill", "flashprefill_v2:correction=false", "xattention", "rbs", "prism", "stem", "cosa"]


def a_call(device="cpu", **changes):
    case = Case(**({"q_len": 900, "kv_len": 900, "q_heads": 4, "kv_heads": 2} | changes))
    return AttentionCall(*alike(case, device), case.scale)


def findings(text, call):
    return check(create_method(Spec.parse(text)), call, dense_truth(call, 0), WallClock()).findings


@pytest.mark.parametrize(
    "name", ["flashprefill:alpha=0", "flashprefill_v2:alpha=0:correction=false", "delta:over=skip_softmax"]
)
def test_what_it_leaves_out_is_checked_and_counted(name):
    call = a_call()
    found = findings(name + ("" if "delta" in name else ":skip=0.01"), call)
    assert found.kernel_err < 1e-5
    assert 0.05 < found.skipped < 0.95


def test_without_it_nothing_is_left_out_or_counted():
    call = a_call()
    assert findings("flashprefill:alpha=0", call).skipped is None
    kept = findings("flashprefill:alpha=0:skip=1e-30", call)
    assert kept.skipped == 0
    assert kept.rel_err < 1e-5


def test_a_larger_threshold_leaves_out_more_and_costs_more():
    call = a_call()
    found = [findings(f"skip_softmax:skip={skip}", call) for skip in (1e-9, 1e-3, 0.3)]
    for less, more in pairwise(found):
        assert less.skipped < more.skipped
        assert less.rel_err < more.rel_err
    assert {each.density for each in found} == {1.0}


def test_alone_its_threshold_falls_with_the_number_of_keys():
    method = SkipSoftmax.from_options({"factor": 9})
    assert method.skip(a_call()) == pytest.approx(0.01)
    assert method.skip(a_call(q_len=5, kv_len=5)) == 1.0
    assert SkipSoftmax.from_options({"skip": 0.2}).skip(a_call()) == 0.2
    assert SkipSoftmax().select(a_call(q_len=1)) is None


@pytest.mark.parametrize("text", WITH_BLOCKS)
def test_unset_it_changes_no_hash(text):
    method = create_method(Spec.parse(text))
    assert "skip" not in method.params.model_dump(mode="json")
    other = create_method(Spec.parse(f"{text}:skip=0.01"))
    assert other.method_hash != method.method_hash
    assert "skip=0.01" in other.label
    assert create_method(Spec.parse(other.label)).method_hash == other.method_hash


def test_every_method_of_blocks_takes_it():
    from fp_bench.methods.blocks import BlockMethod

    of_blocks = [cls for cls in map(methods.load, BUILTIN_METHODS) if issubclass(cls, BlockMethod)]
    assert len(of_blocks) >= 7
    assert all("skip" in cls.Params.model_fields for cls in of_blocks)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("flashprefill:skip=0", "skip='0'"),
        ("flashprefill:skip=2", "skip='2'"),
        ("flashprefill:skip=0.1:correction=true", "combined with correction"),
        ("flashprefill_v2:skip=0.1", "write correction=false"),
    ],
)
def test_what_does_not_go_together_is_one_line(text, says):
    with pytest.raises(UsageError, match=says):
        create_method(Spec.parse(text))


@pytest.mark.gpu
def test_on_a_gpu_without_a_sync():
    call = a_call("cuda", batch=2, q_len=3000, kv_len=3000, q_heads=8, head_dim=128, dtype=torch.bfloat16)
    assert findings("skip_softmax:skip=0.001", call).kernel_err < 1e-2
    method = create_method(Spec.parse("flashprefill:skip=0.001"))
    method(call)
    torch.cuda.set_sync_debug_mode("error")
    try:
        method(call)
    finally:
        torch.cuda.set_sync_debug_mode("default")
