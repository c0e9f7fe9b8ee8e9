"""Launches in a row on an NVIDIA GPU, with everything that follows from layouts worked out once.

For short calls the host is as busy as the GPU when it checks, allocates and launches step by step. A plan has picked
and compiled the kernels and packed their numbers: a call of it allocates one workspace, writes addresses and launches.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fp_bench.kernels.launch import Box, CachedKernel, current_stream, tensor_map

ADDRESSES = 64
"""Of a tensor whose maps of TMA a plan keeps."""
ALIGNED = 256
"""Bytes between the parts of a workspace: multiples of it."""


class Step:
    """One launch of a plan, and where in the call's addresses each of its tensors stands.

    Args:
        kernel: what to launch.
        arguments: what it takes, with some of ``known`` as tensors.
        known: the tensors of a call, in the order of its addresses.
        device: the GPU, the current one.
    """

    def __init__(
        self, kernel: CachedKernel, arguments: tuple[Any, ...], known: Sequence[Tensor], device: torch.device
    ) -> None:
        programs, tensors, *rest = arguments
        self._launch = kernel.prepare(device, programs, tensors, *rest)
        maps = iter(self._launch.maps)
        self._slots: list[tuple[int, Callable[[int], bytes] | None]] = []
        for tensor in tensors:
            base = tensor.base if isinstance(tensor, Box) else tensor
            number = next(i for i, other in enumerate(known) if other is base)
            encode = None
            if isinstance(tensor, Box):
                # A cache of its own spares hashing sizes and strides, which are a plan's to know.
                how = {"shape": base.shape, "strides": base.stride(), "tma": next(maps)}
                encode = functools.lru_cache(maxsize=ADDRESSES)(functools.partial(tensor_map, **how))
            self._slots.append((number, encode))

    def __call__(self, stream: int, at: Sequence[int]) -> None:
        """Launch on the tensors at these addresses."""
        self._launch(stream, *[encode(at[number]) if encode else at[number] for number, encode in self._slots])


def place_parts(parts: Sequence[Tensor]) -> tuple[list[int], int]:
    """Return where each part of a workspace begins, and the bytes of all."""
    offsets, size = [], 0
    for part in parts:
        offsets.append(size)
        size += -(-part.nbytes // ALIGNED) * ALIGNED
    return offsets, size


class Launches:
    """Launches in a row and the tensors between them: to run at once, or for a `Plan`.

    Args:
        device: the GPU, or where Triton's interpreter runs.
        planned: whether the tensors between have no memory, and stand for those of each call of a plan.
    """

    def __init__(self, device: torch.device, *, planned: bool = False) -> None:
        self.device = device
        self.parts: list[Tensor] = []
        self.steps: list[tuple[CachedKernel, tuple[Any, ...]]] = []
        self._where = torch.device("meta") if planned else device

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Allocate a tensor that lives as long as the launches; to be named as it is, not by views."""
        self.parts.append(torch.empty(shape, dtype=dtype, device=self._where))
        return self.parts[-1]

    def add(self, kernel: CachedKernel, *arguments: Any) -> None:
        """Append a launch; arguments as `CachedKernel` takes them."""
        self.steps.append((kernel, arguments))

    def run(self) -> None:
        """Launch all."""
        for kernel, arguments in self.steps:
            kernel(*arguments)


class Plan:
    """Launches for tensors of one layout, whose addresses are multiples of 16.

    Args:
        launches: planned, on the current device.
        given: the tensors of a call that are not the launches' own; here only their layouts count.
    """

    def __init__(self, launches: Launches, given: Sequence[Tensor]) -> None:
        known = (*given, *launches.parts)
        self._device = launches.device
        self._steps = [Step(*step, known, self._device) for step in launches.steps]
        self._offsets, self._bytes = place_parts(launches.parts)

    def __call__(self, *given: Tensor) -> None:
        """Launch all on the current stream of the current device."""
        workspace = torch.empty(self._bytes, dtype=torch.uint8, device=self._device)
        start = workspace.data_ptr()
        at = [*(tensor.data_ptr() for tensor in given), *(start + offset for offset in self._offsets)]
        stream = current_stream(self._device)
        for step in self._steps:
            step(stream, at)
