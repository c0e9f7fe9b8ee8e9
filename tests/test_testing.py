"""The conformance checks: they pass what is ours, and name what is wrong with what is not right."""
# ruff: noqa: ARG002, ARG003, ARG005

from dataclasses import replace

import pytest
import torch

from fp_bench.errors import UsageError
from fp_bench.methods.base import Method
from fp_bench.methods.registry import methods
from fp_bench.suites.needle.suite import Needle
from fp_bench.suites.registry import suites
from fp_bench.suites.sample import Sample
from fp_bench.suites.scoring import all_of
from fp_bench.suites.suite import Suite
from fp_bench.testing import check_method, check_suite
from tests.plugin.odd_methods import Nan, Window, Wrong

EVERYTHING = {
    "dense": {},
    "flashprefill": {"window_blocks": 100},
    "flashprefill_v2": {"window_blocks": 100},
    "flexprefill": None,
    "xattention": None,
}


@pytest.mark.parametrize("name", EVERYTHING)
def test_our_methods_conform(name):
    unchecked = check_method(methods.load(name), everything=EVERYTHING[name])
    assert any("no host sync: only a GPU shows it" in line for line in unchecked) is not torch.cuda.is_available()
    assert any("keeps everything" in line for line in unchecked) is (EVERYTHING[name] is None)


@pytest.mark.parametrize("name", ["mrcr", "needle", "needle@gkamradt", "needle@minference", "probe"])
def test_our_suites_conform(name):
    assert check_suite(suites.load(name), length=3000) == []


def test_a_suite_without_answers_is_said_to_have_no_scores_to_check():
    assert check_suite(suites.load("fidelity"), length=3000) == [
        "fidelity: text: scores: it has samples without answers"
    ]


class Ahead(Window):
    def select(self, call):
        index = super().select(call)
        index.blocks[:, 0, 0, 0] = index.grid.key_blocks
        return index


class Descending(Window):
    def select(self, call):
        index = super().select(call)
        index.blocks.copy_(index.blocks.flip(-1))
        index.counts.fill_(min(2, index.grid.key_blocks))
        return index


class OtherDtype(Window):
    def attend(self, call, index):
        return super().attend(call, index).double()


class Restless(Window):
    def attend(self, call, index):
        return super().attend(call, index) + 1e-6 * torch.rand(1)


class Careless(Window):
    def select(self, call):
        call.k.mul_(1.0001)
        return super().select(call)


class Deaf(Window):
    def attend(self, call, index):
        return super().attend(replace(call, scale=call.head_dim**-0.5), index)


class Refuses(Window):
    def unsupported(self, call):
        return "not today"


class RefusesInLines(Window):
    def unsupported(self, call):
        return "not\ntoday"


class Named(Window):
    name = "two words"


class Lenient(Window):
    @classmethod
    def from_options(cls, options, *, backend="auto"):
        return cls()


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Wrong, "relative error to the float32 definition"),
        (Nan, "relative error to the float32 definition is nan"),
        (Ahead, "names a block that its queries may not read|longer than the blocks"),
        (Descending, "longer than the blocks|not ascending|may not read"),
        (OtherDtype, r"output is torch\.float64"),
        (Restless, "two calls give different outputs"),
        (Careless, "it writes into k"),
        (Deaf, "float32 definition"),
        (Refuses, "refuses every call of head_dim 64; the last: not today"),
        (RefusesInLines, "give one line that says why"),
        (Named, "may hold no colon"),
        (Lenient, "takes the unknown parameter"),
    ],
)
def test_a_method_that_does_not_conform_is_told_why(method: type[Method], message):
    with pytest.raises(AssertionError, match=message) as caught:
        check_method(method)
    assert "\n" not in str(caught.value).split("\nassert")[0]


def test_what_does_not_keep_everything_is_found():
    check_method(Window, everything={"blocks": 100})
    with pytest.raises(AssertionError, match="off dense attention"):
        check_method(Window, everything={"blocks": 1})


def test_calls_that_are_refused_are_listed():
    class NoChunks(Window):
        def unsupported(self, call):
            return "no chunks" if call.q_len < call.kv_len else None

    refused = [line for line in check_method(NoChunks) if "refused: no chunks" in line]
    assert len(refused) == 1
    assert refused[0].startswith("window: 130 queries, 400 keys, ")


class Capitals(Suite):
    """Right in everything; what is below is not."""

    name = "capitals"
    tasks = ("paris",)

    def samples(self, task, length, indices, tokenizer, *, seed, reserved):
        self.check_tasks([task])
        if length < 300:
            raise UsageError(f"length {length} is too short")
        for index in indices:
            yield self.sample(task, length, index)

    def sample(self, task, length, index):
        text = f"The capital of land {index} is city {index}."
        return Sample(self.sample_id(task, length, index), task, length, text, "Which?", "", (f"city {index}",), 20)

    def score(self, sample, prediction):
        return all_of(prediction, sample.answers)


def changed(**fields):
    def sample(self, task, length, index):
        return replace(Capitals.sample(self, task, length, index), **fields)

    return type("Changed", (Capitals,), {"sample": sample})


def of(**attributes):
    return type("Changed", (Capitals,), attributes)


class Counting(Capitals):
    """Sample i depends on how many are asked for."""

    def samples(self, task, length, indices, tokenizer, *, seed, reserved):
        for sample in super().samples(task, length, indices, tokenizer, seed=seed, reserved=reserved):
            yield replace(sample, question=f"Which of {len(indices)}?")


class Unsteady(Capitals):
    """No two of them write the same."""

    def sample(self, task, length, index):
        return replace(super().sample(task, length, index), question=str(id(self)))


class Endless(Capitals):
    def samples(self, task, length, indices, tokenizer, *, seed, reserved):
        self.check_tasks([task])
        for index in indices:
            yield self.sample(task, length, index)


@pytest.mark.parametrize(
    ("suite", "message"),
    [
        (changed(id="one"), r"its ids are \['one', 'one', 'one'\]; sample_id says"),
        (changed(task="rome"), "is of task and length"),
        (changed(context="x" * 3000), "take 30.. of 2048"),
        (changed(max_new_tokens=2040), "reserved tokens take"),
        (of(score=lambda self, sample, prediction: 0.5), "is 0.5; it should be 1"),
        (of(score=lambda self, sample, prediction: 1.0), "is 1.0; it should be 0"),
        (
            of(score=lambda self, sample, text: 2.0 if "Lorem" in text else all_of(text, sample.answers)),
            "between 0 and 1",
        ),
        (of(tasks=()), "name each once"),
        (of(tasks=("a", "a")), "name each once"),
        (of(left_out=frozenset({"rome"})), r"tasks it does not have: \['rome'\]"),
        (of(check_tasks=lambda self, tasks: None), "an unknown task should be a UsageError"),
        (Counting, "depends on which others are asked for"),
        (Unsteady, "writes other samples"),
        (Endless, "a length of 1|take"),
    ],
)
def test_a_suite_that_does_not_conform_is_told_why(suite, message):
    with pytest.raises(AssertionError, match=message):
        check_suite(suite)


def test_a_suite_that_conforms_passes():
    assert check_suite(Capitals) == []
    assert check_suite(Needle, {"match": "exact"}) == []
