"""Reference tables as Markdown, generated from the models that validate options and records."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter

from fp_bench.methods.registry import methods
from fp_bench.params import Params
from fp_bench.records.record import AnyRecord, Record
from fp_bench.suites.registry import BUILTIN_SUITES, suites
from pages.markdown import table


def method_parameters(name: str) -> str:
    """Return the parameters of a method, and its presets below."""
    method = methods.load(name)
    rows = [[f"`{field}`", *words] for field, *words in _fields(method.Params)]
    parameters = table(["parameter", "default", "limits", "what it is"], rows, left=4) if rows else "No parameters."
    presets = [f"`{preset}` ({_options(values)})" for preset, values in method.presets.items()]
    return f"{parameters}\n\nPresets: {', '.join(presets)}." if presets else parameters


def suite_parameters() -> str:
    """Return the parameters of all suites that have any."""
    rows = []
    for name in BUILTIN_SUITES:
        fields = list(_fields(suites.load(name).Params))
        rows += [
            [f"`{name}`" if not number else "", f"`{field}`", *words] for number, (field, *words) in enumerate(fields)
        ]
    return table(["suite", "parameter", "default", "limits", "what it is"], rows, left=5)


def record_fields(model: type[Record]) -> str:
    """Return the fields of a kind of record; for a specific kind, without those of every record."""
    shared = set() if model is Record else set(Record.model_fields) - {"kind"}
    schema = model.model_json_schema()
    rows = []
    for name, field in schema["properties"].items():
        if name not in shared:
            rows.append([f"`{name}`", _type(field), "yes" if name in schema["required"] else "", _text(field)])
    return table(["field", "type", "always there", "what it is"], rows, left=4)


def record_schema() -> str:
    """Return the JSON Schema of one line of ``records.jsonl``."""
    line: Any = TypeAdapter(AnyRecord)
    return json.dumps(line.json_schema() | {"$schema": "https://json-schema.org/draft/2020-12/schema"}, indent=1) + "\n"


def _fields(model: type[Params]) -> Iterator[list[str]]:
    """Yield name, default, limits and description of each parameter."""
    for found in model.described():
        default = {None: "none", "": "empty"}.get(found.default, f"`{found.default}`")
        limits = ", ".join([*found.limits, *(f"`{choice}`" for choice in found.choices)])
        yield [found.name, default, limits, found.about.replace("|", "\\|")]


def _type(field: dict[str, Any]) -> str:
    kinds = [kind for kind in field.get("anyOf", [field]) if kind.get("type") != "null"]
    return " or ".join(_kind(kind) for kind in kinds)


def _kind(kind: dict[str, Any]) -> str:
    if "const" in kind or "enum" in kind:
        return ", ".join(f"`{value}`" for value in kind.get("enum", [kind.get("const")]))
    if kind.get("type") == "array":
        return f"list of {_type(kind['items'])}"
    return "object" if "$ref" in kind else str(kind["type"])


def _text(field: dict[str, Any]) -> str:
    return " ".join(field.get("description", "").split()).replace("``", "`").replace("|", "\\|")


def _options(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items())
