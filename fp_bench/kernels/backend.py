"""Which implementation of an operator runs for a tensor: Triton or Gluon on GPUs, torch elsewhere."""

import functools
import os

import torch
from torch import Tensor

from fp_bench.errors import UnavailableError, UnsupportedError, UsageError, did_you_mean

BACKENDS = ("auto", "hopper", "triton", "torch")
"""auto: the fastest that fits; hopper: Gluon kernels for sm_90; triton: portable; torch: anywhere."""


HOPPER = 90
"""Ten times the compute capability of the GPUs that the Hopper kernels are for."""


def check_backend(asked: str) -> str:
    """Return ``asked`` when it names a backend.

    Raises:
        UsageError: an unknown name.
    """
    if asked not in BACKENDS:
        raise UsageError(f"unknown backend {asked!r}{did_you_mean(asked, BACKENDS)}")
    return asked


def triton_missing() -> str | None:
    """Return why Triton kernels cannot run on this machine, or None."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return "triton is not installed (it exists for Linux only)"
    if not torch.cuda.is_available() and not interpreted():
        return "there is no GPU; TRITON_INTERPRET=1 runs the kernels slowly on the CPU"
    return None


@functools.cache
def triton_version() -> tuple[int, int]:
    """Return Triton's major and minor version, ``(0, 0)`` where it is not installed."""
    try:
        import triton
    except ImportError:
        return 0, 0
    major, minor = triton.__version__.split(".")[:2]
    return int(major), int(minor)


def gluon_missing() -> str | None:
    """Return why the Triton at hand does not compile the Hopper kernels, or None."""
    if (3, 6) <= triton_version() <= (3, 9):
        return None
    return f"Triton {'.'.join(map(str, triton_version()))} is outside 3.6 to 3.9, which compile it"


def interpreted() -> bool:
    """Return whether Triton's interpreter is asked for (it runs kernels on CPU tensors, for tests)."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def resolve_backend(tensor: Tensor, asked: str = "auto") -> str:
    """Return ``triton`` or ``torch`` for operands like ``tensor``.

    ``auto`` takes Triton for float16 and bfloat16 on a GPU and torch for everything else. An operator that also has a
    Hopper kernel takes that one instead of Triton where it fits (see `attention` and `paged`).

    Raises:
        UsageError: an unknown name.
        UnavailableError: Triton asked for where it cannot run.
        UnsupportedError: Triton asked for with a dtype its kernels do not take.
    """
    check_backend(asked)
    half = tensor.dtype in (torch.float16, torch.bfloat16)
    if asked == "auto":
        return "triton" if tensor.is_cuda and half and triton_version() > (0, 0) else "torch"
    if asked == "torch":
        return "torch"
    if not tensor.is_cuda or triton_version() == (0, 0):
        if (missing := triton_missing()) is not None:
            raise UnavailableError(f"backend {asked}: {missing}")
        if not interpreted():
            raise UnavailableError(f"backend {asked}: the tensors are on {tensor.device}; move them to a GPU")
    if not half and not interpreted():
        raise UnsupportedError(f"backend {asked} takes float16 and bfloat16, not {tensor.dtype}; use backend torch")
    return "triton"


@functools.cache
def capability(device: torch.device) -> int:
    """Return ten times the compute capability of an NVIDIA GPU, 0 for any other device."""
    if device.type != "cuda" or torch.version.hip:
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """Return the number of a GPU's streaming multiprocessors."""
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count
