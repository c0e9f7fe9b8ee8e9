"""Our selections against the official code of the same methods: what both keep, and how long it takes.

``python -m benchmarks.parity --official-xattention PATH --official-flexprefill PATH --official-flashprefill PATH
--official-minference PATH --lens 4k,16k,64k --out runs/parity``

Paths are plain checkouts; one that is not given is left out. See docs/parity.md. Every row is a record in OUT
the moment it exists.
"""

import argparse
import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.bench import DEFINED_UP_TO, Bench, Rows, relative_error, timed
from benchmarks.minference import LINES, blocks_parity, blocks_times, minference_parity, minference_times
from benchmarks.official import BLOCK, OfficialFlashPrefill, OfficialFlexPrefill, OfficialMInference, OfficialXAttention
from fp_bench.inputs.source import QKV
from fp_bench.jobs.latency.timers import CudaEvents
from fp_bench.kernels.attention import block_sparse_attention
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.flashprefill.rule import KeepRule
from fp_bench.kernels.flexprefill import reference as reference_flex
from fp_bench.kernels.flexprefill.rule import FlexRule
from fp_bench.kernels.layout import BlockGrid
from fp_bench.kernels.xattention import reference as reference_antidiagonal
from fp_bench.methods.base import AttentionCall
from fp_bench.methods.registry import Spec, create_method
from fp_bench.sizes import parse_lengths

STRIDES = (8, 16)
TAU = 0.9
FLEX = ({"gamma": 0.9, "tau": 0.1}, {"gamma": 0.95, "tau": 0.1}, {"gamma": 0.9, "tau": 0.9})
"""The last one makes every head query-aware, whatever its divergence."""
MIN_BUDGET = 1024
ALPHA = 0.12
PUBLISHED = {  # arXiv 2503.16428, Table 5: stride -> density by length, of Llama-3.1-8B on RULER with per-head taus
    8: {4096: 0.5216, 8192: 0.4377, 16384: 0.2749, 32768: 0.2097, 65536: 0.1098, 131072: 0.0689},
    16: {4096: 0.5538, 8192: 0.4355, 16384: 0.2891, 32768: 0.2793, 65536: 0.1132, 131072: 0.0732},
}
SHIPPED_UP_TO = 65536


@dataclass(frozen=True)
class Checkouts:
    """The official implementations that the user has."""

    xattention: OfficialXAttention | None = None
    flexprefill: OfficialFlexPrefill | None = None
    flashprefill: OfficialFlashPrefill | None = None
    minference: OfficialMInference | None = None

    @classmethod
    def load(cls, options: argparse.Namespace) -> "Checkouts":
        """Import those whose paths are given."""
        kinds = {
            "xattention": OfficialXAttention, "flexprefill": OfficialFlexPrefill, "flashprefill": OfficialFlashPrefill,
            "minference": OfficialMInference,
        }  # fmt: skip
        paths = {name: getattr(options, f"official_{name}") for name in kinds}
        return cls(**{name: kinds[name](path) for name, path in paths.items() if path is not None})


def agreement(ours: Tensor, official: Tensor, forced: Tensor) -> dict[str, float]:
    """Return the share of blocks kept by either that both keep, forced ones left out, and that of the worst head."""
    ours, official = ours & ~forced, official & ~forced
    both, either = (ours & official).sum((0, 2, 3)), (ours | official).sum((0, 2, 3))
    by_head = torch.where(either > 0, both / either.clamp_min(1), 1.0)
    return {"agree": float(both.sum() / either.sum().clamp_min(1)), "agree_worst_head": float(by_head.min())}


