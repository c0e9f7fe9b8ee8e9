"""What a search turns: declared on the method, named as its parameter, and in the direction that it says."""

import pytest

from fp_bench.methods.registry import BUILTIN_METHODS, methods

WITHOUT = {"dense"}
"""Methods that have nothing to trade."""
KNOBS = [name for name in BUILTIN_METHODS if name not in WITHOUT]


@pytest.mark.parametrize("name", KNOBS)
def test_its_ends_are_values_of_the_parameter(name):
    method = methods.load(name)
    knob = method.knob
    assert knob.low < knob.high
    assert knob.low > 0 or knob.scale == "linear"
    for value in (knob.low, knob.high):
        value = int(value) if knob.whole else value
        assert getattr(method.from_options({knob.name: str(value)}).params, knob.name) == value


def test_where_nothing_is_traded_there_is_none():
    assert [name for name in BUILTIN_METHODS if methods.load(name).knob is None] == sorted(WITHOUT)
