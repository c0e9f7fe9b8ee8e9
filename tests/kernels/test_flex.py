"""FlexPrefill's selection: torch and Triton against the definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from fp_bench.errors import UnsupportedError
from fp_bench.kernels import flexprefill as flex
from fp_bench.kernels.backend import triton_missing
from fp_bench.kernels.flexprefill import reference
from fp_bench.kernels.flexprefill import steps_torch as flex_torch
from fp_bench.kernels.flexprefill.rule import FlexRule
from fp_bench.kernels.launch import CachedKernel
from tests.kernels.calls import Case

needs_interpreter = pytest.mark.skipif(triton_missing() is not None, reason=str(triton_missing()))
BACKENDS = ["torch", pytest.param("triton", marks=needs_interpreter)]
rules = st.builds(
    FlexRule,
    gamma=st.sampled_from([0.3, 0.6, 0.9, 0.95]),
    tau=st.sampled_from([0.0, 0.2, 0.3, 0.9]),
    min_budget=st.sampled_from([1, 200]),
    max_budget=st.sampled_from([None, 300]),
    official=st.booleans(),
)


@st.composite
def prompts(draw, max_len):
    kv_heads = draw(st.sampled_from([1, 2]))
    length = draw(st.integers(257, max_len))
    return Case(
        batch=draw(st.sampled_from([1, 2])),
        q_len=length,
        kv_len=length,
        q_heads=kv_heads * draw(st.sampled_from([1, 2])),
        kv_heads=kv_heads,
        seed=draw(st.integers(0, 10_000)),
    )


def assert_selects_as_defined(case, rule, backend, device="cpu", agree=1.0):
    q, k, _ = case.tensors(device, contrast=1.0)
    ours = flex.select_flex(q, k, rule, scale=case.scale, backend=backend).mask()
    defined = reference.select_blocks(q, k, rule, scale=case.scale).mask()
    assert (ours & defined).sum() / (ours | defined).sum() >= agree


@settings(max_examples=12, derandomize=True)  # a tie in float32 may fall either way
@given(prompts(max_len=900), rules)
def test_torch_selects_as_defined(case, rule):
    assert_selects_as_defined(case, rule, "torch")


@needs_interpreter
@settings(max_examples=5, derandomize=True)
@given(prompts(max_len=600), rules)
def test_triton_selects_as_defined(case, rule):
    assert_selects_as_defined(case, rule, "triton")


def found(values, budget, backend):
    """The value that crosses, and how many tokens of each row cover the budget."""
    if backend == "torch":
        crossing = flex_torch.crossing(values, budget)
        return crossing.value, crossing.entries.clamp_max(values.shape[1]) + 1
    from tests.kernels.flex_steps import crossing, tokens_to_cover

    active = torch.ones(len(values), dtype=torch.int8, device=values.device)
    return crossing(values, budget, active), tokens_to_cover(values, budget)


def assert_crossings(values, budget, backend):
    crossing, tokens = found(values, budget, backend)
    for row, value in enumerate(values):
        expected = reference.tokens_to_cover(value, budget)
        assert tokens[row] == expected
        ordered = value.sort(descending=True).values
        assert crossing[row] == (0 if value.double().sum() <= budget else ordered[expected - 1])


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=15)
@given(
    length=st.sampled_from([1, 5, 300]),
    levels=st.sampled_from([2, 5, 1000]),
    share=st.sampled_from([0.0, 0.25, 0.75, 1.0, 2.0]),
    seed=st.integers(0, 10_000),
)
def test_crossings_exactly(backend, length, levels, share, seed):
    # Multiples of 1/16: every sum is exact in any order.
    values = torch.randint(0, levels, (2, length), generator=torch.Generator().manual_seed(seed)) / 16
    assert_crossings(values, float((values[0].sum() * share * 16).floor() / 16), backend)


@needs_interpreter
@pytest.mark.parametrize("length", [20_001, 70_001], ids=["one program", "slabs"])
def test_crossings_of_long_vectors(length):
    from fp_bench.kernels.flexprefill.search_triton import ONE_PROGRAM
    from tests.kernels.flex_steps import crossing

    assert (length > ONE_PROGRAM) == (length == 70_001)
    values = torch.randint(0, 1000, (3, length), generator=torch.Generator().manual_seed(0)) / 1024
    active = torch.tensor([1, 0, 1], dtype=torch.int8)
    ours, defined = crossing(values, 4096.0, active), flex_torch.crossing(values, 4096.0).value
    assert torch.equal(ours[active > 0], defined[active > 0])


def test_divergence_is_the_definition_and_takes_zeros():
    p, q = torch.rand((2, 3, 50), generator=torch.Generator().manual_seed(0)).softmax(-1)
    torch.testing.assert_close(flex_torch.divergence(p, q), reference.divergence(p, q))
    assert flex_torch.divergence(torch.tensor([0.0, 1, 0]), torch.tensor([0.0, 0, 1])).item() == pytest.approx(
        0.8326, abs=1e-4
    )


def test_what_it_is_not_defined_for_is_refused():
    q, k, _ = Case(q_len=512, kv_len=512).tensors()
    with pytest.raises(UnsupportedError, match="whole prompts"):
        flex.select_flex(q[:, 128:], k, FlexRule(0.9), scale=1.0)
    with pytest.raises(UnsupportedError, match="kv_len 512 is not above 512"):
        flex.select_flex(q, k, FlexRule(0.9, min_budget=400), scale=1.0)


class Operations(TorchDispatchMode):
    """Records what torch computes; to allocate or view a tensor launches nothing."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        if not operation.is_view and not str(operation).startswith("aten.empty"):
            self.names.append(str(operation))
        return operation(*arguments, **(keywords or {}))


@needs_interpreter
@pytest.mark.parametrize(("length", "tau", "most"), [(4096, 0.1, 8), (32768, 0.1, 8), (4096, 0.0, 6), (65536, 0.1, 16)])
def test_a_selection_is_few_launches_and_reads_nothing_back(length, tau, most, monkeypatch):
    """Kernels that compute nothing: what is launched cannot depend on what they would have found."""
    launched = []
    monkeypatch.setattr(CachedKernel, "__call__", lambda kernel, *_: launched.append(kernel))
    q, k = (torch.zeros(1, dtype=torch.float16).expand(1, length, heads, 128) for heads in (2, 1))
    with Operations() as computed:
        flex.select_flex(q, k, FlexRule(0.9, tau, 1024, official=True), scale=1.0, backend="triton")
    assert computed.names == []
    assert len(launched) == most
