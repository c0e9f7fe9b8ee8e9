"""What people get wrong ends as one line that names the value, and an exit code; never a traceback, never a run."""

import json
import os

import pytest
import torch
import typer
from safetensors.torch import save_file
from typer.testing import CliRunner

from fp_bench.cli import app
from fp_bench.inputs.captured import MANIFEST, CaptureManifest, file_hash, file_name
from fp_bench.records.store import RECORDS
from tests.records.records import timed

RUN = "latency --lens 256 --shape 2/1/64 --rounds 1 --samples 1 --no-isolate "

USAGE = {
    # lengths
    "latency --lens 4x": "'4x'",
    "latency --lens 8k-4k": "'8k-4k'",
    "latency --lens 0": "'0'",
    "latency --lens -4k": "-4k",
    "latency --lens 5m": "4194303",
    "latency --lens 4k,,8k": "''",
    "latency --lens 1e4": "'1e4'",
    "latency --lens 4.5k": "'4.5k'",
    "latency --lens 4k-": "'4k-'",
    # heads
    "latency --shape 3/2/128": "3 query heads",
    "latency --shape 32x8": "'32x8'",
    "latency --shape 0/0/64": "'0/0/64'",
    "latency --shape 2/1/32": "head_dim 32",
    "latency --shape 2/4/128": "2 query heads",
    # methods and their parameters
    "latency --methods flashprefil": "did you mean 'flashprefill'",
    "latency --methods flashprefill:alpha": "'alpha'",
    "latency --methods flashprefill:alpha=-1": "alpha",
    "latency --methods flashprefill:alpha=nan": "alpha",
    "latency --methods flashprefill:alpha=much": "'much'",
    "latency --methods flashprefill:alhpa=0.1": "did you mean 'alpha'",
    "latency --methods flashprefill:alpha=0.1:alpha=0.2": "given twice",
    "latency --methods flashprefill:sink_blocks=1.5": "sink_blocks",
    "latency --methods flashprefill:preset=gpt": "'gpt'",
    "latency --methods flashprefill:backend=cuda": "'cuda'",
    "latency --methods dense:impl=fa9": "'fa9'",
    "latency --methods ,": "''",
    "latency --methods dense,,flashprefill": "''",
    # other options
    "latency --dtype int8": "'int8'",
    "latency --backend gpu --lens 128": "'gpu'",
    "latency --batch 0": "--batch 0",
    "latency --batch x": "'x'",
    "latency --rounds -1": "--rounds -1",
    "latency --rounds 1.5": "'1.5'",
    "latency --samples 0": "--samples 0",
    "latency --seed -1": "--seed -1",
    "latency --layers a": "'a'",
    "latency --layers 5": "layer 5",
    "latency --budget abc": "'abc'",
    "latency --budget 0": "'0'",
    "latency --budget -5m": "-5m",
    "latency --timeout 3d": "'3d'",
    "latency --timeout 9999h": "'9999h'",
    "latency --rouns 3": "--rouns",
    "latency 4k": "4k",
    "latency --methods=": "--methods is empty",
    "latency --shape=": "--shape is empty",
    "latency --out=": "--out is empty",
    "accuracy --suite=": "--suite is empty",
    "latency --resume": "no latency run",
    "latency --resume --out x": "give only one",
    "latency --model embedded --shape 6/2/128 --layers 0": "--shape, --layers: not with --ttft",
    'latency --methods minference:config="/a': "a quote is left open",
    "latency --engine vlm --ttft": "unknown engine 'vlm'",
    "accuracy --engine vlm": "unknown engine 'vlm'",
    # inputs
    "latency --inputs strctured": "did you mean 'structured'",
    "latency --inputs density:0": "density 0",
    "latency --inputs density:1.5": "1.5",
    "latency --inputs density:x": "'x'",
    "latency --inputs captured": "captured:FOLDER",
    "latency --inputs captured:{tmp}/none": "does not exist",
    "latency --inputs captured:{tmp}/empty": "capture.json",
    "latency --inputs captured:{tmp}/broken_manifest": "capture again",
    "latency --inputs captured:{tmp}/capture --lens 512": "length 512",
    "latency --inputs captured:{tmp}/capture --lens 256 --batch 2": "batch 2",
    "latency --inputs captured:{tmp}/capture --lens 256 --layers 1": "layer 1",
    # files and folders
    RUN + "--out {tmp}/file": "{tmp}/file",
    RUN + "--out {tmp}/file/run": "{tmp}/file/run",
    RUN + "--out /proc/run": "/proc/run",
    RUN + "--out {tmp}/newer": "schema_version 99",
    RUN + "--out {tmp}/no_records": "line 1",
    "report {tmp}/none": "records.jsonl",
    "report {tmp}/no_records": "line 1",
    "report {tmp}/empty_run": "no complete record",
    "report": "'runs'",
    "merge {tmp}/none --out {tmp}/merged": "records.jsonl",
    "merge {tmp}/run_a {tmp}/run_b --out {tmp}/merged": "only runs of one machine",
    "merge {tmp}/run_a --out {tmp}/run_a": "already holds",
    "merge {tmp}/run_a": "--out",
    # a run as a file
    "latency --config {tmp}/none.yaml": "none.yaml",
    "latency --config {tmp}/empty": "cannot be read",
    "latency --config {tmp}/broken.yaml": "line 3",
    "latency --config {tmp}/list.yaml": "has no options",
    "latency --config {tmp}/unknown.yaml": "did you mean 'rounds'",
    "latency --config {tmp}/nested.yaml": "methods",
    "latency --config {tmp}/value.yaml": "'many'",
    "latency --config {tmp}/binary.yaml": "cannot be read",
    "latency --config /dev/zero": "more than 1048576 bytes",
    # other verbs
    "capture --text {tmp}/none": "{tmp}/none",
    "capture --text /dev/zero": "it is no file",
    "capture --text {tmp}/binary.yaml": "binary.yaml",
    "capture --device tpu": "'tpu'",
    "capture --dtype bf15": "'bf16'",
    "capture --layers x": "'x'",
    "capture --lens 4q": "'4q'",
    "calibrate --density 2": "density 2",
    "calibrate --density 0": "density 0",
    "calibrate --density x": "'x'",
    "calibrate --dtype bf15": "'bf16'",
    "nonsense": "nonsense",
    # limits of shapes, and what no record could hold
    "latency --shape 2/1/999999": "up to 1024/1024/1024",
    "latency --shape 1024/1/1024": "the limit is 65536",
    f"latency --shape {'9' * 5000}/1/64": "5005 characters",
    "latency --inputs captured:\x1b[31m": "control characters",
    "latency --model \udcff": "not UTF-8",
    "latency --seed 99999999999999999999": "0 to 4294967295",
    "latency --batch 99999": "1 to 10000",
    "latency --rounds 10001": "1 to 10000",
    "latency --layers 99999999999": "'99999999999'",
    "latency --devices 0 --ray auto": "give only one",
    "latency --model embedded?x=1 --lens 256": "no key 'x'",
    "latency --model embedded?num_hidden_layers=two --lens 256": "num_hidden_layers",
    # accuracy
    "accuracy --suite nonesuch": "'nonesuch'",
    "accuracy --suite ruler:x=1": "'x'",
    "accuracy --tasks nonesuch --lens 512": "'nonesuch'",
    "accuracy --samples 0": "1 to 100000",
    "accuracy --workers 65": "1 to 64",
    "accuracy --dense-layers 99 --lens 512": "0 to 6",
    "accuracy --chat maybe --lens 512": "'maybe'",
    "accuracy --lens 16m": "4194303",
    "accuracy --spread --workers 2": "--spread",
    # compare, report, samples, merge
    "compare {tmp}/run_a": "give a second one",
    "compare {tmp}/none {tmp}/run_a": "records.jsonl",
    "compare {tmp}/run_a {tmp}/no_records": "line 1",
    "compare {tmp}/run_a {tmp}/run_a --min-effect 0": "'0'",
    "compare {tmp}/run_a {tmp}/run_a --min-effect lots": "'lots'",
    "tune --lens 0": "'0'",
    "tune --methods nonesuch": "'nonesuch'",
    "compare {tmp}/run_a {tmp}/run_a --max-drop -1": "--max-drop -1",
    "compare {tmp}/run_a {tmp}/run_a --ci gitlab": "'gitlab'",
    "compare {tmp}/run_a {tmp}/run_a --format xml": "'xml'",
    "compare {tmp}/run_a {tmp}/run_a --allow all": "'all'",
    "report {tmp}/run_a --format pdf": "'pdf'",
    "report {tmp}/run_a --out .": "names no file",
    "samples {tmp}/run_a": "no accuracy records",
    "merge {tmp}/run_a --out /proc/x": "/proc/x",
    # listings, reproduce, what is learnt from a model
    "reproduce nonesuch": "'nonesuch'",
    "reproduce --records {tmp}/none": "records.jsonl",
    "suites nonesuch": "'nonesuch'",
    "methods nonesuch": "'nonesuch'",
    "doctor --aa --rounds 2": "6 to 1000",
    "doctor --aa --rounds x": "'x'",
    "doctor --nonsense": "--nonsense",
    "search-heads --lens 0": "'0'",
    "search-heads --dtype int4": "'int4'",
    "search-heads --device tpu": "'tpu'",
    "calibrate --method dense": "'dense'",
    "calibrate --method flashprefill:alpha": "'alpha'",
    "calibrate --method xattention --coverage 2": "coverage 2",
    "calibrate --seed -1": "--seed -1",
    "calibrate --layers 99 --density 0.9": "layer 99",
    "calibrate --layers 0 --method xattention": "every layer",
    "calibrate --model-arg revision=main": "no revisions",
    "capture --model-arg dtype=fp32": "give --dtype",
    "doctor --model-arg device_map=auto": "give --model",
    "doctor --model embedded --model-arg device_map=none": "device_map",
    "accuracy --model-arg device_map=none": "balanced",
    "tune --model-arg revision=main": "no revisions",
    "latency --model embedded --model-arg revision": "key=value",
}
MODEL = {
    "model_type": "qwen3", "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "num_hidden_layers": 2, "intermediate_size": 64, "vocab_size": 128, "max_position_embeddings": 4096,
}  # fmt: skip
MODELS = {
    "config.json is not a configuration": "[1]",
    "config.json is not a configuration: it is NoneType": "null",
    "config.json is not JSON": "{",
    "config.json is not JSON: maximum recursion depth": "[" * 100_000,
    "num_hidden_layers '-1' is not a whole number from 1 to 10000": {"num_hidden_layers": -1},
    "num_hidden_layers '1000000000'": {"num_hidden_layers": 10**9},
    "num_hidden_layers '2.5'": {"num_hidden_layers": 2.5},
    "num_attention_heads '0'": {"num_attention_heads": 0},
    "num_attention_heads 'four'": {"num_attention_heads": "four"},
    "4 query heads are not a multiple of 3 KV heads": {"num_key_value_heads": 3},
    "vocab_size '1000000000000'": {"vocab_size": 10**12},
    "hidden_size '-64'": {"hidden_size": -64},
    "max_position_embeddings 'x'": {"max_position_embeddings": "x"},
    "model type `nonesuch`": {"model_type": "nonesuch"},
    "cannot be loaded": {"model_type": ["a"]},
    "field 'num_hidden_layers'": {"num_hidden_layers": None},
    "text_config": {"text_config": {"num_hidden_layers": -1}},
}
UNAVAILABLE = {
    RUN + "--inputs captured:{tmp}/cut": "len256_layer0.safetensors",
    RUN + "--inputs captured:{tmp}/other_shape": "manifest says",
    RUN + "--inputs captured:{tmp}/not_safetensors": "cannot be read",
    RUN + "--inputs captured:{tmp}/missing": "lacks len256_layer0.safetensors",
    RUN + "--methods dense:impl=fa3": "dense:impl=fa3",
    RUN + "--methods minference_official": "minference_official",
    "capture --model /no/such/model --lens 256 --out {tmp}/new": "/no/such/model",
    "capture --model {tmp}/pipe.gguf --lens 256 --out {tmp}/new": "is no file",
    "accuracy --suite fidelity:text=/dev/zero --lens 512 --no-isolate": "it is no file",
}


