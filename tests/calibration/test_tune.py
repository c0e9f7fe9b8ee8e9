"""`fpbench tune` on the embedded model: what it finds, writes, reuses and refuses."""

import shutil

import pytest
import yaml
from typer.testing import CliRunner

from fp_bench.calibration import tune as tuning
from fp_bench.calibration.request import TuneRequest
from fp_bench.calibration.search import settings
from fp_bench.calibration.tuned import Tuned, answer, gain_of_layers, verdicts
from fp_bench.cli.front import app
from fp_bench.jobs.latency import plan as latency_plan
from fp_bench.jobs.latency import ttft_engine
from fp_bench.records.reading import read_records
from tests.models.hf_engine import HfEngine

SHORT = "tune --lens 384 --methods streaming --max-kl 0.5 --samples 4 --dtype fp32 --no-isolate --out"


def take_few(patch):
    """Four settings and two held-out samples, so that a search takes seconds."""
    patch.setattr(tuning, "settings", lambda spec, knob: settings(spec, knob, 4))
    patch.setattr(tuning, "HELD_OUT", 2)


@pytest.fixture
def few(monkeypatch):
    take_few(monkeypatch)


@pytest.fixture(scope="module")
def first_search(tmp_path_factory):
    """The folder and the result of a search, made once."""
    folder = tmp_path_factory.mktemp("tune") / "run"
    with pytest.MonkeyPatch.context() as patch:
        take_few(patch)
        return folder, invoke([*SHORT.split(), str(folder)])


@pytest.fixture
def searched(first_search, few, tmp_path):
    """A copy of that folder, to go on in."""
    return shutil.copytree(first_search[0], tmp_path / "run")


def invoke(words):
    from fp_bench.cli import front  # noqa: F401  registers the verbs

    return CliRunner().invoke(app, words.split() if isinstance(words, str) else words)


def test_it_finds_a_setting_and_says_what_it_costs_and_another_limit_reuses_the_records(first_search, searched):
    first = first_search[1]
    assert first.exit_code == 0, first.output
    assert "fastest" in first.output or "tie" in first.output
    written = yaml.safe_load((searched / "tuned.yaml").read_text())
    assert written["model"] == "embedded"
    assert "dense" in written["methods"]["384"]
    assert any(label.startswith("streaming") for label in written["methods"]["384"])
    assert (searched / "tuned.png").exists()
    page = (searched / "report.html").read_text()
    assert "Which prefill method for embedded, with KL at most" in page
    assert page.index("At 384, with KL at most") < page.index('id="plots"')
    before = len(read_records(searched).records)
    assert invoke([*SHORT.split(), str(searched)]).exit_code == 0
    assert len(read_records(searched).records) == before


def test_trials_of_another_text_in_the_same_folder_do_not_count(tmp_path, searched):
    (text := tmp_path / "text.txt").write_text("The lamp burned in the window until the morning came. " * 400)
    before = len(read_records(searched).records)
    assert invoke([*SHORT.split(), str(searched), "--text", str(text)]).exit_code == 0
    added = read_records(searched).records[before:]
    assert {record.kind for record in added} == {"accuracy", "latency"}
    assert all(":text=" in record.input for record in added if record.kind == "latency")


def test_settings_found_in_transformers_are_timed_in_vllm(searched, monkeypatch):
    """Times of transformers in the same folder do not count there, and the search is not repeated."""
    words = [*SHORT.split(), str(searched)]
    before = read_records(searched).records
    for module in (tuning, latency_plan):
        monkeypatch.setattr(module, "check_engine", lambda *_: None)
    monkeypatch.setattr(ttft_engine, "VllmEngine", HfEngine)
    monkeypatch.setattr(HfEngine, "attention_milliseconds", lambda _, run: [run(), 4321.0][1])
    result = invoke([*words, "--engine", "vllm", "--engine-arg", "max_num_seqs=1"])
    assert result.exit_code == 0, result.output
    assert "times in vllm" in result.output
    new = read_records(searched).records[len(before) :]
    assert {(record.kind, record.input) for record in new} == {("latency", "prompt:embedded@vllm?max_num_seqs=1")}
    assert {record.label for record in new} == {record.label for record in before if record.kind == "latency"}
    assert result.output.count("4321") == 2
    assert "4321" not in invoke(words).output


