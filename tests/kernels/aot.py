"""Compile a Triton kernel for a chip that is not here, and read what the compiler says of it."""

import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fp_bench.kernels.layout import HEAD_DIMS


@dataclass(frozen=True)
class Compiled:
    shared_bytes: int
    registers: int | None
    spill_bytes: int | None
    spills_in_loops: int | None
    assembly: str
    machine_code: str = ""

    def summary(self) -> dict[str, object]:
        waits = sorted({int(depth) for depth in re.findall(r"wgmma.wait_group.sync.aligned\s+(\d+)", self.assembly)})
        return {
            "shared_bytes": self.shared_bytes,
            "registers": self.registers,
            "spill_bytes": self.spill_bytes,
            "spills_in_loops": self.spills_in_loops,
            "wgmma": self.assembly.count("wgmma.mma_async"),
            "wgmma_waits": waits,
            "tma": self.assembly.count("cp.async.bulk.tensor"),
            "wide_loads": len(re.findall(r"ld.global(?:\.\w+)*?\.v4\.[bu]32", self.assembly)),
        }


def compile_kernel(kernel, signature: dict[str, str], constants: dict[str, object], *, target, options: dict):
    """Compile ``kernel`` with every pointer and every size or stride assumed divisible by 16, as in real use."""
    import triton
    from triton.compiler import ASTSource

    names = list(kernel.arg_names)
    full = {name: "constexpr" if name in constants else signature[name] for name in names}
    aligned = {
        (position,): [["tt.divisibility", 16]]
        for position, name in enumerate(names)
        if full[name].startswith("*") or name.startswith("stride_")
    }
    constexprs = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=full, constexprs=constexprs, attrs=aligned)
    compiled = triton.compile(source, target=target, options=options)
    used = _resource_usage(_disassembled(compiled.asm["cubin"])) if target.backend == "cuda" else (None, None, None)
    assembly = compiled.asm.get("ptx") or compiled.asm.get("amdgcn")
    return Compiled(compiled.metadata.shared, *used, assembly)


def _disassembled(cubin: bytes) -> str:
    """Return the machine code as text, and what it takes."""
    import triton.backends.nvidia as nvidia

    tool = Path(nvidia.__file__).parent / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [tool, "-res-usage", "-sass", path]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _resource_usage(text: str) -> tuple[int, int, int]:
    """Return registers, bytes of stack, and accesses to the stack inside loops that run on tensor cores."""
    match = re.search(r"REG:(\d+) STACK:(\d+)", text)
    assert match, text
    return int(match[1]), int(match[2]), _spills_in_loops(text)


def _spills_in_loops(sass: str) -> int:
    """Count loads and stores of the stack in innermost loops that hold a product of tensor cores."""
    code = [(int(at, 16), what) for at, what in re.findall(r"^\s+/\*([0-9a-f]+)\*/\s+(.*?);", sass, re.M)]
    jumps = ((re.search(r"\bBRA\b.*\b0x([0-9a-f]+)", what), at) for at, what in code)
    loops = [range(int(jump[1], 16), at) for jump, at in jumps if jump and int(jump[1], 16) < at]
    inner = [
        [what for at, what in code if at in loop]
        for loop in loops
        if not any(other != loop and other.start >= loop.start and other.stop <= loop.stop for other in loops)
    ]
    products = (body for body in inner if any("MMA" in what for what in body))
    return sum(bool(re.search(r"\b(STL|LDL)\b", what)) for body in products for what in body)


SCALARS = {
    "scale_log2": "fp32",
    "log2_skip": "fp32",
    "skipped_ptr": "*i32",
    "log2_alpha": "fp32",
    "blocks_ptr": "*i16",
    "counts_ptr": "*i32",
    "bits_ptr": "*i32",
}
FLOAT32 = ("lse_ptr", "scratch_ptr")
PAGED_INTEGERS = ("table_ptr", "cu_ptr", "lens_ptr", "ends_ptr", "sequence_ptr", "block_ptr")
"""Int32 tensors that a packed batch adds to a kernel's arguments."""


