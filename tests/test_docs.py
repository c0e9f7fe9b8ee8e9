"""README and docs as a reader uses them: every command, block of code and link.

`pytest -v` names each command with what it is held to: run, planned (with --dry-run), or only parsed, and why. Parsing
is by the real command line, with the names and parameters of methods and suites.
"""

import importlib.util
import inspect
import pydoc
import re
import shlex
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import typer
import yaml
from transformers import AutoModelForCausalLM

import fp_bench
from fp_bench.cli import app
from fp_bench.methods.base import AttentionCall, Method
from fp_bench.methods.registry import Registry, Spec, methods
from fp_bench.sizes import parse_lengths
from fp_bench.suites.registry import suites
from tests.cli.test_cli import fpbench
from tests.jobs.accuracy.models import save_model
from tests.kernels.calls import Case

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("results/*.md"), *ROOT.glob("fp_bench/models/*/*.md")]
PLUGIN = ROOT / "examples" / "plugin"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`((?:fpbench|make|pip|python -m|timeout \d+ python -m) [^`]+)`(?!`)")
SHELL = re.compile(r"(?:[\w./]+/)?(fpbench|make|pip|python|timeout|for|done)\b")
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")

MADE_UP = {"sink_and_window", "ledger"}
"""Methods and suites that pages teach to write; tests/test_example_plugin.py installs and runs them."""
PLACEHOLDERS = {"...", "NAME"}
NOT_HERE = {
    "--model": "needs a model from elsewhere",
    "--devices": "needs several GPUs",
    "--ray": "needs a cluster",
    "--config": "needs a file",
    "captured:": "needs a capture",
    **dict.fromkeys(("text=", "--text", "path=", "squad=", "haystack="), "needs a file"),
    **dict.fromkeys(MADE_UP, "needs a plug-in"),
}
"""What keeps a command of latency or accuracy from being planned here -> why."""


class Snippet(NamedTuple):
    where: str
    kind: str
    text: str


def found(pattern, page, text, kind=None):
    for match in pattern.finditer(text):
        where = f"{page.relative_to(ROOT).as_posix()}:{text.count(chr(10), 0, match.start()) + 1}"
        yield Snippet(where, kind or match[1], match[match.lastindex])


def blocks(*kinds):
    """Return the fenced blocks of some kinds in all pages."""
    everything = [block for page in PAGES for block in found(FENCE, page, page.read_text())]
    return [pytest.param(block, id=block.where) for block in everything if block.kind in kinds]


def shell_commands():
    """Yield where it stands and the words of every line of a shell, in blocks and in running text."""
    for page in PAGES:
        text = page.read_text()
        without_blocks = FENCE.sub(lambda block: "\n" * block[0].count("\n"), text)
        for where, _, command in found(INLINE, page, without_blocks, "inline"):
            yield where, shlex.split(command)
        for where, _, block in found(FENCE, page, text):
            for line in block.replace("\\\n", "").splitlines():
                if SHELL.match(line.removeprefix("  ")):
                    yield where, shlex.split(line.replace("$round", "1").partition(" > ")[0], comments=True)


def commands_of_fpbench():
    """Return every command of fpbench once, named by where it first stands and what it is held to."""
    first = {}
    for where, (program, *words) in shell_commands():
        if program.endswith("fpbench") and len(words) > 1:
            first.setdefault(tuple(words), where)
    return [pytest.param(words, id=f"{where}, {words[0]}: {held_to(words)}") for words, where in first.items()]


def held_to(words):
    if words[0] == "compare" and all((ROOT / run).is_dir() for run in words[1:3]):
        return "run"
    if words[0] not in ("latency", "accuracy"):
        return "parsed, takes long or needs a run"
    if PLACEHOLDERS & set(words):
        return "parsed, an excerpt"
    if "list" in words:
        return "run"
    missing = (why for what, why in NOT_HERE.items() if any(what in word for word in words))
    return next((f"parsed, {why}" for why in missing), "planned")


def parsed(words):
    """Return the options of a command line, by the real one; nothing is run."""
    group = typer.main.get_command(app)
    whole = group.make_context("fpbench", [*words])
    name, verb, rest = group.resolve_command(whole, [*words])
    return verb.make_context(name, rest, parent=whole).params


def check_specs(text: str, registry: Registry):
    for spec in map(Spec.parse, text.split(",")):
        if spec.name not in MADE_UP | PLACEHOLDERS:
            given = {key: value for key, value in spec.options.items() if key != "backend"}
            registry.load(spec.name).Params.parse(spec.name, given)


@pytest.mark.parametrize("words", commands_of_fpbench())
def test_every_command_of_fpbench_is_one(words, tmp_path, monkeypatch):
    for plan in ("jobs.cost", "jobs.latency.plan"):
        monkeypatch.setattr(f"fp_bench.{plan}._seconds_per_flop", lambda *_: 1e-12)
    if "--config" in words:
        (tmp_path / "run.yaml").write_text("lens: 4k")
        words = [str(tmp_path / word) if word == "run.yaml" else word for word in words]
    options = parsed(words)
    for option, registry in (("method", methods), ("methods", methods), ("suite", suites)):
        check_specs(options.get(option) or "...", registry)
    parse_lengths(options.get("lens") or "4k")
    if held_to(words) == "run":
        assert fpbench(*words).exit_code == 0
    if held_to(words) == "planned":
        fewer = ["--samples", "1"] if words[0] == "accuracy" else []  # the plan names every sample
        done = fpbench(*words, *fewer, "--dry-run", "--out", tmp_path)
        assert (done.exit_code, "plan: " in done.stderr) == (0, True), done.output


