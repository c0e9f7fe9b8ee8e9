"""Parameters of what the command line can name: methods and suites. Defaults, checks and documentation in one place."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from fp_bench.errors import UsageError, did_you_mean


class Params(BaseModel):
    """Parameters of one thing: the CLI, YAML, documentation and hash all come from these fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @classmethod
    def parse(cls, owner: str, given: Mapping[str, Any], base: Mapping[str, Any] | None = None) -> Self:
        """Build them from ``key=value`` options.

        Args:
            owner: whose parameters they are, for messages.
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
            # Parameters that do not go together have no one place.
            where = ".".join(str(part) for part in first["loc"])
            what = (
                f"{where}={first['input']!r}: {first['msg']}" if where else first["msg"].removeprefix("Value error, ")
            )
            raise UsageError(f"{owner}: {what}") from None

    def changed(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults."""
        return self.model_dump(exclude_defaults=True)
