import getpass
import json
import platform
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from fp_bench.records.environment import Gpu, code_version, environment, installed

OURS = 17


def test_it_is_json_and_names_no_person_host_or_path():
    text = json.dumps(environment(Gpu("00000000-0000-0000-0000-000000000000"), cuda=None))
    for secret in {platform.node(), str(Path.home()), str(Path.cwd())} - {"/"}:
        assert secret not in text
    assert getpass.getuser() not in json.loads(text).values()


def test_a_gpu_the_driver_does_not_know_has_null_facts():
    gpu = Gpu("00000000-0000-0000-0000-000000000000")
    assert gpu.facts()["name"] is None
    assert gpu.state()["sm_mhz"] is None
    assert gpu.problem


@pytest.mark.parametrize(
    ("listed", "others"),
    [
        ([], 0),
        ([OURS], 0),
        ([OURS, 4001], 1),
        ([4001], 0),  # a container: the one process is ours under the host's number
        ([4001, 4002, 4003], 2),
        (None, None),
    ],
)
def test_processes_of_others_are_counted_in_containers_too(monkeypatch, listed, others):
    processes = None if listed is None else [SimpleNamespace(pid=pid) for pid in listed]
    answers = {pynvml.nvmlDeviceGetComputeRunningProcesses: processes}
    monkeypatch.setattr(Gpu, "_ask", lambda _gpu, question, *_: answers.get(question))
    assert Gpu("any").state([OURS])["other_processes"] == others


def test_versions_come_without_importing():
    assert installed("torch")
    assert installed("no-such-package") is None


def test_the_code_version_is_stable():
    assert code_version() == code_version()


def test_the_commit_of_a_repository_that_the_caller_points_to_is_not_ours(tmp_path, monkeypatch):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    ours = environment(None, cuda=None)["git"]
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    assert environment(None, cuda=None)["git"] == ours