def other_commands():
    for where, (program, *words) in shell_commands():
        if program.endswith("fpbench") and len(words) > 1:
            continue
        yield pytest.param([program, *words], id=f"{where}: {program} {' '.join(words)}")


@pytest.mark.parametrize("words", [*other_commands()])
def test_every_other_line_of_a_shell_names_what_there_is(words):
    if words[0] == "timeout":
        words = words[2:]
    match words:
        case ["fpbench", verb]:
            assert verb in typer.main.get_command(app).commands
        case ["make", *targets]:
            known = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
            assert set(targets) <= set(known)
        case ["pip", "install", *packages]:
            for name, _, extra in (package.rstrip("]").partition("[") for package in packages):
                assert not extra or (name == "fp_bench" and extra in PROJECT["project"]["optional-dependencies"])
        case ["python", "-m", "pytest", "-m", marker, *_]:
            known = [line.partition(":")[0] for line in PROJECT["tool"]["pytest"]["ini_options"]["markers"]]
            assert marker in [*known, "hypothesis"]
        case ["python", "-m", module, *options] if (ROOT / module.partition(".")[0]).is_dir():
            spec = importlib.util.find_spec(module)
            if spec.submodule_search_locations:
                spec = importlib.util.find_spec(f"{module}.__main__")
            source = Path(spec.origin).read_text()
            assert [option for option in options if option.startswith("--") and f'"{option}"' not in source] == []
        case ["python", "-m", module, *_]:
            extras = PROJECT["project"]["optional-dependencies"].values()
            assert any(package.startswith(module.partition(".")[0]) for extra in extras for package in extra)
        case _:
            assert words[0] in ("for", "done"), f"{' '.join(words)} is of no kind that is checked here"


@pytest.fixture
def surroundings(tmp_path, monkeypatch):
    """What the blocks of a page take as given."""
    q, k, v = Case(q_len=300, kv_len=300).tensors()
    model = AutoModelForCausalLM.from_pretrained(save_model(tmp_path / "model"))
    monkeypatch.syspath_prepend(PLUGIN)
    import fp_bench_example.ledger
    import fp_bench_example.sink_and_window

    from fp_bench.testing import check_method, check_suite

    conformance = {"check_method": check_method, "check_suite": check_suite}
    return {
        "README.md": {"q": q, "k": k, "v": v, "model": model, "prompt": {**model.dummy_inputs, "max_new_tokens": 2}},
        "docs/add-a-method.md": vars(fp_bench_example.sink_and_window) | conformance,
        "docs/add-a-suite.md": vars(fp_bench_example.ledger) | conformance,
        "docs/serving.md": a_paged_batch(),
    }


def a_paged_batch():
    """Two sequences of 20 and 50 keys, 20 and 10 of them asked now, in pages of 16."""
    pages = torch.randn((2, 6, 16, 1, 64), generator=torch.Generator().manual_seed(0))
    return {
        "q": torch.randn((30, 2, 64)), "k_pages": pages[0], "v_pages": pages[1],
        "cu_seqlens_q": torch.tensor([0, 20, 30], dtype=torch.int32),
        "kv_lens": torch.tensor([20, 50], dtype=torch.int32),
        "block_table": torch.tensor([[1, 0, 0, 0], [2, 3, 4, 5]], dtype=torch.int32),
        "T": 30, "M": 20, "L": 50,
    }  # fmt: skip


@pytest.mark.parametrize("block", blocks("python"))
def test_every_block_of_python_runs(block, surroundings):
    """Tests that a block defines are run where tests/test_example_plugin.py runs those of the package."""
    page = block.where.partition(":")[0]
    given = surroundings[page]
    names = given | {"__name__": "block"}
    exec(compile(block.text, block.where, "exec"), names)
    call = AttentionCall(*Case(q_len=300, kv_len=300).tensors(), scale=0.125)
    for name, made in names.items():
        if made is given.get(name):
            continue
        if isinstance(made, type) and issubclass(made, Method) and not inspect.isabstract(made):
            assert made()(call).shape == call.q.shape


@pytest.mark.parametrize("block", blocks("toml"))
def test_every_entry_point_is_in_a_group_that_is_read(block):
    for group, named in tomllib.loads(block.text)["project"]["entry-points"].items():
        assert group in (methods.group, suites.group)
        assert set(named) <= MADE_UP


@pytest.mark.parametrize("block", blocks("yaml"))
def test_every_run_as_a_file_is_planned(block, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(block.text)
    done = fpbench("latency", "--config", path, "--dry-run")
    assert done.exit_code == 0, done.output
    assert f"plan: {', '.join(yaml.safe_load(block.text)['methods'])} at" in done.stderr


def test_the_package_its_citation_and_its_changes_are_of_one_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]
    newest = re.search(r"^## (\S+)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert {fp_bench.__version__, cited, newest and newest[1]} == {PROJECT["project"]["version"]}


def test_the_page_of_the_interface_has_every_exported_name():
    listed = re.findall(r"^::: ([\w.]+)$", (ROOT / "docs" / "api.md").read_text(), flags=re.MULTILINE)
    assert all(pydoc.locate(name) is not None for name in listed)
    assert {name.rpartition(".")[2] for name in listed} >= set(fp_bench.__all__) - {"__version__"}


def test_no_block_is_of_a_kind_that_nothing_checks():
    assert {
        block.values[0].kind for page in [blocks("", "bash", "sh", "python", "toml", "yaml")] for block in page
    } == {found_kind for page in PAGES for found_kind, _ in FENCE.findall(page.read_text())}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page):
    links = LINK.findall(FENCE.sub("", page.read_text()))
    assert [link for link in links if not (page.parent / link).exists()] == []