def signature(kernel, dtype: str) -> dict[str, str]:
    """Types of a kernel's arguments by their names: tensors are pointers to ``dtype``, everything else int32."""
    types = {name: f"*{dtype}" if name.endswith("_ptr") else "i32" for name in kernel.arg_names}
    types |= {name: "*fp32" for name in FLOAT32 if name in types}
    return types | {name: kind for name, kind in SCALARS.items() if name in types}


def compile_portable(
    backend: str, arch: str, dtype: str = "bf16", head_dims: Sequence[int] = HEAD_DIMS
) -> list[dict[str, object]]:
    """Compile every portable kernel at the head sizes for one chip."""
    from triton.backends.compiler import GPUTarget

    from fp_bench.kernels.attention import triton as block_sparse_triton
    from fp_bench.kernels.flashprefill import triton as discovery_triton
    from fp_bench.kernels.layout import BLOCK_SIZE
    from fp_bench.kernels.pooling import triton as pooling_triton

    target = GPUTarget(backend, int(arch), 32) if backend == "cuda" else GPUTarget(backend, arch, 64)
    capability = int(arch) if backend == "cuda" else 0
    reports = []
    for head_dim in head_dims:
        for name, kernel, constants in (
            ("pool", pooling_triton._pool_kernel, {"num_warps": 4}),
            (
                "discover",
                discovery_triton._discover_kernel,
                discovery_triton.launch_config(head_dim, capability) | {"COMPACT": discovery_triton.COMPACT_TILE},
            ),
            (
                "attend",
                block_sparse_triton._block_sparse_kernel,
                block_sparse_triton.launch_config(head_dim, capability)
                | {
                    "ROW_GROUP": block_sparse_triton.ROW_GROUP,
                    "PACKED": 1,
                    "MEANS": False,
                    "BITS_TILE": 128,
                    "WIDE": False,
                    "SKIP": False,
                },
            ),
        ):
            constants = constants | {"BLOCK": BLOCK_SIZE, "HEAD_DIM": head_dim}
            options = {key: constants.pop(key) for key in ("num_warps", "maxnreg") if key in constants}
            compiled = compile_kernel(kernel, signature(kernel, dtype), constants, target=target, options=options)
            reports.append({"kernel": name, "head_dim": head_dim, **compiled.summary()})
    return reports


