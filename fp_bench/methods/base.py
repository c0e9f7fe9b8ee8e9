"""The interface of a method: two steps over one attention call.

A sparse-prefill method first *selects* which key blocks each query block reads, then *attends*
exactly over those. Time per step, density, recall and error follow from that split with no code
in the method itself.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

from torch import Tensor

from fp_bench.errors import UsageError, did_you_mean
from fp_bench.kernels.attention.reference import attention_rows
from fp_bench.kernels.backend import check_backend
from fp_bench.kernels.layout import BlockGrid, check_layout
from fp_bench.kernels.pooling.means import BlockMeans
from fp_bench.kernels.selection import Selection
from fp_bench.methods.dense_kernels import DenseKernels
from fp_bench.methods.registry import Spec
from fp_bench.params import Params


@dataclass(frozen=True)
class AttentionCall:
    """One causal attention call of one layer during prefill.

    Args:
        q: ``[batch, q_len, q_heads, head_dim]``, any strides with head_dim contiguous.
        k: ``[batch, kv_len, kv_heads, head_dim]``; query head h reads KV head ``h // (q_heads // kv_heads)``.
        v: as ``k``.
        scale: factor on the logits, usually ``head_dim ** -0.5``.
        layer: index of this layer in its model.
        layers: number of layers of the model.
        last_chunk: whether the last query is the end of the prompt. With ``q_len < kv_len`` query i
            has position ``kv_len - q_len + i`` (bottom-right causal).
        kernels: of dense attention in this run; None: each `Dense` decides for itself.

    Raises:
        UnsupportedError: shapes, strides or dtypes that no operator here defines.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    scale: float
    layer: int = 0
    layers: int = 1
    last_chunk: bool = True
    kernels: DenseKernels | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_layout(self.q, self.k, self.v)

    @property
    def batch(self) -> int:
        """Number of sequences."""
        return self.q.shape[0]

    @property
    def q_len(self) -> int:
        """Number of queries of each sequence."""
        return self.q.shape[1]

    @property
    def kv_len(self) -> int:
        """Number of keys of each sequence."""
        return self.k.shape[1]

    @property
    def q_heads(self) -> int:
        """Number of query heads."""
        return self.q.shape[2]

    @property
    def kv_heads(self) -> int:
        """Number of KV heads."""
        return self.k.shape[2]

    @property
    def grid(self) -> BlockGrid:
        """Position of the query blocks of 128 among the key blocks."""
        return BlockGrid(self.q_len, self.kv_len)

    @property
    def head_dim(self) -> int:
        """Size of one head."""
        return self.q.shape[3]


class MethodParams(Params):
    """Parameters of a method."""


@dataclass(frozen=True)
class Knob:
    """The main parameter of a method, which a search varies to trade quality for time.

    Args:
        name: of the parameter.
        low: the smallest value worth a trial; above 0 on a logarithmic scale.
        high: the largest.
        keeps: whether a larger value keeps more or less.
        scale: spacing of the values between.
        whole: whether values are whole numbers.
    """

    name: str
    low: float
    high: float
    keeps: Literal["more", "less"]
    scale: Literal["linear", "log"] = "linear"
    whole: bool = False


