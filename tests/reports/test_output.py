"""A report goes into files of its own, never through links, never over what is somebody else's."""

import os

import pytest
from typer.testing import CliRunner

from fp_bench.cli import app
from tests.records.records import answers, dense, timed, write


@pytest.fixture
def run(tmp_path, sketched):
    return write(tmp_path / "run", [dense(), timed()])


def report(*words):
    return CliRunner().invoke(app, ["report", *map(str, words)])


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refusal(done):
    assert done.exit_code == 2, done.output
    return done.stderr.splitlines()[-1]


def test_a_page_is_written_alone(run, tmp_path):
    before = contents(run)
    assert report(run, "--out", tmp_path / "new" / "page.html").exit_code == 0
    assert contents(run) == before
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]


def test_a_folder_gets_everything_and_the_run_nothing(run, tmp_path):
    before = contents(run)
    for _ in range(2):
        assert report(run, "--out", tmp_path / "out").exit_code == 0
        assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.md", "report.html", "tables", "plots"}
    assert contents(run) == before


def test_several_runs_in_a_folder_are_one_page(run, tmp_path):
    other = write(tmp_path / "other", answers([1.0, 0.0]))
    assert report(run, other, "--out", tmp_path / "out").exit_code == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.html"]


@pytest.mark.parametrize("name", ["report.md", "report.html", "tables", "plots"])
def test_nothing_is_written_through_a_link(run, tmp_path, name):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine") if "." in name else elsewhere.mkdir()
    (run / name).symlink_to(elsewhere)
    assert f"{run / name} is a link" in refusal(report(run))
    assert elsewhere.read_text() == "mine" if "." in name else not list(elsewhere.iterdir())


def test_a_link_in_place_of_a_file_that_is_ours_is_replaced(run, tmp_path):
    assert report(run).exit_code == 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    for path in (run / "tables" / "latency.csv", run / "tables" / "latency.csv.new"):
        path.unlink(missing_ok=True)
        path.symlink_to(elsewhere)
    assert report(run).exit_code == 0
    assert elsewhere.read_text() == "mine"
    assert not (run / "tables" / "latency.csv").is_symlink()


@pytest.mark.parametrize("name", ["report.md", "report.html"])
def test_a_file_of_the_user_s_is_left(run, name):
    (run / name).write_text("my notes")
    assert f"{run / name} is no report of fpbench's" in refusal(report(run))
    assert (run / name).read_text() == "my notes"


def test_folders_without_a_report_of_ours_are_left(run, tmp_path):
    (tmp_path / "out" / "plots").mkdir(parents=True)
    assert "plots is there without report.md" in refusal(report(run, "--out", tmp_path / "out"))
    assert not list((tmp_path / "out" / "plots").iterdir())


@pytest.mark.skipif(os.getuid() == 0, reason="root writes anywhere")
def test_a_run_that_cannot_be_written_is_reported_elsewhere(run, tmp_path):
    run.chmod(0o500)
    assert "--out writes it elsewhere" in refusal(report(run))
    assert report(run, "--out", tmp_path / "out").exit_code == 0
    run.chmod(0o700)


def test_a_name_that_is_too_long_is_one_line(run, tmp_path):
    for out in (tmp_path / ("x" * 300), tmp_path / ("x" * 300 + ".html"), "/" + "y/" * 3000 + "x.html"):
        assert "File name too long" in refusal(report(run, "--out", out))
    assert "File name too long" in refusal(report(tmp_path / ("x" * 300)))
    done = CliRunner().invoke(app, ["latency", "--lens", "256", "--out", str(tmp_path / ("x" * 300))])
    assert "File name too long" in refusal(done)
