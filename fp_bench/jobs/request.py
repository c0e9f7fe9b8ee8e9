"""Options of the measuring commands, in one list, without torch.

The command line, the YAML run file and the ``command`` of a record are all made from these fields: name,
default, limits and help text of an option are in its field and nowhere else.
"""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from fp_bench.errors import UsageError, did_you_mean
from fp_bench.jobs.openai.servers import ENGINE, LOADED, SERVED_SO, Load, Server, servers
from fp_bench.jobs.values import (
    Concurrencies,
    DenseLayers,
    EngineArgs,
    Layers,
    Lengths,
    Rates,
    Shape,
    Specs,
    Words,
    parse_words,
)
from fp_bench.sizes import parse_layers

PROGRAM = "fpbench"
QUOTES = frozenset("'\"\\")
UNWRITABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Characters that no option may contain: a record cannot hold them, or they control a terminal."""
LONGEST = 4096
"""Letters of an option."""


class Options(BaseModel):
    """Options of a command; an option has the name of its field, or the field's alias."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, validate_default=True)
    repeatable: ClassVar[tuple[str, ...]] = ()
    """Fields whose option may be given several times."""

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Self:
        """Check given options.

        Args:
            given: names of fields or options -> values, as text or of the field's type; None: not given.

        Raises:
            UsageError: an unknown option or an invalid value.
        """
        each = ((name, text) for name, value in given.items() for text in (value if type(value) is list else [value]))
        for name, value in each:
            if not isinstance(value, str):
                continue
            field = cls.model_fields.get(name)
            option = option_name(name, field) if field else name
            if not value.strip():
                raise UsageError(f"--{option} is empty; give a value or remove it")
            if UNWRITABLE.search(value):
                raise UsageError(f"--{option} {value!r} contains control characters or bytes that are not UTF-8")
            if len(value) > LONGEST:
                raise UsageError(f"--{option} is {len(value)} characters long; the limit is {LONGEST}")
        try:
            return cls.model_validate({name: value for name, value in given.items() if value is not None})
        except ValidationError as error:
            raise cls._complaint(error) from None

    @classmethod
    def _complaint(cls, error: ValidationError) -> UsageError:
        """Return the first problem in our words."""
        first = error.errors()[0]
        ours = first.get("ctx", {}).get("error")
        if isinstance(ours, UsageError):
            return ours
        given = str(first["loc"][0]) if first["loc"] else ""
        fields = {option_name(name, field): field for name, field in cls.model_fields.items()}
        if first["type"] == "extra_forbidden":
            return UsageError(f"unknown option --{given}{did_you_mean(given, fields)}")
        option = next((option for option in fields if option == given.replace("_", "-")), given)
        low, high = (_limit(fields.get(option), bound) for bound in ("ge", "le"))
        if low is not None and high is not None and first["type"] in ("greater_than_equal", "less_than_equal"):
            return UsageError(f"--{option} {first['input']} is out of limits: {low} to {high}")
        return UsageError(f"--{option} {first['input']!r}: {first['msg']}")


def option_name(name: str, field: FieldInfo) -> str:
    """Return the name of an option, without leading dashes."""
    return (field.alias or name).replace("_", "-")


def _limit(field: FieldInfo | None, bound: str) -> Any:
    found = (getattr(part, bound, None) for part in (field.metadata if field else ()))
    return next((limit for limit in found if limit is not None), None)


