import json

import pytest
import torch
from safetensors.torch import save_file

from fp_bench.calibration.alpha import calibrate
from fp_bench.calibration.heads import search
from fp_bench.calibration.taus import profile
from fp_bench.errors import UnsupportedError, UsageError
from fp_bench.inputs.captured import MANIFEST, Captured, file_hash
from fp_bench.inputs.source import Shape
from fp_bench.methods.base import AttentionCall
from fp_bench.methods.flashprefill import FlashPrefill
from tests.cli.test_cli import fpbench
from tests.jobs.latency.test_job import capture

CPU = torch.device("cpu")
HEADS = {"q": 2, "k": 1, "v": 1}


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


@pytest.mark.parametrize(
    "find",
    [
        lambda source: found(source, 0.9),
        lambda source: profile(source, 0.9, 8, device=CPU, dtype=torch.float32),
        lambda source: search(source, device=CPU, dtype=torch.float32),
    ],
)
def test_what_the_method_does_not_run_is_not_calibrated(find, tmp_path):
    folder = capture(tmp_path / "capture", lengths=[256])
    for file in folder.glob("*.safetensors"):
        save_file({name: torch.randn(1, 256, heads, 96) for name, heads in HEADS.items()}, file)
    manifest = json.loads((folder / MANIFEST).read_text())
    files = {file.name: file_hash(file) for file in folder.glob("*.safetensors")}
    (folder / MANIFEST).write_text(json.dumps(manifest | {"head_dim": 96, "files": files}))
    with pytest.raises(UnsupportedError, match="does not run on m: head_dim 96"):
        find(Captured(folder))


def test_options_that_calibrating_would_not_heed_are_refused():
    done = fpbench("calibrate", "--method", "flashprefill:rule=topk")
    assert done.exit_code == 2
    assert "alpha is found only for the default rule" in done.stderr
