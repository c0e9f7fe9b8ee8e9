"""FlexPrefill's count of tokens as a kernel of its own, which the selection computes inside of another."""

import torch
import triton
import triton.language as tl

from fp_bench.kernels.flexprefill import search_triton


@triton.jit
def _tokens_kernel(values_ptr, tokens_ptr, gamma, length, AT_ONCE: tl.constexpr):
    vector = tl.program_id(0)
    tl.store(tokens_ptr + vector, search_triton.tokens_to_cover(values_ptr + vector * length, length, gamma, AT_ONCE))


def tokens_to_cover(values, gamma):
    """Return ``[vectors]`` int32: 1 plus how many prefix sums of each row, sorted descending, are at most ``gamma``."""
    tokens = torch.empty(len(values), dtype=torch.int32, device=values.device)
    _tokens_kernel[(len(values),)](values, tokens, gamma, values.shape[1], search_triton.AT_ONCE, num_warps=16)
    return tokens
