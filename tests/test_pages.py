"""What of README and docs is made from records and code is what records and code say."""

import re
from pathlib import Path

import pytest

from fp_bench.cli import front
from fp_bench.methods.registry import BUILTIN_METHODS
from fp_bench.records.reading import read_records
from pages.__main__ import MARKED, PARTS, stale
from pages.leases import front_page_ratios
from pages.picture import DIGITS, FOLDER, picture
from pages.tables import RESULTS, number, share, speed_up

ROOT = Path(__file__).parents[1]
published = pytest.mark.skipif(not RESULTS.is_dir(), reason="published records are in the repository alone")


@published
def test_ratios_of_the_front_page_hold_in_another_lease():
    """A ratio that a second machine does not give belongs there with its interval, or not at all."""
    assert [ratio for ratio in front_page_ratios() if ratio.apart > 0.05] == []


@published
def test_every_page_is_as_it_is_made():
    assert stale() == [], "make them again: python -m pages"


def test_a_changed_number_is_found():
    """A part is the whole text between its marks, so that nothing written there by hand stays."""
    text = "a\n<!-- made: speed -->\n| 1 |\n<!-- end -->\nb\n<!-- made: record -->\n<!-- end -->\n"
    assert MARKED.sub(lambda found: f"{found[1]}{found[2]}new\n", text) == text.replace("| 1 |", "new").replace(
        "record -->\n", "record -->\nnew\n"
    )


def test_every_method_has_its_parameters_and_every_part_a_place():
    pages = [path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))]
    places = [found[1] for page in pages for found in MARKED.finditer(page)]
    assert sorted(places) == sorted(PARTS)
    assert {f"parameters {name}" for name in BUILTIN_METHODS} <= set(places)


def test_numbers_keep_their_digits():
    assert [number(ms) for ms in (0.0499, 0.499, 6.41, 57.29, 100.4, 1712.1)] == [
        "0.0499", "0.499", "6.41", "57.3", "100", "1712",
    ]  # fmt: skip
    assert [share(part) for part in (0.0332, 0.0996, 0.662, 1.0)] == ["3.3 %", "10 %", "66 %", "100 %"]
    assert [speed_up(gain) for gain in (1.237, 1.999, 8.06, 26.7)] == ["1.24x", "2.0x", "8.1x", "27x"]


def test_exit_codes_are_those_of_the_front_door():
    table = (ROOT / "docs" / "exit-codes.md").read_text()
    codes = {value for name, value in vars(front).items() if name.startswith("EXIT_")}
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", table, flags=re.MULTILINE)} == codes | {0}


@published
def test_runs_of_rivals_as_their_papers_read_are_named():
    """Records from before `official_quirks=true` was the default have the plain name of what is another rule now."""
    old = {
        str(file.parent.relative_to(RESULTS))
        for file in RESULTS.rglob("records.jsonl*")
        for record in read_records(file.parent).records
        if (record.params or {}).get("official_quirks") is False and "official_quirks" not in record.label
    }
    (said,) = (part for part in (RESULTS / "README.md").read_text().split("\n\n") if "the default then) in" in part)
    assert set(re.findall(r"`(h\d00/[^`]+)`", said)) == old


@published
def test_the_picture_shows_what_the_records_say():
    shown = picture()
    assert shown.data.to_csv(index=False, float_format=DIGITS) == (FOLDER / f"{shown.name}.csv").read_text()
    assert (FOLDER / f"{shown.name}.png").is_file()
