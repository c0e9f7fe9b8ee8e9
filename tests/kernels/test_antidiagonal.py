"""XAttention's selection: torch and Triton against the definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fp_bench.errors import UnsupportedError
from fp_bench.inputs import structured
from fp_bench.inputs.source import Shape
from fp_bench.kernels import xattention as antidiagonal
from fp_bench.kernels.backend import triton_missing
from fp_bench.kernels.block_index import causal_blocks
from fp_bench.kernels.layout import BlockGrid
from fp_bench.kernels.xattention import reference
from tests.kernels.calls import Case, cases

needs_interpreter = pytest.mark.skipif(triton_missing() is not None, reason=str(triton_missing()))
BACKENDS = ["torch", pytest.param("triton", marks=needs_interpreter)]
strides = st.sampled_from([4, 8, 16])


def assert_weighs_as_defined(case, stride, backend, rounded=False, device="cpu"):
    q, k, _ = case.tensors(device)
    options = {"stride": stride, "scale": case.scale, "rounded": rounded}
    ours = antidiagonal.antidiagonal_weights(q, k, backend=backend, **options)
    defined = reference.antidiagonal_weights(q, k, **options)
    causal = causal_blocks(BlockGrid(case.q_len, case.kv_len), device)
    # A score on the edge of two values of Q's dtype rounds either way.
    step = {torch.float32: 0.0, torch.float16: 1e-2, torch.bfloat16: 8e-2}[q.dtype] if rounded else 0.0
    torch.testing.assert_close(
        ours.where(causal, torch.zeros(())[None].to(device)), defined, atol=1e-4 + step, rtol=1e-4 + step
    )


@settings(max_examples=25)
@given(cases(max_len=700, head_dims=(64,)), strides, st.booleans())
def test_torch_weighs_as_defined(case, stride, rounded):
    assert_weighs_as_defined(case, stride, "torch", rounded)


@needs_interpreter
@settings(max_examples=6)
@given(cases(max_len=500, dtypes=(torch.float32, torch.float16), head_dims=(64,)), strides)
def test_triton_weighs_as_defined(case, stride):
    assert_weighs_as_defined(case, stride, "triton")


@needs_interpreter
@pytest.mark.parametrize("case", [Case(q_len=4300, kv_len=4300), Case(q_len=2100, kv_len=4200, head_dim=128)])
def test_triton_joins_tiles_as_on_a_gpu(case, monkeypatch):
    from fp_bench.kernels.xattention import triton as antidiagonal_triton

    # Tiles of sm_90, several of them in a row, whole and masked, one of them beyond a row's end.
    monkeypatch.setattr(antidiagonal_triton, "capability", lambda _device: 90)
    assert_weighs_as_defined(case, 8, "triton", rounded=True)


@st.composite
def rows_of_mass(draw):
    """Weights with zeros and ties, of sixteenths, so that every sum is exact in any order."""
    blocks = draw(st.integers(1, 20))
    rows = draw(st.integers(1, blocks))
    heads = draw(st.integers(1, 2))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    weights = torch.randint(0, draw(st.sampled_from([2, 5, 100])), (1, heads, rows, blocks), generator=generator) / 16
    return weights * causal_blocks(BlockGrid(rows, blocks, 1)), BlockGrid(rows, blocks, 1)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=30)
@given(
    given=rows_of_mass(),
    tau=st.sampled_from([0.0, 0.25, 0.5, 0.75, 0.875, 1.0, 1.5]),
    lagging=st.sampled_from([0, 0, 3, 30]),
)
def test_the_smallest_sets_exactly(backend, given, tau, lagging):
    weights, grid = given
    taus = torch.tensor([tau, 0.5])[: weights.shape[1]]
    ours = antidiagonal.cumulative_blocks(weights, taus, grid, lagging=lagging, backend=backend)
    assert torch.equal(ours.mask(), reference.cumulative_blocks(weights, taus, grid, lagging=lagging))
    for row in range(grid.rows):
        listed = ours.blocks[0, 0, row, : ours.counts[0, 0, row]].tolist()
        assert listed == sorted(listed)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_of_more_blocks_than_a_warp_has_threads(backend):
    blocks = 700
    weights = torch.randint(0, 50, (1, 1, 2, blocks), generator=torch.Generator().manual_seed(0)) / 16
    grid = BlockGrid(2, blocks, 1)
    weights = weights * causal_blocks(grid)
    taus = torch.tensor([0.75])
    ours = antidiagonal.cumulative_blocks(weights, taus, grid, backend=backend).mask()
    assert torch.equal(ours, reference.cumulative_blocks(weights, taus, grid))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_chunk_selects_what_the_whole_prompt_does(backend):
    case = Case(q_len=1000, kv_len=1000)
    q, k, _ = case.tensors()
    tau = torch.full((2,), 0.8)

    def mask(q, k):
        return antidiagonal.select_antidiagonal(q, k, tau, stride=8, scale=case.scale, backend=backend).mask()

    whole = mask(q, k)
    assert torch.equal(mask(q[:, :512], k[:, :512]), whole[:, :, :4, :4])
    assert torch.equal(mask(q[:, 512:], k), whole[:, :, 4:])


@pytest.mark.parametrize(("stride", "scale", "match"), [(3, 1.0, "stride 3"), (0, 1.0, "stride 0"), (8, -1.0, "scale")])
def test_limits_are_refused(stride, scale, match):
    q, k, _ = Case().tensors()
    with pytest.raises(UnsupportedError, match=match):
        antidiagonal.antidiagonal_weights(q, k, stride=stride, scale=scale)


@pytest.mark.parametrize(
    ("sinks", "filled"), [(4, {4}), (8, {4, 8}), (1, set())], ids=["four sinks", "eight sinks", "one sink"]
)
def test_the_first_block_is_estimated_where_sinks_fill_a_cell(sinks, filled, monkeypatch):
    """Why stride 4 keeps less than stride 8 on structured inputs: docs/methods.md."""
    monkeypatch.setattr(structured, "SINK_HEIGHTS", (4.0, 3.9, 3.8, 3.7, 3.6, 3.5, 3.4, 3.3)[:sinks])
    tokens, cpu = 1024, torch.device("cpu")
    shape = Shape(1, tokens, 2, 1, 64)
    q, k, _ = structured.Structured(1).tensors(shape, layer=0, seed=0, dtype=torch.float32, device=cpu)

    def first_block(stride):
        weights = reference.antidiagonal_weights(q, k, stride=stride, scale=64**-0.5)
        return float((weights[..., 0] / weights.sum(-1))[..., 2:].mean())

    exact = first_block(1)
    assert exact > 0.4
    assert {stride for stride in (4, 8) if first_block(stride) > 0.6 * exact} == filled


def test_the_definition_is_the_papers_sums():
    """One by one, in float64: antidiagonals of cells, softmax over cells up to the own one, sums of blocks."""
    tokens, stride, block, dim = 256, 4, 128, 8
    draw = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, tokens, dim, generator=draw, dtype=torch.float64)
    cells, blocks = tokens // stride, tokens // block
    expected = torch.zeros(blocks, blocks, dtype=torch.float64)
    for x in range(cells):
        sums = torch.stack(
            [sum(q[x * stride + stride - 1 - t] @ k[y * stride + t] for t in range(stride)) for y in range(x + 1)]
        )
        for y, share in enumerate((sums / (stride * dim**0.5)).softmax(0)):
            expected[x * stride // block, y * stride // block] += share
    found = reference.antidiagonal_weights(q[None, :, None], k[None, :, None], stride=stride, scale=dim**-0.5)
    torch.testing.assert_close(found[0, 0].double(), expected, atol=1e-4, rtol=1e-4)
