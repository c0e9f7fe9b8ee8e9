"""Dense causal attention, the reference for every sparse method, with the fastest kernel of the machine."""

import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from fp_bench.errors import UnavailableError, UnsupportedError, first_line
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.methods.base import AttentionCall, Method, MethodParams
from fp_bench.methods.dense_kernels import DenseKernels
from fp_bench.sizes import format_length

# Imported only where they run, because importing torch's compiler takes seconds.
if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

Implementation = Callable[[AttentionCall], Tensor]


def _sdpa(call: AttentionCall, backend: SDPBackend) -> Tensor:
    """PyTorch's scaled_dot_product_attention, restricted to one of its kernels."""
    q, k, v = (tensor.transpose(1, 2) for tensor in (call.q, call.k, call.v))
    chunk = call.q_len < call.kv_len
    bias = None
    if chunk:
        from torch.nn.attention.bias import causal_lower_right

        bias = causal_lower_right(call.q_len, call.kv_len)
    with sdpa_kernel(backend):
        out: Tensor = F.scaled_dot_product_attention(
            q, k, v, attn_mask=bias, is_causal=not chunk, scale=call.scale, enable_gqa=call.q_heads != call.kv_heads
        )
    return out.transpose(1, 2)


def _cudnn(call: AttentionCall) -> Tensor:
    if call.q_len < call.kv_len:
        raise UnsupportedError("dense:impl=cudnn has no bottom-right causal mask for q_len < kv_len; use impl=fa2")
    return _sdpa(call, SDPBackend.CUDNN_ATTENTION)


def _fa2(call: AttentionCall) -> Tensor:
    return _sdpa(call, SDPBackend.FLASH_ATTENTION)


def _of_package(package: str) -> Implementation:
    """Return FlashAttention from a package of its authors."""
    attend = import_module(package).flash_attn_func

    def run(call: AttentionCall) -> Tensor:
        out: Tensor | tuple[Tensor, ...] = attend(call.q, call.k, call.v, softmax_scale=call.scale, causal=True)
        return out[0] if isinstance(out, tuple) else out

    return run


class _Flex:
    """FlexAttention, compiled once per shape; the block mask is made outside the timed call."""

    def __init__(self) -> None:
        from torch.nn.attention.flex_attention import flex_attention

        self._compiled = torch.compile(flex_attention, dynamic=False)
        self._masks: dict[tuple[int, int], BlockMask] = {}

    def __call__(self, call: AttentionCall) -> Tensor:
        from torch.nn.attention.flex_attention import create_block_mask

        lengths = (call.q_len, call.kv_len)
        if lengths not in self._masks:
            offset = call.kv_len - call.q_len

            def causal(_b: Tensor, _h: Tensor, i: Tensor, j: Tensor) -> Tensor:
                return i + offset >= j

            self._masks[lengths] = create_block_mask(causal, None, None, *lengths, device=call.q.device)
        q, k, v = (tensor.transpose(1, 2) for tensor in (call.q, call.k, call.v))
        out = self._compiled(
            q, k, v, block_mask=self._masks[lengths], scale=call.scale, enable_gqa=call.q_heads != call.kv_heads
        )
        return out.transpose(1, 2)


# name -> (where it runs, the package it needs, how to make it)
_IMPLEMENTATIONS: dict[str, tuple[str, str | None, Callable[[], Implementation]]] = {
    "cudnn": ("cuda", None, lambda: _cudnn),
    "fa2": ("cuda", None, lambda: _fa2),
    "flash_attn": ("cuda", "flash_attn", partial(_of_package, "flash_attn")),
    "fa3": ("cuda", "flash_attn_interface", partial(_of_package, "flash_attn_interface")),
    "fa4": ("cuda", "flash_attn.cute", partial(_of_package, "flash_attn.cute")),
    "flex_attention": ("cuda", None, _Flex),
    "sdpa_cpu": ("cpu", None, lambda: _fa2),
}


def unavailable(impl: str, device: torch.device) -> str | None:
    """Return why a dense implementation cannot run on ``device``, or None."""
    kind, package, _ = _IMPLEMENTATIONS[impl]
    if device.type != kind:
        return f"dense:impl={impl} runs on {kind}, not on {device.type}"
    if package is not None:
        try:
            found = find_spec(package) is not None
        except ModuleNotFoundError:
            found = False
        except Exception as error:  # a package whose import fails, e.g. built for another torch
            return f"dense:impl={impl} needs the package {package}, which fails to import: {first_line(error)}"
        if not found:
            return f"dense:impl={impl} needs the package {package}, which is not installed"
    return None


def implementations() -> list[str]:
    """Return the names of all dense implementations, installed or not."""
    return list(_IMPLEMENTATIONS)


