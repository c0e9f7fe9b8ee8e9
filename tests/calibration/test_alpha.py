import pytest
import torch

from fp_bench.calibration.alpha import calibrate
from fp_bench.errors import UsageError
from fp_bench.inputs.captured import Captured
from fp_bench.inputs.source import Shape
from fp_bench.methods.base import AttentionCall
from fp_bench.methods.flashprefill import FlashPrefill
from tests.cli.test_cli import fpbench
from tests.jobs.latency.test_job import capture

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return Captured(capture(tmp_path_factory.mktemp("model") / "capture", lengths=[2048]))


def found(source, wanted):
    return calibrate(source, wanted, device=CPU, dtype=torch.float32)


@pytest.mark.parametrize("wanted", [0.8, 0.9, 1.0])
def test_the_alpha_keeps_what_is_wanted_and_a_larger_one_less(source, wanted):
    calibration = found(source, wanted)
    assert calibration.density >= wanted
    q, k, v = source.tensors(Shape(1, 2048, 2, 1, 64), layer=0, seed=0, dtype=torch.float32, device=CPU)
    larger = FlashPrefill(FlashPrefill.Params(alpha=calibration.alpha * 1.01))
    assert larger.select(AttentionCall(q, k, v, scale=0.125)).density().mean() < wanted
    assert list(calibration.by_layer) == [0]
    assert len(calibration.by_layer[0]) == 2


def test_what_no_alpha_keeps_is_refused_with_the_limit(source):
    with pytest.raises(UsageError, match=r"density 0.1 is below 0\.\d+"):
        found(source, 0.1)


def test_options_that_calibrating_would_not_heed_are_refused():
    done = fpbench("calibrate", "--method", "flashprefill:rule=topk")
    assert done.exit_code == 2
    assert "alpha is found only for the default rule" in done.stderr
