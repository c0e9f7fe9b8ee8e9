import getpass
import json
import platform
from pathlib import Path

from fp_bench.results.environment import Gpu, code_version, environment, installed


def test_it_is_json_and_names_no_person_host_or_path():
    text = json.dumps(environment(Gpu("00000000-0000-0000-0000-000000000000"), cuda=None))
    for secret in {platform.node(), str(Path.home()), str(Path.cwd())} - {"/"}:
        assert secret not in text
    assert getpass.getuser() not in json.loads(text).values()


def test_a_gpu_the_driver_does_not_know_has_null_facts():
    gpu = Gpu("00000000-0000-0000-0000-000000000000")
    assert gpu.facts()["name"] is None
    assert gpu.state()["sm_mhz"] is None


def test_versions_come_without_importing():
    assert installed("torch")
    assert installed("no-such-package") is None


def test_the_code_version_is_stable():
    assert code_version() == code_version()
