"""``--engine`` taken apart: which servers are asked, and what each is compared as. It imports no client."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, TypeVar
from urllib.parse import parse_qs, urlsplit

from fp_bench.errors import UsageError
from fp_bench.methods.registry import Spec

OPENAI = "openai"
FORM = "write openai:http://HOST:PORT/v1"
SERVED = Spec("served")
"""What one server is compared as, where nothing else is given."""
AS_SERVED = "as served"
"""The dtype of records: a server does not say which it has."""

ENGINE = (
    "What runs the model{}: hf (transformers), vllm, or a server, openai:URL; several servers are several methods by "
    "their labels, dense=openai:URL,flashprefill=openai:URL."
)
"""Help of the option."""
LOADED = "only a server can be put under load; give --engine openai:URL"
SERVED_SO = "a server decides that itself; label what it runs, e.g. --engine flashprefill=openai:URL"
MOST = 10_000
"""Requests a second, or at once."""
N = TypeVar("N", int, float)


class Load(NamedTuple):
    """How many requests a server has to answer: some at once, or some a second."""

    concurrency: int | None = None
    rate: float | None = None


@dataclass(frozen=True)
class Server:
    """A server, and what its answers and times are compared as."""

    label: Spec
    """Written as a method: the user knows what the server runs, and it does not say."""
    url: str
    """Up to and without ``/completions``."""
    model: str | None = None
    """What the server calls the model, where that is another name."""

    @classmethod
    def parse(cls, text: str) -> "Server":
        """Parse ``openai:URL`` or ``LABEL=openai:URL``; the URL may end in ``?model=NAME``.

        Raises:
            UsageError: a URL that cannot be one of a server.
        """
        label, _, url = text.partition(f"{OPENAI}:")
        try:
            parts = urlsplit(url)
            whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # of brackets, or of a port that is no number
            whole = False
        if not whole:
            raise UsageError(f"--engine {text!r}: {url!r} is no URL of a server; {FORM}")
        if parts.username or parts.password:
            raise UsageError("--engine: the URL holds credentials, and records hold the URL; set OPENAI_API_KEY")
        query = parse_qs(parts.query)
        if set(query) - {"model"} or parts.fragment:
            raise UsageError(f"--engine {text!r}: only ?model=NAME comes after the path, the server's name of it")
        bare = parts._replace(query="", path=parts.path.rstrip("/")).geturl()
        return cls(Spec.parse(label.removesuffix("=")) if label else SERVED, bare, *query.get("model", ()))

    def __str__(self) -> str:
        label = "" if self.label == SERVED else f"{self.label}="
        return f"{label}{OPENAI}:{self.url}" + (f"?model={self.model}" if self.model else "")


@cache
def servers(engine: str) -> Sequence[Server]:
    """Return the servers that an engine stands for; none for one that runs here.

    Raises:
        UsageError: a URL that cannot be one of a server, or two servers that are compared as the same.
    """
    texts = [text.strip() for text in engine.split(",")]
    if not any(text.startswith(f"{OPENAI}:") or f"={OPENAI}:" in text for text in texts):
        return ()
    if other := next((text for text in texts if f"{OPENAI}:" not in text), None):
        raise UsageError(f"--engine {engine!r}: {other!r} is no server; {FORM}")
    found = [Server.parse(text) for text in texts]
    labels = [str(server.label) for server in found]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise UsageError(
            f"--engine {engine!r}: two servers are called {twice!r}; name each, e.g. dense={OPENAI}:URL,"
            f"flashprefill={OPENAI}:URL"
        )
    return tuple(found)


def engine_name(engine: str) -> str:
    """Return an engine as records name it: ``hf``, ``vllm`` or ``openai``."""
    return OPENAI if servers(engine) else engine


def parse_loads(text: str, option: str, kind: Callable[[str], N]) -> list[N]:
    """Return the ascending numbers of ``1,4,16``, each once.

    Raises:
        UsageError: a part that is no such number above 0.
    """
    try:
        found = sorted({kind(part) for part in text.split(",")})
    except ValueError:
        found = []
    if not (found and all(0 < number <= MOST for number in found)):
        raise UsageError(f"{option} {text!r}: write numbers above 0 and up to {MOST}, e.g. 1,4,16")
    return found
