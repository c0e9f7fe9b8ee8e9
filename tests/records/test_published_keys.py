"""Published records keep their meaning: their keys and hashes are what they were when they were measured."""

import json
from pathlib import Path
from typing import Any

import pytest

from fp_bench.methods.registry import Spec, create_method
from fp_bench.records.record import cell_key
from fp_bench.records.store import read_run

ROOT = Path(__file__).parents[2]
PINNED: list[dict[str, Any]] = json.loads((Path(__file__).parent / "published_keys.json").read_text())


@pytest.mark.parametrize("pin", PINNED, ids=lambda pin: f"{pin['folder']}-{pin['label']}")
def test_a_published_record_has_the_key_of_what_it_asked(pin: dict[str, Any]) -> None:
    records = {record.cell_key: record for record in read_run(ROOT / pin["folder"]).records}
    record = records[pin["cell_key"]]
    assert cell_key(record.model_dump(include=set(record.asked)), record.asked) == pin["cell_key"]
    assert record.method_hash == pin["method_hash"]


@pytest.mark.parametrize("pin", PINNED, ids=lambda pin: f"{pin['folder']}-{pin['label']}")
def test_a_method_of_published_parameters_has_the_published_hash_until_its_results_change(pin: dict[str, Any]) -> None:
    name = pin["label"].partition(":")[0]
    same = create_method(Spec(name, pin["params"])).method_hash == pin["method_hash"]
    assert same != pin.get("superseded", False)
