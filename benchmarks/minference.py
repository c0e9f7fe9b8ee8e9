"""Our MInference against the official code: the keys that queries read, blocks, outputs, conversion, times."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.bench import DEFINED_UP_TO, Bench, relative_error, timed
from benchmarks.official import OfficialMInference
from fp_bench.inputs.source import QKV
from fp_bench.jobs.latency.timers import CudaEvents
from fp_bench.kernels.attention.reference import sample_rows
from fp_bench.kernels.backend import resolve_backend
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.layout import BlockGrid
from fp_bench.kernels.lines import convert, following_diagonals
from fp_bench.kernels.lines import reference as reference_vertical_slash
from fp_bench.kernels.lines.head_patterns import Blocks, HeadPatterns
from fp_bench.kernels.lines.index import OCTET, TILE, VerticalSlashIndex
from fp_bench.kernels.lines.mixed_heads import attend_heads
from fp_bench.kernels.lines.strongest_blocks import select_strongest_blocks
from fp_bench.methods.base import AttentionCall
from fp_bench.methods.registry import Spec, create_method

LINES = ((1000, 6096), (512, 2048), (100, 800))
"""MInference's columns and diagonals."""
BLOCKS = 100
"""Blocks that a block-sparse head keeps in the official code."""


def lines_spec(sizes: tuple[int, int]) -> Spec:
    """Return our MInference at a setting."""
    return Spec("minference", {"columns": str(sizes[0]), "diagonals": str(sizes[1])})