def test_a_dry_run_says_how_long_it_may_take_and_measures_nothing(tmp_path):
    result = invoke("tune --lens 1k --methods streaming --samples 4 --dry-run --out " + str(tmp_path / "run"))
    assert result.exit_code == 0, result.output
    assert "1 search over at most" in result.output
    assert "cost: about" in result.output
    assert not (tmp_path / "run").exists()


def tuned(method, length, label, ttft, **costs):
    return Tuned(method, length, label, None if label else "no setting meets the limit", rounds_ms=ttft, **costs)


def test_the_answer_names_the_fastest_its_ties_and_who_has_no_setting():
    found = [
        tuned("dense", 4096, "dense", (200.0, 202.0, 201.0), density=1.0, kl=0.0),
        tuned("flashprefill", 4096, "flashprefill:alpha=0.2", (100.0, 101.0, 102.0), density=0.3, kl=0.015),
        tuned("rbs", 4096, "rbs:alpha=0.2", (101.0, 102.0, 100.5), density=0.3, kl=0.015),
        tuned("stem", 4096, None, ()),
    ]
    first, second = answer(found, "KL at most 0.02 nats")
    assert first.startswith(
        "At 4K, with KL at most 0.02 nats, run `flashprefill:alpha=0.2`: the first token takes 101 ms"
    )
    assert "1.99x the speed with dense attention" in first
    assert second == "As fast: `rbs:alpha=0.2`. Without a setting: stem."


def test_the_answer_says_so_where_dense_attention_is_fastest_or_nothing_was_timed():
    dense = tuned("dense", 4096, "dense", (100.0, 101.0, 102.0), density=1.0, kl=0.0)
    slow = tuned("flashprefill", 4096, "flashprefill", (200.0, 202.0, 201.0), density=0.3, kl=0.01)
    assert answer([dense, slow], "a limit")[0] == (
        "At 4K, with a limit, no sparse method is faster than dense attention."
    )
    assert answer([tuned("stem", 4096, None, ())], "a limit") == ["At 4K, nothing was timed with a limit."]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("tune --methods dense", "no parameter to tune"),
        ("tune --max-kl 0.1 --min-recall 0.9", "two limits"),
        ("tune --max-kl 0", "greater than 0"),
        ("tune --methods nope", "unknown method 'nope'"),
        ("tune --text /nowhere.txt", "cannot be read"),
        ("tune --engine vlm", "unknown engine 'vlm'"),
        ("tune --engine vllm", "vLLM is not installed"),
        ("tune --engine-arg max_num_seqs=1", "only vLLM takes arguments"),
        ("tune --engine openai:http://127.0.0.1:1/v1", "tune takes hf or vllm"),
        ("tune --engine vllm --devices 0", "--engine vllm runs on the first visible GPU"),
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
    noisy = [timed("a", 10.0, 11.0, 90.0), timed("b", 80.0, 9.0, 85.0)]
    assert verdicts(noisy) == ["fastest", "7.27x the fastest, but within the noise"]
    assert verdicts([Tuned("a", 1024, None, "no setting meets the limit")]) == ["no setting meets the limit"]


@pytest.mark.parametrize(("ms", "says"), [(9.0, "takes 10% less"), (11.0, "takes 10% more")])
def test_an_alpha_for_each_layer_may_be_slower_than_one_alpha(ms, says):
    one = tuned("flashprefill", 1024, "flashprefill:alpha=0.1", (), attention_ms=10.0)
    each_layer = tuned("flashprefill", 1024, "flashprefill:alpha_file=a.json", (), attention_ms=ms)
    assert gain_of_layers([one, each_layer]) == f"1K: an alpha for each layer {says} attention time than one alpha"
    assert "cannot be compared" in gain_of_layers([one])


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
