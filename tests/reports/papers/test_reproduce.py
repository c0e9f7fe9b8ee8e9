"""The verb, from records to a page."""

import json

import pytest

from fp_bench.cli.reproducing import _measure
from fp_bench.reports.papers.figure import load_figure
from tests.cli.test_cli import fpbench
from tests.records.records import dense, timed, write

LENGTHS = [1024 * 2**n for n in range(2, 9)]
QWEN = {"q_heads": 32, "kv_heads": 4}


@pytest.fixture
def records(tmp_path):
    """What v1-speedup needs, as the paper has it, but of flashprefill alone."""
    published = dict(zip(LENGTHS, (1.71, 2, 4, 8, 12, 20, 27.78), strict=True))
    fa2 = [dense(10.0, "fa2", seq_len=length, **QWEN) for length in LENGTHS]
    return write(
        tmp_path / "run",
        fa2 + [timed(10 / gain, seq_len=length, density=0.704, **QWEN) for length, gain in published.items()],
    )


def test_list_names_figures_without_records(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = fpbench("reproduce", "--list")
    assert done.exit_code == 0
    assert "v1-speedup" in done.stdout
    assert "xa-density" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.draws
def test_one_figure_becomes_a_page_with_its_plot(tmp_path, records):
    done = fpbench("reproduce", "v1-speedup", "--records", records, "--out", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.output
    verdicts = [row["verdict"] for row in json.loads(done.stdout)]
    assert verdicts == ["reproduced", "reproduced", "not measured", "not measured", "not measured"]
    page = (tmp_path / "out" / "reproduce.md").read_text()
    assert (
        "| The published speed-ups at 4K and 256K | reproduced | 4K 1.7x, 256K 28x; within a factor of 1.35 |" in page
    )
    assert "xattention at 4K: no record" in page
    assert (tmp_path / "out" / "plots" / "v1-speedup.png").stat().st_size > 10_000
    drawn = (tmp_path / "out" / "plots" / "v1-speedup.csv").read_text()
    assert "published,flashprefill,262144,27.78" in drawn
    assert "ours,flashprefill,262144,27.78" in drawn


def test_nothing_measured_is_said_by_the_exit_code(tmp_path, records):
    done = fpbench("reproduce", "xa-ruler", "--records", records, "--out", tmp_path / "out")
    assert done.exit_code == 4
    assert "no records with suite ruler" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("v1-sppedup",), "did you mean 'v1-speedup'"),
        (("--records", "nowhere"), "nowhere holds no records.jsonl"),
        ((), "give --records or --measure"),
        (("v1-kernel", "--measure"), "v1-kernel has no command"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    done = fpbench("reproduce", *words)
    assert done.exit_code == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_measuring_runs_the_figures_command(tmp_path, records):
    command = "latency --lens 128 --shape 1/1/64 --rounds 1 --samples 1 --no-isolate --methods dense"
    figure = load_figure("v1-speedup").model_copy(update={"commands": [command]})
    (folder,) = _measure(figure, tmp_path / "fresh")
    assert folder == tmp_path / "fresh" / "v1-speedup"
    assert len((folder / "records.jsonl").read_text().splitlines()) == 1
