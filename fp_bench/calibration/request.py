"""Options of ``fpbench tune``, without torch."""

from math import inf
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from fp_bench.errors import UsageError
from fp_bench.jobs.request import ARGUMENTS, CHANGES, ENGINE_ARG, ROPE, Request, with_model_changes
from fp_bench.jobs.values import EngineArgs, Lengths, Specs
from fp_bench.records.record import AccuracyRecord

LIMITS = {"max_kl": "kl", "max_nll": "nll", "min_recall": "recall"}
DEFAULT_MAX_KL = 0.02


class TuneRequest(Request):
    """Find the fastest setting of each method within a limit of quality, on a model."""

    verb: ClassVar[str] = "tune"
    joined: ClassVar[tuple[str, ...]] = ()
    repeatable: ClassVar[tuple[str, ...]] = ("engine_args",)

    model: str = Field("embedded", description="embedded, a folder, a GGUF file, or a Hugging Face causal model.")
    rope: str | None = Field(None, description=ROPE)
    model_changes: str | None = Field(None, alias="model_config", description=CHANGES)
    model_arg: str | None = Field(None, description=ARGUMENTS)
    lens: Lengths = Field(
        "4k",  # type: ignore[arg-type]
        description="Lengths in tokens: 32k, 4k-64k (doubling), separated by commas.",
    )
    methods: Specs = Field(
        "flashprefill,rbs,xattention,prism,stem,flexprefill",  # type: ignore[arg-type]
        description="Methods to tune; each method's main parameter is searched, its other options stay fixed.",
    )
    max_kl: float | None = Field(
        None, gt=0, le=100, description="Largest KL divergence from dense attention, nats; 0.02 if no limit is given."
    )
    max_nll: float | None = Field(
        None, gt=0, le=100, description="Instead of --max-kl: largest rise of the negative log-likelihood, nats."
    )
    min_recall: float | None = Field(
        None, gt=0, lt=1, description="Instead of --max-kl: smallest share of the attention mass to keep."
    )
    text: str | None = Field(None, description="Text file that the model reads; default: generated sentences.")
    per: Literal["model", "layer"] = Field(
        "model", description="layer: also search an alpha of FlashPrefill for each layer; model: only one for all."
    )
    samples: int = Field(16, ge=4, le=1024, description="Most pieces of text to try on one setting.")
    engine: str = Field(
        "hf", description="What times the first token of the settings found: hf or vllm; the search is always in hf."
    )
    engine_args: EngineArgs = Field(None, alias="engine_arg", description=ENGINE_ARG)
    workers: int | None = Field(None, ge=1, le=64, description="Number of processes, each with a copy of the model.")
    dtype: str = Field("bf16", description="Data type of the model: bf16, fp16 or fp32.")
    backend: str = Field("auto", description="Kernels: auto, hopper, triton or torch.")

    @model_validator(mode="before")
    @classmethod
    def _changes_are_in_the_name(cls, given: dict[str, Any]) -> dict[str, Any]:
        return with_model_changes({"model": "embedded"} | given)

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        given = [f"--{name.replace('_', '-')}" for name in LIMITS if getattr(self, name) is not None]
        if len(given) > 1:
            raise UsageError(f"{' and '.join(given)} are two limits; give only one")
        if self.servers:
            raise UsageError(f"--engine {self.engine}: a server decides itself what it runs; tune takes hf or vllm")
        self._check_engine_args()
        return self

    @property
    def measure(self) -> str:
        """The limited measure: ``kl``, ``nll`` or ``recall``."""
        return next((LIMITS[name] for name in LIMITS if getattr(self, name) is not None), "kl")

    @property
    def limit(self) -> float:
        """Largest mean of `loss`."""
        if self.min_recall is not None:
            return 1 - self.min_recall
        return self.max_nll or self.max_kl or DEFAULT_MAX_KL

    @property
    def limit_text(self) -> str:
        """The limit in words."""
        if self.min_recall is not None:
            return f"recall at least {self.min_recall:g}"
        return f"{self.measure.upper()} at most {self.limit:g} nats"

    def loss(self, record: AccuracyRecord) -> float:
        """Return a sample's loss; infinite if it was not answered."""
        lost = {"kl": record.kl, "nll": record.nll_difference, "recall": 1 - (record.recall or 0)}[self.measure]
        return inf if record.status != "ok" or lost is None else lost
