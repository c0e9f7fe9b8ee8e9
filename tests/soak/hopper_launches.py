"""Launch the Hopper kernel many times over random shapes and lists: ``python -m tests.soak.hopper_launches 10000``.

Groups have one to eight query heads, with a list a head or a list for all of them. A second number is the head size,
128 by default: each has kernels of its own to compile, some minutes of them.

Every launch writes into memory filled with nan, is compared on all rows with the portable kernel, and on some rows of
some launches with the float32 definition. Run it under ``timeout``: a lost barrier is a hang.
"""

import random
import sys

import torch

from fp_bench.kernels.attention import block_sparse_attention, reference
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.layout import BlockGrid

CHECK_EVERY, EXACT_EVERY = 50, 20
"""Launches between two waits for the GPU, and between two comparisons with the definition."""
LENGTHS = (1, 5, 127, 128, 129, 255, 256, 300, 640, 1000, 1280, 2049)


def random_index(draw: random.Random, batch: int, heads: int, q_len: int, kv_len: int, packed: int) -> BlockIndex:
    """Lists of one kind: empty, one block, two, an odd number, a random share, or everything."""
    grid = BlockGrid(q_len, kv_len, packed=packed)
    score = torch.rand((batch, heads // packed, grid.rows, grid.key_blocks), device="cuda")
    kind = draw.choice(["empty", "one", "two", "odd", "share", "share", "full"])
    if kind in ("one", "two", "odd"):
        count = min({"one": 1, "two": 2, "odd": 2 * draw.randrange(4) + 1}[kind], grid.key_blocks)
        mask = score >= score.topk(count).values[..., -1:]
    else:
        mask = score < {"empty": 0.0, "share": draw.random(), "full": 1.0}[kind]
    return BlockIndex.from_mask(mask, q_len, kv_len, packed=packed)


def random_tensor(
    draw: random.Random, pool: torch.Tensor, shape: tuple[int, int, int], head_dim: int, dtype: torch.dtype
) -> torch.Tensor:
    """A stretch of normal numbers as ``[batch, length, heads, head_dim]``, heads outermost half of the time."""
    batch, length, heads = shape
    size = batch * length * heads * head_dim
    start = draw.randrange(0, len(pool) - size + 1, 8)
    flat = pool[start : start + size].to(dtype)
    if draw.random() < 0.5:
        return flat.view(batch, heads, length, head_dim).transpose(1, 2)
    return flat.view(batch, length, heads, head_dim)


def main(launches: int, head_dim: int = 128, seed: int = 0) -> None:
    """Run ``launches`` random launches; any wrong row raises."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    pool = torch.randn(2 * 2049 * 24 * head_dim, device="cuda", dtype=torch.float32)
    errors: list[torch.Tensor] = []
    worst = 0.0
    for number in range(launches):
        errors.append(launch(draw, pool, head_dim, exact=number % EXACT_EVERY == 0))
        if len(errors) == CHECK_EVERY or number == launches - 1:
            found = torch.stack(errors).cpu()  # one wait for many launches
            first = number + 1 - len(errors)
            for offset, (row, lse, exact) in enumerate(found.tolist()):
                # Written so that nan fails too.
                assert row < 3e-2, f"launch {first + offset}: a row differs from the portable kernel's by {row:.2g}"
                assert lse < 1e-2, f"launch {first + offset}: lse differs from the portable kernel's by {lse:.2g}"
                assert exact < 2e-2, f"launch {first + offset}: error {exact:.2g} to the definition"
                worst = max(worst, exact)
            errors.clear()
            if (number + 1) % 1000 == 0:
                print(f"{number + 1} launches", flush=True)
    print(f"{launches} launches, worst relative error to the float32 definition {worst:.1e}")


def launch(draw: random.Random, pool: torch.Tensor, head_dim: int, *, exact: bool) -> torch.Tensor:
    """Launch once; return the worst row's error and the worst lse's to the portable kernel, and to the definition."""
    batch, kv_heads = draw.choice([1, 1, 2]), draw.choice([1, 2])
    dtype = draw.choice([torch.float16, torch.bfloat16])
    group = draw.randint(1, 8)
    q_heads = kv_heads * group
    kv_len = draw.choice(LENGTHS)
    q_len = draw.choice([kv_len, kv_len, draw.randint(1, kv_len)])
    shapes = ((batch, q_len, q_heads), (batch, kv_len, kv_heads), (batch, kv_len, kv_heads))
    q, k, v = (random_tensor(draw, pool, shape, head_dim, dtype) for shape in shapes)
    index = random_index(draw, batch, q_heads, q_len, kv_len, draw.choice([1, group]))
    # The allocator hands this memory to the next output of the same size.
    poison = torch.full((batch, q_len, q_heads, head_dim), float("nan"), dtype=dtype, device="cuda")
    del poison
    ours = block_sparse_attention(q, k, v, index, scale=0.09, backend="hopper")
    portable = block_sparse_attention(q, k, v, index, scale=0.09, backend="triton")
    by_row = (ours.out - portable.out).float().norm(dim=-1) / portable.out.float().norm(dim=-1).clamp_min(1e-3)
    # Rows that read nothing have an lse of -inf on both sides, whose difference is nan.
    lse = torch.where(ours.lse == portable.lse, 0.0, ours.lse - portable.lse).abs().max()
    to_definition = torch.zeros((), device="cuda")
    if exact:
        rows = torch.tensor(sorted({0, q_len - 1, draw.randrange(q_len)}))
        defined = reference.attention_rows(q, k, v, scale=0.09, rows=rows, index=index).out
        difference = (ours.out[:, rows.cuda()].float() - defined).norm()
        to_definition = torch.where(defined.norm() > 0, difference / defined.norm(), difference)
    return torch.stack([by_row.max(), lse, to_definition])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