def write_capture(folder, heads=2, manifest_heads=2):
    folder.mkdir()
    path = folder / file_name(256, 0)
    save_file({name: torch.randn(1, 256, n, 64) for name, n in {"q": heads, "k": 1, "v": 1}.items()}, path)
    about = {"model": "m", "text": "t", "lengths": [256], "layers": [0], "model_layers": 1, "batch": 1}
    about |= {"q_heads": manifest_heads, "kv_heads": 1, "head_dim": 64, "dtype": "float32"}
    manifest = CaptureManifest(**about, files={path.name: file_hash(path)})
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return path


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    """A folder with one of everything that is broken."""
    tmp = tmp_path_factory.mktemp("bad")
    (tmp / "file").write_text("")
    os.mkfifo(tmp / "pipe.gguf")
    for name in ("empty", "broken_manifest", "newer", "no_records", "empty_run", "run_a", "run_b"):
        (tmp / name).mkdir()
    (tmp / "broken_manifest" / MANIFEST).write_text('{"model": 3')
    write_capture(tmp / "capture")
    os.truncate(write_capture(tmp / "cut"), 1000)
    write_capture(tmp / "other_shape", heads=4)
    path = write_capture(tmp / "not_safetensors")
    before = file_hash(path)
    path.write_bytes(b"PK\x03\x04 no tensors")
    manifest = tmp / "not_safetensors" / MANIFEST
    manifest.write_text(manifest.read_text().replace(before, file_hash(path)))
    write_capture(tmp / "missing").unlink()
    (tmp / "newer" / RECORDS).write_text('{"schema_version": 99}\n')
    (tmp / "no_records" / RECORDS).write_text("hello\nworld\n")
    (tmp / "empty_run" / RECORDS).write_text("")
    for name in ("a", "b"):
        (tmp / f"run_{name}" / RECORDS).write_text(timed(env=name).model_dump_json() + "\n")
        (tmp / f"run_{name}" / "env.json").write_text(json.dumps({name: {"cpu": f"CPU {name}"}}))
    (tmp / "broken.yaml").write_text("lens: 4k\nmethods: [dense\nrounds: 3\n")
    (tmp / "list.yaml").write_text("- lens\n")
    (tmp / "unknown.yaml").write_text("rouns: 3\n")
    (tmp / "nested.yaml").write_text("methods:\n  dense: {impl: fa2}\n")
    (tmp / "value.yaml").write_text("rounds: many\n")
    (tmp / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    return tmp


@pytest.mark.parametrize("line", USAGE)
def test_a_mistake_is_one_line_that_names_it(line, bad, monkeypatch):
    complaint = one_line(line, bad, monkeypatch, code=2)
    assert USAGE[line].format(tmp=bad) in complaint


@pytest.mark.parametrize("line", UNAVAILABLE)
def test_what_is_not_here_is_one_line_too(line, bad, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    words = line.format(tmp=bad).split()
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 3, done.output
    assert "Traceback" not in done.output
    assert UNAVAILABLE[line] in done.output


@pytest.mark.parametrize("complaint", MODELS)
@pytest.mark.parametrize("verb", ["latency --model random:{folder}", "accuracy --model {folder}"])
def test_a_model_s_broken_folder_is_one_line(verb, complaint, tmp_path):
    broken = MODELS[complaint]
    (tmp_path / "config.json").write_text(broken if isinstance(broken, str) else json.dumps(MODEL | broken))
    words = [*verb.format(folder=tmp_path).split(), "--lens", "256", "--dry-run"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 3, done.output
    (said,) = done.stderr.splitlines()
    assert said.startswith("fpbench: ")
    assert (str(tmp_path) if complaint == "text_config" else complaint) in said


def one_line(line, bad, monkeypatch, code):
    monkeypatch.chdir(bad)
    done = CliRunner().invoke(app, line.format(tmp=bad).split())
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    said = [text for text in done.stderr.splitlines() if text.startswith("fpbench: ")]
    assert said == done.stderr.splitlines()[-1:]
    assert not (bad / "runs").exists()
    return said[0]


def test_there_are_enough_of_them():
    assert len(USAGE) + len(UNAVAILABLE) + len(MODELS) >= 120
    verbs = {line.split()[0] for line in USAGE}
    assert verbs >= set(typer.main.get_command(app).commands)