def index_of_lines(call: AttentionCall, columns: Tensor, offsets: Tensor) -> VerticalSlashIndex:
    """Return the index of chosen lines, each ``[1, heads, count]``, by our conversion."""
    past = -(-call.kv_len // TILE) * TILE
    listed = torch.nn.functional.pad(columns.int().sort(-1).values, (0, -columns.shape[-1] % OCTET), value=past)
    windows = torch.tensor([[0, call.kv_len]], dtype=torch.int32, device=call.q.device).repeat(call.q_heads, 1)
    following = following_diagonals(offsets.int().sort(-1).values, call.kv_len)
    index = VerticalSlashIndex.empty(following, listed, windows, call.kv_len)
    convert(index, resolve_backend(call.q))
    return index


def official_lists(index: VerticalSlashIndex) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return an index of one sequence as the lists that the official kernel reads, no wider than they have to be."""
    rows = torch.arange(index.rows, device=index.columns.device)
    heads = range(index.tile_counts.shape[1])
    widest = int(index.tile_counts.max()), max(int(index.column_counts.max()), 1)

    def fitted(lists: Tensor, width: int) -> Tensor:
        lists = lists.sort(-1).values[:, :width]
        return torch.nn.functional.pad(lists, (0, width - lists.shape[-1])).int()

    tiles = torch.stack([fitted(index.tiles(0, head, rows), widest[0]) for head in heads])[None]
    columns = torch.stack([fitted(index.columns_read(0, head, rows), widest[1]) for head in heads])[None]
    return index.tile_counts, tiles.contiguous(), index.column_counts, columns.contiguous()


def minference_parity(bench: Bench, official: OfficialMInference, call: AttentionCall, sizes: tuple[int, int]) -> None:
    """Compare the keys that sampled queries of both read, and outputs; then our conversion with its definition."""
    spec = lines_spec(sizes)
    operands = official.operands(QKV(call.q, call.k, call.v))

    @functools.cache
    def theirs() -> tuple[Tensor, Tensor]:
        return official.lines(operands, *sizes)

    def parity() -> dict[str, float]:
        method = create_method(spec)
        ours, index = method.select(call), index_of_lines(call, *theirs())
        assert ours is not None
        rows = sample_rows(call.q_len, 0).to(bench.device)
        causal = torch.arange(call.kv_len, device=bench.device) <= rows[:, None]
        both, either = 0, 0
        for head in range(call.q_heads):
            read = [each.keys_read(0, head, rows) & causal for each in (ours, index)]
            both += int((read[0] & read[1]).sum())
            either += int((read[0] | read[1]).sum())
        found = {
            "agree": both / either,
            "density": float(ours.density().mean()),
            "density_official": float(index.density().mean()),
        }
        if call.kv_len % TILE == 0:
            out = official.attend(operands, official_lists(index)).transpose(1, 2)
            found["out_difference"] = relative_error(method.attend(call, ours), out)
            found["out_difference_same_lists"] = relative_error(method.attend(call, index), out)
        return found

    def defined() -> dict[str, float]:
        columns, offsets = (lines[0, 0].sort().values.tolist() for lines in theirs())
        index = index_of_lines(call, *theirs())
        lists = reference_vertical_slash.convert(columns, offsets[::-1], call.kv_len)
        mask = reference_vertical_slash.lines_mask(lists, call.kv_len).to(bench.device)
        read = index.keys_read(0, 0, torch.arange(call.kv_len, device=bench.device)).tril()
        return {"conversion": float((read & mask).sum() / (read | mask).sum())}

    bench.row("parity", call.kv_len, str(spec), parity)
    if call.kv_len <= DEFINED_UP_TO:
        bench.row("defined", call.kv_len, str(spec), defined)


def official_blocks(lists: Tensor, length: int) -> BlockIndex:
    """Return the official lists of blocks as an index: of row r at most r + 1, the others are of the future."""
    index = BlockIndex.empty(*lists.shape[:2], BlockGrid(length, length, TILE), lists.device, width=lists.shape[-1])
    index.blocks.copy_(lists)
    index.counts.copy_(torch.arange(1, lists.shape[2] + 1, device=lists.device).clamp_max(lists.shape[-1]))
    return index


def blocks_parity(bench: Bench, official: OfficialMInference, call: AttentionCall) -> None:
    """Compare the blocks of heads that keep blocks, and outputs over ours and over the official lists."""
    operands = official.operands(QKV(call.q, call.k, call.v))
    patterns = HeadPatterns.of([Blocks(BLOCKS)] * call.q_heads, bench.device)

    def parity() -> dict[str, float]:
        lists = official.blocks(operands, BLOCKS)
        ours, theirs = select_strongest_blocks(call.q, call.k, patterns), official_blocks(lists, call.kv_len)
        out = official.attend_blocks(operands, lists).transpose(1, 2)
        attend = functools.partial(attend_heads, call.q, call.k, call.v, scale=call.scale)
        kept = ours.mask(), theirs.mask()
        return {
            "agree": float((kept[0] & kept[1]).sum() / (kept[0] | kept[1]).sum()),
            "density": float(ours.density().mean()),
            "density_official": float(theirs.density().mean()),
            "out_difference": relative_error(attend(ours).out, out),
            "out_difference_same_lists": relative_error(attend(theirs).out, out),
        }

    if call.kv_len % TILE == 0:
        bench.row("parity", call.kv_len, f"minference blocks={BLOCKS}", parity)


def blocks_times(bench: Bench, official: OfficialMInference | None, call: AttentionCall, timer: CudaEvents) -> None:
    """Time choosing blocks and attending, all heads in one launch, the official with K and V repeated beforehand."""
    patterns = HeadPatterns.of([Blocks(BLOCKS)] * call.q_heads, bench.device)
    select = functools.partial(select_strongest_blocks, call.q, call.k, patterns)

    def row(what: str, make: Callable[[], object]) -> None:
        bench.row("time", call.kv_len, f"minference blocks={BLOCKS} {what}", lambda: timed(make, timer))

    row("select", select)
    row("attend", functools.partial(attend_heads, call.q, call.k, call.v, select(), scale=call.scale))
    if official is not None:
        operands = official.operands(QKV(call.q, call.k, call.v))
        row("select official", functools.partial(official.blocks, operands, BLOCKS))
        lists = official.blocks(operands, BLOCKS)
        row("attend official", functools.partial(official.attend_blocks, operands, lists))


def minference_times(bench: Bench, official: OfficialMInference | None, call: AttentionCall, timer: CudaEvents) -> None:
    """Time choosing and attending; both attend over our lists, the official kernel with K and V repeated beforehand."""
    for sizes in LINES:
        spec = lines_spec(sizes)
        method = create_method(spec)
        index = method.select(call)
        assert isinstance(index, VerticalSlashIndex)

        def row(what: str, make: Callable[[], object], name: str = str(spec)) -> None:
            bench.row("time", call.kv_len, f"{name} {what}", lambda: timed(make, timer))

        row("select", functools.partial(method.select, call))
        row("attend", functools.partial(method.attend, call, index))
        if official is not None:
            operands = official.operands(QKV(call.q, call.k, call.v))
            row("select official, without conversion", functools.partial(official.lines, operands, *sizes))
            lists = official_lists(index)
            row("attend official", functools.partial(official.attend, operands, lists))
            del operands, lists
