"""Where the prefix sums of a vector, sorted descending, exceed a budget: found without a sort, in Triton.

Floats that are not negative are ordered as their bits are, so the value that crosses is found a digit of its bits at a
time: a pass sums, for each candidate of the digit, the values from it on. There are no atomics, so the result is
deterministic.

**One program a vector** (`crossing_value`): sixteen passes of two bits in one launch, so that the digit found never
leaves the program. On sm_90 16 warps keep 4 x 16 sums and 16 values a thread in registers; a vector of 4K tokens stays
in L1, longer ones come from L2, 8192 values at once to cover its latency.

**Slabs** (vectors of more than `ONE_PROGRAM` values): eight passes of four bits, a launch each. A program
sums one slab of a vector, and the next pass adds up the slabs, so that few vectors fill the GPU. 4 warps, 32 sums a
thread. A vector that is not active costs an empty program.

Neither takes shared memory but the reductions'.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fp_bench.kernels.launch import CachedKernel
from fp_bench.kernels.plan import Launches

AT_ONCE = 8192
"""Values that a program reads at once where it has the whole vector."""
WARPS = 16
ONE_PROGRAM = 65536
"""Most values of a vector that one program searches: 256 x 256 blocks."""
CANDIDATES = 16
SLAB = 4096
"""Values that one program of a pass sums at least."""
MAX_SLABS = 64
CHUNK = 256
"""Values of a slab compared with all candidates at once."""
SIZES = ("length", "span", "shift")
"""Arguments that a kernel is not compiled again for."""


@triton.jit
def crossing_value(values_ptr, length, budget, ONES: tl.constexpr, AT_ONCE: tl.constexpr):
    """Return the largest float32 from which on the values sum to more than ``budget``; 0 if all are within it.

    With ``ONES`` each value counts 1: it is the largest value that more than ``budget`` values are not below.
    """
    digit = tl.arange(0, 4)[:, None]
    found = tl.full((), 0, tl.int32)
    for step in range(16):
        shift = 30 - 2 * step
        # Candidates of 2 ** 31 and up are above all floats that are not negative.
        candidate = (digit << shift).to(tl.uint32, bitcast=True) | found.to(tl.uint32, bitcast=True)
        sums = tl.zeros((4, AT_ONCE), tl.float32)
        for start in range(0, length, AT_ONCE):
            place = start + tl.arange(0, AT_ONCE)[None, :]
            value = tl.load(values_ptr + place, mask=place < length, other=0.0)
            reaches = (value.to(tl.uint32, bitcast=True) >= candidate) & (place < length)
            sums += tl.where(reaches, 1.0 if ONES else value, 0.0)
        # The sums fall as candidates rise: as many exceed the budget as the digit says.
        found |= tl.sum(((digit > 0) & (tl.sum(sums, 1)[:, None] > budget)).to(tl.int32)) << shift
    return found.to(tl.float32, bitcast=True)


@triton.jit
def entries_above(values_ptr, length, value, AT_ONCE: tl.constexpr):
    """Return how many values are above ``value``, and their sum."""
    amount = tl.zeros((AT_ONCE,), tl.int32)
    mass = tl.zeros((AT_ONCE,), tl.float32)
    for start in range(0, length, AT_ONCE):
        place = start + tl.arange(0, AT_ONCE)
        values = tl.load(values_ptr + place, mask=place < length, other=0.0)
        above = (values > value) & (place < length)
        amount += above.to(tl.int32)
        mass += tl.where(above, values, 0.0)
    return tl.sum(amount, 0), tl.sum(mass, 0)


@triton.jit
def tokens_to_cover(mass_ptr, length, gamma, AT_ONCE: tl.constexpr):
    """Return 1 plus how many prefix sums of the mass, sorted descending, are at most ``gamma``."""
    value = crossing_value(mass_ptr, length, gamma, False, AT_ONCE)
    entries, mass = entries_above(mass_ptr, length, value, AT_ONCE)
    # Of equal values, as many fit as the rest of the budget holds.
    equal = tl.floor(tl.div_rn(gamma - mass, tl.maximum(value, 2.0e-38)))
    fitting = entries + tl.minimum(tl.maximum(equal, 0.0), length.to(tl.float32)).to(tl.int32)
    return tl.where(value > 0.0, tl.minimum(fitting, length), length) + 1


@triton.jit(do_not_specialize=SIZES)
def _crossing_kernel(values_ptr, active_ptr, crossing_ptr, budget, length, AT_ONCE: tl.constexpr):
    vector = tl.program_id(0).to(tl.int64)
    if tl.load(active_ptr + vector) != 0:
        tl.store(crossing_ptr + vector, crossing_value(values_ptr + vector * length, length, budget, False, AT_ONCE))


@triton.jit
def _found_bits(partials_ptr, bits_ptr, vector, budget, shift, SLABS: tl.constexpr, CANDIDATES: tl.constexpr):
    """Return the bits found so far with the four that the last pass was about, at ``shift``."""
    candidate = tl.arange(0, CANDIDATES)
    partials = partials_ptr + (vector * SLABS + tl.arange(0, SLABS)[:, None]) * CANDIDATES + candidate[None, :]
    sums = tl.sum(tl.load(partials), 0)
    digit = tl.sum(((candidate > 0) & (sums > budget)).to(tl.int32), 0)
    return tl.load(bits_ptr + vector) | (digit << shift)


@triton.jit(do_not_specialize=SIZES)
def _crossing_pass_kernel(
    values_ptr, active_ptr, partials_in_ptr, bits_in_ptr, partials_ptr, bits_ptr, budget, length, span, shift,
    SLABS: tl.constexpr, CANDIDATES: tl.constexpr, CHUNK: tl.constexpr, FIRST: tl.constexpr,
):  # fmt: skip
    vector = (tl.program_id(0) // SLABS).to(tl.int64)
    slab = tl.program_id(0) % SLABS
    if tl.load(active_ptr + vector) == 0:
        return
    found = tl.full((), 0, tl.int32)
    if not FIRST:
        found = _found_bits(partials_in_ptr, bits_in_ptr, vector, budget, shift + 4, SLABS, CANDIDATES)
    if slab == 0:
        tl.store(bits_ptr + vector, found)
    digit = tl.arange(0, CANDIDATES)[:, None]
    candidate = (digit << shift).to(tl.uint32, bitcast=True) | found.to(tl.uint32, bitcast=True)
    values = values_ptr + vector * length
    sums = tl.zeros((CANDIDATES, CHUNK), tl.float32)
    for start in range(slab * span, tl.minimum((slab + 1) * span, length), CHUNK):
        place = start + tl.arange(0, CHUNK)[None, :]
        value = tl.load(values + place, mask=place < length, other=0.0)
        sums += tl.where(value.to(tl.uint32, bitcast=True) >= candidate, value, 0.0)
    out = (vector * SLABS + slab) * CANDIDATES + tl.arange(0, CANDIDATES)
    tl.store(partials_ptr + out, tl.sum(sums, 1))


@triton.jit
def _crossing_end_kernel(
    active_ptr, partials_ptr, bits_ptr, crossing_ptr, budget, SLABS: tl.constexpr, CANDIDATES: tl.constexpr
):  # fmt: skip
    vector = tl.program_id(0).to(tl.int64)
    if tl.load(active_ptr + vector) != 0:
        bits = _found_bits(partials_ptr, bits_ptr, vector, budget, 0, SLABS, CANDIDATES)
        tl.store(crossing_ptr + vector, bits.to(tl.float32, bitcast=True))


_crossing = CachedKernel(_crossing_kernel)
_crossing_pass = CachedKernel(_crossing_pass_kernel)
_crossing_end = CachedKernel(_crossing_end_kernel)


def launch_crossing(launches: Launches, values: Tensor, budget: float, active: Tensor) -> Tensor:
    """Add launches that find ``[vectors]`` float32: from which value on a vector's values sum to more than ``budget``.

    0 where all are within the budget, undefined for vectors that are not active.

    Args:
        launches: to add to.
        values: float32, contiguous, none negative; a vector for each number of ``active``.
        budget: at least 0.
        active: int8, 0 for a vector that is not.
    """
    vectors = active.numel()
    length = values.numel() // vectors
    found = launches.empty(vectors)
    if length <= ONE_PROGRAM:
        whole = {"AT_ONCE": AT_ONCE}, {"num_warps": WARPS}
        launches.add(_crossing, vectors, (values, active, found), (budget,), (length,), *whole)
        return found
    slabs = min(MAX_SLABS, triton.next_power_of_2(triton.cdiv(length, SLAB)))
    span = triton.cdiv(triton.cdiv(length, slabs), CHUNK) * CHUNK
    partials = [launches.empty(vectors, slabs, CANDIDATES) for _ in range(2)]
    bits = [launches.empty(vectors, dtype=torch.int32) for _ in range(2)]
    constants = {"SLABS": slabs, "CANDIDATES": CANDIDATES}
    for step in range(8):
        old, new = (step + 1) % 2, step % 2
        launches.add(
            _crossing_pass,
            vectors * slabs,
            (values, active, partials[old], bits[old], partials[new], bits[new]),
            (budget,),
            (length, span, 28 - 4 * step),
            {**constants, "CHUNK": CHUNK, "FIRST": step == 0},
            {"num_warps": 4},
        )
    end = (active, partials[1], bits[1], found)
    launches.add(_crossing_end, vectors, end, (budget,), (), constants, {"num_warps": 4})
    return found
