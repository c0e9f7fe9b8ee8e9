"""Names of models: a folder, repository or GGUF file, optionally with random weights or a changed configuration."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from fp_bench.errors import UsageError, first_line

RANDOM = "random:"
"""Prefix for a folder or repository: its configuration with random weights, for timing only."""
FORM = "write MODEL?rope=TYPE:FACTOR and MODEL?KEY=VALUE, joined by &"

NAME = re.compile(r"[\w./-]+")
LOADING: Mapping[str, Sequence[str] | re.Pattern[str]] = {
    "revision": NAME,
    "variant": NAME,
    "device_map": ("auto", "balanced", "balanced_low_0", "sequential"),
    "experts_implementation": ("eager", "batched_mm", "grouped_mm"),
}
"""Arguments of transformers' ``from_pretrained`` -> their values."""
ELSEWHERE = {
    "dtype": "give --dtype",
    "torch_dtype": "give --dtype",
    "attn_implementation": "methods compute the attention; give e.g. --methods dense:impl=fa2",
    "trust_remote_code": "code of a repository is never run",
}
"""Arguments that are not taken -> what to do instead."""


@dataclass(frozen=True)
class ModelSpec:
    """A model's name, taken apart."""

    source: str
    """``embedded``, a folder, a repository of the Hugging Face hub or a GGUF file."""
    random: bool = False
    """Whether its weights are random."""
    changes: tuple[tuple[str, str], ...] = ()
    """Changes to its configuration, sorted by key."""
    loading: tuple[tuple[str, str], ...] = ()
    """Arguments of ``from_pretrained``, sorted by key."""

    @classmethod
    def parse(cls, name: str) -> Self:
        """Parse a name, e.g. ``FOLDER?rope=yarn:4`` or ``OWNER/NAME?revision=main``.

        Raises:
            UsageError: changes that are not ``key=value``, or repeated ones; an argument of loading that is not taken.
        """
        source, _, query = name.removeprefix(RANDOM).partition("?")
        changes: dict[str, str] = {}
        for change in query.split("&") if query else ():
            key, equals, value = change.partition("=")
            if not (key and equals and value) or key in changes:
                raise UsageError(f"model {name!r}: change {change!r} is not one new key=value; {FORM}")
            _check_loading(name, key, value)
            changes[key] = value
        loading = {key: changes.pop(key) for key in sorted(changes.keys() & LOADING.keys())}
        return cls(source, name.startswith(RANDOM), tuple(sorted(changes.items())), tuple(loading.items()))

    @property
    def gguf(self) -> Path | None:
        """The GGUF file, if the source is one."""
        return Path(self.source) if self.source.endswith(".gguf") else None

    @property
    def names_a_folder(self) -> bool:
        """Whether the source is written as a path: a repository is NAME or OWNER/NAME."""
        return self.source.startswith(("/", ".", "~")) or self.source.count("/") > 1

    @property
    def query(self) -> str:
        """Changes and arguments in the form of names and records, after ``?``; empty without any."""
        given = sorted(self.changes + self.loading)
        return f"?{_joined(given)}" if given else ""

    def change(self, config: Any) -> None:
        """Change the configuration of a model's text part.

        Raises:
            UsageError: a key that the configuration lacks, or a value that it refuses.
        """
        try:
            for key, value in self.changes:
                if key == "rope":
                    _stretch(config, value)
                elif not hasattr(config, key):
                    raise UsageError(
                        f"{type(config).__name__} has no key {key!r}, and loading takes only {', '.join(LOADING)}"
                    )
                else:
                    setattr(config, key, _value(value))
            if self.changes:
                config.validate_rope()
        except Exception as error:  # a configuration checks itself, each kind with exceptions of its own
            why = first_line(error)
            raise UsageError(f"model {self.source!r}: {_joined(self.changes)} is refused: {why}") from None


def _check_loading(name: str, key: str, value: str) -> None:
    """Refuse an argument of loading that is not taken, or a value that it does not have."""
    if key in ELSEWHERE:
        raise UsageError(f"model {name!r}: {key} is not taken; {ELSEWHERE[key]}")
    values = LOADING.get(key)
    if isinstance(values, re.Pattern):
        if not values.fullmatch(value):
            raise UsageError(f"model {name!r}: {key} may have only letters, digits and the characters . _ - /")
    elif values and value not in values:
        raise UsageError(f"model {name!r}: {key} is one of {', '.join(values)}, not {value}")


def _joined(given: Iterable[tuple[str, str]]) -> str:
    return "&".join(f"{key}={value}" for key, value in given)


def positions(config: Any) -> int | None:
    """Return the number of tokens that a model can read; None if its configuration does not say.

    Model cards add rotary scaling without changing ``max_position_embeddings``: the greater value counts.
    """
    own: int | None = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or {}
    original, factor = rope.get("original_max_position_embeddings"), rope.get("factor")
    return own if own is None or not (original and factor) else max(own, int(original * factor))


def _stretch(config: Any, asked: str) -> None:
    """Set rotary positions and the length that they reach."""
    first, *more = asked.split(",")
    kind, colon, factor = first.partition(":")
    given = dict(part.partition("=")[::2] for part in more)
    try:
        times = float(factor)
    except ValueError:
        times = 0.0
    if not (kind and colon and times >= 1 and all(given.values())):
        raise UsageError(f"rope {asked!r} is not TYPE:FACTOR with a factor of at least 1; write e.g. yarn:4")
    rope = dict(getattr(config, "rope_parameters", None) or {})
    own = getattr(config, "max_position_embeddings", None)
    if own is None or "rope_theta" not in rope:
        raise UsageError(f"rope {asked!r}: {type(config).__name__} has no single kind of rotary positions to extend")
    own = int(rope.get("original_max_position_embeddings") or own)
    rope |= {"rope_type": kind, "factor": times, "original_max_position_embeddings": own}
    rope |= {key: _value(value) for key, value in given.items()}
    config.rope_parameters = rope
    config.max_position_embeddings = int(own * times)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