class Dense(Method):
    """Dense causal attention; ``impl=auto`` is the fastest implementation that runs here, named in the record."""

    name = "dense"

    class Params(MethodParams):
        """Which kernel computes dense attention."""

        impl: Literal["auto", "cudnn", "fa2", "flash_attn", "fa3", "fa4", "flex_attention", "sdpa_cpu"] = Field("auto")
        """auto: the fastest that runs; cudnn, fa2: PyTorch's SDPA with cuDNN or FlashAttention-2; flash_attn, fa3,
        fa4: the packages of those names; flex_attention: PyTorch's FlexAttention; sdpa_cpu: its SDPA on the CPU."""

    params: Params
    PROBED: ClassVar = ("cudnn", "flash_attn", "fa3", "fa4", "fa2", "sdpa_cpu")
    """Candidates of auto; without flex_attention, which compiles for every shape and is never the fastest."""

    def __init__(self, params: MethodParams | None = None, *, backend: str = "auto") -> None:
        del backend  # dense kernels are chosen by impl
        super().__init__(params)
        self._made: dict[str, Implementation] = {}
        self._kernels = DenseKernels()
        self._candidates: dict[torch.device, list[str]] = {}
        """Of auto. To look for packages takes longer than to launch a kernel, so it is not done at every call."""

    def select(self, call: AttentionCall) -> None:
        """Select everything."""
        del call

    def attend(self, call: AttentionCall, index: BlockIndex | None) -> Tensor:
        """Attend over all visible keys.

        Raises:
            UnavailableError: the requested implementation is not available.
            UnsupportedError: it does not define this call.
        """
        return self._run(self.implementation(call, index), call)

    def implementation(self, call: AttentionCall, index: BlockIndex | None) -> str:
        """Name the implementation that runs for this call.

        ``auto`` times all of them, once for each (rounded-up) length and for all calls with the same ``kernels``.

        Raises:
            UnavailableError: none runs here, or the one that this run has decided on is not available.
        """
        del index
        if self.params.impl != "auto":
            return self.params.impl
        candidates = self._candidates_on(call.q.device)
        if len(candidates) == 1:
            return candidates[0]
        impl = (call.kernels or self._kernels).kernel(_kind(call), partial(self._find_fastest, call))
        if impl not in candidates and (reason := unavailable(impl, call.q.device)) is not None:
            raise UnavailableError(f"this run has decided that dense:impl=auto is {impl}, but {reason}")
        return impl

    def _run(self, impl: str, call: AttentionCall) -> Tensor:
        if (reason := unavailable(impl, call.q.device)) is not None:
            raise UnavailableError(reason)
        if impl not in self._made:
            self._made[impl] = _IMPLEMENTATIONS[impl][2]()
        return self._made[impl](call)

    def _candidates_on(self, device: torch.device) -> list[str]:
        if device not in self._candidates:
            self._candidates[device] = [impl for impl in self.PROBED if unavailable(impl, device) is None]
        return self._candidates[device]

    def _find_fastest(self, call: AttentionCall) -> str:
        times: dict[str, float] = {}
        reasons: list[str] = []
        for impl in self._candidates_on(call.q.device):
            try:
                times[impl] = min(_seconds(lambda impl=impl: self._run(impl, call)) for _ in range(3))  # type: ignore[misc]
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # whatever a package raises, the others are still there
                reasons.append(f"{impl}: {first_line(error)}")
        if not times:
            raise UnavailableError(f"no dense implementation runs here: {'; '.join(reasons) or call.q.device}")
        return min(times, key=lambda impl: times[impl])


def _kind(call: AttentionCall) -> str:
    """Describe a call for the choice of auto, in words for records: calls of one kind run one implementation.

    Prompts of one length differ by some tokens, so lengths are rounded up to a power of two. Only the order of strides
    counts, because kernels refuse some orders. Devices of one name are alike.
    """
    device = torch.cuda.get_device_name(call.q.device) if call.q.is_cuda else call.q.device.type
    queries, keys = (format_length(1 << (length - 1).bit_length()) for length in (call.q_len, call.kv_len))
    length = f"up to {keys}" if call.q_len == call.kv_len else f"up to {queries} at the end of {keys}"
    heads = f"{call.batch} x {call.q_heads}/{call.kv_heads} heads of {call.head_dim}"
    orders = (sorted(range(4), key=tensor.stride, reverse=True) for tensor in (call.q, call.k))
    layouts = "/".join("".join("bshd"[dim] for dim in order) for order in orders)
    return f"{length}, {heads} in {layouts}, {str(call.q.dtype).removeprefix('torch.')} on {device}"


def _seconds(run: Callable[[], Tensor]) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start
