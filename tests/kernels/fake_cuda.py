"""A Hopper GPU that is not here: tensors with addresses alone, and a driver that writes down what it is told to launch.

For a process without Triton's interpreter: kernels are compiled as they are for the real chip, and never run.
"""

import ctypes
import itertools
from dataclasses import dataclass, field
from math import prod
from typing import Any
from unittest import mock

import torch

DEVICE = torch.device("cuda", 0)
STREAM = 7
MAPS = 1 << 56
"""Added to an address to mark the tensor map of what lies there."""


@dataclass
class FakeTensor:
    """Stands for a contiguous tensor on the GPU."""

    shape: torch.Size
    dtype: torch.dtype
    address: int
    device: torch.device = DEVICE
    is_cuda: bool = True
    requires_grad: bool = False

    def __post_init__(self) -> None:
        self.strides = tuple(prod(self.shape[i + 1 :]) for i in range(len(self.shape)))

    def dim(self) -> int:
        return len(self.shape)

    def stride(self, dim: int | None = None) -> Any:
        return self.strides if dim is None else self.strides[dim]

    def data_ptr(self) -> int:
        return self.address


@dataclass
class Launched:
    """One launch: the kernel, the sizes asked for, and its parameters' bytes."""

    name: str
    programs: int
    threads: int
    shared: int
    stream: int
    start: int
    offsets: list[int]
    memory: bytes


@dataclass
class FakeDriver:
    """What `launch.driver` returns; ``launched`` fills."""

    launched: list[Launched] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    """Of the launches to come; 0 once there are none."""
    contexts: int = 0
    maps: int = 0
    names: dict[int, str] = field(default_factory=dict)
    loaded: list[bytes] = field(default_factory=list)

    def cuDevicePrimaryCtxRetain(self, *_: Any) -> int:
        return 0

    cuFuncSetCacheConfig = cuFuncSetAttribute = cuDevicePrimaryCtxRetain

    def cuCtxSetCurrent(self, *_: Any) -> int:
        self.contexts += 1
        return 0

    def cuGetErrorString(self, status: int, text: Any) -> int:
        ctypes.cast(text, ctypes.POINTER(ctypes.c_char_p))[0] = f"status {status} of the fake".encode()
        return 0

    def cuModuleLoadData(self, _: Any, cubin: bytes) -> int:
        self.loaded.append(cubin)
        return 0

    def cuModuleGetFunction(self, function: Any, _: Any, name: bytes) -> int:
        handle = 1000 + len(self.names)
        self.names[handle] = name.decode()
        ctypes.cast(function, ctypes.POINTER(ctypes.c_void_p))[0] = handle
        return 0

    def cuTensorMapEncodeTiled(self, place: int, _type: int, _rank: int, address: int, *_: Any) -> int:
        assert place % 64 == 0
        self.maps += 1
        ctypes.memmove(place, (MAPS + address).to_bytes(8, "little") + bytes(120), 128)
        return 0

    def cuLaunchKernel(self, function: int, x: int, y: int, z: int, threads: int, ty: int, tz: int, *rest: Any) -> int:
        if self.statuses and (status := self.statuses.pop(0)):
            return status
        shared, stream, parameters, extra = rest
        assert (y, z, ty, tz, extra) == (1, 1, 1, 1, None)
        offsets = [at - parameters[0] for at in parameters]
        memory = ctypes.string_at(parameters[0], offsets[-1] + 8)
        name = self.names[function]
        self.launched.append(Launched(name, x, threads, shared, stream, parameters[0], offsets, memory))
        return 0


def install() -> FakeDriver:
    """Make torch and `launch` believe in the GPU, until ``mock.patch.stopall()``."""
    from fp_bench.kernels import backend, launch
    from fp_bench.kernels.attention import hopper

    driver = FakeDriver()
    places = itertools.count(1 << 40, 1 << 32)
    allocated: dict[Any, FakeTensor] = {}
    empty = torch.empty

    def allocate(shape: Any, dtype: torch.dtype, device: Any) -> Any:
        if torch.device(device).type != "cuda":
            return empty(shape, dtype=dtype, device=device)
        if (shape, dtype) not in allocated:
            size = torch.Size([shape] if isinstance(shape, int) else shape)
            allocated[shape, dtype] = FakeTensor(size, dtype, next(places))
        return allocated[shape, dtype]

    properties = mock.Mock(multi_processor_count=132)
    for place, name, value in (
        (torch, "empty", allocate),
        (torch, "zeros", allocate),
        (torch.cuda, "current_device", lambda: 0),
        (torch.cuda, "get_device_capability", lambda *_: (9, 0)),
        (torch.cuda, "get_device_properties", lambda *_: properties),
        (torch.cuda, "is_current_stream_capturing", lambda: False),
        (torch._C, "_cuda_getCurrentRawStream", lambda *_: STREAM),
        (launch, "driver", lambda: driver),
        (hopper, "_self_test", lambda *_: None),
    ):
        mock.patch.object(place, name, value, create=True).start()
    backend.capability.cache_clear()
    return driver


def tensors(length: int, heads: tuple[int, int] = (32, 8), head_dim: int = 128) -> tuple[FakeTensor, ...]:
    """Return Q, K and V in bfloat16."""
    return tuple(
        FakeTensor(torch.Size((1, length, count, head_dim)), torch.bfloat16, (1 + i) << 36)
        for i, count in enumerate((heads[0], heads[1], heads[1]))
    )
