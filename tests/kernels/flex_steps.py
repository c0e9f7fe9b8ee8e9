"""Steps of FlexPrefill's selection as calls of their own."""

import torch
import triton
import triton.language as tl

from fp_bench.kernels.flexprefill import search_triton
from fp_bench.kernels.plan import Launches


@triton.jit
def _tokens_kernel(values_ptr, tokens_ptr, gamma, length, AT_ONCE: tl.constexpr):
    vector = tl.program_id(0)
    tl.store(tokens_ptr + vector, search_triton.tokens_to_cover(values_ptr + vector * length, length, gamma, AT_ONCE))


def tokens_to_cover(values, gamma):
    """Return ``[vectors]`` int32: 1 plus how many prefix sums of each row, sorted descending, are at most ``gamma``."""
    tokens = torch.empty(len(values), dtype=torch.int32, device=values.device)
    _tokens_kernel[(len(values),)](values, tokens, gamma, values.shape[1], search_triton.AT_ONCE, num_warps=16)
    return tokens


def crossing(values, budget, active):
    """Return ``[vectors]`` float32: from which value on a row's values sum to more than ``budget``."""
    launches = Launches(values.device)
    found = search_triton.launch_crossing(launches, values, budget, active)
    launches.run()
    return found
