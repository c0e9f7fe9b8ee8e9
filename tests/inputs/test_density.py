"""The given-density source: forced blocks always, and the causal density that was asked for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fp_bench.errors import UsageError
from fp_bench.inputs.density import GivenDensity
from fp_bench.inputs.source import Shape

CPU = torch.device("cpu")


def mask(density: float, shape: Shape, seed: int = 0) -> torch.Tensor:
    index = GivenDensity(density).given_index(shape, seed=seed, device=CPU)
    assert index is not None
    return index.mask()


@pytest.mark.parametrize("density", [0.3, 0.5, 0.9])
def test_density_is_as_asked(density: float) -> None:
    index = GivenDensity(density).given_index(Shape(1, 8192, 8, 2, 64), seed=0, device=CPU)
    assert index is not None
    assert index.density().mean().item() == pytest.approx(density, abs=0.01)


def test_full_density_keeps_every_causal_block() -> None:
    index = GivenDensity(1.0).given_index(Shape(1, 1500, 2, 1, 64), seed=0, device=CPU)
    assert index is not None
    assert torch.all(index.density() == 1)


@settings(max_examples=30, deadline=None)
@given(density=st.floats(0.001, 1.0), length=st.integers(1, 3000), seed=st.integers(0, 9))
def test_sink_and_window_are_always_kept_and_nothing_acausal(density: float, length: int, seed: int) -> None:
    kept = mask(density, Shape(1, length, 2, 1, 64), seed)[0]
    blocks = kept.shape[-1]
    assert blocks == -(-length // 128)
    for a in range(blocks):
        for c in range(blocks):
            if c > a:
                assert not kept[:, a, c].any()
            elif c < 2 or a - c < 4:
                assert kept[:, a, c].all()


def test_below_the_floor_only_forced_blocks_are_kept() -> None:
    kept = mask(0.01, Shape(1, 4096, 1, 1, 64))[0, 0]
    assert kept.sum(1).tolist() == [min(a + 1, 6) for a in range(32)]


def test_drawn_from_the_seed_and_differently_for_each_head() -> None:
    shape = Shape(2, 4096, 2, 1, 64)
    assert torch.equal(mask(0.6, shape), mask(0.6, shape))
    assert not torch.equal(mask(0.6, shape), mask(0.6, shape, seed=1))
    heads = mask(0.6, shape).flatten(0, 1)
    assert all(not torch.equal(heads[i], heads[j]) for i in range(4) for j in range(i))


@pytest.mark.parametrize("density", [0.0, -0.1, 1.01, float("nan"), float("inf")])
def test_density_outside_its_limits_is_refused(density: float) -> None:
    with pytest.raises(UsageError, match=r"density .* is outside \(0, 1\]"):
        GivenDensity(density)
