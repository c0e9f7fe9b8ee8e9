"""What an option of a request can hold: the types of its fields, and how they are read from text."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, InstanceOf

from fp_bench.errors import UsageError
from fp_bench.jobs.openai.servers import parse_loads
from fp_bench.methods.registry import Spec
from fp_bench.sizes import format_layers, parse_layers, parse_lengths

MOST_HEADS, LARGEST_HEAD, LARGEST_LAYER = 1024, 1024, 2**16
"""Limits of heads, of the numbers in one and of those in all query heads; models have far fewer."""


@dataclass(frozen=True)
class Heads:
    """Heads of one attention layer, written ``q_heads/kv_heads/head_dim``."""

    q_heads: int
    kv_heads: int
    head_dim: int

    @classmethod
    def parse(cls, text: str) -> "Heads":
        """Parse ``32/8/128``.

        Raises:
            UsageError: not three positive integers, or q_heads is not a multiple of kv_heads.
        """
        parts = text.split("/")
        if len(parts) != 3 or not all(part.isascii() and part.isdigit() and int(part) for part in parts):
            raise UsageError(f"shape {text!r} is not q_heads/kv_heads/head_dim, e.g. 32/8/128")
        if any(len(part) > 9 for part in parts):
            raise UsageError(f"shape {text!r} is out of limits: up to {MOST_HEADS}/{MOST_HEADS}/{LARGEST_HEAD}")
        heads = cls(*map(int, parts))
        if max(heads.q_heads, heads.kv_heads) > MOST_HEADS or heads.head_dim > LARGEST_HEAD:
            raise UsageError(f"shape {text!r} is out of limits: up to {MOST_HEADS}/{MOST_HEADS}/{LARGEST_HEAD}")
        if (width := heads.q_heads * heads.head_dim) > LARGEST_LAYER:
            raise UsageError(
                f"shape {text!r}: {heads.q_heads} heads of {heads.head_dim} are {width} numbers a token; "
                f"the limit is {LARGEST_LAYER}"
            )
        if heads.q_heads % heads.kv_heads:
            raise UsageError(
                f"shape {text!r}: {heads.q_heads} query heads are not a multiple of {heads.kv_heads} KV heads"
            )
        return heads

    def __str__(self) -> str:
        return f"{self.q_heads}/{self.kv_heads}/{self.head_dim}"


def parse_numbers(text: str, what: str) -> list[int]:
    """Return the ascending numbers of ``0,3``, each once.

    Raises:
        UsageError: a part that is not a number.
    """
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if not (part.isascii() and part.isdigit() and len(part) < 10):
            raise UsageError(f"{what} {text!r}: {part!r} is not a number; write e.g. 0,3")
    return sorted({int(part) for part in parts})


def parse_words(text: str) -> list[str]:
    """Return the words of a comma list."""
    return [word.strip() for word in text.split(",")]


ENGINE_SETS: Mapping[str, str] = {
    "model": "give --model",
    "tokenizer": "prompts are token ids",
    "skip_tokenizer_init": "prompts are token ids",
    "dtype": "give --dtype",
    "max_model_len": "it follows from --lens",
    "seed": "decoding is greedy",
    "attention_backend": "methods run in fp_bench's",
    "attention_config": "methods run in fp_bench's backend",
    "enable_prefix_caching": "it is off, because prompts repeat",
    "gpu_memory_utilization": "engines share the memory",
    "speculative_config": "methods would not run in a draft model",
}
"""Arguments of vLLM's engine that fp_bench sets, and why."""


def parse_engine_args(given: str | Sequence[str]) -> list[str]:
    """Return arguments of vLLM's engine as they are written shortest, in order of their names.

    Args:
        given: ``key=value``, one or several; a value is JSON or, if it is not, text.

    Raises:
        UsageError: no such form, a key given twice, or one that fp_bench sets.
    """
    found: dict[str, str] = {}
    for text in [given] if isinstance(given, str) else given:
        key, equals, value = text.strip().partition("=")
        key = key.strip().removeprefix("--").replace("-", "_")
        if not (equals and key.isidentifier() and key.isascii() and value.strip()):
            raise UsageError(f"--engine-arg {text!r}: write key=value, e.g. tensor_parallel_size=2")
        if key in ENGINE_SETS:
            raise UsageError(f"--engine-arg {key}: fp_bench sets it; {ENGINE_SETS[key]}")
        if key in found:
            raise UsageError(f"--engine-arg {key} is given twice; give it once")
        parsed = _json_or_text(value.strip())
        plain = isinstance(parsed, str) and _json_or_text(parsed) == parsed
        found[key] = f"{key}={parsed if plain else json.dumps(parsed, sort_keys=True)}"
    return [found[key] for key in sorted(found)]


def engine_arguments(args: Sequence[str] | None) -> dict[str, Any]:
    """Return arguments as `parse_engine_args` writes them by name, with their values."""
    return {key: _json_or_text(value) for key, _, value in (text.partition("=") for text in args or ())}


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return text


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def from_text(parse: Any) -> BeforeValidator:
    """Return a validator that reads a value given as text; other values pass unchanged."""
    return BeforeValidator(lambda value: parse(value) if isinstance(value, str) else value)


Lengths = Annotated[Sequence[int], from_text(parse_lengths)]
Specs = Annotated[Sequence[InstanceOf[Spec]], from_text(Spec.parse_all)]
Shape = Annotated[InstanceOf[Heads], from_text(Heads.parse)]
Words = Annotated[Sequence[str], from_text(parse_words)]
Layers = Annotated[Sequence[int], from_text(lambda text: parse_numbers(text, "layers"))]
EngineArgs = Annotated[Sequence[str] | None, BeforeValidator(lambda value: parse_engine_args(value) if value else None)]
Concurrencies = Annotated[Sequence[int], from_text(lambda text: parse_loads(text, "--concurrency", int))]
Rates = Annotated[Sequence[float], from_text(lambda text: parse_loads(text, "--rate", float))]


def _dense_layers(given: Any) -> str:
    """Return ``4`` for the first four layers, also given as ``0-3``, or a set as it is written shortest."""
    text = str(given).strip()
    if text.isascii() and text.isdigit():
        return str(int(text))
    try:
        layers = parse_layers(text)
    except ValueError as error:
        raise UsageError(f"--dense-layers {text!r}: {error}") from None
    return str(len(layers)) if layers == list(range(len(layers))) else format_layers(layers)


DenseLayers = Annotated[str, BeforeValidator(_dense_layers)]
