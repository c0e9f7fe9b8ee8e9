"""A run described by a YAML file: the options of a verb by their names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fp_bench.errors import UsageError, did_you_mean


def read_config(path: Path, options: Mapping[str, str]) -> dict[str, Any]:
    """Return what a file gives for each parameter; lists become comma lists, as on the command line.

    Args:
        path: of the YAML file, a mapping of option names (without ``--``) to values.
        options: option names -> parameter names.

    Raises:
        UsageError: a file that cannot be read or is no such mapping, an unknown option, or a value of another kind.
    """
    found = _load(path)
    if not isinstance(found, Mapping):
        raise UsageError(f"--config {path} holds no options; write lines such as lens: 4k,256k")
    values: dict[str, Any] = {}
    for key, value in found.items():
        name = str(key).replace("_", "-")
        if name not in options:
            raise UsageError(f"--config {path}: unknown option {str(key)!r}{did_you_mean(name, options)}")
        if value is not None:
            values[options[name]] = _as_given(value, f"--config {path}: {name}")
    return values


def _load(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UsageError(f"--config {path} cannot be read: {reason}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        raise UsageError(f"--config {path}{where} is not YAML: {getattr(error, 'problem', error)}") from None


def _as_given(value: Any, what: str) -> Any:
    """Return a value as the command line would take it."""
    if isinstance(value, list):
        return ",".join(str(_as_given(part, what)) for part in value)
    if isinstance(value, str | int | float):  # bool is an int
        return value
    raise UsageError(f"{what}: {value!r} is neither a word, a number nor a list of them")
