"""A method asked for by name, which may not be had here."""

from dataclasses import dataclass
from typing import Any

from fp_bench.errors import UnavailableError
from fp_bench.methods.base import Method
from fp_bench.methods.registry import Spec, create_method

FLASHPREFILL_EMBEDDED = Spec("flashprefill", {"preset": "embedded"})
"""FlashPrefill wherever the embedded model is measured and no method is named: with the alpha calibrated to it."""


@dataclass(frozen=True)
class Candidate:
    """A method asked for, or why it cannot be had here."""

    spec: Spec
    method: Method | None
    problem: str | None = None

    @classmethod
    def of(cls, spec: Spec, backend: str) -> "Candidate":
        """Load a method; one that is unavailable becomes a row, not the end.

        Raises:
            UsageError: unknown name or parameter.
        """
        try:
            return cls(spec, create_method(spec, backend))
        except UnavailableError as error:
            return cls(spec, None, " ".join(str(error).split()))

    def fields(self) -> dict[str, Any]:
        """Return the method's part of a record."""
        if self.method is None:
            return {"method": self.spec.name, "label": str(self.spec), "method_hash": "unavailable", "params": {}}
        return {
            "method": self.method.name,
            "label": self.method.label,
            "method_hash": self.method.method_hash,
            "params": self.method.params.model_dump(mode="json"),
        }
