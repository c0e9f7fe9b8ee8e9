import json

import pytest
import torch

from fp_bench.calibration.taus import block_masses, needed_taus, profile
from fp_bench.errors import UsageError
from fp_bench.inputs.captured import Captured
from fp_bench.kernels.attention.reference import attention
from fp_bench.methods.base import AttentionCall
from fp_bench.methods.xattention import XAttention
from tests.cli.test_cli import fpbench
from tests.jobs.latency.test_job import capture

CPU = torch.device("cpu")


def a_call(q_len=300, kv_len=400):
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, n, h, 64, generator=draw) for n, h in ((q_len, 2), (kv_len, 1), (kv_len, 1)))
    return AttentionCall(q, k, v, scale=0.5)


def test_block_masses_are_those_of_exact_attention():
    call = a_call()
    masses = block_masses(call)
    assert masses.sum((2, 3)) == pytest.approx(torch.full((1, 2), 300.0), rel=1e-5)
    # Attention over values that say which block a key is in, summed over the queries of a block.
    values = torch.nn.functional.one_hot(torch.arange(400) // 128, 64).float()[None, :, None]
    out = attention(call.q, call.k, values, scale=call.scale).out
    by_block = torch.stack([part.sum(1) for part in torch.split(out, [28, 128, 128, 16], dim=1)], dim=2)[..., :4]
    assert torch.allclose(masses, by_block, atol=1e-3)


def test_taus_of_a_worked_example():
    masses = torch.tensor([[[[8.0, 0.5, 1.5, 0.0], [2.0, 6.0, 1.0, 1.0]]]])
    weights = torch.tensor([[[[5.0, 4.0, 1.0, 9.0], [3.0, 4.0, 2.0, 1.0]]]])
    # Row 0 needs blocks 0 and 2 (9.5 of 10): all with weight >= 1, so 10 of 10; what is in the future has no say.
    # Row 1 needs 1, 0 and 2 (9 of 10): all with weight >= 2, so 9 of 10.
    assert needed_taus(weights, masses, 0.9).tolist() == pytest.approx([19 / 20])
    # At half, row 0 needs block 0 (weight 5 of 10), row 1 block 1 (weight 4 of 10).
    assert needed_taus(weights, masses, 0.5).tolist() == pytest.approx([9 / 20])


def test_a_profile_is_a_table_that_the_method_reads(tmp_path):
    source = Captured(capture(tmp_path / "capture", lengths=[2048]))
    table = profile(source, 0.8, 8, device=CPU, dtype=torch.float32)
    file = tmp_path / "taus.json"
    table.save(file)
    assert len(table.taus[0]) == 2
    assert all(0 < tau <= 1 for row in table.taus for tau in row)
    assert json.loads(file.read_text()) == table.taus
    assert XAttention.from_options({"tau_file": str(file)}).params.tau_file == str(file)


def test_the_verb_writes_a_file_that_the_method_reads(tmp_path):
    done = fpbench("calibrate", "--method", "xattention:stride=16", "--lens", "512", "--out", tmp_path / "taus.json")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == f"xattention:stride=16:tau_file={tmp_path / 'taus.json'}"
    taus = json.loads((tmp_path / "taus.json").read_text())
    assert [len(row) for row in taus] == [6] * 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "dense"], "'dense' has no thresholds"),
        (["--method", "xattention", "--coverage", "2"], "coverage 2 is outside (0, 1]"),
        (["--method", "xattention:stride=7"], "stride"),
        (["--method", "xattention:tau=0.5"], "taus are found only for a stride"),
    ],
)
def test_bad_words_are_one_line(words, message):
    done = fpbench("calibrate", *words)
    assert done.exit_code == 2
    assert message in done.output


def test_no_share_is_refused():
    with pytest.raises(UsageError, match="coverage 0"):
        profile(None, 0.0, 8, device=CPU, dtype=torch.float32)