def compile_rivals(backend: str, arch: str, dtype: str = "bf16", head_dim: int = 128) -> list[dict[str, object]]:
    """Compile the selection kernels of XAttention, FlexPrefill and ranked energies for one chip."""
    from triton.backends.compiler import GPUTarget

    from fp_bench.kernels.attention import last_triton as last_attention_triton
    from fp_bench.kernels.flashprefill import energies_triton
    from fp_bench.kernels.flashprefill import triton as discovery_triton
    from fp_bench.kernels.flexprefill import patterns_triton, search_triton
    from fp_bench.kernels.flexprefill import triton as flex_triton
    from fp_bench.kernels.layout import BLOCK_SIZE, LOG2E
    from fp_bench.kernels.xattention import triton as antidiagonal_triton

    target = GPUTarget(backend, int(arch), 32) if backend == "cuda" else GPUTarget(backend, arch, 64)
    capability = int(arch) if backend == "cuda" else 0
    block = {"BLOCK": BLOCK_SIZE, "HEAD_DIM": head_dim}
    rounded = {"ROUNDED": False}
    sums = {"PEAKS": False}
    slabs = {"SLABS": search_triton.MAX_SLABS, "CANDIDATES": search_triton.CANDIDATES, "num_warps": 4}
    search = {"AT_ONCE": search_triton.AT_ONCE, "num_warps": search_triton.WARPS}
    patterns = search | block | {"ROUNDED": True, "FORETOLD": True, "BUDGET_TOKENS": patterns_triton.BUDGET_TOKENS}
    patterns |= {"SUMMED": patterns_triton.BLOCKS_SUMMED, "BLOCKS_AT_ONCE": patterns_triton.BLOCKS_AT_ONCE}
    antidiagonal = antidiagonal_triton.launch_config(head_dim, capability) | block | rounded | sums
    antidiagonal |= {"CELL": 8, "AT_ONCE": antidiagonal_triton.BLOCKS_AT_ONCE}
    last_rows = last_attention_triton.last_rows_config(BLOCK_SIZE, head_dim, capability) | block | rounded
    last_mass = last_attention_triton.last_mass_config(BLOCK_SIZE, capability) | block | rounded
    join = {"BLOCK": BLOCK_SIZE, "AT_ONCE": last_attention_triton.SPANS_AT_ONCE, "num_warps": 4}
    energies = discovery_triton.launch_config(head_dim, capability) | block
    reports = []
    for name, kernel, constants in (
        ("energies", energies_triton._energies_kernel, energies),
        ("antidiagonal", antidiagonal_triton._antidiagonal_kernel, antidiagonal),
        ("cumulative", antidiagonal_triton._cumulative_kernel, {"WIDTH": 2048, "num_warps": 4} | sums),
        ("last_rows", last_attention_triton._last_rows_kernel, last_rows),
        ("last_mass", last_attention_triton._last_mass_kernel, last_mass),
        ("last_join", last_attention_triton._last_join_kernel, join),
        ("operands", patterns_triton._operands_kernel, block | {"ROUNDED": True, "num_warps": 4}),
        ("patterns", patterns_triton._patterns_kernel, patterns | {"LOG2E": LOG2E}),
        ("crossing", search_triton._crossing_kernel, search),
        ("crossing_pass", search_triton._crossing_pass_kernel, slabs | {"CHUNK": search_triton.CHUNK, "FIRST": False}),
        ("crossing_end", search_triton._crossing_end_kernel, slabs),
        (
            "block_attention",
            flex_triton._block_attention_kernel,
            {"HEAD_DIM": head_dim, "TILE": flex_triton.BLOCK_ROWS, "num_warps": 4} | rounded,
        ),
        ("lists", flex_triton._lists_kernel, {"SINGLE": True, "COMPACT": flex_triton.COMPACT, "num_warps": 4}),
    ):
        constants = dict(constants)
        options = {key: constants.pop(key) for key in ("num_warps", "maxnreg") if key in constants}
        types = {name: "*fp32" for name in kernel.arg_names if name.endswith("_ptr")}
        types |= dict.fromkeys(("q_ptr", "k_ptr", "pooled_ptr", "queries_ptr"), f"*{dtype}")
        types |= dict.fromkeys(("bits_ptr", "bits_in_ptr", "counts_ptr"), "*i32") | {"blocks_ptr": "*i16"}
        types |= dict.fromkeys(("active_ptr", "kept_ptr"), "*i8")
        types |= dict.fromkeys(("scale", "scale_log2", "budget", "factor", "gamma", "tau"), "fp32")
        types |= {"last_ptr": f"*{dtype}"}
        types = {argument: types.get(argument, "i32") for argument in kernel.arg_names}
        compiled = compile_kernel(kernel, types, constants, target=target, options=options)
        reports.append({"kernel": name, "head_dim": head_dim, **compiled.summary()})
    return reports


