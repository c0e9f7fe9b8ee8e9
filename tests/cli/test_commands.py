"""The `command` of a published record measures that cell again: it is accepted, and names the same cell."""

import gzip
import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.rewrite_commands import mend_file, mended
from fp_bench.calibration.request import TuneRequest
from fp_bench.cli import app
from fp_bench.errors import UsageError
from fp_bench.inputs.captured import MANIFEST, CaptureManifest
from fp_bench.jobs import cost
from fp_bench.jobs.accuracy import plan as accuracy_plan
from fp_bench.jobs.latency import plan as latency_plan
from fp_bench.jobs.request import AccuracyRequest, LatencyRequest, Request, join_commands, read_command
from fp_bench.jobs.values import engine_arguments
from fp_bench.methods.registry import Spec, create_method
from fp_bench.records.record import LatencyRecord, cell_key
from fp_bench.records.store import read_records

ROOT = Path(__file__).parents[2]
VARIES = re.compile(r"--(lens|samples|tasks|seed|layers) \S+")
PUBLISHED = {
    "structured": "h200/latency-32-8-128",
    "density": "h200/given-density",
    "captured": "h200/captured",
    "ttft hf": "h200/ttft-qwen3-30b-a3b",
    "ttft hf, another model": "h100/papers/ttft-llama-3-8b",
    "ttft vllm": "h100/vllm-ttft",
    "accuracy": "h200/probe",
    "accuracy, several processes": "h100/two-gpus",
}


def replayed(command, monkeypatch):
    """Run a command with --dry-run; return the cells of its plan by their keys."""
    plans = []
    for module in (latency_plan, accuracy_plan):
        monkeypatch.setattr(module, "make_plan", noted(module.make_plan, plans))
        monkeypatch.setattr(module, "check_engine", lambda *_: None)  # vLLM need not be here
    # Estimates of time take seconds, and are no part of a cell.
    monkeypatch.setattr(latency_plan, "_seconds_per_flop", lambda *_: 1e-12)
    monkeypatch.setattr(cost, "answer_seconds", lambda *_, **__: None)
    done = CliRunner().invoke(app, [*shlex.split(command)[1:], "--dry-run"])
    assert done.exit_code == 0, done.output
    (plan,) = plans
    return (
        {cell.key: cell for group in plan.groups for cell in group.cells}
        if hasattr(plan, "groups")
        else {item.key: item for item in plan.items}
    )


def noted(make_plan, plans):
    def make(*asked):
        plans.append(make_plan(*asked))
        return plans[-1]

    return make


