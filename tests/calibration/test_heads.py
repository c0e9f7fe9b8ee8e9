import json

import pytest
import torch

from fp_bench.calibration import heads
from fp_bench.kernels.lines import reference as defined
from fp_bench.kernels.lines.head_patterns import AShape, Blocks, Lines
from fp_bench.methods.base import AttentionCall
from fp_bench.methods.minference import MInference
from fp_bench.methods.minference.patterns import read_patterns
from tests.cli.test_cli import fpbench

CANDIDATES = (AShape(10, 60), Lines(30, 50), Lines(200, 55), Blocks(2))


def a_call(n=300):
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, n, h, 64, generator=draw) for h in (2, 1, 1))
    return AttentionCall(q, k, v, scale=0.5)


def test_mass_held_is_that_of_exact_attention_under_each_candidates_mask(monkeypatch):
    monkeypatch.setattr(heads, "CANDIDATES", CANDIDATES)
    call, n = a_call(), 300
    held = heads.mass_held(call)
    logits = torch.einsum("bihd,bjd->bhij", call.q, call.k[:, :, 0]) * call.scale
    weights = logits.masked_fill(torch.ones(n, n).triu(1).bool(), -torch.inf).softmax(-1)
    by_key, by_offset = defined.line_masses(call.q, call.k, scale=call.scale)
    i, j = torch.arange(n)[:, None], torch.arange(n)
    for number, candidate in enumerate(CANDIDATES):
        for head in range(2):
            kept = []
            for batch in range(2):
                if isinstance(candidate, AShape):
                    mask = defined.a_shape_mask(n, candidate.sink, candidate.local)
                elif isinstance(candidate, Blocks):
                    blocks = defined.strongest_blocks(call.q, call.k, candidate.count)[batch, head]
                    mask = blocks.repeat_interleave(64, 0).repeat_interleave(64, 1)[:n, :n]
                else:
                    sizes = candidate.columns, candidate.diagonals
                    columns, offsets = defined.strongest_lines(
                        by_key[batch, head], by_offset[batch, head], *sizes, near=heads.NEAR_DIAGONALS
                    )
                    mask = torch.isin(j, torch.tensor(columns)) | torch.isin(i - j, torch.tensor(offsets))
                kept.append((weights[batch, head] * mask)[n // 2 :].sum(-1).mean())
            assert held[number, head].item() == pytest.approx(sum(kept).item() / 2, rel=1e-4)


def test_a_length_at_which_every_head_is_dense_writes_no_file(tmp_path):
    file = tmp_path / "patterns.json"
    done = fpbench("search-heads", "--lens", "300", "--out", file)
    assert done.exit_code == 2
    assert "--lens 300: every head's best pattern keeps everything" in done.stderr
    assert not file.exists()


def test_the_verb_writes_a_file_that_the_method_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(heads, "CANDIDATES", (AShape(100, 200), Lines(30, 200), Lines(100, 100), Blocks(4)))
    file = tmp_path / "patterns.json"
    done = fpbench("search-heads", "--lens", "1200", "--out", file)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == f"minference:config={file}"
    found = json.loads(file.read_text())
    assert {len(layer) for layer in found} == {6}
    assert all(0 < score <= 1.0001 for layer in found for *_, score in layer.values())
    assert {pattern for layer in read_patterns(file) for pattern in layer.values()} <= set(heads.CANDIDATES)
    assert MInference.from_options({"config": str(file)}).params.config == str(file)


def test_too_short_a_text_is_one_line():
    done = fpbench("search-heads", "--lens", "32")
    assert done.exit_code == 2
    assert "--lens 32 is less than the 64 queries" in done.output


def test_a_head_that_reads_a_far_block_is_found_and_written_as_one_that_keeps_blocks(monkeypatch, tmp_path):
    """Queries of each stretch of 64 read one earlier stretch, another each: no columns and no diagonals hold them."""
    monkeypatch.setattr(heads, "CANDIDATES", (AShape(10, 60), Lines(30, 50), Blocks(2)))
    direction = 20 * torch.eye(64)[:16].repeat_interleave(64, 0)
    read = torch.tensor([0, 0, 1, 0, 3, 1, 4, 2, 0, 7, 3, 9, 5, 1, 11, 6]).repeat_interleave(64)
    k = direction[None, :, None]
    call = AttentionCall(direction[64 * read][None, :, None], k, k, scale=0.125)
    monkeypatch.setattr(heads, "captured_calls", lambda *_: [call])
    found = heads.search(None, device=torch.device("cpu"), dtype=torch.float32)
    ((pattern, score),) = found.layers[0]
    assert pattern == Blocks(2)
    assert score > 0.99
    assert found.table().rows == [["0", "1", f"{score:.1%}"]]
    found.save(tmp_path / "patterns.json")
    assert read_patterns(tmp_path / "patterns.json") == [{0: Blocks(2)}]
