"""FlashPrefill's three launches on an NVIDIA GPU; all that depends only on layouts is computed once.

At 4K the GPU needs 0.2 ms; checking, allocating and launching step by step would take the host as long. A plan has
checked the layout, chosen and compiled the kernels, and packed their numbers. A call of the plan allocates the outputs
and one workspace, writes addresses, and launches three times.
"""

import threading
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fp_bench.errors import UnsupportedError
from fp_bench.kernels.attention import implementation
from fp_bench.kernels.backend import resolve_backend
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.flashprefill.rule import KeepRule
from fp_bench.kernels.launch import CachedKernel, current_stream
from fp_bench.kernels.layout import BLOCK_SIZE, BlockGrid, check_layout, check_scale, empty_outputs, head_dim_problem
from fp_bench.kernels.plan import Step, place_parts

PLANS = 128
"""Plans that are kept; the oldest goes first."""


class Settings(NamedTuple):
    """What one call of FlashPrefill asks for besides its tensors; see `prefill.flash_prefill`."""

    alpha: float
    sink_blocks: int
    window_blocks: int
    last_full_blocks: int
    scale: float
    backend: str = "auto"

    def rule(self) -> KeepRule:
        """Return which blocks to keep."""
        return KeepRule(self.alpha, self.sink_blocks, self.window_blocks, self.last_full_blocks)


class Plan:
    """The launches for tensors of one layout and one group of settings.

    Raises:
        UnsupportedError: a layout or settings that the kernels do not take.
        UnavailableError: a backend asked for by name that does not take them.
    """

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, settings: Settings) -> None:
        from fp_bench.kernels.flashprefill import triton as discovery
        from fp_bench.kernels.pooling import triton as pooling

        check_layout(q, k, v)
        check_scale(settings.scale)
        if (problem := head_dim_problem(q.shape[3])) is not None:
            raise UnsupportedError(problem)
        rule = settings.rule()
        grid = BlockGrid(q.shape[1], k.shape[1])
        # Tensors without memory stand for those that each call will have.
        pooled = pooling.empty_pooled(k, BLOCK_SIZE, "meta")
        scratch = discovery.empty_scratch(q, grid, "meta")
        index = BlockIndex.empty(q.shape[0], q.shape[2], grid, "meta")
        out, lse = empty_outputs(q, "meta")
        parts = (pooled, scratch, index.blocks, index.counts)
        tiles_drawn = torch.empty(1, dtype=torch.int32, device="meta")
        self._counter = None
        if implementation(q, k, v, settings.backend) == "hopper":
            from fp_bench.kernels.attention import hopper
            from fp_bench.kernels.attention.hopper_parts import counter

            self._counter = counter
            attend = hopper.ATTEND, hopper.attend_arguments(q, k, v, out, lse, index, tiles_drawn, settings.scale)
        else:
            from fp_bench.kernels.attention import triton as portable

            attend = portable.ATTEND, portable.attend_arguments(q, k, v, out, lse, index, settings.scale)
        steps: tuple[tuple[CachedKernel, tuple[Any, ...]], ...] = (
            (pooling.POOL, pooling.pool_arguments(k, pooled, BLOCK_SIZE)),
            (discovery.DISCOVER, discovery.discover_arguments(q, pooled, scratch, rule, settings.scale, index)),
            attend,
        )
        known = (q, k, v, out, lse, *parts, tiles_drawn)
        self._steps = [Step(*step, known, q.device) for step in steps]
        self._offsets, self._bytes = place_parts(parts)
        self._device, self._dtype = q.device, q.dtype
        self._out, self._lse = tuple(out.shape), tuple(lse.shape)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(out, lse)`` as `prefill.flash_prefill` does; the tensors' GPU is the current one."""
        out = torch.empty(self._out, dtype=self._dtype, device=self._device)
        lse = torch.empty(self._lse, dtype=torch.float32, device=self._device)
        workspace = torch.empty(self._bytes, dtype=torch.uint8, device=self._device)
        start = workspace.data_ptr()
        at = [q.data_ptr(), k.data_ptr(), v.data_ptr(), out.data_ptr(), lse.data_ptr()]
        at += [start + offset for offset in self._offsets]
        if self._counter:
            tiles_drawn = self._counter(self._device)
            at.append(tiles_drawn.data_ptr())
        stream = current_stream(self._device)
        for step in self._steps:
            step(stream, at)
        return out, lse


_plans: dict[tuple[object, ...], Plan] = {}
_making = threading.Lock()


def run_planned(q: Tensor, k: Tensor, v: Tensor, settings: Settings) -> tuple[Tensor, Tensor] | None:
    """Return ``(out, lse)``, or None for tensors that no plan is made for: not on an NVIDIA GPU, or off by some bytes.

    Raises:
        UnsupportedError: as `Plan`.
        UnavailableError: as `Plan`.
    """
    if not q.is_cuda or torch.version.hip or (q.data_ptr() | k.data_ptr() | v.data_ptr()) % 16:
        return None
    device = q.device
    key = (
        *(q.shape, k.shape, v.shape, q.stride(), k.stride(), v.stride()),
        *(q.dtype, k.dtype, v.dtype, device, k.device, v.device, settings),
    )
    plan = _plans.get(key)
    if device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            return run_planned(q, k, v, settings)
    if plan is None:
        if resolve_backend(q, settings.backend) != "triton":
            return None
        with _making:
            plan = Plan(q, k, v, settings)
            while len(_plans) >= PLANS:
                _plans.pop(next(iter(_plans)))
            _plans[key] = plan
    return plan(q, k, v)
