"""A method of a plug-in: its own source is part of which code measured a cell, and its name is its own."""

import importlib
import sys

import pytest

from fp_bench.errors import UnavailableError
from fp_bench.jobs.candidate import Candidate
from fp_bench.jobs.latency.plan import make_plan
from fp_bench.jobs.request import LatencyRequest
from fp_bench.methods.registry import Spec, create_method
from fp_bench.records.environment import check_code, code_version
from fp_bench.records.store import RecordStore

SOURCE = """
from fp_bench.methods.dense import Dense
class Mine(Dense):
    name = {name!r}
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install plug-ins of one method each, as a third party would."""

    def installed(package, entry, source):
        root = tmp_path / package
        about = root / f"{package}-1.0.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[fp_bench.methods]\n{entry} = {package}:Mine\n")
        (root / f"{package}.py").write_text(source)
        monkeypatch.syspath_prepend(root)
        monkeypatch.delitem(sys.modules, package, raising=False)
        return root / f"{package}.py"

    return installed


def plan_of(name):
    asked = {"lens": "256", "shape": "1/1/64", "rounds": 1, "samples": 1, "methods": name}
    return make_plan(LatencyRequest.parse(asked))


def test_an_edited_plug_in_is_measured_again(install, tmp_path):
    file = install("mine_edited", "edited", SOURCE.format(name="edited"))
    before = plan_of("edited").groups[0].cells[0]
    with RecordStore(tmp_path / "run") as store:
        store.append(before.timed(0, {"median_ms": 1.0}))
        assert store.settled(before.key, before.asked["code_version"]) == {0}
        file.write_text(file.read_text() + "    # another line\n")
        now = plan_of("edited").groups[0].cells[0]
        assert now.key == before.key
        assert store.settled(now.key, now.asked["code_version"]) == frozenset()


def test_what_lies_beside_a_plug_in_s_module_counts_in_a_package_alone(install):
    file = install("mine_package", "packaged", "")
    file.unlink()
    package = file.with_suffix("")
    package.mkdir()
    (package / "__init__.py").write_text(SOURCE.format(name="packaged"))
    importlib.invalidate_caches()
    cls = type(create_method(Spec("packaged")))
    before = code_version(cls)
    (file.parent / "not_mine.py").write_text("")
    assert code_version(cls) == before
    (package / "kernel.cu").write_text("//")
    assert code_version(cls) != before
    with pytest.raises(RuntimeError, match="the code changed during the run"):
        check_code(before, cls)


def test_built_in_methods_are_of_the_package_s_code():
    assert Candidate.of(Spec("dense"), "auto").code_version == code_version()


def test_a_name_that_is_inherited_is_refused_with_both_packages_named(install):
    install("mine_nameless", "my_dense", "from fp_bench.methods.dense import Dense as Mine")
    with pytest.raises(UnavailableError, match=r"of mine_nameless .*calls itself 'dense', a name of fp_bench"):
        create_method(Spec("my_dense"))


def test_one_name_of_two_packages_is_refused(install):
    install("mine_one", "twice", SOURCE.format(name="twice"))
    install("mine_two", "twice", SOURCE.format(name="twice"))
    with pytest.raises(UnavailableError, match=r"'twice' comes from several packages, mine_one \(.*\), mine_two"):
        create_method(Spec("twice"))
