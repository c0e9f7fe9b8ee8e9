"""Delta as a method over others: what it selects, what its output is defined as, and how it is named."""

import pytest
import torch

from fp_bench.errors import UsageError
from fp_bench.jobs.latency.definition import dense_truth
from fp_bench.jobs.latency.measure import check
from fp_bench.jobs.latency.timers import WallClock
from fp_bench.kernels.attention.reference import attention
from fp_bench.methods.base import AttentionCall
from fp_bench.methods.modifiers.delta import Delta
from fp_bench.methods.registry import Spec, create_method
from tests.kernels.calls import Case, relative_error

OVER = "flashprefill:alpha=0.5:sink_blocks=0:window_blocks=1:last_full_blocks=0"


def a_call(**changes):
    case = Case(**({"q_len": 700, "kv_len": 700, "q_heads": 4, "kv_heads": 2} | changes))
    return AttentionCall(*case.tensors(), case.scale)


def over(text, **options):
    return Delta.from_options({"over": text, **options})


def findings(method, call, *given):
    return check(method, call, dense_truth(call, 0), WallClock(), *given).findings


@pytest.mark.parametrize("text", [OVER, "streaming:n_init=8:n_local=64", "flashprefill_v2:alpha=0.9"])
def test_its_output_is_the_corrected_one(text):
    call, method = a_call(), over(text)
    below = create_method(Spec.parse(text))
    index = below.select(call)
    sparse = attention(call.q, call.k, call.v, scale=call.scale, index=index, means=below.means(call)).out
    exact = attention(call.q, call.k, call.v, scale=call.scale).out
    expected = exact.clone()
    for query in range(512):
        anchor = query // 64 * 64
        expected[:, query] = sparse[:, query] + exact[:, anchor] - sparse[:, anchor]
    assert relative_error(method(call), expected) < 1e-5
    rows = torch.tensor([0, 5, 64, 300, 511, 512, 699])
    assert relative_error(method.definition(call, method.select(call), rows), expected[:, rows]) < 1e-5


def test_it_is_checked_by_that_definition():
    call = a_call()
    found, below = (findings(method, call) for method in (over(OVER), create_method(Spec.parse(OVER))))
    assert found.kernel_err < 1e-5
    assert below.density < found.density < below.density + 0.5
    assert found.backend == below.backend


def test_a_prescribed_selection_is_corrected_too():
    call, method = a_call(), over(OVER)
    given = create_method(Spec.parse("flashprefill:alpha=0.9")).select(call)
    assert findings(method, call, given).kernel_err < 1e-5


def test_where_the_queries_of_a_stretch_are_alike_it_is_nearer_to_dense():
    call = a_call()
    call.q.copy_(call.q[:, ::64].repeat_interleave(64, 1)[:, :700])
    assert findings(over(OVER), call).rel_err < findings(create_method(Spec.parse(OVER)), call).rel_err


def test_short_calls_are_dense_and_said_to_be():
    call = a_call(q_len=150, kv_len=700)
    assert over(OVER).select(call) is None
    assert over(OVER).implementation(call, None) == "sdpa_cpu"
    assert over("xattention").select(a_call(q_len=1)) is None


def test_refusals_are_those_of_the_method_below():
    assert "whole prompts" in over("streaming").unsupported(a_call(q_len=600))
    assert over(OVER).unsupported(a_call(q_len=600)) is None


def test_its_label_quotes_the_method_below_and_gives_it_again():
    method = over(OVER, gamma=32)
    assert method.label == f'delta:over="{OVER}":gamma=32'
    assert create_method(Spec.parse(method.label)).method_hash == method.method_hash
    assert over("flashprefill").method_hash != over("flashprefill:alpha=0.2").method_hash


@pytest.mark.parametrize(
    ("text", "says"),
    [("delta", "must be another"), ("flashprefil", "did you mean"), ("flashprefill:alpha=-1", "alpha")],
)
def test_a_method_below_that_cannot_be_is_one_line(text, says):
    with pytest.raises(UsageError, match=says):
        over(text)


@pytest.mark.gpu
@pytest.mark.parametrize("text", ["streaming:n_init=64:n_local=256", "flashprefill"])
def test_on_a_gpu_without_a_sync(text):
    case = Case(batch=2, q_len=3000, kv_len=3000, q_heads=8, kv_heads=2, head_dim=128, dtype=torch.bfloat16)
    call = AttentionCall(*case.tensors("cuda"), case.scale)
    method = over(text)
    assert findings(method, call).kernel_err < 1e-2
    torch.cuda.set_sync_debug_mode("error")
    try:
        method(call)
    finally:
        torch.cuda.set_sync_debug_mode("default")
