import pytest
import torch
from hypothesis import given, settings

from fp_bench import flash_prefill
from fp_bench.errors import UnsupportedError
from fp_bench.kernels.attention import reference
from fp_bench.kernels.flashprefill import reference as defined_selection
from fp_bench.kernels.flashprefill.rule import KeepRule
from fp_bench.kernels.pooling import reference as defined_pooling
from tests.kernels.calls import Case, cases, relative_error


@settings(max_examples=50)
@given(cases(dtypes=(torch.float32,)))
def test_the_composed_operator_is_the_composed_definition(case):
    q, k, v = case.tensors()
    rule = KeepRule(0.3, 1, 2, 1)
    out, lse = flash_prefill(q, k, v, alpha=0.3, sink_blocks=1, window_blocks=2, last_full_blocks=1, return_lse=True)
    pooled = defined_pooling.pool_keys(k)
    energy = defined_selection.block_energies(q, pooled, kv_len=case.kv_len, scale=case.scale)
    if ((energy / energy.amax(-1, keepdim=True) - 0.3).abs() < 1e-5).any():
        return  # a tie may fall on either side
    index = defined_selection.select_blocks(q, pooled, rule, kv_len=case.kv_len, scale=case.scale)
    expected = reference.attention(q, k, v, scale=case.scale, index=index)
    assert relative_error(out, expected.out) < 1e-5
    torch.testing.assert_close(lse, expected.lse, atol=1e-4, rtol=1e-4)


def test_alpha_zero_is_dense_and_a_large_alpha_is_not():
    case = Case(q_len=1500, kv_len=1500, q_heads=2, kv_heads=1)
    q, k, v = case.tensors()
    dense = reference.attention(q, k, v, scale=case.scale).out
    assert relative_error(flash_prefill(q, k, v, alpha=0.0), dense) < 1e-5
    assert relative_error(flash_prefill(q, k, v, alpha=2.0), dense) > 1e-2


def test_a_scale_of_ones_own_is_used():
    case = Case(q_len=300, kv_len=300)
    q, k, v = case.tensors()
    scaled = flash_prefill(q, k, v, alpha=0.0, scale=0.02)
    assert relative_error(scaled, reference.attention(q, k, v, scale=0.02).out) < 1e-5


def test_inputs_that_require_grad_are_refused_unless_grad_is_off():
    q, k, v = Case().tensors()
    q.requires_grad_()
    with pytest.raises(UnsupportedError, match="no backward pass"):
        flash_prefill(q, k, v, alpha=0.1)
    with torch.no_grad():
        assert flash_prefill(q, k, v, alpha=0.1).shape == q.shape


def test_the_custom_op_is_well_formed_and_compiles_without_a_graph_break():
    q, k, v = Case(q_len=300, kv_len=300).tensors()
    arguments = (q, k, v, 0.1, 2, 4, 2, 0.125)
    torch.library.opcheck(torch.ops.fp_bench.flash_prefill, arguments, test_utils=("test_schema", "test_faketensor"))
    compiled = torch.compile(lambda *x: 2 * flash_prefill(*x, alpha=0.1, scale=0.125), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(q, k, v), 2 * flash_prefill(q, k, v, alpha=0.1, scale=0.125))
