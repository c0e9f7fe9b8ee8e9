"""The measured device: the GPU, or the CPU without one."""

import os
from dataclasses import dataclass
from typing import Any

import torch

from fp_bench.errors import UnavailableError, UsageError, did_you_mean
from fp_bench.records.environment import Gpu, environment

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
"""Dtypes by their names on the command line and in records."""


def parse_dtype(name: str) -> torch.dtype:
    """Return the torch dtype of ``bf16``, ``fp16`` or ``fp32``.

    Raises:
        UsageError: another name.
    """
    if name not in DTYPES:
        raise UsageError(f"unknown dtype {name!r}{did_you_mean(name, DTYPES)}")
    return DTYPES[name]


def parse_device(name: str | None) -> torch.device:
    """Return a device by its name, e.g. ``cpu`` or ``cuda:1``; None is the GPU if there is one.

    Raises:
        UsageError: no such kind of device.
        UnavailableError: the device is missing.
    """
    if name is None:
        return Machine.here().device
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"unknown device {name!r}; write cpu, cuda or cuda:1") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UnavailableError(f"device {name!r} is not here: {torch.cuda.device_count()} GPUs are visible")
    return device


def use_device(device: torch.device, threads: int | None = None) -> None:
    """Make a GPU the current one of this thread, for kernels and events, and set the number of threads, if given."""
    if threads is not None:
        torch.set_num_threads(threads)
    if device.type == "cuda":
        torch.cuda.set_device(device)


def threads_for(workers: int) -> int:
    """Return the number of threads for each of several workers that share the cores of this process."""
    return max(1, min(torch.get_num_threads(), len(os.sched_getaffinity(0)) // workers))


@dataclass(frozen=True)
class Machine:
    """The device that calls run on, and its GPU as the driver sees it."""

    device: torch.device
    gpu: Gpu | None

    @classmethod
    def here(cls) -> "Machine":
        """Return the current GPU, or the CPU where there is none."""
        if not torch.cuda.is_available():
            return cls(torch.device("cpu"), None)
        return cls.of(torch.device("cuda", torch.cuda.current_device()))

    @classmethod
    def of(cls, gpu: torch.device) -> "Machine":
        """Return a GPU by its device, with an index."""
        return cls(gpu, Gpu(str(torch.cuda.get_device_properties(gpu).uuid)))

    @property
    def memory_bytes(self) -> int:
        """Memory of the GPU, or of the host."""
        if self.gpu:
            return int(torch.cuda.get_device_properties(self.device).total_memory)
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

    def environment(self) -> dict[str, Any]:
        """Return the facts of a record's environment."""
        cudnn = torch.backends.cudnn.version() if self.gpu else None  # type: ignore[no-untyped-call]
        return environment(self.gpu, cuda=torch.version.cuda, cudnn=cudnn, cpu_threads=torch.get_num_threads())
