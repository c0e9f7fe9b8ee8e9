"""FlashPrefill V2 as a method, and the correction that both FlashPrefills can add."""

import pytest
import torch

from fp_bench.errors import UsageError
from fp_bench.jobs.failures import IncorrectError
from fp_bench.jobs.latency.definition import dense_truth
from fp_bench.jobs.latency.measure import check
from fp_bench.jobs.latency.timers import WallClock
from fp_bench.kernels.attention import block_sparse_attention, reference
from fp_bench.methods.base import AttentionCall
from fp_bench.methods.flashprefill import FlashPrefill
from fp_bench.methods.flashprefill_v2 import FlashPrefillV2
from tests.kernels.calls import relative_error
from tests.methods.test_rivals import a_call


def test_all_heads_of_a_kv_head_share_a_list():
    call = a_call()
    index = FlashPrefillV2.from_options({"alpha": 0.5, "last_full_rows": 0}).select(call)
    assert index.counts.shape[1] == call.kv_heads
    assert index.packed == call.q_heads // call.kv_heads
    assert 0 < index.density().mean() < 1


def test_output_is_attention_over_the_kept_blocks_and_the_means_of_the_others():
    method, call = FlashPrefillV2.from_options({"alpha": 0.9, "last_full_rows": 0}), a_call()
    index, means = method.select(call), method.means(call)
    expected = reference.attention(call.q, call.k, call.v, scale=call.scale, index=index, means=means).out
    assert relative_error(method(call), expected) < 1e-5
    plain = reference.attention(call.q, call.k, call.v, scale=call.scale, index=index).out
    assert relative_error(plain, expected) > 1e-3
    exact = FlashPrefillV2.from_options({"alpha": 0.9, "last_full_rows": 0, "correction": False})
    assert relative_error(exact(call), plain) < 1e-5


@pytest.mark.parametrize("preset", FlashPrefillV2.presets)
def test_a_preset_is_sparse_in_every_layer(preset):
    method, call = FlashPrefillV2.from_options({"preset": preset}), a_call()
    index = method.select(call)
    assert call.layer == 0
    assert method.implementation(call, index) == "torch"


def test_short_chunks_are_dense():
    method, call = FlashPrefillV2.from_options({"min_sparse_q_len": 100}), a_call()
    short = AttentionCall(call.q[:, -100:], call.k, call.v, call.scale)
    assert method.select(call) is not None
    assert method.select(short) is None
    assert method.implementation(short, None) == "sdpa_cpu"


def test_dense_layers_are_of_a_run_and_0_of_them_is_what_records_say():
    assert FlashPrefillV2.from_options({"dense_layers": "0"}).method_hash == FlashPrefillV2().method_hash
    assert FlashPrefillV2().label == "flashprefill_v2"
    with pytest.raises(UsageError, match="--dense-layers"):
        FlashPrefillV2.from_options({"dense_layers": "4"})
    with pytest.raises(UsageError, match="unknown parameter 'dense_layer'"):
        FlashPrefillV2.from_options({"dense_layer": "0"})


def test_full_rows_belong_to_the_end_of_the_prompt():
    call = a_call()
    rows = []
    for last in (True, False):
        chunk = AttentionCall(call.q, call.k, call.v, call.scale, last_chunk=last)
        index = FlashPrefillV2.from_options({"alpha": 2.0, "last_full_rows": 3}).select(chunk)
        rows.append((index.counts == index.grid.diagonals() + 1).all(1)[0].tolist())
    assert rows[0][-3:] == [True] * 3
    assert not any(rows[1][-3:])


def test_more_heads_than_a_row_holds_are_refused():
    q, kv = torch.zeros(1, 4, 200, 64), torch.zeros(1, 4, 1, 64)
    assert "200 query heads share a KV head" in FlashPrefillV2().unsupported(AttentionCall(q, kv, kv, 1.0))


@pytest.mark.parametrize("method", [FlashPrefillV2(), FlashPrefill.from_options({"correction": True})])
def test_measuring_checks_the_means_and_counts_the_kept_blocks_alone_as_recall(method):
    call = a_call()
    exact = type(method)(method.params.model_copy(update={"correction": False}))
    truth, clock = dense_truth(call, seed=0), WallClock()
    found, expected = (check(each, call, truth, clock).findings for each in (method, exact))
    assert (found.recall, found.density) == (expected.recall, expected.density)


def test_a_method_that_leaves_its_means_out_is_found():
    class Forgetful(FlashPrefillV2):
        def attend(self, call, index):
            return block_sparse_attention(call.q, call.k, call.v, index, scale=call.scale).out

    call = a_call()
    with pytest.raises(IncorrectError):
        check(Forgetful.from_options({"alpha": 0.9, "last_full_rows": 0}), call, dense_truth(call, seed=0), WallClock())
