import subprocess
import sys
from types import SimpleNamespace

import pytest

from fp_bench.cli.listings.methods import method_tables
from fp_bench.cli.listings.suites import suite_table
from fp_bench.methods.registry import BUILTIN_METHODS
from fp_bench.suites.registry import BUILTIN_SUITES
from tests.cli.test_cli import fpbench


def rows(tables, title):
    (found,) = [table for table in tables if table.title.startswith(title)]
    return {row[0]: list(row[1:]) for row in found.rows}


def test_every_suite_is_a_row_with_what_it_needs():
    found = rows([suite_table()], "Suites")
    assert set(BUILTIN_SUITES) <= set(found)
    assert found["probe"][:2] == ["9", "nothing"]
    assert "hub" in found["longbench"][1]
    assert "path=" in found["ruler@files"][1]


def test_suites_are_listed_without_torch():
    code = "import sys; from fp_bench.cli import app\ntry: app(['suites'])\nexcept SystemExit: pass\n"
    code += "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == "[]"
    assert "ruler@nvidia" in said


def test_one_suite_in_full():
    done = fpbench("suites", "infinitebench")
    assert done.exit_code == 0
    for word in ("passkey", "only when named", "max_prompt", "at least 2"):
        assert word in done.stdout
    refused = fpbench("suites", "rulr")
    assert refused.exit_code == 2
    assert "did you mean 'ruler'" in refused.stderr


def test_tasks_list_prints_the_tasks_and_measures_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = fpbench("accuracy", "--suite", "ruler,needle", "--tasks", "list")
    assert done.exit_code == 0
    assert "niah_multikey_3" in done.stdout
    assert not (tmp_path / "runs").exists()


def test_one_method_in_full():
    tables = method_tables("flashprefill")
    assert "alpha times its row's maximum" in rows(tables, "Method")["rule"][0]
    parameters = rows(tables, "Parameters")
    assert parameters["alpha"][:2] == ["0.12", "at least 0"]
    assert parameters["rule"][1] == "max, topk, topp"
    assert parameters["correction"][0] == "false"
    assert rows(tables, "Presets")["llama-3.1-8b"] == ["alpha=0.18"]
    assert rows(tables, "Backends")["torch"][0] == "torch"
    refused = rows(tables, "Not supported")
    assert any(call.startswith("head_dim 16") and "128" not in call for call in refused)


@pytest.mark.parametrize("name", sorted(BUILTIN_METHODS))
def test_what_a_method_does_not_take_is_what_it_says_itself(name, monkeypatch):
    monkeypatch.setattr("fp_bench.cli.listings.machine.Trials.tried", lambda *_: ("", ""))
    refused = rows(method_tables(name), "Not supported")
    assert all(reason for (reason,) in refused.values())
    assert bool(refused) == (name != "dense")


def test_an_unknown_method_is_refused_with_a_near_name():
    done = fpbench("methods", "flashprefil")
    assert done.exit_code == 2
    assert "did you mean 'flashprefill'" in done.stderr


def test_doctor_says_of_a_backend_what_a_run_would(monkeypatch):
    from fp_bench.cli.listings.machine import Trial
    from fp_bench.methods.registry import Spec

    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    for backend in ("hopper", "triton"):
        runs, why_not = Trial().run(Spec("flexprefill"), backend)
        assert (runs, why_not.partition(";")[0]) == ("", f"backend {backend}: there is no GPU")
    assert Trial().run(Spec("flexprefill"), "torch") == ("torch", "")


@pytest.mark.parametrize(
    ("torch_here", "transformers_here", "marks"),
    [
        ("2.15.0+cu132", "5.24.0", ["no", "yes", "no"]),
        ("2.15.0+cu132", "5.2.4", ["no", "no", "no", "yes, and not tested"]),
    ],
)
def test_doctor_marks_the_tested_versions_that_are_here(monkeypatch, torch_here, transformers_here, marks):
    from fp_bench.cli.listings import machine

    monkeypatch.setattr(machine.platform, "python_version", lambda: "3.11.7")
    monkeypatch.setattr(machine.torch, "__version__", torch_here)
    monkeypatch.setattr(machine, "installed", {"triton": "3.9.0", "transformers": transformers_here}.get)
    monkeypatch.setattr(machine, "Machine", SimpleNamespace(here=lambda: SimpleNamespace(gpu=None)))
    assert [row[-1] for row in machine.tested_table().rows] == marks
