"""Which form of packed rows fills its tiles at any group: ``python -m benchmarks.full_tiles RESULTS.json``, on an H200.

FlashPrefill V2 packs the query heads of a KV head into rows of 128 places. The present kernel leaves places of groups
of 3, 5, 6 and 7 heads empty; `benchmarks.full_tiles_kernel` has forms that do not:

- ``present``: the kernel of attention/hopper.py, a power of two of places a position;
- ``tight``: as many positions as fit 64 places, in one box that is no power of two: 63 or 60 of 64 in use;
- ``flat``: rows of 128 flattened places, Q copied by the producer; ``flat_loads``: loaded by the consumers;
- ``split``: the group as 4, 2 and 1 heads, each with rows, lists and a launch of its own.

First every form is compared with the float32 definition over lists of its own, at an odd length. Then all are timed in
turn with a cold cache, on random lists of about 6 %: two sink blocks, four of window, others at random. A rate counts
the operations of the query-key pairs that a real head computes for its output; shares are of group 4's at the same
length and KV heads, by the present kernel. A form that fails says why, and the others go on.

``--compile`` compiles every form for sm_90, without a GPU, and prints what each takes. Run it under ``timeout``: a lost
barrier is a hang. With ``--forms present,tight`` a form that hangs takes no other with it.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fp_bench.kernels.launch import Binary, CachedKernel, _integer_class, compile_kernel, kind_of
from fp_bench.kernels.layout import BlockGrid

HEAD_DIM, SCALE = 128, 128**-0.5
LENGTHS = (32768, 65536)
CHECKED = 5003
CASES = ((8, (4, 3)), (4, (4, 5, 6, 7)))
"""KV heads, and the groups that are compared with the first one."""
SHARE = 0.06
SINK, WINDOW = 2, 4
ROUNDS = 11
FORMS = ("present", "tight", "flat", "flat_loads", "split")
PLACES, BLOCK = 128, 128


class Rows(NamedTuple):
    """How a form cuts some heads of a group into rows of tiles: the row of each (position, head)."""

    heads: int
    of_place: Tensor
    """``[positions, heads]`` int64."""

    @property
    def total(self) -> int:
        """Number of rows of tiles."""
        return int(self.of_place[-1, -1]) + 1


class Lists(NamedTuple):
    """The lists of some heads of a group: which key blocks each row reads."""

    rows: Rows
    blocks: Tensor
    counts: Tensor
    mask: Tensor
    """``[kv_heads, rows, key_blocks]`` bool."""


def rows_of(form: str, group: int, length: int, device: str) -> list[Rows]:
    """Return the rows of each launch of a form."""
    position = torch.arange(length, device=device)[:, None]
    if form.startswith("flat"):
        return [Rows(group, (position * group + torch.arange(group, device=device)) // PLACES)]
    if form == "split":
        sizes = [size for size in (4, 2, 1) if group & size] if group < 8 else [8]
        return [Rows(size, (position // (PLACES // size)).expand(-1, size)) for size in sizes]
    if form == "present":
        grid = BlockGrid(length, length, packed=group)
        return [Rows(group, grid.row_of(position, torch.arange(group, device=device)))]
    row_size = 2 * (PLACES // 2 // group)
    return [Rows(group, (position // row_size).expand(-1, group))]


def random_lists(rows: Rows, kv_heads: int, length: int, draw: torch.Generator) -> Lists:
    """Draw lists: sinks, a window up to the row's last block, and others so that about `SHARE` is computed."""
    device = rows.of_place.device
    key_blocks = -(-length // BLOCK)
    mean = (key_blocks + 1) / 2
    chance = max(0.0, (SHARE * mean - SINK - WINDOW) / (mean - SINK - WINDOW))
    last = torch.zeros(rows.total, dtype=torch.int64, device=device)
    block = torch.arange(length, device=device)[:, None].expand(-1, rows.heads) // BLOCK
    last.scatter_reduce_(0, rows.of_place.reshape(-1), block.reshape(-1), "amax")
    c = torch.arange(key_blocks, device=device)
    forced = (c < SINK) | (last[:, None] - c < WINDOW)
    drawn = torch.rand((kv_heads, rows.total, key_blocks), generator=draw, device=device) < chance
    mask = (drawn | forced) & (c <= last[:, None])
    blocks = torch.argsort(~mask, dim=-1, stable=True).to(torch.int16)[None].contiguous()
    return Lists(rows, blocks, mask.sum(-1, dtype=torch.int32)[None].contiguous(), mask)


def entries(lists: Lists, length: int) -> int:
    """Return how many causal query-key pairs the lists hold, over all heads."""
    position = torch.arange(length, device=lists.mask.device)
    own = (position // BLOCK)[:, None].expand(-1, lists.rows.heads)
    of_place = lists.rows.of_place
    total = 0
    for mask in lists.mask:
        before = mask.long().cumsum(-1) - mask.long()
        whole = before[of_place, own] * BLOCK
        diagonal = mask[of_place, own] * (position % BLOCK + 1)[:, None]
        total += int((whole + diagonal).sum())
    return total


def defined(q: Tensor, k: Tensor, v: Tensor, all_lists: list[Lists]) -> tuple[Tensor, Tensor]:
    """Return ``(out, lse)`` in float32 by the definition."""
    _, length, q_heads, _ = q.shape
    kv_heads = k.shape[2]
    group = q_heads // kv_heads
    key = torch.arange(length, device=q.device)
    out, lse = torch.empty(q.shape, device=q.device), torch.empty((1, q_heads, length), device=q.device)
    for kv_head in range(kv_heads):
        keys, values = k[0, :, kv_head].float(), v[0, :, kv_head].float()
        head = kv_head * group
        for lists in all_lists:
            for own in range(lists.rows.heads):
                read = lists.mask[kv_head, lists.rows.of_place[:, own]][:, key // BLOCK] & (key <= key[:, None])
                logits = (q[0, :, head].float() @ keys.T * SCALE).masked_fill(~read, float("-inf"))
                lse[0, head] = logits.logsumexp(-1)
                out[0, :, head] = logits.softmax(-1) @ values
                head += 1
    return out, lse


def make(form: str, q: Tensor, k: Tensor, v: Tensor, all_lists: list[Lists]) -> Callable[[], tuple[Tensor, Tensor]]:
    """Return a call of a form on its lists."""
    if form == "present":
        from fp_bench.kernels.attention.hopper import block_sparse_attention_hopper
        from fp_bench.kernels.block_index import BlockIndex

        lists = all_lists[0]
        length = q.shape[1]
        index = BlockIndex(lists.blocks, lists.counts, length, length, packed=lists.rows.heads)
        return lambda: block_sparse_attention_hopper(q, k, v, index, SCALE)
    from benchmarks.full_tiles_kernel import attend

    launches = [(lists.rows.heads, lists.blocks, lists.counts) for lists in all_lists]
    flat = form.startswith("flat")
    return lambda: attend(q, k, v, launches, SCALE, flat=flat, by_producer=form == "flat")


def tensors(length: int, group: int, kv_heads: int) -> tuple[Tensor, Tensor, Tensor, torch.Generator]:
    """Return random Q, K and V in bfloat16, and what draws the lists."""
    draw = torch.Generator("cuda").manual_seed(group)

    def noise(heads: int) -> Tensor:
        return torch.randn((1, length, heads, HEAD_DIM), generator=draw, device="cuda", dtype=torch.bfloat16)

    return noise(kv_heads * group), noise(kv_heads), noise(kv_heads), draw


def attempt(results: list[dict[str, Any]], case: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> None:
    """Add a row of results, with the reason where it fails."""
    try:
        row = case | measure()
    except Exception as error:  # a form may fail in any way, and the others still count
        traceback.print_exc()
        row = case | {"failed": f"{type(error).__name__}: {error}"}
    results.append(row)
    show(row)


def show(row: dict[str, Any]) -> None:
    """Print a row of results."""
    shown = (f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in row.items())
    print("  ".join(shown), flush=True)


def check(form: str, group: int) -> dict[str, Any]:
    """Compare a form with the definition; the memory of the outputs holds nan before."""
    q, k, v, draw = tensors(CHECKED, group, 2)
    all_lists = [random_lists(rows, 2, CHECKED, draw) for rows in rows_of(form, group, CHECKED, "cuda")]
    call = make(form, q, k, v, all_lists)
    exact, exact_lse = defined(q, k, v, all_lists)
    poison = [torch.full_like(q, float("nan")), torch.full_like(exact_lse, float("nan"))]
    del poison
    out, lse = call()
    worst = (out.float() - exact).norm(dim=-1) / exact.norm(dim=-1).clamp_min(1e-3)
    found = {
        "error": float((out.float() - exact).norm() / exact.norm()),
        "worst_row": float(worst.max()),
        "lse_error": float((lse - exact_lse).abs().max()),
    }
    again, _ = call()
    # Written so that nan fails too.
    right = found["error"] < 1e-2 and found["worst_row"] < 3e-2 and found["lse_error"] < 1e-2
    return found | {"right": right, "repeats": bool(torch.equal(out, again))}


def timed(length: int, kv_heads: int, groups: tuple[int, ...], forms: list[str]) -> list[dict[str, Any]]:
    """Time all forms of some groups in turn; shares are of the first group's present kernel."""
    from fp_bench.jobs.latency.timers import CudaEvents

    timer = CudaEvents(torch.device("cuda"))
    calls: dict[tuple[int, str], Callable[[], object]] = {}
    facts: dict[tuple[int, str], dict[str, Any]] = {}
    results: list[dict[str, Any]] = []
    for group in groups:
        q, k, v, draw = tensors(length, group, kv_heads)
        for form in forms:
            case = {"length": length, "kv_heads": kv_heads, "group": group, "form": form}
            try:
                all_lists = [
                    random_lists(rows, kv_heads, length, draw) for rows in rows_of(form, group, length, "cuda")
                ]
                pairs = sum(entries(lists, length) for lists in all_lists)
                call = make(form, q, k, v, all_lists)
                call()
                torch.cuda.synchronize()
            except Exception as error:
                traceback.print_exc()
                results.append(case | {"failed": f"{type(error).__name__}: {error}"})
                continue
            causal = length * (length + 1) // 2 * kv_heads * group
            calls[group, form] = call
            facts[group, form] = case | {"entries": pairs, "density": pairs / causal}
    samples: dict[tuple[int, str], list[float]] = {which: [] for which in calls}
    for _ in range(ROUNDS):
        for which, call in calls.items():
            samples[which] += timer.samples(call, 1)
    rates = {}
    for which, each in samples.items():
        rates[which] = 4 * HEAD_DIM * facts[which]["entries"] / statistics.median(each) / 1e9
    base = rates.get((groups[0], "present"), float("nan"))
    for which, each in samples.items():
        row = facts[which] | {
            "ms": statistics.median(each),
            "spread": (max(each) - min(each)) / statistics.median(each),
            "tflops": rates[which],
            "share": rates[which] / base,
        }
        results.append(row)
        show(row)
    return results


def compile_one(which: tuple[int, str]) -> str:
    """Compile a form of a group for sm_90; return each launch's registers, bytes of stack, accesses to it in loops."""
    from benchmarks import full_tiles_kernel
    from fp_bench.kernels.attention import hopper
    from fp_bench.kernels.block_index import BlockIndex
    from tests.kernels import aot

    group, form = which
    full_tiles_kernel.multiprocessors = hopper.multiprocessors = lambda _: 132  # type: ignore[assignment]

    def meta(shape: tuple[int, ...], dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    q, k, lse = meta((1, 4096, 8 * group, HEAD_DIM)), meta((1, 4096, 8, HEAD_DIM)), meta((1,), torch.float32)
    drawn = meta((1,), torch.int32)
    lines = []
    for rows in rows_of(form, group, 4096, "cpu"):
        blocks, counts = meta((1, 8, rows.total, 32), torch.int16), meta((1, 8, rows.total), torch.int32)
        try:
            if form == "present":
                kernel = hopper._block_sparse_hopper_kernel
                index = BlockIndex(blocks, counts, 4096, 4096, packed=group)
                asked = hopper.attend_arguments(q, k, k, q, lse, index, drawn, SCALE)
            else:
                kernel = full_tiles_kernel._full_tiles_kernel
                asked, _ = full_tiles_kernel.arguments(
                    q, k, k, q, lse, blocks, counts, drawn, SCALE,
                    flat=form.startswith("flat"), heads=rows.heads, by_producer=form == "flat",
                )  # fmt: skip
            binary = compiled(kernel, asked)
        except Exception as error:
            traceback.print_exc()
            lines.append(f"group {group}  {form:10}  {type(error).__name__}: {error}")
            continue
        try:
            registers, stack, in_loops = aot._resource_usage(aot._disassembled(binary.cubin))
            used = f"registers {registers}  stack {stack}  stack in loops {in_loops}"
        except Exception as error:  # no disassembler here
            used = f"compiled ({type(error).__name__})"
        lines.append(f"group {group}  {form:10}  heads {rows.heads}  {used}  shared {binary.shared}")
    return "\n".join(lines)


def compile_all(forms: list[str]) -> None:
    """Compile the forms side by side, which also leaves them in Triton's cache on disk; print what each takes."""
    every = [(group, form) for group in (3, 4, 5, 6, 7) for form in forms]
    workers = min(len(every), os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        for line in pool.map(compile_one, every):
            print(line, flush=True)


def compiled(kernel: Any, asked: tuple[Any, ...]) -> Binary:
    """Compile a kernel for what a launch passes, as `CachedKernel` does."""
    _, tensors, floats, integers, constants, options = asked
    kinds = tuple(kind_of(tensor) for tensor in tensors)
    alike = CachedKernel(kernel)._alike[len(kinds) + len(floats) :]
    classes = tuple(map(_integer_class, integers, alike))
    return compile_kernel(kernel, 90, kinds, len(floats), classes, constants, options)


def main() -> None:
    """Compile, or check and time."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.full_tiles")
    parser.add_argument("out", type=Path, nargs="?", default=Path("full-tiles.json"), help="file of results")
    parser.add_argument("--compile", action="store_true", help="compile for sm_90 alone, without a GPU")
    parser.add_argument("--forms", default=",".join(FORMS), help="some of them")
    asked = parser.parse_args()
    forms = asked.forms.split(",")
    begun = time.perf_counter()
    compile_all(forms)
    print(f"compiled after {time.perf_counter() - begun:.0f} s", flush=True)
    if asked.compile:
        return
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[dict[str, Any]]] = {"checks": [], "times": []}
    for group in (3, 4, 5, 6, 7):
        for form in forms:
            attempt(found["checks"], {"group": group, "form": form}, lambda form=form, group=group: check(form, group))
            asked.out.write_text(json.dumps(found, indent=1))
    print(f"checked after {time.perf_counter() - begun:.0f} s", flush=True)
    right = [form for form in forms if all(row.get("right") for row in found["checks"] if row["form"] == form)]
    for length in LENGTHS:
        for kv_heads, groups in CASES:
            found["times"] += timed(length, kv_heads, groups, right)
            asked.out.write_text(json.dumps(found, indent=1))
            torch.cuda.empty_cache()
    print(f"done after {time.perf_counter() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main()