def compile_vertical_slash(backend: str, arch: str, dtype: str = "bf16") -> list[dict[str, object]]:
    """Compile what MInference's heads take for one chip: lines, windows, blocks, attention of last queries."""
    from triton.backends.compiler import GPUTarget

    from fp_bench.kernels.attention import last_triton as last_attention_triton
    from fp_bench.kernels.attention import triton as block_sparse_triton
    from fp_bench.kernels.lines import triton as vertical_slash_triton
    from fp_bench.kernels.lines.index import OCTET, TILE

    target = GPUTarget(backend, int(arch), 32) if backend == "cuda" else GPUTarget(backend, arch, 64)
    capability = int(arch) if backend == "cuda" else 0
    lists = {"TILE": TILE, "OCTET": OCTET}
    rows = {"BLOCK": TILE, "HEAD_DIM": 128, "ROUNDED": False}
    kernels = [
        (
            "last_rows",
            last_attention_triton._last_rows_kernel,
            last_attention_triton.last_rows_config(TILE, 128, capability) | rows,
        ),
        (
            "last_mass",
            last_attention_triton._last_mass_kernel,
            last_attention_triton.last_mass_config(TILE, capability) | rows,
        ),
        (
            "convert",
            vertical_slash_triton._convert_kernel,
            lists | {"COLUMNS": vertical_slash_triton.COLUMNS_AT_ONCE, "num_warps": 4},
        ),
    ]
    for head_dim in (128, 256):  # 64 takes less of everything
        constants = vertical_slash_triton.launch_config(head_dim, capability) | lists
        constants |= {"HEAD_DIM": head_dim, "ROW_GROUP": vertical_slash_triton.ROW_GROUP}
        kernels.append((f"attend_{head_dim}", vertical_slash_triton._vertical_slash_kernel, constants))
    blocks = {
        "ROW_GROUP": block_sparse_triton.ROW_GROUP,
        "PACKED": 1,
        "MEANS": False,
        "BITS_TILE": 128,
        "WIDE": False,
        "SKIP": False,
    }
    blocks |= {"BLOCK": TILE, "HEAD_DIM": 128}
    blocks |= block_sparse_triton.launch_config(128, capability, TILE)
    blocks |= {tile: min(blocks[tile], TILE) for tile in ("BLOCK_M", "BLOCK_N")}
    kernels.append(("attend_blocks", block_sparse_triton._block_sparse_kernel, blocks))
    reports = []
    for name, kernel, constants in kernels:
        options = {key: constants.pop(key) for key in ("num_warps", "maxnreg") if key in constants}
        types = {argument: "*i32" if argument.endswith("_ptr") else "i32" for argument in kernel.arg_names}
        types |= dict.fromkeys(("q_ptr", "k_ptr", "v_ptr", "out_ptr"), f"*{dtype}")
        types |= {"scale_log2": "fp32", "log2_skip": "fp32", "lse_ptr": "*fp32", "blocks_ptr": "*i16"}
        if name.startswith("last"):
            floats = ("peaks", "totals", "columns", "above", "below", "scratch")
            types |= {f"{argument}_ptr": "*fp32" for argument in floats}
        types |= dict.fromkeys(("mean_k_ptr", "mean_v_ptr"), f"*{dtype}")
        types = {argument: types[argument] for argument in kernel.arg_names}
        compiled = compile_kernel(kernel, types, constants, target=target, options=options)
        copies = compiled.assembly.count("cp.async.cg")
        reports.append({"kernel": name, **compiled.summary(), "async_copies": copies})
    return reports


def compile_paged(backend: str, arch: str, *pages: str, dtype: str = "bf16") -> list[dict[str, object]]:
    """Compile the kernels of packed batches for one chip, attention at each of the page sizes."""
    from triton.backends.compiler import GPUTarget

    from fp_bench.kernels.attention.triton import ROW_GROUP, launch_config
    from fp_bench.kernels.flashprefill import triton as discovery_triton
    from fp_bench.kernels.layout import BLOCK_SIZE
    from fp_bench.kernels.paged import attention_triton, pooling_triton
    from fp_bench.kernels.paged import discovery_triton as paged_discovery

    target = GPUTarget(backend, int(arch), 32) if backend == "cuda" else GPUTarget(backend, arch, 64)
    capability = int(arch) if backend == "cuda" else 0
    discover = discovery_triton.launch_config(128, capability) | {"COMPACT": discovery_triton.COMPACT_TILE}
    kernels = [("discover", paged_discovery._paged_discover_kernel, discover | {"HEAD_DIM": 128})]
    for page in map(int, pages):
        sizes = {"PAGE": page, "HEAD_DIM": 128}
        kernels.append((f"pool_{page}", pooling_triton._paged_pool_kernel, sizes | {"num_warps": 4}))
        constants = launch_config(128, capability) | sizes | {"ROW_GROUP": ROW_GROUP}
        kernels.append((f"attend_{page}", attention_triton._paged_attention_kernel, constants))
    reports = []
    for name, kernel, constants in kernels:
        constants = constants | {"BLOCK": BLOCK_SIZE}
        options = {key: constants.pop(key) for key in ("num_warps", "maxnreg") if key in constants}
        types = signature(kernel, dtype)
        types |= {argument: "*i32" for argument in PAGED_INTEGERS if argument in types}
        compiled = compile_kernel(kernel, types, constants, target=target, options=options)
        copies = compiled.assembly.count("cp.async.cg")
        reports.append({"kernel": name, **compiled.summary(), "async_copies": copies})
    return reports


