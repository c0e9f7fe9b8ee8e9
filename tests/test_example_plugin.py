"""The package in examples/plugin, as a user has it: installed, checked, run through the command line, documented."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fp_bench.records.store import read_records
from tests.cli.test_cli import fpbench
from tests.jobs.accuracy.models import save_model

ROOT = Path(__file__).parents[1]
PLUGIN = ROOT / "examples" / "plugin"


def python(*words, **variables):
    command = [sys.executable, *map(str, words)]
    environment = os.environ | variables
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Install the package into a folder of its own, without the network; return the folder."""
    place = tmp_path_factory.mktemp("site")
    offline = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    python("-m", "pip", "install", *offline, "--target", place, PLUGIN)
    return place


def test_it_conforms_by_its_own_tests(installed):
    alone = ["-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", PLUGIN]
    assert "2 passed" in python("-m", "pytest", *alone, PLUGIN, PYTHONPATH=f"{installed}:{ROOT}")


def test_its_method_answers_its_suite(installed, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(installed)
    model = save_model(tmp_path / "model")
    asked = ["--methods", "dense,sink_and_window:window_blocks=2", "--lens", "1k", "--samples", 2, "--no-isolate"]
    done = fpbench("accuracy", "--suite", "ledger", *asked, "--model", model, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    records = read_records(tmp_path / "run").records
    assert len(records) == 4
    assert {(record.method, record.suite, record.status) for record in records} == {
        ("dense", "ledger", "ok"),
        ("sink_and_window", "ledger", "ok"),
    }
    assert {record.density < 1 for record in records if record.method == "sink_and_window"} == {True}
    assert "sink_and_window" in fpbench("methods").output


@pytest.mark.parametrize("page", ["add-a-method", "add-a-suite"])
def test_every_block_of_a_page_is_in_the_package(page):
    text = (ROOT / "docs" / f"{page}.md").read_text()
    files = [file.read_text() for file in PLUGIN.rglob("*") if file.suffix in (".py", ".toml")]
    blocks = re.findall(r"```(?:python|toml)\n(.*?)```", text, flags=re.S)
    assert len(blocks) == 3
    for block in blocks:
        assert any(block.strip() in file for file in files), block
