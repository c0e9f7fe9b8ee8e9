"""Packed batches over pages against their sequences alone: ``python -m tests.soak.paged_batches [COUNT [FIRST]]``.

On the CPU the torch backend against the float32 definition; on a GPU the kernels (portable and, on Hopper, Gluon), in
bfloat16 and float16, against the single-sequence kernels over gathered keys and, where the batch is small, the
definition too. Unused slots hold nan. Run it under ``timeout`` there: a lost barrier is a hang.
"""

import sys
from dataclasses import replace

import torch
from torch import Tensor

from fp_bench.kernels.attention import block_sparse_attention
from fp_bench.kernels.flashprefill import select_blocks
from fp_bench.kernels.paged import implementation
from fp_bench.kernels.pooling import pool_keys
from tests.kernels.calls import relative_error
from tests.kernels.paged_calls import PagedCall, random_call
from tests.kernels.test_paged import RULE, alone, prefill, tied

LONG = 20_000
"""Tokens of the longest sequence on a GPU."""
SMALL = 2_000
"""Up to this the definition is computed too."""
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 8e-3, torch.float16: 1e-3}
"""Two roundings of an output, at most."""


def by_single_kernels(call: PagedCall) -> Tensor:
    """Each sequence by the portable single-sequence kernels over its gathered keys."""
    out = torch.zeros_like(call.q)
    for sequence in call.batch.sequences:
        q, k, v = call.q[None, sequence.queries], sequence.gather(call.k), sequence.gather(call.v)
        rule = RULE if sequence.last_chunk else replace(RULE, last_full_blocks=0)
        pooled = pool_keys(k, backend="triton")
        index = select_blocks(q, pooled, rule, kv_len=sequence.kv_len, scale=call.scale, backend="triton")
        attended = block_sparse_attention(q, k, v, index, scale=call.scale, backend="triton")
        out[sequence.queries] = attended.out[0]
    return out


def compare(seed: int, device: str) -> dict[str, float]:
    """Return the relative error of one batch against each of what it is compared with; nothing for a tie."""
    if device == "cpu":
        call = random_call(seed)
        return {} if tied(call) else {"definition": relative_error(prefill(call), alone(call))}
    max_len = SMALL if seed % 4 else LONG
    dtype = (torch.bfloat16, torch.float16)[seed % 2]
    call = random_call(seed, max_len=max_len, max_sequences=8, head_dims=(64, 128, 256), dtype=dtype, device=device)
    single = by_single_kernels(call)
    defined = alone(call) if max_len == SMALL and not tied(call) else None
    errors = {}
    for kernel in sorted({"triton", implementation(call.q, call.k, call.v, call.q)}):
        out = prefill(call, kernel)
        errors[f"{kernel} to single kernels"] = relative_error(out, single)
        if defined is not None:
            errors[f"{kernel} to definition"] = relative_error(out, defined)
    return errors


def main() -> None:
    """Compare COUNT batches (default 200) from seed FIRST (default 0) on; exit 1 where one differs."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    device = "cuda" if torch.cuda.is_available() else "cpu"
    worst: dict[str, float] = {}
    compared = ties = wrong = 0
    for seed in range(first, first + count):
        errors = compare(seed, device)
        ties += not errors
        compared += len(errors)
        dtype = torch.float32 if device == "cpu" else (torch.bfloat16, torch.float16)[seed % 2]
        for against, error in errors.items():
            worst[against] = max(worst.get(against, 0.0), error)
            if error > TOLERANCE[dtype]:
                wrong += 1
                print(f"batch {seed}, {against}: differs by {error:.1e}")
    largest = ", ".join(f"{error:.1e} ({against})" for against, error in worst.items())
    print(f"{count} batches on {device}: {compared} comparisons, {ties} skipped as ties, largest error {largest}")
    sys.exit(1 if wrong or not compared else 0)


if __name__ == "__main__":
    main()