def compile_fp8() -> list[dict[str, object]]:
    """Compile the pass that rounds K and V, and the warp-specialised Gluon kernel, for sm_90."""
    from triton.backends.compiler import GPUTarget
    from triton.experimental.gluon import language as gl

    from fp_bench.kernels.fp8 import hopper as block_sparse_fp8
    from fp_bench.kernels.fp8 import triton as fp8_triton

    target = GPUTarget("cuda", 90, 32)
    kernel = fp8_triton._quantise_kernel
    types = signature(kernel, "bf16") | {"k8_ptr": "*i8", "v8_ptr": "*fp8e4nv"}
    types |= {"scales_ptr": "*fp32", "shift_ptr": "*fp32"}
    quantise = compile_kernel(kernel, types, fp8_triton.constants(), target=target, options={"num_warps": 8})

    kernel = block_sparse_fp8._block_sparse_fp8_kernel

    def descriptor(name: str, box: list[int], element) -> str:
        return f"tensordesc<{name}{box},{gl.NVMMASharedLayout.get_default_for(box, element)!r}>"

    types = signature(kernel, "bf16") | {"counter_ptr": "*i32"}
    types |= dict.fromkeys(("q_desc", "out_desc"), descriptor("bf16", [1, 64, 1, 128], gl.bfloat16))
    types["k_desc"] = descriptor("i8", [1, 1, 1, 128, 128], gl.int8)
    types["vt_desc"] = descriptor("fp8e4nv", [1, 1, 1, 128, 128], gl.float8e4nv)
    types["scales_desc"] = descriptor("fp32", [1, 1, 1, 4], gl.float32)
    attend = _compiled(kernel, types, block_sparse_fp8.constants())
    products = set(re.findall(r"wgmma\.mma_async\.sync\.aligned\.(\S+)", attend.assembly))
    counts = {"products": sorted(products), "exchanged": _exchanged_in_loops(attend.assembly)}
    return [
        {"kernel": "quantise", **quantise.summary()},
        {"kernel": "attend", **attend.summary(), **counts},
    ]


def _exchanged_in_loops(ptx: str) -> list[dict[str, int]]:
    """Count what moves numbers between threads or bytes, and exponentials, in each softmax under a product."""
    found = []
    for part in re.findall(r"wgmma.wait_group.sync.aligned\s+1;(.*?)wgmma.wait_group.sync.aligned\s+0;", ptx, re.S):
        operations = ("shfl.sync", "st.shared", "ld.shared", "prmt", "ex2.approx", "cvt.rn.f32.s32")
        found.append({operation: part.count(operation) for operation in operations})
    return found


