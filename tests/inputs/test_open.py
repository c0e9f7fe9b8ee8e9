"""Opening a source by name: each kind, and one clear line for what cannot be read."""

import pytest
import torch

from fp_bench.errors import UsageError
from fp_bench.inputs.open import open_inputs
from fp_bench.inputs.source import Shape

SHAPE = Shape(2, 200, 4, 2, 64)
CPU = torch.device("cpu")


@pytest.mark.parametrize("spec", ["structured:version=2", "random", "density:0.25"])
def test_synthetic_sources_give_what_is_asked(spec: str) -> None:
    source = open_inputs(spec)
    assert source.name == spec
    assert source.layers() == [0]
    assert source.shapes(SHAPE) == SHAPE
    q, k, v = source.tensors(SHAPE, layer=0, seed=0, dtype=torch.bfloat16, device=CPU)
    assert q.shape == (2, 200, 4, 64)
    assert k.shape == v.shape == (2, 200, 2, 64)
    assert q.dtype == torch.bfloat16
    assert (source.given_index(SHAPE, seed=0, device=CPU) is not None) == spec.startswith("density")


def test_the_newest_version_of_structured_is_meant_where_none_is_named() -> None:
    assert open_inputs("structured").name == open_inputs("structured:version=2").name == "structured:version=2"


def test_version_1_has_the_name_of_records_from_before_there_were_versions() -> None:
    assert open_inputs("structured:version=1").name == "structured"


def test_random_is_standard_normal_and_repeatable() -> None:
    source = open_inputs("random")
    shape = Shape(1, 4096, 2, 1, 64)
    q, k, v = source.tensors(shape, layer=0, seed=0, dtype=torch.float32, device=CPU)
    again = source.tensors(shape, layer=0, seed=0, dtype=torch.float32, device=CPU)
    other_layer = source.tensors(shape, layer=1, seed=0, dtype=torch.float32, device=CPU)
    assert torch.equal(q, again.q)
    assert not torch.equal(q, other_layer.q)
    assert not torch.equal(k, v)
    assert q.mean().item() == pytest.approx(0, abs=0.01)
    assert q.std().item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("structred", "unknown input source 'structred'; did you mean 'structured'"),
        ("", "unknown input source ''; known: captured, density, random, structured"),
        ("density", "write density:0.04"),
        ("density:", "write density:0.04"),
        ("density:much", "density 'much' is not a number"),
        ("density:4", "density 4 is outside"),
        ("structured:0.1", "write structured or e.g. structured:version=1"),
        ("structured:", "write structured"),
        ("structured:version=", "write structured or e.g. structured:version=1"),
        ("structured:version=0", "versions 1 to 2, not 0"),
        ("structured:version=3", "versions 1 to 2, not 3"),
        ("random:", "write random"),
        ("captured", "write captured:FOLDER"),
        ("captured:no/such/folder", "capture folder no/such/folder does not exist"),
    ],
)
def test_one_clear_line_for_a_bad_spec(spec: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_inputs(spec)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
