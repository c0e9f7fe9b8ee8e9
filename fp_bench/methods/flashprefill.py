"""FlashPrefill as a method, with the thresholds its authors use for each model."""

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from torch import Tensor

from fp_bench.errors import UnavailableError
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.flashprefill import select_blocks
from fp_bench.kernels.flashprefill.planned import Settings
from fp_bench.kernels.flashprefill.prefill import prefill
from fp_bench.kernels.flashprefill.ranked import TopK, TopP, select_ranked
from fp_bench.kernels.flashprefill.rule import KeepRule
from fp_bench.kernels.fp8 import block_sparse_attention_fp8, fp8_missing, quantise_kv
from fp_bench.kernels.fp8.layout import HEAD_DIM, Fp8KV
from fp_bench.kernels.pooling import pool_keys
from fp_bench.kernels.pooling.means import BlockMeans, block_means
from fp_bench.kernels.selection import Selection
from fp_bench.methods.base import AttentionCall, Knob, MethodParams
from fp_bench.methods.blocks import BlockMethod, BlockParams, without_unset_skip
from fp_bench.params import read_layers

FP8_TOLERANCE = 0.08
"""Largest relative error of a head in 8 bits, to attention over the same blocks; docs/kernels.md has what was found."""


class FlashPrefill(BlockMethod):
    """Keep each key block whose energy is at least alpha times its row's maximum (arXiv 2603.06199)."""

    name = "flashprefill"

    class Params(BlockParams):
        """The rule's parameters; blocks have 128 tokens."""

        alpha: float = Field(0.12, ge=0, allow_inf_nan=False)
        """Threshold relative to the row's largest energy."""
        alpha_file: str | None = None
        """JSON list with a factor on alpha for each layer of a model; 0 makes the layer dense."""
        sink_blocks: int = Field(2, ge=0)
        """First key blocks that every query block keeps."""
        window_blocks: int = Field(4, ge=0)
        """Key blocks up to and including the diagonal that are kept."""
        last_full_blocks: int = Field(2, ge=0)
        """Query blocks at the end of the prompt that keep everything."""
        dense_below: int = Field(0, ge=0)
        """Calls with fewer keys run dense attention and report it; 0: never."""
        dense_above: float = Field(1.0, gt=0, le=1)
        """Selections denser than this run dense and report it; below 1 this waits for the GPU to read the density."""
        correction: bool = False
        """Whether dropped blocks contribute their mean key and value, as in FlashPrefill V2."""
        rule: Literal["max", "topk", "topp"] = "max"
        """max: the threshold alpha; topk, topp: keep the blocks of largest energy, sorted by PyTorch (an ablation)."""
        keep: float = Field(0.125, ge=0, le=1)
        """For rule=topk: share of a row's causal blocks."""
        mass: float = Field(0.9, ge=0, le=1)
        """For rule=topp: share of a row's energy."""
        precision: Literal["input", "fp8"] = "input"
        """input: products in the tensors' dtype; fp8: in 8 bits (Q, K INT8; P, V e4m3), some percent off, on Hopper."""

        @model_validator(mode="after")
        def _go_together(self) -> Self:
            for name, rule in (("keep", "topk"), ("mass", "topp")):
                if self.rule != rule and getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} is a parameter of rule={rule}, but the rule is {self.rule}")
            if self.precision == "fp8" and self.correction:
                raise ValueError("precision=fp8 has no correction")
            if self.skip is not None and (self.correction or self.precision == "fp8"):
                raise ValueError("skip cannot be combined with correction or precision=fp8")
            return self

        @model_serializer(mode="wrap")
        def _hashed_as_before_there_were_these(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
            found = without_unset_skip(dump(self))
            later = {"rule", "keep", "mass"} if self.rule == "max" else set()
            later |= set() if self.alpha_file else {"alpha_file"}
            later |= set() if self.correction else {"correction"}
            later |= set() if self.precision == "fp8" else {"precision"}
            return {name: value for name, value in found.items() if name not in later}

    params: Params
    knob = Knob("alpha", 0.005, 1.0, keeps="less", scale="log")
    presets: ClassVar = {
        "llama-3.1-8b": {"alpha": 0.18},
        "qwen2.5-7b": {"alpha": 0.08},
        "qwen3-30b-a3b": {"alpha": 0.12},
        "embedded": {"alpha": 0.18},
    }

    def __init__(self, params: MethodParams | None = None, *, backend: str = "auto") -> None:
        super().__init__(params, backend=backend)
        self._factors = None if self.params.alpha_file is None else read_layers(Path(self.params.alpha_file))

    def file_content(self) -> object:
        """Return the factors of the file."""
        return self._factors

    def alpha_of(self, layer: int) -> float:
        """Return the alpha of a layer; 0 where the file makes it dense."""
        return self.params.alpha * (1.0 if self._factors is None else self._factors[layer])

    def makes_dense(self, layer: int) -> bool:
        """Return whether the file makes a layer dense."""
        return self._factors is not None and self._factors[layer] == 0

    def other_model(self, layers: int) -> str | None:
        """Return why the file does not belong to a model of so many layers, or None."""
        if self._factors is None or layers == len(self._factors):
            return None
        return f"{self.params.alpha_file} has {len(self._factors)} layers; the model has {layers}"

    def unsupported(self, call: AttentionCall) -> str | None:
        """Return the reason if the file belongs to another model, or no kernel supports the head_dim or precision."""
        if (reason := self.other_model(call.layers)) is not None:
            return reason
        if self.params.precision == "fp8":
            if call.head_dim != HEAD_DIM:
                return f"precision=fp8 takes head_dim {HEAD_DIM}, not {call.head_dim}"
            if self.backend not in ("auto", "hopper"):
                return f"precision=fp8 runs on backend hopper, not {self.backend}"
        return super().unsupported(call)

    def results_version(self) -> int:
        """Return 2 for 8 bits, whose Q and K were e4m3 in version 1."""
        return 2 if self.params.precision == "fp8" else self.version

    def tolerance(self) -> float | None:
        """Return the largest error per head in 8 bits, if that is the precision."""
        return FP8_TOLERANCE if self.params.precision == "fp8" else None

    def select(self, call: AttentionCall) -> BlockIndex | None:
        """Pool the keys, score the blocks, keep those near the maximum; None for dense attention."""
        if self._runs_dense(call):
            return None
        return self._select(call, pool_keys(call.k, backend=self.backend))

    def attend(self, call: AttentionCall, index: BlockIndex | None) -> Tensor:
        """Attend over the kept blocks, and the means of the others if any; dense attention if the index is None."""
        if index is None or self.params.precision == "input":
            return super().attend(call, index)
        return self._attend_fp8(call, index, None)

    def __call__(self, call: AttentionCall) -> Tensor:
        """Return the output; launches are planned unless one depends on the selection."""
        params = self.params
        plain = params.precision == "input" and params.skip is None
        planned = plain and params.rule == "max" and not params.correction
        if not planned or params.dense_above < 1 or self._runs_dense(call):
            return super().__call__(call)
        return prefill(call.q, call.k, call.v, self._settings(call))[0]

    def run(self, call: AttentionCall) -> tuple[Tensor, Selection | None]:
        """Run the whole operator; in FP8 the pass that rounds K also pools it."""
        if self.params.precision == "input" or self._runs_dense(call):
            return super().run(call)
        if (reason := self.unsupported(call) or fp8_missing(call.q, call.k, call.v)) is not None:
            raise UnavailableError(reason)
        rounded = quantise_kv(call.k, call.v)
        index = self._select(call, rounded.pooled)
        return (super().attend(call, None) if index is None else self._attend_fp8(call, index, rounded)), index

    def implementation(self, call: AttentionCall, index: BlockIndex | None) -> str:
        """Name the kernel that attends over blocks, or the dense one."""
        if index is None or self.params.precision == "input":
            return super().implementation(call, index)
        return "hopper_fp8"

    def means(self, call: AttentionCall) -> BlockMeans | None:
        """Return the means of the key blocks, if dropped blocks contribute."""
        return block_means(call.k, call.v, backend=self.backend) if self.params.correction else None

    def _attend_fp8(self, call: AttentionCall, index: BlockIndex, rounded: Fp8KV | None) -> Tensor:
        return block_sparse_attention_fp8(call.q, call.k, call.v, index, scale=call.scale, rounded=rounded)

    def _select(self, call: AttentionCall, pooled: Tensor) -> BlockIndex | None:
        index = self._ranked(call, pooled, self._settings(call).rule())
        too_dense = self.params.dense_above < 1 and float(index.density().mean()) > self.params.dense_above
        return None if too_dense else index

    def _runs_dense(self, call: AttentionCall) -> bool:
        return call.kv_len < self.params.dense_below or self.makes_dense(call.layer)

    def _settings(self, call: AttentionCall) -> Settings:
        return Settings(
            alpha=self.alpha_of(call.layer),
            sink_blocks=self.params.sink_blocks,
            window_blocks=self.params.window_blocks,
            last_full_blocks=self.params.last_full_blocks if call.last_chunk else 0,
            scale=call.scale,
            backend=self.backend,
        )

    def _ranked(self, call: AttentionCall, pooled: Tensor, rule: KeepRule) -> BlockIndex:
        if self.params.rule == "max":
            return select_blocks(call.q, pooled, rule, kv_len=call.kv_len, scale=call.scale, backend=self.backend)
        ranking = TopK(self.params.keep) if self.params.rule == "topk" else TopP(self.params.mass)
        return select_ranked(call.q, pooled, ranking, rule, kv_len=call.kv_len, scale=call.scale, backend=self.backend)
