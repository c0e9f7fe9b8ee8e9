"""`fpbench tune` on the embedded model: what it finds, writes, reuses and refuses."""

import pytest
import yaml
from typer.testing import CliRunner

from fp_bench.calibration import tune as tuning
from fp_bench.calibration.request import TuneRequest
from fp_bench.calibration.search import settings
from fp_bench.calibration.tuned import Tuned, verdicts
from fp_bench.cli.front import app
from fp_bench.records.reading import read_records

SHORT = "tune --lens 384 --methods streaming --max-kl 0.5 --samples 4 --dtype fp32 --no-isolate --out"


@pytest.fixture
def few(monkeypatch):
    """Four settings and two held-out samples, so that a search takes seconds."""
    monkeypatch.setattr(tuning, "settings", lambda spec, knob: settings(spec, knob, 4))
    monkeypatch.setattr(tuning, "HELD_OUT", 2)


def invoke(words):
    from fp_bench.cli import front  # noqa: F401  registers the verbs

    return CliRunner().invoke(app, words.split() if isinstance(words, str) else words)


def test_it_finds_a_setting_and_says_what_it_costs_and_another_limit_reuses_the_records(tmp_path, few):
    first = invoke([*SHORT.split(), str(tmp_path)])
    assert first.exit_code == 0, first.output
    assert "fastest" in first.output or "tie" in first.output
    written = yaml.safe_load((tmp_path / "tuned.yaml").read_text())
    assert written["model"] == "embedded"
    assert "dense" in written["methods"]["384"]
    assert any(label.startswith("streaming") for label in written["methods"]["384"])
    assert (tmp_path / "tuned.png").exists()
    before = len(read_records(tmp_path).records)
    assert invoke([*SHORT.split(), str(tmp_path)]).exit_code == 0
    assert len(read_records(tmp_path).records) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("tune --methods dense", "no parameter to tune"),
        ("tune --max-kl 0.1 --min-recall 0.9", "two limits"),
        ("tune --max-kl 0", "greater than 0"),
        ("tune --methods nope", "unknown method 'nope'"),
        ("tune --text /nowhere.txt", "cannot be read"),
    ],
)
def test_bad_words_are_one_line(words, said, tmp_path):
    result = invoke([*words.split(), "--out", str(tmp_path / "run")])
    assert result.exit_code in (2, 3)
    assert said in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_a_text_that_is_too_short_says_how_long_it_has_to_be(tmp_path):
    text = tmp_path / "short.txt"
    text.write_text("The road is long. " * 50)
    result = invoke(["tune", "--lens", "768", "--text", str(text), "--out", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert "give a longer text" in result.output


def test_times_that_cannot_be_told_apart_are_ties():
    def timed(label, *rounds):
        return Tuned(label, 1024, label, None, rounds_ms=rounds)

    found = [timed("a", 10.0, 10.1, 9.9), timed("b", 10.05, 9.95, 10.1), timed("c", 20.0, 20.1, 19.9)]
    assert verdicts(found) == ["fastest", "tie with the fastest", "2.00x the fastest"]
    assert verdicts([Tuned("a", 1024, None, "no setting meets the limit")]) == ["no setting meets the limit"]


def test_each_length_is_timed_with_the_settings_found_at_it():
    request = TuneRequest(lens="1k,2k", methods="flashprefill,streaming", max_kl=0.1, samples=4)
    todo = tuning.searches(request)
    free, dear = dict.fromkeys(range(4), 0.0), dict.fromkeys(range(4), 1.0)
    losses = {
        (search.length, str(setting)): free if search.length == 2048 else dear
        for search in todo
        for setting in search.candidates
    }
    assert tuning.chosen(request, todo, losses, 1024) == []
    sparsest = [search.candidates[-1] for search in todo if search.length == 2048]
    assert tuning.chosen(request, todo, losses, 2048) == sparsest
