"""The fit of structured inputs: its targets are the records', what it measures is what it wants, and it converges."""

import json

import pytest
import torch
from safetensors.torch import save_file

from fp_bench.inputs.captured import MANIFEST, CaptureManifest, file_hash, file_name
from fp_bench.inputs.structured import VERSION, strengths_of
from training.inputs.__main__ import RESULTS, RUNS, STRENGTHS, table, written
from training.inputs.fit import FITTED, fit, measure, residuals, values_of, with_values
from training.inputs.observe import LONG, PARTED, Kept, observe
from training.inputs.targets import METHODS, MODEL, Target, of_capture, of_records, read_targets, wanted

CPU = torch.device("cpu")
LABEL = "xattention:official_quirks=False"
"""As intended: the official rule treats the first 2048 tokens of a prompt differently."""
ADAPTIVE = ("flashprefill:alpha=0.03", "flashprefill", "flashprefill_v2", "xattention", "flexprefill")
"""Methods that decide from Q and K how much to keep."""


@pytest.mark.parametrize("run", RUNS)
def test_targets_are_those_of_the_records(run):
    found = [target for target in read_targets() if target.source == f"results/real/{run}"]
    assert found == of_records(RESULTS / run, RUNS[run])
    assert {target.model for target in found} == {MODEL}


def test_targets_name_two_models_and_three_kinds_of_text():
    targets = read_targets()
    assert len({target.model for target in targets}) >= 2
    assert {"novels", "code", "retrieval"} <= {target.text for target in targets}


@pytest.mark.parametrize("length", [4096, 8192])
def test_structured_inputs_give_what_the_real_model_gives_within_a_third(length):
    cells = wanted(read_targets(), [length], ADAPTIVE)
    assert {method for _, method in cells} == set(ADAPTIVE)
    kept = measure(strengths_of(VERSION), cells, heads=(16, 4, 128), device=CPU)
    for cell, real in cells.items():
        assert 2 / 3 < kept[cell].density / real.density < 4 / 3, cell
        assert abs(kept[cell].recall - real.recall) < 0.06, cell


def target(**changes):
    about = {"model": MODEL, "text": "t", "length": 1024, "method": "streaming", "density": 0.4, "recall": 0.8}
    return Target(**about | {"samples": 1, "source": "s"} | changes)


def test_sources_are_averaged_within_a_text_and_texts_after():
    targets = [
        target(), target(density=0.6), target(text="u", density=0.9, recall=0.6),
        target(length=2048), target(method="dense"), target(model="n", density=0.0),
    ]  # fmt: skip
    found = wanted(targets, [1024], ["streaming"])
    assert found == {(1024, "streaming"): Kept(pytest.approx(0.7), pytest.approx(0.7))}


def test_a_capture_is_measured_at_its_length_and_at_the_start_of_it(tmp_path):
    generator = torch.Generator().manual_seed(0)
    files = {}
    for layer in (1, 4):
        name = file_name(1024, layer)
        shapes = {"q": 4, "k": 2, "v": 2}
        save_file(
            {key: torch.randn(1, 1024, heads, 64, generator=generator) for key, heads in shapes.items()},
            tmp_path / name,
        )
        files[name] = file_hash(tmp_path / name)
    manifest = CaptureManifest(
        model="folder/Small.gguf@1234", text="t", lengths=[1024], layers=[1, 4], model_layers=6, batch=1, q_heads=4,
        kv_heads=2, head_dim=64, dtype="float32", files=files,
    )  # fmt: skip
    (tmp_path / MANIFEST).write_text(manifest.model_dump_json())
    found = of_capture(tmp_path, "code", [512, 1024])
    assert [(one.length, one.method) for one in found] == [(n, method) for n in (512, 1024) for method in METHODS]
    about = {(one.model, one.text, one.samples, one.source) for one in found}
    assert about == {("small", "code", 1, "capture, layers 1, 4")}
    by_cell = {(one.length, one.method): one for one in found}
    assert by_cell[1024, "streaming"].density == 1
    assert by_cell[512, "flashprefill"].density == 1  # sinks, window and last blocks are all
    assert 0.5 < by_cell[1024, "flashprefill"].recall <= by_cell[1024, "flashprefill"].density + 0.2


