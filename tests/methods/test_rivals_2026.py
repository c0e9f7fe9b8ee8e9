"""The methods of 2026 as methods: they conform, keep everything where asked to, and turn as their knob says."""

import pytest

from fp_bench.errors import UsageError
from fp_bench.methods.base import AttentionCall
from fp_bench.methods.registry import Spec, create_method, methods
from fp_bench.testing import check_method
from tests.kernels.calls import Case

EVERYTHING = {
    "rbs": {"alpha": 0},
    "prism": {"mass": 1.1},
    "stem": {"budget": 100},
    "trianglemix": {"n_local": 1000},
    "delta": {"gamma": 1},
    "skip_softmax": {"skip": 1e-30},
    "spargeattn": {"mass": 1.1},
    "cosa": {"coverage": 1},
}
"""Parameters with which each drops nothing."""
BARE = {
    "rbs": "rbs:sink_blocks=0:window_blocks=1:last_full_blocks=0",
    "prism": "prism:sink_blocks=0",
    "spargeattn": "spargeattn:similarity=-0.1",
    "trianglemix": "trianglemix:dense_layers=0",
    "delta": "delta:over=streaming",
    "stem": "stem:sink_blocks=0:window_blocks=1",
    "cosa": "cosa",
}
"""Each with little that is forced; skip_softmax keeps every block and leaves tiles out later."""


def a_call(**changes):
    case = Case(**({"q_len": 1100, "kv_len": 1100, "q_heads": 4, "kv_heads": 2} | changes))
    return AttentionCall(*case.tensors(), case.scale, layer=2, layers=4)


@pytest.mark.parametrize("name", EVERYTHING)
def test_it_conforms(name):
    unchecked = check_method(methods.load(name), everything=EVERYTHING[name])
    assert not any("keeps everything" in line for line in unchecked)


@pytest.mark.parametrize("heads", [(1, 1), (8, 1), (6, 2)])
@pytest.mark.parametrize("name", EVERYTHING)
def test_any_number_of_heads_a_kv_head(name, heads):
    call = a_call(q_heads=heads[0], kv_heads=heads[1], q_len=300, kv_len=300)
    assert create_method(Spec.parse(name)).select(call).density().shape == (1, heads[0])


@pytest.mark.parametrize("name", BARE)
def test_its_knob_turns_as_declared(name):
    length = 6000 if name == "delta" else 1100
    knob, call = methods.load(name).knob, a_call(q_len=length, kv_len=length, kv_heads=1, q_heads=1)
    spec = Spec.parse(BARE[name])
    densities = [
        create_method(Spec(spec.name, {**spec.options, knob.name: str(value)})).select(call).density().mean()
        for value in (knob.low, knob.high)
    ]
    assert bool(densities[0] < densities[1]) is (knob.keeps == "more")
    assert densities[0] != densities[1]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rbs:low=0.9", "low=0.9 must be below high=0.9"),
        ("stem:stride=12", "must divide 128"),
        ("flexprefill:max_budget=512", "max_budget=512 must be at least min_budget=1024"),
    ],
)
def test_parameters_that_do_not_go_together_are_one_line(text, says):
    with pytest.raises(UsageError, match=says):
        create_method(Spec.parse(text))