def first_and_diagonal(length: int, device: torch.device) -> Tensor:
    """Return ``[blocks, blocks]``: what XAttention and FlexPrefill always keep."""
    blocks = -(-length // BLOCK)
    forced = torch.eye(blocks, dtype=torch.bool, device=device)
    forced[:, 0] = True
    return forced


def selected(call: AttentionCall, spec: Spec) -> BlockIndex:
    """Return what our method selects."""
    index = create_method(spec).select(call)
    assert index is not None, "dense at this length"
    return index


def as_intended(spec: Spec) -> Spec:
    """Return the method as its paper reads, where the default is what the official code does."""
    return Spec(spec.name, {**spec.options, "official_quirks": "false"})


def flex_spec(options: Mapping[str, float]) -> Spec:
    """Return our FlexPrefill at a setting."""
    return Spec("flexprefill", {key: str(value) for key, value in options.items()} | {"min_budget": str(MIN_BUDGET)})


def compared(
    call: AttentionCall, spec: Spec, official: Tensor, forced: Tensor, official_out: Tensor | None = None
) -> dict[str, float]:
    """Return agreement, densities and output difference of our method and an official mask.

    Without an official output, our attention over the official mask stands for it.
    """
    index = selected(call, spec)
    theirs = BlockIndex.from_mask(official, call.q_len, call.kv_len)
    if official_out is None:
        official_out = block_sparse_attention(call.q, call.k, call.v, theirs, scale=call.scale).out
    return {
        **agreement(index.mask(), theirs.mask(), forced),
        "density": float(index.density().mean()),
        "density_official": float(theirs.density().mean()),
        "out_difference": relative_error(create_method(spec).attend(call, index), official_out),
    }


def xattention_parity(bench: Bench, official: OfficialXAttention, call: AttentionCall, stride: int) -> None:
    """Compare selections: the official rule with its slip, then the intended one, then that with its definition."""
    length = call.kv_len
    forced = first_and_diagonal(length, bench.device)
    spec = Spec("xattention", {"stride": str(stride), "tau": str(TAU)})
    intended = as_intended(spec)
    published = {"density_published": density} if (density := PUBLISHED[stride].get(length)) else {}

    @functools.cache
    def theirs() -> Tensor:
        return official.select(official.operands(QKV(call.q, call.k, call.v)), stride=stride, tau=TAU)

    def defined() -> dict[str, float]:
        weights = reference_antidiagonal.antidiagonal_weights(call.q, call.k, stride=stride, scale=call.scale).cpu()
        grid = BlockGrid(call.q_len, call.kv_len)
        mask = reference_antidiagonal.cumulative_blocks(weights, torch.full((call.q_heads,), TAU), grid)
        return {"ours": agreement(selected(call, intended).mask(), mask.to(bench.device), forced)["agree"]}

    for each in (spec, intended):
        bench.row("parity", length, str(each), lambda e=each: compared(call, e, theirs(), forced) | published)
    if length <= DEFINED_UP_TO:
        bench.row("defined", length, str(intended), defined)


def flexprefill_parity(
    bench: Bench, official: OfficialFlexPrefill, call: AttentionCall, options: Mapping[str, float]
) -> None:
    """Compare selections and outputs with and without the official rounding, then both with the definition."""
    qkv, length = QKV(call.q, call.k, call.v), call.kv_len
    forced = first_and_diagonal(length, bench.device)
    spec = flex_spec(options)
    intended = as_intended(spec)

    @functools.cache
    def theirs() -> tuple[Tensor, Tensor | None]:
        lists = official.lists(qkv, min_budget=MIN_BUDGET, **options)
        # Their attention takes bfloat16 alone.
        out = official.attend(qkv, lists) if call.q.dtype == torch.bfloat16 else None
        return official.mask(lists, len(forced)), out

    def defined() -> dict[str, float]:
        rule = FlexRule(min_budget=MIN_BUDGET, **options)
        mask = reference_flex.select_blocks(call.q, call.k, rule, scale=call.scale).mask()
        found = {"ours": selected(call, intended).mask(), "official": theirs()[0]}
        return {name: agreement(each, mask, forced)["agree"] for name, each in found.items()}

    for each in (spec, intended):
        bench.row("parity", length, str(each), lambda e=each: compared(call, e, theirs()[0], forced, theirs()[1]))
    if length <= DEFINED_UP_TO:
        bench.row("defined", length, str(intended), defined)


def flashprefill_parity(bench: Bench, official: OfficialFlashPrefill, call: AttentionCall) -> None:
    """Compare selection and output."""
    forced = KeepRule(ALPHA).forced(BlockGrid(call.q_len, call.kv_len), bench.device)
    spec = Spec("flashprefill", {"alpha": str(ALPHA)})

    def make() -> dict[str, float]:
        mask, out = official.run(QKV(call.q, call.k, call.v), alpha=ALPHA)
        return compared(call, spec, mask, forced, out)

    bench.row("parity", call.kv_len, str(spec), make)


def times(bench: Bench, checkouts: Checkouts, call: AttentionCall, timer: CudaEvents) -> None:
    """Time our selections and, of those given, the official ones."""
    qkv = QKV(call.q, call.k, call.v)

    def row(what: str, select: Callable[[], object]) -> None:
        bench.row("time", call.kv_len, what, lambda: timed(select, timer))

    for stride in STRIDES:
        ours = create_method(Spec("xattention", {"stride": str(stride), "tau": str(TAU)}))
        row(f"xattention stride={stride}", functools.partial(ours.select, call))
    if (xattention := checkouts.xattention) is not None:
        operands = xattention.operands(qkv)
        for stride in STRIDES:
            select = functools.partial(xattention.select, operands, stride=stride, tau=TAU)
            row(f"xattention stride={stride} official", select)
            if call.kv_len <= SHIPPED_UP_TO:
                row(f"xattention stride={stride} official as shipped", functools.partial(select, as_shipped=True))
        del operands
    for options in FLEX:
        name = f"flexprefill gamma={options['gamma']} tau={options['tau']}"
        row(name, functools.partial(create_method(flex_spec(options)).select, call))
        if checkouts.flexprefill is not None:
            lists = functools.partial(checkouts.flexprefill.lists, qkv, min_budget=MIN_BUDGET, **options)
            row(f"{name} official", lists)


def main() -> None:
    """Compare, then time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--official-xattention", type=Path, metavar="PATH")
    parser.add_argument("--official-flexprefill", type=Path, metavar="PATH")
    parser.add_argument("--official-flashprefill", type=Path, metavar="PATH")
    parser.add_argument("--official-minference", type=Path, metavar="PATH")
    parser.add_argument("--lens", default="4k,16k,64k", help="lengths to compare at")
    parser.add_argument("--time-lens", default="4k-128k", help="lengths to time both at; empty for none")
    parser.add_argument("--ours-lens", default="256k", help="lengths to time ours alone at; empty for none")
    parser.add_argument("--shape", default="32/8/128", help="q_heads/kv_heads/head_dim")
    parser.add_argument("--out", type=Path, default=Path("runs/parity"))
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    q_heads, kv_heads, head_dim = map(int, options.shape.split("/"))
    # Triton's interpreter computes nothing right in bfloat16.
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    bench = Bench((q_heads, kv_heads, head_dim), dtype, device, Rows("parity", device, options.out))
    checkouts = Checkouts.load(options)
    started = time.perf_counter()
    with torch.no_grad():
        for length in parse_lengths(options.lens):
            call = bench.call(length)
            for stride in STRIDES if checkouts.xattention else ():
                xattention_parity(bench, checkouts.xattention, call, stride)
            for settings in FLEX if checkouts.flexprefill else ():
                flexprefill_parity(bench, checkouts.flexprefill, call, settings)
            if checkouts.flashprefill:
                flashprefill_parity(bench, checkouts.flashprefill, call)
            for sizes in LINES if checkouts.minference else ():
                minference_parity(bench, checkouts.minference, call, sizes)
            if checkouts.minference:
                blocks_parity(bench, checkouts.minference, call)
        if device.type == "cuda":
            timer = CudaEvents(device)
            for length in parse_lengths(options.time_lens) if options.time_lens else []:
                times(bench, checkouts, bench.call(length), timer)
                minference_times(bench, checkouts.minference, bench.call(length), timer)
                blocks_times(bench, checkouts.minference, bench.call(length), timer)
            for length in parse_lengths(options.ours_lens) if options.ours_lens else []:
                times(bench, Checkouts(), bench.call(length), timer)
                minference_times(bench, None, bench.call(length), timer)
                blocks_times(bench, None, bench.call(length), timer)
    print(f"{time.perf_counter() - started:.0f} s; {options.out}")


if __name__ == "__main__":
    main()
