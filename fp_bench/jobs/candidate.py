"""A method requested by name, which may be unavailable, with its request."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any, ClassVar

from fp_bench.errors import UnavailableError, UsageError, said
from fp_bench.jobs.openai.servers import Server
from fp_bench.methods.base import Method
from fp_bench.methods.registry import Spec, create_method
from fp_bench.records.environment import code_version
from fp_bench.records.record import Record, cell_key

FLASHPREFILL_EMBEDDED = Spec("flashprefill", {"preset": "embedded"})
"""Default FlashPrefill for the embedded model, with the alpha calibrated to it."""


@dataclass(frozen=True)
class Candidate:
    """A requested method, or the reason why it is unavailable."""

    spec: Spec
    method: Method | None
    problem: str | None = None
    server: Server | None = None
    """The server that runs it, and then the spec is a label that the user gave; None: our processes run it."""

    @classmethod
    def of(cls, spec: Spec, backend: str) -> "Candidate":
        """Load a method; an unavailable one becomes a row and does not end the run.

        Raises:
            UsageError: unknown name or parameter.
        """
        try:
            found = cls(spec, create_method(spec, backend))
            found.fields()  # made of a plug-in's own code too
            if found.method and not isinstance(found.method.backend, str):
                raise TypeError(f"its backend is {found.method.backend!r}")
            return found
        except UsageError:
            raise
        except UnavailableError as error:
            return cls(spec, None, said(error))
        except (Exception, SystemExit) as error:
            return cls(spec, None, f"method {spec.name!r} cannot be built: {type(error).__name__}: {said(error)}")

    @cached_property
    def code_version(self) -> str:
        """The code version that would measure it, including a plug-in's own."""
        return code_version(None if self.method is None else type(self.method))

    @property
    def ours(self) -> bool:
        """Whether this package has its method, rather than a plug-in."""
        return type(self.method).__module__.startswith("fp_bench.")

    @property
    def choice(self) -> dict[str, Any]:
        """The options of a request that ask for it alone."""
        if self.server is not None:
            return {"engine": str(self.server)}
        return {"methods": [Spec.parse(str(self.fields()["label"]))]}

    def fields(self) -> dict[str, Any]:
        """Return the method's part of a record."""
        if self.method is None:
            label = str(self.spec)
            # Where a server listens is no part of what it runs: the same label is the same method.
            known = sha256(label.encode()).hexdigest()[:12] if self.server else "unavailable"
            found = {"method": self.spec.name, "label": label, "method_hash": known, "params": {}}
            return found | {"code_version": self.code_version}
        return {
            "code_version": self.code_version,
            "method": self.method.name,
            "label": self.method.label,
            "method_hash": self.method.method_hash,
            "params": self.method.params.model_dump(mode="json"),
        }


def candidates(specs: Sequence[Spec], backend: str, servers: Sequence[Server] = ()) -> list[Candidate]:
    """Return the methods that are asked for, each once; where servers are, these instead.

    Raises:
        UsageError: unknown name or parameter.
    """
    if servers:
        return [Candidate(server.label, None, server=server) for server in servers]
    return list({c.fields()["label"]: c for c in (Candidate.of(spec, backend) for spec in specs)}.values())


@dataclass(frozen=True, eq=False)
class Asked:
    """One method on one input."""

    record: ClassVar[type[Record]]

    candidate: Candidate
    asked: Mapping[str, Any]
    """The record fields that are known before measuring."""

    @cached_property
    def key(self) -> str:
        """Identify what was asked."""
        return cell_key(dict(self.asked), self.record.asked)

    @property
    def label(self) -> str:
        """Of its method."""
        return str(self.asked["label"])
