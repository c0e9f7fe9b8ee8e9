"""What a newcomer types first: --help, completion, short options."""

import typer

from fp_bench.cli import app
from fp_bench.cli.front import VERBS
from tests.cli.test_cli import fpbench, in_process, plugin_path


def command(name):
    return typer.main.get_command(app).commands[name]


def test_the_summary_of_every_verb_is_whole():
    shown = " ".join(fpbench("--help").stdout.split())
    assert "..." not in shown.partition("Commands:")[2]
    summaries = {name: command(name).help.partition("\n\n")[0] for name in VERBS}
    assert all(f"{name} {' '.join(summary.split())}" in shown for name, summary in summaries.items())


def test_verbs_stand_in_their_order_and_none_is_left_out():
    assert sorted(VERBS) == sorted(typer.main.get_command(app).commands)
    lines = fpbench("--help").stdout.partition("Commands:")[2].splitlines()
    assert [line.split()[0] for line in lines if line[:3].strip()] == list(VERBS)


def test_a_shell_completes_verbs_and_options():
    environment = plugin_path("plugin") | {
        "_FPBENCH_COMPLETE": "complete_bash",
        "COMP_WORDS": "fpbench sam",
        "COMP_CWORD": "1",
    }
    assert in_process(env=environment).stdout.split() == ["samples"]
    environment |= {"COMP_WORDS": "fpbench latency --me", "COMP_CWORD": "2"}
    assert in_process(env=environment).stdout.split() == ["--methods"]


def test_common_options_have_one_letter(tmp_path):
    words = ["-l", "256", "-m", "dense", "-n", "1", "-r", "1", "-o", tmp_path, "--shape", "2/1/64", "--dry-run"]
    done = fpbench("latency", *words)
    assert done.exit_code == 0
    assert "plan: dense at 256; structured:version=2 inputs" in done.stderr
    for name in VERBS:
        short = [option for each in command(name).params for option in each.opts if option[1] != "-"]
        assert len(short) == len(set(short))


def test_a_model_folder_that_is_not_there_is_named_so(tmp_path):
    for verb in ("accuracy", "capture"):
        refused = fpbench(verb, "--model", tmp_path / "none", "--out", tmp_path / "out")
        assert refused.exit_code == 3
        assert refused.stderr.splitlines()[-1] == f"fpbench: model folder {tmp_path / 'none'} does not exist"


def test_a_range_whose_end_is_not_measured_says_what_is(tmp_path):
    done = fpbench("latency", "-l", "300-700", "--shape", "2/1/64", "--dry-run", "-o", tmp_path)
    assert "range 300-700 is 300, 600: lengths double, so 700 is not measured" in done.stderr
    assert "at 300, 600;" in done.stderr


def test_the_embedded_model_has_one_default_alpha(tmp_path):
    for words in (["accuracy", "-s", "probe", "-n", "1", "-l", "512"], ["latency", "--ttft", "-l", "256"]):
        done = fpbench(*words, "--dry-run", "-o", tmp_path / "run")
        assert "flashprefill:alpha=0.18" in done.stderr
