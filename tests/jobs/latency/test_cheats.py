"""Whoever cheats is incorrect, or has the row that it deserves."""

import time

import pytest
import torch

from fp_bench.inputs.source import Shape
from fp_bench.jobs.failures import Failure, IncorrectError
from fp_bench.jobs.latency import ttft
from fp_bench.jobs.latency.changing import ChangingCall, fingerprint
from fp_bench.jobs.latency.definition import Truth, dense_truth
from fp_bench.jobs.latency.kept_maps import kept_maps
from fp_bench.jobs.latency.measure import Effort, check, computed_entries, measure
from fp_bench.jobs.latency.timers import WallClock
from fp_bench.jobs.latency.worker import Setup
from fp_bench.jobs.request import LatencyRequest
from fp_bench.methods.base import AttentionCall
from fp_bench.methods.dense import Dense
from fp_bench.methods.registry import Spec
from tests.jobs.latency.test_job import records_of, request
from tests.plugin import cheats

LENGTH = 1024
FAST = Effort(rounds=1, samples=3, warm_up_seconds=0.0)


def make_call(dtype=torch.float32):
    """Return a call in which every query looks for the tokens 256 to 383."""
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, LENGTH, heads, 64, generator=draw) for heads in (2, 1, 1))
    q[..., 0] += 4.0
    k[:, 256:384, :, 0] += 12.0
    return AttentionCall(q.to(dtype), k.to(dtype), v.to(dtype), scale=0.125)


def measured(method, rounds=1):
    """Return what checking a method found, and the timing of its last round."""
    call = make_call()
    ready = check(method, call, dense_truth(call, 0), WallClock())
    for _ in range(rounds - 1):
        measure(ready, FAST, WallClock())
    return ready, measure(ready, FAST, WallClock())


@pytest.mark.parametrize(
    ("cheat", "says"),
    [
        (cheats.Previous, "relative error to the float32 definition"),
        (cheats.Remembers, "relative error to the float32 definition"),
        (cheats.RemembersByPlace, "relative error to the float32 definition"),
        (cheats.OnlyAttendsOnce, "of a timed call, a head's relative error"),
        (cheats.WritesInputs, "it writes into its inputs"),
        (cheats.ZeroesV, "it writes into its inputs"),
        (cheats.SwapsTokens, "it writes into its inputs"),
        (cheats.Tolerant, "relative error to the float32 definition is 0.5; the limit is 0.1"),
        (cheats.HandsOn, "relative error to the float32 definition"),
        (cheats.SelectsNowAndThen, "where it is timed its selection misses"),
        (cheats.Overwrites, "a later call overwrote its output"),
        (cheats.GuessesRows, "of a timed call, a head's relative error"),
        (cheats.ComputesWhenRead, "output is a Later; it must be a plain torch.Tensor"),
        (cheats.Coarse, "relative error to the float32 definition"),
        (cheats.ShortensLists, "writes into the given selection|where it is timed its selection misses"),
        (cheats.SelectsLessWhenTimed, "where it is timed its selection misses"),
        (cheats.MakesUpMeans, "relative error to the float32 definition"),
        (cheats.DefinesItself, "relative error to the float32 definition is 0.5"),
        (cheats.NanSomewhere, "not finite everywhere"),
        (cheats.SwapsV, "relative error to the float32 definition"),
    ],
)
def test_a_cheat_is_incorrect(cheat, says, monkeypatch):
    # Which timed call is looked at is drawn; here it is the second, so that a rare cheat is found in the same round.
    monkeypatch.setattr("secrets.randbelow", lambda below: min(1, below - 1))
    with pytest.raises(IncorrectError, match=says):
        measured(cheat(), rounds=6)


@pytest.fixture(scope="module")
def honest():
    return measured(cheats.Best())


def test_the_honest_one_is_measured(honest):
    ready, timing = honest
    assert (len(timing.samples_ms), ready.findings.tolerance) == (3, None)
    assert ready.findings.recall > 0.9
    assert ready.missed == pytest.approx(1 - ready.findings.recall, abs=0.05)


@pytest.mark.parametrize("cheat", [cheats.CachesByShape, cheats.UnsupportedComputes, cheats.ImplementationComputes])
def test_a_selection_that_was_made_for_other_inputs_has_the_recall_of_that(cheat):
    try:
        ready, _ = measured(cheat())
    except IncorrectError:
        return
    assert ready.findings.recall < 0.8


@pytest.mark.parametrize("cheat", [cheats.ClaimsDensity, cheats.ClaimsDensityOfOurType, cheats.ClaimsDensityOfOwnType])
def test_density_is_not_what_a_selection_says(cheat, honest):
    honest, honest_timing = honest
    ready, timing = measured(cheat())
    shares = {share_of_entries(each) for each in (honest, ready)}
    assert max(shares) == pytest.approx(min(shares), rel=0.05)
    assert ready.findings.density == pytest.approx(honest.findings.density, rel=0.05)
    assert timing.tflops * timing.attend_ms == pytest.approx(honest_timing.tflops * honest_timing.attend_ms, rel=0.1)
    (kept, *_), (honest_kept, *_) = kept_maps(ready.selection), kept_maps(honest.selection)
    assert kept.density == pytest.approx(honest_kept.density, rel=0.05)
    assert (kept.share == honest_kept.share).all()


def share_of_entries(ready):
    return float(ready.selection.entries().sum()) / computed_entries(ready.inputs.call, None)


def test_a_clock_that_a_method_stops_goes_on(monkeypatch):
    monkeypatch.setattr(time, "perf_counter", lambda: 0.0)
    assert measured(cheats.StopsTheClock())[1].median_ms >= 20