class Request(Options):
    """What to measure; None leaves the choice to the plan, which makes it for the machine."""

    verb: ClassVar[str]
    joined: ClassVar[tuple[str, ...]]
    """Fields that differ between the cells of one run and may have several values."""
    counted: ClassVar[str | None] = None
    """Field whose greatest value covers the smaller ones."""

    @classmethod
    def from_words(cls, words: Sequence[str]) -> Self:
        """Read the words of a command after its name, as `words` writes them.

        Raises:
            UsageError: they are not such a request.
        """
        flags = {option_name(name, field) for name, field in cls.model_fields.items() if field.annotation is bool}
        repeatable = {option_name(name, cls.model_fields[name]).replace("-", "_") for name in cls.repeatable}
        given: dict[str, Any] = {}
        left = iter(words)
        for word in left:
            option = word.removeprefix("--")
            if option == word:
                raise UsageError(f"{word!r} is not an option; write --{word}")
            name = option.replace("-", "_")
            value = True if option in flags else next(left, "")
            given[name] = [*given.get(name, ()), value] if name in repeatable else value
        return cls.parse(given)

    def words(self, but: Sequence[str] = ()) -> list[str]:
        """Return the options that differ from their defaults, except some fields, as words of a command."""
        default = _default(type(self))
        found: list[str] = []
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if name not in but and value is not None and value != getattr(default, name):
                texts = value if name in self.repeatable else [] if value is True else [_text(value)]
                option = f"--{option_name(name, field)}"
                found += [word for text in texts for word in (option, text)] if texts else [option]
        return found

    @property
    def command(self) -> str:
        """The command that makes the same request again."""
        return shlex.join([PROGRAM, self.verb, *self.words()])

    def pinned(self, **choices: Any) -> Self:
        """Return the request with its open choices made; values have the fields' types."""
        return self.model_copy(update=choices)

    @property
    def servers(self) -> Sequence[Server]:
        """The servers that are asked; none where the model runs here."""
        return servers(getattr(self, "engine", ""))

    def _check_engine_args(self) -> None:
        """Refuse arguments of vLLM's engine where there is none, or which a model sets.

        Raises:
            UsageError: which, and why.
        """
        given, model = getattr(self, "engine_args", None), getattr(self, "model", None)
        if given and getattr(self, "engine", None) != "vllm":
            raise UsageError(f"--engine-arg {given[0]}: only vLLM takes arguments; give --engine vllm")
        if any(each.startswith("load_format=") for each in given or ()) and str(model).startswith("random:"):
            raise UsageError(f"--engine-arg load_format: fp_bench sets it; weights of {model} are made up")

    def _refuse(self, why: str, *names: str) -> None:
        """Refuse what was given of some options.

        Raises:
            UsageError: which, and why.
        """
        fields = type(self).model_fields
        default = {name: fields[name].get_default() for name in names}
        unused = [f"--{option_name(name, fields[name])}" for name in names if getattr(self, name) != default[name]]
        if unused:
            raise UsageError(f"{', '.join(unused)}: {why}")


@cache
def _default(cls: type[Request]) -> Request:
    return cls()


def _text(value: Any) -> str:
    """Return a value as written on the command line."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


ENGINE_ARG = (
    "Argument of vLLM's engine, key=value, e.g. tensor_parallel_size=2; repeat it for several. The value is JSON or "
    "else text."
)
ROPE = "Extend rotary positions, e.g. yarn:4 or yarn:4,beta_fast=16; short for --model MODEL?rope=yarn:4."
CHANGES = "Change the model's configuration: key=value, separated by commas; short for --model MODEL?key=value."

ARGUMENTS = (
    "Arguments of loading the model: key=value, separated by commas, e.g. revision=main; short for --model "
    "MODEL?revision=main."
)


def with_model_changes(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with changes to a model moved into the model's name, their only form in records and keys.

    Raises:
        UsageError: changes without a model.
    """
    found = dict(given)
    rope, config = found.pop("rope", None), found.pop("model_changes", found.pop("model_config", None))
    words = ",".join(filter(None, (config, found.pop("model_arg", None))))
    changes = ([f"rope={rope}"] if rope else []) + (parse_words(words) if words else [])
    if not changes:
        return found
    if (name := found.get("model")) is None:
        raise UsageError("--rope, --model-config and --model-arg change a model; give --model")
    return found | {"model": name + ("&" if "?" in name else "?") + "&".join(changes)}


