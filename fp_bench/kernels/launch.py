"""Launching a Triton or Gluon kernel again without binding, hashing and specialising its arguments again.

Triton's own launch path costs tens of microseconds of Python a kernel, which at 4K is as long as the kernel runs.
"""

from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any

import torch
from torch import Tensor


class CachedKernel:
    """A kernel that remembers its compiled forms by all that its arguments can specialise.

    Triton compiles an integer differently when it is 1 or a multiple of 16, unless the kernel names it in
    ``do_not_specialize``, and a pointer when it is aligned to 16 bytes; arguments of equal classes share a compiled
    form, whatever the lengths.
    """

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        # Triton's interpreter keeps no parameters, and nothing compiled either.
        self._alike = [parameter.do_not_specialize for parameter in getattr(kernel, "params", ())]
        self._compiled: dict[tuple[object, ...], Any] = {}

    def __call__(
        self,
        programs: int,
        tensors: Sequence[Any],
        floats: Sequence[float],
        integers: Sequence[int],
        constants: Mapping[str, object],
        options: Mapping[str, int],
    ) -> None:
        """Launch ``programs`` programs on the device of the tensors.

        Args:
            programs: size of the one-dimensional grid.
            tensors: tensors and TMA descriptors, the kernel's first arguments.
            floats: the arguments after them.
            integers: the arguments after those.
            constants: the constexpr arguments, the kernel's last, in order.
            options: of the compiler, e.g. ``num_warps``.
        """
        device = _base(tensors[0]).device
        if device.type == "cuda" and device.index != torch.cuda.current_device():
            with torch.cuda.device(device):
                return self(programs, tensors, floats, integers, constants, options)
        key = (
            device.index,
            *map(_pointer_class, tensors),
            *map(_integer_class, integers, self._alike[len(tensors) + len(floats) :] or repeat(False)),
            *constants.values(),
            *options.values(),
        )
        compiled = self._compiled.get(key)
        if compiled is None:
            # None under Triton's interpreter, which compiles nothing.
            launched = self._kernel[(programs,)](*tensors, *floats, *integers, **constants, **options)
            if launched is not None:
                self._compiled[key] = launched
        else:
            compiled[(programs, 1, 1)](*tensors, *floats, *integers, *constants.values())
        return None


def split_options(config: Mapping[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    """Return a configuration's constants and its compiler options."""
    compiler = ("num_warps", "maxnreg")
    options = {name: value for name, value in config.items() if name in compiler}
    return {name: value for name, value in config.items() if name not in compiler}, options


def _base(argument: Any) -> Tensor:
    """Return the tensor itself, or the one under a TMA descriptor."""
    tensor: Tensor = argument if isinstance(argument, Tensor) else argument.base
    return tensor


def _pointer_class(argument: Any) -> tuple[object, ...]:
    if isinstance(argument, Tensor):
        return argument.dtype, argument.data_ptr() % 16 == 0
    return argument.base.dtype, *argument.block_shape


def _integer_class(value: int, alike: bool) -> int:
    """Return which of Triton's specialisations an integer falls under; 64-bit ones are apart."""
    wide = 4 if value >= 2**31 else 0
    if alike:
        return wide
    return wide + (1 if value == 1 else 2 if value % 16 == 0 else 0)
