"""An alpha for each layer: what is chosen from a profile, what the file does, what is refused."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from fp_bench.calibration import per_layer
from fp_bench.calibration import tune as tuning
from fp_bench.calibration.per_layer import ALPHAS, factors
from fp_bench.calibration.search import settings
from fp_bench.cli.front import app
from fp_bench.errors import UsageError
from fp_bench.methods.base import AttentionCall
from fp_bench.methods.flashprefill import FlashPrefill

DENSITY = np.array([[0.5, 0.3, 0.2, 0.1]] * 3)


def test_a_layer_that_costs_more_gets_a_smaller_alpha():
    loss = np.outer([1.0, 0.1, 0.01], [0.001, 0.004, 0.02, 0.1])
    found = factors(loss, DENSITY, limit=0.01)
    assert found[0] < found[1] < found[2]
    assert np.exp(np.log(found[found > 0]).mean()) == pytest.approx(1)


def test_a_larger_limit_allows_larger_alphas_and_a_layer_that_breaks_is_dense():
    loss = np.outer([50.0, 0.1, 0.01], [0.001, 0.004, 0.02, 0.1])
    assert factors(loss, DENSITY, limit=0.001)[0] == 0
    free = factors(loss * 1e-6, DENSITY, limit=1.0)
    assert np.allclose(free, 1)  # all at the largest alpha


def test_the_losses_at_the_chosen_alphas_add_up_to_the_limit():
    loss = np.outer([1.0, 0.5, 0.1], [0.01, 0.02, 0.04, 0.08])
    for limit in (0.02, 0.05, 0.1):
        # Only ratios of alphas are returned; the largest of them was at most the largest alpha tried.
        found = factors(loss, DENSITY, limit)
        sparse = found > 0
        scales = np.geomspace(0.001, 1 / found.max(), 400)
        sums = [
            sum(np.interp(np.log(scale * found[i]), np.log(ALPHAS), loss[i]) for i in range(3) if sparse[i])
            for scale in scales
        ]
        assert min(sums) <= limit


def test_nothing_to_choose_is_one_line():
    with pytest.raises(UsageError, match="every layer would be dense"):
        factors(np.full((3, 4), 5.0), DENSITY, limit=1e-12)


def call(layer, layers=3):
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 1536, heads, 64) for heads in (2, 1, 1))
    return AttentionCall(q, k, v, 0.125, layer=layer, layers=layers)


def test_the_file_scales_alpha_layer_by_layer_and_0_is_dense(tmp_path):
    path = tmp_path / "alphas.json"
    path.write_text("[0, 1, 2.5]")
    method = FlashPrefill(FlashPrefill.Params(alpha=0.4, alpha_file=str(path)))
    assert method.select(call(0)) is None
    for layer, alpha in ((1, 0.4), (2, 1.0)):
        one = FlashPrefill(FlashPrefill.Params(alpha=alpha)).select(call(layer))
        mine = method.select(call(layer))
        assert torch.equal(mine.counts, one.counts)
        assert torch.allclose(method(call(layer)), method.attend(call(layer), mine), atol=1e-5)
    assert "3 layers" in method.unsupported(call(1, layers=4))


def test_another_content_is_another_method_and_no_file_is_the_old_hash(tmp_path):
    path = tmp_path / "alphas.json"
    path.write_text("[1, 1]")
    params = FlashPrefill.Params(alpha_file=str(path))
    before = FlashPrefill(params).method_hash
    path.write_text("[1, 0.5]")
    assert FlashPrefill(params).method_hash != before
    assert "alpha_file" not in FlashPrefill.Params().model_dump(mode="json")


@pytest.mark.parametrize("content", ["", "{}", "[]", '["a"]', "[-1]", "[1e9]", "[NaN]", "[true]", "[[1]]"])
def test_a_file_that_is_no_list_of_numbers_is_one_line(tmp_path, content):
    path = tmp_path / "alphas.json"
    path.write_text(content)
    with pytest.raises(UsageError) as raised:
        FlashPrefill(FlashPrefill.Params(alpha_file=str(path)))
    assert "\n" not in str(raised.value)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_tune_searches_with_an_alpha_for_each_layer(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "settings", lambda spec, knob: settings(spec, knob, 3))
    monkeypatch.setattr(tuning, "HELD_OUT", 2)
    monkeypatch.setattr(per_layer, "SAMPLES", 1)
    monkeypatch.setattr(per_layer, "ALPHAS", (0.3, 0.9))
    words = "tune --lens 2k --methods flashprefill --max-kl 2 --samples 4 --dtype fp32 --no-isolate --no-report"
    result = CliRunner().invoke(app, [*words.split(), "--per", "layer", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "an alpha for each layer takes" in result.output
    (written,) = tmp_path.glob("alphas-*.json")
    assert len(json.loads(written.read_text())) == len(list((tmp_path / "layers").iterdir()))