@pytest.mark.parametrize("folder", PUBLISHED.values(), ids=PUBLISHED)
def test_the_command_of_a_record_names_its_cell(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    record = next(filter(of_this_version, read_records(ROOT / "results" / folder).records))
    command, expected = record.command, record.cell_key
    if record.kind == "latency" and record.input.startswith("captured:"):
        name = record.input.removeprefix("captured:").partition("@")[0]
        inputs = write_manifest(tmp_path / name, record)
        command = command.replace(read_command(command).inputs, f"captured:{tmp_path / name}")
        asked = record.model_dump(include=set(record.asked)) | {"input": inputs}
        expected = cell_key(asked, LatencyRecord.asked)
    cells = replayed(command, monkeypatch)
    assert expected in cells
    again = cells[expected].asked["command"]
    assert expected in replayed(again, monkeypatch)


def of_this_version(record):
    """Tell whether a method is today what it was; one that has changed since is another cell."""
    return create_method(Spec.parse(record.label)).method_hash == record.method_hash


def write_manifest(folder, record):
    """Write the manifest of a capture that has a record's heads; return what records call it."""
    from fp_bench.inputs.captured import Captured

    folder.mkdir()
    about = {"model": "m", "text": "t", "lengths": [record.seq_len], "layers": [record.layer], "model_layers": 9}
    about |= {name: getattr(record, name) for name in ("batch", "q_heads", "kv_heads", "head_dim")}
    (folder / MANIFEST).write_text(CaptureManifest(**about, dtype="bfloat16", files={}).model_dump_json())
    return Captured(folder).name


@pytest.mark.parametrize("path", sorted((ROOT / "results").rglob("records.jsonl*")), ids=lambda path: path.parent.name)
def test_no_published_command_is_refused(path):
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        # Commands that differ in a number or a task alone are read alike: one of each.
        kinds = {VARIES.sub("", command): command for command in (json.loads(line)["command"] for line in lines)}
    for command in kinds.values():
        if not command.startswith("python -m benchmarks."):
            read_command(command)


def test_a_command_names_the_version_of_its_inputs_and_versions_are_other_cells(monkeypatch):
    asked = "fpbench latency --methods dense --lens 256 --shape 2/1/64"
    (newest,) = replayed(asked, monkeypatch).values()
    (first,) = replayed(f"{asked} --inputs structured:version=1", monkeypatch).values()
    assert newest.asked["input"] == "structured:version=2"
    assert "--inputs structured:version=2" in newest.asked["command"]
    assert first.asked["input"] == "structured"
    assert "--inputs structured:version=1" in first.asked["command"]
    assert newest.key != first.key


def test_commands_on_the_first_structured_inputs_are_made_to_name_their_version():
    written = "fpbench latency --methods dense --lens 4096 --inputs structured --layers 0"
    named = written.replace("structured", "structured:version=1")
    assert mended(written, "structured") == named
    assert mended(named, "structured") == named
    assert mended(named.replace("version=1", "version=2"), "structured:version=2").endswith("version=2 --layers 0")
    short = "fpbench latency --methods dense --lens 4096"
    assert mended(short, "structured") == f"{short} --inputs structured:version=1"
    assert mended("python -m benchmarks.fp8") == "python -m benchmarks.fp8"


@pytest.mark.parametrize("name", ["records.jsonl", "records.jsonl.gz"])
def test_commands_are_rewritten_and_nothing_else(name, tmp_path):
    options = "--shape 6/2/128 --batch 1 --dtype bf16 --backend triton --seed 3 --layers 0"
    old = f"fpbench latency --methods dense --lens 4096 --model random:x/y {options}"
    fine = "fpbench latency --methods dense --lens 4096 --inputs structured --layers 0"
    lines = '{"a":1.50,"command":"%s","b":[1]}\n'
    text = lines % old + lines % fine
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    assert mend_file(path) == 1
    data = path.read_bytes()
    new = "fpbench latency --lens 4096 --methods dense --ttft --model random:x/y --backend triton --seed 3"
    assert (gzip.decompress(data) if name.endswith("gz") else data).decode() == lines % new + lines % fine
    assert mend_file(path) == 0
    assert path.read_bytes() == data


def test_all_of_a_run_again_is_a_command_that_is_accepted(monkeypatch):
    monkeypatch.chdir(ROOT)
    records = read_records(ROOT / "results/h200/ttft-qwen3-30b-a3b").records
    (command,) = join_commands(record.command for record in records)
    assert {record.cell_key for record in records} <= set(replayed(command, monkeypatch))


@pytest.mark.parametrize(
    "value", ["/a:b,c.json", "https://host:80/x?a=1,2", 'say "so"', " padded ", "plain", '"', "a,", "it's"]
)
def test_a_quoted_value_comes_back_from_a_command(value):
    spec = Spec("minference", {"patterns": value, "last": "1"})
    assert Spec.parse(str(spec)) == spec
    asked = read_command("fpbench latency").pinned(methods=[spec, Spec("dense")])
    assert read_command(asked.command) == asked


@pytest.mark.parametrize("verb", [AccuracyRequest, LatencyRequest])
def test_changes_to_a_model_are_in_its_name_and_in_the_command(verb: type[Request]) -> None:
    options = {"model": "m.gguf", "rope": "yarn:4", "model_config": "rms_norm_eps=1e-5,x=2"}
    asked = verb.parse(options)
    assert asked.model == "m.gguf?rope=yarn:4&rms_norm_eps=1e-5&x=2"
    assert asked == verb.parse({"model": asked.model}) == read_command(asked.command)


@pytest.mark.parametrize("verb", [AccuracyRequest, LatencyRequest, TuneRequest])
def test_arguments_of_loading_are_in_the_name_too(verb: type[Request]) -> None:
    asked = verb.parse({"model": "someone/model", "rope": "yarn:4", "model_arg": "revision=v2,device_map=auto"})
    assert asked.model == "someone/model?rope=yarn:4&revision=v2&device_map=auto"
    with pytest.raises(UsageError, match="give --model"):
        LatencyRequest.parse({"model_arg": "revision=v2"})


ON_VLLM = {"model": "someone/model", "engine": "vllm"}


@pytest.mark.parametrize("verb", [AccuracyRequest, LatencyRequest])
def test_arguments_of_the_engine_come_back_from_a_command(verb: type[Request]) -> None:
    given = ["tensor-parallel-size = 2", 'quantization="fp8"', 'compilation_config={"mode": 3, "a,b": [1, null]}']
    given += ["served_model_name=it's", 'code_revision="2"', "enforce_eager=true"]
    asked = verb.parse(ON_VLLM | {"engine_args": given})
    assert asked.engine_args == [
        'code_revision="2"',
        'compilation_config={"a,b": [1, null], "mode": 3}',
        "enforce_eager=true",
        "quantization=fp8",
        "served_model_name=it's",
        "tensor_parallel_size=2",
    ]
    assert read_command(asked.command) == asked
    assert engine_arguments(asked.engine_args) == {
        "code_revision": "2",
        "compilation_config": {"mode": 3, "a,b": [1, None]},
        "enforce_eager": True,
        "quantization": "fp8",
        "served_model_name": "it's",
        "tensor_parallel_size": 2,
    }
    assert join_commands([asked.command, verb.parse(ON_VLLM).command]) == [asked.command, verb.parse(ON_VLLM).command]


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        (["quantization"], {}, "write key=value"),
        (["=2"], {}, "write key=value"),
        (["a b=2"], {}, "write key=value"),
        (["quantization="], {}, "write key=value"),
        (["max_num_seqs=2", "max-num-seqs=3"], {}, "max_num_seqs is given twice"),
        (["model=other/model"], {}, "fp_bench sets it; give --model"),
        (["attention-backend=FLASH_ATTN"], {}, "fp_bench sets it; methods run in fp_bench's"),
        (["seed=3"], {}, "fp_bench sets it; decoding is greedy"),
        (["load_format=auto"], {"model": "random:someone/model"}, "weights of random:someone/model are made up"),
        (["max_num_seqs=2"], {"engine": "hf"}, "only vLLM takes arguments; give --engine vllm"),
        (["max_num_seqs=2"], {"engine": "openai:http://127.0.0.1:1/v1"}, "only vLLM takes arguments"),
        (["max_num_seqs=\n"], {}, "control characters"),
    ],
)
@pytest.mark.parametrize("verb", [AccuracyRequest, LatencyRequest])
def test_bad_arguments_of_the_engine_are_one_line(verb: type[Request], given: list[str], options, words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        verb.parse(ON_VLLM | options | {"engine_args": given})
    assert "\n" not in str(error.value)


def test_arguments_of_the_engine_from_the_command_line_and_a_file(tmp_path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("engine: vllm\nengine_arg: [max_num_seqs=1, 'compilation_config={\"mode\": 3}']\n")
    for words in (["--config", str(file)], ["--engine", "vllm", "--engine-arg", "a=1", "--engine-arg", "model=x"]):
        done = CliRunner().invoke(app, ["accuracy", *words, "--dry-run"])
        wrong = "vLLM is not installed" if "--config" in words else "--engine-arg model: fp_bench sets it"
        assert wrong in done.stderr.splitlines()[-1]
    done = CliRunner().invoke(app, ["latency", "--ttft", "--engine-arg", "a=1"])
    assert (done.exit_code, "--engine-arg a=1: only vLLM takes arguments" in done.stderr) == (2, True)


def test_changes_need_a_model() -> None:
    assert AccuracyRequest.parse({"rope": "yarn:4"}).model == "embedded?rope=yarn:4"
    with pytest.raises(UsageError, match="give --model"):
        LatencyRequest.parse({"rope": "yarn:4"})