def compile_hopper(
    dtype: str = "bf16", head_dim: int = 128, packed: int = 1, means: int = 0, skip: int = 0
) -> dict[str, object]:
    """Compile the warp-specialised Gluon kernel for sm_90."""
    from fp_bench.kernels.attention import hopper_parts as parts
    from fp_bench.kernels.attention.hopper import _block_sparse_hopper_kernel as kernel

    head_dim, packed, means = int(head_dim), int(packed), int(means)
    heads = 1 if parts.BLOCK % packed else packed
    rows = (parts.BLOCK // parts.CONSUMERS // heads, heads)
    keys = (parts.launch_config(head_dim)["TILE"], 1)
    boxes = dict.fromkeys(("q_desc", "out_desc"), rows)
    boxes |= dict.fromkeys(("k_desc", "v_desc", "mean_k_desc", "mean_v_desc"), keys)
    constants = {"PACKED": packed, "MEANS": bool(means), "SKIP": bool(skip)}
    return _compile_gluon(kernel, dtype, head_dim, boxes, constants)


def compile_skipping(head_dim: int = 128, packed: int = 1) -> dict[str, object]:
    """Compile the same kernel with skip-softmax."""
    return compile_hopper("bf16", head_dim, packed, skip=1)


def compile_paged_hopper(head_dim: int = 128, page: int = 128, dtype: str = "bf16") -> dict[str, object]:
    """Compile the warp-specialised Gluon kernel over pages for sm_90."""
    from fp_bench.kernels.attention import hopper_parts as parts
    from fp_bench.kernels.paged.hopper import _paged_hopper_kernel as kernel

    rows, keys = (parts.BLOCK // 2, 1), (min(page, parts.launch_config(head_dim)["TILE"]), 1)
    boxes = dict.fromkeys(("q_desc", "out_desc"), rows) | dict.fromkeys(("k_desc", "v_desc"), keys)
    constants = {"PAGE": page, "BOX": keys[0]}
    return _compile_gluon(kernel, dtype, head_dim, boxes, constants)


def _compile_gluon(
    kernel, dtype: str, head_dim: int, boxes: dict[str, tuple[int, ...]], constants: dict[str, object]
) -> dict[str, object]:
    """Compile an attention kernel for sm_90; ``boxes`` are each TMA descriptor's sizes but for batch and head_dim."""
    from triton.experimental.gluon import language as gl

    from fp_bench.kernels.attention import hopper_parts as parts

    types = signature(kernel, dtype) | {"counter_ptr": "*i32"}
    types |= {name: "*i32" for name in PAGED_INTEGERS if name in types}
    for name, sizes in boxes.items():
        box = [1, *sizes, head_dim]
        layout = gl.NVMMASharedLayout.get_default_for(box, {"bf16": gl.bfloat16, "fp16": gl.float16}[dtype])
        types[name] = f"tensordesc<{dtype}{box},{layout!r}>"
    constants = constants | parts.launch_config(head_dim)
    constants |= {"BLOCK": parts.BLOCK, "HEAD_DIM": head_dim, "CONSUMERS": parts.CONSUMERS}
    compiled = _compiled(kernel, types, constants)
    under = _under_products(compiled.machine_code)
    return {**compiled.summary(), "votes": _votes(compiled.assembly), "under_products": under}


def _under_products(sass: str) -> list[dict[str, int]]:
    """Count what runs between each wait for S and the next wait for O += P V, in machine code."""
    parts = re.findall(r"WARPGROUP.DEPBAR.LE gsb0, 0x1 ;(.*?)WARPGROUP.DEPBAR.LE gsb0, 0x0 ;", sass, re.S)
    return [{what: part.count(what) for what in ("MUFU.EX2", "F2FP.BF16")} for part in parts]


def _votes(ptx: str) -> list[dict[str, int]]:
    """Count what each test of skip-softmax exchanges between S and its decision; the producer's wait in between."""
    parts = re.findall(r"wgmma.wait_group.sync.aligned\s+\d;((?:(?!wgmma.wait_group).)*?redux.sync)", ptx, re.S)
    operations = ("shfl.sync", "st.shared", "ld.shared", "redux.sync")
    return [{operation: part.count(operation) for operation in operations} for part in parts if "try_wait" not in part]


def _compiled(kernel, types: dict[str, str], constants: dict[str, object]) -> Compiled:
    """Compile a warp-specialised Gluon kernel for sm_90."""
    import triton
    from triton.backends.compiler import GPUTarget

    from fp_bench.kernels.gluon import GluonASTSource

    names = list(kernel.arg_names)
    constexprs = {(names.index(name),): value for name, value in constants.items()}
    aligned = [at for at, name in enumerate(names) if types.get(name, "").startswith("*")]
    attributes = {(at,): [["tt.divisibility", 16]] for at in aligned}
    types = types | dict.fromkeys(constants, "constexpr")
    source = GluonASTSource(kernel, types, constexprs=constexprs, attrs=attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})
    return _read(compiled)


def _read(compiled) -> Compiled:
    text = _disassembled(compiled.asm["cubin"])
    return Compiled(compiled.metadata.shared, *_resource_usage(text), compiled.asm["ptx"], text)


def compile_every_hopper_kernel() -> dict[str, dict[str, object]]:
    """Compile each Hopper kernel, attention at every head size and packed with means."""
    return {
        **{f"attend_{head_dim}": compile_hopper("bf16", head_dim) for head_dim in HEAD_DIMS},
        "attend_fp16": compile_hopper("fp16"),
        "attend_packed_means": compile_hopper("bf16", 128, packed=4, means=1),
        "attend_packed_by_three": compile_hopper("bf16", 128, packed=3),
        "attend_skipping": compile_skipping(),
        "paged": compile_paged_hopper(),
        "paged_256": compile_paged_hopper(256),
        "fp8": compile_fp8()[1],
    }


def launch_flash_prefill(length: int = 4000, q_heads: int = 32, kv_heads: int = 8, head_dim: int = 128) -> list[object]:
    """Launch FlashPrefill on a GPU that is not here; return what each kernel finds in its parameters, by its PTX."""
    from fp_bench.kernels.flashprefill.prefill import flash_prefill

    return _launched((q_heads, kv_heads), length, head_dim, lambda q, k, v: flash_prefill(q, k, v, alpha=0.12))


def launch_select_flex(length: int = 4000, tau: float = 0.1) -> list[object]:
    """Launch FlexPrefill's selection likewise."""
    from fp_bench.kernels.flexprefill import select_flex
    from fp_bench.kernels.flexprefill.rule import FlexRule

    rule = FlexRule(0.9, tau, 1024, official=True)
    return _launched((32, 8), length, 128, lambda q, k, _: select_flex(q, k, rule, scale=0.125))


def _launched(heads: tuple[int, int], length: int, head_dim: int, call) -> list[object]:
    import triton

    from tests.kernels import fake_cuda

    driver = fake_cuda.install()
    compiled = {}
    compile_ = triton.compile

    def compile_and_keep(*arguments, **keywords):
        made = compile_(*arguments, **keywords)
        compiled[made.metadata.name] = made
        return made

    triton.compile = compile_and_keep
    tensors = fake_cuda.tensors(length, heads, head_dim)
    for _ in range(2):  # the first call makes the plan
        call(*tensors)
    count = len(driver.launched) // 2
    assert driver.launched[:count] == driver.launched[count:]
    assert len(driver.loaded) == len({launched.name for launched in driver.launched})
    return [
        {
            "kernel": launched.name,
            "programs": launched.programs,
            "stream": launched.stream,
            "threads": launched.threads,
            "shared": launched.shared,
            "threads_in_ptx": int(re.search(r"\.reqntid (\d+)", compiled[launched.name].asm["ptx"])[1]),
            **_read(compiled[launched.name]).summary(),
            "parameters": _decoded(launched, compiled[launched.name].asm["ptx"]),
        }
        for launched in driver.launched[:count]
    ]


def _decoded(launched, ptx: str) -> list[float]:
    """Read the parameters that PTX declares out of those that were launched; of a map, the address it is for."""
    entry = ptx[ptx.index(".entry") : ptx.index("{", ptx.index(".entry"))]
    types = re.findall(r"\.param (?:\.align \d+ )?\.(\w+)", entry)
    assert len(types) <= len(launched.offsets)
    assert not any(launched.memory[launched.offsets[len(types) - 2] :])  # scratch memory, which no kernel has
    formats = {"b8": "Q", "u64": "Q", "u32": "i", "f32": "f"}
    return [
        struct.unpack_from(f"<{formats[kind]}", launched.memory, at)[0]
        for kind, at in zip(types, launched.offsets, strict=True)
    ]


if __name__ == "__main__":
    import json

    compilers = {
        "groups": lambda *groups: {group: compile_hopper(packed=int(group)) for group in groups},
        "hopper": lambda *dtypes: {dtype: compile_hopper(dtype) for dtype in dtypes},
        "skipping": lambda *cases: {case: compile_skipping(*map(int, case.split("x"))) for case in cases},
        "paged_hopper": lambda *cases: {case: compile_paged_hopper(*map(int, case.split("x"))) for case in cases},
        "every_hopper": compile_every_hopper_kernel,
        "fp8": compile_fp8,
        "launches": lambda *sizes: launch_flash_prefill(*map(int, sizes)),
        "select_flex": launch_select_flex,
        "rivals": compile_rivals,
        "vertical_slash": compile_vertical_slash,
        "paged": compile_paged,
        "portable": compile_portable,
        "portable_128": partial(compile_portable, head_dims=(128,)),
    }
    wanted, *arguments = sys.argv[1:]
    print(json.dumps({what: compilers[what](*arguments) for what in wanted.split(",")}))
