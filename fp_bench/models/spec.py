"""How a model is named: a folder, repository or GGUF file, random weights of it, and changes to its configuration."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from fp_bench.errors import UsageError, first_line

RANDOM = "random:"
"""Before a folder or repository: its configuration with weights drawn at random, to be timed and nothing else."""
FORM = "write MODEL?rope=TYPE:FACTOR and MODEL?KEY=VALUE, joined by &"


@dataclass(frozen=True)
class ModelSpec:
    """A model's name, taken apart."""

    source: str
    """``embedded``, a folder, a repository of the Hugging Face hub or a GGUF file."""
    random: bool = False
    """Whether its weights are drawn at random."""
    changes: tuple[tuple[str, str], ...] = ()
    """Changes to its configuration by key, in the order of their keys."""

    @classmethod
    def parse(cls, name: str) -> Self:
        """Take a name apart, e.g. ``FOLDER?rope=yarn:4``.

        Raises:
            UsageError: changes that are not ``key=value``, or one of them twice.
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
        """The GGUF file, where the source is one."""
        return Path(self.source) if self.source.endswith(".gguf") else None

    @property
    def names_a_folder(self) -> bool:
        """Whether the source is written as a path: a repository is NAME or OWNER/NAME."""
        return self.source.startswith(("/", ".", "~")) or self.source.count("/") > 1

    @property
    def query(self) -> str:
        """The changes as they stand in a name and in a record, ``?`` before them; empty without any."""
        return "?" + "&".join(f"{key}={value}" for key, value in self.changes) if self.changes else ""

    def change(self, config: Any) -> None:
        """Change the configuration of a model's text part.

        Raises:
            UsageError: a key that the configuration does not have, or a value that it does not take.
        """
        try:
            for key, value in self.changes:
                if key == "rope":
                    _stretch(config, value)
                elif not hasattr(config, key):
                    raise UsageError(f"{type(config).__name__} has no {key!r}; name one of its keys")
                else:
                    setattr(config, key, _value(value))
            if self.changes:
                config.validate_rope()
        except Exception as error:  # a configuration checks itself, each kind with exceptions of its own
            raise UsageError(f"model {self.source!r}: {self.query[1:]} is not taken: {first_line(error)}") from None


def _stretch(config: Any, asked: str) -> None:
    """Set rotary positions, and as many of them as they reach."""
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
        raise UsageError(f"rope {asked!r}: {type(config).__name__} has no rotary positions of one kind to stretch")
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
