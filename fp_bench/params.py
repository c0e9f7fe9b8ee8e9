"""Parameters of methods and suites: defaults, checks and documentation in one place."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from fp_bench.errors import UnavailableError, UsageError, did_you_mean

LIMITS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
}
"""JSON Schema's word for a limit -> ours."""


class Parameter(NamedTuple):
    """One parameter, as documentation shows it."""

    name: str
    default: str | None
    """None if the parameter is not set by default."""
    limits: Sequence[str]
    choices: Sequence[str]
    about: str


class Params(BaseModel):
    """Parameters of a method or suite: the CLI, YAML, documentation and hash all come from these fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @classmethod
    def parse(cls, owner: str, given: Mapping[str, Any], base: Mapping[str, Any] | None = None) -> Self:
        """Build them from ``key=value`` options.

        Args:
            owner: the method or suite, for messages.
            given: the options; values may be text.
            base: values to start from, e.g. a preset's.

        Raises:
            UsageError: an unknown parameter, or a value out of its limits.
        """
        for key in given:
            if key not in cls.model_fields:
                known = did_you_mean(key, cls.model_fields) if cls.model_fields else "; it has none"
                raise UsageError(f"{owner}: unknown parameter {key!r}{known}")
        try:
            return cls(**(dict(base or {}) | dict(given)))
        except ValidationError as error:
            first = error.errors()[0]
            # Parameters that exclude each other have no single place.
            where = ".".join(str(part) for part in first["loc"])
            what = (
                f"{where}={first['input']!r}: {first['msg']}" if where else first["msg"].removeprefix("Value error, ")
            )
            raise UsageError(f"{owner}: {what}") from None

    def changed(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults."""
        return self.model_dump(exclude_defaults=True)

    @classmethod
    def described(cls) -> Iterator[Parameter]:
        """Yield name, default, limits, choices and description of each parameter."""
        for name, field in cls.model_json_schema().get("properties", {}).items():
            # The limits of an optional field are those of its value.
            known = field | field.get("anyOf", [{}])[0]
            default = field.get("default")
            yield Parameter(
                name,
                json.dumps(default) if isinstance(default, bool) else None if default is None else str(default),
                [words.format(known[word]) for word, words in LIMITS.items() if word in known],
                known.get("enum", []),
                " ".join(field.get("description", "").split()).replace("``", "`"),
            )


NUMBERS = TypeAdapter(list[float])
LARGEST = 1e6


def read_layers(path: Path) -> list[float]:
    """Read a JSON list with a number for each layer.

    Raises:
        UsageError: the file cannot be read, or holds anything but numbers from 0 to `LARGEST`.
    """
    try:
        found = NUMBERS.validate_json(path.read_bytes(), strict=True)
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it must be a JSON list of numbers"
        raise UsageError(f"{path}: {reason}; give a file like [0, 0.5, 1.2] with a number for each layer") from None
    if not found or not all(0 <= number <= LARGEST for number in found):
        raise UsageError(f"{path}: it must hold a number from 0 to {LARGEST:g} for each layer")
    return found


def write_layers(path: Path, numbers: list[float]) -> None:
    """Write the file that `read_layers` reads; see `write_json`."""
    write_json(path, [float(f"{number:.3g}") for number in numbers])


def write_json(path: Path, content: object) -> None:
    """Write a file for a method's parameter, and the folder it lies in.

    Raises:
        UnavailableError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content) + "\n")
    except OSError as error:
        raise UnavailableError(f"cannot write {path}: {error.strerror}; give another --out") from None