class Method(ABC):
    """A way to compute prefill attention: ``select`` the keys to read, then ``attend`` over them.

    A third-party method subclasses this in one file and names itself in the entry-point group
    ``fp_bench.methods``.
    """

    name: ClassVar[str]
    """Name on the command line and in records."""
    version: ClassVar[int] = 1
    """Increment when the same parameters may give different results."""
    Params: ClassVar[type[MethodParams]] = MethodParams
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named parameter sets, usually one per model, selected by ``name:preset=...``."""
    knob: ClassVar[Knob | None] = None
    """The parameter that a search varies; None if none trades quality for time."""

    def __init__(self, params: MethodParams | None = None, *, backend: str = "auto") -> None:
        self.params = params if params is not None else self.Params()
        self.backend = backend
        """The requested kernels, one of ``kernels.backend.BACKENDS``."""

    @classmethod
    def from_options(cls, options: Mapping[str, Any], *, backend: str = "auto") -> Self:
        """Build the method from ``key=value`` options.

        Two keys are not parameters: ``preset`` names parameters to start from, ``backend`` the kernels to run.

        Raises:
            UsageError: an unknown preset, parameter or backend, or a value out of its limits.
        """
        given = dict(options)
        preset = given.pop("preset", None)
        backend = check_backend(given.pop("backend", backend))
        if preset is not None and preset not in cls.presets:
            known = did_you_mean(str(preset), cls.presets) if cls.presets else "; it has none"
            raise UsageError(f"{cls.name}: unknown preset {preset!r}{known}")
        base = cls.presets[preset] if preset is not None else {}
        return cls(cls.Params.parse(cls.name, given, base), backend=backend)

    @property
    def label(self) -> str:
        """Name, changed parameters and kernels as on the command line, e.g. ``flashprefill:alpha=0.18``."""
        kernels = {} if self.backend == "auto" else {"backend": self.backend}
        options = self.params.changed() | kernels
        return str(Spec(self.name, options))

    @property
    def method_hash(self) -> str:
        """Hash of name, version, parameters and files named there, which joins latency and accuracy records."""
        version = self.results_version()
        asked = _hash(json.dumps([self.name, version, self.params.model_dump(mode="json")], sort_keys=True))
        content = self.file_content()
        return asked if content is None else _hash(f"{asked} {content}")

    def results_version(self) -> int:
        """Return ``version``, or a later one of a setting whose results have changed since; part of ``method_hash``."""
        return self.version

    def file_content(self) -> object:
        """Return the content of the file that a parameter names, or None; it is part of ``method_hash``."""
        return None

    def unsupported(self, call: AttentionCall) -> str | None:
        """Return why this call cannot be computed here, or None."""
        del call
        return None

    def tolerance(self) -> float | None:
        """Return the relative error per head that the method declares, or None for the limit of the tensors' dtype.

        For arithmetic below that precision: an output further from attention over the selection is wrong. A run
        allows at most 0.1 and shows the declared value.
        """
        return None

    @abstractmethod
    def select(self, call: AttentionCall) -> Selection | None:
        """Decide which keys each query reads, as a BlockIndex for most methods; None means all of them (dense)."""

    @abstractmethod
    def attend(self, call: AttentionCall, index: Any) -> Tensor:
        """Return exact softmax attention over the selected keys, with shape and dtype of ``call.q``.

        ``index`` is what ``select`` returned, or a BlockIndex that the input source prescribes.
        """

    def means(self, call: AttentionCall) -> BlockMeans | None:
        """Return the block means with which ``attend`` includes unlisted blocks, or None if it is exact.

        A method that returns them declares that its outputs are attention over its selection and these means.
        A run accepts them, and `definition`, only from classes of this package.
        """
        del call
        return None

    def definition(self, call: AttentionCall, index: Any, rows: Tensor) -> Tensor | None:
        """Return the defined output of some queries in float32, or None if it is attention over the selection.

        Args:
            call: the call.
            index: what ``select`` returned, or a BlockIndex that the input source prescribes.
            rows: query numbers, int64.

        Returns:
            ``[batch, rows, q_heads, head_dim]`` float32.
        """
        means = self.means(call)
        if means is None:
            return None
        return attention_rows(call.q, call.k, call.v, scale=call.scale, rows=rows, index=index, means=means).out

    def skipped(self, call: AttentionCall, index: Any) -> float | None:
        """Return the share of the selection that ``attend`` skips, or None if it skips nothing.

        It is called once, outside any timer, and may wait for the device.
        """
        del call, index
        return None

    def run(self, call: AttentionCall) -> tuple[Tensor, Selection | None]:
        """Run the whole operator, as a model's attention layer does.

        A method whose two steps share work overrides this; each step alone gives the same result.

        Returns:
            The output, with shape and dtype of ``call.q``, and the selection behind it.
        """
        index = self.select(call)
        return self.attend(call, index), index

    def __call__(self, call: AttentionCall) -> Tensor:
        """Return the output of `run`."""
        return self.run(call)[0]

    def implementation(self, call: AttentionCall, index: Any) -> str:
        """Name the kernel that computes ``attend(call, index)``, e.g. ``triton`` or ``cudnn``."""
        del call, index
        return self.backend

    def slower_because(self, call: AttentionCall, index: Any) -> str | None:
        """Return why ``auto`` chose a slower kernel than this GPU supports, or None if it did not."""
        del call, index
        return None


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