def test_a_declared_tolerance_is_found_and_capped():
    class TenthOff(cheats.Tolerant):
        def attend(self, call, index):
            return 0.95 * cheats.Best.attend(self, call, index)

    assert measured(TenthOff())[0].findings.tolerance == 0.1


def test_the_record_of_a_cheat_has_no_time_and_the_next_one_sees_its_own_inputs(odd_methods, tmp_path):
    found = records_of(request("zeroes_v,remembers,best,dense", lens=[512], rounds=1, samples=2), tmp_path)
    assert {r.method: (r.status, r.median_ms is None) for r in found} == {
        "zeroes_v": ("incorrect", True),
        "remembers": ("incorrect", True),
        "best": ("ok", False),
        "dense": ("ok", False),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_inputs_change_at_each_call_and_the_work_does_not(dtype):
    call = make_call(dtype)
    made = [tensor.clone() for tensor in (call.q, call.k, call.v)]
    inputs = ChangingCall(call)
    truth = Truth(call, torch.arange(LENGTH))
    before = Dense()(inputs.call).float()
    outputs = []
    for _ in range(3):
        inputs.change()
        now = [tensor.clone() for tensor in (inputs.call.q, inputs.call.k, inputs.call.v)]
        assert all((tensor != old).any() for tensor, old in zip(now, made, strict=True))
        outputs.append(Dense()(inputs.call).float())
        defined = truth.over(truth.reported, None, inputs.masks).out
        torch.testing.assert_close(outputs[-1], defined, atol=2e-2, rtol=2e-2)
        torch.testing.assert_close(outputs[-1].abs(), before.abs(), atol=5e-2, rtol=5e-2)
        assert (outputs[-1] - before).norm() > before.norm()
    assert (outputs[0] - outputs[1]).norm() > 0.1 * outputs[0].norm()
    with inputs.other():
        assert not torch.equal(inputs.call.k[:, 128:], now[1][:, 128:])
    assert inputs.restore()
    assert all(torch.equal(tensor, old) for tensor, old in zip((call.q, call.k, call.v), made, strict=True))
    # The copies that outputs are held to are as they were, too.
    torch.testing.assert_close(truth.over(truth.reported, None).out, truth.reported.dense.out)


@pytest.mark.parametrize("length", [1, 2, 5, 100, 257])
def test_other_content_is_undone_at_every_length(length):
    q, k, v = (torch.randn(2, length, heads, 64) for heads in (4, 2, 2))
    inputs = ChangingCall(AttentionCall(q, k, v, scale=1.0))
    with inputs.other():
        pass
    assert inputs.restore()


def test_a_fingerprint_sees_numbers_and_their_places():
    tensor = torch.randn(3, 50, 2, 64)
    print_before = fingerprint(tensor)
    for change in (lambda t: t.flip(1), lambda t: t.flip(3), lambda t: t.roll(1, 0), lambda t: t * -1):
        assert fingerprint(change(tensor)) != print_before
    tensor[1, 2, 1, 3] += 1e-6
    assert fingerprint(tensor) != print_before


def ttft_of(cheat, monkeypatch, rounds=2):
    """Return what came of a cheat's time to first token: a failure, or the timing of its last round."""
    monkeypatch.setattr(ttft, "create_method", lambda *_: cheat())
    monkeypatch.setattr(ttft, "check_code", lambda *_: None)
    hand = ttft.PrefillWorker(Setup(Spec("best"), LatencyRequest(model="embedded", dtype="fp32"), "cpu", ""))
    answers = [hand.load(), hand.check(Shape(1, 300, 6, 2, 64), 0)]
    answers += [hand.measure(FAST) for _ in range(rounds)]
    return next((answer.value for answer in answers if isinstance(answer.value, Failure)), answers[-1].value)


@pytest.mark.parametrize(
    ("cheat", "says"),
    [
        (cheats.RemembersLayers, "relative error to the float32 definition"),
        (cheats.ZeroesV, "it writes into its inputs"),
        (cheats.Tolerant, "relative error to the float32 definition is 0.5"),
    ],
)
def test_a_cheat_has_no_time_to_first_token(cheat, says, monkeypatch):
    found = ttft_of(cheat, monkeypatch)
    assert isinstance(found, Failure)
    assert found.status == "incorrect"
    assert says in found.reason


@pytest.mark.parametrize(("drawn", "turned"), [(0, [5, 3, 1, 2]), (1, [5, 2, 3, 1])])
def test_a_turned_prompt_never_begins_as_it_was(drawn, turned, monkeypatch):
    monkeypatch.setattr(ttft.secrets, "randbelow", lambda below: drawn if below == 2 else 0)
    assert ttft.turned(torch.tensor([[5, 1, 2, 3]])).tolist() == [turned]
    assert ttft.turned(torch.tensor([[5]])).tolist() == [[5]]


def test_the_honest_one_has_a_time_to_first_token_of_prompts_that_differ(monkeypatch):
    # Of eight random places in 300 two are the same in one run of eleven.
    monkeypatch.setattr(ttft.secrets, "randbelow", lambda below: 37 % below)
    prompts, first_token = [], ttft.PrefillWorker._first_token
    monkeypatch.setattr(
        ttft.PrefillWorker,
        "_first_token",
        lambda hand: prompts.append(tuple(hand._ids[0].tolist())) or first_token(hand),
    )
    assert len(ttft_of(cheats.Best, monkeypatch)["samples_ms"]) == 3
    assert len(set(prompts)) == len(prompts) == 8
    assert len({tuple(sorted(prompt)) for prompt in prompts}) == 1
