"""In a model, too, a method is not taken at its word."""

import pytest
import torch

from fp_bench.jobs.failures import IncorrectError
from fp_bench.jobs.held import HeldPrefill
from fp_bench.methods.registry import Spec
from fp_bench.models.load import load_model
from tests.jobs.accuracy.test_job import records_of, request
from tests.plugin import cheats


@pytest.fixture(scope="module")
def model():
    return load_model("embedded", device=torch.device("cpu"), dtype=torch.float32)[0]


def density(model, method, layer=1):
    draw = torch.Generator().manual_seed(0)
    with HeldPrefill(model, method, layer, measure_selection=True) as prefill, torch.no_grad():
        model(input_ids=torch.randint(0, 1000, (1, 700), generator=draw))
    return prefill.counts.density()


@pytest.mark.parametrize("cheat", [cheats.ClaimsDensity, cheats.ClaimsDensityOfOurType, cheats.ClaimsDensityOfOwnType])
def test_density_is_not_what_a_selection_says(cheat, model):
    assert density(model, cheat()) == pytest.approx(density(model, cheats.Best()), rel=0.1)


@pytest.mark.parametrize("cheat", [cheats.DenseInDisguise, cheats.ZeroesV, cheats.Tolerant])
def test_a_cheat_is_incorrect(cheat, model):
    with pytest.raises(IncorrectError, match=r"in layer 1, a head's relative error|it writes into its inputs"):
        density(model, cheat())


def test_the_answer_of_a_cheat_is_incorrect_and_the_next_one_is_its_own(odd_methods, tmp_path):
    methods = [Spec(name) for name in ("disguised", "best", "dense")]
    found = records_of(tmp_path, request(methods=methods, lens=[700], tasks=["fact"], samples=1))
    assert [(record.method, record.status) for record in found] == [
        ("disguised", "incorrect"),
        ("best", "ok"),
        ("dense", "ok"),
    ]
