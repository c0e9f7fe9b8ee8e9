"""Names of models: a folder, repository or GGUF file, optionally with random weights or a changed configuration."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from fp_bench.errors import UsageError, first_line

RANDOM = "random:"
"""Prefix for a folder or repository: its configuration with random weights, for timing only."""
FORM = "write MODEL?rope=TYPE:FACTOR and MODEL?KEY=VALUE, joined by &"


@dataclass(frozen=True)
class ModelSpec:
    """A model's name, taken apart."""

    source: str
    """``embedded``, a folder, a repository of the Hugging Face hub or a GGUF file."""
    random: bool = False
    """Whether its weights are random."""
    changes: tuple[tuple[str, str], ...] = ()
    """Changes to its configuration, sorted by key."""

    @classmethod
    def parse(cls, name: str) -> Self:
        """Parse a name, e.g. ``FOLDER?rope=yarn:4``.

        Raises:
            UsageError: changes that are not ``key=value``, or repeated ones.
        """
        source, _, query = name.removeprefix(RANDOM).partition("?")
        changes: dict[str, str] = {}
        for change in query.split("&") if query else ():
            key, equals, value = change.partition("=")
            if not (key and equals and value) or key in changes:
                raise UsageError(f"model {name!r}: change {change!r} is not one new key=value; {FORM}")
            changes[key] = value
        return cls(source, name.startswith(RANDOM), tuple(sorted(changes.items())))

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
        """The changes in the form of names and records, after ``?``; empty without any."""
        return "?" + "&".join(f"{key}={value}" for key, value in self.changes) if self.changes else ""

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
                    raise UsageError(f"{type(config).__name__} has no key {key!r}; name one of its keys")
                else:
                    setattr(config, key, _value(value))
            if self.changes:
                config.validate_rope()
        except Exception as error:  # a configuration checks itself, each kind with exceptions of its own
            raise UsageError(f"model {self.source!r}: {self.query[1:]} is refused: {first_line(error)}") from None


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