def test_parts_of_a_long_prompt_stand_for_the_whole(monkeypatch):
    """Sampled parts give about the density and recall of all rows."""
    kept = {}
    strengths = strengths_of(VERSION)
    for long in (LONG, 1024):
        monkeypatch.setattr("training.inputs.observe.LONG", long)
        kept[long] = measure(
            strengths, {(8192, LABEL): Kept(1, 1), (8192, "streaming"): Kept(1, 1)}, heads=(4, 2, 64), device=CPU
        )
    assert LABEL.startswith(PARTED)
    whole, parts = (kept[long][8192, LABEL] for long in (LONG, 1024))
    assert parts != whole
    assert parts.density == pytest.approx(whole.density, rel=0.15)
    assert parts.recall == pytest.approx(whole.recall, abs=0.02)
    assert kept[1024][8192, "streaming"] == kept[LONG][8192, "streaming"]


def test_residuals_are_zero_where_all_is_as_wanted():
    cells = {(1024, "streaming"): Kept(0.4, 0.8), (1024, "flashprefill"): Kept(0.2, 0.9)}
    assert residuals(cells, cells) == [0, 0, 0, 0]
    denser = cells | {(1024, "flashprefill"): Kept(0.3, 0.95)}
    assert residuals(denser, cells)[2] > 0 > residuals(denser, cells)[3]


def test_the_fit_finds_strengths_that_give_what_is_wanted_and_does_so_again():
    """On a model of two cells whose optimum is known."""

    def keep(strengths):
        return {
            (1, "a"): Kept(0.1 + strengths.diffuse, 0.9),
            (1, "b"): Kept(1 / (1 + strengths.focus[1]), 1 - 0.02 * strengths.local[1]),
        }

    start = strengths_of(VERSION)
    aim = start.model_copy(update={"diffuse": 0.5, "focus": (start.focus[0], 2.5), "local": (start.local[0], 2.0)})
    lines = []
    found = fit(start, keep(aim), keep, most=15, said=lines.append)
    assert found.diffuse == pytest.approx(0.5, rel=0.05)
    assert found.focus[1] == pytest.approx(2.5, rel=0.05)
    assert found.local[1] == pytest.approx(2.0, rel=0.1)
    assert found == fit(start, keep(aim), keep, most=15, said=lines.append)
    losses = [float(line.split()[0]) for line in lines[: len(lines) // 2]]
    assert losses == sorted(losses, reverse=True)


def test_fitted_values_come_back():
    start = strengths_of(VERSION)
    assert with_values(start, values_of(start)) == start
    changed = with_values(start, values_of(start) + 0.01)
    assert changed.wavelengths == start.wavelengths
    assert values_of(changed) == pytest.approx(values_of(start) + 0.01)
    assert len(values_of(start)) == len(FITTED)


def test_fitted_strengths_are_within_the_bounds_of_the_fit():
    for value, (low, high) in zip(values_of(strengths_of(VERSION)), FITTED.values(), strict=True):
        assert low <= value <= high


def test_what_a_fit_writes_is_the_file_of_the_package():
    assert written(strengths_of(VERSION)) == STRENGTHS.read_text()
    assert json.loads(written(strengths_of(1)))["stratified"] is False


def test_the_table_marks_what_misses_by_more_than_a_third():
    real = {(8192, "streaming"): Kept(0.3, 0.9), (8192, "xattention"): Kept(0.3, 0.9)}
    made = {(8192, "streaming"): Kept(0.35, 0.9), (8192, "xattention"): Kept(0.6, 0.95)}
    lines = table(real, made).splitlines()
    assert lines[2] == "| 8K | `xattention` | 30.0% | 60.0% (2.00x) | 90.0% | 95.0% |"
    assert lines[3] == "| 8K | `streaming` | 30.0% | 35.0% | 90.0% | 90.0% |"


def test_a_method_that_runs_dense_keeps_all():
    from fp_bench.inputs.random import Random
    from fp_bench.inputs.source import Shape
    from fp_bench.methods.base import AttentionCall

    shape = Shape(1, 512, 2, 1, 64)
    qkv = Random().tensors(shape, layer=0, seed=0, dtype=torch.float32, device=CPU)
    found = observe(AttentionCall(*qkv, scale=0.125), ["flexprefill", "dense"])
    assert found["flexprefill"] == Kept(1, pytest.approx(1))
    assert found["dense"] == Kept(1, pytest.approx(1))