class LatencyRequest(Request):
    """Methods timed on attention calls, or on whole prefills of a model."""

    verb: ClassVar[str] = "latency"
    joined: ClassVar[tuple[str, ...]] = ("lens", "methods", "layers", "concurrency", "rate")
    repeatable: ClassVar[tuple[str, ...]] = ("engine_args",)

    # Defaults are text, as on the command line, where --help shows them.
    lens: Lengths = Field(
        "4k,16k",  # type: ignore[arg-type]
        description="Lengths in tokens: 4k, 8192, 4k-256k (doubling), separated by commas.",
    )
    methods: Specs | None = Field(
        None, description="Methods, e.g. dense,flashprefill:alpha=0.18; default: those that suit the machine."
    )
    inputs: str = Field(
        "structured",
        description="Source of Q, K, V: structured (structured:version=1 as published before December 2026), "
        "random, density:0.04, captured:FOLDER or "
        "captured:FOLDER:stack=3, which joins the heads of three layers.",
    )
    heads: Shape | None = Field(
        None, alias="shape", description="q_heads/kv_heads/head_dim; default 32/8/128 on a GPU, 2/1/128 on a CPU."
    )
    ttft: bool = Field(False, description="Time to first token of a model instead of one attention call.")
    model: str | None = Field(
        None,
        description="For --ttft: embedded (default), a folder, a GGUF file, a Hugging Face model, or random:FOLDER.",
    )
    text: str | None = Field(
        None, description="For --ttft: text file of which the prompt is the start; default: generated sentences."
    )
    rope: str | None = Field(None, description=ROPE)
    model_changes: str | None = Field(None, alias="model_config", description=CHANGES)
    model_arg: str | None = Field(None, description=ARGUMENTS)
    engine: str = Field("hf", description=ENGINE.format(" of --ttft"))
    engine_args: EngineArgs = Field(None, alias="engine_arg", description=ENGINE_ARG)
    concurrency: Concurrencies | None = Field(
        None, description="Requests at once to a server, e.g. 1,4,16; default: 1."
    )
    rate: Rates | None = Field(None, description="Requests a second to a server instead, at random times, e.g. 0.5,2.")
    batch: int = Field(1, ge=1, le=10_000, description="Sequences in a batch.")
    dtype: str = Field("bf16", description="bf16, fp16 or fp32.")
    backend: str = Field("auto", description="Kernels: auto, hopper, triton or torch.")
    layers: Layers | None = Field(None, description="Layers of captured inputs, e.g. 0,3; default: all.")
    rounds: int | None = Field(None, ge=1, le=10_000, description="Rounds a cell; default: 6, 3 for long calls.")
    launches: int | None = Field(
        None,
        ge=1,
        le=100,
        description="Times that processes start anew, each for its part of the rounds; default: 3, 1 for long calls, "
        "for models, and where --budget is short.",
    )
    samples: int | None = Field(None, ge=1, le=10_000, description="Timed calls per round; default: by time.")
    seed: int = Field(0, ge=0, le=2**32 - 1, description="Seed of inputs, sampled rows and order.")

    @model_validator(mode="before")
    @classmethod
    def _a_model_is_ttft(cls, given: dict[str, Any]) -> dict[str, Any]:
        given = with_model_changes(given)
        if given.get("model") is not None:
            return {**given, "ttft": True}
        return {**given, "model": "embedded"} if given.get("ttft") else given

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        if self.rounds is not None and self.launches is not None and self.launches > self.rounds:
            raise UsageError(f"--launches {self.launches} of --rounds {self.rounds}: a launch has a round or more")
        self._check_engine_args()
        if self.model is None:
            if self.engine != "hf":
                raise UsageError(f"--engine {self.engine} runs models; give --ttft too")
            self._refuse(LOADED, "concurrency", "rate")
            self._refuse("only a model reads a text; give --ttft too", "text")
            return self
        calls = "not with --ttft, which times one prompt through a model"
        self._refuse(calls, "batch", "heads", "inputs", "layers")
        if not self.servers:
            self._refuse(LOADED, "concurrency", "rate")
        else:
            self._refuse(SERVED_SO, "methods", "backend", "dtype")
            self._refuse("a server's processes are not started anew", "launches")
            if self.concurrency and self.rate:
                raise UsageError("--concurrency and --rate are two kinds of load; give one")
        return self

    @property
    def loads(self) -> Sequence[Load]:
        """What servers have to answer; one request at a time where nothing is asked for."""
        return [Load(rate=rate) for rate in self.rate or ()] or [Load(number) for number in self.concurrency or (1,)]


class AccuracyRequest(Request):
    """Samples of suites, answered by a model with each method."""

    verb: ClassVar[str] = "accuracy"
    joined: ClassVar[tuple[str, ...]] = ("lens", "tasks", "methods")
    counted: ClassVar[str | None] = "samples"
    repeatable: ClassVar[tuple[str, ...]] = ("engine_args",)

    suites: Specs = Field(
        "ruler",  # type: ignore[arg-type]
        alias="suite",
        description="Suites, e.g. ruler or fidelity:text=FILE, separated by commas.",
    )
    lens: Lengths = Field(
        "4k",  # type: ignore[arg-type]
        description="Lengths in tokens of prompt and answer: 4k, 4k-64k (doubling), separated by commas.",
    )
    tasks: Words | None = Field(None, description="Tasks of the suite; default: all. 'list' prints them.")
    methods: Specs | None = Field(
        None,
        description="Methods as for latency; default: dense, flashprefill at two alphas, flexprefill, xattention, "
        "minference and streaming.",
    )
    model: str = Field("embedded", description="embedded, a folder, a GGUF file, or a Hugging Face causal model.")
    rope: str | None = Field(None, description=ROPE)
    model_changes: str | None = Field(None, alias="model_config", description=CHANGES)
    model_arg: str | None = Field(None, description=ARGUMENTS)
    samples: int | None = Field(
        None, ge=1, le=100_000, description="Samples per task and length; default: 50, 3 on a CPU."
    )
    workers: int | None = Field(
        None, ge=1, le=64, description="Number of processes, each with a copy of the model, spread over the devices."
    )
    spread: bool = Field(False, description="Spread one copy of the model over all visible GPUs, if one is too small.")
    dtype: str = Field("bf16", description="Data type of the model: bf16, fp16 or fp32.")
    backend: str = Field("auto", description="Kernels: auto, hopper, triton or torch.")
    engine: str = Field("hf", description=ENGINE.format(""))
    engine_args: EngineArgs = Field(None, alias="engine_arg", description=ENGINE_ARG)
    dense_layers: DenseLayers = Field(
        "0",
        description="Layers of the model that run dense: so many first ones, e.g. 4, or a set, e.g. 0-3,17 or 17-17.",
    )
    chat: str = Field("auto", description="Chat template: auto (if the model has one), on or off.")
    reasoning: str = Field(
        "auto", description="Thoughts before an answer: auto (if the chat template always asks for one), on or off."
    )
    thinking_tokens: int | None = Field(
        None, ge=1, le=1_000_000, description="Tokens that a thought may take beyond the length; default 4096."
    )
    thought_end: str | None = Field(
        None,
        max_length=200,
        description="Regular expression that ends a thought, e.g. '</think>'; default: from the chat template.",
    )
    seed: int = Field(0, ge=0, le=2**32 - 1, description="Of the samples.")

    @model_validator(mode="before")
    @classmethod
    def _changes_are_in_the_name(cls, given: dict[str, Any]) -> dict[str, Any]:
        return with_model_changes({"model": "embedded"} | given)

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        self._check_engine_args()
        if self.servers:
            self._refuse(SERVED_SO, "methods", "backend", "dtype", "dense_layers", "spread")
        return self

    @property
    def dense(self) -> Sequence[int]:
        """The layers that run dense."""
        return range(int(self.dense_layers)) if self.dense_layers.isdigit() else parse_layers(self.dense_layers)


REQUESTS: Mapping[str, type[Request]] = {kind.verb: kind for kind in (LatencyRequest, AccuracyRequest)}


def read_command(command: str) -> Request:
    """Return the request of a record's ``command``.

    Raises:
        UsageError: it is not a command that measures, or would be refused.
    """
    # shlex takes a tenth of a millisecond, and hardly any command quotes.
    try:
        program, verb, *words = shlex.split(command) if QUOTES & set(command) else command.split()
    except ValueError:  # an open quote, or too few words
        raise UsageError(f"{command!r} is not a command of {PROGRAM}") from None
    if program != PROGRAM or verb not in REQUESTS:
        raise UsageError(f"{command!r} does not measure; start it with {PROGRAM} {' or '.join(REQUESTS)}")
    return REQUESTS[verb].from_words(words)


def join_commands(commands: Iterable[str]) -> list[str]:
    """Return the fewest command lines that cover these commands: one for each setting.

    Commands that this version does not know stay unchanged.
    """
    settings: dict[tuple[str, ...], tuple[Request, dict[str, dict[str, Any]]] | None] = {}
    for command in dict.fromkeys(commands):
        try:
            asked = read_command(command)
        except UsageError:
            settings[(command,)] = None
            continue
        key = (asked.verb, *asked.words(but=(*asked.joined, asked.counted or "")))
        found = settings.setdefault(key, (asked, {}))
        assert found is not None
        for name in asked.joined:
            found[1].setdefault(name, {}).update({str(value): value for value in getattr(asked, name) or ()})
        if asked.counted and (count := getattr(asked, asked.counted)):
            counts = found[1].setdefault(asked.counted, {})
            counts["most"] = max(count, counts.get("most", 0))
    return [key[0] if found is None else _joined(*found).command for key, found in settings.items()]


def _joined(asked: Request, found: Mapping[str, Mapping[str, Any]]) -> Request:
    values: dict[str, Any] = {name: list(values.values()) or None for name, values in found.items()}
    if asked.counted in values:
        (values[asked.counted],) = values[asked.counted]
    return asked.pinned(**values)
